//! Survey: what both primaries say before anything is changed.

use std::time::Duration;

use super::StepFailure;
use crate::input::Channel;

/// The answers of both primaries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Survey {
    pub from: Result<PrimaryFacts, StepFailure>,
    pub to: Result<PrimaryFacts, StepFailure>,
}

/// What one primary says. What does not apply to it is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PrimaryFacts {
    pub read_only: bool,
    /// In its own words; for people.
    pub position: String,
    /// Statements that would give the check user what it lacks.
    pub missing_grants: Vec<String>,
    /// Prepared XA transactions, as `XA RECOVER` names them. They can be committed on a fenced server.
    pub xa_prepared: Vec<String>,
    /// Of clients.
    pub transactions: Vec<OpenTransaction>,
    /// Who holds tables locked (`LOCK TABLES`, `FLUSH TABLES WITH READ LOCK`).
    pub table_locks: Vec<String>,
    /// How it replicates from the other primary; `None` if it does not.
    pub replication: Option<Channel>,
    /// Transactions that it has and the other one lacks; asked of the new primary.
    pub errant: Option<String>,
    /// Sessions that a fence does not stop.
    pub privileged: Vec<String>,
    /// The statement without which it does not tell who those are.
    pub privileged_unseen: Option<String>,
    /// What its sessions may hide from us, and why.
    pub blind: Option<String>,
}

/// A transaction that was open when we asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenTransaction {
    /// Session and client.
    pub who: String,
    pub age: Duration,
    /// Its last statement, or what is known of it.
    pub what: String,
}
