//! The questions about sessions, and where a server keeps the answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mysql_async::{Conn, Row, prelude::Queryable as _};

use super::{
    activity::SessionRow,
    sight::{INNODB_TRX_INTERVAL, Schema},
};

/// A session by what the list of all says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Listed {
    pub(super) id: u64,
    /// `address:port`, or `name:port`.
    pub(super) host: String,
}

/// Table and name of everything that is off and must be on.
pub(super) const SWITCHED_OFF: &str = "SELECT 'setup_instruments', NAME FROM performance_schema.setup_instruments \
     WHERE NAME IN ('transaction', 'wait/lock/metadata/sql/mdl') AND ENABLED <> 'YES' \
     UNION ALL SELECT 'setup_consumers', NAME FROM performance_schema.setup_consumers \
     WHERE NAME IN ('global_instrumentation', 'thread_instrumentation', 'events_transactions_current', \
     'events_statements_current') AND ENABLED <> 'YES'";

/// Asks for everything at once, so that the parts of the answer are as close together as can be.
///
/// The metadata locks show LOCK TABLES, GET_LOCK, HANDLER and FLUSH TABLES WITH READ LOCK, and transactions that touch no InnoDB table.
pub(super) fn look(schema: Schema, ids: &[u64]) -> String {
    let (list, time, detaches) = match schema {
        Schema::Performance => ("performance_schema.processlist", "p.TIME * 1000", 1),
        Schema::Information { is_mariadb: false } => {
            ("information_schema.processlist", "p.TIME * 1000", 0)
        }
        Schema::Information { is_mariadb: true } => {
            ("information_schema.processlist", "p.TIME_MS", 0)
        }
    };
    format!(
        "SELECT p.ID AS id, p.HOST AS host, p.USER AS user, p.COMMAND AS command, {time} AS time_ms, t.INSTRUMENTED AS instrumented, \
         e.STATE AS trx, e.XA_STATE AS xa, e.TIMER_WAIT / 1000000000 AS trx_ms, {detaches} AS detaches, \
         s.EVENT_NAME AS last, LEFT(s.SQL_TEXT, 200) AS text, \
         (SELECT GROUP_CONCAT(DISTINCT CONCAT(m.OBJECT_TYPE, ' ', m.LOCK_TYPE) SEPARATOR ', ') \
         FROM performance_schema.metadata_locks m WHERE m.OWNER_THREAD_ID = t.THREAD_ID AND m.LOCK_STATUS = 'GRANTED') AS locks \
         FROM {list} p JOIN performance_schema.threads t ON t.PROCESSLIST_ID = p.ID \
         LEFT JOIN performance_schema.events_transactions_current e ON e.THREAD_ID = t.THREAD_ID AND e.STATE = 'ACTIVE' \
         LEFT JOIN performance_schema.events_statements_current s ON s.THREAD_ID = t.THREAD_ID AND s.NESTING_EVENT_LEVEL = 0 \
         WHERE p.ID IN ({})",
        listed(ids)
    )
}

/// Sessions of a MariaDB whose transaction began before the recording was switched on: no event shows it.
///
/// They are read once, and again only while one of them is asked for: INNODB_TRX is a copy that is made anew when nobody has read it for
/// 100 ms, so whoever reads it with each look sees transactions that ended long ago for as long as he looks.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    ids: BTreeSet<u64>,
    read: Option<Instant>,
}

impl Unrecorded {
    /// Returns those that are known of these sessions, and maybe others.
    pub(super) async fn among(
        &mut self,
        conn: &mut Conn,
        ids: &[u64],
    ) -> mysql_async::Result<&BTreeSet<u64>> {
        let is_due = self.read.is_none_or(|read| {
            read.elapsed() >= INNODB_TRX_INTERVAL && ids.iter().any(|id| self.ids.contains(id))
        });
        if is_due {
            let ids: Vec<u64> = conn.query(UNRECORDED).await?;
            self.ids = ids.into_iter().collect();
            self.read = Some(Instant::now());
        }
        Ok(&self.ids)
    }
}

const UNRECORDED: &str = "SELECT x.trx_mysql_thread_id FROM information_schema.INNODB_TRX x \
     JOIN performance_schema.threads t ON t.PROCESSLIST_ID = x.trx_mysql_thread_id \
     LEFT JOIN performance_schema.events_transactions_current e ON e.THREAD_ID = t.THREAD_ID AND e.STATE = 'ACTIVE' \
     WHERE e.THREAD_ID IS NULL";

/// Looks at sessions of a MariaDB without performance_schema.
///
/// INNODB_TRX is a copy that is made anew only when nobody has read it for 100 ms. So we are in a transaction ourselves, with a query that
/// no copy of before can have: where it is missing, the copy is old, and says of nobody that he is in no transaction.
pub(super) async fn partial(
    conn: &mut Conn,
    ids: &[u64],
    has_locks: bool,
    look: u64,
) -> mysql_async::Result<Vec<SessionRow>> {
    let mark = format!("/* look {look} */");
    conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let transactions: Vec<(u64, Option<String>)> = conn
        .query(format!(
            "SELECT {mark} trx_mysql_thread_id, trx_query FROM information_schema.INNODB_TRX"
        ))
        .await?;
    conn.query_drop("COMMIT").await?;
    let own = u64::from(conn.id());
    let is_fresh = transactions.iter().any(|(id, query)| {
        *id == own && query.as_deref().is_some_and(|query| query.contains(&mark))
    });
    let mut locks: BTreeMap<u64, String> = BTreeMap::new();
    if has_locks {
        let sql = format!(
            "SELECT THREAD_ID, GROUP_CONCAT(DISTINCT CONCAT(LOCK_TYPE, ' ', LOCK_MODE) SEPARATOR ', ') \
             FROM information_schema.METADATA_LOCK_INFO WHERE THREAD_ID IN ({}) GROUP BY THREAD_ID",
            listed(ids)
        );
        locks.extend(conn.query::<(u64, String), _>(sql).await?);
    }
    let sql = format!(
        "SELECT ID AS id, HOST AS host, USER AS user, COMMAND AS command, TIME_MS AS time_ms \
         FROM information_schema.processlist WHERE ID IN ({})",
        listed(ids)
    );
    let rows: Vec<Row> = conn.query(sql).await?;
    let row = |row: &Row| {
        let mut row = SessionRow::listed(row);
        row.in_innodb = transactions.iter().any(|(id, _)| *id == row.id);
        row.is_seen_in_part(is_fresh);
        row.locks = locks.remove(&row.id).unwrap_or_default();
        row
    };
    Ok(rows.iter().map(row).collect())
}

fn listed(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
