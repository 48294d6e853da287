//! Switchover: the steps from one primary that takes writes to another, without losing one.

use std::collections::BTreeSet;

use super::{Cluster, Outputs};
use crate::{
    ids::{PairId, RequestId},
    input::Drain,
    moment::Moment,
    output::{EventKind, FlipRefused, Output},
    reason::IgnoredReason,
    switchover::{Limits, Precondition, StepAnswer, StepFailure, StepId, SwitchoverOutcome},
};

/// What an operator asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) request: RequestId,
    pub(crate) to: Option<PairId>,
    pub(crate) drain: Option<Drain>,
    pub(crate) force: BTreeSet<Precondition>,
    pub(crate) limits: Limits,
    pub(crate) dry_run: bool,
}

impl Cluster {
    pub(crate) fn switch_over(&mut self, asked: Asked, now: Moment, outputs: &mut Outputs) {
        _ = (now, asked.to, asked.drain, asked.force, asked.limits, asked.dry_run);
        let outcome = SwitchoverOutcome::Refused(FlipRefused::FailoverRunning);
        outputs.push_back(Output::SwitchoverReply { request: asked.request, outcome });
    }

    pub(crate) fn call_off(
        &mut self,
        _request: Option<RequestId>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let reason = IgnoredReason::NothingToCallOff;
        self.event(EventKind::Ignored { reason }, now, outputs);
    }

    pub(crate) fn step_done(
        &mut self,
        id: StepId,
        _result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let reason = IgnoredReason::UnexpectedStep { id };
        self.event(EventKind::Ignored { reason }, now, outputs);
    }
}
