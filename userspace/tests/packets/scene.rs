//! A connection and the packets that its ends send.

use std::net::{IpAddr, SocketAddr};

use pairflip::dataplane::FlowId;
use pairflip_common::{
    be::{Address, AnyAddress, Ipv4Be, PortBe},
    flow::FlowKey,
};

use crate::{
    bench::{ACK, OWN_MAC},
    frames::{Body, Icmp, Packet, Quote, Tag, Tcp},
    world::BACKEND_OWN_MAC,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Backend,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    /// Nothing was sent.
    Fresh,
    HalfOpen,
    /// The server's SYN went through; in `dsr` it is not seen.
    Answered,
    Open,
    ClientClosed,
    ServerClosed,
    BothClosed,
    /// Ended by the daemon.
    Cut,
}

impl When {
    pub(crate) fn client_closed(self) -> bool {
        matches!(self, Self::ClientClosed | Self::BothClosed)
    }

    pub(crate) fn server_closed(self) -> bool {
        matches!(self, Self::ServerClosed | Self::BothClosed)
    }
}

pub(crate) const CLIENT_FIRST: u32 = 1000;
pub(crate) const SERVER_FIRST: u32 = 5000;

/// A connection, and the packets that its ends send next.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    /// The client as the backend sees it.
    pub(crate) source: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) router: IpAddr,
    pub(crate) stranger: SocketAddr,
    pub(crate) snat: IpAddr,
    /// Next sequence number of client and server.
    pub(crate) c: u32,
    pub(crate) s: u32,
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) tags: [Vec<Tag>; 2],
}

impl Scene {
    /// Ends of packets on the far side of those that come `from` one.
    pub(crate) fn beyond(&self, from: Side) -> (SocketAddr, SocketAddr) {
        match from {
            Side::Client => (self.source, self.backend),
            Side::Backend => (self.vip, self.client),
        }
    }

    pub(crate) fn packet(
        &self,
        from: Side,
        src: SocketAddr,
        dst: SocketAddr,
        body: Body,
    ) -> Packet {
        let mut packet = Packet::new(src, dst, body);
        packet.src_mac = self.macs[from as usize];
        packet.dst_mac = match from {
            Side::Client => OWN_MAC,
            Side::Backend => BACKEND_OWN_MAC,
        };
        packet.tags.clone_from(&self.tags[from as usize]);
        packet
    }

    pub(crate) fn from(&self, side: Side, flags: u8) -> Packet {
        let (src, dst, seq, ack) = match side {
            Side::Client => (self.client, self.vip, self.c, self.s),
            Side::Backend => (self.backend, self.source, self.s, self.c),
        };
        let ack = if flags & ACK == 0 { 0 } else { ack };
        let tcp = Tcp { seq, ack, flags, window: 4321, ..Tcp::default() };
        self.packet(side, src, dst, Body::Tcp(tcp))
    }

    pub(crate) fn client(&self, flags: u8) -> Packet {
        self.from(Side::Client, flags)
    }

    pub(crate) fn server(&self, flags: u8) -> Packet {
        self.from(Side::Backend, flags)
    }

    /// An error that came `from` one side, about a packet that we sent there, of which it quotes so much of TCP.
    pub(crate) fn error(
        &self,
        from: Side,
        (kind, code): (u8, u8),
        rest: [u8; 4],
        tcp_len: usize,
    ) -> Packet {
        let (other, data) = match from {
            Side::Client => (Side::Backend, b"a row"),
            Side::Backend => (Side::Client, b"query"),
        };
        let (to, dst) = match from {
            Side::Client => ((self.vip, self.client), self.vip),
            Side::Backend => ((self.source, self.backend), self.source),
        };
        let quoted = self.from(other, ACK).payload(data).between(to.0, to.1).ttl(3);
        let quote = Quote::Packet(Box::new(quoted), tcp_len);
        let src = SocketAddr::new(self.router, 0);
        self.packet(from, src, dst, Body::Icmp(Icmp { kind, code, rest, quote }))
    }

    pub(crate) fn id(&self) -> FlowId {
        FlowKey {
            src: any(self.client.ip()),
            dst: any(self.vip.ip()),
            src_port: PortBe::new(self.client.port()),
            dst_port: PortBe::new(self.vip.port()),
        }
    }
}

pub(crate) fn any(address: IpAddr) -> AnyAddress {
    match address {
        IpAddr::V4(address) => Ipv4Be::new(address.octets()).any(),
        IpAddr::V6(address) => AnyAddress::new(address.octets()),
    }
}
