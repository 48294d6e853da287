//! Fencing: making one server refuse writes, or take them, and seeing that it does.
//!
//! What is not seen is not claimed: an answer says read-only or writable only after `@@read_only` has been read back.

use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use pairflip_policy::{FenceError, FenceFault, Fenced};
use tokio::time::sleep;

use super::{Server, Session, fault};
use crate::check::{dialect::Dialect, failure};

/// Longest wait of a statement for locks, in seconds, the shortest that servers know: `SET GLOBAL read_only` waits for
/// statements that write, and holds up all others meanwhile.
const LOCK_WAIT_S: u32 = 1;

/// Longest try to end a statement that was not answered.
const ENDING: Duration = Duration::from_millis(1500);

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

/// Makes a server read-only. It may be writable all the same if it does not answer, and read-only all the same if the error is
/// [`FenceFault::Unknown`].
pub async fn fence(server: &Server, timeout: Duration) -> Result<Fenced, FenceError> {
    let session = Session::open(server, timeout).await?;
    let id = session.conn.id();
    let result = session
        .work(async |session| {
            limit_waiting(session).await?;
            let (before, dialect) = session.facts().await?;
            let told = change(session, fence_statement(dialect)).await;
            match (told, read_only(session).await?) {
                (Ok(()), true) => Ok(Fenced { was_read_only: before.read_only }),
                (Ok(()), false) => Err(said_otherwise("writable after it was made read-only")),
                // MySQL turns read_only on before it turns super_read_only on, which may not succeed.
                (Err(error), true) if !before.read_only => {
                    Err(FenceError { fault: FenceFault::Unknown, ..error })
                }
                (Err(error), _) => Err(error),
            }
        })
        .await;
    if matches!(&result, Err(FenceError { fault: FenceFault::Unknown, .. })) {
        end_statement(server, id).await;
    }
    result
}

/// Ends a statement that may still wait for a lock, so that it cannot come after what makes up for it.
async fn end_statement(server: &Server, id: u32) {
    let ending = async {
        let session = Session::open(server, ENDING).await?;
        session
            .work(async |session| {
                let count =
                    format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {id}");
                // It may have ended by itself.
                _ = session.conn.query_drop(format!("KILL CONNECTION {id}")).await;
                while session.conn.query_first::<u64, _>(&count).await.ok().flatten() != Some(0) {
                    sleep(ENDING / 50).await;
                }
                Ok(())
            })
            .await
    };
    if let Err(error) = ending.await {
        tracing::warn!(server = %server.address, error = error.text, "a statement that was to make it read-only may still wait there (SHOW PROCESSLIST)");
    }
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
            let told = change(session, UNFENCE).await;
            match (told, read_only(session).await?) {
                // Whoever did it.
                (_, false) => Ok(()),
                (Ok(()), true) => Err(said_otherwise("read-only after it was made writable")),
                (Err(error), true) => Err(error),
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

/// Asks a server that was told something. Without an answer nobody knows what came of it.
async fn read_only(session: &mut Session) -> Result<bool, FenceError> {
    let asked = session.facts().await;
    let unknown = |error| FenceError { fault: FenceFault::Unknown, ..error };
    asked.map(|(facts, _)| facts.read_only).map_err(unknown)
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

fn said_otherwise(what: &str) -> FenceError {
    FenceError { fault: FenceFault::Refused, text: format!("it says that it is {what}") }
}
