//! Bounds-checked access to headers; the only module that touches packet memory.
//!
//! Headers are structs of byte arrays: alignment 1, every bit pattern valid.

use aya_ebpf::programs::XdpContext;
use pairflip_common::{
    be::{Ipv4Be, Mac, PortBe},
    csum::Delta,
    flow::{FlowEntry, FlowKey},
};

pub(crate) const ETHERNET_LEN: usize = size_of::<Ethernet>();
pub(crate) const IPV4_LEN: usize = size_of::<Ipv4>();
pub(crate) const TCP_LEN: usize = size_of::<Tcp>();

pub(crate) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
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

#[repr(C)]
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

#[repr(C)]
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

/// A TCP packet with all three headers inside the packet.
///
/// Made only by [`Segment::parse`]; the pointers are valid until the packet is resized.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    ethernet: *mut Ethernet,
    ip: *mut Ipv4,
    tcp: *mut Tcp,
    pub(crate) key: FlowKey,
    pub(crate) flags: u8,
    /// Bytes of the IP packet after both headers.
    pub(crate) payload_len: u32,
    /// Bytes of the frame as the IP header has it, Ethernet header included.
    pub(crate) frame_len: u32,
}

impl Segment {
    /// Parses the TCP header behind an IPv4 header at the usual place; `None` if lengths do not fit.
    #[inline(always)]
    pub(crate) fn parse(ctx: &XdpContext, ip: *mut Ipv4) -> Option<Self> {
        let ethernet = header::<Ethernet>(ctx, 0)?;
        // SAFETY: `ip` came from `header`, which checked its bounds.
        let Ipv4 { version_ihl, total_len, src, dst, .. } = unsafe { *ip };
        let ip_len = usize::from(version_ihl & 0x0f) * 4;
        if ip_len < IPV4_LEN {
            return None;
        }
        let tcp = header::<Tcp>(ctx, ETHERNET_LEN + ip_len)?;
        // SAFETY: `header` checked the bounds.
        let Tcp { src_port, dst_port, data_offset, flags, .. } = unsafe { *tcp };
        let tcp_len = u32::from(data_offset >> 4) * 4;
        let total_len = u32::from(u16::from_be_bytes(total_len));
        let headers_len = ip_len as u32 + tcp_len;
        let available = (ctx.data_end() - ctx.data()) as u32;
        if tcp_len < TCP_LEN as u32
            || total_len < headers_len
            || total_len + ETHERNET_LEN as u32 > available
        {
            return None;
        }
        Some(Self {
            ethernet,
            ip,
            tcp,
            key: FlowKey { src, dst, src_port, dst_port },
            flags,
            payload_len: total_len - headers_len,
            frame_len: total_len + ETHERNET_LEN as u32,
        })
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
        unsafe { (*self.ip).ttl }
    }

    /// Sequence number behind this segment: SYN and FIN take one each (RFC 9293, section 3.4).
    #[inline(always)]
    pub(crate) fn seq_end(&self) -> u32 {
        self.seq()
            .wrapping_add(self.payload_len)
            .wrapping_add(u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0))
    }

    /// Rewrites addresses, ports and MACs, and takes one off the TTL as a router does (RFC 1812, section 5.3.1).
    #[inline(always)]
    pub(crate) fn rewrite(&self, entry: &FlowEntry, src: Mac, dst: Mac) {
        // SAFETY: `parse` checked the bounds of all three headers.
        let (ethernet, ip, tcp) = unsafe { (&mut *self.ethernet, &mut *self.ip, &mut *self.tcp) };
        ethernet.dst = dst;
        ethernet.src = src;
        let old = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.ttl -= 1;
        let new = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.checksum = Delta::from_folded(entry.ip_delta)
            .replace(old, new)
            .apply(u16::from_ne_bytes(ip.checksum))
            .to_ne_bytes();
        ip.src = entry.rewrite.src;
        ip.dst = entry.rewrite.dst;
        tcp.checksum = Delta::from_folded(entry.tcp_delta)
            .apply(u16::from_ne_bytes(tcp.checksum))
            .to_ne_bytes();
        tcp.src_port = entry.rewrite.src_port;
        tcp.dst_port = entry.rewrite.dst_port;
    }
}
