//! Fencing: making one server refuse writes, or take them, and seeing that it does.
//!
//! One connection of its own, one overall deadline. Nothing here decides whether a server should be fenced. What is not seen
//! is not claimed: an answer says read-only or writable only after `@@read_only` has been read back.

use std::{net::SocketAddr, time::Duration};

use mysql_async::{Conn, prelude::Queryable as _};
use pairflip_policy::{CheckFailure, Facts, FenceError, FenceFault, Fenced};
use tokio::time::{Instant, timeout_at};

use crate::{
    check::{
        dialect::Dialect,
        failure,
        mysql::{introduce, opts},
    },
    config::Login,
};

/// Longest wait of a statement for locks, in seconds, the shortest that servers know: `SET GLOBAL read_only` waits for
/// statements that write, and holds up all others meanwhile.
const LOCK_WAIT_S: u32 = 1;

/// Whether an unfenced server must have applied all that it received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applied {
    Required,
    NotRequired,
}

/// Makes a server read-only. It may be writable all the same if it does not answer.
pub async fn fence(
    target: SocketAddr,
    account: &Login,
    timeout: Duration,
) -> Result<Fenced, FenceError> {
    let deadline = Instant::now() + timeout;
    let mut conn = login(target, account, deadline, timeout).await?;
    let done = within(deadline, timeout, async {
        prepare(&mut conn).await?;
        let (before, dialect) = facts(&mut conn).await?;
        // MySQL's own word keeps administrators out, too, and turns read_only on with it. MariaDB does not know it.
        let statement = match dialect {
            Dialect::MariaDb => "SET GLOBAL read_only = 1",
            Dialect::MySqlOld | Dialect::MySql80 | Dialect::MySql => {
                "SET GLOBAL super_read_only = 1"
            }
        };
        conn.query_drop(statement).await.map_err(|e| refused(&e))?;
        match facts(&mut conn).await?.0.read_only {
            true => Ok(Fenced { was_read_only: before.read_only }),
            false => Err(unchanged("it says that it is writable after it was made read-only")),
        }
    });
    let result = done.await;
    close(conn, deadline).await;
    result
}

/// Makes a server writable. It may be so all the same if the error is [`FenceFault::Unknown`].
pub async fn unfence(
    target: SocketAddr,
    account: &Login,
    timeout: Duration,
    applied: Applied,
) -> Result<(), FenceError> {
    let deadline = Instant::now() + timeout;
    let mut conn = login(target, account, deadline, timeout).await?;
    let done = within(deadline, timeout, async {
        prepare(&mut conn).await?;
        if applied == Applied::Required {
            all_applied(&mut conn).await?;
        }
        // Turns super_read_only off with it.
        conn.query_drop("SET GLOBAL read_only = 0").await.map_err(|e| refused(&e))?;
        match facts(&mut conn).await?.0.read_only {
            false => Ok(()),
            true => Err(unchanged("it says that it is read-only after it was made writable")),
        }
    });
    let result = done.await;
    close(conn, deadline).await;
    result
}

/// Logs in. A server that does not let anybody in before the deadline may be dead; one that says no is not.
async fn login(
    target: SocketAddr,
    account: &Login,
    deadline: Instant,
    timeout: Duration,
) -> Result<Conn, FenceError> {
    let error = |fault, text| FenceError { fault, text };
    match timeout_at(deadline, Conn::new(opts(target, account))).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(reason)) => {
            let failure = failure(&reason);
            let fault = if failure.cause.may_take_down() {
                FenceFault::Unreachable
            } else {
                FenceFault::Refused
            };
            Err(error(fault, failure.text))
        }
        Err(_elapsed) => {
            Err(error(FenceFault::Unreachable, format!("logging in: no answer within {timeout:?}")))
        }
    }
}

/// Runs the rest of the work until the deadline, after which nobody knows what was done of it.
async fn within<T>(
    deadline: Instant,
    timeout: Duration,
    work: impl Future<Output = Result<T, FenceError>>,
) -> Result<T, FenceError> {
    timeout_at(deadline, work).await.unwrap_or_else(|_elapsed| {
        let text = format!("no answer within {timeout:?}; it may have been done");
        Err(FenceError { fault: FenceFault::Unknown, text })
    })
}

async fn prepare(conn: &mut Conn) -> Result<(), FenceError> {
    let statement = format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}");
    conn.query_drop(statement).await.map_err(|e| refused(&e))
}

async fn facts(conn: &mut Conn) -> Result<(Facts, Dialect), FenceError> {
    let lost = |failure: CheckFailure| FenceError {
        fault: fault(failure.cause.may_take_down()),
        text: failure.text,
    };
    introduce(conn).await.map_err(lost)
}

async fn all_applied(conn: &mut Conn) -> Result<(), FenceError> {
    let (facts, _) = facts(conn).await?;
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

fn refused(error: &mysql_async::Error) -> FenceError {
    let failure = failure(error);
    let text = if matches!(error, mysql_async::Error::Server(server) if server.code == 1227) {
        format!(
            "{error}; grant the check user READ_ONLY ADMIN on MariaDB, SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN on MySQL"
        )
    } else {
        failure.text
    };
    FenceError { fault: fault(failure.cause.may_take_down()), text }
}

/// What is known after a session was lost, or the server said no.
const fn fault(is_lost: bool) -> FenceFault {
    if is_lost { FenceFault::Unknown } else { FenceFault::Refused }
}

fn unchanged(text: &str) -> FenceError {
    FenceError { fault: FenceFault::Refused, text: text.to_owned() }
}

/// Says goodbye, so that the server does not count an aborted connection. One that does not listen is none the worse.
async fn close(conn: Conn, deadline: Instant) {
    if let Ok(Err(error)) = timeout_at(deadline, conn.disconnect()).await {
        tracing::debug!(%error, "closing a connection to a server that was fenced or unfenced");
    }
}
