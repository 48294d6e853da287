//! Draining: ending flows as soon as their sessions are idle and outside a transaction, or holding them there.
//!
//! A flow is held for some milliseconds, so that its client cannot speak; when what was on its way is answered, the server is asked what the
//! session is doing; then it is ended or let go. Looking without the hold would race: a client may begin a transaction between the answer and
//! the end. A hold ends by itself in the kernel, so nothing has to be undone if this task, or the daemon, dies.
//!
//! Tasks of their own, beside the loop that owns the data plane: they ask it through [`Flows`]. They touch flows of their [`Scope`] only and
//! decide nothing else: what is drained, until when, and what comes then is the caller's.

mod door;
mod pick;
mod round;
mod settle;
mod task;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

pub use self::{
    door::{Ask, Flows},
    settle::{Settling, settle},
    task::{Drained, Draining, Mode, drain},
};
use crate::{config::Login, dataplane::Flow};

/// Longest that one call to a server may take while flows are held: shorter than a hold, so that none ends before the answer is there.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_millis(200);

/// Longest wait for a close to get from a server to its client; in `dsr` it is not seen.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Pause after a server could not be asked, or flows not be listed.
const RETRY: Duration = Duration::from_secs(1);

/// Which flows: those of a cluster to one backend, or of one route to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Scope {
    /// Slot of the cluster.
    pub cluster: u16,
    /// Index of the backend.
    pub backend: u16,
    /// Of the route; `None` for all.
    pub vip: Option<SocketAddr>,
}

/// A server whose flows are drained, and the account that may look at its sessions and end them.
#[derive(Clone, Debug)]
pub struct Target {
    pub scope: Scope,
    pub server: SocketAddr,
    pub account: Arc<Login>,
}

/// Waits a moment for the closes of sessions that were ended to get through to their clients.
pub async fn await_closes(flows: &Flows, scope: Scope) {
    let until = Instant::now() + LAST_WORDS;
    while Instant::now() < until {
        match flows.list(scope).await {
            Ok((left, _)) if left.iter().any(pick::is_open) => sleep(LAST_WORDS / 10).await,
            Ok(_) | Err(_) => return,
        }
    }
}

/// Ends every flow of a scope with RST on both sides; returns how many there were.
pub async fn cut(flows: &Flows, scope: Scope, why: &'static str) -> usize {
    let Ok((found, _)) = flows.list(scope).await else { return 0 };
    let ids = found.iter().map(|flow| flow.id).collect();
    flows.end(ids, why).await.unwrap_or_default()
}

/// How far it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Ended, or held to stay held.
    pub settled: usize,
    /// The flows that are left.
    pub left: usize,
    /// Some of those, the longest in their transaction first; not more than [`Progress::LISTED_MAX`].
    pub waiting: Vec<Waiting>,
    /// What an operator should know: what the server does not show, or why it could not be asked the last time.
    pub remark: Option<String>,
}

impl Progress {
    /// How many flows are named.
    pub const LISTED_MAX: usize = 20;

    fn of(settled: usize, left: &[&Flow], seen: &BTreeMap<SocketAddr, String>) -> Self {
        let mut waiting: Vec<Waiting> = left
            .iter()
            .map(|flow| Waiting {
                client: flow.client,
                source: flow.source,
                vip: flow.vip,
                doing: seen.get(&flow.source).cloned(),
                silent: flow.idle,
            })
            .collect();
        waiting.sort_by_key(|flow| std::cmp::Reverse((flow.doing.is_some(), flow.silent)));
        waiting.truncate(Self::LISTED_MAX);
        Self { settled, left: left.len(), waiting, remark: None }
    }
}

/// A flow that is waited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waiting {
    pub client: SocketAddr,
    /// What the server sees as its client.
    pub source: SocketAddr,
    pub vip: SocketAddr,
    /// What its session was doing when it was last looked at: "in a transaction for 3.1 s". `None`: it was not looked at.
    pub doing: Option<String>,
    /// Since its last packet.
    pub silent: Duration,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.client, self.doing.as_deref().unwrap_or("busy"))
    }
}
