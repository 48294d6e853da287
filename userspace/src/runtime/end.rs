//! Telling both ends of a flow that it is over.

use std::collections::BTreeMap;

use pairflip_common::flow::FlowState;

use crate::{
    dataplane::{AnyEntry, EndedFlow, Ends},
    net::frames::{Rst, VlanTag},
};

/// How frames reach one backend or one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hop {
    pub(super) ifindex: u32,
    pub(super) own_mac: [u8; 6],
    pub(super) peer_mac: [u8; 6],
    pub(super) tags: Vec<VlanTag>,
}

/// A network on the clients' side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) own_mac: [u8; 6],
    pub(super) tags: Vec<VlanTag>,
}

/// Where to send what: hops to backends by index, networks of clients by slot.
pub(super) struct Hops<'a> {
    pub(super) backends: &'a BTreeMap<u16, Hop>,
    pub(super) devices: &'a BTreeMap<u16, Device>,
}

/// Returns the frames that end `flow` on both sides, each with the interface it leaves by.
///
/// An established connection takes an RST only with exactly the number it expects next (RFC 9293, section 3.10.7.4, as
/// changed by RFC 5961). What we forwarded last and what the receiver acknowledged last are the two candidates: they
/// differ when a segment was lost behind us or an acknowledgement is on its way. Should neither fit, the receiver's
/// challenge is a packet of no known flow by now, which the program answers with the number that it names.
pub(super) fn resets(flow: &EndedFlow, hops: &Hops<'_>) -> Vec<(u32, Vec<u8>)> {
    let mut frames = Vec::new();
    if let Some(hop) = client_hop(&flow.client, hops) {
        let (numbers, ack) = if flow.client.state == FlowState::HalfOpen as u8 {
            // Before the handshake the client takes an RST that acknowledges its SYN.
            (vec![0], Some(flow.client.seq_next))
        } else {
            (candidates(flow.reply.map(|reply| reply.seq_next), flow.client.ack), None)
        };
        push(&mut frames, &hop, flow.towards_client(), &numbers, ack);
    }
    if let Some(hop) = hops.backends.get(&flow.client.backend) {
        let acked = flow.reply.map(|reply| reply.ack).filter(|ack| *ack != 0);
        let numbers = candidates(acked, flow.client.seq_next);
        push(&mut frames, hop, flow.towards_backend(), &numbers, None);
    }
    frames
}

fn candidates(other: Option<u32>, sure: u32) -> Vec<u32> {
    let mut numbers = vec![sure];
    numbers.extend(other.filter(|other| *other != sure));
    numbers
}

fn client_hop(client: &AnyEntry, hops: &Hops<'_>) -> Option<Hop> {
    let device = hops.devices.get(&client.client_device)?;
    Some(Hop {
        ifindex: device.ifindex,
        own_mac: device.own_mac,
        peer_mac: client.client_mac.octets(),
        tags: device.tags.clone(),
    })
}

fn push(
    frames: &mut Vec<(u32, Vec<u8>)>,
    hop: &Hop,
    (src, dst): Ends,
    numbers: &[u32],
    ack: Option<u32>,
) {
    frames.extend(numbers.iter().filter_map(|seq| {
        let reset = Rst {
            src_mac: hop.own_mac,
            dst_mac: hop.peer_mac,
            tags: hop.tags.clone(),
            src,
            dst,
            seq: *seq,
            ack,
        };
        Some((hop.ifindex, reset.to_frame()?))
    }));
}
