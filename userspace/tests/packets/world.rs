//! The networks that cases are run in: address family, forwarding mode, VLANs, one arm or two; and what a forwarded packet looks
//! like in each of them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pairflip::dataplane::{BackendPath, Choice, ClientNetwork, Denial, RouteChange, RouteTarget};
use pairflip_common::{
    be::PortBe,
    flow::Forwarding,
    names,
    route::{Device, VipRoute},
};

use crate::{
    bench::{ACK, Action, Bench, CLIENT_MAC, FIN, LOOPBACK, OWN_MAC, SYN},
    frames::{Body, Packet, Quote, Tag},
    scene::{CLIENT_FIRST, SERVER_FIRST, Scene, Side, When},
    vlans::{VLANS, Vlans, retagged},
};

/// Where the other arm is.
const ELSEWHERE: u32 = 2;
pub(crate) const BACKEND_OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
/// Apart, so that a packet that is measured by the wrong one shows.
pub(crate) const CLIENT_MTU: usize = 1400;
pub(crate) const BACKEND_MTU: usize = 1500;
pub(crate) const SNAT_PORTS: (u16, u16) = (32_768, 60_998);
/// A port of the data plane's that no flow gets: a stray must not meet one by chance.
pub(crate) const STRAY_PORT: u16 = SNAT_PORTS.1 + 1;
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

/// The program with one VIP and one backend in one of the networks. Connections of the cases share it, each from a port of its own.
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) family: Family,
    pub(crate) forwarding: Forwarding,
    pub(crate) arms: Arms,
    pub(crate) vlans: &'static Vlans,
    /// Of the clients' network and of the way to the backends.
    mtus: [usize; 2],
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
        let mut bench = Bench::bare((SNAT_PORTS.0, STRAY_PORT), flows_max, 8192);
        bench.dataplane.set_features(forwarding == Forwarding::Dnat, false).unwrap();
        let mut world = Self {
            bench,
            family,
            forwarding,
            arms: Arms::One,
            vlans: &VLANS[0],
            mtus: [CLIENT_MTU, BACKEND_MTU],
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

    /// Makes both networks take packets of this length.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.mtus = [mtu; 2];
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

    /// Another VIP of the same route, once [`World::add_second_vip`] made it one.
    pub(crate) fn second_vip(&self) -> SocketAddr {
        SocketAddr::new(self.address("10.0.0.101", "2001:db8::101"), 3306)
    }

    pub(crate) fn add_second_vip(&mut self) {
        let vip = self.second_vip();
        self.bench.dataplane.add_vip(vip, ROUTE).unwrap();
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
            mtu: self.mtus[0] as u32,
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
        let path = BackendPath { ifindex, next_hop_mac, snat_ports, ..self.path(self.backend()) };
        self.bench.dataplane.set_backend(0, &path).unwrap();
    }

    /// The way to a backend as usual.
    pub(crate) fn path(&self, address: SocketAddr) -> BackendPath {
        BackendPath {
            address,
            forwarding: self.forwarding,
            ifindex: self.backend_ifindex(),
            own_mac: BACKEND_OWN_MAC,
            next_hop_mac: Some(BACKEND_MAC),
            tags: self.vlans.networks[1].to_vec(),
            mtu: self.mtus[1] as u32,
            snat_addresses: if self.forwarding == Forwarding::Snat {
                vec![self.snat()]
            } else {
                Vec::new()
            },
            snat_ports: SNAT_PORTS,
        }
    }

    pub(crate) fn set_route(&mut self, target: RouteTarget, restricted: bool, deny: Denial) {
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
        self.connect_from(client, self.vip(), when)
    }

    /// The same for a given client and VIP.
    pub(crate) fn connect_from(
        &mut self,
        client: SocketAddr,
        vip: SocketAddr,
        when: When,
    ) -> Scene {
        let backend = self.backend();
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
                let fin = scene.from(side, ACK | FIN);
                self.run_from(side, &fin);
                match side {
                    Side::Client => scene.c += 1,
                    Side::Backend => scene.s += 1,
                }
            }
        }
        if when == When::Cut {
            let port = PortBe::new(scene.source.port());
            let ended =
                self.bench.dataplane.end_flows(|_, entry| entry.rewrite.src_port == port).unwrap();
            assert_eq!(ended.len(), 1, "{self}");
        }
        scene
    }

    /// Reads off a SYN that was sent on what was up to the program: the port that it chose.
    pub(crate) fn learn(&self, scene: &mut Scene, frame: &[u8]) {
        match self.forwarding {
            Forwarding::Snat => {
                let port = source_port(frame);
                assert!((SNAT_PORTS.0..=SNAT_PORTS.1).contains(&port), "{self}: {port}");
                scene.source = SocketAddr::new(self.snat(), port);
            }
            Forwarding::Dnat => scene.source.set_port(source_port(frame)),
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

fn source_port(frame: &[u8]) -> u16 {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP header")
    };
    tcp.source_port()
}
