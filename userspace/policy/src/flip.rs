//! Flip: the states of one route-only flip, and what must hold before it starts. A failover swaps its routes as a flip does.
//!
//! ```text
//! requested --preflight--> Persisting --Persisted ok--> Persisted --no swap under way--> Swapping --Applied ok--> done
//!     |                       | Persisted failed                                           | Applied failed
//!     `-> refused             `----------> refused, the state file is written back <-------'
//! ```
//!
//! The servers are not touched and nothing is fenced; warnings say what that may mean.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    backend::replication_fault,
    ids::{PairId, RequestId},
    input::{Admin, ClusterSpec, Drain, PairSpec},
    moment::Moment,
    output::FlipRefused,
    reason::{FlipWarning, ReplicationFault},
    routing::Backends,
    switchover::Precondition,
    view::{FlipStage, FlipView},
};

/// Who wants a flip.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlipCause {
    Operator {
        request: RequestId,
    },
    Failover,
    /// A switchover that has got as far as its swap, or swaps back; `None` of one that was resumed after a restart.
    Switchover {
        request: Option<RequestId>,
    },
}

/// A flip under way.
#[derive(Clone, Debug)]
pub(crate) struct Flip {
    pub(crate) cause: FlipCause,
    pub(crate) from: PairId,
    pub(crate) to: PairId,
    pub(crate) drain: Drain,
    pub(crate) stage: FlipStage,
    pub(crate) since: Moment,
    pub(crate) warnings: Vec<FlipWarning>,
}

impl Flip {
    pub(crate) const fn view(&self) -> FlipView {
        FlipView {
            cause: self.cause,
            from: self.from,
            to: self.to,
            drain: self.drain,
            stage: self.stage,
            since: self.since,
            switchover: None,
        }
    }
}

/// Returns the pair that a request means.
pub(crate) fn target(
    requested: Option<PairId>,
    spec: &ClusterSpec,
    active: PairId,
) -> Result<PairId, FlipRefused> {
    if let Some(pair) = requested {
        let is_known = spec.pairs.iter().any(|known| known.id == pair);
        return if is_known { Ok(pair) } else { Err(FlipRefused::UnknownPair { pair }) };
    }
    let others: Vec<_> = spec.pairs.iter().map(|pair| pair.id).filter(|id| *id != active).collect();
    match others[..] {
        [] => Err(FlipRefused::NoOtherPair),
        [other] => Ok(other),
        [_, _, ..] => Err(FlipRefused::Ambiguous { candidates: others }),
    }
}

/// Checks the preconditions that are not forced.
pub(crate) fn preflight(
    to: &PairSpec,
    backends: &Backends,
    force: &BTreeSet<Precondition>,
) -> Result<(), FlipRefused> {
    let is_forced =
        |refused: &FlipRefused| refused.precondition().is_some_and(|word| force.contains(&word));
    objections(to, backends).into_iter().find(|refused| !is_forced(refused)).map_or(Ok(()), Err)
}

/// Returns what checks and operators have against the target.
pub(crate) fn objections(to: &PairSpec, backends: &Backends) -> Vec<FlipRefused> {
    let admin = backends[&to.primary].admin;
    let taken_out =
        (admin != Admin::Ready).then_some(FlipRefused::TargetTakenOut { pair: to.id, admin });
    let is_up = to.backends().any(|id| backends[&id].health.is_up());
    let down = (!is_up).then_some(FlipRefused::TargetDown { pair: to.id });
    taken_out.into_iter().chain(down).collect()
}

/// Returns what the operator should know about a flip between these pairs.
pub(crate) fn warnings(
    from: &PairSpec,
    to: &PairSpec,
    drain: Drain,
    backends: &Backends,
) -> Vec<FlipWarning> {
    let (old, new) = (&backends[&from.primary], &backends[&to.primary]);
    let mut warnings = Vec::new();
    if !new.health.is_up() {
        warnings.push(FlipWarning::TargetPrimaryDown);
    } else if new.read_only() == Some(true) {
        warnings.push(FlipWarning::TargetReadOnly);
    }
    if new.is_unfit_primary() {
        warnings.push(FlipWarning::TargetUnfit);
    }
    // Any lag counts here: a write that is acknowledged on the old primary and not yet on the new
    // one is lost to the application until replication delivers it, and may collide with a new
    // write.
    match new.facts.as_ref().and_then(|facts| replication_fault(facts, Duration::ZERO)) {
        None => {}
        Some(ReplicationFault::Lagging { lag, .. }) => {
            warnings.push(FlipWarning::TargetLagging { lag });
        }
        Some(
            ReplicationFault::NoChannel
            | ReplicationFault::IoStopped { .. }
            | ReplicationFault::SqlStopped { .. }
            | ReplicationFault::LagUnknown { .. },
        ) => warnings.push(FlipWarning::TargetNotReplicating),
    }
    if drain == Drain::Finish && old.health.is_up() && old.read_only() == Some(false) {
        warnings.push(FlipWarning::OldPrimaryWritable);
    }
    warnings
}
