//! Writing what the program reads: settings, networks, backends, VIPs and route tables.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use aya::{
    maps::{MapError, PerCpuValues, lpm_trie::Key},
    programs::{TestRun, TestRunOptions},
    util::nr_cpus,
};
use pairflip_common::{
    ABI_VERSION,
    be::{AnyAddress, Mac, PortBe},
    flow::{ClockReading, FlowKey, Forwarding},
    names,
    route::{
        ALLOW_MAX, Allow, BACKENDS_MAX, Backend, BackendKey, CLUSTERS_MAX, Device, FEATURE_DNAT,
        FEATURE_FLOW_LOG, FILTER_BACKEND, FILTER_DNAT, FILTER_SNAT, FILTER_VIP, NetworkKey,
        ROUTES_MAX, Route, RouteAction, SNAT_ADDRESSES_MAX, Scratch, Settings, Tags, VipKey,
        VipRoute,
    },
};

use super::{
    Choice, DataPlane, Error, FlowId,
    address::{any, slot, socket, tags},
    choice, route_tables,
    slots::assign,
};

/// Answers of our own (RST, ICMP) that one CPU sends per second: enough to answer the strays of a large cut at once, and with 60 to 118
/// bytes each a reflection of no more than 10 Mbit/s.
const ANSWERS_PER_SECOND: u32 = 10_000;

/// The values that CONFIG_HZ has on Linux (kernel/Kconfig.hz).
const HZ_VALUES: [u32; 4] = [100, 250, 300, 1000];

/// A network on the clients' side: an interface that the program is attached to, or a VLAN on one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientNetwork {
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Protocol and identifier of its VLAN tags, outermost first; at most two.
    pub tags: Vec<(u16, u16)>,
}

/// How a backend is reached, and from which addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendPath {
    pub address: SocketAddr,
    pub forwarding: Forwarding,
    pub ifindex: u32,
    pub own_mac: [u8; 6],
    /// `None` until the neighbour answered.
    pub next_hop_mac: Option<[u8; 6]>,
    /// As [`ClientNetwork::tags`].
    pub tags: Vec<(u16, u16)>,
    /// Largest IP packet on the way, bytes.
    pub mtu: u32,
    pub snat_addresses: Vec<IpAddr>,
    pub snat_ports: (u16, u16),
}

/// What new connections of one VIP meet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteChange {
    pub target: RouteTarget,
    pub forwarding: Forwarding,
    /// Whether only clients in the networks that [`DataPlane::set_allowed`] got may connect.
    pub restricted: bool,
    /// What the others get.
    pub deny: Denial,
}

/// Where new connections go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteTarget {
    /// To one of these; never empty.
    Forward(Vec<Choice>),
    /// Nowhere, and the client gets this.
    Deny(Denial),
}

/// What a client gets whose connection is not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denial {
    /// RST.
    Reset,
    /// Nothing: its kernel tries again.
    Drop,
}

impl Denial {
    fn action(self) -> RouteAction {
        match self {
            Self::Reset => RouteAction::Refuse,
            Self::Drop => RouteAction::Drop,
        }
    }
}

/// A network: address and bits of its prefix.
pub type Network = (IpAddr, u8);

pub(super) fn map_error(map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { map, source }
}

impl DataPlane {
    pub(super) fn init_settings(&mut self) -> Result<(), Error> {
        if self.adopted {
            return Ok(());
        }
        let cpus =
            nr_cpus().map_err(|(_, source)| Error::Read { map: names::SCRATCH, source })? as u32;
        // CPUs start their search for ports apart from each other.
        let cursors: Vec<Scratch> = (0..cpus)
            .map(|cpu| Scratch { port_cursor: cpu * (65_536 / cpus), ..Scratch::default() })
            .collect();
        let values = PerCpuValues::try_from(cursors)
            .map_err(|source| Error::Read { map: names::SCRATCH, source })?;
        self.scratch.set(0, values, 0).map_err(map_error(names::SCRATCH))?;
        let hz = self.measure_hz()?;
        let settings = Settings {
            abi_version: ABI_VERSION,
            answers_per_second: ANSWERS_PER_SECOND,
            // An empty range: nothing is a reply until `set_snat_ports`.
            snat_port_min: u16::MAX,
            snat_port_max: 0,
            hz,
            holds_until: self.clock()?.jiffies as u32,
            features: 0,
        };
        self.set_settings(settings)
    }

    pub(super) fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(map_error(names::SETTINGS))
    }

    pub(super) fn set_settings(&mut self, settings: Settings) -> Result<(), Error> {
        self.settings.set(0, settings, 0).map_err(map_error(names::SETTINGS))
    }

    /// Turns on what costs something per packet: the flow log, and looking for flows in packets between clients and backends.
    pub fn set_features(&mut self, dnat: bool, flow_log: bool) -> Result<(), Error> {
        let mut settings = self.settings()?;
        settings.features = if dnat { FEATURE_DNAT } else { 0 };
        if flow_log {
            settings.features |= FEATURE_FLOW_LOG;
        }
        self.set_settings(settings)
    }

    /// Reads both clocks of the kernel at one moment.
    pub fn clock(&self) -> Result<ClockReading, Error> {
        let program =
            self.test_program(names::PROGRAM_CLOCK).ok_or(Error::Missing(names::PROGRAM_CLOCK))?;
        let input = [0u8; 64];
        let mut output = [0u8; 64];
        program
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(&mut output),
                repeat: 1,
                ..TestRunOptions::new()
            })
            .map_err(|source| Error::Program {
                name: names::PROGRAM_CLOCK,
                source: Box::new(source),
            })?;
        // SAFETY: the reading is plain old data of 16 bytes, and `output` is longer.
        Ok(unsafe { output.as_ptr().cast::<ClockReading>().read_unaligned() })
    }

    /// The kernel does not tell its tick rate; two readings of both clocks do.
    fn measure_hz(&self) -> Result<u32, Error> {
        let before = self.clock()?;
        thread::sleep(Duration::from_millis(100));
        let after = self.clock()?;
        let nanos = (after.monotonic_ns - before.monotonic_ns).max(1);
        let hz = (after.jiffies - before.jiffies) * 1_000_000_000 / nanos;
        Ok(HZ_VALUES.into_iter().min_by_key(|value| u64::from(*value).abs_diff(hz)).unwrap_or(250))
    }

    pub fn hz(&self) -> Result<u32, Error> {
        Ok(self.settings()?.hz.max(1))
    }

    /// Sets the networks that clients' packets come from. Returns the slot of each; that of a known one stays.
    pub fn set_networks(&mut self, networks: &[ClientNetwork]) -> Result<Vec<u16>, Error> {
        let wanted = networks
            .iter()
            .map(|network| Ok((network.ifindex, tags(&network.tags).ok_or(Error::Tags)?)))
            .collect::<Result<Vec<(u32, Tags)>, Error>>()?;
        let existing: Vec<(u16, (u32, Tags))> = self
            .devices
            .iter()
            .enumerate()
            .filter_map(|(slot, device)| {
                let device = device.ok()?;
                Some((slot as u16, (device.ifindex, device.tags)))
            })
            .filter(|(_, (ifindex, _))| *ifindex != 0)
            .collect();
        let slots = assign(&existing, &wanted, self.devices.len() as usize)?;
        for ((slot, network), (ifindex, tags)) in slots.iter().zip(networks).zip(wanted) {
            let device = Device {
                ifindex,
                mac: Mac::new(network.mac),
                mtu: clamp(network.mtu),
                reserved: 0,
                tags,
            };
            self.devices.set(u32::from(*slot), device, 0).map_err(map_error(names::DEVICES))?;
            let key = NetworkKey { tags, ifindex, reserved: 0 };
            self.networks.insert(key, u32::from(*slot), 0).map_err(map_error(names::NETWORKS))?;
        }
        Ok(slots)
    }

    /// Gives every backend its index. A backend that flows of an earlier daemon refer to keeps the one it had.
    pub fn assign_backends(&mut self, wanted: &[SocketAddr]) -> Result<Vec<u16>, Error> {
        let existing: Vec<(u16, SocketAddr)> = self
            .backends
            .iter()
            .enumerate()
            .filter_map(|(slot, backend)| Some((slot as u16, address(&backend.ok()?)?)))
            .collect();
        Ok(assign(&existing, wanted, BACKENDS_MAX as usize)?)
    }

    pub fn set_backend(&mut self, index: u16, path: &BackendPath) -> Result<(), Error> {
        let mut snat_addresses = [AnyAddress::default(); SNAT_ADDRESSES_MAX];
        for (slot, address) in snat_addresses.iter_mut().zip(&path.snat_addresses) {
            *slot = any(*address);
            self.mark_filter(*address, FILTER_SNAT)?;
        }
        let marks = match path.forwarding {
            Forwarding::Dnat => FILTER_BACKEND | FILTER_DNAT,
            Forwarding::Snat | Forwarding::Dsr => FILTER_BACKEND,
        };
        self.mark_filter(path.address.ip(), marks)?;
        let (address, port) = (any(path.address.ip()), PortBe::new(path.address.port()));
        let before = self.backends.get(&u32::from(index), 0).map_err(map_error(names::BACKENDS))?;
        let tags = tags(&path.tags).ok_or(Error::Tags)?;
        let same_server = before.address == address && before.port == port;
        if !same_server {
            self.clear_traffic(index)?;
        }
        // A neighbour that has not answered us yet may well be where it was: flows of an earlier daemon go on.
        let same_way = same_server && before.ifindex == path.ifindex && before.tags == tags;
        let last_known = if same_way { before.next_hop_mac } else { Mac::UNKNOWN };
        let backend = Backend {
            next_hop_mac: path.next_hop_mac.map_or(last_known, Mac::new),
            own_mac: Mac::new(path.own_mac),
            ifindex: path.ifindex,
            tags,
            mtu: clamp(path.mtu),
            port,
            address,
            snat_addresses_len: path.snat_addresses.len().min(SNAT_ADDRESSES_MAX) as u16,
            snat_port_min: path.snat_ports.0,
            snat_ports_last: path.snat_ports.1 - path.snat_ports.0,
            reserved: [0; _],
            snat_addresses,
        };
        self.backends.set(index.into(), backend, 0).map_err(map_error(names::BACKENDS))?;
        for port in [port, PortBe::new(0)] {
            let key = BackendKey::new(address, port);
            self.backend_ids
                .insert(key, u32::from(index), 0)
                .map_err(map_error(names::BACKEND_IDS))?;
        }
        Ok(())
    }

    /// Says which ports of SNAT addresses are the data plane's: the range over all clusters.
    pub fn set_snat_ports(&mut self, min: u16, max: u16) -> Result<(), Error> {
        let mut settings = self.settings()?;
        // Flows of an earlier configuration keep their ports.
        settings.snat_port_min = settings.snat_port_min.min(min);
        settings.snat_port_max = settings.snat_port_max.max(max);
        self.set_settings(settings)
    }

    /// Gives every cluster its slot in the outer table and every VIP its slot in its cluster's table.
    ///
    /// `clusters` lists the VIPs of each cluster. VIPs that left the configuration are removed.
    pub fn assign_vips(
        &mut self,
        clusters: &[Vec<SocketAddr>],
    ) -> Result<Vec<Vec<VipRoute>>, Error> {
        let known: Vec<(SocketAddr, VipRoute)> = self
            .vips
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, _)| key.port.host() != 0)
            .map(|(key, route)| (socket(key.address, key.port), route))
            .collect();
        let existing: Vec<(u16, usize)> = clusters
            .iter()
            .enumerate()
            .filter_map(|(index, vips)| {
                let (_, route) = known.iter().find(|(vip, _)| vips.contains(vip))?;
                Some((route.cluster, index))
            })
            .collect();
        let wanted: Vec<usize> = (0..clusters.len()).collect();
        let cluster_slots = assign(&existing, &wanted, CLUSTERS_MAX as usize)?;
        let mut assigned = Vec::new();
        for (vips, cluster) in clusters.iter().zip(cluster_slots) {
            let existing: Vec<(u16, SocketAddr)> = known
                .iter()
                .filter(|(_, route)| route.cluster == cluster)
                .map(|(vip, route)| (route.route, *vip))
                .collect();
            let routes = assign(&existing, vips, ROUTES_MAX as usize)?;
            assigned.push(routes.into_iter().map(|route| VipRoute { cluster, route }).collect());
        }
        let wanted: Vec<SocketAddr> = clusters.iter().flatten().copied().collect();
        for (vip, _) in known.iter().filter(|(vip, _)| !wanted.contains(vip)) {
            self.remove_vip(*vip)?;
        }
        Ok(assigned)
    }

    fn remove_vip(&mut self, vip: SocketAddr) -> Result<(), Error> {
        self.vips.remove(&vip_key(vip)).map_err(map_error(names::VIPS))?;
        let address_left = self
            .vips
            .keys()
            .filter_map(Result::ok)
            .any(|key| key.address == any(vip.ip()) && key.port.host() != 0);
        if !address_left {
            _ = self.vips.remove(&vip_key(SocketAddr::new(vip.ip(), 0)));
        }
        Ok(())
    }

    /// Makes a VIP known to the program. Before this its packets pass.
    pub fn add_vip(&mut self, vip: SocketAddr, route: VipRoute) -> Result<(), Error> {
        let known = self.vips.get(&vip_key(vip), 0).ok();
        if known != Some(route) {
            self.clear_openings(route)?;
        }
        for key in [vip_key(vip), vip_key(SocketAddr::new(vip.ip(), 0))] {
            self.vips.insert(key, route, 0).map_err(map_error(names::VIPS))?;
        }
        self.mark_filter(vip.ip(), FILTER_VIP)
    }

    /// Marks stay until unload: one too many costs a lookup, one too few loses packets.
    fn mark_filter(&mut self, address: IpAddr, mark: u64) -> Result<(), Error> {
        let slot = slot(address);
        let marks = self.filter.get(&slot, 0).map_err(map_error(names::FILTER))?;
        self.filter.set(slot, marks | mark, 0).map_err(map_error(names::FILTER))
    }

    /// Sets who may connect to the routes that are restricted; networks that are not among them any more are taken out last, so
    /// that nobody who was and is allowed is refused meanwhile.
    pub fn set_allowed(&mut self, allowed: &[(VipRoute, Vec<Network>)]) -> Result<(), Error> {
        let map_error = map_error(names::ALLOW);
        let wanted: Vec<Key<Allow>> = allowed
            .iter()
            .flat_map(|(route, networks)| {
                networks.iter().map(|network| allow_key(*route, *network))
            })
            .collect();
        if wanted.len() > ALLOW_MAX as usize {
            return Err(Error::TooManyNetworks { wanted: wanted.len() });
        }
        for key in &wanted {
            self.allow.insert(key, 1, 0).map_err(&map_error)?;
        }
        let known: Vec<Key<Allow>> =
            self.allow.keys().collect::<Result<_, _>>().map_err(&map_error)?;
        let bits = |key: &Key<Allow>| (key.prefix_len(), key.data());
        for key in known {
            if !wanted.iter().any(|wanted| bits(wanted) == bits(&key)) {
                self.allow.remove(&key).map_err(&map_error)?;
            }
        }
        Ok(())
    }

    /// Replaces a cluster's whole route table with one update. Pauses stay.
    ///
    /// When this returns, the kernel has waited for every program that was running with the old table
    /// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), so no new flow can use it.
    pub fn swap_routes(
        &mut self,
        cluster: u16,
        generation: u32,
        pair: u16,
        routes: &BTreeMap<u16, RouteChange>,
    ) -> Result<(), Error> {
        let before = self.routes(cluster)?.unwrap_or_default();
        let after = routes
            .iter()
            .map(|(slot, change)| {
                let (action, choice) = match &change.target {
                    RouteTarget::Forward(backends) => (RouteAction::Forward, choice(backends)),
                    RouteTarget::Deny(denial) => (denial.action(), [0; _]),
                };
                let route = Route {
                    paused_until: before.get(slot).map_or(0, |before| before.paused_until),
                    generation,
                    pair,
                    action: action as u8,
                    used: 1,
                    forwarding: change.forwarding as u8,
                    restricted: change.restricted.into(),
                    deny: change.deny.action() as u8,
                    reserved: [0; _],
                    choice,
                };
                (*slot, route)
            })
            .collect();
        self.write_routes(cluster, &after)
    }

    pub(super) fn write_routes(
        &mut self,
        cluster: u16,
        routes: &BTreeMap<u16, Route>,
    ) -> Result<(), Error> {
        let map_error = map_error(names::CLUSTERS);
        let mut table = route_tables::new_table().map_err(&map_error)?;
        for (slot, route) in routes {
            table.set(u32::from(*slot), route, 0).map_err(&map_error)?;
        }
        self.clusters.set(cluster.into(), &table, 0).map_err(&map_error)
    }

    /// Reads a cluster's route table back; `None` when it never had one.
    pub fn routes(&self, cluster: u16) -> Result<Option<BTreeMap<u16, Route>>, Error> {
        let table = match self.clusters.get(&cluster.into(), 0) {
            Ok(table) => table,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(source) => return Err(Error::Map { map: names::CLUSTERS, source }),
        };
        let mut routes = BTreeMap::new();
        for slot in 0..ROUTES_MAX {
            let route = table.get(&slot, 0).map_err(map_error(names::CLUSTERS))?;
            if route.used == 1 {
                routes.insert(slot as u16, route);
            }
        }
        Ok(Some(routes))
    }
}

/// Whether the error says that there is no such key.
pub(super) fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound)
        || matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}

fn vip_key(vip: SocketAddr) -> VipKey {
    VipKey::new(any(vip.ip()), PortBe::new(vip.port()))
}

fn allow_key(route: VipRoute, (address, bits): Network) -> Key<Allow> {
    // IPv4 addresses are mapped: 96 bits more.
    let bits = u32::from(bits) + if address.is_ipv4() { 96 } else { 0 };
    let key = Allow { cluster: route.cluster, route: route.route, address: any(address) };
    Key::new(Allow::ROUTE_BITS + bits, key)
}

/// The key of packets from one address to another.
pub(super) fn key(src: SocketAddr, dst: SocketAddr) -> FlowId {
    FlowKey {
        src: any(src.ip()),
        dst: any(dst.ip()),
        src_port: PortBe::new(src.port()),
        dst_port: PortBe::new(dst.port()),
    }
}

/// An MTU beyond that of the largest IP packet bounds nothing.
fn clamp(mtu: u32) -> u16 {
    mtu.min(u16::MAX.into()) as u16
}

fn address(backend: &Backend) -> Option<SocketAddr> {
    (backend.port.host() != 0).then(|| socket(backend.address, backend.port))
}
