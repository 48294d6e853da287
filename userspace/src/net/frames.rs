//! Raw Ethernet frames: building the few that the daemon sends itself, and sending them.
//!
//! The daemon ends a flow of a dead backend by an RST to each side, and announces VIPs by ARP or by
//! neighbour advertisements. Building is pure.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The shortest Ethernet frame without its checksum; shorter payloads are padded with zeros (IEEE
/// 802.3).
pub const FRAME_BYTES_MIN: usize = 60;
/// A MAC address.
pub type Mac = [u8; 6];

/// Returns an address as people write it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

const BROADCAST: Mac = [0xff; 6];
/// The MAC of [`ALL_NODES`]: 33:33 and its last four bytes (RFC 2464, 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
/// Every IPv6 host of the link (RFC 4291, 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const TTL: u8 = 64;
/// Neighbours ignore an advertisement with less: only a host of the same link can send it (RFC
/// 4861, 7.1.2).
const HOP_LIMIT_OF_NEIGHBOURS: u8 = 255;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;
const ICMPV6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Replaces what the receiver knew (RFC 4861, 4.4). Not solicited, and not a router.
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// An IEEE 802.1Q tag in front of a frame's EtherType.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct VlanTag {
    /// 0x8100 (802.1Q), or 0x88a8 (802.1ad) for a provider's outer tag.
    pub protocol: u16,
    /// 1 to 4094.
    pub id: u16,
}

/// A TCP segment without data that ends a connection, or asks how it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Segment {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    /// Outermost first; all have priority 0.
    pub tags: Vec<VlanTag>,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// What the receiver expects next; anything else is ignored or answered by a challenge (RFC
    /// 5961, 3.2).
    pub seq: u32,
    /// Present in answers and for established connections; a bare RST has none.
    pub ack: Option<u32>,
    pub kind: SegmentKind,
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SegmentKind {
    /// RST.
    Reset,
    /// What a keepalive looks like: with a number that the receiver has passed, which it answers by saying what it expects (RFC 9293,
    /// section 3.8.4).
    Probe,
}

impl Segment {
    /// Returns the frame with all checksums filled in, or `None` if `src` and `dst` are of
    /// different families.
    #[must_use]
    pub fn to_frame(&self) -> Option<Vec<u8>> {
        let tcp = self.segment();
        let (ethertype, header) = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => (ETHERTYPE_IPV4, ipv4(src, dst).to_vec()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                (ETHERTYPE_IPV6, ipv6(src, dst, libc::IPPROTO_TCP, TCP_BYTES, TTL))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let mut frame = ethernet(self.dst_mac, self.src_mac, &self.tags, ethertype);
        frame.extend(header);
        frame.extend(tcp);
        Some(padded(frame))
    }

    fn segment(&self) -> [u8; TCP_BYTES] {
        let mut tcp = [0; TCP_BYTES];
        tcp[0..2].copy_from_slice(&self.src.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.dst.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.unwrap_or_default().to_be_bytes());
        tcp[12] = ((TCP_BYTES / 4) as u8) << 4;
        let reset = if self.kind == SegmentKind::Reset { FLAG_RST } else { 0 };
        tcp[13] = reset | if self.ack.is_some() { FLAG_ACK } else { 0 };
        let pseudo = pseudo(self.src.ip(), self.dst.ip(), libc::IPPROTO_TCP, TCP_BYTES);
        let checksum = finish(pseudo + sum(&tcp));
        tcp[16..18].copy_from_slice(&checksum);
        tcp
    }
}

/// Returns an ARP announcement: a broadcast request for `address` from `address` (RFC 5227, 2.3).
///
/// The request form, because switches learn from both and some hosts ignore unsolicited replies.
#[must_use]
pub fn arp_announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, &[], ETHERTYPE_ARP);
    frame.extend(1u16.to_be_bytes()); // Ethernet.
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    frame.extend([6, 4]);
    frame.extend(1u16.to_be_bytes()); // Request.
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]); // The target's MAC, as in a probe.
    frame.extend(address.octets());
    padded(frame)
}

/// Returns an unsolicited neighbour advertisement: `address` tells every host of the link that it
/// is at `mac` (RFC 4861, 7.2.6).
#[must_use]
pub fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![ICMPV6_NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    icmp.extend(address.octets());
    icmp.extend([OPTION_TARGET_LINK_LAYER_ADDRESS, 1]); // In units of eight bytes.
    icmp.extend(mac);
    let pseudo = pseudo(address.into(), ALL_NODES.into(), libc::IPPROTO_ICMPV6, icmp.len());
    let checksum = finish(pseudo + sum(&icmp));
    icmp[2..4].copy_from_slice(&checksum);

    let mut frame = ethernet(ALL_NODES_MAC, mac, &[], ETHERTYPE_IPV6);
    let hop_limit = HOP_LIMIT_OF_NEIGHBOURS;
    frame.extend(ipv6(address, ALL_NODES, libc::IPPROTO_ICMPV6, icmp.len(), hop_limit));
    frame.extend(icmp);
    padded(frame)
}

fn ethernet(dst: Mac, src: Mac, tags: &[VlanTag], ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_BYTES_MIN);
    frame.extend(dst);
    frame.extend(src);
    for tag in tags {
        frame.extend(tag.protocol.to_be_bytes());
        frame.extend(tag.id.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    frame
}

/// The header in front of a bare TCP header.
fn ipv4(src: Ipv4Addr, dst: Ipv4Addr) -> [u8; IPV4_BYTES] {
    let mut ip = [0; IPV4_BYTES];
    ip[0] = 0x45; // Version 4, five words of header.
    ip[2..4].copy_from_slice(&((IPV4_BYTES + TCP_BYTES) as u16).to_be_bytes());
    ip[6] = 0x40; // Do not fragment: then the identification may be 0 (RFC 6864, 4.1).
    ip[8] = TTL;
    ip[9] = libc::IPPROTO_TCP as u8;
    ip[12..16].copy_from_slice(&src.octets());
    ip[16..20].copy_from_slice(&dst.octets());
    let checksum = finish(sum(&ip));
    ip[10..12].copy_from_slice(&checksum);
    ip
}

/// Traffic class and flow label are 0.
fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, protocol: i32, payload_bytes: usize, hops: u8) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload_bytes as u16).to_be_bytes());
    ip.extend([protocol as u8, hops]);
    ip.extend(src.octets());
    ip.extend(dst.octets());
    ip
}

/// Adds up the pseudo header of TCP and ICMPv6. Its fields are laid out differently in the two
/// families (RFC 9293, 3.1; RFC 8200, 8.1), but the sum is the same.
fn pseudo(src: IpAddr, dst: IpAddr, protocol: i32, payload_bytes: usize) -> u32 {
    let sum_of = |address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    sum_of(src) + sum_of(dst) + protocol as u32 + payload_bytes as u32
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
    use etherparse::{Icmpv6Type, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 0xa];
    const B: Mac = [2, 0, 0, 0, 0, 0xb];
    const VIP6: &str = "2001:db8::100";
    const CUSTOMER: VlanTag = VlanTag { protocol: 0x8100, id: 4094 };
    const PROVIDER: VlanTag = VlanTag { protocol: 0x88a8, id: 0x123 };
    /// IPv4 behind Ethernet without tags.
    const TCP_AT: usize = 14 + IPV4_BYTES;

    #[test]
    fn a_reset_is_the_bytes_that_the_rfcs_say() {
        let frame = reset(Some(0x0102_0304)).to_frame().expect("one family");
        let expected: [u8; FRAME_BYTES_MIN] = [
            2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa, 8, 0, // Ethernet
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x26, 0xce, // IPv4
            10, 0, 0, 1, 10, 0, 0, 2, //
            0x0c, 0xea, 0x80, 0, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 0x50, 0x14, 0, 0, // TCP
            0x6d, 0x40, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(frame[..], expected);
    }

    #[test]
    fn segments_of_both_families_with_and_without_tags_are_read_by_others() {
        for ack in [None, Some(0), Some(u32::MAX)] {
            for tags in [vec![], vec![CUSTOMER], vec![PROVIDER, CUSTOMER]] {
                for kind in [SegmentKind::Reset, SegmentKind::Probe] {
                    check(&Segment { tags: tags.clone(), kind, ..reset(ack) });
                    check(&Segment { tags: tags.clone(), kind, ..reset6(ack) });
                }
            }
        }
    }

    #[test]
    fn an_ipv6_reset_needs_no_padding() {
        assert_eq!(reset6(None).to_frame().expect("one family").len(), 74);
        let tagged = Segment { tags: vec![PROVIDER, CUSTOMER], ..reset6(None) };
        assert_eq!(tagged.to_frame().expect("one family").len(), 82);
    }

    #[test]
    fn tags_stand_between_the_macs_and_the_ethertype_outermost_first() {
        let tagged = Segment { tags: vec![PROVIDER, CUSTOMER], ..reset(None) };
        let frame = tagged.to_frame().expect("one family");
        assert_eq!(frame[12..22], [0x88, 0xa8, 0x01, 0x23, 0x81, 0, 0x0f, 0xfe, 8, 0]);
        let plain = reset(None).to_frame().expect("one family");
        assert_eq!(frame[22..62], plain[14..54]);
    }

    #[test]
    fn a_reset_between_families_is_none() {
        let (four, six) = (reset(None), reset6(None));
        assert_eq!(Segment { dst: six.dst, ..four.clone() }.to_frame(), None);
        assert_eq!(Segment { dst: four.dst, ..six }.to_frame(), None);
    }

    #[test]
    fn a_reset_without_acknowledgement_has_neither_flag_nor_number() {
        let frame = reset(None).to_frame().expect("one family");
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
        expected.resize(FRAME_BYTES_MIN, 0);
        assert_eq!(frame, expected);
    }

    #[test]
    fn an_advertisement_tells_all_nodes_the_mac_of_its_source() {
        let vip: Ipv6Addr = VIP6.parse().expect("address");
        let frame = neighbour_advertisement(A, vip);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[6..12], A);
        let packet = SlicedPacket::from_ethernet(&frame).expect("frame");
        let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
        let header = ip.header();
        assert_eq!(header.source_addr(), vip);
        assert_eq!(header.destination_addr(), "ff02::1".parse::<Ipv6Addr>().expect("address"));
        assert_eq!(header.hop_limit(), 255);
        assert_eq!(usize::from(header.payload_length()) + 14 + 40, frame.len());
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("{packet:?}") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else {
            panic!("{:?}", icmp.icmp_type())
        };
        assert!(flags.r#override && !flags.solicited && !flags.router);
        let mut rest = vip.octets().to_vec();
        rest.extend([2, 1]);
        rest.extend(A);
        assert_eq!(icmp.payload(), rest);
    }

    /// Has etherparse read the frame, and compares every field and checksum.
    fn check(segment: &Segment) {
        let frame = segment.to_frame().expect("one family");
        assert!(frame.len() >= FRAME_BYTES_MIN);
        let packet = SlicedPacket::from_ethernet(&frame).expect("frame");
        let ethernet = packet.link.as_ref().and_then(|link| link.to_header()).expect("Ethernet");
        let ethernet = ethernet.ethernet2().expect("Ethernet");
        assert_eq!((ethernet.destination, ethernet.source), (segment.dst_mac, segment.src_mac));

        let mut ethertypes = vec![ethernet.ether_type.0];
        let mut ids = Vec::new();
        for extension in &packet.link_exts {
            let LinkExtSlice::Vlan(tag) = extension else { panic!("{extension:?}") };
            ids.push(tag.vlan_identifier().value());
            ethertypes.push(tag.ether_type().0);
            assert_eq!(tag.priority_code_point().value(), 0);
            assert!(!tag.drop_eligible_indicator());
        }
        assert_eq!(ids, segment.tags.iter().map(|tag| tag.id).collect::<Vec<_>>());
        let payload = if segment.src.is_ipv4() { 0x0800 } else { 0x86dd };
        let protocols: Vec<u16> =
            segment.tags.iter().map(|tag| tag.protocol).chain([payload]).collect();
        assert_eq!(ethertypes, protocols);

        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("{packet:?}") };
        let header = tcp.to_header();
        let (src, dst, checksum) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                assert_eq!((ip.total_len(), ip.ttl(), ip.dont_fragment()), (40, 64, true));
                let checksum = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), &[]);
                (IpAddr::V4(ip.source_addr()), IpAddr::V4(ip.destination_addr()), checksum)
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                assert_eq!((ip.payload_length(), ip.hop_limit()), (20, 64));
                let checksum = header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), &[]);
                (IpAddr::V6(ip.source_addr()), IpAddr::V6(ip.destination_addr()), checksum)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(header.checksum, checksum.expect("checksum"));
        assert_eq!(SocketAddr::new(src, header.source_port), segment.src);
        assert_eq!(SocketAddr::new(dst, header.destination_port), segment.dst);
        assert_eq!(header.sequence_number, segment.seq);
        assert_eq!(header.acknowledgment_number, segment.ack.unwrap_or(0));
        let resets = segment.kind == SegmentKind::Reset;
        assert_eq!((header.rst, header.ack), (resets, segment.ack.is_some()));
        assert!(!header.syn && !header.fin && !header.psh && header.window_size == 0);
    }

    fn reset(ack: Option<u32>) -> Segment {
        Segment {
            src_mac: A,
            dst_mac: B,
            tags: vec![],
            src: "10.0.0.1:3306".parse().expect("address"),
            dst: "10.0.0.2:32768".parse().expect("address"),
            seq: 0xdead_beef,
            ack,
            kind: SegmentKind::Reset,
        }
    }

    fn reset6(ack: Option<u32>) -> Segment {
        Segment {
            src: "[2001:db8::1]:3306".parse().expect("address"),
            dst: "[2001:db8:ffff::2]:32768".parse().expect("address"),
            ..reset(ack)
        }
    }
}
