//! Backend: what is known about one server, from its check results alone.
//!
//! `health` says whether it answers, and nothing else ends flows. Whether new ones may go there is its fitness: its conditions, and for a
//! replica also `fitness` (does it replicate well enough for reads). A primary has not the latter: lag and thread conditions must never take
//! the writer away.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    condition::{Condition, Conditions, Outcome},
    damping::Damping,
    failover::Sound,
    health::{Health, Verdict},
    ids::{BackendId, PairId},
    input::{
        Admin, AdminSetting, Cause, Channel, CheckFailure, CheckResult, ClusterSpec, Facts, Role,
    },
    moment::Moment,
    output::Pace,
    reason::{BackendReason, ReplicationFault},
    slow_start::Warmth,
    view::{BackendView, ConditionView},
};

#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) id: BackendId,
    pub(crate) pair: PairId,
    pub(crate) role: Role,
    /// The stricter of what was said about it and about its pair.
    pub(crate) admin: Admin,
    pub(crate) health: Health,
    /// Of its replication. For a primary it counts only while its pair is on standby, and only for what passes through it.
    pub(crate) fitness: Health,
    pub(crate) conditions: Conditions,
    /// Of replicas only; a primary is always warm.
    pub(crate) warmth: Warmth,
    /// Of replicas only.
    pub(crate) damping: Damping,
    /// The last answer, however long ago.
    pub(crate) facts: Option<Facts>,
    /// The last answer was one of a server that nobody asks about itself.
    is_unasked: bool,
    /// Why the last probe got no answer; `None` if it got one.
    pub(crate) failure: Option<CheckFailure>,
    pub(crate) checked_at: Option<Moment>,
    /// When the last run of silent failures began; `None` if the last probe heard something.
    silent_since: Option<Moment>,
    /// When it last answered.
    pub(crate) answered_at: Option<Moment>,
    /// Failures in a row that may take it down; those of a server that is down already count on.
    failures_in_row: u32,
    /// When they took it down; `None` unless the last check was one of them.
    pub(crate) convicted_at: Option<Moment>,
    /// Of each channel.
    pub(crate) sound: BTreeMap<String, Sound>,
    /// What the last events said.
    pub(crate) reported: Reported,
    /// What the last [`crate::Output::SetPace`] said.
    pub(crate) pace: Option<Pace>,
}

/// What the log knows about a backend, so that it hears of changes only.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) health: Health,
    pub(crate) fitness: Health,
    pub(crate) read_only: Option<bool>,
    pub(crate) version: Option<String>,
    pub(crate) impaired: Option<Cause>,
    pub(crate) impaired_conditions: BTreeMap<String, Cause>,
    pub(crate) maintenance: Option<String>,
}

impl Backend {
    pub(crate) fn new(id: BackendId, pair: PairId, role: Role) -> Self {
        Self {
            id,
            pair,
            role,
            admin: Admin::Ready,
            health: Health::NEW,
            fitness: Health::NEW,
            conditions: Conditions::default(),
            warmth: Warmth::Warm,
            damping: Damping::NEW,
            facts: None,
            is_unasked: false,
            failure: None,
            checked_at: None,
            silent_since: None,
            answered_at: None,
            failures_in_row: 0,
            convicted_at: None,
            sound: BTreeMap::new(),
            reported: Reported {
                health: Health::NEW,
                fitness: Health::NEW,
                read_only: None,
                version: None,
                impaired: None,
                impaired_conditions: BTreeMap::new(),
                maintenance: None,
            },
            pace: None,
        }
    }

    /// Takes in what an operator said. Who comes back from maintenance proves itself anew.
    pub(crate) fn set_admin(&mut self, admin: Admin) {
        if self.admin != admin && (self.admin == Admin::Maint || admin == Admin::Maint) {
            self.health = Health::NEW;
            self.fitness = Health::NEW;
            self.conditions.forget();
            self.failure = None;
            self.checked_at = None;
            self.silent_since = None;
            self.answered_at = None;
            self.acquit();
            self.sound.clear();
        }
        if self.role == Role::Replica && admin != Admin::Ready {
            // Who was taken out comes back with caches as cold as if it had been down.
            self.warmth = Warmth::Cold;
        }
        self.admin = admin;
    }

    /// Counts one check result. Taking down is [`Backend::convict`]'s.
    pub(crate) fn record(&mut self, result: CheckResult, spec: &ClusterSpec, now: Moment) {
        self.checked_at = Some(now);
        match result {
            CheckResult::Answered(facts) => {
                self.health = self.health.passed(spec.rise);
                self.silent_since = None;
                self.answered_at = Some(now);
                self.acquit();
                self.note_sound(&facts, now);
                self.fitness = match replication_fault(&facts, spec.max_lag) {
                    None => self.fitness.passed(spec.rise),
                    Some(_) => self.fitness.failed().convicted(spec.fall),
                };
                self.facts = Some(facts);
                self.is_unasked = false;
                self.failure = None;
            }
            CheckResult::Reached => {
                self.health = self.health.passed(spec.rise);
                self.silent_since = None;
                // There is nothing to be said about its replication.
                self.fitness = self.fitness.passed(spec.rise);
                self.facts = None;
                self.is_unasked = true;
                self.failure = None;
            }
            CheckResult::Failed(failure) => {
                if failure.cause.may_take_down() {
                    self.health = self.health.failed();
                    self.failures_in_row = self.failures_in_row.saturating_add(1);
                    self.note_conviction(spec.fall, now);
                    self.silent_since = if failure.cause.is_silence() {
                        self.silent_since.or(Some(now))
                    } else {
                        None
                    };
                } else {
                    // The server is alive, so failures before and after are not in a row.
                    self.health = self.health.recounted();
                    self.silent_since = None;
                    self.acquit();
                }
                self.failure = Some(failure);
            }
        }
    }

    /// Counts what a probe found about its conditions. Silence is convicted by [`Conditions::convict`].
    pub(crate) fn judge(&mut self, conditions: Vec<Condition>, spec: &ClusterSpec, now: Moment) {
        self.conditions.record(conditions, spec, now);
        if self.role == Role::Replica && self.conditions.maintenance().is_some() {
            self.warmth = Warmth::Cold;
        }
    }

    /// Remembers when failures took it down, whether it was down before or not.
    fn note_conviction(&mut self, fall: u32, now: Moment) {
        if self.is_convicted(fall) {
            self.convicted_at = self.convicted_at.or(Some(now));
        }
    }

    /// Failures so far lead to nothing.
    const fn acquit(&mut self) {
        self.failures_in_row = 0;
        self.convicted_at = None;
    }

    /// Remembers which channels are without a fault, for the day on which their source is gone.
    ///
    /// One that loses its source keeps what is remembered. Any other fault voids it: who stopped for a while has missed something,
    /// whatever was seen before.
    fn note_sound(&mut self, facts: &Facts, now: Moment) {
        let mut before = std::mem::take(&mut self.sound);
        for channel in &facts.replication {
            let Channel { name, io_running, sql_running, lag, upstream } = channel;
            let sound = match (io_running, sql_running, lag) {
                (true, true, Some(lag)) => {
                    Some(Sound { address: upstream.address.clone(), lag: *lag, at: now })
                }
                (false, true, _) if upstream.io_thread.may_have_lost_source() => {
                    before.remove(name)
                }
                _ => None,
            };
            if let Some(sound) = sound {
                self.sound.insert(name.clone(), sound);
            }
        }
    }

    /// Returns whether write routes refuse because of what conditions say of a primary.
    pub(crate) fn is_unfit_primary(&self) -> bool {
        self.conditions.verdict(Role::Primary) == Verdict::Down
            || self.conditions.maintenance().is_some()
    }

    /// Takes in that the server was seen read-only or writable by who changed it.
    pub(crate) fn set_read_only(&mut self, read_only: bool) {
        if let Some(facts) = &mut self.facts {
            facts.read_only = read_only;
        }
    }

    /// Returns whether it is up and the last check was answered.
    pub(crate) fn answers(&self) -> bool {
        self.health.is_up() && self.failure.is_none()
    }

    /// Returns whether it is down by `fall` failures in a row, the last check's among them.
    pub(crate) fn is_convicted(&self, fall: u32) -> bool {
        self.health == Health::Down && self.failures_in_row >= fall.max(1)
    }

    /// Takes the backend down if `fall` is reached.
    pub(crate) fn convict(&mut self, spec: &ClusterSpec, now: Moment) {
        self.health = self.health.convicted(spec.fall);
        self.note_conviction(spec.fall, now);
        if self.health == Health::Down {
            // A server that comes back has its catching-up before it; it proves its fitness anew.
            self.fitness = Health::Down;
            self.conditions.distrust();
        }
    }

    /// Restarts the count of a backend that is silent, because silence said nothing about it.
    pub(crate) fn forget_silence(&mut self) {
        if self.silent_since.take().is_some() {
            self.health = self.health.recounted();
            self.acquit();
        }
    }

    /// Returns since when a witness is needed before the failures counted mean anything.
    pub(crate) fn wants_witness_since(&self) -> Option<Moment> {
        if self.health.failures() > 0 { self.silent_since } else { None }
    }

    /// Returns whether the last probe heard something from the server.
    pub(crate) fn is_heard(&self) -> bool {
        self.checked_at.is_some() && !self.is_silent()
    }

    /// Returns whether the last probe heard something from the server, after this moment.
    pub(crate) fn is_heard_after(&self, moment: Moment) -> bool {
        self.is_heard() && self.checked_at > Some(moment)
    }

    /// Returns whether the last probe heard nothing.
    pub(crate) fn is_silent(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.cause.is_silence())
    }

    /// Returns the failure of the last probe, if the server is alive and the check could not judge
    /// it.
    pub(crate) fn impairment(&self) -> Option<&CheckFailure> {
        self.failure.as_ref().filter(|failure| !failure.cause.may_take_down())
    }

    pub(crate) fn read_only(&self) -> Option<bool> {
        self.facts.as_ref().map(|facts| facts.read_only)
    }

    /// Returns whether nobody asks the server about itself.
    pub(crate) const fn is_unasked(&self) -> bool {
        self.is_unasked
    }

    /// Returns whether new flows may go there as far as people say, operators and maintenance pages alike.
    pub(crate) fn is_ready(&self) -> bool {
        self.admin == Admin::Ready && self.conditions.maintenance().is_none()
    }

    /// Returns whether reads may go there: it is alive and its conditions pass, and a replica replicates.
    pub(crate) fn read_verdict(&self) -> Verdict {
        let replication = match self.role {
            Role::Primary => Verdict::Up,
            Role::Replica => self.fitness.verdict(),
        };
        Verdict::worst([self.health.verdict(), replication, self.conditions.verdict(self.role)])
    }

    /// Returns whether it follows its source, as a replica or as the primary of a standby pair.
    pub(crate) fn replica_verdict(&self) -> Verdict {
        Verdict::worst([self.health.verdict(), self.fitness.verdict()])
    }

    /// Returns its fitness as one health, the worst of all that counts; `None` if nothing does.
    pub(crate) fn overall_fitness(&self) -> Option<Health> {
        let conditions = self.conditions.worst(self.role);
        match self.role {
            Role::Primary => conditions,
            Role::Replica => Some(match (conditions, self.fitness.verdict()) {
                (Some(worst), Verdict::Up) if !matches!(worst, Health::Up) => worst,
                (Some(Health::Down), _) => Health::Down,
                (Some(_) | None, _) => self.fitness,
            }),
        }
    }

    /// Takes the steps that are due of waiting and of a slow start; see [`crate::damping`] and [`crate::slow_start`].
    pub(crate) fn warm_up(&mut self, spec: &ClusterSpec, now: Moment) {
        if self.role == Role::Replica {
            // An operator's word is no fall.
            self.damping = self.damping.after(self.read_verdict(), spec.hold_off, now);
            let serves = self.is_ready() && !self.damping.waits();
            let verdict = if serves { self.read_verdict() } else { Verdict::Down };
            self.warmth = self.warmth.after(verdict, spec.slow_start, now);
        }
    }

    /// Returns whether the next checks of this backend can change where something goes.
    pub(crate) fn is_counting(&self) -> bool {
        // A server that turns our account away must not be asked more often: that is how hosts get
        // blocked.
        self.impairment().is_none()
            && (self.health.is_counting()
                || self.health.is_up() && self.conditions.is_counting(self.role)
                || self.role == Role::Replica && self.health.is_up() && self.fitness.is_counting())
    }

    /// Returns why the backend is seen as it is.
    pub(crate) fn reason(&self, spec: &ClusterSpec, active: PairId) -> BackendReason {
        if self.admin == Admin::Maint {
            return BackendReason::Maint;
        }
        if let Some(failure) = self.failure.as_ref().filter(|failure| failure.cause.may_take_down())
        {
            let (cause, text) = (failure.cause, failure.text.clone());
            return if self.health.failures() >= spec.fall.max(1) {
                BackendReason::Unconfirmed { cause, text }
            } else {
                BackendReason::Failing { cause, text }
            };
        }
        if let Some((name, text)) = self.conditions.maintenance() {
            return BackendReason::Maintenance { name: name.into(), text: text.into() };
        }
        // What keeps new flows away comes before what may do so soon.
        let is_out = self.conditions.verdict(self.role) == Verdict::Down;
        let replication = self.counted_replication_fault(spec).filter(|_| !is_out);
        if let Some(fault) = replication {
            return BackendReason::Replication(fault);
        }
        if let Some((name, text)) = self.conditions.fault(self.role) {
            let is_unconfirmed = self.conditions.is_unconfirmed(name, spec.fall);
            let name = name.into();
            return if is_unconfirmed {
                BackendReason::ConditionUnconfirmed { name, text }
            } else {
                BackendReason::Condition { name, text }
            };
        }
        if let Some(CheckFailure { cause, text }) = &self.failure {
            return BackendReason::Impaired { cause: *cause, text: text.clone() };
        }
        self.lesser_reason(spec, active)
    }

    /// Returns what is wrong with a replica's replication by the last probe.
    fn counted_replication_fault(&self, spec: &ClusterSpec) -> Option<ReplicationFault> {
        let facts = self.facts.as_ref().filter(|_| self.failure.is_none())?;
        (self.role == Role::Replica).then(|| replication_fault(facts, spec.max_lag)).flatten()
    }

    /// Returns why a backend is seen as it is whose checks were all answered.
    fn lesser_reason(&self, spec: &ClusterSpec, active: PairId) -> BackendReason {
        let passing = || match self.conditions.impaired().next() {
            Some((name, failure)) => BackendReason::ConditionImpaired {
                name: name.into(),
                text: Outcome::Unanswered(failure.clone()).text(),
            },
            None => BackendReason::Passing,
        };
        let Some(facts) = &self.facts else {
            return if self.is_unasked { passing() } else { BackendReason::Unchecked };
        };
        if self.role == Role::Primary && self.pair == active {
            return if facts.read_only { BackendReason::ReadOnly } else { passing() };
        }
        if let Some(fault) = replication_fault(facts, spec.max_lag) {
            return BackendReason::Replication(fault);
        }
        match self.conditions.replication_fault() {
            Some((name, text)) => BackendReason::Condition { name: name.into(), text },
            None if self.damping.waits() => BackendReason::Flapping,
            None => passing(),
        }
    }

    pub(crate) fn view(
        &self,
        spec: &ClusterSpec,
        active: PairId,
        admin: AdminSetting,
    ) -> BackendView {
        BackendView {
            id: self.id,
            role: self.role,
            admin,
            health: self.health,
            fitness: self.overall_fitness(),
            conditions: self
                .conditions
                .view(self.role)
                .map(|(name, health, outcome)| ConditionView {
                    name: name.into(),
                    health,
                    outcome: outcome.clone(),
                })
                .collect(),
            reason: self.reason(spec, active),
            lag: self.facts.as_ref().and_then(lag),
            read_only: self.read_only(),
            facts: self.facts.clone(),
            checked_at: self.checked_at,
            pace: self.pace.unwrap_or(Pace::Steady),
        }
    }
}

/// Returns what is wrong with a server's replication, the worst first.
pub(crate) fn replication_fault(facts: &Facts, max_lag: Duration) -> Option<ReplicationFault> {
    if facts.replication.is_empty() {
        return Some(ReplicationFault::NoChannel);
    }
    for channel in &facts.replication {
        let name = || channel.name.clone();
        if !channel.sql_running {
            return Some(ReplicationFault::SqlStopped { channel: name() });
        }
        if !channel.io_running {
            return Some(ReplicationFault::IoStopped { channel: name() });
        }
        if channel.lag.is_none() {
            return Some(ReplicationFault::LagUnknown { channel: name() });
        }
    }
    let lag = lag(facts)?;
    (lag > max_lag).then_some(ReplicationFault::Lagging { lag, max_lag })
}

/// Returns the largest lag of all channels; `None` if a channel does not know its own.
fn lag(facts: &Facts) -> Option<Duration> {
    let lags = facts.replication.iter().map(|channel| channel.lag);
    lags.collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_fit_when_every_channel_runs_within_max_lag() {
        check(&[(true, true, Some(10)), (true, true, Some(0))], None);
    }

    #[test]
    fn a_replica_without_a_channel_is_unfit() {
        check(&[], Some(ReplicationFault::NoChannel));
    }

    #[test]
    fn a_stopped_thread_on_any_channel_is_a_fault() {
        let channel = || "1".to_string();
        let sql = ReplicationFault::SqlStopped { channel: channel() };
        check(&[(true, true, Some(0)), (true, false, None)], Some(sql));
        let io = ReplicationFault::IoStopped { channel: channel() };
        check(&[(true, true, Some(0)), (false, true, None)], Some(io));
    }

    #[test]
    fn an_unknown_lag_is_a_fault() {
        let fault = ReplicationFault::LagUnknown { channel: "0".into() };
        check(&[(true, true, None)], Some(fault));
    }

    #[test]
    fn the_worst_channel_decides_the_lag() {
        let lag = Duration::from_secs(11);
        let max_lag = Duration::from_secs(10);
        check(
            &[(true, true, Some(1)), (true, true, Some(11))],
            Some(ReplicationFault::Lagging { lag, max_lag }),
        );
    }

    /// Channels are (io_running, sql_running, lag in seconds), named by their index; `max_lag` is
    /// 10 s.
    fn check(channels: &[(bool, bool, Option<u64>)], expected: Option<ReplicationFault>) {
        let replication = channels
            .iter()
            .enumerate()
            .map(|(index, &(io_running, sql_running, lag))| Channel {
                name: index.to_string(),
                io_running,
                sql_running,
                lag: lag.map(Duration::from_secs),
                ..Channel::default()
            })
            .collect();
        let facts = Facts { read_only: true, replication, ..Facts::default() };
        assert_eq!(replication_fault(&facts, Duration::from_secs(10)), expected);
    }
}
