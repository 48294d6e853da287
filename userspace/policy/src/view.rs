//! Views: what the policy knows, as plain values for status output. Reading one changes nothing.

use std::time::Duration;

use crate::{
    condition::Outcome,
    failover::{Failover, FailoverMemory, Outlook},
    flip::FlipCause,
    health::Health,
    ids::{BackendId, ClusterId, Generation, PairId, RouteId},
    input::{Access, AdminSetting, Drain, Facts, Role},
    moment::Moment,
    output::{Pace, RouteTarget},
    reason::{BackendReason, RouteReason},
    switchover::SwitchoverView,
};

/// Everything the policy knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyView {
    pub clusters: Vec<ClusterView>,
}

/// One cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterView {
    pub id: ClusterId,
    pub name: String,
    pub active: PairId,
    /// Of the table in force; zero before the first.
    pub generation: Generation,
    pub flip: Option<FlipView>,
    pub failover: FailoverView,
    pub checks: ChecksState,
    pub pairs: Vec<PairView>,
    pub routes: Vec<RouteView>,
}

/// Whether the checks of a cluster can be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChecksState {
    Working,
    /// Nothing is heard from any backend since then; routes stay as they are.
    AllFailing {
        since: Moment,
    },
}

/// A flip that is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlipView {
    pub cause: FlipCause,
    pub from: PairId,
    pub to: PairId,
    pub drain: Drain,
    pub stage: FlipStage,
    pub since: Moment,
    /// More of a switchover.
    pub switchover: Option<SwitchoverView>,
}

/// Whether another pair would become active by itself, and what is remembered of the last time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FailoverView {
    pub failover: Failover,
    pub outlook: Outlook,
    pub memory: FailoverMemory,
}

/// How far a flip is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlipStage {
    /// The state file is being written.
    Persisting,
    /// The state file names the new pair; an earlier swap must come back first.
    Persisted,
    /// The new table is on its way to the kernel.
    Swapping,
    /// None of these: a switchover is at a step of its own.
    Stepping,
}

/// One pair.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PairView {
    pub id: PairId,
    pub name: String,
    pub state: PairState,
    /// What an operator said about the pair as a whole.
    pub admin: AdminSetting,
    /// The primary first.
    pub backends: Vec<BackendView>,
}

/// Whether new connections go to a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PairState {
    Active,
    Standby,
}

impl PairState {
    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
        }
    }
}

/// One backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendView {
    pub id: BackendId,
    pub role: Role,
    /// What an operator said about this backend; its pair may have a word of its own.
    pub admin: AdminSetting,
    pub health: Health,
    /// Whether new connections may go there: replication of a replica, and conditions; `None` for primaries without conditions.
    pub fitness: Option<Health>,
    /// How each of its conditions is.
    pub conditions: Vec<ConditionView>,
    pub reason: BackendReason,
    /// The largest lag of all channels; `None` when unknown or not replicating.
    pub lag: Option<Duration>,
    /// As last seen; `None` before the first answer.
    pub read_only: Option<bool>,
    /// The last answer.
    pub facts: Option<Facts>,
    /// When the last probe ended.
    pub checked_at: Option<Moment>,
    pub pace: Pace,
}

/// One condition of a backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConditionView {
    pub name: String,
    pub health: Health,
    /// In the last probe that asked.
    pub outcome: Outcome,
}

/// One route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteView {
    pub id: RouteId,
    pub name: String,
    pub access: Access,
    /// As confirmed by the kernel, with the backends' shares.
    pub target: RouteTarget,
    /// The backends of `target`, in its order.
    pub backends: Vec<BackendId>,
    /// A read route is served by the primary because no replica is fit.
    pub fallback: bool,
    /// Why, by what is known now.
    pub reason: RouteReason,
}
