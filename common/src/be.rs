//! Network byte order: addresses and ports as the packet has them. The only place that swaps bytes.

use core::fmt::Debug;

use crate::shared;

/// An IPv4 address as the packet has it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ipv4Be(u32);

/// An IPv6 address as the packet has it. Two numbers and not an array, because the compiler for BPF copies arrays in loops.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ipv6Be {
    first: u64,
    last: u64,
}

/// An address of either family: IPv4 ones are mapped (RFC 4291, section 2.5.5.2). For tables that are small or seldom read.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AnyAddress(Ipv6Be);

/// A TCP port as the packet has it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortBe(u16);

/// An Ethernet address.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac {
    first: u32,
    last: u16,
}

shared! {
    Ipv4Be: 4, 4;
    Ipv6Be: 16, 4;
    AnyAddress: 16, 4;
    PortBe: 2, 2;
    Mac: 6, 1;
}

/// What flow keys are generic over.
pub trait Address: Copy + Debug + Default + Eq {
    /// The address as the tables of both families hold it.
    fn any(self) -> AnyAddress;

    /// The address out of a table of both families; nonsense if it is of the other one.
    fn from_any(any: AnyAddress) -> Self;

    /// Its one's complement sum, unfolded: less than 2^34.
    fn sum(self) -> u64;

    /// 32 bits to hash.
    fn word(self) -> u32;

    /// `*self = *from` in as many loads and stores as it takes: the compiler for BPF turns a copy between two places in memory into
    /// a call of a loop over bytes.
    fn set(&mut self, from: &Self);
}

impl Ipv4Be {
    #[inline(always)]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl Address for Ipv4Be {
    #[inline(always)]
    fn any(self) -> AnyAddress {
        AnyAddress(Ipv6Be { first: 0, last: mapped(self.0) })
    }

    #[inline(always)]
    fn from_any(any: AnyAddress) -> Self {
        let [.., a, b, c, d] = { any.0.last }.to_ne_bytes();
        Self(u32::from_ne_bytes([a, b, c, d]))
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        self.0.into()
    }

    #[inline(always)]
    fn word(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn set(&mut self, from: &Self) {
        self.0 = from.0;
    }
}

/// The second half of a mapped IPv4 address.
#[inline(always)]
const fn mapped(address: u32) -> u64 {
    let [a, b, c, d] = address.to_ne_bytes();
    u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])
}

impl Ipv6Be {
    /// From two halves as loaded from a packet.
    #[inline(always)]
    pub const fn from_halves(first: u64, last: u64) -> Self {
        Self { first, last }
    }

    #[inline(always)]
    pub const fn halves(&self) -> (u64, u64) {
        (self.first, self.last)
    }
}

#[inline(always)]
const fn halves_sum(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

impl Address for Ipv6Be {
    #[inline(always)]
    fn any(self) -> AnyAddress {
        AnyAddress(self)
    }

    #[inline(always)]
    fn from_any(any: AnyAddress) -> Self {
        any.0
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        halves_sum(self.first) + halves_sum(self.last)
    }

    /// Rotated, so that the halves of an address like `2001:db8::2001:db8` do not cancel out.
    #[inline(always)]
    fn word(self) -> u32 {
        let mixed = self.first ^ self.last.rotate_left(13);
        (mixed ^ mixed.rotate_left(39)) as u32
    }

    #[inline(always)]
    fn set(&mut self, from: &Self) {
        let Self { first, last } = *from;
        self.first = first;
        self.last = last;
    }
}

impl AnyAddress {
    /// From an IPv6 address, or an IPv4 address mapped to one.
    pub const fn new(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self(Ipv6Be {
            first: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            last: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        })
    }

    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0.first.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0.last.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// For tables of both families.
impl Address for AnyAddress {
    #[inline(always)]
    fn any(self) -> AnyAddress {
        self
    }

    #[inline(always)]
    fn from_any(any: AnyAddress) -> Self {
        any
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        self.0.sum()
    }

    /// As that of the address in its own family.
    #[inline(always)]
    fn word(self) -> u32 {
        let v4 = Ipv4Be::from_any(self);
        if v4.any() == self { v4.word() } else { self.0.word() }
    }

    #[inline(always)]
    fn set(&mut self, from: &Self) {
        self.0.set(&from.0);
    }
}

impl PortBe {
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The port as the checksum sees it.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }
}

impl Mac {
    /// The all-zero address, which no interface may have: "not known".
    pub const UNKNOWN: Self = Self::new([0; 6]);

    pub const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self { first: u32::from_ne_bytes([a, b, c, d]), last: u16::from_ne_bytes([e, f]) }
    }

    /// See [`Address::set`].
    #[inline(always)]
    pub const fn set(&mut self, from: &Self) {
        let Self { first, last } = *from;
        self.first = first;
        self.last = last;
    }

    pub const fn octets(self) -> [u8; 6] {
        let ([a, b, c, d], [e, f]) = (self.first.to_ne_bytes(), self.last.to_ne_bytes());
        [a, b, c, d, e, f]
    }
}
