//! Drive: steps that drivers do, one at a time, and what their answers say of a server.

use std::time::Duration;

use super::{Cluster, GRACE, Outputs, Pending};
use crate::{
    ids::BackendId,
    moment::Moment,
    output::{EventKind, Output},
    reason::{ChangeReason, IgnoredReason},
    switchover::{Step, StepAnswer, StepFailure, StepFault, StepId, SwitchoverStep},
};

impl Cluster {
    pub(crate) fn step_done(
        &mut self,
        id: StepId,
        result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let answered = self.switchover.as_mut().and_then(|running| {
            let pending = running.pending.take_if(|pending| pending.id == id)?;
            Some(pending.step)
        });
        let Some(step) = answered else {
            let reason = IgnoredReason::UnexpectedStep { id };
            return self.event(EventKind::Ignored { reason }, now, outputs);
        };
        self.take_answer(&step, result, now, outputs);
        self.advance(ChangeReason::Fence, now, outputs);
    }

    /// Takes in what became of a step: what is known of the servers first, then what follows from it.
    fn take_answer(
        &mut self,
        step: &Step,
        result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        self.note_answer(step, &result, now);
        let Some(running) = &self.switchover else { return };
        if running.undo.is_some() {
            self.undo_answered(step, result, now, outputs);
        } else if running.step == SwitchoverStep::Resume {
            self.resume_answered(step, result, now, outputs);
        } else {
            self.step_answered(result, now, outputs);
        }
    }

    /// Remembers what a step did to a server.
    fn note_answer(&mut self, step: &Step, result: &Result<StepAnswer, StepFailure>, now: Moment) {
        let Some(running) = &mut self.switchover else { return };
        let (backend, read_only) = match (step, result) {
            (Step::Fence { backend }, Ok(answer)) => {
                if matches!(answer, StepAnswer::Fenced { was_read_only: true }) {
                    // Somebody else did it, and knows why.
                    running.may_be_fenced &= running.step == SwitchoverStep::Resume;
                }
                (*backend, true)
            }
            (Step::Fence { .. }, Err(failure)) => {
                running.may_be_fenced &= failure.fault == StepFault::Unknown;
                return;
            }
            (Step::Unfence { backend }, Ok(_)) => (*backend, false),
            (Step::Release { .. }, _) => {
                // What could not be ended ends by itself.
                running.is_paused = false;
                return;
            }
            _ => return,
        };
        self.saw_read_only(backend, read_only, now);
    }

    /// Takes in that a server was seen read-only or writable, later than a check that is on its way.
    pub(super) fn saw_read_only(&mut self, backend: BackendId, read_only: bool, now: Moment) {
        self.seen_writable = (!read_only).then_some((backend, now));
        if let Some(known) = self.backends.get_mut(&backend) {
            known.set_read_only(read_only);
        }
    }

    /// Asks a driver for a step, within what is left of the deadlines if there are any.
    pub(super) fn send(
        &mut self,
        step: Step,
        longest: Option<Duration>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        // A primary is to be told by the deadline; what comes of it may take longer, and must be known.
        let is_bounded = !matches!(step, Step::Fence { .. } | Step::Unfence { .. });
        let left = running.deadline().filter(|_| is_bounded).map(|(at, _)| at.since(now));
        let timeout = longest.into_iter().chain(left).min().unwrap_or(GRACE);
        self.last_step.0 += 1;
        let id = self.last_step;
        running.pending = Some(Pending { id, step: step.clone(), until: now + timeout + GRACE });
        outputs.push_back(Output::Step { cluster: self.spec.id, id, step, timeout });
    }

    pub(super) fn cancel_pending(&mut self, outputs: &mut Outputs) {
        let pending = self.switchover.as_mut().and_then(|running| running.pending.take());
        if let Some(Pending { id, .. }) = pending {
            outputs.push_back(Output::CancelStep { cluster: self.spec.id, id });
        }
    }

    /// Takes a driver that never answered for one that may have done its step.
    pub(super) fn give_up_waiting(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let Some(pending) = running.pending.as_ref().filter(|pending| pending.until <= now) else {
            return;
        };
        let step = pending.step.clone();
        let fault = if step.is_harmless() { StepFault::TimedOut } else { StepFault::Unknown };
        let text = format!("the step {} was not answered", step.name());
        self.cancel_pending(outputs);
        self.take_answer(&step, Err(StepFailure { fault, text }), now, outputs);
    }
}
