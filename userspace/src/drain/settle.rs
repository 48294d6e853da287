//! Holding every flow of a scope where its session is idle: what a switchover does before it fences.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout_at},
};

use super::{
    Flows, Progress, RETRY, Target,
    door::Gone,
    pick::{Pace, is_open, is_opening},
    round::{Catcher, Caught, Fault},
};
use crate::{
    dataplane::{Flow, FlowId},
    sessions::Error,
};

/// How long a held flow stays held without a word from us: after the daemon's death clients go on within this, and TCP's own wait.
const HOLD: Duration = Duration::from_secs(3);
/// Holds are renewed so often.
const RENEW: Duration = Duration::from_secs(1);
/// Between rounds while some are not held.
const PAUSE: Duration = Duration::from_millis(1);

/// A settling under way, or done: as long as it lives, what it holds stays held. Dropped, it lets all go on.
#[derive(Debug)]
pub struct Settling {
    progress: watch::Receiver<Progress>,
    result: watch::Receiver<Option<Result<Progress, Error>>>,
    ends: mpsc::Sender<End>,
}

/// To end what is held, on the way back how many there were.
type End = oneshot::Sender<usize>;

impl Settling {
    /// Returns the progress, for whoever shows it.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until every flow is held or gone, or for the deadline; returns who is left then. May be called again, and be abandoned.
    ///
    /// # Errors
    /// If the account may not look at sessions, or the server does not record what is needed, or it cannot be asked until the deadline.
    /// Nothing is held then.
    pub async fn settled(&mut self) -> Result<Progress, Error> {
        match self.result.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(ended())),
            Err(_) => Err(ended()),
        }
    }

    /// Ends the flows that are held: their sessions on the server, or with RST where that fails. Their clients see a plain close. Returns how
    /// many there were. Others of the scope are left alone.
    pub async fn end(self) -> usize {
        let (answer, answered) = oneshot::channel();
        if self.ends.send(answer).await.is_err() {
            return 0;
        }
        answered.await.unwrap_or_default()
    }
}

fn ended() -> Error {
    Error::Failed(pairflip_policy::CheckFailure {
        cause: pairflip_policy::Cause::Local,
        text: "the daemon ends".to_owned(),
    })
}

/// Starts to hold each flow of the scope as it becomes idle and outside a transaction, and keeps it held.
///
/// Pause the route first, or new flows keep coming. Until [`Settling::end`] or the drop all that is held stays so, also
/// after the deadline; if the daemon dies, for 3 s.
pub fn settle(flows: &Flows, target: Target, deadline: Duration) -> Settling {
    let flows = flows.owned();
    let (tell_progress, progress) = watch::channel(Progress::default());
    let (tell_result, result) = watch::channel(None);
    let (ends, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        let until = Instant::now() + deadline;
        let task = Task {
            flows,
            target,
            held: BTreeMap::new(),
            renewed: Instant::now(),
            tell: tell_progress,
            ends: asked,
        };
        // Nobody is left to be told if the daemon ends.
        _ = task.run(until, Pace::urgent(deadline), &tell_result).await;
    });
    Settling { progress, result, ends }
}

/// What becomes of those that are held.
enum LastWord {
    /// They go on.
    Dropped,
    End(End),
}

struct Task {
    flows: Flows,
    target: Target,
    /// What is held, and the packets of both sides then.
    held: BTreeMap<FlowId, Flow>,
    renewed: Instant,
    tell: watch::Sender<Progress>,
    ends: mpsc::Receiver<End>,
}

impl Task {
    async fn run(
        mut self,
        until: Instant,
        pace: Pace,
        result: &watch::Sender<Option<Result<Progress, Error>>>,
    ) -> Result<(), Gone> {
        let mut catcher = None;
        let settled = loop {
            let worked = self.step(&mut catcher, until, pace).await;
            match worked {
                Ok(Some(settled)) => break Ok(settled),
                Ok(None) => {}
                Err(Fault::Gone(gone)) => return Err(gone),
                Err(Fault::Sessions(error @ Error::Failed(_))) if Instant::now() < until => {
                    tracing::debug!(%error, server = %self.target.server, "holding flows: the server could not be asked; trying again");
                    let text = format!("the server could not be asked: {error}");
                    self.tell.send_modify(|progress| progress.remark = Some(text));
                    sleep(RETRY.min(until.saturating_duration_since(Instant::now()))).await;
                }
                Err(Fault::Sessions(error)) => break Err(error),
            }
            if let Some(word) = self.next_end(Instant::now()).await {
                return self.obey(word, catcher).await;
            }
        };
        if settled.is_err() {
            self.release().await?;
        }
        result.send_replace(Some(settled));
        loop {
            if let Some(word) = self.next_end(Instant::now() + RENEW).await {
                return self.obey(word, catcher).await;
            }
            self.renew().await?;
        }
    }

    /// One round; returns the end if it is there.
    async fn step(
        &mut self,
        catcher: &mut Option<Catcher>,
        until: Instant,
        pace: Pace,
    ) -> Result<Option<Progress>, Fault> {
        if self.renewed.elapsed() >= RENEW {
            self.renew().await?;
        }
        let (mut left, _) = self.flows.list(self.target.scope).await?;
        let here: BTreeSet<FlowId> =
            left.iter().filter(|flow| is_open(flow)).map(|flow| flow.id).collect();
        self.held.retain(|id, _| here.contains(id));
        let is_opening = left.iter().any(is_opening);
        left.retain(|flow| is_open(flow) && !self.held.contains_key(&flow.id));
        let is_over = Instant::now() >= until;
        if left.is_empty() && !is_over {
            let progress = self.report(&left, catcher.as_ref());
            if !is_opening {
                return Ok(Some(progress));
            }
            sleep(PAUSE).await;
            return Ok(None);
        }
        let catcher = match catcher {
            Some(catcher) => catcher,
            None => {
                let (flows, target) = (self.flows.clone(), self.target.clone());
                catcher.insert(Catcher::start(flows, target, pace).await?)
            }
        };
        if is_over {
            catcher.describe(&left.iter().collect::<Vec<_>>()).await;
            return Ok(Some(self.report(&left, Some(catcher))));
        }
        let Caught { flows, .. } = catcher.catch(&left, HOLD).await?;
        for flow in flows {
            left.retain(|it| it.id != flow.id);
            self.held.insert(flow.id, flow);
        }
        let pause = PAUSE.max(catcher.took());
        self.report(&left, Some(catcher));
        sleep(pause).await;
        Ok(None)
    }

    fn report(&self, left: &[Flow], catcher: Option<&Catcher>) -> Progress {
        let none = BTreeMap::new();
        let seen = catcher.map_or(&none, |catcher| &catcher.seen);
        let mut progress = Progress::of(self.held.len(), &left.iter().collect::<Vec<_>>(), seen);
        progress.remark = catcher.and_then(Catcher::caveat).map(str::to_owned);
        self.tell.send_replace(progress.clone());
        progress
    }

    /// Waits until then for the end of it all.
    async fn next_end(&mut self, until: Instant) -> Option<LastWord> {
        match timeout_at(until.into(), self.ends.recv()).await {
            Ok(Some(answer)) => Some(LastWord::End(answer)),
            Ok(None) => Some(LastWord::Dropped),
            Err(_elapsed) => None,
        }
    }

    async fn renew(&mut self) -> Result<(), Gone> {
        self.renewed = Instant::now();
        if self.held.is_empty() {
            return Ok(());
        }
        let ids: Vec<FlowId> = self.held.keys().copied().collect();
        let held: BTreeSet<FlowId> = self.flows.hold(ids, HOLD).await?.into_iter().collect();
        self.held.retain(|id, _| held.contains(id));
        Ok(())
    }

    async fn release(&mut self) -> Result<(), Gone> {
        let ids = std::mem::take(&mut self.held).into_keys().collect();
        self.flows.release(ids).await
    }

    async fn obey(mut self, word: LastWord, catcher: Option<Catcher>) -> Result<(), Gone> {
        match word {
            LastWord::Dropped => {
                self.release().await?;
                close(catcher).await;
            }
            LastWord::End(answer) => {
                self.renew().await?;
                let (ended, catcher) = self.end(catcher).await?;
                close(catcher).await;
                // Who asked may have gone.
                _ = answer.send(ended);
            }
        }
        Ok(())
    }

    /// Ends what is held, on the server first.
    async fn end(&mut self, catcher: Option<Catcher>) -> Result<(usize, Option<Catcher>), Gone> {
        let flows: Vec<Flow> = std::mem::take(&mut self.held).into_values().collect();
        let ids: Vec<FlowId> = flows.iter().map(|flow| flow.id).collect();
        let mut rest = ids.clone();
        let mut catcher = catcher;
        if let Some(catcher) = &mut catcher {
            let until = Instant::now() + HOLD;
            let ended = catcher.end(Caught { flows, until }).await?;
            rest.retain(|id| !ended.done.contains(id));
            if let Some(error) = ended.error {
                tracing::warn!(%error, server = %self.target.server, "ending idle sessions failed; their flows are ended with RST");
            }
        }
        // Who lives on and is let go could begin a transaction on a server that takes none.
        self.flows.end(rest, "the switchover").await?;
        let total = ids.len();
        self.flows.release(ids).await?;
        Ok((total, catcher))
    }
}

async fn close(catcher: Option<Catcher>) {
    if let Some(catcher) = catcher {
        catcher.close().await;
    }
}
