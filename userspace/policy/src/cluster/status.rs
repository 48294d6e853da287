//! Status: a cluster as plain values for an operator. Decides nothing.

use crate::{
    flip::Flip,
    input::{Access, AdminTarget, RouteSpec},
    moment::Moment,
    output::RouteTarget,
    reason::RouteReason,
    routing::Answer,
    view::{ClusterView, PairState, PairView, RouteView},
};

use super::Cluster;

impl Cluster {
    pub(crate) fn view(&self, now: Moment) -> ClusterView {
        let pairs = self.spec.pairs.iter().map(|pair| PairView {
            id: pair.id,
            name: pair.name.clone(),
            admin: self.admin_of(AdminTarget::Pair(pair.id)),
            state: if pair.id == self.active { PairState::Active } else { PairState::Standby },
            backends: pair
                .backends()
                .map(|id| {
                    let admin = self.admin_of(AdminTarget::Backend(id));
                    self.backends[&id].view(&self.spec, self.active, admin)
                })
                .collect(),
        });
        ClusterView {
            id: self.spec.id,
            name: self.spec.name.clone(),
            active: self.active,
            generation: self.generation_in_force(),
            flip: self.switchover_view().or_else(|| self.flip.as_ref().map(Flip::view)),
            failover: self.failover_view(now),
            checks: self.checks,
            pairs: pairs.collect(),
            routes: self.route_views(),
        }
    }

    fn route_views(&self) -> Vec<RouteView> {
        let primary = self.pair(self.active).primary;
        let answers = self.answers(self.active);
        let in_force = |index: usize| self.table.as_ref().and_then(|table| table.routes.get(index));
        let routes = self.spec.routes.iter().zip(answers).enumerate();
        let view = |(index, (route, answer)): (usize, (&RouteSpec, Answer))| {
            let (target, reason) = match (in_force(index), answer.target) {
                (None, _) => {
                    let reason = RouteReason::Unchecked;
                    (RouteTarget::Refuse { reason }, reason)
                }
                // Why a route refuses can change without a swap; the latest reason is the true one.
                (Some(RouteTarget::Refuse { .. }), refuse @ RouteTarget::Refuse { .. }) => {
                    (refuse, answer.reason)
                }
                (Some(target), _) => (target.clone(), answer.reason),
            };
            RouteView {
                id: route.id,
                name: route.name.clone(),
                access: route.access,
                backends: target.backends().collect(),
                fallback: route.access == Access::Read && target.backends().eq([primary]),
                target,
                reason,
            }
        };
        routes.map(view).collect()
    }
}
