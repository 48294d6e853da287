//! Ports for source translation, taken out of the kernel's hands.
//!
//! A flow and a socket of this host that used the same source port towards the same backend would
//! be the same connection to that backend. So the kernel is told not to hand out the ports of
//! `snat_ports`, and sockets that already have one are listed. Everything here concerns the network
//! namespace of the calling thread; parsing is pure.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

// The kernel shows the values of the reading thread's namespace here.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
// /proc/self would be the namespace of the process, which is another one after a thread's setns.
const TCP4: &str = "/proc/thread-self/net/tcp";
const TCP6: &str = "/proc/thread-self/net/tcp6";

/// Below this many ephemeral ports the host's own connections (checks among them) could run out.
const EPHEMERAL_MIN: usize = 4096;
/// Where the ephemeral range is widened down to: first a bound well away from services, then the
/// kernel's own limit.
const WIDEN_TO: [u16; 2] = [16384, 1024];

/// The two settings that decide which ports the kernel hands out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SysctlValues {
    /// `ip_local_reserved_ports`.
    pub reserved: PortSet,
    /// `ip_local_port_range`: first and last port.
    pub ephemeral: (u16, u16),
}

/// What [`reserve`] changed, so that [`restore`] can undo it. Keep it across restarts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reservation {
    pub before: SysctlValues,
    pub after: SysctlValues,
}

/// Why the ports could not be reserved or given back.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    #[error("cannot read {path}")]
    Read { path: &'static str, source: io::Error },
    #[error("cannot make sense of {path}: {source}")]
    Parse { path: &'static str, source: ParseError },
    #[error(
        "cannot write \"{value}\" to {path}; in a container with read-only /proc/sys, set it from \
         outside and start again"
    )]
    Write { path: &'static str, value: String, source: io::Error },
    #[error(
        "snat_ports {}-{} leaves the kernel {left} of the {EPHEMERAL_MIN} ports that it needs for \
         this host's own connections; choose a smaller range", range.start(), range.end()
    )]
    TooFewLeft { range: RangeInclusive<u16>, left: usize },
}

/// Text of the kernel that does not look as expected.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseError {
    #[error("\"{0}\" is not a port")]
    Port(String),
    #[error("range {0}-{1} runs backwards")]
    Backwards(u16, u16),
    #[error("two ports were expected in \"{0}\"")]
    Range(String),
    #[error("socket line \"{0}\"")]
    Socket(String),
}

/// Makes the kernel hand out no port of `range`. Existing sockets keep theirs, see
/// [`sockets_inside`].
///
/// `saved` is the reservation of an earlier run. If its settings are in force, it is kept, so that
/// `restore` leads back to the time before the first run; otherwise (a reboot, or someone's change)
/// it is outdated.
pub fn reserve(
    range: &RangeInclusive<u16>,
    saved: Option<Reservation>,
) -> Result<Reservation, PortsError> {
    let current = read_sysctls()?;
    let after = plan(&current, range)?;
    write_sysctls(&current, &after)?;
    let before = match saved {
        Some(saved) => saved.without_ours(&current),
        None => current,
    };
    Ok(Reservation { before, after })
}

impl Reservation {
    /// `current` less what this reservation added to it; `current` as it is where nothing of it is in force (a reboot).
    fn without_ours(&self, current: &SysctlValues) -> SysctlValues {
        let added = self.after.reserved.minus(&self.before.reserved);
        let widened = current.ephemeral == self.after.ephemeral;
        SysctlValues {
            reserved: current.reserved.minus(&added),
            ephemeral: if widened { self.before.ephemeral } else { current.ephemeral },
        }
    }
}

/// Undoes a reservation, except where someone else has changed a setting since.
///
/// Of the reserved ports only those that the reservation added are given back.
pub fn restore(reservation: &Reservation) -> Result<(), PortsError> {
    let current = read_sysctls()?;
    write_sysctls(&current, &reservation.without_ours(&current))
}

/// Lists connections of this host's own sockets that have a local port in `range` and lead to one
/// of `backends`.
///
/// As long as such a connection lives, a flow with its port would break it.
pub fn sockets_inside(
    range: &RangeInclusive<u16>,
    backends: &BTreeSet<SocketAddr>,
) -> Result<Vec<(SocketAddr, SocketAddr)>, PortsError> {
    let mut sockets = Vec::new();
    for path in [TCP4, TCP6] {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if path == TCP6 && error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(PortsError::Read { path, source }),
        };
        sockets.extend(parse_sockets(&text).map_err(|source| PortsError::Parse { path, source })?);
    }
    sockets.retain(|(local, remote)| range.contains(&local.port()) && backends.contains(remote));
    Ok(sockets)
}

/// Decides the settings under which no port of `range` is handed out and enough others are.
fn plan(current: &SysctlValues, range: &RangeInclusive<u16>) -> Result<SysctlValues, PortsError> {
    let mut reserved = current.reserved.clone();
    reserved.insert(range);
    let (first, last) = current.ephemeral;
    let mut left = 0;
    for first in [first].into_iter().chain(WIDEN_TO.into_iter().filter(|port| *port < first)) {
        left = (first..=last).count() - reserved.count_inside(&(first..=last));
        if left >= EPHEMERAL_MIN {
            return Ok(SysctlValues { reserved, ephemeral: (first, last) });
        }
    }
    Err(PortsError::TooFewLeft { range: range.clone(), left })
}

fn read_sysctls() -> Result<SysctlValues, PortsError> {
    let read = |path| fs::read_to_string(path).map_err(|source| PortsError::Read { path, source });
    let reserved = parse_ports(&read(RESERVED)?)
        .map_err(|source| PortsError::Parse { path: RESERVED, source })?;
    let ephemeral = parse_ephemeral(&read(EPHEMERAL)?)
        .map_err(|source| PortsError::Parse { path: EPHEMERAL, source })?;
    Ok(SysctlValues { reserved, ephemeral })
}

/// Writes what differs, so that settings made from outside are enough where /proc/sys is read-only.
fn write_sysctls(old: &SysctlValues, new: &SysctlValues) -> Result<(), PortsError> {
    let write = |path, value: String| {
        fs::write(path, &value).map_err(|source| PortsError::Write { path, value, source })
    };
    if old.reserved != new.reserved {
        write(RESERVED, format!("{}\n", new.reserved))?;
    }
    if old.ephemeral != new.ephemeral {
        write(EPHEMERAL, format!("{}\t{}\n", new.ephemeral.0, new.ephemeral.1))?;
    }
    Ok(())
}

/// A set of ports, written the kernel's way: `80,1000-1010`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortSet(BTreeSet<u16>);

impl PortSet {
    fn insert(&mut self, range: &RangeInclusive<u16>) {
        self.0.extend(range.clone());
    }

    fn minus(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    fn count_inside(&self, range: &RangeInclusive<u16>) -> usize {
        if range.is_empty() { 0 } else { self.0.range(range.clone()).count() }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|port| Some(*port) == last.checked_add(1)) {
                last = next;
            }
            f.write_str(separator)?;
            if first == last {
                write!(f, "{first}")?
            } else {
                write!(f, "{first}-{last}")?
            }
            separator = ",";
        }
        Ok(())
    }
}

impl From<PortSet> for String {
    fn from(ports: PortSet) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for PortSet {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        parse_ports(&text)
    }
}

fn parse_ports(text: &str) -> Result<PortSet, ParseError> {
    let mut ports = PortSet::default();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        if first > last {
            return Err(ParseError::Backwards(first, last));
        }
        ports.insert(&(first..=last));
    }
    Ok(ports)
}

fn parse_ephemeral(text: &str) -> Result<(u16, u16), ParseError> {
    let mut words = text.split_whitespace();
    let (Some(first), Some(last), None) = (words.next(), words.next(), words.next()) else {
        return Err(ParseError::Range(text.trim().to_owned()));
    };
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last { Err(ParseError::Backwards(first, last)) } else { Ok((first, last)) }
}

fn parse_port(text: &str) -> Result<u16, ParseError> {
    text.trim().parse().map_err(|_| ParseError::Port(text.to_owned()))
}

/// Returns local and remote address of every connection in a table such as /proc/net/tcp or tcp6.
///
/// Listening sockets have no remote port and are left out.
fn parse_sockets(text: &str) -> Result<Vec<(SocketAddr, SocketAddr)>, ParseError> {
    let mut sockets = Vec::new();
    // The first line is a heading.
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let strange = || ParseError::Socket(line.trim().to_owned());
        let mut words = line.split_whitespace().skip(1);
        let local = parse_address(words.next().ok_or_else(strange)?).ok_or_else(strange)?;
        let remote = parse_address(words.next().ok_or_else(strange)?).ok_or_else(strange)?;
        if remote.port() != 0 {
            sockets.push((local, remote));
        }
    }
    Ok(sockets)
}

/// Reads `0100007F:0CEA`: each 32-bit word of the address as a number of this machine's byte order,
/// then the port. A socket for both families that talks IPv4 counts as IPv4.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !address.is_ascii() || !matches!(address.len(), 8 | 32) {
        return None;
    }
    let mut octets = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        octets.extend(u32::from_str_radix(&address[at..at + 8], 16).ok()?.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
        Err(_) => {
            let octets = <[u8; 16]>::try_from(octets.as_slice()).ok()?;
            let address = Ipv6Addr::from(octets);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAT: RangeInclusive<u16> = 32768..=60999;

    #[test]
    fn port_lists_survive_reading_and_writing() {
        for text in ["", "80", "80,443", "1000-1010", "1,3-5,7,65535", "0-65535"] {
            assert_eq!(parse_ports(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn port_lists_are_put_in_order() {
        assert_eq!(parse_ports("9,1-2,3\n").expect("list").to_string(), "1-3,9");
        assert_eq!(parse_ports("5-9,1-6").expect("list").to_string(), "1-9");
    }

    #[test]
    fn malformed_port_lists_are_errors() {
        for text in ["x", "1-", "-1", "65536", "1,,x", "1-2-3", "1 2", "0x10"] {
            assert!(matches!(parse_ports(text), Err(ParseError::Port(_))), "{text}");
        }
        assert_eq!(parse_ports("9-1"), Err(ParseError::Backwards(9, 1)));
    }

    #[test]
    fn ephemeral_ranges() {
        assert_eq!(parse_ephemeral("32768\t60999\n"), Ok((32768, 60999)));
        for text in ["", "1", "1 2 3", "a b", "2 1", "1 70000"] {
            assert!(parse_ephemeral(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_range_makes_the_kernel_use_lower_ports() {
        let after = plan(&sysctls("", (32768, 60999)), &SNAT).expect("plan");
        assert_eq!(after, sysctls("32768-60999", (16384, 60999)));
    }

    #[test]
    fn a_range_that_leaves_enough_ports_changes_the_ephemeral_range_not() {
        let after = plan(&sysctls("8080", (32768, 60999)), &(40000..=50000)).expect("plan");
        assert_eq!(after, sysctls("8080,40000-50000", (32768, 60999)));
    }

    #[test]
    fn widening_goes_to_the_kernels_limit_when_it_has_to() {
        let after = plan(&sysctls("", (32768, 60999)), &(16384..=60999)).expect("plan");
        assert_eq!(after.ephemeral, (1024, 60999));
    }

    #[test]
    fn a_range_that_starves_the_host_is_refused() {
        let error = plan(&sysctls("", (32768, 60999)), &(1024..=65535)).expect_err("all");
        assert!(matches!(error, PortsError::TooFewLeft { left: 0, .. }), "{error}");
    }

    #[test]
    fn planning_twice_is_planning_once() {
        let once = plan(&sysctls("", (32768, 60999)), &SNAT).expect("plan");
        assert_eq!(plan(&once, &SNAT).expect("plan"), once);
    }

    #[test]
    fn reservations_survive_the_state_file() {
        let before = sysctls("8080", (32768, 60999));
        let reservation = Reservation { after: plan(&before, &SNAT).expect("plan"), before };
        let text = serde_json::to_string(&reservation).expect("json");
        assert!(text.contains(r#""reserved":"8080,32768-60999""#), "{text}");
        assert_eq!(serde_json::from_str::<Reservation>(&text).expect("json"), reservation);
        assert!(serde_json::from_str::<PortSet>(r#""1-x""#).is_err());
    }

    #[test]
    fn socket_tables_of_both_families() {
        let text = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0200000A:8001 0B01000A:0CEA 01 00000000:00000000 02:00000000 00000000     0        0 2 1
   2: 0000000000000000FFFF00000200000A:8002 0000000000000000FFFF00000B01000A:0CEA 01 0 0 0 0 0
   3: 00000000000000000000000001000000:8003 00000000000000000000000001000000:0CEA 01 0 0 0 0 0
   4: B80D0120000000000000000002000000:8004 B80D0120000001000000000011000000:0CEA 01 0 0 0 0 0
   5: 00000000000000000000000000000000:0CEA 00000000000000000000000000000000:0000 0A 0 0 0 0 0
";
        let expected = [
            ("10.0.0.2:32769", "10.0.1.11:3306"),
            ("10.0.0.2:32770", "10.0.1.11:3306"),
            ("[::1]:32771", "[::1]:3306"),
            ("[2001:db8::2]:32772", "[2001:db8:1::11]:3306"),
        ]
        .map(|(local, remote)| (local.parse().expect("address"), remote.parse().expect("address")));
        assert_eq!(parse_sockets(text).expect("table"), expected);
    }

    #[test]
    fn malformed_socket_tables_are_errors() {
        assert_eq!(parse_sockets(""), Ok(vec![]));
        assert_eq!(parse_sockets("heading\n\n"), Ok(vec![]));
        for line in [
            "0:",
            "0: 0100007F:0CEA",
            "0: 0100007F:0CEA x",
            "0: 0100007F 0100007F:0CEA",
            "0: 0100007:0CEA 0100007F:0CEA",
            "0: 010000zz:0CEA 0100007F:0CEA",
            "0: 0100007F:10CEA 0100007F:0CEA",
            "0: 010000é:0CEA 0100007F:0CEA",
            "0: +100007F+:0CEA 0100007F:0CEA",
        ] {
            let text = format!("heading\n{line}\n");
            assert!(matches!(parse_sockets(&text), Err(ParseError::Socket(_))), "{line}");
        }
    }

    fn sysctls(reserved: &str, ephemeral: (u16, u16)) -> SysctlValues {
        SysctlValues { reserved: parse_ports(reserved).expect("ports"), ephemeral }
    }
}
