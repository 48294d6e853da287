//! Ending flows, and telling both ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pairflip_common::flow::FlowState;
use pairflip_policy::{ClusterId, EndReason, EndWhich};

use super::Runtime;
use crate::{
    dataplane::{self, AnyEntry, EndedFlow, Ends},
    net::frames::{Segment, SegmentKind, VlanTag},
};

/// How long both ends of a flow are told and asked again, once a second: frames are lost, and a host answers such as do not fit its connection at
/// most twice a second (Linux, `tcp_invalid_ratelimit`).
const TOLD_AGAIN_FOR: Duration = Duration::from_millis(3500);

impl Runtime {
    pub(super) fn end_flows(&mut self, cluster: ClusterId, which: EndWhich, reason: EndReason) {
        let configured = &self.config.clusters[usize::from(cluster.0)];
        let backends: BTreeSet<u16> = match which {
            EndWhich::Backend(backend) | EndWhich::Route(_, backend) => [backend.0].into(),
            EndWhich::Pair(pair) => configured.pairs[usize::from(pair.0)]
                .backends()
                .filter_map(|address| self.ids.backend(address))
                .map(|backend| backend.0)
                .collect(),
        };
        let vip = match which {
            EndWhich::Backend(_) | EndWhich::Pair(_) => None,
            EndWhich::Route(route, _) => Some(configured.routes[usize::from(route.0)].vip),
        };
        let slot = self.ids.cluster_slot(cluster);
        let ended = match self.dataplane.end_flows(|id, entry| {
            backends.contains(&entry.backend)
                && Some(entry.cluster) == slot
                && vip.is_none_or(|vip| dataplane::vip(id) == vip)
        }) {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, %reason, "ending flows failed; clients wait for TCP's own timeouts");
                return;
            }
        };
        self.tell_of_ended(&ended, &reason.to_string());
    }

    /// Tells both ends of flows that were ended, and the log.
    pub(super) fn tell_of_ended(&mut self, ended: &[EndedFlow], reason: &str) {
        if ended.is_empty() {
            return;
        }
        self.tell_ends(ended, resets);
        self.last_ended = Some(Instant::now());
        for flow in ended {
            self.log_ended(flow, reason);
        }
        tracing::info!(flows = ended.len(), %reason, "ended flows on both sides");
    }

    /// Tells the ends of flows again that were ended a moment ago.
    pub(super) fn tell_ends_again(&mut self) {
        if self.last_ended.is_none_or(|at| at.elapsed() > TOLD_AGAIN_FOR) {
            return;
        }
        match self.dataplane.recently_ended(TOLD_AGAIN_FOR) {
            Ok(ended) => {
                self.tell_ends(&ended, resets);
                self.tell_ends(&ended, probes);
            }
            Err(error) => {
                tracing::warn!(%error, "looking for flows that were ended; an end whose RST was lost learns of it with its next packet");
            }
        }
    }

    fn tell_ends(&self, ended: &[EndedFlow], frames: fn(&EndedFlow, &Hops<'_>) -> Vec<Frame>) {
        let hops = Hops { backends: &self.hops, devices: &self.devices };
        let mut failed = 0;
        for (ifindex, frame) in ended.iter().flat_map(|flow| frames(flow, &hops)) {
            if let Err(error) = self.frames.send(ifindex, &frame) {
                failed += 1;
                tracing::debug!(%error, ifindex, "telling an end of a flow");
            }
        }
        if failed > 0 {
            tracing::warn!(
                failed,
                "some RSTs could not be sent; they are sent again in a second, and with the next packet of their receiver"
            );
        }
    }
}

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

/// A frame, and the interface it leaves by.
type Frame = (u32, Vec<u8>);

/// Where to send what: hops to backends by index, networks of clients by slot.
struct Hops<'a> {
    backends: &'a BTreeMap<u16, Hop>,
    devices: &'a BTreeMap<u16, Device>,
}

/// Returns the frames that end `flow` on both sides.
///
/// An established connection takes an RST only with exactly the number it expects next (RFC 9293, section 3.10.7.4, as
/// changed by RFC 5961). What we forwarded last and what the receiver acknowledged last are the two candidates: they
/// differ when a segment was lost behind us or an acknowledgement is on its way. Should neither fit, the receiver's
/// challenge is a late packet, which the program answers with the number that it names.
fn resets(flow: &EndedFlow, hops: &Hops<'_>) -> Vec<Frame> {
    let mut frames = Vec::new();
    if let Some(hop) = client_hop(&flow.client, hops) {
        let (numbers, ack) = if flow.client.state == FlowState::HalfOpen as u8 {
            // Before the handshake the client takes an RST that acknowledges its SYN.
            (vec![0], Some(flow.client.seq_next))
        } else {
            (candidates(flow.reply.map(|reply| reply.seq_next), flow.client.ack), None)
        };
        frames.extend(
            numbers
                .into_iter()
                .filter_map(|seq| frame(&hop, flow.towards_client(), SegmentKind::Reset, seq, ack)),
        );
    }
    if let Some(hop) = hops.backends.get(&flow.client.backend) {
        let acked = flow.reply.map(|reply| reply.ack).filter(|ack| *ack != 0);
        let numbers = candidates(acked, flow.client.seq_next);
        frames.extend(
            numbers.into_iter().filter_map(|seq| {
                frame(hop, flow.towards_backend(), SegmentKind::Reset, seq, None)
            }),
        );
    }
    frames
}

/// Returns the frames that ask both ends for the number that they expect. The answer is a late packet; in `dsr` the server's goes to the client,
/// whose kernel knows no such connection any more and sends the RST.
///
/// For an end that both candidates of [`resets`] missed and that has nothing to send: packets that passed while the flow was taken out of the
/// tables are in neither number, and RSTs below what an end expects are ignored in silence.
fn probes(flow: &EndedFlow, hops: &Hops<'_>) -> Vec<Frame> {
    let (seq, ack) = (flow.client.seq_next, flow.client.ack);
    let probe = |hop: &Hop, ends, seq: u32, ack| {
        frame(hop, ends, SegmentKind::Probe, seq.wrapping_sub(1), Some(ack))
    };
    let client =
        client_hop(&flow.client, hops).and_then(|hop| probe(&hop, flow.towards_client(), ack, seq));
    let backend = hops
        .backends
        .get(&flow.client.backend)
        .and_then(|hop| probe(hop, flow.towards_backend(), seq, ack));
    client.into_iter().chain(backend).collect()
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

fn frame(
    hop: &Hop,
    (src, dst): Ends,
    kind: SegmentKind,
    seq: u32,
    ack: Option<u32>,
) -> Option<Frame> {
    let segment = Segment {
        src_mac: hop.own_mac,
        dst_mac: hop.peer_mac,
        tags: hop.tags.clone(),
        src,
        dst,
        seq,
        ack,
        kind,
    };
    Some((hop.ifindex, segment.to_frame()?))
}
