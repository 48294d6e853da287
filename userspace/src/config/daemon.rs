//! `[daemon]`: its keys, their defaults and ranges.

use std::path::PathBuf;

use super::field::Field;
use super::model::{Attach, Daemon};
use super::reader::Reader;
use super::section::{Schema, Section};
use super::value::{self, SOCKET_PATH_BYTES_MAX, quoted};

/// Interfaces that the program may be attached to. VLANs on them are found by themselves.
pub const INTERFACES_MAX: usize = 8;

pub(super) const SCHEMA: Schema = Schema {
    header: "[daemon]",
    keys: &[
        "interfaces",
        "attach",
        "control",
        "state_dir",
        "bpffs",
        "http",
        "flows_max",
        "half_open_max",
        "flow_log",
    ],
    unsupported: &[],
};

const DEFAULT_CONTROL: &str = "/run/pairflip/control.sock";
const DEFAULT_STATE_DIR: &str = "/var/lib/pairflip";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/pairflip";
const DEFAULT_HTTP: &str = "127.0.0.1:8404";

/// Bytes of a path: the kernel's PATH_MAX less room for the names of our files below it.
const PATH_BYTES_MAX: usize = 3840;

/// Two hash entries per flow of some 130 bytes each: about 64 MiB of kernel memory.
const DEFAULT_FLOWS_MAX: u32 = 262_144;
/// Fewer than 16 is of no use even for a trial; 16 million take 4 GiB.
const FLOWS_RANGE: std::ops::RangeInclusive<u32> = 16..=16_777_216;
/// A handshake in a data centre takes milliseconds: room for a million connections a second.
const DEFAULT_HALF_OPEN_MAX: u32 = 16_384;
/// An LRU map keeps 128 free entries per CPU in the kernel; smaller ones evict live entries.
const HALF_OPEN_RANGE: std::ops::RangeInclusive<u32> = 128..=1_048_576;

pub(super) fn read(reader: &mut Reader, field: &Field) -> Option<Daemon> {
    let section = field.table(reader, &SCHEMA)?;
    let interfaces = section
        .require(
            reader,
            "interfaces",
            "name the interfaces where VIP traffic and backend replies arrive, as in \
             interfaces = [\"eth0\"]",
        )
        .and_then(|field| field.distinct(reader, "[\"eth0\"]", INTERFACES_MAX, value::interface));
    let attach = section.optional(reader, "attach", Attach::Auto, |reader, field| {
        let choices =
            [("auto", Attach::Auto), ("native", Attach::Native), ("generic", Attach::Generic)];
        field.choose(reader, &choices, &[])
    });
    let control = path(reader, &section, "control", DEFAULT_CONTROL, SOCKET_PATH_BYTES_MAX);
    let state_dir = path(reader, &section, "state_dir", DEFAULT_STATE_DIR, PATH_BYTES_MAX);
    let bpffs = path(reader, &section, "bpffs", DEFAULT_BPFFS, PATH_BYTES_MAX);
    let http = section.optional(reader, "http", DEFAULT_HTTP.parse().ok(), |reader, field| {
        let example = format!("{}, or \"\" to turn it off", quoted(DEFAULT_HTTP));
        field.parse(reader, &example, value::http)
    });
    let flows_max = section.optional(reader, "flows_max", DEFAULT_FLOWS_MAX, |reader, field| {
        field.integer(reader, DEFAULT_FLOWS_MAX, FLOWS_RANGE)
    });
    let half_open_max =
        section.optional(reader, "half_open_max", DEFAULT_HALF_OPEN_MAX, |reader, field| {
            field.integer(reader, DEFAULT_HALF_OPEN_MAX, HALF_OPEN_RANGE)
        });
    // Thousands of lines a second on a busy host.
    let flow_log =
        section.optional(reader, "flow_log", false, |reader, field| field.boolean(reader, "true"));
    Some(Daemon {
        interfaces: interfaces?.into_iter().map(|(name, _)| name).collect(),
        attach: attach?,
        control: control?,
        state_dir: state_dir?,
        bpffs: bpffs?,
        http: http?,
        flows_max: flows_max?,
        half_open_max: half_open_max?,
        flow_log: flow_log?,
    })
}

fn path(
    reader: &mut Reader,
    section: &Section,
    key: &str,
    default: &str,
    bytes_max: usize,
) -> Option<PathBuf> {
    let example = quoted(default);
    section.optional(reader, key, PathBuf::from(default), |reader, field| {
        field.parse(reader, &example, |text| value::absolute_path(text, &example, bytes_max))
    })
}
