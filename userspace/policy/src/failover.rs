//! Failover: whether another pair may become active by itself, and if not, why not.
//!
//! `judge` decides by what is known; `cluster/failover.rs` takes the steps. The rule is to do nothing unless everything
//! speaks for it: a pair that takes over too late costs minutes, one that takes over wrongly costs data.
//!
//! | What must hold | Why |
//! |---|---|
//! | the active primary failed `fall` checks in a row, and not with an answer | one observer |
//! | the candidate's IO thread lost the active primary, too | a second one, somewhere else |
//! | the kernel's table turns writes away | nobody writes to the old one meanwhile |
//! | the candidate replicated from it without a fault until it failed | what it has is recent |
//! | it answered after the conviction and has applied all that it received | nothing is lost but what was never sent |
//! | neither pair was taken out, none had this happen within the window | operators, and faults that come back |

mod judge;

use std::{collections::BTreeSet, fmt, time::Duration};

pub(crate) use self::judge::{Evidence, Facts, Sound};
use crate::{
    ids::PairId,
    input::{Admin, Cause},
    moment::Moment,
};

/// Who decides about another pair becoming active.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Failover {
    /// Operators only.
    #[default]
    Manual,
    /// The policy as well, but not again within `window` after the last time.
    Auto { window: Duration },
}

/// What is remembered of failovers; in the state file, too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FailoverMemory {
    pub last: Option<LastFailover>,
    /// Pairs that failed and get nothing until an operator says that they are well.
    pub out: BTreeSet<PairId>,
}

/// The last failover, or the one that is under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LastFailover {
    pub from: PairId,
    pub to: PairId,
    pub stage: FailoverStage,
    /// No other one before; `None` after an operator has acknowledged it.
    pub until: Option<Moment>,
    /// `server_id` of the old primary.
    pub source_id: u32,
    /// What the logs of the old and the new primary held as far as is known: the old one's position is from before it died.
    pub old_position: Option<String>,
    pub new_position: Option<String>,
}

/// How far a failover is that the state file knows of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailoverStage {
    /// It is decided. The routes may not have been swapped, and the new primary may be read-only.
    Promoting,
    /// The new primary takes writes.
    Done,
}

/// What would become of a failover now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outlook {
    /// Never by itself.
    Manual,
    /// Not needed; this pair would take over.
    Ready { to: PairId },
    /// Not needed, and it would be refused.
    Unready { reason: FailoverRefused },
    /// The active primary is down, and there is none.
    Refused { reason: FailoverRefused },
    /// It is about to start.
    Possible { to: PairId },
    /// It is under way; the old routes are in force.
    Running { from: PairId, to: PairId },
    /// The routes lead to the new pair, whose primary is to become writable.
    Promoting { to: PairId, held: Option<FailoverRefused> },
}

/// Why there is no failover.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FailoverRefused {
    /// Nothing is heard from any backend.
    AllSilent,
    /// An operator took the active primary out.
    ActiveTakenOut {
        admin: Admin,
    },
    /// The last one was not long enough ago, and no operator has acknowledged it.
    Window,
    /// The primary is not known to be up, and fewer than `fall` checks in a row have failed.
    Undecided,
    /// The last check of the active primary proves that it is alive.
    PrimaryAlive {
        cause: Cause,
    },
    /// It was down when an operator made its pair active.
    DownBefore,
    /// It never answered since the daemon's start, so nobody knows who replicated from it.
    PrimaryNeverSeen,
    /// The kernel has not confirmed a table that turns writes away, or the state file what was decided.
    NotBlocked,
    /// The old primary answered when it was to be fenced.
    CalledOff {
        answer: String,
    },
    /// What was under way could not be finished.
    Failed {
        what: String,
    },
    /// The old primary answered after the routes had been swapped and before the new one was writable.
    Interrupted,
    /// A daemon died in the middle, and too long ago.
    TooOld,
    NoOtherPair,
    /// Why each of the other pairs cannot take over.
    NoCandidate {
        faults: Vec<(PairId, CandidateFault)>,
    },
    /// It cannot be said which of these has more of the old primary's writes.
    Ambiguous {
        candidates: Vec<PairId>,
    },
}

/// Why a pair cannot take over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CandidateFault {
    /// It failed earlier, and no operator has said that it is well.
    Out,
    TakenOut {
        admin: Admin,
    },
    /// Its checks say that it is in maintenance, or a condition of its primary fails.
    Unfit,
    /// Its primary is not up, or did not answer the last check.
    Unheard,
    /// Our account may not make its primary writable.
    MayNotUnfence,
    /// Its primary does not replicate from the active one.
    NoChannel,
    /// It receives from the active primary, which is therefore alive.
    SeesPrimary,
    /// Its IO thread is not running for another reason than that the active primary is gone.
    IoStopped {
        error: u32,
    },
    /// Its IO thread has lost the connection and has not said yet that it cannot get a new one.
    IoUndecided,
    SqlStopped,
    /// It waits on purpose before it applies anything.
    Delayed {
        delay: Duration,
    },
    Lagging {
        lag: Duration,
    },
    LagUnknown,
    /// Its replication was not seen without a fault right before the active primary failed.
    NotSoundBefore,
    /// It has not answered since the active primary was found dead.
    NotAskedSince,
    /// It has not applied all that it received.
    NotApplied,
    AppliedUnknown,
}

impl FailoverRefused {
    /// Returns whether it lasts for moments only, so that nobody needs to hear of it.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Undecided | Self::NotBlocked => true,
            Self::NoCandidate { faults } => faults.iter().any(|(_, fault)| match fault {
                CandidateFault::NotAskedSince | CandidateFault::IoUndecided => true,
                CandidateFault::Out
                | CandidateFault::TakenOut { .. }
                | CandidateFault::Unfit
                | CandidateFault::Unheard
                | CandidateFault::MayNotUnfence
                | CandidateFault::NoChannel
                | CandidateFault::SeesPrimary
                | CandidateFault::IoStopped { .. }
                | CandidateFault::SqlStopped
                | CandidateFault::Delayed { .. }
                | CandidateFault::Lagging { .. }
                | CandidateFault::LagUnknown
                | CandidateFault::NotSoundBefore
                | CandidateFault::NotApplied
                | CandidateFault::AppliedUnknown => false,
            }),
            Self::AllSilent
            | Self::ActiveTakenOut { .. }
            | Self::Window
            | Self::PrimaryAlive { .. }
            | Self::DownBefore
            | Self::PrimaryNeverSeen
            | Self::CalledOff { .. }
            | Self::Failed { .. }
            | Self::Interrupted
            | Self::TooOld
            | Self::NoOtherPair
            | Self::Ambiguous { .. } => false,
        }
    }
}

impl fmt::Display for FailoverRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllSilent => f.write_str("nothing is heard from any backend"),
            Self::ActiveTakenOut { admin } => {
                write!(f, "the active primary is in {}", admin.name())
            }
            Self::Window => f.write_str(
                "the last failover was within failover_window and nobody has acknowledged it",
            ),
            Self::Undecided => {
                f.write_str("the primary is not known to be dead: fewer than `fall` checks in a row have failed")
            }
            Self::PrimaryAlive { cause } => write!(f, "the active primary is alive: {cause}"),
            Self::DownBefore => f.write_str(
                "the active primary was down already when an operator made its pair active",
            ),
            Self::PrimaryNeverSeen => f.write_str(
                "the active primary has not answered since the daemon's start, so it is not known who replicated from it",
            ),
            Self::NotBlocked => {
                f.write_str("the kernel or the state file has not confirmed the last step")
            }
            Self::CalledOff { answer } => {
                write!(f, "the active primary answered when it was to be fenced: {answer}")
            }
            Self::Failed { what } => f.write_str(what),
            Self::Interrupted => f.write_str(
                "the old primary answered before the new one was writable; an operator must decide which of them it is to be",
            ),
            Self::TooOld => f.write_str(
                "a daemon died in the middle of it too long ago; an operator must decide which primary it is to be",
            ),
            Self::NoOtherPair => f.write_str("the cluster has no other pair"),
            Self::NoCandidate { faults } => {
                for (index, (pair, fault)) in faults.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{pair} {fault}")?;
                }
                Ok(())
            }
            Self::Ambiguous { candidates } => write!(
                f,
                "{} pairs could take over and it is not known which has more of the old primary's writes",
                candidates.len()
            ),
        }
    }
}

impl fmt::Display for CandidateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out => f.write_str("failed earlier and waits for an operator"),
            Self::TakenOut { admin } => write!(f, "is in {}", admin.name()),
            Self::Unfit => f.write_str("has a primary whose conditions do not pass"),
            Self::Unheard => f.write_str("has no primary that answers"),
            Self::MayNotUnfence => f.write_str(
                "has a primary that the check user may not make writable (READ_ONLY ADMIN on MariaDB, SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN on MySQL)",
            ),
            Self::NoChannel => f.write_str("does not replicate from the active primary"),
            Self::SeesPrimary => f.write_str("still receives from the active primary"),
            Self::IoStopped { error: 0 } => f.write_str("had its IO thread stopped"),
            Self::IoStopped { error } => write!(f, "had its IO thread stopped by error {error}"),
            Self::IoUndecided => {
                f.write_str("has lost the active primary and tries to reach it again")
            }
            Self::SqlStopped => f.write_str("has its SQL thread stopped"),
            Self::Delayed { delay } => {
                write!(f, "applies {}s late on purpose", delay.as_secs_f32())
            }
            Self::Lagging { lag } => write!(f, "lagged {}s", lag.as_secs_f32()),
            Self::LagUnknown => f.write_str("does not know its lag"),
            Self::NotSoundBefore => {
                f.write_str("did not replicate soundly right before the active primary failed")
            }
            Self::NotAskedSince => f.write_str("has not been asked since"),
            Self::NotApplied => f.write_str("has not applied all that it received"),
            Self::AppliedUnknown => {
                f.write_str("does not say whether it has applied all that it received")
            }
        }
    }
}
