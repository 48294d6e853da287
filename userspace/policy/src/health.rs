//! Health: rise and fall counting for one backend. Knows neither time nor other backends.
//!
//! ```text
//!            pass                    fail x fall
//! Unknown ---------> Up -> Falling -----------------> Down -> Rising -> Up
//!    \                ^------/ one pass restarts        ^-------/ one failure restarts
//!     `--------------------- fail x fall -------------->'
//! ```
//!
//! Counting and taking down are two steps, because a count that is reached may need a witness
//! first.

use std::fmt;

/// What the checks say about a backend, or about a replica's replication.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// No verdict since the start: the first pass means up, `fall` failures mean down.
    Unknown {
        failures: u32,
    },
    Up,
    /// Up, and failing: routed until `fall` is reached.
    Falling {
        failures: u32,
    },
    Down,
    /// Down, and passing: not routed until `rise` is reached.
    Rising {
        passes: u32,
    },
}

/// What [`Health`] comes down to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    None,
    Up,
    Down,
}

impl Verdict {
    /// Returns what several come down to: one that is down decides, then one that is not known.
    pub(crate) fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts.into_iter().fold(Self::Up, |worst, verdict| match (worst, verdict) {
            (Self::Down, _) | (_, Self::Down) => Self::Down,
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Up, Self::Up) => Self::Up,
        })
    }
}

impl Health {
    /// Health before the first check.
    pub const NEW: Self = Self::Unknown { failures: 0 };

    /// Returns the health after a pass.
    #[must_use]
    pub const fn passed(self, rise: u32) -> Self {
        let passes = match self {
            Self::Unknown { .. } | Self::Up | Self::Falling { .. } => return Self::Up,
            Self::Down => 1,
            Self::Rising { passes } => passes.saturating_add(1),
        };
        if passes >= rise { Self::Up } else { Self::Rising { passes } }
    }

    /// Returns the health after a failure. Never takes down by itself, see [`Health::convicted`].
    #[must_use]
    pub const fn failed(self) -> Self {
        match self {
            Self::Unknown { failures } => Self::Unknown { failures: failures.saturating_add(1) },
            Self::Up => Self::Falling { failures: 1 },
            Self::Falling { failures } => Self::Falling { failures: failures.saturating_add(1) },
            Self::Down | Self::Rising { .. } => Self::Down,
        }
    }

    /// Returns down when `fall` failures in a row were counted, else the health as it is.
    #[must_use]
    pub const fn convicted(self, fall: u32) -> Self {
        let failures = self.failures();
        if failures > 0 && failures >= fall { Self::Down } else { self }
    }

    /// Returns the health after a check that was neither pass nor failure: the verdict stays,
    /// counting restarts.
    #[must_use]
    pub const fn recounted(self) -> Self {
        match self {
            Self::Unknown { .. } => Self::NEW,
            Self::Up | Self::Falling { .. } => Self::Up,
            Self::Down | Self::Rising { .. } => Self::Down,
        }
    }

    /// Returns the failures in a row that may lead to down.
    #[must_use]
    pub const fn failures(self) -> u32 {
        match self {
            Self::Unknown { failures } | Self::Falling { failures } => failures,
            Self::Up | Self::Down | Self::Rising { .. } => 0,
        }
    }

    /// Returns what it comes down to: falling is up, rising is down.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Unknown { .. } => Verdict::None,
            Self::Up | Self::Falling { .. } => Verdict::Up,
            Self::Down | Self::Rising { .. } => Verdict::Down,
        }
    }

    /// Returns whether the verdict is up.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self.verdict(), Verdict::Up)
    }

    /// Returns whether the next checks can change the verdict.
    #[must_use]
    pub const fn is_counting(self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Falling { .. } | Self::Rising { .. } => true,
            Self::Up | Self::Down => false,
        }
    }

    /// Returns the word used in logs, metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Up => "up",
            Self::Falling { .. } => "falling",
            Self::Down => "down",
            Self::Rising { .. } => "rising",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { failures } | Self::Falling { failures } if *failures > 0 => {
                write!(f, "{} ({failures} failed)", self.name())
            }
            Self::Rising { passes } => write!(f, "{} ({passes} passed)", self.name()),
            Self::Unknown { .. } | Self::Falling { .. } | Self::Up | Self::Down => {
                f.write_str(self.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pass_means_up() {
        check("ok", Health::Up);
    }

    #[test]
    fn the_first_failures_mean_down_only_when_fall_is_reached() {
        check("fail fail", Health::Unknown { failures: 2 });
        check("fail fail fail", Health::Down);
    }

    #[test]
    fn a_pass_among_the_first_failures_means_up() {
        check("fail fail ok", Health::Up);
    }

    #[test]
    fn one_success_between_failures_keeps_a_backend_up() {
        check("ok fail fail ok fail fail", Health::Falling { failures: 2 });
    }

    #[test]
    fn fall_failures_in_a_row_take_a_backend_down() {
        check("ok fail fail fail", Health::Down);
    }

    #[test]
    fn a_backend_that_is_down_needs_rise_passes_in_a_row() {
        check("fail fail fail ok", Health::Rising { passes: 1 });
        check("fail fail fail ok ok", Health::Up);
        check("fail fail fail ok fail ok", Health::Rising { passes: 1 });
    }

    #[test]
    fn a_check_that_cannot_judge_restarts_counting_and_leaves_the_verdict() {
        check("alive", Health::NEW);
        check("ok alive", Health::Up);
        check("ok fail fail alive fail fail", Health::Falling { failures: 2 });
        check("fail fail fail ok alive", Health::Down);
        check("fail fail alive fail fail", Health::Unknown { failures: 2 });
    }

    #[test]
    fn a_count_beyond_fall_waits_for_the_conviction() {
        let falling = (0..5).fold(Health::Up, |health, _| health.failed());
        assert_eq!(falling, Health::Falling { failures: 5 });
        assert_eq!(falling.convicted(3), Health::Down);
        assert_eq!(falling.passed(2), Health::Up);
    }

    #[test]
    fn zero_thresholds_act_as_one() {
        assert_eq!(Health::Up.convicted(0), Health::Up);
        assert_eq!(Health::Up.failed().convicted(0), Health::Down);
        assert_eq!(Health::Down.passed(0), Health::Up);
    }

    #[test]
    fn health_prints_its_count() {
        assert_eq!(Health::Falling { failures: 2 }.to_string(), "falling (2 failed)");
        assert_eq!(Health::Rising { passes: 1 }.to_string(), "rising (1 passed)");
        assert_eq!(Health::NEW.to_string(), "unknown");
    }

    /// Runs checks with `rise` 2 and `fall` 3.
    fn check(checks: &str, expected: Health) {
        let actual = checks.split(' ').fold(Health::NEW, |health, word| match word {
            "ok" => health.passed(2),
            "fail" => health.failed().convicted(3),
            "alive" => health.recounted(),
            other => panic!("unknown word {other:?}"),
        });
        assert_eq!(actual, expected, "after {checks:?}");
    }
}
