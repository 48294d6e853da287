//! Judge: holds what is known against the rules, the ones about any failover first, then those about each candidate. Pure.

use std::{cmp::Ordering, time::Duration};

use super::{CandidateFault, Failover, FailoverMemory, FailoverRefused, Outlook};
use crate::{
    backend::Backend,
    health::Verdict,
    ids::PairId,
    input::{Admin, Channel, ClusterSpec, IoThread},
    moment::Moment,
    routing::Backends,
};

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
        if facts.read_only && facts.may_fence == Some(false) {
            return Err(CandidateFault::MayNotUnfence);
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
