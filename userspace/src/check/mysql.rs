//! One probe of one MySQL or MariaDB server: connect if need be, ask, return what was found.
//!
//! Keeps at most one connection per backend. Connections that are opened and dropped without
//! logging in count against `max_connect_errors` on the server and lock the prober out, so a login
//! that is under way is carried over to the next probe instead of being abandoned at every timeout.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use mysql_async::{Conn, Opts, OptsBuilder, Row, prelude::Queryable};
use pairflip_policy::{Cause, CheckFailure, CheckResult, Facts};
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::{
    cause::{failure, starved, timed_out},
    dialect::{Dialect, STATE_QUERY, State, channels},
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

/// How often a probe that waits looks whether the process gets to run.
const TICK: Duration = Duration::from_millis(50);
/// A timeout of which more than this part passed while the process did not run says nothing about the server.
const LATE_MAX_DIVISOR: u32 = 4;

type Login = Pin<Box<dyn Future<Output = mysql_async::Result<Conn>> + Send>>;

/// Asks one server, over one connection that it keeps.
pub struct Prober {
    target: SocketAddr,
    opts: Opts,
    timeout: Duration,
    link: Link,
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
        let opts = OptsBuilder::default()
            .ip_or_hostname(target.ip().to_string())
            .tcp_port(target.port())
            .user(Some(user))
            .pass(Some(password))
            // On loopback the driver would change over to the server's unix socket and never see
            // the port fail.
            .prefer_socket(false)
            .tcp_keepalive(Some(KEEPALIVE))
            .max_allowed_packet(Some(ALLOWED_PACKET_MAX_BYTES))
            .wait_timeout(Some(WAIT_TIMEOUT_S))
            .stmt_cache_size(0);
        Self { target, opts: opts.into(), timeout, link: Link::Closed }
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
        let mut clock = Clock { deadline: Instant::now() + self.timeout, late: Duration::ZERO };
        let is_kept = matches!(self.link, Link::Open { .. });
        let mut result = self.attempt(&mut clock).await;
        if is_kept && matches!(&result, Err(failure) if failure.cause == Cause::ConnectionLost) {
            result = self.attempt(&mut clock).await;
        }
        match result {
            Ok(facts) => CheckResult::Answered(facts),
            Err(failure)
                if failure.cause == Cause::TimedOut
                    && clock.late > self.timeout / LATE_MAX_DIVISOR =>
            {
                CheckResult::Failed(starved(clock.late, self.timeout))
            }
            Err(failure) => CheckResult::Failed(failure),
        }
    }

    async fn attempt(&mut self, clock: &mut Clock) -> Result<Facts, CheckFailure> {
        let (mut conn, dialect) = self.connection(clock).await?;
        match clock.within(guarded(ask(&mut conn, dialect))).await {
            // A connection with half an answer on it is of no use: it is dropped unless everything
            // was read.
            Err(_elapsed) => Err(timed_out("asking", self.timeout)),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok((facts, dialect))) => {
                self.link = Link::Open { conn, dialect: Some(dialect) };
                Ok(facts)
            }
        }
    }

    /// Takes the kept connection, or logs in.
    async fn connection(
        &mut self,
        clock: &mut Clock,
    ) -> Result<(Box<Conn>, Option<Dialect>), CheckFailure> {
        let (mut login, since) = match std::mem::replace(&mut self.link, Link::Closed) {
            Link::Open { conn, dialect } => return Ok((conn, dialect)),
            Link::LoggingIn { login, since } => (login, since),
            Link::Closed => (Conn::new(self.opts.clone()) as Login, Instant::now()),
        };
        let outcome = clock
            .within(guarded(async { login.as_mut().await.map_err(|error| failure(&error)) }))
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

/// The time of one probe.
struct Clock {
    deadline: Instant,
    /// How much of it passed while this process waited to run: a busy host, or a suspended one.
    late: Duration,
}

impl Clock {
    /// Returns what the future returns, unless the deadline comes first.
    async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut future = std::pin::pin!(future);
        loop {
            let tick = self.deadline.min(Instant::now() + TICK);
            let outcome = timeout_at(tick, future.as_mut()).await;
            self.late += Instant::now().saturating_duration_since(tick);
            match outcome {
                Ok(value) => return Ok(value),
                Err(elapsed) if Instant::now() >= self.deadline => return Err(elapsed),
                Err(_tick) => {}
            }
        }
    }
}

async fn ask(conn: &mut Conn, dialect: Option<Dialect>) -> Result<(Facts, Dialect), CheckFailure> {
    let state: Option<Row> = conn.query_first(STATE_QUERY).await.map_err(|e| failure(&e))?;
    let State { read_only, server_id, version, comment } = State::read(state.as_ref())?;
    let dialect = dialect.unwrap_or_else(|| Dialect::of(&version, &comment));
    let rows: Vec<Row> = conn.query(dialect.replication_query()).await.map_err(|e| failure(&e))?;
    let replication = channels(dialect, &rows)?;
    Ok((Facts { read_only, server_id, version, replication }, dialect))
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
