//! What is counted apart for each backend and each route. One of these per CPU.

use crate::{
    counter::Counter,
    route::{CLUSTERS_MAX, ROUTES_MAX, VipRoute},
    shared,
};

/// What a backend was sent and what it sent; in `dsr` the latter does not pass here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Connections that were opened towards it.
    pub connections: u64,
    pub client_packets: u64,
    /// Ethernet header included.
    pub client_bytes: u64,
    pub server_packets: u64,
    pub server_bytes: u64,
}

impl Traffic {
    /// Adds what another CPU counted.
    pub const fn add(self, other: &Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            client_packets: self.client_packets + other.client_packets,
            client_bytes: self.client_bytes + other.client_bytes,
            server_packets: self.server_packets + other.server_packets,
            server_bytes: self.server_bytes + other.server_bytes,
        }
    }
}

/// New connections of a route by [`Outcome`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Openings(pub [u64; Outcome::ALL.len()]);

/// Entries of the table of [`Openings`].
pub const OPENINGS_MAX: u32 = CLUSTERS_MAX * ROUTES_MAX;

/// Where a route's [`Openings`] are.
#[inline(always)]
pub const fn openings_index(route: VipRoute) -> u32 {
    route.cluster as u32 * ROUTES_MAX + route.route as u32
}

/// What became of a SYN that no flow knew.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Outcome {
    /// It was sent on to a backend.
    Opened,
    /// No backend was fit.
    NoBackend,
    /// The client is in none of the allowed networks.
    Denied,
    /// The route was paused.
    Paused,
    /// No port was free.
    PortsExhausted,
    /// The backend's neighbour had not answered.
    NextHopUnknown,
    /// What [`Counter`] counts as `drop_simultaneous`, `drop_wrong_side` or `drop_internal`.
    Other,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Opened,
        Self::NoBackend,
        Self::Denied,
        Self::Paused,
        Self::PortsExhausted,
        Self::NextHopUnknown,
        Self::Other,
    ];

    /// As metrics and the API have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::NoBackend => "no_backend",
            Self::Denied => "denied",
            Self::Paused => "paused",
            Self::PortsExhausted => "ports_exhausted",
            Self::NextHopUnknown => "next_hop_unknown",
            Self::Other => "other",
        }
    }

    /// By the counter of the packet as a whole.
    #[inline(always)]
    pub const fn of(counter: u32) -> Self {
        const OPENED: u32 = Counter::SynForwarded as u32;
        const RESET_NO_BACKEND: u32 = Counter::ResetNoBackend as u32;
        const DROP_NO_BACKEND: u32 = Counter::DropNoBackend as u32;
        const RESET_DENIED: u32 = Counter::ResetDenied as u32;
        const DROP_DENIED: u32 = Counter::DropDenied as u32;
        const PAUSED: u32 = Counter::DropPaused as u32;
        const PORTS: u32 = Counter::ResetPortsExhausted as u32;
        const NEXT_HOP: u32 = Counter::DropNextHopUnknown as u32;
        match counter {
            OPENED => Self::Opened,
            RESET_NO_BACKEND | DROP_NO_BACKEND => Self::NoBackend,
            RESET_DENIED | DROP_DENIED => Self::Denied,
            PAUSED => Self::Paused,
            PORTS => Self::PortsExhausted,
            NEXT_HOP => Self::NextHopUnknown,
            _ => Self::Other,
        }
    }
}

shared! {
    Traffic: 40, 8;
    Openings: 56, 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_numbered_in_order_and_every_one_has_a_counter() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert!(Counter::ALL.iter().any(|counter| Outcome::of(*counter as u32) == *outcome));
        }
    }

    #[test]
    fn routes_of_all_clusters_have_places_of_their_own() {
        let last = VipRoute { cluster: CLUSTERS_MAX as u16 - 1, route: ROUTES_MAX as u16 - 1 };
        assert_eq!(openings_index(last), OPENINGS_MAX - 1);
        assert_eq!(openings_index(VipRoute { cluster: 1, route: 0 }), ROUTES_MAX);
    }
}
