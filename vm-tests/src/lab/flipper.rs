//! Flips of a lab, in the ways that there are to flip.

use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Lab,
    clients::{Clients, pause::Flip},
    daemon::Daemon,
    flavour::Fork,
};

/// How to flip.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// `pairflip flip`.
    Safe,
    /// The safe order with the servers' own statements, around a flip of routes. What a person does without a safe flip.
    ByHand,
    /// Routes only, while both primaries are writable: what loses writes.
    RouteOnly,
}

/// Time between two flips, in which clients come back and write.
const BETWEEN: Duration = Duration::from_millis(1500);
/// Longest wait until clients write again after a flip.
const RETURN_LIMIT: Duration = Duration::from_secs(30);
/// Acknowledged transactions that count as clients at work.
const AT_WORK: u64 = 50;
/// Longest wait for a step of a flip.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for the end of a flip that something befell.
const SETTLED_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait of the standby for what the old primary wrote, in seconds.
const CATCH_UP_S: u32 = 30;

impl Way {
    pub const ALL: [Self; 3] = [Self::Safe, Self::ByHand, Self::RouteOnly];

    /// The word of commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::ByHand => "by-hand",
            Self::RouteOnly => "route-only",
        }
    }

    pub fn from_name(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|way| way.name() == name);
        found.ok_or_else(|| format!("no such way to flip; there are {names}"))
    }

    /// Whether both primaries must be writable beforehand.
    pub const fn needs_two_writable(self) -> bool {
        matches!(self, Self::RouteOnly)
    }

    /// Makes pair 1 or 2 active.
    pub fn flip(self, lab: &Lab, daemon: &Daemon, to: usize) -> Result<Flip> {
        let start = Instant::now();
        let pair = pair(to);
        match self {
            Self::Safe => {
                daemon.ctl(&["flip", "--force", "recent_flip", "--to", &pair])?;
            }
            Self::ByHand => by_hand(lab, daemon, to)?,
            Self::RouteOnly => {
                daemon.ctl(&["flip", "--route-only", "--drain", "cut", "--to", &pair])?;
            }
        }
        Ok(Flip { start, end: Instant::now() })
    }
}

/// Flips to and fro while clients work, and lets them work after the last one; `progress` is told after each.
pub fn flip_under_load(
    way: Way,
    lab: &Lab,
    daemon: &Daemon,
    clients: &Clients,
    count: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Flip>> {
    wait_at_work(clients)?;
    let mut flips = Vec::new();
    for number in 1..=count {
        thread::sleep(BETWEEN);
        let to = 3 - active(daemon)?;
        let flip = way.flip(lab, daemon, to);
        flips.push(flip.with_context(|| format!("flip {number}, to {}", pair(to)))?);
        wait_at_work(clients).with_context(|| format!("after flip {number}"))?;
        progress(number);
    }
    thread::sleep(BETWEEN);
    Ok(flips)
}

/// Waits until writes are acknowledged from now on.
pub fn wait_at_work(clients: &Clients) -> Result<()> {
    let (start, before) = (Instant::now(), clients.commits());
    while clients.commits() < before + AT_WORK {
        let limit = RETURN_LIMIT;
        ensure!(start.elapsed() < limit, "clients do not write again within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A `pairflip flip` that is under way.
#[derive(Debug)]
pub struct UnderWay {
    child: Child,
    start: Instant,
}

/// How a `pairflip flip` ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// Standard output and standard error.
    pub said: String,
    pub flip: Flip,
}

impl UnderWay {
    pub fn start(daemon: &Daemon, arguments: &[&str]) -> Result<Self> {
        let start = Instant::now();
        let flip = ["flip", "--force", "recent_flip"];
        Ok(Self { child: daemon.start_pairflip(&[&flip, arguments].concat())?, start })
    }

    /// Waits until the flip is at a step, where something must keep it.
    pub fn wait_step(&self, daemon: &Daemon, name: &str) -> Result<()> {
        let mut last = Value::Null;
        while self.start.elapsed() < STEP_LIMIT {
            last = daemon.status()?["clusters"][0]["flip"].take();
            let step = last["steps"].as_array().and_then(|steps| steps.last());
            if step.is_some_and(|step| step["name"] == name) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the flip did not come to {name} within {STEP_LIMIT:?}: {last}");
    }

    pub fn end(self) -> Result<Ended> {
        let output = self.child.wait_with_output().context("waiting for pairflip flip")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ended {
            code: output.status.code(),
            said: text(&output.stdout) + &text(&output.stderr),
            flip: Flip { start: self.start, end: Instant::now() },
        })
    }
}

/// Waits until no flip is under way: it was finished or undone.
pub fn wait_settled(daemon: &Daemon) -> Result<()> {
    let start = Instant::now();
    loop {
        let flip = daemon.status()?["clusters"][0]["flip"].take();
        if flip.is_null() {
            return Ok(());
        }
        ensure!(start.elapsed() < SETTLED_LIMIT, "the flip does not end: {flip}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Name of a pair of the lab's configuration.
pub fn pair(number: usize) -> String {
    format!("pair{number}")
}

/// Server that is primary of pair 1 or 2.
pub const fn primary(pair: usize) -> usize {
    2 * pair - 1
}

/// Which pair is active: 1 or 2.
pub fn active(daemon: &Daemon) -> Result<usize> {
    let status = daemon.status()?;
    let name = status["clusters"][0]["active_pair"].as_str().context("no pair is active")?;
    Ok(if name == pair(1) { 1 } else { 2 })
}

/// Fences the old primary, waits until the new one has all, moves the routes, makes the new one writable.
fn by_hand(lab: &Lab, daemon: &Daemon, to: usize) -> Result<()> {
    let (old, new) = (lab.db(primary(3 - to)), lab.db(primary(to)));
    old.set_read_only(true)?;
    let fork = old.fork();
    let position = old.sql(match fork {
        Fork::MariaDb => "SELECT @@gtid_binlog_pos",
        Fork::MySql => "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')",
    })?;
    let position = position.replace("\\n", "");
    let waited = new.sql(&match fork {
        Fork::MariaDb => format!("SELECT MASTER_GTID_WAIT('{position}', {CATCH_UP_S})"),
        Fork::MySql => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', {CATCH_UP_S})"),
    })?;
    ensure!(waited == "0", "the new primary has not caught up to {position} in {CATCH_UP_S} s");
    daemon.ctl(&["flip", "--route-only", "--drain", "cut", "--to", &pair(to)])?;
    new.set_read_only(false)
}
