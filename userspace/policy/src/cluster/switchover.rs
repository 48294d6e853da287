//! Switchover: the steps from one primary that takes writes to another, without losing one.
//!
//! ```text
//! Survey --> Prepare --> CatchUp --> Pause --> Settle --> Fence --> FinalCatchUp --> Commit --> Unfence --> Open
//!   | refused   | refused   |          |         |          |            |             |          |  |        |
//!   v           v           `----------`---------`-- Undo --`------------`-------------`----------'  |        v
//!                                                                  (told, and not known: again and again)   Release
//!                                                                                                             |
//!                                                                   Finish <-- Verify <-- EndSessions <-------'
//! ```
//!
//! `prepare` asks and judges, `steps` goes forward, `undo` back; `restart` says which of both a daemon does that was
//! started in the middle, `drive` deals with drivers, `watch` with deadlines and alarms. Commit is a flip: state file, then
//! swap. What is to be done next follows from what is known, so that a step may take as many inputs as it needs.

mod drive;
mod prepare;
mod restart;
mod steps;
mod undo;
mod watch;

use std::{collections::BTreeSet, time::Duration};

use super::{Cluster, Outputs};
use crate::{
    flip::{self, FlipCause},
    ids::{BackendId, PairId, RequestId},
    input::Drain,
    moment::Moment,
    output::{EventKind, FlipDone, FlipRefused, Output},
    reason::{ChangeReason, FlipWarning, IgnoredReason},
    switchover::{
        Intent, Limits, Precondition, Step, StepId, SwitchoverOutcome, SwitchoverStep,
        SwitchoverView, UndoCause, Undone,
    },
    view::{FlipStage, FlipView},
};

/// A driver that has not answered so long after its time is taken for one that never will.
const GRACE: Duration = Duration::from_secs(2);
/// A step whose time ran out so shortly before a deadline of the switchover did so because of it.
const NEARLY: Duration = Duration::from_millis(500);
/// Between tries of what must not be given up.
const RETRY: Duration = Duration::from_secs(1);
/// Of a switchover that the next daemon would not know how to go on with.
const UNWRITABLE: &str = "nobody takes writes until the state file can be written: make room or fix permissions in state_dir";
/// An undo that takes longer is told as one that is under way.
const UNDOING_TOLD: Duration = Duration::from_secs(5);

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

/// A switchover under way.
#[derive(Clone, Debug)]
pub(super) struct Switchover {
    /// Whose answer is due; `None` once it was given, and of one that was resumed.
    request: Option<RequestId>,
    from: PairId,
    to: PairId,
    drain: Drain,
    force: BTreeSet<Precondition>,
    limits: Limits,
    dry_run: bool,
    started: Moment,
    step: SwitchoverStep,
    /// When the step began.
    since: Moment,
    pending: Option<Pending>,
    /// The last round of catching up: when it ended, and how long it took.
    caught_up: Option<(Moment, Duration)>,
    /// Nothing is tried before.
    retry_at: Option<Moment>,
    /// What the state file is to say.
    intent: Option<Intent>,
    /// It has been taken out, and nothing else is left to do.
    is_closing: bool,
    /// Why the last write of it in this step failed.
    write_failed: Option<String>,
    /// When the pause began; `None` if it has not.
    paused_at: Option<Moment>,
    paused: Duration,
    /// A pause or holds may be in force.
    is_paused: bool,
    /// The old primary may be read-only because of us.
    may_be_fenced: bool,
    /// The new primary may take writes because of us.
    may_be_unfenced: bool,
    undo: Option<Undone>,
    /// Why this step does not get on, as the log has heard.
    told: Option<Obstacle>,
    /// The first checks after a restart are waited for until then.
    patience: Moment,
    /// The last position of the old primary is one that nothing was written after: the kernel had swapped when the daemon
    /// was started, or it was read since.
    is_sure: bool,
    /// The new primary may take writes, for all that is known before its first answer.
    must_hear_new: bool,
    warnings: Vec<FlipWarning>,
}

/// What keeps a switchover from going on that cannot be given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Obstacle {
    StateFile,
    /// The new primary was not heard since the start.
    NewUnheard,
    /// It said that it takes writes, and cannot be asked again.
    NewUncertain,
    /// It is not known to have everything.
    NewBehind,
    NewNotUnfenced,
    OldNotUnfenced,
    /// The new one takes writes, so the old one must not.
    NewWrites,
    Routes,
}

/// A step that a driver has not answered.
#[derive(Clone, Debug)]
struct Pending {
    id: StepId,
    step: Step,
    /// Nobody waits for longer.
    until: Moment,
}

impl Switchover {
    /// Returns when it is undone if it does not get on, and why; `None` when it is undone, or cannot be.
    fn deadline(&self) -> Option<(Moment, &'static str)> {
        if self.undo.is_some() || self.step >= SwitchoverStep::Open || self.may_be_unfenced {
            return None;
        }
        let pause = self.paused_at.map(|at| (at + self.limits.max_pause, "max_pause"));
        let overall = (self.started + self.limits.deadline, "deadline");
        Some(pause.filter(|pause| *pause < overall).unwrap_or(overall))
    }

    const fn is_told_to_unfence(&self) -> bool {
        matches!(&self.pending, Some(Pending { step: Step::Unfence { .. }, .. }))
    }

    fn can_be_called_off(&self) -> bool {
        self.deadline().is_some() && !self.is_told_to_unfence()
    }

    const fn is_stuck(&self) -> bool {
        self.told.is_some()
    }

    /// Returns whether it gives the writes back to this pair.
    pub(super) fn is_undone_to(&self, pair: PairId) -> bool {
        self.undo.is_some() && self.from == pair
    }

    fn view(&self) -> SwitchoverView {
        SwitchoverView {
            step: self.step,
            since: self.since,
            deadline: self.deadline().map(|(at, _)| at),
            can_be_called_off: self.can_be_called_off(),
            stuck: self.is_stuck(),
        }
    }
}

impl Cluster {
    pub(crate) fn switch_over(&mut self, asked: Asked, now: Moment, outputs: &mut Outputs) {
        let drain = asked.drain.unwrap_or(self.spec.drain);
        let (request, dry_run) = (asked.request, asked.dry_run);
        match self.accept_switchover(asked.to) {
            Ok(to) if to == self.active => {
                let outcome = SwitchoverOutcome::Done {
                    done: FlipDone {
                        from: to,
                        to,
                        generation: self.generation_in_force(),
                        drain,
                        warnings: vec![FlipWarning::AlreadyActive],
                    },
                    paused: Duration::ZERO,
                    took: Duration::ZERO,
                };
                outputs.push_back(Output::SwitchoverReply { request, outcome });
            }
            Ok(to) => {
                let Asked { force, limits, .. } = asked;
                self.switchover = Some(Switchover {
                    request: Some(request),
                    drain,
                    force,
                    limits,
                    dry_run,
                    ..Switchover::new(self.active, to, SwitchoverStep::Survey, now)
                });
                self.survey(now, outputs);
            }
            Err(refused) => self.refuse_switchover(request, refused, dry_run, now, outputs),
        }
    }

    /// Returns the pair that is to become active.
    fn accept_switchover(&self, to: Option<PairId>) -> Result<PairId, FlipRefused> {
        if let Some(refused) = self.flip_under_way() {
            return Err(refused);
        }
        if let Some(to) = self.switching_to() {
            return Err(FlipRefused::FlipRunning { to });
        }
        flip::target(to, &self.spec, self.active)
    }

    fn refuse_switchover(
        &self,
        request: RequestId,
        refused: FlipRefused,
        dry_run: bool,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        if !dry_run {
            let what = EventKind::FlipRefused { request, refused: refused.clone() };
            self.event(what, now, outputs);
        }
        let outcome = SwitchoverOutcome::Refused(refused);
        outputs.push_back(Output::SwitchoverReply { request, outcome });
    }

    pub(crate) fn call_off(
        &mut self,
        request: Option<RequestId>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let is_meant =
            |running: &&Switchover| request.is_none_or(|request| running.request == Some(request));
        let Some(running) = self.switchover.as_ref().filter(is_meant) else {
            let reason = IgnoredReason::NothingToCallOff;
            return self.event(EventKind::Ignored { reason }, now, outputs);
        };
        if running.can_be_called_off() {
            self.undo_switchover(UndoCause::CalledOff, "it was called off".into(), now, outputs);
            self.advance(ChangeReason::CaughtUp, now, outputs);
        }
    }

    /// Goes on to another step.
    fn enter(&mut self, next: SwitchoverStep, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &mut self.switchover else { return };
        let (done, took) = (running.step, now.since(running.since));
        running.step = next;
        running.since = now;
        running.retry_at = None;
        running.write_failed = None;
        running.told = None;
        if !running.dry_run {
            self.event(EventKind::SwitchoverStep { done, took, next }, now, outputs);
        }
    }

    /// Takes every step that is due and possible.
    pub(super) fn advance_switchover(&mut self, now: Moment, outputs: &mut Outputs) {
        self.give_up_waiting(now, outputs);
        // Each turn is a step further, and there are few.
        loop {
            self.watch_switchover(now, outputs);
            let Some(running) = &self.switchover else { return };
            if running.pending.is_some() || running.retry_at.is_some_and(|at| at > now) {
                return;
            }
            let step = running.step;
            if step == SwitchoverStep::Undo {
                self.advance_undo(now, outputs);
            } else if step == SwitchoverStep::Resume {
                self.advance_resume(now, outputs);
            } else {
                self.advance_steps(now, outputs);
            }
            if self.switchover.as_ref().is_none_or(|running| running.step == step) {
                return;
            }
        }
    }

    /// The primaries of the old and of the new pair.
    fn primaries(&self) -> Option<(BackendId, BackendId)> {
        let running = self.switchover.as_ref()?;
        Some((self.pair(running.from).primary, self.pair(running.to).primary))
    }

    /// Returns whether the state file is known to say what it should, and nothing else is on its way there.
    fn is_written(&self) -> bool {
        self.state_file.under_way.is_none()
            && self.state_file.holds.as_ref() == Some(&self.state_goal())
    }

    /// What the state file is to say of a switchover.
    pub(super) fn intent(&self) -> Option<Intent> {
        self.switchover.as_ref().and_then(|running| running.intent.clone())
    }

    pub(super) fn switchover_not_written(&mut self, reason: &str) {
        if let Some(running) = &mut self.switchover {
            running.write_failed = Some(reason.to_owned());
        }
    }

    /// Returns whether write routes stay where they are although their primary is read-only: it is because of us, and
    /// will not be so for long.
    pub(super) fn keeps_writes(&self, pair: PairId) -> bool {
        self.switchover.as_ref().is_some_and(|running| {
            running.paused_at.is_some() && running.from == pair && !running.is_stuck()
        })
    }

    /// Returns whether the routes are taken to the new pair, whose primary is about to take writes.
    pub(super) fn is_committing(&self) -> bool {
        self.switchover.as_ref().is_some_and(|running| running.step == SwitchoverStep::Commit)
    }

    pub(super) fn switchover_view(&self) -> Option<FlipView> {
        let running = self.switchover.as_ref().filter(|running| !running.dry_run)?;
        Some(FlipView {
            cause: FlipCause::Switchover { request: running.request },
            from: running.from,
            to: running.to,
            drain: running.drain,
            stage: self.flip.as_ref().map_or(FlipStage::Stepping, |flip| flip.stage),
            since: running.started,
            switchover: Some(running.view()),
        })
    }
}
