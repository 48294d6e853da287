//! Conditions: what the additional checks of a backend, and the further questions of its login, say.
//!
//! They decide whether new connections may go to a server (its fitness), never whether it is alive: a failed condition ends no flow.
//! Each is counted by itself, with `rise` and `fall`, so that one that cannot be judged holds up no other.

use std::collections::BTreeMap;

use crate::{
    health::{Health, Verdict},
    input::{Cause, CheckFailure, ClusterSpec, Role},
    moment::Moment,
};

/// How one condition of a backend came out in one probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// As configured; the same check has the same name on every backend of the cluster.
    pub name: String,
    pub about: About,
    pub outcome: Outcome,
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum About {
    /// Whether the server may get new connections.
    Server,
    /// The server's part as a replica. Never counted for a primary: when the standby dies, the writer's own replica side breaks.
    Replication,
}

/// What became of a condition's question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Passed,
    /// There was an answer, and it is not as it should be.
    Failed {
        text: String,
    },
    /// The answer is that somebody took the server out: no new flows from now on, without counting.
    Maintenance {
        text: String,
    },
    /// There was no answer; what that means is [`Cause::effect`]'s.
    Unanswered(CheckFailure),
}

impl Outcome {
    /// Returns the word used in JSON and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::Maintenance { .. } => "maintenance",
            Self::Unanswered(failure) => failure.cause.name(),
        }
    }

    /// Returns what was found, for an operator; empty for a pass.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Passed => String::new(),
            Self::Failed { text } | Self::Maintenance { text } => text.clone(),
            Self::Unanswered(CheckFailure { cause, text }) if text.is_empty() => cause.to_string(),
            Self::Unanswered(CheckFailure { cause, text }) => format!("{cause} ({text})"),
        }
    }

    /// Returns whether nothing at all was heard.
    pub(crate) const fn is_silence(&self) -> bool {
        match self {
            Self::Passed | Self::Failed { .. } | Self::Maintenance { .. } => false,
            Self::Unanswered(failure) => failure.cause.is_silence(),
        }
    }

    /// Returns why the question could not be judged, if that says nothing about the server.
    const fn impairment(&self) -> Option<&CheckFailure> {
        match self {
            Self::Unanswered(failure) if !failure.cause.may_take_down() => Some(failure),
            Self::Passed | Self::Failed { .. } | Self::Maintenance { .. } | Self::Unanswered(_) => {
                None
            }
        }
    }
}

/// One condition, counted.
#[derive(Clone, Debug)]
struct Counted {
    health: Health,
    last: Outcome,
    about: About,
    asked_at: Moment,
    /// When the last run of silence began; `None` if the last answer was one.
    silent_since: Option<Moment>,
}

impl Counted {
    fn wants_witness_since(&self) -> Option<Moment> {
        if self.health.failures() > 0 { self.silent_since } else { None }
    }

    fn verdict(&self) -> Verdict {
        let verdict = self.health.verdict();
        // Nobody can be asked: that is no reason to turn clients away.
        let is_unjudged = verdict == Verdict::None && self.last.impairment().is_some();
        if is_unjudged { Verdict::Up } else { verdict }
    }

    /// The worse, the larger.
    const fn rank(&self) -> u8 {
        match self.health {
            Health::Up => 0,
            Health::Falling { .. } => 1,
            Health::Unknown { .. } => 2,
            Health::Rising { .. } => 3,
            Health::Down => 4,
        }
    }
}

/// The conditions of one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    known: BTreeMap<String, Counted>,
}

impl Conditions {
    /// Counts what one probe found. A condition that was not asked stays as it was.
    pub(crate) fn record(&mut self, found: Vec<Condition>, spec: &ClusterSpec, now: Moment) {
        for Condition { name, about, outcome } in found {
            let known = self.known.entry(name).or_insert_with(|| Counted {
                health: Health::NEW,
                last: Outcome::Passed,
                about,
                asked_at: now,
                silent_since: None,
            });
            let is_silence = outcome.is_silence() && outcome.impairment().is_none();
            known.silent_since = is_silence.then(|| known.silent_since.unwrap_or(now));
            known.health = match &outcome {
                Outcome::Passed => known.health.passed(spec.rise),
                Outcome::Failed { .. } => known.health.failed().convicted(spec.fall),
                // Silence is judged by `convict`, which looks for a witness.
                Outcome::Unanswered(_) if is_silence => known.health.failed(),
                Outcome::Unanswered(failure) if failure.cause.may_take_down() => {
                    known.health.failed().convicted(spec.fall)
                }
                Outcome::Maintenance { .. } | Outcome::Unanswered(_) => known.health.recounted(),
            };
            known.last = outcome;
            known.asked_at = now;
        }
    }

    /// Takes down the condition of this name if `fall` is reached.
    pub(crate) fn convict(&mut self, name: &str, fall: u32) {
        if let Some(known) = self.known.get_mut(name) {
            known.health = known.health.convicted(fall);
        }
    }

    /// Makes all of them prove themselves anew, as of a server that was away: a first pass is needed, or that they cannot be judged.
    pub(crate) fn distrust(&mut self) {
        for known in self.known.values_mut() {
            known.health = Health::NEW;
        }
    }

    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    /// Restarts the count of the condition of this name if it is silent, because silence said nothing about it.
    pub(crate) fn forget_silence(&mut self, name: &str) {
        if let Some(known) = self.known.get_mut(name)
            && known.silent_since.take().is_some()
        {
            known.health = known.health.recounted();
        }
    }

    /// Returns the conditions that need a witness before their failures mean anything, and since when.
    pub(crate) fn wanting_witness(&self) -> impl Iterator<Item = (&str, Moment)> {
        self.known
            .iter()
            .filter_map(|(name, known)| Some((name.as_str(), known.wants_witness_since()?)))
    }

    /// Returns whether the last answer to this condition was one, whatever it said.
    pub(crate) fn is_heard(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|known| !known.last.is_silence())
    }

    /// Returns whether the last answer to this condition was one, and came after this moment.
    pub(crate) fn is_heard_after(&self, name: &str, moment: Moment) -> bool {
        self.is_heard(name) && self.known.get(name).is_some_and(|known| known.asked_at > moment)
    }

    fn counted(&self, role: Role) -> impl Iterator<Item = (&String, &Counted)> {
        self.known.iter().filter(move |(_, known)| match (role, known.about) {
            (Role::Replica, About::Server | About::Replication)
            | (Role::Primary, About::Server) => true,
            (Role::Primary, About::Replication) => false,
        })
    }

    /// Returns what all of them come down to.
    pub(crate) fn verdict(&self, role: Role) -> Verdict {
        Verdict::worst(self.counted(role).map(|(_, known)| known.verdict()))
    }

    /// Returns the health of the worst one; `None` if there is none.
    pub(crate) fn worst(&self, role: Role) -> Option<Health> {
        self.counted(role)
            .map(|(_, known)| known)
            .max_by_key(|known| known.rank())
            .map(|known| known.health)
    }

    /// Returns whether the next probes can change the verdict.
    pub(crate) fn is_counting(&self, role: Role) -> bool {
        self.counted(role)
            .any(|(_, known)| known.last.impairment().is_none() && known.health.is_counting())
    }

    /// Returns who says that the server is in maintenance, and how.
    pub(crate) fn maintenance(&self) -> Option<(&str, &str)> {
        self.known.iter().find_map(|(name, known)| match &known.last {
            Outcome::Maintenance { text } => Some((name.as_str(), text.as_str())),
            Outcome::Passed | Outcome::Failed { .. } | Outcome::Unanswered(_) => None,
        })
    }

    /// Returns the first condition that is not as it should be and counts: those that have taken the server out first.
    pub(crate) fn fault(&self, role: Role) -> Option<(&str, String)> {
        let is_fault = |known: &Counted| {
            !matches!(known.last, Outcome::Passed | Outcome::Maintenance { .. })
                && known.last.impairment().is_none()
        };
        let faults = self.counted(role).filter(|(_, known)| is_fault(known));
        faults
            .max_by_key(|(_, known)| known.rank())
            .map(|(name, known)| (name.as_str(), known.last.text()))
    }

    /// Returns what is wrong with the server's replication beyond what is counted.
    pub(crate) fn replication_fault(&self) -> Option<(&str, String)> {
        self.known.iter().find_map(|(name, known)| match (known.about, &known.last) {
            (About::Replication, Outcome::Failed { text }) => Some((name.as_str(), text.clone())),
            (About::Replication | About::Server, _) => None,
        })
    }

    /// Returns whether this condition is unanswered for `fall` times without a witness.
    pub(crate) fn is_unconfirmed(&self, name: &str, fall: u32) -> bool {
        self.known.get(name).is_some_and(|known| {
            known.silent_since.is_some() && known.health.failures() >= fall.max(1)
        })
    }

    /// Returns the conditions that cannot be judged, and why.
    pub(crate) fn impaired(&self) -> impl Iterator<Item = (&str, &CheckFailure)> {
        self.known
            .iter()
            .filter_map(|(name, known)| Some((name.as_str(), known.last.impairment()?)))
    }

    /// Returns each that counts with what is known of it, for status output.
    pub(crate) fn view(&self, role: Role) -> impl Iterator<Item = (&str, Health, &Outcome)> {
        self.counted(role).map(|(name, known)| (name.as_str(), known.health, &known.last))
    }
}

/// A row of the table of results in `docs/checks.md`: everything that a check can find, and what follows from it.
///
/// Generated from the enums, so that the document cannot say otherwise than the code; a test compares them.
#[must_use]
pub fn results_table() -> String {
    let mut table = String::from(
        "| Result | Meaning | Of the login, or of what says that a server is alive | Of an additional check or condition |\n\
         |---|---|---|---|\n\
         | `passed` | as it should be | up after `rise` | fit after `rise` |\n\
         | `failed` | an answer, and not as it should be | - | unfit after `fall` |\n\
         | `maintenance` | somebody took the server out (HTTP 404) | - | no new connections, at once |\n",
    );
    for cause in Cause::ALL {
        let effect = cause.effect();
        table += &format!(
            "| `{}` | {cause} | {} | {} |\n",
            cause.name(),
            effect.of_login(),
            effect.of_condition()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_cannot_be_judged_blocks_nobody_and_restarts_the_count() {
        check("local", Role::Primary, Verdict::Up);
        check("pass local local local local", Role::Primary, Verdict::Up);
        check("pass fail fail local fail fail", Role::Primary, Verdict::Up);
        check("fail fail fail local", Role::Primary, Verdict::Down);
    }

    #[test]
    fn answers_need_no_witness_and_silence_does() {
        check("pass fail fail fail", Role::Primary, Verdict::Down);
        check("pass refused refused refused", Role::Replica, Verdict::Down);
        check("pass silent silent silent silent", Role::Replica, Verdict::Up);
        check("silent silent silent silent", Role::Replica, Verdict::None);
    }

    #[test]
    fn rise_passes_make_fit_again() {
        check("fail fail fail pass", Role::Primary, Verdict::Down);
        check("fail fail fail pass pass", Role::Primary, Verdict::Up);
    }

    #[test]
    fn maintenance_is_at_once_and_leaves_the_verdict() {
        let conditions = recorded("pass maint", About::Server);
        assert_eq!(conditions.maintenance(), Some(("disk", "404")));
        assert_eq!(conditions.verdict(Role::Primary), Verdict::Up);
        assert_eq!(recorded("pass maint pass", About::Server).maintenance(), None);
    }

    #[test]
    fn what_is_about_replication_never_counts_for_a_primary() {
        let conditions = recorded("fail fail fail", About::Replication);
        assert_eq!(conditions.verdict(Role::Primary), Verdict::Up);
        assert_eq!(conditions.verdict(Role::Replica), Verdict::Down);
        assert_eq!(conditions.replication_fault(), Some(("disk", "got 0".to_owned())));
    }

    fn check(outcomes: &str, role: Role, expected: Verdict) {
        let conditions = recorded(outcomes, About::Server);
        assert_eq!(conditions.verdict(role), expected, "{outcomes}");
    }

    /// `rise` 2, `fall` 3, a probe a second.
    fn recorded(outcomes: &str, about: About) -> Conditions {
        let spec = ClusterSpec {
            id: crate::ClusterId(0),
            name: String::new(),
            rise: 2,
            fall: 3,
            interval: std::time::Duration::from_secs(1),
            fast_interval: std::time::Duration::from_secs(1),
            timeout: std::time::Duration::from_secs(1),
            max_lag: std::time::Duration::from_secs(1),
            slow_start: std::time::Duration::ZERO,
            hold_off: std::time::Duration::ZERO,
            failover: crate::failover::Failover::Manual,
            drain: crate::Drain::Finish,
            drain_deadline: None,
            routes: Vec::new(),
            pairs: Vec::new(),
        };
        let mut conditions = Conditions::default();
        for (second, word) in (1..).zip(outcomes.split(' ')) {
            let unanswered =
                |cause| Outcome::Unanswered(CheckFailure { cause, text: String::new() });
            let outcome = match word {
                "pass" => Outcome::Passed,
                "fail" => Outcome::Failed { text: "got 0".into() },
                "maint" => Outcome::Maintenance { text: "404".into() },
                "silent" => unanswered(Cause::TimedOut),
                "refused" => unanswered(Cause::Refused),
                "local" => unanswered(Cause::Local),
                other => panic!("{other}"),
            };
            let found = Condition { name: "disk".into(), about, outcome };
            conditions.record(vec![found], &spec, Moment::from_millis(second * 1000));
        }
        conditions
    }
}
