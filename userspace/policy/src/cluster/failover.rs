//! Failover: the steps from a dead primary to another pair that takes writes.
//!
//! ```text
//! Possible --Fence old--> unreachable --> flip: state file, swap --> Promoting --Unfence new--> Done
//!                             | answered       | failed, or no longer possible    | failed: again later
//!                             `-> called off <-'                                  | old one answered: held
//! ```
//!
//! Before the swap everything is undone by doing nothing; after it there is only forward, or an operator. What failed stays
//! out and is fenced when it comes back writable.

mod fencing;
mod returned;

use std::{collections::BTreeMap, mem, time::Duration};

use self::returned::Returned;
use crate::{
    failover::{
        Evidence, Facts, Failover, FailoverMemory, FailoverRefused, FailoverStage, LastFailover,
        Outlook,
    },
    flip::{Flip, FlipCause},
    ids::{BackendId, PairId},
    input::{Access, Admin},
    moment::Moment,
    output::{EndWhich, EventKind, FenceReason, Output, RouteTable, UnfenceReason},
    reason::EndReason,
    view::{FailoverView, FlipStage},
};

use super::{Cluster, Outputs};

/// Longest wait for a server that is to be fenced or unfenced, logging in included.
///
/// The old primary is most likely dead, and clients wait: as long as a SYN needs for a second try.
const FENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// After the old primary answered when it was to be fenced: long enough for `rise` checks at the usual paces.
const CALLED_OFF: Duration = Duration::from_secs(60);
/// Between tries of what failed on our side or on the new primary's.
const RETRY: Duration = Duration::from_secs(1);
/// Between tries to fence a returned primary, to which nothing is sent anyway.
const RETURNED_RETRY: Duration = Duration::from_secs(10);
/// What an earlier daemon saw counts for so long: a restart by a service manager, and not a machine that was away.
const EVIDENCE_AGE_MAX: Duration = Duration::from_secs(60);

/// Where a cluster is with failovers.
#[derive(Clone, Debug, Default)]
pub(super) struct FailoverState {
    pub(super) memory: FailoverMemory,
    /// What is in the memory again if the failover under way does not get as far as its swap.
    before: FailoverMemory,
    evidence: Option<Evidence>,
    /// When an operator made the active pair active.
    active_since: Option<Moment>,
    /// The old primary's fence is on its way: to this pair then.
    run: Option<PairId>,
    /// An answer is awaited from this server.
    fencing: Option<(BackendId, FenceReason)>,
    unfencing: Option<(BackendId, UnfenceReason)>,
    /// The log has heard that it does not work.
    unfence_failure_told: bool,
    /// After a failure: why nothing is tried, and until when.
    rest: Option<(FailoverRefused, Moment)>,
    /// When it was decided, or the daemon started.
    promoting_since: Moment,
    /// An earlier daemon decided too long ago.
    is_stale: bool,
    /// What was fenced for a failover that did not take place, and when it is unfenced.
    undo: Option<(BackendId, Moment)>,
    /// A switchover made it read-only and could not undo that: if this does not take place, it is undone here.
    pub(super) inherits: Option<BackendId>,
    /// What the log has heard.
    reported: Option<FailoverRefused>,
    returned: BTreeMap<BackendId, Returned>,
    /// When something is due without an input.
    wake_at: Option<Moment>,
}

impl Cluster {
    /// Takes over what the state file says.
    pub(super) fn restore_failover(&mut self, mut memory: FailoverMemory, now: Moment) {
        let is_known = |pair: &PairId| self.spec.pairs.iter().any(|known| known.id == *pair);
        memory.out.retain(is_known);
        // Whatever became of it, it takes the connections.
        memory.out.remove(&self.active);
        memory.last = memory.last.filter(|last| is_known(&last.from) && is_known(&last.to));
        if let Failover::Auto { window } = self.spec.failover
            && let Some(last) = memory.last.as_mut()
        {
            // The wall clock may have gone backwards since.
            last.until = last.until.map(|until| until.min(now + window));
            let age = window.saturating_sub(last.until.map_or(window, |until| until.since(now)));
            let (is_promoting, is_fresh) =
                (last.stage == FailoverStage::Promoting, age <= EVIDENCE_AGE_MAX);
            if is_promoting && last.from == self.active {
                // It did not get as far as its swap.
                self.failover.evidence =
                    is_fresh.then_some(Evidence { to: last.to, source_id: last.source_id });
                memory.last = None;
            } else if is_promoting {
                self.failover.is_stale = !is_fresh;
            }
        }
        self.failover.promoting_since = now;
        self.failover.memory = memory;
    }

    /// Returns what would become of a failover now.
    pub(super) fn outlook(&self, now: Moment) -> Outlook {
        if self.spec.failover == Failover::Manual {
            return Outlook::Manual;
        }
        if let Some(to) = self.promoting() {
            let held = self.held(to).or_else(|| self.resting(now));
            return Outlook::Promoting { to, held };
        }
        if let Some(to) = self.failing_over_to() {
            return Outlook::Running { from: self.active, to };
        }
        match (self.judge(now), self.resting(now)) {
            (Outlook::Possible { .. }, Some(reason)) => Outlook::Refused { reason },
            (outlook, _) => outlook,
        }
    }

    fn judge(&self, now: Moment) -> Outlook {
        self.failover_facts(now).outlook()
    }

    fn failover_facts(&self, now: Moment) -> Facts<'_> {
        Facts {
            spec: &self.spec,
            backends: &self.backends,
            active: self.active,
            // While it runs the memory has it already.
            memory: match self.flip {
                Some(Flip { cause: FlipCause::Failover, .. }) => &self.failover.before,
                Some(_) | None => &self.failover.memory,
            },
            evidence: self.failover.evidence,
            all_silent: self.all_silent(),
            active_since: self.failover.active_since,
            blocked: self.is_blocked(),
            now,
        }
    }

    /// Returns whether the kernel turns writes away, and will.
    fn is_blocked(&self) -> bool {
        let refuses = |table: &RouteTable| {
            let routes = self.spec.routes.iter().zip(&table.routes);
            let mut writes = routes.filter(|(route, _)| route.access == Access::Write);
            writes.all(|(_, target)| target.shares().is_empty())
        };
        self.table.as_ref().is_some_and(refuses)
            && self.swap.under_way.as_ref().is_none_or(|(table, _)| refuses(table))
    }

    /// Returns the pair of a failover that has not swapped the routes.
    pub(super) fn failing_over_to(&self) -> Option<PairId> {
        let flip = self.flip.as_ref().filter(|flip| flip.cause == FlipCause::Failover);
        flip.map(|flip| flip.to).or(self.failover.run)
    }

    /// Returns the active pair if its primary is to become writable.
    fn promoting(&self) -> Option<PairId> {
        let last = self.failover.memory.last.as_ref()?;
        let is_swapped = self.flip.is_none() && last.to == self.active;
        (is_swapped && last.stage == FailoverStage::Promoting).then_some(last.to)
    }

    /// Returns whether a server's answer is awaited that an operator's flip must not meet.
    pub(super) fn is_changing_a_server(&self) -> bool {
        self.failover.unfencing.is_some()
            || self.failover.fencing.is_some()
            || self.failover.run.is_some()
    }

    fn resting(&self, now: Moment) -> Option<FailoverRefused> {
        let (reason, until) = self.failover.rest.as_ref()?;
        (*until > now).then(|| reason.clone())
    }

    /// Calls off what is under way if it would not be started now. Before anything else of an [`Cluster::advance`].
    pub(super) fn recheck_failover(&mut self, now: Moment, outputs: &mut Outputs) {
        let is_failover = |flip: &mut Flip| {
            flip.cause == FlipCause::Failover && flip.stage != FlipStage::Swapping
        };
        let Some(to) = self.failing_over_to() else { return };
        let reason = match self.judge(now) {
            Outlook::Possible { to: best } if best == to => return,
            Outlook::Refused { reason } | Outlook::Unready { reason } => reason,
            Outlook::Manual
            | Outlook::Ready { .. }
            | Outlook::Possible { .. }
            | Outlook::Running { .. }
            | Outlook::Promoting { .. } => FailoverRefused::Undecided,
        };
        if self.flip.take_if(is_failover).is_some() || self.failover.run.take().is_some() {
            self.undo_failover(to, reason, now + RETRY, now, outputs);
        }
    }

    /// Takes the steps that are due.
    pub(super) fn advance_failover(&mut self, now: Moment, outputs: &mut Outputs) {
        if self.spec.failover == Failover::Manual || self.is_held_by_switchover() {
            self.failover.wake_at = None;
            return;
        }
        if self.failover.rest.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.failover.rest = None;
        }
        if self.is_called_off_no_more() {
            self.failover.rest = None;
        }
        let outlook = self.outlook(now);
        self.report_refusal(&outlook, now, outputs);
        match outlook {
            Outlook::Possible { to } if self.is_free() => self.start_failover(to, now, outputs),
            Outlook::Promoting { to, held } => self.promote(to, held.is_none(), now, outputs),
            Outlook::Manual
            | Outlook::Ready { .. }
            | Outlook::Unready { .. }
            | Outlook::Refused { .. }
            | Outlook::Possible { .. }
            | Outlook::Running { .. } => {}
        }
        self.undo_fence(now, outputs);
        self.fence_returned(now, outputs);
        self.failover.wake_at = self.next_failover_step(now);
    }

    /// Returns whether a switchover is under way from which nothing can take over.
    fn is_held_by_switchover(&self) -> bool {
        let active = &self.backends[&self.pair(self.active).primary];
        let may_take_over = self.is_switchover_stuck()
            && !self.is_switchover_waiting()
            && active.is_convicted(self.spec.fall);
        self.switching_to().is_some() && !may_take_over
    }

    /// An old primary that is up again after it had answered its fence: its next death is another one.
    fn is_called_off_no_more(&self) -> bool {
        let is_called_off =
            matches!(self.failover.rest, Some((FailoverRefused::CalledOff { .. }, _)));
        is_called_off && self.backends[&self.pair(self.active).primary].answers()
    }

    fn is_free(&self) -> bool {
        self.flip.is_none() && self.failover.fencing.is_none() && self.failover.unfencing.is_none()
    }

    fn report_refusal(&mut self, outlook: &Outlook, now: Moment, outputs: &mut Outputs) {
        let reason = match outlook {
            Outlook::Refused { reason } | Outlook::Promoting { held: Some(reason), .. } => reason,
            Outlook::Manual
            | Outlook::Ready { .. }
            | Outlook::Unready { .. }
            | Outlook::Possible { .. }
            | Outlook::Running { .. }
            | Outlook::Promoting { held: None, .. } => {
                self.failover.reported = None;
                return;
            }
        };
        if reason.is_passing() || self.failover.reported.as_ref() == Some(reason) {
            return;
        }
        self.failover.reported = Some(reason.clone());
        self.event(EventKind::FailoverRefused { reason: reason.clone() }, now, outputs);
    }

    /// First the old primary: if it lives after all, nothing else happens.
    fn start_failover(&mut self, to: PairId, now: Moment, outputs: &mut Outputs) {
        self.give_up_switchover(now, outputs);
        let old = self.pair(self.active).primary;
        self.failover.run = Some(to);
        self.event(EventKind::FailoverStarted { from: self.active, to }, now, outputs);
        // Its flows were ended when it went down. Should the swap that closed the routes have failed at first, others came.
        if let Some(failure) = &self.backends[&old].failure {
            outputs.push_back(Output::EndFlows {
                cluster: self.spec.id,
                which: EndWhich::Backend(old),
                reason: EndReason::BackendDown { cause: failure.cause },
            });
        }
        self.fence(old, FenceReason::Failover, outputs);
    }

    /// Hands over to the flip: state file, then swap.
    fn flip_over(&mut self, to: PairId, now: Moment) {
        let Failover::Auto { window } = self.spec.failover else { return };
        let position = |pair: PairId| {
            let facts = self.backends[&self.pair(pair).primary].facts.as_ref();
            facts.and_then(|facts| facts.position.clone())
        };
        let from = self.active;
        let last = LastFailover {
            from,
            to,
            stage: FailoverStage::Promoting,
            until: Some(now + window),
            source_id: self.failover_facts(now).source_id(),
            old_position: position(from),
            new_position: position(to),
        };
        self.failover.before = self.failover.memory.clone();
        self.failover.memory.last = Some(last);
        self.failover.memory.out.insert(from);
        self.flip = Some(Flip {
            cause: FlipCause::Failover,
            from,
            to,
            drain: self.spec.drain,
            stage: FlipStage::Persisting,
            since: now,
            warnings: Vec::new(),
        });
    }

    /// Everything is as before, and nothing is tried until `until`.
    pub(super) fn undo_failover(
        &mut self,
        to: PairId,
        reason: FailoverRefused,
        until: Moment,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        if self
            .failover
            .memory
            .last
            .as_ref()
            .is_some_and(|last| last.stage == FailoverStage::Promoting && last.from == self.active)
        {
            self.failover.memory = mem::take(&mut self.failover.before);
        }
        if let Some(backend) = self.failover.inherits.take() {
            self.failover.undo = Some((backend, now));
        }
        let what = EventKind::FailoverCalledOff { from: self.active, to, reason: reason.clone() };
        self.event(what, now, outputs);
        self.failover.reported = Some(reason.clone());
        self.failover.rest = Some((reason, until));
    }

    /// A failover's flip could not be written or swapped.
    pub(super) fn failover_failed(
        &mut self,
        to: PairId,
        what: String,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        self.undo_failover(to, FailoverRefused::Failed { what }, now + RETRY, now, outputs);
    }

    /// The routes lead to the new pair.
    pub(super) fn failed_over(&mut self, decided: Moment, now: Moment, outputs: &mut Outputs) {
        self.failover.evidence = None;
        self.failover.inherits = None;
        self.failover.promoting_since = decided;
        self.failover.active_since = None;
        self.failover.unfence_failure_told = false;
        self.failover.is_stale = false;
        self.failover.returned.clear();
        if let Some(last) = self.failover.memory.last.clone() {
            let generation = self.generation_in_force();
            self.event(EventKind::FailedOver { last, generation }, now, outputs);
        }
    }

    /// Returns why the new primary must not become writable yet.
    fn held(&self, to: PairId) -> Option<FailoverRefused> {
        let last = self.failover.memory.last.as_ref()?;
        let old = &self.backends[&self.pair(last.from).primary];
        let new = &self.backends[&self.pair(to).primary];
        if new.answers() && new.read_only() == Some(false) {
            return None;
        }
        if self.failover.is_stale {
            return Some(FailoverRefused::TooOld);
        }
        // `facts` alone may be from before it died.
        if old.answered_at.is_some_and(|at| at >= self.failover.promoting_since)
            || old.checked_at.is_some()
                && old.failure.as_ref().is_none_or(|it| !it.cause.may_take_down())
        {
            return Some(FailoverRefused::Interrupted);
        }
        if self.all_silent() {
            return Some(FailoverRefused::AllSilent);
        }
        if !old.is_convicted(self.spec.fall) {
            return Some(FailoverRefused::Undecided);
        }
        if new.admin != Admin::Ready {
            return Some(FailoverRefused::ActiveTakenOut { admin: new.admin });
        }
        let is_in_force = self.table.as_ref().is_some_and(|table| table.active == to);
        let is_written = self.state_file.holds.as_ref() == Some(&self.state_goal());
        if !(is_in_force && self.swap.under_way.is_none() && is_written && new.answers()) {
            return Some(FailoverRefused::NotBlocked);
        }
        None
    }

    /// Makes the new primary writable, or notices that it is.
    fn promote(&mut self, to: PairId, is_clear: bool, now: Moment, outputs: &mut Outputs) {
        let primary = self.pair(to).primary;
        let new = &self.backends[&primary];
        if new.answers() && new.read_only() == Some(false) {
            return self.promoted(to, now, outputs);
        }
        if is_clear && self.failover.unfencing.is_none() {
            self.unfence(primary, UnfenceReason::Promotion, outputs);
        }
    }

    fn promoted(&mut self, to: PairId, now: Moment, outputs: &mut Outputs) {
        if let Some(last) = &mut self.failover.memory.last {
            last.stage = FailoverStage::Done;
        }
        self.failover.rest = None;
        self.failover.is_stale = false;
        self.event(EventKind::FailoverDone { to }, now, outputs);
    }

    fn next_failover_step(&self, now: Moment) -> Option<Moment> {
        let rest = self.failover.rest.as_ref().map(|(_, until)| *until);
        let window = self.failover.memory.last.as_ref().and_then(|last| last.until);
        let retries = self.failover.returned.values();
        let retries = retries.filter(|returned| !returned.fenced).filter_map(|it| it.retry_at);
        let needs_window = self.failover.reported == Some(FailoverRefused::Window);
        let window = window.filter(|_| needs_window);
        let undo = self.failover.undo.map(|(_, at)| at);
        rest.into_iter().chain(undo).chain(window).chain(retries).filter(|at| *at > now).min()
    }

    pub(super) const fn next_failover_wake(&self) -> Option<Moment> {
        self.failover.wake_at
    }

    /// Returns whether the standby primaries' next words may decide.
    pub(super) fn is_failover_awaited(&self) -> bool {
        let old = &self.backends[&self.pair(self.active).primary];
        self.spec.failover != Failover::Manual && old.is_convicted(self.spec.fall)
    }

    pub(super) fn failover_view(&self, now: Moment) -> FailoverView {
        FailoverView {
            failover: self.spec.failover,
            outlook: self.outlook(now),
            memory: self.failover.memory.clone(),
        }
    }
}
