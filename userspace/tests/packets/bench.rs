//! The program with two pairs configured, frames for it, and what comes out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::programs::{TestRun, TestRunOptions};
use etherparse::{PacketBuilder, SlicedPacket, TcpHeader};
use pairflip::dataplane::{
    BackendPath, Choice, ClientNetwork, DataPlane, Denial, Families, LoadOptions, RouteChange,
    RouteTarget, unload,
};
use pairflip_common::{
    flow::Forwarding,
    names,
    route::{Settings, VipRoute},
};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) const CLIENT: SocketAddr = v4([10, 0, 0, 7], 1999);
pub(crate) const VIP_WRITE: SocketAddr = v4([10, 0, 0, 100], 3306);
pub(crate) const VIP_READ: SocketAddr = v4([10, 0, 0, 101], 3306);
pub(crate) const SNAT: IpAddr = v4([10, 0, 1, 2], 0).ip();
pub(crate) const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// What test-run says that packets come in on.
pub(crate) const LOOPBACK: u32 = 1;
const MTU: u32 = 1500;

const fn v4([a, b, c, d]: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Drop,
    Pass,
    Tx,
    Redirect,
}

pub(crate) struct Bench {
    pub(crate) dataplane: DataPlane,
    pub(crate) bpffs: PathBuf,
    ports: (u16, u16),
    flows_max: u32,
    half_open_max: u32,
    /// Of the routes that are written from now on.
    pub(crate) forwarding: Forwarding,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::make((32_768, 60_999), 1024)
    }

    pub(crate) fn with_ports(min: u16, max: u16) -> Self {
        Self::make((min, max), 1024)
    }

    pub(crate) fn with_flows_max(flows_max: u32) -> Self {
        Self::make((32_768, 60_999), flows_max)
    }

    fn make(ports: (u16, u16), flows_max: u32) -> Self {
        let mut bench = Self::bare(ports, flows_max, 512);
        let network = ClientNetwork { ifindex: LOOPBACK, mac: OWN_MAC, mtu: MTU, tags: Vec::new() };
        bench.dataplane.set_networks(&[network]).unwrap();
        for index in 0..2 {
            bench.move_backend(index, LOOPBACK);
        }
        bench.route_all_to(0, 1);
        for (route, vip) in [VIP_WRITE, VIP_READ].into_iter().enumerate() {
            bench.dataplane.add_vip(vip, VipRoute { cluster: 0, route: route as u16 }).unwrap();
        }
        bench
    }

    /// The program without networks, backends and routes.
    pub(crate) fn bare(ports: (u16, u16), flows_max: u32, half_open_max: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let bpffs =
            PathBuf::from(format!("/sys/fs/bpf/pairflip-test-{}-{count}", std::process::id()));
        let dataplane = DataPlane::load(&load_options(&bpffs, flows_max, half_open_max)).unwrap();
        let forwarding = Forwarding::Snat;
        let mut bench = Self { dataplane, bpffs, ports, flows_max, half_open_max, forwarding };
        bench.dataplane.set_snat_ports(ports.0, ports.1).unwrap();
        bench
    }

    pub(crate) fn options(&self) -> LoadOptions {
        load_options(&self.bpffs, self.flows_max, self.half_open_max)
    }

    pub(crate) fn reload(&mut self) {
        self.dataplane = DataPlane::load(&self.options()).unwrap();
    }

    pub(crate) fn backend(&self, index: u16) -> SocketAddr {
        v4([10, 0, 1, 11 + 10 * index as u8], 3306)
    }

    pub(crate) fn backend_mac(&self, index: u16) -> [u8; 6] {
        [2, 0, 0, 0, 1, index as u8]
    }

    pub(crate) fn move_backend(&mut self, index: u16, ifindex: u32) {
        self.set_backend(index, ifindex, Some(self.backend_mac(index)));
    }

    pub(crate) fn forget_next_hop(&mut self, index: u16) {
        // On another interface: what is known of a path stays while only the neighbour is silent.
        self.set_backend(index, 9, None);
    }

    fn set_backend(&mut self, index: u16, ifindex: u32, next_hop_mac: Option<[u8; 6]>) {
        let path = BackendPath {
            address: self.backend(index),
            forwarding: Forwarding::Snat,
            ifindex,
            own_mac: OWN_MAC,
            next_hop_mac,
            tags: Vec::new(),
            mtu: MTU,
            snat_addresses: vec![SNAT],
            snat_ports: self.ports,
        };
        self.dataplane.set_backend(index, &path).unwrap();
    }

    pub(crate) fn route_all_to(&mut self, index: u16, generation: u32) {
        let choice = Choice { backend: index, address: self.backend(index), weight: 100 };
        self.swap(index, generation, RouteTarget::Forward(vec![choice]));
    }

    pub(crate) fn refuse_all(&mut self, generation: u32) {
        self.swap(0, generation, RouteTarget::Deny(Denial::Reset));
    }

    pub(crate) fn drop_all(&mut self, generation: u32) {
        self.swap(0, generation, RouteTarget::Deny(Denial::Drop));
    }

    fn swap(&mut self, pair: u16, generation: u32, target: RouteTarget) {
        let change = RouteChange {
            target,
            forwarding: self.forwarding,
            restricted: false,
            deny: Denial::Reset,
        };
        let routes = BTreeMap::from([(0, change.clone()), (1, change)]);
        self.dataplane.swap_routes(0, generation, pair, &routes).unwrap();
    }

    pub(crate) fn run(&self, frame: &[u8]) -> (Action, Vec<u8>) {
        // An error of the program's own is larger than a small packet.
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..TestRunOptions::new()
        };
        let result = self.dataplane.program().unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        (action, out)
    }

    /// Runs a whole handshake; returns what became of its last packet.
    pub(crate) fn handshake(&self, client: SocketAddr, vip: SocketAddr) -> (Action, Vec<u8>) {
        let (_, syn) = self.run(&Frame::tcp(client, vip).seq(1000).flags(SYN).bytes());
        let syn = Frame::parse(&syn);
        self.run(&Frame::tcp(syn.dst, syn.src).seq(5000).ack(1001).flags(SYN | ACK).bytes());
        self.run(&Frame::tcp(client, vip).seq(1001).ack(5001).flags(ACK).bytes())
    }

    pub(crate) fn establish(&self, client: SocketAddr, vip: SocketAddr) -> Established {
        let (action, ack) = self.handshake(client, vip);
        let ack = Frame::parse(&ack);
        assert_eq!(
            (action, ack.flags),
            (Action::Tx, ACK),
            "the handshake of {client} to {vip} went through"
        );
        Established {
            client,
            vip,
            backend: ack.dst,
            snat: ack.src,
            client_next: 1001,
            server_next: 5001,
        }
    }

    pub(crate) fn flows(&self) -> u64 {
        self.dataplane.flow_counts().unwrap().total
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.dataplane.counters().unwrap().into_iter().find(|(known, _)| *known == name).unwrap().1
    }

    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        self.change_slot(names::SETTINGS, 0, change);
    }

    pub(crate) fn map(&self, name: &str) -> aya::maps::MapData {
        aya::maps::MapData::from_pin(self.bpffs.join(name)).unwrap()
    }

    /// Changes what an array map has at `index`, behind the data plane's back.
    pub(crate) fn change_slot<V: aya::Pod>(
        &self,
        map: &str,
        index: u32,
        change: impl FnOnce(&mut V),
    ) {
        let mut map =
            aya::maps::Array::<_, V>::try_from(aya::maps::Map::Array(self.map(map))).unwrap();
        let mut value = map.get(&index, 0).unwrap();
        change(&mut value);
        map.set(index, value, 0).unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A second panic would hide the first.
        if let Err(error) = unload(&self.bpffs) {
            eprintln!("removing {}: {error}", self.bpffs.display());
        }
    }
}

fn load_options(bpffs: &std::path::Path, flows_max: u32, half_open_max: u32) -> LoadOptions {
    LoadOptions {
        interfaces: Vec::new(),
        mode: None,
        bpffs: bpffs.to_owned(),
        flows_max,
        half_open_max,
        families: Families::BOTH,
        all_programs: false,
    }
}

pub(crate) struct Established {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) snat: SocketAddr,
    pub(crate) client_next: u32,
    pub(crate) server_next: u32,
}

impl Established {
    pub(crate) fn data(&self, payload: &[u8]) -> Vec<u8> {
        Frame::tcp(self.client, self.vip)
            .seq(self.client_next)
            .ack(self.server_next)
            .flags(ACK | PSH)
            .payload(payload)
            .bytes()
    }
}

/// A TCP frame, to be made or as it came out.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) src_mac: [u8; 6],
    pub(crate) dst_mac: [u8; 6],
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) ip_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn tcp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            src,
            dst,
            src_mac: CLIENT_MAC,
            dst_mac: OWN_MAC,
            seq: 0,
            ack: 0,
            flags: 0,
            ttl: 64,
            ip_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn udp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
            .ipv4(octets(src), octets(dst), 64)
            .udp(src.port(), dst.port())
            .write(&mut bytes, b"hello")
            .unwrap();
        bytes
    }

    pub(crate) fn seq(self, seq: u32) -> Self {
        Self { seq, ..self }
    }

    pub(crate) fn ack(self, ack: u32) -> Self {
        Self { ack, ..self }
    }

    pub(crate) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    pub(crate) fn via(self, src_mac: [u8; 6]) -> Self {
        Self { src_mac, ..self }
    }

    pub(crate) fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    pub(crate) fn ip_options(self, options: &[u8]) -> Self {
        Self { ip_options: options.to_vec(), ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), self.seq, 65_000);
        tcp.acknowledgment_number = self.ack;
        tcp.fin = self.flags & FIN != 0;
        tcp.syn = self.flags & SYN != 0;
        tcp.rst = self.flags & RST != 0;
        tcp.psh = self.flags & PSH != 0;
        tcp.ack = self.flags & ACK != 0;
        let mut ip = etherparse::Ipv4Header::new(
            (tcp.header_len() + self.payload.len()) as u16,
            self.ttl,
            etherparse::IpNumber::TCP,
            octets(self.src),
            octets(self.dst),
        )
        .unwrap();
        ip.options = self.ip_options.as_slice().try_into().unwrap();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(self.src_mac, self.dst_mac)
            .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
            .tcp_header(tcp)
            .write(&mut bytes, &self.payload)
            .unwrap();
        bytes
    }

    /// Reads a frame back; fails unless both checksums are right.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        assert!(checksums_are_right(bytes), "bad checksum in {bytes:02x?}");
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = &packet.link else {
            panic!("no Ethernet header")
        };
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 header") };
        let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("no TCP header")
        };
        let header = ip.header();
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        Self {
            src: SocketAddr::new(header.source_addr().into(), tcp.source_port()),
            dst: SocketAddr::new(header.destination_addr().into(), tcp.destination_port()),
            src_mac: ethernet.source(),
            dst_mac: ethernet.destination(),
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            flags: flag(tcp.fin(), FIN)
                | flag(tcp.syn(), SYN)
                | flag(tcp.rst(), RST)
                | flag(tcp.psh(), PSH)
                | flag(tcp.ack(), ACK),
            ttl: header.ttl(),
            ip_options: header.options().to_vec(),
            payload: tcp.payload().to_vec(),
        }
    }
}

fn octets(socket: SocketAddr) -> [u8; 4] {
    match socket.ip() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("{address} in an IPv4 frame"),
    }
}

pub(crate) fn checksums_are_right(bytes: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 header") };
    let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else {
        panic!("no TCP header")
    };
    let header = ip.header();
    header.to_header().calc_header_checksum() == header.header_checksum()
        && tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap() == tcp.checksum()
}
