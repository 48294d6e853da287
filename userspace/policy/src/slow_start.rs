//! Slow start: a replica that returns gets its share of new connections bit by bit.
//!
//! A server that was away comes back with cold caches; its full share at once could overload it, and
//! take it away again.
//!
//! ```text
//!       unfit             fit, slow_start > 0                nine tenths of slow_start
//! Warm -------> Cold ---------------------------> Warming ------------------------------> Warm
//!                 ^  `-- fit, slow_start = 0 --> Warm  | unfit
//!                 `------------------------------------'
//! ```
//!
//! - [`STEPS`] equal steps, each a tenth of `slow_start` long: the first gives a tenth of the
//!   weight (at least 1), the last all of it. The policy's deadline is the next step, and each
//!   step is a swap of the table.
//! - Only a replica that was *known* to be unfit starts slowly. At the start of the daemon nothing
//!   is known, and the first pass gives the full weight: a restart moves nobody's share.
//! - A replica that becomes unfit again leaves the table at once and later starts over.
//! - The only backend of a route gets every connection, so its weight is the configured one.
//! - While nothing is heard from any backend no step is taken; the time goes on.

use std::time::Duration;

use crate::{health::Verdict, moment::Moment};

/// Fine enough that no step adds more than a tenth of a server's share, and few enough that a
/// return costs no more than nine swaps.
pub(crate) const STEPS: u16 = 10;

/// How much of its share a replica can take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Warmth {
    /// All of it.
    Warm,
    /// It is unfit; what it gets once it is fit begins small.
    Cold,
    /// It returned at `since`, and takes `step` of [`STEPS`] parts.
    Warming { since: Moment, step: u16 },
}

impl Warmth {
    /// Returns the warmth at this moment of a replica that the checks see so.
    pub(crate) fn after(self, verdict: Verdict, slow_start: Duration, now: Moment) -> Self {
        let since = match (verdict, self) {
            (Verdict::Down, _) => return Self::Cold,
            // Back to "not known" is no way of a verdict; whatever it was, it stays.
            (Verdict::None, _) | (Verdict::Up, Self::Warm) => return self,
            (Verdict::Up, Self::Cold) => now,
            (Verdict::Up, Self::Warming { since, .. }) => since,
        };
        let step = (1..STEPS).take_while(|step| end_of(*step, since, slow_start) <= now).count();
        match 1 + step as u16 {
            STEPS => Self::Warm,
            step => Self::Warming { since, step },
        }
    }

    /// Returns the part of a configured weight that goes with this warmth.
    pub(crate) fn of(self, weight: u16) -> u16 {
        match self {
            Self::Warm | Self::Cold => weight,
            Self::Warming { step, .. } => {
                let part = u32::from(weight) * u32::from(step) / u32::from(STEPS);
                // A part of a u16, so it fits.
                (part as u16).max(1)
            }
        }
    }

    /// Returns when the next step is due.
    pub(crate) fn deadline(self, slow_start: Duration) -> Option<Moment> {
        match self {
            Self::Warm | Self::Cold => None,
            Self::Warming { since, step } => Some(end_of(step, since, slow_start)),
        }
    }
}

fn end_of(step: u16, since: Moment, slow_start: Duration) -> Moment {
    since + slow_start / u32::from(STEPS) * u32::from(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW_START: Duration = Duration::from_secs(10);

    #[test]
    fn a_replica_that_returns_takes_a_tenth_more_with_every_tenth_of_the_time() {
        let mut warmth = Warmth::Cold;
        for second in 0..12 {
            warmth = warmth.after(Verdict::Up, SLOW_START, at(second));
            let tenths = (second as u16 + 1).min(10);
            assert_eq!(warmth.of(100), 10 * tenths, "after {second} s");
            let next = (tenths < 10).then(|| at(second + 1));
            assert_eq!(warmth.deadline(SLOW_START), next, "after {second} s");
        }
    }

    #[test]
    fn a_late_look_catches_up() {
        let warming = Warmth::Cold.after(Verdict::Up, SLOW_START, at(0));
        assert_eq!(warming.after(Verdict::Up, SLOW_START, at(5)).of(100), 60);
        assert_eq!(warming.after(Verdict::Up, SLOW_START, at(500)), Warmth::Warm);
    }

    #[test]
    fn a_second_fall_starts_over() {
        let warming = Warmth::Cold.after(Verdict::Up, SLOW_START, at(0));
        let warming = warming.after(Verdict::Up, SLOW_START, at(6));
        let cold = warming.after(Verdict::Down, SLOW_START, at(7));
        assert_eq!((cold, cold.deadline(SLOW_START)), (Warmth::Cold, None));
        assert_eq!(cold.after(Verdict::Up, SLOW_START, at(8)).of(100), 10);
    }

    #[test]
    fn a_replica_never_known_to_be_unfit_is_warm() {
        let warmth = Warmth::Warm.after(Verdict::None, SLOW_START, at(0));
        assert_eq!(warmth.after(Verdict::Up, SLOW_START, at(1)), Warmth::Warm);
    }

    #[test]
    fn without_a_slow_start_there_is_nothing_to_wait_for() {
        assert_eq!(Warmth::Cold.after(Verdict::Up, Duration::ZERO, at(1)), Warmth::Warm);
    }

    #[test]
    fn small_weights_begin_at_one_and_great_ones_do_not_overflow() {
        let warming = Warmth::Cold.after(Verdict::Up, SLOW_START, at(0));
        assert_eq!([1, 9, 20, u16::MAX].map(|weight| warming.of(weight)), [1, 1, 2, 6553]);
        let warming = warming.after(Verdict::Up, SLOW_START, at(8));
        assert_eq!([1, 9, 20, u16::MAX].map(|weight| warming.of(weight)), [1, 8, 18, 58_981]);
    }

    const fn at(second: u64) -> Moment {
        Moment::from_millis(second * 1000)
    }
}
