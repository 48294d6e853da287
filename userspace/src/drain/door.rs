//! The way from a draining task to the loop that owns the data plane, and back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{RETRY, Scope};
use crate::dataplane::{Flow, FlowId};

/// What a task asks of the loop. The loop answers at once; an answer that nobody waits for any more is no error.
#[derive(Debug)]
pub enum Ask {
    /// The flows of a scope as they are now, and how long it took to list them; `None` if they could not be listed, which is not as if there
    /// were none.
    List { scope: Scope, answer: oneshot::Sender<Option<(Vec<Flow>, Duration)>> },
    /// These flows as they are now; those that are gone are left out.
    Find { ids: Vec<FlowId>, answer: oneshot::Sender<Vec<Flow>> },
    /// Hold these for a time; answers which are held. Those that another task holds are not.
    Hold { owner: u64, ids: Vec<FlowId>, time: Duration, answer: oneshot::Sender<Vec<FlowId>> },
    /// Let these go on, as far as this task holds them.
    Release { owner: u64, ids: Vec<FlowId>, answer: oneshot::Sender<()> },
    /// End these on both sides with RST; answers how many there were.
    End { ids: Vec<FlowId>, why: &'static str, answer: oneshot::Sender<usize> },
}

/// The daemon ends: there is nobody left who owns the data plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the daemon ends")]
pub(super) struct Gone;

/// Asks the loop for flows.
#[derive(Clone, Debug)]
pub struct Flows {
    asks: mpsc::Sender<Ask>,
    /// Whose holds are whose: what one task lets go must not be what another is about to end.
    owner: u64,
    owners: Arc<AtomicU64>,
}

impl Flows {
    /// Returns the asking end, and the one that the loop serves.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, served) = mpsc::channel(16);
        (Self { asks, owner: 0, owners: Arc::default() }, served)
    }

    /// For a task of its own.
    pub(super) fn owned(&self) -> Self {
        let owner = self.owners.fetch_add(1, Ordering::Relaxed) + 1;
        Self { owner, ..self.clone() }
    }

    /// Tries until they can be listed.
    pub(super) async fn list(&self, scope: Scope) -> Result<(Vec<Flow>, Duration), Gone> {
        loop {
            if let Some(listed) = self.ask(|answer| Ask::List { scope, answer }).await? {
                return Ok(listed);
            }
            sleep(RETRY).await;
        }
    }

    pub(super) async fn find(&self, ids: Vec<FlowId>) -> Result<Vec<Flow>, Gone> {
        self.ask(|answer| Ask::Find { ids, answer }).await
    }

    pub(super) async fn hold(&self, ids: Vec<FlowId>, time: Duration) -> Result<Vec<FlowId>, Gone> {
        self.ask(|answer| Ask::Hold { owner: self.owner, ids, time, answer }).await
    }

    pub(super) async fn release(&self, ids: Vec<FlowId>) -> Result<(), Gone> {
        if ids.is_empty() {
            return Ok(());
        }
        self.ask(|answer| Ask::Release { owner: self.owner, ids, answer }).await
    }

    pub(super) async fn end(&self, ids: Vec<FlowId>, why: &'static str) -> Result<usize, Gone> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.ask(|answer| Ask::End { ids, why, answer }).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}
