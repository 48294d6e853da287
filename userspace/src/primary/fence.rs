//! Fencing: making one server refuse writes, or take them, and seeing that it does.
//!
//! What is not seen is not claimed: an answer says read-only or writable only after `@@read_only` has been read back.

use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use pairflip_policy::{FenceError, FenceFault, Fenced};

use super::{Server, Session, fault};
use crate::check::{dialect::Dialect, failure};

/// Longest wait of a statement for locks, in seconds, the shortest that servers know: `SET GLOBAL read_only` waits for
/// statements that write, and holds up all others meanwhile.
const LOCK_WAIT_S: u32 = 1;

/// ER_LOCK_WAIT_TIMEOUT.
const LOCK_WAIT_TIMED_OUT: u16 = 1205;
/// ER_SPECIFIC_ACCESS_DENIED_ERROR.
const PRIVILEGE_MISSING: u16 = 1227;

/// Makes a server writable; turns `super_read_only` off with it.
pub(super) const UNFENCE: &str = "SET GLOBAL read_only = 0";

/// Whether an unfenced server must have applied all that it received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applied {
    Required,
    NotRequired,
}

/// Makes a server read-only. It may be writable all the same if it does not answer.
pub async fn fence(server: &Server, timeout: Duration) -> Result<Fenced, FenceError> {
    let session = Session::open(server, timeout).await?;
    session
        .work(async |session| {
            limit_waiting(session).await?;
            let (before, dialect) = session.facts().await?;
            change(session, fence_statement(dialect)).await?;
            match session.facts().await?.0.read_only {
                true => Ok(Fenced { was_read_only: before.read_only }),
                false => Err(unchanged("it says that it is writable after it was made read-only")),
            }
        })
        .await
}

/// Makes a server writable. It may be so all the same if the error is [`FenceFault::Unknown`].
pub async fn unfence(
    server: &Server,
    timeout: Duration,
    applied: Applied,
) -> Result<(), FenceError> {
    let session = Session::open(server, timeout).await?;
    session
        .work(async |session| {
            limit_waiting(session).await?;
            if applied == Applied::Required {
                all_applied(session).await?;
            }
            change(session, UNFENCE).await?;
            match session.facts().await?.0.read_only {
                false => Ok(()),
                true => Err(unchanged("it says that it is read-only after it was made writable")),
            }
        })
        .await
}

/// MySQL's own word keeps administrators out, too, and turns `read_only` on with it. MariaDB does not know it.
pub(super) const fn fence_statement(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::MariaDb => "SET GLOBAL read_only = 1",
        Dialect::MySqlOld | Dialect::MySql80 | Dialect::MySql => "SET GLOBAL super_read_only = 1",
    }
}

async fn limit_waiting(session: &mut Session) -> Result<(), FenceError> {
    session.run(&format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")).await
}

async fn all_applied(session: &mut Session) -> Result<(), FenceError> {
    let (facts, _) = session.facts().await?;
    let missing = facts.replication.iter().find(|channel| channel.upstream.applied != Some(true));
    match missing {
        None => Ok(()),
        Some(channel) => Err(FenceError {
            fault: FenceFault::NotApplied,
            text: format!(
                "it has not applied all that it received from {}",
                channel.upstream.address
            ),
        }),
    }
}

async fn change(session: &mut Session, statement: &str) -> Result<(), FenceError> {
    let Err(error) = session.conn.query_drop(statement).await else { return Ok(()) };
    let failure = failure(&error);
    let code = if let mysql_async::Error::Server(error) = &error { error.code } else { 0 };
    let hint = match code {
        PRIVILEGE_MISSING => {
            "; grant the check user READ_ONLY ADMIN on MariaDB, SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN on MySQL"
        }
        LOCK_WAIT_TIMED_OUT => {
            "; a statement that writes, LOCK TABLES or FLUSH TABLES WITH READ LOCK is in the way (SHOW PROCESSLIST)"
        }
        _ => "",
    };
    let text = if hint.is_empty() { failure.text } else { format!("`{statement}`: {error}{hint}") };
    Err(FenceError { fault: fault(failure.cause.may_take_down()), text })
}

fn unchanged(text: &str) -> FenceError {
    FenceError { fault: FenceFault::Refused, text: text.to_owned() }
}
