//! One connection, with the patience of an application.

use std::{io, net::SocketAddr, time::Duration};

use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, prelude::Queryable as _};
use tokio::time::timeout;

use super::record::Kind;
use crate::lab::database::{APP_PASSWORD, APP_USER};

/// A client's patience with connecting: long enough for SYNs after 0, 1, 3 and 7 seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A client's patience with a statement: longer than any flip's deadline in the tests, so that who waits longer was
/// forgotten.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Options of an application's connection.
pub(super) fn opts(to: SocketAddr) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname(to.ip().to_string())
        .tcp_port(to.port())
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .prefer_socket(false)
        .into()
}

pub(super) async fn connect(opts: &Opts) -> Result<Conn, Kind> {
    match timeout(CONNECT_TIMEOUT, Conn::new(opts.clone())).await {
        Ok(conn) => conn.map_err(|error| kind(&error)),
        Err(_elapsed) => Err(Kind::Timeout),
    }
}

/// Runs a statement and throws its result away.
pub(super) async fn run(conn: &mut Conn, statement: &str) -> Result<(), Kind> {
    match timeout(ANSWER_TIMEOUT, conn.query_drop(statement)).await {
        Ok(done) => done.map_err(|error| kind(&error)),
        Err(_elapsed) => Err(Kind::Timeout),
    }
}

/// Says goodbye; a server that does not listen is none the worse.
pub(super) async fn close(conn: Conn) {
    _ = timeout(Duration::from_secs(1), conn.disconnect()).await;
}

fn kind(error: &Error) -> Kind {
    match error {
        Error::Server(error) => Kind::Server(error.code),
        Error::Io(IoError::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Kind::Refused
        }
        Error::Io(IoError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => Kind::Timeout,
        // Whatever the kernel calls it, the connection is no more.
        Error::Io(IoError::Io(_) | IoError::Tls(_)) => Kind::Lost,
        Error::Driver(DriverError::ConnectionClosed) => Kind::Lost,
        Error::Driver(_) | Error::Url(_) | Error::Other(_) => Kind::Other,
    }
}
