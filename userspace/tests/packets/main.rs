//! Packets through the kernel's test-run: frame in, expected action, frame and counter out.
//!
//! The loopback interface (index 1) is where test-run says that packets come in; a backend behind index 1 is the one-arm
//! topology (`XDP_TX`), one behind any other index the two-arm topology (`XDP_REDIRECT`). Frames are made and checked by
//! etherparse, an implementation that knows nothing of ours.
#![cfg(test)]

mod answered;
mod bench;
mod buffers;
mod cases;
mod counters;
mod debugging;
mod flow_log;
mod frames;
mod fuzz;
mod icmp;
mod model;
mod ports;
mod races;
mod scene;
mod table;
mod vlans;
mod weights;
mod world;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bench::{
    ACK, Action, Bench, CLIENT, CLIENT_MAC, FIN, Frame, GATEWAY_MAC, OWN_MAC, PSH, RST, SNAT, SYN,
    VIP_READ, VIP_WRITE,
};
use pairflip::dataplane::{DataPlane, Error, FlowCounts, FlowFilter, SweepLimits};
use pairflip_common::flow::Forwarding;
use scene::{Side, When};
use table::Row;
use world::{Family, World};

/// Combinations of row and network; fewer would mean that rows are left out by mistake.
const CASES_MIN: usize = 200;
/// A mistake of the program shows in many networks.
const MISTAKES_SHOWN: usize = 2000;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_table_of_packets() {
    let rows: Vec<Row> = [cases::life(), cases::strays(), cases::shapes(), icmp::errors()]
        .into_iter()
        .flatten()
        .collect();
    let stride = stride();
    let mut ran = 0;
    let mut by_row = BTreeMap::<&str, usize>::new();
    let mut wrong = Vec::new();
    for family in [Family::V4, Family::V6] {
        for forwarding in [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr] {
            let (some, mistakes) = table::run(family, forwarding, &rows, stride);
            for (row, count) in some {
                ran += count;
                *by_row.entry(row).or_default() += count;
            }
            wrong.extend(mistakes);
        }
    }
    println!("{ran} cases of {} rows", by_row.len());
    for mistake in wrong.iter().take(MISTAKES_SHOWN) {
        println!("{mistake}");
    }
    assert!(wrong.is_empty(), "{} of {ran} cases failed", wrong.len());
    assert!(
        stride > 1 || by_row.len() == rows.len(),
        "every row has a name of its own and runs somewhere"
    );
    assert!(ran >= CASES_MIN);
}

/// Every so many of the cases are run; fewer where the machine is emulated.
fn stride() -> usize {
    number("PAIRFLIP_TABLE_STRIDE", 1) as usize
}

/// Every family and way of forwarding; one way in each family where the machine is emulated and each takes seconds to load.
fn ways() -> impl Iterator<Item = (Family, Forwarding)> {
    let forwardings = [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr];
    let ways = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(move |family| forwardings.map(|forwarding| (family, forwarding)));
    ways.step_by(if stride() > 1 { 5 } else { 1 })
}

/// A number that the environment may give.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Frames that the model and the program judge in one run of the tests; `PAIRFLIP_FUZZ_FRAMES` asks for more, and
/// `PAIRFLIP_FUZZ_SEED` for others.
const FUZZ_FRAMES: u64 = 200_000;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_program_and_the_model_agree_about_any_frame() {
    let frames = number("PAIRFLIP_FUZZ_FRAMES", FUZZ_FRAMES);
    let seed = number("PAIRFLIP_FUZZ_SEED", 1);
    for family in [Family::V4, Family::V6] {
        for forwarding in [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr] {
            let counts = fuzz::run(family, forwarding, frames / 6, seed);
            println!("{family:?} {forwarding:?}: {counts:?}");
            assert!(frames < FUZZ_FRAMES || counts.len() == 4, "every verdict occurs: {counts:?}");
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_table_refuses_the_end_of_a_handshake_in_every_family_and_mode() {
    for family in [Family::V4, Family::V6] {
        for forwarding in [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr] {
            table::fill(&mut World::new(family, forwarding, 1));
        }
    }
}

const FIRST: u16 = 0;
const SECOND: u16 = 1;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_not_for_a_vip_passes_untouched() {
    let bench = Bench::new();
    let other: SocketAddr = "10.0.0.9:3306".parse().unwrap();
    let same_address: SocketAddr = "10.0.0.100:22".parse().unwrap();
    let local_service: SocketAddr = "10.0.1.2:22".parse().unwrap();
    let snat_port: SocketAddr = "10.0.1.2:40000".parse().unwrap();
    let stranger: SocketAddr = "10.0.1.99:3306".parse().unwrap();
    let mut arp = Frame::tcp(CLIENT, VIP_WRITE).flags(SYN).bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut short_ihl = Frame::tcp(CLIENT, VIP_WRITE).flags(SYN).bytes();
    short_ihl[14] = 0x44;
    let mut longer_than_frame = Frame::tcp(CLIENT, VIP_WRITE).flags(SYN).bytes();
    longer_than_frame[16..18].copy_from_slice(&2000u16.to_be_bytes());
    let mut short_tcp = Frame::tcp(CLIENT, VIP_WRITE).flags(SYN).bytes();
    short_tcp[46] = 4 << 4;
    let mut foreign_fragment = Frame::tcp(CLIENT, local_service).flags(ACK).bytes();
    foreign_fragment[20] = 0x20;
    for (what, frame, counter) in [
        ("ARP", arp, "pass_not_ip"),
        ("14 bytes", Frame::tcp(CLIENT, other).flags(SYN).bytes()[..14].to_vec(), "pass_not_ip"),
        ("another address", Frame::tcp(CLIENT, other).flags(SYN).bytes(), "pass_not_ours"),
        ("UDP to a VIP", Frame::udp(CLIENT, VIP_WRITE), "pass_not_tcp"),
        (
            "another port of a VIP",
            Frame::tcp(CLIENT, same_address).flags(SYN).bytes(),
            "pass_no_route",
        ),
        (
            "SSH to the SNAT address",
            Frame::tcp(CLIENT, local_service).flags(SYN).bytes(),
            "pass_not_ours",
        ),
        (
            "a stranger to a SNAT port",
            Frame::tcp(stranger, snat_port).flags(ACK).bytes(),
            "pass_not_backend",
        ),
        ("IP header length of 16", short_ihl, "pass_malformed"),
        ("IP length beyond the frame", longer_than_frame, "pass_malformed"),
        ("TCP header length of 16", short_tcp, "pass_malformed"),
        ("a fragment to the SNAT address", foreign_fragment, "pass_not_ours"),
    ] {
        let before = bench.counter(counter);
        let (action, out) = bench.run(&frame);
        assert_eq!((action, out), (Action::Pass, frame), "{what}");
        assert_eq!(bench.counter(counter), before + 1, "{what} counts as {counter}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connection_is_rewritten_in_both_directions_and_the_client_sees_only_the_vip() {
    let bench = Bench::new();
    let (action, syn) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(100).flags(SYN).bytes());
    let syn = Frame::parse(&syn);
    assert_eq!(action, Action::Tx);
    assert_eq!(syn.dst, bench.backend(FIRST));
    assert_eq!(syn.src.ip(), SNAT);
    assert_eq!((syn.src_mac, syn.dst_mac), (OWN_MAC, bench.backend_mac(FIRST)));
    assert_eq!((syn.seq, syn.ttl), (100, 63));

    let (action, syn_ack) =
        bench.run(&Frame::tcp(syn.dst, syn.src).seq(500).ack(101).flags(SYN | ACK).bytes());
    let syn_ack = Frame::parse(&syn_ack);
    assert_eq!(action, Action::Tx);
    assert_eq!((syn_ack.src, syn_ack.dst), (VIP_WRITE, CLIENT));
    assert_eq!((syn_ack.src_mac, syn_ack.dst_mac), (OWN_MAC, CLIENT_MAC));

    let (action, _) =
        bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(101).ack(501).flags(ACK).bytes());
    assert_eq!(action, Action::Tx);
    let query =
        Frame::tcp(CLIENT, VIP_WRITE).seq(101).ack(501).flags(ACK | PSH).payload(b"select 1");
    let (_, out) = bench.run(&query.bytes());
    assert_eq!(Frame::parse(&out).payload, b"select 1");
    assert_eq!(
        ["syn_forwarded", "half_open_forwarded", "flow_opened", "forwarded"]
            .map(|name| bench.counter(name)),
        [1, 1, 1, 2]
    );
    let (flows, total) = bench.dataplane.list_flows(FlowFilter::default(), 10).unwrap();
    assert_eq!(total, 1);
    assert_eq!(
        (flows[0].client, flows[0].vip, flows[0].backend, flows[0].source),
        (CLIENT, VIP_WRITE, syn.dst, syn.src)
    );
    assert!(flows[0].idle < Duration::from_secs(5));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_backend_behind_another_interface_gets_packets_by_redirect() {
    let mut bench = Bench::new();
    bench.move_backend(FIRST, 2);
    let (action, _) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).flags(SYN).bytes());
    assert_eq!(action, Action::Redirect);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ip_options_are_kept() {
    let bench = Bench::new();
    let syn = Frame::tcp(CLIENT, VIP_WRITE).seq(7).flags(SYN).ip_options(&[1, 1, 1, 0]);
    let (action, out) = bench.run(&syn.bytes());
    assert_eq!(action, Action::Tx);
    assert_eq!(Frame::parse(&out).ip_options, [1, 1, 1, 0]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_bad_checksum_stays_bad() {
    let bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let mut data = Frame::tcp(CLIENT, VIP_WRITE)
        .seq(flow.client_next)
        .ack(flow.server_next)
        .flags(ACK)
        .payload(b"x")
        .bytes();
    let last = data.len() - 1;
    data[last] ^= 0x55;
    let (action, out) = bench.run(&data);
    assert_eq!(action, Action::Tx);
    assert!(!bench::checksums_are_right(&out));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flip_moves_new_connections_of_both_vips_and_leaves_flows_alone() {
    let mut bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    assert_eq!(flow.backend, bench.backend(FIRST));
    bench.route_all_to(SECOND, 2);
    let (action, out) = bench.run(&flow.data(b"insert"));
    assert_eq!((action, Frame::parse(&out).dst), (Action::Tx, flow.backend));
    for (port, vip) in [(2000, VIP_WRITE), (2001, VIP_READ)] {
        let client = SocketAddr::new(CLIENT.ip(), port);
        assert_eq!(bench.establish(client, vip).backend, bench.backend(SECOND));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_retransmitted_syn_stays_with_the_first_choice_and_a_new_one_does_not() {
    let mut bench = Bench::new();
    let syn = Frame::tcp(CLIENT, VIP_WRITE).seq(100).flags(SYN);
    let (_, first) = bench.run(&syn.bytes());
    bench.route_all_to(SECOND, 2);
    let (_, again) = bench.run(&syn.bytes());
    assert_eq!(Frame::parse(&again).dst, bench.backend(FIRST));
    assert_eq!(Frame::parse(&again).src, Frame::parse(&first).src);
    let (_, other) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(90_000).flags(SYN).bytes());
    assert_eq!(Frame::parse(&other).dst, bench.backend(SECOND));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_packet_of_no_flow_is_answered_with_the_reset_that_its_sender_accepts() {
    let bench = Bench::new();
    let stray = Frame::tcp(CLIENT, VIP_WRITE).seq(10).ack(4242).flags(ACK | PSH).payload(&[7; 900]);
    let (action, out) = bench.run(&stray.bytes());
    let reset = Frame::parse(&out);
    assert_eq!(action, Action::Tx);
    assert_eq!((reset.src, reset.dst, reset.flags, reset.seq), (VIP_WRITE, CLIENT, RST, 4242));
    assert_eq!((reset.src_mac, reset.dst_mac), (OWN_MAC, CLIENT_MAC));
    assert_eq!(out.len(), 60);

    let snat = SocketAddr::new(SNAT, 40_000);
    let (action, out) =
        bench.run(&Frame::tcp(bench.backend(FIRST), snat).seq(10).ack(77).flags(ACK).bytes());
    let reset = Frame::parse(&out);
    assert_eq!(
        (action, reset.dst, reset.flags, reset.seq),
        (Action::Tx, bench.backend(FIRST), RST, 77)
    );
    assert_eq!(bench.counter("reset_unknown_flow"), 2);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_stray_reset_is_not_answered_and_answers_are_rate_limited() {
    let bench = Bench::new();
    let (action, _) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(10).flags(RST).bytes());
    assert_eq!((action, bench.counter("drop_no_reset")), (Action::Drop, 1));

    let stray = Frame::tcp(CLIENT, VIP_WRITE).seq(10).ack(1).flags(ACK).bytes();
    // So few in a second that 2000 in a row take less, however slow the machine is.
    bench.change_settings(|settings| settings.answers_per_second = 10);
    let mut dropped = 0;
    for _ in 0..2000 {
        dropped += u64::from(bench.run(&stray).0 == Action::Drop);
    }
    assert!(dropped > 0);
    assert_eq!(bench.counter("drop_no_reset"), 1 + dropped);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_route_without_a_backend_refuses_or_drops_as_configured() {
    let mut bench = Bench::new();
    bench.refuse_all(2);
    let (action, out) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(10).flags(SYN).bytes());
    let reset = Frame::parse(&out);
    assert_eq!((action, reset.flags, reset.ack), (Action::Tx, RST | ACK, 11));
    assert_eq!(bench.counter("reset_no_backend"), 1);
    bench.drop_all(3);
    let (action, _) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(10).flags(SYN).bytes());
    assert_eq!((action, bench.counter("drop_no_backend")), (Action::Drop, 1));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn fragments_of_vip_traffic_are_dropped() {
    let bench = Bench::new();
    let mut fragment = Frame::tcp(CLIENT, VIP_WRITE).flags(ACK).bytes();
    fragment[20] = 0x20;
    assert_eq!((bench.run(&fragment).0, bench.counter("drop_fragment")), (Action::Drop, 1));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connection_waits_for_its_next_hop() {
    let mut bench = Bench::new();
    bench.forget_next_hop(FIRST);
    let syn = Frame::tcp(CLIENT, VIP_WRITE).seq(5).flags(SYN).bytes();
    assert_eq!((bench.run(&syn).0, bench.counter("drop_next_hop_unknown")), (Action::Drop, 1));
    bench.move_backend(FIRST, 1);
    assert_eq!(bench.run(&syn).0, Action::Tx);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn both_fins_acknowledged_close_the_flow_and_free_its_port() {
    let bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let (c, s) = (flow.client_next, flow.server_next);
    bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(c).ack(s).flags(FIN | ACK).bytes());
    assert_eq!(bench.flows(), 1, "half closed is not closed");
    bench.run(&Frame::tcp(flow.backend, flow.snat).seq(s).ack(c + 1).flags(FIN | ACK).bytes());
    assert_eq!(bench.flows(), 1, "the last acknowledgement is missing");
    let (action, out) =
        bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(c + 1).ack(s + 1).flags(ACK).bytes());
    assert_eq!((action, Frame::parse(&out).dst), (Action::Tx, flow.backend));
    assert_eq!((bench.flows(), bench.counter("flow_closed")), (0, 1));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_reset_closes_only_with_the_number_that_the_receiver_expects() {
    let bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let (action, _) =
        bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(flow.client_next + 9000).flags(RST).bytes());
    assert_eq!((action, bench.flows()), (Action::Tx, 1));
    bench.run(&Frame::tcp(flow.backend, flow.snat).seq(flow.server_next).flags(RST).bytes());
    assert_eq!(bench.flows(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_on_an_established_flow_changes_nothing_and_on_a_closing_one_starts_over() {
    let mut bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    bench.route_all_to(SECOND, 2);
    let syn = Frame::tcp(CLIENT, VIP_WRITE).seq(1_000_000).flags(SYN);
    let (_, out) = bench.run(&syn.bytes());
    assert_eq!(Frame::parse(&out).dst, flow.backend, "the server challenges it (RFC 5961, 4.2)");
    assert_eq!(bench.flows(), 1);
    bench.run(
        &Frame::tcp(flow.backend, flow.snat)
            .seq(flow.server_next)
            .ack(flow.client_next)
            .flags(FIN | ACK)
            .bytes(),
    );
    let (_, out) = bench.run(&syn.bytes());
    assert_eq!(Frame::parse(&out).dst, bench.backend(SECOND));
    assert_eq!(bench.flows(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_forged_fin_does_not_open_a_flow_to_a_syn() {
    let mut bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let far = flow.client_next.wrapping_add(1 << 30);
    bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(far).ack(1).flags(FIN | ACK).bytes());
    bench.route_all_to(SECOND, 2);
    let (_, out) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(9_000).flags(SYN).bytes());
    assert_eq!(Frame::parse(&out).dst, flow.backend, "the flow stays, and its server challenges");
    assert_eq!(bench.flows(), 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_forged_reset_does_not_end_a_handshake() {
    let bench = Bench::new();
    bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(100).flags(SYN).bytes());
    bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(5_000_000).flags(RST).bytes());
    assert_eq!(bench.dataplane.flow_counts().unwrap().half_open, 1);
    bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(101).flags(RST).bytes());
    assert_eq!(bench.dataplane.flow_counts().unwrap().half_open, 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn in_dsr_a_port_that_is_used_again_never_opens_a_connection_to_the_old_pair() {
    let mut bench = Bench::new();
    bench.forwarding = Forwarding::Dsr;
    bench.route_all_to(FIRST, 2);
    let syn = |seq| Frame::tcp(CLIENT, VIP_WRITE).seq(seq).flags(SYN).bytes();
    bench.run(&syn(100));
    let (_, ack) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(101).ack(7).flags(ACK).bytes());
    assert_eq!(Frame::parse(&ack).dst_mac, bench.backend_mac(FIRST));
    assert_eq!(bench.flows(), 1);
    // The same pair: its server knows whether the old connection is over.
    assert_eq!(Frame::parse(&bench.run(&syn(90_000)).1).dst_mac, bench.backend_mac(FIRST));
    bench.route_all_to(SECOND, 3);
    let (action, out) = bench.run(&syn(90_000));
    assert_eq!((action, Frame::parse(&out).flags), (Action::Tx, RST | ACK));
    assert_eq!((bench.flows(), bench.counter("reset_port_busy")), (1, 1));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn in_dsr_a_fin_counts_in_whatever_order_it_comes() {
    const DATA: &[u8] = b"ten bytes.";
    let sent = |seq, flags, data: &[u8]| {
        Frame::tcp(CLIENT, VIP_WRITE).seq(seq).ack(7).flags(flags).payload(data).bytes()
    };
    let packets = [
        ("overtakes", vec![sent(111, FIN | ACK, b""), sent(101, ACK, DATA)], true),
        ("overtaken", vec![sent(102, ACK, b""), sent(101, FIN | ACK, b"")], true),
        ("again", vec![sent(101, ACK, DATA), sent(101, FIN | ACK, DATA)], true),
        ("forged", vec![sent(1 << 30, FIN | ACK, b"")], false),
        ("old", vec![sent(101, ACK, DATA), sent(101, FIN | ACK, b"")], false),
    ];
    for (what, packets, closes) in packets {
        let mut bench = Bench::new();
        bench.forwarding = Forwarding::Dsr;
        bench.route_all_to(FIRST, 2);
        bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(100).flags(SYN).bytes());
        bench.run(&sent(101, ACK, b""));
        assert_eq!(bench.flows(), 1);
        for packet in packets {
            bench.run(&packet);
        }
        bench.route_all_to(SECOND, 3);
        bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(90_000).flags(SYN).bytes());
        assert_eq!(
            bench.flows() == 0,
            closes,
            "{what}: only a flow that closes gives way to a SYN"
        );
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_handshake_that_does_not_acknowledge_the_server_opens_no_flow() {
    let bench = Bench::new();
    let (_, syn) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(100).flags(SYN).bytes());
    let syn = Frame::parse(&syn);
    let ack = |number| Frame::tcp(CLIENT, VIP_WRITE).seq(101).ack(number).flags(ACK).bytes();
    bench.run(&ack(1));
    assert_eq!(bench.flows(), 0, "before the server answered");
    bench.run(&Frame::tcp(syn.dst, syn.src).seq(500).ack(101).flags(SYN | ACK).bytes());
    bench.run(&ack(12_345));
    assert_eq!(bench.flows(), 0, "with a guessed number");
    bench.run(&ack(501));
    assert_eq!(bench.flows(), 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_refused_handshake_frees_its_port() {
    let bench = Bench::with_ports(40_000, 40_000);
    let (_, syn) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).seq(100).flags(SYN).bytes());
    let syn = Frame::parse(&syn);
    let (action, out) = bench.run(&Frame::tcp(syn.dst, syn.src).ack(101).flags(RST | ACK).bytes());
    assert_eq!((action, Frame::parse(&out).flags), (Action::Tx, RST | ACK));
    let other = SocketAddr::new(CLIENT.ip(), 2002);
    assert_eq!(bench.run(&Frame::tcp(other, VIP_WRITE).flags(SYN).bytes()).0, Action::Tx);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn exhausted_ports_refuse_and_never_take_over_a_flow() {
    let mut bench = Bench::with_ports(40_000, 40_001);
    let flows: Vec<_> = (0..2)
        .map(|n| bench.establish(SocketAddr::new(CLIENT.ip(), 2000 + n), VIP_WRITE))
        .collect();
    assert_ne!(flows[0].snat, flows[1].snat);
    let third = SocketAddr::new(CLIENT.ip(), 2002);
    let (action, out) = bench.run(&Frame::tcp(third, VIP_WRITE).seq(1).flags(SYN).bytes());
    assert_eq!((action, Frame::parse(&out).flags), (Action::Tx, RST | ACK));
    assert_eq!(bench.counter("reset_ports_exhausted"), 1);
    for flow in &flows {
        let (_, out) = bench.run(
            &Frame::tcp(flow.backend, flow.snat)
                .seq(flow.server_next)
                .ack(flow.client_next)
                .flags(ACK)
                .bytes(),
        );
        assert_eq!(Frame::parse(&out).dst, flow.client);
    }
    bench.route_all_to(SECOND, 2);
    let (action, _) = bench.run(&Frame::tcp(third, VIP_WRITE).seq(1).flags(SYN).bytes());
    assert_eq!(action, Action::Tx, "the same ports are free towards another backend");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn long_lived_flows_on_consecutive_ports_are_no_obstacle() {
    let bench = Bench::with_ports(40_000, 40_999);
    let client = |n: u16| SocketAddr::new(CLIENT.ip(), 2000 + n);
    // Each takes the next port, so the first 500 hold a run that the search meets again after one round.
    for n in 0..500 {
        bench.establish(client(n), VIP_WRITE);
    }
    for round in 0..2000 {
        let flow = bench.establish(client(1000 + round), VIP_WRITE);
        bench.run(&Frame::tcp(flow.client, VIP_WRITE).seq(flow.client_next).flags(RST).bytes());
    }
    assert_eq!(bench.counter("reset_ports_exhausted"), 0);
    assert_eq!(bench.flows(), 500);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_flow_table_refuses_new_connections_and_keeps_old_ones() {
    let bench = Bench::with_flows_max(1);
    let flow = bench.establish(CLIENT, VIP_WRITE);
    // The kernel gives a hash map a few entries more per CPU than asked for (kernel/bpf/hashtab.c).
    let mut refused = None;
    for port in 3000..3400 {
        let client = SocketAddr::new(CLIENT.ip(), port);
        let (action, out) = bench.handshake(client, VIP_WRITE);
        let last = Frame::parse(&out);
        assert_eq!(action, Action::Tx);
        if last.flags & RST != 0 {
            refused = Some(last.dst);
            break;
        }
    }
    assert!(refused.is_some());
    assert_eq!(bench.counter("reset_flows_full"), 1);
    let (action, out) = bench.run(&flow.data(b"still here"));
    assert_eq!((action, Frame::parse(&out).dst), (Action::Tx, flow.backend));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_flood_evicts_half_open_connections_and_no_flow() {
    let bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    for n in 0..20_000u32 {
        let attacker = SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a63_0000 + n).into(), 1234);
        bench.run(&Frame::tcp(attacker, VIP_WRITE).seq(n).flags(SYN).bytes());
    }
    let (action, out) = bench.run(&flow.data(b"still here"));
    assert_eq!((action, Frame::parse(&out).dst), (Action::Tx, flow.backend));
    let honest = SocketAddr::new(CLIENT.ip(), 2003);
    assert_eq!(bench.establish(honest, VIP_WRITE).backend, bench.backend(FIRST));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn replies_follow_a_client_to_its_new_gateway_but_not_a_forger() {
    let bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let from_gateway = |seq| {
        Frame::tcp(CLIENT, VIP_WRITE)
            .via(GATEWAY_MAC)
            .seq(seq)
            .ack(flow.server_next)
            .flags(ACK)
            .bytes()
    };
    let reply = Frame::tcp(flow.backend, flow.snat)
        .seq(flow.server_next)
        .ack(flow.client_next)
        .flags(ACK)
        .bytes();
    bench.run(&from_gateway(flow.client_next + 5000));
    assert_eq!(Frame::parse(&bench.run(&reply).1).dst_mac, CLIENT_MAC);
    let bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let reply = Frame::tcp(flow.backend, flow.snat)
        .seq(flow.server_next)
        .ack(flow.client_next)
        .flags(ACK)
        .bytes();
    bench.run(
        &Frame::tcp(CLIENT, VIP_WRITE)
            .via(GATEWAY_MAC)
            .seq(flow.client_next)
            .ack(flow.server_next)
            .flags(ACK)
            .bytes(),
    );
    assert_eq!(Frame::parse(&bench.run(&reply).1).dst_mac, GATEWAY_MAC);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connection_of_the_host_inside_snat_ports_passes_and_keeps_its_port() {
    let mut bench = Bench::with_ports(40_000, 40_000);
    let local = SocketAddr::new(SNAT, 40_000);
    bench.dataplane.protect_host_connection(local, bench.backend(FIRST)).unwrap();
    let (action, _) = bench.run(&Frame::tcp(bench.backend(FIRST), local).flags(ACK).bytes());
    assert_eq!((action, bench.counter("pass_host")), (Action::Pass, 1));
    let (_, out) = bench.run(&Frame::tcp(CLIENT, VIP_WRITE).flags(SYN).bytes());
    assert_eq!(Frame::parse(&out).flags, RST | ACK, "the port is the host's");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restarted_daemon_adopts_flows_and_routes() {
    let mut bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    bench.route_all_to(SECOND, 2);
    bench.reload();
    assert!(bench.dataplane.adopted());
    let (action, out) = bench.run(&flow.data(b"after restart"));
    assert_eq!((action, Frame::parse(&out).dst), (Action::Tx, flow.backend));
    let routes = bench.dataplane.routes(0).unwrap().unwrap();
    assert!(routes.values().all(|route| route.generation == 2 && route.pair == SECOND));
    let backends = [bench.backend(SECOND), "10.0.1.77:3306".parse().unwrap(), bench.backend(FIRST)];
    assert_eq!(bench.dataplane.assign_backends(&backends).unwrap(), [SECOND, 2, FIRST]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn maps_of_another_layout_are_refused() {
    let bench = Bench::new();
    bench.change_settings(|settings| settings.abi_version = 99);
    let Err(error) = DataPlane::load(&bench.options()) else {
        panic!("loaded over another layout")
    };
    assert!(matches!(error, Error::OtherLayout { .. }));
    assert!(error.to_string().contains("have layout 99"), "{error}");
    assert!(error.to_string().contains("pairflip unload"), "{error}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ended_flows_leave_the_tables_with_the_numbers_that_both_ends_accept() {
    let mut bench = Bench::new();
    let flow = bench.establish(CLIENT, VIP_WRITE);
    bench.run(&flow.data(b"12345"));
    let ended = bench.dataplane.end_flows(|_, entry| entry.backend == FIRST).unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].client.seq_next, flow.client_next + 5);
    assert_eq!(ended[0].reply.unwrap().seq_next, flow.server_next);
    // Who had a flow is told, whatever strays there are.
    bench.change_settings(|settings| settings.answers_per_second = 0);
    let (_, out) = bench.run(&flow.data(b"67890"));
    assert_eq!(Frame::parse(&out).flags, RST);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn silent_flows_are_swept_by_state() {
    let mut bench = Bench::new();
    bench.establish(CLIENT, VIP_WRITE);
    let limits = SweepLimits { closing: Duration::ZERO, ..LONG };
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(swept(&mut bench, limits), 0);
    let limits = SweepLimits { established: Duration::ZERO, ..limits };
    assert_eq!(swept(&mut bench, limits), 1);
    assert_eq!(bench.flows(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_left_of_a_cut_is_no_flow_and_is_swept() {
    let mut world = World::new(Family::V4, Forwarding::Dnat, 16);
    let scene = world.connect(When::Cut);
    let dataplane = &mut world.bench.dataplane;
    assert_eq!(dataplane.list_flows(FlowFilter::default(), 9).unwrap(), (Vec::new(), 0));
    assert_eq!(dataplane.flow_counts().unwrap(), FlowCounts::default());
    assert!(dataplane.end_flows(|_, _| true).unwrap().is_empty(), "nothing ends twice");
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(swept(&mut world.bench, SweepLimits { closing: Duration::ZERO, ..LONG }), 0);
    let late = world.run_from(Side::Client, &scene.client(ACK));
    assert_eq!(late.counted.get("reset_unknown_flow"), Some(&1), "{:?}", late.counted);
}

const LONG: SweepLimits = SweepLimits {
    half_open: Duration::from_secs(3600),
    established: Duration::from_secs(3600),
    closing: Duration::from_secs(3600),
};

/// A bench's tables are small: one call goes through all of them.
fn swept(bench: &mut Bench, limits: SweepLimits) -> usize {
    bench.dataplane.sweep(|_| limits).unwrap().len()
}
