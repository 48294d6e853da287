//! Switchovers: carrying out their steps, saying how far one is, and what the state file keeps of it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use pairflip_common::route::VipRoute;
use pairflip_policy::{
    BackendId, ClusterId, ClusterView, EventKind, Input, Intent, IntentStage, PairId, Step,
    StepAnswer, StepFailure, StepFault, StepId, SwitchoverStep,
};
use tokio::{
    sync::{Mutex, watch},
    task::AbortHandle,
};

use super::{Runtime, failover::pair_name, status};
use crate::{
    config,
    control::protocol::{FlipStatus, StepStatus},
    drain::{self, Flows, Progress, Settling, Target},
    primary::{self, Applied, Server},
    state::SwitchoverRecord,
};

/// Flows that are named when they are waited for; more are counted.
const NAMED: usize = 5;
/// Before the time is up by which flows must be held, at most.
const TELLING: Duration = Duration::from_millis(200);

/// What is known of a cluster's switchover besides what the policy knows.
struct Running {
    started: Instant,
    /// Those that are done.
    steps: Vec<StepStatus>,
    task: Option<(StepId, AbortHandle)>,
    held: Held,
    /// What the step under way waits for.
    waiting_for: watch::Receiver<String>,
}

impl Running {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::new(),
            task: None,
            held: Held::default(),
            waiting_for: watch::channel(String::new()).1,
        }
    }
}

/// Flows that are held until it is known what becomes of them; dropped, they go on.
type Held = Arc<Mutex<Option<Settling>>>;

/// The switchovers that are under way.
#[derive(Default)]
pub(super) struct Switchovers(BTreeMap<ClusterId, Running>);

impl Switchovers {
    fn of(&mut self, cluster: ClusterId) -> &mut Running {
        self.0.entry(cluster).or_insert_with(Running::new)
    }

    /// Takes note of what the policy says about them.
    pub(super) fn note(&mut self, cluster: ClusterId, what: &EventKind) {
        if let EventKind::SwitchoverStarted { .. } | EventKind::SwitchoverResumed { .. } = what {
            self.0.insert(cluster, Running::new());
        }
        if let EventKind::SwitchoverStep { done, took, .. } = what {
            let running = self.of(cluster);
            running.waiting_for = watch::channel(String::new()).1;
            running.steps.push(step_status(*done, took.as_millis() as u64, true));
        }
        if let EventKind::SwitchoverStuck { step: SwitchoverStep::Unfence, .. } = what {
            // Who is held could wait for ever: the old primary takes no writes.
            let held = Arc::clone(&self.of(cluster).held);
            tokio::spawn(async move { end_held(&held).await });
        }
        if let EventKind::SwitchoverTakenOver { .. }
        | EventKind::SwitchoverDone { .. }
        | EventKind::SwitchoverUndone { .. } = what
        {
            // Its steps are those of no other, and who is held goes on.
            self.0.remove(&cluster);
        }
    }
}

impl Runtime {
    /// Carries out a step: at once what is done on this host, beside the loop what servers are asked.
    pub(super) fn step(
        &mut self,
        cluster: ClusterId,
        id: StepId,
        step: Step,
        timeout: Duration,
    ) -> Option<Input> {
        tracing::debug!(%cluster, %id, ?step, ?timeout, "a step of a switchover");
        let work = match self.begin(cluster, step) {
            Ok(Begun::Beside(work)) => work,
            Ok(Begun::Done(answer)) => {
                return Some(Input::StepDone { cluster, id, result: Ok(answer) });
            }
            Err(failure) => return Some(Input::StepDone { cluster, id, result: Err(failure) }),
        };
        let (progress, waiting_for) = watch::channel(String::new());
        let answers = self.answers.clone();
        let task = tokio::spawn(async move {
            let result = work.run(timeout, &progress).await;
            // The loop ends first when the daemon does.
            _ = answers.send(Input::StepDone { cluster, id, result }).await;
        });
        let running = self.switchovers.of(cluster);
        if running.steps.is_empty() {
            // One that was only asked for, or refused, left its time.
            running.started = Instant::now();
        }
        running.task = Some((id, task.abort_handle()));
        running.waiting_for = waiting_for;
        None
    }

    /// Stops a step that nobody waits for any more.
    pub(super) fn cancel_step(&mut self, cluster: ClusterId, id: StepId) {
        let Some(running) = self.switchovers.0.get_mut(&cluster) else { return };
        if let Some((_, task)) = running.task.take_if(|(of, _)| *of == id) {
            task.abort();
        }
    }

    /// Does at once what is done on this host.
    fn begin(&mut self, cluster: ClusterId, step: Step) -> Result<Begun, StepFailure> {
        let server = |backend| self.server(cluster, backend);
        Ok(Begun::Beside(match step {
            Step::Pause { time } => return self.pause_writes(cluster, time).map(Begun::Done),
            Step::Release { keep_held } => {
                return self.release_writes(cluster, keep_held).map(Begun::Done);
            }
            Step::Survey { from, to } => Work::Survey { from: server(from)?, to: server(to)? },
            Step::CatchUp { from, to } => Work::CatchUp { from: server(from)?, to: server(to)? },
            Step::FinalCatchUp { from, to } => {
                Work::FinalCatchUp { from: server(from)?, to: server(to)? }
            }
            Step::Settle { backend } => Work::Settle(self.drained(cluster, backend)?),
            Step::EndSessions { backend } => Work::EndSessions(self.drained(cluster, backend)?),
            Step::Reach { to, position } => {
                let from = self.old_primary(cluster).unwrap_or(to);
                Work::Reach { from: server(from)?, to: server(to)?, position }
            }
            Step::Fence { backend } => Work::Fence { server: server(backend)? },
            Step::Unfence { backend } => Work::Unfence { server: server(backend)? },
        }))
    }

    fn server(&self, cluster: ClusterId, backend: BackendId) -> Result<Server, StepFailure> {
        self.primary(cluster, backend).ok_or_else(no_login)
    }

    fn drained(&mut self, cluster: ClusterId, backend: BackendId) -> Result<Drained, StepFailure> {
        let target = self.drain_target(cluster, backend, None).ok_or_else(no_login)?;
        let held = Arc::clone(&self.switchovers.of(cluster).held);
        Ok(Drained { flows: self.flows.clone(), target, held })
    }

    /// The old pair's primary of a switchover under way.
    fn old_primary(&self, cluster: ClusterId) -> Option<BackendId> {
        let view = self.policy.view();
        let view = view.clusters.iter().find(|it| it.id == cluster)?;
        let from = view.flip.as_ref()?.from;
        Some(view.pairs.iter().find(|pair| pair.id == from)?.backends.first()?.id)
    }

    fn pause_writes(
        &mut self,
        cluster: ClusterId,
        time: Duration,
    ) -> Result<StepAnswer, StepFailure> {
        for route in self.write_routes(cluster) {
            self.dataplane.pause(route, time).map_err(|error| failed(&error.to_string()))?;
        }
        Ok(StepAnswer::Done)
    }

    fn release_writes(
        &mut self,
        cluster: ClusterId,
        keep_held: bool,
    ) -> Result<StepAnswer, StepFailure> {
        if !keep_held {
            // What a task that was cancelled has in its hands is let go with it.
            self.switchovers.of(cluster).held = Held::default();
        }
        self.pause_writes(cluster, Duration::ZERO)
    }

    fn write_routes(&self, cluster: ClusterId) -> Vec<VipRoute> {
        let routes = self.config.clusters[usize::from(cluster.0)].routes.iter().enumerate();
        routes
            .filter(|(_, route)| route.access == config::Access::Write)
            .filter_map(|(index, _)| {
                self.ids.route_slot(cluster, pairflip_policy::RouteId(index as u16))
            })
            .collect()
    }

    /// How far the cluster's switchover is, if there is one.
    pub(super) fn flip_status(&self, view: &ClusterView) -> Option<FlipStatus> {
        let flip = view.flip.as_ref()?;
        let switchover = flip.switchover.as_ref()?;
        let configured = &self.config.clusters[usize::from(view.id.0)];
        let now = self.now();
        let running = self.switchovers.0.get(&view.id);
        let mut steps = running.map_or_else(Vec::new, |running| running.steps.clone());
        let since = now.since(switchover.since).as_millis() as u64;
        steps.push(step_status(switchover.step, since, false));
        let waiting_for =
            running.map_or_else(String::new, |running| running.waiting_for.borrow().clone());
        Some(FlipStatus {
            cluster: configured.name.clone(),
            from: pair_name(configured, flip.from),
            to: pair_name(configured, flip.to),
            steps,
            waiting_for: status::name_pairs(configured, &waiting_for),
            ms: running.map_or(since, |running| running.started.elapsed().as_millis() as u64),
            deadline_ms: switchover.deadline.map(|at| at.since(now).as_millis() as u64),
            can_be_called_off: switchover.can_be_called_off,
            stuck: switchover.stuck,
        })
    }
}

/// What became of a step at once.
enum Begun {
    Done(StepAnswer),
    /// Servers are asked or told beside the loop.
    Beside(Work),
}

/// The flows of a server, and those of them that are held.
struct Drained {
    flows: Flows,
    target: Target,
    held: Held,
}

/// What servers are asked or told in a step.
enum Work {
    Survey { from: Server, to: Server },
    CatchUp { from: Server, to: Server },
    FinalCatchUp { from: Server, to: Server },
    Reach { from: Server, to: Server, position: String },
    Fence { server: Server },
    Unfence { server: Server },
    Settle(Drained),
    EndSessions(Drained),
}

impl Work {
    async fn run(
        self,
        timeout: Duration,
        progress: &watch::Sender<String>,
    ) -> Result<StepAnswer, StepFailure> {
        match self {
            Self::Survey { from, to } => {
                let survey = primary::survey(&from, &to, timeout).await;
                Ok(StepAnswer::Surveyed(Box::new(survey)))
            }
            Self::CatchUp { from, to } => {
                primary::catch_up(&from, &to, timeout, progress).await?;
                Ok(StepAnswer::Done)
            }
            Self::FinalCatchUp { from, to } => {
                let position = primary::final_catch_up(&from, &to, timeout, progress).await?;
                Ok(StepAnswer::CaughtUp { position })
            }
            Self::Reach { from, to, position } => {
                primary::reach(&from, &to, &position, timeout, progress).await?;
                Ok(StepAnswer::Done)
            }
            Self::Settle(drained) => settle(drained, timeout, progress).await,
            Self::EndSessions(Drained { flows, target, held }) => {
                let killed = end_held(&held).await;
                if killed > 0 {
                    drain::await_closes(&flows, target.scope).await;
                }
                let reset = drain::cut(&flows, target.scope, "the switchover").await;
                Ok(StepAnswer::Ended { killed: killed as u64, reset: reset as u64 })
            }
            Self::Fence { server } => {
                let fenced = primary::fence(&server, timeout).await;
                let fenced = fenced.map_err(|error| primary::unchanged(server.address, error))?;
                Ok(StepAnswer::Fenced { was_read_only: fenced.was_read_only })
            }
            Self::Unfence { server } => {
                let unfenced = primary::unfence(&server, timeout, Applied::NotRequired).await;
                unfenced.map_err(|error| primary::unchanged(server.address, error))?;
                Ok(StepAnswer::Done)
            }
        }
    }
}

/// Ends what is held; returns how many there were.
async fn end_held(held: &Held) -> usize {
    let settling = held.lock().await.take();
    match settling {
        Some(settling) => settling.end().await,
        None => 0,
    }
}

/// Holds every flow of a server as it becomes idle.
async fn settle(
    Drained { flows, target, held }: Drained,
    timeout: Duration,
    progress: &watch::Sender<String>,
) -> Result<StepAnswer, StepFailure> {
    let server = target.server;
    let mut held = held.lock().await;
    // Who is left must be told before the time is up.
    let deadline = timeout - (timeout / 10).min(TELLING);
    let settling = held.insert(drain::settle(&flows, target, deadline));
    let mut watched = settling.progress();
    let settled = {
        let mut settled = std::pin::pin!(settling.settled());
        loop {
            tokio::select! {
                settled = &mut settled => break settled,
                Ok(()) = watched.changed() => {
                    progress.send_replace(left(&watched.borrow_and_update()));
                }
            }
        }
    };
    match settled {
        Ok(progress) if progress.left == 0 => Ok(StepAnswer::Done),
        Ok(progress) => {
            let text = format!("{server}: {}", left(&progress));
            Err(StepFailure { fault: StepFault::TimedOut, text })
        }
        Err(error) => {
            Err(StepFailure { fault: StepFault::Refused, text: format!("{server}: {error}") })
        }
    }
}

/// Who is waited for, as in "2 flows are not idle: 10.0.0.7:41822 in a transaction for 3.1 s, ...".
fn left(progress: &Progress) -> String {
    let count = match progress.left {
        0 => return String::new(),
        1 => "1 flow is not idle".to_owned(),
        left => format!("{left} flows are not idle"),
    };
    let named: Vec<String> = progress.waiting.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if progress.left > named.len() { ", ..." } else { "" };
    format!("{count}: {}{more}", named.join(", "))
}

/// Where a step could not even begin.
fn failed(text: &str) -> StepFailure {
    StepFailure { fault: StepFault::Refused, text: text.to_owned() }
}

fn no_login() -> StepFailure {
    failed("nobody logs in to this cluster's servers (mysql = false in [cluster.check])")
}

fn step_status(step: SwitchoverStep, ms: u64, done: bool) -> StepStatus {
    StepStatus { name: step.name().to_owned(), text: step.to_string(), ms, done }
}

/// What the state file is to say.
pub(super) fn record(cluster: &config::Cluster, intent: &Intent) -> SwitchoverRecord {
    SwitchoverRecord {
        from: pair_name(cluster, intent.from),
        to: pair_name(cluster, intent.to),
        position: match &intent.stage {
            IntentStage::Prepared => None,
            IntentStage::Promoting { position } => Some(position.clone()),
        },
        target_was_writable: intent.target_was_writable,
    }
}

/// What the state file says, by today's names. A pair that left the configuration is an error: its primary may be read-only because of us.
pub(super) fn restored(cluster: &config::Cluster, record: &SwitchoverRecord) -> Result<Intent> {
    let pair = |name: &String| {
        let index = cluster.pairs.iter().position(|pair| pair.name == *name);
        let index = index.with_context(|| {
            format!(
                "the state file says that a flip of cluster {:?} from {:?} to {:?} was under way, and the configuration has no pair {name:?}; give the pair its name back and start the daemon, which finishes or undoes the flip, before you rename or remove it",
                cluster.name, record.from, record.to
            )
        })?;
        anyhow::Ok(PairId(index as u16))
    };
    Ok(Intent {
        from: pair(&record.from)?,
        to: pair(&record.to)?,
        stage: match &record.position {
            None => IntentStage::Prepared,
            Some(position) => IntentStage::Promoting { position: position.clone() },
        },
        target_was_writable: record.target_was_writable,
    })
}
