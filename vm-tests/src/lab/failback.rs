//! A replica fails and returns while clients read: how they come back to it, and what that costs them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Lab,
    clients::{
        self, Clients,
        pool::{Pool, Pooled},
        record::Record,
    },
    daemon::Daemon,
    database::APP_USER,
};

/// The servers of the first pair, by number.
const PRIMARY: usize = 1;
const REPLICA: usize = 2;
/// Longest wait for clients to be where they are to be, while nothing but a fault of the test keeps them.
const PLACE_LIMIT: Duration = Duration::from_secs(30);
/// How long clients are watched in peace, before the replica returns and after they are back.
const PEACE: Duration = Duration::from_secs(5);

/// A move that took no time is judged by what followed it.
const MOMENT: Duration = Duration::from_millis(200);

/// Who reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readers {
    /// Persistent connections that nobody validates.
    Plain,
    Pool(Pool),
}

/// What became of the clients once the replica was fit again.
#[derive(Debug)]
pub struct Returned {
    /// From the moment the route went to the replica until no client was left on the primary; `None` if some stayed.
    pub took: Option<Duration>,
    /// Clients that stayed on the primary.
    pub left: usize,
    /// What clients were told from that moment on.
    pub record: Record,
    /// 99 of 100 transactions took no longer than this: before, and while clients were moving.
    pub p99_before: Duration,
    pub p99_during: Duration,
}

enum Running {
    Plain(Clients),
    Pooled(Pooled),
}

impl Readers {
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::Pool(Pool::SqlAlchemy),
        Self::Pool(Pool::Hikari),
        Self::Pool(Pool::Dbcp2),
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "no validation",
            Self::Pool(pool) => pool.name(),
        }
    }

    fn start(self, lab: &Lab, options: &clients::Options) -> Result<Running> {
        let host = lab.ns("client1");
        Ok(match self {
            Self::Plain => Running::Plain(Clients::start(&host, options.clone())?),
            Self::Pool(pool) => Running::Pooled(pool.start(&host, lab.db(1).fork(), options)?),
        })
    }
}

/// Lets the replica of pair1 fail and return under readers, and watches them for `limit` at most.
pub fn fail_and_return(
    lab: &mut Lab,
    daemon: &Daemon,
    readers: Readers,
    options: &clients::Options,
    limit: Duration,
) -> Result<Returned> {
    // A pool opens as many connections as are in use at a time.
    let most = options.readers as usize / 2;
    wait_for("reads go to the replica", || is_read_from_replica(daemon))?;
    let running = readers.start(lab, options)?;
    wait_for("clients read from the replica", || Ok(clients_of(lab, REPLICA)? >= most))?;
    lab.db_mut(REPLICA).kill()?;
    wait_for("clients read from the primary", || Ok(clients_of(lab, PRIMARY)? >= most))?;
    // Pools have made up for what they lost by then.
    thread::sleep(PEACE);
    let peace = Instant::now();
    thread::sleep(PEACE);
    let starting = Instant::now();
    lab.db_mut(REPLICA).start()?;
    wait_for("reads go to the replica again", || is_read_from_replica(daemon))?;
    let returned = Instant::now();
    let mut left = clients_of(lab, PRIMARY)?;
    while left > 0 && returned.elapsed() < limit {
        thread::sleep(Duration::from_millis(20));
        left = clients_of(lab, PRIMARY)?;
    }
    let end = Instant::now();
    thread::sleep(PEACE);
    let mut record = match running {
        Running::Plain(clients) => clients.stop()?,
        Running::Pooled(clients) => clients.stop()?,
    };
    // The route may have moved a moment before it was seen to have.
    record.mishaps.retain(|mishap| mishap.at >= starting);
    Ok(Returned {
        took: (left == 0).then_some(end - returned),
        left,
        p99_before: p99(&record, peace, starting),
        p99_during: p99(&record, returned, end + MOMENT),
        record,
    })
}

/// Connections of the application to a server, as the server sees them.
fn clients_of(lab: &Lab, number: usize) -> Result<usize> {
    Ok(lab.db(number).connections_of(APP_USER)?.len())
}

fn is_read_from_replica(daemon: &Daemon) -> Result<bool> {
    let status = daemon.status()?;
    let routes = status["clusters"][0]["routes"].as_array().cloned().unwrap_or_default();
    Ok(routes.iter().any(|route| route["access"] == "read" && route["fallback"] == false))
}

/// The time that 99 of 100 transactions took no longer than, of those that ended in an interval.
fn p99(record: &Record, from: Instant, to: Instant) -> Duration {
    let within = record.reads.iter().filter(|read| from <= read.at && read.at <= to);
    let mut took: Vec<Duration> = within.map(|read| read.took).collect();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        ensure!(start.elapsed() < PLACE_LIMIT, "{what}: not within {PLACE_LIMIT:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
