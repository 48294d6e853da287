//! Switchover: a flip that loses no acknowledged write, as steps at the two primaries.
//!
//! `step` holds what is asked of drivers, `survey` what the primaries say beforehand, `preflight` what must hold,
//! `outcome` what an operator is told; `cluster/switchover.rs` takes the steps.
//!
//! Until the new primary is told to take writes everything is undone on any error; from then on there is only forward.

mod outcome;
mod preflight;
mod progress;
mod step;
mod survey;

use std::time::Duration;

pub use self::{
    outcome::{SwitchoverOutcome, UndoCause, Undone},
    preflight::{Judged, Judgement, Precondition, preconditions_table},
    progress::{SwitchoverStep, SwitchoverView, steps_table},
    step::{Step, StepAnswer, StepFailure, StepFault, StepId},
    survey::{OpenTransaction, PrimaryFacts, Survey},
};
pub(crate) use self::{
    preflight::{Question, judge},
    progress::{FENCE_TIMEOUT, LOCAL_TIMEOUT, SESSIONS_TIMEOUT, SURVEY_TIMEOUT, VERIFY_TIMEOUT},
};
use crate::ids::PairId;

/// How long a switchover may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// From the request until the new primary is told to take writes. Reached: undone.
    pub deadline: Duration,
    /// From the pause of writes until the new primary is told to take them. Reached: undone. Also the age from which a
    /// transaction is one that the pause would not outlast.
    pub max_pause: Duration,
}

/// What the state file keeps of a switchover that is under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Intent {
    pub from: PairId,
    pub to: PairId,
    pub stage: IntentStage,
    /// The new primary took writes before all this, and an operator forced that.
    pub target_was_writable: bool,
}

/// How far a switchover is that the state file knows of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IntentStage {
    /// The old pair is active, and its primary may have been fenced.
    Prepared,
    /// The old primary was fenced at this position, in its own words, and the new one has all of it.
    Promoting { position: String },
}
