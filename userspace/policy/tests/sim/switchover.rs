//! Switchovers: what drivers do at the servers and in the kernel, and what must be so when they are asked to.

use std::{collections::BTreeSet, time::Duration};

use pairflip_policy::*;

use crate::{
    action::Then,
    server::{Mode, server_id},
    world::{Fed, Site, World, targets},
};

/// The last switchover of a cluster, as the world saw it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) from: PairId,
    pub(crate) to: PairId,
    /// Somebody else changed what a primary takes, or took over: what follows from that is theirs.
    pub(crate) is_meddled: bool,
    /// The old primary refused writes before, and the new one took them.
    was_read_only: bool,
    was_writable: bool,
    /// What the fenced old primary had, and the new one has. Others may still replicate into it.
    last_log: Vec<u64>,
    /// The new primary was told to take writes.
    is_told: bool,
    pub(crate) is_over: bool,
}

/// What the kernel keeps from the old primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) backend: Option<BackendId>,
    pub(crate) until: Moment,
}

impl World {
    pub(crate) fn switch(&mut self, cluster: u8, to: Option<u8>, bits: u16) {
        self.requests += 1;
        let (cluster, request) = (ClusterId(cluster.into()), RequestId(self.requests));
        let to = to.map(|pair| PairId(pair.into()));
        let drains = [None, Some(Drain::Finish), Some(Drain::Cut), Some(Drain::Idle)];
        let drain = drains[usize::from(bits % 4)];
        let is_forced = bits & 8 == 0;
        let force = if is_forced { BTreeSet::from(Precondition::ALL) } else { BTreeSet::new() };
        let millis =
            |millis: [u64; 4], bits: u16| Duration::from_millis(millis[usize::from(bits % 4)]);
        let limits = Limits {
            deadline: millis([60_000, 30_000, 5000, 500], bits >> 4),
            max_pause: millis([10_000, 30_000, 3000, 200], bits >> 6),
        };
        let dry_run = bits & 0xf00 == 0;
        self.waiting.insert(request, cluster);
        if let Some(site) = self.sites.get_mut(&cluster) {
            let pairs = site.spec.pairs.iter().map(|pair| pair.id);
            site.asked.extend(pairs.filter(|pair| to.is_none_or(|to| to == *pair)));
        }
        let input = Input::Switchover { cluster, request, to, drain, force, limits, dry_run };
        self.feed(input, Fed::Flip);
    }

    /// All is well, a switchover begins, and in the middle something happens.
    pub(crate) fn switch_then(&mut self, cluster: ClusterId, bits: u16, answers: u8, then: Then) {
        if self.policy.view().clusters.iter().any(|view| view.id == cluster && view.flip.is_none())
        {
            self.heal(cluster);
        }
        let failing = std::mem::take(&mut self.failing_drivers);
        let view = self.policy.view().clusters.into_iter().find(|view| view.id == cluster);
        let active = view.expect("a cluster").active;
        let others = self.sites[&cluster].spec.pairs.iter().map(|pair| pair.id);
        let others: Vec<_> = others.filter(|pair| *pair != active).collect();
        let to = others[usize::from(bits) % others.len()].0 as u8;
        self.switch(cluster.0 as u8, Some(to), bits & !8 | 0x100);
        for _ in 0..answers {
            self.write(cluster, self.writes.is_multiple_of(2));
            self.answer(0, 99, 0);
        }
        let pairs = self.sites[&cluster].run.as_ref().map(|run| (run.from, run.to));
        let primary = |pair: PairId| self.sites[&cluster].spec.pairs[usize::from(pair.0)].primary;
        let both = pairs.map(|(from, to)| (primary(from), primary(to)));
        match (then, both) {
            (Then::CallOff, _) => self.call_off(cluster),
            (Then::Restart { done }, _) => self.restart(if done { u16::MAX } else { 0 }, false),
            (Then::Reboot { done }, _) => self.restart(if done { u16::MAX } else { 0 }, true),
            (Then::KillOld { silent }, Some((old, _))) => {
                self.server(old).mode = if silent { Mode::Silent } else { Mode::Dead };
                // Long enough for checks to find out, and for an operator to be told.
                for _ in 0..8 {
                    self.pass(900);
                    self.round(cluster);
                    self.answer(0, 99, 0);
                    self.answer(0, 99, 0);
                }
            }
            (Then::KillNew, Some((_, new))) => self.server(new).mode = Mode::Dead,
            (Then::CutOld, Some((old, _))) => self.server(old).is_cut_off = true,
            (Then::CutThem, Some((old, new))) => _ = self.cuts.insert((old.min(new), old.max(new))),
            (Then::LoseUnfence { late }, _) => {
                let is_asked = |world: &Self| {
                    let is_unfence =
                        |it: &Output| matches!(it, Output::Step { step: Step::Unfence { .. }, .. });
                    world.pending.front().is_some_and(is_unfence)
                };
                for _ in 0..30 {
                    if is_asked(self) {
                        break;
                    }
                    self.answer(0, 99, 0);
                }
                self.failing_drivers = 100;
                for _ in 0..4 {
                    self.answer(0, 0, late);
                    self.pass(20_000);
                    self.time_out();
                }
            }
            (Then::Fail { late }, _) => {
                self.failing_drivers = 100;
                for _ in 0..5 {
                    self.answer(0, 0, late);
                    self.time_out();
                }
            }
            (Then::Write, _) => self.write(cluster, true),
            (Then::Nothing, _) | (_, None) => {}
        }
        self.failing_drivers = failing;
    }

    /// Everything of a cluster is as an operator would have it before a switchover.
    fn heal(&mut self, cluster: ClusterId) {
        let view = self.policy.view().clusters.into_iter().find(|view| view.id == cluster);
        let active = view.expect("a cluster").active;
        let primaries: Vec<_> =
            self.sites[&cluster].spec.pairs.iter().map(|pair| (pair.id, pair.primary)).collect();
        for (pair, primary) in primaries {
            let server = self.server(primary);
            server.repair();
            server.read_only = pair != active;
        }
        self.meddle(cluster);
        self.cuts.clear();
        for _ in 0..2 {
            self.replicate(cluster);
            self.writes += 1;
        }
        for _ in 0..3 {
            self.round(cluster);
            for _ in 0..4 {
                self.answer(0, 99, 0);
            }
        }
    }

    pub(crate) fn call_off(&mut self, cluster: ClusterId) {
        self.feed(Input::CallOff { cluster, request: None }, Fed::Operator);
    }

    /// A driver does a step, or fails at it.
    pub(crate) fn do_step(
        &mut self,
        cluster: ClusterId,
        step: &Step,
        fails: bool,
        late: u8,
    ) -> Result<StepAnswer, StepFailure> {
        match step {
            Step::Survey { from, to } => {
                let survey = Survey {
                    from: self.primary_facts(*from, *to, late),
                    to: self.primary_facts(*to, *from, late),
                };
                Ok(StepAnswer::Surveyed(Box::new(survey)))
            }
            Step::CatchUp { .. }
            | Step::FinalCatchUp { .. }
            | Step::Reach { .. }
            | Step::Settle { .. }
                if fails =>
            {
                Err(failure([StepFault::TimedOut, StepFault::Refused][usize::from(late % 2)]))
            }
            Step::CatchUp { from, to } => self.catch_up(*from, *to).map(|()| StepAnswer::Done),
            Step::FinalCatchUp { from, to } => {
                self.catch_up(*from, *to)?;
                if !self.servers[from].read_only {
                    return Err(failure(StepFault::Moved));
                }
                let log = self.servers[from].log.clone();
                let position = position(&log);
                if let Some(run) = &mut self.site(cluster).run {
                    run.last_log = log;
                }
                Ok(StepAnswer::CaughtUp { position })
            }
            Step::Reach { to, position } => {
                self.reach(*to)?;
                let has =
                    |write: &str| self.servers[to].log.iter().any(|it| it.to_string() == write);
                let is_there = position.split(',').filter(|it| !it.is_empty()).all(has);
                is_there.then_some(StepAnswer::Done).ok_or(failure(StepFault::TimedOut))
            }
            Step::Settle { backend } => {
                let until = self.site(cluster).hold.map_or(self.now, |hold| hold.until);
                self.site(cluster).hold = Some(Hold { backend: Some(*backend), until });
                Ok(StepAnswer::Done)
            }
            Step::Fence { backend } => self
                .fence(*backend, true, fails, late)
                .map(|fenced| StepAnswer::Fenced { was_read_only: fenced.was_read_only })
                .map_err(step_failure),
            Step::Unfence { backend } => {
                let result = self.fence(*backend, false, fails, late).map(|_| StepAnswer::Done);
                self.judge_writers(cluster);
                result.map_err(step_failure)
            }
            Step::Pause { .. } | Step::Release { .. } | Step::EndSessions { .. } => {
                if fails && late % 2 == 1 {
                    return Err(failure(StepFault::Refused));
                }
                self.do_at_home(cluster, step);
                if fails { Err(failure(StepFault::Unknown)) } else { Ok(answer_at_home(step)) }
            }
        }
    }

    /// What is done to flows and routes in our own kernel.
    fn do_at_home(&mut self, cluster: ClusterId, step: &Step) {
        let now = self.now;
        let site = self.site(cluster);
        match step {
            Step::Pause { time } => site.hold = Some(Hold { backend: None, until: now + *time }),
            Step::Release { .. } => site.hold = None,
            Step::EndSessions { backend } => _ = site.flows.remove(backend),
            _ => {}
        }
    }

    fn reach(&self, backend: BackendId) -> Result<(), StepFailure> {
        let server = &self.servers[&backend];
        if self.is_outage || server.is_cut_off || matches!(server.mode, Mode::Dead | Mode::Silent) {
            return Err(failure(StepFault::Unreachable));
        }
        if server.mode == Mode::Denies {
            return Err(failure(StepFault::Refused));
        }
        Ok(())
    }

    /// The new primary gets all that the old one has, if nothing is in the way.
    fn catch_up(&mut self, from: BackendId, to: BackendId) -> Result<(), StepFailure> {
        self.reach(from)?;
        self.reach(to)?;
        let is_cut = self.cuts.contains(&(from.min(to), from.max(to)));
        let log = self.servers[&from].log.clone();
        let server = self.server(to);
        if is_cut || server.io_stopped || server.sql_stopped || !server.applies {
            return Err(failure(StepFault::TimedOut));
        }
        let Some(inflow) = server.inflows.iter_mut().find(|inflow| inflow.source == from) else {
            return Err(failure(StepFault::Refused));
        };
        inflow.relay.clear();
        inflow.fetched = log.len();
        for write in log {
            if !server.log.contains(&write) {
                server.log.push(write);
            }
        }
        Ok(())
    }

    fn primary_facts(
        &self,
        backend: BackendId,
        other: BackendId,
        late: u8,
    ) -> Result<PrimaryFacts, StepFailure> {
        self.reach(backend)?;
        let server = &self.servers[&backend];
        let channels = server.facts(backend).replication;
        let is_from_other = |channel: &Channel| channel.upstream.server_id == server_id(other);
        let errant: Vec<_> =
            server.log.iter().filter(|write| !self.servers[&other].log.contains(write)).collect();
        Ok(PrimaryFacts {
            read_only: server.read_only,
            position: position(&server.log),
            replication: channels.into_iter().find(is_from_other),
            // Only of the new one it matters.
            errant: (!errant.is_empty()).then(|| format!("{errant:?}")),
            table_locks: if late == 3 { vec!["somebody".into()] } else { Vec::new() },
            ..PrimaryFacts::default()
        })
    }

    /// What a driver had in hand when it was stopped was done, or was not.
    pub(crate) fn stop_step(&mut self, cluster: ClusterId, step: &Step, is_done: bool) {
        if is_done {
            _ = self.do_step(cluster, step, false, 0);
        }
    }

    pub(crate) fn judge_step(&mut self, cluster: ClusterId, step: &Step, timeout: Duration) {
        assert!(timeout <= Duration::from_secs(60), "{timeout:?} is no bound");
        let primary = |site: &Site, pair: PairId| site.spec.pairs[usize::from(pair.0)].primary;
        if let Step::Survey { from, to } = step {
            if self.is_resuming(cluster) {
                return;
            }
            let (from, to) = (self.servers[from].pair, self.servers[to].pair);
            let read_only = |pair| self.servers[&primary(&self.sites[&cluster], pair)].read_only;
            let (was_read_only, was_writable) = (read_only(from), !read_only(to));
            self.site(cluster).run = Some(Run {
                from,
                to,
                is_meddled: false,
                was_read_only,
                was_writable,
                last_log: Vec::new(),
                is_told: false,
                is_over: false,
            });
            return;
        }
        let site = &self.sites[&cluster];
        let run = site.run.clone().expect("a survey came first");
        let (old, new) = (primary(site, run.from), primary(site, run.to));
        match step {
            Step::Pause { time } => {
                assert!(site.intent.is_some(), "the next daemon would not know");
                assert!(*time <= Duration::from_secs(40), "{time:?} is no bound");
                self.site(cluster).keeps_writes = true;
            }
            Step::Fence { backend } => {
                self.seen.add("switch_fences");
                assert!(site.intent.is_some(), "the next daemon would not know");
                assert_eq!(*backend, old);
            }
            Step::Unfence { backend } if *backend == new => {
                self.judge_promotion(cluster, &run, old)
            }
            Step::Unfence { backend } => {
                self.seen.add("switch_back");
                assert_eq!(*backend, old, "neither of both");
                let led = led_to(site);
                assert!(led.is_none_or(|pair| pair == run.from), "the routes lead to the new pair");
                if !(run.is_meddled || run.was_writable) {
                    assert!(self.servers[&new].read_only, "both would take writes");
                }
                if let Some(run) = &mut self.site(cluster).run {
                    run.is_told = false;
                }
            }
            _ => {}
        }
    }

    /// Whether a switchover goes on after a restart: it is not another one.
    fn is_resuming(&self, cluster: ClusterId) -> bool {
        let mut flips = self.policy.view().clusters.into_iter().filter(|it| it.id == cluster);
        let switchover = flips.find_map(|it| it.flip?.switchover);
        switchover.is_some_and(|it| it.step == SwitchoverStep::Resume)
    }

    fn judge_promotion(&mut self, cluster: ClusterId, run: &Run, old: BackendId) {
        let site = &self.sites[&cluster];
        let new = site.spec.pairs[usize::from(run.to.0)].primary;
        let led = led_to(site);
        assert!(led.is_none_or(|pair| pair == run.to), "the routes lead to the old pair");
        let written = site.state_file.as_ref().map(|(pair, _)| *pair);
        assert_eq!(written, Some(run.to), "the state file does not know");
        if !run.is_meddled {
            let (old, new) = (&self.servers[&old], &self.servers[&new]);
            assert!(old.read_only, "the old primary takes writes");
            let missing: Vec<_> = run.last_log.iter().filter(|it| !new.log.contains(it)).collect();
            assert!(missing.is_empty(), "acknowledged and missing on the new primary: {missing:?}");
        }
        if let Some(run) = &mut self.site(cluster).run {
            run.is_told = true;
        }
    }

    /// At most one of both takes writes, as far as we made them.
    fn judge_writers(&self, cluster: ClusterId) {
        let site = &self.sites[&cluster];
        let Some(run) = site.run.as_ref().filter(|run| !run.is_meddled && !run.was_writable) else {
            return;
        };
        let writes =
            |pair: PairId| !self.servers[&site.spec.pairs[usize::from(pair.0)].primary].read_only;
        assert!(!(writes(run.from) && writes(run.to)), "both primaries take writes");
    }

    /// A client's write is acknowledged: nothing older is missing there.
    pub(crate) fn judge_write(&self, cluster: ClusterId, backend: BackendId) {
        let site = &self.sites[&cluster];
        let Some(run) = site.run.as_ref().filter(|run| !run.is_meddled && !run.was_writable) else {
            return;
        };
        let primary = |pair: PairId| site.spec.pairs[usize::from(pair.0)].primary;
        assert!(
            backend != primary(run.from) || !run.is_told || run.is_over,
            "a write that nobody waits for"
        );
        if backend == primary(run.to) && !run.is_over {
            assert!(run.is_told, "it was not told to take writes");
            let missing = |write: &&u64| !self.servers[&backend].log.contains(write);
            let missing = run.last_log.iter().find(missing);
            assert_eq!(missing, None, "acknowledged before and missing");
        }
    }

    pub(crate) fn judge_switchover_event(&mut self, cluster: ClusterId, what: &EventKind) {
        match what {
            EventKind::SwitchoverResumed { undo, from, to } => {
                self.seen.add(if *undo { "switch_resumed_undo" } else { "switch_resumed" });
                let is_other =
                    |run: &&mut Run| (run.from, run.to) != (*from, *to) || run.was_read_only;
                if let Some(run) = self.site(cluster).run.as_mut().filter(is_other) {
                    // An earlier one is resumed, of which the state file still knew.
                    (run.from, run.to) = (*from, *to);
                    (run.is_meddled, run.is_over) = (true, false);
                }
            }
            EventKind::SwitchoverStuck { .. } => self.seen.add("switch_stuck"),
            EventKind::SwitchoverTakenOver { .. } => {
                self.seen.add("switch_taken_over");
                self.meddle(cluster);
                // A failover that does not take place makes it writable again.
                let run = self.sites[&cluster].run.as_ref().expect("a survey came first");
                let old = self.sites[&cluster].spec.pairs[usize::from(run.from.0)].primary;
                self.site(cluster).fenced.insert(old);
                self.end_run(cluster);
            }
            EventKind::SwitchoverDone { .. } => {
                self.seen.add("switchovers");
                // An operator asked for it, and knows of what happened before.
                self.site(cluster).out.clear();
                self.site(cluster).failed_over_at = None;
                self.judge_end(cluster, true);
            }
            EventKind::SwitchoverUndone { .. } => {
                self.seen.add("switch_undone");
                self.judge_end(cluster, false);
            }
            _ => {}
        }
    }

    fn judge_end(&mut self, cluster: ClusterId, is_done: bool) {
        let site = &self.sites[&cluster];
        let run = site.run.clone().expect("a survey came first");
        let primary = |pair: PairId| site.spec.pairs[usize::from(pair.0)].primary;
        let (old, new) = (primary(run.from), primary(run.to));
        let active = if is_done { run.to } else { run.from };
        if let Some(kernel) = &site.kernel {
            assert_eq!(kernel.active, active);
        }
        if !run.is_meddled {
            assert_eq!(self.servers[&old].read_only, is_done || run.was_read_only, "{old}");
            if is_done || !run.was_writable {
                assert_eq!(self.servers[&new].read_only, !is_done, "{new}");
            }
        }
        self.end_run(cluster);
    }

    fn end_run(&mut self, cluster: ClusterId) {
        let site = self.site(cluster);
        site.keeps_writes = false;
        if let Some(run) = &mut site.run {
            run.is_over = true;
        }
    }

    /// Somebody changed what a primary takes.
    pub(crate) fn meddle(&mut self, cluster: ClusterId) {
        if let Some(run) = &mut self.site(cluster).run {
            run.is_meddled = true;
        }
    }

    pub(crate) fn judge_outcome(&mut self, request: RequestId, outcome: &SwitchoverOutcome) {
        let cluster = self.waiting.remove(&request);
        let cluster =
            cluster.unwrap_or_else(|| panic!("{request} was answered twice, or never asked"));
        match outcome {
            SwitchoverOutcome::Planned { preflight, .. } => {
                self.seen.add("switch_planned");
                assert_eq!(preflight.len(), Precondition::ALL.len());
                self.end_run(cluster);
            }
            SwitchoverOutcome::Done { done, .. } if done.from == done.to => {}
            SwitchoverOutcome::Done { done, .. } => self.judge_flipped(cluster, done),
            SwitchoverOutcome::Refused(refused) => {
                self.seen.add("switch_refused");
                if matches!(refused, FlipRefused::Unmet { .. } | FlipRefused::NotPersisted { .. }) {
                    self.end_run(cluster);
                }
            }
            SwitchoverOutcome::Undone(undone) => {
                self.end_run(cluster);
                if undone.cause == UndoCause::CalledOff {
                    self.seen.add("switch_called_off");
                }
            }
            SwitchoverOutcome::Undoing { .. } => self.seen.add("switch_undoing"),
            SwitchoverOutcome::Trouble { .. } => self.seen.add("switch_trouble"),
        }
    }

    /// What is under way comes to its end when all is well, with one primary that takes writes.
    pub(crate) fn settle_switchovers(&mut self) {
        for _ in 0..60 {
            let views = self.policy.view().clusters;
            let running: Vec<_> =
                views.iter().filter(|view| view.flip.is_some()).map(|view| view.id).collect();
            if running.is_empty() {
                break;
            }
            self.servers.values_mut().for_each(crate::server::Server::repair);
            for cluster in running {
                self.part(cluster);
                self.round(cluster);
            }
            self.pass(200);
            self.time_out();
            self.answer_all();
        }
        for view in self.policy.view().clusters {
            assert_eq!(view.flip, None, "it does not come to an end");
            let site = &self.sites[&view.id];
            let Some(run) = site
                .run
                .as_ref()
                .filter(|run| !(run.is_meddled || run.is_over || run.was_read_only))
            else {
                continue;
            };
            if site.intent.is_none() {
                let primary = |pair: PairId| site.spec.pairs[usize::from(pair.0)].primary;
                let writes = |pair| !self.servers[&primary(pair)].read_only;
                assert!(writes(run.from) || writes(run.to), "nobody takes writes");
            }
        }
    }

    /// An operator makes up for what others did: two primaries that take writes.
    fn part(&mut self, cluster: ClusterId) {
        let site = &self.sites[&cluster];
        let Some(run) = site.run.as_ref().filter(|run| run.is_meddled) else { return };
        let active = self.policy.view().clusters.into_iter().find(|view| view.id == cluster);
        let active = active.expect("a cluster").active;
        let other = if active == run.from { run.to } else { run.from };
        let other = site.spec.pairs[usize::from(other.0)].primary;
        self.server(other).read_only = true;
    }
}

/// The pair that the kernel's routes lead to; none after a start in which no server was heard so far.
fn led_to(site: &Site) -> Option<PairId> {
    let table = site.kernel.as_ref()?;
    targets(table).next().map(|_| table.active)
}

fn answer_at_home(step: &Step) -> StepAnswer {
    match step {
        Step::EndSessions { .. } => StepAnswer::Ended { killed: 1, reset: 0 },
        _ => StepAnswer::Done,
    }
}

fn position(log: &[u64]) -> String {
    log.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn failure(fault: StepFault) -> StepFailure {
    StepFailure { fault, text: "simulated".into() }
}

fn step_failure(error: FenceError) -> StepFailure {
    failure(match error.fault {
        FenceFault::Unreachable => StepFault::Unreachable,
        FenceFault::Refused | FenceFault::NotApplied => StepFault::Refused,
        FenceFault::Unknown => StepFault::Unknown,
    })
}
