//! Reasons: every decision says why, in an enum that prints as the words an operator reads.
//!
//! Texts name no addresses, because the policy knows none; the caller puts the names around them.

use std::{fmt, time::Duration};

use crate::{
    ids::{BackendId, Generation, PairId, RequestId},
    input::{Admin, AdminTarget, Cause},
    output::EndWhich,
    switchover::{Precondition, StepId},
};

/// Why a route goes where it goes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum RouteReason {
    /// Not every backend that matters has been checked once.
    Unchecked,
    /// Found in the kernel at the start; the checks have not come to another verdict.
    Restored,
    /// Write: forwarded to the primary.
    PrimaryWritable,
    /// Write: refused, because the primary is down.
    PrimaryDown,
    /// Write: refused, because the primary was checked but never passed or fell.
    PrimaryUndecided,
    /// Write: refused, because the primary was last seen read-only.
    PrimaryReadOnly,
    /// Write: refused, because an operator took the primary out.
    PrimaryTakenOut,
    /// Write: forwarded to the primary, which nobody asks whether it is writable: there is no login.
    PrimaryUp,
    /// Write: refused, because a condition of the primary failed; it is alive, and its flows live on.
    PrimaryUnfit,
    /// Write: refused, because a check says that the primary is in maintenance.
    PrimaryMaintenance,
    /// Write: stays at the old primary, which a switchover has made read-only, while new connections are paused.
    SwitchingOver,
    /// Read: forwarded to all replicas.
    ReplicasFit,
    /// Read: forwarded to the replicas that are fit; others are not.
    SomeReplicasFit,
    /// Read: fewer replicas than `min_replicas` are fit, so the primary serves as well.
    TooFewReplicas,
    /// Read: too few replicas of the active pair are fit, so replicas of standby pairs serve as well.
    StandbyReplicas,
    /// Read: fallback to the primary.
    NoReplicaFit,
    /// Read: replicas are fit again, and the primary goes on until an operator says so.
    FailbackOff,
    /// Read: the primary is not fit either, so replicas serve that are left out because they flap.
    ReplicasFlapping,
    /// Read: the primary is down and these replicas have all that it sent them.
    PrimaryDownReplicasCutOff,
    /// Read: refused, because neither a replica nor the primary is fit.
    NoBackendFit,
}

impl RouteReason {
    /// Returns the word used in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Restored => "restored",
            Self::PrimaryWritable => "primary_writable",
            Self::PrimaryDown => "primary_down",
            Self::PrimaryUndecided => "primary_undecided",
            Self::PrimaryReadOnly => "primary_read_only",
            Self::PrimaryTakenOut => "primary_taken_out",
            Self::PrimaryUp => "primary_up",
            Self::PrimaryUnfit => "primary_unfit",
            Self::PrimaryMaintenance => "primary_maintenance",
            Self::SwitchingOver => "switching_over",
            Self::ReplicasFit => "replicas_fit",
            Self::SomeReplicasFit => "some_replicas_fit",
            Self::TooFewReplicas => "too_few_replicas",
            Self::StandbyReplicas => "standby_replicas",
            Self::NoReplicaFit => "no_replica_fit",
            Self::FailbackOff => "failback_off",
            Self::ReplicasFlapping => "replicas_flapping",
            Self::PrimaryDownReplicasCutOff => "primary_down_replicas_cut_off",
            Self::NoBackendFit => "no_backend_fit",
        }
    }
}

impl fmt::Display for RouteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "waiting for the first checks",
            Self::Restored => "kept from before the daemon's start until the checks decide",
            Self::PrimaryWritable => "primary is up and writable",
            Self::PrimaryDown => "primary is down",
            Self::PrimaryUndecided => "primary has not passed a check",
            Self::PrimaryReadOnly => "primary is read-only",
            Self::PrimaryTakenOut => "an operator took the primary out",
            Self::PrimaryUp => "primary is up",
            Self::PrimaryUnfit => "a condition of the primary failed",
            Self::PrimaryMaintenance => "a check says that the primary is in maintenance",
            Self::SwitchingOver => "paused while a flip is under way",
            Self::ReplicasFit => "all replicas are fit",
            Self::SomeReplicasFit => "some replicas are not fit",
            Self::TooFewReplicas => "too few replicas are fit; the primary serves as well",
            Self::StandbyReplicas => {
                "too few replicas are fit; those of standby pairs serve as well"
            }
            Self::NoReplicaFit => "no replica is fit",
            Self::FailbackOff => {
                "replicas are fit again; reads return to one when it is said to be ready (failback = off)"
            }
            Self::ReplicasFlapping => "nothing is fit but replicas that flap",
            Self::PrimaryDownReplicasCutOff => "primary is down; its replicas serve what they have",
            Self::NoBackendFit => "no backend is fit",
        })
    }
}

/// Why a backend is seen as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BackendReason {
    /// No probe has ended.
    Unchecked,
    /// The last check passed in every respect that applies.
    Passing,
    /// The last check failed in a way that may take the backend down.
    Failing { cause: Cause, text: String },
    /// `fall` checks heard nothing, and nothing was heard from any other backend since: kept as it
    /// was.
    Unconfirmed { cause: Cause, text: String },
    /// The server is alive, or the trouble is ours, and the check cannot judge it: health stays as it was.
    Impaired { cause: Cause, text: String },
    /// The server answers and its replication is not as it should be.
    Replication(ReplicationFault),
    /// The active primary answers and is read-only, so the write route refuses.
    ReadOnly,
    /// It is in `maint`, so it is not checked.
    Maint,
    /// It passes and has fallen again and again: reads go elsewhere for a while.
    Flapping,
    /// It is alive and a condition is not as it should be.
    Condition { name: String, text: String },
    /// `fall` times a condition was not answered, and neither was it on any other backend since: kept as it was.
    ConditionUnconfirmed { name: String, text: String },
    /// A condition cannot be judged: it stays as it was.
    ConditionImpaired { name: String, text: String },
    /// A check says that somebody took it out.
    Maintenance { name: String, text: String },
}

impl BackendReason {
    /// Returns the word used in JSON and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Passing => "passing",
            Self::Failing { cause, .. } | Self::Impaired { cause, .. } => cause.name(),
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Replication(fault) => fault.name(),
            Self::ReadOnly => "read_only",
            Self::Maint => "maint",
            Self::Flapping => "flapping",
            Self::Condition { .. } => "condition",
            Self::ConditionUnconfirmed { .. } => "condition_unconfirmed",
            Self::ConditionImpaired { .. } => "condition_impaired",
            Self::Maintenance { .. } => "maintenance",
        }
    }
}

impl fmt::Display for BackendReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked => f.write_str("not checked yet"),
            Self::Passing => f.write_str("passing"),
            Self::Failing { cause, text } => write_cause(f, *cause, text),
            Self::Unconfirmed { cause, text } => {
                write_cause(f, *cause, text)?;
                f.write_str("; kept as it was, because no other backend has answered since either")
            }
            Self::Impaired { cause: cause @ Cause::Starved, text } => write_cause(f, *cause, text),
            Self::Impaired { cause, text } => {
                f.write_str("alive, but the check cannot judge it: ")?;
                write_cause(f, *cause, text)
            }
            Self::Replication(fault) => fault.fmt(f),
            Self::ReadOnly => f.write_str("read-only"),
            Self::Maint => f.write_str("in maintenance, not checked"),
            Self::Flapping => f.write_str("passing, and left out for a while because it flaps"),
            Self::Condition { name, text } => write!(f, "condition {name}: {text}"),
            Self::ConditionUnconfirmed { name, text } => write!(
                f,
                "condition {name}: {text}; kept as it was, because it was not answered by any other backend since either"
            ),
            Self::ConditionImpaired { name, text } => {
                write!(
                    f,
                    "passing, but condition {name} cannot be judged and stays as it was: {text}"
                )
            }
            Self::Maintenance { name, text } => write!(f, "in maintenance, says {name}: {text}"),
        }
    }
}

fn write_cause(f: &mut fmt::Formatter<'_>, cause: Cause, text: &str) -> fmt::Result {
    if text.is_empty() { write!(f, "{cause}") } else { write!(f, "{cause} ({text})") }
}

/// What is wrong with a server's replication.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReplicationFault {
    /// It replicates from nobody.
    NoChannel,
    IoStopped {
        channel: String,
    },
    SqlStopped {
        channel: String,
    },
    /// The threads run and the server cannot tell its lag.
    LagUnknown {
        channel: String,
    },
    Lagging {
        lag: Duration,
        max_lag: Duration,
    },
}

impl ReplicationFault {
    /// Returns the word used in JSON and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoChannel => "not_replicating",
            Self::IoStopped { .. } => "io_thread_stopped",
            Self::SqlStopped { .. } => "sql_thread_stopped",
            Self::LagUnknown { .. } => "lag_unknown",
            Self::Lagging { .. } => "lagging",
        }
    }
}

impl fmt::Display for ReplicationFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, channel) = match self {
            Self::NoChannel => return f.write_str("replicates from nobody"),
            Self::Lagging { lag, max_lag } => {
                return write!(
                    f,
                    "lags {}s (max_lag {}s)",
                    lag.as_secs_f32(),
                    max_lag.as_secs_f32()
                );
            }
            Self::IoStopped { channel } => ("IO thread is not running", channel),
            Self::SqlStopped { channel } => ("SQL thread is not running", channel),
            Self::LagUnknown { channel } => ("lag is unknown", channel),
        };
        f.write_str(what)?;
        if channel.is_empty() { Ok(()) } else { write!(f, " (channel {channel:?})") }
    }
}

/// Why a route table is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChangeReason {
    /// There was no table, and every route's answer is known now.
    FirstAnswers,
    /// A check result changed an answer.
    Checked {
        backend: BackendId,
    },
    /// An answer changed while another swap was under way.
    CaughtUp,
    /// The last swap failed.
    Retry,
    /// A replica that returned gets more of its share, or one that flapped has waited long enough.
    SlowStart,
    /// An operator took something out or put it back, or the time for that ran out.
    Admin,
    Flip {
        request: RequestId,
        from: PairId,
        to: PairId,
    },
    Failover {
        from: PairId,
        to: PairId,
    },
    /// A server was made writable or read-only by us.
    Fence,
    /// A switchover takes the routes to the new pair, or back.
    Switchover {
        from: PairId,
        to: PairId,
    },
}

impl fmt::Display for ChangeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstAnswers => f.write_str("first check results"),
            Self::Checked { backend } => write!(f, "check of {backend}"),
            Self::CaughtUp => f.write_str("changed during the last swap"),
            Self::Retry => f.write_str("the last swap failed"),
            Self::SlowStart => f.write_str("slow start of a replica"),
            Self::Admin => f.write_str("an admin state changed"),
            Self::Flip { from, to, .. } => write!(f, "flip from {from} to {to}"),
            Self::Failover { from, to } => write!(f, "failover from {from} to {to}"),
            Self::Switchover { from, to } => write!(f, "switchover from {from} to {to}"),
            Self::Fence => f.write_str("a server was fenced or unfenced"),
        }
    }
}

/// Why flows are ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// Their backend is down; a client must not wait for TCP's timeouts.
    BackendDown { cause: Cause },
    /// A flip with `drain = "cut"` left their pair.
    FlipCut { request: RequestId },
    /// The same by a failover.
    FailoverCut,
    /// The same by a switchover.
    SwitchoverCut,
    /// An operator took their backend or pair out, and said so.
    TakenOut { admin: Admin },
    /// A read route with `failback = "cut"` went back to replicas.
    Failback,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackendDown { cause } => write!(f, "backend is down: {cause}"),
            Self::FlipCut { .. } => f.write_str("flip with drain = cut"),
            Self::FailoverCut => f.write_str("failover with drain = cut"),
            Self::SwitchoverCut => f.write_str("switchover with drain = cut"),
            Self::TakenOut { admin } => write!(f, "{} with drain = cut", admin.name()),
            Self::Failback => f.write_str("reads went back to replicas, with failback = cut"),
        }
    }
}

/// Why flows are drained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DrainReason {
    /// A flip left their pair.
    Flip,
    /// A failover did.
    Failover,
    /// An operator took their backend or pair out.
    TakenOut { admin: Admin },
    /// A read route went back to replicas.
    Failback,
}

impl fmt::Display for DrainReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flip => "flip",
            Self::Failover => "failover",
            Self::TakenOut { admin } => admin.name(),
            Self::Failback => "reads went back to replicas",
        })
    }
}

/// Why the active pair is written to the state file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PersistReason {
    /// The state file does not say what is in force: first start, or a daemon died between write
    /// and swap.
    Reconcile,
    /// A flip is about to swap.
    Flip { request: RequestId },
    /// A flip failed.
    FlipUndone,
    /// A failover is about to swap.
    Failover,
    /// What is remembered of failovers changed, and the active pair did not.
    FailoverMemory,
    /// A switchover is about to swap, or to swap back.
    Switchover,
    /// How far a switchover is changed, and the active pair did not.
    Intent,
}

impl fmt::Display for PersistReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reconcile => "the state file does not say what is in force",
            Self::Flip { .. } => "flip",
            Self::FlipUndone => "a flip was undone",
            Self::Failover => "failover",
            Self::FailoverMemory => "failover",
            Self::Switchover | Self::Intent => "switchover",
        })
    }
}

/// Where the active pair of the start comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ActiveSource {
    /// Neither file nor kernel knew: the first pair of the configuration.
    Configuration,
    StateFile,
    /// The kernel forwards to this pair, and the state file agrees or is silent.
    Kernel,
    /// The kernel forwards to this pair and the state file names another: a flip did not get as far
    /// as its swap.
    KernelOverStateFile {
        state_file: PairId,
    },
}

/// Why an input was ignored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IgnoredReason {
    UnknownBackend {
        backend: BackendId,
    },
    UnknownCluster,
    /// An admin state of what is not configured.
    UnknownTarget {
        target: AdminTarget,
    },
    /// An answer to a swap that is not under way.
    UnexpectedApplied {
        generation: Generation,
    },
    /// An answer to a write that is not under way.
    UnexpectedPersisted,
    /// An answer of a server that was not asked to be fenced or unfenced.
    UnexpectedFence {
        backend: BackendId,
    },
    /// An answer to a step that nobody waits for.
    UnexpectedStep {
        id: StepId,
    },
    /// No such switchover is under way.
    NothingToCallOff,
    /// The end of a drain that is not under way.
    UnexpectedDrained {
        which: EndWhich,
    },
}

impl fmt::Display for IgnoredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBackend { backend } => {
                write!(f, "check result of {backend}, which is not configured")
            }
            Self::UnknownTarget { target } => {
                write!(f, "admin state of {target:?}, which is not configured")
            }
            Self::UnknownCluster => f.write_str("answer for a cluster that is not configured"),
            Self::UnexpectedApplied { generation } => {
                write!(f, "no swap to generation {generation} is under way")
            }
            Self::UnexpectedPersisted => f.write_str("no write of the state file is under way"),
            Self::UnexpectedFence { backend } => {
                write!(f, "{backend} was not asked to be fenced or unfenced")
            }
            Self::UnexpectedStep { id } => write!(f, "nobody waits for {id}"),
            Self::NothingToCallOff => f.write_str("no such switchover is under way"),
            Self::UnexpectedDrained { which } => write!(f, "{which:?} is not being drained"),
        }
    }
}

/// What an operator should know about a flip that took place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FlipWarning {
    /// Nothing was done.
    AlreadyActive,
    /// The new primary is read-only, so the write route refuses until it is writable.
    TargetReadOnly,
    /// The new primary is not known to be up, so the write route refuses.
    TargetPrimaryDown,
    /// The new primary does not replicate: writes of the old pair may be missing on it.
    TargetNotReplicating,
    /// The new primary is behind: the last writes of the old pair may be missing on it.
    TargetLagging { lag: Duration },
    /// A condition of the new primary failed, or a check says that it is in maintenance, so the write route refuses.
    TargetUnfit,
    /// The old primary takes writes: flows that live on can write there beside the new primary.
    OldPrimaryWritable,
    /// A precondition that does not hold was waived.
    Waived { precondition: Precondition, text: String },
    /// Sessions on the old primary that its fence does not stop.
    Privileged { who: String },
    /// The old primary does not tell which sessions its fence does not stop; `grant` lets it.
    PrivilegedUnseen { grant: String },
    /// The old primary's sessions may hide something from us.
    Blind { text: String },
    /// The pause or holds of flows could not be ended; the kernel does so by itself.
    NotReleased { text: String },
    /// Sessions of clients may be left on the old primary, which is read-only.
    SessionsLeft { text: String },
    /// The old primary was not seen to replicate from the new one.
    OldNotReplicating,
}

impl FlipWarning {
    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AlreadyActive => "already_active",
            Self::TargetReadOnly => "target_read_only",
            Self::TargetPrimaryDown => "target_primary_down",
            Self::TargetNotReplicating => "target_not_replicating",
            Self::TargetLagging { .. } => "target_lagging",
            Self::TargetUnfit => "target_unfit",
            Self::OldPrimaryWritable => "old_primary_writable",
            Self::Waived { .. } => "waived",
            Self::Privileged { .. } => "privileged",
            Self::PrivilegedUnseen { .. } => "privileged_unseen",
            Self::Blind { .. } => "blind",
            Self::NotReleased { .. } => "not_released",
            Self::SessionsLeft { .. } => "sessions_left",
            Self::OldNotReplicating => "old_not_replicating",
        }
    }
}

impl fmt::Display for FlipWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyActive => f.write_str("the pair is active already; nothing was changed"),
            Self::TargetReadOnly => f.write_str(
                "the new primary is read-only: write routes refuse until a check sees it writable",
            ),
            Self::TargetPrimaryDown => f.write_str(
                "the new primary is not known to be up: write routes refuse until a check passes",
            ),
            Self::TargetNotReplicating => f.write_str(
                "the new primary does not replicate: writes made on the old pair may be missing on it",
            ),
            Self::TargetLagging { lag } => write!(
                f,
                "the new primary was {}s behind: the last writes made on the old pair may be missing on it",
                lag.as_secs_f32()
            ),
            Self::TargetUnfit => f.write_str(
                "a condition of the new primary failed: write routes refuse until it passes",
            ),
            Self::OldPrimaryWritable => f.write_str(
                "the old primary was last seen writable: connections that stay on it can still write there",
            ),
            Self::Waived { precondition, text } => {
                write!(f, "{} was waived: {text}", precondition.name())
            }
            Self::Privileged { who } => write!(
                f,
                "these sessions can write to a read-only server, and are ended with it: {who}"
            ),
            Self::PrivilegedUnseen { grant } => write!(
                f,
                "whether a session can write to the old primary although it is read-only is not seen: {grant}"
            ),
            Self::Blind { text } => {
                write!(f, "not every open transaction on the old primary can be seen: {text}")
            }
            Self::NotReleased { text } => write!(
                f,
                "the pause and holds could not be ended, and end by themselves within seconds: {text}"
            ),
            Self::SessionsLeft { text } => write!(
                f,
                "sessions of clients may be left on the old primary, which refuses their writes: {text}"
            ),
            Self::OldNotReplicating => f.write_str(
                "the old primary was not seen to replicate from the new one: look at its replication before the next flip",
            ),
        }
    }
}
