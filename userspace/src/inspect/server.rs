//! The questions that a check does not ask: privileges, variables, the clock.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pairflip_policy::{CheckFailure, CheckResult, Condition, Facts, Role};

use crate::{
    check::{
        Checker, Probe,
        dialect::{self, Dialect},
        grants::{GRANTS_QUERY, Grants, Missing, Purpose},
    },
    sessions::{self, Sight},
};

/// Clocks that differ by less than this are the same for whoever looks at seconds of lag.
pub(super) const CLOCK_TOLERANCE_S: f64 = 1.0;

/// Variables that matter; each server has those that it knows.
const VARIABLES_QUERY: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', \
     'log_slave_updates', 'log_replica_updates', 'gtid_mode', 'auto_increment_increment')";
const CLOCK_QUERY: &str = "SELECT UNIX_TIMESTAMP(NOW(6)) AS clock";

/// A server of the configuration, and what it said.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) role: Role,
    pub(super) pair: String,
    pub(super) answer: Result<Answer, CheckFailure>,
    /// What it shows of its sessions, where they are to be ended by idleness.
    pub(super) sight: Option<Result<Sight, sessions::Error>>,
}

/// What a server said about itself.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) facts: Facts,
    pub(super) is_mariadb: bool,
    /// Of a whole check: connect, log in, ask.
    pub(super) took: Duration,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) clock_ahead_s: f64,
    pub(super) conditions: Vec<Condition>,
    /// `None` where nobody logs in.
    account: Option<(Dialect, Grants)>,
}

impl Answer {
    /// Returns what the account lacks for a purpose.
    pub(super) fn missing(&self, purpose: Purpose) -> Vec<Missing> {
        let lacks = |(dialect, grants): &(Dialect, Grants)| {
            grants.missing(*dialect, &self.facts.version, purpose)
        };
        self.account.as_ref().map_or_else(Vec::new, lacks)
    }

    /// Returns whether a variable is on; `None` where the server does not have it.
    pub(super) fn is_on(&self, names: &[&str]) -> Option<bool> {
        let value = names.iter().find_map(|name| self.variables.get(*name))?;
        Some(dialect::is_on(value))
    }
}

/// Asks one server: the check itself, then the rest over its connection.
pub(super) async fn ask(checker: &mut Checker) -> Result<Answer, CheckFailure> {
    let begun = Instant::now();
    let Probe { result, conditions } = checker.probe().await;
    let facts = match result {
        CheckResult::Answered(facts) => facts,
        CheckResult::Reached => Facts::default(),
        CheckResult::Failed(failure) => return Err(failure),
    };
    let took = begun.elapsed();
    let prober = checker.login().and_then(|prober| Some((prober.dialect()?, prober)));
    let Some((dialect, prober)) = prober else {
        return Ok(Answer::without_login(facts, took, conditions));
    };
    let before = now_s();
    let clock = prober.ask(CLOCK_QUERY).await?;
    let after = now_s();
    let clock = clock.first().and_then(|row| dialect::text(row, &["clock"])).flatten();
    let clock_s: Option<f64> = clock.and_then(|clock| clock.parse().ok());
    let variables = prober.ask(VARIABLES_QUERY).await?;
    let variables = variables.iter().filter_map(|row| {
        let cell = |name| dialect::text(row, &[name]).flatten();
        Some((cell("Variable_name")?, cell("Value")?))
    });
    let variables = variables.collect();
    let lines = prober.ask(GRANTS_QUERY).await?;
    let grants = Grants::read(&lines);
    Ok(Answer {
        is_mariadb: dialect == Dialect::MariaDb,
        took,
        variables,
        // Half of the way there and back, and what the server took.
        clock_ahead_s: clock_s.map_or(0.0, |clock_s| clock_s - f64::midpoint(before, after)),
        account: Some((dialect, grants)),
        conditions,
        facts,
    })
}

#[expect(clippy::disallowed_methods, reason = "it is compared with the servers' clocks")]
fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Answer {
    /// Of a server that is not logged in to: it was reached, and that is all.
    fn without_login(facts: Facts, took: Duration, conditions: Vec<Condition>) -> Self {
        Self {
            facts,
            is_mariadb: false,
            took,
            variables: BTreeMap::new(),
            clock_ahead_s: 0.0,
            account: None,
            conditions,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took_ms = self.took.as_secs_f64() * 1000.0;
        if self.facts.version.is_empty() {
            return write!(f, "reached in {took_ms:.1}ms");
        }
        let mode = if self.facts.read_only { "read-only" } else { "writable" };
        // MariaDB's version has its name in it.
        let name = if self.is_mariadb { "" } else { "MySQL " };
        write!(f, "{name}{}, {mode}, server_id {}", self.facts.version, self.facts.server_id)?;
        let lags = self.facts.replication.iter().filter_map(|channel| channel.lag);
        if let Some(lag) = lags.max() {
            write!(f, ", lag {}s", lag.as_secs())?;
        }
        write!(f, "; checked in {took_ms:.1}ms, clock {:+.1}ms", self.clock_ahead_s * 1000.0)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} of {})", self.address, self.role.name(), self.pair)
    }
}
