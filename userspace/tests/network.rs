//! The network drivers against the real kernel, each test in network namespaces of its own.
//!
//! Namespaces are anonymous: a thread of the test lives in one, a sleeping process holds the other
//! (the "peer"), so nothing is left behind however a test ends.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use pairflip::net::{
    announce::{self, Placed},
    frames::{FrameSender, Mac, Rst},
    links::{self, Interface, NextHop, NextHops},
    ports,
};
use tokio::sync::watch;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PEERS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 8, 8, 8);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const OUR_MAC: Mac = [2, 0, 0, 0, 0, 1];
const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 3];
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn next_hops_are_resolved_without_any_traffic() {
    in_namespace(async |_peer| {
        let mut watched = watch_all().await;
        until(&mut watched, "MAC of the peer", |hops| mac_of(hops, PEERS) == Some(PEER_MAC)).await;
        until(&mut watched, "MAC of the gateway", |hops| mac_of(hops, BEHIND) == Some(PEER_MAC))
            .await;
        let hop = hop(&watched.borrow(), PEERS).expect("next hop");
        assert_eq!((hop.own_mac, hop.source), (OUR_MAC, OURS));
        assert_eq!(hop.ifindex, ours().await.ifindex);

        let nowhere = watched.borrow()[&NOWHERE].clone().expect_err("no route");
        assert!(nowhere.contains("no route to 192.0.2.1"), "{nowhere}");
        let ourselves = watched.borrow()[&OURS].clone().expect_err("local");
        assert!(ourselves.contains("address of this host"), "{ourselves}");
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn next_hops_follow_neighbours_routes_and_links() {
    in_namespace(async |peer| {
        let mut watched = watch_all().await;
        until(&mut watched, "MAC of the peer", |hops| mac_of(hops, PEERS) == Some(PEER_MAC)).await;

        sh("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:03 dev pf0 nud reachable");
        let started = Instant::now();
        until(&mut watched, "new MAC", |hops| mac_of(hops, PEERS) == Some(OTHER_MAC)).await;
        assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());

        sh("ip route add 192.0.2.0/24 via 10.9.0.2");
        until(&mut watched, "new route", |hops| mac_of(hops, NOWHERE) == Some(OTHER_MAC)).await;

        // The peer falls silent: what was known last stays.
        peer.sh("ip link set pf1 arp off");
        sh("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:03 dev pf0 nud failed");
        tokio::time::sleep(Duration::from_millis(4500)).await;
        let entry = sh("ip neigh show 10.9.0.2");
        assert!(entry.contains("FAILED") || entry.contains("INCOMPLETE"), "{entry}");
        assert_eq!(mac_of(&watched.borrow_and_update(), PEERS), Some(OTHER_MAC));

        // It answers again, with its real MAC.
        peer.sh("ip link set pf1 arp on");
        until(&mut watched, "MAC again", |hops| mac_of(hops, PEERS) == Some(PEER_MAC)).await;

        sh("ip link set pf0 down");
        until(&mut watched, "link down", |hops| hops[&PEERS].is_err()).await;
        sh("ip link set pf0 up");
        until(&mut watched, "link up", |hops| mac_of(hops, PEERS) == Some(PEER_MAC)).await;

        sh("ip link set pf0 address 02:00:00:00:00:09");
        until(&mut watched, "own MAC", |hops| {
            hop(hops, PEERS).is_some_and(|hop| hop.own_mac == [2, 0, 0, 0, 0, 9])
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn a_vip_is_placed_once_and_announced_to_hosts_that_knew_another_owner() {
    in_namespace(async |peer| {
        let interface = ours().await;
        assert_eq!(announce::place(&interface, VIP).await.expect("place"), Placed::ByUs);
        assert!(sh("ip -4 addr show dev pf0").contains("inet 10.9.0.100/32 "));
        let ifindex = interface.ifindex;
        let again = announce::place(&interface, VIP).await.expect("place");
        assert_eq!(again, Placed::ByOthers { ifindex });
        let address = announce::place(&interface, OURS).await.expect("place");
        assert_eq!(address, Placed::ByOthers { ifindex });

        peer.sh("ip neigh replace 10.9.0.100 lladdr 02:00:00:00:00:03 dev pf1 nud stale");
        // The kernel ignores a change of a young entry (locktime, 1 s); announcements repeat.
        announce::announce(&interface, VIP).await.expect("announce");
        let entry = peer.sh("ip neigh show 10.9.0.100");
        assert!(entry.contains("02:00:00:00:00:01"), "{entry}");

        announce::remove(&interface, VIP).await.expect("remove");
        assert!(!sh("ip -4 addr show dev pf0").contains("10.9.0.100"));
        announce::remove(&interface, VIP).await.expect("remove what is gone");
        // An address of another prefix length is not ours to remove.
        announce::remove(&interface, OURS).await.expect("remove");
        assert!(sh("ip -4 addr show dev pf0").contains("inet 10.9.0.1/24"));
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn interfaces_that_cannot_carry_a_vip_are_errors() {
    in_namespace(async |_peer| {
        let missing = links::interface("nosuch0").await.expect_err("missing");
        assert!(missing.to_string().contains("no interface nosuch0"), "{missing}");
        let loopback = links::interface("lo").await.expect_err("loopback");
        assert!(loopback.to_string().contains("not an Ethernet"), "{loopback}");
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn a_reset_frame_ends_a_real_connection() {
    in_namespace(async |peer| {
        let (ready, listening) = std::sync::mpsc::channel();
        let namespace = File::open(peer.namespace()).expect("namespace");
        let reader = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
            let listener = TcpListener::bind((PEERS, 3306)).expect("bind");
            ready.send(()).expect("send");
            let (mut stream, _) = listener.accept().expect("accept");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            stream.read(&mut [0]).map_err(|error| error.kind())
        });
        listening.recv().expect("listening");
        let stream = TcpStream::connect((PEERS, 3306)).expect("connect");
        let std::net::SocketAddr::V4(src) = stream.local_addr().expect("address") else {
            panic!("IPv4 was asked for")
        };
        let rst = Rst {
            src_mac: OUR_MAC,
            dst_mac: PEER_MAC,
            src,
            dst: SocketAddrV4::new(PEERS, 3306),
            seq: next_sequence_number(&stream),
            ack: None,
        };
        let sender = FrameSender::open().expect("packet socket");
        sender.send(ours().await.ifindex, &rst.to_frame()).expect("send");
        assert_eq!(reader.join().expect("reader"), Err(io::ErrorKind::ConnectionReset));
        sender.send(9999, &rst.to_frame()).expect_err("there is no such interface");
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn reserved_ports_are_not_handed_out_and_are_given_back() {
    in_namespace(async |_peer| {
        fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080").expect("sysctl");
        let first = ports::reserve(&SNAT_PORTS, None).expect("reserve");
        assert_eq!(sysctls(), ("8080,32768-60999".into(), "16384\t60999".into()));
        for _ in 0..200 {
            let listener = TcpListener::bind((OURS, 0)).expect("bind");
            let port = listener.local_addr().expect("address").port();
            assert!((16384..32768).contains(&port), "{port}");
        }

        // A restart finds its own settings and keeps the way back.
        let second = ports::reserve(&SNAT_PORTS, Some(first.clone())).expect("reserve");
        assert_eq!(second, first);
        // Someone else's reservation in between is not ours to undo.
        fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080,9090,32768-60999")
            .expect("sysctl");
        ports::restore(&second).expect("restore");
        assert_eq!(sysctls(), ("8080,9090".into(), "32768\t60999".into()));
        ports::restore(&second).expect("restore twice");
        assert_eq!(sysctls(), ("8080,9090".into(), "32768\t60999".into()));
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn own_connections_inside_the_range_are_listed() {
    in_namespace(async |_peer| {
        let listener = TcpListener::bind((OURS, 3306)).expect("bind");
        let backend = SocketAddrV4::new(OURS, 3306);
        let stream = TcpStream::connect(backend).expect("connect");
        let std::net::SocketAddr::V4(local) = stream.local_addr().expect("address") else {
            panic!("IPv4 was asked for")
        };
        let port = local.port();
        let backends = BTreeSet::from([backend]);
        let list = |range, backends| ports::sockets_inside(&range, backends).expect("list");
        assert_eq!(list(port..=port, &backends), [(local, backend)]);
        assert_eq!(list(port + 1..=u16::MAX, &backends), []);
        assert_eq!(list(0..=u16::MAX, &BTreeSet::new()), []);
        drop(listener);
    });
}

/// Runs a test on a thread in a fresh namespace with `pf0` (10.9.0.1/24) next to the peer.
fn in_namespace<F>(test: F)
where
    F: AsyncFnOnce(&Peer) + Send + 'static,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare: run as root");
        let peer = Peer::start();
        sh("ip link set lo up");
        let pid = peer.0.id();
        sh(&format!(
            "ip link add pf0 address 02:00:00:00:00:01 type veth \
             peer name pf1 address 02:00:00:00:00:02 netns {pid}"
        ));
        sh("ip addr add 10.9.0.1/24 dev pf0");
        sh("ip link set pf0 up");
        peer.sh("ip addr add 10.9.0.2/24 dev pf1");
        peer.sh("ip link set pf1 up");
        sh("ip route add 10.8.0.0/16 via 10.9.0.2");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(test(&peer));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A process whose only purpose is its network namespace.
struct Peer(Child);

impl Peer {
    fn start() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "120"]).spawn();
        let peer = Self(child.expect("unshare"));
        let ours = fs::read_link("/proc/thread-self/ns/net").expect("namespace");
        while fs::read_link(peer.namespace()).expect("namespace") == ours {
            std::thread::sleep(Duration::from_millis(1));
        }
        peer
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn sh(&self, command: &str) -> String {
        sh(&format!("nsenter --net={} {command}", self.namespace()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

fn sh(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("command"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

async fn ours() -> Interface {
    links::interface("pf0").await.expect("pf0")
}

async fn watch_all() -> watch::Receiver<NextHops> {
    links::watch(vec![PEERS, BEHIND, NOWHERE, OURS]).await.expect("watch")
}

async fn until(
    watched: &mut watch::Receiver<NextHops>,
    what: &str,
    is_there: impl FnMut(&NextHops) -> bool,
) {
    let is_found =
        tokio::time::timeout(Duration::from_secs(5), watched.wait_for(is_there)).await.is_ok();
    if !is_found {
        panic!("waited in vain for {what}: {:?}", watched.borrow());
    }
}

fn hop(hops: &NextHops, target: Ipv4Addr) -> Option<NextHop> {
    hops[&target].clone().ok()
}

fn mac_of(hops: &NextHops, target: Ipv4Addr) -> Option<Mac> {
    hop(hops, target)?.next_hop_mac
}

fn sysctls() -> (String, String) {
    let read = |name| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("sysctl");
        text.trim().to_owned()
    };
    (read("ip_local_reserved_ports"), read("ip_local_port_range"))
}

/// Asks the kernel for the number that the peer expects next, by way of TCP_REPAIR.
fn next_sequence_number(stream: &TcpStream) -> u32 {
    const TCP_SEND_QUEUE: i32 = 2;
    const TCP_REPAIR_OFF_NO_WP: i32 = -1;
    let fd = stream.as_raw_fd();
    let set = |name, value: i32| {
        // SAFETY: `value` is live for the call and its size is given.
        let status =
            unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, name, (&raw const value).cast(), 4) };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
    };
    set(libc::TCP_REPAIR, 1);
    set(libc::TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
    let (mut number, mut bytes) = (0u32, 4);
    // SAFETY: both pointers are to live variables, of the size that `bytes` says.
    let status = unsafe {
        let number = (&raw mut number).cast();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, number, &raw mut bytes)
    };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
    set(libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    number
}
