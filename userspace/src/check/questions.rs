//! Questions that a login asks beyond the first ones: conditions of Galera and GTIDs, heartbeats, and an operator's own queries.
//!
//! A question that the server cannot answer (no grant, no table, a mistake in the query) is no failure of the server: it is told and
//! changes nothing.

use std::{collections::BTreeMap, time::Duration};

use mysql_async::{Conn, Row, ServerError, prelude::Queryable};
use pairflip_policy::{About, Cause, Channel, CheckFailure, Condition, Outcome, Role};
use tokio::time::{Instant, timeout_at};

use super::{
    cause::{failure, timed_out},
    dialect::{Cell, Dialect, cells, text},
};
use crate::config::{Applies, Cluster, Failover, Galera, Heartbeat, SqlCheck};

/// Names of the conditions that are built in; the configuration keeps them free.
const GALERA: &str = "galera";
const GTID: &str = "gtid";
const HEARTBEAT: &str = "heartbeat";

/// Answered even by a node that is not ready, which refuses to look into tables.
const GALERA_QUERY: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
     ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state', 'wsrep_local_state_comment')";
const GALERA_DONOR: &str = "2";
const GALERA_SYNCED: &str = "4";

/// ER_STATEMENT_TIMEOUT of MariaDB and ER_QUERY_TIMEOUT of MySQL: the limit that a login sets, should it be a moment faster than ours.
const MARIADB_TIMED_OUT: u16 = 1969;
const MYSQL_TIMED_OUT: u16 = 3024;

/// What is asked of one server.
#[derive(Clone, Debug)]
pub struct Questions {
    pub role: Role,
    pub galera: Galera,
    pub gtid: bool,
    pub heartbeat: Option<Heartbeat>,
    /// Whether the account may change `read_only`, which a failover needs.
    pub fences: bool,
    /// Those for this server's role.
    pub sql: Vec<SqlCheck>,
}

impl Questions {
    /// What a configuration asks of servers of a role.
    #[must_use]
    pub fn of(cluster: &Cluster, role: Applies) -> Self {
        let check = &cluster.check;
        let sql = check.sql.iter().filter(|check| check.role.covers(role)).cloned().collect();
        let fences = cluster.failover == Failover::Auto;
        let questions = Self { fences, sql, ..Self::none(super::role(role)) };
        match &check.login {
            None => questions,
            Some(login) => Self {
                galera: login.galera,
                gtid: login.gtid,
                heartbeat: login.heartbeat.clone(),
                ..questions
            },
        }
    }

    /// Nothing but the first questions.
    #[must_use]
    pub const fn none(role: Role) -> Self {
        Self {
            role,
            galera: Galera::Off,
            gtid: false,
            heartbeat: None,
            fences: false,
            sql: Vec::new(),
        }
    }
}

/// Whether the connection can be used on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Line {
    Clear,
    /// Half an answer is on it, or it is gone.
    Broken,
}

pub(super) fn condition(name: &str, about: About, outcome: Outcome) -> Condition {
    Condition { name: name.to_owned(), about, outcome }
}

/// Asks how the node is in its Galera cluster. First of all, since a node that is not ready answers little else.
pub(super) async fn galera(
    conn: &mut Conn,
    wanted: Galera,
) -> Result<Option<Condition>, CheckFailure> {
    if wanted == Galera::Off {
        return Ok(None);
    }
    let rows: Vec<(String, String)> = conn.query(GALERA_QUERY).await.map_err(|e| failure(&e))?;
    let states = rows.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Ok(Some(condition(GALERA, About::Server, galera_outcome(&states, wanted))))
}

fn galera_outcome(states: &BTreeMap<String, String>, wanted: Galera) -> Outcome {
    let state = |name: &str| states.get(name).map_or("", String::as_str);
    let local = state("wsrep_local_state");
    let is_fit = local == GALERA_SYNCED || wanted == Galera::SyncedOrDonor && local == GALERA_DONOR;
    let text = if states.is_empty() {
        "the server has no wsrep_ states: it is no Galera node".to_owned()
    } else if !state("wsrep_ready").eq_ignore_ascii_case("on") {
        format!("wsrep_ready is {}, expected ON", state("wsrep_ready"))
    } else if !state("wsrep_cluster_status").eq_ignore_ascii_case("primary") {
        format!("wsrep_cluster_status is {}, expected Primary", state("wsrep_cluster_status"))
    } else if !is_fit {
        let comment = state("wsrep_local_state_comment");
        format!("wsrep_local_state is {local} ({comment}), expected {GALERA_SYNCED} (Synced)")
    } else {
        return Outcome::Passed;
    };
    Outcome::Failed { text }
}

/// Returns whether replication goes by GTIDs, by the rows of the replication status; asks MySQL for its mode as well.
pub(super) async fn gtid(
    conn: &mut Conn,
    dialect: Dialect,
    rows: &[Row],
) -> Result<Condition, CheckFailure> {
    let mode: Option<String> = match dialect {
        Dialect::MariaDb => None,
        Dialect::MySql | Dialect::MySql80 | Dialect::MySqlOld => {
            conn.query_first("SELECT @@GLOBAL.gtid_mode").await.map_err(|e| failure(&e))?
        }
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    Ok(condition(GTID, About::Replication, gtid_outcome(mode.as_deref(), &rows)))
}

fn gtid_outcome(mode: Option<&str>, rows: &[Vec<Cell>]) -> Outcome {
    if let Some(mode) = mode
        && !mode.eq_ignore_ascii_case("on")
    {
        return Outcome::Failed { text: format!("gtid_mode is {mode}, expected ON") };
    }
    for row in rows {
        let name = text(row, &["Channel_Name", "Connection_name"]).flatten().unwrap_or_default();
        let channel = if name.is_empty() { String::new() } else { format!(" (channel {name:?})") };
        // MariaDB, then MySQL.
        let using = text(row, &["Using_Gtid"]).flatten();
        if using.as_deref().is_some_and(|using| using.eq_ignore_ascii_case("no")) {
            let text = format!(
                "replicates by positions, not by GTIDs{channel}: MASTER_USE_GTID = slave_pos"
            );
            return Outcome::Failed { text };
        }
        if text(row, &["Auto_Position"]).flatten().as_deref() == Some("0") {
            let text =
                format!("replicates by positions, not by GTIDs{channel}: SOURCE_AUTO_POSITION = 1");
            return Outcome::Failed { text };
        }
    }
    Outcome::Passed
}

/// Replaces the lag of every channel that runs by the age of the newest heartbeat. If that cannot be had, the server's own word stands.
pub(super) async fn heartbeat(
    conn: &mut Conn,
    heartbeat: &Heartbeat,
    channels: &mut [Channel],
) -> (Condition, Line) {
    let Heartbeat { table, server_id, utc } = heartbeat;
    let now = if *utc { "UTC_TIMESTAMP(6)" } else { "NOW(6)" };
    let row_of = match server_id {
        Some(id) => format!("server_id = {id}"),
        None => "server_id <> @@GLOBAL.server_id".to_owned(),
    };
    let query =
        format!("SELECT TIMESTAMPDIFF(MICROSECOND, MAX(ts), {now}) FROM {table} WHERE {row_of}");
    let told = |outcome| condition(HEARTBEAT, About::Replication, outcome);
    let age: Option<Option<i64>> = match conn.query_first(query).await {
        Ok(age) => age,
        Err(error) => {
            let needs = format!("SELECT on {table}; until then lag is what the server says itself");
            return (told(unjudged(&error, &needs)), line_after(&error));
        }
    };
    // A clock that is behind the source's makes it negative. Clocks of two hosts agree to some milliseconds at best.
    let tenths = |age: i64| u64::try_from(age / 100_000).unwrap_or_default();
    let lag = age.flatten().map(|age| Duration::from_millis(100 * tenths(age)));
    for channel in channels.iter_mut().filter(|channel| channel.io_running && channel.sql_running) {
        channel.lag = lag;
    }
    let outcome = match lag {
        Some(_) => Outcome::Passed,
        None => Outcome::Failed {
            text: format!("{table} has no row with {row_of}: does pt-heartbeat run?"),
        },
    };
    (told(outcome), Line::Clear)
}

/// Asks an operator's queries one after another, the one first that was not asked last time, until the deadline.
pub(super) async fn queries(
    conn: &mut Conn,
    checks: &[SqlCheck],
    first: &mut usize,
    deadline: Instant,
    found: &mut Vec<Condition>,
) -> Line {
    let order = checks.iter().enumerate().cycle().skip(*first).take(checks.len());
    for (index, check) in order {
        let started = Instant::now();
        let until = deadline.min(started + check.timeout);
        let given = until.saturating_duration_since(started);
        // Half of its time is a fair hearing; with less a query is not asked, or was not.
        let is_fair = given * 2 >= check.timeout;
        *first = index;
        if given.is_zero() {
            return Line::Clear;
        }
        let (outcome, line) = match timeout_at(until, query(conn, check)).await {
            Err(_elapsed) if !is_fair => return Line::Broken,
            Err(_elapsed) => (Outcome::Unanswered(timed_out("asking", given)), Line::Broken),
            Ok(answer) => answer,
        };
        found.push(condition(&check.name, About::Server, outcome));
        // Whoever hangs must not keep the others from ever being asked.
        *first = (index + 1) % checks.len();
        if line == Line::Broken {
            return line;
        }
    }
    Line::Clear
}

async fn query(conn: &mut Conn, check: &SqlCheck) -> (Outcome, Line) {
    match rows_of(conn, &check.query).await {
        Ok(Rows::None) => (compared(check, None), Line::Clear),
        Ok(Rows::One(value)) => (compared(check, Some(value)), Line::Clear),
        Ok(Rows::Several) => {
            let text = "the query returned several rows: ask for one, as in SELECT COUNT(*) ...";
            let failure = CheckFailure { cause: Cause::Other, text: text.into() };
            // The rest is not worth reading.
            (Outcome::Unanswered(failure), Line::Broken)
        }
        Err(error) => (unjudged(&error, "what the query needs"), line_after(&error)),
    }
}

enum Rows {
    None,
    /// The last column, so that SHOW STATUS LIKE ... tells its value; the inner `None` is NULL.
    One(Option<String>),
    Several,
}

async fn rows_of(conn: &mut Conn, query: &str) -> mysql_async::Result<Rows> {
    let mut result = conn.query_iter(query).await?;
    let Some(row) = result.next().await? else {
        result.drop_result().await?;
        return Ok(Rows::None);
    };
    let last = cells(&row).pop().and_then(|(_, value)| value);
    if result.next().await?.is_some() {
        return Ok(Rows::Several);
    }
    result.drop_result().await?;
    Ok(Rows::One(last))
}

fn compared(check: &SqlCheck, found: Option<Option<String>>) -> Outcome {
    let got = match &found {
        Some(Some(value)) if check.op.holds(value, &check.value) => return Outcome::Passed,
        Some(Some(value)) => value.chars().filter(|c| !c.is_control()).take(80).collect(),
        Some(None) => "NULL".to_owned(),
        None => "no row".to_owned(),
    };
    Outcome::Failed { text: format!("got {got}, expected {} {}", check.op.sign(), check.value) }
}

/// A question that was not answered. What the server itself says about it proves that it is alive.
fn unjudged(error: &mysql_async::Error, needs: &str) -> Outcome {
    let mut failure = failure(error);
    if let mysql_async::Error::Server(ServerError {
        code: MARIADB_TIMED_OUT | MYSQL_TIMED_OUT,
        ..
    }) = error
    {
        return Outcome::Unanswered(CheckFailure {
            cause: Cause::TimedOut,
            text: error.to_string(),
        });
    }
    if let mysql_async::Error::Server(error) = error {
        let remedy = match failure.cause {
            Cause::MissingGrant | Cause::AuthDenied => {
                failure.cause = Cause::MissingGrant;
                format!("grant the check user {needs}")
            }
            Cause::Refused
            | Cause::TimedOut
            | Cause::Unreachable
            | Cause::ConnectionLost
            | Cause::Protocol
            | Cause::TooManyConnections
            | Cause::HostBlocked
            | Cause::UserLimit
            | Cause::Tls
            | Cause::Starved
            | Cause::Local
            | Cause::Other => "try the query by hand as the check user".to_owned(),
        };
        failure.text = format!("{error}; {remedy}");
    }
    Outcome::Unanswered(failure)
}

fn line_after(error: &mysql_async::Error) -> Line {
    match error {
        // An error of the server ends its answer in order.
        mysql_async::Error::Server(_) => Line::Clear,
        mysql_async::Error::Driver(_)
        | mysql_async::Error::Io(_)
        | mysql_async::Error::Other(_)
        | mysql_async::Error::Url(_) => Line::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Applies, Comparison};

    #[test]
    fn galera_nodes_are_fit_when_they_are_synced_in_the_primary_component() {
        let check = |ready, cluster, local, wanted, expected: &str| {
            let states = [
                ("wsrep_ready", ready),
                ("wsrep_cluster_status", cluster),
                ("wsrep_local_state", local),
                ("wsrep_local_state_comment", "Donor/Desynced"),
            ];
            let states = states.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            assert_eq!(galera_outcome(&states, wanted).text(), expected);
        };
        check("ON", "Primary", "4", Galera::Synced, "");
        check("ON", "Primary", "2", Galera::SyncedOrDonor, "");
        let donor = "wsrep_local_state is 2 (Donor/Desynced), expected 4 (Synced)";
        check("ON", "Primary", "2", Galera::Synced, donor);
        check("OFF", "Primary", "4", Galera::Synced, "wsrep_ready is OFF, expected ON");
        let lost = "wsrep_cluster_status is non-Primary, expected Primary";
        check("ON", "non-Primary", "4", Galera::SyncedOrDonor, lost);
        let none = galera_outcome(&BTreeMap::new(), Galera::Synced);
        assert_eq!(none.text(), "the server has no wsrep_ states: it is no Galera node");
    }

    #[test]
    fn replication_of_mysql_goes_by_gtids_when_it_is_on_and_positions_are_automatic() {
        let check = |mode, auto_position: &str, expected: &str| {
            let cell = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
            let row = vec![cell("Channel_Name", "b"), cell("Auto_Position", auto_position)];
            assert_eq!(gtid_outcome(Some(mode), &[row]).text(), expected);
        };
        check("ON", "1", "");
        check("ON_PERMISSIVE", "1", "gtid_mode is ON_PERMISSIVE, expected ON");
        let positions =
            "replicates by positions, not by GTIDs (channel \"b\"): SOURCE_AUTO_POSITION = 1";
        check("ON", "0", positions);
        assert_eq!(gtid_outcome(Some("ON"), &[]), Outcome::Passed);
    }

    #[test]
    fn answers_are_compared_as_numbers_where_both_are_and_else_as_text() {
        for (found, op, value, expected) in [
            ("10", Comparison::Greater, "9", true),
            ("10", Comparison::Less, "9", false),
            ("1.0", Comparison::Equal, "1", true),
            ("18446744073709551615", Comparison::Equal, "18446744073709551614", false),
            ("ON", Comparison::Equal, "ON", true),
            ("on", Comparison::Equal, "ON", false),
            ("ON", Comparison::NotEqual, "1", true),
            ("b", Comparison::GreaterOrEqual, "a", true),
            ("-1", Comparison::LessOrEqual, "0", true),
            ("nan", Comparison::Equal, "1", false),
            ("nan", Comparison::NotEqual, "1", true),
            ("nan", Comparison::Less, "1", false),
        ] {
            assert_eq!(op.holds(found, value), expected, "{found} {} {value}", op.sign());
        }
    }

    #[test]
    fn a_query_that_the_server_ends_has_timed_out_and_other_errors_say_nothing() {
        let outcome = |code| {
            let (message, state) = ("words".into(), "70100".into());
            unjudged(&mysql_async::Error::Server(ServerError { code, message, state }), "more")
        };
        for (code, name) in [(1969, "timed_out"), (3024, "timed_out"), (1064, "other")] {
            assert_eq!(outcome(code).name(), name, "{code}");
        }
        assert_eq!(outcome(1142).name(), "missing_grant");
        assert!(outcome(1142).text().ends_with("grant the check user more)"));
    }

    #[test]
    fn null_and_no_row_fail_and_say_so() {
        let check = SqlCheck {
            name: "disk".into(),
            role: Applies::Any,
            query: String::new(),
            op: Comparison::NotEqual,
            value: "1".into(),
            timeout: Duration::from_secs(1),
        };
        assert_eq!(compared(&check, Some(None)).text(), "got NULL, expected != 1");
        assert_eq!(compared(&check, None).text(), "got no row, expected != 1");
        assert_eq!(compared(&check, Some(Some("2".into()))), Outcome::Passed);
    }
}
