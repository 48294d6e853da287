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
    sync::Arc,
    task::Poll,
    time::Duration,
};

use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, Row, SslOpts, prelude::Queryable};
use pairflip_policy::{Cause, CheckFailure, CheckResult, Condition, Facts};
use tokio::time::{Instant, timeout_at};

use super::{
    Probe,
    cause::{failure, timed_out},
    dialect::{
        Cell, Dialect, STATE_QUERY, State, cells, channels, own_log_position, query_time_limit,
    },
    grants::{GRANTS_QUERY, Grants, Purpose},
    keys::Keys,
    questions::{self, Line, Questions},
};
use crate::config::{Login as Account, Tls, TlsVerify};

/// A name that the driver is made to accept with any certificate of a known authority.
///
/// It recognizes "not valid for this name" by looking for this word in the text of the error, where the TLS library writes it no longer; but
/// the text repeats the name that was expected.
const ANY_NAME: &str = "NotValidForName";

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

/// Asks one server, over one connection that it keeps.
pub struct Prober {
    target: SocketAddr,
    keys: Keys,
    /// What `opts` was made of.
    account: Arc<Account>,
    opts: Opts,
    questions: Questions,
    /// Which of the operator's queries comes first.
    first_query: usize,
    timeout: Duration,
    /// What was found, if it is asked whether the account may change `read_only`.
    may_fence: Option<bool>,
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
    pub fn new(target: SocketAddr, keys: Keys, questions: Questions, timeout: Duration) -> Self {
        let account = keys.held();
        let opts = opts(target, &account);
        Self {
            target,
            keys,
            account,
            opts,
            questions,
            first_query: 0,
            timeout,
            may_fence: None,
            link: Link::Closed,
        }
    }

    /// Returns the server that is probed.
    #[must_use]
    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Returns how the server speaks that answered the last probe.
    pub(crate) fn dialect(&self) -> Option<Dialect> {
        match &self.link {
            Link::Open { dialect, .. } => *dialect,
            Link::Closed | Link::LoggingIn { .. } => None,
        }
    }

    /// Asks something else over the connection that the last probe left open, within another `timeout`.
    pub(crate) async fn ask(&mut self, query: &str) -> Result<Vec<Vec<Cell>>, CheckFailure> {
        let deadline = Instant::now() + self.timeout;
        let (mut conn, dialect) = self.connection(deadline).await?;
        let answer = async { conn.query(query).await.map_err(|error| failure(&error)) };
        match timeout_at(deadline, guarded(answer)).await {
            Err(_elapsed) => Err(timed_out("asking", self.timeout)),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(rows)) => {
                let rows: Vec<Row> = rows;
                self.link = Link::Open { conn, dialect };
                Ok(rows.iter().map(cells).collect())
            }
        }
    }

    /// Closes the kept connection.
    pub fn disconnect(&mut self) {
        self.link = Link::Closed;
    }

    /// Returns what the server says, or why it says nothing, after `timeout` at the latest.
    ///
    /// A kept connection that turns out to be gone is no failure: the server may have restarted or
    /// cut idle sessions. Then a fresh login decides. So does one with the new password, when the old one is denied.
    pub async fn probe(&mut self) -> Probe {
        let deadline = Instant::now() + self.timeout;
        self.take_keys();
        let is_kept = matches!(self.link, Link::Open { .. });
        let mut conditions = Vec::new();
        let mut result = self.attempt(deadline, &mut conditions).await;
        if is_kept && matches!(&result, Err(failure) if failure.cause == Cause::ConnectionLost) {
            conditions.clear();
            result = self.attempt(deadline, &mut conditions).await;
        }
        if matches!(&result, Err(failure) if failure.cause == Cause::AuthDenied) {
            let look = timeout_at(deadline, self.keys.reread_after_denial(&self.account));
            if look.await == Ok(true) {
                self.take_keys();
                conditions.clear();
                result = self.attempt(deadline, &mut conditions).await;
            }
        }
        let result = match result {
            Ok(facts) => CheckResult::Answered(facts),
            Err(failure) => CheckResult::Failed(failure),
        };
        Probe { result, conditions }
    }

    /// Goes over to new keys. A kept connection is closed, so that a new secret is tried out now and not in the night.
    fn take_keys(&mut self) {
        let held = self.keys.held();
        if !Arc::ptr_eq(&held, &self.account) {
            self.opts = opts(self.target, &held);
            self.account = held;
            self.link = Link::Closed;
        }
    }

    async fn attempt(
        &mut self,
        deadline: Instant,
        conditions: &mut Vec<Condition>,
    ) -> Result<Facts, CheckFailure> {
        let (mut conn, dialect) = self.connection(deadline).await?;
        let (questions, timeout, known) = (&self.questions, self.timeout, self.may_fence);
        let asking = async {
            let (mut facts, dialect) =
                ask(&mut conn, dialect, questions, timeout, conditions).await?;
            if questions.fences {
                facts.may_fence = match known {
                    Some(true) => known,
                    Some(false) | None => may_fence(&mut conn, dialect, &facts.version).await?,
                };
            }
            Ok((facts, dialect))
        };
        let (facts, dialect) = match timeout_at(deadline, guarded(asking)).await {
            // A connection with half an answer on it is of no use: it is dropped unless everything
            // was read.
            Err(_elapsed) => return Err(timed_out("asking", self.timeout)),
            Ok(Err(failure)) if failure.cause == Cause::MissingGrant => {
                return Err(self.name_grant(conn, failure, deadline).await);
            }
            Ok(answer) => answer?,
        };
        self.may_fence = facts.may_fence;
        // What the server said about itself stands, whatever becomes of the rest.
        let (facts, line) = self.ask_more(&mut conn, facts, deadline, conditions).await;
        if line == Line::Clear {
            self.link = Link::Open { conn, dialect: Some(dialect) };
        }
        Ok(facts)
    }

    /// Asks for heartbeats and an operator's queries.
    async fn ask_more(
        &mut self,
        conn: &mut Conn,
        mut facts: Facts,
        deadline: Instant,
        conditions: &mut Vec<Condition>,
    ) -> (Facts, Line) {
        let Questions { heartbeat, sql, .. } = &self.questions;
        if let Some(heartbeat) = heartbeat {
            let look = questions::heartbeat(conn, heartbeat, &mut facts.replication);
            let look = guarded(async { Ok(look.await) });
            match timeout_at(deadline, look).await {
                Ok(Ok((condition, line))) => {
                    conditions.push(condition);
                    if line == Line::Broken {
                        return (facts, line);
                    }
                }
                Ok(Err(_)) | Err(_) => return (facts, Line::Broken),
            }
        }
        let first = &mut self.first_query;
        let asking = questions::queries(conn, sql, first, deadline, conditions);
        let line = guarded(async { Ok(asking.await) }).await;
        (facts, line.unwrap_or(Line::Broken))
    }

    /// Adds the statement that gives the missing privilege, with the account's name as the server has it.
    async fn name_grant(
        &mut self,
        mut conn: Box<Conn>,
        failure: CheckFailure,
        deadline: Instant,
    ) -> CheckFailure {
        let statement = timeout_at(deadline, guarded(missing_grant(&mut conn))).await;
        match statement {
            Ok(Ok(Some(statement))) => {
                CheckFailure { text: format!("{}: {statement}", failure.text), ..failure }
            }
            // What is said without it is true as well.
            Ok(Ok(None) | Err(_)) | Err(_) => failure,
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

/// Returns the statement that lets the account check this server, if it may not.
async fn missing_grant(conn: &mut Conn) -> Result<Option<String>, CheckFailure> {
    let (dialect, version) = introduction(conn).await?;
    let missing = grants(conn).await?.missing(dialect, &version, Purpose::Check);
    Ok(missing.into_iter().next().map(|missing| missing.statement))
}

/// Returns whether the account may change `read_only`; `None` if it cannot be told.
async fn may_fence(
    conn: &mut Conn,
    dialect: Dialect,
    version: &str,
) -> Result<Option<bool>, CheckFailure> {
    Ok(match grants(conn).await?.missing(dialect, version, Purpose::Fence) {
        missing if missing.is_empty() => Some(true),
        missing => missing.iter().all(|it| it.is_certain).then_some(false),
    })
}

async fn grants(conn: &mut Conn) -> Result<Grants, CheckFailure> {
    let rows: Vec<Row> = conn.query(GRANTS_QUERY).await.map_err(|e| failure(&e))?;
    Ok(Grants::read(&rows.iter().map(cells).collect::<Vec<_>>()))
}

async fn state(conn: &mut Conn, query: &str) -> Result<State, CheckFailure> {
    let row: Option<Row> = conn.query_first(query).await.map_err(|e| failure(&e))?;
    State::read(row.as_ref())
}

/// Returns where the server's own log ends. An account that may not ask for it is as good as any other.
async fn log_position(conn: &mut Conn, dialect: Dialect) -> Result<Option<String>, CheckFailure> {
    match conn.query_first::<Row, _>(dialect.log_position_query()).await {
        Ok(row) => Ok(row.as_ref().and_then(own_log_position).map(|place| place.to_string())),
        Err(mysql_async::Error::Server(_)) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}

/// How a server is connected to.
pub(crate) fn opts(target: SocketAddr, account: &Account) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname(target.ip().to_string())
        .tcp_port(target.port())
        .user(Some(&account.user))
        .pass(Some(account.password.expose()))
        .ssl_opts(account.tls.as_ref().map(ssl_opts))
        // On loopback the driver would change over to the server's unix socket and never see
        // the port fail.
        .prefer_socket(false)
        .tcp_keepalive(Some(KEEPALIVE))
        .max_allowed_packet(Some(ALLOWED_PACKET_MAX_BYTES))
        .wait_timeout(Some(WAIT_TIMEOUT_S))
        .stmt_cache_size(0)
        .into()
}

fn ssl_opts(tls: &Tls) -> SslOpts {
    let roots = tls.material.roots.iter().map(|root| root.clone().into()).collect();
    let identity = tls.material.identity.as_ref().map(|(certificates, key)| {
        let (certificates, key) = (certificates.clone().into_bytes(), key.clone().into_bytes());
        ClientIdentity::new(certificates.into(), key.into())
    });
    let name = match tls.verify {
        TlsVerify::Ca => Some(ANY_NAME.to_owned()),
        TlsVerify::Name => tls.server_name.clone(),
    };
    SslOpts::default()
        .with_root_certs(roots)
        .with_disable_built_in_roots(true)
        .with_client_identity(identity)
        .with_danger_skip_domain_validation(tls.verify == TlsVerify::Ca)
        .with_danger_tls_hostname_override(name)
}

/// Asks what every check asks: two queries, one more on a new connection, and one more where there are no GTIDs.
async fn ask(
    conn: &mut Conn,
    dialect: Option<Dialect>,
    questions: &Questions,
    timeout: Duration,
    conditions: &mut Vec<Condition>,
) -> Result<(Facts, Dialect), CheckFailure> {
    conditions.extend(questions::galera(conn, questions.galera).await?);
    let dialect = match dialect {
        Some(dialect) => dialect,
        None => greet(conn, questions, timeout).await?,
    };
    let (facts, rows) = facts(conn, dialect).await?;
    if questions.gtid {
        conditions.push(questions::gtid(conn, dialect, &rows).await?);
    }
    Ok((facts, dialect))
}

/// Asks a server that nothing is known of what it says about itself.
pub(crate) async fn introduce(conn: &mut Conn) -> Result<(Facts, Dialect), CheckFailure> {
    let state = state(conn, STATE_QUERY).await?;
    let dialect = Dialect::of(&state.version, &state.comment);
    Ok((facts(conn, dialect).await?.0, dialect))
}

/// Returns how the server of a new connection speaks, and its version.
pub(crate) async fn introduction(conn: &mut Conn) -> Result<(Dialect, String), CheckFailure> {
    let State { version, comment, .. } = state(conn, STATE_QUERY).await?;
    Ok((Dialect::of(&version, &comment), version))
}

/// Returns what a server says about itself, with its replication status as it came.
async fn facts(conn: &mut Conn, dialect: Dialect) -> Result<(Facts, Vec<Row>), CheckFailure> {
    let State { read_only, server_id, version, position, .. } =
        state(conn, dialect.state_query()).await?;
    let rows: Vec<Row> = conn.query(dialect.replication_query()).await.map_err(|e| failure(&e))?;
    let replication = channels(dialect, &rows)?;
    let position =
        if position.is_empty() { log_position(conn, dialect).await? } else { Some(position) };
    Ok((Facts { read_only, server_id, version, replication, position, may_fence: None }, rows))
}

/// Finds out how the server of a new connection speaks, and limits the time of an operator's queries there.
async fn greet(
    conn: &mut Conn,
    questions: &Questions,
    timeout: Duration,
) -> Result<Dialect, CheckFailure> {
    let state = state(conn, STATE_QUERY).await?;
    let dialect = Dialect::of(&state.version, &state.comment);
    if !questions.sql.is_empty() {
        match conn.query_drop(query_time_limit(dialect, timeout)).await {
            // MySQL 5.6 has no such limit.
            Ok(()) | Err(mysql_async::Error::Server(_)) => {}
            Err(error) => return Err(failure(&error)),
        }
    }
    Ok(dialect)
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
