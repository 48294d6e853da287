//! Bounds-checked access to headers; this module, `family` and `ethernet` are all that touches packet memory.
//!
//! Headers have alignment 1 and no bit pattern that is invalid.

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use pairflip_common::{
    be::{Mac, PortBe},
    csum::FoldedDelta,
    flow::{FlowEntry, FlowKey},
};

use crate::{
    family::{Family, Ip},
    work::Bench,
};

pub(crate) const TCP_LEN: usize = size_of::<Tcp>();
pub(crate) const PROTOCOL_TCP: u8 = 6;

/// Control bits of the TCP header (RFC 9293, section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    pub(crate) ethertype: [u8; 2],
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) src_port: PortBe,
    pub(crate) dst_port: PortBe,
    pub(crate) seq: [u8; 4],
    pub(crate) ack: [u8; 4],
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: [u8; 2],
    pub(crate) checksum: [u8; 2],
    pub(crate) urgent: [u8; 2],
}

/// Returns a pointer to a `T` at `offset`, if the packet is long enough.
#[inline(always)]
pub(crate) fn header<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// Sequence number behind a segment: SYN and FIN take one each (RFC 9293, section 3.4).
#[inline(always)]
pub(crate) fn seq_end(seq: [u8; 4], payload_len: u32, flags: u8) -> u32 {
    u32::from_be_bytes(seq)
        .wrapping_add(payload_len)
        .wrapping_add(u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0))
}

/// Where things are in a TCP packet.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Bytes in front of the IP header.
    pub(crate) l2_len: usize,
    /// Bytes of the IP header and what is between it and the TCP header.
    pub(crate) headers_len: usize,
    /// Bytes of the IP packet.
    pub(crate) ip_len: u32,
    /// Bytes of the frame in memory.
    pub(crate) frame_len: u32,
}

impl Place {
    /// Bytes that count: without padding.
    #[inline(always)]
    pub(crate) const fn bytes(&self) -> u32 {
        self.l2_len as u32 + self.ip_len
    }
}

/// A TCP packet with all its headers inside the packet.
///
/// Made only by [`Segment::parse`]; the pointers are valid until the packet is resized.
pub(crate) struct Segment<F: Family> {
    ethernet: *mut Ethernet,
    ip: *mut F::Header,
    tcp: *mut Tcp,
    pub(crate) bench: Bench<F::Address>,
    /// Filter marks of the source address.
    pub(crate) from: u64,
    pub(crate) flags: u8,
    pub(crate) place: Place,
    /// Bytes of the IP packet after the TCP header.
    pub(crate) payload_len: u32,
}

impl<F: Family> Segment<F> {
    /// Parses the TCP header behind an IP header; `None` if lengths do not fit. `frags`: the frame may lie in several buffers.
    #[inline(always)]
    pub(crate) fn parse(
        ctx: &XdpContext,
        l2_len: usize,
        ip: &Ip<F>,
        from: u64,
        frags: bool,
    ) -> Option<Self> {
        let ethernet = header::<Ethernet>(ctx, 0)?;
        let tcp = header::<Tcp>(ctx, l2_len + ip.headers_len)?;
        // SAFETY: `header` checked the bounds.
        let Tcp { src_port, dst_port, data_offset, flags, .. } = unsafe { *tcp };
        let tcp_len = u32::from(data_offset >> 4) * 4;
        let headers_len = ip.headers_len as u32 + tcp_len;
        if tcp_len < TCP_LEN as u32 || ip.total_len < headers_len {
            return None;
        }
        let mut frame_len = (ctx.data_end() - ctx.data()) as u32;
        if ip.total_len + l2_len as u32 > frame_len {
            if !frags {
                return None;
            }
            // SAFETY: the helper has no preconditions.
            frame_len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
            if ip.total_len + l2_len as u32 > frame_len {
                return None;
            }
        }
        let bench = F::bench()?;
        // SAFETY: `F::header` checked the bounds.
        let (src, dst) = F::addresses(unsafe { &*ip.header });
        bench.set_key(&src, &dst, src_port, dst_port);
        Some(Self {
            ethernet,
            ip: ip.header,
            tcp,
            bench,
            from,
            flags,
            place: Place { l2_len, headers_len: ip.headers_len, ip_len: ip.total_len, frame_len },
            payload_len: ip.total_len - headers_len,
        })
    }

    #[inline(always)]
    pub(crate) fn key(&self) -> &'static FlowKey<F::Address> {
        self.bench.key()
    }

    #[inline(always)]
    pub(crate) fn peer_key(&self, entry: &FlowEntry<F::Address>) -> &'static FlowKey<F::Address> {
        self.bench.peer_key(entry)
    }

    #[inline(always)]
    pub(crate) fn ethernet(&self) -> Ethernet {
        // SAFETY: `parse` checked the bounds.
        unsafe { *self.ethernet }
    }

    #[inline(always)]
    pub(crate) fn seq(&self) -> u32 {
        // SAFETY: `parse` checked the bounds.
        u32::from_be_bytes(unsafe { (*self.tcp).seq })
    }

    #[inline(always)]
    pub(crate) fn ack(&self) -> u32 {
        // SAFETY: `parse` checked the bounds.
        u32::from_be_bytes(unsafe { (*self.tcp).ack })
    }

    #[inline(always)]
    pub(crate) fn ttl(&self) -> u8 {
        // SAFETY: `parse` checked the bounds.
        F::ttl(unsafe { &*self.ip })
    }

    /// Sequence number behind this segment.
    #[inline(always)]
    pub(crate) fn seq_end(&self) -> u32 {
        // SAFETY: `parse` checked the bounds.
        seq_end(unsafe { (*self.tcp).seq }, self.payload_len, self.flags)
    }

    /// Rewrites addresses and ports, and takes one off the TTL as a router does (RFC 1812, section 5.3.1).
    #[inline(always)]
    pub(crate) fn rewrite(&self, entry: &FlowEntry<F::Address>) {
        // SAFETY: `parse` checked the bounds of both headers.
        let (ip, tcp) = unsafe { (&mut *self.ip, &mut *self.tcp) };
        F::rewrite(ip, &entry.rewrite.src, &entry.rewrite.dst, FoldedDelta::new(entry.ip_delta));
        tcp.checksum =
            FoldedDelta::new(entry.tcp_delta).apply(u16::from_ne_bytes(tcp.checksum)).to_ne_bytes();
        tcp.src_port = entry.rewrite.src_port;
        tcp.dst_port = entry.rewrite.dst_port;
    }
}
