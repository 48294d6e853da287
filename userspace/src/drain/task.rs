//! The task that ends each flow of a scope, by and by, and cuts what is left at the deadline.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    Flows, LAST_WORDS, Progress, RETRY, Scope, Target,
    door::Gone,
    pick::{Pace, is_open, is_opening},
    round::{Catcher, Fault, HOLD},
};
use crate::{
    dataplane::{Flow, FlowId},
    sessions,
};

/// What happens to which flows before the deadline.
#[derive(Clone, Debug)]
pub enum Mode {
    /// They live on.
    Finish(Scope),
    /// Each is ended when it is idle.
    Idle(Target),
}

/// How a draining ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drained {
    /// Ended while they were idle.
    pub ended: usize,
    /// Cut at the deadline.
    pub cut: usize,
    /// The server does not let us look, so nothing was done; why, and what to run there.
    pub refused: Option<String>,
}

/// A draining under way. Dropping it calls it off: holds are over after 250 ms, and who was let live lives on.
#[derive(Debug)]
pub struct Draining {
    progress: watch::Receiver<Progress>,
    task: JoinHandle<Option<Drained>>,
}

impl Draining {
    /// Returns the progress, for whoever shows it.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for the end; `None` if the daemon ended first.
    pub async fn drained(&mut self) -> Option<Drained> {
        match (&mut self.task).await {
            Ok(drained) => drained,
            Err(error) if error.is_panic() => {
                let refused = "it failed for a reason that should not be; please report this, with the daemon's log";
                Some(Drained { refused: Some(refused.into()), ..Drained::default() })
            }
            Err(_cancelled) => None,
        }
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to drain. Ends when no flow of the scope is left, or at the deadline, when it cuts the rest; without a deadline never.
///
/// New flows must go elsewhere by now, or it never comes to an end.
pub fn drain(flows: &Flows, mode: Mode, deadline: Option<Duration>) -> Draining {
    let flows = flows.owned();
    let (tell, progress) = watch::channel(Progress::default());
    let task = tokio::spawn(async move {
        let began = Instant::now();
        let until = deadline.map(|deadline| began + deadline);
        let scope = match &mode {
            Mode::Finish(scope) => *scope,
            Mode::Idle(target) => target.scope,
        };
        let mut task = Task {
            flows,
            scope,
            until,
            tell,
            killed: BTreeSet::new(),
            refused: BTreeSet::new(),
            ended: 0,
        };
        let end = match mode {
            Mode::Finish(_) => task.wait().await.map(|()| None),
            Mode::Idle(target) => task.end_idle(&target, Pace::patient(deadline)).await,
        };
        task.finish(end).await
    });
    Draining { progress, task }
}

struct Task {
    flows: Flows,
    scope: Scope,
    until: Option<Instant>,
    tell: watch::Sender<Progress>,
    /// Their sessions were ended. The flow goes when its client has noticed; in `dsr` we do not see that.
    killed: BTreeSet<FlowId>,
    /// We may not end them.
    refused: BTreeSet<FlowId>,
    ended: usize,
}

impl Task {
    /// Waits until all have gone by themselves, or for the deadline.
    async fn wait(&mut self) -> Result<(), Gone> {
        let mut pause = Pause::default();
        loop {
            let (left, listing) = self.left().await?;
            self.tell.send_replace(Progress::of(
                0,
                &left.iter().collect::<Vec<_>>(),
                &Default::default(),
            ));
            if left.is_empty() || self.is_over() {
                return Ok(());
            }
            self.sleep(pause.next(listing)).await;
        }
    }

    /// Ends flows until none is left, or until the deadline; returns why it was refused, if it was.
    async fn end_idle(&mut self, target: &Target, pace: Pace) -> Result<Option<String>, Gone> {
        let mut catcher: Option<Catcher> = None;
        let mut pause = Pause::default();
        let mut told = false;
        loop {
            let (left, listing) = self.left().await?;
            if left.is_empty() || self.is_over() {
                if let Some(catcher) = catcher {
                    catcher.close().await;
                }
                return Ok(None);
            }
            let worked = match catcher.as_mut() {
                Some(catcher) => self.round(catcher, &left).await,
                None => match Catcher::start(self.flows.clone(), target.clone(), pace).await {
                    Ok(started) => {
                        if let Some(caveat) = started.caveat().filter(|_| !told) {
                            told = true;
                            tracing::warn!(server = %target.server, "draining: {caveat}");
                        }
                        catcher = Some(started);
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                },
            };
            match worked {
                Ok(()) => {
                    let looking = catcher.as_ref().map_or(Duration::ZERO, Catcher::took);
                    self.sleep(pause.next(listing).max(looking * 2)).await;
                }
                Err(Fault::Gone(gone)) => return Err(gone),
                Err(Fault::Sessions(
                    error @ (sessions::Error::NotAllowed(_) | sessions::Error::NotRecorded(_)),
                )) => return Ok(Some(error.to_string())),
                Err(Fault::Sessions(error @ sessions::Error::Failed(_))) => {
                    tracing::debug!(%error, server = %target.server, "draining: the server could not be asked; trying again");
                    let text = format!("the server could not be asked: {error}");
                    self.tell.send_modify(|progress| progress.remark = Some(text));
                    self.sleep(RETRY).await;
                }
            }
        }
    }

    async fn round(&mut self, catcher: &mut Catcher, left: &[Flow]) -> Result<(), Fault> {
        let untouched: Vec<Flow> =
            left.iter().filter(|flow| !self.refused.contains(&flow.id)).cloned().collect();
        let caught = catcher.catch(&untouched, HOLD).await?;
        let ids = caught.flows.iter().map(|flow| flow.id).collect();
        let mut ended = catcher.end(caught).await?;
        // The server may yet do what it was told, and must not meet a transaction then.
        self.ended += self.flows.end(ended.doubtful.into_iter().collect(), "drained").await?;
        self.flows.release(ids).await?;
        self.ended += ended.done.len();
        self.killed.extend(&ended.done);
        if !ended.refused.is_empty() {
            tracing::warn!(
                server = %catcher.target.server,
                flows = ended.refused.len(),
                "draining: sessions of accounts with SYSTEM_USER may not be ended by the check account; they are left to the deadline"
            );
            self.refused.extend(&ended.refused);
        }
        let waiting: Vec<&Flow> =
            left.iter().filter(|flow| !ended.done.contains(&flow.id)).collect();
        let mut progress = Progress::of(self.ended, &waiting, &catcher.seen);
        progress.remark = catcher.caveat().map(str::to_owned);
        self.tell.send_replace(progress);
        ended.error.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// The flows that live on the server, and how long the loop was busy with them.
    async fn left(&mut self) -> Result<(Vec<Flow>, Duration), Gone> {
        let (mut flows, listing) = self.flows.list(self.scope).await?;
        flows.retain(|flow| is_open(flow) || is_opening(flow));
        let ids: BTreeSet<FlowId> = flows.iter().map(|flow| flow.id).collect();
        // A client that comes back by the same port has another session.
        self.killed.retain(|id| ids.contains(id));
        self.refused.retain(|id| ids.contains(id));
        flows.retain(|flow| !self.killed.contains(&flow.id));
        Ok((flows, listing))
    }

    /// Waits a moment for the closes of sessions that were ended to get through; returns what is left then.
    async fn last_words(&mut self) -> Result<(Vec<Flow>, Duration), Gone> {
        let until = Instant::now() + LAST_WORDS;
        loop {
            let left = self.left().await?;
            if self.killed.is_empty() || Instant::now() >= until {
                return Ok(left);
            }
            sleep(LAST_WORDS / 10).await;
        }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    async fn sleep(&self, time: Duration) {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        sleep(left.map_or(time, |left| left.min(time))).await;
    }

    /// Cuts what is left at the deadline, whatever came before it.
    async fn finish(mut self, end: Result<Option<String>, Gone>) -> Option<Drained> {
        let refused = end.ok()?;
        if refused.is_some() {
            return Some(Drained { refused, ..Drained::default() });
        }
        let (left, _) = self.last_words().await.ok()?;
        // What is left of sessions that were ended: nobody is at the other end.
        let killed = self.killed.iter().copied().collect();
        self.flows.end(killed, "drained").await.ok()?;
        // Without a deadline, or before it, whoever came last lives on.
        let ids = left.iter().filter(|_| self.is_over()).map(|flow| flow.id).collect();
        let cut = self.flows.end(ids, "the deadline of draining").await.ok()?;
        self.tell.send_modify(|progress| {
            *progress = Progress { settled: progress.settled, ..Progress::default() }
        });
        Some(Drained { ended: self.ended, cut, refused: None })
    }
}

/// Pauses between rounds: short at first, longer with time, and never so short that listing flows takes a tenth of the loop's time, or
/// looking at them a third of one of the server's processors.
#[derive(Debug)]
struct Pause {
    began: Instant,
}

impl Default for Pause {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

impl Pause {
    fn next(&mut self, listing: Duration) -> Duration {
        let pause = match self.began.elapsed().as_secs() {
            0..60 => Duration::from_millis(10),
            60..600 => Duration::from_millis(100),
            _ => Duration::from_millis(500),
        };
        pause.max(listing * 10)
    }
}
