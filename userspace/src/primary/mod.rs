//! What is done to primaries in a switchover and in a failover: fencing, looking, catching up.
//!
//! Each piece of work has a connection of its own, beside the checks, and one deadline. Nothing here decides what should be done.

mod catch_up;
mod fence;
mod plan;
mod position;
mod survey;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mysql_async::{Conn, Row, prelude::Queryable as _};
use pairflip_policy::{CheckFailure, Facts, FenceError, FenceFault, StepFailure, StepFault};
use tokio::time::{Instant, timeout_at};

pub use self::{
    catch_up::{catch_up, final_catch_up, reach},
    fence::{Applied, fence, unfence},
    plan::{Speaker, statements},
    survey::survey,
};
use crate::{
    check::{
        dialect::{Cell, Dialect, cells},
        failure,
        mysql::{introduce, opts},
    },
    config::Login,
};

/// A primary, and who may tell it what to do.
#[derive(Clone, Debug)]
pub struct Server {
    pub address: SocketAddr,
    pub account: Arc<Login>,
}

/// A connection to a primary, good until its deadline.
struct Session {
    conn: Conn,
    address: SocketAddr,
    deadline: Instant,
    timeout: Duration,
}

impl Session {
    /// Logs in. A server that does not let anybody in before the deadline may be dead; one that says no is not.
    async fn open(server: &Server, timeout: Duration) -> Result<Self, FenceError> {
        let Server { address, account } = server;
        let deadline = Instant::now() + timeout;
        let error = |fault, text| FenceError { fault, text };
        match timeout_at(deadline, Conn::new(opts(*address, account))).await {
            Ok(Ok(conn)) => Ok(Self { conn, address: *address, deadline, timeout }),
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
                let text = format!("logging in: no answer within {timeout:?}");
                Err(error(FenceFault::Unreachable, text))
            }
        }
    }

    /// Works until the deadline, after which nobody knows what was done of it; then says goodbye, so that the server does not count
    /// an aborted connection.
    async fn work<T>(
        mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, FenceError>,
    ) -> Result<T, FenceError> {
        let (deadline, timeout) = (self.deadline, self.timeout);
        let result = timeout_at(deadline, work(&mut self)).await.unwrap_or_else(|_elapsed| {
            let text = format!("no answer within {timeout:?}; it may have been done");
            Err(FenceError { fault: FenceFault::Unknown, text })
        });
        self.close().await;
        result
    }

    /// As [`Session::work`], for work that changes nothing.
    async fn look<T>(
        mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, StepFailure>,
    ) -> Result<T, StepFailure> {
        let (address, deadline, timeout) = (self.address, self.deadline, self.timeout);
        let result = timeout_at(deadline, work(&mut self)).await.unwrap_or_else(|_elapsed| {
            let text = format!("{address}: no answer within {timeout:?}");
            Err(StepFailure { fault: StepFault::TimedOut, text })
        });
        self.close().await;
        result
    }

    async fn close(self) {
        // One that does not listen is none the worse.
        if let Ok(Err(error)) = timeout_at(self.deadline, self.conn.disconnect()).await {
            tracing::debug!(%error, "closing a connection to a primary");
        }
    }

    /// What the server says about itself.
    async fn facts(&mut self) -> Result<(Facts, Dialect), FenceError> {
        introduce(&mut self.conn).await.map_err(|failure| lost(&failure))
    }

    async fn run(&mut self, statement: &str) -> Result<(), FenceError> {
        self.conn.query_drop(statement).await.map_err(|error| lost(&failure(&error)))
    }

    async fn rows(&mut self, query: &str) -> Result<Vec<Vec<Cell>>, FenceError> {
        let rows: Vec<Row> =
            self.conn.query(query).await.map_err(|error| lost(&failure(&error)))?;
        Ok(rows.iter().map(cells).collect())
    }
}

fn lost(failure: &CheckFailure) -> FenceError {
    FenceError { fault: fault(failure.cause.may_take_down()), text: failure.text.clone() }
}

/// What is known after a session was lost, or the server said no.
const fn fault(is_lost: bool) -> FenceFault {
    if is_lost { FenceFault::Unknown } else { FenceFault::Refused }
}

/// Why nothing was found out; nothing was changed either.
fn unseen(server: &Server, error: FenceError) -> StepFailure {
    let fault = match error.fault {
        FenceFault::Unreachable | FenceFault::Unknown => StepFault::Unreachable,
        FenceFault::Refused | FenceFault::NotApplied => StepFault::Refused,
    };
    StepFailure { fault, text: format!("{}: {}", server.address, error.text) }
}

/// Why a server was not fenced or not unfenced.
pub fn unchanged(server: SocketAddr, error: FenceError) -> StepFailure {
    let fault = match error.fault {
        FenceFault::Unreachable => StepFault::Unreachable,
        FenceFault::Unknown => StepFault::Unknown,
        FenceFault::Refused | FenceFault::NotApplied => StepFault::Refused,
    };
    StepFailure { fault, text: format!("{server}: {}", error.text) }
}
