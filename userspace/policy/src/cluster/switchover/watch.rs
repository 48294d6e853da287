//! Watch: switchovers that lost their base or their time, that do not get on, and that something else takes over from.

use super::{Cluster, Outputs, RETRY, Switchover, UNDOING_TOLD};
use crate::{
    health::Verdict,
    ids::{BackendId, PairId},
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
            let why = if old_is_down {
                Some((UndoCause::Error, "the old primary went down".to_owned()))
            } else if new_is_down {
                Some((UndoCause::Error, "the new primary went down".to_owned()))
            } else {
                over.map(|(_, limit)| (UndoCause::Deadline, format!("{limit} was reached")))
            };
            if let Some((cause, text)) = why {
                self.undo_switchover(cause, text, now, outputs);
            }
        }
        self.tell_of_trouble(now, outputs);
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

    /// Tries again later, and says once that it must.
    pub(super) fn stuck(&mut self, text: String, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &mut self.switchover else { return };
        running.retry_at = Some(now + RETRY);
        if !std::mem::replace(&mut running.is_stuck, true) {
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
        self.switchover.as_ref().is_some_and(|running| running.is_stuck)
    }

    /// Leaves what it did as it is: something else takes over.
    pub(in crate::cluster) fn give_up_switchover(&mut self, now: Moment, outputs: &mut Outputs) {
        self.cancel_pending(outputs);
        let Some(running) = &self.switchover else { return };
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
        self.switchover = None;
    }
}
