//! The servers that the lab can run, and where they differ: options, accounts, replication.

use std::net::Ipv4Addr;

use super::database::{APP_PASSWORD, APP_USER, CHECK_PASSWORD, CHECK_USER};

/// A fork of MySQL and its series.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Flavour {
    /// The host's own, which is 10.11 on Debian 12.
    #[default]
    MariaDb1011,
    MariaDb118,
    MySql97,
}

/// How a fork names things.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fork {
    MariaDb,
    MySql,
}

/// What to fetch where.
pub(crate) struct Packages {
    /// One of Debian's suites that has the series.
    pub(crate) suite: &'static str,
    pub(crate) names: [&'static str; 2],
}

impl Flavour {
    pub const ALL: [Self; 3] = [Self::MariaDb1011, Self::MariaDb118, Self::MySql97];

    /// The word of commands and test output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MariaDb1011 => "mariadb-10.11",
            Self::MariaDb118 => "mariadb-11.8",
            Self::MySql97 => "mysql-9.7",
        }
    }

    pub fn from_name(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|flavour| flavour.name() == name).ok_or_else(|| {
            format!("no such servers; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }

    /// How this flavour names things.
    pub const fn fork(self) -> Fork {
        match self {
            Self::MariaDb1011 | Self::MariaDb118 => Fork::MariaDb,
            Self::MySql97 => Fork::MySql,
        }
    }

    /// `None` for the host's own.
    pub(crate) const fn packages(self) -> Option<Packages> {
        match self {
            Self::MariaDb1011 => None,
            Self::MariaDb118 => Some(Packages {
                suite: "trixie",
                names: ["mariadb-server-core", "mariadb-client-core"],
            }),
            // No release of Debian has MySQL.
            Self::MySql97 => {
                Some(Packages { suite: "sid", names: ["mysql-server-core", "mysql-client-core"] })
            }
        }
    }
}

impl Fork {
    /// Options of a server that takes part in replication, small, and read-only until it is told otherwise: as MySQL's
    /// documentation advises, a server that crashed must not come back writable by itself.
    pub(crate) fn server_options(self, server_id: usize) -> Vec<String> {
        let mut options: Vec<String> = [
            // Both families, and addresses that a test adds later.
            "--bind-address=*",
            "--port=3306",
            "--log-bin=binlog",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=2",
            "--max-connections=500",
            "--read-only=1",
        ]
        .map(str::to_owned)
        .into();
        options.push(format!("--server-id={server_id}"));
        match self {
            Self::MariaDb => {
                // A pair writes in one domain.
                options.push(format!("--gtid-domain-id={}", server_id.div_ceil(2)));
                options.extend(
                    [
                        "--log-slave-updates",
                        "--gtid-strict-mode=1",
                        "--innodb-log-file-size=16M",
                        "--master-retry-count=1000000",
                        "--slave-net-timeout=5",
                        "--skip-slave-start=0",
                    ]
                    .map(str::to_owned),
                );
            }
            Self::MySql => options.extend(
                [
                    "--gtid-mode=ON",
                    "--enforce-gtid-consistency=ON",
                    "--super-read-only=1",
                    "--innodb-redo-log-capacity=16M",
                    "--replica-net-timeout=5",
                    // A second port, for a protocol that nobody here speaks.
                    "--mysqlx=OFF",
                    "--secure-file-priv=NULL",
                ]
                .map(str::to_owned),
            ),
        }
        options
    }

    /// Options with which a server records transactions and locks. MySQL does by itself.
    pub(crate) const fn performance_schema(self) -> &'static [&'static str] {
        match self {
            Self::MariaDb => &[
                "--performance-schema=ON",
                "--performance-schema-instrument=transaction=ON",
                "--performance-schema-instrument=wait/lock/metadata/sql/mdl=ON",
                "--performance-schema-consumer-events-transactions-current=ON",
                "--performance-schema-consumer-events-statements-current=ON",
            ],
            Self::MySql => &[],
        }
    }

    /// Makes the lab's accounts. Not in the binary log: every server makes its own, so that replication starts with nothing to
    /// repeat.
    pub(crate) fn create_accounts(self) -> String {
        // `super_read_only` is for root, too.
        let (before, check, after) = match self {
            Self::MariaDb => ("", "SLAVE MONITOR, BINLOG MONITOR", ""),
            Self::MySql => (
                "SET GLOBAL super_read_only=0;",
                "REPLICATION CLIENT",
                "SET GLOBAL super_read_only=1;",
            ),
        };
        format!(
            "SET SESSION sql_log_bin=0;
             {before}
             CREATE USER '{CHECK_USER}'@'%' IDENTIFIED BY '{CHECK_PASSWORD}';
             GRANT {check} ON *.* TO '{CHECK_USER}'@'%';
             CREATE USER 'repl'@'%' IDENTIFIED BY 'repl';
             GRANT REPLICATION SLAVE ON *.* TO 'repl'@'%';
             CREATE DATABASE app;
             CREATE USER '{APP_USER}'@'%' IDENTIFIED BY '{APP_PASSWORD}';
             GRANT ALL ON app.* TO '{APP_USER}'@'%';
             {after}"
        )
    }

    /// Gives the check account what a safe flip needs besides; not in the binary log.
    pub(crate) fn grant_flips(self) -> String {
        let (before, after) = match self {
            Self::MariaDb => ("", ""),
            Self::MySql => ("SET GLOBAL super_read_only=0;", "SET GLOBAL super_read_only=1;"),
        };
        let grants = match self {
            Self::MariaDb => format!(
                "GRANT PROCESS, CONNECTION ADMIN, READ_ONLY ADMIN ON *.* TO '{CHECK_USER}'@'%';
                 GRANT SELECT ON mysql.* TO '{CHECK_USER}'@'%';
                 GRANT SELECT ON performance_schema.* TO '{CHECK_USER}'@'%';"
            ),
            Self::MySql => format!(
                "GRANT PROCESS, CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN, XA_RECOVER_ADMIN ON *.* TO '{CHECK_USER}'@'%';
                 GRANT SELECT ON performance_schema.* TO '{CHECK_USER}'@'%';"
            ),
        };
        format!("SET SESSION sql_log_bin=0; {before} {grants} {after}")
    }

    /// Starts replication from a server.
    pub(crate) fn replicate_from(self, source: Ipv4Addr) -> String {
        match self {
            Self::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='{source}', MASTER_USER='repl', MASTER_PASSWORD='repl',
                 MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE;"
            ),
            Self::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{source}', SOURCE_USER='repl', SOURCE_PASSWORD='repl',
                 SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=1000000;
                 START REPLICA;"
            ),
        }
    }

    /// Applies what the source did only `seconds` later; 0 ends that.
    pub fn delay(self, seconds: u32) -> String {
        let delay = match self {
            Self::MariaDb => format!("CHANGE MASTER TO MASTER_DELAY={seconds}"),
            Self::MySql => format!("CHANGE REPLICATION SOURCE TO SOURCE_DELAY={seconds}"),
        };
        format!("STOP REPLICA; {delay}; START REPLICA;")
    }

    pub(crate) const fn set_read_only(self, read_only: bool) -> &'static str {
        match (self, read_only) {
            // Turns `super_read_only` off as well.
            (_, false) => "SET GLOBAL read_only=0",
            (Self::MariaDb, true) => "SET GLOBAL read_only=1",
            // Turns `read_only` on as well.
            (Self::MySql, true) => "SET GLOBAL super_read_only=1",
        }
    }

    /// Answers a text that ends with ON while every replication thread runs.
    pub(crate) const fn is_replicating(self) -> &'static str {
        match self {
            // Says ON when the IO thread is connected and the SQL thread runs.
            Self::MariaDb => "SHOW GLOBAL STATUS LIKE 'Slave_running'",
            Self::MySql => {
                "SELECT IF(io.service_state = 'ON', sql_.service_state, io.service_state)
                 FROM performance_schema.replication_connection_status io
                 JOIN performance_schema.replication_applier_status sql_ USING (channel_name)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flavour_is_found_by_its_name() {
        for flavour in Flavour::ALL {
            assert_eq!(Flavour::from_name(flavour.name()), Ok(flavour));
        }
        let error = Flavour::from_name("mysql-4.1").unwrap_err();
        assert!(error.contains("mariadb-11.8, mysql-9.7"), "{error}");
    }
}
