//! Progress: how far a switchover is, in words.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use crate::moment::Moment;

/// How far a switchover is that is under way. Reading it changes nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SwitchoverView {
    pub step: SwitchoverStep,
    /// When the step began.
    pub since: Moment,
    /// When it is undone if the new primary was not told to take writes by then; `None` once it was, and while it is
    /// undone.
    pub deadline: Option<Moment>,
    /// Calling it off undoes it.
    pub can_be_called_off: bool,
    /// The log was told that it does not get on by itself, see [`crate::EventKind::SwitchoverStuck`]. A route-only flip
    /// may take over.
    pub stuck: bool,
}

/// The steps of a switchover, in order. The last two are those of one that is undone, or resumed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SwitchoverStep {
    Survey,
    Prepare,
    CatchUp,
    Pause,
    Settle,
    Fence,
    FinalCatchUp,
    Commit,
    Unfence,
    Open,
    Release,
    EndSessions,
    Verify,
    Finish,
    Undo,
    Resume,
}

impl SwitchoverStep {
    /// Every step.
    pub const ALL: [Self; 16] = [
        Self::Survey,
        Self::Prepare,
        Self::CatchUp,
        Self::Pause,
        Self::Settle,
        Self::Fence,
        Self::FinalCatchUp,
        Self::Commit,
        Self::Unfence,
        Self::Open,
        Self::Release,
        Self::EndSessions,
        Self::Verify,
        Self::Finish,
        Self::Undo,
        Self::Resume,
    ];

    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Survey => "survey",
            Self::Prepare => "prepare",
            Self::CatchUp => "catch_up",
            Self::Pause => "pause",
            Self::Settle => "settle",
            Self::Fence => "fence",
            Self::FinalCatchUp => "final_catch_up",
            Self::Commit => "commit",
            Self::Unfence => "unfence",
            Self::Open => "open",
            Self::Release => "release",
            Self::EndSessions => "end_sessions",
            Self::Verify => "verify",
            Self::Finish => "finish",
            Self::Undo => "undo",
            Self::Resume => "resume",
        }
    }

    /// Returns the longest that it takes besides what is left of the deadlines, and what follows if it does not
    /// succeed.
    const fn rules(self) -> (Option<Duration>, &'static str) {
        match self {
            Self::Survey => (Some(SURVEY_TIMEOUT), "refused"),
            Self::Prepare => (None, "refused"),
            Self::CatchUp => (None, "undone"),
            Self::Pause => (Some(LOCAL_TIMEOUT), "undone"),
            Self::Settle => (None, "undone"),
            Self::Fence => (Some(FENCE_TIMEOUT), "undone"),
            Self::FinalCatchUp | Self::Commit => (None, "undone"),
            Self::Unfence => (
                Some(FENCE_TIMEOUT),
                "undone if it is known that nothing was changed; else tried again every second",
            ),
            Self::Open => (None, "tried again"),
            Self::Release => (Some(LOCAL_TIMEOUT), "a warning; the kernel ends it by itself"),
            Self::EndSessions => (Some(SESSIONS_TIMEOUT), "a warning"),
            Self::Verify => (Some(VERIFY_TIMEOUT), "a warning"),
            Self::Finish => (None, "tried again; the operator has his answer"),
            Self::Undo => (None, "tried again every second, with an alarm"),
            Self::Resume => (None, "tried again every second, with an alarm"),
        }
    }
}

impl fmt::Display for SwitchoverStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Survey => "asking both primaries",
            Self::Prepare => "writing down what is about to happen",
            Self::CatchUp => "the new primary catches up while the old one serves",
            Self::Pause => "pausing new connections for writes",
            Self::Settle => "waiting for open transactions, holding what is idle",
            Self::Fence => "making the old primary read-only",
            Self::FinalCatchUp => "waiting until the new primary has everything",
            Self::Commit => "writing down the new pair and swapping the routes",
            Self::Unfence => "making the new primary writable",
            Self::Open => "opening the routes for writes",
            Self::Release => "ending the pause of new connections",
            Self::EndSessions => "ending the sessions left on the old primary",
            Self::Verify => "seeing that the old primary replicates from the new one",
            Self::Finish => "writing down that it is done",
            Self::Undo => "undoing everything",
            Self::Resume => {
                "going on after a restart: fencing the old primary again and catching up"
            }
        })
    }
}

/// Longest time for both primaries' answers before anything is changed.
pub(crate) const SURVEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for what is done on this host.
pub(crate) const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for a server that is to become read-only or writable, logging in included.
pub(crate) const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for ending what is left on the old primary.
pub(crate) const SESSIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a check that sees the old primary replicate.
pub(crate) const VERIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the steps as a table for the documentation.
#[must_use]
pub fn steps_table() -> String {
    let mut table =
        "| Step | What happens | At most | If it does not succeed |\n|---|---|---|---|\n"
            .to_owned();
    for step in SwitchoverStep::ALL {
        let (longest, failure) = step.rules();
        let longest = longest.map_or_else(String::new, |it| format!("{} s", it.as_secs()));
        _ = writeln!(table, "| `{}` | {step} | {longest} | {failure} |", step.name());
    }
    table
}
