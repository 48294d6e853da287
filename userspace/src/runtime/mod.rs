//! The event loop: the only caller of the policy, the only place that turns its outputs into I/O.
//!
//! `start` brings everything up, `Runtime` in this file loops, `outputs` carries out what the policy asks for, `requests`
//! answers the control socket, `status` describes it all.

mod admin;
mod drain;
mod drains;
mod end;
mod events;
mod failover;
mod flips;
mod flow_log;
mod hooks;
mod host;
mod ids;
mod outputs;
mod packet_log;
mod reload;
mod requests;
mod restore;
mod start;
mod status;
mod switchover;
mod unload;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use pairflip_common::flow::FlowState;
use pairflip_policy::{BackendId, ClusterId, Input, Moment, Output, Policy};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    time::sleep_until,
};

pub use self::unload::unload_offline;
use self::{
    drain::Holders,
    drains::Drains,
    end::{Device, Hop},
    flips::PendingFlips,
    hooks::Hooks,
    ids::Ids,
    start::Inbox,
    switchover::Switchovers,
};
use crate::{
    check::{Probe, keys::Keys},
    config::{Config, Timeouts},
    dataplane::{DataPlane, SweepLimits},
    drain::Flows,
    journal::Journal,
    net::{frames::FrameSender, links::Network},
    state::{self, State, StateDir},
};

/// How often some thousand flows are looked at for silent ones: a full table of 262 144 is gone through in about two minutes, and nobody waits
/// for longer than some milliseconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for clients of the control socket to take their answers when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Longest wait for flips that are under way when the daemon ends: what is not undone by then the next daemon undoes or finishes.
const LAST_FLIPS: Duration = Duration::from_secs(10);

/// Longest wait for hooks to be told of the last events.
const LAST_HOOKS: Duration = Duration::from_secs(5);

/// What steers one backend's probes.
struct Pacer {
    /// Between the starts of two probes; `None` while the backend is not checked.
    pace: watch::Sender<Option<Duration>>,
    kick: Arc<Notify>,
}

/// Everything that the daemon owns while it runs.
struct Runtime {
    config: Config,
    ids: Ids,
    policy: Policy,
    dataplane: DataPlane,
    state_dir: StateDir,
    state: State,
    journal: Journal,
    hooks: Hooks,
    started: Instant,
    pacers: BTreeMap<BackendId, Pacer>,
    /// What the checks log in with, by index of the cluster.
    keys: BTreeMap<usize, Keys>,
    /// How backends are reached, for the frames that end flows.
    hops: BTreeMap<u16, Hop>,
    /// The networks of clients, by slot of the kernel's devices table.
    devices: BTreeMap<u16, Device>,
    frames: FrameSender,
    /// When flows were ended last.
    last_ended: Option<Instant>,
    network: watch::Receiver<Network>,
    flips: PendingFlips,
    switchovers: Switchovers,
    /// Where those leave their answers who tell servers what to do.
    answers: mpsc::Sender<Input>,
    /// What draining tasks ask the loop through.
    flows: Flows,
    holders: Holders,
    drains: Drains,
    /// VIPs are on the interfaces and announced.
    announced: bool,
    /// A signal asked for the end, which does not wait for longer than this.
    stopping: Option<Instant>,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    /// A signal: forwarding goes on without us.
    Stopped,
    /// `pairflip unload`: nothing is left.
    Unloaded,
}

/// Runs the daemon until a signal or `pairflip unload`.
///
/// `on_ready` is called once, when every route has its answer and the VIPs are announced.
pub async fn run(config: Config, on_ready: impl FnOnce()) -> Result<()> {
    let mut parts = start::start(config).await?;
    let mut on_ready = Some(on_ready);
    let ended = parts.runtime.serve(&mut parts.inbox, &mut on_ready).await;
    parts.runtime.flips.end();
    let ended = ended?;
    // With nobody to ask any more the server ends by itself, after the answers that are on their way.
    drop(parts.inbox.requests);
    if tokio::time::timeout(LAST_ANSWERS, parts.server).await.is_err() {
        tracing::warn!("a client of the control socket did not take its answer");
    }
    parts.runtime.hooks.finish(LAST_HOOKS).await;
    match ended {
        Ended::Stopped => {
            tracing::info!("stopped; the kernel goes on forwarding, `pairflip unload` ends that")
        }
        Ended::Unloaded => tracing::info!("unloaded and stopped"),
    }
    Ok(())
}

impl Runtime {
    fn now(&self) -> Moment {
        Moment::from_millis(self.started.elapsed().as_millis() as u64)
    }

    /// Changes the state: on disk first, so that memory says what the disk says.
    fn change_state(&mut self, change: impl FnOnce(&mut State)) -> Result<(), state::Error> {
        let mut state = self.state.clone();
        change(&mut state);
        self.state_dir.save(&state)?;
        self.state = state;
        Ok(())
    }

    async fn serve(
        &mut self,
        inbox: &mut Inbox,
        on_ready: &mut Option<impl FnOnce()>,
    ) -> Result<Ended> {
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Should some route stay undecided, the others must not wait for it.
        let ready_at = self.started + self.slowest_detection() + Duration::from_secs(1);
        self.carry_out();
        loop {
            if !self.announced && (self.decided() || Instant::now() >= ready_at) {
                self.announce().await;
                if let Some(on_ready) = on_ready.take() {
                    on_ready();
                }
            }
            let flip_due = self.flips.due();
            let policy_due = self.policy.deadline().map(|at| self.started + at.elapsed());
            let ready_due = (!self.announced).then_some(ready_at);
            if self.may_stop() {
                return Ok(Ended::Stopped);
            }
            let stop_due = self.stopping;
            let due = [flip_due, policy_due, ready_due, stop_due].into_iter().flatten().min();
            tokio::select! {
                biased;
                _ = terminate.recv() => self.stop(),
                _ = interrupt.recv() => self.stop(),
                _ = hangup.recv() => {
                    let reloaded = tokio::task::block_in_place(|| self.reload());
                    for why in reloaded.failed {
                        tracing::error!("SIGHUP: {why}");
                    }
                }
                Some(request) = inbox.requests.recv() => {
                    if let Some(ended) = self.request(request).await {
                        return Ok(ended);
                    }
                }
                Some(answer) = inbox.answers.recv() => self.feed(answer),
                Some(news) = inbox.drains.recv() => self.hear_of_drain(news),
                Some(ask) = inbox.asks.recv() => tokio::task::block_in_place(|| self.serve_drain(ask)),
                Some((backend, Probe { result, conditions })) = inbox.results.recv() => {
                    self.flips.checked(backend);
                    if !conditions.is_empty() {
                        self.feed(Input::Conditions { backend, conditions });
                    }
                    self.feed(Input::Checked { backend, result });
                }
                Some(notice) = inbox.notices.recv() => self.tell_of_keys(&notice),
                changed = self.network.changed() => {
                    changed.context("the watcher of the network's links ended; restart pairflipd, connections live on")?;
                    self.follow_network();
                }
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + SWEEP_INTERVAL).into()), if due.is_some() => {
                    let now = self.now();
                    self.policy.handle_timeout(now);
                    self.carry_out();
                }
                _ = sweep.tick() => {
                    self.sweep();
                    tokio::task::block_in_place(|| self.tell_ends_again());
                }
            }
            self.start_due_flips();
        }
    }

    /// Ends at once, or as soon as flips are undone that are under way: the next daemon would have to do it, and writes wait meanwhile. A second
    /// signal does not wait.
    fn stop(&mut self) {
        let now = Instant::now();
        if self.stopping.is_some() || self.flips_running().flips.is_empty() {
            self.stopping = Some(now);
            return;
        }
        tracing::warn!("a flip is under way: it is undone, or finished, before the daemon ends");
        self.stopping = Some(now + LAST_FLIPS);
        for index in 0..self.config.clusters.len() {
            let cluster = ClusterId(index as u16);
            self.feed(Input::CallOff { cluster, request: None });
        }
    }

    fn may_stop(&self) -> bool {
        self.stopping
            .is_some_and(|at| at <= Instant::now() || self.flips_running().flips.is_empty())
    }

    /// Feeds one input and carries out all that follows from it.
    fn feed(&mut self, input: Input) {
        let now = self.now();
        self.policy.handle(input, now);
        self.carry_out();
    }

    /// Drains the policy's outputs. Their answers are inputs, whose outputs are drained, too.
    fn carry_out(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            if let Some(answer) = self.apply(output) {
                let now = self.now();
                self.policy.handle(answer, now);
            }
        }
    }

    fn apply(&mut self, output: Output) -> Option<Input> {
        // Map updates wait for running programs, files for the disk: milliseconds, on a thread that may block.
        tokio::task::block_in_place(|| outputs::apply(self, output))
    }

    /// Whether every cluster has a table in the kernel that its checks, or an earlier daemon, decided.
    fn decided(&self) -> bool {
        let view = self.policy.view();
        view.clusters.iter().all(|cluster| {
            cluster
                .routes
                .iter()
                .all(|route| route.reason != pairflip_policy::RouteReason::Unchecked)
        })
    }

    fn slowest_detection(&self) -> Duration {
        self.config
            .clusters
            .iter()
            .map(|cluster| cluster.check.detection_time())
            .max()
            .unwrap_or_default()
    }

    fn sweep(&mut self) {
        let limits: BTreeMap<u16, SweepLimits> = self.sweep_limits();
        // Flows of a cluster that left the configuration: the defaults.
        let of = |slot: u16| {
            limits.get(&slot).copied().unwrap_or_else(|| sweep_limits(Timeouts::DEFAULT))
        };
        match tokio::task::block_in_place(|| self.dataplane.sweep(of)) {
            Ok(swept) => {
                // A connection that never opened has no line of that either.
                let opened =
                    swept.iter().filter(|flow| flow.client.state != FlowState::HalfOpen as u8);
                for flow in opened {
                    self.log_ended(flow, "timeout");
                }
            }
            Err(error) => {
                tracing::error!(%error, "sweeping flows; silent ones keep their place in the table")
            }
        }
    }

    fn sweep_limits(&self) -> BTreeMap<u16, SweepLimits> {
        let clusters = self.config.clusters.iter().enumerate();
        clusters
            .filter_map(|(index, cluster)| {
                let slot = self.ids.cluster_slot(ClusterId(index as u16))?;
                Some((slot, sweep_limits(cluster.timeouts)))
            })
            .collect()
    }
}

fn sweep_limits(Timeouts { half_open, established, closing }: Timeouts) -> SweepLimits {
    SweepLimits { half_open, established, closing }
}
