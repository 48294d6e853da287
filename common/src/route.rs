//! Routes: which backends each VIP sends *new* connections to, and how backends and interfaces are reached.
//!
//! One inner table per cluster and generation. The daemon swaps the outer slot with a single update, so a packet sees
//! the old table or the new one, never a mix of both. Flows do not look here; they follow their pin.

use crate::{
    be::{Address, AnyAddress, Mac, PortBe},
    shared,
};

/// Clusters of one daemon. More are a configuration error.
pub const CLUSTERS_MAX: u32 = 64;
/// Routes of one cluster. More are a configuration error.
pub const ROUTES_MAX: u32 = 32;
/// Backends of one daemon, those included that left the configuration while flows to them live.
pub const BACKENDS_MAX: u32 = 1024;
/// Networks on the clients' side of one daemon: interfaces, and VLANs on them.
pub const DEVICES_MAX: u32 = 256;
/// SNAT addresses of one backend. A power of two, so that an index is a mask.
pub const SNAT_ADDRESSES_MAX: usize = 8;
/// Slots of a route's choice table. A power of two, so that choosing is a mask. Each is given to a backend by a hash, so shares are
/// not exact: of four backends of equal weight each has a quarter of them, give or take 14 (one standard deviation).
pub const CHOICE_SLOTS: usize = 1024;
/// Slots of the address filter: 8 bytes each, 32 KiB, so that it stays in a core's cache.
pub const FILTER_SLOTS: u32 = 4096;
/// Allowed networks of all routes of one daemon.
pub const ALLOW_MAX: u32 = 65_536;
/// Flows that are held at a time.
pub const HOLDS_MAX: u32 = 4096;

/// VIP and port as the client's packet has them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VipKey {
    pub address: AnyAddress,
    pub port: PortBe,
    pub reserved: u16,
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
    /// New connections wait until then (`CLOCK_MONOTONIC`, ns); 0 when they do not.
    pub paused_until: u64,
    /// Grows by one with each change of the cluster's table; stamped on every flow.
    pub generation: u32,
    /// Index of the active pair in the configuration's order, for reading tables back.
    pub pair: u16,
    /// A [`RouteAction`].
    pub action: u8,
    /// 1 in a slot that a route of the configuration uses.
    pub used: u8,
    /// A [`crate::flow::Forwarding`].
    pub forwarding: u8,
    /// 1 when only clients in the route's allowed networks may connect.
    pub restricted: u8,
    /// What the others get: [`RouteAction::Refuse`] or [`RouteAction::Drop`].
    pub deny: u8,
    pub reserved: [u8; 5],
    /// Backend of each slot; a connection's slot is a hash of its addresses.
    pub choice: [u16; CHOICE_SLOTS],
}

/// The VLAN tags of a network, outermost first: four bytes for each as the packet has them, protocol and identifier without
/// priority. Unused ones are zero. One number, so that two are compared at once.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tags(u64);

impl Tags {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn new(outer: [u8; 4], inner: [u8; 4]) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (outer, inner);
        Self(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }

    #[inline(always)]
    pub const fn outer(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0.to_ne_bytes();
        [a, b, c, d]
    }

    #[inline(always)]
    pub const fn inner(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0.to_ne_bytes();
        [a, b, c, d]
    }

    /// Bytes that they take in a frame: 0, 4 or 8.
    #[inline(always)]
    pub const fn len(self) -> usize {
        if self.is_empty() {
            0
        } else if self.0 & Self::new([0; 4], [0xff; 4]).0 == 0 {
            4
        } else {
            8
        }
    }

    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Without the priorities that frames of the network carry. A lone tag of identifier 0 is of no network.
    #[inline(always)]
    pub const fn without_priority(self) -> Self {
        let tags = Self(self.0 & Self::new(IDENTIFIER, IDENTIFIER).0);
        if tags.0 & Self::new([0, 0, 0xff, 0xff], [0xff; 4]).0 == 0 { Self::NONE } else { tags }
    }

    /// The priority of the outer tag, for another network's.
    #[inline(always)]
    pub const fn with_priority_of(self, other: Self) -> Self {
        if self.is_empty() {
            return self;
        }
        Self(self.0 | other.0 & Self::new(PRIORITY, [0; 4]).0)
    }
}

/// The bits of a tag that are protocol and identifier, and those that are priority (IEEE 802.1Q, 9.6).
const IDENTIFIER: [u8; 4] = [0xff, 0xff, 0x0f, 0xff];
const PRIORITY: [u8; 4] = [0, 0, 0xf0, 0];

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
    /// VLAN of the next hop.
    pub tags: Tags,
    /// Largest IP packet on this way, bytes.
    pub mtu: u16,
    pub port: PortBe,
    pub address: AnyAddress,
    /// Used entries of [`Backend::snat_addresses`].
    pub snat_addresses_len: u16,
    /// First port of `snat_ports`.
    pub snat_port_min: u16,
    /// Ports in `snat_ports`, less one (so that 65536 ports fit).
    pub snat_ports_last: u16,
    pub reserved: [u8; 14],
    pub snat_addresses: [AnyAddress; SNAT_ADDRESSES_MAX],
}

/// Backend by address, for telling a backend's packet from somebody else's. With port 0: any backend of this address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendKey {
    pub address: AnyAddress,
    pub port: PortBe,
    pub reserved: u16,
}

/// A network on the clients' side: an interface that the program is attached to, or a VLAN on one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Device {
    pub ifindex: u32,
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    pub reserved: u32,
    pub tags: Tags,
}

/// Device by what its frames look like.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NetworkKey {
    pub tags: Tags,
    pub ifindex: u32,
    pub reserved: u32,
}

/// A client's address on a route, for the trie of allowed networks, behind the number of bits that count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AllowKey {
    pub bits: u32,
    pub allow: Allow,
}

/// What the trie compares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Allow {
    /// Native byte order: both count as a whole.
    pub cluster: u16,
    pub route: u16,
    pub address: AnyAddress,
}

impl Allow {
    /// Bits in front of the address; they always count.
    pub const ROUTE_BITS: u32 = 32;
    pub const BITS: u32 = Self::ROUTE_BITS + 128;
}

/// What does not belong to one cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// [`crate::ABI_VERSION`] of the daemon that made the maps.
    pub abi_version: u32,
    /// Answers of our own (RST, ICMP) that one CPU may send per second.
    pub answers_per_second: u32,
    /// Lowest and highest port of all clusters' `snat_ports`: a packet outside is not a reply of ours.
    pub snat_port_min: u16,
    pub snat_port_max: u16,
    /// `jiffies` per second (CONFIG_HZ of the running kernel).
    pub hz: u32,
    /// Low half of `jiffies64` until which some flow may be held; nobody looks for holds after it.
    pub holds_until: u32,
    /// [`FEATURE_DNAT`] and the like.
    pub features: u32,
}

/// Ticks that [`Settings::holds_until`] may be ahead: more than ten seconds, the longest hold, at 1000 per second, the most that Linux is built
/// with. Whatever is further ahead has passed: the counter's low half begins anew after 50 days.
const HOLD_TICKS_MAX: u32 = 1 << 14;

impl Settings {
    /// Whether some flow may be held at this tick.
    #[inline(always)]
    pub const fn may_hold(&self, now: u32) -> bool {
        self.holds_until.wrapping_sub(now).wrapping_sub(1) < HOLD_TICKS_MAX
    }
}

/// Some cluster forwards by [`crate::flow::Forwarding::Dnat`]: packets to clients' own addresses may be ours.
pub const FEATURE_DNAT: u32 = 1;
/// Openings and ends of flows are written to the flow log.
pub const FEATURE_FLOW_LOG: u32 = 2;

/// What one CPU remembers between packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scratch {
    /// Where the search for a free SNAT port continues. Grows by one per connection, so a port rests as
    /// long as possible.
    pub port_cursor: u32,
    /// Answers left in the second of `answers_at`.
    pub answers_left: u32,
    /// Low half of `jiffies64` when `answers_left` was filled.
    pub answers_at: u32,
    /// Lengths of the packet at hand, on their way through memory: what is in front of the IP header, and the IP headers.
    pub l2_len: u32,
    pub headers_len: u32,
}

impl VipKey {
    #[inline(always)]
    pub const fn new(address: AnyAddress, port: PortBe) -> Self {
        Self { address, port, reserved: 0 }
    }
}

impl BackendKey {
    #[inline(always)]
    pub const fn new(address: AnyAddress, port: PortBe) -> Self {
        Self { address, port, reserved: 0 }
    }
}

shared! {
    VipKey: 20, 4;
    VipRoute: 4, 2;
    Route: 24 + 2 * CHOICE_SLOTS, 8;
    Tags: 8, 8;
    Backend: 192, 8;
    BackendKey: 20, 4;
    Device: 24, 8;
    NetworkKey: 16, 8;
    AllowKey: 24, 4;
    Allow: 20, 4;
    Settings: 24, 4;
    Scratch: 20, 4;
}

/// Bit of a filter slot: some VIP has an address of this slot.
pub const FILTER_VIP: u64 = 1;
/// Bit of a filter slot: some SNAT address is of this slot.
pub const FILTER_SNAT: u64 = 2;
/// Bit of a filter slot: some backend has an address of this slot.
pub const FILTER_BACKEND: u64 = 4;
/// Bit of a filter slot: some backend that is reached by [`crate::flow::Forwarding::Dnat`] has an address of this slot.
pub const FILTER_DNAT: u64 = 8;

/// The filter slot of an address.
///
/// A slot that is not marked proves that a packet is not ours without a hash lookup; a marked one proves nothing.
#[inline(always)]
pub fn filter_slot<A: Address>(address: A) -> u32 {
    // Fibonacci hashing: the top 12 bits of a multiplication by 2^32 over the golden ratio.
    (address.word().wrapping_mul(0x9e37_79b9) >> 20) % FILTER_SLOTS
}

/// The choice slot of a connection: stable for its addresses.
#[inline(always)]
pub fn choice_slot<A: Address>(client: A, client_port: PortBe) -> u32 {
    let port = client_port.host() as u32;
    scramble(client.word() ^ (port << 16 | port)) % CHOICE_SLOTS as u32
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
            paused_until: 0,
            generation: 0,
            pair: 0,
            action: RouteAction::Refuse as u8,
            used: 0,
            forwarding: 0,
            restricted: 0,
            deny: RouteAction::Refuse as u8,
            reserved: [0; 5],
            choice: [0; CHOICE_SLOTS],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_that_passed_long_ago_does_not_come_again() {
        let settings = Settings { holds_until: 5, ..Settings::default() };
        assert!(settings.may_hold(4) && settings.may_hold(u32::MAX - 2000));
        // Half of the counter's turn later it looks as if it lay ahead.
        for now in [5, 6, 1000, 1 << 31, u32::MAX / 4 * 3] {
            assert!(!settings.may_hold(now), "{now}");
        }
    }
}
