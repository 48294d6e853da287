//! Two pairs whose servers do what they are told, drivers that answer as a test says, and a daemon that can die.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pairflip_policy::*;

use crate::common::{answered, cluster};

pub(crate) const A: BackendId = BackendId(0);
pub(crate) const B: BackendId = BackendId(2);
pub(crate) const FROM: PairId = PairId(0);
pub(crate) const TO: PairId = PairId(1);
pub(crate) const CLUSTER: ClusterId = ClusterId(0);
pub(crate) const LIMITS: Limits =
    Limits { deadline: Duration::from_secs(30), max_pause: Duration::from_secs(10) };

/// How a driver does one kind of thing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Works,
    Fails(StepFault),
    /// As [`Mode::Fails`] with [`StepFault::Unknown`], and it was done.
    DoneAndLost,
    Hangs,
}

pub(crate) struct World {
    pub(crate) spec: ClusterSpec,
    pub(crate) policy: Policy,
    pub(crate) now: Moment,
    pub(crate) kernel: Option<RouteTable>,
    pub(crate) file: (PairId, Option<Intent>),
    pub(crate) survey: Survey,
    /// By primary.
    pub(crate) read_only: BTreeMap<BackendId, bool>,
    pub(crate) is_paused: bool,
    /// By the word of the step, "persist" or "swap"; those that are not here work.
    pub(crate) modes: BTreeMap<&'static str, Mode>,
    pub(crate) hanging: Vec<Output>,
    /// What was done, in order.
    pub(crate) done: Vec<String>,
    pub(crate) events: Vec<EventKind>,
    pub(crate) outcomes: Vec<SwitchoverOutcome>,
    pub(crate) replies: Vec<Result<FlipDone, FlipRefused>>,
    requests: u64,
    /// The daemon is killed when this is about to be done, or right after that.
    pub(crate) kill: Option<(&'static str, bool)>,
    pub(crate) is_dead: bool,
}

impl World {
    /// All is well, and the first pair is active.
    pub(crate) fn new() -> Self {
        Self::of(cluster(0, 0, 2, 1))
    }

    pub(crate) fn of(spec: ClusterSpec) -> Self {
        let policy = Policy::new(vec![spec.clone()], Restored::default(), Moment::START);
        let mut world = Self {
            spec,
            policy,
            now: Moment::START,
            kernel: None,
            file: (FROM, None),
            survey: Survey { from: Ok(facts(false)), to: Ok(facts(true)) },
            read_only: [(A, false), (B, true)].into(),
            is_paused: false,
            modes: BTreeMap::new(),
            hanging: Vec::new(),
            done: Vec::new(),
            events: Vec::new(),
            outcomes: Vec::new(),
            replies: Vec::new(),
            requests: 0,
            kill: None,
            is_dead: false,
        };
        world.drain();
        world.check();
        world.check();
        world.done.clear();
        world.events.clear();
        world
    }

    pub(crate) fn with(mode: (&'static str, Mode)) -> Self {
        let mut world = Self::new();
        world.modes.extend([mode]);
        world
    }

    pub(crate) fn switch(&mut self) {
        self.ask(None, &[], false);
    }

    pub(crate) fn ask(&mut self, drain: Option<Drain>, force: &[Precondition], dry_run: bool) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let force = force.iter().copied().collect();
        self.feed(Input::Switchover {
            cluster: CLUSTER,
            request,
            to: None,
            drain,
            force,
            limits: LIMITS,
            dry_run,
        });
    }

    pub(crate) fn flip_routes(&mut self, to: PairId) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let force = BTreeSet::from(Precondition::ALL);
        self.feed(Input::Flip { cluster: CLUSTER, request, to: Some(to), drain: None, force });
    }

    pub(crate) fn call_off(&mut self) {
        self.feed(Input::CallOff { cluster: CLUSTER, request: None });
    }

    /// Every server is checked.
    pub(crate) fn check(&mut self) {
        for id in 0..4 {
            let backend = BackendId(id);
            let read_only = self.read_only.get(&backend).copied().unwrap_or(true);
            self.feed(Input::Checked { backend, result: answered(read_only, Some(0)) });
        }
    }

    /// Time passes, second by second, and checks with it.
    pub(crate) fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.tick();
            self.check();
        }
    }

    /// Time passes, second by second, and nothing is heard.
    pub(crate) fn tick(&mut self) {
        let end = self.now + Duration::from_secs(1);
        while let Some(at) = self.policy.deadline().filter(|at| *at <= end && *at > self.now) {
            self.now = at;
            self.policy.handle_timeout(at);
            self.drain();
        }
        self.now = end;
        self.policy.handle_timeout(end);
        self.drain();
    }

    /// A driver that hung does it after all.
    pub(crate) fn resume(&mut self) {
        self.modes.clear();
        let hanging = std::mem::take(&mut self.hanging);
        self.apply_all(hanging);
    }

    pub(crate) fn apply_all(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.apply(output);
        }
        self.drain();
    }

    /// Another daemon is started. What the kernel paused has ended by then.
    pub(crate) fn restart(&mut self, reboot: bool) {
        self.kill = None;
        self.is_dead = false;
        self.is_paused = false;
        self.hanging.clear();
        if reboot {
            self.kernel = None;
        }
        let restored = Restored {
            active: [(CLUSTER, self.file.0)].into(),
            generation: self.kernel.iter().map(|table| (CLUSTER, table.generation)).collect(),
            tables: self.kernel.clone().map(|table| (CLUSTER, table)).into_iter().collect(),
            intents: self.file.1.clone().map(|intent| (CLUSTER, intent)).into_iter().collect(),
            ..Restored::default()
        };
        self.policy = Policy::new(vec![self.spec.clone()], restored, self.now);
        self.drain();
    }

    pub(crate) fn feed(&mut self, input: Input) {
        if self.is_dead {
            return;
        }
        self.policy.handle(input, self.now);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            if self.is_dead {
                continue;
            }
            let text = text(&output);
            let kill = self.kill.zip(text.clone()).filter(|((at, _), text)| text == at);
            self.done.extend(text);
            match kill {
                Some(((_, false), _)) => self.is_dead = true,
                Some(((_, true), _)) => {
                    self.is_dead = true;
                    self.apply(output);
                }
                None => self.apply(output),
            }
        }
    }

    fn apply(&mut self, output: Output) {
        match output {
            Output::SwitchoverReply { outcome, .. } => return self.outcomes.push(outcome),
            Output::Reply { result, .. } => return self.replies.push(result),
            Output::Event(event) => return self.events.push(event.what),
            Output::CancelStep { id, .. } => {
                return self
                    .hanging
                    .retain(|output| !matches!(output, Output::Step { id: it, .. } if *it == id));
            }
            Output::SetPace { .. }
            | Output::EndFlows { .. }
            | Output::DrainFlows { .. }
            | Output::StopDrain { .. }
            | Output::ForgetAdmin { .. } => return,
            Output::Fence { .. } | Output::Unfence { .. } => panic!("failover is manual"),
            Output::SwapRoutes { .. } | Output::PersistActive { .. } | Output::Step { .. } => {}
        }
        let mode = self.modes.get(word(&output)).copied().unwrap_or(Mode::Works);
        if mode == Mode::Hangs {
            return self.hanging.push(output);
        }
        let works = mode == Mode::Works;
        let input = match output {
            Output::SwapRoutes { cluster, table, .. } => {
                let generation = table.generation;
                if works {
                    self.kernel = Some(table);
                }
                let result =
                    if works { Ok(()) } else { Err(ApplyError { reason: "simulated".into() }) };
                Input::Applied { cluster, generation, result }
            }
            Output::PersistActive { cluster, pair, intent, .. } => {
                if works {
                    self.file = (pair, intent);
                }
                let result =
                    if works { Ok(()) } else { Err(PersistError { reason: "disk full".into() }) };
                Input::Persisted { cluster, result }
            }
            Output::Step { cluster, id, step, .. } => {
                let done =
                    matches!(mode, Mode::Works | Mode::DoneAndLost).then(|| self.do_step(&step));
                let failure = |fault| StepFailure { fault, text: "simulated".into() };
                let result = match (mode, done) {
                    (Mode::Works, Some(answer)) => Ok(answer),
                    (Mode::Fails(fault), _) => Err(failure(fault)),
                    _ => Err(failure(StepFault::Unknown)),
                };
                Input::StepDone { cluster, id, result }
            }
            _ => return,
        };
        self.feed(input);
    }

    fn do_step(&mut self, step: &Step) -> StepAnswer {
        match step {
            // One that goes on after a restart asks anew.
            Step::Survey { .. } if self.file.1.is_some() => {
                let now = |backend| Ok(facts(self.read_only[&backend]));
                return StepAnswer::Surveyed(Box::new(Survey { from: now(A), to: now(B) }));
            }
            Step::Survey { .. } => return StepAnswer::Surveyed(Box::new(self.survey.clone())),
            Step::Fence { backend } => {
                let was_read_only = self.read_only.insert(*backend, true) == Some(true);
                return StepAnswer::Fenced { was_read_only };
            }
            Step::Unfence { backend } => {
                self.read_only.insert(*backend, false);
                let was_writable = self.survey.to.as_ref().is_ok_and(|facts| !facts.read_only);
                assert!(
                    was_writable || self.read_only.values().any(|read_only| *read_only),
                    "both primaries take writes: {:?}",
                    self.done
                );
            }
            Step::FinalCatchUp { from, .. } => {
                assert!(self.read_only[from], "its position can move");
                return StepAnswer::CaughtUp { position: "1-1-7".into() };
            }
            Step::Pause { .. } => self.is_paused = true,
            Step::Release { .. } => self.is_paused = false,
            Step::EndSessions { .. } => return StepAnswer::Ended { killed: 3, reset: 1 },
            Step::CatchUp { .. } | Step::Settle { .. } | Step::Reach { .. } => {}
        }
        StepAnswer::Done
    }

    pub(crate) fn active(&self) -> PairId {
        self.kernel.as_ref().expect("a table").active
    }

    /// Where new connections for writes go.
    pub(crate) fn writes(&self) -> Vec<BackendId> {
        self.kernel.as_ref().expect("a table").routes[0].backends().collect()
    }

    pub(crate) fn view(&self) -> Option<FlipView> {
        self.policy.view().clusters[0].flip
    }

    /// Returns whether the log was told that it does not get on.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.events.iter().rev().find_map(|event| match event {
            EventKind::SwitchoverStuck { text, .. } => Some(text.clone()),
            _ => None,
        })
    }

    /// Everything is as it was before.
    pub(crate) fn assert_undone(&self, context: &str) {
        assert_eq!(self.active(), FROM, "{context}");
        assert_eq!(self.writes(), [A], "{context}");
        assert_eq!(self.read_only, [(A, false), (B, true)].into(), "{context}");
        self.assert_over(context, FROM);
    }

    /// The other pair takes the writes.
    pub(crate) fn assert_done(&self, context: &str) {
        assert_eq!(self.active(), TO, "{context}");
        assert_eq!(self.writes(), [B], "{context}");
        assert_eq!(self.read_only, [(A, true), (B, false)].into(), "{context}");
        self.assert_over(context, TO);
    }

    fn assert_over(&self, context: &str, active: PairId) {
        assert_eq!(self.file, (active, None), "{context}");
        assert!(!self.is_paused, "{context}: the pause is still in force");
        assert_eq!(self.view(), None, "{context}");
    }
}

pub(crate) fn facts(read_only: bool) -> PrimaryFacts {
    PrimaryFacts {
        read_only,
        position: "1-1-6".into(),
        replication: Some(channel()),
        ..PrimaryFacts::default()
    }
}

pub(crate) fn channel() -> Channel {
    Channel { io_running: true, sql_running: true, lag: Some(Duration::ZERO), ..Channel::default() }
}

fn word(output: &Output) -> &'static str {
    match output {
        Output::SwapRoutes { .. } => "swap",
        Output::PersistActive { .. } => "persist",
        // The two servers that become writable are told apart by tests.
        Output::Step { step: Step::Unfence { backend: A }, .. } => "unfence_back",
        Output::Step { step, .. } => step.name(),
        _ => "",
    }
}

fn text(output: &Output) -> Option<String> {
    let name = |id: BackendId| ["a", "a2", "b", "b2"][usize::from(id.0)];
    Some(match output {
        Output::SwapRoutes { table, .. } => {
            let writes: Vec<_> = table.routes[0].backends().map(name).collect();
            let writes = if writes.is_empty() { "-".to_owned() } else { writes.join(",") };
            format!("swap {} w={writes}", table.active)
        }
        Output::PersistActive { pair, intent, .. } => {
            let intent = match intent.as_ref().map(|intent| &intent.stage) {
                None => "",
                Some(IntentStage::Prepared) => " prepared",
                Some(IntentStage::Promoting { .. }) => " promoting",
            };
            format!("persist {pair}{intent}")
        }
        Output::Step { step, .. } => match step {
            Step::Fence { backend } | Step::Unfence { backend } => {
                format!("{} {}", step.name(), name(*backend))
            }
            _ => step.name().to_owned(),
        },
        Output::EndFlows { which: EndWhich::Pair(pair), .. } => format!("end {pair}"),
        _ => return None,
    })
}
