//! Simulation: seeded worlds of servers, drivers that are slow and fail, a network that goes away,
//! operators that ask for anything, and daemons that die. After every step the invariants of
//! `DESIGN.md` 6 are checked against what the world did, never against what the policy believes.
//!
//! A failure prints the seed and every input, and keeps them as a file. `PAIRFLIP_SEED=N` replays
//! one seed, `PAIRFLIP_SEEDS=N` runs that many.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use common::{READS, WRITES, answered, cluster, failed};
use pairflip_policy::*;

/// Seeds of a normal run; a few seconds without optimization.
const SEEDS: u64 = 2000;
/// Steps of one seed: enough for a few flips, outages and restarts.
const STEPS: u32 = 100;

#[test]
fn the_invariants_hold_in_every_seeded_world() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("PAIRFLIP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PAIRFLIP_SEEDS").unwrap_or(SEEDS),
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let seen = std::thread::scope(|scope| {
        let part = |first| {
            let seeds = seeds.clone().skip(first).step_by(threads);
            scope.spawn(|| seeds.map(run).fold(Seen::default(), Seen::plus))
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, Seen>| part.join().expect("no failure");
        parts.into_iter().map(join).fold(Seen::default(), Seen::plus)
    });
    // A simulation in which nothing happens proves nothing.
    if seeds.end - seeds.start >= SEEDS {
        let Seen { flips, refused, undone, ends, restarts, outages, swaps_failed, .. } = seen;
        let Seen { slow_starts, taken_out, expired, taken_out_cut, flapping, too_few, .. } = seen;
        let Seen { conditions_failed, maintenance, unjudged, .. } = seen;
        let rarest = [
            [conditions_failed, maintenance, unjudged].as_slice(),
            &[flips, refused, undone, ends, restarts, outages],
            &[swaps_failed, slow_starts, taken_out, expired, taken_out_cut, flapping, too_few],
        ]
        .concat();
        assert!(rarest.iter().all(|count| *count > SEEDS / 10), "too quiet a world: {seen:?}");
    }
}

fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    std::mem::take(&mut world.seen)
}

/// What happened, to tell a busy world from a quiet one.
#[derive(Debug, Default)]
struct Seen {
    flips: u64,
    refused: u64,
    undone: u64,
    ends: u64,
    restarts: u64,
    outages: u64,
    swaps_failed: u64,
    /// Tables with a share that is not full yet.
    slow_starts: u64,
    /// Admin states set, run out by themselves, and those that ended flows.
    taken_out: u64,
    expired: u64,
    taken_out_cut: u64,
    /// Moments at which a replica waited because it flapped, and at which the primary helped too few.
    flapping: u64,
    too_few: u64,
    /// Conditions that failed, said maintenance, or could not be judged.
    conditions_failed: u64,
    maintenance: u64,
    unjudged: u64,
}

impl Seen {
    const fn plus(self, other: Self) -> Self {
        Self {
            flips: self.flips + other.flips,
            refused: self.refused + other.refused,
            undone: self.undone + other.undone,
            ends: self.ends + other.ends,
            restarts: self.restarts + other.restarts,
            outages: self.outages + other.outages,
            swaps_failed: self.swaps_failed + other.swaps_failed,
            slow_starts: self.slow_starts + other.slow_starts,
            taken_out: self.taken_out + other.taken_out,
            expired: self.expired + other.expired,
            taken_out_cut: self.taken_out_cut + other.taken_out_cut,
            flapping: self.flapping + other.flapping,
            too_few: self.too_few + other.too_few,
            conditions_failed: self.conditions_failed + other.conditions_failed,
            maintenance: self.maintenance + other.maintenance,
            unjudged: self.unjudged + other.unjudged,
        }
    }
}

/// What a server is like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Healthy,
    Lagging,
    NotReplicating,
    /// The process is gone.
    Dead,
    /// The host is gone.
    Silent,
    /// Alive, and turns the check account away.
    Denies,
}

/// One server, and what the present daemon was told about it.
#[derive(Clone, Debug)]
struct Server {
    cluster: ClusterId,
    mode: Mode,
    read_only: bool,
    /// As told; forgotten by a restart.
    last_read_only: Option<bool>,
    /// Failures in a row that may take it down, and how many of them were the server's own.
    failures: u32,
    failures_own: u32,
    last_is_silent: bool,
    /// Those failures in a row that need no witness.
    refusals: u32,
    /// Perfect answers in a row.
    passes: u32,
    /// Since when they are enough for a replica to be fit, whatever was before.
    fit_since: Option<Moment>,
    /// Something else than a perfect answer was told.
    was_ill: bool,
    /// How its one condition is, what the present daemon was told last, and how often in a row it was told that it fails.
    condition: Opinion,
    told_opinion: Option<Opinion>,
    opinion_failures: u32,
}

/// What a server's condition says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Opinion {
    Passes,
    Fails,
    Maintenance,
    Silent,
    /// Trouble of our own host.
    Unjudged,
}

/// One cluster of the world: what outlives a daemon, and what the operator waits for.
#[derive(Debug)]
struct Site {
    spec: ClusterSpec,
    kernel: Option<RouteTable>,
    state_file: Option<PairId>,
    /// Highest generation of any `SwapRoutes`; the present daemon's, or the kernel's after a
    /// restart.
    generation: Generation,
    /// Pairs that an operator asked for since the last flip, on top of the active one.
    asked: BTreeSet<PairId>,
    /// Pairs whose flows a finished flip may cut.
    cut: BTreeSet<PairId>,
    /// Targets of the kernel's table that the present daemon found at its start.
    found: BTreeSet<BackendId>,
    swap_failed: bool,
    /// What operators said and the state file keeps.
    admin: BTreeMap<AdminTarget, AdminSetting>,
    /// Whose flows an admin state may end.
    admin_cut: Option<EndWhich>,
}

struct World {
    seed: u64,
    random: Random,
    now: Moment,
    policy: Policy,
    sites: BTreeMap<ClusterId, Site>,
    servers: BTreeMap<BackendId, Server>,
    /// The way from us to every server is gone.
    is_outage: bool,
    /// Questions that the drivers have not answered, per cluster and kind in order.
    pending: VecDeque<Output>,
    /// In percent.
    failing_drivers: u64,
    requests: u64,
    waiting: BTreeMap<RequestId, ClusterId>,
    log: Vec<Line>,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut sites = BTreeMap::new();
        let mut servers = BTreeMap::new();
        for id in 0..1 + random.below(2) as u16 {
            let (pairs, replicas) = (2 + random.below(2) as u16, 1 + random.below(2) as u16);
            let mut spec = cluster(id, 100 * id, pairs, replicas);
            spec.fall = 1 + random.below(4) as u32;
            spec.rise = 1 + random.below(3) as u32;
            spec.slow_start =
                Duration::from_millis([0, 15, 2000, 10_000][random.below(4) as usize]);
            spec.hold_off = Duration::from_millis([0, 300, 2000, 10_000][random.below(4) as usize]);
            spec.routes[usize::from(READS.0)].min_replicas =
                1 + random.below(replicas.into()) as u32;
            for share in spec.pairs.iter_mut().flat_map(|pair| &mut pair.replicas) {
                share.weight = [1, 7, 100, 1000][random.below(4) as usize];
            }
            for pair in &spec.pairs {
                servers.extend(pair.backends().map(|backend| {
                    let read_only = backend != spec.pairs[0].primary;
                    (backend, Server::new(spec.id, read_only))
                }));
            }
            sites.insert(spec.id, Site::new(spec));
        }
        let specs = sites.values().map(|site| site.spec.clone()).collect();
        let mut world = Self {
            seed,
            now: Moment::START,
            policy: Policy::new(specs, Restored::default(), Moment::START),
            sites,
            servers,
            is_outage: false,
            pending: VecDeque::new(),
            failing_drivers: [0, 10, 50][random.below(3) as usize],
            random,
            requests: 0,
            waiting: BTreeMap::new(),
            log: Vec::new(),
            seen: Seen::default(),
        };
        world.drain(Fed::Start);
        world
    }

    /// Lets one thing happen.
    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(self.random.below(200));
        match self.random.below(100) {
            0..55 => {
                let backend = self.any_backend();
                self.check(backend);
            }
            55..75 => self.answer_pending(),
            75..80 => self.change_server(),
            80..82 => self.change_condition(),
            82..87 => self.ask_for_flip(),
            87..90 => self.set_admin(),
            90..92 => self.feed_nonsense(),
            92..94 => {
                if self.is_outage {
                    self.end_outage();
                } else {
                    self.is_outage = true;
                    self.seen.outages += 1;
                    self.note("outage");
                }
            }
            94..98 => self.time_out(),
            _ => self.restart(),
        }
    }

    /// Repairs everything and expects it to be served: nothing may stay broken for good.
    fn settle(&mut self) {
        self.note("settle");
        self.end_outage();
        self.failing_drivers = 0;
        let admin = |(id, site): (&ClusterId, &Site)| {
            site.admin.keys().map(|target| (*id, *target)).collect::<Vec<_>>()
        };
        for (cluster, target) in self.sites.iter().flat_map(admin).collect::<Vec<_>>() {
            self.put_admin(cluster, target, AdminSetting::default(), Drain::Finish);
        }
        for _ in 0..5 {
            for server in self.servers.values_mut() {
                server.mode = Mode::Healthy;
                server.condition = Opinion::Passes;
            }
            let actives =
                self.policy.view().clusters.into_iter().map(|view| (view.id, view.active));
            for (id, active) in actives.collect::<Vec<_>>() {
                let primary = self.sites[&id].spec.pairs[usize::from(active.0)].primary;
                self.server(primary).read_only = false;
            }
            for backend in self.servers.keys().copied().collect::<Vec<_>>() {
                self.check(backend);
                self.now = self.now + Duration::from_millis(200);
            }
            self.time_out();
            while !self.pending.is_empty() {
                self.answer_pending();
            }
        }
        // What is left are waits of replicas that flapped and the last steps of slow starts, ten of each replica at most.
        let slowest =
            self.sites.values().map(|site| 16 * site.spec.hold_off + site.spec.slow_start).max();
        let warm_at = self.now + slowest.unwrap_or_default();
        while self.policy.deadline().is_some() {
            self.time_out();
            assert!(self.now <= warm_at, "a slow start takes too long");
            while !self.pending.is_empty() {
                self.answer_pending();
            }
        }
        assert!(self.waiting.is_empty(), "a flip was never answered: {:?}", self.waiting);
        assert_eq!(self.policy.deadline(), None, "something is left to do");
        for (view, site) in self.policy.view().clusters.iter().zip(self.sites.values()) {
            let pair = &site.spec.pairs[usize::from(view.active.0)];
            let table = site.kernel.as_ref().expect("a table is in force");
            assert_eq!(table.active, view.active);
            assert!(table.routes[usize::from(WRITES.0)].backends().eq([pair.primary]));
            assert_eq!(table.routes[usize::from(READS.0)].shares(), pair.replicas);
            assert_eq!(site.state_file, Some(view.active));
        }
    }

    /// Ends an outage that every backend's checks have met: probes come round faster than `fall` of
    /// them fail.
    fn end_outage(&mut self) {
        for backend in self.servers.keys().copied().collect::<Vec<_>>() {
            if self.is_outage && !self.servers[&backend].last_is_silent {
                self.check(backend);
            }
        }
        self.is_outage = false;
        self.note("no outage");
    }

    fn check(&mut self, backend: BackendId) {
        if self.admin(backend) == Admin::Maint {
            // Not checked; but for a probe that was on its way, which nobody minds.
            if self.random.below(4) == 0 {
                let before = self.policy.view();
                let result = failed(Cause::Refused);
                self.feed(Input::Checked { backend, result }, Fed::Nonsense);
                assert_eq!(self.policy.view(), before, "a check counts in maintenance");
            }
            return;
        }
        self.judge_condition(backend);
        let is_outage = self.is_outage;
        let protocol = self.random.below(4) == 0;
        let (now, rise) = (self.now, self.sites[&self.servers[&backend].cluster].spec.rise);
        let server = self.server(backend);
        let result = match server.mode {
            _ if is_outage && protocol => failed(Cause::Unreachable),
            _ if is_outage => failed(Cause::TimedOut),
            Mode::Healthy => answered(server.read_only, Some(0)),
            Mode::Lagging => answered(server.read_only, Some(60)),
            Mode::NotReplicating => answered(server.read_only, None),
            Mode::Dead if protocol => failed(Cause::ConnectionLost),
            Mode::Dead => failed(Cause::Refused),
            Mode::Silent => failed(Cause::TimedOut),
            Mode::Denies => failed(Cause::AuthDenied),
        };
        server.last_is_silent = result.is_silence();
        server.told(&result, rise, now);
        match &result {
            CheckResult::Answered(facts) => server.last_read_only = Some(facts.read_only),
            CheckResult::Failed(_) | CheckResult::Reached => {}
        }
        match &result {
            CheckResult::Failed(failure) if failure.cause.may_take_down() => {
                server.failures += 1;
                server.failures_own += u32::from(!is_outage);
            }
            CheckResult::Failed(_) | CheckResult::Answered(_) | CheckResult::Reached => {
                server.failures = 0;
                server.failures_own = 0;
            }
        }
        self.feed(Input::Checked { backend, result }, Fed::Check);
    }

    /// Tells how a server's condition is. A probe asks for it together with the rest.
    fn judge_condition(&mut self, backend: BackendId) {
        let is_outage = self.is_outage;
        let server = self.server(backend);
        let opinion = if is_outage { Opinion::Silent } else { server.condition };
        server.told_condition(opinion);
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
            Opinion::Fails => self.seen.conditions_failed += 1,
            Opinion::Maintenance => self.seen.maintenance += 1,
            Opinion::Unjudged => self.seen.unjudged += 1,
        }
        let conditions = vec![Condition { name: "agent".into(), about: About::Server, outcome }];
        self.feed(Input::Conditions { backend, conditions }, Fed::Condition);
    }

    fn change_condition(&mut self) {
        let backend = self.any_backend();
        let condition = match self.random.below(8) {
            0..4 => Opinion::Passes,
            4 => Opinion::Fails,
            5 => Opinion::Maintenance,
            6 => Opinion::Silent,
            _ => Opinion::Unjudged,
        };
        self.server(backend).condition = condition;
        self.note(&format!("the condition of {backend} is now {condition:?}"));
    }

    fn change_server(&mut self) {
        let backend = self.any_backend();
        let mut choice = self.random.below(10);
        if self.unlucky() == Some(backend) {
            let is_healthy = self.servers[&backend].mode == Mode::Healthy;
            choice = if is_healthy { 4 + choice / 4 } else { 0 };
        }
        let server = self.server(backend);
        match choice {
            0..4 => server.mode = Mode::Healthy,
            4 => server.mode = Mode::Lagging,
            5 => server.mode = Mode::NotReplicating,
            6 => server.mode = Mode::Dead,
            7 => server.mode = Mode::Silent,
            8 => server.mode = Mode::Denies,
            _ => server.read_only = !server.read_only,
        }
        let text = format!("{backend} is now {:?}, read_only {}", server.mode, server.read_only);
        self.note(&text);
    }

    fn ask_for_flip(&mut self) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let cluster = ClusterId(self.random.below(3) as u16);
        let to = match self.random.below(6) {
            0 => None,
            pair => Some(PairId((pair - 1) as u16)),
        };
        let drain = [None, Some(Drain::Finish), Some(Drain::Cut)][self.random.below(3) as usize];
        let force = if self.random.below(2) == 0 {
            BTreeSet::new()
        } else {
            BTreeSet::from(Precondition::ALL)
        };
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

    fn set_admin(&mut self) {
        let cluster = *self
            .sites
            .keys()
            .nth(self.random.below(self.sites.len() as u64) as usize)
            .expect("a cluster");
        let target = if self.random.below(3) == 0 {
            AdminTarget::Pair(PairId(self.random.below(3) as u16))
        } else {
            AdminTarget::Backend(self.any_backend())
        };
        let admin = [Admin::Ready, Admin::Drain, Admin::Maint][self.random.below(3) as usize];
        let until = (self.random.below(2) == 0)
            .then(|| self.now + Duration::from_millis(self.random.below(4000)));
        let flows = [Drain::Finish, Drain::Cut][self.random.below(2) as usize];
        let force = self.random.below(4) == 0;
        if self.policy.may_set_admin(cluster, target, admin, force).is_ok() {
            self.put_admin(cluster, target, AdminSetting { admin, until }, flows);
        }
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
        let site = self.site(cluster);
        if setting.admin == Admin::Ready {
            site.admin.remove(&target);
        } else {
            site.admin.insert(target, setting);
        }
        self.seen.taken_out += u64::from(setting.admin != Admin::Ready);
        self.site(cluster).admin_cut = ends.then_some(match target {
            AdminTarget::Backend(backend) => EndWhich::Backend(backend),
            AdminTarget::Pair(pair) => EndWhich::Pair(pair),
        });
        self.admin_moved(&before);
        self.feed(Input::SetAdmin { cluster, target, setting, flows }, Fed::Operator);
        assert_eq!(self.site(cluster).admin_cut, None, "flows were to be ended");
    }

    /// What operators said about each backend, its pair included.
    fn admins(&self) -> BTreeMap<BackendId, Admin> {
        self.servers.keys().map(|backend| (*backend, self.admin(*backend))).collect()
    }

    fn admin(&self, backend: BackendId) -> Admin {
        let site = &self.sites[&self.servers[&backend].cluster];
        let said = |target| site.admin.get(&target).map_or(Admin::Ready, |setting| setting.admin);
        let pair = site.spec.pairs.iter().find(|pair| pair.backends().any(|id| id == backend));
        let pair = pair.expect("a pair of its own").id;
        said(AdminTarget::Backend(backend)).max(said(AdminTarget::Pair(pair)))
    }

    /// What the present daemon knows of who was put into maintenance, or out of it, is void.
    fn admin_moved(&mut self, before: &BTreeMap<BackendId, Admin>) {
        let (after, now) = (self.admins(), self.now);
        for (id, from) in before {
            let (to, server) = (after[id], self.server(*id));
            if *from == to {
                continue;
            }
            // It starts slowly when it is back.
            server.was_ill = true;
            server.fit_since = server.fit_since.map(|_| now);
            if *from == Admin::Maint || to == Admin::Maint {
                server.last_is_silent = false;
                server.failures = 0;
                server.failures_own = 0;
                server.refusals = 0;
                server.passes = 0;
                server.fit_since = None;
                server.forget_condition();
            }
            if to == Admin::Maint {
                let cluster = server.cluster;
                self.site(cluster).found.remove(id);
            }
        }
    }

    fn feed_nonsense(&mut self) {
        let cluster = ClusterId(self.random.below(4) as u16);
        let input = match self.random.below(3) {
            0 => Input::Checked { backend: BackendId(999), result: failed(Cause::Refused) },
            1 => Input::Applied { cluster, generation: Generation(u32::MAX), result: Ok(()) },
            _ => Input::Persisted { cluster: ClusterId(77), result: Ok(()) },
        };
        let before = self.policy.view();
        self.feed(input, Fed::Nonsense);
        assert_eq!(self.policy.view(), before, "nonsense changed something");
    }

    fn time_out(&mut self) {
        if let Some(deadline) = self.policy.deadline() {
            self.now = self.now.max(deadline);
        }
        self.note(&format!("{} time out", self.now));
        self.policy.handle_timeout(self.now);
        self.drain(Fed::Timeout);
        let deadline = self.policy.deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "due again at once: {deadline:?}");
    }

    /// Lets a driver finish one thing, or fail at it.
    fn answer_pending(&mut self) {
        let index = self.random.below(self.pending.len().max(1) as u64) as usize;
        let Some(output) = self.pending.remove(index) else { return };
        let fails = self.random.below(100) < self.failing_drivers;
        match output {
            Output::SwapRoutes { cluster, table, .. } => {
                let generation = table.generation;
                let site = self.site(cluster);
                site.swap_failed = fails;
                let result = if fails {
                    self.seen.swaps_failed += 1;
                    Err(ApplyError { reason: "simulated".into() })
                } else {
                    site.kernel = Some(table);
                    Ok(())
                };
                self.feed(Input::Applied { cluster, generation, result }, Fed::Driver);
            }
            Output::PersistActive { cluster, pair, .. } => {
                // A write can also fail after the file was replaced.
                if !fails || self.random.below(3) == 0 {
                    self.site(cluster).state_file = Some(pair);
                }
                let result =
                    if fails { Err(PersistError { reason: "simulated".into() }) } else { Ok(()) };
                self.feed(Input::Persisted { cluster, result }, Fed::Driver);
            }
            Output::EndFlows { .. }
            | Output::Reply { .. }
            | Output::SetPace { .. }
            | Output::ForgetAdmin { .. }
            | Output::Event(_) => unreachable!("only questions are pending"),
        }
    }

    /// The daemon dies. What a driver had in hand was done, or was not.
    fn restart(&mut self) {
        self.seen.restarts += 1;
        for output in std::mem::take(&mut self.pending) {
            if self.random.below(2) == 0 {
                continue;
            }
            match output {
                Output::SwapRoutes { cluster, table, .. } => {
                    self.site(cluster).kernel = Some(table)
                }
                Output::PersistActive { cluster, pair, .. } => {
                    self.site(cluster).state_file = Some(pair);
                }
                Output::EndFlows { .. }
                | Output::Reply { .. }
                | Output::SetPace { .. }
                | Output::ForgetAdmin { .. }
                | Output::Event(_) => {}
            }
        }
        let is_reboot = self.random.below(5) == 0;
        self.note(if is_reboot { "reboot" } else { "restart" });
        let mut restored = Restored::default();
        for (id, site) in &mut self.sites {
            if is_reboot {
                site.kernel = None;
            }
            site.generation = site.kernel.as_ref().map_or(Generation(0), |table| table.generation);
            site.swap_failed = false;
            site.cut.clear();
            site.found = site.kernel.iter().flat_map(targets).collect();
            restored.active.extend(site.state_file.map(|pair| (*id, pair)));
            restored.generation.insert(*id, site.generation);
            restored.tables.extend(site.kernel.clone().map(|table| (*id, table)));
            restored.admin.insert(*id, site.admin.clone());
        }
        for server in self.servers.values_mut() {
            server.last_read_only = None;
            server.last_is_silent = false;
            server.failures = 0;
            server.failures_own = 0;
            server.refusals = 0;
            server.passes = 0;
            server.fit_since = None;
            server.was_ill = false;
            server.forget_condition();
        }
        self.waiting.clear();
        let specs = self.sites.values().map(|site| site.spec.clone()).collect();
        self.policy = Policy::new(specs, restored, self.now);
        for view in self.policy.view().clusters {
            let site = &self.sites[&view.id];
            if let Some(table) =
                site.kernel.as_ref().filter(|table| targets(table).next().is_some())
            {
                assert_eq!(view.active, table.active, "a restart flipped");
            }
        }
        self.drain(Fed::Start);
    }

    fn feed(&mut self, input: Input, fed: Fed) {
        self.log.push(Line::In(self.now, input.clone()));
        self.policy.handle(input, self.now);
        self.drain(fed);
    }

    fn drain(&mut self, fed: Fed) {
        while let Some(output) = self.policy.poll_output() {
            if !matches!(output, Output::Event(_) | Output::SetPace { .. }) {
                self.log.push(Line::Out(output.clone()));
            }
            self.judge(&output, fed);
            if matches!(output, Output::SwapRoutes { .. } | Output::PersistActive { .. }) {
                let kind = std::mem::discriminant(&output);
                let twin = self.pending.iter().any(|other| {
                    std::mem::discriminant(other) == kind
                        && cluster_of(other) == cluster_of(&output)
                });
                assert!(!twin, "two of a kind are under way");
                self.pending.push_back(output);
            }
        }
        self.judge_rest();
    }

    /// Checks one output against what the world knows.
    fn judge(&mut self, output: &Output, fed: Fed) {
        let may_act = fed != Fed::Nonsense;
        match output {
            Output::SwapRoutes { cluster, table, reason } => {
                assert!(may_act, "nonsense caused a swap");
                self.judge_table(*cluster, table, *reason, fed);
            }
            Output::EndFlows { cluster, which, reason: EndReason::TakenOut { .. } } => {
                self.seen.taken_out_cut += 1;
                let expected = self.site(*cluster).admin_cut.take();
                assert_eq!(expected, Some(*which), "nobody asked for that");
            }
            Output::EndFlows { cluster, which: EndWhich::Backend(backend), .. } => {
                assert_ne!(fed, Fed::Condition, "a condition ended flows");
                self.seen.ends += 1;
                let fall = self.sites[cluster].spec.fall;
                let server = &self.servers[backend];
                assert!(server.failures >= fall, "ended after {} failures", server.failures);
                assert!(server.failures_own > 0, "ended by our own outage");
                assert!(!self.is_all_silent(*cluster), "ended while all checks fail");
            }
            Output::EndFlows { which: EndWhich::Route(..), .. } => panic!("failback does not cut"),
            Output::EndFlows { cluster, which: EndWhich::Pair(pair), .. } => {
                let site = self.site(*cluster);
                assert!(site.cut.remove(pair), "no flip with cut left {pair}");
                assert!(site.kernel.as_ref().is_some_and(|table| table.active != *pair));
            }
            Output::PersistActive { cluster, pair, reason } => {
                assert!(may_act, "nonsense caused a write");
                if matches!(reason, PersistReason::Flip { .. }) {
                    assert!(self.sites[cluster].asked.contains(pair), "nobody asked for {pair}");
                }
            }
            Output::Reply { request, result } => self.judge_reply(*request, result),
            Output::ForgetAdmin { cluster, target } => {
                self.seen.expired += 1;
                let (before, now) = (self.admins(), self.now);
                let setting = self.site(*cluster).admin.remove(target).expect("it was said");
                assert!(setting.until.is_some_and(|until| until <= now), "forgotten too early");
                self.admin_moved(&before);
            }
            Output::SetPace { backend, pace } => {
                assert_eq!(*pace == Pace::Off, self.admin(*backend) == Admin::Maint);
            }
            Output::Event(event) => {
                let is_told = event.severity() != Severity::Debug;
                assert_eq!(EventKind::NAMES.contains(&event.what.name()), is_told, "{event:?}");
            }
        }
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
        assert!(targets(table).all(|backend| pair.backends().any(|known| known == backend)));
        let flip = match reason {
            ChangeReason::Flip { from, .. } => Some(from),
            ChangeReason::FirstAnswers
            | ChangeReason::Checked { .. }
            | ChangeReason::CaughtUp
            | ChangeReason::Retry
            | ChangeReason::SlowStart
            | ChangeReason::Admin => None,
        };
        let is_flip = flip.is_some();
        let is_ready = |backend| self.admin(backend) == Admin::Ready;
        assert!(targets(table).all(is_ready), "new flows to a backend that was taken out");
        let is_other = site.kernel.as_ref().is_some_and(|kernel| {
            kernel.active != table.active && targets(kernel).next().is_some()
        });
        assert!(is_flip || !is_other, "the pair changed without a flip");
        if is_flip {
            assert!(site.asked.contains(&table.active), "nobody asked for {}", table.active);
            assert_eq!(site.state_file, Some(table.active), "the swap came before the state file");
        } else if site.kernel.as_ref().is_some_and(|kernel| targets(kernel).next().is_some())
            && fed == Fed::Check
            && !site.swap_failed
        {
            assert!(!is_all_silent, "changed routes while all checks fail");
        }
        // 2: never to a backend that was last seen read-only.
        for backend in table.routes[usize::from(WRITES.0)].backends() {
            let is_found = !is_flip && site.found.contains(&backend);
            match self.servers[&backend].last_read_only {
                Some(read_only) => assert!(!read_only, "writes to read-only {backend}"),
                None => assert!(is_found, "writes to {backend}, which never answered"),
            }
        }
        self.judge_shares(cluster, table);
        self.site(cluster).generation = table.generation;
        self.site(cluster).cut = flip.into_iter().collect();
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
                let is_warm = self.servers[&share.backend].is_warm(spec, self.now);
                assert!(!is_warm, "{share:?} of {full} without a reason");
                slow_starts += 1;
            }
        }
        self.seen.slow_starts += slow_starts;
    }

    fn judge_reply(&mut self, request: RequestId, result: &Result<FlipDone, FlipRefused>) {
        let asked = self.waiting.remove(&request);
        let cluster =
            asked.unwrap_or_else(|| panic!("{request} was answered twice, or never asked"));
        match result {
            Ok(done) if done.from == done.to => {}
            Ok(done) => {
                self.seen.flips += 1;
                let site = self.site(cluster);
                let table = site.kernel.as_ref().expect("the kernel has a table");
                assert_eq!((table.active, table.generation), (done.to, done.generation));
                assert_eq!(site.state_file, Some(done.to));
                site.asked.clear();
                site.cut.clear();
            }
            Err(FlipRefused::NotPersisted { .. } | FlipRefused::NotApplied { .. }) => {
                self.seen.undone += 1;
            }
            Err(_) => self.seen.refused += 1,
        }
    }

    /// Checks what must hold between inputs, when the kernel has what the policy wanted.
    fn judge_rest(&mut self) {
        for view in self.policy.view().clusters {
            let backends = || view.pairs.iter().flat_map(|pair| &pair.backends);
            let waits = backends().any(|backend| backend.reason == BackendReason::Flapping);
            let helps = view.routes.iter().any(|route| route.reason == RouteReason::TooFewReplicas);
            self.seen.flapping += u64::from(waits);
            self.seen.too_few += u64::from(helps);
            let site = &self.sites[&view.id];
            let is_moving = self.pending.iter().any(|output| cluster_of(output) == Some(view.id));
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
                let server = &self.servers[&backend];
                assert_ne!(
                    server.told_opinion,
                    Some(Opinion::Maintenance),
                    "new flows to {backend}, which is in maintenance"
                );
                let is_unfit = server.opinion_failures >= site.spec.fall;
                assert!(!is_unfit, "new flows to {backend}, whose condition failed");
            }
            for backend in table.routes[usize::from(WRITES.0)].backends() {
                assert_ne!(
                    self.servers[&backend].last_read_only,
                    Some(true),
                    "writes to read-only"
                );
            }
            for share in table.routes[usize::from(READS.0)].shares() {
                let server = &self.servers[&share.backend];
                assert!(
                    server.refusals < site.spec.fall,
                    "reads to {}, which is down",
                    share.backend
                );
                // While all are silent nothing moves, shares neither.
                if is_punctual && !self.is_all_silent(view.id) {
                    let is_full = share.weight == full_weight(&site.spec, share.backend);
                    let is_warm = server.is_warm(&site.spec, self.now);
                    assert!(is_full || !is_warm, "{share:?} is stuck");
                }
            }
            let pair = &view.pairs[usize::from(view.active.0)];
            let is_fit = |backend: &BackendView| {
                is_ready(backend.id)
                    && self.servers[&backend.id].told_opinion != Some(Opinion::Maintenance)
                    && backend.health.is_up()
                    && backend.fitness.is_none_or(Health::is_up)
            };
            if table.routes[usize::from(READS.0)].shares().is_empty() {
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
        checked.peek().is_some() && checked.all(|id| self.servers[id].last_is_silent)
    }

    /// A server that comes and goes.
    fn unlucky(&self) -> Option<BackendId> {
        let index = (self.seed / 2) as usize % self.servers.len();
        self.servers.keys().nth(index).copied().filter(|_| self.seed.is_multiple_of(2))
    }

    /// In half of the worlds one server has most of the trouble.
    fn any_backend(&mut self) -> BackendId {
        if let Some(unlucky) = self.unlucky()
            && self.random.below(4) > 0
        {
            return unlucky;
        }
        let index = self.random.below(self.servers.len() as u64) as usize;
        *self.servers.keys().nth(index).expect("there are servers")
    }

    fn server(&mut self, backend: BackendId) -> &mut Server {
        self.servers.get_mut(&backend).expect("a configured backend")
    }

    fn site(&mut self, cluster: ClusterId) -> &mut Site {
        self.sites.get_mut(&cluster).expect("a configured cluster")
    }

    fn note(&mut self, text: &str) {
        self.log.push(Line::Note(text.to_string()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = format!("{}/sim-{}.log", env!("CARGO_TARGET_TMPDIR"), self.seed);
            let log: String = self.log.iter().map(|line| format!("{line}\n")).collect();
            let kept = std::fs::write(&file, &log);
            eprintln!("{log}seed {} failed; kept as {file}: {kept:?}", self.seed);
        }
    }
}

/// One line of a world's log, written out only when it failed.
enum Line {
    In(Moment, Input),
    Out(Output),
    Note(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(now, input) => write!(f, "{now} {input:?}"),
            Self::Out(output) => write!(f, "    -> {output:?}"),
            Self::Note(text) => f.write_str(text),
        }
    }
}

/// What the policy was fed when it put something out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fed {
    Start,
    Check,
    Condition,
    Flip,
    Driver,
    Timeout,
    Operator,
    Nonsense,
}

impl Server {
    fn new(cluster: ClusterId, read_only: bool) -> Self {
        Self {
            cluster,
            mode: Mode::Healthy,
            read_only,
            last_read_only: None,
            failures: 0,
            failures_own: 0,
            last_is_silent: false,
            refusals: 0,
            passes: 0,
            fit_since: None,
            was_ill: false,
            condition: Opinion::Passes,
            told_opinion: None,
            opinion_failures: 0,
        }
    }

    /// Takes down what the present daemon is told about its condition.
    fn told_condition(&mut self, opinion: Opinion) {
        self.told_opinion = Some(opinion);
        self.opinion_failures = match opinion {
            Opinion::Fails => self.opinion_failures + 1,
            Opinion::Passes | Opinion::Maintenance | Opinion::Silent | Opinion::Unjudged => 0,
        };
        if opinion != Opinion::Passes {
            self.passes = 0;
            self.fit_since = None;
            self.was_ill = true;
        }
    }

    fn forget_condition(&mut self) {
        self.told_opinion = None;
        self.opinion_failures = 0;
    }

    /// Takes down what the present daemon is told.
    fn told(&mut self, result: &CheckResult, rise: u32, now: Moment) {
        self.refusals = match result {
            CheckResult::Failed(failure) if !failure.cause.may_take_down() => 0,
            CheckResult::Failed(_) if !result.is_silence() => self.refusals + 1,
            CheckResult::Failed(_) | CheckResult::Answered(_) | CheckResult::Reached => 0,
        };
        let is_perfect = self.mode == Mode::Healthy && self.told_opinion == Some(Opinion::Passes);
        if matches!(result, CheckResult::Answered(_)) && is_perfect {
            self.passes += 1;
            if self.passes >= rise {
                self.fit_since = self.fit_since.or(Some(now));
            }
        } else {
            self.passes = 0;
            self.fit_since = None;
            self.was_ill = true;
        }
    }

    /// Returns whether a replica has its full share by now, whatever it went through.
    fn is_warm(&self, spec: &ClusterSpec, now: Moment) -> bool {
        // One that flaps waits for sixteen times `hold_off` at most.
        let longest = spec.hold_off * 16 + spec.slow_start;
        !self.was_ill || self.fit_since.is_some_and(|since| since + longest <= now)
    }
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
        }
    }
}

fn targets(table: &RouteTable) -> impl Iterator<Item = BackendId> + '_ {
    table.routes.iter().flat_map(RouteTarget::backends)
}

fn full_weight(spec: &ClusterSpec, backend: BackendId) -> u16 {
    let mut replicas = spec.pairs.iter().flat_map(|pair| &pair.replicas);
    replicas
        .find(|share| share.backend == backend)
        .map_or(Share::PRIMARY_WEIGHT, |share| share.weight)
}

fn cluster_of(output: &Output) -> Option<ClusterId> {
    match output {
        Output::SwapRoutes { cluster, .. }
        | Output::EndFlows { cluster, .. }
        | Output::PersistActive { cluster, .. } => Some(*cluster),
        Output::ForgetAdmin { cluster, .. } => Some(*cluster),
        Output::Reply { .. } | Output::SetPace { .. } => None,
        Output::Event(event) => event.cluster,
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): a few lines, and every seed is a good one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is small: the bias does not matter.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
