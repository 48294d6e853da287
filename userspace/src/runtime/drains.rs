//! Drains under way: started and called off for the policy, whose answer is the end; shown in the status.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use pairflip_policy::{
    AdminTarget, BackendId, ClusterId, Drain, DrainReason, Drained, EndWhich, Input, PairId,
    RouteId,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{Runtime, status};
use crate::{
    control::protocol::{AdminDone, AdminRequest, ApiError, DrainStatus, WaitingStatus},
    drain::{self, Draining, Mode, Progress},
    sessions::{self, Sessions},
};

/// Longest wait for a server that is asked beforehand whether it may be drained.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

const NO_LOGIN: &str =
    "idle draining asks the servers what sessions are doing, and this cluster has no check account";

type Key = (ClusterId, EndWhich);
pub(super) type AdminReply = oneshot::Sender<Result<AdminDone, ApiError>>;

/// What tasks beside the loop tell it.
pub(super) enum News {
    /// A drain came to its end.
    Ended { key: Key, serial: u64, result: Drained },
    /// The servers of an admin request may be drained.
    Admitted { admin: AdminRequest, reply: AdminReply },
}

/// The drains under way.
pub(super) struct Drains {
    running: BTreeMap<Key, Running>,
    /// Tells a drain from an earlier one of the same flows.
    serial: u64,
    news: mpsc::Sender<News>,
}

struct Running {
    serial: u64,
    reason: DrainReason,
    mode: Drain,
    since: Instant,
    deadline: Option<Duration>,
    /// By backend.
    progress: Vec<(BackendId, watch::Receiver<Progress>)>,
    /// Waits for all of it. Ended, it calls off what it waits for.
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drains {
    pub(super) fn new(news: mpsc::Sender<News>) -> Self {
        Self { running: BTreeMap::new(), serial: 0, news }
    }

    pub(super) fn stop(&mut self, cluster: ClusterId, which: EndWhich) {
        self.running.remove(&(cluster, which));
    }
}

impl Runtime {
    /// Starts to drain beside the loop; the end comes back as an input.
    pub(super) fn drain_flows(
        &mut self,
        (cluster, which): Key,
        mode: Drain,
        deadline: Option<Duration>,
        reason: DrainReason,
    ) {
        let mut parts: Vec<(BackendId, Draining)> = Vec::new();
        let mut refused = None;
        for (backend, route) in self.drained_backends(cluster, which) {
            let how = match mode {
                Drain::Finish => self.drain_scope(cluster, backend, route).map(Mode::Finish),
                Drain::Idle | Drain::Cut => {
                    self.drain_target(cluster, backend, route).map(Mode::Idle)
                }
            };
            match how {
                Some(how) => parts.push((backend, drain::drain(&self.flows, how, deadline))),
                None => refused = Some(format!("{NO_LOGIN}.")),
            }
        }
        let progress = parts.iter().map(|(backend, part)| (*backend, part.progress())).collect();
        self.drains.serial += 1;
        let (serial, news) = (self.drains.serial, self.drains.news.clone());
        let key = (cluster, which);
        let task = tokio::spawn(async move {
            let mut result = Drained { refused, ..Drained::default() };
            for (_, mut part) in parts {
                // The daemon ends.
                let Some(part) = part.drained().await else { return };
                result.ended += part.ended as u64;
                result.cut += part.cut as u64;
                result.refused = result.refused.or(part.refused);
            }
            // The loop ends first when the daemon does.
            _ = news.send(News::Ended { key, serial, result }).await;
        });
        let running =
            Running { serial, reason, mode, since: Instant::now(), deadline, progress, task };
        // Whoever was under way for the same flows is called off.
        self.drains.running.insert(key, running);
    }

    pub(super) fn hear_of_drain(&mut self, news: News) {
        match news {
            News::Ended { key, serial, result } => {
                let is_it = self.drains.running.get(&key).is_some_and(|it| it.serial == serial);
                if is_it {
                    self.drains.running.remove(&key);
                    let (cluster, which) = key;
                    self.feed(Input::Drained { cluster, which, result });
                }
            }
            // Who asked may have gone; the state file says what was set.
            News::Admitted { admin, reply } => _ = reply.send(self.set_admin(&admin)),
        }
    }

    fn drained_backends(
        &self,
        cluster: ClusterId,
        which: EndWhich,
    ) -> Vec<(BackendId, Option<RouteId>)> {
        match which {
            EndWhich::Backend(backend) => vec![(backend, None)],
            EndWhich::Route(route, backend) => vec![(backend, Some(route))],
            EndWhich::Pair(pair) => {
                let backends = self.backends_of_pair(cluster, pair);
                backends.into_iter().map(|backend| (backend, None)).collect()
            }
        }
    }

    fn backends_of_pair(&self, cluster: ClusterId, pair: PairId) -> Vec<BackendId> {
        let pair = &self.config.clusters[usize::from(cluster.0)].pairs[usize::from(pair.0)];
        pair.backends().filter_map(|address| self.ids.backend(address)).collect()
    }

    /// Asks the servers of an admin request whether their sessions may be looked at and ended, beside the loop, and refuses the request if
    /// not. One that cannot be asked is no reason: it may be what the request is about.
    pub(super) fn admit_drain(
        &self,
        (cluster, target): (ClusterId, AdminTarget),
        admin: AdminRequest,
        reply: AdminReply,
    ) {
        let backends = match target {
            AdminTarget::Backend(backend) => vec![backend],
            AdminTarget::Pair(pair) => self.backends_of_pair(cluster, pair),
        };
        let targets: Vec<_> = backends
            .into_iter()
            .filter_map(|backend| self.drain_target(cluster, backend, None))
            .collect();
        if targets.is_empty() {
            // Nobody waits any more, here and below: nothing was changed.
            _ = reply.send(Err(no_login()));
            return;
        }
        let news = self.drains.news.clone();
        tokio::spawn(async move {
            for target in targets {
                match Sessions::open(target.server, target.account, ASK_TIMEOUT).await {
                    Ok(sessions) => sessions.close().await,
                    Err(sessions::Error::Failed(failure)) => {
                        tracing::debug!(server = %target.server, "asking whether it may be drained: {}", failure.text);
                    }
                    Err(
                        error @ (sessions::Error::NotAllowed(_) | sessions::Error::NotRecorded(_)),
                    ) => {
                        _ = reply.send(Err(refusal(target.server, &error)));
                        return;
                    }
                }
            }
            _ = news.send(News::Admitted { admin, reply }).await;
        });
    }

    /// The drains of a cluster, for the status.
    pub(super) fn drain_status(&self, cluster: ClusterId) -> Vec<DrainStatus> {
        let running = self.drains.running.iter().filter(|((owner, _), _)| *owner == cluster);
        running
            .map(|((_, which), running)| {
                let parts: Vec<(BackendId, Progress)> = running
                    .progress
                    .iter()
                    .map(|(backend, progress)| (*backend, progress.borrow().clone()))
                    .collect();
                let waiting = parts.iter().flat_map(|(backend, part)| {
                    part.waiting.iter().map(|flow| WaitingStatus {
                        client: flow.client.to_string(),
                        source: flow.source.to_string(),
                        vip: flow.vip.to_string(),
                        backend: status::address(self, *backend),
                        doing: flow.doing.clone(),
                        silent_seconds: flow.silent.as_secs_f64(),
                    })
                });
                let remarks = parts.iter().filter_map(|(backend, part)| {
                    let remark = part.remark.as_ref()?;
                    Some(format!("{}: {remark}", status::address(self, *backend)))
                });
                DrainStatus {
                    of: self.drained_name(cluster, *which),
                    reason: running.reason.to_string(),
                    mode: match running.mode {
                        Drain::Finish => "finish",
                        Drain::Idle | Drain::Cut => "idle",
                    }
                    .to_owned(),
                    age_seconds: running.since.elapsed().as_secs_f64(),
                    deadline_seconds: running.deadline.map(|deadline| {
                        deadline.saturating_sub(running.since.elapsed()).as_secs_f64()
                    }),
                    ended: parts.iter().map(|(_, part)| part.settled as u64).sum(),
                    left: parts.iter().map(|(_, part)| part.left as u64).sum(),
                    waiting: waiting.collect(),
                    remarks: remarks.collect(),
                }
            })
            .collect()
    }

    /// What is drained, as people call it.
    pub(super) fn drained_name(&self, cluster: ClusterId, which: EndWhich) -> String {
        let configured = self.config.clusters.get(usize::from(cluster.0));
        match which {
            EndWhich::Backend(backend) => status::address(self, backend),
            EndWhich::Pair(pair) => configured
                .and_then(|cluster| cluster.pairs.get(usize::from(pair.0)))
                .map_or_else(|| pair.to_string(), |pair| pair.name.clone()),
            EndWhich::Route(route, backend) => {
                let route = configured
                    .and_then(|cluster| cluster.routes.get(usize::from(route.0)))
                    .map_or_else(|| route.to_string(), |route| route.name.clone());
                format!("route {route} on {}", status::address(self, backend))
            }
        }
    }
}

fn no_login() -> ApiError {
    ApiError::new(
        "drain_refused",
        NO_LOGIN,
        "set user and password_file in [cluster.check], or say --drain finish or --drain cut",
    )
}

fn refusal(server: SocketAddr, error: &sessions::Error) -> ApiError {
    let remedy = match error {
        sessions::Error::NotAllowed(statements) => statements.join(" "),
        sessions::Error::NotRecorded(remedy) => remedy.clone(),
        sessions::Error::Failed(failure) => failure.text.clone(),
    };
    let what = match error {
        sessions::Error::NotAllowed(_) => "the check account may not look at sessions and end them",
        sessions::Error::NotRecorded(_) => "the server does not record transactions and locks",
        sessions::Error::Failed(_) => "the server cannot be asked",
    };
    ApiError::new(
        "drain_refused",
        format!("{server} cannot be drained by idleness: {what}; nothing was changed"),
        format!("on {server}: {remedy} Or say --drain finish or --drain cut"),
    )
}
