//! Whose session is whose: the `HOST` column against the addresses that the data plane knows.
//!
//! A server that does not resolve names shows `address:port`. One that does shows `name:port`: then the port must be unique among all
//! sessions, and the name must be known to stand for the address. What cannot be told apart is nobody's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable as _};
use tokio::time::timeout;

use super::query::Listed;

/// Longest wait for this host's own resolver, which is asked last.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(200);

/// What the server calls whom.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// What was found out, by address; `None`: nothing.
    known: BTreeMap<IpAddr, Option<String>>,
    /// The server's own memory of names can be read.
    host_cache: bool,
}

/// Whose an end is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Found {
    Session(Listed),
    Nobody,
    /// Several sessions could be it, or one with a name that may be another's.
    Ambiguous,
}

impl Names {
    pub(super) fn new(host_cache: bool) -> Self {
        Self { known: BTreeMap::new(), host_cache }
    }

    /// Takes down how the server names us, from our own session.
    pub(super) fn learn(&mut self, own: IpAddr, host: &str) {
        if let Some((name, _)) = split(host)
            && name.parse::<IpAddr>().is_err()
        {
            self.known.insert(own, Some(name.to_owned()));
        }
    }

    pub(super) async fn find(
        &mut self,
        conn: &mut Conn,
        end: SocketAddr,
        listed: &[Listed],
    ) -> mysql_async::Result<Found> {
        match candidates(end, listed) {
            Candidates::Address(session) => Ok(Found::Session(session.clone())),
            Candidates::Nobody => Ok(Found::Nobody),
            Candidates::Several => Ok(Found::Ambiguous),
            Candidates::Name(session, name) => {
                let is_its = self.is_name_of(conn, name, end.ip()).await?;
                Ok(if is_its { Found::Session(session.clone()) } else { Found::Ambiguous })
            }
        }
    }

    async fn is_name_of(
        &mut self,
        conn: &mut Conn,
        name: &str,
        address: IpAddr,
    ) -> mysql_async::Result<bool> {
        if let Some(known) = self.known.get(&address) {
            return Ok(known.as_deref() == Some(name));
        }
        if self.host_cache {
            let sql =
                format!("SELECT HOST FROM performance_schema.host_cache WHERE IP = '{address}'");
            let host: Option<Option<String>> = conn.query_first(sql).await?;
            if let Some(host) = host.flatten() {
                self.known.insert(address, Some(host.clone()));
                return Ok(host == name);
            }
        }
        let looked_up = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, 0))).await;
        let is_its = match looked_up {
            Ok(Ok(mut found)) => found.any(|it| it.ip().to_canonical() == address),
            Ok(Err(_)) | Err(_) => false,
        };
        self.known.insert(address, is_its.then(|| name.to_owned()));
        Ok(is_its)
    }
}

/// Who could be at an end, by what the list says alone.
#[derive(Debug, Eq, PartialEq)]
enum Candidates<'a> {
    Address(&'a Listed),
    /// The only session with this port, under this name.
    Name(&'a Listed, &'a str),
    Several,
    Nobody,
}

fn candidates(end: SocketAddr, listed: &[Listed]) -> Candidates<'_> {
    let address = end.ip().to_canonical();
    let mut named = Vec::new();
    let mut by_address = Vec::new();
    for session in listed {
        let Some((name, port)) = split(&session.host) else { continue };
        if port != end.port() {
            continue;
        }
        match name.parse::<IpAddr>() {
            Ok(found) if found.to_canonical() == address => by_address.push(session),
            Ok(_) => {}
            Err(_) => named.push((session, name)),
        }
    }
    match (by_address.as_slice(), named.as_slice()) {
        ([session], _) => Candidates::Address(session),
        ([], [(session, name)]) => Candidates::Name(session, name),
        ([], []) => Candidates::Nobody,
        (_, _) => Candidates::Several,
    }
}

/// Splits `name:port`; the name of an IPv6 address has colons of its own.
fn split(host: &str) -> Option<(&str, u16)> {
    let (name, port) = host.rsplit_once(':')?;
    Some((name.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(hosts: &[&str]) -> Vec<Listed> {
        let one = |(id, host): (usize, &&str)| Listed { id: id as u64 + 1, host: (*host).into() };
        hosts.iter().enumerate().map(one).collect()
    }

    fn id_at(end: &str, hosts: &[&str]) -> String {
        match candidates(end.parse().unwrap(), &listed(hosts)) {
            Candidates::Address(session) => format!("{}", session.id),
            Candidates::Name(session, name) => format!("{} as {name}", session.id),
            Candidates::Several => "several".into(),
            Candidates::Nobody => "nobody".into(),
        }
    }

    #[test]
    fn a_session_is_found_by_address_and_port() {
        let hosts = ["localhost", "10.0.0.7:4000", "10.0.0.7:4001", "10.0.0.8:4000"];
        assert_eq!(id_at("10.0.0.7:4000", &hosts), "2");
        assert_eq!(id_at("10.0.0.8:4000", &hosts), "4");
        assert_eq!(id_at("10.0.0.9:4000", &hosts), "nobody");
        assert_eq!(id_at("[fd00::1]:4000", &["fd00::1:4000"]), "1");
        assert_eq!(id_at("10.0.0.7:4000", &["::ffff:10.0.0.7:4000"]), "1");
    }

    #[test]
    fn with_names_the_port_must_be_unique() {
        assert_eq!(id_at("10.0.0.7:4000", &["app1:4000", "app1:4001"]), "1 as app1");
        assert_eq!(id_at("10.0.0.7:4000", &["app1:4000", "app2:4000"]), "several");
        // An address that has no name is nobody else's.
        assert_eq!(id_at("10.0.0.7:4000", &["app1:4000", "10.0.0.9:4000"]), "1 as app1");
    }
}
