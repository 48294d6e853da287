//! What the benchmark tells its packet source.

use crate::shared;

/// Ethernet, IPv4 and TCP headers without options.
pub const HEADERS_LEN: usize = 14 + 20 + 20;
/// Entries of the table of programs under test.
pub const PROGRAMS_MAX: u32 = 1;

/// A packet of one of many clients.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BenchPacket {
    /// Where in the sequence of clients the source is.
    pub position: u32,
    /// How many clients there are.
    pub flows: u32,
    /// The packet; the source puts the client's address and port in.
    pub headers: [u8; HEADERS_LEN],
    pub reserved: [u8; 2],
}

shared! {
    BenchPacket: 64, 4;
}

impl BenchPacket {
    /// Address and port of a client by number, both in network order: 16384 ports per address from 10.128.0.0 on.
    #[inline(always)]
    pub const fn client(index: u32) -> ([u8; 4], [u8; 2]) {
        (
            (0x0a80_0000 + (index >> 14)).to_be_bytes(),
            (1024 + (index & 0x3fff) as u16).to_be_bytes(),
        )
    }
}
