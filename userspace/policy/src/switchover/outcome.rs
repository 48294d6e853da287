//! Outcome: what an operator is told of a switchover.

use std::{fmt, time::Duration};

use super::{Judged, SwitchoverStep};
use crate::{
    output::{FlipDone, FlipRefused},
    reason::FlipWarning,
};

/// What became of a switchover.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SwitchoverOutcome {
    /// A dry run: what holds and what does not, and what an operator should know although nothing stands against it.
    /// Nothing was changed.
    Planned { preflight: Vec<Judged>, warnings: Vec<FlipWarning> },
    /// The other pair takes the writes, and nothing acknowledged was lost.
    Done {
        done: FlipDone,
        /// From the pause of writes until the new primary took them.
        paused: Duration,
        /// From the request on.
        took: Duration,
    },
    /// Nothing was changed.
    Refused(FlipRefused),
    /// Everything is as it was before.
    Undone(Undone),
    /// It is being undone, and the old primary could not be made writable yet: nobody takes writes. The daemon goes on
    /// trying.
    Undoing { undone: Undone, text: String },
    /// It cannot be undone any more and is not finished. The daemon goes on trying, unless something else took over.
    Trouble { step: SwitchoverStep, text: String },
}

impl SwitchoverOutcome {
    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Planned { .. } => "planned",
            Self::Done { .. } => "done",
            Self::Refused(_) => "refused",
            Self::Undone(_) => "undone",
            Self::Undoing { .. } => "undoing",
            Self::Trouble { .. } => "trouble",
        }
    }
}

/// Why a switchover was undone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Undone {
    /// The step that it got to.
    pub step: SwitchoverStep,
    pub cause: UndoCause,
    /// For the operator.
    pub text: String,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.step, self.step.name(), self.text)
    }
}

/// What kind of reason there was to undo.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UndoCause {
    Error,
    /// `deadline` or `max_pause` was reached.
    Deadline,
    /// An operator said so.
    CalledOff,
    /// The daemon was started again in the middle.
    Restarted,
}

impl UndoCause {
    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Deadline => "deadline",
            Self::CalledOff => "called_off",
            Self::Restarted => "restarted",
        }
    }
}
