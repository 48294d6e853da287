//! How a row of the table is run in a world, and how its packet is judged.

use std::collections::BTreeMap;

use pairflip_common::flow::Forwarding;

use crate::{
    bench::{ACK, Action, FIN, PSH, RST, SYN},
    frames::{Body, Icmp, Packet, Quote, Tcp},
    scene::{Scene, Side, When},
    vlans::VLANS,
    world::{Arms, BACKEND_MTU, CLIENT_MTU, Family, Given, Outcome, World},
};

/// One kind of packet at one moment of a connection, and what must become of it.
pub(crate) struct Row {
    name: &'static str,
    when: When,
    from: Side,
    packet: fn(&Scene) -> Packet,
    expect: Expect,
    given: Given,
    only: fn(&World) -> bool,
    /// What happens to the bytes, and where the IP header starts in them; it must be found in what is forwarded.
    damage: fn(&mut Vec<u8>, usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// Sent to the other side; these counters grow.
    Forward(&'static [&'static str]),
    /// An RST to the sender.
    Reset(&'static str),
    TooBig,
    TimeExceeded,
    Drop(&'static str),
    Pass(&'static str),
}

pub(crate) fn row(
    name: &'static str,
    when: When,
    from: Side,
    packet: fn(&Scene) -> Packet,
    expect: Expect,
) -> Row {
    let (given, only) = (Given::Nothing, (|_| true) as fn(&World) -> bool);
    Row { name, when, from, packet, expect, given, only, damage: |_, _| () }
}

impl Row {
    pub(crate) fn given(self, given: Given) -> Self {
        Self { given, ..self }
    }

    pub(crate) fn only(self, only: fn(&World) -> bool) -> Self {
        Self { only, ..self }
    }

    pub(crate) fn damaged(self, damage: fn(&mut Vec<u8>, usize)) -> Self {
        Self { damage, ..self }
    }

    /// Returns what is wrong.
    fn judge(&self, world: &mut World) -> Result<(), String> {
        let mut scene = world.connect(self.when);
        world.set_facing(self.from);
        world.arrange(self.given, &scene);
        let packet = (self.packet)(&scene);
        let mut frame = packet.bytes();
        (self.damage)(&mut frame, 14 + 4 * packet.tags.len());
        let outcome = world.run(&frame);
        world.take_back(self.given, &scene);
        let verdict = match self.expect {
            Expect::Forward(counters) => {
                same(&outcome, world.leaves_as(), counters).and_then(|()| {
                    if counters.contains(&"syn_forwarded") {
                        world.learn(&mut scene, &outcome.frame);
                    }
                    let out = world.forwarded(self.from, &scene, &packet);
                    let mut expected = out.bytes();
                    (self.damage)(&mut expected, 14 + 4 * out.tags.len());
                    same_bytes(&outcome.frame, &expected)
                })
            }
            Expect::Reset(counter) => refused(&outcome, &packet, counter),
            Expect::TooBig => {
                let mtu = match self.from {
                    Side::Client => BACKEND_MTU,
                    Side::Backend => CLIENT_MTU,
                };
                same(&outcome, Action::Tx, &["icmp_too_big"]).and_then(|()| {
                    same_bytes(&outcome.frame, &own_error(&packet, Some(mtu as u32)))
                })
            }
            Expect::TimeExceeded => same(&outcome, Action::Tx, &["icmp_ttl"])
                .and_then(|()| same_bytes(&outcome.frame, &own_error(&packet, None))),
            Expect::Drop(counter) => same(&outcome, Action::Drop, &[counter]),
            Expect::Pass(counter) => same(&outcome, Action::Pass, &[counter])
                .and_then(|()| same_bytes(&outcome.frame, &frame)),
        };
        verdict.map_err(|wrong| format!("{world}: {}: {wrong}\n    in  {}", self.name, hex(&frame)))
    }
}

/// Runs a packet that must be sent on to the other side. Returns what is wrong.
pub(crate) fn sent_on(
    world: &mut World,
    from: Side,
    scene: &Scene,
    packet: &Packet,
    counters: &[&'static str],
) -> Result<(), String> {
    let outcome = world.run_from(from, packet);
    same(&outcome, world.leaves_as(), counters)
        .and_then(|()| same_bytes(&outcome.frame, &world.forwarded(from, scene, packet).bytes()))
        .map_err(|wrong| format!("{world}: {packet:?}: {wrong}"))
}

/// Asserts that a connection's ends reach each other.
pub(crate) fn goes_on(world: &mut World, scene: &Scene) {
    for (side, payload) in [(Side::Client, &b"select 1"[..]), (Side::Backend, b"42")] {
        if side == Side::Client || world.routed() {
            let packet = scene.from(side, ACK | PSH).payload(payload);
            assert_eq!(sent_on(world, side, scene, &packet, &["forwarded"]), Ok(()));
        }
    }
}

/// Whether a packet was answered with the RST that its sender accepts. Returns what is wrong.
pub(crate) fn refused(
    outcome: &Outcome,
    packet: &Packet,
    counter: &'static str,
) -> Result<(), String> {
    same(outcome, Action::Tx, &[counter])
        .and_then(|()| same_reset(&outcome.frame, &reset(packet), packet.bytes().len()))
}

/// The RST that the sender of a stray packet accepts (RFC 9293, 3.10.7.1).
fn reset(packet: &Packet) -> Vec<u8> {
    let Some(stray) = packet.is_tcp() else { panic!("no TCP packet") };
    let units = u32::from(stray.flags & SYN != 0) + u32::from(stray.flags & FIN != 0);
    let end = stray.seq.wrapping_add(stray.payload.len() as u32 + units);
    let (seq, ack, flags) =
        if stray.flags & ACK != 0 { (stray.ack, 0, RST) } else { (0, end, RST | ACK) };
    answer(packet, Body::Tcp(Tcp { seq, ack, flags, ..Tcp::default() })).bytes()
}

/// The error that tells a sender that its packet is larger than this, or that its TTL is used up.
pub(crate) fn own_error(packet: &Packet, mtu: Option<u32>) -> Vec<u8> {
    let (kind, code) = match (packet.is_v4(), mtu.is_some()) {
        (true, true) => (3, 4),
        (true, false) => (11, 0),
        (false, true) => (2, 0),
        (false, false) => (3, 0),
    };
    let mut quote = packet.ip_bytes();
    let plain = packet.ip_options.is_empty() && packet.headers_len() <= 40;
    quote.truncate(match (packet.is_v4(), plain) {
        (true, true) => 28,
        (true, false) => 68,
        (false, true) => 48,
        (false, false) => 104,
    });
    let rest = mtu.unwrap_or(0).to_be_bytes();
    answer(packet, Body::Icmp(Icmp { kind, code, rest, quote: Quote::Bytes(quote) })).bytes()
}

/// A packet of our own, back to where another came from.
fn answer(packet: &Packet, body: Body) -> Packet {
    let mut answer = Packet::new(packet.dst, packet.src, body).ttl(64);
    (answer.src_mac, answer.dst_mac) = (packet.dst_mac, packet.src_mac);
    answer.tags.clone_from(&packet.tags);
    (answer.class, answer.label) = (0, 0);
    answer
}

pub(crate) fn same(
    outcome: &Outcome,
    action: Action,
    counters: &[&'static str],
) -> Result<(), String> {
    let expected: BTreeMap<_, _> = counters.iter().map(|name| (*name, 1)).collect();
    let got = (outcome.action, &outcome.counted);
    if got == (action, &expected) {
        return Ok(());
    }
    Err(format!("expected {action:?} {expected:?}, got {got:?}"))
}

/// Padding up to Ethernet's minimum may follow the reset, as far as the packet that it answers was as long.
fn same_reset(got: &[u8], expected: &[u8], stray_len: usize) -> Result<(), String> {
    let len = expected.len().max(stray_len.min(60));
    if got.len() != len {
        return Err(format!("expected {len} bytes, got {}", got.len()));
    }
    same_bytes(&got[..expected.len()], expected)
}

pub(crate) fn same_bytes(got: &[u8], expected: &[u8]) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    let fields = |frame: &[u8]| match etherparse::PacketHeaders::from_ethernet_slice(frame) {
        Ok(headers) => format!("{headers:?}"),
        Err(error) => format!("{error}"),
    };
    let at = got.iter().zip(expected).position(|(got, expected)| got != expected);
    Err(format!(
        "another frame, from byte {at:?} on\n    want {}\n    got  {}\n    want {}\n    got  {}",
        hex(expected),
        hex(got),
        fields(expected),
        fields(got),
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const FILL_MAX: u32 = 400;

/// Runs the rows in every network of one family and forwarding mode, or every `stride`-th of these combinations. Returns how many ran, and what went wrong.
pub(crate) fn run(
    family: Family,
    forwarding: Forwarding,
    rows: &[Row],
    stride: usize,
) -> (BTreeMap<&'static str, usize>, Vec<String>) {
    let mut world = World::new(family, forwarding, 16_384);
    let (mut ran, mut wrong) = (BTreeMap::new(), Vec::new());
    let mut nth = 0;
    for vlans in VLANS {
        for arms in [Arms::One, Arms::Two] {
            world.move_to(arms, vlans);
            for row in rows {
                // What the daemon was told has to do with VLANs only where packets come from and go to.
                let told = row.given != Given::Nothing;
                if (row.only)(&world) && (!told || vlans.also_told) {
                    nth += 1;
                    if nth % stride != 0 {
                        continue;
                    }
                    *ran.entry(row.name).or_default() += 1;
                    wrong.extend(row.judge(&mut world).err());
                }
            }
        }
    }
    (ran, wrong)
}

/// Opens connections until the flow table is full; then the first must be as it was, and one more refused with what its client accepts.
pub(crate) fn fill(world: &mut World) {
    let first = world.connect(When::Open);
    // The kernel gives a hash map a few entries more per CPU than asked for (kernel/bpf/hashtab.c).
    for _ in 0..FILL_MAX {
        let scene = world.connect(When::Answered);
        let ack = scene.client(ACK);
        let outcome = world.run_from(Side::Client, &ack);
        if outcome.counted.contains_key("flow_opened") {
            continue;
        }
        assert_eq!(refused(&outcome, &ack, "reset_flows_full"), Ok(()), "{world}");
        let data = first.client(ACK).payload(b"still here");
        assert_eq!(sent_on(world, Side::Client, &first, &data, &["forwarded"]), Ok(()));
        return;
    }
    panic!("{world}: {FILL_MAX} flows in a table for one");
}
