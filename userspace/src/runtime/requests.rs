//! Answering the control socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use pairflip_common::flow::FlowState;
use pairflip_policy::{
    BackendId, ClusterId, Drain, FlipRefused, Input, PairId, Precondition, RequestId,
};
use tokio::sync::oneshot;

use super::{Ended, Runtime, status};
use crate::{
    control::{
        Request,
        protocol::{self, ApiError, FlipDone, FlipRequest, Flow, Flows, FlowsQuery, Unloaded},
    },
    dataplane::FlowFilter,
};

/// Flows listed when the request does not say how many.
const FLOWS_LISTED: usize = 1000;
/// Most flows that one answer lists, some 250 bytes each.
const FLOWS_LISTED_MAX: usize = 100_000;

type FlipReply = oneshot::Sender<Result<FlipDone, ApiError>>;

/// A flip that waits for fresh check results of the pair it would go to.
struct WaitingFlip {
    cluster: ClusterId,
    to: Option<PairId>,
    drain: Option<Drain>,
    force: BTreeSet<Precondition>,
    /// Backends that have not reported since the request.
    outstanding: BTreeSet<BackendId>,
    deadline: Instant,
}

/// Flips between request and reply.
#[derive(Default)]
pub(super) struct PendingFlips {
    next: u64,
    waiting: BTreeMap<RequestId, WaitingFlip>,
    replies: BTreeMap<RequestId, (ClusterId, FlipReply)>,
}

impl PendingFlips {
    pub(super) fn checked(&mut self, backend: BackendId) {
        for flip in self.waiting.values_mut() {
            flip.outstanding.remove(&backend);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|flip| flip.deadline).min()
    }

    fn take_due(&mut self) -> Vec<(RequestId, WaitingFlip)> {
        let now = Instant::now();
        self.waiting
            .extract_if(.., |_, flip| flip.outstanding.is_empty() || flip.deadline <= now)
            .collect()
    }
}

impl Runtime {
    pub(super) async fn request(&mut self, request: Request) -> Option<Ended> {
        // A client that went away does not want its answer; nothing to do about a failed send.
        match request {
            Request::Status { reply } => {
                _ = reply.send(tokio::task::block_in_place(|| status::status(self)));
            }
            Request::Flows { query, reply } => {
                _ = reply.send(tokio::task::block_in_place(|| self.flows(&query)));
            }
            Request::Events { query, reply } => _ = reply.send(self.events(&query)),
            Request::Flip { flip, reply } => self.flip(flip, reply),
            Request::Admin { admin, reply } => self.admin(admin, reply),
            Request::Reload { reply } => {
                _ = reply.send(Ok(tokio::task::block_in_place(|| self.reload())));
            }
            Request::Unload { reply } => {
                let result = self.unload().await;
                let done = result.is_ok();
                _ = reply.send(result.map(|removed| Unloaded { removed }).map_err(|error| {
                    ApiError::new(
                        "unload_failed",
                        format!("{error:#}"),
                        "run `pairflip unload` again; what was removed already stays removed",
                    )
                }));
                return done.then_some(Ended::Unloaded);
            }
        }
        None
    }

    fn flows(&self, query: &FlowsQuery) -> Result<Flows, ApiError> {
        let backend = match &query.backend {
            Some(address) => Some(self.backend_by_address(address)?),
            None => None,
        };
        let cluster = match &query.cluster {
            Some(name) => Some(self.cluster_slot_by_name(name)?),
            None => None,
        };
        let state = match query.state.as_deref() {
            Some(name) => Some(flow_state(name)?),
            None => None,
        };
        let filter = FlowFilter { backend: backend.map(|backend| backend.0), cluster, state };
        let limit = query.limit.unwrap_or(FLOWS_LISTED).min(FLOWS_LISTED_MAX);
        let (flows, total) =
            self.dataplane.list_flows(filter, limit).map_err(|error| internal(&error))?;
        let flows = flows
            .into_iter()
            .map(|flow| Flow {
                client: flow.client.to_string(),
                vip: flow.vip.to_string(),
                source: flow.source.to_string(),
                backend: flow.backend.to_string(),
                cluster: self.cluster_name(flow.cluster),
                state: state_name(flow.state).to_owned(),
                held: flow.held,
                generation: flow.generation,
                age_seconds: flow.age.as_secs_f64(),
                idle_seconds: flow.idle.as_secs_f64(),
                client_packets: flow.client_packets,
                client_bytes: flow.client_bytes,
                server_packets: flow.server_packets,
                server_bytes: flow.server_bytes,
            })
            .collect();
        Ok(Flows { flows, total })
    }

    /// The name of the cluster with this slot; flows may be of one that left the configuration.
    fn cluster_name(&self, slot: u16) -> String {
        let mut clusters = self.config.clusters.iter().enumerate();
        clusters
            .find(|(index, _)| self.ids.cluster_slot(ClusterId(*index as u16)) == Some(slot))
            .map_or_else(|| "-".to_owned(), |(_, cluster)| cluster.name.clone())
    }

    fn cluster_slot_by_name(&self, name: &str) -> Result<u16, ApiError> {
        let clusters = &self.config.clusters;
        clusters
            .iter()
            .position(|cluster| cluster.name == name)
            .and_then(|index| self.ids.cluster_slot(ClusterId(index as u16)))
            .ok_or_else(|| {
                let names: Vec<&str> =
                    clusters.iter().map(|cluster| cluster.name.as_str()).collect();
                ApiError::new(
                    "unknown_cluster",
                    format!("there is no cluster {name:?}"),
                    format!("clusters are {}", names.join(", ")),
                )
            })
    }

    fn backend_by_address(&self, text: &str) -> Result<BackendId, ApiError> {
        let known = || {
            let list: Vec<String> = self.ids.backends.values().map(SocketAddr::to_string).collect();
            format!("backends are {}", list.join(", "))
        };
        text.parse().ok().and_then(|address| self.ids.backend(address)).ok_or_else(|| {
            ApiError::new(
                "unknown_backend",
                format!("{text} is not a backend of the configuration"),
                known(),
            )
        })
    }

    /// Takes a flip in: names become ids, and the backends of the target are asked how they are right now.
    fn flip(&mut self, flip: FlipRequest, reply: FlipReply) {
        let (cluster, to, force) = match self.resolve(&flip) {
            Ok(resolved) => resolved,
            Err(error) => {
                _ = reply.send(Err(error));
                return;
            }
        };
        if self.flips.waiting.values().any(|waiting| waiting.cluster == cluster) {
            // "The other pair" must not be looked up twice for what may be one operator's two tries.
            _ = reply.send(Err(ApiError::new(
                "flip_running",
                "a flip of this cluster is waiting for fresh check results",
                "wait for it, then look at `pairflip status`",
            )));
            return;
        }
        self.flips.next += 1;
        let request = RequestId(self.flips.next);
        let configured = &self.config.clusters[usize::from(cluster.0)];
        let is_checked = |backend: &BackendId| {
            self.pacers.get(backend).is_some_and(|pacer| pacer.pace.borrow().is_some())
        };
        let outstanding: BTreeSet<BackendId> = configured
            .backends()
            .filter_map(|address| self.ids.backend(address))
            .filter(is_checked)
            .collect();
        for backend in &outstanding {
            if let Some(pacer) = self.pacers.get(backend) {
                pacer.kick.notify_one();
            }
        }
        let drain = flip.drain.map(|drain| match drain {
            protocol::Drain::Finish => Drain::Finish,
            protocol::Drain::Idle => Drain::Idle,
            protocol::Drain::Cut => Drain::Cut,
        });
        let deadline = Instant::now() + configured.check.timeout;
        self.flips
            .waiting
            .insert(request, WaitingFlip { cluster, to, drain, force, outstanding, deadline });
        self.flips.replies.insert(request, (cluster, reply));
    }

    /// The index of the cluster that a request means.
    pub(super) fn named_cluster(&self, name: Option<&str>) -> Result<usize, ApiError> {
        let clusters = &self.config.clusters;
        let names =
            || clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => {
                clusters.iter().position(|cluster| cluster.name == *name).ok_or_else(|| {
                    ApiError::new(
                        "unknown_cluster",
                        format!("there is no cluster {name:?}"),
                        format!("clusters are {}", names()),
                    )
                })
            }
            None if clusters.len() == 1 => Ok(0),
            None => Err(ApiError::new(
                "cluster_not_named",
                "there are several clusters and none was named",
                format!("add --cluster; clusters are {}", names()),
            )),
        }
    }

    fn resolve(
        &self,
        flip: &FlipRequest,
    ) -> Result<(ClusterId, Option<PairId>, BTreeSet<Precondition>), ApiError> {
        let clusters = &self.config.clusters;
        let cluster = self.named_cluster(flip.cluster.as_deref())?;
        let pairs = &clusters[cluster].pairs;
        let to = match &flip.to {
            Some(name) => {
                Some(pairs.iter().position(|pair| pair.name == *name).ok_or_else(|| {
                    let names: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
                    ApiError::new(
                        "unknown_pair",
                        format!("cluster {:?} has no pair {name:?}", clusters[cluster].name),
                        format!("pairs are {}", names.join(", ")),
                    )
                })?)
            }
            None => None,
        };
        let force = flip
            .force
            .iter()
            .map(|name| {
                Precondition::from_name(name).ok_or_else(|| {
                    let known: Vec<&str> =
                        Precondition::ALL.into_iter().map(Precondition::name).collect();
                    ApiError::new(
                        "unknown_precondition",
                        format!("{name:?} is not a precondition"),
                        format!("--force takes {}", known.join(", ")),
                    )
                })
            })
            .collect::<Result<_, _>>()?;
        Ok((ClusterId(cluster as u16), to.map(|to| PairId(to as u16)), force))
    }

    /// Hands those flips to the policy whose checks are in, or late.
    pub(super) fn start_due_flips(&mut self) {
        for (request, flip) in self.flips.take_due() {
            let WaitingFlip { cluster, to, drain, force, .. } = flip;
            self.feed(Input::Flip { cluster, request, to, drain, force });
        }
    }

    /// The policy's answer to a flip.
    pub(super) fn reply(
        &mut self,
        request: RequestId,
        result: Result<pairflip_policy::FlipDone, FlipRefused>,
    ) {
        let Some((cluster, reply)) = self.flips.replies.remove(&request) else {
            tracing::error!(%request, "a flip was answered that nobody asked for; please report this");
            return;
        };
        let configured = &self.config.clusters[usize::from(cluster.0)];
        let pair = |id: PairId| {
            configured
                .pairs
                .get(usize::from(id.0))
                .map_or_else(|| id.to_string(), |pair| pair.name.clone())
        };
        let answer = match result {
            Ok(done) => Ok(FlipDone {
                cluster: configured.name.clone(),
                from: pair(done.from),
                to: pair(done.to),
                generation: done.generation.0,
                drain: match done.drain {
                    Drain::Finish => protocol::Drain::Finish,
                    Drain::Idle => protocol::Drain::Idle,
                    Drain::Cut => protocol::Drain::Cut,
                },
                warnings: done.warnings.iter().map(ToString::to_string).collect(),
            }),
            Err(refused) => Err(ApiError::new(
                refused.name(),
                status::name_pairs(configured, &refused.to_string()),
                remedy(&refused),
            )),
        };
        // The operator may have gone; the flip stands, and `status` shows it.
        _ = reply.send(answer);
    }
}

pub(super) fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(
        "dataplane",
        error.to_string(),
        "look at the daemon's log; established connections are not affected",
    )
}

fn remedy(refused: &FlipRefused) -> &'static str {
    match refused {
        FlipRefused::UnknownCluster { .. } | FlipRefused::UnknownPair { .. } => {
            "see `pairflip status` for the names"
        }
        FlipRefused::Ambiguous { .. } => "name the pair with --to",
        FlipRefused::NoOtherPair => "add a pair to the configuration",
        FlipRefused::FlipRunning { .. } | FlipRefused::FailoverRunning => {
            "wait for it, then look at `pairflip status`"
        }
        FlipRefused::TargetDown { .. } => {
            "bring a backend of the pair up, or flip all the same with --force target_down: its routes refuse until a check passes"
        }
        FlipRefused::TargetTakenOut { .. } => {
            "`pairflip ready` it first, or flip all the same with --force target_taken_out: its write routes refuse until it is ready"
        }
        FlipRefused::NotPersisted { .. } => {
            "make room or fix permissions in state_dir; nothing was changed"
        }
        FlipRefused::NotApplied { .. } => "look at the daemon's log; the old routes are in force",
    }
}

fn state_name(state: FlowState) -> &'static str {
    match state {
        FlowState::HalfOpen => "half_open",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
        FlowState::Ended => "ended",
    }
}

fn flow_state(name: &str) -> Result<FlowState, ApiError> {
    let states = [FlowState::HalfOpen, FlowState::Established, FlowState::Closing];
    states.into_iter().find(|state| state_name(*state) == name).ok_or_else(|| {
        ApiError::new(
            "unknown_state",
            format!("{name:?} is no state of a flow"),
            format!("states are {}", states.map(state_name).join(", ")),
        )
    })
}
