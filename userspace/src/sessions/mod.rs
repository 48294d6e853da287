//! Sessions: what the connections of one server are doing, seen from a connection of our own, and ending one of them.
//!
//! One connection per server, beside the checks' own, with a time limit on everything. What a server lets us see is found out once per
//! connection ([`Sight`]); what it does not show is never taken for idle. Nothing here decides which session is to end, and no session is
//! ended whose client address is not the one that was asked for.

mod activity;
mod host;
mod query;
mod sight;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mysql_async::{Conn, Row, prelude::Queryable as _};
use pairflip_policy::CheckFailure;
use tokio::time::{Instant, timeout_at};

pub use self::{
    activity::{Activity, Last, Seen},
    sight::{Schema, Sight},
};
use self::{host::Names, query::Listed};
use crate::{
    check::{failure, mysql::opts},
    config::Login,
};

/// ER_NO_SUCH_THREAD: it ended by itself.
const NO_SUCH_THREAD: u16 = 1094;
/// ER_KILL_DENIED_ERROR: it is of an account with SYSTEM_USER, or we lack the privilege.
const KILL_DENIED: u16 = 1095;

/// Why nothing is known of a server's sessions.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The account lacks privileges.
    #[error("the check account may not look at sessions and end them; run on the server: {}", .0.join(" "))]
    NotAllowed(Vec<String>),
    /// The server does not record what is needed.
    #[error("the server does not record transactions and locks; {0}")]
    NotRecorded(String),
    /// It could not be asked; trying again may help.
    #[error("{}", .0.text)]
    Failed(CheckFailure),
}

/// What became of a session that was to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Killed {
    Done,
    /// It had ended by itself, or is another client's by now.
    Gone,
    /// The server refuses: an account with SYSTEM_USER.
    Refused,
}

/// Looks at the sessions of one server.
#[derive(Debug)]
pub struct Sessions {
    target: SocketAddr,
    account: Arc<Login>,
    /// Longest that one call takes.
    timeout: Duration,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    conn: Box<Conn>,
    sight: Sight,
    names: Names,
    /// Which session is whose; ids are not used again while a server runs.
    ids: BTreeMap<SocketAddr, Listed>,
    looks: u64,
    unrecorded: query::Unrecorded,
}

/// Returns what a server shows of its sessions to an account, which may end them.
///
/// # Errors
/// As [`Sessions::open`].
pub async fn sight_of(
    target: SocketAddr,
    account: Arc<Login>,
    timeout: Duration,
) -> Result<Sight, Error> {
    let sessions = Sessions::open(target, account, timeout).await?;
    let sight = sessions.sight();
    sessions.close().await;
    // It has just been found.
    Ok(sight.unwrap_or(Sight::Partial { locks: false }))
}

impl Sessions {
    /// Logs in and finds out what the server shows. Each call takes `timeout` at most.
    ///
    /// # Errors
    /// If the account may not look or end, the server does not record what is needed, or it cannot be asked.
    pub async fn open(
        target: SocketAddr,
        account: Arc<Login>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let mut sessions = Self { target, account, timeout, link: None };
        let deadline = Instant::now() + timeout;
        sessions.link = Some(sessions.log_in(deadline).await?);
        Ok(sessions)
    }

    /// Gives later calls another time; a login that they need has the same.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns what the server shows; `None` after its connection was lost.
    #[must_use]
    pub fn sight(&self) -> Option<Sight> {
        self.link.as_ref().map(|link| link.sight)
    }

    /// Returns what the sessions of these clients are doing, as the server sees their addresses. Every end has an answer.
    ///
    /// The answer is of one moment: only a session whose client cannot speak (a held flow) is still as it was seen.
    ///
    /// # Errors
    /// If the server could not be asked within the time; the next call logs in anew.
    pub async fn look(&mut self, ends: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, Seen>, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut link = self.take_link(deadline).await?;
        let asked = timeout_at(deadline, link.look(ends)).await;
        let seen = asked.map_err(|_elapsed| self.timed_out("looking at sessions"))??;
        self.link = Some(link);
        Ok(seen)
    }

    /// Ends the session that was seen at `end`; its client sees the connection close, at once.
    ///
    /// # Errors
    /// If the server could not be asked within the time. The session may have ended all the same.
    pub async fn kill(&mut self, end: SocketAddr) -> Result<Killed, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut link = self.take_link(deadline).await?;
        let asked = timeout_at(deadline, link.kill(end)).await;
        let killed = asked.map_err(|_elapsed| self.timed_out("ending a session"))??;
        self.link = Some(link);
        Ok(killed)
    }

    /// Says goodbye, so that the server counts no aborted connection.
    pub async fn close(mut self) {
        let Some(link) = self.link.take() else { return };
        let deadline = Instant::now() + self.timeout;
        if let Ok(Err(error)) = timeout_at(deadline, link.conn.disconnect()).await {
            tracing::debug!(%error, server = %self.target, "closing the connection that looked at sessions");
        }
    }

    /// A call that is abandoned half-way leaves none behind: half an answer may be on it.
    async fn take_link(&mut self, deadline: Instant) -> Result<Link, Error> {
        match self.link.take() {
            Some(link) => Ok(link),
            None => self.log_in(deadline).await,
        }
    }

    async fn log_in(&self, deadline: Instant) -> Result<Link, Error> {
        let logging_in = async {
            let conn = Conn::new(opts(self.target, &self.account)).await;
            let mut conn = Box::new(conn.map_err(|error| lost(&error))?);
            let (sight, names) = sight::find(&mut conn, self.target, self.timeout).await?;
            Ok(Link {
                conn,
                sight,
                names,
                ids: BTreeMap::new(),
                looks: 0,
                unrecorded: query::Unrecorded::default(),
            })
        };
        match timeout_at(deadline, logging_in).await {
            Ok(link) => link,
            Err(_elapsed) => Err(self.timed_out("logging in to look at sessions")),
        }
    }

    fn timed_out(&self, doing: &str) -> Error {
        let cause = pairflip_policy::Cause::TimedOut;
        let text = format!("{doing}: no answer within {:?}", self.timeout);
        Error::Failed(CheckFailure { cause, text })
    }
}

impl Link {
    async fn look(&mut self, ends: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, Seen>, Error> {
        if ends.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut ambiguous = BTreeSet::new();
        if ends.iter().any(|end| !self.ids.contains_key(end)) {
            ambiguous = self.find(ends).await?;
        }
        let ids: Vec<u64> = ends.iter().filter_map(|end| Some(self.ids.get(end)?.id)).collect();
        let mut rows = self.rows(&ids).await?;
        let mut seen = BTreeMap::new();
        for end in ends {
            let row = self
                .ids
                .get(end)
                .and_then(|known| rows.remove(&known.id).filter(|row| row.host == known.host));
            let found = match row {
                Some(row) => row.seen(),
                None if ambiguous.contains(end) => Seen::nobody(Activity::Ambiguous),
                None => {
                    self.ids.remove(end);
                    Seen::nobody(Activity::Absent)
                }
            };
            seen.insert(*end, found);
        }
        Ok(seen)
    }

    /// Finds out which session belongs to which of these ends; returns the ends for which that cannot be told. What is known of others stays,
    /// as long as their sessions do.
    async fn find(&mut self, ends: &[SocketAddr]) -> Result<BTreeSet<SocketAddr>, Error> {
        let rows: Vec<(u64, String)> =
            self.conn.query(self.sight.list_query()).await.map_err(|error| lost(&error))?;
        let listed: Vec<Listed> = rows.into_iter().map(|(id, host)| Listed { id, host }).collect();
        let there: BTreeSet<u64> = listed.iter().map(|session| session.id).collect();
        self.ids.retain(|end, known| there.contains(&known.id) && !ends.contains(end));
        let mut ambiguous = BTreeSet::new();
        for end in ends {
            match self.names.find(&mut self.conn, *end, &listed).await.map_err(|e| lost(&e))? {
                host::Found::Session(session) => _ = self.ids.insert(*end, session),
                host::Found::Nobody => {}
                host::Found::Ambiguous => _ = ambiguous.insert(*end),
            }
        }
        Ok(ambiguous)
    }

    /// What sessions are doing, by id.
    async fn rows(&mut self, ids: &[u64]) -> Result<BTreeMap<u64, activity::SessionRow>, Error> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.looks += 1;
        let rows = match self.sight {
            Sight::Full(schema) => {
                let sql = query::look(schema, ids);
                let rows: Vec<Row> = self.conn.query(sql).await.map_err(|e| lost(&e))?;
                let mut rows: Vec<_> = rows.iter().map(activity::SessionRow::recorded).collect();
                if let Schema::Information { is_mariadb: true } = schema {
                    let unrecorded = self.unrecorded.among(&mut self.conn, ids).await;
                    let unrecorded = unrecorded.map_err(|e| lost(&e))?;
                    rows.iter_mut().for_each(|row| row.in_innodb = unrecorded.contains(&row.id));
                }
                rows
            }
            Sight::Partial { locks } => query::partial(&mut self.conn, ids, locks, self.looks)
                .await
                .map_err(|e| lost(&e))?,
        };
        Ok(rows.into_iter().map(|row| (row.id, row)).collect())
    }

    async fn kill(&mut self, end: SocketAddr) -> Result<Killed, Error> {
        // The connection to the server may be another one than that by which the session was found.
        if !self.ids.contains_key(&end) && self.find(&[end]).await?.contains(&end) {
            let text = format!("the session of {end} is not told apart from others");
            return Err(Error::Failed(CheckFailure { cause: pairflip_policy::Cause::Local, text }));
        }
        let Some(session) = self.ids.remove(&end) else { return Ok(Killed::Gone) };
        match self.conn.query_drop(format!("KILL CONNECTION {}", session.id)).await {
            Ok(()) => Ok(Killed::Done),
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_THREAD => {
                Ok(Killed::Gone)
            }
            Err(mysql_async::Error::Server(error)) if error.code == KILL_DENIED => {
                Ok(Killed::Refused)
            }
            Err(error) => Err(lost(&error)),
        }
    }
}

fn lost(error: &mysql_async::Error) -> Error {
    Error::Failed(failure(error))
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "ended",
            Self::Gone => "had ended by itself",
            Self::Refused => {
                "is of an account with SYSTEM_USER, which the check account may not end"
            }
        })
    }
}
