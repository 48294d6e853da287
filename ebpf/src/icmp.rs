//! ICMP and ICMPv6 errors (RFC 792, RFC 4443): those of others about our flows are translated and sent on, and our own tell a sender
//! that its packet is too big or has come to the end of its TTL.

use aya_ebpf::{
    bindings::xdp_action::XDP_TX,
    helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use pairflip_common::{
    be::{Address, PortBe},
    counter::Counter,
    csum::{self, Delta, FoldedDelta},
    flow::{Direction, FlowEntry, FlowKey, Forwarding},
};

use crate::{
    Action,
    ethernet::Layer2,
    family::{Family, Fragment, sum},
    flow,
    ingress::{PASS, drop},
    maps::{count, count_index},
    packet::{PROTOCOL_TCP, Place, header},
    reset,
};

#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    /// The next hop's MTU in errors about a packet's size; unused in others that are looked at here.
    rest: [u8; 4],
}

const ICMP_LEN: usize = size_of::<Icmp>();

/// What every error quotes of a TCP header at least (RFC 792): ports and sequence number.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Quoted {
    src_port: PortBe,
    dst_port: PortBe,
    seq: [u8; 4],
}

/// Where in a TCP header its checksum is.
const TCP_CHECKSUM_AT: usize = 16;

/// An ICMP packet, `headers_len` behind the start of its IP header: passed on to the flow's other side if it is an error about a packet that we
/// forwarded there. Others pass as `other`, a [`Counter`].
#[inline(always)]
pub(crate) fn packet<F: Family>(
    ctx: &XdpContext,
    l2_len: usize,
    headers_len: usize,
    total_len: usize,
    other: u32,
) -> Action {
    translate::<F>(ctx, l2_len, headers_len, total_len).unwrap_or_else(|| {
        count_index(other);
        PASS
    })
}

#[inline(always)]
fn translate<F: Family>(
    ctx: &XdpContext,
    l2_len: usize,
    headers_len: usize,
    total_len: usize,
) -> Option<Action> {
    let header_at = F::header(ctx, l2_len)?;
    let icmp_at = l2_len + headers_len;
    let icmp = header::<Icmp>(ctx, icmp_at)?;
    // SAFETY: `header` checked the bounds.
    if !F::is_error(unsafe { (*icmp).kind }) {
        return None;
    }
    let quoted_at = icmp_at + ICMP_LEN;
    let quoted_header = F::header(ctx, quoted_at)?;
    let quoted_ip = F::parse(ctx, quoted_at, quoted_header)?;
    if quoted_ip.protocol != PROTOCOL_TCP || quoted_ip.fragment == Fragment::Later {
        return None;
    }
    let tcp_at = quoted_at + quoted_ip.headers_len;
    let tcp = header::<Quoted>(ctx, tcp_at)?;
    // Padding of the frame is no part of the packet, and the packet's end is in the frame: checksums cover what is changed.
    let end = l2_len + total_len;
    if tcp_at + size_of::<Quoted>() > end || end > ctx.data_end() - ctx.data() {
        return None;
    }
    // SAFETY: `header` checked the bounds.
    let Quoted { src_port, dst_port, .. } = unsafe { *tcp };
    // SAFETY: `F::header` checked the bounds of both.
    let ((src, dst), (_, told)) =
        unsafe { (F::addresses(&*quoted_header), F::addresses(&*header_at)) };
    // An error goes to the quoted packet's source; to anybody else it is not about what we forwarded.
    if told != src {
        return None;
    }
    // The packet in the other direction: its entry says where the quoted one came from.
    let key = F::bench()?.set_key(&dst, &src, dst_port, src_port);
    let entry = F::flow(key).or_else(|| F::half_open(key))?;
    // SAFETY: a map value is valid until the program returns.
    let entry = unsafe { &*entry };
    if entry.direction == Direction::Host as u8 {
        return None;
    }
    let hop = match flow::hop(entry) {
        Ok(hop) => hop,
        Err(counter) => return Some(drop(counter)),
    };
    if entry.forwarding != Forwarding::Dsr as u8 {
        // SAFETY: the bounds of all four were checked.
        let (outer, icmp, quoted, tcp) =
            unsafe { (&mut *header_at, &mut *icmp, &mut *quoted_header, &mut *tcp) };
        if F::ttl(outer) <= 1 {
            return Some(drop(Counter::DropTtl));
        }
        // Both ends of the quoted packet change as those of a packet with this key do, and sums know no order.
        let (rewrite, ip_delta) = (&entry.rewrite, FoldedDelta::new(entry.ip_delta).into());
        let mut delta = F::rewrite_quoted(quoted, &rewrite.dst, &rewrite.src, ip_delta)
            .replace({ tcp.src_port }.word(), rewrite.dst_port.word())
            .replace({ tcp.dst_port }.word(), rewrite.src_port.word());
        tcp.src_port = rewrite.dst_port;
        tcp.dst_port = rewrite.src_port;
        // Quotes may end before it.
        if tcp_at + TCP_CHECKSUM_AT + 2 <= end
            && let Some(checksum) = header::<[u8; 2]>(ctx, tcp_at + TCP_CHECKSUM_AT)
        {
            // SAFETY: `header` checked the bounds.
            let checksum = unsafe { &mut *checksum };
            let old = u16::from_ne_bytes(*checksum);
            let new = FoldedDelta::new(entry.tcp_delta).apply(old);
            delta = delta.replace(old, new);
            *checksum = new.to_ne_bytes();
        }
        let addresses = FoldedDelta::new(readdress::<F>(outer, entry, key));
        if F::ICMP_COVERS_ADDRESSES {
            delta = delta.plus(addresses.into());
        }
        icmp.checksum = delta.apply(u16::from_ne_bytes(icmp.checksum)).to_ne_bytes();
    }
    count(Counter::IcmpForwarded);
    Some(flow::send::<F>(ctx, &hop, l2_len))
}

/// Readdresses an error about the flow to the flow's other side. Returns the folded difference of its addresses.
///
/// A router's own address stays as it is where the receiver can tell it from the flow's ends.
#[inline(always)]
fn readdress<F: Family>(
    header: &mut F::Header,
    entry: &FlowEntry<F::Address>,
    key: &FlowKey<F::Address>,
) -> u16 {
    let (old_src, old_dst) = F::addresses(header);
    let src = if entry.rewrite.src == key.src { old_src } else { entry.rewrite.src };
    let delta = Delta::between(old_src.sum() + old_dst.sum(), src.sum() + entry.rewrite.dst.sum());
    let folded = delta.fold();
    F::rewrite(header, &src, &entry.rewrite.dst, FoldedDelta::new(folded));
    folded
}

/// Tells the sender of a TCP packet that it is larger than `mtu`, or for 0 that its TTL is used up; at the same bounded rate as resets.
#[inline(always)]
pub(crate) fn answer<F: Family>(ctx: &XdpContext, place: &Place, mtu: u32) -> Action {
    let (kind, code, told, untold) = if mtu == 0 {
        (F::ICMP_TTL_EXCEEDED.0, F::ICMP_TTL_EXCEEDED.1, Counter::IcmpTtl, Counter::DropTtl)
    } else {
        (F::ICMP_TOO_BIG.0, F::ICMP_TOO_BIG.1, Counter::IcmpTooBig, Counter::DropTooBig)
    };
    if !reset::take_token() {
        return drop(untold);
    }
    let icmp = Icmp { kind, code, checksum: [0; 2], rest: mtu.to_be_bytes() };
    // IP options and extension headers are quoted, too, so that what follows them is.
    let done = if place.headers_len == F::HEADER_LEN {
        write::<F, F::Quote>(ctx, place, icmp)
    } else {
        write::<F, F::LongQuote>(ctx, place, icmp)
    };
    if done.is_none() {
        return drop(untold);
    }
    count(told);
    XDP_TX
}

/// Makes the message in place: the packet is cut to what is quoted, and headers go in front of it.
#[inline(always)]
fn write<F: Family, Q: 'static>(ctx: &XdpContext, place: &Place, mut icmp: Icmp) -> Option<()> {
    let quote_len = size_of::<Q>();
    let l2_len = place.l2_len;
    let key = F::bench()?.key();
    let mut layer2 = Layer2::read(ctx, l2_len)?;
    (layer2.src, layer2.dst) = (layer2.dst, layer2.src);
    let wanted = (l2_len + quote_len) as u32;
    if place.ip_len < quote_len as u32 {
        return None;
    }
    // SAFETY: the helpers check their arguments. They invalidate all packet pointers; none is used below.
    let result = unsafe {
        if place.frame_len > wanted
            && bpf_xdp_adjust_tail(ctx.ctx, wanted.wrapping_sub(place.frame_len) as i32) != 0
        {
            return None;
        }
        bpf_xdp_adjust_head(ctx.ctx, -((F::HEADER_LEN + ICMP_LEN) as i32))
    };
    if result != 0 {
        return None;
    }
    let payload_len = (ICMP_LEN + quote_len) as u16;
    let icmp_at = l2_len + F::HEADER_LEN;
    let quote = header::<Q>(ctx, icmp_at + ICMP_LEN)?;
    let mut total = sum(&icmp);
    if F::ICMP_COVERS_ADDRESSES {
        total += F::pseudo_sum(key.dst, key.src, F::PROTOCOL_ICMP, payload_len);
    }
    // SAFETY: `header` checked the bounds, and the length is a constant.
    let quoted =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, quote.cast(), size_of::<Q>() as u32, 0) };
    icmp.checksum = (!csum::fold(total + u64::from(quoted as u32))).to_ne_bytes();
    // SAFETY: `header` checked the bounds of both.
    unsafe {
        *header::<Icmp>(ctx, icmp_at)? = icmp;
        let ip = &mut *header::<F::Header>(ctx, l2_len)?;
        F::write(ip, &key.dst, &key.src, F::PROTOCOL_ICMP, payload_len);
    }
    layer2.write(ctx, F::ETHERTYPE)
}
