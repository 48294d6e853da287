//! Every map of the program. Each comment says who writes it, who reads it, and what happens when it is full.
//!
//! Sizes given here are defaults; the daemon sets those of the flow tables from its configuration.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use pairflip_common::{
    be::{AnyAddress, Ipv4Be, Ipv6Be},
    counter::{COUNTERS_MAX, Counter},
    flow::{FlowEntry, FlowKey},
    flow_log::{FlowRecord, RING_BYTES},
    route::{
        ALLOW_MAX, Allow, BACKENDS_MAX, Backend, BackendKey, CLUSTERS_MAX, DEVICES_MAX, Device,
        FILTER_SLOTS, HOLDS_MAX, NetworkKey, ROUTES_MAX, Route, Scratch, Settings, VipKey,
        VipRoute,
    },
    traffic::{OPENINGS_MAX, Openings, Outcome, Traffic, openings_index},
};

use crate::{packet_log, work::Work};

/// Flows past the handshake, two entries each. Written by the program, removed also by the daemon. Full: new
/// connections are refused with RST and counted; entries are never evicted.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey<Ipv4Be>, FlowEntry<Ipv4Be>, { 2 * 262_144 }> =
    HashMap::new();

/// The same for IPv6.
#[btf_map]
pub(crate) static FLOWS6: HashMap<FlowKey<Ipv6Be>, FlowEntry<Ipv6Be>, { 2 * 262_144 }> =
    HashMap::new();

/// Connections before the end of the handshake, two entries each. Written by the program. Full: the least recently
/// used are evicted, which is what a SYN flood does to itself. One list for all CPUs: lists
/// per CPU would leave each a small share of the table, which a burst of honest connections on one CPU exceeds.
#[btf_map]
pub(crate) static HALF_OPEN: LruHashMap<FlowKey<Ipv4Be>, FlowEntry<Ipv4Be>, { 2 * 16_384 }> =
    LruHashMap::new();

/// The same for IPv6.
#[btf_map]
pub(crate) static HALF_OPEN6: LruHashMap<FlowKey<Ipv6Be>, FlowEntry<Ipv6Be>, { 2 * 16_384 }> =
    LruHashMap::new();

/// Flows whose client's packets are dropped, and until when (`CLOCK_MONOTONIC`, ns), by the client's key. Written by the daemon, read while
/// [`Settings::holds_until`] has not passed. Full: no further flow can be held.
#[btf_map]
pub(crate) static HOLDS: HashMap<FlowKey<AnyAddress>, u64, { HOLDS_MAX as usize }> = HashMap::new();

/// Networks that may connect to a route. Written by the daemon; read for new connections of restricted routes.
#[btf_map]
pub(crate) static ALLOW: LpmTrie<Allow, u32, { ALLOW_MAX as usize }> = LpmTrie::new();

/// The route table of each cluster. Written by the daemon, one slot per swap; read for new connections.
#[btf_map]
pub(crate) static CLUSTERS: ArrayOfMaps<
    Array<Route, { ROUTES_MAX as usize }>,
    { CLUSTERS_MAX as usize },
> = ArrayOfMaps::new();

/// VIP to route, and every VIP's address with port 0. Written by the daemon; read for packets of no flow.
#[btf_map]
pub(crate) static VIPS: HashMap<VipKey, VipRoute, { 2 * (CLUSTERS_MAX * ROUTES_MAX) as usize }> =
    HashMap::new();

/// How each backend is reached. Written by the daemon as the network changes; read for every packet to a backend.
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { BACKENDS_MAX as usize }> = Array::new();

/// Backend by address. Written by the daemon; read for packets of no flow.
#[btf_map]
pub(crate) static BACKEND_IDS: HashMap<BackendKey, u32, { BACKENDS_MAX as usize }> = HashMap::new();

/// Interfaces on the clients' side, and VLANs on them. Written by the daemon; read for every packet to a client.
#[btf_map]
pub(crate) static DEVICES: Array<Device, { DEVICES_MAX as usize }> = Array::new();

/// Device by what its frames look like. Written by the daemon; read for new connections.
#[btf_map]
pub(crate) static NETWORKS: HashMap<NetworkKey, u32, { DEVICES_MAX as usize }> = HashMap::new();

/// Which addresses may be ours. Written by the daemon; read for every packet.
#[btf_map]
pub(crate) static FILTER: Array<u64, { FILTER_SLOTS as usize }> = Array::new();

/// One entry. Written by the daemon.
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// Packets by [`Counter`]. Written by the program, read by the daemon.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { COUNTERS_MAX as usize }> = PerCpuArray::new();

/// Packets of each backend, by its index. Written by the program, read by the daemon, which clears the counters of a backend that takes the
/// index of another.
#[btf_map]
pub(crate) static TRAFFIC: PerCpuArray<Traffic, { BACKENDS_MAX as usize }> = PerCpuArray::new();

/// New connections of each route, by [`openings_index`]. Written by the program, read by the daemon.
#[btf_map]
pub(crate) static OPENINGS: PerCpuArray<Openings, { OPENINGS_MAX as usize }> = PerCpuArray::new();

/// One entry per CPU. Written by the program; the daemon sets the first cursor of each CPU.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// One entry per CPU, for one packet. Written by the program.
#[btf_map]
pub(crate) static WORK: PerCpuArray<Work<Ipv4Be>, 1> = PerCpuArray::new();

/// The same for IPv6.
#[btf_map]
pub(crate) static WORK6: PerCpuArray<Work<Ipv6Be>, 1> = PerCpuArray::new();

/// Openings and ends of flows, where [`pairflip_common::route::FEATURE_FLOW_LOG`] asks for them. Read by the daemon. Full: lines are
/// lost and counted.
#[btf_map]
pub(crate) static FLOW_LOG: RingBuf<FlowRecord, RING_BYTES> = RingBuf::new();

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_index(counter as u32);
}

#[inline(always)]
pub(crate) fn count_index(counter: u32) {
    packet_log::counted(counter);
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the slot belongs to this CPU, and XDP programs of one CPU do not preempt each other.
        unsafe { *value += 1 }
    }
}

/// Counts what became of a route's new connection; `counter` is that of its SYN.
#[inline(always)]
pub(crate) fn count_opening(route: VipRoute, counter: u32) {
    if let Some(openings) = OPENINGS.get_ptr_mut(openings_index(route)) {
        // SAFETY: as above.
        if let Some(value) = unsafe { (*openings).0.get_mut(Outcome::of(counter) as usize) } {
            *value += 1;
        }
    }
}

/// This CPU's counters of a backend.
#[inline(always)]
pub(crate) fn traffic<'a>(backend: u16) -> Option<&'a mut Traffic> {
    // SAFETY: as above; they are borrowed for the packet at hand.
    TRAFFIC.get_ptr_mut(backend.into()).map(|traffic| unsafe { &mut *traffic })
}
