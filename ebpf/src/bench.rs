//! The benchmark's packet source. The kernel's test-run repeats a program on one buffer, and ours rewrites that buffer,
//! so the benchmark writes every packet anew and tail-calls the program under test. The floor is measured through the
//! same source with a program that only returns `XDP_TX` behind it.

use aya_ebpf::{
    bindings::xdp_action::XDP_ABORTED,
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use pairflip_common::bench::{BenchPacket, HEADERS_LEN, PROGRAMS_MAX};

/// One entry: the packet to write. Written by the benchmark.
#[btf_map]
static BENCH: Array<BenchPacket, 1> = Array::new();

/// The program under test. Written by the benchmark.
#[btf_map]
static BENCH_PROGRAMS: ProgramArray<{ PROGRAMS_MAX as usize }> = ProgramArray::new();

#[xdp]
pub(crate) fn pairflip_bench(ctx: XdpContext) -> u32 {
    let (Some(packet), Some(headers)) =
        (BENCH.get_ptr_mut(0), crate::packet::header::<[u8; HEADERS_LEN]>(&ctx, 0))
    else {
        return XDP_ABORTED;
    };
    // SAFETY: `header` checked the bounds; one benchmark runs at a time, on one CPU.
    unsafe {
        let (packet, headers) = (&mut *packet, &mut *headers);
        // Steps of the golden ratio visit every flow, each far from the one before.
        packet.position = packet.position.wrapping_add(0x9e37_79b9);
        let index = ((u64::from(packet.position) * u64::from(packet.flows)) >> 32) as u32;
        let (address, port) = BenchPacket::client(index);
        *headers = packet.headers;
        headers[26..30].copy_from_slice(&address);
        headers[34..36].copy_from_slice(&port);
    }
    // SAFETY: on success the call does not return.
    _ = unsafe { BENCH_PROGRAMS.tail_call(&ctx, 0) };
    XDP_ABORTED
}
