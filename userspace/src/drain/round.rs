//! One round: glance at candidates, hold a few that look idle, look again, and hand over those that are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Flows, LOOK_TIMEOUT, Target,
    door::Gone,
    pick::{BATCH_MAX, GLANCE_MAX, Memory, Pace, candidates, is_open, is_settled, may_take},
};
use crate::{
    dataplane::{Flow, FlowId},
    sessions::{self, Seen, Sessions, Sight},
};

/// How long a batch is held at most. It ends by itself in the kernel; a client that spoke meanwhile is late by 200 ms, TCP's first wait.
pub(super) const HOLD: Duration = Duration::from_millis(250);

/// What is left of a hold when the server is told to end its session: the longest that it may take, and some more.
const END_TIME: Duration = LOOK_TIMEOUT.saturating_add(Duration::from_millis(20));

/// How long packets that were on their way before the hold have to be answered: a statement that takes longer is none to wait for.
const ANSWER_WAIT: Duration = Duration::from_millis(20);
const ANSWER_POLL: Duration = Duration::from_millis(1);

/// Longest wait for a login and the questions after it. Nobody is held meanwhile.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a round found nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Sessions(#[from] sessions::Error),
}

/// What all rounds of a draining share.
#[derive(Debug)]
pub(super) struct Catcher {
    pub(super) flows: Flows,
    pub(super) target: Target,
    sessions: Sessions,
    sight: Sight,
    memory: Memory,
    pace: Pace,
    began: Instant,
    looked: Option<Instant>,
    /// The time of the last look.
    took: Duration,
    /// What sessions were doing when they were last looked at, by what the server sees as their client.
    pub(super) seen: BTreeMap<SocketAddr, String>,
}

/// Flows whose sessions are idle and that are held, with the time until which they are.
#[derive(Debug)]
pub(super) struct Caught {
    pub(super) flows: Vec<Flow>,
    pub(super) until: Instant,
}

impl Catcher {
    /// Connects to the server.
    ///
    /// # Errors
    /// If it does not let us look, or cannot be asked now.
    pub(super) async fn start(
        flows: Flows,
        target: Target,
        pace: Pace,
    ) -> Result<Self, sessions::Error> {
        let account = target.account.clone();
        let sessions = Sessions::open(target.server, account, LOGIN_TIMEOUT).await?;
        let sight = sessions.sight().unwrap_or(Sight::Partial { locks: false });
        let sessions = sessions.with_timeout(LOOK_TIMEOUT);
        Ok(Self {
            flows,
            target,
            sessions,
            sight,
            memory: Memory::default(),
            pace,
            began: Instant::now(),
            looked: None,
            took: Duration::ZERO,
            seen: BTreeMap::new(),
        })
    }

    /// Returns what the operator should know of what the server does not show.
    pub(super) const fn caveat(&self) -> Option<&'static str> {
        self.sight.caveat()
    }

    /// Returns how long the last look took.
    pub(super) const fn took(&self) -> Duration {
        self.took
    }

    /// Tries some of these flows, which are those of the scope, less those that are held to stay held. Holds what it returns; all others go on.
    pub(super) async fn catch(&mut self, listed: &[Flow], time: Duration) -> Result<Caught, Fault> {
        self.memory.keep(listed);
        let here: BTreeSet<SocketAddr> = listed.iter().map(|flow| flow.source).collect();
        self.seen.retain(|source, _| here.contains(source));
        let now = Instant::now();
        let elapsed = now - self.began;
        let waits = self.pace.waits_for_silence;
        let silence = if waits { self.sight.silence() } else { Duration::ZERO };
        let quiet = self.pace.quiet(elapsed).max(silence);
        let picked = candidates(listed, &self.memory, self.pace, (elapsed, quiet), now);
        let promising = match self.sight {
            // Two looks in a row take so long that the first one is worth nothing.
            Sight::Partial { .. } if !waits => {
                picked.iter().take(BATCH_MAX).map(|flow| flow.id).collect()
            }
            Sight::Partial { .. } | Sight::Full(_) => {
                self.glance(&picked[..picked.len().min(GLANCE_MAX)], quiet).await?
            }
        };
        if promising.is_empty() {
            return Ok(Caught { flows: Vec::new(), until: now });
        }
        self.look_at_held(promising, quiet, time).await
    }

    /// Looks at flows that are not held, so that only those are held that seem worth it.
    async fn glance(&mut self, picked: &[&Flow], quiet: Duration) -> Result<Vec<FlowId>, Fault> {
        let mut promising = Vec::new();
        if picked.is_empty() {
            return Ok(promising);
        }
        let seen = self.look(picked.iter().map(|flow| flow.source)).await?;
        let (now, waits) = (Instant::now(), self.pace.waits_for_silence);
        for flow in picked {
            let activity = seen.get(&flow.source).map(|seen| &seen.activity);
            if activity.is_some_and(|activity| may_take(activity, flow.idle, quiet, waits)) {
                promising.push(flow.id);
            } else {
                self.memory.remember_look(flow, now);
            }
        }
        promising.truncate(BATCH_MAX);
        Ok(promising)
    }

    async fn look_at_held(
        &mut self,
        ids: Vec<FlowId>,
        quiet: Duration,
        time: Duration,
    ) -> Result<Caught, Fault> {
        // For a server that must not be asked so soon again: before anybody is held.
        if let Some(looked) = self.looked {
            sleep(self.sight.look_interval().saturating_sub(looked.elapsed())).await;
        }
        let until = Instant::now() + time;
        let held = self.flows.hold(ids, time).await?;
        let flows = self.wait_for_answers(&held).await?;
        let settled: Vec<&Flow> =
            flows.iter().filter(|flow| is_open(flow) && is_settled(flow)).collect();
        let seen = match self.look(settled.iter().map(|flow| flow.source)).await {
            Ok(seen) => seen,
            Err(fault) => {
                self.flows.release(held).await?;
                return Err(fault);
            }
        };
        let waits = self.pace.waits_for_silence;
        let is_idle = |flow: &&Flow| {
            seen.get(&flow.source)
                .is_some_and(|seen| may_take(&seen.activity, flow.idle, quiet, waits))
        };
        let caught: Vec<Flow> = settled.into_iter().filter(is_idle).cloned().collect();
        let now = Instant::now();
        for flow in flows.iter().filter(|flow| caught.iter().all(|it| it.id != flow.id)) {
            self.memory.remember_hold(flow, now);
        }
        let others = held.into_iter().filter(|id| caught.iter().all(|it| it.id != *id)).collect();
        self.flows.release(others).await?;
        Ok(Caught { flows: caught, until })
    }

    /// Waits until what was on its way has been answered; returns the flows as they are then.
    async fn wait_for_answers(&self, held: &[FlowId]) -> Result<Vec<Flow>, Gone> {
        let began = Instant::now();
        loop {
            let flows = self.flows.find(held.to_vec()).await?;
            let is_over = began.elapsed() >= ANSWER_WAIT;
            if is_over || flows.iter().all(|flow| !is_open(flow) || is_settled(flow)) {
                return Ok(flows);
            }
            sleep(ANSWER_POLL).await;
        }
    }

    async fn look(
        &mut self,
        ends: impl Iterator<Item = SocketAddr>,
    ) -> Result<BTreeMap<SocketAddr, Seen>, Fault> {
        let ends: Vec<SocketAddr> = ends.collect();
        if let Some(looked) = self.looked {
            sleep(self.sight.look_interval().saturating_sub(looked.elapsed())).await;
        }
        let asked = Instant::now();
        let seen = self.sessions.look(&ends).await;
        self.took = asked.elapsed();
        self.looked = Some(Instant::now());
        let seen = seen?;
        for (end, seen) in &seen {
            self.seen.insert(*end, seen.activity.to_string());
        }
        Ok(seen)
    }

    /// Ends the sessions of flows that are held until then. All stay held: the caller lets them go, so that their clients can say goodbye.
    pub(super) async fn end(&mut self, mut caught: Caught) -> Result<Ended, Gone> {
        let mut ended = Ended::default();
        let ids: Vec<FlowId> = caught.flows.iter().map(|flow| flow.id).collect();
        for (index, flow) in caught.flows.iter().enumerate() {
            // An end that comes too late would meet a client that has begun something.
            if !self.stays_held(&ids[index..], &mut caught.until).await? {
                break;
            }
            match self.sessions.kill(flow.source).await {
                Ok(killed) => ended.count(killed, flow),
                Err(error) => {
                    ended.error = Some(error);
                    ended.doubtful = Some(flow.id);
                    break;
                }
            }
        }
        let now = Instant::now();
        caught.flows.iter().for_each(|flow| self.memory.remember_hold(flow, now));
        Ok(ended)
    }

    /// Sees to it that flows stay held for as long as the server may take to end one; returns whether none was let go meanwhile.
    async fn stays_held(&self, ids: &[FlowId], until: &mut Instant) -> Result<bool, Gone> {
        if Instant::now() + END_TIME < *until {
            return Ok(true);
        }
        let held = self.flows.hold(ids.to_vec(), HOLD).await?;
        let now = Instant::now();
        let is_held = now < *until && held.len() == ids.len();
        *until = now + HOLD - ANSWER_POLL;
        Ok(is_held)
    }

    /// Asks what these sessions are doing, for the operator.
    pub(super) async fn describe(&mut self, left: &[&Flow]) {
        let unknown: Vec<SocketAddr> =
            left.iter().map(|flow| flow.source).take(GLANCE_MAX).collect();
        if let Err(error) = self.look(unknown.into_iter()).await {
            tracing::debug!(%error, server = %self.target.server, "looking at the sessions that are left");
        }
    }

    pub(super) async fn close(self) {
        self.sessions.close().await;
    }
}

/// What became of sessions that were to end.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) done: Vec<FlowId>,
    /// Of accounts that we may not end, with SYSTEM_USER.
    pub(super) refused: Vec<FlowId>,
    /// Why the server could not be told of the rest.
    pub(super) error: Option<sessions::Error>,
    /// The first of the rest: the server may have heard of it.
    pub(super) doubtful: Option<FlowId>,
}

impl Ended {
    fn count(&mut self, killed: sessions::Killed, flow: &Flow) {
        match killed {
            sessions::Killed::Done | sessions::Killed::Gone => self.done.push(flow.id),
            sessions::Killed::Refused => self.refused.push(flow.id),
        }
    }
}
