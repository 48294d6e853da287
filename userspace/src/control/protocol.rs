//! The wire: what requests and answers look like in JSON.
//!
//! Stable for programs outside the project: fields may be added, never renamed or removed within
//! `/v1`. Types of the policy and of the drivers never appear here; the runtime converts. Answers
//! are read leniently (a newer daemon may say more), requests strictly (a misspelled field must not
//! turn a command into another one).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of the paths (`/v1/...`). Grows when a program that understood the last one would not
/// understand the next.
pub const API_VERSION: u32 = 1;

/// Answer to `GET /v1/version`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Version {
    pub version: String,
    pub api: u32,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    pub daemon: DaemonStatus,
    pub clusters: Vec<ClusterStatus>,
}

/// The daemon, its data plane and its host.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct DaemonStatus {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// True when maps of an earlier daemon were found and kept.
    pub adopted: bool,
    pub interfaces: Vec<InterfaceStatus>,
    /// Flows in the flow table, and how many fit.
    pub flows: u64,
    pub flows_max: u64,
    pub half_open: u64,
    pub half_open_max: u64,
    /// Packets by what became of them.
    pub counters: BTreeMap<String, u64>,
    /// What an operator should know about this host.
    pub warnings: Vec<String>,
    /// Empty in answers of 0.1.
    #[serde(default)]
    pub hooks: Vec<HookStatus>,
}

/// One `[[hook]]`, and what became of its events since the daemon's start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HookStatus {
    pub name: String,
    pub done: u64,
    pub failed: u64,
    /// Its queue was full.
    pub lost: u64,
    /// Why the last run failed; `null` when it did not.
    pub failure: Option<String>,
}

/// One interface of `daemon.interfaces`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native` or `generic`.
    pub attach: String,
}

/// One cluster.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ClusterStatus {
    pub name: String,
    pub active_pair: String,
    /// Of the route table in force; 0 before the first.
    pub generation: u32,
    /// What is wrong with the checks as a whole, if anything.
    pub checks: Option<String>,
    /// All empty in answers of 0.1.
    #[serde(default)]
    pub failover: FailoverStatus,
    /// A flip under way that loses no write, or that is being undone.
    #[serde(default)]
    pub flip: Option<FlipStatus>,
    /// Flows that are being drained. Absent in answers of 0.1.
    #[serde(default)]
    pub drains: Vec<DrainStatus>,
    pub pairs: Vec<PairStatus>,
    pub routes: Vec<RouteStatus>,
}

/// Flows that new ones do not follow, and that are ended by and by.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct DrainStatus {
    /// A backend's address, a pair's name, or `route NAME on ADDRESS`.
    pub of: String,
    pub reason: String,
    /// `finish` or `idle`.
    pub mode: String,
    pub age_seconds: f64,
    /// Until the rest is cut; `null`: never.
    pub deadline_seconds: Option<f64>,
    /// Flows ended while they were idle.
    pub ended: u64,
    pub left: u64,
    /// Some of those that are left.
    pub waiting: Vec<WaitingStatus>,
    /// What servers do not show, or why they could not be asked, each with its address.
    pub remarks: Vec<String>,
}

/// A flow that draining waits for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct WaitingStatus {
    pub client: String,
    /// What the server sees as its client.
    pub source: String,
    pub vip: String,
    pub backend: String,
    /// What its session was doing when it was looked at last, as in `in a transaction for 3.1 s`; `null`: it was busy.
    pub doing: Option<String>,
    /// Since its last packet.
    pub silent_seconds: f64,
}

/// Whether another pair would become active by itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FailoverStatus {
    /// `manual` or `auto`.
    pub mode: String,
    /// `manual`; `ready` or `unready` while it is not needed; `refused`, `running` or `promoting` while it is.
    pub state: String,
    /// One would take place now if the active primary failed.
    pub possible: bool,
    /// The pair that would take over, or does.
    pub to: Option<String>,
    /// The same in words, with the reason.
    pub text: String,
    /// Until then there is no other; seconds since 1970. `null` when nothing is waited for.
    pub hold_until: Option<u64>,
    pub last: Option<LastFailoverStatus>,
    /// Pairs that failed and get nothing until an operator says that they are well.
    #[serde(default)]
    pub out: Vec<OutStatus>,
}

/// The last failover.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LastFailoverStatus {
    pub from: String,
    pub to: String,
    /// Seconds since 1970.
    pub at: u64,
    /// The new primary was seen writable.
    pub done: bool,
    /// What the servers' logs held as far as is known.
    pub old_position: Option<String>,
    pub new_position: Option<String>,
}

/// A pair that failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OutStatus {
    pub pair: String,
    /// How it is, and what to do.
    pub text: String,
}

/// One pair.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PairStatus {
    pub name: String,
    /// `active` or `standby`.
    pub state: String,
    /// What was said about the pair as a whole.
    #[serde(default)]
    pub admin: AdminStatus,
    /// The primary first.
    pub backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendStatus {
    pub address: String,
    /// `primary` or `replica`.
    pub role: String,
    /// What was said about this backend; the stricter of it and its pair's counts.
    #[serde(default)]
    pub admin: AdminStatus,
    /// `unknown`, `up`, `rising`, `falling`, `down` or, for a backend that is alive and not fit for new connections, `unfit`.
    pub health: String,
    pub reason: String,
    /// `null` when the server does not replicate or cannot tell.
    pub lag_seconds: Option<f64>,
    /// As last seen; `null` before the first answer.
    pub read_only: Option<bool>,
    pub server_version: Option<String>,
    /// Additional checks, and conditions of the login. Absent in answers of 0.1.
    #[serde(default)]
    pub conditions: Vec<ConditionStatus>,
    /// Flows past the handshake that are pinned to it.
    pub flows: u64,
    /// Since the maps were made. All 0 in answers of 0.1.
    #[serde(default)]
    pub traffic: TrafficStatus,
}

/// One condition of a backend.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConditionStatus {
    pub name: String,
    /// `unknown`, `up`, `rising`, `falling` or `down`: counted as a backend's health is.
    pub health: String,
    /// Of the last probe that asked: `passed`, `failed`, `maintenance`, or why it was not answered.
    pub result: String,
    /// What was found; empty for a pass.
    pub text: String,
}

/// What went to a backend and what came from it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TrafficStatus {
    /// Connections that were opened towards it.
    pub connections: u64,
    /// Bytes include the Ethernet header.
    pub client_packets: u64,
    pub client_bytes: u64,
    /// Not seen in `dsr`.
    pub server_packets: u64,
    pub server_bytes: u64,
}

/// One route.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RouteStatus {
    pub name: String,
    pub vip: String,
    /// `write` or `read`.
    pub access: String,
    /// Where new connections go; empty when they are refused.
    pub backends: Vec<String>,
    /// Of `backends`, in the same order: each gets its part of the sum. Less than configured while a
    /// replica that returned is in its `slow_start`. Empty in answers of 0.1.
    #[serde(default)]
    pub weights: Vec<u16>,
    /// The primary serves a read route because no replica is fit.
    pub fallback: bool,
    pub reason: String,
    /// Its new connections by what became of them, since the maps were made: `opened` or why not. Empty in
    /// answers of 0.1.
    #[serde(default)]
    pub connections: BTreeMap<String, u64>,
}

/// Body of `POST /v1/flip` and `POST /v1/flip/plan`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlipRequest {
    /// Needed where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The pair to make active; needed where there are more than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Moves the routes and touches no server. Without it the flip loses no acknowledged write.
    #[serde(default)]
    pub route_only: bool,
    /// `null` means as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// From the request until the new primary is told to take writes, in milliseconds; `null` means as configured. Not with
    /// `route_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Preconditions to waive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub force: Vec<String>,
}

/// Answer to `POST /v1/flip/plan`: what a flip would find and do. Nothing was changed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlipPlan {
    pub cluster: String,
    pub from: String,
    pub to: String,
    pub drain: Drain,
    /// Every precondition holds or is waived.
    pub possible: bool,
    pub deadline_ms: u64,
    /// From the pause of writes on; reached, the flip is undone.
    pub max_pause_ms: u64,
    pub preconditions: Vec<PreconditionStatus>,
    /// What would be done, in order.
    pub steps: Vec<PlannedStep>,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// One precondition of a flip.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PreconditionStatus {
    /// The word that `force` takes, where it can be waived.
    pub name: String,
    /// What must hold.
    pub rule: String,
    /// `holds`, `fails`, `waived` or `unknown`.
    pub result: String,
    /// What was found; empty for one that holds.
    pub text: String,
    pub can_be_waived: bool,
}

/// One step of a flip that was planned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PlannedStep {
    pub name: String,
    pub text: String,
    /// Which server is told or asked what; empty for what is done on this host.
    #[serde(default)]
    pub statements: Vec<PlannedStatement>,
}

/// A statement that a step would run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PlannedStatement {
    pub server: String,
    pub sql: String,
}

/// Answer to `GET /v1/flip`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlipsRunning {
    pub flips: Vec<FlipStatus>,
}

/// A flip under way that loses no write.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlipStatus {
    pub cluster: String,
    pub from: String,
    pub to: String,
    /// Those that are done, and the one under way.
    pub steps: Vec<StepStatus>,
    /// What the step under way waits for, if it says.
    pub waiting_for: String,
    /// Since the request, or since the daemon's start.
    pub ms: u64,
    /// Until it is undone; `null` from the point of no return on.
    pub deadline_ms: Option<u64>,
    pub can_be_called_off: bool,
    /// It does not get on, and nobody takes writes.
    pub stuck: bool,
}

/// A step of a flip under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StepStatus {
    pub name: String,
    pub text: String,
    /// How long it took, or has taken so far.
    pub ms: u64,
    pub done: bool,
}

/// Body of `POST /v1/flip/call-off`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CallOffRequest {
    /// Needed where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// Answer to `POST /v1/flip/call-off`; what becomes of the flip is in the answer to its own request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CalledOff {
    pub cluster: String,
}

/// What happens to the flows on the old pair.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Drain {
    /// They live on.
    Finish,
    /// Each is ended when it is idle and outside a transaction.
    Idle,
    /// They are ended on both sides.
    Cut,
}

/// Answer to `POST /v1/flip`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlipDone {
    pub cluster: String,
    /// The same as `to` when the pair was active already.
    pub from: String,
    pub to: String,
    /// Of the route table in force now.
    pub generation: u32,
    pub drain: Drain,
    /// How long new connections for writes waited, and how long all of it took. Absent where only the routes were moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Body of `POST /v1/admin`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdminRequest {
    /// Needed where there are several and the target is a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `address:port` of a backend, or the name of a pair.
    pub target: String,
    pub state: AdminState,
    /// After so long it is ready again by itself; `null` means until it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Who says so; the login name as a rule.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// What happens to the target's flows; `null` means that they live on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// When what is left of them is cut; `null`: as configured where `drain` is given, else never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Also when writes are turned away by it.
    #[serde(default)]
    pub force: bool,
}

/// What an operator says about a backend or a pair.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    #[default]
    Ready,
    /// No new flows.
    Drain,
    /// No new flows, and not checked.
    Maint,
}

impl AdminState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// Answer to `POST /v1/admin`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AdminDone {
    pub cluster: String,
    pub target: String,
    pub admin: AdminStatus,
}

/// An admin state, and where it comes from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AdminStatus {
    pub state: AdminState,
    /// Since when, and until when; seconds since 1970. Absent when ready, or without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Who said so, and why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Query of `GET /v1/flows`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsQuery {
    /// `address:port`; only flows to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Name of a cluster; only its flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `half_open`, `established` or `closing`; only flows in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// How many to list at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Answer to `GET /v1/flows`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flows {
    pub flows: Vec<Flow>,
    /// Flows that match, listed or not.
    pub total: u64,
}

/// One flow. In `dsr` what the server sends is not seen: its packets and bytes are 0.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Flow {
    pub client: String,
    pub vip: String,
    /// The address and port that the backend sees.
    pub source: String,
    pub backend: String,
    /// `-` for one that left the configuration.
    pub cluster: String,
    /// `half_open`, `established` or `closing`.
    pub state: String,
    /// The client's packets are dropped at the moment.
    pub held: bool,
    /// Of the route table that it was opened by.
    pub generation: u32,
    /// Since the first SYN.
    pub age_seconds: f64,
    /// Since the last packet of either side.
    pub idle_seconds: f64,
    pub client_packets: u32,
    pub client_bytes: u64,
    pub server_packets: u32,
    pub server_bytes: u64,
}

/// Query of `GET /v1/events`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only events with a larger number, the first `limit` of them. Without it the last ones, to begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// How many to list at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Name of a cluster; only its events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// Answer to `GET /v1/events`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Number of the newest event there is, listed or not; 0 before the first.
    pub last: u64,
}

/// Something that happened; also a line of the journal.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// Grows by one with each event, for ever.
    pub number: u64,
    /// UTC, in the form of RFC 3339.
    pub time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// One word: `health_changed`, `route_changed`, `flip_done` and so on.
    pub kind: String,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// A sentence with the reason.
    pub text: String,
    /// How the backend was at that moment; of events that are about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<EventFacts>,
    /// How all backends of the cluster were; of events that are about a route, a pair or the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<EventFacts>,
}

/// A backend at the moment of an event; as in [`BackendStatus`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EventFacts {
    pub backend: String,
    pub health: String,
    pub read_only: Option<bool>,
    pub lag_seconds: Option<f64>,
    pub server_version: Option<String>,
}

/// Body of `POST /v1/reload`: none, or `{}`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {}

/// Answer to `POST /v1/reload`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    /// What is new and in force, a line each.
    pub changed: Vec<String>,
    /// What could not be read and stays as it was, and why, a line each.
    pub failed: Vec<String>,
    /// Keys of the configuration that differ from what is in force, and need a restart of the daemon.
    pub needs_restart: Vec<String>,
}

/// Body of `POST /v1/unload`: none, or `{}`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UnloadRequest {}

/// Answer to `POST /v1/unload`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unloaded {
    /// What was removed or restored, a line each.
    pub removed: Vec<String>,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ErrorBody {
    pub error: ApiError,
}

/// Why a request failed. `code` is stable; `message` and `remedy` are for people, and `remedy` may
/// be empty.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: String,
    pub message: String,
    pub remedy: String,
}

impl ApiError {
    pub fn new(code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), remedy: remedy.into() }
    }
}

/// Refuses the plan of a flip that moves only the routes.
pub(crate) fn no_plan_of_routes() -> ApiError {
    ApiError::new(
        "bad_body",
        "there is no plan of a flip with route_only: it asks no server anything",
        "leave route_only out for the plan of a flip that loses no write; to move the routes now, send the same to /v1/flip",
    )
}

/// A status with something of everything, for the tests of whatever shows one.
#[cfg(test)]
pub(crate) mod example {
    use super::*;

    pub(crate) fn status() -> Status {
        Status { daemon: daemon(), clusters: vec![cluster()] }
    }

    fn daemon() -> DaemonStatus {
        DaemonStatus {
            version: "0.1.0".into(),
            pid: 4711,
            uptime_seconds: 273_900,
            adopted: true,
            interfaces: vec![InterfaceStatus { name: "eth0".into(), attach: "native".into() }],
            flows: 1204,
            flows_max: 262_144,
            half_open: 3,
            half_open_max: 16_384,
            counters: [
                ("drop_ttl", 0),
                ("forwarded", 81_000_224),
                ("half_open_evicted", 12),
                ("reset_no_backend", 4),
            ]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
            warnings: vec!["mind the gap".into()],
            hooks: vec![HookStatus {
                name: "pager".into(),
                done: 12,
                failed: 2,
                lost: 0,
                failure: Some("/etc/pairflip/page ended with exit status: 1".into()),
            }],
        }
    }

    fn cluster() -> ClusterStatus {
        let pair = |name: &str, state: &str, backends: [BackendStatus; 2]| PairStatus {
            name: name.into(),
            state: state.into(),
            admin: AdminStatus::default(),
            backends: backends.into(),
        };
        ClusterStatus {
            name: "main".into(),
            active_pair: "pair1".into(),
            generation: 7,
            checks: None,
            failover: failover(),
            flip: None,
            drains: vec![DrainStatus {
                of: "route reads on 10.0.1.11:3306".into(),
                reason: "reads went back to replicas".into(),
                mode: "idle".into(),
                age_seconds: 4.2,
                deadline_seconds: Some(25.8),
                ended: 38,
                left: 2,
                waiting: vec![WaitingStatus {
                    client: "10.0.0.7:41822".into(),
                    source: "10.0.1.2:40001".into(),
                    vip: "10.0.0.101:3306".into(),
                    backend: "10.0.1.11:3306".into(),
                    doing: Some("in a transaction for 3.1 s".into()),
                    silent_seconds: 0.4,
                }],
                remarks: Vec::new(),
            }],
            pairs: vec![
                pair(
                    "pair1",
                    "active",
                    [
                        backend(
                            "10.0.1.11",
                            "primary",
                            "falling",
                            "read-only",
                            None,
                            Some(true),
                            1200,
                        ),
                        backend(
                            "10.0.1.12",
                            "replica",
                            "unfit",
                            "lags 12.5s (max_lag 10s)",
                            Some(12.5),
                            Some(true),
                            4,
                        ),
                    ],
                ),
                pair(
                    "pair2",
                    "standby",
                    [
                        backend("10.0.1.21", "primary", "up", "passing", Some(0.0), Some(false), 0),
                        backend(
                            "10.0.1.22",
                            "replica",
                            "down",
                            "connection refused",
                            None,
                            None,
                            0,
                        ),
                    ],
                ),
            ],
            routes: vec![
                route("writes", "10.0.0.100", "write", &[], "primary is read-only"),
                route("reads", "10.0.0.101", "read", &["10.0.1.11:3306"], "no replica is fit"),
            ],
        }
    }

    fn failover() -> FailoverStatus {
        FailoverStatus {
            mode: "auto".into(),
            state: "unready".into(),
            possible: false,
            to: None,
            text: "not possible: pair2 lagged 12s".into(),
            hold_until: Some(1_700_003_600),
            last: Some(LastFailoverStatus {
                from: "pair2".into(),
                to: "pair1".into(),
                at: 1_700_000_000,
                done: true,
                old_position: Some("2-21-1200".into()),
                new_position: Some("2-21-1199".into()),
            }),
            out: vec![OutStatus {
                pair: "pair2".into(),
                text: "returned after failover; writable: fence it".into(),
            }],
        }
    }

    fn taken_out() -> AdminStatus {
        AdminStatus {
            state: AdminState::Drain,
            since: Some(1_700_000_000),
            until: None,
            by: "dba".into(),
            note: "new disk".into(),
        }
    }

    fn condition() -> ConditionStatus {
        ConditionStatus {
            name: "disk".into(),
            health: "down".into(),
            result: "failed".into(),
            text: "exit code 1: disk full".into(),
        }
    }

    fn backend(
        ip: &str,
        role: &str,
        health: &str,
        reason: &str,
        lag_seconds: Option<f64>,
        read_only: Option<bool>,
        flows: u64,
    ) -> BackendStatus {
        BackendStatus {
            address: format!("{ip}:3306"),
            role: role.into(),
            admin: if ip == "10.0.1.12" { taken_out() } else { AdminStatus::default() },
            health: health.into(),
            reason: reason.into(),
            lag_seconds,
            read_only,
            server_version: read_only.map(|_| "11.4.5-MariaDB".into()),
            conditions: if ip == "10.0.1.21" { vec![condition()] } else { Vec::new() },
            flows,
            traffic: TrafficStatus {
                connections: 2 * flows,
                client_packets: 30 * flows,
                client_bytes: 4_000 * flows,
                server_packets: 50 * flows,
                server_bytes: 60_000 * flows,
            },
        }
    }

    fn route(name: &str, ip: &str, access: &str, backends: &[&str], reason: &str) -> RouteStatus {
        RouteStatus {
            name: name.into(),
            vip: format!("{ip}:3306"),
            access: access.into(),
            backends: backends.iter().map(ToString::to_string).collect(),
            weights: vec![100; backends.len()],
            fallback: access == "read",
            reason: reason.into(),
            connections: [("opened", 1_204), ("no_backend", 4), ("denied", 2)]
                .map(|(outcome, count)| (outcome.to_owned(), count))
                .into(),
        }
    }
}
