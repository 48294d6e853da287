//! One probe of one MySQL or MariaDB server: connect if need be, ask, return what was found.
//!
//! Keeps at most one connection per backend. Connections that are opened and dropped without
//! logging in count against `max_connect_errors` on the server and lock the prober out, so a login
//! that is under way is carried over to the next probe instead of being abandoned at every timeout.

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use mysql_async::{Conn, Opts, OptsBuilder, Row, prelude::Queryable};
use pairflip_policy::{Cause, CheckFailure, CheckResult, Facts};
use tokio::time::{Instant, timeout_at};

use super::{
    cause::{failure, timed_out},
    dialect::{Dialect, STATE_QUERY, State, channels, own_log_position},
};

/// A login older than this is given up for a fresh one.
///
/// A server that was stopped and continued answers the waiting one; a host that was rebooted never
/// does. At one per 5 s a server has to hang for 500 s before `max_connect_errors` (default 100) is
/// reached.
const LOGIN_AGE_MAX: Duration = Duration::from_secs(5);

/// Bounds how long the driver's clean-up of an abandoned connection can wait for a dead host.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The default of every server version; given so that the driver does not spend a query on asking.
const ALLOWED_PACKET_MAX_BYTES: usize = 16 << 20;
/// As above; a connection that the server closed earlier is noticed and replaced.
const WAIT_TIMEOUT_S: usize = 28_800;

type Login = Pin<Box<dyn Future<Output = mysql_async::Result<Conn>> + Send>>;

/// Who asks.
#[derive(Clone)]
pub struct Account {
    user: String,
    password: String,
}

impl Account {
    #[must_use]
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How a server is connected to.
pub(crate) fn opts(target: SocketAddr, account: &Account) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname(target.ip().to_string())
        .tcp_port(target.port())
        .user(Some(&account.user))
        .pass(Some(&account.password))
        // On loopback the driver would change over to the server's unix socket and never see
        // the port fail.
        .prefer_socket(false)
        .tcp_keepalive(Some(KEEPALIVE))
        .max_allowed_packet(Some(ALLOWED_PACKET_MAX_BYTES))
        .wait_timeout(Some(WAIT_TIMEOUT_S))
        .stmt_cache_size(0)
        .into()
}

/// Asks one server, over one connection that it keeps.
pub struct Prober {
    target: SocketAddr,
    opts: Opts,
    timeout: Duration,
    grants: Grants,
    link: Link,
}

/// Whether the account's privileges are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Grants {
    NotAsked,
    /// Until they are enough: nobody takes them away without being noticed when they are needed.
    Asked {
        may_fence: Option<bool>,
    },
}

/// What is between us and the server.
enum Link {
    Closed,
    LoggingIn { login: Login, since: Instant },
    Open { conn: Box<Conn>, dialect: Option<Dialect> },
}

impl Prober {
    /// Does no I/O yet.
    #[must_use]
    pub fn new(target: SocketAddr, user: &str, password: &str, timeout: Duration) -> Self {
        let opts = opts(target, &Account::new(user, password));
        Self { target, opts, timeout, grants: Grants::NotAsked, link: Link::Closed }
    }

    /// Asks as well whether the account may change `read_only`, which a failover needs.
    #[must_use]
    pub fn asking_for_grants(mut self) -> Self {
        self.grants = Grants::Asked { may_fence: None };
        self
    }

    /// Returns the server that is probed.
    #[must_use]
    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Closes the kept connection.
    pub fn disconnect(&mut self) {
        self.link = Link::Closed;
    }

    /// Returns what the server says, or why it says nothing, after `timeout` at the latest.
    ///
    /// A kept connection that turns out to be gone is no failure: the server may have restarted or
    /// cut idle sessions. Then a fresh login decides.
    pub async fn probe(&mut self) -> CheckResult {
        let deadline = Instant::now() + self.timeout;
        let is_kept = matches!(self.link, Link::Open { .. });
        let mut result = self.attempt(deadline).await;
        if is_kept && matches!(&result, Err(failure) if failure.cause == Cause::ConnectionLost) {
            result = self.attempt(deadline).await;
        }
        match result {
            Ok(facts) => CheckResult::Answered(facts),
            Err(failure) => CheckResult::Failed(failure),
        }
    }

    async fn attempt(&mut self, deadline: Instant) -> Result<Facts, CheckFailure> {
        let (mut conn, dialect) = self.connection(deadline).await?;
        let grants = self.grants;
        let asking = async {
            let (mut facts, dialect) = ask(&mut conn, dialect).await?;
            facts.may_fence = match grants {
                Grants::NotAsked => None,
                Grants::Asked { may_fence: Some(true) } => Some(true),
                Grants::Asked { .. } => may_fence(&mut conn, dialect).await?,
            };
            Ok((facts, dialect))
        };
        match timeout_at(deadline, guarded(asking)).await {
            // A connection with half an answer on it is of no use: it is dropped unless everything
            // was read.
            Err(_elapsed) => Err(timed_out("asking", self.timeout)),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok((facts, dialect))) => {
                if let Grants::Asked { may_fence } = &mut self.grants {
                    *may_fence = facts.may_fence;
                }
                self.link = Link::Open { conn, dialect: Some(dialect) };
                Ok(facts)
            }
        }
    }

    /// Takes the kept connection, or logs in.
    async fn connection(
        &mut self,
        deadline: Instant,
    ) -> Result<(Box<Conn>, Option<Dialect>), CheckFailure> {
        let (mut login, since) = match std::mem::replace(&mut self.link, Link::Closed) {
            Link::Open { conn, dialect } => return Ok((conn, dialect)),
            Link::LoggingIn { login, since } => (login, since),
            Link::Closed => (Conn::new(self.opts.clone()) as Login, Instant::now()),
        };
        let outcome = timeout_at(
            deadline,
            guarded(async { login.as_mut().await.map_err(|error| failure(&error)) }),
        )
        .await;
        match outcome {
            Ok(conn) => Ok((Box::new(conn?), None)),
            Err(_elapsed) => {
                if since.elapsed() < LOGIN_AGE_MAX {
                    self.link = Link::LoggingIn { login, since };
                }
                Err(timed_out("logging in", self.timeout))
            }
        }
    }
}

/// Asks everything: two queries, one more on a new connection, and one more where there are no GTIDs.
pub(crate) async fn ask(
    conn: &mut Conn,
    dialect: Option<Dialect>,
) -> Result<(Facts, Dialect), CheckFailure> {
    let dialect = match dialect {
        Some(dialect) => dialect,
        None => {
            let state = state(conn, STATE_QUERY).await?;
            Dialect::of(&state.version, &state.comment)
        }
    };
    let State { read_only, server_id, version, position, .. } =
        state(conn, dialect.state_query()).await?;
    let rows: Vec<Row> = conn.query(dialect.replication_query()).await.map_err(|e| failure(&e))?;
    let replication = channels(dialect, &rows)?;
    let position =
        if position.is_empty() { log_position(conn, dialect).await? } else { Some(position) };
    let facts = Facts { read_only, server_id, version, replication, position, may_fence: None };
    Ok((facts, dialect))
}

async fn state(conn: &mut Conn, query: &str) -> Result<State, CheckFailure> {
    let row: Option<Row> = conn.query_first(query).await.map_err(|e| failure(&e))?;
    State::read(row.as_ref())
}

/// Returns whether the account may change `read_only`; `None` if it cannot be told.
async fn may_fence(conn: &mut Conn, dialect: Dialect) -> Result<Option<bool>, CheckFailure> {
    match conn.query::<String, _>("SHOW GRANTS").await {
        Ok(grants) => Ok(dialect.may_fence(&grants)),
        Err(mysql_async::Error::Server(_)) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}

/// Returns where the server's own log ends. An account that may not ask for it is as good as any other.
async fn log_position(conn: &mut Conn, dialect: Dialect) -> Result<Option<String>, CheckFailure> {
    match conn.query_first::<Row, _>(dialect.log_position_query()).await {
        Ok(row) => Ok(row.as_ref().and_then(own_log_position).map(|place| place.to_string())),
        Err(mysql_async::Error::Server(_)) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}

/// Turns a panic of the driver into a failed check.
///
/// What answers on the port may be anything; bytes that a third-party parser did not expect must
/// not end the checks of this backend.
async fn guarded<T>(
    future: impl Future<Output = Result<T, CheckFailure>>,
) -> Result<T, CheckFailure> {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| {
        // Nothing of the future is used after a panic: the connection in it is dropped.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(_panic) => Poll::Ready(Err(CheckFailure {
                cause: Cause::Protocol,
                text: "the answer made the MySQL driver panic; is this MySQL or MariaDB?".into(),
            })),
        }
    })
    .await
}
