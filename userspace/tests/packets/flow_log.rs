//! The flow log: what it says of connections that the program saw open and end.

use std::{net::SocketAddr, time::Duration};

use pairflip::dataplane::{FlowLine, FlowLog};
use pairflip_common::{
    flow::Forwarding,
    flow_log::{FlowRecord, RING_BYTES, RecordKind},
};

use crate::{
    bench::{ACK, Action, Bench, CLIENT, Established, FIN, Frame, PSH, RST, SYN, VIP_WRITE},
    frames::Packet,
    scene::{Scene, Side, When},
    world::{Family, World},
};

/// The kernel puts so much in front of each record of a ring (`BPF_RINGBUF_HDR_SZ`).
const RECORD_HEADER: usize = 8;
/// Lines that wait in a full ring.
const LINES_MAX: usize = RING_BYTES / (RECORD_HEADER + size_of::<FlowRecord>());
/// Longer than any test takes between a connection's first packet and its last.
const AGE_MAX: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_flow_log_tells_how_connections_open_and_end_in_every_family_and_mode() {
    for (family, forwarding) in crate::ways() {
        let (mut world, mut log) = world(family, forwarding);
        let seen = |ending: &&Ending| !ending.by_server || forwarding != Forwarding::Dsr;
        for ending in ENDINGS.iter().filter(seen) {
            tell(&mut world, &mut log, ending);
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_flow_log_loses_lines_and_no_packets() {
    let mut bench = Bench::new();
    bench.dataplane.set_features(false, true).unwrap();
    let mut log = bench.dataplane.take_flow_log().unwrap().expect("nobody else reads it");
    let client = |number| SocketAddr::new(CLIENT.ip(), 2000 + number);
    let reset = |flow: &Established, seq| {
        bench.run(&Frame::tcp(flow.client, flow.vip).seq(seq).flags(RST).bytes());
    };
    let opened = LINES_MAX as u64 / 2 + 1;
    for number in 0..opened {
        let flow = bench.establish(client(number as u16), VIP_WRITE);
        reset(&flow, flow.client_next);
    }
    let lost = bench.counter("flow_log_lost");
    assert!(lost > 0, "{} lines are in a ring for {LINES_MAX}", 2 * opened);
    let flow = bench.establish(CLIENT, VIP_WRITE);
    let (action, out) = bench.run(&flow.data(b"select 1"));
    assert_eq!((action, Frame::parse(&out).dst), (Action::Tx, flow.backend));
    assert_eq!(bench.counter("flow_log_lost"), lost + 1);
    assert_eq!(bench.counter("flow_opened"), opened + 1);

    let lines = std::iter::from_fn(|| log.next_line()).count() as u64;
    assert_eq!(lines + lost, 2 * opened, "lines are either there or counted");
    reset(&flow, flow.client_next + 8);
    let after = log.next_line().expect("there is room again");
    assert_eq!((after.kind, after.client), (RecordKind::ResetByClient, flow.client));
}

/// A way for a connection to end: its packets, in order, and what the log makes of it.
struct Ending {
    kind: Option<RecordKind>,
    by_server: bool,
    packets: fn(&Scene) -> Vec<(Side, Packet)>,
}

const ENDINGS: &[Ending] = &[
    Ending { kind: None, by_server: false, packets: |_| Vec::new() },
    Ending {
        kind: Some(RecordKind::Closed),
        by_server: true,
        packets: |s| closed(s, Side::Client, Side::Backend),
    },
    Ending {
        kind: Some(RecordKind::Closed),
        by_server: true,
        packets: |s| closed(s, Side::Backend, Side::Client),
    },
    Ending {
        kind: Some(RecordKind::ResetByClient),
        by_server: false,
        packets: |s| vec![(Side::Client, s.client(ACK | RST))],
    },
    Ending {
        kind: Some(RecordKind::ResetByServer),
        by_server: true,
        packets: |s| vec![(Side::Backend, s.server(RST))],
    },
    Ending {
        kind: Some(RecordKind::Replaced),
        by_server: false,
        packets: |s| {
            vec![(Side::Client, s.client(ACK | FIN)), (Side::Client, s.client(SYN).seq(1 << 20))]
        },
    },
];

/// Both sides close, one after the other, and the first acknowledges it.
fn closed(scene: &Scene, first: Side, second: Side) -> Vec<(Side, Packet)> {
    let closed = Scene { c: scene.c + 1, s: scene.s + 1, ..scene.clone() };
    let acknowledged = match first {
        Side::Client => closed.c,
        Side::Backend => closed.s,
    };
    vec![
        (first, scene.from(first, ACK | FIN)),
        (second, scene.from(second, ACK | FIN).ack(acknowledged)),
        (first, closed.from(first, ACK)),
    ]
}

fn world(family: Family, forwarding: Forwarding) -> (World, FlowLog) {
    let mut world = World::new(family, forwarding, 1024);
    world.bench.dataplane.set_features(forwarding == Forwarding::Dnat, true).unwrap();
    let log = world.bench.dataplane.take_flow_log().unwrap().expect("nobody else reads it");
    (world, log)
}

/// Runs a connection from its first packet to its end, and checks the lines about it.
fn tell(world: &mut World, log: &mut FlowLog, ending: &Ending) {
    let mut scene = world.connect(When::Open);
    // What the handshake of `World::connect` took in each direction.
    let mut bytes = [length(&scene.client(SYN)), 0];
    if world.routed() {
        bytes[1] += length(&scene.server(SYN | ACK));
    }
    let expected = line(&scene, RecordKind::Opened, bytes);
    check(world, log.next_line(), Some(expected));
    bytes[0] += length(&scene.client(ACK));

    let query = scene.client(ACK | PSH).payload(b"select 1");
    scene.c += 8;
    let rows = scene.server(ACK | PSH).payload(b"some rows");
    scene.s += 9;
    let mut packets = vec![(Side::Client, query), (Side::Backend, rows)];
    packets.extend((ending.packets)(&scene));
    for (side, packet) in packets {
        if side == Side::Client || world.routed() {
            let outcome = world.run_from(side, &packet);
            assert_eq!(outcome.action, world.leaves_as(), "{world}: {packet:?}");
            // The packet that opens the next connection is that one's.
            if packet.is_tcp().is_some_and(|tcp| tcp.flags & SYN == 0) {
                bytes[side as usize] += length(&packet);
            }
        }
    }
    check(world, log.next_line(), ending.kind.map(|kind| line(&scene, kind, bytes)));
    check(world, log.next_line(), None);
}

/// As counted: without padding.
fn length(packet: &Packet) -> u64 {
    packet.bytes().len() as u64
}

fn line(scene: &Scene, kind: RecordKind, bytes: [u64; 2]) -> FlowLine {
    FlowLine {
        kind,
        client: scene.client,
        vip: scene.vip,
        source: scene.source,
        backend: 0,
        age: Duration::ZERO,
        client_bytes: bytes[0],
        server_bytes: bytes[1],
    }
}

fn check(world: &World, got: Option<FlowLine>, expected: Option<FlowLine>) {
    let got = got.map(|got| {
        assert!(got.age < AGE_MAX, "{world}: {got:?}");
        FlowLine { age: Duration::ZERO, ..got }
    });
    assert_eq!(got, expected, "{world}");
}
