//! Restart: what becomes of a switchover whose daemon died. Where the kernel's routes, or else the state file, name the
//! old pair, it is undone; where they name the new one, it is finished.

use std::{collections::BTreeSet, time::Duration};

use super::{Cluster, Obstacle, Outputs, Switchover, UNWRITABLE};
use crate::{
    ids::{BackendId, PairId},
    input::Drain,
    moment::Moment,
    output::EventKind,
    reason::ActiveSource,
    switchover::{
        FENCE_TIMEOUT, Intent, IntentStage, Limits, SURVEY_TIMEOUT, Step, StepAnswer, StepFailure,
        StepFault, Survey, SwitchoverStep, UndoCause, Undone,
    },
};

/// Longest wait for a first check of both primaries.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait for the new primary to catch up, before it is told and tried again.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

impl Switchover {
    pub(super) const fn new(from: PairId, to: PairId, step: SwitchoverStep, now: Moment) -> Self {
        Self {
            request: None,
            from,
            to,
            drain: Drain::Finish,
            force: BTreeSet::new(),
            limits: Limits { deadline: Duration::ZERO, max_pause: Duration::ZERO },
            dry_run: false,
            started: now,
            step,
            since: now,
            pending: None,
            caught_up: None,
            retry_at: None,
            intent: None,
            is_closing: false,
            write_failed: None,
            paused_at: None,
            paused: Duration::ZERO,
            is_paused: false,
            may_be_fenced: false,
            may_be_unfenced: false,
            undo: None,
            told: None,
            patience: now,
            is_sure: false,
            must_hear_new: false,
            warnings: Vec::new(),
        }
    }
}

impl Cluster {
    /// Goes on with what the state file says was under way.
    pub(in crate::cluster) fn restore_switchover(
        &mut self,
        intent: Intent,
        source: ActiveSource,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Intent { from, to, .. } = intent;
        let is_known = |pair: PairId| self.spec.pairs.iter().any(|known| known.id == pair);
        if !is_known(from) || !is_known(to) || from == to || ![from, to].contains(&self.active) {
            return;
        }
        let is_promoting = matches!(intent.stage, IntentStage::Promoting { .. });
        let undo = self.active == from || !is_promoting;
        let step = if undo { SwitchoverStep::Undo } else { SwitchoverStep::Resume };
        let mut running = Switchover {
            patience: now + PATIENCE,
            is_paused: true,
            may_be_fenced: true,
            may_be_unfenced: !undo,
            is_sure: match source {
                ActiveSource::Kernel | ActiveSource::KernelOverStateFile { .. } => true,
                ActiveSource::StateFile | ActiveSource::Configuration => false,
            },
            must_hear_new: self.active == to,
            ..Switchover::new(from, to, step, now)
        };
        running.intent =
            Some(if undo { Intent { stage: IntentStage::Prepared, ..intent } } else { intent });
        running.undo = undo.then(|| Undone {
            step: SwitchoverStep::Resume,
            cause: UndoCause::Restarted,
            text: "the daemon was started again in the middle of it".into(),
        });
        self.switchover = Some(running);
        self.event(EventKind::SwitchoverResumed { from, to, undo }, now, outputs);
    }

    /// Takes the next step forward after a restart.
    pub(super) fn advance_resume(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some((old, new)) = self.primaries() else { return };
        if self.backends[&new].read_only() == Some(false) {
            // It got as far as that, or somebody did it by hand. Nothing makes it writable any more once that is
            // believed, so a check is not enough: what it says may be as old as its timeout.
            let step = Step::Survey { from: old, to: new };
            return self.send(step, Some(SURVEY_TIMEOUT), now, outputs);
        }
        let is_asked = |backend: BackendId| self.backends[&backend].checked_at.is_some();
        let is_heard = self.backends[&new].facts.is_some();
        let Some(running) = &mut self.switchover else { return };
        if !(is_asked(old) && is_asked(new)) && now < running.patience {
            return;
        }
        if !running.is_sure {
            if !is_heard {
                let text = "nobody takes writes: the new primary has not answered since the daemon's start (while it is in maint it is not asked)";
                return self.stuck(Obstacle::NewUnheard, text.into(), now, outputs);
            }
            // The next daemon must not take the position for the last one.
            if let Some(intent) = &mut running.intent {
                intent.stage = IntentStage::Prepared;
            }
        }
        self.fence_again(old, now, outputs);
    }

    /// Fences the old primary, whatever happened to it meanwhile, once the next daemon would know.
    fn fence_again(&mut self, old: BackendId, now: Moment, outputs: &mut Outputs) {
        if self.is_written() {
            self.send(Step::Fence { backend: old }, Some(FENCE_TIMEOUT), now, outputs);
        } else if self.switchover.as_ref().is_some_and(|it| it.write_failed.is_some()) {
            self.stuck(Obstacle::StateFile, UNWRITABLE.into(), now, outputs);
        }
    }

    /// Takes in what both primaries said after a check had said that the new one takes writes.
    fn asked_again(
        &mut self,
        (old, new): (BackendId, BackendId),
        said: Survey,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        match said.to {
            Ok(facts) if facts.read_only => self.saw_read_only(new, true, now),
            // The old one was started again without its fence: only one may go on.
            Ok(_) if said.from.is_ok_and(|facts| !facts.read_only) => {
                self.fence_again(old, now, outputs);
            }
            Ok(_) => self.enter(SwitchoverStep::Open, now, outputs),
            Err(StepFailure { text, .. }) => {
                let text = format!(
                    "the new primary took writes at its last check and could not be asked whether it still does: {text}; it is asked again every second"
                );
                self.stuck(Obstacle::NewUncertain, text, now, outputs);
            }
        }
    }

    /// Returns whether the routes must not lead to the new pair yet: the next daemon would take that for a position that
    /// can be relied on.
    pub(in crate::cluster) fn waits_for_intent(&self) -> bool {
        let Some(running) = &self.switchover else { return false };
        let waits = running.step == SwitchoverStep::Resume && !running.is_sure;
        let is_doubtful = running.intent.as_ref().is_some_and(|intent| match intent.stage {
            IntentStage::Promoting { .. } => true,
            IntentStage::Prepared => false,
        });
        waits && (is_doubtful || !self.is_written())
    }

    pub(super) fn resume_answered(
        &mut self,
        step: &Step,
        result: Result<StepAnswer, StepFailure>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        let (from, to) = {
            let primary = |pair: PairId| self.spec.pairs[usize::from(pair.0)].primary;
            (primary(running.from), primary(running.to))
        };
        let position = match running.intent.as_ref().map(|intent| &intent.stage) {
            Some(IntentStage::Promoting { position }) if running.is_sure => Some(position.clone()),
            Some(IntentStage::Promoting { .. } | IntentStage::Prepared) | None => None,
        };
        let new_writes = self.backends[&to].read_only() == Some(false);
        match (step, result, position) {
            (Step::Survey { .. }, Ok(StepAnswer::Surveyed(survey)), _) => {
                self.asked_again((from, to), *survey, now, outputs);
            }
            (Step::Survey { .. }, Err(failure), _) => {
                let survey = Survey { from: Err(failure.clone()), to: Err(failure) };
                self.asked_again((from, to), survey, now, outputs);
            }
            (Step::Fence { .. }, Ok(_), _) => {
                let step = Step::FinalCatchUp { from, to };
                self.send(step, Some(CATCH_UP_TIMEOUT), now, outputs);
            }
            (
                Step::Fence { .. },
                Err(StepFailure { fault: StepFault::Unreachable, .. }),
                Some(position),
            ) => {
                let step = Step::Reach { to, position };
                self.send(step, Some(CATCH_UP_TIMEOUT), now, outputs);
            }
            (_, Ok(StepAnswer::CaughtUp { position }), _) => {
                running.is_sure = true;
                if let Some(intent) = &mut running.intent {
                    intent.stage = IntentStage::Promoting { position };
                }
                self.state_file.retry_at = None;
                self.enter(SwitchoverStep::Commit, now, outputs);
            }
            (_, Ok(_), _) => self.enter(SwitchoverStep::Unfence, now, outputs),
            (Step::Fence { .. }, Err(StepFailure { text, .. }), _) if new_writes => {
                let text = format!(
                    "both primaries may take writes: the old one could not be made read-only: {text}; it is tried again every second; make it read-only by hand"
                );
                self.stuck(Obstacle::NewWrites, text, now, outputs);
            }
            (step, Err(StepFailure { text, .. }), _) => {
                let text = format!(
                    "nobody takes writes until the new primary is known to have everything ({}): {text}; it is tried again every second; if the old primary is lost, make the new one writable by hand",
                    step.name()
                );
                self.stuck(Obstacle::NewBehind, text, now, outputs);
            }
        }
    }
}
