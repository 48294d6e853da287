//! The flow log: what the daemon writes down about connections, if it was asked to.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use pairflip_common::{
    be::Address,
    counter::Counter,
    flow::{Direction, FlowEntry},
    route::FEATURE_FLOW_LOG,
};

use crate::{
    family::Family,
    maps::{FLOW_LOG, SETTINGS, count},
    packet::Segment,
};

/// A line about the flow of `segment`, whose entry is `entry`, of either direction. `kind` is a
/// [`pairflip_common::flow_log::RecordKind`].
#[inline(always)]
pub(crate) fn line<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>, kind: u8) {
    if is_on() {
        write(segment, entry, kind);
    }
}

#[inline(always)]
fn is_on() -> bool {
    SETTINGS.get(0).is_some_and(|settings| settings.features & FEATURE_FLOW_LOG != 0)
}

#[inline(never)]
fn write<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>, kind: u8) -> u32 {
    // SAFETY: a map value is valid until the program returns.
    let other_bytes =
        F::flow(segment.peer_key(entry)).map_or([0; 2], |peer| unsafe { (*peer).bytes });
    let Some(mut reserved) = FLOW_LOG.reserve(0) else {
        count(Counter::FlowLogLost);
        return 0;
    };
    let key = segment.key();
    // SAFETY: the helper has no preconditions; the record is all integers, each of which is written below.
    let (now, record) = unsafe { (bpf_jiffies64() as u32, &mut *reserved.as_mut_ptr()) };
    if entry.direction == Direction::Client as u8 {
        record.client.set(&key.src.any());
        record.vip.set(&key.dst.any());
        record.source.set(&entry.rewrite.src.any());
        record.client_port = key.src_port;
        record.vip_port = key.dst_port;
        record.source_port = entry.rewrite.src_port;
        record.client_bytes = entry.bytes;
        record.server_bytes = other_bytes;
    } else {
        record.client.set(&entry.rewrite.dst.any());
        record.vip.set(&entry.rewrite.src.any());
        record.source.set(&key.dst.any());
        record.client_port = entry.rewrite.dst_port;
        record.vip_port = entry.rewrite.src_port;
        record.source_port = key.dst_port;
        record.client_bytes = other_bytes;
        record.server_bytes = entry.bytes;
    }
    record.backend = entry.backend;
    record.cluster = entry.cluster;
    record.kind = kind;
    record.reserved = 0;
    record.age = now.wrapping_sub(entry.opened);
    reserved.submit(0);
    0
}
