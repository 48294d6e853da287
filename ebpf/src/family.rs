//! What IPv4 and IPv6 do differently: their headers, and tables of their own, because keys are as short as the family allows.

use aya_ebpf::{bindings::BPF_NOEXIST, programs::XdpContext};
use pairflip_common::{
    be::{Address, Ipv4Be, Ipv6Be},
    csum::{self, Delta, FoldedDelta},
    flow::{FlowEntry, FlowKey},
};

use crate::{
    global::Global,
    maps::{FLOWS, FLOWS6, HALF_OPEN, HALF_OPEN6, SCRATCH, WORK, WORK6},
    packet::{PROTOCOL_TCP, header},
    work::Bench,
};

/// Extension headers that are followed: what more of them carry counts as not TCP; RFC 8200, section 4.1 recommends an order of six.
const EXTENSIONS_MAX: u32 = 6;
/// Covers the most that an IP header and its extensions take: each of them is at most 256 * 8 bytes. A mask and not a comparison, because
/// the verifier of Linux 6.1 forgets what was compared once the number is kept on the stack.
pub(crate) const HEADERS_LEN_MASK: usize = 0x3fff;
const _: () = assert!(V6::HEADER_LEN + EXTENSIONS_MAX as usize * 2048 <= HEADERS_LEN_MASK);

/// TTL of packets of our own (RFC 1700).
const TTL: u8 = 64;

type Entry<F> = FlowEntry<<F as Family>::Address>;
type Key<F> = FlowKey<<F as Family>::Address>;

pub(crate) trait Family: Global + 'static {
    type Address: Address;
    type Header: 'static;
    const ETHERTYPE: [u8; 2];
    const HEADER_LEN: usize = size_of::<Self::Header>();
    const PROTOCOL_ICMP: u8;
    /// Type and code of the errors that we send.
    const ICMP_TOO_BIG: (u8, u8);
    const ICMP_TTL_EXCEEDED: (u8, u8);
    /// Whether ICMP's checksum covers the addresses of the IP header.
    const ICMP_COVERS_ADDRESSES: bool;
    /// What our errors quote of a packet: the IP header and 8 bytes; longer where more is between them.
    type Quote: 'static;
    type LongQuote: 'static;

    /// The IP header behind `l2_len` bytes, if it is one of this family.
    fn header(ctx: &XdpContext, l2_len: usize) -> Option<*mut Self::Header>;
    fn addresses(header: &Self::Header) -> (Self::Address, Self::Address);
    /// Finds what the packet carries; `None` if lengths do not fit.
    fn parse(ctx: &XdpContext, l2_len: usize, header: *mut Self::Header) -> Option<Ip<Self>>;
    fn ttl(header: &Self::Header) -> u8;
    /// Replaces the addresses and takes one off the TTL. `delta` is that of the addresses.
    fn rewrite(
        header: &mut Self::Header,
        src: &Self::Address,
        dst: &Self::Address,
        delta: FoldedDelta,
    );
    /// Replaces the addresses of a packet that an ICMP error quotes. Returns the difference that it makes to the error's checksum.
    fn rewrite_quoted(
        header: &mut Self::Header,
        src: &Self::Address,
        dst: &Self::Address,
        delta: Delta,
    ) -> Delta;
    /// Whether an ICMP message of this type is an error about a packet, and not about a route.
    fn is_error(kind: u8) -> bool;
    /// Writes a header of our own, in front of `payload_len` bytes. In place, field by field: a copy of a whole header is a loop.
    fn write(
        header: &mut Self::Header,
        src: &Self::Address,
        dst: &Self::Address,
        protocol: u8,
        payload_len: u16,
    );
    /// Sum of the pseudo header that TCP's checksum covers, and ICMPv6's (RFC 9293, section 3.1; RFC 8200, section 8.1).
    fn pseudo_sum(src: Self::Address, dst: Self::Address, protocol: u8, len: u16) -> u64;

    fn flow(key: &Key<Self>) -> Option<*mut Entry<Self>>;
    /// Whether there was room and no such flow.
    fn insert_flow(key: &Key<Self>, entry: &Entry<Self>) -> bool;
    fn remove_flow(key: &Key<Self>);
    fn half_open(key: &Key<Self>) -> Option<*mut Entry<Self>>;
    /// Whether there was no such connection.
    fn insert_half_open(key: &Key<Self>, entry: &Entry<Self>) -> bool;
    fn remove_half_open(key: &Key<Self>);
    /// This CPU's memory for the packet at hand.
    fn bench() -> Option<Bench<Self::Address>>;
}

/// An IP packet.
pub(crate) struct Ip<F: Family> {
    pub(crate) header: *mut F::Header,
    /// What follows the IP header and its extensions.
    pub(crate) protocol: u8,
    pub(crate) fragment: Fragment,
    /// Bytes of the IP header and its extensions.
    pub(crate) headers_len: usize,
    /// Bytes of the packet.
    pub(crate) total_len: u32,
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Fragment {
    Whole,
    /// It has the ports.
    First,
    Later,
}

macro_rules! tables {
    ($flows:ident, $half_open:ident, $work:ident) => {
        #[inline(always)]
        fn flow(key: &Key<Self>) -> Option<*mut Entry<Self>> {
            $flows.get_ptr_mut(key)
        }

        #[inline(always)]
        fn insert_flow(key: &Key<Self>, entry: &Entry<Self>) -> bool {
            $flows.insert(key, entry, BPF_NOEXIST.into()).is_ok()
        }

        #[inline(always)]
        fn remove_flow(key: &Key<Self>) {
            // An entry that is already gone is what we want.
            _ = $flows.remove(key);
        }

        #[inline(always)]
        fn half_open(key: &Key<Self>) -> Option<*mut Entry<Self>> {
            $half_open.get_ptr_mut(key)
        }

        #[inline(always)]
        fn insert_half_open(key: &Key<Self>, entry: &Entry<Self>) -> bool {
            $half_open.insert(key, entry, BPF_NOEXIST.into()).is_ok()
        }

        #[inline(always)]
        fn remove_half_open(key: &Key<Self>) {
            // The LRU may have been faster.
            _ = $half_open.remove(key);
        }

        #[inline(always)]
        fn bench() -> Option<Bench<Self::Address>> {
            $work.get_ptr_mut(0).map(Bench::new)
        }
    };
}

/// IPv4 (RFC 791).
pub(crate) struct V4;

#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total_len: [u8; 2],
    pub(crate) id: [u8; 2],
    pub(crate) fragment: [u8; 2],
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: [u8; 2],
    pub(crate) src: Ipv4Be,
    pub(crate) dst: Ipv4Be,
}

impl Family for V4 {
    type Address = Ipv4Be;
    type Header = Ipv4;
    const ETHERTYPE: [u8; 2] = [0x08, 0x00];
    const PROTOCOL_ICMP: u8 = 1;
    // RFC 1191, section 4; RFC 792.
    const ICMP_TOO_BIG: (u8, u8) = (3, 4);
    const ICMP_TTL_EXCEEDED: (u8, u8) = (11, 0);
    const ICMP_COVERS_ADDRESSES: bool = false;
    type Quote = [u8; 20 + 8];
    type LongQuote = [u8; 60 + 8];

    #[inline(always)]
    fn header(ctx: &XdpContext, l2_len: usize) -> Option<*mut Ipv4> {
        let ip = header::<Ipv4>(ctx, l2_len)?;
        // SAFETY: `header` checked the bounds.
        (unsafe { (*ip).version_ihl } >> 4 == 4).then_some(ip)
    }

    #[inline(always)]
    fn addresses(header: &Ipv4) -> (Ipv4Be, Ipv4Be) {
        (header.src, header.dst)
    }

    #[inline(always)]
    fn parse(_: &XdpContext, _: usize, header: *mut Ipv4) -> Option<Ip<Self>> {
        // SAFETY: the caller got it from `Self::header`, which checked the bounds.
        let Ipv4 { version_ihl, total_len, fragment, protocol, .. } = unsafe { *header };
        let headers_len = usize::from(version_ihl & 0x0f) * 4;
        if headers_len < Self::HEADER_LEN {
            return None;
        }
        // The more-fragments bit and the offset.
        let fragment = match u16::from_be_bytes(fragment) & 0x3fff {
            0 => Fragment::Whole,
            bits if bits & 0x1fff == 0 => Fragment::First,
            _ => Fragment::Later,
        };
        let total_len = u32::from(u16::from_be_bytes(total_len));
        Some(Ip { header, protocol, fragment, headers_len, total_len })
    }

    #[inline(always)]
    fn ttl(header: &Ipv4) -> u8 {
        header.ttl
    }

    #[inline(always)]
    fn rewrite(ip: &mut Ipv4, src: &Ipv4Be, dst: &Ipv4Be, delta: FoldedDelta) {
        let old = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.ttl = ip.ttl.wrapping_sub(1);
        let new = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.checksum = delta.replace(old, new).apply(u16::from_ne_bytes(ip.checksum)).to_ne_bytes();
        ip.src = *src;
        ip.dst = *dst;
    }

    /// The header's own checksum takes up the change of its addresses.
    #[inline(always)]
    fn rewrite_quoted(ip: &mut Ipv4, src: &Ipv4Be, dst: &Ipv4Be, delta: Delta) -> Delta {
        let checksum = delta.apply(u16::from_ne_bytes(ip.checksum)).to_ne_bytes();
        let total = delta.replace(u16::from_ne_bytes(ip.checksum), u16::from_ne_bytes(checksum));
        ip.checksum = checksum;
        ip.src = *src;
        ip.dst = *dst;
        total
    }

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn write(ip: &mut Ipv4, src: &Ipv4Be, dst: &Ipv4Be, protocol: u8, payload_len: u16) {
        ip.version_ihl = 0x45;
        ip.tos = 0;
        ip.total_len = (Self::HEADER_LEN as u16 + payload_len).to_be_bytes();
        ip.id = [0; 2];
        // Do not fragment: then the identification may be 0 (RFC 6864, section 4.1).
        ip.fragment = [0x40, 0];
        ip.ttl = TTL;
        ip.protocol = protocol;
        ip.checksum = [0; 2];
        ip.src = *src;
        ip.dst = *dst;
        ip.checksum = (!csum::fold(sum(ip))).to_ne_bytes();
    }

    #[inline(always)]
    fn pseudo_sum(src: Ipv4Be, dst: Ipv4Be, protocol: u8, len: u16) -> u64 {
        src.sum()
            + dst.sum()
            + u64::from(u16::from_ne_bytes([0, protocol]))
            + u64::from(len.to_be())
    }

    tables!(FLOWS, HALF_OPEN, WORK);
}

/// IPv6 (RFC 8200).
pub(crate) struct V6;

#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    pub(crate) version_class_label: [u8; 4],
    pub(crate) payload_len: [u8; 2],
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) src: Unaligned,
    pub(crate) dst: Unaligned,
}

/// An address at any place in a packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Unaligned([u8; 16]);

impl Unaligned {
    #[inline(always)]
    fn get(&self) -> Ipv6Be {
        let at = core::ptr::from_ref(self).cast::<u64>();
        // SAFETY: 16 bytes are there.
        unsafe { Ipv6Be::from_halves(at.read_unaligned(), at.add(1).read_unaligned()) }
    }

    #[inline(always)]
    fn set(&mut self, address: &Ipv6Be) {
        let (first, last) = address.halves();
        let at = core::ptr::from_mut(self).cast::<u64>();
        // SAFETY: 16 bytes are there.
        unsafe {
            at.write_unaligned(first);
            at.add(1).write_unaligned(last);
        }
    }
}

/// Extension headers (IANA, "IPv6 Extension Header Types"). What is not listed ends the chain.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

impl Family for V6 {
    type Address = Ipv6Be;
    type Header = Ipv6;
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    const PROTOCOL_ICMP: u8 = 58;
    // RFC 4443, sections 3.2 and 3.3.
    const ICMP_TOO_BIG: (u8, u8) = (2, 0);
    const ICMP_TTL_EXCEEDED: (u8, u8) = (3, 0);
    const ICMP_COVERS_ADDRESSES: bool = true;
    type Quote = [u8; 40 + 8];
    type LongQuote = [u8; 40 + 64];

    #[inline(always)]
    fn header(ctx: &XdpContext, l2_len: usize) -> Option<*mut Ipv6> {
        let ip = header::<Ipv6>(ctx, l2_len)?;
        // SAFETY: `header` checked the bounds.
        (unsafe { (*ip).version_class_label[0] } >> 4 == 6).then_some(ip)
    }

    #[inline(always)]
    fn addresses(header: &Ipv6) -> (Ipv6Be, Ipv6Be) {
        (header.src.get(), header.dst.get())
    }

    #[inline(always)]
    fn parse(ctx: &XdpContext, l2_len: usize, ip: *mut Ipv6) -> Option<Ip<Self>> {
        // SAFETY: the caller got it from `Self::header`, which checked the bounds.
        let Ipv6 { payload_len, next_header, .. } = unsafe { *ip };
        let mut found = Ip {
            header: ip,
            protocol: next_header,
            fragment: Fragment::Whole,
            headers_len: Self::HEADER_LEN,
            total_len: u32::from(u16::from_be_bytes(payload_len)) + Self::HEADER_LEN as u32,
        };
        if next_header != PROTOCOL_TCP {
            skip_extensions(ctx, l2_len, &mut found)?;
        }
        Some(found)
    }

    #[inline(always)]
    fn ttl(header: &Ipv6) -> u8 {
        header.hop_limit
    }

    #[inline(always)]
    fn rewrite(ip: &mut Ipv6, src: &Ipv6Be, dst: &Ipv6Be, _: FoldedDelta) {
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        ip.src.set(src);
        ip.dst.set(dst);
    }

    #[inline(always)]
    fn rewrite_quoted(ip: &mut Ipv6, src: &Ipv6Be, dst: &Ipv6Be, delta: Delta) -> Delta {
        ip.src.set(src);
        ip.dst.set(dst);
        delta
    }

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn write(ip: &mut Ipv6, src: &Ipv6Be, dst: &Ipv6Be, protocol: u8, payload_len: u16) {
        ip.version_class_label = [0x60, 0, 0, 0];
        ip.payload_len = payload_len.to_be_bytes();
        ip.next_header = protocol;
        ip.hop_limit = TTL;
        ip.src.set(src);
        ip.dst.set(dst);
    }

    #[inline(always)]
    fn pseudo_sum(src: Ipv6Be, dst: Ipv6Be, protocol: u8, len: u16) -> u64 {
        src.sum()
            + dst.sum()
            + u64::from(u16::from_ne_bytes([0, protocol]))
            + u64::from(len.to_be())
    }

    tables!(FLOWS6, HALF_OPEN6, WORK6);
}

/// Walks over the extension headers to what the packet carries.
#[inline(always)]
fn skip_extensions(ctx: &XdpContext, l2_len: usize, ip: &mut Ip<V6>) -> Option<()> {
    let mut len = ip.headers_len;
    for _ in 0..EXTENSIONS_MAX {
        if !matches!(ip.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        let extension = header::<[u8; 8]>(ctx, l2_len + len)?;
        // SAFETY: `header` checked the bounds.
        let [next, more, offset_high, segments_or_offset, ..] = unsafe { *extension };
        if ip.protocol == FRAGMENT {
            len += 8;
            // An offset of 0 and no more fragments is a whole packet (RFC 6946).
            match u16::from_be_bytes([offset_high, segments_or_offset]) & 0xfff9 {
                0 => {}
                1 => ip.fragment = Fragment::First,
                _ => ip.fragment = Fragment::Later,
            }
        } else {
            // Its destination is another one than the header says.
            if ip.protocol == ROUTING && segments_or_offset != 0 {
                return None;
            }
            len += (usize::from(more) + 1) * 8;
        }
        ip.protocol = next;
        if ip.fragment == Fragment::Later {
            break;
        }
    }
    // Through memory, so that the verifier follows one unknown length and not one per number of headers.
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU, and XDP programs of one CPU do not preempt each other.
    let len = unsafe {
        (&raw mut (*scratch).headers_len).write_volatile(len as u32);
        (&raw const (*scratch).headers_len).read_volatile()
    } as usize;
    ip.headers_len = len & HEADERS_LEN_MASK;
    Some(())
}

/// One's complement sum of a header.
#[inline(always)]
pub(crate) fn sum<T>(header: &T) -> u64 {
    const { assert!(align_of::<T>() == 1 && size_of::<T>().is_multiple_of(4) && size_of::<T>() <= 64) };
    let start = core::ptr::from_ref(header).cast::<u32>();
    let mut sum = 0;
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: inside the header, all of whose bytes are initialized.
        sum += u64::from(unsafe { start.add(i).read_unaligned() });
        i += 1;
    }
    sum
}
