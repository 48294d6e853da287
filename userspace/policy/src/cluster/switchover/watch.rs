//! Watch: switchovers that lost their base or their time, that do not get on, and that something else takes over from.

use super::{Cluster, Obstacle, Outputs, RETRY, Switchover, UNDOING_TOLD};
use crate::{
    health::Verdict,
    ids::{BackendId, PairId},
    input::Admin,
    moment::Moment,
    output::{EventKind, Output},
    switchover::{Precondition, SwitchoverOutcome, SwitchoverStep, UndoCause},
};

impl Cluster {
    /// Undoes what lost its base or its time, and tells an operator who has waited long enough.
    pub(super) fn watch_switchover(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let down = |pair: PairId| {
            self.backends[&self.pair(pair).primary].health.verdict() == Verdict::Down
        };
        // From the commit on the old one is not needed any more.
        let old_is_down = running.step < SwitchoverStep::Commit && down(running.from);
        let new_is_down = down(running.to) && !running.force.contains(&Precondition::TargetDown);
        if running.step == SwitchoverStep::Survey {
            // Not undone, but refused. A failover is not to wait for the answers.
            if old_is_down {
                self.survey_in_vain(now, outputs);
            }
        } else if running.can_be_called_off() {
            // A step within the deadline says more than the deadline.
            let over = running.deadline().filter(|(at, _)| *at <= now && running.pending.is_none());
            let error = if old_is_down {
                Some("the old primary went down")
            } else if new_is_down {
                Some("the new primary went down")
            } else {
                self.target_left(running)
            };
            let error = error.map(|text| (UndoCause::Error, text.to_owned()));
            let over = over.map(|(_, limit)| (UndoCause::Deadline, format!("{limit} was reached")));
            if let Some((cause, text)) = error.or(over) {
                self.undo_switchover(cause, text, now, outputs);
            }
        }
        self.tell_of_trouble(now, outputs);
    }

    /// Returns why the write route of the new pair would refuse, if that was not forced.
    fn target_left(&self, running: &Switchover) -> Option<&'static str> {
        let new = &self.backends[&self.pair(running.to).primary];
        let is_forced = |word| running.force.contains(&word);
        if new.admin != Admin::Ready && !is_forced(Precondition::TargetTakenOut) {
            return Some("an operator took the new primary out");
        }
        let is_unfit = new.is_unfit_primary() && !is_forced(Precondition::TargetUnfit);
        is_unfit.then_some(
            "the new primary is not fit any more: a condition failed, or it is in maintenance",
        )
    }

    fn tell_of_trouble(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some((at, outcome)) = self.trouble() else { return };
        if at <= now {
            self.answer_operator(outcome, outputs);
        }
    }

    /// Returns what an operator is told if it is not over by then.
    fn trouble(&self) -> Option<(Moment, SwitchoverOutcome)> {
        let running = self.switchover.as_ref().filter(|running| running.request.is_some())?;
        let step = running.step;
        if let Some(undone) = running.undo.clone() {
            let text =
                "nobody takes writes until the old primary is writable; the daemon goes on trying";
            let outcome = SwitchoverOutcome::Undoing { undone, text: text.into() };
            return Some((running.since + UNDOING_TOLD, outcome));
        }
        let text = if step == SwitchoverStep::Unfence && running.may_be_unfenced {
            "it is not known whether the new primary takes writes; the daemon goes on making it writable"
        } else if step == SwitchoverStep::Open {
            "the new primary takes writes and its route is not open yet; the daemon goes on trying"
        } else {
            return None;
        };
        let outcome = SwitchoverOutcome::Trouble { step, text: text.into() };
        Some((running.started + running.limits.deadline, outcome))
    }

    /// Returns when something is due without an input.
    pub(in crate::cluster) fn next_switchover_wake(&self, now: Moment) -> Option<Moment> {
        let running = self.switchover.as_ref()?;
        let deadline = running.deadline().map(|(at, _)| at);
        let verify = (running.step == SwitchoverStep::Verify).then(|| running.verified_by());
        let waits = matches!(running.step, SwitchoverStep::Undo | SwitchoverStep::Resume);
        [
            running.pending.as_ref().map(|pending| pending.until),
            deadline.filter(|_| running.pending.is_none()),
            running.retry_at,
            verify,
            waits.then_some(running.patience),
            self.trouble().map(|(at, _)| at),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
    }

    /// Tries again later, and says once that it must, or for another reason.
    pub(super) fn stuck(
        &mut self,
        obstacle: Obstacle,
        text: String,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        running.retry_at = Some(now + RETRY);
        if running.told.replace(obstacle) != Some(obstacle) {
            let Switchover { from, to, step, .. } = *running;
            self.event(EventKind::SwitchoverStuck { from, to, step, text }, now, outputs);
        }
    }

    fn answer_operator(&mut self, outcome: SwitchoverOutcome, outputs: &mut Outputs) {
        let request = self.switchover.as_mut().and_then(|running| running.request.take());
        if let Some(request) = request {
            outputs.push_back(Output::SwitchoverReply { request, outcome });
        }
    }

    /// Returns the old primary while an operator waits for a check that sees it replicate.
    pub(in crate::cluster) fn verified_backend(&self) -> Option<BackendId> {
        let running = self.switchover.as_ref()?;
        (running.step == SwitchoverStep::Verify).then(|| self.pair(running.from).primary)
    }

    /// Returns the pair that one is under way to.
    pub(in crate::cluster) fn switching_to(&self) -> Option<PairId> {
        self.switchover.as_ref().map(|running| running.to)
    }

    /// Returns whether a driver's answer is awaited.
    pub(in crate::cluster) fn is_switchover_waiting(&self) -> bool {
        self.switchover.as_ref().is_some_and(|running| running.pending.is_some())
    }

    /// Returns whether another flip or a failover may go on from here.
    pub(in crate::cluster) fn is_switchover_stuck(&self) -> bool {
        self.switchover.as_ref().is_some_and(Switchover::is_stuck)
    }

    /// Leaves what it did as it is: something else takes over. Returns it.
    pub(in crate::cluster) fn give_up_switchover(
        &mut self,
        now: Moment,
        outputs: &mut Outputs,
    ) -> Option<Switchover> {
        self.cancel_pending(outputs);
        let running = self.switchover.as_ref()?;
        let Switchover { from, to, step, .. } = *running;
        let text = "another flip took over from it".to_owned();
        let outcome = match running.undo.clone() {
            Some(undone) => SwitchoverOutcome::Undoing { undone, text },
            None => SwitchoverOutcome::Trouble { step, text },
        };
        if running.undo.is_some() && running.may_be_fenced {
            self.failover.inherits = Some(self.pair(from).primary);
        }
        self.event(EventKind::SwitchoverTakenOver { from, to }, now, outputs);
        self.answer_operator(outcome, outputs);
        self.switchover.take()
    }

    /// Goes on with what was given up, because nothing took over.
    pub(in crate::cluster) fn take_back_switchover(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(mut running) = self.taken_over.take() else { return };
        self.failover.inherits = None;
        let (from, to, undo) = (running.from, running.to, running.undo.is_some());
        (running.told, running.retry_at) = (None, None);
        // It was stuck, and routes follow what is known of their primaries again.
        running.paused_at = None;
        if !undo && running.step != SwitchoverStep::Resume {
            // The state file must name it again before anything is told to a server.
            running.step = SwitchoverStep::Resume;
            running.is_sure = true;
        }
        self.switchover = Some(running);
        self.event(EventKind::SwitchoverResumed { from, to, undo }, now, outputs);
    }
}
