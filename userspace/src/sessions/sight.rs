//! Sight: what a server lets us see of its sessions, and whether the account may look and end them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use mysql_async::{Conn, Row, prelude::Queryable as _};

use super::{Error, host::Names, lost, query};
use crate::check::{
    dialect::{Cell, Dialect, cells, query_time_limit},
    grants::{GRANTS_QUERY, Grants, Purpose},
    mysql::introduction,
};

/// Least time between two looks at INNODB_TRX, which is made anew only when nobody has read it for 100 ms.
pub(super) const INNODB_TRX_INTERVAL: Duration = Duration::from_millis(130);

/// What a server shows of its sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sight {
    /// Transactions of every kind and every lock that outlives a statement, from performance_schema.
    Full(Schema),
    /// MariaDB without performance_schema: transactions that have touched an InnoDB table, and with the plugin `metadata_lock_info` table
    /// and user locks. Everything else looks idle: a BEGIN without a statement, XA START, and without the plugin LOCK TABLES, GET_LOCK and
    /// HANDLER.
    Partial {
        /// The plugin is there.
        locks: bool,
    },
}

/// Where the columns of a session are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Schema {
    /// performance_schema.processlist: MySQL from 8.0.22 on.
    Performance,
    /// information_schema.processlist, beside performance_schema: older MySQL, and MariaDB, which has `TIME_MS`.
    Information { is_mariadb: bool },
}

impl Sight {
    /// How long a session of which not all is seen must have been silent to be taken for idle.
    pub const PARTIAL_SILENCE: Duration = Duration::from_secs(5);

    /// Returns what an operator should know before idle draining is trusted here; `None` if everything is seen.
    #[must_use]
    pub const fn caveat(self) -> Option<&'static str> {
        match self {
            Self::Full(_) => None,
            Self::Partial { locks: true } => Some(
                "the server has performance_schema off: a transaction that has not touched a table (BEGIN alone, XA START) is not seen, \
                 so sessions must be silent for 5 s to count as idle",
            ),
            Self::Partial { locks: false } => Some(
                "the server has performance_schema off: LOCK TABLES, GET_LOCK, HANDLER, and transactions that have not touched an InnoDB \
                 table are not seen, so sessions must be silent for 5 s to count as idle",
            ),
        }
    }

    /// Returns the least time between two looks: what a server keeps for a while would be read twice.
    #[must_use]
    pub const fn look_interval(self) -> Duration {
        match self {
            Self::Full(_) => Duration::ZERO,
            Self::Partial { .. } => INNODB_TRX_INTERVAL,
        }
    }

    /// Returns the silence without which no session of this server counts as idle.
    #[must_use]
    pub const fn silence(self) -> Duration {
        match self {
            Self::Full(_) => Duration::ZERO,
            Self::Partial { .. } => Self::PARTIAL_SILENCE,
        }
    }

    pub(super) const fn list_query(self) -> &'static str {
        match self {
            Self::Full(Schema::Performance) => {
                "SELECT ID, HOST FROM performance_schema.processlist WHERE HOST IS NOT NULL"
            }
            Self::Full(Schema::Information { .. }) | Self::Partial { .. } => {
                "SELECT ID, HOST FROM information_schema.processlist WHERE HOST IS NOT NULL"
            }
        }
    }
}

/// Finds out what the server of a new connection shows, and limits the time of what is asked there.
pub(super) async fn find(
    conn: &mut Conn,
    target: SocketAddr,
    limit: Duration,
) -> Result<(Sight, Names), Error> {
    let (dialect, version) = introduction(conn).await.map_err(Error::Failed)?;
    match conn.query_drop(query_time_limit(dialect, limit)).await {
        // MySQL 5.6 has no such limit.
        Ok(()) | Err(mysql_async::Error::Server(_)) => {}
        Err(error) => return Err(lost(&error)),
    }
    let records: Option<u8> = conn
        .query_first("SELECT @@global.performance_schema")
        .await
        .map_err(|error| lost(&error))?;
    let records = records == Some(1);
    let purpose = if records { Purpose::Drain } else { Purpose::DrainUnrecorded };
    let rows: Vec<Row> = conn.query(GRANTS_QUERY).await.map_err(|error| lost(&error))?;
    let rows: Vec<Vec<Cell>> = rows.iter().map(cells).collect();
    let missing = Grants::read(&rows).missing(dialect, &version, purpose);
    let certain: Vec<String> =
        missing.into_iter().filter(|it| it.is_certain).map(|it| it.statement).collect();
    if !certain.is_empty() {
        return Err(Error::NotAllowed(certain));
    }
    let sight = match (dialect, records) {
        (Dialect::MySql | Dialect::MySql80, true) => {
            recorded(conn, dialect, Schema::Performance).await?
        }
        (Dialect::MySqlOld, true) => {
            recorded(conn, dialect, Schema::Information { is_mariadb: false }).await?
        }
        (Dialect::MariaDb, true) => {
            recorded(conn, dialect, Schema::Information { is_mariadb: true }).await?
        }
        (Dialect::MySql | Dialect::MySql80 | Dialect::MySqlOld, false) => {
            let remedy = "set performance_schema = ON in its configuration and restart it, or use drain = \"finish\"";
            return Err(Error::NotRecorded(remedy.to_owned()));
        }
        (Dialect::MariaDb, false) => Sight::Partial { locks: has_lock_plugin(conn).await? },
    };
    let mut names = Names::new(records);
    let own = format!("{} AND ID = CONNECTION_ID()", sight.list_query());
    let own: Option<(u64, String)> = conn.query_first(own).await.map_err(|error| lost(&error))?;
    if let (Some((_, own)), Ok(address)) = (own, own_address(target)) {
        names.learn(address, &own);
    }
    Ok((sight, names))
}

/// Sees to it that everything is switched on that transactions and locks are recorded by.
async fn recorded(conn: &mut Conn, dialect: Dialect, schema: Schema) -> Result<Sight, Error> {
    let off: Vec<(String, String)> = match conn.query(query::SWITCHED_OFF).await {
        Ok(off) => off,
        // ER_TABLEACCESS_DENIED: a role that may bring it does not.
        Err(mysql_async::Error::Server(error)) if error.code == 1142 => {
            let statement =
                format!("GRANT SELECT ON performance_schema.* TO the check account ({error});");
            return Err(Error::NotAllowed(vec![statement]));
        }
        Err(error) => return Err(lost(&error)),
    };
    if off.is_empty() {
        return Ok(Sight::Full(schema));
    }
    let statements: Vec<String> = off
        .iter()
        .map(|(table, name)| {
            let set = if table == "setup_instruments" {
                "ENABLED = 'YES', TIMED = 'YES'"
            } else {
                "ENABLED = 'YES'"
            };
            format!("UPDATE performance_schema.{table} SET {set} WHERE NAME = '{name}';")
        })
        .collect();
    let lasting = match dialect {
        Dialect::MariaDb => {
            "performance_schema_instrument and performance_schema_consumer_... in its configuration make it last"
        }
        Dialect::MySqlOld | Dialect::MySql80 | Dialect::MySql => {
            "performance-schema-instrument and performance-schema-consumer-... in its configuration make it last"
        }
    };
    Err(Error::NotRecorded(format!("run there: {} ({lasting})", statements.join(" "))))
}

async fn has_lock_plugin(conn: &mut Conn) -> Result<bool, Error> {
    let sql = "SELECT COUNT(*) FROM information_schema.plugins \
               WHERE PLUGIN_NAME = 'METADATA_LOCK_INFO' AND PLUGIN_STATUS = 'ACTIVE'";
    let count: Option<u64> = conn.query_first(sql).await.map_err(|error| lost(&error))?;
    Ok(count == Some(1))
}

/// The address of ours that a server sees, as the routing table has it. Nothing is sent.
fn own_address(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}
