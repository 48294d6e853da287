//! Describing what is going on, for the socket and for the log.

use pairflip_common::route::BACKENDS_MAX;
use pairflip_policy::{
    Access, ActiveSource, Admin, AdminTarget, BackendId, BackendView, ChecksState, ClusterId,
    ClusterView, DrainReason, Drained, Event, EventKind, FenceReason, Health, RouteReason,
    RouteTarget, RouteView, UnfenceReason,
};

use super::{Runtime, requests::internal};
use crate::{
    config,
    control::protocol::{
        ApiError, BackendStatus, ClusterStatus, ConditionStatus, DaemonStatus, InterfaceStatus,
        PairStatus, RouteStatus, Status, TrafficStatus,
    },
    control::render::{taken_out, with_weights},
    dataplane::FlowCounts,
};

/// Everything at a glance.
pub(super) fn status(runtime: &Runtime) -> Result<Status, ApiError> {
    let counts = runtime.dataplane.flow_counts().map_err(|error| internal(&error))?;
    let counters = runtime.dataplane.counters().map_err(|error| internal(&error))?;
    let daemon = DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: runtime.started.elapsed().as_secs(),
        adopted: runtime.dataplane.adopted(),
        interfaces: runtime
            .dataplane
            .attachments()
            .iter()
            .map(|attachment| InterfaceStatus {
                name: attachment.interface.clone(),
                attach: attachment.mode.name().to_owned(),
            })
            .collect(),
        flows: counts.total,
        flows_max: u64::from(runtime.config.daemon.flows_max),
        half_open: counts.half_open,
        half_open_max: u64::from(runtime.config.daemon.half_open_max),
        counters: counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        warnings: runtime.config.warnings(),
        hooks: runtime.hooks.status(),
    };
    let view = runtime.policy.view();
    let clusters = view
        .clusters
        .iter()
        .zip(&runtime.config.clusters)
        .map(|(view, configured)| cluster(runtime, view, configured, &counts))
        .collect::<Result<_, _>>()?;
    Ok(Status { daemon, clusters })
}

fn cluster(
    runtime: &Runtime,
    view: &ClusterView,
    configured: &config::Cluster,
    counts: &FlowCounts,
) -> Result<ClusterStatus, ApiError> {
    let pairs: Vec<PairStatus> = view
        .pairs
        .iter()
        .map(|pair| {
            let backends = pair
                .backends
                .iter()
                .map(|backend| self::backend(runtime, view.id, backend, counts));
            Ok(PairStatus {
                name: pair.name.clone(),
                admin: runtime.admin_status(view.id, AdminTarget::Pair(pair.id)),
                state: pair.state.name().to_owned(),
                backends: backends.collect::<Result<_, _>>()?,
            })
        })
        .collect::<Result<_, _>>()?;
    let routes = view
        .routes
        .iter()
        .zip(&configured.routes)
        .map(|(route, configured)| self::route(runtime, view.id, route, configured))
        .collect::<Result<_, _>>()?;
    Ok(ClusterStatus {
        name: view.name.clone(),
        active_pair: configured
            .pairs
            .get(usize::from(view.active.0))
            .map_or_else(String::new, |pair| pair.name.clone()),
        generation: view.generation.0,
        checks: match view.checks {
            ChecksState::Working => None,
            ChecksState::AllFailing { since } => Some(format!(
                "nothing is heard from any backend since {since} after the daemon's start; the fault is probably between here and them, so routes stay as they are"
            )),
        },
        failover: super::failover::status(runtime, view, configured),
        flip: runtime.flip_status(view),
        drains: runtime.drain_status(view.id),
        pairs,
        routes,
    })
}

fn route(
    runtime: &Runtime,
    cluster: ClusterId,
    view: &RouteView,
    configured: &config::Route,
) -> Result<RouteStatus, ApiError> {
    let openings = match runtime.ids.route_slot(cluster, view.id) {
        Some(slot) => runtime.dataplane.openings(slot).map_err(|error| internal(&error))?,
        None => Vec::new(),
    };
    Ok(RouteStatus {
        name: view.name.clone(),
        vip: configured.vip.to_string(),
        access: match view.access {
            Access::Write => "write",
            Access::Read => "read",
        }
        .to_owned(),
        backends: view.backends.iter().map(|id| address(runtime, *id)).collect(),
        weights: view.target.shares().iter().map(|share| share.weight).collect(),
        fallback: view.fallback,
        reason: view.reason.to_string(),
        connections: openings.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
    })
}

fn backend(
    runtime: &Runtime,
    cluster: ClusterId,
    view: &BackendView,
    counts: &FlowCounts,
) -> Result<BackendStatus, ApiError> {
    let traffic = runtime.dataplane.traffic(view.id.0).map_err(|error| internal(&error))?;
    Ok(BackendStatus {
        address: address(runtime, view.id),
        role: view.role.name().to_owned(),
        admin: runtime.admin_status(cluster, AdminTarget::Backend(view.id)),
        health: health(view).to_owned(),
        reason: view.reason.to_string(),
        lag_seconds: view.lag.map(|lag| lag.as_secs_f64()),
        read_only: view.read_only,
        server_version: view.facts.as_ref().map(|facts| facts.version.clone()),
        conditions: view
            .conditions
            .iter()
            .map(|condition| ConditionStatus {
                name: condition.name.clone(),
                health: health_name(condition.health).to_owned(),
                result: condition.outcome.name().to_owned(),
                text: condition.outcome.text(),
            })
            .collect(),
        flows: counts.by_backend.get(&view.id.0).copied().unwrap_or(0),
        traffic: TrafficStatus {
            connections: traffic.connections,
            client_packets: traffic.client_packets,
            client_bytes: traffic.client_bytes,
            server_packets: traffic.server_packets,
            server_bytes: traffic.server_bytes,
        },
    })
}

/// A backend that is alive and not fit for new connections is neither up nor down.
pub(super) fn health(view: &BackendView) -> &'static str {
    match (view.health, view.fitness) {
        (Health::Up, Some(Health::Down)) => "unfit",
        (health, _) => health_name(health),
    }
}

fn health_name(health: Health) -> &'static str {
    match health {
        Health::Unknown { .. } => "unknown",
        Health::Up => "up",
        Health::Rising { .. } => "rising",
        Health::Falling { .. } => "falling",
        Health::Down => "down",
    }
}

pub(super) fn address(runtime: &Runtime, id: BackendId) -> String {
    debug_assert!(u32::from(id.0) < BACKENDS_MAX);
    runtime.ids.address(id).map_or_else(|| id.to_string(), |address| address.to_string())
}

/// An event as a sentence with names and addresses in place of numbers.
pub(super) fn describe(runtime: &Runtime, event: &Event) -> String {
    let configured = event.cluster.and_then(|id| runtime.config.clusters.get(usize::from(id.0)));
    let pair = |id: pairflip_policy::PairId| {
        configured
            .and_then(|cluster| cluster.pairs.get(usize::from(id.0)))
            .map_or_else(|| id.to_string(), |pair| pair.name.clone())
    };
    let backend = |id: BackendId| address(runtime, id);
    let named = |text: &str| configured.map_or_else(|| text.to_owned(), |it| name_pairs(it, text));
    match &event.what {
        EventKind::Started { active, generation, source } => {
            format!("active pair {} at generation {generation}, {}", pair(*active), source_text(*source, &pair))
        }
        EventKind::HealthChanged { backend: id, from, to, reason } => {
            format!("{} went from {} to {}: {reason}", backend(*id), health_name(*from), health_name(*to))
        }
        EventKind::FitnessChanged { backend: id, from, to, reason } => format!(
            "{} went from {} to {} for new connections: {reason}",
            backend(*id),
            health_name(*from),
            health_name(*to)
        ),
        EventKind::ReadOnlyChanged { backend: id, read_only } => {
            format!("{} is {}", backend(*id), if *read_only { "read-only" } else { "writable" })
        }
        EventKind::CheckImpaired { backend: id, cause, text } => {
            format!("{} is alive and the check cannot judge it: {cause} ({text}); its health stays as it was", backend(*id))
        }
        EventKind::VersionChanged { backend: id, from, to } => {
            format!("{} is version {to} now; it was {from}", backend(*id))
        }
        EventKind::CheckRestored { backend: id } => {
            format!("the check can judge {} again", backend(*id))
        }
        EventKind::ConditionImpaired { backend: id, name, cause, text } => {
            format!("condition {name} of {} cannot be judged and stays as it was: {cause} ({text})", backend(*id))
        }
        EventKind::ConditionRestored { backend: id, name } => {
            format!("condition {name} of {} can be judged again", backend(*id))
        }
        EventKind::MaintenanceChanged { backend: id, reason: Some(reason) } => {
            format!("{} gets no new connections: {reason}", backend(*id))
        }
        EventKind::MaintenanceChanged { backend: id, reason: None } => {
            format!("{} is out of maintenance, say its checks", backend(*id))
        }
        EventKind::AllChecksFailing => {
            "nothing is heard from any backend; the fault is probably between here and them, so routes stay as they are".to_owned()
        }
        EventKind::ChecksAnswering => "backends are heard again".to_owned(),
        EventKind::RouteChanged { route, to, reason, generation, .. } => {
            let name = configured
                .and_then(|cluster| cluster.routes.get(usize::from(route.0)))
                .map_or_else(|| route.to_string(), |route| format!("{} ({})", route.name, route.vip));
            match to {
                RouteTarget::Forward { backends } => {
                    let weights: Vec<u16> = backends.iter().map(|share| share.weight).collect();
                    let addresses = backends.iter().map(|share| backend(share.backend));
                    let list = with_weights(addresses, &weights);
                    format!("route {name} goes to {}: {reason} (generation {generation})", list.join(", "))
                }
                RouteTarget::Refuse { .. } => {
                    let remedy = if *reason == RouteReason::PrimaryReadOnly {
                        "; if no flip or failover is under way and it is to take writes: SET GLOBAL read_only = 0 there"
                    } else {
                        ""
                    };
                    format!("route {name} refuses new connections: {reason} (generation {generation}){remedy}")
                }
            }
        }
        EventKind::SwapFailed { generation, reason } => {
            format!("replacing the routes with generation {generation} failed, the old ones are in force: {reason}")
        }
        EventKind::PersistFailed { pair: id, reason } => {
            format!("writing {} as the active pair to the state file failed: {reason}", pair(*id))
        }
        EventKind::FlipStarted { from, to, drain, .. } => {
            format!("flip from {} to {} started (route only, drain {drain:?})", pair(*from), pair(*to))
        }
        EventKind::FlipDone { done, .. } => {
            format!("flip from {} to {} done (generation {})", pair(done.from), pair(done.to), done.generation)
        }
        EventKind::FlipRefused { refused, .. } => {
            let text = refused.to_string();
            format!("flip refused: {}", configured.map_or(text.clone(), |cluster| name_pairs(cluster, &text)))
        }
        EventKind::SwitchoverStarted { from, to, drain, .. } => {
            format!("flip from {} to {} started (drain {drain:?})", pair(*from), pair(*to))
        }
        EventKind::SwitchoverResumed { from, to, undo } => format!(
            "this daemon was started in the middle of a flip from {} to {}, which is {}",
            pair(*from),
            pair(*to),
            if *undo { "undone" } else { "finished" }
        ),
        EventKind::SwitchoverStep { done, took, next } => {
            format!("flip: {} took {:.3} s; {next}", done.name(), took.as_secs_f64())
        }
        EventKind::SwitchoverUndone { from, to, undone } => format!(
            "flip from {} to {} undone, everything is as before: {}",
            pair(*from),
            pair(*to),
            named(&undone.to_string())
        ),
        EventKind::SwitchoverStuck { from, to, step, text } => format!(
            "flip from {} to {} is stuck at {}: {}",
            pair(*from),
            pair(*to),
            step.name(),
            named(text)
        ),
        EventKind::SwitchoverTakenOver { from, to } => format!(
            "flip from {} to {} is given up: another one takes over from it",
            pair(*from),
            pair(*to)
        ),
        EventKind::SwitchoverDone { done, paused, took } => format!(
            "flip from {} to {} done in {:.1} s, writes paused for {:.3} s (generation {})",
            pair(done.from),
            pair(done.to),
            took.as_secs_f64(),
            paused.as_secs_f64(),
            done.generation
        ),
        EventKind::FailoverRefused { reason } => {
            format!("no failover: {}", named(&reason.to_string()))
        }
        EventKind::FailoverStarted { from, to } => {
            format!("the primary of {} is dead; failover to {} starts", pair(*from), pair(*to))
        }
        EventKind::FailoverCalledOff { from, to, reason } => {
            format!("failover from {} to {} called off: {}", pair(*from), pair(*to), named(&reason.to_string()))
        }
        EventKind::FailedOver { last, generation } => format!(
            "failover from {} to {} (generation {generation}); {} was last seen at {}, {} is at {}: writes that it was not sent are missing",
            pair(last.from),
            pair(last.to),
            pair(last.from),
            last.old_position.as_deref().unwrap_or("an unknown position"),
            pair(last.to),
            last.new_position.as_deref().unwrap_or("an unknown position"),
        ),
        EventKind::FailoverDone { to } => format!("the primary of {} is writable; failover done", pair(*to)),
        EventKind::OldPrimaryReturned { backend: id, pair: name, read_only } => format!(
            "{} returned after failover, {}; it gets nothing until `pairflip ready {}`",
            backend(*id),
            if *read_only { "read-only" } else { "writable: it is fenced" },
            pair(*name)
        ),
        EventKind::Fenced { backend: id } => format!("{} was made read-only", backend(*id)),
        EventKind::FenceFailed { backend: id, reason: FenceReason::Failover, text } => {
            format!("{} cannot be reached to be fenced, and gets no connections: {text}", backend(*id))
        }
        EventKind::FenceFailed { backend: id, reason: FenceReason::Returned, text } => {
            format!("{} returned after failover and cannot be fenced; make it read-only: {text}", backend(*id))
        }
        EventKind::UnfenceFailed { backend: id, reason, text } => {
            let why = match reason {
                UnfenceReason::Promotion => "the new primary",
                UnfenceReason::Undo => "fenced for a failover that was called off",
            };
            format!("{}, {why}, cannot be made writable: {text}", backend(*id))
        }
        EventKind::AdminChanged { target, to, expired, .. } => {
            let name = event.cluster.map_or_else(String::new, |id| runtime.target_name(id, *target));
            match (to, expired) {
                (Admin::Ready, true) => format!("{name} is ready again: the time given is over"),
                (Admin::Ready, false) => format!("{name} is ready again: an operator says so"),
                (Admin::Drain | Admin::Maint, _) => {
                    let said = event.cluster.map(|id| runtime.admin_status(id, *target));
                    let said = said.map_or_else(|| to.name().to_owned(), |said| taken_out(&said));
                    format!("{name} is taken out: {said}")
                }
            }
        }
        EventKind::Drained { which, reason, result } => {
            let of = event.cluster.map_or_else(String::new, |id| runtime.drained_name(id, *which));
            drained(&of, *reason, result)
        }
        EventKind::Ignored { reason } => format!("ignored: {reason}"),
    }
}

fn drained(of: &str, reason: DrainReason, result: &Drained) -> String {
    let Drained { ended, cut, refused } = result;
    let counts = format!("{ended} flows ended while idle, {cut} cut at the deadline");
    match refused {
        None => format!("{of} is drained ({reason}): {counts}"),
        Some(why) => format!(
            "{of} cannot be drained by idleness ({reason}): {why} Until then its flows live on; `pairflip drain` or `maint` with --drain cut ends them ({counts})"
        ),
    }
}

fn source_text(source: ActiveSource, pair: &dyn Fn(pairflip_policy::PairId) -> String) -> String {
    match source {
        ActiveSource::Configuration => {
            "the first of the configuration: nothing was in force before".to_owned()
        }
        ActiveSource::StateFile => "as the state file says".to_owned(),
        ActiveSource::Kernel => "as the kernel forwards".to_owned(),
        ActiveSource::KernelOverStateFile { state_file } => {
            format!(
                "as the kernel forwards; the state file says {}, a flip that did not get as far as its swap",
                pair(state_file)
            )
        }
    }
}

/// Puts the pairs' names where the policy's texts have numbers.
pub(super) fn name_pairs(cluster: &config::Cluster, text: &str) -> String {
    // From the highest number down, so that "pair#1" does not eat the beginning of "pair#10".
    (0..cluster.pairs.len()).rev().fold(text.to_owned(), |text, index| {
        text.replace(&format!("pair#{index}"), &cluster.pairs[index].name)
    })
}
