//! Damping: a replica that flaps is left out of reads for longer and longer.
//!
//! The first fall costs nothing but `rise`. From the second one on, a replica that is fit again waits: `hold_off`, twice that after the next
//! fall, and so on up to [`LONGEST`] times `hold_off`, counted from the fall. One that has served for that longest time is forgiven.
//!
//! A replica that waits is not lost: where there is neither another one nor the primary, reads go to it.

use std::time::Duration;

use crate::{health::Verdict, moment::Moment};

/// The longest wait, in `hold_off`s: a power of two, so four doublings.
pub(crate) const LONGEST: u32 = 16;

/// What is remembered of a replica's falls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Damping {
    /// Falls in a row, without a long time of service between two.
    falls: u32,
    /// Since when it serves, or could.
    up_since: Option<Moment>,
    /// Until when it waits after its last fall.
    until: Option<Moment>,
}

impl Damping {
    /// Of a replica that never fell.
    pub(crate) const NEW: Self = Self { falls: 0, up_since: None, until: None };

    /// Returns the damping at this moment of a replica that the checks see so.
    pub(crate) fn after(self, verdict: Verdict, hold_off: Duration, now: Moment) -> Self {
        match verdict {
            Verdict::None => self,
            Verdict::Up => {
                let until = self.until.filter(|until| *until > now);
                let up_since = if until.is_some() { None } else { self.up_since.or(Some(now)) };
                Self { until, up_since, ..self }
            }
            Verdict::Down => {
                let Some(since) = self.up_since else { return self };
                let longest = hold_off * LONGEST;
                let falls = if since + longest <= now { 1 } else { self.falls.saturating_add(1) };
                let doublings = falls.saturating_sub(2).min(LONGEST.ilog2());
                let wait = hold_off * (1 << doublings);
                let until = (falls > 1 && !wait.is_zero()).then(|| now + wait);
                Self { falls, up_since: None, until }
            }
        }
    }

    /// Returns whether it waits; the time may be over by the clock, and has its effect with the next look.
    pub(crate) const fn waits(self) -> bool {
        self.until.is_some()
    }

    /// Returns until when it waits.
    pub(crate) const fn until(self) -> Option<Moment> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD_OFF: Duration = Duration::from_secs(10);

    /// Falls at these seconds, is fit again a second later each time; returns for how many seconds from each fall it waits.
    fn waits(falls: &[u64]) -> Vec<u64> {
        let mut damping = Damping::NEW;
        let mut waits = Vec::new();
        for second in 0..=*falls.last().expect("a fall") {
            let falls = falls.contains(&second);
            let verdict = if falls { Verdict::Down } else { Verdict::Up };
            damping = damping.after(verdict, HOLD_OFF, at(second));
            if falls {
                waits.push(damping.until().map_or(0, |until| until.since(at(second)).as_secs()));
            }
        }
        waits
    }

    #[test]
    fn each_fall_doubles_the_wait_up_to_the_longest() {
        assert_eq!(
            waits(&[10, 20, 40, 80, 150, 250, 420, 600]),
            [0, 10, 20, 40, 80, 160, 160, 160]
        );
    }

    #[test]
    fn a_long_time_of_service_is_forgiven() {
        assert_eq!(waits(&[10, 20, 40, 300]), [0, 10, 20, 0]);
    }

    #[test]
    fn who_falls_while_it_waits_has_not_served_and_is_not_punished_twice() {
        let damping = Damping::NEW.after(Verdict::Up, HOLD_OFF, at(0));
        let damping =
            damping.after(Verdict::Down, HOLD_OFF, at(1)).after(Verdict::Up, HOLD_OFF, at(2));
        let damping =
            damping.after(Verdict::Down, HOLD_OFF, at(3)).after(Verdict::Up, HOLD_OFF, at(4));
        assert!(damping.waits());
        let again =
            damping.after(Verdict::Down, HOLD_OFF, at(5)).after(Verdict::Up, HOLD_OFF, at(6));
        assert_eq!(again.until(), Some(at(13)));
        assert!(!again.after(Verdict::Up, HOLD_OFF, at(13)).waits());
    }

    #[test]
    fn without_a_hold_off_nobody_waits() {
        let mut damping = Damping::NEW;
        for second in 0..20 {
            let verdict = if second % 2 == 0 { Verdict::Up } else { Verdict::Down };
            damping = damping.after(verdict, Duration::ZERO, at(second));
            assert!(!damping.waits());
        }
    }

    const fn at(second: u64) -> Moment {
        Moment::from_millis(second * 1000)
    }
}
