//! Mutated and random frames: the program and the model must agree about each.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use pairflip_common::{
    be::{Address, AnyAddress, Ipv4Be, Ipv6Be, PortBe},
    flow::{Direction, FlowEntry, FlowKey, Forwarding},
    names,
};

use crate::{
    bench::{ACK, Action, Bench, FIN, OWN_MAC, PSH, RST, SYN},
    frames::{Body, DESTINATION, FRAGMENT, HOP_BY_HOP},
    model::{self, Config, Entry, Ip, Opinion, Verdict},
    scene::{Scene, Side, When, any},
    world::{BACKEND_MAC, BACKEND_MTU, BACKEND_OWN_MAC, CLIENT_MTU, Family, SNAT_PORTS, World},
};

/// Frames after which new connections replace those that the mutations ended.
const ROUND: u64 = 400;

/// Marsaglia's xorshift with a multiplication behind it: a frame of a run is found again by its seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// The program's tables of one family.
pub(crate) struct Tables<A> {
    flows: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    half_open: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
}

impl Tables<Ipv4Be> {
    pub(crate) fn v4(bench: &Bench) -> Self {
        Self::open(bench, names::FLOWS, names::HALF_OPEN)
    }
}

impl Tables<Ipv6Be> {
    pub(crate) fn v6(bench: &Bench) -> Self {
        Self::open(bench, names::FLOWS6, names::HALF_OPEN6)
    }
}

impl<A: Address> Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn open(bench: &Bench, flows: &str, half_open: &str) -> Self {
        Self {
            flows: HashMap::try_from(Map::HashMap(bench.map(flows))).unwrap(),
            half_open: HashMap::try_from(Map::LruHashMap(bench.map(half_open))).unwrap(),
        }
    }

    /// How many the flow table has, and that of half-open connections.
    pub(crate) fn entries(&self) -> (usize, usize) {
        (self.flows.keys().count(), self.half_open.keys().count())
    }

    /// Does to one entry of a half-open connection what a flood may do.
    pub(crate) fn evict(&mut self, src: SocketAddr, dst: SocketAddr) {
        self.half_open.remove(&key(src, dst)).unwrap();
    }

    fn entry(&self, src: SocketAddr, dst: SocketAddr, routed: bool) -> Option<Entry> {
        let key = key(src, dst);
        if let Ok(entry) = self.flows.get(&key, 0) {
            return Some(described(&entry, false));
        }
        let entry = self.half_open.get(&key, 0).ok()?;
        // Of no use once its other half was evicted.
        let client = entry.direction == Direction::Client as u8;
        let whole = !client || !routed || self.half_open.get(&entry.peer_key(), 0).is_ok();
        whole.then(|| described(&entry, true))
    }
}

fn key<A: Address>(src: SocketAddr, dst: SocketAddr) -> FlowKey<A> {
    FlowKey {
        src: A::from_any(any(src.ip())),
        dst: A::from_any(any(dst.ip())),
        src_port: PortBe::new(src.port()),
        dst_port: PortBe::new(dst.port()),
    }
}

fn described<A: Address>(entry: &FlowEntry<A>, half_open: bool) -> Entry {
    let FlowKey { src, dst, src_port, dst_port } = entry.rewrite;
    Entry {
        half_open,
        direction: entry.direction,
        state: entry.state,
        seq_next: entry.seq_next,
        ends: (
            SocketAddr::new(ip(src.any()), src_port.host()),
            SocketAddr::new(ip(dst.any()), dst_port.host()),
        ),
        client_mac: entry.client_mac.octets(),
    }
}

fn ip(address: AnyAddress) -> IpAddr {
    Ipv6Addr::from(address.octets()).to_canonical()
}

/// Runs `frames` frames through one world. Returns how many got each verdict; fails at the first on which the two do not agree.
pub(crate) fn run(
    family: Family,
    forwarding: Forwarding,
    frames: u64,
    seed: u64,
) -> BTreeMap<String, u64> {
    // Each CPU takes ports in an order of its own; on one, a seed gives the same frames again.
    let mut cpu = CpuSet::new();
    cpu.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpu).unwrap();
    let mut world = World::new(family, forwarding, 65_536);
    world.bench.change_settings(|settings| settings.answers_per_second = u32::MAX);
    let config = Config {
        forwarding,
        vip: world.vip(),
        backend: world.backend(),
        snat: world.snat(),
        snat_ports: SNAT_PORTS,
        mtus: [CLIENT_MTU, BACKEND_MTU],
    };
    let routed = world.routed();
    let v4 = (family == Family::V4).then(|| Tables::v4(&world.bench));
    let v6 = (family == Family::V6).then(|| Tables::v6(&world.bench));
    let entry = |src: SocketAddr, dst: SocketAddr| {
        if src.is_ipv4() {
            v4.as_ref()?.entry(src, dst, routed)
        } else {
            v6.as_ref()?.entry(src, dst, routed)
        }
    };
    let mut random = Random::new(seed);
    let mut seeds = Vec::new();
    let mut counts = BTreeMap::new();
    for number in 0..frames {
        if number % ROUND == 0 {
            seeds = originals(&mut world);
        }
        let frame = mutated(&mut random, &seeds);
        let opinion = model::judge(&config, &frame, &entry);
        let (action, out) = world.bench.run(&frame);
        let verdict = verdict_of(action, &opinion);
        if let Err(wrong) = agree(&config, &frame, &out, verdict, &opinion) {
            let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            let got: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!(
                "{world}: {wrong}\n  seed {seed}, frame {number}: {hex}\n  the program: {action:?} {got}\n  the model: {opinion:?}"
            );
        }
        *counts.entry(format!("{:?}", opinion.verdict)).or_default() += 1;
    }
    counts
}

/// An answer leaves as a forwarded packet does with one arm; the frame tells which it is.
fn verdict_of(action: Action, opinion: &Opinion) -> Verdict {
    match action {
        Action::Pass => Verdict::Pass,
        Action::Drop => Verdict::Drop,
        Action::Tx | Action::Redirect if opinion.verdict == Verdict::Answer => Verdict::Answer,
        Action::Tx | Action::Redirect => Verdict::Forward,
    }
}

fn agree(
    config: &Config,
    frame: &[u8],
    out: &[u8],
    verdict: Verdict,
    opinion: &Opinion,
) -> Result<(), String> {
    if verdict != opinion.verdict {
        return Err(format!("the program says {verdict:?}, the model {:?}", opinion.verdict));
    }
    match (verdict, &opinion.packet) {
        (Verdict::Pass, _) if frame != out => Err("passed, and not as it came".to_owned()),
        (Verdict::Answer, _) => {
            if out[..6] != frame[6..12] || out[6..12] != frame[..6] {
                return Err("the answer goes to somebody else".to_owned());
            }
            match model::layer3(out).and_then(|(at, v4)| model::ip(out, at, v4)) {
                Some(answer) if model::verifies(out, &answer) => Ok(()),
                _ => Err("the answer does not verify".to_owned()),
            }
        }
        (Verdict::Forward, Some(packet)) => rewritten(config, frame, out, packet, opinion),
        _ => Ok(()),
    }
}

/// Checks a forwarded frame: checksums are right if they were, and nothing changed but addresses, TTL and checksums.
fn rewritten(
    config: &Config,
    frame: &[u8],
    out: &[u8],
    packet: &Ip,
    opinion: &Opinion,
) -> Result<(), String> {
    let Some(sent) = model::layer3(out).and_then(|(at, v4)| model::ip(out, at, v4)) else {
        return Err("what was forwarded is no IP packet".to_owned());
    };
    if model::verifies(frame, packet) && !model::verifies(out, &sent) {
        return Err("a packet with right checksums left with wrong ones".to_owned());
    }
    let mut expected = frame.to_vec();
    let entry = opinion.entry.as_ref();
    let to_client = entry.is_some_and(|entry| entry.direction == Direction::Reply as u8);
    let error = packet.is_error();
    let (own, next) = match entry {
        Some(entry) if to_client => (OWN_MAC, entry.client_mac),
        _ => (BACKEND_OWN_MAC, BACKEND_MAC),
    };
    // A client that moved is followed with this very packet.
    expected[..6].copy_from_slice(&next);
    expected[6..12].copy_from_slice(&own);
    if config.forwarding != Forwarding::Dsr {
        expected[packet.ttl_at()] -= 1;
        let (src, dst) = entry.map_or_else(|| opened(config, out, &sent), |entry| entry.ends);
        let (src_at, dst_at) = packet.ends();
        // Whether a router's own address stays is the table's matter.
        put(&mut expected, src_at.start, if error { sent_src(out, &sent) } else { src.ip() });
        put(&mut expected, dst_at.start, dst.ip());
        let mut ports_at = packet.body_at;
        let (mut first, mut second) = (src, dst);
        if error {
            let quote_at = packet.body_at + 8;
            let Some(quoted) = model::ip(frame, quote_at, packet.v4) else {
                return Err("no quote".to_owned());
            };
            (first, second) = (dst, src);
            let (src_at, dst_at) = quoted.ends();
            put(&mut expected, src_at.start, first.ip());
            put(&mut expected, dst_at.start, second.ip());
            ports_at = quoted.body_at;
            if packet.v4 {
                copy(&mut expected, out, quote_at + 10);
            }
            if quoted.body_at + 18 <= packet.end() {
                copy(&mut expected, out, quoted.body_at + 16);
            }
        }
        expected[ports_at..ports_at + 2].copy_from_slice(&first.port().to_be_bytes());
        expected[ports_at + 2..ports_at + 4].copy_from_slice(&second.port().to_be_bytes());
        if packet.v4 {
            copy(&mut expected, out, packet.at + 10);
        }
        copy(&mut expected, out, packet.body_at + if error { 2 } else { 16 });
    }
    if expected == out {
        return Ok(());
    }
    let at = expected.iter().zip(out).position(|(expected, got)| expected != got);
    Err(format!("another frame, from byte {at:?} on"))
}

/// Ends of a connection that was just opened: which port it got is the program's choice.
fn opened(config: &Config, out: &[u8], sent: &Ip) -> (SocketAddr, SocketAddr) {
    let port = model::word(out, sent.body_at).unwrap_or(0);
    let (min, max) = config.snat_ports;
    let src = match config.forwarding {
        Forwarding::Snat if (min..=max).contains(&port) => config.snat,
        Forwarding::Dnat => sent_src(out, sent),
        Forwarding::Snat | Forwarding::Dsr => config.vip.ip(),
    };
    (SocketAddr::new(src, port), config.backend)
}

fn sent_src(out: &[u8], sent: &Ip) -> IpAddr {
    let bytes = &out[sent.ends().0];
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes).unwrap().into(),
    }
}

fn put(frame: &mut [u8], at: usize, address: IpAddr) {
    match address {
        IpAddr::V4(address) => frame[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => frame[at..at + 16].copy_from_slice(&address.octets()),
    }
}

/// Takes over a checksum, which is judged on its own.
fn copy(expected: &mut [u8], out: &[u8], at: usize) {
    if out.len() >= at + 2 && expected.len() >= at + 2 {
        expected[at..at + 2].copy_from_slice(&out[at..at + 2]);
    }
}

/// Frames of connections in all states, good ones, from both sides.
fn originals(world: &mut World) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let moments = [
        When::Fresh,
        When::HalfOpen,
        When::Answered,
        When::Open,
        When::Open,
        When::ClientClosed,
        When::ServerClosed,
        When::Cut,
    ];
    for when in moments {
        let scene = world.connect(when);
        for side in [Side::Client, Side::Backend] {
            frames.extend(of_side(&scene, side));
        }
    }
    frames
}

fn of_side(scene: &Scene, side: Side) -> Vec<Vec<u8>> {
    let data = || scene.from(side, ACK | PSH).payload(b"some odd bytes of data");
    let v4 = scene.vip.is_ipv4();
    let mut packets = vec![
        scene.from(side, SYN),
        scene.from(side, SYN | ACK),
        scene.from(side, ACK),
        data(),
        data().with_options(2),
        data().fragment(0, true),
        data().fragment(2, false),
        scene.from(side, FIN | ACK),
        scene.from(side, RST),
        scene.from(side, ACK).trailer(6),
        scene.from(side, ACK).len(1401),
        scene.from(side, ACK).len(1501),
        data().ttl(1),
        data().between(scene.stranger, scene.vip),
        data().between(scene.client, scene.stranger),
        scene.error(side, if v4 { (3, 4) } else { (2, 0) }, [0, 0, 5, 0], 8),
        scene.error(side, if v4 { (11, 0) } else { (3, 0) }, [0; 4], 25),
        scene.error(side, if v4 { (3, 1) } else { (1, 0) }, [0; 4], 20).with_options(1),
        scene.packet(side, scene.client, scene.vip, Body::Other(17, vec![3; 20])),
    ];
    if !v4 {
        packets.push(data().extensions(&[HOP_BY_HOP, DESTINATION, FRAGMENT, DESTINATION]));
    }
    packets.iter().map(crate::frames::Packet::bytes).collect()
}

/// Values that bounds are tested with.
const EDGES: [u8; 12] = [0, 1, 2, 4, 6, 0x0f, 0x44, 0x45, 0x60, 0x7f, 0x80, 0xff];

fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = seeds[random.below(seeds.len())].clone();
    if random.below(50) == 0 {
        frame = (0..14 + random.below(120)).map(|_| random.next() as u8).collect();
        frame[12..14].copy_from_slice(&random.pick(&[
            [8, 0],
            [0x86, 0xdd],
            [0x81, 0],
            [0x12, 0x34],
        ]));
    }
    for _ in 0..random.below(4) {
        // Headers are where it matters.
        let at = random.below(frame.len().min(120));
        match random.below(8) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = random.next() as u8,
            2 => frame[at] = random.pick(&EDGES),
            3 => frame[at] = frame[at].wrapping_add(random.pick(&[1, 0xff])),
            4 => frame.truncate(at.max(14)),
            5 => frame.extend((0..random.below(40)).map(|_| random.next() as u8)),
            6 => {
                let tag =
                    random.pick(&[[0x81, 0, 0xa0, 0], [0x81, 0, 0x60, 77], [0x88, 0xa8, 0, 9]]);
                frame.splice(12..12, tag);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let len =
                    random.below(16).min(other.len().saturating_sub(at)).min(frame.len() - at);
                if at + len <= other.len() {
                    frame[at..at + len].copy_from_slice(&other[at..at + len]);
                }
            }
        }
    }
    frame
}
