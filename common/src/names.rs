//! Names of programs and maps. User space never spells one inline.

pub const PROGRAM: &str = "pairflip";
/// Returns `XDP_TX` for every packet: the floor that benchmarks are measured against.
pub const PROGRAM_TX: &str = "pairflip_tx";
/// Writes a packet of [`crate::bench::BenchPacket`] and tail-calls the program under test.
pub const PROGRAM_BENCH: &str = "pairflip_bench";
/// Writes a [`crate::flow::ClockReading`] into its packet, so that user space can read `last_seen`.
pub const PROGRAM_CLOCK: &str = "pairflip_clock";

pub const FLOWS: &str = "FLOWS";
pub const HALF_OPEN: &str = "HALF_OPEN";
pub const CLUSTERS: &str = "CLUSTERS";
pub const VIPS: &str = "VIPS";
pub const BACKENDS: &str = "BACKENDS";
pub const BACKEND_IDS: &str = "BACKEND_IDS";
pub const DEVICES: &str = "DEVICES";
pub const FILTER: &str = "FILTER";
pub const SETTINGS: &str = "SETTINGS";
pub const COUNTERS: &str = "COUNTERS";
pub const SCRATCH: &str = "SCRATCH";

pub const BENCH: &str = "BENCH";
pub const BENCH_PROGRAMS: &str = "BENCH_PROGRAMS";

/// Every map that is pinned, so that a restarted daemon adopts it.
pub const PINNED: [&str; 11] = [
    FLOWS,
    HALF_OPEN,
    CLUSTERS,
    VIPS,
    BACKENDS,
    BACKEND_IDS,
    DEVICES,
    FILTER,
    SETTINGS,
    COUNTERS,
    SCRATCH,
];
