//! How long nothing was acknowledged around a flip.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::record::Record;

/// How long after a flip's end a pause still counts as its own: clients notice late and connect again.
const AFTER: Duration = Duration::from_secs(3);

/// When the command was given, and when it returned.
#[derive(Clone, Copy, Debug)]
pub struct Flip {
    pub start: Instant,
    pub end: Instant,
}

/// Pauses of writes over several flips, each flip's longest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pauses {
    /// No writer was acknowledged anything. Sorted.
    pub all: Vec<Duration>,
    /// The unluckiest writer was not acknowledged anything. Sorted.
    pub one: Vec<Duration>,
}

impl Pauses {
    pub fn of(record: &Record, flips: &[Flip]) -> Self {
        let mut together: Vec<Instant> = record.commits.iter().map(|commit| commit.at).collect();
        together.sort_unstable();
        let mut each: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
        for commit in &record.commits {
            each.entry(commit.row.0).or_default().push(commit.at);
        }
        let mut pauses = Self::default();
        for flip in flips {
            pauses.all.push(longest(&together, *flip));
            let longest_of_one = each.values().map(|times| longest(times, *flip)).max();
            pauses.one.push(longest_of_one.unwrap_or_default());
        }
        pauses.all.sort_unstable();
        pauses.one.sort_unstable();
        pauses
    }
}

/// The middle of sorted times, and the last of them; zero of none.
pub fn median_and_max(sorted: &[Duration]) -> (Duration, Duration) {
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

/// The longest time between two neighbours that touches a flip; `times` are sorted.
fn longest(times: &[Instant], flip: Flip) -> Duration {
    let pairs =
        times.windows(2).filter(|pair| pair[1] >= flip.start && pair[0] <= flip.end + AFTER);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::clients::record::Commit;

    fn commits(start: Instant, writer: u32, times: &[u64]) -> Vec<Commit> {
        let at = |ms: &u64| start + Duration::from_millis(*ms);
        let commit = |ms| Commit { row: (writer, 1), at: at(ms), took: Duration::ZERO };
        times.iter().map(commit).collect()
    }

    #[test]
    fn a_pause_is_the_longest_gap_that_touches_the_flip() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut record = Record::default();
        // A gap long before the flip is not its own.
        record.commits.extend(commits(start, 0, &[0, 900, 1000, 1400, 1450]));
        record.commits.extend(commits(start, 1, &[10, 910, 1010, 1900]));
        let flips = [Flip { start: at(1000), end: at(1300) }];
        let pauses = Pauses::of(&record, &flips);
        assert_eq!(pauses.all, [Duration::from_millis(450)], "1450 to 1900");
        assert_eq!(pauses.one, [Duration::from_millis(890)], "writer 1 from 1010 to 1900");
        assert_eq!(median_and_max(&[]), (Duration::ZERO, Duration::ZERO));
    }
}
