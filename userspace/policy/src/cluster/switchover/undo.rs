//! Undo: everything as it was before. The old primary becomes writable only when the routes and the state file are its own
//! again, so that a daemon that dies in the middle is followed by one that goes on here.

use super::{Cluster, Obstacle, Outputs, Switchover};
use crate::{
    flip::{Flip, FlipCause},
    ids::BackendId,
    moment::Moment,
    output::{EventKind, FlipRefused, Output},
    reason::PersistReason,
    switchover::{
        FENCE_TIMEOUT, IntentStage, LOCAL_TIMEOUT, Step, StepAnswer, StepFailure,
        SwitchoverOutcome, SwitchoverStep, UndoCause, Undone,
    },
    view::FlipStage,
};

impl Cluster {
    /// Turns back, once what cannot be cancelled is answered.
    pub(super) fn undo_switchover(
        &mut self,
        cause: UndoCause,
        text: String,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        if running.undo.is_some() {
            return;
        }
        running.undo = Some(Undone { step: running.step, cause, text });
        if let Some(intent) = &mut running.intent {
            intent.stage = IntentStage::Prepared;
        }
        if running.pending.as_ref().is_some_and(|pending| pending.step.is_harmless()) {
            self.cancel_pending(outputs);
        }
        // A swap that is on its way is waited for.
        if self.flip.take_if(|flip| flip.stage != FlipStage::Swapping).is_some() {
            self.state_file.reason = PersistReason::FlipUndone;
        }
        self.state_file.retry_at = None;
        self.enter(SwitchoverStep::Undo, now, outputs);
    }

    /// The swap of a switchover failed, there or back.
    pub(in crate::cluster) fn switchover_not_swapped(
        &mut self,
        refused: &FlipRefused,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &self.switchover else { return };
        if running.undo.is_none() {
            self.undo_switchover(UndoCause::Error, refused.to_string(), now, outputs);
        } else if let FlipRefused::NotPersisted { reason, .. } = refused {
            self.switchover_not_written(reason);
        } else if self.active == running.to {
            let text = format!(
                "the routes cannot be taken back to the old pair, and nobody takes writes: {refused}; it is tried again every second"
            );
            self.stuck(Obstacle::Routes, text, now, outputs);
        }
    }

    pub(super) fn undo_answered(
        &mut self,
        step: &Step,
        result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        match (step, result) {
            (Step::Unfence { .. }, Ok(_)) => running.may_be_fenced = false,
            (Step::Unfence { .. }, Err(StepFailure { text, .. })) => {
                let text = format!(
                    "nobody takes writes: the old primary could not be made writable again: {text}; it is tried again every second; if it is lost, `pairflip flip --route-only` and make the other primary writable"
                );
                self.stuck(Obstacle::OldNotUnfenced, text, now, outputs);
            }
            _ => {}
        }
    }

    /// Takes the next step back.
    pub(super) fn advance_undo(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        if self.flip.is_some() {
            return;
        }
        let Switchover { from, to, .. } = *running;
        if self.active == to {
            self.flip = Some(Flip {
                cause: FlipCause::Switchover { request: None },
                from: to,
                to: from,
                drain: running.drain,
                // A disk that is full must not keep the routes from going back: that they did is what counts.
                stage: match running.write_failed {
                    None => FlipStage::Persisting,
                    Some(_) => FlipStage::Persisted,
                },
                since: now,
                warnings: Vec::new(),
            });
            return;
        }
        if running.is_paused && (running.is_stuck() || !running.may_be_fenced) {
            return self.send(
                Step::Release { keep_held: false },
                Some(LOCAL_TIMEOUT),
                now,
                outputs,
            );
        }
        if running.may_be_fenced {
            return self.give_back(self.pair(from).primary, self.pair(to).primary, now, outputs);
        }
        self.close(now, outputs);
    }

    /// Takes the intent out of the state file, if it ever was there.
    fn close(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &mut self.switchover else { return };
        if running.intent.take().is_some() {
            running.is_closing = true;
            running.write_failed = None;
            self.state_file.retry_at = None;
        }
        let is_over = !running.is_closing || running.write_failed.is_some();
        if is_over || self.is_written() {
            self.undone(now, outputs);
        }
    }

    /// Makes the old primary writable again, if it is the only one.
    fn give_back(&mut self, old: BackendId, new: BackendId, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let new_one = &self.backends[&new];
        if now < running.patience && new_one.checked_at.is_none() {
            return;
        }
        if running.must_hear_new && new_one.facts.is_none() {
            let text = "the old primary stays read-only until the new one answers, which may take writes: nobody knows since the daemon's start (while it is in maint it is not asked)";
            return self.stuck(Obstacle::NewUnheard, text.into(), now, outputs);
        }
        // A state file that names the new pair would send the next daemon forward beside a writable old primary.
        if !(self.is_written() || running.write_failed.is_some()) {
            return;
        }
        let was_writable = running.intent.as_ref().is_some_and(|it| it.target_was_writable);
        if self.backends[&new].read_only() == Some(false) && !was_writable {
            let text = "the old primary stays read-only, because the new one takes writes by now: make one of them read-only, and the other one the active one";
            return self.stuck(Obstacle::NewWrites, text.into(), now, outputs);
        }
        self.send(Step::Unfence { backend: old }, Some(FENCE_TIMEOUT), now, outputs);
    }

    fn undone(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(Switchover { request, from, to, dry_run, undo: Some(undone), .. }) =
            self.switchover.take()
        else {
            return;
        };
        if !dry_run {
            let what = EventKind::SwitchoverUndone { from, to, undone: undone.clone() };
            self.event(what, now, outputs);
        }
        if let Some(request) = request {
            let outcome = SwitchoverOutcome::Undone(undone);
            outputs.push_back(Output::SwitchoverReply { request, outcome });
        }
    }
}
