//! The data plane as user space sees it: load or adopt the program, write routes, list and end flows, read counters.
//!
//! The only module that names aya. It holds no opinion: what to route where is decided in `pairflip_policy`.

mod address;
mod batch;
mod choice;
mod counters;
mod ending;
mod flow_log;
mod flow_table;
mod flows;
mod holds;
mod kernel;
mod load;
mod packet_log;
mod route_tables;
mod slots;
mod tables;

pub use choice::{Choice, choice};
pub use ending::{EndedFlow, Ends};
pub use flow_log::{FlowLine, FlowLog};
pub use flow_table::{AnyEntry, FlowId};
pub use flows::{Flow, FlowCounts, FlowFilter, SweepLimits, flow_id, vip};
pub use holds::{HOLD_MAX, PAUSE_MAX};
pub use kernel::Lacking;
pub use load::{Attachment, Error, Families, LoadOptions, Mode, unload};
pub use packet_log::PacketLog;
pub use slots::{SlotError, assign};
pub use tables::{BackendPath, ClientNetwork, Denial, Network, RouteChange, RouteTarget};

use aya::maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, MapData, PerCpuArray, ProgramArray, RingBuf,
};
use pairflip_common::{
    be::{Ipv4Be, Ipv6Be},
    bench::BenchPacket,
    names,
    route::{
        Allow, Backend, BackendKey, Device, NetworkKey, Route, Scratch, Settings, VipKey, VipRoute,
    },
    traffic::{Openings, Traffic},
};

use self::{flow_table::Table, flows::SweepPositions};

/// The kernel object, built by `build.rs`. Aligned as the ELF parser wants its input.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pairflip.bpf.o")));

/// The bytes of the kernel object, for tests and benchmarks.
pub fn object() -> &'static [u8] {
    &OBJECT.0
}

/// A loaded and attached data plane.
pub struct DataPlane {
    flows: Table<Ipv4Be>,
    flows6: Table<Ipv6Be>,
    half_open: Table<Ipv4Be>,
    half_open6: Table<Ipv6Be>,
    holds: HashMap<MapData, FlowId, u64>,
    allow: LpmTrie<MapData, Allow, u32>,
    clusters: ArrayOfMaps<MapData, Array<MapData, Route>>,
    vips: HashMap<MapData, VipKey, VipRoute>,
    backends: Array<MapData, Backend>,
    backend_ids: HashMap<MapData, BackendKey, u32>,
    devices: Array<MapData, Device>,
    networks: HashMap<MapData, NetworkKey, u32>,
    filter: Array<MapData, u64>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
    openings: PerCpuArray<MapData, Openings>,
    scratch: PerCpuArray<MapData, Scratch>,
    /// `None` once somebody reads it.
    flow_log: Option<RingBuf<MapData>>,
    sweep_positions: SweepPositions,
    /// Name of the program that is attached.
    program: &'static str,
    /// Keeps program and links open; the bpffs pins keep them alive without us.
    ebpf: aya::Ebpf,
    attachments: Vec<Attachment>,
    /// True when maps of an earlier daemon were found and kept.
    adopted: bool,
}

impl DataPlane {
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The loaded program, for the kernel's test-run.
    pub fn program(&self) -> Option<&aya::programs::Xdp> {
        self.test_program(self.program)
    }

    /// Makes `program` the one that the benchmark's packet source calls, with `packet` as its packet.
    pub fn prepare_bench(
        &mut self,
        program: &'static str,
        packet: BenchPacket,
    ) -> Result<(), Error> {
        let target = self.test_program(program).ok_or(Error::Missing(program))?;
        let fd = target
            .fd()
            .map_err(|source| Error::Program { name: program, source: Box::new(source) })?;
        let fd =
            fd.try_clone().map_err(|source| Error::Read { map: names::BENCH_PROGRAMS, source })?;
        let programs = self
            .ebpf
            .map_mut(names::BENCH_PROGRAMS)
            .ok_or(Error::Missing(names::BENCH_PROGRAMS))?;
        let mut programs = ProgramArray::try_from(programs)
            .map_err(|source| Error::Map { map: names::BENCH_PROGRAMS, source })?;
        programs
            .set(0, &fd, 0)
            .map_err(|source| Error::Map { map: names::BENCH_PROGRAMS, source })?;
        let bench = self.ebpf.map_mut(names::BENCH).ok_or(Error::Missing(names::BENCH))?;
        let mut bench: Array<_, BenchPacket> =
            bench.try_into().map_err(|source| Error::Map { map: names::BENCH, source })?;
        bench.set(0, packet, 0).map_err(|source| Error::Map { map: names::BENCH, source })
    }

    /// A program of the object by name, loaded when asked for with [`LoadOptions::all_programs`].
    pub fn test_program(&self, name: &str) -> Option<&aya::programs::Xdp> {
        self.ebpf.program(name).and_then(|program| program.try_into().ok())
    }
}
