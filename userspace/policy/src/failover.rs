//! Failover: whether another pair may become active by itself, and if not, why not.
//!
//! Pure functions over what is known; `cluster/failover.rs` takes the steps. The rule is to do nothing unless everything
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

use std::{cmp::Ordering, collections::BTreeSet, fmt, time::Duration};

use crate::{
    backend::Backend,
    health::Verdict,
    ids::PairId,
    input::{Admin, Cause, Channel, ClusterSpec, IoThread},
    moment::Moment,
    routing::Backends,
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

/// A failover that a daemon before this one had decided, so that what was seen then counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    pub(crate) to: PairId,
    pub(crate) source_id: u32,
}

/// What a judgement rests on.
pub(crate) struct Facts<'a> {
    pub(crate) spec: &'a ClusterSpec,
    pub(crate) backends: &'a Backends,
    pub(crate) active: PairId,
    pub(crate) memory: &'a FailoverMemory,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) all_silent: bool,
    /// When an operator made the active pair active; `None` if nobody did since the start.
    pub(crate) active_since: Option<Moment>,
    /// The kernel's table turns writes away, and none that would not is on its way.
    pub(crate) blocked: bool,
    pub(crate) now: Moment,
}

impl Facts<'_> {
    /// Returns what would become of a failover now, as far as checks and operators have a say.
    pub(crate) fn outlook(&self) -> Outlook {
        let Failover::Auto { .. } = self.spec.failover else { return Outlook::Manual };
        let old = self.active_primary();
        let is_needed = old.is_convicted(self.spec.fall);
        let judged = self.hindrance(old, is_needed).map_or_else(|| self.choose(is_needed), Err);
        match (judged, is_needed) {
            (Ok(to), true) => Outlook::Possible { to },
            (Err(reason), _) if old.health.verdict() == Verdict::Down => {
                Outlook::Refused { reason }
            }
            (Err(reason), true) => Outlook::Refused { reason },
            (Ok(to), false) => Outlook::Ready { to },
            (Err(reason), false) => Outlook::Unready { reason },
        }
    }

    pub(crate) fn active_primary(&self) -> &Backend {
        let pair = &self.spec.pairs[usize::from(self.active.0)];
        &self.backends[&pair.primary]
    }

    /// Returns what stands against any failover, whoever would take over.
    fn hindrance(&self, old: &Backend, is_needed: bool) -> Option<FailoverRefused> {
        let until = self.memory.last.as_ref().and_then(|last| last.until);
        if self.all_silent {
            return Some(FailoverRefused::AllSilent);
        }
        if old.admin != Admin::Ready {
            return Some(FailoverRefused::ActiveTakenOut { admin: old.admin });
        }
        if until.is_some_and(|until| until > self.now) {
            return Some(FailoverRefused::Window);
        }
        if let Some(failure) = old.impairment() {
            return Some(FailoverRefused::PrimaryAlive { cause: failure.cause });
        }
        if !(is_needed || old.answers()) {
            return Some(FailoverRefused::Undecided);
        }
        if is_needed && old.convicted_at <= self.active_since {
            return Some(FailoverRefused::DownBefore);
        }
        if self.source_id() == 0 {
            return Some(FailoverRefused::PrimaryNeverSeen);
        }
        (is_needed && !self.blocked).then_some(FailoverRefused::NotBlocked)
    }

    /// Returns the `server_id` that the candidates' channels must have; 0 if it is not known.
    pub(crate) fn source_id(&self) -> u32 {
        let seen = self.active_primary().facts.as_ref().map(|facts| facts.server_id);
        seen.or(self.evidence.map(|evidence| evidence.source_id)).unwrap_or(0)
    }

    /// Returns the pair that has most of the old primary's writes; of equals the first of the configuration.
    fn choose(&self, is_needed: bool) -> Result<PairId, FailoverRefused> {
        let mut faults = Vec::new();
        let mut fit: Vec<(PairId, &Channel)> = Vec::new();
        for pair in self.spec.pairs.iter().filter(|pair| pair.id != self.active) {
            match self.candidate(pair.id, &self.backends[&pair.primary], is_needed) {
                Ok(channel) => fit.push((pair.id, channel)),
                Err(fault) => faults.push((pair.id, fault)),
            }
        }
        // Who has not been asked yet may have more than who has; it is asked within `fast_interval`, or fails to answer.
        let is_awaited =
            |(_, fault): &(PairId, CandidateFault)| *fault == CandidateFault::NotAskedSince;
        if faults.iter().any(is_awaited) {
            return Err(FailoverRefused::NoCandidate { faults });
        }
        let Some((first, rest)) = fit.split_first() else {
            return Err(if faults.is_empty() {
                FailoverRefused::NoOtherPair
            } else {
                FailoverRefused::NoCandidate { faults }
            });
        };
        let mut best = first;
        for other in rest {
            let place = |channel: &Channel| channel.upstream.executed.clone();
            let (a, b) = (place(best.1), place(other.1));
            match a.zip(b).and_then(|(a, b)| a.compare(&b)) {
                Some(Ordering::Less) => best = other,
                Some(Ordering::Equal | Ordering::Greater) => {}
                // While it is not needed places move between two checks; nothing is chosen yet.
                None if !is_needed => {}
                None => {
                    let candidates = fit.iter().map(|(pair, _)| *pair).collect();
                    return Err(FailoverRefused::Ambiguous { candidates });
                }
            }
        }
        Ok(best.0)
    }

    /// Returns the channel through which a pair's primary got the active one's writes.
    fn candidate<'b>(
        &self,
        pair: PairId,
        new: &'b Backend,
        is_needed: bool,
    ) -> Result<&'b Channel, CandidateFault> {
        if self.memory.out.contains(&pair) {
            return Err(CandidateFault::Out);
        }
        if new.admin != Admin::Ready {
            return Err(CandidateFault::TakenOut { admin: new.admin });
        }
        let Some(facts) = new.facts.as_ref().filter(|_| new.answers()) else {
            return Err(CandidateFault::Unheard);
        };
        // Writes would be refused there.
        if !new.is_ready() || new.read_verdict() != Verdict::Up {
            return Err(CandidateFault::Unfit);
        }
        let source = self.source_id();
        let channel = facts.replication.iter().find(|it| it.upstream.server_id == source);
        let channel = channel.ok_or(CandidateFault::NoChannel)?;
        if !channel.sql_running {
            return Err(CandidateFault::SqlStopped);
        }
        if !channel.upstream.delay.is_zero() {
            return Err(CandidateFault::Delayed { delay: channel.upstream.delay });
        }
        if is_needed {
            self.lost(pair, new, channel)?;
        } else {
            if !channel.io_running {
                let error = channel.upstream.io_thread.error();
                return Err(CandidateFault::IoStopped { error });
            }
            let lag = channel.lag.ok_or(CandidateFault::LagUnknown)?;
            if lag > self.spec.max_lag {
                return Err(CandidateFault::Lagging { lag });
            }
        }
        Ok(channel)
    }

    /// Judges a candidate whose source is dead as far as our own checks go.
    fn lost(&self, pair: PairId, new: &Backend, channel: &Channel) -> Result<(), CandidateFault> {
        let old = self.active_primary();
        if new.answered_at <= old.convicted_at {
            return Err(CandidateFault::NotAskedSince);
        }
        match channel.upstream.io_thread {
            thread if thread.has_lost_source() => {}
            IoThread::Running => return Err(CandidateFault::SeesPrimary),
            IoThread::Connecting { error: 0 } | IoThread::Unknown => {
                return Err(CandidateFault::IoUndecided);
            }
            IoThread::Connecting { error } | IoThread::Stopped { error } => {
                return Err(CandidateFault::IoStopped { error });
            }
        }
        let is_proven = self.evidence.is_some_and(|evidence| evidence.to == pair);
        match new.sound.get(&channel.name) {
            Some(sound)
                if sound.address == channel.upstream.address && sound.is_recent(old, self.spec) =>
            {
                if sound.lag > self.spec.max_lag {
                    return Err(CandidateFault::Lagging { lag: sound.lag });
                }
            }
            Some(_) | None if is_proven => {}
            Some(_) | None => return Err(CandidateFault::NotSoundBefore),
        }
        match channel.upstream.applied {
            Some(true) => Ok(()),
            Some(false) => Err(CandidateFault::NotApplied),
            None => Err(CandidateFault::AppliedUnknown),
        }
    }
}

/// The last time that a channel was seen without a fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sound {
    pub(crate) address: String,
    pub(crate) lag: Duration,
    pub(crate) at: Moment,
}

impl Sound {
    /// Returns whether it was seen about when its source was seen last.
    ///
    /// Both are asked every `interval`, so the last time that both were well lies no further apart than that and a probe's time.
    fn is_recent(&self, source: &Backend, spec: &ClusterSpec) -> bool {
        let slack = spec.interval + spec.timeout;
        source.answered_at.is_some_and(|answered| self.at + slack >= answered)
    }
}
