//! The forms of VLANs that cases are run in, and what becomes of a frame's tags.

use crate::frames::Tag;

/// VLANs of both sides.
#[derive(Debug)]
pub(crate) struct Vlans {
    pub(crate) name: &'static str,
    /// What the host knows of the networks.
    pub(crate) networks: [&'static [(u16, u16)]; 2],
    /// What frames have that come from there.
    pub(crate) frames: [&'static [Tag]; 2],
    /// Whether rows that change what the daemon told the program run here, too; that is slow.
    pub(crate) also_told: bool,
}

const fn tag(protocol: u16, id: u16, priority: u8, may_drop: bool) -> Tag {
    Tag { protocol, id, priority, may_drop }
}

/// Customer and service tag.
const C: u16 = 0x8100;
const S: u16 = 0x88a8;

pub(crate) const VLANS: &[Vlans] = &[
    Vlans { name: "untagged", networks: [&[], &[]], frames: [&[], &[]], also_told: true },
    Vlans {
        name: "one VLAN",
        networks: [&[(C, 100)], &[(C, 100)]],
        frames: [&[tag(C, 100, 5, true)], &[tag(C, 100, 2, false)]],
        also_told: false,
    },
    Vlans {
        name: "two VLANs",
        networks: [&[(C, 100)], &[(C, 200)]],
        frames: [&[tag(C, 100, 5, true)], &[tag(C, 200, 2, false)]],
        also_told: true,
    },
    Vlans {
        name: "a VLAN before the clients",
        networks: [&[(C, 100)], &[]],
        frames: [&[tag(C, 100, 7, false)], &[]],
        also_told: false,
    },
    Vlans {
        name: "a VLAN before the backends",
        networks: [&[], &[(C, 0xabc)]],
        frames: [&[], &[tag(C, 0xabc, 3, false)]],
        also_told: false,
    },
    Vlans {
        name: "QinQ",
        networks: [&[(S, 10), (C, 20)], &[(S, 11), (C, 21)]],
        frames: [
            &[tag(S, 10, 6, false), tag(C, 20, 0, false)],
            &[tag(S, 11, 1, true), tag(C, 21, 0, false)],
        ],
        also_told: true,
    },
    Vlans {
        name: "QinQ on one network",
        networks: [&[(S, 10), (C, 20)], &[(S, 10), (C, 20)]],
        frames: [
            &[tag(S, 10, 6, false), tag(C, 20, 4, true)],
            &[tag(S, 10, 1, true), tag(C, 20, 3, false)],
        ],
        also_told: false,
    },
    Vlans {
        name: "QinQ before the clients",
        networks: [&[(S, 10), (C, 20)], &[(C, 200)]],
        frames: [&[tag(S, 10, 6, false), tag(C, 20, 4, false)], &[tag(C, 200, 1, false)]],
        also_told: false,
    },
    Vlans {
        name: "priority tags",
        networks: [&[], &[]],
        frames: [&[tag(C, 0, 5, false)], &[tag(C, 0, 6, false)]],
        also_told: false,
    },
    Vlans {
        name: "priority tags before the clients",
        networks: [&[], &[(C, 200)]],
        frames: [&[tag(C, 0, 5, false)], &[tag(C, 200, 6, false)]],
        also_told: false,
    },
    Vlans {
        name: "a VLAN that the host does not know",
        networks: [&[], &[]],
        frames: [&[tag(C, 77, 5, false)], &[tag(C, 77, 3, false)]],
        also_told: false,
    },
];

/// Tags of a network that the host knows are replaced, others stay; the priority is the packet's.
pub(crate) fn retagged(tags: &[Tag], came: &[(u16, u16)], goes: &[(u16, u16)]) -> Vec<Tag> {
    let mut network: Vec<(u16, u16)> = tags.iter().map(|tag| (tag.protocol, tag.id)).collect();
    if matches!(network[..], [(_, 0)]) {
        network.clear();
    }
    if network != came || came == goes {
        return tags.to_vec();
    }
    let first = tags.first().copied();
    goes.iter()
        .enumerate()
        .map(|(depth, (protocol, id))| Tag {
            protocol: *protocol,
            id: *id,
            priority: first.filter(|_| depth == 0).map_or(0, |first| first.priority),
            may_drop: first.filter(|_| depth == 0).is_some_and(|first| first.may_drop),
        })
        .collect()
}
