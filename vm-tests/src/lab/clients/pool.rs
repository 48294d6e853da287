//! Clients behind the pools of other languages: programs of `vm-tests/clients`, with Debian's packages of the pools.
//!
//! The packages are fetched once and kept in the cache; nothing is installed. They need the host's Python and JDK.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use super::{
    Options,
    record::{Client, Kind, Mishap, Phase, Read, Record},
};
use crate::{
    archive::Archive,
    cache_dir,
    lab::{
        database::{APP_PASSWORD, APP_USER},
        flavour::Fork,
        netns::Namespace,
    },
};

/// Which suite of Debian has the packages: they are programs in Python and Java, which run on other releases too.
const SUITE: &str = "bookworm";
const PACKAGES: [&str; 8] = [
    "python3-sqlalchemy",
    "python3-pymysql",
    "libhikaricp-java",
    "libcommons-dbcp2-java",
    "libcommons-pool2-java",
    "libcommons-logging-java",
    "libslf4j-java",
    "libmariadb-java",
];
const JARS: [&str; 7] = [
    "HikariCP",
    "commons-dbcp2",
    "commons-pool2",
    "commons-logging",
    "slf4j-api",
    "slf4j-nop",
    "mariadb-java-client",
];

/// A pool that validates a connection before it lends it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pool {
    /// SQLAlchemy with `pool_pre_ping`, over PyMySQL.
    SqlAlchemy,
    /// HikariCP, which validates each time.
    Hikari,
    /// Apache's DBCP 2 with `testOnBorrow`.
    Dbcp2,
}

/// A program whose clients read until it is stopped.
#[derive(Debug)]
pub struct Pooled {
    pool: Pool,
    child: Child,
    reader: Option<JoinHandle<Result<Record>>>,
}

/// A line that a program says.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Start { t: f64 },
    Ok { t: f64, took: f64 },
    Error { client: u32, t: f64, kind: Kind, phase: Phase, began: Option<f64> },
}

impl Pool {
    pub const ALL: [Self; 3] = [Self::SqlAlchemy, Self::Hikari, Self::Dbcp2];

    pub const fn name(self) -> &'static str {
        match self {
            Self::SqlAlchemy => "SQLAlchemy, pre-ping",
            Self::Hikari => "HikariCP, validating",
            Self::Dbcp2 => "DBCP2, test on borrow",
        }
    }

    /// Starts `options.readers` clients on the read VIP, on a host of the lab. MySQL's are asked over TLS, which
    /// MariaDB's of the lab do not have.
    pub fn start(self, host: &Namespace, fork: Fork, options: &Options) -> Result<Pooled> {
        let root = fetch_packages(|_| {})?;
        let mut command = self.command(host, &root)?;
        let vip: SocketAddr = options.read_vip;
        command.args([vip.ip().to_string(), vip.port().to_string()]).args([APP_USER, APP_PASSWORD]);
        command.arg(options.readers.to_string());
        command.arg(options.think.as_millis().to_string());
        command.arg(options.dwell.as_millis().to_string());
        command.arg(if fork == Fork::MySql { "tls" } else { "plain" });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("starting clients of {}", self.name()))?;
        let output = child.stdout.take().context("its output is piped")?;
        let reader = std::thread::spawn(move || record(output));
        Ok(Pooled { pool: self, child, reader: Some(reader) })
    }

    fn command(self, host: &Namespace, root: &Path) -> Result<Command> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let jdbc = |name: &str| {
            let jars = JARS.map(|jar| format!("{}/usr/share/java/{jar}.jar", root.display()));
            let mut command = host.command("java")?;
            command
                .args(["-Xmx256m", "-XX:+UseSerialGC", "-cp", &jars.join(":")])
                .arg(clients.join("Pool.java"))
                .arg(name);
            Ok(command)
        };
        match self {
            Self::SqlAlchemy => {
                let mut command = host.command("/usr/bin/python3")?;
                command
                    .env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"))
                    .env("PYTHONDONTWRITEBYTECODE", "1")
                    .arg(clients.join("pool.py"));
                Ok(command)
            }
            Self::Hikari => jdbc("hikari"),
            Self::Dbcp2 => jdbc("dbcp2"),
        }
    }
}

impl Pooled {
    /// Lets everybody finish the transaction at hand; returns what they were told.
    pub fn stop(mut self) -> Result<Record> {
        drop(self.child.stdin.take());
        let reader = self.reader.take().context("clients are stopped once")?;
        let record = reader.join().map_err(|_| anyhow!("reading the clients' lines panicked"))?;
        let status = self.child.wait().context("waiting for the clients")?;
        if !status.success() {
            bail!("clients of {} ended with {status}", self.pool.name());
        }
        record
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // They may have ended by themselves.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Reads what a program says until it ends.
fn record(output: ChildStdout) -> Result<Record> {
    let mut record = Record::default();
    let mut origin = Instant::now();
    let at = |origin: Instant, t: f64| origin + Duration::from_secs_f64(t.max(0.0));
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what clients say")?;
        let line = serde_json::from_str(&line).with_context(|| format!("no such line: {line}"))?;
        match line {
            // Their clock's origin on ours; the line took less than a millisecond.
            Line::Start { t } => {
                let since = Duration::try_from_secs_f64(t).context("a clock before its origin")?;
                let now = Instant::now();
                origin = now.checked_sub(since).context("a clock older than this host")?;
            }
            Line::Ok { t, took } => {
                let took = Duration::from_secs_f64(took.max(0.0));
                record.reads.push(Read { at: at(origin, t), took });
            }
            Line::Error { client, t, kind, phase, began } => record.mishaps.push(Mishap {
                at: at(origin, t),
                client: Client::Reader(client),
                kind,
                phase,
                began: began.map(|began| at(origin, began)),
            }),
        }
    }
    Ok(record)
}

/// Returns where the packages are unpacked, once they are.
pub fn fetch_packages(mut progress: impl FnMut(&str)) -> Result<PathBuf> {
    let cache = cache_dir().join("clients");
    let dir = cache.join(SUITE);
    if dir.is_dir() {
        return Ok(dir);
    }
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    // Held until the end: another run waits and then finds the packages.
    let lock = File::create(cache.join("lock")).context("making the lock of the clients' cache")?;
    lock.lock().context("locking the clients' cache")?;
    if dir.is_dir() {
        return Ok(dir);
    }
    progress("fetching clients' pools from Debian: SQLAlchemy, HikariCP, DBCP2, MariaDB's driver");
    let archive = Archive::open(&cache.join(format!("apt-{SUITE}")), &[SUITE])?;
    let making = tempfile::tempdir_in(&cache).context("making a directory in the cache")?;
    let made = making.path().join("made");
    for package in PACKAGES {
        archive.unpack(package, &[], &made)?;
    }
    fs::rename(&made, &dir).with_context(|| format!("keeping {}", dir.display()))?;
    Ok(dir)
}
