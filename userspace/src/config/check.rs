//! `[cluster.check]` and the sections below it: how backends are checked.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::field::Field;
use super::model::{
    Applies, Check, Comparison, ExecCheck, Galera, Heartbeat, HttpCheck, Login, SqlCheck, TcpCheck,
    Tls, TlsVerify,
};
use super::reader::Reader;
use super::secret::{self, Secret, SecretSource, Secrets};
use super::section::{Schema, Section};
use super::tls;
use super::value::{self, Fault, Human};

pub(super) const CHECK: Schema = Schema {
    header: "[cluster.check]",
    keys: &[
        "mysql",
        "user",
        "password_file",
        "password_env",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "max_lag",
        "heartbeat",
        "gtid",
        "galera",
        "tls",
        "sql",
        "http",
        "tcp",
        "exec",
    ],
    unsupported: &[(
        "kind",
        "remove it: backends are checked by logging in; further checks are [[cluster.check.sql]], \
         http, tcp and exec",
    )],
};

/// Keys that say something about the login, and nothing without one.
const LOGIN_KEYS: [&str; 8] =
    ["user", "password_file", "password_env", "heartbeat", "gtid", "galera", "tls", "sql"];

pub(super) const HEARTBEAT: Schema = Schema {
    header: "heartbeat = { ... }",
    keys: &["table", "server_id", "utc"],
    unsupported: &[],
};

pub(super) const TLS: Schema = Schema {
    header: "tls = { ... }",
    keys: &["mode", "ca_file", "cert_file", "key_file", "server_name"],
    unsupported: &[],
};

pub(super) const SQL: Schema = Schema {
    header: "[[cluster.check.sql]]",
    keys: &["name", "role", "query", "op", "value", "timeout"],
    unsupported: &[],
};

pub(super) const HTTP: Schema = Schema {
    header: "[[cluster.check.http]]",
    keys: &["name", "role", "port", "method", "path", "host", "pass", "maintenance", "timeout"],
    unsupported: &[],
};

pub(super) const TCP: Schema = Schema {
    header: "[[cluster.check.tcp]]",
    keys: &["name", "role", "port", "timeout"],
    unsupported: &[],
};

pub(super) const EXEC: Schema = Schema {
    header: "[[cluster.check.exec]]",
    keys: &["name", "role", "command", "timeout"],
    unsupported: &[],
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const DEFAULT_MAX_LAG: Duration = Duration::from_secs(10);

/// Below 10 ms a probe measures our own scheduler; above an hour it protects nobody.
const PROBE_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// A hundred probes in a row are a minute and a half at the defaults.
const COUNT_RANGE: RangeInclusive<u32> = 1..=100;
/// Servers report lag in whole seconds.
const LAG_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Additional checks of one kind: each costs every backend a question at every probe.
const CHECKS_MAX: usize = 16;
/// Names that results of the login have.
const RESERVED_NAMES: [&str; 4] = ["mysql", "heartbeat", "gtid", "galera"];
/// Characters of a query, a path or a header: a screen full.
const TEXT_CHARS_MAX: usize = 4096;
/// Words of a command.
const COMMAND_WORDS_MAX: usize = 64;
const HTTP_STATUS_RANGE: RangeInclusive<u32> = 100..=599;
/// Where xinetd's clustercheck listens.
const EXAMPLE_PORT: u32 = 9200;
/// MySQL's and MariaDB's range of server_id, less 0, which replicates nothing.
const SERVER_ID_RANGE: RangeInclusive<u32> = 1..=u32::MAX;
/// Characters of an account: MariaDB's limit; MySQL's is 32.
const USER_CHARS_MAX: usize = 128;

pub(super) fn read(reader: &mut Reader, field: &Field, secrets: &dyn Secrets) -> Option<Check> {
    let section = field.table(reader, &CHECK)?;
    let logs_in =
        section.optional(reader, "mysql", true, |reader, field| field.boolean(reader, "true"))?;
    let rise = section.optional(reader, "rise", DEFAULT_RISE, |reader, field| {
        field.integer(reader, DEFAULT_RISE, COUNT_RANGE)
    });
    let fall = section.optional(reader, "fall", DEFAULT_FALL, |reader, field| {
        field.integer(reader, DEFAULT_FALL, COUNT_RANGE)
    });
    let max_lag = section.optional(reader, "max_lag", DEFAULT_MAX_LAG, |reader, field| {
        field.parse(reader, "\"10s\"", |text| value::duration(text, LAG_RANGE))
    });
    let login = if logs_in {
        read_login(reader, &section, secrets).map(Some)
    } else {
        refuse_login_keys(reader, &section).map(|()| None)
    };
    let times = read_times(reader, &section);
    // Its own error is enough.
    let timeout = times.map_or(*PROBE_RANGE.end(), |(timeout, ..)| timeout);
    let sql = read_each(reader, &section, "sql", &SQL, |reader, section| {
        read_sql(reader, section, timeout)
    });
    let http = read_each(reader, &section, "http", &HTTP, |reader, section| {
        read_http(reader, section, timeout)
    });
    let tcp = read_each(reader, &section, "tcp", &TCP, |reader, section| {
        read_tcp(reader, section, timeout)
    });
    let exec = read_each(reader, &section, "exec", &EXEC, |reader, section| {
        read_exec(reader, section, timeout)
    });
    judge_names(reader, &section)?;
    let (timeout, fast_interval, interval) = times?;
    let check = Check {
        login: login?,
        interval,
        fast_interval,
        timeout,
        rise: rise?,
        fall: fall?,
        max_lag: max_lag?,
        sql: sql?,
        http: http?,
        tcp: tcp?,
        exec: exec?,
    };
    judge_reach(reader, &section, &check)?;
    Some(check)
}

fn read_login(reader: &mut Reader, section: &Section, secrets: &dyn Secrets) -> Option<Login> {
    let user = section
        .require(
            reader,
            "user",
            "name the account that checks log in with, as in user = \"pairflip\"",
        )
        .and_then(|field| field.parse(reader, "\"pairflip\"", user));
    let password = read_password(reader, section, secrets);
    let heartbeat = section.optional(reader, "heartbeat", None, |reader, field| {
        read_heartbeat(reader, field).map(Some)
    });
    let gtid =
        section.optional(reader, "gtid", false, |reader, field| field.boolean(reader, "true"));
    let galera = section.optional(reader, "galera", Galera::Off, |reader, field| {
        let choices =
            [("synced", Galera::Synced), ("donor", Galera::SyncedOrDonor), ("off", Galera::Off)];
        field.choose(reader, &choices, &[])
    });
    let tls =
        section.optional(reader, "tls", None, |reader, field| read_tls(reader, field, secrets));
    let (source, password) = password?;
    Some(Login {
        user: user?,
        password,
        source,
        tls: tls?,
        heartbeat: heartbeat?,
        gtid: gtid?,
        galera: galera?,
    })
}

/// Reports keys that only a login obeys: whoever wrote them expects that somebody logs in.
fn refuse_login_keys(reader: &mut Reader, section: &Section) -> Option<()> {
    let mut sound = Some(());
    for field in LOGIN_KEYS.iter().filter_map(|key| section.field(key)) {
        let remedy = "remove it, or remove mysql = false";
        reader.report(
            &field.place,
            Fault::new("belongs to a login, and mysql = false has none", remedy),
        );
        sound = None;
    }
    sound
}

/// Without a login something else has to say whether a server is alive.
fn judge_reach(reader: &mut Reader, section: &Section, check: &Check) -> Option<()> {
    if check.login.is_some() {
        return Some(());
    }
    let mut sound = Some(());
    for (role, name) in [(Applies::Primary, "primaries"), (Applies::Replica, "replicas")] {
        let tcp = check.tcp.iter().any(|check| check.role.covers(role));
        let http = check.http.iter().any(|check| check.role.covers(role));
        if !tcp && !http {
            let problem = format!("with mysql = false nothing says whether {name} are alive");
            let remedy = "add a [[cluster.check.tcp]] or [[cluster.check.http]] section for them, \
                          or remove mysql = false";
            reader.report(&section.place("mysql"), Fault::new(problem, remedy));
            sound = None;
        }
    }
    sound
}

/// Results have the names of their checks, so no two may share one.
fn judge_names(reader: &mut Reader, section: &Section) -> Option<()> {
    let mut names: Vec<String> = Vec::new();
    let mut sound = Some(());
    for (kind, schema) in [("sql", &SQL), ("http", &HTTP), ("tcp", &TCP), ("exec", &EXEC)] {
        for (name, place) in section.names_of(kind) {
            let fault = if RESERVED_NAMES.contains(&name.as_str()) {
                Some(Fault::new(
                    format!("{} is the name of a result of the login", value::quoted(&name)),
                    "give the check another name",
                ))
            } else if names.contains(&name) {
                let of = schema.header;
                Some(Fault::new(
                    format!("{} is the name of another check", value::quoted(&name)),
                    format!("give this {of} section a name of its own"),
                ))
            } else {
                None
            };
            if let Some(fault) = fault {
                reader.report(&place, fault);
                sound = None;
            }
        }
        // Twice within one kind is reported where the sections are read.
        names.extend(section.names_of(kind).into_iter().map(|(name, _)| name));
    }
    sound
}

/// Returns what `read` makes of each section of one kind of checks.
fn read_each<T>(
    reader: &mut Reader,
    section: &Section,
    key: &'static str,
    schema: &'static Schema,
    read: impl Fn(&mut Reader, &Section) -> Option<T>,
) -> Option<Vec<T>> {
    section.optional(reader, key, Vec::new(), |reader, field| {
        let sections = field.tables(reader, schema, CHECKS_MAX)?;
        let checks: Vec<_> = sections.iter().map(|section| read(reader, section)).collect();
        checks.into_iter().collect()
    })
}

fn read_name(reader: &mut Reader, section: &Section) -> Option<String> {
    section
        .require(reader, "name", "add name = \"disk\"")
        .and_then(|field| field.parse(reader, "\"disk\"", value::name))
}

fn read_role(reader: &mut Reader, section: &Section) -> Option<Applies> {
    section.optional(reader, "role", Applies::Any, |reader, field| {
        let choices = [Applies::Any, Applies::Primary, Applies::Replica].map(|it| (it.name(), it));
        field.choose(reader, &choices, &[])
    })
}

/// Returns a check's own timeout, which is within that of the whole probe.
fn read_timeout(reader: &mut Reader, section: &Section, longest: Duration) -> Option<Duration> {
    section.optional(reader, "timeout", longest, |reader, field| {
        let timeout =
            field.parse(reader, "\"250ms\"", |text| value::duration(text, PROBE_RANGE))?;
        if timeout > longest {
            let problem = format!(
                "{} is longer than the timeout of the whole probe, {}",
                Human(timeout),
                Human(longest)
            );
            let remedy = "shorten it, or raise timeout of [cluster.check]";
            reader.report(&field.place, Fault::new(problem, remedy));
            return None;
        }
        Some(timeout)
    })
}

/// Returns a text without control characters, of which `example` is one.
fn read_text(reader: &mut Reader, field: &Field, example: &str) -> Option<String> {
    field.parse(reader, example, |text| {
        let is_odd = text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
        if text.trim().is_empty() || is_odd || text.chars().count() > TEXT_CHARS_MAX {
            return Err(Fault::new(
                format!("{} is empty, too long, or has control characters", value::quoted(text)),
                format!("write it as in {example}"),
            ));
        }
        Ok(text.to_owned())
    })
}

/// Returns a text of one line without spaces, as it is part of a line of a request.
fn read_word(reader: &mut Reader, field: &Field, example: &str) -> Option<String> {
    field.parse(reader, example, |text| {
        let is_word = text.chars().all(|c| c.is_ascii_graphic());
        if text.is_empty() || !is_word || text.len() > TEXT_CHARS_MAX {
            return Err(Fault::new(
                format!("{} has a space, is empty, or is not ASCII", value::quoted(text)),
                format!("write it as in {example}"),
            ));
        }
        Ok(text.to_owned())
    })
}

fn read_sql(reader: &mut Reader, section: &Section, longest: Duration) -> Option<SqlCheck> {
    let name = read_name(reader, section);
    let role = read_role(reader, section);
    let query = section
        .require(reader, "query", "add the question, as in query = \"SELECT @@read_only\"")
        .and_then(|field| read_text(reader, &field, "\"SELECT @@read_only\""));
    let op = section.optional(reader, "op", Comparison::Equal, |reader, field| {
        let choices = Comparison::ALL.map(|it| (it.sign(), it));
        field.choose(reader, &choices, &[])
    });
    let value = section
        .require(reader, "value", "add the expected answer, as in value = 1 or value = \"ON\"")
        .and_then(|field| field.scalar(reader, "1"));
    let timeout = read_timeout(reader, section, longest);
    Some(SqlCheck {
        name: name?,
        role: role?,
        query: query?,
        op: op?,
        value: value?,
        timeout: timeout?,
    })
}

fn read_port(reader: &mut Reader, field: &Field) -> Option<u16> {
    let port = field.integer(reader, EXAMPLE_PORT, 1..=u32::from(u16::MAX))?;
    u16::try_from(port).ok()
}

fn read_statuses(
    reader: &mut Reader,
    section: &Section,
    key: &'static str,
    default: u16,
) -> Option<Vec<u16>> {
    section.optional(reader, key, vec![default], |reader, field| {
        if key == "maintenance" && field.is_empty_list() {
            return Some(Vec::new());
        }
        let example = u32::from(default);
        let read =
            |reader: &mut Reader, field: &Field| field.integer(reader, example, HTTP_STATUS_RANGE);
        let list = format!("[{default}]");
        let statuses = field.distinct_by(reader, &list, CHECKS_MAX, read, |status| *status)?;
        statuses.into_iter().map(|(status, _)| u16::try_from(status).ok()).collect()
    })
}

fn read_http(reader: &mut Reader, section: &Section, longest: Duration) -> Option<HttpCheck> {
    let name = read_name(reader, section);
    let role = read_role(reader, section);
    let port = section
        .require(reader, "port", "add the port of the agent, as in port = 9200")
        .and_then(|field| read_port(reader, &field));
    let method = section.optional(reader, "method", "GET".to_owned(), |reader, field| {
        read_word(reader, field, "\"GET\"")
    });
    let path = section.optional(reader, "path", "/".to_owned(), |reader, field| {
        let path = read_word(reader, field, "\"/\"")?;
        if !path.starts_with('/') {
            let problem = format!("{} does not start with /", value::quoted(&path));
            let remedy = format!("write path = {}", value::quoted(&format!("/{path}")));
            reader.report(&field.place, Fault::new(problem, remedy));
            return None;
        }
        Some(path)
    });
    let host = section.optional(reader, "host", None, |reader, field| {
        read_word(reader, field, "\"db.example.com\"").map(Some)
    });
    let pass = read_statuses(reader, section, "pass", 200);
    let maintenance = read_statuses(reader, section, "maintenance", 404);
    let timeout = read_timeout(reader, section, longest);
    let (pass, maintenance) = (pass?, maintenance?);
    if let (Some(both), Some(field)) = (
        pass.iter().find(|status| maintenance.contains(status)),
        section.field("maintenance").or_else(|| section.field("pass")),
    ) {
        let problem = format!("{both} is in pass and in maintenance");
        reader.report(
            &field.place,
            Fault::new(problem, "leave it in one of them; maintenance = [] is allowed"),
        );
        return None;
    }
    Some(HttpCheck {
        name: name?,
        role: role?,
        port: port?,
        method: method?,
        path: path?,
        host: host?,
        pass,
        maintenance,
        timeout: timeout?,
    })
}

fn read_tcp(reader: &mut Reader, section: &Section, longest: Duration) -> Option<TcpCheck> {
    let name = read_name(reader, section);
    let role = read_role(reader, section);
    let port =
        section.optional(reader, "port", None, |reader, field| read_port(reader, field).map(Some));
    let timeout = read_timeout(reader, section, longest);
    Some(TcpCheck { name: name?, role: role?, port: port?, timeout: timeout? })
}

fn read_exec(reader: &mut Reader, section: &Section, longest: Duration) -> Option<ExecCheck> {
    let example = "[\"/usr/local/bin/check\", \"--quick\"]";
    let name = read_name(reader, section);
    let role = read_role(reader, section);
    let command = section
        .require(reader, "command", &format!("add the command, as in command = {example}"))
        .and_then(|field| {
            let remedy = format!("write 1 to {COMMAND_WORDS_MAX}, as in {example}");
            field.command(reader, example, COMMAND_WORDS_MAX, &remedy, argument)
        });
    let timeout = read_timeout(reader, section, longest);
    Some(ExecCheck { name: name?, role: role?, command: command?, timeout: timeout? })
}

/// Returns a word of a command; the first is the program, which no PATH decides about.
fn argument(text: &str, index: usize) -> Result<String, Fault> {
    if text.contains('\0') {
        return Err(Fault::new("has a NUL character", "remove it"));
    }
    if index == 0 && !text.starts_with('/') {
        return Err(Fault::new(
            format!("{} is not an absolute path", value::quoted(text)),
            "write the program's whole path; no shell and no PATH is used",
        ));
    }
    Ok(text.to_owned())
}

/// Returns the heartbeat's table, written as its name or as a table of settings.
fn read_heartbeat(reader: &mut Reader, field: &Field) -> Option<Heartbeat> {
    let example = "\"percona.heartbeat\"";
    if !field.is_table() {
        let table = field.parse(reader, example, table_name)?;
        return Some(Heartbeat { table, server_id: None, utc: false });
    }
    let section = field.table(reader, &HEARTBEAT)?;
    let table = section
        .require(reader, "table", &format!("add it, as in table = {example}"))
        .and_then(|field| field.parse(reader, example, table_name));
    let server_id = section.optional(reader, "server_id", None, |reader, field| {
        field.integer(reader, 1, SERVER_ID_RANGE).map(Some)
    });
    let utc = section.optional(reader, "utc", false, |reader, field| field.boolean(reader, "true"));
    Some(Heartbeat { table: table?, server_id: server_id?, utc: utc? })
}

/// Returns `database.table` as it is written in a query.
fn table_name(text: &str) -> Result<String, Fault> {
    let is_name = |name: &str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'$')
    };
    match text.split_once('.') {
        Some((database, table)) if is_name(database) && is_name(table) => {
            Ok(format!("`{database}`.`{table}`"))
        }
        Some(_) | None => Err(Fault::new(
            format!("{} is not a table of a database", value::quoted(text)),
            "write both names with letters, digits, _ and $, as in \"percona.heartbeat\"",
        )),
    }
}

/// Returns `Some(None)` for `mode = "off"`.
fn read_tls(reader: &mut Reader, field: &Field, secrets: &dyn Secrets) -> Option<Option<Tls>> {
    let section = field.table(reader, &TLS)?;
    let verify = section.optional(reader, "mode", Some(TlsVerify::Name), |reader, field| {
        let choices =
            [("verify", Some(TlsVerify::Name)), ("verify-ca", Some(TlsVerify::Ca)), ("off", None)];
        let unsupported =
            [("require", "write \"verify-ca\": encryption to whoever answers protects nothing")];
        field.choose(reader, &choices, &unsupported)
    });
    let mut file = |key| {
        section.optional(reader, key, None, |reader, field| {
            let directory = directory(reader);
            field.parse(reader, "\"/etc/pairflip/ca.pem\"", |text| path(text, &directory)).map(Some)
        })
    };
    let (ca_file, cert_file, key_file) = (file("ca_file")?, file("cert_file")?, file("key_file")?);
    let server_name = section.optional(reader, "server_name", None, |reader, field| {
        field.parse(reader, "\"db.example.com\"", server_name).map(Some)
    })?;
    let Some(verify) = verify? else { return Some(None) };
    if let (Some(_), None, missing) | (None, Some(_), missing) =
        (&cert_file, &key_file, if cert_file.is_some() { "key_file" } else { "cert_file" })
    {
        let remedy = "a client certificate is two files: add the other one, or remove both";
        reader.report(&section.place(missing), Fault::new("is missing", remedy));
        return None;
    }
    if verify == TlsVerify::Ca
        && let Some(field) = section.field("server_name")
    {
        let remedy = "remove it, or write mode = \"verify\"";
        reader
            .report(&field.place, Fault::new("is not looked at with mode = \"verify-ca\"", remedy));
        return None;
    }
    let files = tls::Files { ca: ca_file, cert: cert_file, key: key_file };
    match tls::load(&files, secrets) {
        Ok(material) => Some(Some(Tls { verify, server_name, files, material })),
        Err((key, fault)) => {
            let place = section.field(key).map_or_else(|| section.place(key), |field| field.place);
            reader.report(&place, fault);
            None
        }
    }
}

fn server_name(text: &str) -> Result<String, Fault> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Fault::new(
            format!("{} is neither a DNS name nor an address", value::quoted(text)),
            "write the name in the servers' certificates, as in \"db.example.com\"",
        )),
    }
}

/// Where relative paths start: beside the configuration, so that both can be moved together.
fn directory(reader: &Reader) -> PathBuf {
    reader.file().parent().map(ToOwned::to_owned).unwrap_or_default()
}

fn path(text: &str, directory: &Path) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.contains('\0') {
        return Err(Fault::new(
            format!("{} is not a path", value::quoted(text)),
            "write the path of a file",
        ));
    }
    Ok(directory.join(text))
}

/// Returns `timeout`, `fast_interval` and `interval`, which do not decrease in this order.
///
/// Otherwise a probe could outlast the time to the next one, and the detection time that
/// [`Check::detection_time`] promises would not hold.
fn read_times(reader: &mut Reader, section: &Section) -> Option<(Duration, Duration, Duration)> {
    let time = |reader: &mut Reader, name: &str, default: Duration| {
        section.optional(reader, name, default, |reader, field| {
            field.parse(reader, "\"500ms\"", |text| value::duration(text, PROBE_RANGE))
        })
    };
    let timeout = time(reader, "timeout", DEFAULT_TIMEOUT);
    let interval = time(reader, "interval", DEFAULT_INTERVAL);
    let fast_interval = time(reader, "fast_interval", timeout.unwrap_or(DEFAULT_TIMEOUT));
    let (timeout, fast_interval, interval) = (timeout?, fast_interval?, interval?);
    let mut in_order = |shorter: (&str, Duration), longer: (&str, Duration)| {
        if shorter.1 <= longer.1 {
            return Some(());
        }
        // The error is shown where the operator wrote something, and says what is a default.
        let source = |name: &str| if section.field(name).is_some() { "" } else { " by default" };
        let shown = if section.field(longer.0).is_some() { longer.0 } else { shorter.0 };
        let place = section.field(shown).map_or_else(|| section.place(shown), |field| field.place);
        let problem = format!(
            "{} ({}{}) is longer than {} ({}{})",
            shorter.0,
            Human(shorter.1),
            source(shorter.0),
            longer.0,
            Human(longer.1),
            source(longer.0),
        );
        let remedy = "keep timeout <= fast_interval <= interval, so that probes never overlap";
        reader.report(&place, Fault::new(problem, remedy));
        None
    };
    if section.field("fast_interval").is_none() {
        in_order(("timeout", timeout), ("interval", interval))?;
    } else {
        let first = in_order(("timeout", timeout), ("fast_interval", fast_interval));
        in_order(("fast_interval", fast_interval), ("interval", interval))?;
        first?;
    }
    Some((timeout, fast_interval, interval))
}

fn user(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.chars().count() > USER_CHARS_MAX || text.contains('\0') {
        return Err(Fault::new(
            format!("{} is not an account name", value::quoted(text)),
            format!("use 1 to {USER_CHARS_MAX} characters, without the host part"),
        ));
    }
    Ok(text.to_owned())
}

fn read_password(
    reader: &mut Reader,
    section: &Section,
    secrets: &dyn Secrets,
) -> Option<(SecretSource, Secret)> {
    match (section.field("password_file"), section.field("password_env")) {
        (Some(file), None) => {
            let directory = directory(reader);
            file.parse(reader, "\"/etc/pairflip/password\"", |text| {
                if text.is_empty() || text.contains('\0') {
                    return Err(Fault::new(
                        format!("{} is not a path", value::quoted(text)),
                        "write the path of a file that holds the check user's password",
                    ));
                }
                let source = SecretSource::File(directory.join(text));
                secret::read(&source, secrets).map(|password| (source, password))
            })
        }
        (None, Some(variable)) => variable.parse(reader, "\"PAIRFLIP_PASSWORD\"", |text| {
            let source = SecretSource::Variable(text.to_owned());
            secret::read(&source, secrets).map(|password| (source, password))
        }),
        (None, None) if section.is_misspelt("password_file") => None,
        (None, None) => {
            let remedy = "add password_file = \"/etc/pairflip/password\", or password_env with \
                          the name of an environment variable";
            reader.report(&section.place("password_file"), Fault::new("is missing", remedy));
            None
        }
        (Some(_), Some(variable)) => {
            let problem = "password_file is there as well";
            reader.report(&variable.place, Fault::new(problem, "remove one of the two"));
            None
        }
    }
}
