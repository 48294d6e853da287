//! What the flow log says: one record when a connection's handshake completes, one when the program sees it end.

use crate::{
    be::{AnyAddress, PortBe},
    shared,
};

/// Bytes of the ring that records wait in: some 3000 of them. Full: records are lost and counted, packets go on.
pub const RING_BYTES: usize = 256 * 1024;

/// One opening or end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowRecord {
    pub client: AnyAddress,
    pub vip: AnyAddress,
    /// What the backend sees as the client.
    pub source: AnyAddress,
    pub client_port: PortBe,
    pub vip_port: PortBe,
    pub source_port: PortBe,
    /// Index into the backends table.
    pub backend: u16,
    pub cluster: u16,
    /// A [`RecordKind`].
    pub kind: u8,
    pub reserved: u8,
    /// From the first SYN on, in `jiffies`.
    pub age: u32,
    /// Bytes from the client and to it, low and high half.
    pub client_bytes: [u32; 2],
    pub server_bytes: [u32; 2],
}

/// What happened, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum RecordKind {
    Opened = 1,
    /// Both sides sent FIN and got it acknowledged.
    Closed = 2,
    ResetByClient = 3,
    ResetByServer = 4,
    /// The client used the port of a closing connection for a new one.
    Replaced = 5,
}

impl RecordKind {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Opened),
            2 => Some(Self::Closed),
            3 => Some(Self::ResetByClient),
            4 => Some(Self::ResetByServer),
            5 => Some(Self::Replaced),
            _ => None,
        }
    }
}

shared! {
    FlowRecord: 80, 4;
}
