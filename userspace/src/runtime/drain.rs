//! Draining from the loop's side: what the tasks ask of the data plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pairflip_policy::{BackendId, ClusterId, RouteId};

use super::Runtime;
use crate::{
    dataplane::{self, Flow, FlowFilter, FlowId},
    drain::{Ask, Scope, Target},
};

impl Runtime {
    /// Returns what is needed to drain the flows of a cluster, or of one of its routes, to a backend; `None` where nobody logs in.
    pub(super) fn drain_target(
        &self,
        cluster: ClusterId,
        backend: BackendId,
        route: Option<RouteId>,
    ) -> Option<Target> {
        let scope = self.drain_scope(cluster, backend, route)?;
        let server = self.ids.address(backend)?;
        Some(Target { scope, server, account: self.account(cluster)? })
    }

    pub(super) fn drain_scope(
        &self,
        cluster: ClusterId,
        backend: BackendId,
        route: Option<RouteId>,
    ) -> Option<Scope> {
        let routes = &self.config.clusters[usize::from(cluster.0)].routes;
        Some(Scope {
            cluster: self.ids.cluster_slot(cluster)?,
            backend: backend.0,
            vip: route.map(|route| routes[usize::from(route.0)].vip),
        })
    }

    /// Answers a draining task. What cannot be done is logged here, and the task goes on with what is there.
    pub(super) fn serve_drain(&mut self, ask: Ask) {
        // Who asked may have been called off meanwhile: nobody waits for the answer then.
        match ask {
            Ask::List { scope, answer } => {
                let began = Instant::now();
                let flows = logged(self.flows_of(scope).map(Some), "listing flows to drain");
                _ = answer.send(flows.map(|flows| (flows, began.elapsed())));
            }
            Ask::Find { ids, answer } => {
                let found = self.dataplane.find_flows(&ids);
                _ = answer.send(logged(found, "looking at flows that are held"));
            }
            Ask::Hold { owner, ids, time, answer } => {
                let free = self.holders.free(owner, ids);
                let held = logged(self.dataplane.hold_all(&free, time), "holding flows");
                self.holders.note(owner, &held, time);
                if let Err(unwanted) = answer.send(held) {
                    self.release(owner, &unwanted);
                }
            }
            Ask::Release { owner, ids, answer } => {
                self.release(owner, &ids);
                _ = answer.send(());
            }
            Ask::End { ids, why, answer } => {
                let ids: BTreeSet<FlowId> = ids.into_iter().collect();
                let ended = self.dataplane.end_flows(|id, _| ids.contains(id));
                let ended = logged(ended, "ending flows; clients wait for TCP's own timeouts");
                self.tell_of_ended(&ended, why);
                _ = answer.send(ended.len());
            }
        }
    }

    fn flows_of(&self, scope: Scope) -> Result<Vec<Flow>, dataplane::Error> {
        let filter = FlowFilter {
            backend: Some(scope.backend),
            cluster: Some(scope.cluster),
            ..FlowFilter::default()
        };
        let (mut flows, _) = self.dataplane.list_flows(filter, usize::MAX)?;
        flows.retain(|flow| scope.vip.is_none_or(|vip| vip == flow.vip));
        Ok(flows)
    }

    fn release(&mut self, owner: u64, ids: &[FlowId]) {
        for id in ids.iter().filter(|id| self.holders.take(owner, id)) {
            if let Err(error) = self.dataplane.release(id) {
                tracing::warn!(%error, "releasing a flow; it goes on by itself when its hold ends");
            }
        }
    }
}

/// Who holds what, so that no task lets go what another one is about to end.
#[derive(Debug, Default)]
pub(super) struct Holders(BTreeMap<FlowId, (u64, Instant)>);

impl Holders {
    /// Returns those that nobody else holds.
    fn free(&mut self, owner: u64, mut ids: Vec<FlowId>) -> Vec<FlowId> {
        let now = Instant::now();
        self.0.retain(|_, (_, until)| *until > now);
        ids.retain(|id| self.0.get(id).is_none_or(|(other, _)| *other == owner));
        ids
    }

    fn note(&mut self, owner: u64, ids: &[FlowId], time: Duration) {
        let until = Instant::now() + time;
        self.0.extend(ids.iter().map(|id| (*id, (owner, until))));
    }

    /// Returns whether this owner held it, and forgets that.
    fn take(&mut self, owner: u64, id: &FlowId) -> bool {
        let is_its = self.0.get(id).is_some_and(|(known, _)| *known == owner);
        if is_its {
            self.0.remove(id);
        }
        is_its
    }
}

fn logged<T: Default>(result: Result<T, dataplane::Error>, doing: &str) -> T {
    result.unwrap_or_else(|error| {
        tracing::error!(%error, "{doing}");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_task_holds_no_other_takes_or_lets_go() {
        let id = |port| {
            let client = std::net::SocketAddr::from(([10, 0, 0, 7], port));
            dataplane::flow_id(client, "10.0.0.100:3306".parse().unwrap())
        };
        let mut holders = Holders::default();
        let time = Duration::from_secs(60);
        assert_eq!(holders.free(1, vec![id(1), id(2)]).len(), 2);
        holders.note(1, &[id(1)], time);
        assert_eq!(holders.free(2, vec![id(1), id(2)]), [id(2)]);
        assert!(!holders.take(2, &id(1)));
        // Its own hold may be renewed.
        assert_eq!(holders.free(1, vec![id(1)]), [id(1)]);
        assert!(holders.take(1, &id(1)));
        // One that is over is nobody's.
        holders.note(1, &[id(1)], Duration::ZERO);
        assert_eq!(holders.free(2, vec![id(1)]), [id(1)]);
    }
}
