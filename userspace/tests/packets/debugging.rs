//! The build for debugging, which writes a line about every packet.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use aya::{
    EbpfLoader,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use pairflip::dataplane::PacketLog;
use pairflip_common::names;

use crate::bench::{ACK, Bench, CLIENT, Frame, SYN, VIP_WRITE};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_build_for_debugging_names_what_became_of_each_packet() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packet-log");
    let object = std::fs::read(pairflip_ebpf_builder::build(root, &target, true).unwrap()).unwrap();
    // The usual program's maps; the build for debugging takes its place as another version would.
    let bench = Bench::new();
    let mut loader = EbpfLoader::new();
    for name in names::PINNED {
        loader.map_pin_path(name, bench.bpffs.join(name));
    }
    let mut ebpf = loader.load(&object).unwrap();
    let mut log = PacketLog::of(&mut ebpf).unwrap().expect("it has a packet log");
    let program: &mut Xdp = ebpf.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    for packet in [
        Frame::tcp(CLIENT, VIP_WRITE).seq(10).flags(SYN),
        Frame::tcp(CLIENT, VIP_WRITE).seq(7).ack(9).flags(ACK),
    ] {
        let frame = packet.bytes();
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        program.test_run(options).unwrap();
    }
    let text = captured(|| log.write_lines());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].ends_with(&format!("{CLIENT} > {VIP_WRITE} SYN tx: syn_forwarded")), "{text}");
    assert!(
        lines[1].ends_with(&format!("{CLIENT} > {VIP_WRITE} ACK tx: half_open_forwarded")),
        "{text}"
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn other_builds_have_no_packet_log() {
    assert!(Bench::new().dataplane.packet_log().unwrap().is_none());
}

/// What is logged while `work` runs.
fn captured(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("packet=debug")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
}
