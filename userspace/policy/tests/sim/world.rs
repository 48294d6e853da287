//! The world: lets actions happen, and does what the policy asks for, now or later or not at all.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use pairflip_policy::*;

use crate::{
    Random,
    action::{Action, Change},
    common::{READS, WRITES, cluster, failed},
    server::{Mode, Opinion, Server},
    switchover::{Hold, Run},
};

/// What happened, to tell a busy world from a quiet one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    /// What must not be rare.
    const ALL: [&'static str; 45] = [
        "flips",
        "refused",
        "undone",
        "ends",
        "restarts",
        "crashes",
        "outages",
        "swaps_failed",
        "slow_starts",
        "taken_out",
        "expired",
        "taken_out_cut",
        "flapping",
        "too_few",
        "late_checks",
        "writes",
        "failovers",
        "failover_refused",
        "called_off",
        "resumed_or_returned",
        "fences",
        "conditions_failed",
        "maintenance",
        "unjudged",
        "fallbacks",
        "failed_back_by_cut",
        "failback_off",
        "standby_replicas",
        "switchovers",
        "switch_refused",
        "switch_planned",
        "switch_fences",
        "switch_undone",
        "switch_back",
        "switch_called_off",
        "switch_undoing",
        "switch_trouble",
        "switch_stuck",
        "switch_taken_over",
        "switch_resumed",
        "switch_resumed_undo",
        "paused_writes",
        "steps_cancelled",
        "drains",
        "drains_called_off",
    ];

    pub(crate) fn add(&mut self, what: &'static str) {
        debug_assert!(Self::ALL.contains(&what), "{what}");
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn plus(mut self, other: Self) -> Self {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
        self
    }

    pub(crate) fn rarest(&self) -> (&'static str, u64) {
        let count = |what: &&'static str| (*what, self.0.get(what).copied().unwrap_or(0));
        Self::ALL.iter().map(count).min_by_key(|(_, count)| *count).expect("it is not empty")
    }
}

/// One cluster of the world: what outlives a daemon, and what the operator waits for.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) spec: ClusterSpec,
    pub(crate) kernel: Option<RouteTable>,
    pub(crate) state_file: Option<(PairId, FailoverMemory)>,
    /// Highest generation of any `SwapRoutes`; the present daemon's, or the kernel's after a
    /// restart.
    pub(crate) generation: Generation,
    /// Pairs that an operator asked for since the last flip, on top of the active one.
    pub(crate) asked: BTreeSet<PairId>,
    /// Pairs whose flows a finished flip may cut.
    pub(crate) cut: BTreeSet<PairId>,
    /// Targets of the kernel's table that the present daemon found at its start.
    pub(crate) found: BTreeSet<BackendId>,
    pub(crate) swap_failed: bool,
    /// What operators said and the state file keeps.
    pub(crate) admin: BTreeMap<AdminTarget, AdminSetting>,
    /// Whose flows an admin state may end.
    pub(crate) admin_cut: Option<EndWhich>,
    /// Where clients have connections that can write.
    pub(crate) flows: BTreeSet<BackendId>,
    /// Pairs that failed over to another, and no operator has said since that they are well.
    pub(crate) out: BTreeSet<PairId>,
    /// When the last failover was decided; `None` once an operator knows of it.
    pub(crate) failed_over_at: Option<Moment>,
    /// When the old primary was found unreachable last, which decides a failover.
    pub(crate) decided_at: Option<Moment>,
    /// The old primary was asked for its fence and did not answer, at this count of things told.
    pub(crate) unreachable_at: Option<(BackendId, u64)>,
    /// A server that a failover fenced, which was writable before.
    pub(crate) fenced: BTreeSet<BackendId>,
    /// What the state file says of a switchover.
    pub(crate) intent: Option<Intent>,
    pub(crate) run: Option<Run>,
    /// The pause, and who is held.
    pub(crate) hold: Option<Hold>,
    /// New connections for writes are paused, and write routes stay although their primary is made read-only.
    pub(crate) keeps_writes: bool,
}

pub(crate) struct World {
    seed: u64,
    pub(crate) now: Moment,
    pub(crate) policy: Policy,
    pub(crate) sites: BTreeMap<ClusterId, Site>,
    pub(crate) servers: BTreeMap<BackendId, Server>,
    /// Pairs of servers between which nothing gets through.
    pub(crate) cuts: BTreeSet<(BackendId, BackendId)>,
    /// The way from us to every server is gone.
    pub(crate) is_outage: bool,
    /// Questions that the drivers have not answered, per cluster and kind in order.
    pub(crate) pending: VecDeque<Output>,
    /// In percent.
    pub(crate) failing_drivers: u8,
    pub(crate) requests: u64,
    pub(crate) writes: u64,
    /// Counts what the policy was told.
    pub(crate) tick: u64,
    /// The daemon dies after so many outputs; then these bits say what was done.
    dying: Option<(u8, u16)>,
    deaths: u64,
    /// When the policy was fed last, and when it was fed again after a long time: what waited meanwhile began then.
    fed_at: Moment,
    pub(crate) awake_since: Moment,
    pub(crate) waiting: BTreeMap<RequestId, ClusterId>,
    /// What is being drained, and why.
    pub(crate) drains: BTreeMap<(ClusterId, EndWhich), DrainReason>,
    trace: Option<Vec<String>>,
    pub(crate) seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut sites = BTreeMap::new();
        let mut servers = BTreeMap::new();
        for id in 0..1 + random.below(2) as u16 {
            let (pairs, replicas) = (2 + random.below(3) as u16, 1 + random.below(2) as u16);
            let mut spec = cluster(id, 100 * id, pairs, replicas);
            spec.fall = 1 + random.below(4) as u32;
            spec.rise = 1 + random.below(3) as u32;
            spec.slow_start =
                Duration::from_millis([0, 15, 2000, 10_000][random.below(4) as usize]);
            spec.hold_off = Duration::from_millis([0, 300, 2000, 10_000][random.below(4) as usize]);
            let window = Duration::from_secs([5, 60, 3600][random.below(3) as usize]);
            if random.below(5) > 0 {
                spec.failover = Failover::Auto { window };
            }
            if random.below(3) == 0 {
                spec.drain = [Drain::Cut, Drain::Idle][random.below(2) as usize];
                spec.drain_deadline =
                    [None, Some(Duration::from_secs(5))][random.below(2) as usize];
            }
            spec.routes[usize::from(READS.0)].min_replicas =
                1 + random.below(replicas.into()) as u32;
            let reads = &mut spec.routes[usize::from(READS.0)];
            reads.failback =
                [Failback::NewConnections, Failback::Idle, Failback::Cut, Failback::Off]
                    [random.below(4) as usize];
            reads.standby_replicas =
                [StandbyReplicas::Never, StandbyReplicas::Fallback, StandbyReplicas::Always]
                    [random.below(3) as usize];
            for share in spec.pairs.iter_mut().flat_map(|pair| &mut pair.replicas) {
                share.weight = [1, 7, 100, 1000][random.below(4) as usize];
            }
            let primaries: Vec<_> = spec.pairs.iter().map(|pair| pair.primary).collect();
            for pair in &spec.pairs {
                for backend in pair.backends() {
                    let sources: Vec<_> = if backend == pair.primary {
                        primaries.iter().copied().filter(|other| *other != backend).collect()
                    } else {
                        vec![pair.primary]
                    };
                    let read_only = backend != primaries[0];
                    servers.insert(backend, Server::new(spec.id, pair.id, read_only, &sources));
                }
            }
            sites.insert(spec.id, Site::new(spec));
        }
        let specs = sites.values().map(|site| site.spec.clone()).collect();
        Self {
            seed,
            now: Moment::START,
            policy: Policy::new(specs, Restored::default(), Moment::START),
            sites,
            servers,
            cuts: BTreeSet::new(),
            is_outage: false,
            pending: VecDeque::new(),
            failing_drivers: [0, 10, 50][random.below(3) as usize],
            requests: 0,
            writes: 0,
            tick: 0,
            dying: None,
            deaths: 0,
            fed_at: Moment::START,
            awake_since: Moment::START,
            waiting: BTreeMap::new(),
            drains: BTreeMap::new(),
            trace: None,
            seen: Seen::default(),
        }
    }

    pub(crate) fn start(&mut self) {
        self.drain(Fed::Start);
    }

    /// Returns all that goes in and out, up to the failure.
    pub(crate) fn traced(seed: u64, actions: &[Action]) -> String {
        let mut world = Self::new(seed);
        world.trace = Some(Vec::new());
        _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.start();
            for action in actions {
                world.note(format_args!("{action:?}"));
                world.act(*action);
            }
            world.note(format_args!("settle"));
            world.settle();
        }));
        world.trace.unwrap_or_default().join("\n")
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Pass { millis } => self.pass(millis.into()),
            Action::Round { cluster, millis, luck } => {
                self.pass(millis.into());
                self.round(self.cluster(cluster));
                if luck.is_multiple_of(2) {
                    self.write(self.cluster(cluster), luck.is_multiple_of(4));
                }
                // Drivers that hang do not do it.
                for _ in 0..if luck < 100 { 8 } else { 0 } {
                    self.answer(0, luck, luck % 4);
                }
            }
            Action::Kill { cluster, silent } => {
                let site = &self.sites[&self.cluster(cluster)];
                let active = site.kernel.as_ref().map_or(PairId(0), |table| table.active);
                let primary = site.spec.pairs[usize::from(active.0)].primary;
                self.server(primary).mode = if silent { Mode::Silent } else { Mode::Dead };
            }

            Action::Check { server, noise } => {
                let backend = self.backend(server);
                self.check(backend, noise);
            }
            Action::Ask { server, noise } => {
                let backend = self.backend(server);
                self.ask(backend, noise);
            }
            Action::Hear { server } => {
                let backend = self.backend(server);
                self.hear(backend);
            }
            Action::Replicate { cluster } => self.replicate(self.cluster(cluster)),
            Action::Write { cluster, old_flow } => self.write(self.cluster(cluster), old_flow),
            Action::Answer { index, luck, late } => self.answer(index, luck, late),
            Action::Change { server, what } => self.change(server, what),
            Action::Cut { one, other } => {
                _ = self.cuts.insert(self.link(one, other));
            }
            Action::Mend { one, other } => {
                _ = self.cuts.remove(&self.link(one, other));
            }
            Action::CutUs { server } => {
                let backend = self.backend(server);
                self.server(backend).is_cut_off = true;
            }
            Action::MendUs { server } => {
                let backend = self.backend(server);
                self.server(backend).is_cut_off = false;
            }
            Action::Outage if self.is_outage => self.end_outage(),
            Action::Outage => {
                // An answer is not later than its timeout, so none arrives after a silence that began with the outage.
                for backend in self.all() {
                    self.hear(backend);
                }
                self.is_outage = true;
                self.seen.add("outages");
            }
            Action::Flip { cluster, to, drain, force } => self.flip(cluster, to, drain, force),
            Action::Switch { cluster, to, bits } => self.switch(cluster, to, bits),
            Action::SwitchThen { cluster, bits, answers, then } => {
                self.switch_then(self.cluster(cluster), bits, answers, then);
            }
            Action::CallOff { cluster } => self.call_off(self.cluster(cluster)),
            Action::Admin { cluster, target, pair, admin, millis, cut, force } => {
                let cluster = self.cluster(cluster);
                let target = if pair {
                    AdminTarget::Pair(PairId(u16::from(target % 4)))
                } else {
                    AdminTarget::Backend(self.backend(target))
                };
                let admin = [Admin::Ready, Admin::Drain, Admin::Maint][usize::from(admin % 3)];
                let until = millis.map(|millis| self.now + Duration::from_millis(millis.into()));
                let flows = match (cut, force) {
                    (true, _) => Drain::Cut,
                    (false, true) => Drain::Idle,
                    (false, false) => Drain::Finish,
                };
                if self.policy.may_set_admin(cluster, target, admin, force).is_ok() {
                    self.put_admin(cluster, target, AdminSetting { admin, until }, flows);
                }
            }
            Action::Nonsense { kind, cluster } => self.nonsense(kind, cluster),
            Action::TimeOut => self.time_out(),
            Action::Restart { done, reboot } => self.restart(done, reboot),
            Action::Crash { outputs, done } => self.dying = Some((outputs, done)),
        }
        self.judge_rest();
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    pub(crate) fn round(&mut self, cluster: ClusterId) {
        self.replicate(cluster);
        for backend in self.backends(cluster) {
            self.check(backend, 0);
        }
        self.end_drain(cluster);
    }

    /// Repairs everything and expects it to be served: nothing may stay broken for good.
    pub(crate) fn settle(&mut self) {
        self.dying = None;
        for backend in self.all() {
            self.hear(backend);
        }
        self.end_outage();
        self.failing_drivers = 0;
        self.cuts.clear();
        let admin = |(id, site): (&ClusterId, &Site)| {
            site.admin.keys().map(|target| (*id, *target)).collect::<Vec<_>>()
        };
        for (cluster, target) in self.sites.iter().flat_map(admin).collect::<Vec<_>>() {
            self.put_admin(cluster, target, AdminSetting::default(), Drain::Finish);
        }
        self.settle_switchovers();
        let mut said = Vec::new();
        for _ in 0..6 {
            self.servers.values_mut().for_each(Server::repair);
            let actives =
                self.policy.view().clusters.into_iter().map(|view| (view.id, view.active));
            for (id, active) in actives.collect::<Vec<_>>() {
                let primary = self.sites[&id].spec.pairs[usize::from(active.0)].primary;
                self.server(primary).read_only = false;
                self.meddle(id);
            }
            for cluster in self.sites.keys().copied().collect::<Vec<_>>() {
                self.round(cluster);
                self.pass(200);
            }
            // Who keeps reads on the primary hears that its replicas are well.
            for (id, site) in &self.sites {
                let replicas = site.spec.pairs.iter().flat_map(|pair| &pair.replicas);
                said.extend(replicas.map(|share| (*id, AdminTarget::Backend(share.backend))));
            }
            for (cluster, target) in said.drain(..) {
                self.put_admin(cluster, target, AdminSetting::default(), Drain::Finish);
            }
            self.time_out();
            self.answer_all();
        }
        // What is left are waits of replicas that flapped, the last steps of slow starts, and of failovers.
        let slowest =
            self.sites.values().map(|site| 16 * site.spec.hold_off + site.spec.slow_start).max();
        let warm_at = self.now + slowest.unwrap_or_default() + Duration::from_secs(60);
        while self.policy.deadline().is_some() {
            self.time_out();
            assert!(self.now <= warm_at, "something takes too long");
            self.answer_all();
        }
        assert!(self.waiting.is_empty(), "a flip was never answered: {:?}", self.waiting);
        assert_eq!(self.policy.deadline(), None, "something is left to do");
        for (view, site) in self.policy.view().clusters.iter().zip(self.sites.values()) {
            let pair = &site.spec.pairs[usize::from(view.active.0)];
            let table = site.kernel.as_ref().expect("a table is in force");
            assert_eq!(table.active, view.active);
            assert!(table.routes[usize::from(WRITES.0)].backends().eq([pair.primary]));
            let reads = &site.spec.routes[usize::from(READS.0)];
            let standbys = site.spec.pairs.iter().filter(|other| {
                reads.standby_replicas == StandbyReplicas::Always && other.id != pair.id
            });
            let standbys = standbys.flat_map(|other| other.replicas.clone());
            let replicas: Vec<Share> = pair.replicas.iter().copied().chain(standbys).collect();
            assert_eq!(table.routes[usize::from(READS.0)].shares(), replicas);
            let written = site.state_file.as_ref().expect("a state file");
            assert_eq!(*written, (view.active, view.failover.memory.clone()));
            assert_eq!(site.intent, None, "the state file still has a switchover");
            if let Failover::Auto { .. } = site.spec.failover {
                assert_eq!(
                    view.failover.memory.out, site.out,
                    "it forgot who is out, or never learned it"
                );
                let is_open = matches!(
                    view.failover.outlook,
                    Outlook::Ready { .. } | Outlook::Unready { .. }
                );
                assert!(is_open, "{:?}", view.failover.outlook);
            }
        }
    }

    pub(crate) fn answer_all(&mut self) {
        while !self.pending.is_empty() {
            self.answer(0, 99, 0);
        }
    }

    /// Ends an outage that every backend's checks have met: probes come round faster than `fall` of
    /// them fail.
    fn end_outage(&mut self) {
        for backend in self.all() {
            if self.is_outage && !self.servers[&backend].told.last_is_silent {
                self.hear(backend);
                self.check(backend, 0);
            }
        }
        self.is_outage = false;
        // What was asked before it ended must not arrive after it as if it were new.
        for backend in self.all() {
            self.hear(backend);
        }
    }

    fn check(&mut self, backend: BackendId, noise: u8) {
        // Probes of one server do not overlap.
        self.hear(backend);
        self.ask(backend, noise);
        self.hear(backend);
    }

    /// What a server would say now.
    fn ask(&mut self, backend: BackendId, noise: u8) {
        if self.servers[&backend].on_its_way.is_some() {
            return;
        }
        if self.admin(backend) == Admin::Maint {
            // Not checked; but for a probe that was on its way, which nobody minds.
            if noise.is_multiple_of(4) {
                let before = self.known();
                let result = failed(Cause::Refused);
                self.feed(Input::Checked { backend, result }, Fed::Nonsense);
                assert_eq!(self.known(), before, "a check counts in maintenance");
            }
            return;
        }
        let is_outage = self.is_outage;
        let protocol = noise % 4 == 1;
        let server = self.server(backend);
        let result = match server.mode {
            _ if (is_outage || server.is_cut_off) && protocol => failed(Cause::Unreachable),
            _ if is_outage || server.is_cut_off => failed(Cause::TimedOut),
            Mode::Alive => CheckResult::Answered(server.facts(backend)),
            Mode::Dead if protocol => failed(Cause::ConnectionLost),
            Mode::Dead => failed(Cause::Refused),
            Mode::Silent => failed(Cause::TimedOut),
            Mode::Denies => failed(Cause::AuthDenied),
        };
        let is_mute = is_outage || server.is_cut_off || server.mode == Mode::Silent;
        let opinion = if is_mute { Opinion::Silent } else { server.condition };
        server.on_its_way = Some((result, opinion, is_outage));
    }

    /// What a server said arrives.
    fn hear(&mut self, backend: BackendId) {
        let on_its_way = self.server(backend).on_its_way.take();
        let Some((result, opinion, is_outage)) = on_its_way else { return };
        self.seen.add("late_checks");
        self.tick += 1;
        let (now, tick) = (self.now, self.tick);
        let spec = self.sites[&self.servers[&backend].cluster].spec.clone();
        self.hear_condition(backend, opinion);
        self.server(backend).tell(&result, is_outage, &spec, now, tick);
        self.feed(Input::Checked { backend, result }, Fed::Check);
    }

    /// What a server's condition said arrives: a probe asks for it together with the rest.
    fn hear_condition(&mut self, backend: BackendId, opinion: Opinion) {
        self.server(backend).tell_opinion(opinion);
        let unanswered = |cause| Outcome::Unanswered(CheckFailure { cause, text: String::new() });
        let outcome = match opinion {
            Opinion::Passes => Outcome::Passed,
            Opinion::Fails => Outcome::Failed { text: "simulated".into() },
            Opinion::Maintenance => Outcome::Maintenance { text: "simulated".into() },
            Opinion::Silent => unanswered(Cause::TimedOut),
            Opinion::Unjudged => unanswered(Cause::Local),
        };
        match opinion {
            Opinion::Passes | Opinion::Silent => {}
            Opinion::Fails => self.seen.add("conditions_failed"),
            Opinion::Maintenance => self.seen.add("maintenance"),
            Opinion::Unjudged => self.seen.add("unjudged"),
        }
        let conditions = vec![Condition { name: "agent".into(), about: About::Server, outcome }];
        let deaths = self.deaths;
        self.feed(Input::Conditions { backend, conditions }, Fed::Condition);
        if deaths != self.deaths {
            // The daemon that follows is told the rest alone.
            self.server(backend).told.opinion = None;
        }
    }

    /// Every server fetches what it can and applies it.
    pub(crate) fn replicate(&mut self, cluster: ClusterId) {
        let backends = self.backends(cluster);
        for backend in backends {
            for index in 0..self.servers[&backend].inflows.len() {
                self.fetch(backend, index);
            }
            // Some are busy with what they have.
            let is_busy = (self.writes + u64::from(backend.0)).is_multiple_of(5);
            let server = self.server(backend);
            if server.is_alive() && server.applies && !server.sql_stopped && !is_busy {
                for inflow in &mut server.inflows {
                    for write in inflow.relay.drain(..) {
                        if !server.log.contains(&write) {
                            server.log.push(write);
                        }
                    }
                }
            }
        }
    }

    fn fetch(&mut self, backend: BackendId, index: usize) {
        let server = &self.servers[&backend];
        if !server.is_alive() || server.io_stopped {
            return;
        }
        let source = server.inflows[index].source;
        let is_cut = self.cuts.contains(&ordered(backend, source));
        let is_there = self.servers[&source].is_alive() && !is_cut;
        let log = self.servers[&source].log.clone();
        // Some get more than others before it dies.
        let is_slow = (self.writes + u64::from(backend.0)).is_multiple_of(3);
        let inflow = &mut self.server(backend).inflows[index];
        if is_there {
            inflow.thread = IoThread::Running;
            let from = inflow.fetched.min(log.len());
            let to = if is_slow { from } else { log.len() };
            inflow.relay.extend(&log[from..to]);
            inflow.fetched = to;
        } else {
            // A process that ended is noticed at once, and that it is not there again a moment later; a silence later.
            inflow.thread = match inflow.thread {
                IoThread::Running => IoThread::Connecting { error: 0 },
                _ => IoThread::Connecting { error: 2003 },
            };
        }
    }

    pub(crate) fn write(&mut self, cluster: ClusterId, old_flow: bool) {
        let site = &self.sites[&cluster];
        let table = site.kernel.as_ref();
        let to = table.and_then(|it| it.routes[usize::from(WRITES.0)].backends().next());
        let old = site.flows.iter().copied().find(|backend| Some(*backend) != to);
        let Some(backend) = (if old_flow { old.or(to) } else { to }) else { return };
        let is_new = !site.flows.contains(&backend);
        if let Some(hold) = site.hold.filter(|hold| hold.until > self.now)
            && (is_new || hold.backend == Some(backend))
        {
            self.seen.add("paused_writes");
            return;
        }
        self.site(cluster).flows.insert(backend);
        let is_outage = self.is_outage;
        let server = self.server(backend);
        if !server.is_alive() || server.is_cut_off || is_outage || server.read_only {
            return;
        }
        self.writes += 1;
        let write = self.writes;
        self.server(backend).log.push(write);
        self.seen.add("writes");
        self.judge_write(cluster, backend);
        let pair = self.servers[&backend].pair;
        let site = &self.sites[&cluster];
        assert!(
            !site.out.contains(&pair) || site.asked.contains(&pair),
            "{backend} failed, and a client wrote to it"
        );
    }

    fn change(&mut self, server: u8, what: Change) {
        let backend = self.backend(server);
        let server = self.server(backend);
        match what {
            Change::Well => server.repair(),
            Change::Dead => server.mode = Mode::Dead,
            Change::Silent => server.mode = Mode::Silent,
            Change::Denies => server.mode = Mode::Denies,
            Change::Lags => server.lags = true,
            Change::AppliesNothing => server.applies = false,
            Change::StopsIo => server.io_stopped = true,
            Change::StopsSql => server.sql_stopped = true,
            Change::TogglesReadOnly => {
                server.read_only = !server.read_only;
                let cluster = server.cluster;
                self.meddle(cluster);
            }
            Change::LiesAboutReadOnly => server.lies_read_only = true,
            Change::LiesAboutLag => server.lies_lag = true,
            Change::Condition(opinion) => server.condition = opinion,
            Change::TellsTheTruth => {
                server.lies_read_only = false;
                server.lies_lag = false;
            }
        }
    }

    fn flip(&mut self, cluster: u8, to: Option<u8>, drain: u8, force: bool) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let cluster = ClusterId(cluster.into());
        let to = to.map(|pair| PairId(pair.into()));
        let drain = [None, Some(Drain::Finish), Some(Drain::Cut), Some(Drain::Idle)]
            [usize::from(drain % 4)];
        let force = if force { BTreeSet::from(Precondition::ALL) } else { BTreeSet::new() };
        self.waiting.insert(request, cluster);
        if let Some(site) = self.sites.get_mut(&cluster) {
            match to {
                Some(pair) => site.asked.insert(pair),
                None => {
                    site.asked.extend(site.spec.pairs.iter().map(|pair| pair.id));
                    true
                }
            };
        }
        self.feed(Input::Flip { cluster, request, to, drain, force }, Fed::Flip);
    }

    fn put_admin(
        &mut self,
        cluster: ClusterId,
        target: AdminTarget,
        setting: AdminSetting,
        flows: Drain,
    ) {
        let before = self.admins();
        let ends = flows == Drain::Cut && setting.admin != Admin::Ready;
        let said_of = match target {
            AdminTarget::Backend(backend) => {
                let pair = self.servers[&backend].pair;
                let pairs = &self.sites[&cluster].spec.pairs;
                (pairs[usize::from(pair.0)].primary == backend).then_some(pair)
            }
            AdminTarget::Pair(pair) => Some(pair),
        };
        let site = self.site(cluster);
        if setting.admin == Admin::Ready {
            site.admin.remove(&target);
            if said_of.is_some_and(|pair| site.out.remove(&pair)) && site.out.is_empty() {
                site.failed_over_at = None;
            }
        } else {
            site.admin.insert(target, setting);
            self.seen.add("taken_out");
        }
        self.site(cluster).admin_cut = ends.then_some(match target {
            AdminTarget::Backend(backend) => EndWhich::Backend(backend),
            AdminTarget::Pair(pair) => EndWhich::Pair(pair),
        });
        self.admin_moved(&before);
        let deaths = self.deaths;
        let deadline = setting.until.map(|until| until.since(Moment::START));
        self.feed(Input::SetAdmin { cluster, target, setting, flows, deadline }, Fed::Operator);
        let has_died = deaths != self.deaths;
        let left = self.site(cluster).admin_cut.take();
        assert!(left.is_none() || has_died, "flows were to be ended");
    }

    /// What operators said about each backend, its pair included.
    pub(crate) fn admins(&self) -> BTreeMap<BackendId, Admin> {
        self.servers.keys().map(|backend| (*backend, self.admin(*backend))).collect()
    }

    pub(crate) fn admin(&self, backend: BackendId) -> Admin {
        let server = &self.servers[&backend];
        let site = &self.sites[&server.cluster];
        let said = |target| site.admin.get(&target).map_or(Admin::Ready, |setting| setting.admin);
        said(AdminTarget::Backend(backend)).max(said(AdminTarget::Pair(server.pair)))
    }

    /// What the present daemon knows of who was put into maintenance, or out of it, is void.
    pub(crate) fn admin_moved(&mut self, before: &BTreeMap<BackendId, Admin>) {
        let (after, now) = (self.admins(), self.now);
        for (id, from) in before {
            let (to, server) = (after[id], self.server(*id));
            if *from == to {
                continue;
            }
            // It starts slowly when it is back.
            server.told.was_ill = true;
            server.told.fit_since = server.told.fit_since.map(|_| now);
            if *from == Admin::Maint || to == Admin::Maint {
                server.forget();
            }
            if to == Admin::Maint {
                let cluster = server.cluster;
                self.site(cluster).found.remove(id);
            }
        }
    }

    fn nonsense(&mut self, kind: u8, cluster: u8) {
        let cluster = ClusterId(cluster.into());
        let id = StepId(u64::MAX);
        let input = match kind % 8 {
            0 => Input::Checked { backend: BackendId(999), result: failed(Cause::Refused) },
            1 => Input::Applied { cluster, generation: Generation(u32::MAX), result: Ok(()) },
            2 => Input::Fenced {
                cluster,
                backend: BackendId(998),
                result: Ok(Fenced { was_read_only: false }),
            },
            4 => Input::StepDone { cluster, id, result: Ok(StepAnswer::Done) },
            5 => Input::CallOff { cluster, request: Some(RequestId(u64::MAX)) },
            3 => Input::Unfenced { cluster, backend: BackendId(998), result: Ok(()) },
            6 => Input::Drained {
                cluster,
                which: EndWhich::Backend(BackendId(998)),
                result: Drained::default(),
            },
            _ => Input::Persisted { cluster: ClusterId(77), result: Ok(()) },
        };
        let before = self.known();
        let deaths = self.deaths;
        self.feed(input, Fed::Nonsense);
        let has_died = deaths != self.deaths;
        assert!(has_died || self.known() == before, "nonsense changed something");
    }

    pub(crate) fn time_out(&mut self) {
        if let Some(deadline) = self.policy.deadline() {
            self.now = self.now.max(deadline);
        }
        let now = self.now;
        self.note(format_args!("{now} time out"));
        self.policy.handle_timeout(self.now);
        let deaths = self.deaths;
        self.drain(Fed::Timeout);
        let deadline = self.policy.deadline().filter(|_| deaths == self.deaths);
        assert!(deadline.is_none_or(|at| at > self.now), "due again at once: {deadline:?}");
    }

    /// Lets a driver finish one thing, or fail at it.
    pub(crate) fn answer(&mut self, index: u8, luck: u8, late: u8) {
        let index = usize::from(index) % self.pending.len().max(1);
        let Some(output) = self.pending.remove(index) else { return };
        let fails = luck < self.failing_drivers;
        match output {
            Output::SwapRoutes { cluster, table, reason } => {
                let generation = table.generation;
                let site = self.site(cluster);
                site.swap_failed = fails;
                let result = if fails {
                    self.seen.add("swaps_failed");
                    Err(ApplyError { reason: "simulated".into() })
                } else {
                    self.swapped(cluster, table, reason);
                    Ok(())
                };
                self.feed(Input::Applied { cluster, generation, result }, Fed::Driver);
            }
            Output::PersistActive { cluster, pair, failover, reason: _, intent } => {
                // A write can also fail after the file was replaced.
                if !fails || late.is_multiple_of(3) {
                    self.written(cluster, pair, failover, intent);
                }
                let result =
                    if fails { Err(PersistError { reason: "simulated".into() }) } else { Ok(()) };
                self.feed(Input::Persisted { cluster, result }, Fed::Driver);
            }
            Output::Fence { cluster, backend, reason, .. } => {
                let result = self.fence(backend, true, fails, late);
                if reason == FenceReason::Failover {
                    let is_gone =
                        matches!(&result, Err(error) if error.fault == FenceFault::Unreachable);
                    self.site(cluster).unreachable_at = None;
                    if is_gone {
                        let (tick, now) = (self.tick, self.now);
                        self.site(cluster).unreachable_at = Some((backend, tick));
                        self.site(cluster).decided_at = Some(now);
                    }
                    match &result {
                        Ok(Fenced { was_read_only: false }) => {
                            self.site(cluster).fenced.insert(backend);
                        }
                        Err(error) if error.fault == FenceFault::Unknown => {
                            self.site(cluster).fenced.insert(backend);
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
                if result.is_ok() {
                    self.server(backend).told.read_only = Some(true);
                }
                self.feed(Input::Fenced { cluster, backend, result }, Fed::Driver);
            }
            Output::Unfence { cluster, backend, reason, .. } => {
                let must_have_applied = reason == UnfenceReason::Promotion;
                let result = if must_have_applied && !self.servers[&backend].has_applied() {
                    Err(fence_error(FenceFault::NotApplied))
                } else {
                    self.fence(backend, false, fails, late).map(|_| ())
                };
                if result.is_ok() {
                    self.server(backend).told.read_only = Some(false);
                    if must_have_applied {
                        assert!(
                            self.servers[&backend].has_applied(),
                            "promoted without what it had received"
                        );
                    }
                }
                self.feed(Input::Unfenced { cluster, backend, result }, Fed::Driver);
            }
            Output::Step { cluster, id, step, .. } => {
                let result = self.do_step(cluster, &step, fails, late);
                if result.is_ok() {
                    self.saw_step(&step);
                }
                self.feed(Input::StepDone { cluster, id, result }, Fed::Driver);
            }
            Output::CancelStep { .. }
            | Output::SwitchoverReply { .. }
            | Output::EndFlows { .. }
            | Output::DrainFlows { .. }
            | Output::StopDrain { .. }
            | Output::Reply { .. }
            | Output::SetPace { .. }
            | Output::ForgetAdmin { .. }
            | Output::Event(_) => unreachable!("only questions are pending"),
        }
    }

    /// A server is made read-only or writable, as far as it is there.
    pub(crate) fn fence(
        &mut self,
        backend: BackendId,
        read_only: bool,
        fails: bool,
        late: u8,
    ) -> Result<Fenced, FenceError> {
        self.seen.add("fences");
        let is_outage = self.is_outage;
        let server = self.server(backend);
        if is_outage || server.is_cut_off || matches!(server.mode, Mode::Dead | Mode::Silent) {
            return Err(fence_error(FenceFault::Unreachable));
        }
        if server.mode == Mode::Denies {
            return Err(fence_error(FenceFault::Refused));
        }
        let was_read_only = server.read_only;
        if fails {
            // The session is lost in the middle: it was done, or not.
            if late.is_multiple_of(2) {
                server.read_only = read_only;
                return Err(fence_error(FenceFault::Unknown));
            }
            return Err(fence_error(if late == 1 {
                FenceFault::Unknown
            } else {
                FenceFault::Refused
            }));
        }
        server.read_only = read_only;
        Ok(Fenced { was_read_only })
    }

    fn swapped(&mut self, cluster: ClusterId, table: RouteTable, reason: ChangeReason) {
        let now = self.now;
        let site = self.site(cluster);
        site.kernel = Some(table);
        if let ChangeReason::Failover { from, .. } = reason {
            site.out.insert(from);
            site.failed_over_at = Some(site.decided_at.unwrap_or(now));
            self.seen.add("failovers");
        }
    }

    fn written(
        &mut self,
        cluster: ClusterId,
        pair: PairId,
        failover: FailoverMemory,
        intent: Option<Intent>,
    ) {
        let site = self.site(cluster);
        if intent.is_none()
            && failover.out.is_empty()
            && site.intent.as_ref().is_some_and(|before| before.to == pair)
        {
            // An operator made it active, and whatever had failed is known.
            site.out.clear();
            site.failed_over_at = None;
        }
        site.state_file = Some((pair, failover));
        site.intent = intent;
    }

    /// The daemon dies. What a driver had in hand was done, or was not.
    pub(crate) fn restart(&mut self, done: u16, is_reboot: bool) {
        self.dying = None;
        self.deaths += 1;
        self.seen.add("restarts");
        for (index, output) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if done >> (index % 16) & 1 == 0 {
                continue;
            }
            match output {
                Output::SwapRoutes { cluster, table, reason } => {
                    self.swapped(cluster, table, reason);
                }
                Output::PersistActive { cluster, pair, failover, intent, .. } => {
                    self.written(cluster, pair, failover, intent);
                }
                Output::Fence { backend, .. } => _ = self.fence(backend, true, false, 0),
                Output::Unfence { backend, reason, .. } => {
                    if reason == UnfenceReason::Undo || self.servers[&backend].has_applied() {
                        _ = self.fence(backend, false, false, 0);
                    }
                }
                Output::Step { cluster, step, .. } => self.stop_step(cluster, &step, true),
                Output::CancelStep { .. }
                | Output::SwitchoverReply { .. }
                | Output::EndFlows { .. }
                | Output::DrainFlows { .. }
                | Output::StopDrain { .. }
                | Output::Reply { .. }
                | Output::SetPace { .. }
                | Output::ForgetAdmin { .. }
                | Output::Event(_) => {}
            }
        }
        self.note(format_args!("{}", if is_reboot { "reboot" } else { "restart" }));
        let now = self.now;
        let mut restored = Restored::default();
        for (id, site) in &mut self.sites {
            if is_reboot {
                site.kernel = None;
                site.hold = None;
                site.flows.clear();
            }
            site.generation = site.kernel.as_ref().map_or(Generation(0), |table| table.generation);
            site.swap_failed = false;
            site.cut.clear();
            site.unreachable_at = None;
            site.fenced.clear();
            site.keeps_writes = false;
            if let (Some(run), None) = (&mut site.run, &site.intent) {
                // Nothing was changed so far, or everything is over.
                run.is_over = true;
            }
            restored.intents.extend(site.intent.clone().map(|intent| (*id, intent)));
            site.found = site.kernel.iter().flat_map(targets).collect();
            restored.active.extend(site.state_file.as_ref().map(|(pair, _)| (*id, *pair)));
            let failover = site.state_file.as_ref().map(|(_, failover)| failover.clone());
            restored.failovers.extend(failover.map(|failover| (*id, failover)));
            restored.generation.insert(*id, site.generation);
            restored.tables.extend(site.kernel.clone().map(|table| (*id, table)));
            restored.admin.insert(*id, site.admin.clone());
        }
        for server in self.servers.values_mut() {
            server.told = crate::server::Told::default();
            server.on_its_way = None;
        }
        self.waiting.clear();
        // A daemon takes its drains with it.
        self.drains.clear();
        let specs = self.sites.values().map(|site| site.spec.clone()).collect();
        self.policy = Policy::new(specs, restored, self.now);
        for view in self.policy.view().clusters {
            let site = self.sites.get_mut(&view.id).expect("a configured cluster");
            if let Some(table) =
                site.kernel.as_ref().filter(|table| targets(table).next().is_some())
            {
                assert_eq!(view.active, table.active, "a restart flipped");
            } else if let Some(last) =
                site.state_file.as_ref().and_then(|(_, memory)| memory.last.as_ref())
                && last.stage == FailoverStage::Promoting
                && last.to == view.active
                && !site.out.contains(&last.from)
            {
                // The kernel forgot or had nothing to say, and the state file has a failover before its swap.
                site.out.insert(last.from);
                site.failed_over_at = Some(site.decided_at.unwrap_or(now));
            }
            // An operator's word that had not reached the disk is to be said again: until then nothing goes there.
            if let Some((_, memory)) = &site.state_file {
                site.out.extend(&memory.out);
            }
            // Who takes the connections is not out.
            site.out.remove(&view.active);
        }
        self.drain(Fed::Start);
    }

    pub(crate) fn feed(&mut self, input: Input, fed: Fed) {
        let now = self.now;
        self.note(format_args!("{now} {input:?}"));
        if now.since(self.fed_at) > Duration::from_secs(60) {
            self.awake_since = now;
        }
        self.fed_at = now;
        self.policy.handle(input, self.now);
        self.drain(fed);
    }

    fn drain(&mut self, fed: Fed) {
        let mut is_news = !matches!(fed, Fed::Check | Fed::Condition);
        while let Some(output) = self.policy.poll_output() {
            is_news = true;
            if let Some((outputs, done)) = &mut self.dying {
                if *outputs == 0 {
                    let done = *done;
                    self.seen.add("crashes");
                    return self.restart(done, false);
                }
                *outputs -= 1;
            }
            if !matches!(output, Output::SetPace { .. }) {
                self.note(format_args!("    -> {output:?}"));
            }
            self.judge(&output, fed);
            if let Output::CancelStep { cluster, id } = &output {
                self.cancel(*cluster, *id);
            }
            if is_question(&output) {
                let kind = std::mem::discriminant(&output);
                let twin = self.pending.iter().any(|other| {
                    std::mem::discriminant(other) == kind
                        && cluster_of(other) == cluster_of(&output)
                });
                assert!(!twin, "two of a kind are under way");
                self.pending.push_back(output);
            }
        }
        // A check that changes nothing is judged with the action that it is part of.
        if is_news {
            self.judge_rest();
        }
    }

    /// All that the policy knows, but for what follows from it as time goes by.
    fn known(&self) -> PolicyView {
        let mut view = self.policy.view();
        view.clusters.iter_mut().for_each(|cluster| cluster.failover.outlook = Outlook::Manual);
        view
    }

    /// A driver is told to stop: what it had in hand was done, or was not.
    fn cancel(&mut self, cluster: ClusterId, id: StepId) {
        let is_it = |output: &Output| matches!(output, Output::Step { cluster: of, id: it, .. } if (*of, *it) == (cluster, id));
        let Some(index) = self.pending.iter().position(is_it) else { return };
        if let Some(Output::Step { step, .. }) = self.pending.remove(index) {
            self.seen.add("steps_cancelled");
            let is_done = self.writes.is_multiple_of(2);
            self.stop_step(cluster, &step, is_done);
        }
    }

    /// The daemon is told what a server takes by now.
    fn saw_step(&mut self, step: &Step) {
        let now = self.now;
        match step {
            Step::Fence { backend } => {
                let told = &mut self.server(*backend).told;
                told.read_only = Some(true);
                told.unfenced_at = None;
            }
            Step::Unfence { backend } => {
                let told = &mut self.server(*backend).told;
                told.read_only = Some(false);
                told.unfenced_at = Some(now);
            }
            _ => {}
        }
    }

    fn backends(&self, cluster: ClusterId) -> Vec<BackendId> {
        self.sites[&cluster].spec.pairs.iter().flat_map(|pair| pair.backends()).collect()
    }

    fn all(&self) -> Vec<BackendId> {
        self.servers.keys().copied().collect()
    }

    fn cluster(&self, index: u8) -> ClusterId {
        ClusterId(u16::from(index) % self.sites.len() as u16)
    }

    fn backend(&self, index: u8) -> BackendId {
        let index = usize::from(index) % self.servers.len();
        *self.servers.keys().nth(index).expect("there are servers")
    }

    fn link(&self, one: u8, other: u8) -> (BackendId, BackendId) {
        ordered(self.backend(one), self.backend(other))
    }

    pub(crate) fn server(&mut self, backend: BackendId) -> &mut Server {
        self.servers.get_mut(&backend).expect("a configured backend")
    }

    pub(crate) fn site(&mut self, cluster: ClusterId) -> &mut Site {
        self.sites.get_mut(&cluster).expect("a configured cluster")
    }

    fn note(&mut self, text: fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            trace.push(text.to_string());
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the world of seed {}", self.seed)
    }
}

/// What the policy was fed when it put something out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fed {
    Start,
    Check,
    Condition,
    Flip,
    Driver,
    Timeout,
    Operator,
    Nonsense,
}

impl Site {
    fn new(spec: ClusterSpec) -> Self {
        Self {
            spec,
            kernel: None,
            state_file: None,
            generation: Generation(0),
            asked: BTreeSet::new(),
            cut: BTreeSet::new(),
            found: BTreeSet::new(),
            swap_failed: false,
            admin: BTreeMap::new(),
            admin_cut: None,
            flows: BTreeSet::new(),
            out: BTreeSet::new(),
            failed_over_at: None,
            decided_at: None,
            unreachable_at: None,
            fenced: BTreeSet::new(),
            intent: None,
            run: None,
            hold: None,
            keeps_writes: false,
        }
    }
}

fn ordered(one: BackendId, other: BackendId) -> (BackendId, BackendId) {
    (one.min(other), one.max(other))
}

fn fence_error(fault: FenceFault) -> FenceError {
    FenceError { fault, text: "simulated".into() }
}

pub(crate) fn targets(table: &RouteTable) -> impl Iterator<Item = BackendId> + '_ {
    table.routes.iter().flat_map(RouteTarget::backends)
}

fn is_question(output: &Output) -> bool {
    match output {
        Output::SwapRoutes { .. }
        | Output::PersistActive { .. }
        | Output::Fence { .. }
        | Output::Unfence { .. }
        | Output::Step { .. } => true,
        Output::CancelStep { .. }
        | Output::SwitchoverReply { .. }
        | Output::EndFlows { .. }
        | Output::DrainFlows { .. }
        | Output::StopDrain { .. }
        | Output::Reply { .. }
        | Output::SetPace { .. }
        | Output::ForgetAdmin { .. }
        | Output::Event(_) => false,
    }
}

pub(crate) fn cluster_of(output: &Output) -> Option<ClusterId> {
    match output {
        Output::SwapRoutes { cluster, .. }
        | Output::EndFlows { cluster, .. }
        | Output::DrainFlows { cluster, .. }
        | Output::StopDrain { cluster, .. }
        | Output::PersistActive { cluster, .. }
        | Output::Fence { cluster, .. }
        | Output::Unfence { cluster, .. }
        | Output::Step { cluster, .. }
        | Output::CancelStep { cluster, .. }
        | Output::ForgetAdmin { cluster, .. } => Some(*cluster),
        Output::Reply { .. } | Output::SwitchoverReply { .. } | Output::SetPace { .. } => None,
        Output::Event(event) => event.cluster,
    }
}
