//! Answering the control socket.

use std::net::SocketAddr;

use pairflip_common::flow::FlowState;
use pairflip_policy::{BackendId, ClusterId};

use super::{Ended, Runtime, flips::FlipReply, status};
use crate::{
    control::{
        Request,
        protocol::{ApiError, FlipsRunning, Flow, Flows, FlowsQuery, Unloaded},
    },
    dataplane::FlowFilter,
};

/// Flows listed when the request does not say how many.
const FLOWS_LISTED: usize = 1000;
/// Most flows that one answer lists, some 250 bytes each.
const FLOWS_LISTED_MAX: usize = 100_000;

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
            Request::Flip { flip, reply } => self.flip(&flip, FlipReply::Done(reply)),
            Request::PlanFlip { flip, reply } => self.flip(&flip, FlipReply::Plan(reply)),
            Request::FlipsRunning { reply } => _ = reply.send(Ok(self.flips_running())),
            Request::CallOff { call_off, reply } => _ = reply.send(self.call_off(&call_off)),
            Request::Admin { admin, reply } => self.admin(admin, reply),
            Request::Reload { reply } => {
                _ = reply.send(Ok(tokio::task::block_in_place(|| self.reload())));
            }
            Request::Unload { reply } => {
                let result = self.unload_unless_a_flip_runs().await;
                let done = result.is_ok();
                _ = reply.send(result.map(|removed| Unloaded { removed }));
                return done.then_some(Ended::Unloaded);
            }
        }
        None
    }

    async fn unload_unless_a_flip_runs(&mut self) -> Result<Vec<String>, ApiError> {
        may_unload(&self.flips_running())?;
        self.unload().await.map_err(|error| {
            ApiError::new(
                "unload_failed",
                format!("{error:#}"),
                "run `pairflip unload` again; what was removed already stays removed",
            )
        })
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
}

/// Refuses while a flip runs: nobody would be left to finish it or to undo it, and the old primary could stay read-only.
fn may_unload(running: &FlipsRunning) -> Result<(), ApiError> {
    let Some(flip) = running.flips.first() else { return Ok(()) };
    let remedy = if flip.can_be_called_off {
        "wait for its end, or call it off (Ctrl-C where it was started); then unload again"
    } else if flip.stuck {
        "repair what `pairflip status` names, or take over with `pairflip flip --route-only`; then unload again"
    } else {
        "wait for its end; then unload again"
    };
    let text = format!("a flip of cluster {} is running", flip.cluster);
    Err(ApiError::new("flip_running", text, remedy))
}

pub(super) fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(
        "dataplane",
        error.to_string(),
        "look at the daemon's log; established connections are not affected",
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::FlipStatus;

    #[test]
    fn nothing_is_unloaded_while_a_flip_runs() {
        assert_eq!(may_unload(&FlipsRunning::default()), Ok(()));
        for (can_be_called_off, stuck, expected) in
            [(true, false, "Ctrl-C"), (false, false, "wait"), (false, true, "--route-only")]
        {
            let flip = FlipStatus {
                cluster: "main".into(),
                from: "pair1".into(),
                to: "pair2".into(),
                steps: Vec::new(),
                waiting_for: String::new(),
                ms: 12,
                deadline_ms: None,
                can_be_called_off,
                stuck,
            };
            let refused = may_unload(&FlipsRunning { flips: vec![flip] }).unwrap_err();
            assert_eq!(refused.code, "flip_running");
            assert_eq!(refused.message, "a flip of cluster main is running");
            assert!(refused.remedy.contains(expected), "{refused:?}");
        }
    }
}
