//! Reading the kernel's netlink messages about routes, links, addresses and neighbours. Pure.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, Prop, VlanProtocol,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
};

use super::frames::{Mac, VlanTag};

/// What an Ethernet interface carries without further ado (IEEE 802.3). The kernel names the MTU of
/// every link; this is for messages that do not.
const ETHERNET_MTU: u32 = 1500;

/// Interface and address of a next hop. An IPv4 target may have an IPv6 next hop (`via
/// inet6`).
pub(super) type Neighbour = (u32, IpAddr);

/// A route as the kernel would use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) neighbour: Neighbour,
    /// `None` where the kernel named none; see [`source`].
    pub(super) source: Option<IpAddr>,
    /// The route's own MTU, or one that the kernel has learned on the way.
    pub(super) mtu: Option<u32>,
    /// Whether the target is on the interface's own network.
    pub(super) is_on_link: bool,
}

/// Says why a target cannot be a backend whatever the routes are.
pub(super) fn unfit(target: IpAddr) -> Option<String> {
    is_link_local(target).then(|| {
        format!(
            "{target} is a link-local address, which exists on every interface and cannot be a \
             backend; give the backend a global or unique local address"
        )
    })
}

/// Reads the answer to a route look-up; an `Err` says why the target cannot be a backend.
pub(super) fn route(target: IpAddr, message: &RouteMessage) -> Result<Route, String> {
    let kind = message.header.kind;
    if kind == RouteType::Local {
        return Err(format!(
            "{target} is an address of this host; a backend has to be on another host"
        ));
    }
    if kind != RouteType::Unicast {
        return Err(format!("the route to {target} is of type {kind:?}"));
    }
    let (mut ifindex, mut source, mut gateway, mut mtu) = (None, None, None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            ifindex = Some(*index);
        } else if let RouteAttribute::PrefSource(address) = attribute {
            source = ip(address);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip(address);
        } else if let RouteAttribute::Via(via) = attribute {
            if let RouteVia::Inet(address) = via {
                gateway = Some(IpAddr::V4(*address));
            } else if let RouteVia::Inet6(address) = via {
                gateway = Some(IpAddr::V6(*address));
            } else {
                return Err(format!(
                    "the route to {target} leads via {via:?}, which is not an IP address"
                ));
            }
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            // 0 stands for the interface's.
            mtu = metrics.iter().find_map(|metric| {
                let RouteMetric::Mtu(mtu) = metric else { return None };
                (*mtu > 0).then_some(*mtu)
            });
        }
    }
    let ifindex = ifindex.ok_or_else(|| format!("the route to {target} names no interface"))?;
    let neighbour = (ifindex, gateway.unwrap_or(target));
    Ok(Route { neighbour, source, mtu, is_on_link: gateway.is_none() })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some(IpAddr::V4(*address))
    } else if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

/// Decides which address of this host packets to `target` come from: the kernel's choice, or else
/// one of the interface.
///
/// The kernel names none, or only a link-local one, while all fitting addresses are tentative.
pub(super) fn source(
    target: IpAddr,
    route: &Route,
    addresses: &[Address],
) -> Result<IpAddr, String> {
    let (ifindex, _) = route.neighbour;
    let fits = |address: &&Address| {
        address.ifindex == ifindex
            && address.local.is_ipv4() == target.is_ipv4()
            && address.is_global
            && address.is_usable
            && address.is_preferred
    };
    match route.source {
        Some(source) if !is_link_local(source) => Ok(source),
        chosen => addresses.iter().find(fits).map(|address| address.local).ok_or_else(|| {
            let family = if target.is_ipv4() { "IPv4" } else { "IPv6" };
            match chosen {
                Some(source) => format!(
                    "this host has only the link-local address {source} to reach {target} from; \
                     give its interface a global or unique local {family} address"
                ),
                None => format!(
                    "this host has no {family} address to reach {target} from; give its interface \
                     one"
                ),
            }
        }),
    }
}

/// Of IPv6 only: IPv4 link-local addresses are routed like others.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What is needed to know about an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) name: String,
    /// Further names, by which it can be looked up, too.
    pub(super) other_names: Vec<String>,
    /// Only Ethernet has one.
    pub(super) mac: Option<Mac>,
    pub(super) is_up: bool,
    pub(super) mtu: u32,
    /// Only VLAN devices have one.
    pub(super) vlan: Option<VlanLink>,
}

/// What a VLAN device does: frames gain a tag and leave through the interface below.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct VlanLink {
    /// `None` if that interface is in another network namespace: its index means nothing here.
    pub(super) below: Option<u32>,
    pub(super) tag: VlanTag,
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: message.header.index.to_string(),
        other_names: Vec::new(),
        mac: None,
        is_up: message.header.flags.contains(LinkFlags::Up),
        mtu: ETHERNET_MTU,
        vlan: None,
    };
    let (mut below, mut is_below_elsewhere, mut tag) = (None, false, None);
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::PropList(properties) = attribute {
            link.other_names.extend(properties.iter().filter_map(|property| {
                let Prop::AltIfName(name) = property else { return None };
                Some(name.clone())
            }));
        } else if let LinkAttribute::Address(bytes) = attribute
            && message.header.link_layer_type == LinkLayerType::Ether
        {
            link.mac = Mac::try_from(bytes.as_slice()).ok();
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Link(index) = attribute {
            below = Some(*index);
        } else if let LinkAttribute::LinkNetNsId(_) = attribute {
            is_below_elsewhere = true;
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            tag = vlan_tag(infos);
        }
    }
    let below = below.filter(|_| !is_below_elsewhere);
    // Other kinds (veth, macvlan) have an interface below or beside them, too.
    link.vlan = tag.map(|tag| VlanLink { below, tag });
    link
}

fn vlan_tag(infos: &[LinkInfo]) -> Option<VlanTag> {
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let (mut id, mut protocol) = (None, VlanProtocol::Ieee8021Q);
    for info in infos {
        let LinkInfo::Data(InfoData::Vlan(attributes)) = info else { continue };
        for attribute in attributes {
            if let InfoVlan::Id(value) = attribute {
                id = Some(*value);
            } else if let InfoVlan::Protocol(value) = attribute {
                protocol = *value;
            }
        }
    }
    // A device without an ID is not one that the kernel makes; 0 is refused where it is used.
    Some(VlanTag { protocol: protocol.into(), id: id.unwrap_or(0) })
}

/// An address of this host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) local: IpAddr,
    /// Differs from `local` on point-to-point links: it is the peer's.
    pub(super) network: IpAddr,
    pub(super) prefix_bits: u8,
    pub(super) is_global: bool,
    /// Neither found to be a duplicate, nor still being examined for that.
    pub(super) is_usable: bool,
    /// Not deprecated: meant for new connections.
    pub(super) is_preferred: bool,
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut network) = (None, None);
    // The header has room for the first eight flags only.
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            local = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            network = Some(*address);
        } else if let AddressAttribute::Flags(all) = attribute {
            flags |= *all;
        }
    }
    // IPv6 has a local address only on point-to-point links.
    let local = local.or(network)?;
    Some(Address {
        ifindex: message.header.index,
        local,
        network: network.unwrap_or(local),
        prefix_bits: message.header.prefix_len,
        is_global: message.header.scope == AddressScope::Universe,
        is_usable: !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        is_preferred: !flags.contains(AddressFlags::Deprecated),
    })
}

impl Address {
    /// Whether `address` is in the network that this one connects its interface to.
    pub(super) fn connects(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let others = 32_u32.saturating_sub(self.prefix_bits.into());
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(others).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let others = 128_u32.saturating_sub(self.prefix_bits.into());
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(others).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Returns whom an ARP or ND entry is about.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    message.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::Destination(destination) = attribute else { return None };
        let address = if let NeighbourAddress::Inet(address) = destination {
            IpAddr::V4(*address)
        } else if let NeighbourAddress::Inet6(address) = destination {
            IpAddr::V6(*address)
        } else {
            return None;
        };
        Some((message.header.ifindex, address))
    })
}

/// Returns the entry's MAC, unless the kernel itself does not believe in it.
pub(super) fn neighbour_mac(message: &NeighbourMessage) -> Option<Mac> {
    if matches!(
        message.header.state,
        NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None
    ) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::LinkLayerAddress(bytes) = attribute else { return None };
        Mac::try_from(bytes.as_slice()).ok()
    })
}

/// Returns whether a nudge would change nothing: the entry is certain, or the kernel is asking.
pub(super) fn is_settled(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Incomplete
            | NeighbourState::Delay
            | NeighbourState::Probe
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use rtnetlink::{packet_core::Parseable as _, packet_route::link::InfoMacVlan};

    use super::*;

    const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11));
    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const TARGET6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11));
    const SOURCE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
    const GATEWAY6: IpAddr = IpAddr::V6(LINK_LOCAL);
    const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const UNICAST: RouteType = RouteType::Unicast;

    #[test]
    fn a_target_on_the_link_is_its_own_next_hop() {
        for (target, source) in [(TARGET, SOURCE), (TARGET6, SOURCE6)] {
            let found = route(target, &answer(UNICAST, vec![oif(), prefsrc(source)]));
            assert_eq!(found, Ok(way(target, source)), "{target}");
        }
    }

    #[test]
    fn behind_a_gateway_the_gateway_is_the_next_hop() {
        for (target, gateway, source) in [(TARGET, GATEWAY, SOURCE), (TARGET6, GATEWAY6, SOURCE6)] {
            let attributes = vec![oif(), RouteAttribute::Gateway(gateway.into()), prefsrc(source)];
            let found = route(target, &answer(UNICAST, attributes));
            let expected = Route { is_on_link: false, ..way(gateway, source) };
            assert_eq!(found, Ok(expected), "{target}");
        }
    }

    #[test]
    fn an_ipv4_target_may_have_an_ipv6_next_hop() {
        let via = RouteAttribute::Via(RouteVia::Inet6(LINK_LOCAL));
        let found = route(TARGET, &answer(UNICAST, vec![oif(), via, prefsrc(SOURCE)]));
        let expected = Route { is_on_link: false, ..way(GATEWAY6, SOURCE) };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn a_route_may_have_an_mtu_of_its_own() {
        for (value, mtu) in [(1400, Some(1400)), (0, None)] {
            let metrics = vec![RouteMetric::Hoplimit(3), RouteMetric::Mtu(value)];
            let attributes = vec![oif(), prefsrc(SOURCE), RouteAttribute::Metrics(metrics)];
            let found = route(TARGET, &answer(UNICAST, attributes)).expect("route");
            assert_eq!(found.mtu, mtu);
        }
    }

    #[test]
    fn routes_that_lead_nowhere_say_why() {
        for (kind, attributes, word) in [
            (RouteType::Local, vec![oif(), prefsrc(SOURCE)], "address of this host"),
            (RouteType::BlackHole, vec![oif(), prefsrc(SOURCE)], "BlackHole"),
            (UNICAST, vec![prefsrc(SOURCE)], "names no interface"),
            (
                UNICAST,
                vec![oif(), RouteAttribute::Via(RouteVia::Packet(vec![1])), prefsrc(SOURCE)],
                "not an IP address",
            ),
        ] {
            let error = route(TARGET, &answer(kind, attributes)).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn link_local_ipv6_addresses_cannot_be_backends() {
        let reason = unfit(LINK_LOCAL.into()).expect("unfit");
        assert!(reason.contains("fe80::1 is a link-local address"), "{reason}");
        for target in [TARGET, TARGET6, "fd00::1".parse().expect("address")] {
            assert_eq!(unfit(target), None);
        }
    }

    #[test]
    fn the_kernels_source_is_taken_if_it_can_be() {
        assert_eq!(source(TARGET6, &way(TARGET6, SOURCE6), &[]), Ok(SOURCE6));
        assert_eq!(source(TARGET, &way(TARGET, SOURCE), &[]), Ok(SOURCE));
    }

    #[test]
    fn without_one_it_is_a_fitting_address_of_the_interface() {
        let other = "2001:db8::77".parse().expect("address");
        let good = host_address(SOURCE6);
        let no_source = Route { source: None, ..way(TARGET6, SOURCE6) };
        let link_local = Route { source: Some(GATEWAY6), ..no_source };
        for unfit in [
            Address { ifindex: 8, ..host_address(other) },
            host_address(SOURCE),
            Address { is_global: false, ..host_address(GATEWAY6) },
            Address { is_usable: false, ..host_address(other) },
            Address { is_preferred: false, ..host_address(other) },
        ] {
            for route in [no_source, link_local] {
                assert_eq!(source(TARGET6, &route, &[unfit, good]), Ok(SOURCE6));
                source(TARGET6, &route, &[unfit]).expect_err("no fitting address");
            }
        }
        let error = source(TARGET6, &no_source, &[]).expect_err("none");
        assert!(error.contains("no IPv6 address to reach 2001:db8:1::11"), "{error}");
        let error = source(TARGET6, &link_local, &[]).expect_err("link-local only");
        assert!(error.contains("only the link-local address fe80::1"), "{error}");
        let no_source = Route { source: None, ..way(TARGET, SOURCE) };
        let error = source(TARGET, &no_source, &[good]).expect_err("none");
        assert!(error.contains("no IPv4 address"), "{error}");
    }

    #[test]
    fn only_ethernet_has_a_mac() {
        let mut message = ethernet();
        let expected = Link {
            name: "eth0".into(),
            other_names: vec!["enp3s0".into()],
            mac: Some([2, 0, 0, 0, 0, 1]),
            is_up: true,
            mtu: 9000,
            vlan: None,
        };
        assert_eq!(link(&message), expected);

        message.header.link_layer_type = LinkLayerType::Loopback;
        assert_eq!(link(&message).mac, None);
    }

    #[test]
    fn a_vlan_device_names_its_tag_and_what_is_below() {
        let mut message = ethernet();
        message.attributes.push(LinkAttribute::Link(7));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![
                InfoVlan::Protocol(VlanProtocol::Ieee8021Ad),
                InfoVlan::Id(100),
            ])),
        ]));
        let tag = VlanTag { protocol: 0x88a8, id: 100 };
        assert_eq!(link(&message).vlan, Some(VlanLink { below: Some(7), tag }));

        // Of another namespace, in which 7 is another interface.
        message.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(link(&message).vlan, Some(VlanLink { below: None, tag }));
    }

    #[test]
    fn the_tag_is_8021q_unless_said_otherwise() {
        let mut message = ethernet();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(4094)])),
        ]));
        let tag = VlanTag { protocol: 0x8100, id: 4094 };
        assert_eq!(link(&message).vlan, Some(VlanLink { below: None, tag }));
    }

    #[test]
    fn a_vlan_device_is_read_from_the_kernels_bytes() {
        // Attributes are length, type, value and padding to four bytes, in this machine's order.
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut data = attribute(5, &[0x88, 0xa8]); // The protocol, alone in network order.
        data.extend(attribute(1, &291u16.to_ne_bytes()));
        data.extend(attribute(2, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]));
        let info = [attribute(1, b"vlan\0"), attribute(2, &data)].concat();
        let mut bytes = vec![0, 0, 1, 0]; // Ethernet.
        for word in [12u32, 1, 0] {
            bytes.extend(word.to_ne_bytes()); // Index, up, no change.
        }
        bytes.extend(attribute(3, b"eth0.291\0"));
        bytes.extend(attribute(1, &[2, 0, 0, 0, 0, 1]));
        bytes.extend(attribute(4, &1496u32.to_ne_bytes()));
        bytes.extend(attribute(5, &7u32.to_ne_bytes()));
        bytes.extend(attribute(18, &info));
        let expected = Link {
            name: "eth0.291".into(),
            other_names: vec![],
            mac: Some([2, 0, 0, 0, 0, 1]),
            is_up: true,
            mtu: 1496,
            vlan: Some(VlanLink { below: Some(7), tag: VlanTag { protocol: 0x88a8, id: 291 } }),
        };
        assert_eq!(link(&LinkMessage::parse(&bytes).expect("message")), expected);
    }

    #[test]
    fn other_stacked_devices_are_not_vlan_devices() {
        let mut message = ethernet();
        message.attributes.push(LinkAttribute::Link(7));
        assert_eq!(link(&message).vlan, None);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::MacAddrCount(0)])),
        ]));
        assert_eq!(link(&message).vlan, None);
    }

    #[test]
    fn a_failed_neighbour_has_no_mac_even_if_the_entry_names_one() {
        for target in [TARGET, TARGET6] {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 7;
            message.attributes = vec![
                NeighbourAttribute::Destination(target.into()),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
            ];
            assert_eq!(neighbour(&message), Some((7, target)));
            for (state, mac) in [
                (NeighbourState::Reachable, Some([2, 0, 0, 0, 0, 1])),
                (NeighbourState::Stale, Some([2, 0, 0, 0, 0, 1])),
                (NeighbourState::Failed, None),
                (NeighbourState::Incomplete, None),
            ] {
                message.header.state = state;
                assert_eq!(neighbour_mac(&message), mac, "{state:?}");
            }
        }
    }

    #[test]
    fn an_entry_without_an_ip_address_is_nobodys() {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1])];
        assert_eq!(neighbour(&message), None);
    }

    #[test]
    fn addresses_of_both_families() {
        let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
        let four = vec![AddressAttribute::Address(peer), AddressAttribute::Local(SOURCE)];
        let found = address(&address_message(24, four)).expect("address");
        assert_eq!(found, Address { network: peer, ..host_address(SOURCE) });

        let six = vec![AddressAttribute::Address(SOURCE6)];
        let found = address(&address_message(64, six)).expect("address");
        assert_eq!(found, Address { prefix_bits: 64, ..host_address(SOURCE6) });

        assert_eq!(address(&address_message(24, vec![])), None);
    }

    #[test]
    fn flags_of_addresses() {
        for (flags, is_usable, is_preferred) in [
            (AddressFlags::Permanent, true, true),
            (AddressFlags::Tentative, false, true),
            (AddressFlags::Dadfailed, false, true),
            (AddressFlags::Deprecated | AddressFlags::Noprefixroute, true, false),
        ] {
            let attributes =
                vec![AddressAttribute::Address(SOURCE6), AddressAttribute::Flags(flags)];
            let found = address(&address_message(64, attributes)).expect("address");
            assert_eq!((found.is_usable, found.is_preferred), (is_usable, is_preferred));
        }
    }

    #[test]
    fn an_address_connects_to_its_network_only() {
        for (network, bits, address, expected) in [
            ("10.0.0.2", 24, "10.0.0.255", true),
            ("10.0.0.2", 24, "10.0.1.2", false),
            ("10.0.0.2", 32, "10.0.0.2", true),
            ("10.0.0.2", 32, "10.0.0.3", false),
            ("10.0.0.2", 0, "192.0.2.1", true),
            ("10.0.0.2", 255, "10.0.0.3", false),
            ("2001:db8::2", 64, "2001:db8::ffff", true),
            ("2001:db8::2", 64, "2001:db8:0:1::2", false),
            ("2001:db8::2", 128, "2001:db8::3", false),
            ("2001:db8::2", 0, "fd00::1", true),
            ("2001:db8::2", 0, "10.0.0.2", false),
            ("10.0.0.2", 0, "2001:db8::2", false),
        ] {
            let network =
                Address { prefix_bits: bits, ..host_address(network.parse().expect("address")) };
            let found = network.connects(address.parse().expect("address"));
            assert_eq!(found, expected, "{network:?} {address}");
        }
    }

    fn way(next_hop: IpAddr, source: IpAddr) -> Route {
        Route { neighbour: (7, next_hop), source: Some(source), mtu: None, is_on_link: true }
    }

    fn host_address(local: IpAddr) -> Address {
        Address {
            ifindex: 7,
            local,
            network: local,
            prefix_bits: 24,
            is_global: true,
            is_usable: true,
            is_preferred: true,
        }
    }

    fn address_message(prefix_bits: u8, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = 7;
        message.header.prefix_len = prefix_bits;
        message.attributes = attributes;
        message
    }

    fn ethernet() -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::PropList(vec![Prop::AltIfName("enp3s0".into())]),
            LinkAttribute::Mtu(9000),
        ];
        message
    }

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn oif() -> RouteAttribute {
        RouteAttribute::Oif(7)
    }

    fn prefsrc(source: IpAddr) -> RouteAttribute {
        RouteAttribute::PrefSource(source.into())
    }
}
