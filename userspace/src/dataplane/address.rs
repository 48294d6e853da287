//! Addresses of the standard library against those of the kernel's tables.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use pairflip_common::{
    be::{Address, AnyAddress, Ipv4Be, PortBe},
    flow::{FlowEntry, FlowKey},
    route::{FILTER_SLOTS, Tags, filter_slot},
};

pub(super) fn any(address: IpAddr) -> AnyAddress {
    match address {
        IpAddr::V4(address) => Ipv4Be::new(address.octets()).any(),
        IpAddr::V6(address) => AnyAddress::new(address.octets()),
    }
}

pub(super) fn ip(any: AnyAddress) -> IpAddr {
    Ipv6Addr::from(any.octets()).to_canonical()
}

pub(super) fn socket(any: AnyAddress, port: PortBe) -> SocketAddr {
    SocketAddr::new(ip(any), port.host())
}

pub(super) fn slot(address: IpAddr) -> u32 {
    let slot = filter_slot(any(address));
    debug_assert!(slot < FILTER_SLOTS);
    slot
}

/// A key with addresses of another type: of one family, or of both.
pub(super) fn convert<A: Address, B: Address>(key: &FlowKey<A>) -> FlowKey<B> {
    FlowKey {
        src: B::from_any(key.src.any()),
        dst: B::from_any(key.dst.any()),
        src_port: key.src_port,
        dst_port: key.dst_port,
    }
}

/// The same for an entry.
pub(super) fn convert_entry<A: Address, B: Address>(entry: &FlowEntry<A>) -> FlowEntry<B> {
    FlowEntry {
        rewrite: convert(&entry.rewrite),
        ip_delta: entry.ip_delta,
        tcp_delta: entry.tcp_delta,
        client_mac: entry.client_mac,
        client_device: entry.client_device,
        last_seen: entry.last_seen,
        opened: entry.opened,
        seq_next: entry.seq_next,
        ack: entry.ack,
        packets: entry.packets,
        generation: entry.generation,
        bytes: entry.bytes,
        backend: entry.backend,
        cluster: entry.cluster,
        state: entry.state,
        direction: entry.direction,
        flags: entry.flags,
        forwarding: entry.forwarding,
    }
}

/// Protocol and identifier of up to two VLAN tags, outermost first, as the tables have them; `None` if there are more.
pub(super) fn tags(tags: &[(u16, u16)]) -> Option<Tags> {
    let tag = |index: usize| {
        tags.get(index).map_or([0; 4], |(protocol, id)| {
            let ([a, b], [c, d]) = (protocol.to_be_bytes(), (id & 0x0fff).to_be_bytes());
            [a, b, c, d]
        })
    };
    (tags.len() <= 2).then(|| Tags::new(tag(0), tag(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_survive_the_tables() {
        for text in ["10.0.0.7", "2001:db8::7", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(any(address)), address);
        }
    }

    #[test]
    fn tags_are_written_as_the_frame_has_them() {
        assert_eq!(tags(&[]), Some(Tags::NONE));
        assert_eq!(tags(&[(0x8100, 100)]), Some(Tags::new([0x81, 0, 0, 100], [0; 4])));
        assert_eq!(
            tags(&[(0x88a8, 0x0abc), (0x8100, 1)]),
            Some(Tags::new([0x88, 0xa8, 0x0a, 0xbc], [0x81, 0, 0, 1]))
        );
        assert_eq!(tags(&[(0x8100, 1); 3]), None);
    }
}
