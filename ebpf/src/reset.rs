//! Answers to packets that have no flow: an RST to the sender, made in place, at a bounded rate.

use aya_ebpf::{
    bindings::xdp_action::XDP_TX,
    helpers::{bpf_xdp_adjust_tail, generated::bpf_jiffies64},
    programs::XdpContext,
};
use pairflip_common::{counter::Counter, csum};

use crate::{
    Action,
    ingress::drop,
    maps::{SCRATCH, SETTINGS, count},
    packet::{
        ACK, ETHERNET_LEN, ETHERTYPE_IPV4, Ethernet, IPV4_LEN, Ipv4, PROTOCOL_TCP, RST, Segment,
        TCP_LEN, Tcp, header,
    },
};

/// Smallest Ethernet frame without its check sequence (IEEE 802.3, 3.2.8); a longer packet is cut to this.
const FRAME_LEN_MIN: usize = 60;

/// TTL of packets of our own (RFC 1700).
const TTL: u8 = 64;

/// Answers `segment` with RST, or drops it when it is itself an RST or the rate is used up.
#[inline(always)]
pub(crate) fn answer(ctx: &XdpContext, segment: &Segment, counter: Counter) -> Action {
    if segment.flags & RST != 0 || !take_token() {
        return drop(Counter::DropNoReset);
    }
    // RFC 9293, section 3.10.7.1: the number that the peer acknowledged, or one that acknowledges its segment.
    let (seq, ack, flags) = if segment.flags & ACK != 0 {
        (segment.ack(), 0, RST)
    } else {
        (0, segment.seq_end(), RST | ACK)
    };
    let key = segment.key.reversed();
    let from = segment.ethernet();

    let len = ctx.data_end() - ctx.data();
    if len > FRAME_LEN_MIN {
        // SAFETY: the helper checks its arguments. It invalidates all packet pointers; none is used below.
        let result = unsafe { bpf_xdp_adjust_tail(ctx.ctx, FRAME_LEN_MIN as i32 - len as i32) };
        if result != 0 {
            return drop(Counter::DropInternal);
        }
    }
    let (Some(ethernet), Some(ip), Some(tcp)) = (
        header::<Ethernet>(ctx, 0),
        header::<Ipv4>(ctx, ETHERNET_LEN),
        header::<Tcp>(ctx, ETHERNET_LEN + IPV4_LEN),
    ) else {
        return drop(Counter::DropInternal);
    };
    let mut new_ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: ((IPV4_LEN + TCP_LEN) as u16).to_be_bytes(),
        id: [0; 2],
        fragment: [0x40, 0],
        ttl: TTL,
        protocol: PROTOCOL_TCP,
        checksum: [0; 2],
        src: key.src,
        dst: key.dst,
    };
    let mut new_tcp = Tcp {
        src_port: key.src_port,
        dst_port: key.dst_port,
        seq: seq.to_be_bytes(),
        ack: ack.to_be_bytes(),
        data_offset: 5 << 4,
        flags,
        window: [0; 2],
        checksum: [0; 2],
        urgent: [0; 2],
    };
    new_ip.checksum = (!csum::fold(words(&new_ip))).to_ne_bytes();
    // The pseudo header of RFC 9293, section 3.1: addresses, protocol, length of header and payload.
    let pseudo = address_words(key.src.0)
        + address_words(key.dst.0)
        + u32::from(u16::from_ne_bytes([0, PROTOCOL_TCP]))
        + u32::from((TCP_LEN as u16).to_be());
    new_tcp.checksum = (!csum::fold(words(&new_tcp) + pseudo)).to_ne_bytes();
    // SAFETY: `header` checked the bounds of all three.
    unsafe {
        *ethernet = Ethernet { dst: from.src, src: from.dst, ethertype: ETHERTYPE_IPV4 };
        *ip = new_ip;
        *tcp = new_tcp;
    }
    count(counter);
    XDP_TX
}

/// Sum of a 20-byte header as 16-bit words: at most 10 * 0xffff, far from overflow.
#[inline(always)]
fn words<T>(header: &T) -> u32 {
    const { assert!(size_of::<T>() == 20) };
    // SAFETY: both header types are byte arrays of 20 bytes in all, so any view of them as bytes is valid.
    let bytes = unsafe { &*core::ptr::from_ref(header).cast::<[u8; 20]>() };
    let mut sum = 0;
    let mut i = 0;
    while i < 20 {
        sum += u32::from(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
        i += 2;
    }
    sum
}

#[inline(always)]
fn address_words(address: [u8; 4]) -> u32 {
    u32::from(u16::from_ne_bytes([address[0], address[1]]))
        + u32::from(u16::from_ne_bytes([address[2], address[3]]))
}

/// Takes one RST of this CPU's allowance for the running second.
#[inline(always)]
fn take_token() -> bool {
    let (Some(scratch), Some(settings)) = (SCRATCH.get_ptr_mut(0), SETTINGS.get(0)) else {
        return false;
    };
    // SAFETY: the slot belongs to this CPU; the helper has no preconditions.
    let (scratch, now) = unsafe { (&mut *scratch, bpf_jiffies64() as u32) };
    if now.wrapping_sub(scratch.resets_at) >= settings.hz {
        scratch.resets_at = now;
        scratch.resets_left = settings.resets_per_second;
    }
    if scratch.resets_left == 0 {
        return false;
    }
    scratch.resets_left -= 1;
    true
}
