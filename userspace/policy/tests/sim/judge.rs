//! The judge: what the policy puts out against what the world did and what the policy was told.

use std::time::Duration;

use pairflip_policy::*;

use crate::{
    common::{READS, WRITES},
    server::{Opinion, server_id},
    world::{Fed, World, cluster_of, targets},
};

impl World {
    /// Checks one output against what the world knows.
    pub(crate) fn judge(&mut self, output: &Output, fed: Fed) {
        let may_act = fed != Fed::Nonsense;
        match output {
            Output::SwapRoutes { cluster, table, reason } => {
                assert!(may_act, "nonsense caused a swap");
                self.judge_table(*cluster, table, *reason, fed);
            }
            Output::DrainFlows { .. } | Output::StopDrain { .. } => {
                assert!(may_act, "nonsense caused a drain");
                self.judge_drain(output);
            }
            Output::EndFlows { cluster, which, reason: EndReason::TakenOut { .. } } => {
                self.seen.add("taken_out_cut");
                let expected = self.site(*cluster).admin_cut.take();
                assert_eq!(expected, Some(*which), "nobody asked for that");
                self.end_flows(*cluster, *which);
            }
            Output::EndFlows { cluster, which, reason: EndReason::SwitchoverCut } => {
                let EndWhich::Pair(pair) = *which else { panic!("a switchover leaves a pair") };
                assert!(self.sites[cluster].kernel.as_ref().is_some_and(|it| it.active != pair));
                self.end_flows(*cluster, *which);
            }
            Output::EndFlows { cluster, which: EndWhich::Route(route, backend), reason } => {
                self.seen.add("failed_back_by_cut");
                assert_eq!(*reason, EndReason::Failback);
                let site = &self.sites[cluster];
                assert_eq!(
                    (*route, site.spec.routes[usize::from(READS.0)].failback),
                    (READS, Failback::Cut)
                );
                let reads = &site.kernel.as_ref().expect("a table").routes[usize::from(READS.0)];
                assert!(reads.backends().all(|target| target != *backend), "it still gets reads");
                assert!(!reads.shares().is_empty(), "clients have nowhere to go");
            }
            Output::EndFlows { cluster, which: EndWhich::Backend(backend), .. } => {
                self.seen.add("ends");
                let fall = self.sites[cluster].spec.fall;
                let told = &self.servers[backend].told;
                assert!(told.failures >= fall, "ended after {} failures", told.failures);
                assert!(told.failures_own > 0, "ended by our own outage");
                assert!(!self.is_all_silent(*cluster), "ended while all checks fail");
                self.end_flows(*cluster, EndWhich::Backend(*backend));
            }
            Output::EndFlows { cluster, which: EndWhich::Pair(pair), .. } => {
                let site = self.site(*cluster);
                assert!(site.cut.remove(pair), "no flip with cut left {pair}");
                assert!(site.kernel.as_ref().is_some_and(|table| table.active != *pair));
                self.end_flows(*cluster, EndWhich::Pair(*pair));
            }
            Output::PersistActive { cluster, pair, reason, .. } => {
                assert!(may_act, "nonsense caused a write");
                if matches!(reason, PersistReason::Flip { .. }) {
                    assert!(self.sites[cluster].asked.contains(pair), "nobody asked for {pair}");
                }
            }
            Output::Fence { cluster, backend, reason, timeout } => {
                assert!(may_act, "nonsense caused a fence");
                assert!(*timeout <= Duration::from_secs(10), "{timeout:?} is no bound");
                self.judge_fence(*cluster, *backend, *reason);
            }
            Output::Unfence { cluster, backend, reason, .. } => {
                assert!(may_act, "nonsense made a server writable");
                self.judge_unfence(*cluster, *backend, *reason);
            }
            Output::Step { cluster, step, timeout, .. } => {
                assert!(may_act, "nonsense caused a step");
                self.judge_step(*cluster, step, *timeout);
            }
            Output::CancelStep { .. } => assert!(may_act, "nonsense cancelled a step"),
            Output::SwitchoverReply { request, outcome } => self.judge_outcome(*request, outcome),
            Output::Reply { request, result } => self.judge_reply(*request, result),
            Output::ForgetAdmin { cluster, target } => {
                self.seen.add("expired");
                let (before, now) = (self.admins(), self.now);
                let setting = self.site(*cluster).admin.remove(target).expect("it was said");
                assert!(setting.until.is_some_and(|until| until <= now), "forgotten too early");
                self.admin_moved(&before);
            }
            Output::SetPace { backend, pace } => {
                assert_eq!(*pace == Pace::Off, self.admin(*backend) == Admin::Maint);
            }
            Output::Event(event) => self.judge_event(event),
        }
    }

    fn judge_event(&mut self, event: &Event) {
        let is_told = event.severity() != Severity::Debug;
        assert_eq!(EventKind::NAMES.contains(&event.what.name()), is_told, "{event:?}");
        if let Some(cluster) = event.cluster {
            self.judge_switchover_event(cluster, &event.what);
        }
        match event.what {
            EventKind::FailoverRefused { .. } => self.seen.add("failover_refused"),
            EventKind::FailoverCalledOff { .. } => self.seen.add("called_off"),
            EventKind::OldPrimaryReturned { .. } => self.seen.add("resumed_or_returned"),
            _ => {}
        }
    }

    fn end_flows(&mut self, cluster: ClusterId, which: EndWhich) {
        let ended: Vec<BackendId> = match which {
            EndWhich::Backend(backend) => vec![backend],
            EndWhich::Pair(pair) => {
                self.sites[&cluster].spec.pairs[usize::from(pair.0)].backends().collect()
            }
            // Of a read route: nobody writes there.
            EndWhich::Route(..) => Vec::new(),
        };
        self.site(cluster).flows.retain(|backend| !ended.contains(backend));
    }

    fn judge_table(
        &mut self,
        cluster: ClusterId,
        table: &RouteTable,
        reason: ChangeReason,
        fed: Fed,
    ) {
        let is_all_silent = self.is_all_silent(cluster);
        let site = &self.sites[&cluster];
        // 1: one pair takes new flows, all routes change together, and generations only grow.
        assert!(table.generation > site.generation, "generation did not grow");
        assert_eq!(table.routes.len(), site.spec.routes.len());
        let pair = &site.spec.pairs[usize::from(table.active.0)];
        for (route, target) in site.spec.routes.iter().zip(&table.routes) {
            let others = site.spec.pairs.iter().flat_map(|pair| &pair.replicas);
            let others: Vec<BackendId> = match route.standby_replicas {
                StandbyReplicas::Never => Vec::new(),
                StandbyReplicas::Fallback | StandbyReplicas::Always => {
                    others.map(|share| share.backend).collect()
                }
            };
            let is_known = |id| pair.backends().any(|known| known == id) || others.contains(&id);
            assert!(target.backends().all(is_known), "{} leads elsewhere", route.name);
        }
        let (flip, is_failover) = match reason {
            ChangeReason::Flip { from, .. } => (Some(from), false),
            ChangeReason::Failover { from, .. } => (Some(from), true),
            ChangeReason::Switchover { from, .. } => (Some(from), false),
            ChangeReason::FirstAnswers
            | ChangeReason::Checked { .. }
            | ChangeReason::CaughtUp
            | ChangeReason::Retry
            | ChangeReason::SlowStart
            | ChangeReason::Fence
            | ChangeReason::Admin => (None, false),
        };
        let is_flip = flip.is_some();
        let is_ready = |backend| self.admin(backend) == Admin::Ready;
        assert!(targets(table).all(is_ready), "new flows to a backend that was taken out");
        let is_other = site.kernel.as_ref().is_some_and(|kernel| {
            kernel.active != table.active && targets(kernel).next().is_some()
        });
        assert!(is_flip || !is_other, "the pair changed without a flip");
        if is_flip {
            let written = site.state_file.as_ref().map(|(pair, _)| *pair);
            let is_back = matches!(reason, ChangeReason::Switchover { .. })
                && site.run.as_ref().is_some_and(|run| run.from == table.active);
            if !is_back {
                // A full disk must not keep routes from going back.
                assert_eq!(written, Some(table.active), "the swap came before the state file");
            }
            let is_asked = site.asked.contains(&table.active);
            assert!(is_failover || is_asked || is_back, "nobody asked for {}", table.active);
        } else if site.kernel.as_ref().is_some_and(|kernel| targets(kernel).next().is_some())
            && fed == Fed::Check
            && !site.swap_failed
        {
            assert!(!is_all_silent, "changed routes while all checks fail");
        }
        // What failed gets nothing without an operator.
        let is_out = site.out.contains(&table.active) && !site.asked.contains(&table.active);
        assert!(!is_out, "{} failed and gets new flows", table.active);
        // 2: never to a backend that was last seen read-only.
        for backend in table.routes[usize::from(WRITES.0)].backends() {
            let is_found = !is_flip && site.found.contains(&backend);
            match self.servers[&backend].told.read_only {
                _ if site.keeps_writes => {}
                Some(read_only) => assert!(!read_only, "writes to read-only {backend}"),
                None => assert!(is_found, "writes to {backend}, which never answered"),
            }
        }
        if let (Some(from), true) = (flip, is_failover) {
            self.judge_failover(cluster, from, table.active);
        }
        self.judge_shares(cluster, table);
        self.site(cluster).generation = table.generation;
        self.site(cluster).cut = flip.into_iter().collect();
    }

    /// A failover has every reason that it must have, by what was told and by what is.
    fn judge_failover(&self, cluster: ClusterId, from: PairId, to: PairId) {
        let site = &self.sites[&cluster];
        let Failover::Auto { window } = site.spec.failover else { panic!("nobody allowed one") };
        assert!(!site.out.contains(&to), "back to {to}, which failed");
        let decided = site.decided_at.expect("it was written");
        if let Some(last) = site.failed_over_at {
            assert!(decided >= last + window, "a second one within the window");
        }
        assert!(!self.is_all_silent(cluster), "while nothing is heard from anybody");
        let primary = |pair: PairId| site.spec.pairs[usize::from(pair.0)].primary;
        let (old, new) = (primary(from), primary(to));
        for backend in [old, new] {
            assert_eq!(self.admin(backend), Admin::Ready, "{backend} was taken out");
        }
        // The kernel has turned writes away, and nobody holds a connection to the old primary.
        let kernel = site.kernel.as_ref().expect("a table");
        assert_eq!(kernel.routes[usize::from(WRITES.0)].backends().next(), None, "not blocked");
        assert!(!site.flows.contains(&old), "a client still has a connection to {old}");
        let told = |backend: BackendId| &self.servers[&backend].told;
        let (old_told, new_told) = (told(old), told(new));
        // One observer: `fall` failures in a row.
        assert!(old_told.failures >= site.spec.fall, "after {} failures", old_told.failures);
        let dead_since = old_told.enough_at.expect("there were enough");
        assert_eq!(
            site.unreachable_at
                .filter(|(backend, at)| *backend == old && *at >= dead_since)
                .map(|_| ()),
            Some(()),
            "the old primary was not asked for its fence"
        );
        // A second one: the new primary, asked since, has lost it as well and has applied everything.
        let (answered_at, _) = new_told.answered_at.expect("it answered");
        assert!(answered_at > dead_since, "what it said is from before");
        let Some(CheckResult::Answered(facts)) = &new_told.last else {
            panic!("{new} did not answer last")
        };
        let channel = |facts: &Facts| {
            let is_from = |it: &&Channel| it.upstream.server_id == server_id(old);
            facts.replication.iter().find(is_from).cloned()
        };
        let best = channel(facts).expect("a channel from the old primary");
        assert!(best.upstream.io_thread.has_lost_source(), "it sees the old primary");
        assert_eq!(best.upstream.applied, Some(true), "it has not applied everything");
        assert!(best.sql_running, "it applies nothing");
        // It replicated well until then: seen by this daemon, or by the one that decided it.
        let slack = site.spec.interval + site.spec.timeout;
        let sound = new_told.sound.iter().find(|(source, ..)| *source == old);
        let is_sound = sound.zip(old_told.answered_at).is_some_and(|((_, at, lag), (_, last))| {
            *at + slack >= last && *lag <= site.spec.max_lag
        });
        assert!(is_sound || !old_told.has_answered, "it was not sound before");
        // Nobody who could have been chosen has more.
        for pair in site.spec.pairs.iter().filter(|pair| pair.id != from && pair.id != to) {
            let other = told(pair.primary);
            let Some(CheckResult::Answered(facts)) = &other.last else { continue };
            let Some(it) = channel(facts) else { continue };
            let is_candidate = self.admin(pair.primary) == Admin::Ready
                && !site.out.contains(&pair.id)
                && it.upstream.io_thread.has_lost_source()
                && it.upstream.applied == Some(true)
                && it.sql_running
                && other.answered_at.is_some_and(|(at, _)| at > dead_since)
                && other.failures == 0
                && other.answers >= site.spec.rise
                && other.opinion_passes >= site.spec.rise
                && other.sound.iter().any(|(source, at, lag)| {
                    *source == old
                        && old_told.answered_at.is_some_and(|(_, last)| *at + slack >= last)
                        && *lag <= site.spec.max_lag
                });
            let has_more =
                it.upstream.executed.zip(best.upstream.executed.clone()).is_some_and(
                    |(it, best)| it.compare(&best) == Some(std::cmp::Ordering::Greater),
                );
            assert!(!(is_candidate && has_more), "{} has more than {to}", pair.id);
        }
    }

    fn judge_fence(&self, cluster: ClusterId, backend: BackendId, reason: FenceReason) {
        let site = &self.sites[&cluster];
        assert_ne!(site.spec.failover, Failover::Manual, "nobody allowed it");
        let pair = self.servers[&backend].pair;
        let told = &self.servers[&backend].told;
        match reason {
            FenceReason::Failover => {
                assert!(told.failures >= site.spec.fall, "fenced after {} failures", told.failures);
                assert_eq!(self.admin(backend), Admin::Ready, "{backend} was taken out");
                let kernel = site.kernel.as_ref().expect("a table");
                assert_eq!(kernel.active, pair, "it is not active");
                assert_eq!(kernel.routes[usize::from(WRITES.0)].backends().next(), None);
            }
            FenceReason::Returned => {
                assert!(site.out.contains(&pair), "{pair} did not fail");
                assert!(matches!(told.last, Some(CheckResult::Answered(_))), "it does not answer");
            }
        }
    }

    /// A server becomes writable only where its pair is active, in the kernel and on the disk, beside a dead one.
    fn judge_unfence(&self, cluster: ClusterId, backend: BackendId, reason: UnfenceReason) {
        let site = &self.sites[&cluster];
        let pair = self.servers[&backend].pair;
        let kernel = site.kernel.as_ref().expect("a table");
        assert_eq!(kernel.active, pair, "{backend} is to be writable, and another pair is active");
        match reason {
            UnfenceReason::Undo => {
                assert!(site.fenced.contains(&backend), "{backend} was not fenced by us");
            }
            UnfenceReason::Promotion => {
                let (written, memory) = site.state_file.as_ref().expect("a state file");
                assert_eq!(*written, pair, "the state file does not know");
                let last = memory.last.as_ref().expect("the state file knows of the failover");
                let old = site.spec.pairs[usize::from(last.from.0)].primary;
                let told = &self.servers[&old].told;
                assert_eq!((last.to, last.stage), (pair, FailoverStage::Promoting));
                assert!(told.failures >= site.spec.fall, "beside {old}, which may live");
                assert_eq!(self.admin(backend), Admin::Ready, "{backend} was taken out");
            }
        }
    }

    /// A share is a part of the configured one, and less only within a slow start.
    fn judge_shares(&mut self, cluster: ClusterId, table: &RouteTable) {
        let spec = &self.sites[&cluster].spec;
        let mut slow_starts = 0;
        for share in table.routes.iter().flat_map(RouteTarget::shares) {
            let full = full_weight(spec, share.backend);
            assert!((1..=full).contains(&share.weight), "{share:?} of {full}");
            assert!(share.weight >= full / 10, "{share:?} of {full}");
            if share.weight < full {
                let is_warm = self.is_warm(spec, share.backend);
                assert!(!is_warm, "{share:?} of {full} without a reason");
                slow_starts += 1;
            }
        }
        for _ in 0..slow_starts {
            self.seen.add("slow_starts");
        }
    }

    fn is_warm(&self, spec: &ClusterSpec, backend: BackendId) -> bool {
        // A replica that flaps waits for sixteen times `hold_off` at most.
        let longest = spec.hold_off * 16 + spec.slow_start;
        let is_awake = self.awake_since == Moment::START || self.awake_since + longest <= self.now;
        is_awake && self.servers[&backend].is_warm(spec, self.now)
    }

    fn judge_reply(&mut self, request: RequestId, result: &Result<FlipDone, FlipRefused>) {
        let asked = self.waiting.remove(&request);
        let cluster =
            asked.unwrap_or_else(|| panic!("{request} was answered twice, or never asked"));
        match result {
            Ok(done) if done.from == done.to => {}
            Ok(done) => {
                self.seen.add("flips");
                self.judge_flipped(cluster, done);
            }
            Err(FlipRefused::NotPersisted { .. } | FlipRefused::NotApplied { .. }) => {
                self.seen.add("undone");
            }
            Err(_) => self.seen.add("refused"),
        }
    }

    /// An operator made another pair active.
    pub(crate) fn judge_flipped(&mut self, cluster: ClusterId, done: &FlipDone) {
        let site = self.site(cluster);
        let table = site.kernel.as_ref().expect("the kernel has a table");
        assert_eq!((table.active, table.generation), (done.to, done.generation));
        assert_eq!(site.state_file.as_ref().map(|(pair, _)| *pair), Some(done.to));
        site.asked.clear();
        site.cut.clear();
        // He knows of what happened.
        site.out.clear();
        site.failed_over_at = None;
    }

    /// Checks what must hold between inputs, when the kernel has what the policy wanted.
    pub(crate) fn judge_rest(&mut self) {
        self.judge_drains();
        for view in self.policy.view().clusters {
            let mut backends = view.pairs.iter().flat_map(|pair| &pair.backends);
            if backends.any(|backend| backend.reason == BackendReason::Flapping) {
                self.seen.add("flapping");
            }
            for (reason, what) in [
                (RouteReason::TooFewReplicas, "too_few"),
                (RouteReason::NoReplicaFit, "fallbacks"),
                (RouteReason::FailbackOff, "failback_off"),
                (RouteReason::StandbyReplicas, "standby_replicas"),
            ] {
                if view.routes.iter().any(|route| route.reason == reason) {
                    self.seen.add(what);
                }
            }
            let site = &self.sites[&view.id];
            let is_moving = self.pending.iter().any(|output| {
                matches!(output, Output::SwapRoutes { .. } | Output::PersistActive { .. })
                    && cluster_of(output) == Some(view.id)
            });
            let Some(table) = &site.kernel else { continue };
            if is_moving || site.swap_failed {
                continue;
            }
            if table.active != view.active {
                assert!(targets(table).next().is_none(), "the policy and the kernel disagree");
                continue;
            }
            let is_ready = |backend| self.admin(backend) == Admin::Ready;
            let is_punctual = self.policy.deadline().is_none_or(|at| at > self.now);
            if is_punctual {
                assert!(
                    targets(table).all(is_ready),
                    "a backend that was taken out stays in the table"
                );
            }
            for backend in targets(table) {
                let told = &self.servers[&backend].told;
                assert_ne!(
                    told.opinion,
                    Some(Opinion::Maintenance),
                    "new flows to {backend}, which is in maintenance"
                );
                let is_unfit = told.opinion_failures >= site.spec.fall;
                assert!(!is_unfit, "new flows to {backend}, whose condition failed");
            }
            for backend in table.routes[usize::from(WRITES.0)].backends() {
                let read_only = self.servers[&backend].told.read_only;
                if site.keeps_writes {
                    continue;
                }
                assert_ne!(read_only, Some(true), "writes to read-only");
            }
            for share in table.routes[usize::from(READS.0)].shares() {
                let server = &self.servers[&share.backend];
                assert!(
                    server.told.refusals < site.spec.fall,
                    "reads to {}, which is down",
                    share.backend
                );
                // While all are silent nothing moves, shares neither.
                if is_punctual && !self.is_all_silent(view.id) {
                    let is_full = share.weight == full_weight(&site.spec, share.backend);
                    let is_warm = self.is_warm(&site.spec, share.backend);
                    assert!(is_full || !is_warm, "{share:?} is stuck");
                }
            }
            let pair = &view.pairs[usize::from(view.active.0)];
            let is_fit = |backend: &BackendView| {
                is_ready(backend.id)
                    && self.servers[&backend.id].told.opinion != Some(Opinion::Maintenance)
                    && backend.health.is_up()
                    && backend.fitness.is_none_or(Health::is_up)
            };
            // After a reboot in the middle of a switchover no routes are made before the state file is right.
            let step = view.flip.and_then(|flip| flip.switchover).map(|it| it.step);
            let is_resumed = step == Some(SwitchoverStep::Resume);
            if table.routes[usize::from(READS.0)].shares().is_empty() && !is_resumed {
                assert!(
                    !pair.backends.iter().any(is_fit),
                    "reads are refused beside a fit backend"
                );
            }
        }
    }

    fn is_all_silent(&self, cluster: ClusterId) -> bool {
        let is_checked =
            |id: &BackendId| self.servers[id].cluster == cluster && self.admin(*id) != Admin::Maint;
        let mut checked = self.servers.keys().filter(|id| is_checked(id)).peekable();
        checked.peek().is_some() && checked.all(|id| self.servers[id].told.last_is_silent)
    }
}

fn full_weight(spec: &ClusterSpec, backend: BackendId) -> u16 {
    let mut replicas = spec.pairs.iter().flat_map(|pair| &pair.replicas);
    replicas
        .find(|share| share.backend == backend)
        .map_or(Share::PRIMARY_WEIGHT, |share| share.weight)
}
