//! Servers: what they are, what they have, and what the present daemon was told about them.

use std::{collections::VecDeque, time::Duration};

use pairflip_policy::*;

/// What a process and its host do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Alive,
    /// The process is gone.
    Dead,
    /// The host is gone.
    Silent,
    /// Alive, and turns the check account away.
    Denies,
}

/// What a server's condition says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opinion {
    Passes,
    Fails,
    Maintenance,
    Silent,
    /// Trouble of our own host.
    Unjudged,
}

/// One channel of a server.
#[derive(Clone, Debug)]
pub(crate) struct Inflow {
    pub(crate) source: BackendId,
    /// How much of the source's log was received.
    pub(crate) fetched: usize,
    /// What is received and not applied.
    pub(crate) relay: VecDeque<u64>,
    pub(crate) thread: IoThread,
}

/// One server, and what the present daemon was told about it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) cluster: ClusterId,
    pub(crate) pair: PairId,
    pub(crate) mode: Mode,
    pub(crate) read_only: bool,
    pub(crate) lags: bool,
    pub(crate) applies: bool,
    pub(crate) io_stopped: bool,
    pub(crate) sql_stopped: bool,
    pub(crate) lies_read_only: bool,
    pub(crate) lies_lag: bool,
    /// We cannot reach it, and it cannot reach us.
    pub(crate) is_cut_off: bool,
    /// Writes in the order in which they came to be in its log.
    pub(crate) log: Vec<u64>,
    pub(crate) inflows: Vec<Inflow>,
    /// How its one condition is.
    pub(crate) condition: Opinion,
    /// What it said and has not arrived; with whether the whole network was gone.
    pub(crate) on_its_way: Option<(CheckResult, Opinion, bool)>,

    pub(crate) told: Told,
}

/// What the present daemon was told; forgotten by a restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) last: Option<CheckResult>,
    pub(crate) read_only: Option<bool>,
    /// Failures in a row that may take it down, and how many of them were the server's own.
    pub(crate) failures: u32,
    pub(crate) failures_own: u32,
    pub(crate) last_is_silent: bool,
    /// Those failures in a row that need no witness.
    pub(crate) refusals: u32,
    /// Answers in a row, and perfect ones.
    pub(crate) answers: u32,
    pub(crate) passes: u32,
    /// Since when they are enough for a replica to be fit, whatever was before.
    pub(crate) fit_since: Option<Moment>,
    /// Something else than a perfect answer was told.
    pub(crate) was_ill: bool,
    /// When the failures in a row were enough, and when it answered last: by count of things told.
    pub(crate) enough_at: Option<u64>,
    pub(crate) answered_at: Option<(u64, Moment)>,
    /// When it last said that it receives from whom, with its lag.
    pub(crate) sound: Vec<(BackendId, Moment, Duration)>,
    pub(crate) has_answered: bool,
    /// What its condition said last, and how often in a row that it fails.
    pub(crate) opinion: Option<Opinion>,
    pub(crate) opinion_failures: u32,
    /// How often in a row that it passes.
    pub(crate) opinion_passes: u32,
    /// When a switchover saw it writable, after it made it so.
    pub(crate) unfenced_at: Option<Moment>,
}

impl Server {
    pub(crate) fn new(
        cluster: ClusterId,
        pair: PairId,
        read_only: bool,
        sources: &[BackendId],
    ) -> Self {
        let inflow = |source: &BackendId| Inflow {
            source: *source,
            fetched: 0,
            relay: VecDeque::new(),
            thread: IoThread::Running,
        };
        Self {
            cluster,
            pair,
            mode: Mode::Alive,
            read_only,
            lags: false,
            applies: true,
            io_stopped: false,
            sql_stopped: false,
            lies_read_only: false,
            lies_lag: false,
            is_cut_off: false,
            log: Vec::new(),
            inflows: sources.iter().map(inflow).collect(),
            condition: Opinion::Passes,
            on_its_way: None,
            told: Told::default(),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.mode, Mode::Alive | Mode::Denies)
    }

    pub(crate) fn repair(&mut self) {
        self.mode = Mode::Alive;
        self.lags = false;
        self.applies = true;
        self.io_stopped = false;
        self.sql_stopped = false;
        self.lies_read_only = false;
        self.lies_lag = false;
        self.is_cut_off = false;
        self.condition = Opinion::Passes;
    }

    /// Has it applied all that it received?
    pub(crate) fn has_applied(&self) -> bool {
        self.inflows.iter().all(|inflow| inflow.relay.is_empty())
    }

    /// What it says of itself.
    pub(crate) fn facts(&self, id: BackendId) -> Facts {
        let lag = Duration::from_secs(if self.lags != self.lies_lag { 60 } else { 0 });
        let channel = |inflow: &Inflow| {
            let io_thread =
                if self.io_stopped { IoThread::Stopped { error: 0 } } else { inflow.thread };
            let io_running = io_thread == IoThread::Running;
            Channel {
                name: format!("from {}", inflow.source),
                io_running,
                sql_running: !self.sql_stopped,
                lag: (io_running && !self.sql_stopped).then_some(lag),
                upstream: Upstream {
                    address: inflow.source.to_string(),
                    server_id: server_id(inflow.source),
                    io_thread,
                    applied: Some(inflow.relay.is_empty()),
                    executed: Some(LogPosition {
                        file: "binlog.000001".into(),
                        offset: (inflow.fetched - inflow.relay.len()) as u64,
                    }),
                    delay: Duration::ZERO,
                },
            }
        };
        Facts {
            read_only: self.read_only != self.lies_read_only,
            server_id: server_id(id),
            version: "11.8.3-MariaDB".into(),
            replication: self.inflows.iter().map(channel).collect(),
            position: Some(self.log.len().to_string()),
            may_fence: Some(true),
        }
    }

    /// Takes down what the present daemon is told about its condition.
    pub(crate) fn tell_opinion(&mut self, opinion: Opinion) {
        let told = &mut self.told;
        told.opinion = Some(opinion);
        told.opinion_failures = match opinion {
            Opinion::Fails => told.opinion_failures + 1,
            Opinion::Passes | Opinion::Maintenance | Opinion::Silent | Opinion::Unjudged => 0,
        };
        told.opinion_passes = if opinion == Opinion::Passes { told.opinion_passes + 1 } else { 0 };
        if opinion != Opinion::Passes {
            told.passes = 0;
            told.fit_since = None;
            told.was_ill = true;
        }
    }

    /// Takes down what the present daemon is told.
    pub(crate) fn tell(
        &mut self,
        result: &CheckResult,
        is_outage: bool,
        spec: &ClusterSpec,
        now: Moment,
        tick: u64,
    ) {
        let told = &mut self.told;
        told.last_is_silent = result.is_silence();
        told.refusals = match result {
            CheckResult::Failed(failure) if !failure.cause.may_take_down() => 0,
            CheckResult::Failed(_) if !result.is_silence() => told.refusals + 1,
            CheckResult::Failed(_) | CheckResult::Answered(_) | CheckResult::Reached => 0,
        };
        match result {
            CheckResult::Failed(failure) if failure.cause.may_take_down() => {
                told.failures += 1;
                told.failures_own += u32::from(!is_outage);
                if told.failures >= spec.fall {
                    told.enough_at = told.enough_at.or(Some(tick));
                }
            }
            CheckResult::Failed(_) | CheckResult::Answered(_) | CheckResult::Reached => {
                told.failures = 0;
                told.failures_own = 0;
                told.enough_at = None;
            }
        }
        told.answers = match result {
            CheckResult::Answered(_) => told.answers + 1,
            CheckResult::Failed(_) | CheckResult::Reached => 0,
        };
        if let CheckResult::Answered(facts) = result {
            // A check that began before does not know it.
            let is_late = told.unfenced_at.is_some_and(|at| now.since(at) < spec.timeout);
            told.read_only = Some(facts.read_only && !is_late);
            told.answered_at = Some((tick, now));
            told.has_answered = true;
            for channel in &facts.replication {
                let source = BackendId(channel.upstream.server_id as u16 - 1);
                let is_sound = channel.io_running && channel.sql_running;
                let is_lost = matches!(channel.upstream.io_thread, IoThread::Connecting { .. });
                // Who only lost its source is as it was; who was stopped has missed something.
                if is_sound || !is_lost || !channel.sql_running {
                    told.sound.retain(|(known, ..)| *known != source);
                }
                if let (true, Some(lag)) = (is_sound, channel.lag) {
                    told.sound.push((source, now, lag));
                }
            }
        }
        if is_perfect(result, spec) && told.opinion == Some(Opinion::Passes) {
            told.passes += 1;
            if told.passes >= spec.rise {
                told.fit_since = told.fit_since.or(Some(now));
            }
        } else {
            told.passes = 0;
            told.fit_since = None;
            told.was_ill = true;
        }
        told.last = Some(result.clone());
    }

    /// What is known of who was put into maintenance, or out of it, is void.
    pub(crate) fn forget(&mut self) {
        self.told = Told {
            read_only: self.told.read_only,
            was_ill: true,
            has_answered: self.told.has_answered,
            ..Told::default()
        };
        self.on_its_way = None;
    }

    /// Returns whether a replica has its full share by now, whatever it went through.
    pub(crate) fn is_warm(&self, spec: &ClusterSpec, now: Moment) -> bool {
        // One that flaps waits for sixteen times `hold_off` at most.
        let longest = spec.hold_off * 16 + spec.slow_start;
        !self.told.was_ill || self.told.fit_since.is_some_and(|since| since + longest <= now)
    }
}

/// Returns whether a replica that says this is fit.
fn is_perfect(result: &CheckResult, spec: &ClusterSpec) -> bool {
    match result {
        CheckResult::Answered(facts) => facts.replication.iter().all(|channel| {
            channel.io_running
                && channel.sql_running
                && channel.lag.is_some_and(|lag| lag <= spec.max_lag)
        }),
        CheckResult::Failed(_) | CheckResult::Reached => false,
    }
}

pub(crate) fn server_id(backend: BackendId) -> u32 {
    u32::from(backend.0) + 1
}
