//! Reading the packet log of builds for debugging: a line about every TCP packet that the program looked up.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use pairflip_common::counter::Counter;

use super::DataPlane;

/// What its lines are filtered by: `pairflipd --log info,packet=off`.
const TARGET: &str = "packet";

/// The map by which a build for debugging is known.
const MAP: &str = "AYA_LOGS";

/// TCP's flags from the lowest bit on (RFC 9293, section 3.1; RFC 3168).
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
/// `enum xdp_action` (include/uapi/linux/bpf.h).
const ACTIONS: [&str; 5] = ["aborted", "drop", "pass", "tx", "redirect"];

/// The reader's end; its descriptor becomes readable when there are lines.
pub struct PacketLog(EbpfLogger<Lines>);

impl PacketLog {
    /// `None`: not a build for debugging.
    pub fn of(ebpf: &mut Ebpf) -> Result<Option<Self>, aya_log::Error> {
        if ebpf.map(MAP).is_none() {
            return Ok(None);
        }
        EbpfLogger::init_with_logger(ebpf, Lines).map(|logger| Some(Self(logger)))
    }

    /// Writes the lines that are there to the log.
    pub fn write_lines(&mut self) {
        self.0.flush();
    }
}

impl DataPlane {
    /// The reader's end of the packet log, which builds for debugging have.
    pub fn packet_log(&mut self) -> Result<Option<PacketLog>, aya_log::Error> {
        PacketLog::of(&mut self.ebpf)
    }
}

impl AsRawFd for PacketLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for PacketLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        match readable(&text) {
            Some(line) => tracing::debug!(target: TARGET, "{line}"),
            None => tracing::debug!(target: TARGET, "a line of another version: {text}"),
        }
    }

    fn flush(&self) {}
}

/// Names what the program wrote as numbers: a bit for each counter, TCP's flags, the action.
fn readable(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let [counted, flags, action, src, src_port, dst, dst_port] = words[..] else { return None };
    let counted: u64 = counted.parse().ok()?;
    let flags: usize = flags.parse().ok()?;
    let action = ACTIONS.get(action.parse::<usize>().ok()?)?;
    let counters = Counter::ALL.iter().filter(|counter| counted >> **counter as u32 & 1 == 1);
    let counters: Vec<&str> = counters.map(|counter| counter.name()).collect();
    let flags: Vec<&str> = FLAGS
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    let (src, dst) = (end(src, src_port)?, end(dst, dst_port)?);
    Some(format!("{src} > {dst} {} {action}: {}", flags.join("+"), counters.join(", ")))
}

fn end(address: &str, port: &str) -> Option<std::net::SocketAddr> {
    let address: std::net::IpAddr = address.parse().ok()?;
    Some((address.to_canonical(), port.parse().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        let counted = 1 << Counter::FlowOpened as u32 | 1 << Counter::Forwarded as u32;
        let line = format!("{counted} 24 3 ::ffff:10.0.0.7 41822 2001:db8::100 3306");
        assert_eq!(
            readable(&line).as_deref(),
            Some("10.0.0.7:41822 > [2001:db8::100]:3306 PSH+ACK tx: forwarded, flow_opened")
        );
        for other in ["", "1 2 3", "1 2 9 ::1 1 ::1 1", "x 2 3 ::1 1 ::1 1"] {
            assert_eq!(readable(other), None, "{other}");
        }
    }
}
