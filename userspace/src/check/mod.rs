//! Checks: asking each backend how it is, at the pace that the policy sets.
//!
//! A probe is the I/O, a [`CheckResult`] is what it found. Nothing here counts, remembers or
//! decides: a failed check is data for the policy, and no answer of a server, however broken, ends
//! the loop.

mod cause;
pub(crate) mod dialect;
pub mod exec;
pub(crate) mod grants;
pub(crate) mod gtid;
mod http;
pub mod keys;
pub mod mysql;
pub mod questions;
mod tcp;

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use pairflip_policy::{
    About, BackendId, Cause, CheckFailure, CheckResult, Condition, Outcome, Role,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, timeout_at},
};

use self::{
    cause::starved,
    exec::{Exec, Subject},
    keys::Keys,
    mysql::Prober,
    questions::{Questions, condition},
};
use crate::config::{Applies, Check, Cluster, HttpCheck, TcpCheck};

/// How often a probe that waits looks whether the process gets to run.
const TICK: Duration = Duration::from_millis(50);
/// A probe in which the process did not run for more than this part of the time says nothing by what was not answered.
const LATE_MAX_DIVISOR: u32 = 4;
/// Time between two warnings that a probe could not be made; meanwhile the status says it.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// What one probe found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Whether the server answers, and what it says about itself.
    pub result: CheckResult,
    /// How the conditions came out that were asked.
    pub conditions: Vec<Condition>,
}

impl Probe {
    /// Replaces what was not answered in time.
    fn blame_ourselves(&mut self, failure: &CheckFailure) {
        if let CheckResult::Failed(found) = &mut self.result
            && found.cause == Cause::TimedOut
        {
            *found = failure.clone();
        }
        for condition in &mut self.conditions {
            if let Outcome::Unanswered(found) = &mut condition.outcome
                && found.cause == Cause::TimedOut
            {
                *found = failure.clone();
            }
        }
    }
}

/// Everything that is asked of one backend.
pub struct Checker {
    subject: Subject,
    login: Option<Prober>,
    http: Vec<HttpCheck>,
    tcp: Vec<TcpCheck>,
    exec: Vec<Exec>,
}

impl Checker {
    /// Takes the checks that are for this backend's role. Does no I/O yet.
    #[must_use]
    pub fn new(check: &Check, subject: Subject, login: Option<Prober>) -> Self {
        let role = subject.role;
        let exec = check.exec.iter().filter(|check| check.role.covers(role));
        Self {
            login,
            http: check.http.iter().filter(|check| check.role.covers(role)).cloned().collect(),
            tcp: check.tcp.iter().filter(|check| check.role.covers(role)).cloned().collect(),
            exec: exec.map(Exec::new).collect(),
            subject,
        }
    }

    /// Logs in, and nothing else.
    #[must_use]
    pub fn login_only(subject: Subject, login: Prober) -> Self {
        Self { subject, login: Some(login), http: Vec::new(), tcp: Vec::new(), exec: Vec::new() }
    }

    /// Returns the server that is checked.
    #[must_use]
    pub const fn target(&self) -> SocketAddr {
        self.subject.address
    }

    /// Returns what logs in to the server, if somebody does.
    pub(crate) const fn login(&mut self) -> Option<&mut Prober> {
        self.login.as_mut()
    }

    /// Returns who is checked.
    pub(crate) const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Closes what is kept between probes.
    pub fn disconnect(&mut self) {
        if let Some(login) = &mut self.login {
            login.disconnect();
        }
    }

    /// Asks everything at the same time; each question has a timeout of its own, none longer than that of the whole probe.
    ///
    /// On a host that is too busy, or was suspended, the timers have passed when the daemon runs again, while the answers lie in
    /// the sockets: that is no silence of the server.
    pub async fn probe(&mut self) -> Probe {
        let started = Instant::now();
        let (mut probe, late) = with_lateness(self.ask()).await;
        let took = started.elapsed();
        if late > took / LATE_MAX_DIVISOR {
            probe.blame_ourselves(&starved(late, took));
        }
        probe
    }

    async fn ask(&mut self) -> Probe {
        let Self { subject, login, http, tcp, exec } = self;
        let address = subject.address;
        let login = async {
            match login {
                Some(login) => Some(login.probe().await),
                None => None,
            }
        };
        let http = join_all(http.iter().map(async |check| {
            condition(&check.name, About::Server, http::check(address, check).await)
        }));
        let tcp = join_all(tcp.iter().map(async |check| {
            let port = check.port.unwrap_or(address.port());
            let target = SocketAddr::new(address.ip(), port);
            condition(&check.name, About::Server, tcp::check(target, check.timeout).await)
        }));
        let subject = &*subject;
        let exec = join_all(exec.iter_mut().map(async |exec| {
            let outcome = exec.check(subject).await;
            condition(exec.name(), About::Server, outcome)
        }));
        let (login, http, tcp, exec) = tokio::join!(login, http, tcp, exec);
        let mut probe = login.unwrap_or_else(|| Probe {
            result: reached(if tcp.is_empty() { &http } else { &tcp }),
            conditions: Vec::new(),
        });
        probe.conditions.extend(http.into_iter().chain(tcp).chain(exec));
        probe
    }
}

/// Returns whether a server is alive that nobody logs in to, by its tcp checks, or by its http checks where it has none of those: one that
/// was answered is enough, whatever the answer.
fn reached(conditions: &[Condition]) -> CheckResult {
    let mut failures = Vec::new();
    for condition in conditions {
        match &condition.outcome {
            Outcome::Passed | Outcome::Failed { .. } | Outcome::Maintenance { .. } => {
                return CheckResult::Reached;
            }
            Outcome::Unanswered(failure) => failures.push(failure),
        }
    }
    // What says least against the server counts: trouble of ours, then silence, then a refusal that was heard.
    let failure = failures
        .into_iter()
        .min_by_key(|failure| (failure.cause.may_take_down(), !failure.cause.is_silence()));
    CheckResult::Failed(failure.cloned().unwrap_or_else(|| CheckFailure {
        cause: Cause::Local,
        text: "nothing is asked of this server; please report this".into(),
    }))
}

/// Returns what asks each backend of a cluster, in the order of the configuration. Without `keys` nobody logs in.
#[must_use]
pub fn checkers(cluster: &Cluster, keys: Option<&Keys>) -> Vec<Checker> {
    let subjects = cluster.pairs.iter().flat_map(|pair| {
        pair.backends().map(|address| Subject {
            cluster: cluster.name.clone(),
            pair: pair.name.clone(),
            address,
            role: if address == pair.primary { Applies::Primary } else { Applies::Replica },
        })
    });
    let check = &cluster.check;
    let checker = |subject: Subject| {
        let login = keys.map(|keys| {
            let questions = Questions::of(cluster, subject.role);
            Prober::new(subject.address, keys.clone(), questions, check.timeout)
        });
        Checker::new(check, subject, login)
    };
    subjects.map(checker).collect()
}

/// Returns the policy's word for a role of the configuration.
#[must_use]
pub const fn role(applies: Applies) -> Role {
    match applies {
        Applies::Primary => Role::Primary,
        Applies::Replica | Applies::Any => Role::Replica,
    }
}

pub(crate) use self::cause::failure;

/// Probes one backend until nobody wants to know: the sender of `pace` or the receiver of `results`
/// was dropped.
///
/// The first probe starts at once, later ones `pace` after the start of the one before; a probe
/// never takes longer than its timeout, and the configuration keeps the timeout at or below every
/// pace. A new pace counts from the start of the last probe, so a faster one takes effect
/// immediately; without one there are no probes and no connection. `kick` asks for a probe now.
pub async fn run(
    backend: BackendId,
    mut checker: Checker,
    mut pace: watch::Receiver<Option<Duration>>,
    kick: &Notify,
    results: mpsc::Sender<(BackendId, Probe)>,
) {
    let mut warned: Option<Instant> = None;
    loop {
        if let Wake::Nobody = wait_for_pace(&mut checker, &mut pace, &results).await {
            return;
        }
        let started = Instant::now();
        let probe = checker.probe().await;
        let took = started.elapsed();
        tracing::debug!(%backend, server = %checker.target(), ?took, ?probe, "checked");
        if let CheckResult::Failed(failure) = &probe.result
            && failure.cause == Cause::Starved
            && warned.is_none_or(|at| at.elapsed() > WARNING_INTERVAL)
        {
            warned = Some(Instant::now());
            tracing::warn!(server = %checker.target(), "{}: {}", failure.cause, failure.text);
        }
        if results.send((backend, probe)).await.is_err() {
            return;
        }
        if let Wake::Nobody = wait(started, &mut pace, kick, &results).await {
            return;
        }
    }
}

/// Returns what the future returns, and for how much of its time this process should have run and did not.
async fn with_lateness<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let mut future = std::pin::pin!(future);
    let mut late = Duration::ZERO;
    loop {
        let tick = Instant::now() + TICK;
        let outcome = timeout_at(tick, future.as_mut()).await;
        late += Instant::now().saturating_duration_since(tick);
        if let Ok(value) = outcome {
            return (value, late);
        }
    }
}

/// Why [`wait`] returned.
enum Wake {
    /// The next probe is due, if there is a pace.
    Probe,
    /// Nobody wants to know any more.
    Nobody,
}

/// Waits until there is a pace. A server in maintenance is left alone: no connection that its shutdown would wait for.
async fn wait_for_pace(
    checker: &mut Checker,
    pace: &mut watch::Receiver<Option<Duration>>,
    results: &mpsc::Sender<(BackendId, Probe)>,
) -> Wake {
    while pace.borrow_and_update().is_none() {
        checker.disconnect();
        tokio::select! {
            () = results.closed() => return Wake::Nobody,
            changed = pace.changed() => if changed.is_err() { return Wake::Nobody },
        }
    }
    Wake::Probe
}

async fn wait(
    started: Instant,
    pace: &mut watch::Receiver<Option<Duration>>,
    kick: &Notify,
    results: &mpsc::Sender<(BackendId, Probe)>,
) -> Wake {
    loop {
        let Some(interval) = *pace.borrow_and_update() else { return Wake::Probe };
        let due = started + interval;
        tokio::select! {
            () = tokio::time::sleep_until(due) => return Wake::Probe,
            () = kick.notified() => return Wake::Probe,
            () = results.closed() => return Wake::Nobody,
            changed = pace.changed() => if changed.is_err() { return Wake::Nobody },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_does_not_run_is_late() {
        let starved = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            // Nobody else gets to run meanwhile, as on a host that has no time for us.
            std::thread::sleep(Duration::from_millis(500));
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let ((), late) = with_lateness(starved).await;
        assert!(late > Duration::from_millis(400), "{late:?}");
    }

    #[test]
    fn a_late_process_takes_the_blame_for_timeouts_and_for_nothing_else() {
        let failed = |cause| CheckFailure { cause, text: String::new() };
        let unanswered = |cause| Condition {
            name: String::new(),
            about: About::Server,
            outcome: Outcome::Unanswered(failed(cause)),
        };
        let mut probe = Probe {
            result: CheckResult::Failed(failed(Cause::TimedOut)),
            conditions: vec![unanswered(Cause::TimedOut), unanswered(Cause::Refused)],
        };
        probe.blame_ourselves(&failed(Cause::Starved));
        assert_eq!(probe.result, CheckResult::Failed(failed(Cause::Starved)));
        assert_eq!(probe.conditions, [unanswered(Cause::Starved), unanswered(Cause::Refused)]);
        let mut probe =
            Probe { result: CheckResult::Failed(failed(Cause::Refused)), conditions: Vec::new() };
        probe.blame_ourselves(&failed(Cause::Starved));
        assert_eq!(probe.result, CheckResult::Failed(failed(Cause::Refused)));
    }
}
