//! Plan: what a switchover would say to which primary, for people to read beforehand.

use std::net::SocketAddr;

use pairflip_policy::SwitchoverStep;

use super::fence::{UNFENCE, fence_statement};
use crate::check::dialect::Dialect;

/// A primary, and how it speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Speaker {
    pub address: SocketAddr,
    pub(super) dialect: Dialect,
}

impl Speaker {
    /// `version` is what the server says of itself; the newest MySQL is assumed where it says nothing.
    #[must_use]
    pub fn new(address: SocketAddr, version: &str) -> Self {
        Self { address, dialect: Dialect::of(version, "") }
    }
}

/// Returns which server is told or asked what in a step, in order, as short as a person wants it: several of these are asked in one query.
#[must_use]
pub fn statements(step: SwitchoverStep, from: Speaker, to: Speaker) -> Vec<(SocketAddr, String)> {
    let look = |server: Speaker| (server.address, server.dialect.position_query().to_owned());
    let channel = |server: Speaker| (server.address, server.dialect.replication_query().to_owned());
    let seen = |server: Speaker| (server.address, "SELECT @@global.read_only".to_owned());
    match step {
        SwitchoverStep::CatchUp => vec![look(from), look(to), channel(to)],
        SwitchoverStep::Fence => {
            vec![(from.address, fence_statement(from.dialect).to_owned()), seen(from)]
        }
        SwitchoverStep::FinalCatchUp => {
            vec![look(from), look(from), look(to), channel(to), look(from)]
        }
        SwitchoverStep::Unfence => vec![(to.address, UNFENCE.to_owned()), seen(to)],
        SwitchoverStep::EndSessions => {
            vec![(from.address, "KILL CONNECTION of each session that came through us".to_owned())]
        }
        SwitchoverStep::Verify => vec![channel(from)],
        SwitchoverStep::Survey
        | SwitchoverStep::Prepare
        | SwitchoverStep::Pause
        | SwitchoverStep::Settle
        | SwitchoverStep::Commit
        | SwitchoverStep::Open
        | SwitchoverStep::Release
        | SwitchoverStep::Finish
        | SwitchoverStep::Undo
        | SwitchoverStep::Resume => Vec::new(),
    }
}
