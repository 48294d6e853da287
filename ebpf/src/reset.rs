//! Answers to packets that have no flow, or one that was ended: an RST to the sender, made in place.

use aya_ebpf::{
    bindings::xdp_action::XDP_TX,
    helpers::{bpf_xdp_adjust_tail, generated::bpf_jiffies64},
    programs::XdpContext,
};
use pairflip_common::{counter::Counter, csum};

use crate::{
    Action,
    ethernet::Layer2,
    family::{Family, sum},
    ingress::drop,
    maps::{SCRATCH, SETTINGS, count_index},
    packet::{ACK, PROTOCOL_TCP, Place, RST, TCP_LEN, Tcp, header, seq_end},
};

/// Smallest Ethernet frame without its check sequence (IEEE 802.3, 3.2.8); a longer packet is cut to no less.
const FRAME_LEN_MIN: usize = 60;

/// Answers a TCP packet with RST, or drops it when it is itself an RST or the rate is used up.
#[inline(always)]
pub(crate) fn answer<F: Family>(ctx: &XdpContext, place: &Place, counter: u32) -> Action {
    let Some(tcp) = header::<Tcp>(ctx, place.l2_len + place.headers_len) else {
        return drop(Counter::DropInternal);
    };
    // SAFETY: `header` checked the bounds.
    let flags = unsafe { (*tcp).flags };
    // Whoever had a flow is no address that somebody made up, and what it is told here it is told by nobody else: not at a bounded rate.
    let bounded = counter != Counter::ResetEnded as u32;
    if flags & RST != 0 || bounded && !take_token() {
        return drop(Counter::DropNoReset);
    }
    if write::<F>(ctx, place, tcp).is_none() {
        return drop(Counter::DropInternal);
    }
    count_index(counter);
    XDP_TX
}

#[inline(always)]
fn write<F: Family>(ctx: &XdpContext, place: &Place, tcp: *const Tcp) -> Option<()> {
    let key = F::bench()?.key();
    let l2_len = place.l2_len;
    let mut layer2 = Layer2::read(ctx, l2_len)?;
    (layer2.src, layer2.dst) = (layer2.dst, layer2.src);
    // SAFETY: the caller got it from `header`, which checked the bounds.
    let Tcp { seq, ack, flags, data_offset, .. } = unsafe { *tcp };
    // RFC 9293, section 3.10.7.1: the number that the peer acknowledged, or one that acknowledges its segment.
    let (seq, ack, flags) = if flags & ACK != 0 {
        (ack, [0; 4], RST)
    } else {
        let headers_len = place.headers_len as u32 + u32::from(data_offset >> 4) * 4;
        let end = seq_end(seq, place.ip_len.wrapping_sub(headers_len), flags);
        ([0; 4], end.to_be_bytes(), RST | ACK)
    };

    let wanted = (l2_len + F::HEADER_LEN + TCP_LEN).max(FRAME_LEN_MIN) as u32;
    if place.frame_len > wanted {
        let surplus = wanted.wrapping_sub(place.frame_len) as i32;
        // SAFETY: the helper checks its arguments. It invalidates all packet pointers; none is used below.
        if unsafe { bpf_xdp_adjust_tail(ctx.ctx, surplus) } != 0 {
            return None;
        }
    }
    let ip = header::<F::Header>(ctx, l2_len)?;
    let tcp = header::<Tcp>(ctx, l2_len + F::HEADER_LEN)?;
    // SAFETY: `header` checked the bounds of both.
    let (ip, tcp) = unsafe { (&mut *ip, &mut *tcp) };
    F::write(ip, &key.dst, &key.src, PROTOCOL_TCP, TCP_LEN as u16);
    *tcp = Tcp {
        src_port: key.dst_port,
        dst_port: key.src_port,
        seq,
        ack,
        data_offset: 5 << 4,
        flags,
        window: [0; 2],
        checksum: [0; 2],
        urgent: [0; 2],
    };
    let pseudo = F::pseudo_sum(key.dst, key.src, PROTOCOL_TCP, TCP_LEN as u16);
    tcp.checksum = (!csum::fold(sum(tcp) + pseudo)).to_ne_bytes();
    layer2.write(ctx, F::ETHERTYPE)
}

/// Takes one answer of this CPU's allowance for the running second.
#[inline(always)]
pub(crate) fn take_token() -> bool {
    let (Some(scratch), Some(settings)) = (SCRATCH.get_ptr_mut(0), SETTINGS.get(0)) else {
        return false;
    };
    // SAFETY: the slot belongs to this CPU; the helper has no preconditions.
    let (scratch, now) = unsafe { (&mut *scratch, bpf_jiffies64() as u32) };
    if now.wrapping_sub(scratch.answers_at) >= settings.hz {
        scratch.answers_at = now;
        scratch.answers_left = settings.answers_per_second;
    }
    if scratch.answers_left == 0 {
        return false;
    }
    scratch.answers_left -= 1;
    true
}
