//! Packets as values. etherparse makes the bytes and every checksum, so a packet that is expected is compared byte for byte.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber,
    Ipv4Header, Ipv6Header, SingleVlanHeader, TcpHeader,
};

use crate::bench::{ACK, FIN, PSH, RST, SYN};

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION: u8 = 60;
const ICMP4: u8 = 1;
const TCP: u8 = 6;
const ICMP6: u8 = 58;

/// A VLAN tag in a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    pub(crate) protocol: u16,
    pub(crate) id: u16,
    pub(crate) priority: u8,
    pub(crate) may_drop: bool,
}

/// A frame with an IP packet in it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) src_mac: [u8; 6],
    pub(crate) dst_mac: [u8; 6],
    pub(crate) tags: Vec<Tag>,
    /// Ports count in TCP only.
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) ttl: u8,
    /// The type of service or traffic class, the identification or flow label.
    pub(crate) class: u8,
    pub(crate) label: u16,
    /// Offset in units of 8 bytes, and whether more follow.
    pub(crate) fragment: Option<(u16, bool)>,
    pub(crate) ip_options: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) body: Body,
    /// Padding of the frame.
    pub(crate) trailer: Vec<u8>,
}

/// An IPv6 extension header; its first byte is the number of what follows it.
pub(crate) type Extension = (u8, Vec<u8>);

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Tcp(Tcp),
    Icmp(Icmp),
    Other(u8, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) rest: [u8; 4],
    pub(crate) quote: Quote,
}

#[derive(Clone, Debug)]
pub(crate) enum Quote {
    /// This many bytes of TCP.
    Packet(Box<Packet>, usize),
    Bytes(Vec<u8>),
}

impl Packet {
    pub(crate) fn new(src: SocketAddr, dst: SocketAddr, body: Body) -> Self {
        Self {
            src_mac: [0; 6],
            dst_mac: [0; 6],
            tags: Vec::new(),
            src,
            dst,
            ttl: 61,
            class: 0x2a,
            label: 0x1234,
            fragment: None,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            body,
            trailer: Vec::new(),
        }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    pub(crate) fn between(self, src: SocketAddr, dst: SocketAddr) -> Self {
        Self { src, dst, ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub(crate) fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset, more)), ..self }
    }

    pub(crate) fn trailer(self, len: usize) -> Self {
        Self { trailer: vec![0xa5; len], ..self }
    }

    /// IPv4 options, or one extension header of each kind and length that IPv6 has for the same.
    pub(crate) fn with_options(mut self, words: usize) -> Self {
        if self.is_v4() {
            self.ip_options = vec![1; 4 * words];
        } else {
            self.extensions.push(extension(HOP_BY_HOP, words));
        }
        self
    }

    pub(crate) fn extensions(self, numbers: &[u8]) -> Self {
        let extensions = numbers.iter().map(|number| extension(*number, 1)).collect();
        Self { extensions, ..self }
    }

    pub(crate) fn tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            change(tcp);
        }
        self
    }

    pub(crate) fn seq(self, seq: u32) -> Self {
        self.tcp(|tcp| tcp.seq = seq)
    }

    pub(crate) fn ack(self, ack: u32) -> Self {
        self.tcp(|tcp| tcp.ack = ack)
    }

    pub(crate) fn payload(self, payload: &[u8]) -> Self {
        self.tcp(|tcp| tcp.payload = payload.to_vec())
    }

    /// Fills the payload up so that the IP packet has this length.
    pub(crate) fn len(self, len: usize) -> Self {
        let headers = self.clone().payload(&[]).ip_bytes().len();
        let payload: Vec<u8> = (headers..len).map(|n| n as u8).collect();
        self.payload(&payload)
    }

    pub(crate) fn is_tcp(&self) -> Option<&Tcp> {
        match &self.body {
            Body::Tcp(tcp) => Some(tcp),
            Body::Icmp(_) | Body::Other(..) => None,
        }
    }

    /// The IP packet.
    pub(crate) fn ip_bytes(&self) -> Vec<u8> {
        let (protocol, body) = self.body_bytes();
        let mut bytes = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let number = IpNumber(protocol);
                let (src, dst) = (src.octets(), dst.octets());
                let mut ip = Ipv4Header::new(0, self.ttl, number, src, dst).unwrap();
                ip.dscp = (self.class >> 2).try_into().unwrap();
                ip.ecn = (self.class & 3).try_into().unwrap();
                ip.identification = self.label;
                ip.options = self.ip_options.as_slice().try_into().unwrap();
                ip.set_payload_len(body.len()).unwrap();
                if let Some((offset, more)) = self.fragment {
                    ip.dont_fragment = false;
                    ip.fragment_offset = offset.try_into().unwrap();
                    ip.more_fragments = more;
                }
                ip.header_checksum = ip.calc_header_checksum();
                ip.to_bytes().to_vec()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut next = protocol;
                let mut chain = Vec::new();
                for (number, mut bytes) in self.chain().into_iter().rev() {
                    bytes[0] = next;
                    next = number;
                    chain.splice(0..0, bytes);
                }
                let ip = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: u32::from(self.label).try_into().unwrap(),
                    payload_length: (chain.len() + body.len()) as u16,
                    next_header: IpNumber(next),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                [ip.to_bytes().as_slice(), &chain].concat()
            }
            (src, dst) => panic!("{src} and {dst} are of two families"),
        };
        bytes.extend(body);
        bytes
    }

    /// Bytes in front of the TCP or ICMP header.
    pub(crate) fn headers_len(&self) -> usize {
        self.ip_bytes().len() - self.body_bytes().1.len()
    }

    fn chain(&self) -> Vec<Extension> {
        let fragment = self.fragment.map(|(offset, more)| {
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            (FRAGMENT, vec![0, 0, a, b, 9, 9, 9, 9])
        });
        self.extensions.iter().cloned().chain(fragment).collect()
    }

    fn body_bytes(&self) -> (u8, Vec<u8>) {
        match &self.body {
            Body::Tcp(tcp) => (TCP, self.tcp_bytes(tcp)),
            Body::Icmp(icmp) => self.icmp_bytes(icmp),
            Body::Other(protocol, bytes) => (*protocol, bytes.clone()),
        }
    }

    fn tcp_bytes(&self, tcp: &Tcp) -> Vec<u8> {
        let mut header = TcpHeader::new(self.src.port(), self.dst.port(), tcp.seq, tcp.window);
        header.acknowledgment_number = tcp.ack;
        header.fin = tcp.flags & FIN != 0;
        header.syn = tcp.flags & SYN != 0;
        header.rst = tcp.flags & RST != 0;
        header.psh = tcp.flags & PSH != 0;
        header.ack = tcp.flags & ACK != 0;
        header.set_options_raw(&tcp.options).unwrap();
        header.checksum = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &tcp.payload).unwrap()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &tcp.payload).unwrap()
            }
            (src, dst) => panic!("{src} and {dst} are of two families"),
        };
        [header.to_bytes().as_slice(), &tcp.payload].concat()
    }

    fn icmp_bytes(&self, icmp: &Icmp) -> (u8, Vec<u8>) {
        let quote = match &icmp.quote {
            Quote::Bytes(bytes) => bytes.clone(),
            Quote::Packet(packet, tcp_len) => {
                let mut bytes = packet.ip_bytes();
                bytes.truncate(packet.headers_len() + tcp_len);
                bytes
            }
        };
        let (type_u8, code_u8, bytes5to8) = (icmp.kind, icmp.code, icmp.rest);
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
                let (src, dst) = (src.octets(), dst.octets());
                let header = Icmpv6Header::with_checksum(kind, src, dst, &quote).unwrap();
                (ICMP6, [header.to_bytes().as_slice(), &quote].concat())
            }
            _ => {
                let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
                let header = Icmpv4Header::with_checksum(kind, &quote);
                (ICMP4, [header.to_bytes().as_slice(), &quote].concat())
            }
        }
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ip = if self.is_v4() { EtherType::IPV4 } else { EtherType::IPV6 };
        // Each header says what follows it.
        let mut types: Vec<EtherType> =
            self.tags.iter().map(|tag| EtherType(tag.protocol)).collect();
        types.push(ip);
        let ethernet = Ethernet2Header {
            source: self.src_mac,
            destination: self.dst_mac,
            ether_type: types[0],
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        for (tag, ether_type) in self.tags.iter().zip(&types[1..]) {
            let header = SingleVlanHeader {
                pcp: tag.priority.try_into().unwrap(),
                drop_eligible_indicator: tag.may_drop,
                vlan_id: tag.id.try_into().unwrap(),
                ether_type: *ether_type,
            };
            bytes.extend(header.to_bytes());
        }
        bytes.extend(self.ip_bytes());
        bytes.extend(&self.trailer);
        bytes
    }
}

/// An extension header of this many times 8 bytes that asks for nothing: padding options, or a routing header with no hops left.
fn extension(number: u8, units: usize) -> Extension {
    let mut bytes = vec![0; 8 * units];
    bytes[1] = units as u8 - 1;
    match number {
        FRAGMENT => bytes = vec![0, 0, 0, 0, 7, 7, 7, 7],
        // PadN over what is left.
        HOP_BY_HOP | DESTINATION => (bytes[2], bytes[3]) = (1, 8 * units as u8 - 4),
        _ => bytes[2] = 4,
    }
    (number, bytes)
}
