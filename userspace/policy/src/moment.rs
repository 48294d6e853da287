//! `Moment`: time since the daemon started, handed in by the caller.
//!
//! Nothing in this crate reads a clock. A moment prints as text, so that a failing run can be
//! replayed from its log.

use std::{fmt, ops::Add, time::Duration};

/// A point in time, as the duration since the daemon started.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Moment(Duration);

impl Moment {
    /// When the daemon started.
    pub const START: Self = Self(Duration::ZERO);

    /// Returns the moment that lies this long after the start.
    #[must_use]
    pub const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// Returns the moment that lies this many milliseconds after the start.
    #[must_use]
    pub const fn from_millis(elapsed_ms: u64) -> Self {
        Self(Duration::from_millis(elapsed_ms))
    }

    /// Returns the time since the start.
    #[must_use]
    pub const fn elapsed(self) -> Duration {
        self.0
    }

    /// Returns the time between an earlier moment and this one; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0.as_secs(), self.0.subsec_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_prints_seconds_and_milliseconds() {
        assert_eq!(Moment::from_millis(12_345).to_string(), "12.345s");
        assert_eq!((Moment::START + Duration::from_millis(7)).to_string(), "0.007s");
    }

    #[test]
    fn time_since_a_later_moment_is_zero() {
        assert_eq!(Moment::from_millis(1).since(Moment::from_millis(2)), Duration::ZERO);
    }
}
