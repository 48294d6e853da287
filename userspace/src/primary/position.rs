//! Positions: how far a server's log goes, and whether another server has come that far.

use std::{cmp::Ordering, fmt, net::SocketAddr};

use pairflip_policy::{Channel, Facts, LogPosition};

use crate::check::gtid;

/// A place in everything that a server has written, in its own words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Position {
    /// A set of GTIDs, `UUID:1-5:8,...`.
    MySql(String),
    /// A GTID per domain, `DOMAIN-SERVER-SEQUENCE,...`.
    MariaDb(String),
    /// Of a server without GTIDs.
    Log(LogPosition),
}

impl Position {
    /// Reads what [`Facts::position`] says.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        if gtid::mariadb_reached(text, text) == Some(true) {
            return Some(Self::MariaDb(text.to_owned()));
        }
        if is_uuid(text.split(':').next()?) && gtid::mysql_contains(text, text) == Some(true) {
            return Some(Self::MySql(text.to_owned()));
        }
        let (file, offset) = text.rsplit_once(':')?;
        Some(Self::Log(LogPosition { file: file.to_owned(), offset: offset.parse().ok()? }))
    }

    /// Returns whether a server has applied all up to here; `channel` is its replication from the server whose position this is.
    /// `None` if it does not say.
    pub(super) fn is_reached(&self, facts: &Facts, channel: Option<&Channel>) -> Option<bool> {
        match self {
            // A primary logs what it applies, or its own replicas would not get it.
            Self::MySql(set) => gtid::mysql_contains(facts.position.as_deref()?, set),
            Self::MariaDb(position) => gtid::mariadb_reached(facts.position.as_deref()?, position),
            Self::Log(place) => {
                let executed = channel?.upstream.executed.as_ref()?;
                executed.compare(place).map(|order| order != Ordering::Less)
            }
        }
    }

    /// Returns what `other` has and this has not, as far as GTIDs tell: writes that were made on the other server.
    pub(super) fn lacks(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::MySql(own), Self::MySql(others)) => gtid::mysql_missing(own, others),
            (Self::MariaDb(own), Self::MariaDb(others)) => gtid::mariadb_missing(own, others),
            (Self::MySql(_) | Self::MariaDb(_) | Self::Log(_), _) => None,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(set) => f.write_str(set),
            Self::MariaDb(position) => f.write_str(position),
            Self::Log(place) => place.fmt(f),
        }
    }
}

/// Returns a server's replication from another one: the channel that was told its address, or that was answered by its id.
pub(super) fn channel_from(facts: &Facts, address: SocketAddr, server_id: u32) -> Option<&Channel> {
    let address = address.to_string();
    facts.replication.iter().find(|channel| {
        channel.upstream.address == address
            || (server_id != 0 && channel.upstream.server_id == server_id)
    })
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use pairflip_policy::Upstream;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn positions_are_known_by_their_looks() {
        let mysql = format!("{A}:1-5:8");
        assert_eq!(Position::parse(&mysql), Some(Position::MySql(mysql.clone())));
        assert_eq!(
            Position::parse("1-11-99,2-21-4"),
            Some(Position::MariaDb("1-11-99,2-21-4".into()))
        );
        let place = LogPosition { file: "binlog.000012".into(), offset: 1234 };
        assert_eq!(Position::parse("binlog.000012:1234"), Some(Position::Log(place)));
        for text in ["", "binlog.000012", "binlog.000012:x", "1-11", &format!("{A}:1-")] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_position_is_reached_by_gtids_or_by_the_place_in_the_sources_log() {
        let at = |text: &str| Facts { position: Some(text.into()), ..Facts::default() };
        let position = Position::parse("1-11-99,2-21-4").unwrap();
        assert_eq!(position.is_reached(&at("1-11-98,2-21-4"), None), Some(false));
        assert_eq!(position.is_reached(&at("1-11-99,2-21-5"), None), Some(true));
        assert_eq!(position.is_reached(&Facts::default(), None), None);
        let position = Position::parse("binlog.000012:1234").unwrap();
        let channel = |file: &str, offset| Channel {
            upstream: Upstream {
                executed: Some(LogPosition { file: file.into(), offset }),
                ..Upstream::default()
            },
            ..Channel::default()
        };
        let reached =
            |file, offset| position.is_reached(&Facts::default(), Some(&channel(file, offset)));
        assert_eq!(reached("binlog.000012", 1233), Some(false));
        assert_eq!(reached("binlog.000012", 1234), Some(true));
        assert_eq!(reached("binlog.000013", 4), Some(true));
        assert_eq!(position.is_reached(&Facts::default(), None), None);
    }

    #[test]
    fn writes_that_only_the_other_server_has_are_named() {
        let lacks = |own: &str, others: &str| {
            Position::parse(own).unwrap().lacks(&Position::parse(others).unwrap())
        };
        assert_eq!(lacks("1-11-99,2-21-4", "1-11-90,2-21-4"), None);
        assert_eq!(lacks("1-11-99,2-21-4", "1-11-90,2-21-5").as_deref(), Some("2-21-5"));
        // The same place in one domain, and another server wrote there.
        assert_eq!(lacks("0-11-99", "0-21-99").as_deref(), Some("0-21-99"));
        assert_eq!(lacks(&format!("{A}:1-9"), &format!("{A}:1-5")), None);
        let missing = lacks(&format!("{A}:1-9"), &format!("{A}:1-5:12-13"));
        assert_eq!(missing, Some(format!("{A}:12-13")));
    }
}
