//! `pairflip check`: a configuration held against the host and the servers that it names.
//!
//! Asks and changes nothing. What is found is a list of [`Finding`]s, each with what to do; the judgements are pure
//! (`topology`), the questions are in `server` and `host`.

mod host;
mod server;
mod topology;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::join_all;
use pairflip_policy::{Outcome, Role};
use serde::Serialize;
use tokio::sync::mpsc;

use self::server::{Answer, Server};
use crate::{
    check::{
        self,
        exec::Subject,
        grants::{Missing, Purpose},
        keys::Keys,
    },
    config::{Cluster, Config, Failover},
    sessions,
};

/// Longest that a question about a server's sessions takes.
const SIGHT_TIMEOUT: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Servers that were asked, and how many of them answered.
    pub servers: usize,
    pub answered: usize,
    /// By subject in the order of the configuration, the host first.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    pub weight: Weight,
    /// An interface, a VIP, or a server with its role.
    pub subject: String,
    pub text: String,
    /// What to do; empty where nothing has to be done.
    pub remedy: String,
}

/// How much attention a finding asks for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    Good,
    /// It works, and somebody should look.
    Warning,
    /// Something that is configured will not work.
    Error,
}

impl Finding {
    fn good(subject: impl fmt::Display, text: impl Into<String>) -> Self {
        Self::new(Weight::Good, subject, text, "")
    }

    fn warning(
        subject: impl fmt::Display,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Weight::Warning, subject, text, remedy)
    }

    fn error(
        subject: impl fmt::Display,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Weight::Error, subject, text, remedy)
    }

    fn new(
        weight: Weight,
        subject: impl fmt::Display,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, text, remedy) = (subject.to_string(), text.into(), remedy.into());
        Self { weight, subject, text, remedy }
    }
}

impl Report {
    /// Whether something that is configured will not work.
    ///
    /// A host that none of the servers answers is most likely not the one that the configuration is for, such as the one
    /// where it is written; then nothing is said about them.
    pub fn has_errors(&self) -> bool {
        self.answered > 0 && self.findings.iter().any(|finding| finding.weight == Weight::Error)
    }
}

/// Holds a configuration against this host and the servers.
pub async fn inspect(config: &Config) -> Report {
    let mut findings = host::inspect(config).await;
    let (mut servers, mut answered) = (0, 0);
    for cluster in &config.clusters {
        let asked = ask_all(cluster).await;
        servers += asked.len();
        answered += asked.iter().filter(|server| server.answer.is_ok()).count();
        findings.extend(asked.iter().flat_map(|server| judge_answer(cluster, server)));
        findings.extend(topology::judge(cluster, &asked));
    }
    Report { servers, answered, findings }
}

/// Asks all servers of a cluster at the same time, each for as long as a check may take.
async fn ask_all(cluster: &Cluster) -> Vec<Server> {
    // Nobody is there to be told that a secret changed meanwhile.
    let (notices, _) = mpsc::channel(1);
    let keys = cluster.check.login.clone().map(|login| Keys::new(login, 0, notices));
    let questions = check::checkers(cluster, keys.as_ref()).into_iter().map(async |mut checker| {
        let answer = server::ask(&mut checker).await;
        let Subject { address, role, pair, .. } = checker.subject().clone();
        let account = cluster.check.login.as_ref().filter(|_| cluster.drains_idle());
        let sight = match account {
            Some(account) if answer.is_ok() => {
                let account = Arc::new(account.clone());
                Some(sessions::sight_of(address, account, SIGHT_TIMEOUT).await)
            }
            Some(_) | None => None,
        };
        Server { address, role: check::role(role), pair, answer, sight }
    });
    join_all(questions).await
}

/// Whether flows can be ended by idleness on a server.
fn judge_sight(server: &Server) -> Option<Finding> {
    let what = "flows cannot be drained by idleness (drain.mode or failback = \"idle\")";
    match server.sight.as_ref()? {
        Ok(sight) => {
            let caveat = sight.caveat()?;
            let remedy = "set performance_schema = ON there and restart it, see docs/draining.md";
            Some(Finding::warning(server, format!("draining by idleness: {caveat}"), remedy))
        }
        Err(sessions::Error::NotAllowed(statements)) => Some(Finding::error(
            server,
            format!("{what}: the check account may not look at sessions and end them"),
            statements.join(" "),
        )),
        Err(sessions::Error::NotRecorded(remedy)) => Some(Finding::error(
            server,
            format!("{what}: transactions and locks are not recorded"),
            remedy.clone(),
        )),
        Err(sessions::Error::Failed(failure)) => Some(Finding::warning(
            server,
            format!("what it shows of its sessions is not known: {}", failure.text),
            "check again; draining by idleness depends on it",
        )),
    }
}

/// What one server's answer says by itself.
fn judge_answer(cluster: &Cluster, server: &Server) -> Vec<Finding> {
    let answer = match &server.answer {
        Err(failure) => {
            let remedy = if failure.cause.may_take_down() {
                "start the server, or open its address and port for this host; the daemon would say that it is down"
            } else {
                "the daemon would go on using it and could not judge it"
            };
            return vec![Finding::error(
                server,
                format!("{}: {}", failure.cause, failure.text),
                remedy,
            )];
        }
        Ok(answer) => answer,
    };
    let mut findings = vec![Finding::good(server, answer.to_string())];
    let timeout = cluster.check.timeout;
    if answer.took > timeout / 2 {
        findings.push(Finding::warning(
            server,
            format!("the check took {:?} of its timeout of {timeout:?}", answer.took),
            "raise check.timeout, or find out what makes the server or the way to it slow: a check that takes too long counts as a failure",
        ));
    }
    if answer.clock_ahead_s.abs() > server::CLOCK_TOLERANCE_S {
        let direction = if answer.clock_ahead_s > 0.0 { "ahead of" } else { "behind" };
        findings.push(Finding::warning(
            server,
            format!("its clock is {:.1}s {direction} this host's", answer.clock_ahead_s.abs()),
            "let both follow NTP: lag is measured with the servers' clocks",
        ));
    }
    findings.extend(judge_grants(cluster, server, answer));
    findings.extend(judge_sight(server));
    findings.extend(answer.conditions.iter().filter_map(|condition| {
        let (text, remedy) = match &condition.outcome {
            Outcome::Passed => return None,
            Outcome::Failed { text } => {
                (text.clone(), "it gets no new connections until it passes")
            }
            Outcome::Maintenance { text } => {
                (text.clone(), "it gets no new connections until its checks say otherwise")
            }
            Outcome::Unanswered(failure) => (
                format!("{}: {}", failure.cause, failure.text),
                "repair the check; until then it says nothing about the server",
            ),
        };
        Some(Finding::warning(server, format!("condition {}: {text}", condition.name), remedy))
    }));
    findings
}

fn judge_grants(cluster: &Cluster, server: &Server, answer: &Answer) -> Vec<Finding> {
    let needed = needed(cluster, server.role);
    let missing = needed.into_iter().flat_map(|(purpose, is_configured)| {
        answer.missing(purpose).into_iter().map(move |missing| (missing, is_configured))
    });
    let finding = |(missing, is_configured): (Missing, bool)| {
        let text = format!("the check account may not {}", missing.purpose);
        if missing.is_certain && is_configured {
            Finding::error(server, text, missing.statement)
        } else if missing.is_certain {
            let text = text + "; only flips with --route-only are possible";
            Finding::warning(server, text, missing.statement)
        } else {
            let remedy =
                format!("if none of its roles brings the privilege: {}", missing.statement);
            Finding::warning(server, text + ", by what SHOW GRANTS lists", remedy)
        }
    };
    missing.map(finding).collect()
}

/// What the check account has to be able to do on servers of a role, and whether something that is configured needs it; what does not, flips
/// need.
fn needed(cluster: &Cluster, role: Role) -> Vec<(Purpose, bool)> {
    let mut needed = vec![(Purpose::Check, true)];
    if role == Role::Primary {
        needed.push((Purpose::Fence, cluster.failover == Failover::Auto));
        needed.push((Purpose::Recover, false));
        if !cluster.drains_idle() {
            needed.push((Purpose::DrainUnrecorded, false));
        }
    }
    needed
}
