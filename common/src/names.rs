//! Names of programs and maps. User space never spells one inline.

pub const PROGRAM: &str = "pairflip";
/// The same for drivers that spread a large packet over several buffers (Linux 5.18).
pub const PROGRAM_FRAGS: &str = "pairflip_frags";
/// Returns `XDP_TX` for every packet: the floor that benchmarks are measured against.
pub const PROGRAM_TX: &str = "pairflip_tx";
/// Writes a packet of [`crate::bench::BenchPacket`] and tail-calls the program under test.
pub const PROGRAM_BENCH: &str = "pairflip_bench";
/// Writes a [`crate::flow::ClockReading`] into its packet, so that user space can read `last_seen`.
pub const PROGRAM_CLOCK: &str = "pairflip_clock";

pub const FLOWS: &str = "FLOWS";
pub const FLOWS6: &str = "FLOWS6";
pub const HALF_OPEN: &str = "HALF_OPEN";
pub const HALF_OPEN6: &str = "HALF_OPEN6";
pub const HOLDS: &str = "HOLDS";
pub const ALLOW: &str = "ALLOW";
pub const NETWORKS: &str = "NETWORKS";
pub const FLOW_LOG: &str = "FLOW_LOG";
pub const CLUSTERS: &str = "CLUSTERS";
pub const VIPS: &str = "VIPS";
pub const BACKENDS: &str = "BACKENDS";
pub const BACKEND_IDS: &str = "BACKEND_IDS";
pub const DEVICES: &str = "DEVICES";
pub const FILTER: &str = "FILTER";
pub const SETTINGS: &str = "SETTINGS";
pub const COUNTERS: &str = "COUNTERS";
pub const SCRATCH: &str = "SCRATCH";
pub const TRAFFIC: &str = "TRAFFIC";
pub const OPENINGS: &str = "OPENINGS";

pub const BENCH: &str = "BENCH";
pub const BENCH_PROGRAMS: &str = "BENCH_PROGRAMS";

/// Every map that is pinned, so that a restarted daemon adopts it.
pub const PINNED: [&str; 19] = [
    FLOWS,
    FLOWS6,
    HALF_OPEN,
    HALF_OPEN6,
    HOLDS,
    ALLOW,
    CLUSTERS,
    VIPS,
    BACKENDS,
    BACKEND_IDS,
    DEVICES,
    NETWORKS,
    FILTER,
    SETTINGS,
    COUNTERS,
    SCRATCH,
    FLOW_LOG,
    TRAFFIC,
    OPENINGS,
];
