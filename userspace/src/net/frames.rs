//! Raw Ethernet frames: building the few that the daemon sends itself, and sending them.
//!
//! The daemon ends a flow of a dead backend by an RST to each side, and announces VIPs by ARP.
//! Building is pure.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The shortest Ethernet frame without its checksum; shorter payloads are padded with zeros (IEEE
/// 802.3).
pub const FRAME_BYTES: usize = 60;
/// A MAC address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const IP_AT: usize = 14;
const TCP_AT: usize = IP_AT + IP_BYTES;
const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const TTL: u8 = 64;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;

/// A TCP segment that ends a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rst {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: SocketAddrV4,
    pub dst: SocketAddrV4,
    /// What the receiver expects next; anything else is ignored or answered by a challenge (RFC
    /// 5961, 3.2).
    pub seq: u32,
    /// Present in answers and for established connections; a bare RST has none.
    pub ack: Option<u32>,
}

impl Rst {
    /// Returns the frame with both checksums filled in.
    #[must_use]
    pub fn to_frame(&self) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        put_ethernet(&mut frame, self.dst_mac, self.src_mac, ETHERTYPE_IPV4);

        let ip = &mut frame[IP_AT..TCP_AT];
        ip[0] = 0x45; // Version 4, five words of header.
        ip[2..4].copy_from_slice(&((IP_BYTES + TCP_BYTES) as u16).to_be_bytes());
        ip[6] = 0x40; // Do not fragment: then the identification may be 0 (RFC 6864, 4.1).
        ip[8] = TTL;
        ip[9] = libc::IPPROTO_TCP as u8;
        ip[12..16].copy_from_slice(&self.src.ip().octets());
        ip[16..20].copy_from_slice(&self.dst.ip().octets());
        let checksum = finish(sum(ip));
        ip[10..12].copy_from_slice(&checksum);

        let tcp = &mut frame[TCP_AT..TCP_AT + TCP_BYTES];
        tcp[0..2].copy_from_slice(&self.src.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.dst.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.unwrap_or_default().to_be_bytes());
        tcp[12] = ((TCP_BYTES / 4) as u8) << 4;
        tcp[13] = FLAG_RST | if self.ack.is_some() { FLAG_ACK } else { 0 };
        let pseudo = sum(&self.src.ip().octets())
            + sum(&self.dst.ip().octets())
            + libc::IPPROTO_TCP as u32
            + TCP_BYTES as u32;
        let checksum = finish(pseudo + sum(tcp));
        tcp[16..18].copy_from_slice(&checksum);
        frame
    }
}

/// Returns an ARP announcement: a broadcast request for `address` from `address` (RFC 5227, 2.3).
///
/// The request form, because switches learn from both and some hosts ignore unsolicited replies.
#[must_use]
pub fn arp_announcement(mac: Mac, address: Ipv4Addr) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    put_ethernet(&mut frame, BROADCAST, mac, ETHERTYPE_ARP);
    let arp = &mut frame[IP_AT..IP_AT + 28];
    arp[0..2].copy_from_slice(&1u16.to_be_bytes()); // Ethernet.
    arp[2..4].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    arp[4] = 6;
    arp[5] = 4;
    arp[6..8].copy_from_slice(&1u16.to_be_bytes()); // Request.
    arp[8..14].copy_from_slice(&mac);
    arp[14..18].copy_from_slice(&address.octets());
    // The target's MAC stays zero, as in a probe.
    arp[24..28].copy_from_slice(&address.octets());
    frame
}

fn put_ethernet(frame: &mut [u8; FRAME_BYTES], dst: Mac, src: Mac, ethertype: u16) {
    frame[0..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

/// Adds up big-endian words (RFC 1071). Even lengths only, far below the 128 KiB at which a `u32`
/// could overflow.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn finish(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Sends frames as they are. Needs `CAP_NET_RAW`; stays in the network namespace in which it was
/// opened.
#[derive(Debug)]
pub struct FrameSender(OwnedFd);

impl FrameSender {
    /// Opens the socket. It never receives: its protocol is 0.
    pub fn open() -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned by socket(2), so it is open and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends one frame out of an interface, past routing and neighbours. Fails rather than waits
    /// when the queue is full.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: sockaddr_ll is integers and byte arrays only, for which zero is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        // SAFETY: `frame` and `to` are live for the call, and their lengths are given in bytes.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 0xa];
    const B: Mac = [2, 0, 0, 0, 0, 0xb];

    #[test]
    fn a_reset_is_the_bytes_that_the_rfcs_say() {
        let frame = reset(Some(0x0102_0304)).to_frame();
        let expected: [u8; FRAME_BYTES] = [
            2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa, 8, 0, // Ethernet
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x26, 0xce, // IPv4
            10, 0, 0, 1, 10, 0, 0, 2, //
            0x0c, 0xea, 0x80, 0, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 0x50, 0x14, 0, 0, // TCP
            0x6d, 0x40, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn checksums_of_a_reset_verify() {
        for ack in [None, Some(0), Some(u32::MAX)] {
            let frame = reset(ack).to_frame();
            assert_eq!(finish(sum(&frame[IP_AT..TCP_AT])), [0, 0]);
            let pseudo = sum(&frame[IP_AT + 12..TCP_AT]) + 6 + 20;
            assert_eq!(finish(pseudo + sum(&frame[TCP_AT..TCP_AT + TCP_BYTES])), [0, 0]);
        }
    }

    #[test]
    fn a_reset_without_acknowledgement_has_neither_flag_nor_number() {
        let frame = reset(None).to_frame();
        assert_eq!(frame[TCP_AT + 13], FLAG_RST);
        assert_eq!(frame[TCP_AT + 8..TCP_AT + 12], [0; 4]);
    }

    #[test]
    fn an_announcement_is_a_request_for_ones_own_address() {
        let frame = arp_announcement(A, Ipv4Addr::new(10, 0, 0, 100));
        let mut expected = vec![0xff; 6];
        expected.extend(A);
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        expected.extend(A);
        expected.extend([10, 0, 0, 100, 0, 0, 0, 0, 0, 0, 10, 0, 0, 100]);
        expected.resize(FRAME_BYTES, 0);
        assert_eq!(frame[..], expected);
    }

    fn reset(ack: Option<u32>) -> Rst {
        Rst {
            src_mac: A,
            dst_mac: B,
            src: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 3306),
            dst: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 32768),
            seq: 0xdead_beef,
            ack,
        }
    }
}
