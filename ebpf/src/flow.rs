//! Packets of known flows: forward them, follow the life of their connection.

use aya_ebpf::{
    bindings::xdp_action::XDP_TX,
    helpers::{
        bpf_redirect,
        generated::{bpf_jiffies64, bpf_ktime_get_ns},
    },
    programs::XdpContext,
};
use pairflip_common::{
    be::Mac,
    counter::Counter,
    flow::{Direction, FLAG_FIN, FLAG_SPOKE, FlowEntry, FlowState, Forwarding},
    flow_log::RecordKind,
    route::{RouteAction, choice_slot},
};

use crate::{
    Action,
    ethernet::{self, Hop},
    family::Family,
    ingress::{Next, drop},
    log,
    maps::{BACKENDS, CLUSTERS, DEVICES, HOLDS, SETTINGS, count, count_index, traffic},
    packet::{ACK, FIN, RST, SYN, Segment},
    verdict::{FORGET, NOTHING, Verdict},
};

/// Bytes that may be on their way in one direction. Linux's largest receive buffer by default is 6 MiB (`tcp_rmem`); numbers
/// further apart are not those of one living connection.
const IN_FLIGHT_MAX: u32 = 16 << 20;

/// A packet of a flow in the flow table; `None`: the flow is gone and the packet opens a new connection.
#[inline(always)]
pub(crate) fn known<F: Family>(
    ctx: &XdpContext,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
) -> Option<Verdict<F>> {
    if entry.direction == Direction::Client as u8 {
        if is_held(segment) {
            return Some(Verdict::drop(Counter::DropHeld));
        }
    } else if is_from_elsewhere(ctx, entry) {
        return Some(Verdict::drop(Counter::DropWrongSide));
    }
    let mut verdict = Verdict::forward(entry, Counter::Forwarded);
    if segment.flags & (SYN | FIN | RST) == 0 && entry.state == FlowState::Established as u8 {
        return Some(verdict);
    }
    // A client that reuses its port starts over: the old connection is closing on both sides.
    if segment.flags & (SYN | ACK) == SYN
        && entry.direction == Direction::Client as u8
        && entry.state == FlowState::Closing as u8
    {
        remove(segment, entry, RecordKind::Replaced as u8);
        return None;
    }
    if segment.flags & (SYN | ACK) == SYN
        && entry.forwarding == Forwarding::Dsr as u8
        && leads_elsewhere(segment, entry)
    {
        return Some(Verdict::reset(Counter::ResetPortBusy));
    }
    verdict.then = if entry.forwarding == Forwarding::Dsr as u8 {
        follow_half(segment, entry)
    } else {
        // SAFETY: as in `ingress::decide`.
        F::flow(segment.peer_key(entry))
            .map_or(NOTHING, |peer| follow(segment, entry, unsafe { &mut *peer }))
    };
    Some(verdict)
}

/// Whether a new connection of the flow's client would go to another backend by now. In `dsr` it cannot be seen that the server has ended
/// the old one, so a SYN may be the start of a new one, and must not reach a server that takes none.
#[inline(always)]
fn leads_elsewhere<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>) -> bool {
    let key = segment.key();
    let Some(vip) = segment.bench.vip(key.dst, key.dst_port) else { return true };
    CLUSTERS.get_value(vip.cluster.into(), &vip.route.into()).is_none_or(|route| {
        let slot = choice_slot(key.src, key.src_port) as usize;
        route.action != RouteAction::Forward as u8 || route.choice.get(slot) != Some(&entry.backend)
    })
}

/// Whether the flow's client has to wait. Nobody is held most of the time, and then nothing is looked up.
#[inline(always)]
fn is_held<F: Family>(segment: &Segment<F>) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_jiffies64() } as u32;
    if !settings.may_hold(now) {
        return false;
    }
    // SAFETY: the daemon replaces values as a whole; the helper has no preconditions.
    unsafe { HOLDS.get(segment.bench.any_key()).is_some_and(|until| bpf_ktime_get_ns() < *until) }
}

/// Whether a packet of the reply direction came in where its backend is not.
#[inline(always)]
fn is_from_elsewhere<A>(ctx: &XdpContext, entry: &FlowEntry<A>) -> bool {
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    BACKENDS.get(entry.backend.into()).is_some_and(|backend| backend.ifindex != ifindex)
}

/// Follows FIN and RST. Returns how the connection ended ([`RecordKind`]) when nothing more can come but stray packets.
#[inline(always)]
fn follow<F: Family>(
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    peer: &mut FlowEntry<F::Address>,
) -> u8 {
    if segment.flags & RST != 0 {
        // RFC 5961, section 3.2: the receiver takes an RST only at exactly the number it expects next. Others are
        // forwarded, so that the receiver can challenge them, and change nothing here.
        // What we forwarded last counts only near what the receiver acknowledged: a forged segment may have moved it.
        let ahead = entry.seq_next.wrapping_sub(peer.ack);
        let accepted =
            segment.seq() == peer.ack || (segment.seq() == entry.seq_next && ahead < IN_FLIGHT_MAX);
        if !accepted {
            return NOTHING;
        }
        return if entry.direction == Direction::Client as u8 {
            RecordKind::ResetByClient as u8
        } else {
            RecordKind::ResetByServer as u8
        };
    }
    // A FIN out of the receiver's window is forged: it must not open the flow's place to a SYN.
    if segment.flags & FIN != 0 && segment.seq().wrapping_sub(peer.ack) < IN_FLIGHT_MAX {
        entry.flags |= FLAG_FIN;
        entry.state = FlowState::Closing as u8;
        peer.state = FlowState::Closing as u8;
    }
    let closed = entry.flags & peer.flags & FLAG_FIN != 0
        && segment.flags & FIN == 0
        && segment.ack() == peer.seq_next
        && peer.ack == entry.seq_next;
    if closed { RecordKind::Closed as u8 } else { NOTHING }
}

/// The same where the server's packets do not pass here: a FIN leaves the flow to its timeout.
#[inline(always)]
fn follow_half<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) -> u8 {
    if segment.flags & RST != 0 && segment.seq() == entry.seq_next {
        return RecordKind::ResetByClient as u8;
    }
    // It may have overtaken the data before it, come behind the acknowledgement after it, or be sent again together with data. As above:
    // one that is far off is forged.
    let ahead = segment.seq_end().wrapping_sub(entry.seq_next);
    if segment.flags & (RST | FIN) == FIN && ahead < IN_FLIGHT_MAX {
        entry.flags |= FLAG_FIN;
        entry.state = FlowState::Closing as u8;
    }
    NOTHING
}

#[inline(always)]
pub(crate) fn remove<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>, kind: u8) {
    log::line(segment, entry, kind);
    let peer_key = segment.peer_key(entry);
    F::remove_flow(segment.key());
    F::remove_flow(peer_key);
    count(Counter::FlowClosed);
}

/// A packet of a connection before the end of its handshake.
#[inline(always)]
pub(crate) fn half_open<F: Family>(
    ctx: &XdpContext,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
) -> Next<F> {
    let from_client = entry.direction == Direction::Client as u8;
    if !from_client && is_from_elsewhere(ctx, entry) {
        return Next::Done(Verdict::drop(Counter::DropWrongSide));
    }
    if entry.state == FlowState::Ended as u8 {
        return ended(segment, entry);
    }
    let mut verdict = Verdict::forward(entry, Counter::HalfOpenForwarded);
    // The server takes a client's RST only with the number that it expects (RFC 5961, section 3.2).
    if segment.flags & RST != 0 && (!from_client || segment.seq() == entry.seq_next) {
        verdict.then = FORGET;
    }
    if !from_client {
        return Next::Done(verdict);
    }
    // A retransmitted SYN stays with the first choice, whatever was flipped meanwhile. Another initial number is
    // another connection, of a client that gave the first one up: it must see the current route.
    if segment.flags & (SYN | ACK) == SYN && segment.seq_end() != entry.seq_next {
        forget(segment, entry);
        return Next::NoFlow;
    }
    let mut completes = segment.flags & (SYN | ACK | RST) == ACK;
    if entry.forwarding == Forwarding::Dsr as u8 {
        // The server's number is not known here; its kernel checks it.
        completes = completes && segment.seq() == entry.seq_next;
    } else {
        let Some(peer) = own_peer(segment, entry) else {
            // Another CPU may have moved both to the flow table meanwhile.
            if let Some(flow) = F::flow(segment.key()) {
                return Next::Flow(flow);
            }
            // Evicted under a flood, and its port may belong to another connection by now. A SYN starts over.
            F::remove_half_open(segment.key());
            count(Counter::HalfOpenEvicted);
            return Next::NoFlow;
        };
        completes = completes && peer.packets > 0 && segment.ack() == peer.seq_next;
    }
    if completes { promote(segment, entry) } else { Next::Done(verdict) }
}

/// A late packet of a flow that the daemon ended: whoever sends it missed its RST, because data was on its way, and is told again with the
/// number that the packet names.
#[inline(always)]
fn ended<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) -> Next<F> {
    let from_client = entry.direction == Direction::Client as u8;
    if from_client && segment.flags & (SYN | ACK | RST | FIN) == SYN {
        forget(segment, entry);
        return Next::NoFlow;
    }
    if segment.flags & RST != 0 {
        // In `dsr` the server's challenge goes to the client, whose answer to it is the RST that the server accepts.
        return Next::Done(if entry.forwarding == Forwarding::Dsr as u8 {
            Verdict::forward(entry, Counter::HalfOpenForwarded)
        } else {
            Verdict::drop(Counter::DropEnded)
        });
    }
    // So that the daemon, which says it again, has the right number as well.
    if segment.flags & ACK != 0 && segment.ack().wrapping_sub(entry.ack) as i32 > 0 {
        entry.ack = segment.ack();
    }
    Next::Done(Verdict::reset(Counter::ResetEnded))
}

/// The reply entry of a half-open connection, if it is still that of the client with this key.
#[inline(always)]
fn own_peer<'a, F: Family>(
    segment: &Segment<F>,
    entry: &FlowEntry<F::Address>,
) -> Option<&'a mut FlowEntry<F::Address>> {
    // SAFETY: as in `ingress::decide`.
    let peer = unsafe { &mut *F::half_open(segment.peer_key(entry))? };
    (peer.rewrite.is_reverse_of(segment.key())).then_some(peer)
}

/// The handshake is complete: moves the entries to the flow table.
#[inline(always)]
fn promote<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) -> Next<F> {
    entry.state = FlowState::Established as u8;
    // From here on numbers only move forward.
    entry.ack = segment.ack();
    let inserted = F::insert_flow(segment.key(), entry);
    if inserted {
        if entry.forwarding == Forwarding::Dsr as u8 || promote_peer(segment, entry) {
            count(Counter::FlowOpened);
            log::line(segment, entry, RecordKind::Opened as u8);
        } else {
            F::remove_flow(segment.key());
        }
    }
    // When the insert failed, the table is full, or another CPU was faster and the flow is there: that one still needs the
    // half-open entries.
    let flow = F::flow(segment.key());
    if inserted || flow.is_none() {
        // Flow table first, then out of the half-open table: the port is never without an owner.
        forget(segment, entry);
    }
    flow.map_or_else(|| Next::Done(Verdict::reset(Counter::ResetFlowsFull)), Next::Flow)
}

#[inline(always)]
fn promote_peer<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>) -> bool {
    let Some(peer) = own_peer(segment, entry) else { return false };
    peer.state = FlowState::Established as u8;
    F::insert_flow(segment.peer_key(entry), peer)
}

#[inline(always)]
pub(crate) fn forget<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>) {
    let peer_key = segment.peer_key(entry);
    F::remove_half_open(segment.key());
    F::remove_half_open(peer_key);
}

/// The way on for packets of an entry; an error counts why there is none.
#[inline(always)]
pub(crate) fn hop<A>(entry: &FlowEntry<A>) -> Result<Hop<'_>, Counter> {
    let (Some(backend), Some(device)) =
        (BACKENDS.get(entry.backend.into()), DEVICES.get(entry.client_device.into()))
    else {
        return Err(Counter::DropInternal);
    };
    let hop = if entry.direction == Direction::Client as u8 {
        Hop {
            ifindex: backend.ifindex,
            src: &backend.own_mac,
            dst: &backend.next_hop_mac,
            mtu: backend.mtu,
            from: &device.tags,
            to: &backend.tags,
        }
    } else {
        Hop {
            ifindex: device.ifindex,
            src: &device.mac,
            dst: &entry.client_mac,
            mtu: device.mtu,
            from: &backend.tags,
            to: &device.tags,
        }
    };
    if hop.ifindex == 0 || *hop.dst == Mac::UNKNOWN {
        return Err(Counter::DropNextHopUnknown);
    }
    Ok(hop)
}

/// Rewrites a packet and sends it on its way.
#[inline(always)]
pub(crate) fn forward<F: Family>(
    ctx: &XdpContext,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    counter: u32,
) -> Action {
    if entry.direction == Direction::Client as u8 {
        let mac = segment.ethernet().src;
        if mac != entry.client_mac {
            follow_client(segment, entry, mac);
        }
    }
    // SAFETY: the entry is a map value; what `account` below changes of it is not what the hop refers to.
    let hop = match hop(unsafe { &*core::ptr::from_ref(entry) }) {
        Ok(hop) => hop,
        Err(counter) => return drop(counter),
    };
    let routed = entry.forwarding != Forwarding::Dsr as u8;
    let too_big = segment.place.ip_len > u32::from(hop.mtu);
    if too_big || routed && segment.ttl() <= 1 {
        return F::answer_icmp(ctx, &segment.place, if too_big { hop.mtu.into() } else { 0 });
    }
    account(segment, entry);
    if routed {
        segment.rewrite(entry);
    }
    count_index(counter);
    send::<F>(ctx, &hop, segment.place.l2_len)
}

/// Addresses the frame and sends it. Every pointer into the packet is invalid afterwards.
#[inline(always)]
pub(crate) fn send<F: Family>(ctx: &XdpContext, hop: &Hop<'_>, l2_len: usize) -> Action {
    if ethernet::address(ctx, hop, l2_len, F::ETHERTYPE).is_none() {
        return drop(Counter::DropInternal);
    }
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    if unsafe { (*ctx.ctx).ingress_ifindex } == hop.ifindex {
        return XDP_TX;
    }
    // SAFETY: the helper checks its arguments.
    unsafe { bpf_redirect(hop.ifindex, 0) as u32 }
}

/// The client, or the gateway in front of it, sends from another MAC: replies go there from now on.
#[inline(always)]
fn follow_client<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>, mac: Mac) {
    if entry.forwarding == Forwarding::Dsr as u8 {
        if segment.seq() == entry.seq_next {
            entry.client_mac.set(&mac);
        }
        return;
    }
    let Some(peer) = F::flow(segment.peer_key(entry)) else { return };
    // SAFETY: as in `ingress::decide`.
    let peer = unsafe { &mut *peer };
    // Only a packet that the server may accept moves the flow, a retransmission included; a forged one must not.
    let acked = segment.seq().wrapping_sub(peer.ack);
    let known = entry.seq_next.wrapping_sub(peer.ack);
    if acked <= known && known < IN_FLIGHT_MAX {
        entry.client_mac.set(&mac);
        peer.client_mac.set(&mac);
    }
}

#[inline(always)]
fn count_traffic<A>(entry: &FlowEntry<A>, bytes: u32) {
    let Some(traffic) = traffic(entry.backend) else { return };
    if entry.direction == Direction::Client as u8 {
        traffic.client_packets += 1;
        traffic.client_bytes += u64::from(bytes);
    } else {
        traffic.server_packets += 1;
        traffic.server_bytes += u64::from(bytes);
    }
}

#[inline(always)]
fn account<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) {
    // SAFETY: the helper has no preconditions.
    entry.last_seen = unsafe { bpf_jiffies64() } as u32;
    entry.packets = entry.packets.wrapping_add(1);
    let bytes = segment.place.bytes();
    entry.add_bytes(bytes);
    count_traffic(entry, bytes);
    // Until its handshake is complete, the client's only number is that of its SYN: whoever sends others is not it.
    if entry.state == FlowState::HalfOpen as u8 && entry.direction == Direction::Client as u8 {
        return;
    }
    // Numbers only move forward (RFC 9293, section 3.4: compare modulo 2^32), so a retransmission changes nothing.
    let end = segment.seq_end();
    let mut speaks = false;
    if entry.packets == 1 || end.wrapping_sub(entry.seq_next) as i32 > 0 {
        entry.seq_next = end;
        speaks = segment.payload_len > 0;
    }
    if segment.flags & ACK != 0 {
        let ack = segment.ack();
        if entry.packets == 1 || ack.wrapping_sub(entry.ack) as i32 > 0 {
            entry.ack = ack;
            entry.flags &= !FLAG_SPOKE;
        }
    }
    if speaks {
        entry.flags |= FLAG_SPOKE;
    }
}
