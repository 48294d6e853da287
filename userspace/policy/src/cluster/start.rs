//! Start: what a new daemon makes of the state file and of the table it finds in the kernel.

use crate::{
    ids::{BackendId, PairId},
    input::{ClusterSpec, PairSpec, StandbyReplicas},
    output::RouteTable,
    reason::ActiveSource,
};

/// Returns whether a table found in the kernel is one that this configuration could have made.
///
/// Pairs are numbers in the kernel, so a configuration edited since then could give a number to
/// another pair. The backends settle it: every one that is forwarded to must belong to the table's
/// pair, but for replicas of others where a route may lead to them.
pub(super) fn fits(table: &RouteTable, spec: &ClusterSpec) -> bool {
    let pair = spec.pairs.iter().find(|pair| pair.id == table.active);
    let others = |id: BackendId| {
        spec.pairs.iter().flat_map(|pair| &pair.replicas).any(|share| share.backend == id)
    };
    let fits = |pair: &PairSpec| {
        spec.routes.iter().zip(&table.routes).all(|(route, target)| {
            let may_leave = route.standby_replicas != StandbyReplicas::Never;
            target
                .backends()
                .all(|id| pair.backends().any(|known| known == id) || may_leave && others(id))
        })
    };
    table.routes.len() == spec.routes.len() && pair.is_some_and(fits)
}

/// Returns the pair that is active at the start, and who says so.
///
/// The kernel's word counts most, because it is where writes go at this moment: a flip that got as
/// far as the state file and no further was never answered, and finishing it now, unasked, could
/// send writes to a second server. A table that forwards nothing says nothing.
pub(super) fn active(
    spec: &ClusterSpec,
    state_file: Option<PairId>,
    table: Option<&RouteTable>,
) -> (PairId, ActiveSource) {
    let forwards = |table: &&RouteTable| table.routes.iter().any(|to| !to.shares().is_empty());
    match (table.filter(forwards), state_file) {
        (Some(table), Some(file)) if table.active != file => {
            (table.active, ActiveSource::KernelOverStateFile { state_file: file })
        }
        (Some(table), _) => (table.active, ActiveSource::Kernel),
        (None, Some(file)) => (file, ActiveSource::StateFile),
        (None, None) => (spec.pairs[0].id, ActiveSource::Configuration),
    }
}
