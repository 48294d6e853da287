//! Nanoseconds per packet from the kernel's test-run. `cargo xtask bench packet` runs this.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::Range,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun, TestRunOptions};
use pairflip::dataplane::{
    BackendPath, Choice, ClientNetwork, DataPlane, Denial, Families, LoadOptions, RouteChange,
    RouteTarget, unload,
};
use pairflip_common::{
    bench::{BenchPacket, HEADERS_LEN},
    flow::Forwarding,
    names,
    route::VipRoute,
};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 3306);
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// One line of the result.
struct Row {
    name: &'static str,
    /// Net of the floor, as asked for; `None` where there is no target.
    target_ns: Option<u32>,
    total_ns: u32,
    floor_ns: u32,
}

impl Row {
    fn net_ns(&self) -> u32 {
        self.total_ns.saturating_sub(self.floor_ns)
    }
}

/// A data plane of its own, without an interface, removed at the end.
struct Bench {
    dataplane: DataPlane,
    bpffs: PathBuf,
}

impl Bench {
    fn new(flows_max: u32, half_open_max: u32) -> Result<Self> {
        let bpffs = PathBuf::from(format!("/sys/fs/bpf/pairflip-bench-{}", std::process::id()));
        let options = LoadOptions {
            interfaces: Vec::new(),
            mode: None,
            bpffs: bpffs.clone(),
            flows_max,
            half_open_max,
            families: Families::BOTH,
            all_programs: true,
        };
        let dataplane =
            DataPlane::load(&options).context("loading the data plane for the benchmark")?;
        let mut bench = Self { dataplane, bpffs };
        bench.configure()?;
        Ok(bench)
    }

    /// Four backends with eight SNAT addresses each: ports for two million flows, so that the search for a free one is short.
    fn configure(&mut self) -> Result<()> {
        let dataplane = &mut self.dataplane;
        dataplane.set_networks(&[ClientNetwork {
            ifindex: 1,
            mac: OWN_MAC,
            mtu: 1500,
            tags: Vec::new(),
        }])?;
        dataplane.set_snat_ports(1024, 65_535)?;
        let choices: Vec<Choice> = (0..4u8)
            .map(|index| Choice {
                backend: index.into(),
                address: SocketAddr::new([10, 0, 1, 11 + index].into(), 3306),
                weight: 100,
            })
            .collect();
        for choice in &choices {
            dataplane.set_backend(
                choice.backend,
                &BackendPath {
                    address: choice.address,
                    forwarding: Forwarding::Snat,
                    ifindex: 1,
                    own_mac: OWN_MAC,
                    next_hop_mac: Some([2, 0, 0, 0, 1, choice.backend as u8]),
                    tags: Vec::new(),
                    mtu: 1500,
                    snat_addresses: (0..8).map(|n| [10, 0, 1, 200 + n].into()).collect(),
                    snat_ports: (1024, 65_535),
                },
            )?;
        }
        let change = RouteChange {
            target: RouteTarget::Forward(choices),
            forwarding: Forwarding::Snat,
            restricted: false,
            deny: Denial::Reset,
        };
        dataplane.swap_routes(0, 1, 0, &BTreeMap::from([(0, change)]))?;
        dataplane.add_vip(VIP.into(), VipRoute { cluster: 0, route: 0 })?;
        Ok(())
    }

    /// Opens the flows of `range` and measures packets of all that are open.
    fn established(
        &mut self,
        name: &'static str,
        target_ns: u32,
        range: Range<u32>,
    ) -> Result<Row> {
        let flows = range.end;
        self.establish(range)?;
        self.row(name, Some(target_ns), packet(VIP, ACK, flows), 2_000_000, 5, XDP_TX)
    }

    /// Opens flows of these clients with real handshakes.
    fn establish(&self, range: Range<u32>) -> Result<()> {
        for index in range {
            let mut frame = headers(VIP, SYN, 1000, 0);
            let (address, port) = BenchPacket::client(index);
            frame[26..30].copy_from_slice(&address);
            frame[34..36].copy_from_slice(&port);
            let (action, out) = self.run_once(&frame)?;
            ensure!(
                action == XDP_TX && out[47] == SYN,
                "the SYN of client {index} met action {action}"
            );
            let mut answer = headers(VIP, SYN | ACK, 5000, 1001);
            answer[26..30].copy_from_slice(&out[30..34]);
            answer[30..34].copy_from_slice(&out[26..30]);
            answer[34..36].copy_from_slice(&out[36..38]);
            answer[36..38].copy_from_slice(&out[34..36]);
            self.run_once(&answer)?;
            frame[38..HEADERS_LEN].copy_from_slice(&headers(VIP, ACK, 1001, 5001)[38..]);
            let (action, _) = self.run_once(&frame)?;
            ensure!(action == XDP_TX, "the handshake of client {index} met action {action}");
        }
        Ok(())
    }

    fn run_once(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0; 128];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..TestRunOptions::new()
        };
        let result =
            self.dataplane.program().context("the program is not loaded")?.test_run(options)?;
        Ok((result.return_value, out))
    }

    /// Runs `program` behind the packet source; the median of several rounds.
    fn measure(
        &mut self,
        program: &'static str,
        packet: BenchPacket,
        repeat: u32,
        rounds: usize,
        expect: u32,
    ) -> Result<u32> {
        self.dataplane.prepare_bench(program, packet)?;
        let source = self
            .dataplane
            .test_program(names::PROGRAM_BENCH)
            .context("the source is not loaded")?;
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..rounds {
            let mut out = vec![0; 128];
            let options = TestRunOptions {
                data_in: Some(&packet.headers),
                data_out: Some(&mut out),
                repeat,
                ..TestRunOptions::new()
            };
            let result = source.test_run(options)?;
            ensure!(
                result.return_value == expect,
                "{program} returned {} and not {expect}",
                result.return_value
            );
            times.push(result.duration);
        }
        times.sort();
        Ok(times[times.len() / 2].as_nanos() as u32)
    }

    /// Measures the program, and the floor with the same packets.
    fn row(
        &mut self,
        name: &'static str,
        target_ns: Option<u32>,
        packet: BenchPacket,
        repeat: u32,
        rounds: usize,
        expect: u32,
    ) -> Result<Row> {
        let floor_ns = self.measure(names::PROGRAM_TX, packet, repeat, rounds, XDP_TX)?;
        let total_ns = self.measure(names::PROGRAM, packet, repeat, rounds, expect)?;
        Ok(Row { name, target_ns, total_ns, floor_ns })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = unload(&self.bpffs) {
            report(&format!("removing {}: {error}", self.bpffs.display()));
        }
    }
}

fn packet(to: SocketAddrV4, flags: u8, flows: u32) -> BenchPacket {
    BenchPacket { position: 0, flows, headers: headers(to, flags, 1001, 5001), reserved: [0; 2] }
}

/// Headers of a packet without payload; the client's address and port are put in later.
fn headers(to: SocketAddrV4, flags: u8, seq: u32, ack: u32) -> [u8; HEADERS_LEN] {
    let mut headers = [0; HEADERS_LEN];
    headers[0..6].copy_from_slice(&OWN_MAC);
    headers[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    headers[12..14].copy_from_slice(&[0x08, 0x00]);
    headers[14] = 0x45;
    headers[16..18].copy_from_slice(&40u16.to_be_bytes());
    headers[22] = 64;
    headers[23] = 6;
    headers[30..34].copy_from_slice(&to.ip().octets());
    headers[36..38].copy_from_slice(&to.port().to_be_bytes());
    headers[38..42].copy_from_slice(&seq.to_be_bytes());
    headers[42..46].copy_from_slice(&ack.to_be_bytes());
    headers[46] = 5 << 4;
    headers[47] = flags;
    headers
}

/// Tables as the daemon makes them by default.
const FLOWS_MAX: u32 = 262_144;
const HALF_OPEN_MAX: u32 = 16_384;
/// SYNs that fit one CPU's share of a fresh half-open table, on up to 4 CPUs.
const SYNS_THAT_FIT: u32 = 4000;

fn rows() -> Result<Vec<Row>> {
    let mut rows = vec![new_connection()?];
    let mut bench = Bench::new(FLOWS_MAX, HALF_OPEN_MAX)?;
    rows.push(bench.row(
        "new connection, half-open table full",
        None,
        packet(VIP, SYN, 900_000),
        300_000,
        3,
        XDP_TX,
    )?);
    drop(bench);

    let mut bench = Bench::new(FLOWS_MAX, HALF_OPEN_MAX)?;
    let elsewhere = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 3306);
    rows.push(bench.row(
        "not for a VIP",
        Some(35),
        packet(elsewhere, ACK, 1),
        2_000_000,
        5,
        XDP_PASS,
    )?);
    rows.push(bench.established("established, 1 flow", 45, 0..1)?);
    rows.push(bench.established("established, 50 000 flows", 160, 1..50_000)?);
    drop(bench);
    let mut bench = Bench::new(1_000_000, HALF_OPEN_MAX)?;
    rows.push(bench.established("established, 900 000 flows", 290, 0..900_000)?);
    Ok(rows)
}

/// Every SYN inserts and none evicts: a fresh table each time, the median of five.
fn new_connection() -> Result<Row> {
    let mut rows = Vec::new();
    for _ in 0..5 {
        let mut bench = Bench::new(FLOWS_MAX, HALF_OPEN_MAX)?;
        let syns = packet(VIP, SYN, 900_000);
        rows.push(bench.row("new connection", Some(700), syns, SYNS_THAT_FIT, 1, XDP_TX)?);
    }
    rows.sort_by_key(Row::net_ns);
    Ok(rows.swap_remove(rows.len() / 2))
}

#[expect(clippy::print_stdout, reason = "the result goes to standard output")]
fn report(line: &str) {
    println!("{line}");
}

fn main() -> Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let rows = rows()?;
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "case": row.name, "ns": row.total_ns, "floor_ns": row.floor_ns, "net_ns": row.net_ns(),
                    "target_ns": row.target_ns,
                })
            })
            .collect();
        report(&serde_json::to_string_pretty(&serde_json::json!({ "packet": rows }))?);
        return Ok(());
    }
    report(
        "ns per packet, BPF_PROG_TEST_RUN; floor: the same packets to a program that only returns XDP_TX",
    );
    report(&format!("{:<38}{:>8}{:>8}{:>8}{:>8}", "case", "total", "floor", "net", "target"));
    for row in rows {
        let target = row.target_ns.map_or_else(|| "-".to_owned(), |target| target.to_string());
        report(&format!(
            "{:<38}{:>8}{:>8}{:>8}{:>8}",
            row.name,
            row.total_ns,
            row.floor_ns,
            row.net_ns(),
            target
        ));
    }
    Ok(())
}
