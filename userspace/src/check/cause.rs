//! Which failures mean what: driver and server errors become a [`CheckFailure`].
//!
//! The line that matters is drawn here and in [`Cause::may_take_down`]: an error that the server
//! itself sends proves that it is alive, and an error of our own host (no file descriptors, no
//! ports) says nothing about the server.

use std::{io, time::Duration};

use mysql_async::{DriverError, Error, IoError, ServerError, TlsError};
use pairflip_policy::{Cause, CheckFailure};

/// Returns what a driver error means, with a text for the operator.
pub(crate) fn failure(error: &Error) -> CheckFailure {
    let (cause, text) = match error {
        Error::Server(error) => {
            let cause = server_cause(error);
            (cause, with_remedy(cause, error.to_string()))
        }
        Error::Io(IoError::Io(error)) => match tls_error(error) {
            Some(error) => (Cause::Tls, tls_text(error)),
            None => (io_cause(error), error.to_string()),
        },
        Error::Io(IoError::Tls(TlsError::Tls(error))) => (Cause::Tls, tls_text(error)),
        Error::Io(IoError::Tls(error)) => (Cause::Tls, error.to_string()),
        Error::Driver(error) => {
            let cause = driver_cause(error);
            (cause, with_remedy(cause, error.to_string()))
        }
        Error::Other(error) => (Cause::Other, error.to_string()),
        Error::Url(error) => (Cause::Other, error.to_string()),
    };
    CheckFailure { cause, text }
}

/// Returns what an error of a connection means that is not the driver's.
pub(super) fn unanswered(doing: &str, error: &io::Error) -> CheckFailure {
    CheckFailure { cause: io_cause(error), text: format!("{doing}: {error}") }
}

pub(super) fn timed_out(doing: &str, timeout: Duration) -> CheckFailure {
    CheckFailure { cause: Cause::TimedOut, text: format!("{doing}: no answer within {timeout:?}") }
}

/// The daemon itself was away for `late` of a probe that took `took`: nothing follows from an answer that did not come in
/// time.
pub(super) fn starved(late: Duration, took: Duration) -> CheckFailure {
    let text = format!(
        "it was kept waiting for {late:.0?} of {took:.0?}; find out what takes this host's processors, or suspends it"
    );
    CheckFailure { cause: Cause::Starved, text }
}

/// Returns what TLS says, where the driver wraps it as an error of the connection.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Returns what is wrong with a server's certificate, or with ours, and what to do.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enums; what is not named here is told in the library's words"
)]
fn tls_text(error: &rustls::Error) -> String {
    use rustls::{CertificateError as Bad, Error as Tls};
    let remedy = match error {
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "renew the server's certificate, then on the server: ALTER INSTANCE RELOAD TLS (MariaDB: FLUSH SSL)"
        }
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "compare the clocks of this host and of the one that made the server's certificate"
        }
        // Authorities that were made anew have the names of the old ones.
        Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "`ca_file` of [cluster.check] tls has not the CA that signed the server's certificate; add it there"
        }
        Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "set `server_name` of [cluster.check] tls to a name of the certificate, add this address to the certificate, or use mode = \"verify-ca\""
        }
        Tls::InvalidCertificate(_) => {
            "look at the server's certificate: openssl s_client -starttls mysql -connect HOST:PORT"
        }
        Tls::AlertReceived(_) => {
            "the server refuses us; it may want a client certificate (`cert_file`, `key_file`) of a CA that it knows"
        }
        Tls::PeerIncompatible(_) => {
            "the server needs TLS 1.2 or 1.3 and one of their current ciphers"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}

/// Numbers of MySQL's and MariaDB's error message references.
fn server_cause(error: &ServerError) -> Cause {
    match error.code {
        // ER_CON_COUNT_ERROR.
        1040 => Cause::TooManyConnections,
        // ER_DBACCESS_DENIED, ER_ACCESS_DENIED, ER_HOST_NOT_PRIVILEGED, ER_NOT_SUPPORTED_AUTH_MODE,
        // ER_ACCESS_DENIED_NO_PASSWORD, ER_MUST_CHANGE_PASSWORD, ER_MUST_CHANGE_PASSWORD_LOGIN,
        // ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL and of MariaDB.
        1044 | 1045 | 1130 | 1251 | 1698 | 1820 | 1862 | 3118 | 4151 => Cause::AuthDenied,
        // ER_HOST_IS_BLOCKED.
        1129 => Cause::HostBlocked,
        // ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED.
        1203 | 1226 => Cause::UserLimit,
        // ER_TABLEACCESS_DENIED, ER_COLUMNACCESS_DENIED, ER_SPECIFIC_ACCESS_DENIED.
        1142 | 1143 | 1227 => Cause::MissingGrant,
        // ER_SECURE_TRANSPORT_REQUIRED.
        3159 => Cause::Tls,
        // ER_SERVER_SHUTDOWN, ER_NORMAL_SHUTDOWN, ER_SHUTDOWN_COMPLETE: it takes no new work.
        1053 | 1077 | 1079 => Cause::ConnectionLost,
        // ER_NET_READ_ERROR_FROM_PIPE to ER_NET_WRITE_INTERRUPTED, ER_CONNECTION_KILLED (MariaDB).
        1154..=1161 | 1927 => Cause::ConnectionLost,
        _ => Cause::Other,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum; what is not named is trouble of our own host"
)]
fn io_cause(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused,
        io::ErrorKind::TimedOut => Cause::TimedOut,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => Cause::Unreachable,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Cause::ConnectionLost,
        // What the driver says about bytes that do not parse; the second one wraps its packet
        // codec's errors.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Cause::Protocol,
        io::ErrorKind::Other if error.raw_os_error().is_none() => Cause::Protocol,
        _ if error.raw_os_error() == Some(libc::EHOSTDOWN) => Cause::Unreachable,
        _ => Cause::Local,
    }
}

fn driver_cause(error: &DriverError) -> Cause {
    match error {
        DriverError::ConnectionClosed => Cause::ConnectionLost,
        DriverError::PacketOutOfOrder
        | DriverError::UnexpectedPacket { .. }
        | DriverError::PacketTooLarge
        | DriverError::BadCompressedPacketHeader
        | DriverError::CantParseServerVersion { .. } => Cause::Protocol,
        DriverError::UnknownAuthPlugin { .. }
        | DriverError::MysqlOldPasswordDisabled
        | DriverError::CleartextPluginDisabled
        | DriverError::InvalidParsecSalt
        | DriverError::NoKeyFound => Cause::AuthDenied,
        DriverError::NoClientSslFlagFromServer => Cause::Tls,
        // Misuse of the driver, or an answer of an unexpected type: not the server's health.
        DriverError::FromValue { .. }
        | DriverError::FromRow { .. }
        | DriverError::Params(_)
        | DriverError::MixedParams
        | DriverError::NestedTransaction
        | DriverError::PoolDisconnected
        | DriverError::ReadOnlyTransNotSupported
        | DriverError::StmtParamsMismatch { .. }
        | DriverError::StmtParamsNumberExceedsLimit { .. }
        | DriverError::NamedPipesDisabled
        | DriverError::LocalInfile(_)
        | DriverError::BulkExecute(_) => Cause::Other,
    }
}

/// Adds what to do, where a human has to act on the server.
fn with_remedy(cause: Cause, text: String) -> String {
    let remedy = match cause {
        Cause::AuthDenied => {
            "check `user` and `password_file` of [cluster.check] and that the account may connect \
             from this host"
        }
        Cause::TooManyConnections => "raise max_connections or find out who holds the connections",
        Cause::HostBlocked => {
            "on the server: FLUSH HOSTS (MySQL 8.0.23 and later: TRUNCATE TABLE \
             performance_schema.host_cache), and find out what connects from this host without \
             logging in; with forwarding = \"snat\" clients come from here, so the server refuses \
             their new connections as well"
        }
        Cause::UserLimit => {
            "raise the check account's limits (max_user_connections, MAX_*_PER_HOUR)"
        }
        Cause::MissingGrant => {
            "grant REPLICATION CLIENT (MySQL) or SLAVE MONITOR (MariaDB 10.5 and later) on *.* to \
             the check user"
        }
        Cause::Tls => {
            "checks speak TLS if [cluster.check] has tls = { ca_file = ... }, which needs a server \
             that has TLS on (ssl_cert, ssl_key)"
        }
        Cause::Refused
        | Cause::TimedOut
        | Cause::Unreachable
        | Cause::ConnectionLost
        | Cause::Protocol
        | Cause::Starved
        | Cause::Local
        | Cause::Other => return text,
    };
    format!("{text}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_never_take_a_backend_down_unless_it_is_leaving() {
        for code in (1000..2000).chain(3000..4200) {
            let error = ServerError { code, message: String::new(), state: String::new() };
            let leaving = matches!(code, 1053 | 1077 | 1079 | 1154..=1161 | 1927);
            assert_eq!(server_cause(&error).may_take_down(), leaving, "{code}");
        }
    }

    #[test]
    fn alive_errors_are_told_apart_and_say_what_to_do() {
        check_code(1040, Cause::TooManyConnections);
        check_code(1045, Cause::AuthDenied);
        check_code(1129, Cause::HostBlocked);
        check_code(1203, Cause::UserLimit);
        check_code(1226, Cause::UserLimit);
        check_code(1227, Cause::MissingGrant);
        check_code(3159, Cause::Tls);
    }

    #[test]
    fn socket_errors_by_number() {
        for (errno, cause) in [
            (libc::ECONNREFUSED, Cause::Refused),
            (libc::ETIMEDOUT, Cause::TimedOut),
            (libc::EHOSTUNREACH, Cause::Unreachable),
            (libc::ENETUNREACH, Cause::Unreachable),
            (libc::ENETDOWN, Cause::Unreachable),
            (libc::EHOSTDOWN, Cause::Unreachable),
            (libc::ECONNRESET, Cause::ConnectionLost),
            (libc::EPIPE, Cause::ConnectionLost),
        ] {
            assert_eq!(io_cause(&io::Error::from_raw_os_error(errno)), cause, "errno {errno}");
        }
    }

    #[test]
    fn trouble_of_our_own_host_says_nothing_about_the_server() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::EPERM, libc::ENOMEM] {
            assert_eq!(io_cause(&io::Error::from_raw_os_error(errno)), Cause::Local, "{errno}");
        }
    }

    fn check_code(code: u16, cause: Cause) {
        let error = ServerError { code, message: "words".into(), state: "HY000".into() };
        let failure = failure(&Error::Server(error));
        assert_eq!(failure.cause, cause);
        assert!(failure.text.starts_with(&format!("ERROR {code} (HY000): words; ")));
    }
}
