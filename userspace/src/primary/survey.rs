//! Survey: all that the preconditions of a switchover need to know of both primaries.
//!
//! Asks and changes nothing. What a server cannot tell, or may not tell us, is said in [`PrimaryFacts::blind`] or as a missing grant,
//! never taken for a good sign.

use std::{sync::Arc, time::Duration};

use pairflip_policy::{Facts, FenceError, OpenTransaction, PrimaryFacts, StepFailure, Survey};
use tokio::time::{Instant, sleep};

use super::{
    Server, Session, lost,
    position::{Position, channel_from},
    unseen,
};
use crate::{
    check::{
        dialect::{Cell, Dialect, text},
        grants::{GRANTS_QUERY, Grants, Purpose},
    },
    sessions::{Error, Sight, sight_of},
};

/// How long the old primary may take to have what the other one has: writes made there a moment ago are on their way.
const ERRANT_WAIT: Duration = Duration::from_secs(1);
const ERRANT_LOOK: Duration = Duration::from_millis(50);
/// Transactions and locks that are named; more are as bad.
const NAMED: usize = 5;

/// Transactions of clients that have begun to read or write, the oldest first. InnoDB gives their start in the server's time zone.
const TRANSACTIONS: &str = "SELECT p.ID AS id, p.USER AS user, p.HOST AS host, p.COMMAND AS command, \
     TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) AS age, t.trx_rows_modified AS changed \
     FROM information_schema.INNODB_TRX t JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id \
     WHERE p.USER NOT IN ('system user', 'event_scheduler') ORDER BY t.trx_started";

/// LOCK TABLES ... WRITE, and FLUSH TABLES WITH READ LOCK, which MariaDB counts among its backup locks since 10.4; commits take others of those.
const TABLE_LOCKS: &str = "SELECT t.PROCESSLIST_ID AS id, t.PROCESSLIST_USER AS user, t.PROCESSLIST_HOST AS host, \
     m.OBJECT_SCHEMA AS db, m.OBJECT_NAME AS name \
     FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID \
     WHERE m.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID() \
     AND (m.OBJECT_TYPE = 'TABLE' AND m.LOCK_TYPE = 'SHARED_NO_READ_WRITE' \
          OR m.OBJECT_TYPE = 'GLOBAL' AND m.LOCK_TYPE = 'SHARED' \
          OR m.OBJECT_TYPE = 'BACKUP' AND m.LOCK_TYPE LIKE 'BACKUP_FTWRL%')";
/// The same from MariaDB's plugin `metadata_lock_info`.
const PLUGIN_TABLE_LOCKS: &str = "SELECT p.ID AS id, p.USER AS user, p.HOST AS host, m.TABLE_SCHEMA AS db, m.TABLE_NAME AS name \
     FROM information_schema.METADATA_LOCK_INFO m JOIN information_schema.PROCESSLIST p ON p.ID = m.THREAD_ID \
     WHERE p.ID <> CONNECTION_ID() AND (m.LOCK_MODE = 'MDL_SHARED_NO_READ_WRITE' \
          OR m.LOCK_TYPE = 'Global read lock' AND m.LOCK_MODE = 'MDL_SHARED' \
          OR m.LOCK_TYPE = 'Backup lock' AND m.LOCK_MODE LIKE 'MDL_BACKUP_FTWRL%')";

/// Prepared transactions outlive their session, and on MySQL 9.7 `XA COMMIT` of one succeeds on a fenced server.
const PREPARED: &str = "XA RECOVER";

/// Sessions that a fence does not stop. MySQL's `super_read_only` stops everybody.
const PRIVILEGED: &str = "SELECT DISTINCT p.USER AS user, p.HOST AS host FROM information_schema.PROCESSLIST p \
     JOIN information_schema.USER_PRIVILEGES g ON g.GRANTEE LIKE CONCAT('''', p.USER, '''@%') \
     WHERE g.PRIVILEGE_TYPE IN ('READ ONLY ADMIN', 'READ_ONLY ADMIN') AND p.COMMAND NOT LIKE 'Binlog Dump%' \
     AND p.USER NOT IN ('system user', 'event_scheduler') AND p.USER <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1)";

/// Somebody else's privileges, which everybody sees who sees any.
const OTHERS: &str = "SELECT 1 FROM information_schema.USER_PRIVILEGES \
     WHERE GRANTEE NOT LIKE CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@%') LIMIT 1";

/// Asks both primaries. The new one first: what it has by then, the old one must have, or it was written there.
pub async fn survey(from: &Server, to: &Server, timeout: Duration) -> Survey {
    let now = Instant::now();
    let deadline = now + timeout;
    // One that does not answer must not keep the other from being asked.
    let new = ask(to, from, now + timeout / 2, None).await;
    let reference = new.as_ref().ok().and_then(|(_, facts)| facts.position.clone());
    let old = ask(from, to, deadline, reference.as_deref()).await;
    let server_id = |asked: &Result<(PrimaryFacts, Facts), StepFailure>| {
        asked.as_ref().map_or(0, |(_, facts)| facts.server_id)
    };
    let (old_id, new_id) = (server_id(&old), server_id(&new));
    let seen = |asked: Result<(PrimaryFacts, Facts), StepFailure>, other: &Server, id| {
        let (mut primary, facts) = asked?;
        primary.replication = channel_from(&facts, other.address, id).cloned();
        Ok(primary)
    };
    let mut survey = Survey { from: seen(old, to, new_id), to: seen(new, from, old_id) };
    // It was found at the old one, and it is about the new one.
    if let (Ok(from), Ok(to)) = (&mut survey.from, &mut survey.to) {
        to.errant = from.errant.take();
    }
    survey
}

/// `reference` is the other server's position, all of which this one should have.
async fn ask(
    server: &Server,
    other: &Server,
    deadline: Instant,
    reference: Option<&str>,
) -> Result<(PrimaryFacts, Facts), StepFailure> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let session = Session::open(server, left()).await.map_err(|error| unseen(server, error))?;
    let sight = sight(server, left()).await?;
    session
        .look(async |session| {
            let asked = ask_all(session, sight, other, reference).await;
            asked.map_err(|error| unseen(server, error))
        })
        .await
}

/// Returns what a session may be doing unseen when it is taken for idle.
const fn blind(sight: Sight) -> Option<&'static str> {
    match sight {
        Sight::Full(_) => None,
        Sight::Partial { locks: true } => Some(
            "performance_schema is off, so a transaction that has begun and touched no table (BEGIN alone, XA START) looks idle: its client may lose it",
        ),
        Sight::Partial { locks: false } => Some(
            "performance_schema is off, so a transaction that has begun and touched no InnoDB table, GET_LOCK and HANDLER look idle: their clients may lose them",
        ),
    }
}

/// Returns what the server shows of its sessions, or the statements that would make it.
async fn sight(
    server: &Server,
    timeout: Duration,
) -> Result<Result<Sight, Vec<String>>, StepFailure> {
    match sight_of(server.address, Arc::clone(&server.account), timeout).await {
        Ok(sight) => Ok(Ok(sight)),
        Err(Error::NotAllowed(statements)) => Ok(Err(statements)),
        Err(Error::NotRecorded(text)) => Ok(Err(vec![text])),
        Err(Error::Failed(failure)) => Err(unseen(server, lost(&failure))),
    }
}

async fn ask_all(
    session: &mut Session,
    sight: Result<Sight, Vec<String>>,
    other: &Server,
    reference: Option<&str>,
) -> Result<(PrimaryFacts, Facts), FenceError> {
    session.run("SET SESSION time_zone = 'SYSTEM'").await?;
    let (facts, dialect) = session.facts().await?;
    let grants = Grants::read(&session.rows(GRANTS_QUERY).await?);
    let mut primary = PrimaryFacts {
        read_only: facts.read_only,
        position: facts.position.clone().unwrap_or_default(),
        missing_grants: missing_grants(&grants, dialect, &facts.version),
        ..PrimaryFacts::default()
    };
    if primary.missing_grants.is_empty() {
        primary.transactions = transactions(&session.rows(TRANSACTIONS).await?);
        primary.xa_prepared = prepared(&session.rows(PREPARED).await?);
        match sight {
            Ok(sight) => {
                primary.table_locks = table_locks(session, sight).await?;
                primary.blind = blind(sight).map(str::to_owned);
            }
            Err(missing) => primary.missing_grants.extend(missing),
        }
        if dialect == Dialect::MariaDb {
            primary.privileged =
                session.rows(PRIVILEGED).await?.iter().map(|row| who(row)).collect();
            if session.rows(OTHERS).await?.is_empty() {
                let account = &grants.account;
                primary.privileged_unseen = Some(format!("GRANT SELECT ON mysql.* TO {account};"));
            }
        }
    }
    if let Some(reference) = reference {
        primary.errant = lacks(session, other, &facts, reference).await?;
    }
    Ok((primary, facts))
}

fn missing_grants(grants: &Grants, dialect: Dialect, version: &str) -> Vec<String> {
    [Purpose::Check, Purpose::Fence, Purpose::Recover]
        .into_iter()
        .flat_map(|purpose| grants.missing(dialect, version, purpose))
        .filter(|missing| missing.is_certain)
        .map(|missing| missing.statement)
        .collect()
}

fn transactions(rows: &[Vec<Cell>]) -> Vec<OpenTransaction> {
    let transaction = |row: &Vec<Cell>| {
        let number = |name| field(row, name).parse::<u64>().unwrap_or_default();
        OpenTransaction {
            who: who(row),
            age: Duration::from_secs(number("age")),
            what: match number("changed") {
                0 => format!("{}, nothing changed so far", field(row, "command")),
                rows => format!("{}, {rows} rows changed", field(row, "command")),
            },
        }
    };
    rows.iter().take(NAMED).map(transaction).collect()
}

fn prepared(rows: &[Vec<Cell>]) -> Vec<String> {
    rows.iter().take(NAMED).map(|row| field(row, "data")).collect()
}

/// Looks for locked tables where the server can tell who locked them.
async fn table_locks(session: &mut Session, sight: Sight) -> Result<Vec<String>, FenceError> {
    let query = match sight {
        Sight::Full(_) => TABLE_LOCKS,
        Sight::Partial { locks: true } => PLUGIN_TABLE_LOCKS,
        Sight::Partial { locks: false } => return Ok(Vec::new()),
    };
    let lock = |row: &Vec<Cell>| match field(row, "name").as_str() {
        "" => format!("{} holds FLUSH TABLES WITH READ LOCK", who(row)),
        name => format!("{} holds LOCK TABLES on {}.{name}", who(row), field(row, "db")),
    };
    Ok(session.rows(query).await?.iter().take(NAMED).map(lock).collect())
}

/// Returns what the other server has and this one does not get within a moment.
async fn lacks(
    session: &mut Session,
    other: &Server,
    facts: &Facts,
    reference: &str,
) -> Result<Option<String>, FenceError> {
    let Some(reference) = Position::parse(reference) else { return Ok(None) };
    let until = session.deadline.min(Instant::now() + ERRANT_WAIT);
    let mut position = facts.position.clone();
    loop {
        let own = position.as_deref().and_then(Position::parse);
        let Some(missing) = own.and_then(|own| own.lacks(&reference)) else { return Ok(None) };
        if Instant::now() + ERRANT_LOOK >= until {
            let text = format!("{missing}, which was written on {}", other.address);
            return Ok(Some(text));
        }
        sleep(ERRANT_LOOK).await;
        position = session.facts().await?.0.position;
    }
}

/// `user@host:port (id)`, as an administrator would look for it in the process list.
fn who(row: &[Cell]) -> String {
    let (user, host, id) = (field(row, "user"), field(row, "host"), field(row, "id"));
    if id.is_empty() { format!("{user}@{host}") } else { format!("{user}@{host} (id {id})") }
}

fn field(row: &[Cell], name: &str) -> String {
    text(row, &[name]).flatten().unwrap_or_default()
}
