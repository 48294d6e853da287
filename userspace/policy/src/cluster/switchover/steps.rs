//! Forward: from the catch-up to the old primary that replicates from the new one.

use std::time::Duration;

use super::{Cluster, NEARLY, Obstacle, Outputs, Switchover, UNWRITABLE};
use crate::{
    backend::replication_fault,
    flip::{Flip, FlipCause},
    input::Drain,
    moment::Moment,
    output::{EndWhich, EventKind, FlipDone, Output},
    reason::{DrainReason, EndReason, FlipWarning},
    switchover::{
        FENCE_TIMEOUT, IntentStage, LOCAL_TIMEOUT, SESSIONS_TIMEOUT, Step, StepAnswer, StepFailure,
        StepFault, Survey, SwitchoverOutcome, SwitchoverStep, UndoCause, VERIFY_TIMEOUT,
    },
    view::FlipStage,
};

/// Writes would wait noticeably for what is left after a round of catching up that took longer.
const LONG_ROUND: Duration = Duration::from_millis(300);

impl Cluster {
    /// Goes on after the answer to what the present step asked for.
    pub(super) fn step_answered(
        &mut self,
        result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &self.switchover else { return };
        match (running.step, result) {
            (SwitchoverStep::Survey, Ok(StepAnswer::Surveyed(survey))) => {
                self.surveyed(&survey, now, outputs);
            }
            (SwitchoverStep::Survey, Err(failure)) => {
                let survey = Survey { from: Err(failure.clone()), to: Err(failure) };
                self.surveyed(&survey, now, outputs);
            }
            (SwitchoverStep::Fence, Ok(StepAnswer::Fenced { was_read_only: true })) => {
                let text = "somebody else made the old primary read-only meanwhile";
                self.undo_switchover(UndoCause::Error, text.into(), now, outputs);
            }
            (SwitchoverStep::CatchUp, Ok(_)) => self.caught_up(now, outputs),
            (SwitchoverStep::FinalCatchUp, Ok(StepAnswer::CaughtUp { position })) => {
                self.commit(position, now, outputs);
            }
            (SwitchoverStep::Survey | SwitchoverStep::FinalCatchUp, Ok(answer)) => {
                let text = format!("the answer {answer:?} says nothing; please report this");
                self.undo_switchover(UndoCause::Error, text, now, outputs);
            }
            (SwitchoverStep::Unfence, result) => self.unfence_done(result, now, outputs),
            (SwitchoverStep::Release, result) => {
                self.pause_ended(now);
                let warning = result.err().map(|it| FlipWarning::NotReleased { text: it.text });
                self.warn(warning);
                self.enter(SwitchoverStep::EndSessions, now, outputs);
            }
            (SwitchoverStep::EndSessions, result) => {
                let warning = result.err().map(|it| FlipWarning::SessionsLeft { text: it.text });
                self.warn(warning);
                self.end_reads(outputs);
                self.enter(SwitchoverStep::Verify, now, outputs);
            }
            (step, Ok(_)) => {
                if let Some(next) = self.after(step) {
                    self.enter(next, now, outputs);
                }
            }
            (_, Err(StepFailure { fault, text })) => {
                let is_near = |(at, _): (Moment, _)| at.since(now) <= NEARLY;
                // A login or a statement whose time was cut short fails in its own way.
                let is_silence = match fault {
                    StepFault::TimedOut | StepFault::Unreachable | StepFault::Unknown => true,
                    StepFault::Refused | StepFault::Moved => false,
                };
                let is_over = is_silence && running.deadline().is_some_and(is_near);
                let cause = if is_over { UndoCause::Deadline } else { UndoCause::Error };
                self.undo_switchover(cause, text, now, outputs);
            }
        }
    }

    fn after(&self, step: SwitchoverStep) -> Option<SwitchoverStep> {
        let is_cut = self.switchover.as_ref().is_some_and(|running| running.drain == Drain::Cut);
        match step {
            // Who is cut off anyway is not waited for.
            SwitchoverStep::Pause if is_cut => Some(SwitchoverStep::Fence),
            SwitchoverStep::Pause => Some(SwitchoverStep::Settle),
            SwitchoverStep::Settle => Some(SwitchoverStep::Fence),
            SwitchoverStep::Fence => Some(SwitchoverStep::FinalCatchUp),
            SwitchoverStep::Survey
            | SwitchoverStep::Prepare
            | SwitchoverStep::CatchUp
            | SwitchoverStep::FinalCatchUp
            | SwitchoverStep::Commit
            | SwitchoverStep::Unfence
            | SwitchoverStep::Open
            | SwitchoverStep::Release
            | SwitchoverStep::EndSessions
            | SwitchoverStep::Verify
            | SwitchoverStep::Finish
            | SwitchoverStep::Undo
            | SwitchoverStep::Resume => None,
        }
    }

    /// Begins what the present step is about.
    pub(super) fn advance_steps(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let Some((from, to)) = self.primaries() else { return };
        match running.step {
            SwitchoverStep::Prepare if self.is_written() => {
                self.enter(SwitchoverStep::CatchUp, now, outputs);
            }
            SwitchoverStep::Prepare if running.write_failed.is_some() => {
                self.not_prepared(now, outputs);
            }
            // After a restart; else the swap leads on.
            SwitchoverStep::Commit if self.flip.is_none() && self.is_written() => {
                self.enter(SwitchoverStep::Unfence, now, outputs);
            }
            SwitchoverStep::Commit if self.flip.is_none() && running.write_failed.is_some() => {
                self.stuck(Obstacle::StateFile, UNWRITABLE.into(), now, outputs);
            }
            SwitchoverStep::CatchUp => {
                self.send(Step::CatchUp { from, to }, None, now, outputs);
            }
            SwitchoverStep::Pause => self.pause(now, outputs),
            SwitchoverStep::Settle => {
                self.send(Step::Settle { backend: from }, None, now, outputs);
            }
            SwitchoverStep::Fence => {
                if let Some(running) = &mut self.switchover {
                    running.may_be_fenced = true;
                }
                self.send(Step::Fence { backend: from }, Some(FENCE_TIMEOUT), now, outputs);
            }
            SwitchoverStep::FinalCatchUp => {
                self.send(Step::FinalCatchUp { from, to }, None, now, outputs);
            }
            SwitchoverStep::Unfence => {
                self.send(Step::Unfence { backend: to }, Some(FENCE_TIMEOUT), now, outputs);
            }
            SwitchoverStep::Open => self.open(now, outputs),
            SwitchoverStep::Release => {
                // Who is held sees a plain close in the next step, and finds the new primary.
                self.send(Step::Release { keep_held: true }, Some(LOCAL_TIMEOUT), now, outputs);
            }
            SwitchoverStep::EndSessions => {
                let step = Step::EndSessions { backend: from };
                self.send(step, Some(SESSIONS_TIMEOUT), now, outputs);
            }
            SwitchoverStep::Verify => self.verify(now, outputs),
            SwitchoverStep::Finish if self.is_written() || running.write_failed.is_some() => {
                self.switched_over(now, outputs);
            }
            SwitchoverStep::Survey
            | SwitchoverStep::Prepare
            | SwitchoverStep::Commit
            | SwitchoverStep::Finish
            | SwitchoverStep::Undo
            | SwitchoverStep::Resume => {}
        }
    }

    /// The new primary has what the old one had when this round began. If that took long, so will what came meanwhile,
    /// and another round is worth it: it ends closer.
    fn caught_up(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &mut self.switchover else { return };
        let began = running.caught_up.map_or(running.since, |(at, _)| at);
        let took = now.since(began);
        let before = running.caught_up.replace((now, took));
        // Who does not get closer never will: then the pause shows whether it is close enough.
        let is_closer = before.is_none_or(|(_, before)| took < before.mul_f64(0.75));
        if took <= LONG_ROUND || !is_closer {
            self.enter(SwitchoverStep::Pause, now, outputs);
        }
    }

    /// New connections for writes wait from here on.
    fn pause(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &mut self.switchover else { return };
        running.paused_at = Some(now);
        running.is_paused = true;
        // The new primary becomes writable, or the old one again, after the last moment to begin with it.
        let time = running.limits.max_pause + FENCE_TIMEOUT;
        self.send(Step::Pause { time }, Some(LOCAL_TIMEOUT), now, outputs);
    }

    /// The new primary has everything: state file, then swap.
    fn commit(&mut self, position: String, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &mut self.switchover else { return };
        if let Some(intent) = &mut running.intent {
            intent.stage = IntentStage::Promoting { position };
        }
        let Switchover { request, from, to, drain, .. } = *running;
        self.flip = Some(Flip {
            cause: FlipCause::Switchover { request },
            from,
            to,
            drain,
            stage: FlipStage::Persisting,
            since: now,
            warnings: Vec::new(),
        });
        self.enter(SwitchoverStep::Commit, now, outputs);
    }

    /// The routes lead to the new pair, or back to the old one.
    pub(in crate::cluster) fn switchover_swapped(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        if running.undo.is_none() {
            self.enter(SwitchoverStep::Unfence, now, outputs);
        }
    }

    fn unfence_done(
        &mut self,
        result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        match result {
            Ok(_) => {
                self.enter(SwitchoverStep::Open, now, outputs);
            }
            Err(StepFailure { fault: StepFault::Unknown, text }) => {
                running.may_be_unfenced = true;
                self.stuck(Obstacle::NewNotUnfenced, unfencing(&text), now, outputs);
            }
            Err(StepFailure { text, .. }) if running.may_be_unfenced => {
                self.stuck(Obstacle::NewNotUnfenced, unfencing(&text), now, outputs);
            }
            Err(StepFailure { text, .. }) => {
                self.undo_switchover(UndoCause::Error, text, now, outputs);
            }
        }
    }

    /// Waits until the kernel has the routes that follow from a new primary that takes writes.
    fn open(&mut self, now: Moment, outputs: &mut Outputs) {
        if self.swap.under_way.is_none() && self.is_table_as_wanted() {
            // The end of the pause comes first, or a SYN waits a second for its next try.
            self.enter(SwitchoverStep::Release, now, outputs);
        }
    }

    /// Drains what is left of the old pair's flows: those to its replicas.
    fn end_reads(&mut self, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let (which, drain) = (EndWhich::Pair(running.from), running.drain);
        let why = (DrainReason::Flip, EndReason::SwitchoverCut);
        self.drain(which, drain, self.spec.drain_deadline, why, outputs);
    }

    /// Waits for a check that sees the old primary replicate.
    fn verify(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let old = &self.backends[&self.pair(running.from).primary];
        let is_fresh = old.answered_at.is_some_and(|at| at > running.since);
        let replicates = |facts| replication_fault(facts, Duration::MAX).is_none();
        let is_seen = is_fresh && old.facts.as_ref().is_some_and(replicates);
        if !is_seen && now < running.verified_by() {
            return;
        }
        self.warn((!is_seen).then_some(FlipWarning::OldNotReplicating));
        if let Some(running) = &mut self.switchover {
            running.intent = None;
        }
        self.acknowledge_failover(now);
        self.enter(SwitchoverStep::Finish, now, outputs);
    }

    fn switched_over(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(running) = self.switchover.take() else { return };
        let Switchover { from, to, drain, paused, warnings, .. } = running;
        self.last_flip = Some(now);
        let generation = self.generation_in_force();
        let done = FlipDone { from, to, generation, drain, warnings };
        let took = now.since(running.started);
        let what = EventKind::SwitchoverDone { done: done.clone(), paused, took };
        self.event(what, now, outputs);
        if let Some(request) = running.request {
            let outcome = SwitchoverOutcome::Done { done, paused, took };
            outputs.push_back(Output::SwitchoverReply { request, outcome });
        }
    }

    fn pause_ended(&mut self, now: Moment) {
        if let Some(running) = &mut self.switchover {
            running.paused = running.paused_at.map_or(Duration::ZERO, |at| now.since(at));
        }
    }

    fn warn(&mut self, warning: Option<FlipWarning>) {
        if let Some(running) = &mut self.switchover {
            running.warnings.extend(warning);
        }
    }
}

impl Switchover {
    pub(super) fn verified_by(&self) -> Moment {
        self.since + VERIFY_TIMEOUT
    }
}

fn unfencing(text: &str) -> String {
    format!(
        "nobody takes writes until the new primary is writable: {text}; it is tried again every second; it may also be made writable by hand"
    )
}
