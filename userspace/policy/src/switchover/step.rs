//! Steps: what a switchover asks of drivers, and what they answer.

use std::{fmt, time::Duration};

use super::Survey;
use crate::ids::BackendId;

/// Names a step of one cluster, so that its answer finds it. Not used twice by one daemon.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct StepId(pub u64);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step#{}", self.0)
    }
}

/// One thing to do at the servers or at the cluster's flows. `from` is the old primary, `to` the new one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Ask both primaries all that [`Survey`] holds. Changes nothing.
    Survey { from: BackendId, to: BackendId },
    /// Read the old primary's position and wait until the new one has applied it, while writes go on. Changes nothing.
    CatchUp { from: BackendId, to: BackendId },
    /// Drop SYNs of the cluster's write routes; the kernel ends that by itself after `time`.
    Pause { time: Duration },
    /// Hold each flow to this server as soon as it is idle outside a transaction, and go on holding it until
    /// [`Step::Release`]. Done when all are held; [`StepFault::TimedOut`] names who is not.
    Settle { backend: BackendId },
    /// Make this server refuse writes, and see that it does. When this is answered, no statement is on its way that
    /// could do it later, as far as can be known.
    Fence { backend: BackendId },
    /// Read the fenced old primary's position twice, wait until the new one has applied it, and read it again.
    /// Changes nothing.
    FinalCatchUp { from: BackendId, to: BackendId },
    /// Wait until the new primary has applied this position of an old one that is gone. Changes nothing.
    Reach { to: BackendId, position: String },
    /// Make this server take writes, and see that it does.
    Unfence { backend: BackendId },
    /// End the sessions of clients that came through us to this server: killed there, then reset.
    EndSessions { backend: BackendId },
    /// End the cluster's pause, and all holds unless those are about to be ended with their sessions.
    Release { keep_held: bool },
}

impl Step {
    /// Returns the word used in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Survey { .. } => "survey",
            Self::CatchUp { .. } => "catch_up",
            Self::Pause { .. } => "pause",
            Self::Settle { .. } => "settle",
            Self::Fence { .. } => "fence",
            Self::FinalCatchUp { .. } => "final_catch_up",
            Self::Reach { .. } => "reach",
            Self::Unfence { .. } => "unfence",
            Self::EndSessions { .. } => "end_sessions",
            Self::Release { .. } => "release",
        }
    }

    /// Returns whether it only asks and waits, so that it may be cancelled at any moment.
    pub(crate) const fn is_harmless(&self) -> bool {
        match self {
            Self::Survey { .. }
            | Self::CatchUp { .. }
            | Self::Settle { .. }
            | Self::FinalCatchUp { .. }
            | Self::Reach { .. } => true,
            Self::Pause { .. }
            | Self::Fence { .. }
            | Self::Unfence { .. }
            | Self::EndSessions { .. }
            | Self::Release { .. } => false,
        }
    }
}

/// What a step that succeeded found. One that does not fit its step counts as [`StepAnswer::Done`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StepAnswer {
    /// To [`Step::Survey`].
    Surveyed(Box<Survey>),
    /// To [`Step::CatchUp`], [`Step::Pause`], [`Step::Settle`], [`Step::Reach`], [`Step::Unfence`] and
    /// [`Step::Release`].
    Done,
    /// To [`Step::Fence`].
    Fenced { was_read_only: bool },
    /// To [`Step::FinalCatchUp`]: the old primary's position, in its own words.
    CaughtUp { position: String },
    /// To [`Step::EndSessions`]: sessions that were killed at the server, and flows that were reset.
    Ended { killed: u64, reset: u64 },
}

/// Why a step did not succeed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StepFailure {
    pub fault: StepFault,
    /// For the operator; decides nothing.
    pub text: String,
}

/// What is known after a step that did not succeed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StepFault {
    /// Nobody was logged in: nothing was changed, and the server may be dead.
    Unreachable,
    /// The server answered, and nothing was changed.
    Refused,
    /// Time ran out with nothing changed: a lock, a replica that is behind, flows that are not idle.
    TimedOut,
    /// It may have been done.
    Unknown,
    /// The old primary's position moved although it is fenced.
    Moved,
}
