//! Preflight: what must hold before a switchover changes anything.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    time::Duration,
};

use super::{Limits, PrimaryFacts, Survey};
use crate::output::FlipRefused;

/// What must hold before a flip. Those of the servers matter to a switchover only.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Precondition {
    OldUnreachable,
    OldReadOnly,
    TargetUnreachable,
    MissingGrant,
    /// No backend of the target pair is known to be up.
    TargetDown,
    /// An operator took the target pair's primary out.
    TargetTakenOut,
    /// A condition of the target's primary fails, or a check says that it is in maintenance.
    TargetUnfit,
    TargetWritable,
    TargetNotReplicating,
    OldNotReplicating,
    TargetDelayed,
    TargetLagging,
    ErrantTransactions,
    PreparedXa,
    LongTransaction,
    TableLocks,
    RecentFlip,
}

impl Precondition {
    /// Every precondition, in the order in which they are judged and told.
    pub const ALL: [Self; 17] = [
        Self::OldUnreachable,
        Self::OldReadOnly,
        Self::TargetUnreachable,
        Self::MissingGrant,
        Self::TargetDown,
        Self::TargetTakenOut,
        Self::TargetUnfit,
        Self::TargetWritable,
        Self::TargetNotReplicating,
        Self::OldNotReplicating,
        Self::TargetDelayed,
        Self::TargetLagging,
        Self::ErrantTransactions,
        Self::PreparedXa,
        Self::LongTransaction,
        Self::TableLocks,
        Self::RecentFlip,
    ];

    /// Returns those that can be waived.
    pub fn waivable() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|precondition| precondition.can_be_waived())
    }

    /// Returns the word that `--force` takes, and that is told when it does not hold.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OldUnreachable => "old_unreachable",
            Self::OldReadOnly => "old_read_only",
            Self::TargetUnreachable => "target_unreachable",
            Self::MissingGrant => "missing_grant",
            Self::TargetDown => "target_down",
            Self::TargetTakenOut => "target_taken_out",
            Self::TargetUnfit => "target_unfit",
            Self::TargetWritable => "target_writable",
            Self::TargetNotReplicating => "target_not_replicating",
            Self::OldNotReplicating => "old_not_replicating",
            Self::TargetDelayed => "target_delayed",
            Self::TargetLagging => "target_lagging",
            Self::ErrantTransactions => "errant_transactions",
            Self::PreparedXa => "prepared_xa",
            Self::LongTransaction => "long_transaction",
            Self::TableLocks => "table_locks",
            Self::RecentFlip => "recent_flip",
        }
    }

    /// Returns the precondition of that name, if `--force` may waive it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::waivable().find(|precondition| precondition.name() == name)
    }

    /// Returns whether `--force` may waive it.
    #[must_use]
    pub const fn can_be_waived(self) -> bool {
        match self {
            Self::OldUnreachable
            | Self::OldReadOnly
            | Self::TargetUnreachable
            | Self::MissingGrant => false,
            Self::TargetDown
            | Self::TargetTakenOut
            | Self::TargetUnfit
            | Self::TargetWritable
            | Self::TargetNotReplicating
            | Self::OldNotReplicating
            | Self::TargetDelayed
            | Self::TargetLagging
            | Self::ErrantTransactions
            | Self::PreparedXa
            | Self::LongTransaction
            | Self::TableLocks
            | Self::RecentFlip => true,
        }
    }

    /// Returns what must hold, as a sentence.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::OldUnreachable => "the old primary answers",
            Self::OldReadOnly => "the old primary takes writes",
            Self::TargetUnreachable => "the new primary answers",
            Self::MissingGrant => "the check user may do all that is needed, on both",
            Self::TargetDown => "a backend of the target pair is up",
            Self::TargetTakenOut => "no operator took the new primary out",
            Self::TargetUnfit => "the new primary's conditions pass and it is not in maintenance",
            Self::TargetWritable => {
                "the new primary is read-only, so that one primary takes writes"
            }
            Self::TargetNotReplicating => "both threads of the new primary's replication run",
            Self::OldNotReplicating => "both threads of the old primary's replication run",
            Self::TargetDelayed => "the new primary does not apply late on purpose",
            Self::TargetLagging => "the new primary is at most `max_lag` behind",
            Self::ErrantTransactions => "the new primary has nothing that the old one lacks",
            Self::PreparedXa => "no XA transaction is prepared on the old primary",
            Self::LongTransaction => {
                "no transaction on the old primary is open for longer than the pause may last"
            }
            Self::TableLocks => "nobody holds tables locked on the old primary",
            Self::RecentFlip => "the last flip is at least 10 s ago",
        }
    }

    /// Returns what waiving it means; `None` where it cannot be waived.
    const fn waived(self) -> Option<&'static str> {
        match self {
            Self::OldUnreachable
            | Self::OldReadOnly
            | Self::TargetUnreachable
            | Self::MissingGrant => None,
            Self::TargetDown | Self::TargetTakenOut | Self::TargetUnfit => {
                Some("routes of the new pair refuse until it is well")
            }
            Self::TargetWritable => Some("what was written there may collide"),
            Self::TargetNotReplicating | Self::TargetDelayed | Self::TargetLagging => {
                Some("catching up may not end, and the flip is undone")
            }
            Self::OldNotReplicating => {
                Some("there is no way back until the old primary replicates")
            }
            Self::ErrantTransactions => Some("they may break replication"),
            Self::PreparedXa => {
                Some("one that is committed on the fenced old primary is missing on the new one")
            }
            Self::LongTransaction | Self::TableLocks => {
                Some("the flip is undone if it outlasts the pause")
            }
            Self::RecentFlip => Some("clients may not have settled"),
        }
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

/// A precondition, and how it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    pub precondition: Precondition,
    pub judgement: Judgement,
    /// What was found; empty where there is nothing to say.
    pub text: String,
}

/// How a precondition was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    Holds,
    Fails,
    /// It fails, and an operator waived it.
    Waived,
    /// Who was to be asked did not answer.
    Unknown,
}

impl Judgement {
    /// Returns the word used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Waived => "waived",
            Self::Unknown => "unknown",
        }
    }
}

/// What is asked of the survey and of what the cluster knows.
pub(crate) struct Question<'a> {
    pub(crate) survey: &'a Survey,
    pub(crate) force: &'a BTreeSet<Precondition>,
    pub(crate) limits: Limits,
    pub(crate) max_lag: Duration,
    /// What the checks and operators have against the target.
    pub(crate) target: Vec<FlipRefused>,
    /// Why the target's primary is not fit.
    pub(crate) unfit: Option<String>,
    /// Since the last flip.
    pub(crate) since_flip: Option<Duration>,
}

/// A second flip within this time is most likely one that nobody meant.
const RECENT: Duration = Duration::from_secs(10);

/// Judges every precondition, in their order.
pub(crate) fn judge(question: &Question<'_>) -> Vec<Judged> {
    let judged = |precondition: Precondition| {
        let (judgement, text) = match fault(precondition, question) {
            None => (Judgement::Unknown, "it did not answer".to_owned()),
            Some(None) => (Judgement::Holds, String::new()),
            Some(Some(text))
                if precondition.can_be_waived() && question.force.contains(&precondition) =>
            {
                (Judgement::Waived, text)
            }
            Some(Some(text)) => (Judgement::Fails, text),
        };
        Judged { precondition, judgement, text }
    };
    Precondition::ALL.into_iter().map(judged).collect()
}

/// Returns what is wrong, or that nothing is; `None` if that cannot be known.
fn fault(precondition: Precondition, question: &Question<'_>) -> Option<Option<String>> {
    let Survey { from, to } = question.survey;
    let (old, new) = (from.as_ref().ok(), to.as_ref().ok());
    let of_target = |word: Precondition| {
        let refused = question.target.iter().find(|it| it.precondition() == Some(word));
        Some(refused.map(ToString::to_string))
    };
    match precondition {
        Precondition::OldUnreachable => Some(from.as_ref().err().map(|it| it.text.clone())),
        Precondition::TargetUnreachable => Some(to.as_ref().err().map(|it| it.text.clone())),
        Precondition::OldReadOnly => {
            old.map(|it| it.read_only.then(|| "it is read-only".to_owned()))
        }
        Precondition::MissingGrant => missing_grants(old, new),
        Precondition::TargetDown | Precondition::TargetTakenOut => of_target(precondition),
        Precondition::TargetUnfit => Some(question.unfit.clone()),
        Precondition::TargetWritable => {
            let text = "both primaries take writes; make the new one read-only first";
            new.map(|it| (!it.read_only).then(|| text.to_owned()))
        }
        Precondition::TargetNotReplicating => new.map(threads),
        Precondition::OldNotReplicating => old.map(threads),
        Precondition::TargetDelayed => new.map(|it| {
            let delay = it.replication.as_ref().map(|channel| channel.upstream.delay);
            delay
                .filter(|delay| !delay.is_zero())
                .map(|delay| format!("it applies {} s late on purpose", delay.as_secs_f32()))
        }),
        Precondition::TargetLagging => new.map(|it| {
            let lag = it.replication.as_ref().and_then(|channel| channel.lag);
            lag.filter(|lag| *lag > question.max_lag)
                .map(|lag| format!("it is {} s behind", lag.as_secs_f32()))
        }),
        Precondition::ErrantTransactions => {
            new.map(|it| it.errant.as_ref().map(|errant| format!("only the new one has {errant}")))
        }
        Precondition::PreparedXa => old.map(|it| listed(&it.xa_prepared)),
        Precondition::LongTransaction => old.map(|it| long(it, question.limits.max_pause)),
        Precondition::TableLocks => old.map(|it| listed(&it.table_locks)),
        Precondition::RecentFlip => Some(
            question
                .since_flip
                .filter(|since| *since < RECENT)
                .map(|since| format!("the last one was {:.1} s ago", since.as_secs_f32())),
        ),
    }
}

fn missing_grants(
    old: Option<&PrimaryFacts>,
    new: Option<&PrimaryFacts>,
) -> Option<Option<String>> {
    let missing = |side: &str, facts: Option<&PrimaryFacts>| {
        let grants = facts.map_or(&[][..], |facts| facts.missing_grants.as_slice());
        grants.iter().map(|grant| format!("on the {side} primary: {grant}")).collect::<Vec<_>>()
    };
    let all = [missing("old", old), missing("new", new)].concat();
    match (old, new) {
        (Some(_), Some(_)) => Some(listed(&all)),
        (None, _) | (_, None) if all.is_empty() => None,
        (None, _) | (_, None) => Some(listed(&all)),
    }
}

fn threads(facts: &PrimaryFacts) -> Option<String> {
    let text = match &facts.replication {
        None => "it does not replicate from the other primary",
        Some(channel) if !channel.io_running => "its IO thread does not run",
        Some(channel) if !channel.sql_running => "its SQL thread does not run",
        Some(channel) if channel.lag.is_none() => "it does not know how far it is behind",
        Some(_) => return None,
    };
    Some(text.to_owned())
}

fn long(facts: &PrimaryFacts, max_pause: Duration) -> Option<String> {
    let long = facts.transactions.iter().filter(|it| it.age > max_pause);
    let long = long.map(|it| format!("{} for {:.1} s ({})", it.who, it.age.as_secs_f32(), it.what));
    listed(&long.collect::<Vec<_>>())
}

fn listed(all: &[String]) -> Option<String> {
    (!all.is_empty()).then(|| all.join("; "))
}

/// Returns the preconditions as a table for the documentation.
#[must_use]
pub fn preconditions_table() -> String {
    let mut table = "| Word | What must hold | With `--force` |\n|---|---|---|\n".to_owned();
    for precondition in Precondition::ALL {
        let waived = precondition.waived().unwrap_or("cannot be waived");
        _ = writeln!(table, "| `{}` | {precondition} | {waived} |", precondition.name());
    }
    table
}
