//! The network drivers against the real kernel, each test in network namespaces of its own.
//!
//! Namespaces are anonymous: a thread of the test lives in one, a sleeping process holds the other
//! (the "peer"), so nothing is left behind however a test ends.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use pairflip::net::{
    announce::{self, AnnounceError, Placed},
    frames::{FrameSender, Mac, Segment, SegmentKind},
    links::{self, Interface, Network, NextHop},
    ports,
};
use tokio::sync::watch;

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const PEERS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const BEHIND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 8, 8));
/// Behind a gateway that has an IPv6 address only.
const BEHIND_VIA6: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 7, 7));
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 100));
const OURS6: IpAddr = ip6(9, 1);
const PEERS6: IpAddr = ip6(9, 0x12);
const BEHIND6: IpAddr = ip6(8, 8);
const NOWHERE6: IpAddr = ip6(0x77, 1);
/// Nearer to the peer's address than ours is, so that it would be the better source.
const VIP6: IpAddr = ip6(9, 0x13);
const LINK_LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9));
const OUR_MAC: Mac = [2, 0, 0, 0, 0, 1];
const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 3];
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn next_hops_are_resolved_without_any_traffic() {
    in_namespace(async |_peer| {
        let mut watched = watch_all().await;
        until(&mut watched, "MAC of the peer", |network| mac_of(network, PEERS) == Some(PEER_MAC))
            .await;
        until(&mut watched, "MAC of the gateway", |network| {
            mac_of(network, BEHIND) == Some(PEER_MAC)
        })
        .await;
        let hop = hop(&watched.borrow(), PEERS).expect("next hop");
        assert_eq!((hop.own_mac, hop.source), (OUR_MAC, OURS));
        assert_eq!(hop.ifindex, ours().await.ifindex);

        assert_eq!((hop.tags, hop.mtu), (vec![], 1500));
        let network = watched.borrow().clone();
        assert_eq!(network.interfaces, [("pf0".to_owned(), ours().await)].into());
        assert_eq!(network.vlans, []);

        for (target, words) in [
            (NOWHERE, "no route to 192.0.2.1"),
            (NOWHERE6, "no route to 2001:db8:77::1"),
            (OURS, "address of this host"),
            (OURS6, "address of this host"),
            (LINK_LOCAL6, "fe80::9 is a link-local address"),
        ] {
            let reason = network.next_hops[&target].clone().expect_err(words);
            assert!(reason.contains(words), "{reason}");
        }
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn ipv6_next_hops_are_resolved_without_any_traffic() {
    in_namespace(async |_peer| {
        let mut watched = watch_all().await;
        for target in [PEERS6, BEHIND6, BEHIND_VIA6] {
            let what = format!("MAC towards {target}");
            until(&mut watched, &what, |network| mac_of(network, target) == Some(PEER_MAC)).await;
        }
        for (target, source) in [(PEERS6, OURS6), (BEHIND6, OURS6), (BEHIND_VIA6, OURS)] {
            let hop = hop(&watched.borrow(), target).expect("next hop");
            assert_eq!((hop.own_mac, hop.source), (OUR_MAC, source));
            assert_eq!(hop.ifindex, ours().await.ifindex);
            assert_eq!((hop.tags, hop.mtu), (vec![], 1500));
        }
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn ipv6_next_hops_follow_neighbours_routes_and_addresses() {
    in_namespace(async |peer| {
        let mut watched = watch_all().await;
        until(&mut watched, "MAC of the peer", |network| mac_of(network, PEERS6) == Some(PEER_MAC))
            .await;

        sh(&format!("ip neigh replace {PEERS6} lladdr 02:00:00:00:00:03 dev pf0 nud reachable"));
        let started = Instant::now();
        until(&mut watched, "new MAC", |network| mac_of(network, PEERS6) == Some(OTHER_MAC)).await;
        assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());

        sh(&format!("ip -6 route add 2001:db8:77::/64 via {PEERS6}"));
        until(&mut watched, "new route", |network| mac_of(network, NOWHERE6) == Some(OTHER_MAC))
            .await;

        // The peer falls silent: what was known last stays.
        peer.sh(&format!("ip addr del {PEERS6}/64 dev pf1"));
        sh(&format!("ip neigh replace {PEERS6} lladdr 02:00:00:00:00:03 dev pf0 nud failed"));
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let entry = sh(&format!("ip neigh show {PEERS6}"));
        assert!(entry.contains("FAILED") || entry.contains("INCOMPLETE"), "{entry}");
        assert_eq!(mac_of(&watched.borrow_and_update(), PEERS6), Some(OTHER_MAC));

        // It answers again, with its real MAC.
        peer.sh(&format!("ip addr add {PEERS6}/64 dev pf1 nodad"));
        until(&mut watched, "MAC again", |network| mac_of(network, PEERS6) == Some(PEER_MAC)).await;

        // Without an address of ours there is nothing to send from but a link-local one.
        sh(&format!("ip addr del {OURS6}/64 dev pf0"));
        sh("ip -6 route add 2001:db8:9::/64 dev pf0");
        until(&mut watched, "loss of the source", |network| {
            let next_hop = &network.next_hops[&PEERS6];
            next_hop.as_ref().is_err_and(|reason| reason.contains("only the link-local address"))
        })
        .await;
        sh(&format!("ip addr add {OURS6}/64 dev pf0 nodad"));
        until(&mut watched, "source", |network| {
            hop(network, PEERS6).is_some_and(|hop| hop.source == OURS6)
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn routes_may_move_to_another_interface() {
    in_namespace(async |peer| {
        add_second_link(peer);
        let second = links::interface("qf0").await.expect("qf0");
        sh("ip route add 192.0.2.0/24 via 10.9.0.2");
        sh(&format!("ip -6 route add 2001:db8:77::/64 via {PEERS6}"));
        let mut watched = watch_all().await;
        for target in [NOWHERE, NOWHERE6] {
            let what = format!("MAC towards {target}");
            until(&mut watched, &what, |network| mac_of(network, target) == Some(PEER_MAC)).await;
        }

        sh("ip route replace 192.0.2.0/24 via 10.10.0.2");
        sh("ip -6 route replace 2001:db8:77::/64 via 2001:db8:10::12");
        for (target, source) in
            [(NOWHERE, IpAddr::V4(Ipv4Addr::new(10, 10, 0, 1))), (NOWHERE6, ip6(0x10, 1))]
        {
            let what = format!("{target} behind the other interface");
            until(&mut watched, &what, |network| mac_of(network, target) == Some(OTHER_MAC)).await;
            let hop = hop(&watched.borrow(), target).expect("next hop");
            assert_eq!((hop.ifindex, hop.own_mac), (second.ifindex, second.mac));
            assert_eq!(hop.source, source);
        }
        // It is not one of ours: only the next hops know it.
        assert_eq!(watched.borrow().interfaces.keys().collect::<Vec<_>>(), ["pf0"]);
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn mtus_of_interfaces_and_routes_are_followed() {
    in_namespace(async |_peer| {
        let mut watched = watch_all().await;
        let mtu_of = |network: &Network, target| hop(network, target).map(|hop| hop.mtu);
        for target in [PEERS, PEERS6] {
            assert_eq!(mtu_of(&watched.borrow(), target), Some(1500));
        }
        sh("ip link set pf0 mtu 1400");
        until(&mut watched, "MTU of the interface", |network| {
            let all = [PEERS, PEERS6, BEHIND6].map(|target| mtu_of(network, target));
            all == [Some(1400); 3] && network.interfaces["pf0"].mtu == 1400
        })
        .await;

        sh("ip route add 192.0.2.0/24 via 10.9.0.2 mtu 1300");
        sh(&format!("ip -6 route add 2001:db8:77::/64 via {PEERS6} mtu 1350"));
        until(&mut watched, "MTUs of the routes", |network| {
            mtu_of(network, NOWHERE) == Some(1300) && mtu_of(network, NOWHERE6) == Some(1350)
        })
        .await;
        assert_eq!(mtu_of(&watched.borrow(), PEERS), Some(1400));

        // More than the interface carries is not to be had.
        sh("ip route replace 192.0.2.0/24 via 10.9.0.2 mtu 9000");
        until(&mut watched, "the smaller MTU", |network| mtu_of(network, NOWHERE) == Some(1400))
            .await;
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn an_interface_that_is_made_anew_is_found_again() {
    in_namespace(async |peer| {
        let old = ours().await.ifindex;
        let mut watched = watch_all().await;
        until(&mut watched, "MAC of the peer", |network| mac_of(network, PEERS) == Some(PEER_MAC))
            .await;

        sh("ip link del pf0");
        until(&mut watched, "loss of the interface", |network| {
            let gone = |target| network.next_hops[&target].is_err();
            network.interfaces.is_empty() && gone(PEERS) && gone(PEERS6)
        })
        .await;

        add_link(peer);
        let new = ours().await.ifindex;
        assert_ne!(new, old);
        until(&mut watched, "the new interface", |network| {
            let is_there = |target| {
                mac_of(network, target) == Some(PEER_MAC)
                    && hop(network, target).is_some_and(|hop| hop.ifindex == new)
            };
            network.interfaces.get("pf0").is_some_and(|interface| interface.ifindex == new)
                && is_there(PEERS)
                && is_there(PEERS6)
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn next_hops_follow_neighbours_routes_and_links() {
    in_namespace(async |peer| {
        let mut watched = watch_all().await;
        until(&mut watched, "MAC of the peer", |network| mac_of(network, PEERS) == Some(PEER_MAC))
            .await;

        sh("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:03 dev pf0 nud reachable");
        let started = Instant::now();
        until(&mut watched, "new MAC", |network| mac_of(network, PEERS) == Some(OTHER_MAC)).await;
        assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());

        sh("ip route add 192.0.2.0/24 via 10.9.0.2");
        until(&mut watched, "new route", |network| mac_of(network, NOWHERE) == Some(OTHER_MAC))
            .await;

        // The peer falls silent: what was known last stays.
        peer.sh("ip link set pf1 arp off");
        sh("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:03 dev pf0 nud failed");
        tokio::time::sleep(Duration::from_millis(4500)).await;
        let entry = sh("ip neigh show 10.9.0.2");
        assert!(entry.contains("FAILED") || entry.contains("INCOMPLETE"), "{entry}");
        assert_eq!(mac_of(&watched.borrow_and_update(), PEERS), Some(OTHER_MAC));

        // It answers again, with its real MAC.
        peer.sh("ip link set pf1 arp on");
        until(&mut watched, "MAC again", |network| mac_of(network, PEERS) == Some(PEER_MAC)).await;

        sh("ip link set pf0 down");
        until(&mut watched, "link down", |network| network.next_hops[&PEERS].is_err()).await;
        sh("ip link set pf0 up");
        until(&mut watched, "link up", |network| mac_of(network, PEERS) == Some(PEER_MAC)).await;

        sh("ip link set pf0 address 02:00:00:00:00:09");
        until(&mut watched, "own MAC", |network| {
            hop(network, PEERS).is_some_and(|hop| hop.own_mac == [2, 0, 0, 0, 0, 9])
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
fn an_ipv6_vip_is_usable_at_once_and_never_a_source() {
    in_namespace(async |_peer| {
        let interface = ours().await;
        fs::write("/proc/sys/net/ipv6/conf/pf0/accept_dad", "1").expect("sysctl");
        // What happens without our precautions: unusable for a while, and then the kernel's choice.
        sh("ip addr add 2001:db8:9::200/128 dev pf0");
        TcpListener::bind((ip6(9, 0x200), 0)).expect_err("tentative");
        sh(&format!("ip addr add {VIP6}/128 dev pf0 nodad"));
        assert_eq!(source_towards(PEERS6), VIP6);
        sh(&format!("ip addr del {VIP6}/128 dev pf0"));
        assert_eq!(source_towards(PEERS6), OURS6);

        assert_eq!(announce::place(&interface, VIP6).await.expect("place"), Placed::ByUs);
        TcpListener::bind((VIP6, 0)).expect("usable at once");
        let shown = sh(&format!("ip -6 addr show dev pf0 to {VIP6}"));
        assert!(
            shown.contains("inet6 2001:db8:9::13/128 scope global nodad deprecated"),
            "{shown}"
        );
        assert!(shown.contains("valid_lft forever preferred_lft 0sec"), "{shown}");
        assert_eq!(source_towards(PEERS6), OURS6);
        let watched = watch_all().await;
        assert_eq!(hop(&watched.borrow(), PEERS6).map(|hop| hop.source), Some(OURS6));

        let ifindex = interface.ifindex;
        for address in [VIP6, OURS6] {
            let again = announce::place(&interface, address).await.expect("place");
            assert_eq!(again, Placed::ByOthers { ifindex });
        }
        announce::remove(&interface, VIP6).await.expect("remove");
        assert_eq!(sh(&format!("ip -6 addr show dev pf0 to {VIP6}")), "");
        announce::remove(&interface, VIP6).await.expect("remove what is gone");
        announce::remove(&interface, OURS6).await.expect("remove");
        assert!(sh("ip -6 addr show dev pf0").contains("inet6 2001:db8:9::1/64"));

        fs::write("/proc/sys/net/ipv6/conf/pf0/disable_ipv6", "1").expect("sysctl");
        let error = announce::place(&interface, VIP6).await.expect_err("no IPv6");
        assert!(matches!(error, AnnounceError::NoIpv6 { .. }), "{error:?}");
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn an_ipv6_vip_is_announced_to_hosts_that_knew_another_owner() {
    in_namespace(async |peer| {
        let interface = ours().await;
        // A link that has just come up drops what is sent for a moment.
        let mut watched = watch_all().await;
        until(&mut watched, "the peer", |network| mac_of(network, PEERS6) == Some(PEER_MAC)).await;
        let entry = || peer.sh(&format!("ip neigh show {VIP6} dev pf1"));
        peer.sh(&format!("ip neigh replace {VIP6} lladdr 02:00:00:00:00:03 dev pf1 nud stale"));
        assert!(entry().contains("02:00:00:00:00:03"), "{}", entry());
        let heard = listen_to_advertisements(peer, 3);
        // The VIP is not placed: nothing but the advertisements can tell the peer.
        announce::announce(&interface, VIP6).await.expect("announce");
        assert!(entry().contains("02:00:00:00:00:01"), "{}", entry());
        let advertisements = heard.join().expect("listener");
        for pair in advertisements.windows(2) {
            let pause = pair[1] - pair[0];
            assert!(pause > Duration::from_millis(500), "{pause:?}");
        }
    });
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn a_vip_belongs_on_the_interface_of_its_network() {
    in_namespace(async |peer| {
        add_second_link(peer);
        sh("ip addr add 2001:db8:20::5/128 dev qf0 nodad");
        sh("ip -6 route add 2001:db8:20::/64 dev qf0");
        sh("ip addr add 10.10.0.128/25 dev pf0");
        let both = ["pf0".to_owned(), "qf0".to_owned()];
        for (address, expected) in [
            ("10.9.0.100", Some("pf0")),
            ("10.9.0.1", Some("pf0")),
            ("10.10.0.100", Some("qf0")),
            // The narrower of two networks.
            ("10.10.0.200", Some("pf0")),
            ("2001:db8:9::100", Some("pf0")),
            ("2001:db8:10::100", Some("qf0")),
            // By an on-link route only, as DHCPv6 has it.
            ("2001:db8:20::100", Some("qf0")),
            // Behind a gateway, unknown, everywhere.
            ("10.8.8.8", None),
            ("2001:db8:8::8", None),
            ("192.0.2.1", None),
            ("2001:db8:77::1", None),
            ("fe80::9", None),
        ] {
            let vip: IpAddr = address.parse().expect("address");
            let found = announce::interface_towards(vip, &both).await.expect("netlink");
            let name = found.as_ref().map(|interface| interface.name.as_str());
            assert_eq!(name, expected, "{address}");
        }
        let found = announce::interface_towards(VIP, &both).await.expect("netlink");
        assert_eq!(found, Some(ours().await));
        // Not attached, not there: not ours.
        let others = ["pf0".to_owned(), "nosuch0".to_owned()];
        let second = IpAddr::V4(Ipv4Addr::new(10, 10, 0, 100));
        let found = announce::interface_towards(second, &others).await.expect("netlink");
        assert_eq!(found, None);
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
        for dst in [PEERS, PEERS6] {
            let dst = SocketAddr::new(dst, 3306);
            let (ready, listening) = std::sync::mpsc::channel();
            let namespace = File::open(peer.namespace()).expect("namespace");
            let reader = std::thread::spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
                let listener = TcpListener::bind(dst).expect("bind");
                ready.send(()).expect("send");
                let (mut stream, _) = listener.accept().expect("accept");
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
                stream.read(&mut [0]).map_err(|error| error.kind())
            });
            listening.recv().expect("listening");
            let stream = TcpStream::connect(dst).expect("connect");
            let rst = Segment {
                kind: SegmentKind::Reset,
                src_mac: OUR_MAC,
                dst_mac: PEER_MAC,
                tags: vec![],
                src: stream.local_addr().expect("address"),
                dst,
                seq: next_sequence_number(&stream),
                ack: None,
            };
            let frame = rst.to_frame().expect("one family");
            let sender = FrameSender::open().expect("packet socket");
            sender.send(ours().await.ifindex, &frame).expect("send");
            assert_eq!(reader.join().expect("reader"), Err(io::ErrorKind::ConnectionReset));
            sender.send(9999, &frame).expect_err("there is no such interface");
        }
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
        for address in [OURS, OURS6] {
            let listener = TcpListener::bind((address, 3306)).expect("bind");
            let backend = SocketAddr::new(address, 3306);
            let stream = TcpStream::connect(backend).expect("connect");
            let local = stream.local_addr().expect("address");
            let port = local.port();
            let backends = BTreeSet::from([backend]);
            let list = |range, backends| ports::sockets_inside(&range, backends).expect("list");
            assert_eq!(list(port..=port, &backends), [(local, backend)]);
            assert_eq!(list(port + 1..=u16::MAX, &backends), []);
            assert_eq!(list(0..=u16::MAX, &BTreeSet::new()), []);
            drop(listener);
        }
    });
}

/// Runs a test on a thread in a fresh namespace with `pf0` (10.9.0.1/24, 2001:db8:9::1/64) next to
/// the peer.
fn in_namespace<F>(test: F)
where
    F: AsyncFnOnce(&Peer) + Send + 'static,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare: run as root");
        let peer = Peer::start();
        sh("ip link set lo up");
        // Addresses are usable at once, also the link-local ones that solicitations come from.
        fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0").expect("sysctl");
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("sysctl");
        peer.sh("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
        add_link(&peer);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(test(&peer));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn add_link(peer: &Peer) {
    let pid = peer.0.id();
    sh(&format!(
        "ip link add pf0 address 02:00:00:00:00:01 type veth \
         peer name pf1 address 02:00:00:00:00:02 netns {pid}"
    ));
    sh("ip addr add 10.9.0.1/24 dev pf0");
    sh(&format!("ip addr add {OURS6}/64 dev pf0"));
    sh("ip link set pf0 up");
    peer.sh("ip addr add 10.9.0.2/24 dev pf1");
    peer.sh(&format!("ip addr add {PEERS6}/64 dev pf1"));
    peer.sh("ip link set pf1 up");
    sh("ip route add 10.8.0.0/16 via 10.9.0.2");
    sh("ip -6 route add 2001:db8:8::/64 via fe80::ff:fe00:2 dev pf0");
    sh(&format!("ip route add 10.7.0.0/16 via inet6 {PEERS6} dev pf0"));
}

/// `qf0` (10.10.0.1/24, 2001:db8:10::1/64), on whose other side the peer is [`OTHER_MAC`].
fn add_second_link(peer: &Peer) {
    let pid = peer.0.id();
    sh(&format!(
        "ip link add qf0 address 02:00:00:00:00:04 type veth \
         peer name qf1 address 02:00:00:00:00:03 netns {pid}"
    ));
    sh("ip addr add 10.10.0.1/24 dev qf0");
    sh("ip addr add 2001:db8:10::1/64 dev qf0");
    sh("ip link set qf0 up");
    peer.sh("ip addr add 10.10.0.2/24 dev qf1");
    peer.sh("ip addr add 2001:db8:10::12/64 dev qf1");
    peer.sh("ip link set qf1 up");
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

async fn watch_all() -> watch::Receiver<Network> {
    let targets =
        [PEERS, BEHIND, BEHIND_VIA6, NOWHERE, OURS, PEERS6, BEHIND6, NOWHERE6, OURS6, LINK_LOCAL6];
    links::watch(targets.to_vec(), vec!["pf0".to_owned()]).await.expect("watch")
}

async fn until(
    watched: &mut watch::Receiver<Network>,
    what: &str,
    is_there: impl FnMut(&Network) -> bool,
) {
    let is_found =
        tokio::time::timeout(Duration::from_secs(5), watched.wait_for(is_there)).await.is_ok();
    if !is_found {
        panic!("waited in vain for {what}: {:?}", watched.borrow());
    }
}

fn hop(network: &Network, target: IpAddr) -> Option<NextHop> {
    network.next_hops[&target].clone().ok()
}

fn mac_of(network: &Network, target: IpAddr) -> Option<Mac> {
    hop(network, target)?.next_hop_mac
}

/// Returns the address that the kernel would send from.
fn source_towards(target: IpAddr) -> IpAddr {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("bind");
    socket.connect((target, 3306)).expect("connect");
    socket.local_addr().expect("address").ip()
}

/// Lets the peer wait for `count` neighbour advertisements about the VIP; returns when each came.
fn listen_to_advertisements(peer: &Peer, count: usize) -> JoinHandle<Vec<Instant>> {
    let (ready, listening) = std::sync::mpsc::channel();
    let namespace = File::open(peer.namespace()).expect("namespace");
    let listener = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: `fd` was just returned by socket(2). Of a UDP socket only recv(2) and a timeout
        // are used, which every socket has.
        let socket = unsafe { UdpSocket::from_raw_fd(fd) };
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        ready.send(()).expect("send");
        let IpAddr::V6(vip) = VIP6 else { unreachable!() };
        let (mut message, mut times) = ([0; 128], Vec::new());
        while times.len() < count {
            let bytes = socket.recv(&mut message).expect("advertisement");
            if message[0] == 136 && message[8..24] == vip.octets() {
                assert_eq!(message[4..8], [0x20, 0, 0, 0], "override");
                assert_eq!(message[24..bytes], [&[2, 1][..], &OUR_MAC].concat());
                times.push(Instant::now());
            }
        }
        times
    });
    listening.recv().expect("listening");
    listener
}

const fn ip6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host))
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
