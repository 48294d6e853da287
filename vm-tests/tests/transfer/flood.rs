//! A SYN flood from addresses that do not exist, past the connections of honest clients.

use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU64},
};

use super::*;

/// Half-open connections that the daemon keeps: the fewest that it may be told.
const HALF_OPEN_MAX: u64 = 128;
/// SYNs of the flood, unless PAIRFLIP_FLOOD_SYNS asks for more.
const SYNS: u64 = 1000 * HALF_OPEN_MAX;
const CONNECTIONS: usize = 200;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_flood_touches_no_established_connection() {
    let syns = std::env::var("PAIRFLIP_FLOOD_SYNS").ok();
    let syns = syns.map_or(SYNS, |syns| syns.parse().expect("PAIRFLIP_FLOOD_SYNS is a number"));
    let lab = lab();
    let setup = Setup {
        daemon: format!("half_open_max = {HALF_OPEN_MAX}"),
        ..Setup::new(Forwarding::Snat, Topology::TwoArm)
    };
    let daemon = start(&lab, &setup);
    let target = mac(&lab.ns("redirector"), "eth0");
    let text = payload(4096);
    let (sent, flooded) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let rounds = thread::scope(|scope| {
        let honest = scope.spawn(|| {
            inside(&lab.ns("client1"), || {
                let client = Client::new(Family::V4.vip()).unwrap();
                let mut sessions: Vec<Session<'_>> =
                    (0..CONNECTIONS).map(|_| client.connect().unwrap()).collect();
                let flood = scope.spawn(|| {
                    inside(&lab.ns("client2"), || flood(target, syns, &sent));
                    flooded.store(true, Ordering::Relaxed);
                });
                let mut rounds = 0;
                loop {
                    let last = flooded.load(Ordering::Relaxed);
                    for session in &mut sessions {
                        echo(session, &text).unwrap();
                    }
                    rounds += 1;
                    if last {
                        break;
                    }
                }
                flood.join().unwrap();
                assert_eq!(client.server_id().unwrap(), PAIR1_PRIMARY, "a new connection");
                for session in sessions {
                    session.close().unwrap();
                }
                rounds
            })
        });
        honest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let status = daemon.status().unwrap();
    let counter = |name: &str| status["daemon"]["counters"][name].as_u64().unwrap();
    assert!(counter("syn_forwarded") > 20 * HALF_OPEN_MAX, "{status}");
    report(&format!(
        "{} SYNs in {:.1?}, {} forwarded: {CONNECTIONS} connections went on, {rounds} rounds of data",
        sent.load(Ordering::Relaxed),
        started.elapsed(),
        counter("syn_forwarded"),
    ));
}

fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let text = namespace.ip(&format!("-brief link show {interface}")).unwrap();
    let mac = text.split_whitespace().nth(2).expect("a MAC address");
    let bytes: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// Sends SYNs to the write VIP from ever new addresses, from inside a client's namespace.
fn flood(target: [u8; 6], syns: u64, sent: &AtomicU64) {
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
    for number in 0..syns {
        let frame = syn(target, number);
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
        sent.fetch_add(u64::from(result > 0), Ordering::Relaxed);
    }
}

/// A SYN from 10.99.x.y to the write VIP, in its frame.
fn syn(target: [u8; 6], number: u64) -> Vec<u8> {
    let [.., high, low] = (number as u32).to_be_bytes();
    let (src, dst) = ([10, 99, high, low], [10, 77, 0, 100]);
    let port = 1024 + ((number >> 16) as u16 % 60_000);
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend([src, dst].concat());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);

    let mut tcp = Vec::new();
    tcp.extend(port.to_be_bytes());
    tcp.extend(3306_u16.to_be_bytes());
    tcp.extend((number as u32).to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&src[..], &dst, &[0, 6, 0, 20], &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo));

    let own = [2, 0, 0, 0, 0x99, 1];
    [&target[..], &own, &[0x08, 0x00], &ip, &tcp].concat()
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
