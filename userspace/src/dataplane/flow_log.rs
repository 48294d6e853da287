//! Reading the flow log: what the program saw of connections' openings and ends.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use pairflip_common::flow_log::{FlowRecord, RecordKind};

use super::{DataPlane, Error, address::socket};

/// A line of the flow log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlowLine {
    pub kind: RecordKind,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// What the backend sees as the client.
    pub source: SocketAddr,
    /// Index of the backend.
    pub backend: u16,
    pub age: Duration,
    pub client_bytes: u64,
    pub server_bytes: u64,
}

/// The reader's end of the ring; its descriptor becomes readable when there are lines.
pub struct FlowLog {
    ring: RingBuf<MapData>,
    hz: u32,
}

impl DataPlane {
    /// The reader's end of the flow log; `None` the second time.
    pub fn take_flow_log(&mut self) -> Result<Option<FlowLog>, Error> {
        let hz = self.hz()?;
        Ok(self.flow_log.take().map(|ring| FlowLog { ring, hz }))
    }
}

impl FlowLog {
    /// The next line, if there is one. What is no line of this version is skipped.
    pub fn next_line(&mut self) -> Option<FlowLine> {
        loop {
            let item = self.ring.next()?;
            if let Some(line) = line(&item, self.hz) {
                return Some(line);
            }
        }
    }
}

impl AsRawFd for FlowLog {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for FlowLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

fn line(bytes: &[u8], hz: u32) -> Option<FlowLine> {
    if bytes.len() < size_of::<FlowRecord>() {
        return None;
    }
    // SAFETY: the record is plain old data, and `bytes` is at least as long.
    let record = unsafe { bytes.as_ptr().cast::<FlowRecord>().read_unaligned() };
    let wide = |[low, high]: [u32; 2]| u64::from(high) << 32 | u64::from(low);
    Some(FlowLine {
        kind: RecordKind::from_byte(record.kind)?,
        client: socket(record.client, record.client_port),
        vip: socket(record.vip, record.vip_port),
        source: socket(record.source, record.source_port),
        backend: record.backend,
        age: Duration::from_millis(u64::from(record.age) * 1000 / u64::from(hz)),
        client_bytes: wide(record.client_bytes),
        server_bytes: wide(record.server_bytes),
    })
}
