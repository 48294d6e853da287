//! Writing what the program reads: settings, interfaces, backends, VIPs and route tables.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    thread,
    time::Duration,
};

use aya::{
    maps::{MapError, PerCpuValues},
    programs::{TestRun, TestRunOptions},
    util::nr_cpus,
};
use pairflip_common::{
    ABI_VERSION,
    be::{Ipv4Be, Mac, PortBe},
    counter::Counter,
    flow::{ClockReading, Direction, FlowEntry, FlowKey},
    names,
    route::{
        BACKENDS_MAX, Backend, BackendKey, CLUSTERS_MAX, Device, FILTER_SLOTS, FILTER_SNAT,
        FILTER_VIP, ROUTES_MAX, Route, RouteAction, SNAT_ADDRESSES_MAX, Scratch, Settings, VipKey,
        VipRoute, filter_slot,
    },
};

use super::{DataPlane, Error, choice, route_tables, slots::assign};

/// RSTs that one CPU sends per second: enough to answer the strays of a large cut at once, and with 60 bytes each a
/// reflection of no more than 5 Mbit/s.
const RESETS_PER_SECOND: u32 = 10_000;

/// Flag of a map update: fail when the key is there (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// The values that CONFIG_HZ has on Linux (kernel/Kconfig.hz).
const HZ_VALUES: [u32; 4] = [100, 250, 300, 1000];

/// How a backend is reached, and from which addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendPath {
    pub address: SocketAddrV4,
    pub ifindex: u32,
    pub own_mac: [u8; 6],
    /// `None` until the neighbour answered.
    pub next_hop_mac: Option<[u8; 6]>,
    pub snat_addresses: Vec<Ipv4Addr>,
    pub snat_ports: (u16, u16),
}

/// What new connections of one VIP meet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteChange {
    Forward(Vec<(u16, SocketAddrV4)>),
    Refuse,
    Drop,
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> Error {
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
            resets_per_second: RESETS_PER_SECOND,
            // An empty range: nothing is a reply until `set_snat_ports`.
            snat_port_min: u16::MAX,
            snat_port_max: 0,
            hz,
        };
        self.settings.set(0, settings, 0).map_err(map_error(names::SETTINGS))
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
        Ok(self.settings.get(&0, 0).map_err(map_error(names::SETTINGS))?.hz.max(1))
    }

    /// Sets the interfaces that clients' packets come in on. Returns the slot of each; that of a known one stays.
    pub fn set_devices(&mut self, devices: &[(u32, [u8; 6])]) -> Result<Vec<u16>, Error> {
        let existing: Vec<(u16, u32)> = self
            .devices
            .iter()
            .enumerate()
            .filter_map(|(slot, device)| Some((slot as u16, device.ok()?.ifindex)))
            .filter(|(_, ifindex)| *ifindex != 0)
            .collect();
        let wanted: Vec<u32> = devices.iter().map(|(ifindex, _)| *ifindex).collect();
        let slots = assign(&existing, &wanted, self.devices.len() as usize)?;
        for (slot, (ifindex, mac)) in slots.iter().zip(devices) {
            let device = Device { ifindex: *ifindex, mac: Mac(*mac), reserved: [0; 2] };
            self.devices.set(u32::from(*slot), device, 0).map_err(map_error(names::DEVICES))?;
        }
        Ok(slots)
    }

    /// Gives every backend its index. A backend that flows of an earlier daemon refer to keeps the one it had.
    pub fn assign_backends(&mut self, wanted: &[SocketAddrV4]) -> Result<Vec<u16>, Error> {
        let existing: Vec<(u16, SocketAddrV4)> = self
            .backends
            .iter()
            .enumerate()
            .filter_map(|(slot, backend)| Some((slot as u16, address(&backend.ok()?)?)))
            .collect();
        Ok(assign(&existing, wanted, BACKENDS_MAX as usize)?)
    }

    pub fn set_backend(&mut self, index: u16, path: &BackendPath) -> Result<(), Error> {
        let mut snat_addresses = [Ipv4Be::default(); SNAT_ADDRESSES_MAX];
        for (slot, address) in snat_addresses.iter_mut().zip(&path.snat_addresses) {
            *slot = Ipv4Be(address.octets());
            self.mark_filter(*address, FILTER_SNAT)?;
        }
        let (address, port) =
            (Ipv4Be(path.address.ip().octets()), PortBe::new(path.address.port()));
        let before = self.backends.get(&u32::from(index), 0).map_err(map_error(names::BACKENDS))?;
        let same_way =
            before.address == address && before.port == port && before.ifindex == path.ifindex;
        // A neighbour that has not answered us yet may well be where it was: flows of an earlier daemon go on.
        let last_known = if same_way { before.next_hop_mac } else { Mac::UNKNOWN };
        let backend = Backend {
            next_hop_mac: path.next_hop_mac.map_or(last_known, Mac),
            own_mac: Mac(path.own_mac),
            ifindex: path.ifindex,
            address,
            port,
            snat_addresses_len: path.snat_addresses.len().min(SNAT_ADDRESSES_MAX) as u16,
            snat_port_min: path.snat_ports.0,
            snat_ports_last: path.snat_ports.1 - path.snat_ports.0,
            snat_addresses,
            reserved: [0; 4],
        };
        self.backends.set(index.into(), backend, 0).map_err(map_error(names::BACKENDS))?;
        let key = BackendKey { address, port, reserved: [0; 2] };
        self.backend_ids.insert(key, u32::from(index), 0).map_err(map_error(names::BACKEND_IDS))
    }

    /// Says which ports of SNAT addresses are the data plane's: the range over all clusters.
    pub fn set_snat_ports(&mut self, min: u16, max: u16) -> Result<(), Error> {
        let mut settings = self.settings.get(&0, 0).map_err(map_error(names::SETTINGS))?;
        // Flows of an earlier configuration keep their ports.
        settings.snat_port_min = settings.snat_port_min.min(min);
        settings.snat_port_max = settings.snat_port_max.max(max);
        self.settings.set(0, settings, 0).map_err(map_error(names::SETTINGS))
    }

    /// Lets the packets of a connection of the host's own pass that is open inside `snat_ports`.
    pub fn protect_host_connection(
        &mut self,
        local: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Result<(), Error> {
        let key = FlowKey {
            src: Ipv4Be(remote.ip().octets()),
            dst: Ipv4Be(local.ip().octets()),
            src_port: PortBe::new(remote.port()),
            dst_port: PortBe::new(local.port()),
        };
        let entry = FlowEntry { direction: Direction::Host as u8, ..FlowEntry::default() };
        match self.flows.insert(key, entry, BPF_NOEXIST) {
            Ok(()) => Ok(()),
            // A flow of ours: the connection is not the host's.
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            Err(source) => Err(Error::Map { map: names::FLOWS, source }),
        }
    }

    /// Gives every cluster its slot in the outer table and every VIP its slot in its cluster's table.
    ///
    /// `clusters` lists the VIPs of each cluster. VIPs that left the configuration are removed.
    pub fn assign_vips(
        &mut self,
        clusters: &[Vec<SocketAddrV4>],
    ) -> Result<Vec<Vec<VipRoute>>, Error> {
        let known: Vec<(SocketAddrV4, VipRoute)> = self
            .vips
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, _)| key.port.host() != 0)
            .map(|(key, route)| (SocketAddrV4::new(key.address.0.into(), key.port.host()), route))
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
            let existing: Vec<(u16, SocketAddrV4)> = known
                .iter()
                .filter(|(_, route)| route.cluster == cluster)
                .map(|(vip, route)| (route.route, *vip))
                .collect();
            let routes = assign(&existing, vips, ROUTES_MAX as usize)?;
            assigned.push(routes.into_iter().map(|route| VipRoute { cluster, route }).collect());
        }
        let wanted: Vec<SocketAddrV4> = clusters.iter().flatten().copied().collect();
        for (vip, _) in known.iter().filter(|(vip, _)| !wanted.contains(vip)) {
            self.remove_vip(*vip)?;
        }
        Ok(assigned)
    }

    fn remove_vip(&mut self, vip: SocketAddrV4) -> Result<(), Error> {
        self.vips.remove(&vip_key(vip)).map_err(map_error(names::VIPS))?;
        let address_left = self
            .vips
            .keys()
            .filter_map(Result::ok)
            .any(|key| key.address.0 == vip.ip().octets() && key.port.host() != 0);
        if !address_left {
            _ = self.vips.remove(&vip_key(SocketAddrV4::new(*vip.ip(), 0)));
        }
        Ok(())
    }

    /// Makes a VIP known to the program. Before this its packets pass.
    pub fn add_vip(&mut self, vip: SocketAddrV4, route: VipRoute) -> Result<(), Error> {
        for key in [vip_key(vip), vip_key(SocketAddrV4::new(*vip.ip(), 0))] {
            self.vips.insert(key, route, 0).map_err(map_error(names::VIPS))?;
        }
        self.mark_filter(*vip.ip(), FILTER_VIP)
    }

    /// Marks stay until unload: one too many costs a lookup, one too few loses packets.
    fn mark_filter(&mut self, address: Ipv4Addr, mark: u64) -> Result<(), Error> {
        let slot = filter_slot(Ipv4Be(address.octets()));
        debug_assert!(slot < FILTER_SLOTS);
        let marks = self.filter.get(&slot, 0).map_err(map_error(names::FILTER))?;
        self.filter.set(slot, marks | mark, 0).map_err(map_error(names::FILTER))
    }

    /// Replaces a cluster's whole route table with one update.
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
        let map_error = map_error(names::CLUSTERS);
        let mut table = route_tables::new_table().map_err(&map_error)?;
        for (slot, change) in routes {
            let (action, choice) = match change {
                RouteChange::Forward(backends) => (RouteAction::Forward, choice(backends)),
                RouteChange::Refuse => (RouteAction::Refuse, [0; _]),
                RouteChange::Drop => (RouteAction::Drop, [0; _]),
            };
            let route = Route { generation, action: action as u8, used: 1, pair, choice };
            table.set(u32::from(*slot), route, 0).map_err(&map_error)?;
        }
        self.clusters.set(cluster.into(), &table, 0).map_err(&map_error)
    }

    /// Reads a cluster's route table back; `None` when it never had one.
    pub fn routes(&self, cluster: u16) -> Result<Option<BTreeMap<u16, Route>>, Error> {
        let table = match self.clusters.get(&cluster.into(), 0) {
            Ok(table) => table,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                return Ok(None);
            }
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

    /// Packets by reason, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values =
                    self.counters.get(&(*counter as u32), 0).map_err(map_error(names::COUNTERS))?;
                Ok((counter.name(), values.iter().sum()))
            })
            .collect()
    }
}

fn vip_key(vip: SocketAddrV4) -> VipKey {
    VipKey { address: Ipv4Be(vip.ip().octets()), port: PortBe::new(vip.port()), reserved: [0; 2] }
}

fn address(backend: &Backend) -> Option<SocketAddrV4> {
    (backend.port.host() != 0)
        .then(|| SocketAddrV4::new(backend.address.0.into(), backend.port.host()))
}
