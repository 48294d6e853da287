//! Packets of known flows: forward them, follow the life of their connection.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, xdp_action::XDP_TX},
    helpers::{bpf_redirect, generated::bpf_jiffies64},
    programs::XdpContext,
};
use pairflip_common::{
    be::Mac,
    counter::Counter,
    flow::{Direction, FlowEntry, FlowKey, FlowState},
};

use crate::{
    Action,
    ingress::{Next, drop},
    maps::{BACKENDS, DEVICES, FLOWS, HALF_OPEN, count},
    packet::{ACK, FIN, RST, SYN, Segment},
    reset,
};

/// Bytes that may be on their way in one direction. Linux's largest receive buffer by default is 6 MiB (`tcp_rmem`); numbers
/// further apart are not those of one living connection.
const IN_FLIGHT_MAX: u32 = 16 << 20;

/// Interface and addresses that a packet leaves with.
struct Hop {
    ifindex: u32,
    src: Mac,
    dst: Mac,
}

/// What became of a packet of a known flow.
pub(crate) enum Known {
    Done(Action),
    /// The flow is gone and the packet opens a new connection.
    StartOver,
}

/// A packet of a flow in the flow table.
#[inline(always)]
pub(crate) fn known(ctx: &XdpContext, segment: &Segment, entry: &mut FlowEntry) -> Known {
    let eventful =
        segment.flags & (SYN | FIN | RST) != 0 || entry.state != FlowState::Established as u8;
    // A client that reuses its port starts over: the old connection is closing on both sides.
    if eventful
        && segment.flags & (SYN | ACK) == SYN
        && entry.direction == Direction::Client as u8
        && entry.state == FlowState::Closing as u8
    {
        remove(segment.key, entry.peer_key());
        return Known::StartOver;
    }
    let mut closed = None;
    if eventful && let Some(peer) = FLOWS.get_ptr_mut(entry.peer_key()) {
        // SAFETY: as in `ingress::packet`.
        if follow(segment, entry, unsafe { &mut *peer }) {
            closed = Some(entry.peer_key());
        }
    }
    let action = forward(ctx, segment, entry, Counter::Forwarded);
    if let Some(peer_key) = closed {
        remove(segment.key, peer_key);
    }
    Known::Done(action)
}

/// Follows FIN and RST. Returns true when nothing more can come but stray packets.
#[inline(always)]
fn follow(segment: &Segment, entry: &mut FlowEntry, peer: &mut FlowEntry) -> bool {
    if segment.flags & RST != 0 {
        // RFC 5961, section 3.2: the receiver takes an RST only at exactly the number it expects next. Others are
        // forwarded, so that the receiver can challenge them, and change nothing here.
        // What we forwarded last counts only near what the receiver acknowledged: a forged segment may have moved it.
        let ahead = entry.seq_next.wrapping_sub(peer.ack);
        return segment.seq() == peer.ack
            || (segment.seq() == entry.seq_next && ahead < IN_FLIGHT_MAX);
    }
    if segment.flags & FIN != 0 {
        entry.fin = 1;
        entry.state = FlowState::Closing as u8;
        peer.state = FlowState::Closing as u8;
    }
    entry.fin != 0
        && peer.fin != 0
        && segment.flags & FIN == 0
        && segment.ack() == peer.seq_next
        && peer.ack == entry.seq_next
}

#[inline(always)]
fn remove(key: FlowKey, peer_key: FlowKey) {
    // An entry that is already gone is what we want.
    _ = FLOWS.remove(key);
    _ = FLOWS.remove(peer_key);
    count(Counter::FlowClosed);
}

/// A packet of a connection before the end of its handshake.
#[inline(always)]
pub(crate) fn half_open(ctx: &XdpContext, segment: &Segment, entry: &mut FlowEntry) -> Next {
    let peer_key = entry.peer_key();
    if entry.direction == Direction::Client as u8 {
        let Some(peer) = own_peer(segment.key, peer_key) else {
            // Evicted under a flood, and its port may belong to another connection by now. A SYN starts over.
            _ = HALF_OPEN.remove(segment.key);
            return Next::NoFlow;
        };
        // A retransmitted SYN stays with the first choice, whatever was flipped meanwhile. Another initial number is
        // another connection, of a client that gave the first one up: it must see the current route.
        if segment.flags & (SYN | ACK) == SYN && segment.seq_end() != entry.seq_next {
            forget(segment.key, peer_key);
            return Next::NoFlow;
        }
        if segment.flags & (SYN | ACK | RST) == ACK
            && peer.packets > 0
            && segment.ack() == peer.seq_next
        {
            return promote(ctx, segment, entry, peer, peer_key);
        }
    }
    let action = forward(ctx, segment, entry, Counter::HalfOpenForwarded);
    if segment.flags & RST != 0 {
        forget(segment.key, peer_key);
    }
    Next::Done(action)
}

/// The reply entry of a half-open connection, if it is still that of the client with this key.
#[inline(always)]
fn own_peer<'a>(key: FlowKey, peer_key: FlowKey) -> Option<&'a mut FlowEntry> {
    // SAFETY: as in `ingress::packet`.
    let peer = unsafe { &mut *HALF_OPEN.get_ptr_mut(peer_key)? };
    (peer.rewrite == key.reversed()).then_some(peer)
}

/// The handshake is complete: moves both entries to the flow table.
#[inline(always)]
fn promote(
    ctx: &XdpContext,
    segment: &Segment,
    entry: &mut FlowEntry,
    peer: &mut FlowEntry,
    peer_key: FlowKey,
) -> Next {
    entry.state = FlowState::Established as u8;
    peer.state = FlowState::Established as u8;
    // Borrowed: copies of both would not fit the program's stack.
    let (own_entry, reply_entry): (&FlowEntry, &FlowEntry) = (entry, peer);
    if FLOWS.insert(segment.key, own_entry, BPF_NOEXIST.into()).is_ok() {
        if FLOWS.insert(peer_key, reply_entry, BPF_NOEXIST.into()).is_ok() {
            count(Counter::FlowOpened);
        } else {
            _ = FLOWS.remove(segment.key);
        }
        // Flow table first, then out of the half-open table: the port is never without an owner.
        forget(segment.key, peer_key);
    }
    // When the insert failed, the table is full, or another CPU was faster and the flow is there.
    match FLOWS.get_ptr_mut(segment.key) {
        Some(entry) => Next::Flow(entry),
        None => {
            forget(segment.key, peer_key);
            Next::Done(reset::answer(ctx, segment, Counter::ResetFlowsFull))
        }
    }
}

#[inline(always)]
fn forget(key: FlowKey, peer_key: FlowKey) {
    // The LRU may have been faster.
    _ = HALF_OPEN.remove(key);
    _ = HALF_OPEN.remove(peer_key);
}

/// Rewrites a packet and sends it on its way.
#[inline(always)]
pub(crate) fn forward(
    ctx: &XdpContext,
    segment: &Segment,
    entry: &mut FlowEntry,
    counter: Counter,
) -> Action {
    let from = segment.ethernet();
    let hop = if entry.direction == Direction::Client as u8 {
        if from.src != entry.client_mac {
            follow_client(segment, entry, from.src);
        }
        let Some(backend) = BACKENDS.get(entry.backend.into()) else {
            return drop(Counter::DropInternal);
        };
        Hop { ifindex: backend.ifindex, src: backend.own_mac, dst: backend.next_hop_mac }
    } else {
        let Some(device) = DEVICES.get(entry.client_device.into()) else {
            return drop(Counter::DropInternal);
        };
        Hop { ifindex: device.ifindex, src: device.mac, dst: entry.client_mac }
    };
    if segment.ttl() <= 1 {
        return drop(Counter::DropTtl);
    }
    if hop.ifindex == 0 || hop.dst == Mac::UNKNOWN {
        return drop(Counter::DropNextHopUnknown);
    }
    account(segment, entry);
    segment.rewrite(entry, hop.src, hop.dst);
    count(counter);
    // SAFETY: `ctx.ctx` is the context that the kernel passed in.
    if unsafe { (*ctx.ctx).ingress_ifindex } == hop.ifindex {
        return XDP_TX;
    }
    // SAFETY: the helper checks its arguments.
    unsafe { bpf_redirect(hop.ifindex, 0) as u32 }
}

/// The client, or the gateway in front of it, sends from another MAC: replies go there from now on.
#[inline(always)]
fn follow_client(segment: &Segment, entry: &mut FlowEntry, mac: Mac) {
    let Some(peer) = FLOWS.get_ptr_mut(entry.peer_key()) else { return };
    // SAFETY: as in `ingress::packet`.
    let peer = unsafe { &mut *peer };
    // Only a packet that the server may accept moves the flow, a retransmission included; a forged one must not.
    let acked = segment.seq().wrapping_sub(peer.ack);
    let known = entry.seq_next.wrapping_sub(peer.ack);
    if acked <= known && known < IN_FLIGHT_MAX {
        entry.client_mac = mac;
        peer.client_mac = mac;
    }
}

#[inline(always)]
fn account(segment: &Segment, entry: &mut FlowEntry) {
    // SAFETY: the helper has no preconditions.
    entry.last_seen = unsafe { bpf_jiffies64() } as u32;
    entry.packets = entry.packets.wrapping_add(1);
    entry.bytes += u64::from(segment.frame_len);
    // Numbers only move forward (RFC 9293, section 3.4: compare modulo 2^32), so a retransmission changes nothing.
    let end = segment.seq_end();
    if entry.packets == 1 || end.wrapping_sub(entry.seq_next) as i32 > 0 {
        entry.seq_next = end;
    }
    if segment.flags & ACK != 0 {
        let ack = segment.ack();
        if entry.packets == 1 || ack.wrapping_sub(entry.ack) as i32 > 0 {
            entry.ack = ack;
        }
    }
}
