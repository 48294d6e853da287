//! Network byte order: addresses and ports as the packet has them. The only place that swaps bytes.

use crate::shared;

/// An IPv4 address as four bytes of the packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ipv4Be(pub [u8; 4]);

/// A TCP port as two bytes of the packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortBe(pub [u8; 2]);

/// An Ethernet address.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

shared! {
    Ipv4Be: 4, 1;
    PortBe: 2, 1;
    Mac: 6, 1;
}

impl PortBe {
    pub const fn new(host: u16) -> Self {
        Self(host.to_be_bytes())
    }

    pub const fn host(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl Mac {
    /// The all-zero address, which no interface may have: "not known".
    pub const UNKNOWN: Self = Self([0; 6]);
}
