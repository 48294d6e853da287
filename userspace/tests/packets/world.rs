//! The networks that cases are run in: address family, forwarding mode, VLANs, one arm or two; and what a forwarded packet looks
//! like in each of them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pairflip::dataplane::{
    BackendPath, Choice, ClientNetwork, Denial, FlowId, RouteChange, RouteTarget,
};
use pairflip_common::{
    be::{Address, AnyAddress, Ipv4Be, PortBe},
    flow::{FlowKey, Forwarding},
    names,
    route::{Device, VipRoute},
};

use crate::{
    bench::{ACK, Action, Bench, CLIENT_MAC, LOOPBACK, OWN_MAC, SYN},
    frames::{Body, Icmp, Packet, Quote, Tag, Tcp},
};

/// Where the other arm is.
const ELSEWHERE: u32 = 2;
pub(crate) const BACKEND_OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
/// Apart, so that a packet that is measured by the wrong one shows.
pub(crate) const CLIENT_MTU: usize = 1400;
pub(crate) const BACKEND_MTU: usize = 1500;
pub(crate) const SNAT_PORTS: (u16, u16) = (32_768, 60_999);
const CLUSTER: u16 = 0;
const ROUTE: VipRoute = VipRoute { cluster: CLUSTER, route: 0 };

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arms {
    One,
    Two,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Backend,
}

/// VLANs of both sides.
#[derive(Debug)]
pub(crate) struct Vlans {
    pub(crate) name: &'static str,
    /// What the host knows of the networks.
    pub(crate) networks: [&'static [(u16, u16)]; 2],
    /// What frames have that come from there.
    pub(crate) frames: [&'static [Tag]; 2],
    /// Whether rows that change what the daemon told the program run here, too; that is slow.
    pub(crate) also_told: bool,
}

const fn tag(protocol: u16, id: u16, priority: u8, may_drop: bool) -> Tag {
    Tag { protocol, id, priority, may_drop }
}

/// Customer and service tag.
const C: u16 = 0x8100;
const S: u16 = 0x88a8;

pub(crate) const VLANS: &[Vlans] = &[
    Vlans { name: "untagged", networks: [&[], &[]], frames: [&[], &[]], also_told: true },
    Vlans {
        name: "one VLAN",
        networks: [&[(C, 100)], &[(C, 100)]],
        frames: [&[tag(C, 100, 5, true)], &[tag(C, 100, 2, false)]],
        also_told: false,
    },
    Vlans {
        name: "two VLANs",
        networks: [&[(C, 100)], &[(C, 200)]],
        frames: [&[tag(C, 100, 5, true)], &[tag(C, 200, 2, false)]],
        also_told: true,
    },
    Vlans {
        name: "a VLAN before the clients",
        networks: [&[(C, 100)], &[]],
        frames: [&[tag(C, 100, 7, false)], &[]],
        also_told: false,
    },
    Vlans {
        name: "a VLAN before the backends",
        networks: [&[], &[(C, 0xabc)]],
        frames: [&[], &[tag(C, 0xabc, 3, false)]],
        also_told: false,
    },
    Vlans {
        name: "QinQ",
        networks: [&[(S, 10), (C, 20)], &[(S, 11), (C, 21)]],
        frames: [
            &[tag(S, 10, 6, false), tag(C, 20, 0, false)],
            &[tag(S, 11, 1, true), tag(C, 21, 0, false)],
        ],
        also_told: true,
    },
    Vlans {
        name: "QinQ on one network",
        networks: [&[(S, 10), (C, 20)], &[(S, 10), (C, 20)]],
        frames: [
            &[tag(S, 10, 6, false), tag(C, 20, 4, true)],
            &[tag(S, 10, 1, true), tag(C, 20, 3, false)],
        ],
        also_told: false,
    },
    Vlans {
        name: "QinQ before the clients",
        networks: [&[(S, 10), (C, 20)], &[(C, 200)]],
        frames: [&[tag(S, 10, 6, false), tag(C, 20, 4, false)], &[tag(C, 200, 1, false)]],
        also_told: false,
    },
    Vlans {
        name: "priority tags",
        networks: [&[], &[]],
        frames: [&[tag(C, 0, 5, false)], &[tag(C, 0, 6, false)]],
        also_told: false,
    },
    Vlans {
        name: "priority tags before the clients",
        networks: [&[], &[(C, 200)]],
        frames: [&[tag(C, 0, 5, false)], &[tag(C, 200, 6, false)]],
        also_told: false,
    },
    Vlans {
        name: "a VLAN that the host does not know",
        networks: [&[], &[]],
        frames: [&[tag(C, 77, 5, false)], &[tag(C, 77, 3, false)]],
        also_told: false,
    },
];

/// The program with one VIP and one backend in one of the networks. Connections of the cases share it, each from a port of its own.
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) family: Family,
    pub(crate) forwarding: Forwarding,
    pub(crate) arms: Arms,
    pub(crate) vlans: &'static Vlans,
    generation: u32,
    next_port: u16,
    /// Slot of the clients' network, and the side where packets come from at the moment.
    device: u16,
    facing: Side,
}

/// What is not as usual.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Given {
    Nothing,
    /// The next hop's MAC is not known.
    NextHopUnknown,
    NoBackend(Denial),
    Paused,
    /// The client's flow is held.
    Held,
    /// The client is in none of the allowed networks.
    Denied(Denial),
    /// It is in one.
    Allowed,
    /// The only port is that of another connection.
    PortsExhausted,
    /// Backends are where clients are not, and the packet comes from there.
    BackendElsewhere,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, forwarding, arms, vlans, .. } = self;
        write!(f, "{family:?}, {forwarding:?}, {arms:?} arm(s), {}", vlans.name)
    }
}

/// What came of a packet.
pub(crate) struct Outcome {
    pub(crate) action: Action,
    pub(crate) frame: Vec<u8>,
    /// The counters that grew, and by how much.
    pub(crate) counted: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(family: Family, forwarding: Forwarding, flows_max: u32) -> Self {
        let mut bench = Bench::bare(SNAT_PORTS, flows_max, 8192);
        bench.dataplane.set_features(forwarding == Forwarding::Dnat, false).unwrap();
        let mut world = Self {
            bench,
            family,
            forwarding,
            arms: Arms::One,
            vlans: &VLANS[0],
            generation: 0,
            next_port: 2000,
            device: 0,
            facing: Side::Client,
        };
        world.restore();
        world.open_route();
        let vip = world.vip();
        world.bench.dataplane.add_vip(vip, ROUTE).unwrap();
        world
    }

    /// Goes on in another network.
    pub(crate) fn move_to(&mut self, arms: Arms, vlans: &'static Vlans) {
        (self.arms, self.vlans) = (arms, vlans);
        self.restore();
    }

    fn address(&self, v4: &str, v6: &str) -> IpAddr {
        match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
        .parse()
        .unwrap()
    }

    pub(crate) fn client_address(&self) -> IpAddr {
        self.address("10.0.0.7", "2001:db8::7")
    }

    pub(crate) fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.address("10.0.0.100", "2001:db8::100"), 3306)
    }

    pub(crate) fn backend(&self) -> SocketAddr {
        SocketAddr::new(self.address("10.0.1.11", "2001:db8:1::11"), 3307)
    }

    pub(crate) fn snat(&self) -> IpAddr {
        self.address("10.0.1.2", "2001:db8:1::2")
    }

    /// Somebody between the host and either side.
    pub(crate) fn router(&self) -> IpAddr {
        self.address("198.51.100.9", "2001:db8:99::9")
    }

    pub(crate) fn stranger(&self) -> SocketAddr {
        SocketAddr::new(self.address("203.0.113.5", "2001:db8:77::5"), 3307)
    }

    pub(crate) fn routed(&self) -> bool {
        self.forwarding != Forwarding::Dsr
    }

    /// Networks and backend as usual.
    fn restore(&mut self) {
        let network = ClientNetwork {
            ifindex: LOOPBACK,
            mac: OWN_MAC,
            mtu: CLIENT_MTU as u32,
            tags: self.vlans.networks[0].to_vec(),
        };
        self.set_facing(Side::Client);
        self.device = self.bench.dataplane.set_networks(&[network]).unwrap()[0];
        self.set_backend(self.backend_ifindex(), Some(BACKEND_MAC), SNAT_PORTS);
    }

    fn open_route(&mut self) {
        self.set_route(RouteTarget::Forward(vec![self.choice()]), false, Denial::Reset);
    }

    fn choice(&self) -> Choice {
        Choice { backend: 0, address: self.backend(), weight: 100 }
    }

    fn backend_ifindex(&self) -> u32 {
        if self.arms == Arms::Two { ELSEWHERE } else { LOOPBACK }
    }

    fn set_backend(&mut self, ifindex: u32, next_hop_mac: Option<[u8; 6]>, snat_ports: (u16, u16)) {
        let path = BackendPath {
            address: self.backend(),
            forwarding: self.forwarding,
            ifindex,
            own_mac: BACKEND_OWN_MAC,
            next_hop_mac,
            tags: self.vlans.networks[1].to_vec(),
            mtu: BACKEND_MTU as u32,
            snat_addresses: if self.forwarding == Forwarding::Snat {
                vec![self.snat()]
            } else {
                Vec::new()
            },
            snat_ports,
        };
        self.bench.dataplane.set_backend(0, &path).unwrap();
    }

    fn set_route(&mut self, target: RouteTarget, restricted: bool, deny: Denial) {
        self.generation += 1;
        let change = RouteChange { target, forwarding: self.forwarding, restricted, deny };
        let routes = BTreeMap::from([(ROUTE.route, change)]);
        self.bench.dataplane.swap_routes(CLUSTER, self.generation, 0, &routes).unwrap();
    }

    pub(crate) fn arrange(&mut self, given: Given, scene: &Scene) {
        let forward = RouteTarget::Forward(vec![self.choice()]);
        match given {
            Given::Nothing => {}
            Given::NextHopUnknown => {
                // By another interface: what is known of a path stays while only the neighbour is silent.
                self.set_backend(9, None, SNAT_PORTS);
                self.set_backend(self.backend_ifindex(), None, SNAT_PORTS);
            }
            Given::NoBackend(denial) => {
                self.set_route(RouteTarget::Deny(denial), false, Denial::Reset);
            }
            Given::Paused => {
                self.bench.dataplane.pause(ROUTE, Duration::from_secs(60)).unwrap();
            }
            Given::Held => {
                let id = scene.id();
                self.bench.dataplane.hold(&id, Duration::from_secs(10)).unwrap();
            }
            Given::Denied(denial) => {
                let other = (self.router(), if self.family == Family::V4 { 24 } else { 48 });
                self.bench.dataplane.set_allowed(&[(ROUTE, vec![other])]).unwrap();
                self.set_route(forward, true, denial);
            }
            Given::Allowed => {
                let own = (self.client_address(), if self.family == Family::V4 { 31 } else { 127 });
                self.bench.dataplane.set_allowed(&[(ROUTE, vec![own])]).unwrap();
                self.set_route(forward, true, Denial::Reset);
            }
            Given::PortsExhausted => {
                let port = self.connect(When::Open).source.port();
                self.set_facing(Side::Client);
                self.set_backend(self.backend_ifindex(), Some(BACKEND_MAC), (port, port));
            }
            Given::BackendElsewhere => self.set_facing(Side::Client),
        }
    }

    /// Undoes [`World::arrange`].
    pub(crate) fn take_back(&mut self, given: Given, scene: &Scene) {
        match given {
            Given::Nothing | Given::BackendElsewhere => {}
            Given::NextHopUnknown | Given::PortsExhausted => self.restore(),
            Given::NoBackend(_) | Given::Denied(_) | Given::Allowed => {
                self.open_route();
                self.bench.dataplane.set_allowed(&[]).unwrap();
            }
            Given::Paused => self.bench.dataplane.pause(ROUTE, Duration::ZERO).unwrap(),
            Given::Held => self.bench.dataplane.release(&scene.id()).unwrap(),
        }
    }

    /// Lets packets come from one side. Test-run knows one interface only, so with two arms it is the networks that move.
    pub(crate) fn set_facing(&mut self, side: Side) {
        if self.arms == Arms::Two && self.facing != side {
            self.facing = side;
            let (client, backend) = match side {
                Side::Client => (LOOPBACK, ELSEWHERE),
                Side::Backend => (ELSEWHERE, LOOPBACK),
            };
            self.bench.change_slot(names::DEVICES, self.device.into(), |device: &mut Device| {
                device.ifindex = client;
            });
            self.set_backend(backend, Some(BACKEND_MAC), SNAT_PORTS);
        }
    }

    pub(crate) fn run_from(&mut self, side: Side, packet: &Packet) -> Outcome {
        self.set_facing(side);
        self.run(&packet.bytes())
    }

    pub(crate) fn run(&self, frame: &[u8]) -> Outcome {
        let before = self.bench.dataplane.counters().unwrap();
        let (action, frame) = self.bench.run(frame);
        let after = self.bench.dataplane.counters().unwrap();
        let counted = before
            .into_iter()
            .zip(after)
            .map(|((name, before), (_, after))| (name, after - before))
            .filter(|(_, grown)| *grown > 0)
            .collect();
        Outcome { action, frame, counted }
    }

    /// Whether packets of the way to the other side leave by the interface that they came in on.
    pub(crate) fn leaves_as(&self) -> Action {
        match self.arms {
            Arms::One => Action::Tx,
            Arms::Two => Action::Redirect,
        }
    }

    /// A connection of a client of its own, as far as `when` says.
    pub(crate) fn connect(&mut self, when: When) -> Scene {
        self.next_port += 1;
        let client = SocketAddr::new(self.client_address(), self.next_port);
        let (vip, backend) = (self.vip(), self.backend());
        let mut scene = Scene {
            client,
            vip,
            source: client,
            backend,
            router: self.router(),
            stranger: self.stranger(),
            snat: self.snat(),
            c: CLIENT_FIRST,
            s: SERVER_FIRST,
            macs: [CLIENT_MAC, BACKEND_MAC],
            tags: self.vlans.frames.map(<[Tag]>::to_vec),
        };
        if when == When::Fresh {
            return scene;
        }
        let syn = self.run_from(Side::Client, &scene.client(SYN));
        assert_eq!(syn.action, self.leaves_as(), "{self}: a SYN goes through");
        scene.c += 1;
        self.learn(&mut scene, &syn.frame);
        if when == When::HalfOpen {
            return scene;
        }
        if self.routed() {
            self.run_from(Side::Backend, &scene.server(SYN | ACK));
        }
        scene.s += 1;
        if when == When::Answered {
            return scene;
        }
        self.run_from(Side::Client, &scene.client(ACK));
        for (side, closes) in
            [(Side::Client, when.client_closed()), (Side::Backend, when.server_closed())]
        {
            if closes {
                let fin = scene.from(side, ACK | crate::bench::FIN);
                self.run_from(side, &fin);
                match side {
                    Side::Client => scene.c += 1,
                    Side::Backend => scene.s += 1,
                }
            }
        }
        scene
    }

    /// Reads off a SYN that was sent on what was up to the program: the port that it chose.
    pub(crate) fn learn(&self, scene: &mut Scene, frame: &[u8]) {
        match self.forwarding {
            Forwarding::Snat => {
                let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
                if let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport {
                    assert!((SNAT_PORTS.0..=SNAT_PORTS.1).contains(&tcp.source_port()), "{self}");
                    scene.source = SocketAddr::new(self.snat(), tcp.source_port());
                }
            }
            Forwarding::Dnat => {}
            Forwarding::Dsr => scene.backend = scene.vip,
        }
    }

    /// What a packet must look like when it is sent on to the other side: nothing else may change.
    pub(crate) fn forwarded(&self, from: Side, scene: &Scene, packet: &Packet) -> Packet {
        let mut out = packet.clone();
        let (own, next, networks) = match from {
            Side::Client => (BACKEND_OWN_MAC, BACKEND_MAC, [0, 1]),
            Side::Backend => (OWN_MAC, CLIENT_MAC, [1, 0]),
        };
        (out.src_mac, out.dst_mac) = (own, next);
        let [came, goes] = networks.map(|network| self.vlans.networks[network]);
        out.tags = retagged(&packet.tags, came, goes);
        if !self.routed() {
            return out;
        }
        out.ttl -= 1;
        let (src, dst) = scene.beyond(from);
        match &mut out.body {
            Body::Tcp(_) => (out.src, out.dst) = (src, dst),
            Body::Icmp(icmp) => {
                out.dst = dst;
                // A router's address may stay where the receiver knows the other end by its own.
                if self.forwarding == Forwarding::Snat || from == Side::Backend {
                    out.src = src;
                }
                if let Quote::Packet(quoted, _) = &mut icmp.quote {
                    (quoted.src, quoted.dst) = (dst, src);
                }
            }
            Body::Other(..) => {}
        }
        out
    }
}

/// Tags of a network that the host knows are replaced, others stay; the priority is the packet's.
fn retagged(tags: &[Tag], came: &[(u16, u16)], goes: &[(u16, u16)]) -> Vec<Tag> {
    let mut network: Vec<(u16, u16)> = tags.iter().map(|tag| (tag.protocol, tag.id)).collect();
    if matches!(network[..], [(_, 0)]) {
        network.clear();
    }
    if network != came || came == goes {
        return tags.to_vec();
    }
    let first = tags.first().copied();
    goes.iter()
        .enumerate()
        .map(|(depth, (protocol, id))| Tag {
            protocol: *protocol,
            id: *id,
            priority: first.filter(|_| depth == 0).map_or(0, |first| first.priority),
            may_drop: first.filter(|_| depth == 0).is_some_and(|first| first.may_drop),
        })
        .collect()
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    /// Nothing was sent.
    Fresh,
    HalfOpen,
    /// The server's SYN went through; in `dsr` it is not seen.
    Answered,
    Open,
    ClientClosed,
    ServerClosed,
    BothClosed,
}

impl When {
    fn client_closed(self) -> bool {
        matches!(self, Self::ClientClosed | Self::BothClosed)
    }

    fn server_closed(self) -> bool {
        matches!(self, Self::ServerClosed | Self::BothClosed)
    }
}

const CLIENT_FIRST: u32 = 1000;
const SERVER_FIRST: u32 = 5000;

/// A connection, and the packets that its ends send next.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    /// The client as the backend sees it.
    pub(crate) source: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) router: IpAddr,
    pub(crate) stranger: SocketAddr,
    pub(crate) snat: IpAddr,
    /// Next sequence number of client and server.
    pub(crate) c: u32,
    pub(crate) s: u32,
    macs: [[u8; 6]; 2],
    tags: [Vec<Tag>; 2],
}

impl Scene {
    /// Ends of packets on the far side of those that come `from` one.
    fn beyond(&self, from: Side) -> (SocketAddr, SocketAddr) {
        match from {
            Side::Client => (self.source, self.backend),
            Side::Backend => (self.vip, self.client),
        }
    }

    pub(crate) fn packet(
        &self,
        from: Side,
        src: SocketAddr,
        dst: SocketAddr,
        body: Body,
    ) -> Packet {
        let mut packet = Packet::new(src, dst, body);
        packet.src_mac = self.macs[from as usize];
        packet.dst_mac = match from {
            Side::Client => OWN_MAC,
            Side::Backend => BACKEND_OWN_MAC,
        };
        packet.tags.clone_from(&self.tags[from as usize]);
        packet
    }

    pub(crate) fn from(&self, side: Side, flags: u8) -> Packet {
        let (src, dst, seq, ack) = match side {
            Side::Client => (self.client, self.vip, self.c, self.s),
            Side::Backend => (self.backend, self.source, self.s, self.c),
        };
        let ack = if flags & ACK == 0 { 0 } else { ack };
        let tcp = Tcp { seq, ack, flags, window: 4321, ..Tcp::default() };
        self.packet(side, src, dst, Body::Tcp(tcp))
    }

    pub(crate) fn client(&self, flags: u8) -> Packet {
        self.from(Side::Client, flags)
    }

    pub(crate) fn server(&self, flags: u8) -> Packet {
        self.from(Side::Backend, flags)
    }

    /// An error that came `from` one side, about a packet that we sent there, of which it quotes so much of TCP.
    pub(crate) fn error(
        &self,
        from: Side,
        (kind, code): (u8, u8),
        rest: [u8; 4],
        tcp_len: usize,
    ) -> Packet {
        let (other, data) = match from {
            Side::Client => (Side::Backend, b"a row"),
            Side::Backend => (Side::Client, b"query"),
        };
        let (to, dst) = match from {
            Side::Client => ((self.vip, self.client), self.vip),
            Side::Backend => ((self.source, self.backend), self.source),
        };
        let quoted = self.from(other, ACK).payload(data).between(to.0, to.1).ttl(3);
        let quote = Quote::Packet(Box::new(quoted), tcp_len);
        let src = SocketAddr::new(self.router, 0);
        self.packet(from, src, dst, Body::Icmp(Icmp { kind, code, rest, quote }))
    }

    fn id(&self) -> FlowId {
        FlowKey {
            src: any(self.client.ip()),
            dst: any(self.vip.ip()),
            src_port: PortBe::new(self.client.port()),
            dst_port: PortBe::new(self.vip.port()),
        }
    }
}

fn any(address: IpAddr) -> AnyAddress {
    match address {
        IpAddr::V4(address) => Ipv4Be::new(address.octets()).any(),
        IpAddr::V6(address) => AnyAddress::new(address.octets()),
    }
}
