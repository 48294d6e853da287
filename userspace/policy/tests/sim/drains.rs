//! Draining in the world: what is drained has a reason, and comes to an end with it.

use pairflip_policy::*;

use crate::{
    common::READS,
    world::{Fed, World},
};

impl World {
    /// Checks the start of a drain, or that it is called off.
    pub(crate) fn judge_drain(&mut self, output: &Output) {
        if let Output::DrainFlows { cluster, which, mode, deadline, reason } = output {
            let is_needed = *mode == Drain::Idle || deadline.is_some();
            assert!(*mode != Drain::Cut && is_needed, "nothing comes of that");
            if *reason == DrainReason::Failback {
                let reads = &self.sites[cluster].spec.routes[usize::from(READS.0)];
                assert_eq!(reads.failback, Failback::Idle);
            }
            self.seen.add("drains");
            self.drains.insert((*cluster, *which), *reason);
        }
        if let Output::StopDrain { cluster, which } = output {
            let running = self.drains.remove(&(*cluster, *which));
            assert!(running.is_some(), "{which:?} is not being drained");
            self.seen.add("drains_called_off");
        }
    }

    /// Some drains end: nobody is left.
    pub(crate) fn end_drain(&mut self, cluster: ClusterId) {
        let first = self.drains.keys().find(|(owner, _)| *owner == cluster).copied();
        if let Some((cluster, which)) = first.filter(|_| self.tick.is_multiple_of(3)) {
            self.drains.remove(&(cluster, which));
            let result = Drained { ended: 1, ..Drained::default() };
            self.feed(Input::Drained { cluster, which, result }, Fed::Driver);
        }
    }

    /// Nothing is drained that new flows go to.
    pub(crate) fn judge_drains(&self) {
        for ((cluster, which), reason) in &self.drains {
            let site = &self.sites[cluster];
            let Some(table) = &site.kernel else { continue };
            match (which, reason) {
                (EndWhich::Route(route, backend), _) => {
                    let mut targets = table.routes[usize::from(route.0)].backends();
                    assert!(targets.all(|target| target != *backend), "reads are back there");
                }
                (EndWhich::Pair(pair), DrainReason::Flip | DrainReason::Failover) => {
                    assert_ne!(table.active, *pair, "the pair is active again");
                }
                (EndWhich::Pair(pair), _) => {
                    assert!(site.admin.contains_key(&AdminTarget::Pair(*pair)), "it is ready");
                }
                (EndWhich::Backend(backend), _) => {
                    let target = AdminTarget::Backend(*backend);
                    assert!(site.admin.contains_key(&target), "it is ready");
                }
            }
        }
    }
}
