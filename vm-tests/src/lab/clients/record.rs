//! What clients were told: transactions that were acknowledged, those whose end nobody knows, and errors.

use std::{collections::BTreeMap, fmt, time::Duration, time::Instant};

use serde::{Deserialize, Serialize};

use super::pause::Flip;

/// A row of the ledger: which writer, and its how manieth try.
pub type Row = (u32, u32);

/// What one client was told, or several together.
#[derive(Debug, Default)]
pub struct Record {
    pub commits: Vec<Commit>,
    /// COMMIT was sent, and what became of it was not told: the row may be there.
    pub unknown: Vec<Row>,
    /// Readers' transactions that ended well.
    pub reads: Vec<Read>,
    pub mishaps: Vec<Mishap>,
}

/// A writer's transaction that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub row: Row,
    pub at: Instant,
    /// From BEGIN to the acknowledgement.
    pub took: Duration,
}

/// A reader's transaction that ended well.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub at: Instant,
    pub took: Duration,
}

/// An error that a client got.
#[derive(Clone, Copy, Debug)]
pub struct Mishap {
    pub at: Instant,
    pub client: Client,
    pub kind: Kind,
    pub phase: Phase,
    /// When BEGIN was acknowledged, if it was.
    pub began: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Client {
    Writer(u32),
    Reader(u32),
}

/// What the error was.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server's own error, by its number.
    Server(u16),
    /// The connection was closed or reset: clients' own errors 2006 and 2013.
    Lost,
    /// The connection was refused.
    Refused,
    /// No answer in time; the client gave up.
    Timeout,
    Other,
}

/// Where in its transaction the client was.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting or logging in.
    Connect,
    /// At BEGIN: nothing of it has run, and trying again is safe.
    Begin,
    /// After BEGIN was acknowledged, before COMMIT was sent: the transaction is gone.
    Inside,
    /// COMMIT was sent and not acknowledged.
    Commit,
}

impl Phase {
    /// Whether BEGIN was acknowledged and COMMIT was not.
    pub const fn is_inside(self) -> bool {
        match self {
            Self::Connect | Self::Begin => false,
            Self::Inside | Self::Commit => true,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::Begin => "at BEGIN",
            Self::Inside => "inside a transaction",
            Self::Commit => "at COMMIT",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(code) => write!(f, "error {code}"),
            Self::Lost => f.write_str("connection lost"),
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout => f.write_str("no answer"),
            Self::Other => f.write_str("other error"),
        }
    }
}

impl Mishap {
    /// Whether its transaction was open when one of these flips began.
    pub fn was_open_at(&self, flips: &[Flip]) -> bool {
        let Some(began) = self.began else { return false };
        self.phase.is_inside()
            && flips.iter().any(|flip| began <= flip.start && flip.start <= self.at)
    }
}

impl Record {
    pub fn add(&mut self, other: Self) {
        self.commits.extend(other.commits);
        self.unknown.extend(other.unknown);
        self.reads.extend(other.reads);
        self.mishaps.extend(other.mishaps);
    }

    /// Errors inside a transaction.
    pub fn inside(&self) -> usize {
        self.mishaps.iter().filter(|mishap| mishap.phase.is_inside()).count()
    }

    /// Errors inside a transaction that was open when one of these flips began.
    pub fn open_at(&self, flips: &[Flip]) -> usize {
        self.mishaps.iter().filter(|mishap| mishap.was_open_at(flips)).count()
    }

    /// How often which error came where.
    pub fn kinds(&self) -> BTreeMap<(Phase, Kind), usize> {
        let mut kinds = BTreeMap::new();
        for mishap in &self.mishaps {
            *kinds.entry((mishap.phase, mishap.kind)).or_default() += 1;
        }
        kinds
    }

    /// The same as a text of one line, for people.
    pub fn errors(&self) -> String {
        let kinds = self.kinds();
        if kinds.is_empty() {
            return "none".to_owned();
        }
        let texts =
            kinds.iter().map(|((phase, kind), count)| format!("{count} x {kind} {}", phase.name()));
        texts.collect::<Vec<_>>().join(", ")
    }

    /// What must be there and what may be, for a check on another machine than the clients'.
    pub fn ledger(&self) -> Ledger {
        Ledger {
            acknowledged: self.commits.iter().map(|commit| commit.row).collect(),
            unknown: self.unknown.clone(),
            errors: self.errors(),
        }
    }
}

/// The part of a record that servers are held against; it can be kept in a file.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Ledger {
    pub acknowledged: Vec<Row>,
    pub unknown: Vec<Row>,
    /// [`Record::errors`].
    pub errors: String,
}
