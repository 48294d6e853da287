//! New connections: choose a backend, take a port, open the half-open entries, forward the SYN.

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    programs::XdpContext,
};
use pairflip_common::{
    be::{Address, Mac, PortBe},
    counter::Counter,
    csum::Delta,
    flow::{Direction, FlowEntry, FlowState, Forwarding},
    route::{
        Backend, FILTER_BACKEND, FILTER_VIP, Route, RouteAction, SNAT_ADDRESSES_MAX, Tags,
        VipRoute, choice_slot, scramble,
    },
};

use crate::{
    ethernet::{ETHERNET_LEN, Layer2},
    family::Family,
    ingress::ANY_PORT,
    maps::{BACKENDS, CLUSTERS, SCRATCH, traffic},
    packet::{Ethernet, header},
    verdict::{Code, accept, ignore, refuse},
    work::Bench,
};

/// Ports tried before they count as exhausted; a bound for the verifier. The tries after the first are spread over
/// the whole range, so with nine of ten ports in use 32 tries miss a free one in 4 of 100 cases (0.9^31), and with half of
/// them in use never.
const PORT_TRIES: u32 = 32;

/// Where `dnat` looks when the client's own port is taken: by its connection to another VIP that leads to the same backend. The
/// range that Linux gives to clients by default (`ip_local_port_range`).
const DNAT_PORT_MIN: u16 = 32_768;
const DNAT_PORTS: u32 = 28_232;

/// A new connection, and what it takes to open it: all but numbers is in this CPU's [`crate::work::Work`].
#[derive(Clone, Copy)]
pub(crate) struct Syn<F: Family> {
    pub(crate) bench: Bench<F::Address>,
    pub(crate) l2_len: usize,
    /// Bytes that count of the SYN.
    pub(crate) bytes: u32,
    /// Filter marks of the source address.
    pub(crate) from: u32,
    /// Sequence number behind the SYN.
    pub(crate) seq_end: u32,
    pub(crate) vip: VipRoute,
}

impl<F: Family> Syn<F> {
    #[inline(always)]
    pub(crate) fn open(&self, ctx: &XdpContext) -> Code {
        if u64::from(self.from) & (FILTER_VIP | FILTER_BACKEND) != 0 && self.is_forged(ctx) {
            return ignore(Counter::DropWrongSide);
        }
        let VipRoute { cluster, route } = self.vip;
        let Some(route) = CLUSTERS.get_value(cluster.into(), &route.into()) else {
            return refuse(Counter::ResetNoBackend);
        };
        if let Some(refusal) = self.turn_away(route) {
            return refusal;
        }
        let key = self.bench.key();
        let slot = choice_slot(key.src, key.src_port) as usize;
        let (Some(&id), Some(device), Some(ethernet)) =
            (route.choice.get(slot), self.client_device(ctx), header::<Ethernet>(ctx, 0))
        else {
            return ignore(Counter::DropInternal);
        };
        let Some(backend) = BACKENDS.get(id.into()) else {
            return ignore(Counter::DropInternal);
        };
        if backend.ifindex == 0 || backend.next_hop_mac == Mac::UNKNOWN {
            return ignore(Counter::DropNextHopUnknown);
        }
        let (entry, peer) = self.bench.entries();
        // SAFETY: `header` checked the bounds.
        entry.client_mac.set(unsafe { &(*ethernet).src });
        entry.client_device = device as u16;
        // SAFETY: the helper has no preconditions.
        entry.last_seen = unsafe { bpf_jiffies64() } as u32;
        entry.opened = entry.last_seen;
        entry.seq_next = self.seq_end;
        entry.ack = 0;
        // The entry goes into the table before its SYN is sent on, so the SYN is counted here.
        entry.packets = 1;
        entry.generation = route.generation;
        entry.bytes = [self.bytes, 0];
        entry.backend = id;
        entry.cluster = cluster;
        entry.state = FlowState::HalfOpen as u8;
        entry.direction = Direction::Client as u8;
        entry.flags = 0;
        entry.forwarding = route.forwarding;
        if route.forwarding == Forwarding::Dsr as u8 {
            entry.rewrite.set(&key.src, &key.dst, key.src_port, key.dst_port);
            entry.ip_delta = 0;
            entry.tcp_delta = 0;
        } else {
            entry.rewrite.dst.set(&F::Address::from_any(backend.address));
            entry.rewrite.dst_port = backend.port;
            if !self.take_port(entry, peer, backend) {
                return refuse(Counter::ResetPortsExhausted);
            }
        }
        if !F::insert_half_open(key, entry) {
            // Another CPU opened it with the same client's earlier SYN; the client sends again.
            F::remove_half_open(self.bench.peer_key(entry));
            return ignore(Counter::DropSimultaneous);
        }
        if let Some(traffic) = traffic(id) {
            traffic.connections += 1;
        }
        accept(Counter::SynForwarded)
    }

    /// Why the route does not take this client's connection now, and whether its client is told.
    #[inline(always)]
    fn turn_away(&self, route: &Route) -> Option<Code> {
        // SAFETY: the helper has no preconditions.
        if route.paused_until != 0 && unsafe { bpf_ktime_get_ns() } < route.paused_until {
            return Some(ignore(Counter::DropPaused));
        }
        if route.restricted != 0 && !self.bench.is_allowed(self.bench.key().src, self.vip) {
            return Some(if route.deny == RouteAction::Drop as u8 {
                ignore(Counter::DropDenied)
            } else {
                refuse(Counter::ResetDenied)
            });
        }
        if route.action == RouteAction::Drop as u8 {
            return Some(ignore(Counter::DropNoBackend));
        }
        if route.action != RouteAction::Forward as u8 {
            return Some(refuse(Counter::ResetNoBackend));
        }
        None
    }

    /// Whether the source is an address that nobody on this side has: a VIP, or a backend that is reached by another interface.
    #[inline(always)]
    fn is_forged(&self, ctx: &XdpContext) -> bool {
        let src = self.bench.key().src;
        if self.bench.vip(src, ANY_PORT).is_some() {
            return true;
        }
        // SAFETY: `ctx.ctx` is the context that the kernel passed in.
        let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
        let backend = self.bench.backend(src, ANY_PORT).and_then(|id| BACKENDS.get(id));
        backend.is_some_and(|backend| backend.ifindex != 0 && backend.ifindex != ifindex)
    }

    /// Takes a free port by opening the reply direction's entry, and completes both entries with it.
    ///
    /// The insert fails when another half-open connection has the port; flows are looked up after the insert, so that a
    /// connection promoted meanwhile is seen in one table or the other.
    #[inline(always)]
    fn take_port(
        &self,
        entry: &mut FlowEntry<F::Address>,
        peer: &mut FlowEntry<F::Address>,
        backend: &Backend,
    ) -> bool {
        let key = self.bench.key();
        peer.client_mac.set(&entry.client_mac);
        peer.client_device = entry.client_device;
        peer.last_seen = entry.last_seen;
        peer.opened = entry.opened;
        peer.generation = entry.generation;
        peer.backend = entry.backend;
        peer.cluster = entry.cluster;
        peer.state = entry.state;
        peer.forwarding = entry.forwarding;
        peer.direction = Direction::Reply as u8;
        peer.rewrite.set(&key.dst, &key.src, key.dst_port, key.src_port);
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
        // SAFETY: the slot belongs to this CPU, and XDP programs of one CPU do not preempt each other.
        let cursor = unsafe {
            (*scratch).port_cursor = (*scratch).port_cursor.wrapping_add(1);
            (*scratch).port_cursor
        };
        let snat = entry.forwarding == Forwarding::Snat as u8;
        let ports = u32::from(backend.snat_ports_last) + 1;
        let (old_ip, old_tcp) = key.sums();
        let dst_sum = entry.rewrite.dst.sum();
        for attempt in 0..PORT_TRIES {
            let candidate = candidate(cursor, attempt);
            if snat {
                let address = (candidate / ports) % u32::from(backend.snat_addresses_len).max(1);
                // A mask, because the verifier does not follow a bound through a division.
                let src = &backend.snat_addresses[address as usize & (SNAT_ADDRESSES_MAX - 1)];
                entry.rewrite.src.set(&F::Address::from_any(*src));
                entry.rewrite.src_port =
                    PortBe::new(backend.snat_port_min.wrapping_add((candidate % ports) as u16));
            } else {
                entry.rewrite.src.set(&key.src);
                entry.rewrite.src_port = if attempt == 0 {
                    key.src_port
                } else {
                    PortBe::new(DNAT_PORT_MIN + (candidate % DNAT_PORTS) as u16)
                };
            }
            // The difference of `FlowKey::deltas`, without what is the same for every candidate.
            let ip = entry.rewrite.src.sum() + dst_sum;
            let ports_sum =
                u64::from(entry.rewrite.src_port.word()) + u64::from(backend.port.word());
            entry.ip_delta = Delta::between(old_ip, ip).fold();
            entry.tcp_delta = Delta::between(old_tcp, ip + ports_sum).fold();
            // The way back undoes the way there: in one's complement the negative of a number is its complement.
            peer.ip_delta = !entry.ip_delta;
            peer.tcp_delta = !entry.tcp_delta;
            let peer_key = self.bench.peer_key(entry);
            if !F::insert_half_open(peer_key, peer) {
                continue;
            }
            if F::flow(peer_key).is_none() {
                return true;
            }
            F::remove_half_open(peer_key);
        }
        false
    }

    /// Index of the network that the packet came from: a VLAN that the host knows, or the bare interface.
    #[inline(always)]
    fn client_device(&self, ctx: &XdpContext) -> Option<u32> {
        let tags = if self.l2_len == ETHERNET_LEN {
            Tags::NONE
        } else {
            Layer2::read(ctx, self.l2_len)?.network()
        };
        // SAFETY: `ctx.ctx` is the context that the kernel passed in.
        let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
        let bench = self.bench;
        bench.device(ifindex, tags).or_else(|| bench.device(ifindex, Tags::NONE))
    }
}

/// Which port to try: first the one that rested longest, then any. Long-lived connections hold runs of consecutive ports,
/// which a search one by one would have to walk.
#[inline(always)]
fn candidate(cursor: u32, attempt: u32) -> u32 {
    if attempt == 0 {
        cursor
    } else {
        scramble(cursor.wrapping_add(attempt.wrapping_mul(0x9e37_79b9)))
    }
}
