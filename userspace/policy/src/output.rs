//! Outputs: everything the policy can ask for. The caller carries them out in order and feeds the
//! answers back.
//!
//! An output is a wish. It counts as done only when its answer has come in.

use std::{fmt, time::Duration};

use crate::{
    failover::{FailoverMemory, FailoverRefused, LastFailover},
    health::Health,
    ids::{BackendId, ClusterId, Generation, PairId, RequestId, RouteId},
    input::{Admin, AdminTarget, Cause, Drain, Drained},
    moment::Moment,
    reason::{
        ActiveSource, BackendReason, ChangeReason, DrainReason, EndReason, FlipWarning,
        IgnoredReason, PersistReason, RouteReason,
    },
    switchover::{
        Intent, Judged, Judgement, Precondition, Step, StepId, SwitchoverOutcome, SwitchoverStep,
        Undone,
    },
};

/// An action for the caller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Replace the cluster's routes in one step; answer with [`crate::Input::Applied`]. One per
    /// cluster is under way.
    SwapRoutes { cluster: ClusterId, table: RouteTable, reason: ChangeReason },
    /// End flows on both sides with RST. No answer.
    EndFlows { cluster: ClusterId, which: EndWhich, reason: EndReason },
    /// End flows by and by, and cut what is left of them at the deadline; answer with [`crate::Input::Drained`] when none is left. Replaces
    /// what was under way for the same ones.
    DrainFlows {
        cluster: ClusterId,
        which: EndWhich,
        /// Not [`Drain::Cut`].
        mode: Drain,
        deadline: Option<Duration>,
        reason: DrainReason,
    },
    /// Let flows live that are being drained. No answer.
    StopDrain { cluster: ClusterId, which: EndWhich },
    /// Write the active pair, what is to be remembered of failovers, and how far a switchover is to the state file
    /// durably; answer with [`crate::Input::Persisted`]. One per cluster is under way, and the swap of a flip follows
    /// only after success.
    PersistActive {
        cluster: ClusterId,
        pair: PairId,
        failover: FailoverMemory,
        /// `None` removes it.
        intent: Option<Intent>,
        reason: PersistReason,
    },
    /// Make a server refuse writes and see that it does, within `timeout`; answer with [`crate::Input::Fenced`].
    Fence { cluster: ClusterId, backend: BackendId, timeout: Duration, reason: FenceReason },
    /// Make a server take writes and see that it does, within `timeout`; answer with [`crate::Input::Unfenced`].
    ///
    /// For a promotion only if the server says right before that it has applied all that it received.
    Unfence { cluster: ClusterId, backend: BackendId, timeout: Duration, reason: UnfenceReason },
    /// Do one step of a switchover within `timeout`; answer with [`crate::Input::StepDone`], exactly once. One per
    /// cluster is under way.
    Step { cluster: ClusterId, id: StepId, step: Step, timeout: Duration },
    /// Nobody waits for this step any more: stop it. No answer.
    CancelStep { cluster: ClusterId, id: StepId },
    /// Answer an operator who asked for a switchover. No answer.
    SwitchoverReply { request: RequestId, outcome: SwitchoverOutcome },
    /// Answer an operator. No answer.
    Reply { request: RequestId, result: Result<FlipDone, FlipRefused> },
    /// Probe a backend at this pace from now on; every backend gets one at the start. No answer.
    SetPace { backend: BackendId, pace: Pace },
    /// The time of an admin state ran out: the state file need not keep it. No answer.
    ForgetAdmin { cluster: ClusterId, target: AdminTarget },
    /// Something worth a log line. No answer.
    Event(Event),
}

/// Why a server is fenced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FenceReason {
    /// Another pair is about to take over; this one is most likely dead.
    Failover,
    /// Another pair took over, and this one came back writable.
    Returned,
}

/// Why a server is unfenced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnfenceReason {
    /// Its pair took over.
    Promotion,
    /// It was fenced for a failover that did not take place.
    Undo,
}

/// Where new connections of a cluster go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteTable {
    pub generation: Generation,
    /// The pair that every forwarded route of this table leads to.
    pub active: PairId,
    /// Indexed by [`RouteId`].
    pub routes: Vec<RouteTarget>,
}

impl RouteTable {
    /// Returns whether both tables send new connections the same way and in the same shares, whatever
    /// the reasons and generations.
    #[must_use]
    pub fn routes_like(&self, other: &Self) -> bool {
        self.active == other.active
            && self.routes.len() == other.routes.len()
            && self.routes.iter().zip(&other.routes).all(|(a, b)| a.sends_like(b))
    }
}

/// Where new connections of one route go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteTarget {
    /// To one of these, each in its share; never empty.
    Forward { backends: Vec<Share> },
    /// Nowhere.
    Refuse { reason: RouteReason },
}

impl RouteTarget {
    /// Returns the backends that take new connections with their shares; none for a refused route.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        match self {
            Self::Forward { backends } => backends,
            Self::Refuse { .. } => &[],
        }
    }

    /// Returns the backends that take new connections; none for a refused route.
    pub fn backends(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.shares().iter().map(|share| share.backend)
    }

    fn sends_like(&self, other: &Self) -> bool {
        match (self.shares(), other.shares()) {
            // All of the connections, whatever the weight.
            ([only], [others_only]) => only.backend == others_only.backend,
            (shares, others) => shares == others,
        }
    }
}

/// A backend's part of a route's new connections: `weight` of the sum of the route's weights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    pub backend: BackendId,
    /// At least 1.
    pub weight: u16,
}

impl Share {
    /// Of a primary, which never shares a route.
    pub const PRIMARY_WEIGHT: u16 = 100;

    pub(crate) const fn primary(backend: BackendId) -> Self {
        Self { backend, weight: Self::PRIMARY_WEIGHT }
    }
}

/// Which flows to end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum EndWhich {
    Backend(BackendId),
    /// Those to any backend of the pair.
    Pair(PairId),
    /// Those of one route to the backend.
    Route(RouteId, BackendId),
}

/// How often a backend is probed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Every `interval`.
    Steady,
    /// Every `fast_interval`.
    Fast,
    /// Not at all.
    Off,
}

/// A flip that took place; also the answer when the pair was active already.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlipDone {
    pub from: PairId,
    pub to: PairId,
    /// Of the route table that is in force now.
    pub generation: Generation,
    pub drain: Drain,
    /// What the operator should know; each prints as a sentence.
    pub warnings: Vec<FlipWarning>,
}

/// Why a flip did not take place. Every route is as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FlipRefused {
    UnknownCluster {
        cluster: ClusterId,
    },
    UnknownPair {
        pair: PairId,
    },
    /// No target was named and there are several.
    Ambiguous {
        candidates: Vec<PairId>,
    },
    /// No target was named and there is none.
    NoOtherPair,
    FlipRunning {
        to: PairId,
    },
    /// A server is being fenced or unfenced for one.
    FailoverRunning,
    /// No backend of the target is known to be up, and [`Precondition::TargetDown`] was not forced.
    TargetDown {
        pair: PairId,
    },
    /// An operator took the target's primary out, and [`Precondition::TargetTakenOut`] was not forced.
    TargetTakenOut {
        pair: PairId,
        admin: Admin,
    },
    /// Preconditions of a switchover do not hold, or could not be judged.
    Unmet {
        /// All of them, those that hold as well.
        preflight: Vec<Judged>,
    },
    /// The state file could not be written, so a restart would undo the flip.
    NotPersisted {
        to: PairId,
        reason: String,
    },
    /// The kernel's table could not be replaced.
    NotApplied {
        to: PairId,
        reason: String,
    },
}

impl FlipRefused {
    /// Returns the word used in JSON and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UnknownCluster { .. } => "unknown_cluster",
            Self::UnknownPair { .. } => "unknown_pair",
            Self::Ambiguous { .. } => "ambiguous",
            Self::NoOtherPair => "no_other_pair",
            Self::FlipRunning { .. } => "flip_running",
            Self::FailoverRunning => "failover_running",
            Self::TargetDown { .. } => "target_down",
            Self::TargetTakenOut { .. } => "target_taken_out",
            Self::Unmet { .. } => "precondition_unmet",
            Self::NotPersisted { .. } => "not_persisted",
            Self::NotApplied { .. } => "not_applied",
        }
    }

    /// Returns the precondition that `--force` would have to name.
    #[must_use]
    pub const fn precondition(&self) -> Option<Precondition> {
        match self {
            Self::TargetDown { .. } => Some(Precondition::TargetDown),
            Self::TargetTakenOut { .. } => Some(Precondition::TargetTakenOut),
            Self::UnknownCluster { .. }
            | Self::UnknownPair { .. }
            | Self::Ambiguous { .. }
            | Self::NoOtherPair
            | Self::FlipRunning { .. }
            | Self::FailoverRunning
            | Self::Unmet { .. }
            | Self::NotPersisted { .. }
            | Self::NotApplied { .. } => None,
        }
    }
}

impl fmt::Display for FlipRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCluster { cluster } => write!(f, "{cluster} is not configured"),
            Self::UnknownPair { pair } => write!(f, "{pair} is not configured in this cluster"),
            Self::Ambiguous { candidates } => {
                write!(f, "{} pairs could become active and none was named", candidates.len())
            }
            Self::NoOtherPair => f.write_str("the cluster has no other pair"),
            Self::FlipRunning { to } => write!(f, "a flip to {to} is running"),
            Self::FailoverRunning => f.write_str("a failover is running"),
            Self::TargetDown { pair } => write!(f, "no backend of {pair} is known to be up"),
            Self::TargetTakenOut { pair, admin } => {
                write!(f, "the primary of {pair} is in {}", admin.name())
            }
            Self::Unmet { preflight } => {
                let unmet = |it: &&Judged| match it.judgement {
                    Judgement::Fails | Judgement::Unknown => true,
                    Judgement::Holds | Judgement::Waived => false,
                };
                for (index, it) in preflight.iter().filter(unmet).enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{}: {}", it.precondition.name(), it.text)?;
                }
                Ok(())
            }
            Self::NotPersisted { reason, .. } => {
                write!(f, "the state file could not be written: {reason}")
            }
            Self::NotApplied { reason, .. } => {
                write!(f, "the kernel's route table could not be replaced: {reason}")
            }
        }
    }
}

/// Something that happened, for the log and the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    pub at: Moment,
    /// `None` only for inputs that belong to no configured cluster.
    pub cluster: Option<ClusterId>,
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// The cluster's state at the start and where it comes from.
    Started {
        active: PairId,
        generation: Generation,
        source: ActiveSource,
    },
    /// A backend went from one kind of health to another; counting on is no event.
    HealthChanged {
        backend: BackendId,
        from: Health,
        to: Health,
        reason: BackendReason,
    },
    /// A backend became fit or unfit for new connections while it is alive.
    FitnessChanged {
        backend: BackendId,
        from: Health,
        to: Health,
        reason: BackendReason,
    },
    /// A server was first seen, or `read_only` changed.
    ReadOnlyChanged {
        backend: BackendId,
        read_only: bool,
    },
    /// Another version answers at the backend's address: an upgrade, or another server.
    VersionChanged {
        backend: BackendId,
        from: String,
        to: String,
    },
    /// The server is alive and the check cannot judge it; somebody must repair the check account.
    CheckImpaired {
        backend: BackendId,
        cause: Cause,
        text: String,
    },
    /// The check lets the backend be judged again after [`EventKind::CheckImpaired`].
    CheckRestored {
        backend: BackendId,
    },
    /// A condition cannot be judged; somebody must repair the check.
    ConditionImpaired {
        backend: BackendId,
        name: String,
        cause: Cause,
        text: String,
    },
    /// A condition can be judged again after [`EventKind::ConditionImpaired`].
    ConditionRestored {
        backend: BackendId,
        name: String,
    },
    /// A check says that a server is in maintenance, and why; `None`: no longer.
    MaintenanceChanged {
        backend: BackendId,
        reason: Option<BackendReason>,
    },
    /// Nothing is heard from any backend: most likely our own network. Routes stay.
    AllChecksFailing,
    /// Something is heard again after [`EventKind::AllChecksFailing`].
    ChecksAnswering,
    /// The kernel confirmed a new target for the route.
    RouteChanged {
        route: RouteId,
        from: Option<RouteTarget>,
        to: RouteTarget,
        reason: RouteReason,
        generation: Generation,
    },
    /// The kernel kept the old table; tried again unless it was a flip.
    SwapFailed {
        generation: Generation,
        reason: String,
    },
    /// The state file could not be written; tried again unless it was a flip.
    PersistFailed {
        pair: PairId,
        reason: String,
    },
    FlipStarted {
        request: RequestId,
        from: PairId,
        to: PairId,
        drain: Drain,
    },
    FlipDone {
        request: RequestId,
        done: FlipDone,
    },
    FlipRefused {
        request: RequestId,
        refused: FlipRefused,
    },
    /// An operator asked for a switchover.
    SwitchoverStarted {
        request: RequestId,
        from: PairId,
        to: PairId,
        drain: Drain,
    },
    /// The daemon was started in the middle of one.
    SwitchoverResumed {
        from: PairId,
        to: PairId,
        /// It is undone; otherwise it is finished.
        undo: bool,
    },
    /// A step is done, and the next one begins.
    SwitchoverStep {
        done: SwitchoverStep,
        took: Duration,
        next: SwitchoverStep,
    },
    /// Everything is as it was before.
    SwitchoverUndone {
        from: PairId,
        to: PairId,
        undone: Undone,
    },
    /// It does not get on, and nobody takes writes meanwhile; told once for each reason.
    SwitchoverStuck {
        from: PairId,
        to: PairId,
        step: SwitchoverStep,
        text: String,
    },
    /// A route-only flip or a failover goes on from where it was stuck.
    SwitchoverTakenOver {
        from: PairId,
        to: PairId,
    },
    SwitchoverDone {
        done: FlipDone,
        paused: Duration,
        took: Duration,
    },
    /// The active primary is down and no other pair takes over; told each time that the reason changes.
    FailoverRefused {
        reason: FailoverRefused,
    },
    /// Another pair is about to take over.
    FailoverStarted {
        from: PairId,
        to: PairId,
    },
    /// It did not; everything is as before.
    FailoverCalledOff {
        from: PairId,
        to: PairId,
        reason: FailoverRefused,
    },
    /// Another pair took over; its primary is to become writable.
    FailedOver {
        last: LastFailover,
        generation: Generation,
    },
    /// The new primary takes writes.
    FailoverDone {
        to: PairId,
    },
    /// A primary that had failed answers again. It gets nothing.
    OldPrimaryReturned {
        backend: BackendId,
        pair: PairId,
        read_only: bool,
    },
    /// A primary that had come back writable refuses writes now.
    Fenced {
        backend: BackendId,
    },
    FenceFailed {
        backend: BackendId,
        reason: FenceReason,
        text: String,
    },
    /// Tried again if it is the new primary.
    UnfenceFailed {
        backend: BackendId,
        reason: UnfenceReason,
        text: String,
    },
    /// An operator's word about a backend or a pair, or the end of its time.
    AdminChanged {
        target: AdminTarget,
        from: Admin,
        to: Admin,
        /// Its time ran out.
        expired: bool,
    },
    /// Draining came to an end, or was refused by a server.
    Drained {
        which: EndWhich,
        reason: DrainReason,
        result: Drained,
    },
    /// An input that does not fit; nothing changed.
    Ignored {
        reason: IgnoredReason,
    },
}

impl EventKind {
    /// Every word that [`EventKind::name`] returns for an event that is told to people, in the order of the variants.
    pub const NAMES: [&str; 37] = [
        "started",
        "health_changed",
        "fitness_changed",
        "read_only_changed",
        "version_changed",
        "check_impaired",
        "check_restored",
        "condition_impaired",
        "condition_restored",
        "maintenance_changed",
        "all_checks_failing",
        "checks_answering",
        "route_changed",
        "swap_failed",
        "persist_failed",
        "flip_started",
        "flip_done",
        "flip_refused",
        "switchover_started",
        "switchover_resumed",
        "switchover_step",
        "switchover_undone",
        "switchover_stuck",
        "switchover_taken_over",
        "switchover_done",
        "failover_refused",
        "failover_started",
        "failover_called_off",
        "failed_over",
        "failover_done",
        "old_primary_returned",
        "fenced",
        "fence_failed",
        "unfence_failed",
        "admin_changed",
        "drained",
        "drain_refused",
    ];

    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::HealthChanged { .. } => "health_changed",
            Self::FitnessChanged { .. } => "fitness_changed",
            Self::ReadOnlyChanged { .. } => "read_only_changed",
            Self::VersionChanged { .. } => "version_changed",
            Self::CheckImpaired { .. } => "check_impaired",
            Self::CheckRestored { .. } => "check_restored",
            Self::ConditionImpaired { .. } => "condition_impaired",
            Self::ConditionRestored { .. } => "condition_restored",
            Self::MaintenanceChanged { .. } => "maintenance_changed",
            Self::AllChecksFailing => "all_checks_failing",
            Self::ChecksAnswering => "checks_answering",
            Self::RouteChanged { .. } => "route_changed",
            Self::SwapFailed { .. } => "swap_failed",
            Self::PersistFailed { .. } => "persist_failed",
            Self::FlipStarted { .. } => "flip_started",
            Self::FlipDone { .. } => "flip_done",
            Self::FlipRefused { .. } => "flip_refused",
            Self::SwitchoverStarted { .. } => "switchover_started",
            Self::SwitchoverResumed { .. } => "switchover_resumed",
            Self::SwitchoverStep { .. } => "switchover_step",
            Self::SwitchoverUndone { .. } => "switchover_undone",
            Self::SwitchoverStuck { .. } => "switchover_stuck",
            Self::SwitchoverTakenOver { .. } => "switchover_taken_over",
            Self::SwitchoverDone { .. } => "switchover_done",
            Self::FailoverRefused { .. } => "failover_refused",
            Self::FailoverStarted { .. } => "failover_started",
            Self::FailoverCalledOff { .. } => "failover_called_off",
            Self::FailedOver { .. } => "failed_over",
            Self::FailoverDone { .. } => "failover_done",
            Self::OldPrimaryReturned { .. } => "old_primary_returned",
            Self::Fenced { .. } => "fenced",
            Self::FenceFailed { .. } => "fence_failed",
            Self::UnfenceFailed { .. } => "unfence_failed",
            Self::AdminChanged { .. } => "admin_changed",
            Self::Drained { result: Drained { refused: None, .. }, .. } => "drained",
            Self::Drained { .. } => "drain_refused",
            Self::Ignored { .. } => "ignored",
        }
    }

    /// Returns the backend that the event is about, if it is about one.
    #[must_use]
    pub const fn backend(&self) -> Option<BackendId> {
        match self {
            Self::HealthChanged { backend, .. }
            | Self::FitnessChanged { backend, .. }
            | Self::ReadOnlyChanged { backend, .. }
            | Self::VersionChanged { backend, .. }
            | Self::CheckImpaired { backend, .. }
            | Self::CheckRestored { backend }
            | Self::ConditionImpaired { backend, .. }
            | Self::ConditionRestored { backend, .. }
            | Self::MaintenanceChanged { backend, .. }
            | Self::OldPrimaryReturned { backend, .. }
            | Self::Fenced { backend }
            | Self::FenceFailed { backend, .. }
            | Self::UnfenceFailed { backend, .. }
            | Self::Drained {
                which: EndWhich::Backend(backend) | EndWhich::Route(_, backend),
                ..
            }
            | Self::AdminChanged { target: AdminTarget::Backend(backend), .. } => Some(*backend),
            Self::AdminChanged { target: AdminTarget::Pair(_), .. }
            | Self::Drained { which: EndWhich::Pair(_), .. }
            | Self::Started { .. }
            | Self::AllChecksFailing
            | Self::ChecksAnswering
            | Self::RouteChanged { .. }
            | Self::SwapFailed { .. }
            | Self::PersistFailed { .. }
            | Self::FlipStarted { .. }
            | Self::FlipDone { .. }
            | Self::FlipRefused { .. }
            | Self::SwitchoverStarted { .. }
            | Self::SwitchoverResumed { .. }
            | Self::SwitchoverStep { .. }
            | Self::SwitchoverUndone { .. }
            | Self::SwitchoverStuck { .. }
            | Self::SwitchoverTakenOver { .. }
            | Self::SwitchoverDone { .. }
            | Self::FailoverRefused { .. }
            | Self::FailoverStarted { .. }
            | Self::FailoverCalledOff { .. }
            | Self::FailedOver { .. }
            | Self::FailoverDone { .. }
            | Self::Ignored { .. } => None,
        }
    }
}

/// How much attention an event asks for; the log level.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    Debug,
    Info,
    /// An operator should look soon.
    Warning,
    /// Clients are, or will be, turned away.
    Error,
}

impl Severity {
    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Event {
    /// Returns how much attention the event asks for.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match &self.what {
            EventKind::Started { .. }
            | EventKind::ReadOnlyChanged { .. }
            | EventKind::VersionChanged { .. }
            | EventKind::CheckRestored { .. }
            | EventKind::ChecksAnswering
            | EventKind::FlipStarted { .. }
            | EventKind::FlipDone { .. }
            | EventKind::SwitchoverStarted { .. }
            | EventKind::SwitchoverStep { .. }
            | EventKind::SwitchoverDone { .. } => Severity::Info,
            // A failover is an error that was dealt with: somebody has to bring the old pair back.
            EventKind::FailoverStarted { .. }
            | EventKind::FailoverCalledOff { .. }
            | EventKind::FailedOver { .. }
            | EventKind::FailoverDone { .. }
            | EventKind::Fenced { .. }
            | EventKind::SwitchoverResumed { .. }
            | EventKind::SwitchoverUndone { .. }
            | EventKind::SwitchoverTakenOver { .. } => Severity::Warning,
            EventKind::SwitchoverStuck { .. }
            | EventKind::FailoverRefused { .. }
            | EventKind::UnfenceFailed { .. } => Severity::Error,
            EventKind::OldPrimaryReturned { read_only, .. } => {
                if *read_only {
                    Severity::Warning
                } else {
                    Severity::Error
                }
            }
            EventKind::FenceFailed { reason, .. } => match reason {
                // What is dead cannot be fenced.
                FenceReason::Failover => Severity::Warning,
                FenceReason::Returned => Severity::Error,
            },
            EventKind::HealthChanged { to, .. } => match to {
                Health::Down => Severity::Error,
                Health::Falling { .. } => Severity::Warning,
                Health::Unknown { .. } | Health::Up | Health::Rising { .. } => Severity::Info,
            },
            EventKind::FitnessChanged { to, .. } => match to {
                Health::Down | Health::Falling { .. } => Severity::Warning,
                Health::Unknown { .. } | Health::Up | Health::Rising { .. } => Severity::Info,
            },
            EventKind::RouteChanged { to, .. } => match to {
                RouteTarget::Forward { .. } => Severity::Info,
                RouteTarget::Refuse { .. } => Severity::Error,
            },
            EventKind::AdminChanged { to, .. } => match to {
                Admin::Ready => Severity::Info,
                Admin::Drain | Admin::Maint => Severity::Warning,
            },
            EventKind::Drained { result, .. } => match result.refused {
                None => Severity::Info,
                Some(_) => Severity::Error,
            },
            EventKind::ConditionRestored { .. }
            | EventKind::MaintenanceChanged { reason: None, .. } => Severity::Info,
            EventKind::CheckImpaired { .. }
            | EventKind::ConditionImpaired { .. }
            | EventKind::MaintenanceChanged { reason: Some(_), .. }
            | EventKind::FlipRefused { .. } => Severity::Warning,
            EventKind::AllChecksFailing
            | EventKind::SwapFailed { .. }
            | EventKind::PersistFailed { .. } => Severity::Error,
            EventKind::Ignored { .. } => Severity::Debug,
        }
    }
}

/// Why an admin state is not set. Nothing changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminRefused {
    /// The cluster has no such backend or pair.
    UnknownTarget,
    /// Write routes would refuse: their primary would be out.
    ActivePrimary,
}
