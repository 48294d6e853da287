//! What to ask which server, and how to read its answers.

use std::time::Duration;

use mysql_async::{Row, Value};
use pairflip_policy::{Cause, Channel, CheckFailure, IoThread, LogPosition, Upstream};

use super::gtid;

/// Asked first on every connection; its columns have the same names everywhere.
pub(super) const STATE_QUERY: &str = "SELECT @@global.read_only AS ro, @@global.server_id AS id, \
     @@version AS version, @@version_comment AS comment";
/// The same with the server's own position, once it is known how to ask for that.
const MARIADB_STATE_QUERY: &str = "SELECT @@global.read_only AS ro, @@global.server_id AS id, \
     @@version AS version, @@version_comment AS comment, @@global.gtid_binlog_pos AS position";
const MYSQL_STATE_QUERY: &str = "SELECT @@global.read_only AS ro, @@global.server_id AS id, \
     @@version AS version, @@version_comment AS comment, @@global.gtid_executed AS position";

/// How a server names replication. Found once per connection, since an upgrade ends every
/// connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Dialect {
    MariaDb,
    /// MySQL before 8.0.22, which knows only the old words.
    MySqlOld,
    /// MySQL before 8.2, which knows the new words for replicas and not for its own log.
    MySql80,
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
        } else if number(version).is_some_and(|number| number < [8, 2, 0]) {
            Self::MySql80
        } else {
            Self::MySql
        }
    }

    pub(super) const fn state_query(self) -> &'static str {
        match self {
            Self::MariaDb => MARIADB_STATE_QUERY,
            Self::MySqlOld | Self::MySql80 | Self::MySql => MYSQL_STATE_QUERY,
        }
    }

    /// Reads the rows of `SHOW GRANTS`; `None` where roles are granted, whose privileges they do not show.
    pub(super) fn may_fence(self, grants: &[String]) -> Option<bool> {
        let enough: &[&str] = match self {
            // Before MariaDB 10.5 SUPER was enough; since then it is not.
            Self::MariaDb => &["ALL PRIVILEGES", "READ_ONLY ADMIN", "READ ONLY ADMIN"],
            Self::MySqlOld | Self::MySql80 | Self::MySql => {
                &["ALL PRIVILEGES", "SUPER", "SYSTEM_VARIABLES_ADMIN"]
            }
        };
        let global = |grant: &&String| grant.contains(" ON *.* TO ");
        let names = |grant: &String| {
            let list = grant.split(" ON ").next().unwrap_or_default();
            list.trim_start_matches("GRANT ")
                .split(',')
                .any(|privilege| enough.contains(&privilege.trim()))
        };
        if grants.iter().filter(global).any(names) {
            return Some(true);
        }
        let is_role = |grant: &String| !grant.contains(" ON ");
        (!grants.iter().any(is_role)).then_some(false)
    }

    /// Of a server without GTIDs.
    pub(super) const fn log_position_query(self) -> &'static str {
        match self {
            Self::MariaDb | Self::MySqlOld | Self::MySql80 => "SHOW MASTER STATUS",
            Self::MySql => "SHOW BINARY LOG STATUS",
        }
    }

    pub(super) const fn replication_query(self) -> &'static str {
        match self {
            // Without ALL it shows the unnamed connection only.
            Self::MariaDb => "SHOW ALL SLAVES STATUS",
            Self::MySqlOld => "SHOW SLAVE STATUS",
            Self::MySql80 | Self::MySql => "SHOW REPLICA STATUS",
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
    /// Empty where it was not asked for, or there are no GTIDs.
    pub(super) position: String,
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
            // MySQL puts a newline after each comma.
            position: text(row, &["position"]).flatten().unwrap_or_default().replace('\n', ""),
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
        upstream: upstream(dialect, row),
    })
}

/// What is missing stays unknown: whoever decides by it takes that for a no.
fn upstream(dialect: Dialect, row: &Row) -> Upstream {
    let field = |names: &[&str]| text(row, names).flatten().unwrap_or_default();
    let number = |names: &[&str]| field(names).parse::<u64>().unwrap_or_default();
    let host = field(&["Source_Host", "Master_Host"]);
    let port = number(&["Source_Port", "Master_Port"]);
    let error = number(&["Last_IO_Errno"]) as u32;
    Upstream {
        address: format!("{host}:{port}"),
        server_id: number(&["Source_Server_Id", "Master_Server_Id"]) as u32,
        io_thread: io_thread(&field(&["Replica_IO_Running", "Slave_IO_Running"]), error),
        applied: applied(dialect, row),
        executed: log_position(
            field(&["Relay_Source_Log_File", "Relay_Master_Log_File"]),
            &field(&["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"]),
        ),
        delay: Duration::from_secs(number(&["SQL_Delay"])),
    }
}

fn io_thread(word: &str, error: u32) -> IoThread {
    match word.to_ascii_lowercase().as_str() {
        "yes" => IoThread::Running,
        // MariaDB says Preparing while it connects.
        "connecting" | "preparing" => IoThread::Connecting { error },
        "no" => IoThread::Stopped { error },
        _ => IoThread::Unknown,
    }
}

/// Whether all that was received has been applied, by GTIDs where replication goes by them, else by places in the
/// source's log; `None` when the row does not say.
///
/// By GTIDs a transaction of which the source's death left only a part does not count; by places it does, and stays.
fn applied(dialect: Dialect, row: &Row) -> Option<bool> {
    let field = |names: &[&str]| text(row, names).flatten();
    let by_gtid = match dialect {
        Dialect::MariaDb => {
            let is_used =
                field(&["Using_Gtid"]).is_some_and(|word| !word.eq_ignore_ascii_case("no"));
            let (received, done) = (field(&["Gtid_IO_Pos"]), field(&["Gtid_Slave_Pos"]));
            // Nothing received says nothing: it may not be filled in yet.
            let received = received.filter(|received| is_used && !received.is_empty());
            received.zip(done).and_then(|(received, done)| gtid::mariadb_reached(&done, &received))
        }
        Dialect::MySqlOld | Dialect::MySql80 | Dialect::MySql => {
            let is_used = field(&["Auto_Position"]).is_some_and(|word| word == "1");
            let (received, done) = (field(&["Retrieved_Gtid_Set"]), field(&["Executed_Gtid_Set"]));
            let received = received.filter(|received| is_used && !received.is_empty());
            received.zip(done).and_then(|(received, done)| gtid::mysql_contains(&done, &received))
        }
    };
    by_gtid.or_else(|| {
        let read = log_position(
            field(&["Source_Log_File", "Master_Log_File"])?,
            &field(&["Read_Source_Log_Pos", "Read_Master_Log_Pos"])?,
        )?;
        let executed = log_position(
            field(&["Relay_Source_Log_File", "Relay_Master_Log_File"])?,
            &field(&["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"])?,
        )?;
        Some(read == executed)
    })
}

/// `None` before the first connection to the source.
fn log_position(file: String, offset: &str) -> Option<LogPosition> {
    let offset = offset.parse().ok()?;
    (!file.is_empty()).then_some(LogPosition { file, offset })
}

/// Reads the answer to [`Dialect::log_position_query`].
pub(super) fn own_log_position(row: &Row) -> Option<LogPosition> {
    log_position(text(row, &["File"])??, &text(row, &["Position"])??)
}

/// The other words (`No`, `Connecting`, `Preparing`) mean that nothing arrives.
fn is_yes(value: Option<String>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("yes"))
}

/// Returns the first of these columns that is there, whatever its letters' case; the inner `None`
/// is NULL.
fn text(row: &Row, names: &[&str]) -> Option<Option<String>> {
    let index = names.iter().find_map(|name| {
        row.columns_ref().iter().position(|column| column.name_str().eq_ignore_ascii_case(name))
    })?;
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
    use mysql_async::{Column, consts::ColumnType};
    use mysql_common::row::new_row;

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
            ("8.0.22", "", Dialect::MySql80),
            ("8.0.36-28", "Percona Server (GPL)", Dialect::MySql80),
            ("8.1.0", "", Dialect::MySql80),
            ("8.2.0", "", Dialect::MySql),
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

    #[test]
    fn grants_tell_whether_read_only_may_be_changed() {
        let check = |dialect: Dialect, grants: &[&str], expected| {
            let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
            assert_eq!(dialect.may_fence(&grants), expected, "{grants:?}");
        };
        let monitor = "GRANT SLAVE MONITOR ON *.* TO `p`@`%` IDENTIFIED BY PASSWORD '*00'";
        let admin = "GRANT BINLOG MONITOR, READ_ONLY ADMIN, SLAVE MONITOR ON *.* TO `p`@`%`";
        check(Dialect::MariaDb, &[monitor], Some(false));
        check(Dialect::MariaDb, &[admin], Some(true));
        check(Dialect::MariaDb, &["GRANT ALL PRIVILEGES ON *.* TO `p`@`%`"], Some(true));
        check(Dialect::MariaDb, &["GRANT SUPER ON *.* TO `p`@`%`"], Some(false));
        check(
            Dialect::MariaDb,
            &[monitor, "GRANT ALL PRIVILEGES ON `app`.* TO `p`@`%`"],
            Some(false),
        );
        check(Dialect::MariaDb, &["GRANT `ops` TO `p`@`%`", monitor], None);
        let static_ones = "GRANT REPLICATION CLIENT ON *.* TO `p`@`%`";
        check(Dialect::MySql, &[static_ones], Some(false));
        check(
            Dialect::MySql,
            &[static_ones, "GRANT CONNECTION_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `p`@`%`"],
            Some(true),
        );
        check(Dialect::MySqlOld, &["GRANT SUPER ON *.* TO 'p'@'%'"], Some(true));
    }

    #[test]
    fn the_io_threads_words_carry_the_last_error() {
        for (word, expected) in [
            ("Yes", IoThread::Running),
            ("Connecting", IoThread::Connecting { error: 2003 }),
            ("Preparing", IoThread::Connecting { error: 2003 }),
            ("No", IoThread::Stopped { error: 2003 }),
            ("", IoThread::Unknown),
        ] {
            assert_eq!(io_thread(word, 2003), expected, "{word}");
        }
    }

    #[test]
    fn mysql_says_what_it_received_and_applied() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let channel = |received: &str, done: &str, auto: &str, read: &str| {
            let row = row(&[
                ("Replica_IO_Running", "Connecting"),
                ("Source_Host", "10.0.1.11"),
                ("Source_Port", "3306"),
                ("Source_Log_File", "binlog.000007"),
                ("Read_Source_Log_Pos", read),
                ("Relay_Source_Log_File", "binlog.000007"),
                ("Replica_SQL_Running", "Yes"),
                ("Exec_Source_Log_Pos", "900"),
                ("Seconds_Behind_Source", "0"),
                ("Last_IO_Errno", "2003"),
                ("Source_Server_Id", "11"),
                ("SQL_Delay", "60"),
                ("Retrieved_Gtid_Set", received),
                ("Executed_Gtid_Set", done),
                ("Auto_Position", auto),
                ("Channel_Name", ""),
            ]);
            channel(Dialect::MySql, &row).expect("a channel").upstream
        };
        let sets = |range: &str| format!("{uuid}:{range}");
        let upstream = channel(&sets("5-9"), &sets("1-9"), "1", "900");
        let expected = Upstream {
            address: "10.0.1.11:3306".into(),
            server_id: 11,
            io_thread: IoThread::Connecting { error: 2003 },
            applied: Some(true),
            executed: Some(LogPosition { file: "binlog.000007".into(), offset: 900 }),
            delay: Duration::from_secs(60),
        };
        assert_eq!(upstream, expected);
        // GTIDs have the say where replication goes by them; a part of a transaction moves the place alone.
        assert_eq!(channel(&sets("5-9"), &sets("1-9"), "1", "950").applied, Some(true));
        assert_eq!(channel(&sets("5-9"), &sets("1-8"), "1", "900").applied, Some(false));
        // Without them the places do.
        assert_eq!(channel(&sets("5-9"), &sets("1-9"), "0", "950").applied, Some(false));
        assert_eq!(channel("", "", "0", "900").applied, Some(true));
        assert_eq!(channel("", "", "1", "950").applied, Some(false));
        assert_eq!(channel("", "", "0", "").applied, None);
    }

    #[test]
    fn mariadb_says_what_it_received_and_applied() {
        let applied = |using: &str, received: &str, done: &str, read: &str| {
            let row = row(&[
                ("Connection_name", "east"),
                ("Slave_IO_Running", "No"),
                ("Slave_SQL_Running", "Yes"),
                ("Seconds_Behind_Master", "0"),
                ("Master_Log_File", "binlog.000002"),
                ("Read_Master_Log_Pos", read),
                ("Relay_Master_Log_File", "binlog.000002"),
                ("Exec_Master_Log_Pos", "342"),
                ("Using_Gtid", using),
                ("Gtid_IO_Pos", received),
                ("Gtid_Slave_Pos", done),
            ]);
            channel(Dialect::MariaDb, &row).expect("a channel").upstream.applied
        };
        assert_eq!(applied("Slave_Pos", "1-1-9,2-3-4", "1-1-9,2-3-4", "999"), Some(true));
        assert_eq!(applied("Slave_Pos", "1-1-9,2-3-4", "1-1-8,2-3-4", "342"), Some(false));
        assert_eq!(applied("No", "", "1-1-9", "342"), Some(true));
        assert_eq!(applied("No", "", "1-1-9", "999"), Some(false));
        assert_eq!(applied("Slave_Pos", "", "1-1-9", "999"), Some(false));
    }

    /// A row with these columns, all of them text.
    fn row(fields: &[(&str, &str)]) -> Row {
        let column =
            |name: &str| Column::new(ColumnType::MYSQL_TYPE_VAR_STRING).with_name(name.as_bytes());
        let columns: Vec<Column> = fields.iter().map(|(name, _)| column(name)).collect();
        let values = fields.iter().map(|(_, value)| Value::Bytes(value.as_bytes().to_vec()));
        new_row(values.collect(), columns.into())
    }
}
