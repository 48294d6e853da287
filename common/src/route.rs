//! Routes: which backends each VIP sends *new* connections to, and how backends and interfaces are reached.
//!
//! One inner table per cluster and generation. The daemon swaps the outer slot with a single update, so a packet sees
//! the old table or the new one, never a mix of both. Flows do not look here; they follow their pin.

use crate::{
    be::{Ipv4Be, Mac, PortBe},
    flow::FlowEntry,
    shared,
};

/// Clusters of one daemon. More are a configuration error.
pub const CLUSTERS_MAX: u32 = 64;
/// Routes of one cluster. More are a configuration error.
pub const ROUTES_MAX: u32 = 32;
/// Backends of one daemon, those included that left the configuration while flows to them live.
pub const BACKENDS_MAX: u32 = 1024;
/// Interfaces of one daemon.
pub const DEVICES_MAX: u32 = 8;
/// SNAT addresses of one backend. A power of two, so that an index is a mask.
pub const SNAT_ADDRESSES_MAX: usize = 8;
/// Slots of a route's choice table. A power of two, so that choosing is a mask; with at most 8 replicas of a pair the
/// share of each is within 2/128 of what its weight asks for.
pub const CHOICE_SLOTS: usize = 128;
/// Slots of the destination filter: 8 bytes each, 32 KiB, so that it stays in a core's cache.
pub const FILTER_SLOTS: u32 = 4096;

/// VIP and port as the client's packet has them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VipKey {
    pub address: Ipv4Be,
    pub port: PortBe,
    pub reserved: [u8; 2],
}

/// Which route a VIP belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VipRoute {
    pub cluster: u16,
    pub route: u16,
}

/// What happens to a new connection on a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum RouteAction {
    /// Forward to a backend of [`Route::choice`].
    Forward = 1,
    /// No backend is fit: answer with RST.
    Refuse = 2,
    /// No backend is fit: drop, so that the client retries (`no_backend = "drop"`).
    Drop = 3,
}

/// Where new connections of one VIP go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    /// Grows by one with each change of the cluster's table; stamped on every flow.
    pub generation: u32,
    /// A [`RouteAction`].
    pub action: u8,
    /// 1 in a slot that a route of the configuration uses.
    pub used: u8,
    /// Index of the active pair in the configuration's order, for reading tables back.
    pub pair: u16,
    /// Backend of each slot; a connection's slot is a hash of its addresses.
    pub choice: [u16; CHOICE_SLOTS],
}

/// How one backend is reached. The first half is all that an established packet reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Backend {
    /// Next hop's address; [`Mac::UNKNOWN`] until the neighbour answered.
    pub next_hop_mac: Mac,
    /// Our own address on the interface towards the backend.
    pub own_mac: Mac,
    /// Kernel index of that interface.
    pub ifindex: u32,
    pub address: Ipv4Be,
    pub port: PortBe,
    /// Used entries of [`Backend::snat_addresses`].
    pub snat_addresses_len: u16,
    /// First port of `snat_ports`.
    pub snat_port_min: u16,
    /// Ports in `snat_ports`, less one (so that 65536 ports fit).
    pub snat_ports_last: u16,
    pub snat_addresses: [Ipv4Be; SNAT_ADDRESSES_MAX],
    pub reserved: [u8; 4],
}

/// Backend by address, for telling a backend's stray packet from somebody else's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendKey {
    pub address: Ipv4Be,
    pub port: PortBe,
    pub reserved: [u8; 2],
}

/// An interface that the program is attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Device {
    pub ifindex: u32,
    pub mac: Mac,
    pub reserved: [u8; 2],
}

/// What does not belong to one cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// [`crate::ABI_VERSION`] of the daemon that made the maps.
    pub abi_version: u32,
    /// RSTs that one CPU may send per second.
    pub resets_per_second: u32,
    /// Lowest and highest port of all clusters' `snat_ports`: a packet outside is not a reply of ours.
    pub snat_port_min: u16,
    pub snat_port_max: u16,
    /// `jiffies` per second (CONFIG_HZ of the running kernel).
    pub hz: u32,
}

/// What one CPU remembers between packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scratch {
    /// Where a new connection's entries are made: two of them do not fit the program's stack of 512 bytes.
    pub entry: FlowEntry,
    pub peer: FlowEntry,
    /// Where the search for a free SNAT port continues. Grows by one per connection, so a port rests as
    /// long as possible.
    pub port_cursor: u32,
    /// RSTs left in the second of `resets_at`.
    pub resets_left: u32,
    /// Low half of `jiffies64` when `resets_left` was filled.
    pub resets_at: u32,
    pub reserved: u32,
}

shared! {
    VipKey: 8, 1;
    VipRoute: 4, 2;
    Route: 8 + 2 * CHOICE_SLOTS, 4;
    Backend: 64, 4;
    BackendKey: 8, 1;
    Device: 12, 4;
    Settings: 16, 4;
    Scratch: 144, 8;
}

/// Bit of a filter slot: some VIP has an address of this slot.
pub const FILTER_VIP: u64 = 1;
/// Bit of a filter slot: some SNAT address is of this slot.
pub const FILTER_SNAT: u64 = 2;

/// The filter slot of a destination address.
///
/// A slot that is not marked proves that a packet is not ours without a hash lookup; a marked one proves nothing.
#[inline(always)]
pub const fn filter_slot(address: Ipv4Be) -> u32 {
    // Fibonacci hashing: the top 12 bits of a multiplication by 2^32 over the golden ratio.
    (u32::from_ne_bytes(address.0).wrapping_mul(0x9e37_79b9) >> 20) % FILTER_SLOTS
}

/// The choice slot of a connection: stable for its addresses.
#[inline(always)]
pub const fn choice_slot(client: Ipv4Be, client_port: PortBe) -> u32 {
    let port = client_port.host() as u32;
    scramble(u32::from_ne_bytes(client.0) ^ (port << 16 | port)) % CHOICE_SLOTS as u32
}

/// Spreads a number over all 32 bits: the finalizer of MurmurHash3.
#[inline(always)]
pub const fn scramble(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

impl Default for Route {
    fn default() -> Self {
        Self {
            generation: 0,
            action: RouteAction::Refuse as u8,
            used: 0,
            pair: 0,
            choice: [0; CHOICE_SLOTS],
        }
    }
}
