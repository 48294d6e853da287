//! Drains: what becomes of the flows of a backend, a pair or a route that new flows do not go to any more.
//!
//! They are ended now, or by and by ([`Output::DrainFlows`]), until the reason is gone: the target is ready again, its pair is active
//! again, reads are back on the primary. A daemon that ends takes its drains with it.

use std::time::Duration;

use crate::{
    ids::PairId,
    input::{AdminTarget, Drain, Drained},
    moment::Moment,
    output::{EndWhich, EventKind, Output, RouteTable},
    reason::{DrainReason, EndReason, IgnoredReason},
};

use super::{Cluster, Outputs};

impl Cluster {
    /// Starts to drain, in place of what was under way for the same flows. `cut` says why flows are ended that are ended now.
    pub(super) fn drain(
        &mut self,
        which: EndWhich,
        mode: Drain,
        deadline: Option<Duration>,
        (reason, cut): (DrainReason, EndReason),
        outputs: &mut Outputs,
    ) {
        let cluster = self.spec.id;
        match (mode, deadline) {
            (Drain::Cut, _) => {
                self.stop_drain(which, outputs);
                outputs.push_back(Output::EndFlows { cluster, which, reason: cut });
            }
            (Drain::Finish, None) => self.stop_drain(which, outputs),
            (Drain::Idle, _) | (Drain::Finish, Some(_)) => {
                self.drains.insert(which, reason);
                outputs.push_back(Output::DrainFlows { cluster, which, mode, deadline, reason });
            }
        }
    }

    /// Lets flows live that are being drained.
    pub(super) fn stop_drain(&mut self, which: EndWhich, outputs: &mut Outputs) {
        if self.drains.remove(&which).is_some() {
            outputs.push_back(Output::StopDrain { cluster: self.spec.id, which });
        }
    }

    /// Calls off the drains that a new active pair leaves without a reason.
    pub(super) fn stop_drains_of_active(&mut self, active: PairId, outputs: &mut Outputs) {
        self.stop_drain(EndWhich::Pair(active), outputs);
        // Of reads that had gone back to the old pair's replicas; the pair as a whole is left now.
        let failbacks =
            self.drains.keys().copied().filter(|which| matches!(which, EndWhich::Route(..)));
        for which in failbacks.collect::<Vec<_>>() {
            self.stop_drain(which, outputs);
        }
    }

    /// Calls off the drains of routes that lead to their backend again.
    pub(super) fn stop_drains_of_routes(&mut self, table: &RouteTable, outputs: &mut Outputs) {
        let is_back = |which: &EndWhich| match *which {
            EndWhich::Route(route, backend) => {
                let target = table.routes.get(usize::from(route.0));
                target.is_some_and(|target| target.backends().any(|id| id == backend))
            }
            EndWhich::Backend(_) | EndWhich::Pair(_) => false,
        };
        for which in self.drains.keys().copied().filter(is_back).collect::<Vec<_>>() {
            self.stop_drain(which, outputs);
        }
    }

    /// Takes in how a drain ended.
    pub(crate) fn drained(
        &mut self,
        which: EndWhich,
        result: Drained,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let what = match self.drains.remove(&which) {
            // It was called off a moment ago.
            None => EventKind::Ignored { reason: IgnoredReason::UnexpectedDrained { which } },
            Some(reason) => EventKind::Drained { which, reason, result },
        };
        self.event(what, now, outputs);
    }
}

/// Returns which flows are a target's.
pub(super) const fn flows_of(target: AdminTarget) -> EndWhich {
    match target {
        AdminTarget::Backend(backend) => EndWhich::Backend(backend),
        AdminTarget::Pair(pair) => EndWhich::Pair(pair),
    }
}
