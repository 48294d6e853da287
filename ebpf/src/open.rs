//! New connections: choose a backend, take a port, open both half-open entries, forward the SYN.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_jiffies64, programs::XdpContext};
use pairflip_common::{
    be::{Mac, PortBe},
    counter::Counter,
    flow::{Direction, FlowEntry, FlowKey, FlowState},
    route::{
        Backend, DEVICES_MAX, RouteAction, SNAT_ADDRESSES_MAX, Scratch, VipRoute, choice_slot,
        scramble,
    },
};

use crate::{
    Action, flow,
    ingress::drop,
    maps::{BACKENDS, CLUSTERS, DEVICES, FLOWS, HALF_OPEN, SCRATCH},
    packet::Segment,
    reset,
};

/// Ports tried before `snat_ports` counts as exhausted; a bound for the verifier. The tries after the first are spread over
/// the whole range, so with nine of ten ports in use 32 tries miss a free one in 4 of 100 cases (0.9^31), and with half of
/// them in use never.
const PORT_TRIES: u32 = 32;

#[inline(always)]
pub(crate) fn connection(ctx: &XdpContext, segment: &Segment, vip: VipRoute) -> Action {
    let Some(route) = CLUSTERS.get_value(vip.cluster.into(), &vip.route.into()) else {
        return reset::answer(ctx, segment, Counter::ResetNoBackend);
    };
    if route.action == RouteAction::Drop as u8 {
        return drop(Counter::DropNoBackend);
    }
    if route.action != RouteAction::Forward as u8 {
        return reset::answer(ctx, segment, Counter::ResetNoBackend);
    }
    let slot = choice_slot(segment.key.src, segment.key.src_port) as usize;
    let Some(&id) = route.choice.get(slot) else {
        return drop(Counter::DropInternal);
    };
    let Some(backend) = BACKENDS.get(id.into()) else {
        return drop(Counter::DropInternal);
    };
    if backend.ifindex == 0 || backend.next_hop_mac == Mac::UNKNOWN {
        return drop(Counter::DropNextHopUnknown);
    }
    let (Some(device), Some(scratch)) = (client_device(ctx), SCRATCH.get_ptr_mut(0)) else {
        return drop(Counter::DropInternal);
    };
    // SAFETY: the slot belongs to this CPU, and XDP programs of one CPU do not preempt each other.
    let scratch = unsafe { &mut *scratch };
    let entry = &mut scratch.entry;
    entry.client_mac = segment.ethernet().src;
    entry.client_device = device;
    // SAFETY: the helper has no preconditions.
    entry.last_seen = unsafe { bpf_jiffies64() } as u32;
    entry.seq_next = segment.seq_end();
    entry.ack = 0;
    entry.packets = 0;
    entry.bytes = 0;
    entry.backend = id;
    entry.cluster = vip.cluster;
    entry.generation = route.generation;
    entry.state = FlowState::HalfOpen as u8;
    entry.direction = Direction::Client as u8;
    entry.fin = 0;
    entry.rewrite.dst = backend.address;
    entry.rewrite.dst_port = backend.port;
    if !take_port(segment.key, scratch, backend) {
        return reset::answer(ctx, segment, Counter::ResetPortsExhausted);
    }
    let entry = &mut scratch.entry;
    let borrowed: &FlowEntry = entry;
    if HALF_OPEN.insert(segment.key, borrowed, BPF_NOEXIST.into()).is_err() {
        // Another CPU opened it with the same client's earlier SYN; the client sends again.
        _ = HALF_OPEN.remove(entry.peer_key());
        return drop(Counter::DropInternal);
    }
    flow::forward(ctx, segment, entry, Counter::SynForwarded)
}

/// Takes a free SNAT port by opening the reply direction's entry, and completes `scratch.entry` with it.
///
/// The insert fails when another half-open connection has the port; flows are looked up after the insert, so that a
/// connection promoted meanwhile is seen in one table or the other.
#[inline(always)]
fn take_port(key: FlowKey, scratch: &mut Scratch, backend: &Backend) -> bool {
    let Scratch { entry, peer, port_cursor: cursor, .. } = scratch;
    peer.client_mac = entry.client_mac;
    peer.client_device = entry.client_device;
    peer.last_seen = entry.last_seen;
    peer.backend = entry.backend;
    peer.cluster = entry.cluster;
    peer.generation = entry.generation;
    peer.state = entry.state;
    peer.direction = Direction::Reply as u8;
    peer.rewrite = key.reversed();
    let ports = u32::from(backend.snat_ports_last) + 1;
    *cursor = cursor.wrapping_add(1);
    for attempt in 0..PORT_TRIES {
        let candidate = candidate(*cursor, attempt);
        let address = (candidate / ports) % u32::from(backend.snat_addresses_len).max(1);
        // A mask, because the verifier does not follow a bound through a division.
        let src = backend.snat_addresses[address as usize & (SNAT_ADDRESSES_MAX - 1)];
        entry.rewrite.src = src;
        entry.rewrite.src_port =
            PortBe::new(backend.snat_port_min.wrapping_add((candidate % ports) as u16));
        let (ip, tcp) = key.deltas(entry.rewrite);
        entry.ip_delta = ip.fold();
        entry.tcp_delta = tcp.fold();
        // The way back undoes the way there: in one's complement the negative of a number is its complement.
        peer.ip_delta = !entry.ip_delta;
        peer.tcp_delta = !entry.tcp_delta;
        let peer_key = entry.peer_key();
        let borrowed: &FlowEntry = peer;
        if HALF_OPEN.insert(peer_key, borrowed, BPF_NOEXIST.into()).is_err() {
            continue;
        }
        if FLOWS.get_ptr(peer_key).is_none() {
            return true;
        }
        _ = HALF_OPEN.remove(peer_key);
    }
    false
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

/// Index of the interface that the packet came in on.
#[inline(always)]
fn client_device(ctx: &XdpContext) -> Option<u16> {
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    (0..DEVICES_MAX)
        .find(|&index| DEVICES.get(index).is_some_and(|device| device.ifindex == ifindex))
        .map(|index| index as u16)
}
