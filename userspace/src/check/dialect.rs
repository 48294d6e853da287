//! What to ask which server, and how to read its answers.

use std::time::Duration;

use mysql_async::{Row, Value};
use pairflip_policy::{Cause, Channel, CheckFailure};

/// Asked first on every connection; its columns have the same names everywhere.
pub(super) const STATE_QUERY: &str = "SELECT @@global.read_only AS ro, @@global.server_id AS id, \
     @@version AS version, @@version_comment AS comment";

/// How a server names replication. Found once per connection, since an upgrade ends every
/// connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dialect {
    MariaDb,
    /// MySQL before 8.0.22, which knows only the old words.
    MySqlOld,
    MySql,
}

impl Dialect {
    pub(super) fn of(version: &str, comment: &str) -> Self {
        let is_mariadb =
            [version, comment].iter().any(|text| text.to_ascii_lowercase().contains("mariadb"));
        if is_mariadb {
            Self::MariaDb
        } else if number(version).is_some_and(|number| number < [8, 0, 22]) {
            Self::MySqlOld
        } else {
            Self::MySql
        }
    }

    pub(super) const fn replication_query(self) -> &'static str {
        match self {
            // Without ALL it shows the unnamed connection only.
            Self::MariaDb => "SHOW ALL SLAVES STATUS",
            Self::MySqlOld => "SHOW SLAVE STATUS",
            Self::MySql => "SHOW REPLICA STATUS",
        }
    }
}

/// Returns what makes the server itself end a query of ours that takes longer than this, so that nothing piles up there.
pub(super) fn query_time_limit(dialect: Dialect, limit: Duration) -> String {
    match dialect {
        Dialect::MariaDb => format!("SET SESSION max_statement_time = {}", limit.as_secs_f64()),
        Dialect::MySql | Dialect::MySqlOld => {
            format!("SET SESSION max_execution_time = {}", limit.as_millis())
        }
    }
}

/// The first three numbers of a version such as `8.0.22-debug`; a missing or strange one counts as
/// 0.
fn number(version: &str) -> Option<[u32; 3]> {
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or_default());
    let major = parts.next().filter(|major| *major > 0)?;
    Some([major, parts.next().unwrap_or_default(), parts.next().unwrap_or_default()])
}

/// The answer to [`STATE_QUERY`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) read_only: bool,
    pub(super) server_id: u32,
    pub(super) version: String,
    pub(super) comment: String,
}

impl State {
    pub(super) fn read(row: Option<&Row>) -> Result<Self, CheckFailure> {
        let row = row.ok_or_else(|| strange("the server sent no row", STATE_QUERY))?;
        let field = |name| {
            text(row, &[name]).flatten().ok_or_else(|| strange(&format!("no {name}"), STATE_QUERY))
        };
        let id = field("id")?;
        Ok(Self {
            read_only: is_on(&field("ro")?),
            server_id: id
                .parse()
                .map_err(|_| strange(&format!("server_id {id:?}"), STATE_QUERY))?,
            version: field("version")?,
            comment: text(row, &["comment"]).flatten().unwrap_or_default(),
        })
    }
}

/// `read_only` is a number or a word; MariaDB 12 adds words such as `NO_LOCK`, which all mean yes.
fn is_on(value: &str) -> bool {
    !matches!(value.to_ascii_uppercase().as_str(), "0" | "OFF" | "FALSE" | "NO" | "")
}

/// Reads the rows of [`Dialect::replication_query`].
pub(super) fn channels(dialect: Dialect, rows: &[Row]) -> Result<Vec<Channel>, CheckFailure> {
    rows.iter().map(|row| channel(dialect, row)).collect()
}

fn channel(dialect: Dialect, row: &Row) -> Result<Channel, CheckFailure> {
    let field = |names: &[&str]| {
        text(row, names)
            .ok_or_else(|| strange(&format!("no column {}", names[0]), dialect.replication_query()))
    };
    let lag = field(&["Seconds_Behind_Source", "Seconds_Behind_Master"])?;
    let lag =
        match lag.as_deref() {
            None => None,
            Some(seconds) => Some(seconds.parse().map(Duration::from_secs).map_err(|_| {
                strange(&format!("a lag of {seconds:?}"), dialect.replication_query())
            })?),
        };
    Ok(Channel {
        // The unnamed default has an empty name; MySQL 5.6 has no such column.
        name: text(row, &["Channel_Name", "Connection_name"]).flatten().unwrap_or_default(),
        io_running: is_yes(field(&["Replica_IO_Running", "Slave_IO_Running"])?),
        sql_running: is_yes(field(&["Replica_SQL_Running", "Slave_SQL_Running"])?),
        lag,
    })
}

/// The other words (`No`, `Connecting`, `Preparing`) mean that nothing arrives.
fn is_yes(value: Option<String>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("yes"))
}

/// Returns the first of these columns that is there, whatever its letters' case; the inner `None`
/// is NULL.
pub(super) fn text(row: &Row, names: &[&str]) -> Option<Option<String>> {
    let index = names.iter().find_map(|name| {
        row.columns_ref().iter().position(|column| column.name_str().eq_ignore_ascii_case(name))
    })?;
    value_of(row, index)
}

/// Returns a column as text, if there is one; the inner `None` is NULL.
pub(super) fn value_of(row: &Row, index: usize) -> Option<Option<String>> {
    Some(match row.as_ref(index)? {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        other @ (Value::Float(_) | Value::Double(_) | Value::Date(..) | Value::Time(..)) => {
            Some(other.as_sql(true))
        }
    })
}

/// It speaks MySQL, so it lives; we do not understand it, so nothing follows from what it said.
fn strange(what: &str, query: &str) -> CheckFailure {
    CheckFailure {
        cause: Cause::Other,
        text: format!("unexpected answer to `{query}`: {what}; is this MySQL or MariaDB?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_by_version() {
        for (version, comment, dialect) in [
            ("10.11.19-MariaDB-0+deb12u1-log", "Debian 12", Dialect::MariaDb),
            ("11.8.9-MariaDB", "", Dialect::MariaDb),
            ("5.5.5-10.6.1-MariaDB", "", Dialect::MariaDb),
            ("8.0.40", "mariadb.org binary distribution", Dialect::MariaDb),
            ("5.7.44-log", "MySQL Community Server (GPL)", Dialect::MySqlOld),
            ("8.0.21", "", Dialect::MySqlOld),
            ("8.0.22", "", Dialect::MySql),
            ("8.0.36-28", "Percona Server (GPL)", Dialect::MySql),
            ("8.4.0", "", Dialect::MySql),
            ("9.7.4", "", Dialect::MySql),
            ("10.0.0", "", Dialect::MySql),
            ("", "", Dialect::MySql),
            ("unknown", "", Dialect::MySql),
        ] {
            assert_eq!(Dialect::of(version, comment), dialect, "{version} {comment}");
        }
    }

    #[test]
    fn read_only_is_a_number_or_a_word() {
        for off in ["0", "OFF", "off", ""] {
            assert!(!is_on(off), "{off}");
        }
        for on in ["1", "ON", "on", "NO_LOCK", "NO_LOCK_NO_ADMIN"] {
            assert!(is_on(on), "{on}");
        }
    }

    #[test]
    fn only_yes_means_running() {
        for (word, running) in
            [("Yes", true), ("No", false), ("Connecting", false), ("Preparing", false)]
        {
            assert_eq!(is_yes(Some(word.into())), running, "{word}");
        }
        assert!(!is_yes(None));
    }
}
