//! How interfaces are stacked: which ones the program is attached to, and which VLAN devices are
//! above them. Pure.
//!
//! A VLAN device is not a wire: its frames leave through the interface below with one tag more. The
//! program works on the wire, unless it is attached to the VLAN device itself.

use std::collections::{BTreeMap, BTreeSet};

use rtnetlink::packet_route::link::LinkMessage;

use super::{
    frames::{Mac, VlanTag},
    links::{Interface, Vlan},
    messages::{self, Link},
};

/// What the data plane can put in front of a packet: a provider's tag and a customer's (802.1ad).
const TAGS_MAX: usize = 2;
/// Of the twelve bits of an ID, 0 means no VLAN and 4095 is reserved (802.1Q, 9.6).
const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// All interfaces of this host.
#[derive(Debug, Default)]
pub(super) struct Topology {
    links: BTreeMap<u32, Link>,
    /// Those that the program is attached to.
    attached: BTreeSet<u32>,
}

/// Where frames of an interface are on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wire {
    /// The interface itself, or what is at the bottom of a VLAN device.
    pub(super) ifindex: u32,
    /// Outermost first.
    pub(super) tags: Vec<VlanTag>,
    /// Of the interface itself.
    pub(super) own_mac: Mac,
    pub(super) mtu: u32,
}

impl Topology {
    /// `attached` are names; one that no interface has is left out.
    pub(super) fn new(messages: &[LinkMessage], attached: &[String]) -> Self {
        let links: BTreeMap<u32, Link> = messages
            .iter()
            .map(|message| (message.header.index, messages::link(message)))
            .collect();
        let attached = attached.iter().filter_map(|name| find(&links, name)).collect();
        Self { links, attached }
    }

    /// Returns where frames of an interface are on the wire, or why none can be sent.
    pub(super) fn wire(&self, ifindex: u32) -> Result<Wire, String> {
        let link = self.link(ifindex)?;
        let own_mac = link.mac.ok_or_else(|| {
            format!("the route leads through {}, which is not an Ethernet interface", link.name)
        })?;
        let (bottom, tags) = self.descend(ifindex)?;
        self.check_up(ifindex)?;
        Ok(Wire { ifindex: bottom, tags, own_mac, mtu: link.mtu })
    }

    /// Returns the attached interfaces that there are, by the names that they were asked for by.
    pub(super) fn interfaces(&self, names: &[String]) -> BTreeMap<String, Interface> {
        let known = names.iter().filter_map(|name| {
            let ifindex = find(&self.links, name)?;
            Some((name.clone(), self.interface(ifindex, name)?))
        });
        known.collect()
    }

    /// Returns the VLAN devices above attached interfaces. One with tags that the program cannot
    /// know is left out.
    pub(super) fn vlans(&self) -> Vec<Vlan> {
        let vlan = |(ifindex, link): (&u32, &Link)| {
            let (bottom, tags) = self.descend(*ifindex).ok()?;
            let is_above = !tags.is_empty() && self.attached.contains(&bottom);
            Some(Vlan { ifindex: bottom, tags, mac: link.mac?, mtu: link.mtu }).filter(|_| is_above)
        };
        let mut vlans: Vec<Vlan> = self.links.iter().filter_map(vlan).collect();
        vlans.sort();
        vlans
    }

    /// Returns an interface if its frames pass the program: an attached one, or a VLAN device above
    /// one.
    pub(super) fn served(&self, ifindex: u32) -> Option<Interface> {
        let (bottom, _tags) = self.descend(ifindex).ok()?;
        let link = self.links.get(&ifindex)?;
        if self.attached.contains(&bottom) { self.interface(ifindex, &link.name) } else { None }
    }

    fn interface(&self, ifindex: u32, name: &str) -> Option<Interface> {
        let link = self.links.get(&ifindex)?;
        Some(Interface { ifindex, name: name.to_owned(), mac: link.mac?, mtu: link.mtu })
    }

    /// Goes down from VLAN devices to the first interface that is attached or is none, and collects
    /// the tags.
    fn descend(&self, ifindex: u32) -> Result<(u32, Vec<VlanTag>), String> {
        let (mut at, mut tags) = (ifindex, Vec::new());
        // Ends: each round adds a tag.
        while !self.attached.contains(&at)
            && let Some(vlan) = self.link(at)?.vlan
        {
            let name = &self.link(at)?.name;
            if !VLAN_IDS.contains(&vlan.tag.id) {
                return Err(format!(
                    "{name} is a VLAN device with ID {}, which means no VLAN; use the interface \
                     below it, or add {name} to daemon.interfaces",
                    vlan.tag.id
                ));
            }
            if tags.len() == TAGS_MAX {
                let top = &self.link(ifindex)?.name;
                return Err(format!(
                    "frames of {top} have more than {TAGS_MAX} VLAN tags, which is not supported; \
                     add {top} or a VLAN device below it to daemon.interfaces"
                ));
            }
            let Some(below) = vlan.below else {
                return Err(format!(
                    "{name} is a VLAN device above an interface of another network namespace; add \
                     {name} to daemon.interfaces"
                ));
            };
            tags.insert(0, vlan.tag);
            at = below;
        }
        self.link(at)?;
        Ok((at, tags))
    }

    /// Also below attached interfaces: a VLAN device carries nothing while the interface below is
    /// down. The kernel stacks no more than eight devices.
    fn check_up(&self, ifindex: u32) -> Result<(), String> {
        let mut at = Some(ifindex);
        for _ in 0..=8 {
            let Some(index) = at else { break };
            let link = self.link(index)?;
            if !link.is_up {
                return Err(format!("interface {} is down; `ip link set {0} up`", link.name));
            }
            at = link.vlan.and_then(|vlan| vlan.below);
        }
        Ok(())
    }

    fn link(&self, ifindex: u32) -> Result<&Link, String> {
        self.links.get(&ifindex).ok_or_else(|| format!("interface {ifindex} is gone"))
    }
}

fn find(links: &BTreeMap<u32, Link>, name: &str) -> Option<u32> {
    let has_name =
        |link: &Link| link.name == name || link.other_names.iter().any(|other| other == name);
    links.iter().find(|(_, link)| has_name(link)).map(|(ifindex, _)| *ifindex)
}

#[cfg(test)]
mod tests {
    use super::{super::messages::VlanLink, *};

    const ETH0: u32 = 2;
    const ETH1: u32 = 3;
    const OUTER: u32 = 10;
    const INNER: u32 = 11;
    const THIRD: u32 = 12;
    const LO: u32 = 1;
    const PROVIDER: VlanTag = VlanTag { protocol: 0x88a8, id: 100 };
    const CUSTOMER: VlanTag = VlanTag { protocol: 0x8100, id: 5 };

    #[test]
    fn an_interface_of_its_own_has_no_tags() {
        let wire = topology(&["eth0"]).wire(ETH0);
        let expected = Wire { ifindex: ETH0, tags: vec![], own_mac: mac(ETH0), mtu: 1500 };
        assert_eq!(wire, Ok(expected));
    }

    #[test]
    fn vlan_devices_become_the_interface_below_and_tags_outermost_first() {
        for attached in [&["eth0"][..], &[]] {
            let topology = topology(attached);
            let outer =
                Wire { ifindex: ETH0, tags: vec![PROVIDER], own_mac: mac(OUTER), mtu: 1496 };
            assert_eq!(topology.wire(OUTER), Ok(outer));
            let inner = Wire {
                ifindex: ETH0,
                tags: vec![PROVIDER, CUSTOMER],
                own_mac: mac(INNER),
                mtu: 1492,
            };
            assert_eq!(topology.wire(INNER), Ok(inner));
        }
    }

    #[test]
    fn an_attached_vlan_device_is_the_wire() {
        let topology = topology(&["eth0", "outer"]);
        assert_eq!(tags(&topology, OUTER), Ok((OUTER, vec![])));
        assert_eq!(tags(&topology, INNER), Ok((OUTER, vec![CUSTOMER])));
    }

    #[test]
    fn three_tags_are_too_many_unless_a_device_of_the_stack_is_attached() {
        let error = tags(&topology(&["eth0"]), THIRD).expect_err("three");
        assert!(error.contains("frames of third have more than 2 VLAN tags"), "{error}");
        let two = Ok((OUTER, vec![CUSTOMER, CUSTOMER]));
        assert_eq!(tags(&topology(&["outer"]), THIRD), two);
    }

    #[test]
    fn what_is_down_or_gone_carries_nothing() {
        for (down, words) in [
            (ETH0, "interface eth0 is down; `ip link set eth0 up`"),
            (OUTER, "interface outer is down"),
            (INNER, "interface inner is down"),
        ] {
            for attached in [&["eth0"][..], &["outer"], &["inner"]] {
                let mut topology = topology(attached);
                topology.links.get_mut(&down).expect("link").is_up = false;
                let error = topology.wire(INNER).expect_err("down");
                assert!(error.contains(words), "{error}");
            }
        }
        let mut topology = topology(&["eth0"]);
        topology.links.remove(&ETH0);
        assert_eq!(topology.wire(INNER), Err("interface 2 is gone".into()));
        assert_eq!(topology.wire(99), Err("interface 99 is gone".into()));
    }

    #[test]
    fn devices_that_cannot_be_translated_say_why() {
        let mut topology = topology(&["eth0"]);
        let error = topology.wire(LO).expect_err("no MAC");
        assert!(error.contains("lo, which is not an Ethernet interface"), "{error}");

        set_vlan(&mut topology, OUTER, None, PROVIDER);
        let error = topology.wire(INNER).expect_err("elsewhere");
        assert!(error.contains("outer is a VLAN device above an interface of another"), "{error}");

        set_vlan(&mut topology, OUTER, Some(ETH0), VlanTag { id: 0, ..PROVIDER });
        let error = topology.wire(OUTER).expect_err("priority tag");
        assert!(error.contains("outer is a VLAN device with ID 0"), "{error}");
        assert_eq!(topology.vlans(), []);
    }

    #[test]
    fn devices_that_claim_to_be_above_each_other_end_in_an_error() {
        let mut topology = topology(&[]);
        set_vlan(&mut topology, OUTER, Some(INNER), PROVIDER);
        topology.wire(INNER).expect_err("a circle");
        topology.attached.insert(INNER);
        topology.wire(INNER).expect("attached");
    }

    #[test]
    fn vlans_are_those_above_attached_interfaces() {
        let vlan = |ifindex, tags, of| Vlan { ifindex, tags, mac: mac(of), mtu: mtu(of) };
        let outer = vlan(ETH0, vec![PROVIDER], OUTER);
        let inner = vlan(ETH0, vec![PROVIDER, CUSTOMER], INNER);
        assert_eq!(topology(&["eth0"]).vlans(), [outer.clone(), inner]);
        // The one in the middle is attached itself: what is above counts from there.
        let inner = vlan(OUTER, vec![CUSTOMER], INNER);
        let third = vlan(OUTER, vec![CUSTOMER, CUSTOMER], THIRD);
        assert_eq!(topology(&["eth0", "outer"]).vlans(), [inner, third]);
        assert_eq!(topology(&["eth1"]).vlans(), []);
        assert_eq!(topology(&[]).vlans(), []);
    }

    #[test]
    fn interfaces_are_found_by_either_name_and_left_out_if_missing() {
        let names = ["eth0", "enp3s0", "nosuch0", "lo"].map(String::from);
        let found = topology(&[]).interfaces(&names);
        let interface = |name: &str, ifindex| Interface {
            ifindex,
            name: name.into(),
            mac: mac(ifindex),
            mtu: mtu(ifindex),
        };
        let expected = BTreeMap::from([
            ("eth0".to_owned(), interface("eth0", ETH0)),
            ("enp3s0".to_owned(), interface("enp3s0", ETH1)),
        ]);
        assert_eq!(found, expected);
        assert_eq!(tags(&topology(&["enp3s0"]), ETH1), Ok((ETH1, vec![])));
    }

    #[test]
    fn the_program_serves_what_it_is_attached_to_and_vlan_devices_above() {
        let topology = topology(&["eth0"]);
        let name = |ifindex| topology.served(ifindex).map(|interface| interface.name);
        assert_eq!(name(ETH0).as_deref(), Some("eth0"));
        assert_eq!(name(INNER).as_deref(), Some("inner"));
        for ifindex in [ETH1, LO, THIRD, 99] {
            assert_eq!(name(ifindex), None, "{ifindex}");
        }
    }

    fn tags(topology: &Topology, ifindex: u32) -> Result<(u32, Vec<VlanTag>), String> {
        topology.wire(ifindex).map(|wire| (wire.ifindex, wire.tags))
    }

    fn set_vlan(topology: &mut Topology, ifindex: u32, below: Option<u32>, tag: VlanTag) {
        topology.links.get_mut(&ifindex).expect("link").vlan = Some(VlanLink { below, tag });
    }

    /// `lo`, `eth0`, `eth1` (also `enp3s0`), and `outer`, `inner`, `third` stacked above `eth0`.
    fn topology(attached: &[&str]) -> Topology {
        let link = |ifindex, name: &str, vlan| {
            let link = Link {
                name: name.into(),
                other_names: if name == "eth1" { vec!["enp3s0".into()] } else { vec![] },
                mac: (ifindex != LO).then(|| mac(ifindex)),
                is_up: true,
                mtu: mtu(ifindex),
                vlan,
            };
            (ifindex, link)
        };
        let above = |below, tag| Some(VlanLink { below: Some(below), tag });
        let links = BTreeMap::from([
            link(LO, "lo", None),
            link(ETH0, "eth0", None),
            link(ETH1, "eth1", None),
            link(OUTER, "outer", above(ETH0, PROVIDER)),
            link(INNER, "inner", above(OUTER, CUSTOMER)),
            link(THIRD, "third", above(INNER, CUSTOMER)),
        ]);
        let attached = attached.iter().filter_map(|name| find(&links, name)).collect();
        Topology { links, attached }
    }

    fn mac(ifindex: u32) -> Mac {
        [2, 0, 0, 0, 0, ifindex as u8]
    }

    fn mtu(ifindex: u32) -> u32 {
        match ifindex {
            OUTER => 1496,
            INNER => 1492,
            THIRD => 1488,
            _ => 1500,
        }
    }
}
