//! Advance: the steps from what is in force to what should be, at most one swap and one write under
//! way each.
//!
//! Runs after every input and owns no state of its own. Order matters: verdicts first, then the
//! shares that follow from them, then the state file, then the swap that may depend on it, then the
//! end of flows, whose clients must find the new routes.

use crate::{
    backend::Backend,
    flip::{Flip, FlipCause},
    health::Verdict,
    ids::{BackendId, PairId},
    input::{Access, Admin, Failback, PairSpec, RouteSpec},
    moment::Moment,
    output::{EndWhich, Output, Pace, RouteTable},
    reason::{ChangeReason, EndReason, PersistReason, RouteReason},
    routing::{self, Answer},
    view::FlipStage,
};

use super::{Cluster, Outputs, Written};

impl Cluster {
    /// Takes every step that what is known calls for.
    pub(super) fn advance(&mut self, trigger: ChangeReason, now: Moment, outputs: &mut Outputs) {
        self.convict(now);
        self.warm_up(now);
        let downs = self.report(now, outputs);
        self.recheck_failover(now, outputs);
        self.advance_state_file(now, outputs);
        self.advance_swap(trigger, now, outputs);
        // After the swap, so that a client whose connection is ended finds the new routes when it
        // comes back.
        for (backend, cause) in downs {
            outputs.push_back(Output::EndFlows {
                cluster: self.spec.id,
                which: EndWhich::Backend(backend),
                reason: EndReason::BackendDown { cause },
            });
        }
        // Last, because it must find the routes closed and the flows ended; its steps may call for others.
        self.advance_intentions(now, outputs);
        self.set_paces(outputs);
    }

    /// Takes the steps of a switchover or a failover, and what follows from them.
    fn advance_intentions(&mut self, now: Moment, outputs: &mut Outputs) {
        let goals = |cluster: &Self| {
            let routes = (cluster.keeps_writes(cluster.active), cluster.waits_for_intent());
            (cluster.state_goal(), cluster.flip.is_some(), routes)
        };
        let before = goals(self);
        self.advance_switchover(now, outputs);
        self.advance_failover(now, outputs);
        if before != goals(self) {
            self.advance_state_file(now, outputs);
            self.advance_swap(ChangeReason::CaughtUp, now, outputs);
        }
        self.switchover_wake = self.next_switchover_wake(now);
    }

    /// Takes down every backend whose failures are enough, and believable.
    ///
    /// Silence from one backend is believed only if another was heard from after it began: if all
    /// are silent, the fault is more likely ours than theirs, and routes and flows stay.
    fn convict(&mut self, now: Moment) {
        let guilty = self.backends.values().filter(|backend| {
            backend.health.failures() > 0
                && backend.wants_witness_since().is_none_or(|since| {
                    self.backends
                        .values()
                        .any(|other| other.id != backend.id && other.is_heard_after(since))
                })
        });
        for id in guilty.map(|backend| backend.id).collect::<Vec<_>>() {
            if let Some(backend) = self.backends.get_mut(&id) {
                backend.convict(&self.spec, now);
            }
        }
        self.convict_conditions();
    }

    /// Takes down every condition whose silence is enough, and believable: the same condition of another backend was answered after it
    /// began. If it is silent everywhere, the fault is more likely ours (a filter, a port) than theirs.
    fn convict_conditions(&mut self) {
        let mut guilty = Vec::new();
        for backend in self.backends.values() {
            for (name, since) in backend.conditions.wanting_witness() {
                let is_witness = |other: &Backend| {
                    other.id != backend.id && other.conditions.is_heard_after(name, since)
                };
                if self.backends.values().any(is_witness) {
                    guilty.push((backend.id, name.to_owned()));
                }
            }
        }
        for (id, name) in guilty {
            if let Some(backend) = self.backends.get_mut(&id) {
                backend.conditions.convict(&name, self.spec.fall);
            }
        }
    }

    /// Returns whether nothing is heard from any backend that is checked.
    pub(super) fn all_silent(&self) -> bool {
        let mut checked =
            self.backends.values().filter(|backend| backend.admin != Admin::Maint).peekable();
        checked.peek().is_some() && checked.all(Backend::is_silent)
    }

    /// Takes the steps of slow starts that are due.
    fn warm_up(&mut self, now: Moment) {
        if self.all_silent() {
            return;
        }
        for backend in self.backends.values_mut() {
            backend.warm_up(&self.spec, now);
        }
    }

    /// Returns when the next step of a slow start is due; while all are silent that is not known.
    pub(super) fn next_warm_up(&self) -> Option<Moment> {
        if self.all_silent() {
            return None;
        }
        let due = |backend: &Backend| {
            let step = backend.warmth.deadline(self.spec.slow_start);
            // Who is not fit waits for a check, whatever the time.
            let is_fit = backend.read_verdict() == Verdict::Up;
            step.into_iter().chain(backend.damping.until().filter(|_| is_fit)).min()
        };
        self.backends.values().filter_map(due).min()
    }

    /// Asks for a write of the state file if it does not say what it should.
    fn advance_state_file(&mut self, now: Moment, outputs: &mut Outputs) {
        let goal = self.state_goal();
        let file = &mut self.state_file;
        if file.under_way.is_some() {
            return;
        }
        let flip = self.flip.as_mut().filter(|flip| flip.stage == FlipStage::Persisting);
        if file.holds.as_ref() == Some(&goal) {
            file.retry_at = None;
            if let Some(flip) = flip {
                flip.stage = FlipStage::Persisted;
            }
            return;
        }
        let reason = match flip.map(|flip| flip.cause) {
            // An operator waits: no pause after an earlier failure.
            Some(FlipCause::Operator { request }) => PersistReason::Flip { request },
            Some(FlipCause::Failover) => PersistReason::Failover,
            Some(FlipCause::Switchover { .. }) => PersistReason::Switchover,
            None if file.retry_at.is_some_and(|at| at > now) => return,
            None if file
                .holds
                .as_ref()
                .is_some_and(|holds| holds.pair == goal.pair && holds.intent != goal.intent) =>
            {
                PersistReason::Intent
            }
            None if file.holds.as_ref().is_some_and(|holds| holds.pair == goal.pair) => {
                PersistReason::FailoverMemory
            }
            None => file.reason,
        };
        file.retry_at = None;
        file.under_way = Some(goal.clone());
        let (cluster, Written { pair, failover, intent }) = (self.spec.id, goal);
        outputs.push_back(Output::PersistActive { cluster, pair, failover, intent, reason });
    }

    /// Returns what the state file should say.
    pub(super) fn state_goal(&self) -> Written {
        Written {
            pair: self.flip.as_ref().map_or(self.active, |flip| flip.to),
            failover: self.failover.memory.clone(),
            intent: self.intent(),
        }
    }

    /// Asks for a swap if the kernel's table is not what it should be.
    fn advance_swap(&mut self, trigger: ChangeReason, now: Moment, outputs: &mut Outputs) {
        if self.swap.under_way.is_some() {
            return;
        }
        self.swap.retry_at = self.swap.retry_at.filter(|at| *at > now);
        if self.waits_for_intent() {
            return;
        }
        let flip = self.flip.as_ref().filter(|flip| flip.stage == FlipStage::Persisted);
        let (pair, reason) = match flip {
            Some(Flip { cause, from, to, .. }) => {
                let (from, to) = (*from, *to);
                let reason = match *cause {
                    FlipCause::Operator { request } => ChangeReason::Flip { request, from, to },
                    FlipCause::Failover => ChangeReason::Failover { from, to },
                    FlipCause::Switchover { .. } => ChangeReason::Switchover { from, to },
                };
                (to, reason)
            }
            None if self.table.is_none() => (self.active, ChangeReason::FirstAnswers),
            None => (self.active, trigger),
        };
        let answers = self.answers(pair);
        let mut table = RouteTable {
            generation: self.generation,
            active: pair,
            routes: answers.iter().map(|answer| answer.target.clone()).collect(),
        };
        let in_force = self.table.as_ref();
        if in_force.is_some_and(|in_force| in_force.routes_like(&table)) {
            self.swap.retry_at = None;
            return;
        }
        if flip.is_none() {
            let is_decided = |answer| routing::is_decided(answer, self.pair(pair), &self.backends);
            let must_wait = in_force.is_none() && !answers.iter().all(is_decided);
            if must_wait || self.swap.retry_at.is_some() {
                return;
            }
        }
        self.generation = self.generation.next();
        table.generation = self.generation;
        self.swap.retry_at = None;
        let reasons = answers.iter().map(|answer| answer.reason).collect();
        self.swap.under_way = Some((table.clone(), reasons));
        if let Some(flip) = &mut self.flip
            && flip.stage == FlipStage::Persisted
        {
            flip.stage = FlipStage::Swapping;
        }
        outputs.push_back(Output::SwapRoutes { cluster: self.spec.id, table, reason });
    }

    /// Returns whether the kernel forwards as it should by what is known now.
    pub(super) fn is_table_as_wanted(&self) -> bool {
        let routes = self.answers(self.active).into_iter().map(|answer| answer.target).collect();
        let wanted = RouteTable { generation: self.generation, active: self.active, routes };
        self.table.as_ref().is_some_and(|in_force| in_force.routes_like(&wanted))
    }

    /// Returns where every route goes when this pair is active.
    pub(super) fn answers(&self, pair: PairId) -> Vec<Answer> {
        let presumed = |route: usize| -> &[BackendId] {
            if pair == self.active {
                self.presumed.get(route).map_or(&[], Vec::as_slice)
            } else {
                &[]
            }
        };
        let routes = self.spec.routes.iter().enumerate();
        routes
            .map(|(index, route)| {
                let (pair, pairs) = (self.pair(pair), &self.spec.pairs);
                let answer = routing::answer(route, pair, pairs, &self.backends, presumed(index));
                self.paused_answer(route, pair, &answer)
                    .or_else(|| self.kept_answer(route, pair))
                    .filter(|kept| kept.replaces(&answer))
                    .unwrap_or(answer)
            })
            .collect()
    }

    /// Returns the answer that keeps writes where they are while a switchover has their primary read-only.
    fn paused_answer(&self, route: &RouteSpec, pair: &PairSpec, answer: &Answer) -> Option<Answer> {
        let in_force = self.table.as_ref().filter(|table| table.active == pair.id)?;
        let target = &in_force.routes[usize::from(route.id.0)];
        let is_kept = route.access == Access::Write
            && answer.reason == RouteReason::PrimaryReadOnly
            && self.keeps_writes(pair.id)
            && target.backends().eq([pair.primary]);
        is_kept.then(|| Answer::paused(pair.primary))
    }

    /// Returns the answer that keeps reads on the primary, if they are there and may not go back by themselves.
    fn kept_answer(&self, route: &RouteSpec, pair: &PairSpec) -> Option<Answer> {
        let primary = &self.backends[&pair.primary];
        let is_kept = !self.may_fail_back
            && pair.id == self.active
            && self.waits_for_failback(route)
            && primary.is_ready()
            && primary.read_verdict() == Verdict::Up;
        is_kept.then(|| Answer::kept(pair.primary))
    }

    /// Returns whether the kernel sends reads to the active primary, which only an operator may change.
    pub(super) fn waits_for_failback(&self, route: &RouteSpec) -> bool {
        let pair = self.pair(self.active);
        route.failback == Failback::Off
            && self.table.as_ref().filter(|table| table.active == pair.id).is_some_and(|table| {
                routing::is_fallback(&table.routes[usize::from(route.id.0)], route, pair)
            })
    }

    /// Sets the pace of every backend whose pace changed.
    fn set_paces(&mut self, outputs: &mut Outputs) {
        let wants_witness = self.backends.values().any(|backend| {
            backend.wants_witness_since().is_some()
                || backend.conditions.wanting_witness().next().is_some()
        });
        let has_write = self.spec.routes.iter().any(|route| route.access == Access::Write);
        let writer = self.pair(self.active).primary;
        let active = self.active;
        let candidates: Vec<BackendId> =
            self.spec.pairs.iter().filter(|it| it.id != active).map(|it| it.primary).collect();
        let is_failover_awaited = self.is_failover_awaited();
        let verified = self.verified_backend();
        for backend in self.backends.values_mut() {
            // The route opens again the moment the server is seen writable, so look often.
            let is_awaited = has_write
                && backend.id == writer
                && backend.health.is_up()
                && (backend.read_only() == Some(true)
                    || backend.conditions.maintenance().is_some());
            let is_hurried = backend.is_counting()
                || (backend.impairment().is_none()
                    && (wants_witness
                        || is_awaited
                        || verified == Some(backend.id)
                        || is_failover_awaited && candidates.contains(&backend.id)));
            let pace = match backend.admin {
                Admin::Maint => Pace::Off,
                Admin::Ready | Admin::Drain if is_hurried => Pace::Fast,
                Admin::Ready | Admin::Drain => Pace::Steady,
            };
            if backend.pace != Some(pace) {
                backend.pace = Some(pace);
                outputs.push_back(Output::SetPace { backend: backend.id, pace });
            }
        }
    }
}
