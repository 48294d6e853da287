//! Servers held against what clients were told.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::record::{Ledger, Row};
use crate::lab::{Lab, flavour::Fork};

/// The two primaries of a lab, by number.
pub const PRIMARIES: [usize; 2] = [1, 3];
/// Longest wait until both primaries have the same.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// How long replication may stand still meanwhile: a thread that reconnects is back by then, one that broke is not.
const STANDSTILL_LIMIT: Duration = Duration::from_secs(8);
/// All rows in a few numbers.
const DIGEST: &str =
    "SELECT COUNT(*), COALESCE(SUM(id), 0), BIT_XOR(CRC32(CONCAT_WS(',', id, writer, sequence))),
    (SELECT GROUP_CONCAT(amount ORDER BY account) FROM app.balance) FROM app.ledger";

/// What is on one primary, beside what should be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    pub number: usize,
    pub rows: usize,
    /// Acknowledged rows that are not there.
    pub missing: usize,
    /// Rows that are there more than once.
    pub twice: usize,
    /// Rows that nobody was told anything about: neither acknowledged nor unknown.
    pub strange: usize,
    /// Rows whose COMMIT was not answered, and that are there.
    pub unknown: usize,
    /// Sum of the balances; each row adds 1 to one of them.
    pub sum: i64,
    pub is_replicating: bool,
    pub is_writable: bool,
}

/// Both primaries.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub found: Vec<Found>,
    /// Whether both have the same rows and balances.
    pub is_same: bool,
}

/// Waits until the primaries of a lab have the same and replicate, and holds them against what clients were told.
pub fn verify(lab: &Lab, ledger: &Ledger) -> Result<Verdict> {
    verify_with(lab.db(1).fork(), ledger, |number, query| lab.db(number).sql(query))
}

/// The same with servers that are asked some other way: by number, a query, rows as lines with tabs.
pub fn verify_with(
    fork: Fork,
    ledger: &Ledger,
    mut ask: impl FnMut(usize, &str) -> Result<String>,
) -> Result<Verdict> {
    let is_same = settle(fork, &mut ask)?;
    let mut found = Vec::new();
    for number in PRIMARIES {
        let one = look(number, fork, ledger, &mut ask);
        found.push(one.with_context(|| format!("looking at server {number}"))?);
    }
    Ok(Verdict { found, is_same })
}

/// Returns whether both primaries came to have the same. They never do when replication broke.
fn settle(fork: Fork, ask: &mut impl FnMut(usize, &str) -> Result<String>) -> Result<bool> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut ran = Instant::now();
    loop {
        let is_same = ask(PRIMARIES[0], DIGEST)? == ask(PRIMARIES[1], DIGEST)?;
        let mut runs = true;
        for number in PRIMARIES {
            runs &= ask(number, fork.is_replicating())?.ends_with("ON");
        }
        if runs {
            ran = Instant::now();
        }
        let is_over = Instant::now() > deadline || ran.elapsed() > STANDSTILL_LIMIT;
        if is_over || (is_same && runs) {
            return Ok(is_same);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn look(
    number: usize,
    fork: Fork,
    ledger: &Ledger,
    ask: &mut impl FnMut(usize, &str) -> Result<String>,
) -> Result<Found> {
    let there = rows(&ask(number, "SELECT writer, sequence FROM app.ledger")?)?;
    let known = ledger.acknowledged.iter().filter(|row| there.contains_key(row)).count();
    let unknown = ledger.unknown.iter().filter(|row| there.contains_key(row)).count();
    let sum = ask(number, "SELECT SUM(amount) FROM app.balance")?;
    Ok(Found {
        number,
        rows: there.values().sum(),
        missing: ledger.acknowledged.len() - known,
        twice: there.values().filter(|count| **count > 1).count(),
        strange: there.len() - known - unknown,
        unknown,
        sum: sum.trim().parse().with_context(|| format!("the sum of balances: {sum:?}"))?,
        is_replicating: ask(number, fork.is_replicating())?.ends_with("ON"),
        is_writable: matches!(ask(number, "SELECT @@global.read_only")?.trim(), "0" | "OFF"),
    })
}

fn rows(text: &str) -> Result<HashMap<Row, usize>> {
    let mut rows = HashMap::new();
    for line in text.lines() {
        let mut numbers = line.split('\t').map(str::parse);
        let (Some(Ok(writer)), Some(Ok(sequence))) = (numbers.next(), numbers.next()) else {
            anyhow::bail!("no row of the ledger: {line:?}");
        };
        *rows.entry((writer, sequence)).or_default() += 1;
    }
    Ok(rows)
}

impl Verdict {
    /// Everything that is not as it must be after safe flips; empty if all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.found.iter().flat_map(Found::problems).collect();
        if !self.is_same {
            problems.push("the primaries do not come to have the same".to_owned());
        }
        match self.found.iter().filter(|found| found.is_writable).count() {
            1 => {}
            count => problems.push(format!("{count} primaries are writable")),
        }
        problems
    }

    /// Acknowledged rows that are missing on either primary.
    pub fn missing(&self) -> usize {
        self.found.iter().map(|found| found.missing).sum()
    }
}

impl Found {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (count, what) in [
            (self.missing, "acknowledged rows are missing"),
            (self.twice, "rows are there more than once"),
            (self.strange, "rows are there that nobody was told about"),
        ] {
            if count > 0 {
                problems.push(format!("server {}: {count} {what}", self.number));
            }
        }
        if self.sum != self.rows as i64 {
            let Self { number, sum, rows, .. } = self;
            problems.push(format!("server {number}: balances add up to {sum}, with {rows} rows"));
        }
        if !self.is_replicating {
            problems.push(format!("server {}: replication does not run", self.number));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two servers with these rows each, of which the first is writable.
    fn judge(ledger: &Ledger, rows: &'static str, sum: &'static str) -> Vec<String> {
        let ask = |number: usize, query: &str| {
            Ok(if query.starts_with("SELECT COUNT") {
                "same".to_owned()
            } else if query.starts_with("SELECT writer") {
                rows.to_owned()
            } else if query.starts_with("SELECT SUM") {
                sum.to_owned()
            } else if query.contains("read_only") {
                if number == 1 { "0" } else { "1" }.to_owned()
            } else {
                "Slave_running\tON".to_owned()
            })
        };
        verify_with(Fork::MariaDb, ledger, ask).unwrap().problems()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_once_and_what_is_unknown_may() {
        let ledger = Ledger {
            acknowledged: vec![(0, 1), (0, 2)],
            unknown: vec![(0, 3)],
            ..Ledger::default()
        };
        assert_eq!(judge(&ledger, "0\t1\n0\t2", "2"), Vec::<String>::new());
        assert_eq!(judge(&ledger, "0\t1\n0\t2\n0\t3", "3"), Vec::<String>::new());
        let said = |rows, sum| judge(&ledger, rows, sum).join("; ");
        assert!(said("0\t1", "1").contains("server 3: 1 acknowledged rows are missing"));
        assert!(said("0\t1\n0\t2\n0\t2", "3").contains("1 rows are there more than once"));
        assert!(said("0\t1\n0\t2\n5\t1", "3").contains("that nobody was told about"));
        assert!(said("0\t1\n0\t2", "3").contains("balances add up to 3, with 2 rows"));
    }
}
