//! What a session is doing, read from what the server shows of it.

use std::{fmt, time::Duration};

use mysql_async::Row;

use super::sight::Sight;
use crate::check::dialect::{Cell, cells};

/// What was seen of one session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Of the server's own numbering; 0 if there is no session.
    pub id: u64,
    pub user: String,
    pub activity: Activity,
}

impl Seen {
    pub(super) fn nobody(activity: Activity) -> Self {
        Self { id: 0, user: String::new(), activity }
    }
}

/// What a session is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Activity {
    /// It waits for its client, is in no transaction and holds no lock.
    Idle { last: Last },
    /// It waits for its client, in the middle of a transaction; `time` if the server says since when.
    InTransaction { time: Option<Duration>, is_xa: bool },
    /// It waits for its client and holds locks of its own: LOCK TABLES, GET_LOCK, HANDLER, FLUSH TABLES WITH READ LOCK.
    HoldsLocks { kinds: String },
    /// It works for its client, or logs in.
    Running { time: Duration },
    /// It waits for its client, and is idle by all that the server shows, which is not all: it was not silent for long enough
    /// ([`Sight::PARTIAL_SILENCE`]) to be in no transaction.
    SeemsIdle,
    /// The server does not show enough to say; `why` says what.
    Unclear { why: &'static str },
    /// It cannot be told which session is this client's.
    Ambiguous,
    /// The server has no session of this client.
    Absent,
}

/// What an idle session did last: where in its use by an application it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Last {
    /// The end of a piece of work: COMMIT, ROLLBACK, a reset of the connection.
    Done,
    /// What comes right before work: a ping, a SELECT of a constant, SET, USE, the preparation of a statement.
    Begun,
    /// A cursor was read, which may be open still.
    Fetched,
    /// Work outside a transaction.
    Work,
    /// The server does not say.
    Unknown,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle { last: Last::Begun } => f.write_str("about to work"),
            Self::Idle { last: Last::Fetched } => f.write_str("reading a cursor"),
            Self::Idle { last: Last::Done | Last::Work | Last::Unknown } => f.write_str("idle"),
            Self::InTransaction { time, is_xa } => {
                f.write_str(if *is_xa { "in an XA transaction" } else { "in a transaction" })?;
                time.map_or(Ok(()), |time| write!(f, " for {:.1} s", time.as_secs_f64()))
            }
            Self::HoldsLocks { kinds } => write!(f, "holds locks ({kinds})"),
            Self::Running { time } => write!(f, "running for {:.1} s", time.as_secs_f64()),
            Self::SeemsIdle => f.write_str(
                "not clear: it was not silent for 5 s, and not all transactions are seen without performance_schema",
            ),
            Self::Unclear { why } => write!(f, "not clear: {why}"),
            Self::Ambiguous => f.write_str("not told apart from others"),
            Self::Absent => f.write_str("without a session on the server"),
        }
    }
}

/// A row about a session.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionRow {
    pub(super) id: u64,
    pub(super) host: String,
    pub(super) user: String,
    command: String,
    time: Duration,
    unseen: Option<&'static str>,
    seems_idle: bool,
    in_transaction: bool,
    is_xa: bool,
    transaction_time: Option<Duration>,
    pub(super) in_innodb: bool,
    last: Option<Last>,
    pub(super) locks: String,
}

impl SessionRow {
    /// What the list of sessions says.
    pub(super) fn listed(row: &Row) -> Self {
        let row = cells(row);
        Self {
            id: text(&row, "id").parse().unwrap_or_default(),
            host: text(&row, "host"),
            user: text(&row, "user"),
            command: text(&row, "command"),
            time: millis(&text(&row, "time_ms")).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// What the list and performance_schema say.
    pub(super) fn recorded(row: &Row) -> Self {
        let listed = Self::listed(row);
        let row = cells(row);
        let is_recorded = text(&row, "instrumented").eq_ignore_ascii_case("yes");
        let event = text(&row, "last");
        let locks = text(&row, "locks");
        // MySQL detaches a prepared XA transaction from its session, and leaves the event when it is committed or rolled back there.
        let is_left_over =
            text(&row, "detaches") == "1" && text(&row, "xa") == "PREPARED" && locks.is_empty();
        Self {
            unseen: (!is_recorded)
                .then_some("performance_schema.setup_actors leaves this account out"),
            in_transaction: !text(&row, "trx").is_empty() && !is_left_over,
            is_xa: !matches!(text(&row, "xa").as_str(), "" | "NOTR"),
            transaction_time: millis(&text(&row, "trx_ms")),
            last: (!event.is_empty()).then(|| last(&event, &text(&row, "text"))),
            locks,
            ..listed
        }
    }

    /// Of a server that does not show everything: only a long silence counts.
    pub(super) fn is_seen_in_part(&mut self, is_fresh: bool) {
        self.unseen =
            (!is_fresh).then_some("INNODB_TRX is old: another session reads it all the time");
        self.seems_idle = self.time < Sight::PARTIAL_SILENCE;
    }

    pub(super) fn seen(self) -> Seen {
        let activity = if self.command != "Sleep" {
            Activity::Running { time: self.time }
        } else if self.in_transaction || self.in_innodb {
            Activity::InTransaction { time: self.transaction_time, is_xa: self.is_xa }
        } else if !self.locks.is_empty() {
            Activity::HoldsLocks { kinds: self.locks }
        } else if let Some(why) = self.unseen {
            Activity::Unclear { why }
        } else if self.seems_idle {
            Activity::SeemsIdle
        } else {
            Activity::Idle { last: self.last.unwrap_or(Last::Unknown) }
        };
        Seen { id: self.id, user: self.user, activity }
    }
}

fn text(row: &[Cell], name: &str) -> String {
    let cell = row.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    cell.and_then(|(_, value)| value.clone()).unwrap_or_default()
}

fn millis(text: &str) -> Option<Duration> {
    let millis: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(millis.max(0.0) / 1000.0).ok()
}

/// Says what a statement is by its event's name, and by its text where names do not tell.
fn last(event: &str, text: &str) -> Last {
    let kind = event.strip_prefix("statement/").unwrap_or(event);
    match kind {
        "sql/commit"
        | "sql/rollback"
        | "sql/xa_commit"
        | "sql/xa_rollback"
        | "sql/unlock_tables"
        | "com/Reset Connection"
        | "com/Change user" => Last::Done,
        "com/Ping" | "com/Init DB" | "com/Prepare" | "com/Set option" | "sql/change_db"
        | "sql/prepare_sql" => Last::Begun,
        "com/Fetch" => Last::Fetched,
        "sql/set_option" if turns_autocommit_on(text) => Last::Done,
        "sql/set_option" => Last::Begun,
        _ if kind.starts_with("sql/show_") => Last::Begun,
        "sql/select" | "com/Execute" if is_select_of_nothing(text) => Last::Begun,
        _ => Last::Work,
    }
}

/// `SET autocommit=1` is what pools say of a connection that they take back; other settings are made right before it is used.
fn turns_autocommit_on(text: &str) -> bool {
    let text: String = text.to_ascii_lowercase().split_whitespace().collect();
    let value = text.split_once("autocommit").map(|(_, rest)| rest.trim_start_matches([':', '=']));
    value.is_some_and(|value| ["1", "on", "true"].iter().any(|on| value.starts_with(on)))
}

/// `SELECT 1`, `SELECT @@tx_isolation` and the like, which read no table.
fn is_select_of_nothing(text: &str) -> bool {
    let words: Vec<String> =
        without_comments(text).split_whitespace().map(str::to_ascii_lowercase).collect();
    let reads_table = words
        .iter()
        .zip(words.iter().skip(1))
        .any(|(word, next)| word == "from" && !next.starts_with("dual"));
    words.first().is_some_and(|word| word.starts_with("select"))
        && !reads_table
        && !text.contains('(')
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_work_and_what_ends_it_are_told_apart() {
        let begun = [
            ("statement/com/Ping", ""),
            ("statement/sql/select", "SELECT 1"),
            ("statement/sql/select", "/* ping */ select 1 from dual"),
            ("statement/sql/select", "SELECT @@session.transaction_read_only"),
            ("statement/sql/set_option", "SET autocommit=0"),
            ("statement/sql/set_option", "SET NAMES utf8mb4"),
            ("statement/sql/change_db", "USE app"),
            ("statement/sql/show_variables", "SHOW VARIABLES"),
            ("statement/com/Prepare", ""),
        ];
        for (event, text) in begun {
            assert_eq!(last(event, text), Last::Begun, "{event} {text}");
        }
        let done = [
            ("statement/sql/commit", "COMMIT"),
            ("statement/sql/rollback", "ROLLBACK"),
            ("statement/sql/set_option", "SET autocommit = 1"),
            ("statement/sql/set_option", "set session autocommit=ON"),
            ("statement/com/Reset Connection", ""),
        ];
        for (event, text) in done {
            assert_eq!(last(event, text), Last::Done, "{event} {text}");
        }
        let work = [
            ("statement/sql/select", "SELECT a FROM t"),
            ("statement/sql/select", "SELECT get_lock('a', 1)"),
            ("statement/sql/insert", "INSERT INTO t VALUES (1)"),
            ("statement/com/Execute", ""),
        ];
        for (event, text) in work {
            assert_eq!(last(event, text), Last::Work, "{event} {text}");
        }
        assert_eq!(last("statement/com/Fetch", ""), Last::Fetched);
    }

    #[test]
    fn what_is_not_seen_is_not_idle() {
        let row = || SessionRow { command: "Sleep".into(), ..SessionRow::default() };
        assert_eq!(row().seen().activity, Activity::Idle { last: Last::Unknown });
        let mut fresh = row();
        fresh.is_seen_in_part(true);
        assert_eq!(fresh.seen().activity, Activity::SeemsIdle);
        let mut silent = SessionRow { time: Sight::PARTIAL_SILENCE, ..row() };
        silent.is_seen_in_part(true);
        assert_eq!(silent.clone().seen().activity, Activity::Idle { last: Last::Unknown });
        silent.is_seen_in_part(false);
        assert!(matches!(silent.seen().activity, Activity::Unclear { .. }));
        let locked = SessionRow { locks: "TABLE SHARED".into(), ..row() };
        assert!(matches!(locked.seen().activity, Activity::HoldsLocks { .. }));
        let working = SessionRow { command: "Query".into(), ..row() };
        assert!(matches!(working.seen().activity, Activity::Running { .. }));
    }
}
