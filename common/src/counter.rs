//! Why packets were forwarded, passed or dropped: one per-CPU counter each.

/// Declares the counters once: the enum, its size and the names that metrics and `status` show.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What became of a packet. The number is the index into the counters map.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// A packet of an established flow was rewritten and sent.
    Forwarded = "forwarded",
    /// A SYN opened a half-open connection.
    SynForwarded = "syn_forwarded",
    /// A packet of a half-open connection was rewritten and sent.
    HalfOpenForwarded = "half_open_forwarded",
    /// An ICMP error about a flow was translated and sent on.
    IcmpForwarded = "icmp_forwarded",
    /// The handshake completed and the flow moved to the flow table.
    FlowOpened = "flow_opened",
    /// Both sides closed, or one reset, and the entries were removed.
    FlowClosed = "flow_closed",
    /// A half-open connection had been evicted from its table when its next packet came: more are in their handshake than
    /// `half_open_max`.
    HalfOpenEvicted = "half_open_evicted",
    /// The flow log had no room for a line.
    FlowLogLost = "flow_log_lost",

    /// Pass: neither IPv4 nor IPv6, or too short to be.
    PassNotIp = "pass_not_ip",
    /// Pass: neither end is one of our addresses.
    PassNotOurs = "pass_not_ours",
    /// Pass: header lengths that do not fit the packet. The kernel drops it and counts it as its own.
    PassMalformed = "pass_malformed",
    /// Pass: for one of our addresses, but neither TCP nor an ICMP error about a flow.
    PassNotTcp = "pass_not_tcp",
    /// Pass: TCP to a VIP's address on a port that is no route.
    PassNoRoute = "pass_no_route",
    /// Pass: TCP to a SNAT address that is not from a backend, or from a backend to an address that no flow knows.
    PassNotBackend = "pass_not_backend",
    /// Pass: a connection of the host's own that was open inside `snat_ports` at start.
    PassHost = "pass_host",

    /// Drop: a fragment of VIP traffic; without its TCP header it has no flow.
    DropFragment = "drop_fragment",
    /// Drop: TTL or hop limit is used up, and the sender could not be told.
    DropTtl = "drop_ttl",
    /// Drop: larger than the way allows, and the sender could not be told.
    DropTooBig = "drop_too_big",
    /// Drop: the backend's neighbour has no address yet; clients retry.
    DropNextHopUnknown = "drop_next_hop_unknown",
    /// Drop: no backend is fit and the route says `no_backend = "drop"`.
    DropNoBackend = "drop_no_backend",
    /// Drop: the client is in none of the route's `allow` networks and the route says `deny = "drop"`.
    DropDenied = "drop_denied",
    /// Drop: the route is paused; clients retry.
    DropPaused = "drop_paused",
    /// Drop: the flow is held; the client sends again.
    DropHeld = "drop_held",
    /// Drop: claims to come from a VIP, or from a backend on an interface that does not lead there.
    DropWrongSide = "drop_wrong_side",
    /// Drop: two packets opened the same connection at the same time; the client sends the loser again.
    DropSimultaneous = "drop_simultaneous",
    /// Drop: an RST was due but the rate limit is used up, or the packet was itself an RST.
    DropNoReset = "drop_no_reset",
    /// Drop: a map of the program is missing or smaller than the program expects.
    DropInternal = "drop_internal",

    /// RST: no backend is fit for the route.
    ResetNoBackend = "reset_no_backend",
    /// RST: the client is in none of the route's `allow` networks.
    ResetDenied = "reset_denied",
    /// RST: a packet of no known flow.
    ResetUnknownFlow = "reset_unknown_flow",
    /// RST: every port that was tried is in use.
    ResetPortsExhausted = "reset_ports_exhausted",
    /// RST: the flow table is full; established flows live on.
    ResetFlowsFull = "reset_flows_full",
    /// RST: a client of a `dsr` route used the port of an open connection again, and the route leads elsewhere by now.
    ResetPortBusy = "reset_port_busy",

    /// ICMP: the sender was told that the packet's TTL or hop limit is used up.
    IcmpTtl = "icmp_ttl",
    /// ICMP: the sender was told that the packet is larger than the way allows.
    IcmpTooBig = "icmp_too_big",

    /// RST: a late packet of a flow that the daemon had ended.
    ResetEnded = "reset_ended",
    /// Drop: an RST of a flow that the daemon had ended: its sender knows.
    DropEnded = "drop_ended",
}

/// Entries of the counters map, with room for counters of later versions.
pub const COUNTERS_MAX: u32 = 64;

const _: () = assert!(Counter::ALL.len() <= COUNTERS_MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_numbered_in_order_and_named_apart() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert_eq!(Counter::ALL.iter().filter(|c| c.name() == counter.name()).count(), 1);
        }
    }
}
