//! Values as humans write them: durations, addresses, port ranges, names, paths.
//!
//! Pure functions from text to value; positions and keys are added by the caller.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Network, PortRange};

/// Characters of a value that an error repeats.
const QUOTED_CHARS_MAX: usize = 60;
/// Bytes of an interface's name: the kernel's IFNAMSIZ less its final NUL.
const INTERFACE_BYTES_MAX: usize = 15;
/// Characters of the names of clusters, routes and pairs, so that they fit a table on a terminal.
const NAME_CHARS_MAX: usize = 32;
/// Bytes of a unix socket's path: `sun_path` (108) less its final NUL.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Lower ports belong to services of the host, whose replies must not be taken for ours.
const SNAT_PORT_MIN: u16 = 1024;

/// Why a value is refused, and what to do about it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// Returns a text in quotes, control characters escaped, cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().count() <= QUOTED_CHARS_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    format!("{:?}", start + "...")
}

/// Returns a name as it is shown in a key path: without control characters, and not at length.
pub(super) fn plain(name: &str) -> String {
    let quoted = quoted(name);
    quoted.trim_matches('"').to_owned()
}

/// A duration as the configuration writes it: `500ms`, `90s`, `2h`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Human(pub Duration);

/// Units, the largest first, in milliseconds.
const UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let (unit, size) = UNITS
            .iter()
            .find(|(_, size)| {
                millis >= u128::from(*size) && millis.is_multiple_of(u128::from(*size))
            })
            .unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", millis / u128::from(*size))
    }
}

/// Returns a duration within `range`, written as a whole number and a unit.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Fault> {
    let (shortest, longest) = (Human(*range.start()), Human(*range.end()));
    let limits = format!("write a duration from {shortest} to {longest}");
    let digits_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_len);
    if digits.is_empty() {
        let problem = format!("{} is not a duration", quoted(text));
        return Err(Fault::new(problem, "write a whole number and a unit, as in \"500ms\""));
    }
    let unit = unit.trim();
    if unit.is_empty() {
        // A guess at what was meant: nobody waits for hundreds of seconds, or for 5 milliseconds.
        let unit = if digits.len() < 3 { "s" } else { "ms" };
        return Err(Fault::new(
            format!("{} has no unit", quoted(text)),
            format!("add one of ms, s, m, h, d, as in {}", quoted(&format!("{digits}{unit}"))),
        ));
    }
    let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(Fault::new(
            format!("{} is not a duration: {} is not a unit", quoted(text), quoted(unit)),
            "write a whole number and one of ms, s, m, h, d, as in \"1500ms\"",
        ));
    };
    let too_long = || Fault::new(format!("{} is too long", quoted(text)), limits.clone());
    let millis = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*size))
        .ok_or_else(too_long)?;
    let duration = Duration::from_millis(millis);
    if duration > *range.end() {
        return Err(too_long());
    }
    if duration < *range.start() {
        return Err(Fault::new(format!("{} is too short", quoted(text)), limits));
    }
    Ok(duration)
}

/// Returns the address and port of a VIP or a backend.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Fault> {
    let unclear =
        |remedy: &str| Fault::new(format!("{} is not an address and port", quoted(text)), remedy);
    if text.parse::<Ipv4Addr>().is_ok() {
        let remedy = format!("add it, as in \"{text}:3306\"");
        return Err(Fault::new(format!("{} has no port", quoted(text)), remedy));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        // What follows the last colon may be meant as the port, or be part of the address.
        return Err(Fault::new(
            format!("{} is IPv6 without brackets and a port", quoted(text)),
            "put the address in brackets and the port after them, as in \"[2001:db8::11]:3306\"",
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(unclear("write both, as in \"10.0.1.11:3306\"; names are not resolved"));
    };
    let address = match host.strip_prefix('[') {
        Some(inside) => {
            let Some(inside) = inside.strip_suffix(']') else {
                return Err(unclear("write both, as in \"[2001:db8::11]:3306\""));
            };
            inside.parse::<Ipv6Addr>().map(IpAddr::V6)
        }
        None => host.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    let address = match address {
        Ok(address) => address,
        Err(_) if host.contains('%') => return Err(scoped(text)),
        Err(_) if host.contains(['[', ']', ':']) => {
            return Err(unclear("write both, as in \"[2001:db8::11]:3306\""));
        }
        Err(_) if host.contains(|c: char| c.is_ascii_alphabetic()) => {
            return Err(Fault::new(
                format!("{} has a name instead of an address", quoted(text)),
                "write the IP address: names are not resolved, so no DNS fault moves traffic",
            ));
        }
        Err(_) => return Err(unclear("write both, as in \"10.0.1.11:3306\"")),
    };
    let port = port_number(port).ok_or_else(|| unclear("write a port from 1 to 65535"))?;
    host_address(address, |ipv4| format!("{ipv4}:{port}"))?;
    Ok(SocketAddr::new(address, port))
}

/// Returns a port other than 0, written in digits alone.
fn port_number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Returns an address that one host can have.
pub(super) fn address(text: &str) -> Result<IpAddr, Fault> {
    let address = text.parse().map_err(|_: AddrParseError| {
        if text.contains('%') {
            return scoped(text);
        }
        Fault::new(
            format!("{} is not an IP address", quoted(text)),
            "write an address without a port, as in \"10.0.1.2\" or \"2001:db8::2\"",
        )
    })?;
    host_address(address, |ipv4| ipv4.to_string())?;
    Ok(address)
}

/// Returns a network: an address without host bits, and the length of its prefix.
pub(super) fn network(text: &str) -> Result<Network, Fault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let alone = Network::from(address);
        return Err(Fault::new(
            format!("{} has no prefix length", quoted(text)),
            format!("add it: {} is this one host", quoted(&alone.to_string())),
        ));
    }
    let network: Network = text.parse().map_err(|_| {
        Fault::new(
            format!("{} is not a network", quoted(text)),
            "write an address and the length of its prefix, as in \"10.0.0.0/8\"",
        )
    })?;
    let mapped = match network.addr() {
        // The prefix ::ffff:0:0/96 stands before the 32 bits of IPv4.
        IpAddr::V6(address) => address.to_ipv4_mapped().zip(network.prefix_len().checked_sub(96)),
        IpAddr::V4(_) => None,
    };
    if let Some((address, length)) = mapped {
        return Err(Fault::new(
            format!("{network} is an IPv4 network in IPv6 notation"),
            format!("write it as IPv4: \"{address}/{length}\""),
        ));
    }
    let without_host_bits = network.trunc();
    if network != without_host_bits {
        let alone = Network::from(network.addr());
        return Err(Fault::new(
            format!("{} has bits set beyond its prefix", quoted(text)),
            format!("write the network, \"{without_host_bits}\", or the one host, \"{alone}\""),
        ));
    }
    Ok(network)
}

/// An address with its interface, `fe80::1%eth0`.
fn scoped(text: &str) -> Fault {
    Fault::new(
        format!("{} names an interface, as only link-local addresses do", quoted(text)),
        "write an address that is the same on every interface",
    )
}

/// Refuses what no host has as its own; `rewritten` is what to write in place of an IPv4 address in
/// IPv6's clothes.
fn host_address(address: IpAddr, rewritten: impl FnOnce(Ipv4Addr) -> String) -> Result<(), Fault> {
    let octets_v4 = |address: Ipv4Addr| address.octets()[0];
    let kind = match address {
        _ if address.is_loopback() => "a loopback address, whose packets never reach an interface",
        _ if address.is_multicast() => "a multicast address",
        // RFC 6890: 0/8 is "this network", 240/4 reserved with the broadcast address as its last.
        IpAddr::V4(address) if octets_v4(address) == 0 || octets_v4(address) >= 240 => {
            "not the address of a host"
        }
        IpAddr::V4(_) => return Ok(()),
        IpAddr::V6(address) => {
            if let Some(ipv4) = address.to_ipv4_mapped() {
                return Err(Fault::new(
                    format!("{address} is an IPv4 address in IPv6 notation"),
                    format!("write it as IPv4: {}", quoted(&rewritten(ipv4))),
                ));
            }
            if address.is_unicast_link_local() {
                "a link-local address, which another host may have on another interface"
            // RFC 4291, 2.5.2 and 2.5.5.1: "unspecified", and a form that was given up.
            } else if address.segments()[..6] == [0; 6] {
                "not the address of a host"
            } else {
                return Ok(());
            }
        }
    };
    let remedy = "write the address of one host, reachable through an interface";
    Err(Fault::new(format!("{address} is {kind}"), remedy))
}

/// Returns where the HTTP listener binds; `None` for the empty string.
pub(super) fn http(text: &str) -> Result<Option<SocketAddr>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        Ok(_) | Err(_) => Err(Fault::new(
            format!("{} is not an address and port", quoted(text)),
            "write both, as in \"127.0.0.1:8404\", or \"\" to turn it off",
        )),
    }
}

/// Returns a range of ports: `32768-60999`.
pub(super) fn port_range(text: &str) -> Result<PortRange, Fault> {
    let unclear =
        |remedy: String| Fault::new(format!("{} is not a range of ports", quoted(text)), remedy);
    let Some((min, max)) = text.split_once('-') else {
        return Err(unclear("write the lowest and the highest, as in \"32768-60999\"".to_owned()));
    };
    let (Some(min), Some(max)) = (port_number(min.trim()), port_number(max.trim())) else {
        return Err(unclear(format!("write two ports from {SNAT_PORT_MIN} to 65535")));
    };
    if min > max {
        return Err(Fault::new(
            format!("{} has its ends the wrong way round", quoted(text)),
            format!("write the lower port first: \"{max}-{min}\""),
        ));
    }
    if min < SNAT_PORT_MIN {
        return Err(Fault::new(
            format!("{} has ports below {SNAT_PORT_MIN}, which belong to services", quoted(text)),
            format!("begin at {SNAT_PORT_MIN} or higher"),
        ));
    }
    Ok(PortRange { min, max })
}

/// Returns the name of a network interface.
pub(super) fn interface(text: &str) -> Result<String, Fault> {
    // The kernel's dev_valid_name().
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let problem = if text.is_empty() || text == "." || text == ".." || text.contains(odd) {
        format!("{} is not the name of an interface", quoted(text))
    } else if text.len() > INTERFACE_BYTES_MAX {
        format!("{} is longer than an interface's name can be (15 bytes)", quoted(text))
    } else {
        return Ok(text.to_owned());
    };
    Err(Fault::new(problem, "list the interfaces with: ip -br link"))
}

/// Returns the name of a cluster, route or pair.
pub(super) fn name(text: &str) -> Result<String, Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let sound = !text.is_empty()
        && text.len() <= NAME_CHARS_MAX
        && text.chars().all(allowed)
        && !text.starts_with('-');
    if sound {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{} is not a name", quoted(text)),
        format!("use 1 to {NAME_CHARS_MAX} letters, digits, - and _, the first of them not a -"),
    ))
}

/// Returns an absolute path of at most `bytes_max` bytes.
pub(super) fn absolute_path(text: &str, example: &str, bytes_max: usize) -> Result<PathBuf, Fault> {
    let problem = if text.is_empty() {
        "the path is empty".to_owned()
    } else if text.contains('\0') {
        format!("{} is not a path", quoted(text))
    } else if !text.starts_with('/') {
        format!("{} is a relative path", quoted(text))
    } else if text.len() > bytes_max {
        format!("the path has {} bytes, and {bytes_max} is the most", text.len())
    } else {
        return Ok(PathBuf::from(text));
    };
    Err(Fault::new(problem, format!("write an absolute path, as in {example}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        let range = Duration::from_millis(10)..=Duration::from_secs(7 * 86_400);
        for (text, millis) in
            [("10ms", 10), ("500ms", 500), ("1s", 1000), ("2 m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text, range.clone()), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1", "1.5s", "-1s", "1S", "9ms", "8d", "1s1s", "\u{661}s"] {
            assert!(duration(text, range.clone()).is_err(), "{text}");
        }
        let endless = "9".repeat(400) + "h";
        assert!(duration(&endless, range).unwrap_err().problem.ends_with("is too long"));
    }

    #[test]
    fn durations_print_as_they_are_written() {
        for text in ["10ms", "1500ms", "1s", "90s", "2m", "1h", "7d"] {
            let range = Duration::ZERO..=Duration::MAX;
            assert_eq!(Human(duration(text, range).unwrap()).to_string(), text);
        }
        assert_eq!(Human(Duration::ZERO).to_string(), "0s");
    }

    #[test]
    fn networks_have_no_host_bits() {
        for text in
            ["10.0.0.0/8", "0.0.0.0/0", "::/0", "10.1.2.3/32", "2001:db8::/32", "fd00::1/128"]
        {
            assert_eq!(network(text).map(|network| network.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "10.0.0/8",
            "10.0.0.1/8",
            "0.0.0.1/0",
            "2001:db8::1/32",
            "2001:db8::/129",
            "[2001:db8::]/32",
            "2001:db8::%1/32",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8 ",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn odd_addresses_are_refused() {
        for text in [
            "",
            ":",
            ":3306",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0:1",
            "010.0.0.1:1",
            "0.0.0.0:1",
            "127.0.0.1:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "10.0.0.1:+1",
            "fe80::1%eth0",
            "[fe80::1]:3306",
            "[febf::1]:3306",
            "[2001:db8::1%3]:3306",
            "[::ffff:10.0.0.1]:3306",
            "[::10.0.0.1]:3306",
            "[::]:3306",
            "[::1]:3306",
            "[ff02::1]:3306",
            "[2001:db8::1]",
            "[2001:db8::1]:",
            "[2001:db8::1]:0",
            "[2001:db8::1]3306",
            "[2001:db8::1:3306",
            "2001:db8::1]:3306",
            "[[2001:db8::1]]:3306",
            "[10.0.0.1]:3306",
            "[]:3306",
            "2001:db8::1",
            "2001:db8:0:0:0:0:0:1:3306",
        ] {
            assert!(socket(text).is_err(), "{text}");
        }
        for text in ["10.0.0.1:3306", "[2001:db8::1]:3306", "[fd00::1]:1", "[64:ff9b::1]:65535"] {
            assert_eq!(socket(text), Ok(text.parse().unwrap()));
        }
        for text in
            ["", "10.0.0.1:1", "[2001:db8::1]", "fe80::1%eth0", "fe80::1", "::ffff:10.0.0.1"]
        {
            assert!(address(text).is_err(), "{text}");
        }
        for text in ["10.0.0.1", "2001:db8::1"] {
            assert_eq!(address(text), Ok(text.parse().unwrap()));
        }
    }
}
