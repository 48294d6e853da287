//! Reading the kernel's netlink messages about routes, links and neighbours. Pure.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::{
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::frames::Mac;

/// Interface and address of a next hop.
pub(super) type Neighbour = (u32, Ipv4Addr);

/// A route as the kernel would use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) neighbour: Neighbour,
    pub(super) source: Ipv4Addr,
}

/// Reads the answer to a route look-up; an `Err` says why the target cannot be a backend.
pub(super) fn route(target: Ipv4Addr, message: &RouteMessage) -> Result<Route, String> {
    let kind = message.header.kind;
    if kind == RouteType::Local {
        return Err(format!(
            "{target} is an address of this host; a backend has to be on another host"
        ));
    }
    if kind != RouteType::Unicast {
        return Err(format!("the route to {target} is of type {kind:?}"));
    }
    let (mut ifindex, mut source, mut next_hop) = (None, None, target);
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            ifindex = Some(*index);
        } else if let RouteAttribute::PrefSource(RouteAddress::Inet(address)) = attribute {
            source = Some(*address);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
            next_hop = *address;
        } else if let RouteAttribute::Via(RouteVia::Inet6(gateway)) = attribute {
            return Err(format!(
                "the route to {target} leads via {gateway}; IPv6 next hops are not supported"
            ));
        }
    }
    let ifindex = ifindex.ok_or_else(|| format!("the route to {target} names no interface"))?;
    let source = source.ok_or_else(|| {
        format!("this host has no address to reach {target} from; give its interface one")
    })?;
    Ok(Route { neighbour: (ifindex, next_hop), source })
}

/// What is needed to know about an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) name: String,
    /// Only Ethernet has one.
    pub(super) mac: Option<Mac>,
    pub(super) is_up: bool,
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: message.header.index.to_string(),
        mac: None,
        is_up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Address(bytes) = attribute
            && message.header.link_layer_type == LinkLayerType::Ether
        {
            link.mac = Mac::try_from(bytes.as_slice()).ok();
        }
    }
    link
}

/// Returns whom an IPv4 neighbour entry is about.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    message.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) = attribute else {
            return None;
        };
        Some((message.header.ifindex, *address))
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
    use super::*;

    const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn a_target_on_the_link_is_its_own_next_hop() {
        let found = route(TARGET, &answer(RouteType::Unicast, vec![oif(), source()]));
        assert_eq!(found, Ok(Route { neighbour: (7, TARGET), source: SOURCE }));
    }

    #[test]
    fn behind_a_gateway_the_gateway_is_the_next_hop() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY));
        let found = route(TARGET, &answer(RouteType::Unicast, vec![oif(), gateway, source()]));
        assert_eq!(found, Ok(Route { neighbour: (7, GATEWAY), source: SOURCE }));
    }

    #[test]
    fn routes_that_lead_nowhere_say_why() {
        for (kind, attributes, word) in [
            (RouteType::Local, vec![oif(), source()], "address of this host"),
            (RouteType::BlackHole, vec![oif(), source()], "BlackHole"),
            (RouteType::Unicast, vec![source()], "names no interface"),
            (RouteType::Unicast, vec![oif()], "no address"),
            (
                RouteType::Unicast,
                vec![oif(), source(), RouteAttribute::Via(RouteVia::Inet6([0; 16].into()))],
                "IPv6",
            ),
        ] {
            let error = route(TARGET, &answer(kind, attributes)).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn only_ethernet_has_a_mac() {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::IfName("eth0".into()),
        ];
        let expected = Link { name: "eth0".into(), mac: Some([2, 0, 0, 0, 0, 1]), is_up: true };
        assert_eq!(link(&message), expected);

        message.header.link_layer_type = LinkLayerType::Loopback;
        assert_eq!(link(&message).mac, None);
    }

    #[test]
    fn a_failed_neighbour_has_no_mac_even_if_the_entry_names_one() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 7;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(TARGET)),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        assert_eq!(neighbour(&message), Some((7, TARGET)));
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

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn oif() -> RouteAttribute {
        RouteAttribute::Oif(7)
    }

    fn source() -> RouteAttribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(SOURCE))
    }
}
