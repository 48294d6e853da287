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
/// GTIDs of a server that does not give any more are those of another time.
const MYSQL_STATE_QUERY: &str = "SELECT @@global.read_only AS ro, @@global.server_id AS id, \
     @@version AS version, @@version_comment AS comment, \
     IF(@@global.gtid_mode LIKE 'ON%', @@global.gtid_executed, '') AS position";

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
    pub(crate) fn of(version: &str, comment: &str) -> Self {
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

    pub(crate) const fn state_query(self) -> &'static str {
        match self {
            Self::MariaDb => MARIADB_STATE_QUERY,
            Self::MySqlOld | Self::MySql80 | Self::MySql => MYSQL_STATE_QUERY,
        }
    }

    /// Where the position stands in [`Dialect::state_query`], for people.
    pub(crate) const fn position_query(self) -> &'static str {
        match self {
            Self::MariaDb => "SELECT @@global.gtid_binlog_pos",
            Self::MySqlOld | Self::MySql80 | Self::MySql => "SELECT @@global.gtid_executed",
        }
    }

    /// Of a server without GTIDs.
    pub(super) const fn log_position_query(self) -> &'static str {
        match self {
            Self::MariaDb | Self::MySqlOld | Self::MySql80 => "SHOW MASTER STATUS",
            Self::MySql => "SHOW BINARY LOG STATUS",
        }
    }

    pub(crate) const fn replication_query(self) -> &'static str {
        match self {
            // Without ALL it shows the unnamed connection only.
            Self::MariaDb => "SHOW ALL SLAVES STATUS",
            Self::MySqlOld => "SHOW SLAVE STATUS",
            Self::MySql80 | Self::MySql => "SHOW REPLICA STATUS",
        }
    }
}

/// Returns what makes the server itself end a query of ours that takes longer than this, so that nothing piles up there.
pub(crate) fn query_time_limit(dialect: Dialect, limit: Duration) -> String {
    match dialect {
        Dialect::MariaDb => format!("SET SESSION max_statement_time = {}", limit.as_secs_f64()),
        Dialect::MySql | Dialect::MySql80 | Dialect::MySqlOld => {
            format!("SET SESSION max_execution_time = {}", limit.as_millis())
        }
    }
}

/// The first three numbers of a version such as `8.0.22-debug`; a missing or strange one counts as
/// 0.
pub(crate) fn number(version: &str) -> Option<[u32; 3]> {
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
        let row = cells(row);
        let field = |name| {
            text(&row, &[name]).flatten().ok_or_else(|| strange(&format!("no {name}"), STATE_QUERY))
        };
        let id = field("id")?;
        Ok(Self {
            read_only: is_on(&field("ro")?),
            server_id: id
                .parse()
                .map_err(|_| strange(&format!("server_id {id:?}"), STATE_QUERY))?,
            version: field("version")?,
            comment: text(&row, &["comment"]).flatten().unwrap_or_default(),
            // MySQL puts a newline after each comma.
            position: text(&row, &["position"]).flatten().unwrap_or_default().replace('\n', ""),
        })
    }
}

/// `read_only` is a number or a word; MariaDB 12 adds words such as `NO_LOCK`, which all mean yes.
pub(crate) fn is_on(value: &str) -> bool {
    !matches!(value.to_ascii_uppercase().as_str(), "0" | "OFF" | "FALSE" | "NO" | "")
}

/// Reads the rows of [`Dialect::replication_query`].
pub(super) fn channels(dialect: Dialect, rows: &[Row]) -> Result<Vec<Channel>, CheckFailure> {
    rows.iter().map(|row| channel(dialect, &cells(row))).collect()
}

fn channel(dialect: Dialect, row: &[Cell]) -> Result<Channel, CheckFailure> {
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
fn upstream(dialect: Dialect, row: &[Cell]) -> Upstream {
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
fn applied(dialect: Dialect, row: &[Cell]) -> Option<bool> {
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
    let row = &cells(row);
    log_position(text(row, &["File"])??, &text(row, &["Position"])??)
}

/// The other words (`No`, `Connecting`, `Preparing`) mean that nothing arrives.
fn is_yes(value: Option<String>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("yes"))
}

/// A column's name and its value as text; `None` is NULL.
pub(crate) type Cell = (String, Option<String>);

pub(crate) fn cells(row: &Row) -> Vec<Cell> {
    let names = row.columns_ref().iter().map(|column| column.name_str().into_owned());
    let values = (0..row.len()).map(|index| match row.as_ref(index)? {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        other @ (Value::Float(_) | Value::Double(_) | Value::Date(..) | Value::Time(..)) => {
            Some(other.as_sql(true))
        }
    });
    names.zip(values).collect()
}

/// Returns the first of these columns that is there, whatever its letters' case; the inner `None`
/// is NULL.
pub(crate) fn text(row: &[Cell], names: &[&str]) -> Option<Option<String>> {
    names.iter().find_map(|name| {
        let cell = row.iter().find(|(column, _)| column.eq_ignore_ascii_case(name))?;
        Some(cell.1.clone())
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
    fn answers_of_old_and_new_mysql_as_recorded_from_its_documentation() {
        let lag = |seconds| Some(Duration::from_secs(seconds));
        for (version, columns, values, expected) in [
            ("5.7.44-log", MYSQL_5_7, "Yes|Yes|0|", channel_of("", true, true, lag(0))),
            (
                "5.7.44-log",
                MYSQL_5_7,
                "Yes|No|NULL|source_1",
                channel_of("source_1", true, false, None),
            ),
            ("5.7.44-log", MYSQL_5_7, "Connecting|Yes|NULL|", channel_of("", false, true, None)),
            ("8.0.21", MYSQL_5_7, "No|Yes|NULL|", channel_of("", false, true, None)),
            ("8.0.22", MYSQL_8, "Yes|Yes|17|", channel_of("", true, true, lag(17))),
            ("8.0.36", MYSQL_8, "Yes|No|NULL|", channel_of("", true, false, None)),
            ("8.4.0", MYSQL_8, "Yes|Yes|0|dc2", channel_of("dc2", true, true, lag(0))),
            ("8.4.0", MYSQL_8, "Connecting|Yes|NULL|", channel_of("", false, true, None)),
        ] {
            let dialect = Dialect::of(version, "MySQL Community Server - GPL");
            let found = channel(dialect, &row(columns, values)).unwrap();
            let found = Channel { upstream: Upstream::default(), ..found };
            assert_eq!(found, expected, "{version} {values}");
        }
    }

    #[test]
    fn an_answer_without_the_columns_of_replication_is_no_verdict() {
        let failure = channel(Dialect::MySql, &row("File Position", "")).unwrap_err();
        assert_eq!(failure.cause, Cause::Other);
        assert!(failure.text.contains("no column Seconds_Behind_Source"), "{}", failure.text);
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
            let row = texts(&[
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
            let row = texts(&[
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

    /// Columns of `SHOW SLAVE STATUS`, recorded from documentation: MySQL 5.7 Reference Manual, 13.7.5.34. 8.0.21 added
    /// `Master_public_key_path`, `Get_master_public_key` and `Network_Namespace` after these.
    const MYSQL_5_7: &str = "Slave_IO_State Master_Host Master_User Master_Port Connect_Retry Master_Log_File \
        Read_Master_Log_Pos Relay_Log_File Relay_Log_Pos Relay_Master_Log_File Slave_IO_Running Slave_SQL_Running \
        Replicate_Do_DB Replicate_Ignore_DB Replicate_Do_Table Replicate_Ignore_Table Replicate_Wild_Do_Table \
        Replicate_Wild_Ignore_Table Last_Errno Last_Error Skip_Counter Exec_Master_Log_Pos Relay_Log_Space \
        Until_Condition Until_Log_File Until_Log_Pos Master_SSL_Allowed Master_SSL_CA_File Master_SSL_CA_Path \
        Master_SSL_Cert Master_SSL_Cipher Master_SSL_Key Seconds_Behind_Master Master_SSL_Verify_Server_Cert \
        Last_IO_Errno Last_IO_Error Last_SQL_Errno Last_SQL_Error Replicate_Ignore_Server_Ids Master_Server_Id \
        Master_UUID Master_Info_File SQL_Delay SQL_Remaining_Delay Slave_SQL_Running_State Master_Retry_Count \
        Master_Bind Last_IO_Error_Timestamp Last_SQL_Error_Timestamp Master_SSL_Crl Master_SSL_Crlpath \
        Retrieved_Gtid_Set Executed_Gtid_Set Auto_Position Replicate_Rewrite_DB Channel_Name Master_TLS_Version";

    /// Columns of `SHOW REPLICA STATUS`, recorded from documentation: MySQL 8.0 Reference Manual, 13.7.7.35, and 8.4, 15.7.7.34,
    /// which have the same.
    const MYSQL_8: &str = "Replica_IO_State Source_Host Source_User Source_Port Connect_Retry Source_Log_File \
        Read_Source_Log_Pos Relay_Log_File Relay_Log_Pos Relay_Source_Log_File Replica_IO_Running Replica_SQL_Running \
        Replicate_Do_DB Replicate_Ignore_DB Replicate_Do_Table Replicate_Ignore_Table Replicate_Wild_Do_Table \
        Replicate_Wild_Ignore_Table Last_Errno Last_Error Skip_Counter Exec_Source_Log_Pos Relay_Log_Space \
        Until_Condition Until_Log_File Until_Log_Pos Source_SSL_Allowed Source_SSL_CA_File Source_SSL_CA_Path \
        Source_SSL_Cert Source_SSL_Cipher Source_SSL_Key Seconds_Behind_Source Source_SSL_Verify_Server_Cert \
        Last_IO_Errno Last_IO_Error Last_SQL_Errno Last_SQL_Error Replicate_Ignore_Server_Ids Source_Server_Id \
        Source_UUID Source_Info_File SQL_Delay SQL_Remaining_Delay Replica_SQL_Running_State Source_Retry_Count \
        Source_Bind Last_IO_Error_Timestamp Last_SQL_Error_Timestamp Source_SSL_Crl Source_SSL_Crlpath \
        Retrieved_Gtid_Set Executed_Gtid_Set Auto_Position Replicate_Rewrite_DB Channel_Name Source_TLS_Version \
        Source_public_key_path Get_Source_public_key Network_Namespace";

    /// A row of replication status: the values of IO thread, SQL thread, lag and channel, and of all other columns a text.
    fn row(columns: &str, values: &str) -> Vec<Cell> {
        let mut values = values.split('|');
        let cells = columns.split_whitespace().map(|name| {
            let read = ["_IO_Running", "_SQL_Running", "Seconds_Behind_", "Channel_Name"];
            let is_read = read.iter().any(|word| name.contains(word)) && !name.ends_with("_State");
            let value = if is_read { values.next().expect("a value for it") } else { "x" };
            (name.to_owned(), (value != "NULL").then(|| value.to_owned()))
        });
        cells.collect()
    }

    fn channel_of(
        name: &str,
        io_running: bool,
        sql_running: bool,
        lag: Option<Duration>,
    ) -> Channel {
        let upstream = Upstream::default();
        Channel { name: name.into(), io_running, sql_running, lag, upstream }
    }

    /// A row with these columns, all of them text.
    fn texts(fields: &[(&str, &str)]) -> Vec<Cell> {
        let cell = |&(name, value): &(&str, &str)| (name.to_owned(), Some(value.to_owned()));
        fields.iter().map(cell).collect()
    }
}
