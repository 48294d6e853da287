//! A SYN flood from addresses that do not exist, past the connections of honest clients.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::{
    echo::{Flows, Server, allow_flows},
    *,
};

/// Half-open connections that the daemon keeps: the fewest that it may be told.
const HALF_OPEN_MAX: u64 = 128;
/// At least so many times more SYNs must come through. Queues on their way lose some, so twice as many are sent.
const TIMES: u64 = 20;
/// SYNs of the flood past real sessions, unless PAIRFLIP_FLOOD_SYNS asks for more.
const SYNS: u64 = 1000 * HALF_OPEN_MAX;
const SESSIONS: usize = 200;
/// Connections of plain TCP in each family and way of forwarding, unless PAIRFLIP_FLOOD_FLOWS asks for more.
const FLOWS: u64 = 300;
/// Half-open connections that the daemon keeps for them.
const FLOWS_HALF_OPEN_MAX: u64 = 512;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_flood_touches_no_established_connection() {
    let syns = number("PAIRFLIP_FLOOD_SYNS", SYNS);
    let lab = lab();
    let daemon = start(&lab, &setup(Forwarding::Snat, HALF_OPEN_MAX));
    let text = payload(4096);
    let flood = Flood { family: Family::V4, syns };
    inside(&lab.ns("client1"), || {
        let client = Client::new(Family::V4.vip()).unwrap();
        let mut sessions: Vec<Session<'_>> =
            (0..SESSIONS).map(|_| client.connect().unwrap()).collect();
        let round = || sessions.iter_mut().try_for_each(|session| echo(session, &text));
        let passed = flood.pass(&lab, &daemon, HALF_OPEN_MAX, round).unwrap();
        report(&format!("{passed}: {SESSIONS} sessions went on"));
        assert_eq!(client.server_id().unwrap(), PAIR1_PRIMARY, "a new connection");
        for session in sessions {
            session.close().unwrap();
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_flood_touches_no_flow_in_any_family_and_way_of_forwarding() {
    let count = number("PAIRFLIP_FLOOD_FLOWS", FLOWS) as usize;
    allow_flows(count).unwrap();
    let lab = lab();
    for forwarding in Forwarding::ALL {
        let setup = setup(forwarding, FLOWS_HALF_OPEN_MAX);
        let _server = Server::start(lab.ns("db1"), &setup).unwrap();
        let daemon = start(&lab, &setup);
        for family in Family::BOTH {
            let what = format!("IP{} {}", family.name(), forwarding.name());
            let passed = inside(&lab.ns("client1"), || flows_outlive(&lab, &daemon, family, count))
                .with_context(|| what.clone())
                .unwrap_or_else(|error| {
                    panic!("{error:#}\n{}", daemon.status().unwrap_or_default())
                });
            report(&format!("{what}: {count} flows, {passed}"));
        }
        end(&lab, &setup, daemon);
    }
}

/// Opens flows, inside the client's namespace, and floods the redirector while they carry data.
fn flows_outlive(lab: &Lab, daemon: &Daemon, family: Family, count: usize) -> Result<Passed> {
    let mut flows = Flows::connect(family.vip(), count)?;
    flows.carry_data().context("before the flood")?;
    let flood = Flood { family, syns: 2 * TIMES * FLOWS_HALF_OPEN_MAX };
    let passed = flood.pass(lab, daemon, FLOWS_HALF_OPEN_MAX, || flows.carry_data())?;
    flows.new_one_works()?;
    Ok(passed)
}

fn setup(forwarding: Forwarding, half_open_max: u64) -> Setup {
    Setup {
        daemon: format!("half_open_max = {half_open_max}"),
        ..Setup::new(forwarding, Topology::TwoArm)
    }
}

/// A number that the environment may give.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// SYNs to the write VIP of a family.
struct Flood {
    family: Family,
    syns: u64,
}

/// What became of a flood.
struct Passed {
    sent: u64,
    forwarded: u64,
    took: Duration,
    rounds: u32,
}

impl Flood {
    /// Floods from client2, and lets connections carry data meanwhile and once more after it, one `round` after another.
    fn pass(
        &self,
        lab: &Lab,
        daemon: &Daemon,
        half_open_max: u64,
        mut round: impl FnMut() -> Result<()>,
    ) -> Result<Passed> {
        let target = mac(&lab.ns("redirector"), "eth0");
        let before = forwarded(daemon);
        let started = Instant::now();
        let (sent, rounds) = thread::scope(|scope| {
            let flood = scope.spawn(|| inside(&lab.ns("client2"), || self.send(target)));
            let mut rounds = 0;
            loop {
                let last = flood.is_finished();
                round()?;
                rounds += 1;
                if last {
                    break;
                }
            }
            Ok::<_, anyhow::Error>((flood.join().unwrap(), rounds))
        })?;
        let took = started.elapsed();
        let forwarded = forwarded(daemon) - before;
        ensure!(forwarded >= TIMES * half_open_max, "{forwarded} of {sent} SYNs were forwarded");
        Ok(Passed { sent, forwarded, took, rounds })
    }

    /// Sends SYNs from ever new addresses, from inside a client's namespace. Returns how many went out.
    fn send(&self, target: [u8; 6]) -> u64 {
        let mut sent = 0;
        // SAFETY: a system call without pointers; a new descriptor is nobody else's.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: the name ends with a zero byte.
        let ifindex = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
        // SAFETY: all of its fields are numbers.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        for number in 0..self.syns {
            let frame = syn(target, self.family, number);
            // SAFETY: both pointers are to memory of the lengths given.
            let result = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const to).cast(),
                    size_of_val(&to) as u32,
                )
            };
            // A full queue loses a SYN of a flood, which is no matter.
            sent += u64::from(result > 0);
        }
        sent
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, forwarded, took, rounds } = self;
        write!(f, "{sent} SYNs, {forwarded} forwarded, {rounds} rounds of data in {took:.1?}")
    }
}

fn forwarded(daemon: &Daemon) -> u64 {
    let status = daemon.status().unwrap();
    status["daemon"]["counters"]["syn_forwarded"].as_u64().unwrap()
}

fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let text = namespace.ip(&format!("-brief link show {interface}")).unwrap();
    let mac = text.split_whitespace().nth(2).expect("a MAC address");
    let bytes: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// A SYN to the write VIP from a host that is not there, in its frame.
fn syn(target: [u8; 6], family: Family, number: u64) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend((1024 + ((number >> 16) as u16 % 60_000)).to_be_bytes());
    tcp.extend(3306_u16.to_be_bytes());
    tcp.extend((number as u32).to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let host = (number as u16).to_be_bytes();
    let (ethertype, ip, ends) = match family.vip().ip() {
        IpAddr::V4(vip) => ipv4([10, 99, host[0], host[1]], vip.octets()),
        IpAddr::V6(vip) => {
            let mut src = [0; 16];
            src[..2].copy_from_slice(&[0xfd, 0x99]);
            src[14..].copy_from_slice(&host);
            ipv6(src, vip.octets())
        }
    };
    let pseudo = [&ends[..], &[0, 6, 0, 20], &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo));

    let own = [2, 0, 0, 0, 0x99, 1];
    [&target[..], &own, &ethertype, &ip, &tcp].concat()
}

/// Ethernet's number, the header of a SYN, and the addresses that TCP's checksum covers.
type Headers = ([u8; 2], Vec<u8>, Vec<u8>);

fn ipv4(src: [u8; 4], dst: [u8; 4]) -> Headers {
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend([src, dst].concat());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    ([0x08, 0x00], ip, [src, dst].concat())
}

fn ipv6(src: [u8; 16], dst: [u8; 16]) -> Headers {
    let ends = [src, dst].concat();
    let ip = [&[0x60, 0, 0, 0, 0, 20, 6, 64][..], &ends].concat();
    ([0x86, 0xdd], ip, ends)
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}
