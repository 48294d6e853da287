//! Prepare: both primaries are asked, what they say is judged, and what is about to happen is written down.

use super::{Cluster, Outputs, Switchover};
use crate::{
    flip,
    moment::Moment,
    output::{EventKind, FlipRefused, Output},
    reason::FlipWarning,
    switchover::{
        Intent, IntentStage, Judged, Judgement, Question, SURVEY_TIMEOUT, Step, StepFailure,
        StepFault, Survey, SwitchoverOutcome, SwitchoverStep, judge,
    },
};

impl Cluster {
    pub(super) fn survey(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some((from, to)) = self.primaries() else { return };
        self.send(Step::Survey { from, to }, Some(SURVEY_TIMEOUT), now, outputs);
    }

    /// The old primary is dead: what else was asked does not matter any more.
    pub(super) fn survey_in_vain(&mut self, now: Moment, outputs: &mut Outputs) {
        self.cancel_pending(outputs);
        let unreachable =
            |text: &str| Err(StepFailure { fault: StepFault::Unreachable, text: text.into() });
        let survey = Survey {
            from: unreachable("its checks say that it is down"),
            to: unreachable("it was not waited for"),
        };
        self.surveyed(&survey, now, outputs);
    }

    /// Judges what both primaries said. Nothing was changed so far.
    pub(super) fn surveyed(&mut self, survey: &Survey, now: Moment, outputs: &mut Outputs) {
        let Some(running) = &self.switchover else { return };
        let target = self.pair(running.to);
        let new = &self.backends[&target.primary];
        let is_unfit = new.is_unfit_primary();
        let preflight = judge(&Question {
            survey,
            force: &running.force,
            limits: running.limits,
            max_lag: self.spec.max_lag,
            target: flip::objections(target, &self.backends),
            unfit: is_unfit.then(|| new.reason(&self.spec, self.active).to_string()),
            since_flip: self.last_flip.map(|at| now.since(at)),
        });
        let is_met = preflight.iter().all(|it| match it.judgement {
            Judgement::Holds | Judgement::Waived => true,
            Judgement::Fails | Judgement::Unknown => false,
        });
        let (request, dry_run) = (running.request, running.dry_run);
        if dry_run || !is_met {
            self.switchover = None;
            let Some(request) = request else { return };
            if !dry_run {
                let refused = FlipRefused::Unmet { preflight };
                return self.refuse_switchover(request, refused, dry_run, now, outputs);
            }
            let warnings = warnings_of(survey);
            let outcome = SwitchoverOutcome::Planned { preflight, warnings };
            return outputs.push_back(Output::SwitchoverReply { request, outcome });
        }
        self.prepare(survey, preflight, now, outputs);
    }

    /// The state file first, so that a daemon that dies from here on is followed by one that knows.
    fn prepare(
        &mut self,
        survey: &Survey,
        preflight: Vec<Judged>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(running) = &mut self.switchover else { return };
        let waived = preflight.into_iter().filter(|it| it.judgement == Judgement::Waived);
        running.warnings = waived
            .map(|Judged { precondition, text, .. }| FlipWarning::Waived { precondition, text })
            .chain(warnings_of(survey))
            .collect();
        let target_was_writable = survey.to.as_ref().is_ok_and(|facts| !facts.read_only);
        let Switchover { from, to, drain, request, .. } = *running;
        running.intent =
            Some(Intent { from, to, stage: IntentStage::Prepared, target_was_writable });
        // An operator waits: no pause after an earlier failure.
        self.state_file.retry_at = None;
        if let Some(request) = request {
            let what = EventKind::SwitchoverStarted { request, from, to, drain };
            self.event(what, now, outputs);
        }
        self.enter(SwitchoverStep::Prepare, now, outputs);
    }

    /// Nothing was changed, and nothing will be: a daemon that dies would leave nobody who knows.
    pub(super) fn not_prepared(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some(Switchover { request, to, write_failed, .. }) = self.switchover.take() else {
            return;
        };
        let reason = write_failed.unwrap_or_default();
        if let Some(request) = request {
            let refused = FlipRefused::NotPersisted { to, reason };
            self.refuse_switchover(request, refused, false, now, outputs);
        }
    }
}

/// Returns what the operator should know of the servers although nothing stands against the switchover.
fn warnings_of(survey: &Survey) -> Vec<FlipWarning> {
    let Ok(old) = &survey.from else { return Vec::new() };
    let who = (!old.privileged.is_empty()).then(|| old.privileged.join(", "));
    let privileged = who.map(|who| FlipWarning::Privileged { who });
    let unseen = old.privileged_unseen.clone();
    let unseen = unseen.map(|grant| FlipWarning::PrivilegedUnseen { grant });
    let blind = old.blind.clone().map(|text| FlipWarning::Blind { text });
    privileged.into_iter().chain(unseen).chain(blind).collect()
}
