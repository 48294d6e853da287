//! Inputs: every fact that the policy can be told, and what it is told once at the start.
//!
//! A failed check is data here, never an `Err`. Nothing in an input is trusted to fit: an id that
//! is not configured or an answer to a question that was not asked is ignored and reported as an
//! event.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{
    condition::Condition,
    failover::{Failover, FailoverMemory},
    ids::{BackendId, ClusterId, Generation, PairId, RequestId, RouteId},
    moment::Moment,
    output::{EndWhich, RouteTable, Share},
    switchover::{Intent, Limits, Precondition, StepAnswer, StepFailure, StepId},
};

/// One cluster as configured.
///
/// The configuration has made sure that there is at least one pair and that a backend belongs to
/// one pair only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterSpec {
    pub id: ClusterId,
    pub name: String,
    /// Consecutive passes that bring a backend up again.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
    /// Time between the starts of two probes when nothing is being counted.
    pub interval: Duration,
    /// Time between the starts of two probes while counting; not below `timeout`.
    pub fast_interval: Duration,
    /// The longest that one probe takes.
    pub timeout: Duration,
    /// A replica further behind than this is unfit for reads.
    pub max_lag: Duration,
    /// Time over which a replica that returns gets its full share; zero gives it at once.
    pub slow_start: Duration,
    /// How long a replica that flaps is left out at first; zero never leaves it out.
    pub hold_off: Duration,
    /// What a flip does to the old pair's flows when the request does not say.
    pub drain: Drain,
    /// After this time what is left of flows that are drained is cut; `None`: never.
    pub drain_deadline: Option<Duration>,
    pub failover: Failover,
    /// In the order of their ids, starting with 0.
    pub routes: Vec<RouteSpec>,
    /// In the order of their ids, starting with 0.
    pub pairs: Vec<PairSpec>,
}

/// One route as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteSpec {
    pub id: RouteId,
    pub name: String,
    pub access: Access,
    /// Read: with fewer fit replicas than this the primary serves as well.
    pub min_replicas: u32,
    /// Read: what happens when replicas are fit again after the primary served in their place.
    pub failback: Failback,
    /// Read: whether replicas of standby pairs serve.
    pub standby_replicas: StandbyReplicas,
}

/// How reads return from the primary to replicas that are fit again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Failback {
    /// New flows go to replicas; those on the primary live on.
    #[default]
    NewConnections,
    /// And each of those on the primary is ended when it is idle.
    Idle,
    /// And those on the primary are ended.
    Cut,
    /// They do not, until an operator says so or another pair becomes active.
    Off,
}

/// Whether a read route leads to replicas of pairs that are not active, too.
///
/// They have what the active primary wrote once it has gone through their own primary; so that has to replicate as
/// well, and both lags count together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StandbyReplicas {
    #[default]
    Never,
    /// With fewer fit replicas in the active pair than `min_replicas`, before its primary does.
    Fallback,
    Always,
}

/// One pair as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PairSpec {
    pub id: PairId,
    pub name: String,
    pub primary: BackendId,
    /// With their full weights.
    pub replicas: Vec<Share>,
}

impl PairSpec {
    /// Returns the pair's backends, the primary first.
    pub fn backends(&self) -> impl Iterator<Item = BackendId> + '_ {
        std::iter::once(self.primary).chain(self.replicas.iter().map(|share| share.backend))
    }
}

/// What a route is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Access {
    Write,
    Read,
}

/// What an operator says about a backend or a pair. The stricter of both counts for a backend.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Admin {
    /// It is judged by its checks.
    #[default]
    Ready,
    /// It gets no new flows.
    Drain,
    /// It gets no new flows and is not checked.
    Maint,
}

impl Admin {
    /// Returns the word used in commands, logs, metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// Who an admin state is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum AdminTarget {
    Backend(BackendId),
    Pair(PairId),
}

/// An admin state, and when it ends by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AdminSetting {
    pub admin: Admin,
    /// From then on the target is ready; `None` means until it is said.
    pub until: Option<Moment>,
}

/// What happens to the old pair's flows when a flip sends new ones elsewhere.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Drain {
    /// They live on, until a deadline if there is one.
    Finish,
    /// Each is ended as soon as it is idle and outside a transaction, all others at a deadline if there is one.
    Idle,
    /// They are ended now.
    Cut,
}

/// A backend's place in its pair, as configured. What was observed is a check result.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Role {
    Primary,
    Replica,
}

impl Role {
    /// Returns the word used in texts, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// What survived the last daemon: its state file and the kernel's maps. Empty at the very first
/// start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Restored {
    /// Active pairs of the state file, by name looked up in today's configuration.
    pub active: BTreeMap<ClusterId, PairId>,
    /// The highest generation that was ever seen, from the state file or the kernel.
    pub generation: BTreeMap<ClusterId, Generation>,
    /// What the kernel forwards by at this moment. A refused route has
    /// [`crate::RouteReason::Restored`]. A weight of 0 stands for one that is not known: the first
    /// table replaces it.
    pub tables: BTreeMap<ClusterId, RouteTable>,
    /// Admin states of the state file that have not run out.
    pub admin: BTreeMap<ClusterId, BTreeMap<AdminTarget, AdminSetting>>,
    /// What the state file says of failovers.
    pub failovers: BTreeMap<ClusterId, FailoverMemory>,
    /// What the state file says of switchovers that were under way.
    pub intents: BTreeMap<ClusterId, Intent>,
}

/// A fact for the policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// A probe ended.
    Checked { backend: BackendId, result: CheckResult },
    /// How the conditions of a backend came out in a probe; fed before the [`Input::Checked`] of the same probe, so that a server is never
    /// taken in that is known to be unfit. Those that were not asked are left out.
    Conditions { backend: BackendId, conditions: Vec<Condition> },
    /// An operator asks for a route-only flip. Answered by exactly one [`crate::Output::Reply`].
    Flip {
        cluster: ClusterId,
        request: RequestId,
        /// `None` means the other pair.
        to: Option<PairId>,
        /// `None` means as configured.
        drain: Option<Drain>,
        /// Preconditions that need not hold.
        force: BTreeSet<Precondition>,
    },
    /// An operator asks for a flip that loses no write. Answered by exactly one [`crate::Output::SwitchoverReply`].
    Switchover {
        cluster: ClusterId,
        request: RequestId,
        /// `None` means the other pair.
        to: Option<PairId>,
        /// `None` means as configured.
        drain: Option<Drain>,
        /// Preconditions that need not hold.
        force: BTreeSet<Precondition>,
        limits: Limits,
        /// Only judge the preconditions.
        dry_run: bool,
    },
    /// An operator, or the daemon's end, calls the switchover off that is under way; `request` only if it is that one's.
    /// It is undone if the new primary was not told to take writes yet. What comes of it is in the reply to its request.
    CallOff { cluster: ClusterId, request: Option<RequestId> },
    /// The answer to [`crate::Output::Step`]. One of a step that nobody waits for any more is ignored.
    StepDone { cluster: ClusterId, id: StepId, result: Result<StepAnswer, StepFailure> },
    /// An operator's word, after [`crate::Policy::may_set_admin`] and after it was written to the state
    /// file. No answer.
    SetAdmin {
        cluster: ClusterId,
        target: AdminTarget,
        setting: AdminSetting,
        /// What happens to the target's flows.
        flows: Drain,
        /// When what is left of them is cut; `None`: never.
        deadline: Option<Duration>,
    },
    /// The answer to [`crate::Output::SwapRoutes`]: the kernel's table was replaced, or is the old
    /// one.
    Applied { cluster: ClusterId, generation: Generation, result: Result<(), ApplyError> },
    /// The answer to [`crate::Output::PersistActive`]: the state file was replaced durably, or not.
    Persisted { cluster: ClusterId, result: Result<(), PersistError> },
    /// The answer to [`crate::Output::Fence`]: the server was seen read-only, or it is not known to be.
    Fenced { cluster: ClusterId, backend: BackendId, result: Result<Fenced, FenceError> },
    /// The answer to [`crate::Output::DrainFlows`]: nothing is left to drain, or nothing is done about it.
    Drained { cluster: ClusterId, which: EndWhich, result: Drained },
    /// The answer to [`crate::Output::Unfence`]: the server was seen writable, or it is not known to be.
    Unfenced { cluster: ClusterId, backend: BackendId, result: Result<(), FenceError> },
}

/// How a drain ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drained {
    /// Flows ended while they were idle.
    pub ended: u64,
    /// Flows cut at the deadline.
    pub cut: u64,
    /// Why servers let nobody look, and what to run there; nothing was done about their flows.
    pub refused: Option<String>,
}

/// What one probe found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CheckResult {
    /// The server let us in and answered every question.
    Answered(Facts),
    /// Something answers on the server, and nobody asks it about itself: there is no login.
    Reached,
    /// It did not.
    Failed(CheckFailure),
}

impl CheckResult {
    /// Returns whether the probe heard nothing, see [`Cause::is_silence`].
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        match self {
            Self::Answered(_) | Self::Reached => false,
            Self::Failed(failure) => failure.cause.is_silence(),
        }
    }
}

/// What a server says about itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// `read_only` or `super_read_only`.
    pub read_only: bool,
    pub server_id: u32,
    pub version: String,
    /// One per replication source; empty on a server that replicates from nobody.
    pub replication: Vec<Channel>,
    /// What its own log holds, in its own words; for people. `None` when it does not say.
    pub position: Option<String>,
    /// Our account may change `read_only`; `None` when that is not known.
    pub may_fence: Option<bool>,
}

/// One replication channel (MariaDB: connection) of a server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Channel {
    pub name: String,
    pub io_running: bool,
    pub sql_running: bool,
    /// `None` when the server says NULL: it does not know.
    pub lag: Option<Duration>,
    pub upstream: Upstream,
}

/// What a channel says about its source and about what it got from there. A failover asks for it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Upstream {
    /// `host:port`, as the server was told; for comparing it with itself, and for people.
    pub address: String,
    /// `server_id` of who answered there last; 0 before the first time.
    pub server_id: u32,
    pub io_thread: IoThread,
    /// Everything that was received has been applied; `None` when the server does not say enough.
    pub applied: Option<bool>,
    /// How far it has been applied, in the source's log.
    pub executed: Option<LogPosition>,
    /// The server waits so long on purpose before it applies anything.
    pub delay: Duration,
}

/// The thread that fetches a source's log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IoThread {
    Running,
    /// It tries to reach its source; the number of the last error, 0 for none.
    Connecting {
        error: u32,
    },
    Stopped {
        error: u32,
    },
    #[default]
    Unknown,
}

impl IoThread {
    /// Returns whether it has lost its source: it failed to reach it, and nobody stopped it for another reason.
    #[must_use]
    pub const fn has_lost_source(self) -> bool {
        match self {
            Self::Connecting { error } | Self::Stopped { error } => is_connection_error(error),
            Self::Running | Self::Unknown => false,
        }
    }

    /// Returns whether it has lost its source, or is about to find out.
    #[must_use]
    pub const fn may_have_lost_source(self) -> bool {
        self.has_lost_source() || matches!(self, Self::Connecting { error: 0 })
    }

    /// Returns the number of its last error; 0 for none.
    #[must_use]
    pub const fn error(self) -> u32 {
        match self {
            Self::Connecting { error } | Self::Stopped { error } => error,
            Self::Running | Self::Unknown => 0,
        }
    }
}

/// Returns whether an error number of an IO thread says that nobody answered.
///
/// Numbers of the client library: CR_CONNECTION_ERROR, CR_CONN_HOST_ERROR, CR_SERVER_GONE_ERROR, CR_SERVER_LOST and
/// CR_SERVER_LOST_EXTENDED. Not 2005, which is a name that cannot be resolved, and nothing that the source itself
/// sends: an account that is turned away (1045) or too many connections (1040) prove that it is alive.
const fn is_connection_error(number: u32) -> bool {
    matches!(number, 2002 | 2003 | 2006 | 2013 | 2055)
}

/// A place in a server's binary log. Two of the same server can be compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogPosition {
    pub file: String,
    pub offset: u64,
}

impl LogPosition {
    /// Compares two places in one server's log; `None` when the names do not say which file is older.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        let ((base, number), (others_base, others_number)) = (self.split()?, other.split()?);
        (base == others_base).then(|| (number, self.offset).cmp(&(others_number, other.offset)))
    }

    /// Splits `binlog.000042` into name and number.
    fn split(&self) -> Option<(&str, u64)> {
        let (base, number) = self.file.rsplit_once('.')?;
        Some((base, number.parse().ok()?))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// Why a probe got no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckFailure {
    pub cause: Cause,
    /// For the log and the operator; decides nothing.
    pub text: String,
}

/// What kind of failure a probe met. Only some may take a backend down, see
/// [`Cause::may_take_down`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// The host answers and nothing listens.
    Refused,
    /// No answer within `timeout`.
    TimedOut,
    /// No way to the host (ICMP, no neighbour, no route).
    Unreachable,
    /// The connection broke while we asked.
    ConnectionLost,
    /// Something answers that does not speak MySQL.
    Protocol,
    AuthDenied,
    TooManyConnections,
    /// `max_connect_errors` was reached for our address.
    HostBlocked,
    /// A limit of our account was reached.
    UserLimit,
    MissingGrant,
    Tls,
    /// Our own process did not run for a part of the probe, so that no answer in time says nothing.
    Starved,
    /// Trouble of our own host: no file descriptors, a command that cannot be started.
    Local,
    Other,
}

/// What follows from a check that was not answered as it should be.
///
/// This is the one place that says which results may take a backend down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The server is alive and the trouble is between it and our checks; the application has its own account, so taking the server
    /// away would turn a broken check into an outage.
    Nothing,
    /// `fall` in a row take down; of a condition, they make unfit.
    TakesDown,
    /// As [`Effect::TakesDown`], but only if the same check of another backend was heard after it began.
    TakesDownWithWitness,
}

impl Effect {
    pub(crate) const fn of_login(self) -> &'static str {
        match self {
            Self::Nothing => "nothing; shown and logged",
            Self::TakesDown => "**down** after `fall`",
            Self::TakesDownWithWitness => "**down** after `fall`, if another backend is heard",
        }
    }

    pub(crate) const fn of_condition(self) -> &'static str {
        match self {
            Self::Nothing => "nothing; shown and logged",
            Self::TakesDown => "unfit after `fall`",
            Self::TakesDownWithWitness => {
                "unfit after `fall`, if the same check is heard elsewhere"
            }
        }
    }
}

impl Cause {
    /// Every cause, for documents and tests.
    pub const ALL: [Self; 14] = [
        Self::Refused,
        Self::ConnectionLost,
        Self::Protocol,
        Self::TimedOut,
        Self::Unreachable,
        Self::AuthDenied,
        Self::TooManyConnections,
        Self::HostBlocked,
        Self::UserLimit,
        Self::MissingGrant,
        Self::Tls,
        Self::Starved,
        Self::Local,
        Self::Other,
    ];

    /// Returns what follows from a failure of this kind.
    #[must_use]
    pub const fn effect(self) -> Effect {
        match self {
            Self::Refused | Self::ConnectionLost | Self::Protocol => Effect::TakesDown,
            // Nothing at all was heard, so that the fault may as well be our own network's.
            Self::TimedOut | Self::Unreachable => Effect::TakesDownWithWitness,
            Self::AuthDenied
            | Self::TooManyConnections
            | Self::HostBlocked
            | Self::UserLimit
            | Self::MissingGrant
            | Self::Tls
            | Self::Starved
            | Self::Local
            | Self::Other => Effect::Nothing,
        }
    }

    /// Returns whether failures of this kind, `fall` in a row, take a backend down.
    #[must_use]
    pub const fn may_take_down(self) -> bool {
        match self.effect() {
            Effect::TakesDown | Effect::TakesDownWithWitness => true,
            Effect::Nothing => false,
        }
    }

    /// Returns whether nothing at all was heard, so that the fault may as well be our own
    /// network's, or is our own host's. It is no witness against others.
    #[must_use]
    pub const fn is_silence(self) -> bool {
        match self.effect() {
            Effect::TakesDownWithWitness => true,
            Effect::TakesDown => false,
            Effect::Nothing => matches!(self, Self::Starved | Self::Local),
        }
    }

    /// Returns the word used in logs, metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::ConnectionLost => "connection_lost",
            Self::Protocol => "protocol",
            Self::AuthDenied => "auth_denied",
            Self::TooManyConnections => "too_many_connections",
            Self::HostBlocked => "host_blocked",
            Self::UserLimit => "user_limit",
            Self::MissingGrant => "missing_grant",
            Self::Tls => "tls",
            Self::Starved => "starved",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::TimedOut => "timed out",
            Self::Unreachable => "host unreachable",
            Self::ConnectionLost => "connection lost",
            Self::Protocol => "protocol error",
            Self::AuthDenied => "access denied to the check user",
            Self::TooManyConnections => "too many connections",
            Self::HostBlocked => "this host is blocked by max_connect_errors",
            Self::UserLimit => "the check user reached a limit of its account",
            Self::MissingGrant => "the check user lacks a privilege",
            Self::Tls => "TLS error",
            Self::Starved => "no check, because this daemon did not get to run",
            Self::Local => "trouble of this host",
            Self::Other => "server error",
        })
    }
}

/// The kernel's table could not be replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApplyError {
    pub reason: String,
}

/// A server refuses writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fenced {
    /// It did so before.
    pub was_read_only: bool,
}

/// A server was not fenced, or not unfenced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FenceError {
    pub fault: FenceFault,
    /// For the operator; decides nothing.
    pub text: String,
}

/// What is known of a server that was not fenced, or not unfenced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FenceFault {
    /// Nobody was logged in: nothing was changed, and it may be dead.
    Unreachable,
    /// It answered, and did not do it.
    Refused,
    /// It let us in and was not heard of again: it may have done it.
    Unknown,
    /// To be unfenced for a failover, it said that it has not applied all that it received. Nothing was changed.
    NotApplied,
}

/// The state file could not be replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PersistError {
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_thread_has_lost_its_source_only_by_an_error_of_the_connection() {
        assert!(IoThread::Connecting { error: 2003 }.has_lost_source());
        assert!(IoThread::Stopped { error: 2013 }.has_lost_source());
        for error in [0, 1040, 1045, 1129, 1236, 1593, 2005] {
            assert!(!IoThread::Connecting { error }.has_lost_source(), "{error}");
            assert!(!IoThread::Stopped { error }.has_lost_source(), "{error}");
        }
        assert!(!IoThread::Running.has_lost_source());
    }

    #[test]
    fn places_in_one_log_are_compared_by_file_and_offset() {
        let place = |file: &str, offset| LogPosition { file: file.into(), offset };
        let earlier = place("binlog.000009", 900);
        assert_eq!(earlier.compare(&place("binlog.000010", 4)), Some(Ordering::Less));
        assert_eq!(earlier.compare(&place("binlog.000009", 4)), Some(Ordering::Greater));
        assert_eq!(earlier.compare(&earlier.clone()), Some(Ordering::Equal));
        assert_eq!(
            place("binlog.999999", 4).compare(&place("binlog.1000000", 4)),
            Some(Ordering::Less)
        );
        assert_eq!(earlier.compare(&place("other.000009", 900)), None);
        assert_eq!(place("", 0).compare(&place("", 0)), None);
    }
}
