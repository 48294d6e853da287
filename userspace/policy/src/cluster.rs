//! Cluster: which pair is active, what the kernel and the state file hold, and what they should
//! hold next.
//!
//! | State | Trigger | Next | Why |
//! |---|---|---|---|
//! | no table | every route's answer is known | swap | first answers |
//! | table | an answer differs from the table | swap | checked, caught up, slow start |
//! | swap under way | `Applied` ok | the new table is in force | - |
//! | swap under way | `Applied` failed | the old table is in force; again after `fast_interval` | retry |
//! | a pair active | `Flip` accepted | flip persisting | operator |
//! | flip persisting | `Persisted` ok | flip swapping, after an earlier swap came back | flip |
//! | flip persisting | `Persisted` failed | refused; the state file is written back | flip undone |
//! | flip swapping | `Applied` ok | the other pair is active; `cut` ends the old one's flows | flip |
//! | flip swapping | `Applied` failed | refused; the state file is written back | flip undone |
//! | reads on the primary | replicas are fit again | swap; `failback` says whether, and what becomes of the flows there | checked |
//! | a failover possible | the old primary does not answer its fence | flip persisting | failover |
//! | a failover swapped | `Unfenced` ok | the new primary takes writes | failover |
//! | a switchover at any step before the new primary is told | failure, deadline, `CallOff` | undone | switchover |
//! | a switchover swapped | `StepDone` of the unfence | the new primary takes writes | switchover |
//! | anything | `SetAdmin`, or its time runs out | an answer may differ from the table | operator |
//! | flows are left behind, `idle` or a deadline | - | draining, until `Drained` or until the reason is gone | operator, flip, checked |
//!
//! Swap and state file are driven towards a goal: after every input, [`Cluster::advance`] compares
//! what is known to be in force with what should be, and asks for one step of each at most.

mod admin;
mod advance;
mod drains;
mod failover;
mod report;
mod start;
mod status;
mod switchover;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) use self::switchover::Asked;
use self::{failover::FailoverState, switchover::Switchover};
use crate::{
    backend::Backend,
    condition::Condition,
    failover::FailoverMemory,
    flip::{self, Flip, FlipCause},
    ids::{BackendId, Generation, PairId, RequestId},
    input::{
        Admin, AdminSetting, AdminTarget, ApplyError, CheckResult, ClusterSpec, Drain, Failback,
        FenceError, Fenced, PairSpec, PersistError, Role, RouteSpec,
    },
    moment::Moment,
    output::{EndWhich, Event, EventKind, FlipDone, FlipRefused, Output, RouteTable},
    reason::{
        ChangeReason, DrainReason, EndReason, FlipWarning, IgnoredReason, PersistReason,
        RouteReason,
    },
    routing::{self, Backends},
    switchover::{Intent, Precondition, StepId},
    view::{ChecksState, FlipStage},
};

type Outputs = VecDeque<Output>;

#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    spec: ClusterSpec,
    backends: Backends,
    active: PairId,
    flip: Option<Flip>,
    failover: FailoverState,
    switchover: Option<Switchover>,
    /// One that a flip of routes goes on from; it comes back if that does not succeed.
    taken_over: Option<Switchover>,
    /// The last one that was asked for.
    last_step: StepId,
    /// When the last flip was done.
    last_flip: Option<Moment>,
    /// We saw this server writable after we made it so; a check that began before does not know it.
    seen_writable: Option<(BackendId, Moment)>,
    /// When something of the switchover is due without an input.
    switchover_wake: Option<Moment>,
    checks: ChecksState,
    /// The last generation given out; a failed swap's is not used again.
    generation: Generation,
    /// What the kernel is known to forward by; `None` before the first swap.
    table: Option<RouteTable>,
    /// What the kernel forwarded each route to at the start; empty from the first flip on.
    presumed: Vec<Vec<BackendId>>,
    /// An operator let reads return that `failback = "off"` keeps on the primary.
    may_fail_back: bool,
    /// What operators said; who is not here is ready.
    admin: BTreeMap<AdminTarget, AdminSetting>,
    /// Flows that are being drained, and why.
    drains: BTreeMap<EndWhich, DrainReason>,
    swap: Swap,
    state_file: StateFile,
}

/// The kernel's table, on its way.
#[derive(Clone, Debug, Default)]
struct Swap {
    under_way: Option<(RouteTable, Vec<RouteReason>)>,
    /// After a failed swap: when the next may be tried. On expiry the answers are compared afresh.
    retry_at: Option<Moment>,
}

/// What the state file says of a cluster, admin states aside.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Written {
    pair: PairId,
    failover: FailoverMemory,
    intent: Option<Intent>,
}

/// The state file's knowledge of the active pair.
#[derive(Clone, Debug)]
struct StateFile {
    /// What it is known to say; `None` when it may say anything.
    holds: Option<Written>,
    under_way: Option<Written>,
    /// After a failed write: when the next may be tried. On expiry it is.
    retry_at: Option<Moment>,
    /// Why it is written when no flip needs it.
    reason: PersistReason,
    /// The log has heard that it cannot be written.
    failure_reported: bool,
}

impl Cluster {
    #[expect(clippy::too_many_arguments, reason = "what was restored, piece by piece")]
    pub(crate) fn new(
        spec: ClusterSpec,
        state_file: Option<PairId>,
        generation: Generation,
        table: Option<RouteTable>,
        admin: BTreeMap<AdminTarget, AdminSetting>,
        failover: FailoverMemory,
        intent: Option<Intent>,
        now: Moment,
        outputs: &mut Outputs,
    ) -> Self {
        assert!(!spec.pairs.is_empty(), "{} has no pair", spec.id);
        let generation = generation.max(table.as_ref().map_or(Generation(0), |t| t.generation));
        let state_file = state_file.filter(|pair| spec.pairs.iter().any(|known| known.id == *pair));
        let table = table.filter(|table| start::fits(table, &spec));
        let (active, source) = start::active(&spec, state_file, table.as_ref());
        let table = table.filter(|table| table.active == active);
        let presumed = table.iter().flat_map(|table| &table.routes);
        let presumed = presumed.map(|target| target.backends().collect()).collect();
        let mut cluster = Self {
            backends: spec.pairs.iter().flat_map(backends_of).collect(),
            active,
            flip: None,
            failover: FailoverState::default(),
            switchover: None,
            taken_over: None,
            last_step: StepId::default(),
            last_flip: None,
            seen_writable: None,
            switchover_wake: None,
            checks: ChecksState::Working,
            generation,
            table,
            presumed,
            may_fail_back: false,
            admin,
            drains: BTreeMap::new(),
            swap: Swap::default(),
            state_file: StateFile {
                holds: state_file.map(|pair| Written {
                    pair,
                    failover: failover.clone(),
                    intent: intent.clone(),
                }),
                under_way: None,
                retry_at: None,
                reason: PersistReason::Reconcile,
                failure_reported: false,
            },
            spec,
        };
        cluster.event(EventKind::Started { active, generation, source }, now, outputs);
        cluster.restore_admin(now, outputs);
        cluster.restore_failover(failover, now);
        if let Some(intent) = intent {
            cluster.restore_switchover(intent, source, now, outputs);
        }
        cluster.advance(ChangeReason::FirstAnswers, now, outputs);
        cluster
    }

    pub(crate) fn checked(
        &mut self,
        backend: BackendId,
        result: CheckResult,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        if self.backends.get(&backend).is_some_and(|backend| backend.admin == Admin::Maint) {
            // A probe that was on its way.
            return;
        }
        if !result.is_silence() && !self.backends.values().any(Backend::is_heard) {
            // Our network is back. What was counted without it is void, or the first answer would
            // witness against every backend that has not been asked again.
            self.backends.values_mut().for_each(Backend::forget_silence);
        }
        let is_late = self
            .seen_writable
            .is_some_and(|(seen, at)| seen == backend && now.since(at) < self.spec.timeout);
        if let Some(known) = self.backends.get_mut(&backend) {
            known.record(result, &self.spec, now);
            if is_late {
                known.set_read_only(false);
            }
        }
        self.advance(ChangeReason::Checked { backend }, now, outputs);
    }

    /// Takes in how a backend's conditions came out.
    pub(crate) fn judged(
        &mut self,
        backend: BackendId,
        conditions: Vec<Condition>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        if self.backends.get(&backend).is_some_and(|backend| backend.admin == Admin::Maint) {
            return;
        }
        for condition in conditions.iter().filter(|condition| !condition.outcome.is_silence()) {
            // As with servers that are heard again: what was counted while nobody answered this is void.
            if !self.backends.values().any(|other| other.conditions.is_heard(&condition.name)) {
                self.backends
                    .values_mut()
                    .for_each(|other| other.conditions.forget_silence(&condition.name));
            }
        }
        if let Some(known) = self.backends.get_mut(&backend) {
            known.judge(conditions, &self.spec, now);
        }
        self.advance(ChangeReason::Checked { backend }, now, outputs);
    }

    pub(crate) fn flip(
        &mut self,
        request: RequestId,
        to: Option<PairId>,
        drain: Option<Drain>,
        force: &BTreeSet<Precondition>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let drain = drain.unwrap_or(self.spec.drain);
        match self.accept_flip(request, to, drain, force, now) {
            Ok(Some(mut flip)) => {
                self.taken_over = self.give_up_switchover(now, outputs);
                if self.taken_over.as_ref().is_some_and(|it| it.is_undone_to(flip.from)) {
                    // Its primary may yet hear that it is to be writable, and nobody may write there then.
                    flip.drain = Drain::Cut;
                }
                let Flip { from, to, drain, .. } = flip;
                self.flip = Some(flip);
                self.event(EventKind::FlipStarted { request, from, to, drain }, now, outputs);
                self.advance(ChangeReason::CaughtUp, now, outputs);
            }
            Ok(None) => {
                let done = FlipDone {
                    from: self.active,
                    to: self.active,
                    generation: self.generation_in_force(),
                    drain,
                    warnings: vec![FlipWarning::AlreadyActive],
                };
                self.reply(request, Ok(done), now, outputs);
            }
            Err(refused) => self.reply(request, Err(refused), now, outputs),
        }
    }

    /// Returns the flip to start, or `None` if its pair is active already.
    fn accept_flip(
        &self,
        request: RequestId,
        to: Option<PairId>,
        drain: Drain,
        force: &BTreeSet<Precondition>,
        now: Moment,
    ) -> Result<Option<Flip>, FlipRefused> {
        if let Some(refused) = self.flip_under_way() {
            return Err(refused);
        }
        if let Some(to) = self.switching_to().filter(|_| !self.is_switchover_stuck()) {
            return Err(FlipRefused::FlipRunning { to });
        }
        let to = flip::target(to, &self.spec, self.active)?;
        if to == self.active {
            return Ok(None);
        }
        let (old, new) = (self.pair(self.active), self.pair(to));
        flip::preflight(new, &self.backends, force)?;
        Ok(Some(Flip {
            cause: FlipCause::Operator { request },
            from: self.active,
            to,
            drain,
            stage: FlipStage::Persisting,
            since: now,
            warnings: flip::warnings(old, new, drain, &self.backends),
        }))
    }

    /// Returns why nothing else may start, switchovers aside.
    fn flip_under_way(&self) -> Option<FlipRefused> {
        match self.flip.as_ref().map(|running| (running.cause, running.to)) {
            Some((FlipCause::Operator { .. } | FlipCause::Switchover { .. }, to)) => {
                Some(FlipRefused::FlipRunning { to })
            }
            Some((FlipCause::Failover, _)) => Some(FlipRefused::FailoverRunning),
            None => self.is_changing_a_server().then_some(FlipRefused::FailoverRunning),
        }
    }

    pub(crate) fn applied(
        &mut self,
        generation: Generation,
        result: Result<(), ApplyError>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let answered = self.swap.under_way.take_if(|(table, _)| table.generation == generation);
        let Some((table, reasons)) = answered else {
            let reason = IgnoredReason::UnexpectedApplied { generation };
            return self.event(EventKind::Ignored { reason }, now, outputs);
        };
        let flip = self.flip.take_if(|flip| flip.stage == FlipStage::Swapping);
        match result {
            Ok(()) => {
                self.swap.retry_at = None;
                self.put_in_force(table, &reasons, now, outputs);
                if let Some(flip) = flip {
                    self.finish_flip(flip, now, outputs);
                }
            }
            Err(ApplyError { reason }) => {
                let what = EventKind::SwapFailed { generation, reason: reason.clone() };
                self.event(what, now, outputs);
                match flip {
                    Some(flip) => {
                        let refused = FlipRefused::NotApplied { to: flip.to, reason };
                        self.undo_flip(&flip, refused, now, outputs);
                    }
                    None => self.swap.retry_at = Some(now + self.spec.fast_interval),
                }
            }
        }
        self.advance(ChangeReason::CaughtUp, now, outputs);
    }

    fn put_in_force(
        &mut self,
        table: RouteTable,
        reasons: &[RouteReason],
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let old = self.table.take();
        for ((route, to), reason) in self.spec.routes.iter().zip(&table.routes).zip(reasons) {
            let from = old.as_ref().and_then(|old| old.routes.get(usize::from(route.id.0)));
            // A share that grows is no change of the route.
            if from.is_some_and(|from| from.backends().eq(to.backends())) {
                continue;
            }
            if to.shares().is_empty() && self.is_committing() {
                // Writes are paused, and open again with the next table.
                continue;
            }
            let what = EventKind::RouteChanged {
                route: route.id,
                from: from.cloned(),
                to: to.clone(),
                reason: *reason,
                generation: table.generation,
            };
            self.event(what, now, outputs);
        }
        self.stop_drains_of_routes(&table, outputs);
        if let Some(old) = old.filter(|old| old.active == table.active) {
            self.fail_back(&old, &table, outputs);
        }
        self.table = Some(table);
    }

    /// Takes note of reads that went back from the primary to replicas, and ends what stayed there if that is wanted.
    fn fail_back(&mut self, old: &RouteTable, new: &RouteTable, outputs: &mut Outputs) {
        let pair = self.pair(old.active);
        let primary = pair.primary;
        let returned = |route: &&RouteSpec| {
            let index = usize::from(route.id.0);
            routing::is_fallback(&old.routes[index], route, pair)
                && !new.routes[index].shares().is_empty()
                && new.routes[index].backends().all(|backend| backend != primary)
        };
        let returned: Vec<_> = self.spec.routes.iter().filter(returned).cloned().collect();
        for route in returned {
            self.may_fail_back = false;
            let mode = match route.failback {
                Failback::NewConnections | Failback::Off => continue,
                Failback::Idle => Drain::Idle,
                Failback::Cut => Drain::Cut,
            };
            let which = EndWhich::Route(route.id, primary);
            let why = (DrainReason::Failback, EndReason::Failback);
            self.drain(which, mode, self.spec.drain_deadline, why, outputs);
        }
    }

    fn finish_flip(&mut self, flip: Flip, now: Moment, outputs: &mut Outputs) {
        self.active = flip.to;
        self.taken_over = None;
        self.may_fail_back = false;
        self.presumed.clear();
        self.stop_drains_of_active(flip.to, outputs);
        let (request, why) = match flip.cause {
            // It ends flows once the new primary takes writes.
            FlipCause::Switchover { .. } => return self.switchover_swapped(now, outputs),
            FlipCause::Operator { request } => {
                (Some(request), (DrainReason::Flip, EndReason::FlipCut { request }))
            }
            FlipCause::Failover => (None, (DrainReason::Failover, EndReason::FailoverCut)),
        };
        self.last_flip = Some(now);
        let which = EndWhich::Pair(flip.from);
        self.drain(which, flip.drain, self.spec.drain_deadline, why, outputs);
        let Some(request) = request else {
            return self.failed_over(flip.since, now, outputs);
        };
        self.acknowledge_failover(now);
        let done = FlipDone {
            from: flip.from,
            to: flip.to,
            generation: self.generation_in_force(),
            drain: flip.drain,
            warnings: flip.warnings,
        };
        self.reply(request, Ok(done), now, outputs);
    }

    fn undo_flip(&mut self, flip: &Flip, refused: FlipRefused, now: Moment, outputs: &mut Outputs) {
        // `active` never changed; the next `advance` finds that the state file says otherwise.
        self.state_file.reason = PersistReason::FlipUndone;
        match flip.cause {
            FlipCause::Operator { request } => {
                self.take_back_switchover(now, outputs);
                self.reply(request, Err(refused), now, outputs);
            }
            FlipCause::Failover => {
                self.failover_failed(flip.to, refused.to_string(), now, outputs);
            }
            FlipCause::Switchover { .. } => self.switchover_not_swapped(&refused, now, outputs),
        }
    }

    pub(crate) fn persisted(
        &mut self,
        result: Result<(), PersistError>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let Some(written) = self.state_file.under_way.take() else {
            let reason = IgnoredReason::UnexpectedPersisted;
            return self.event(EventKind::Ignored { reason }, now, outputs);
        };
        let pair = written.pair;
        match result {
            Ok(()) => {
                self.state_file.holds = Some(written);
                self.state_file.retry_at = None;
                self.state_file.failure_reported = false;
            }
            Err(PersistError { reason }) => {
                // A write that failed late may have replaced the file all the same.
                self.state_file.holds = None;
                if !self.state_file.failure_reported {
                    let what = EventKind::PersistFailed { pair, reason: reason.clone() };
                    self.event(what, now, outputs);
                    self.state_file.failure_reported = true;
                }
                let is_flips =
                    |flip: &mut Flip| flip.to == pair && flip.stage == FlipStage::Persisting;
                match self.flip.take_if(is_flips) {
                    Some(flip) => {
                        let refused = FlipRefused::NotPersisted { to: pair, reason };
                        self.undo_flip(&flip, refused, now, outputs);
                    }
                    None => {
                        self.state_file.retry_at = Some(now + self.spec.interval);
                        if written.intent == self.intent() {
                            self.switchover_not_written(&reason);
                        }
                    }
                }
            }
        }
        self.advance(ChangeReason::CaughtUp, now, outputs);
    }

    pub(crate) fn fence_answered(
        &mut self,
        backend: BackendId,
        result: Result<Fenced, FenceError>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        match self.fenced(backend, result, now, outputs) {
            Ok(()) => self.advance(ChangeReason::Fence, now, outputs),
            Err(reason) => self.event(EventKind::Ignored { reason }, now, outputs),
        }
    }

    pub(crate) fn unfence_answered(
        &mut self,
        backend: BackendId,
        result: Result<(), FenceError>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        match self.unfenced(backend, result, now, outputs) {
            Ok(()) => self.advance(ChangeReason::Fence, now, outputs),
            Err(reason) => self.event(EventKind::Ignored { reason }, now, outputs),
        }
    }

    pub(crate) fn timed_out(&mut self, now: Moment, outputs: &mut Outputs) {
        self.expire_admin(now, outputs);
        let is_retry = self.swap.retry_at.is_some_and(|at| at <= now);
        let trigger = if is_retry { ChangeReason::Retry } else { ChangeReason::SlowStart };
        self.advance(trigger, now, outputs);
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        let retries = [self.swap.retry_at, self.state_file.retry_at].into_iter().flatten();
        let steps = self.next_failover_wake().into_iter().chain(self.switchover_wake);
        retries.chain(self.next_warm_up()).chain(self.next_admin_end()).chain(steps).min()
    }

    fn pair(&self, id: PairId) -> &PairSpec {
        // Every pair id held here was found in the configuration before, and there it is the index.
        &self.spec.pairs[usize::from(id.0)]
    }

    fn generation_in_force(&self) -> Generation {
        self.table.as_ref().map_or(Generation(0), |table| table.generation)
    }

    fn reply(
        &self,
        request: RequestId,
        result: Result<FlipDone, FlipRefused>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let what = match result.clone() {
            Ok(done) => EventKind::FlipDone { request, done },
            Err(refused) => EventKind::FlipRefused { request, refused },
        };
        self.event(what, now, outputs);
        outputs.push_back(Output::Reply { request, result });
    }

    fn event(&self, what: EventKind, at: Moment, outputs: &mut Outputs) {
        outputs.push_back(Output::Event(Event { at, cluster: Some(self.spec.id), what }));
    }
}

fn backends_of(pair: &PairSpec) -> impl Iterator<Item = (BackendId, Backend)> + '_ {
    pair.backends().map(|id| {
        let role = if id == pair.primary { Role::Primary } else { Role::Replica };
        (id, Backend::new(id, pair.id, role))
    })
}
