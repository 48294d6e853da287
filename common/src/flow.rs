//! Flows: one entry per direction of a TCP connection, in one hash table.
//!
//! The client's direction is keyed `client -> VIP`, the reply direction `backend -> SNAT address`. Each entry holds all
//! that is needed to rewrite and send a packet of its direction, so an established packet costs one hash lookup.

use crate::{
    be::{Ipv4Be, Mac, PortBe},
    csum::Delta,
    shared,
};

/// The addresses of a packet as it arrives.
///
/// 12 bytes: with the 48 bytes of the kernel's own header and the key rounded up to 16, a preallocated hash element of
/// this key and a [`FlowEntry`] is 128 bytes and the entry starts on a cache line of its own (`struct htab_elem`, v6.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    pub src: Ipv4Be,
    pub dst: Ipv4Be,
    pub src_port: PortBe,
    pub dst_port: PortBe,
}

/// How packets of one direction of a flow are rewritten and sent, and what was last seen of them.
///
/// Written by the kernel program alone, except for [`Direction::Host`] entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowEntry {
    /// The addresses that the packet leaves with.
    pub rewrite: FlowKey,
    /// [`Delta::fold`] of the address change, for the IPv4 header.
    pub ip_delta: u16,
    /// [`Delta::fold`] of address and port changes, for the TCP header.
    pub tcp_delta: u16,
    /// Client's direction: where the client's frames come from. Reply direction: where replies go. Same address.
    pub client_mac: Mac,
    /// Index into the devices table of the interface on the client's side.
    pub client_device: u16,
    /// Low half of `jiffies64` when the last packet of this direction passed.
    pub last_seen: u32,
    /// Next sequence number expected from this direction's sender (RFC 9293 SND.NXT), host order.
    pub seq_next: u32,
    /// Last acknowledgement that this direction's sender sent (RFC 9293 RCV.NXT), host order.
    pub ack: u32,
    /// Packets forwarded; wraps.
    pub packets: u32,
    /// Bytes forwarded, Ethernet header included.
    pub bytes: u64,
    /// Zero.
    pub reserved: u32,
    /// Index into the backends table.
    pub backend: u16,
    /// Index of the cluster.
    pub cluster: u16,
    /// The cluster's generation when the flow was opened.
    pub generation: u32,
    /// A [`FlowState`].
    pub state: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// 1 once this direction's sender sent FIN.
    pub fin: u8,
    /// Zero.
    pub reserved_byte: u8,
}

/// Where a flow is in its life. Kept as a byte in the entry: the other side may know more states.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum FlowState {
    /// SYN forwarded; lives in the half-open table.
    HalfOpen = 1,
    /// The three-way handshake completed.
    Established = 2,
    /// At least one side sent FIN.
    Closing = 3,
}

impl FlowState {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::HalfOpen),
            2 => Some(Self::Established),
            3 => Some(Self::Closing),
            _ => None,
        }
    }
}

/// Who sends the packets of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Direction {
    /// `client -> VIP`.
    Client = 1,
    /// `backend -> SNAT address`.
    Reply = 2,
    /// Not a flow: a connection of the host's own that was found inside `snat_ports` at start. Its packets pass.
    Host = 3,
}

impl Direction {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Client),
            2 => Some(Self::Reply),
            3 => Some(Self::Host),
            _ => None,
        }
    }
}

/// What the clock program writes: the two clocks at one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClockReading {
    pub jiffies: u64,
    pub monotonic_ns: u64,
}

shared! {
    FlowKey: 12, 1;
    FlowEntry: 64, 8;
    ClockReading: 16, 8;
}

impl FlowKey {
    /// The key of a packet in the opposite direction between the same two ends.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }

    /// Differences for the IPv4 and the TCP checksum when `self` is replaced by `new`.
    #[inline(always)]
    pub fn deltas(self, new: Self) -> (Delta, Delta) {
        let ip = Delta::default()
            .replace_bytes(self.src.0, new.src.0)
            .replace_bytes(self.dst.0, new.dst.0);
        let tcp = ip
            .replace_bytes(self.src_port.0, new.src_port.0)
            .replace_bytes(self.dst_port.0, new.dst_port.0);
        (ip, tcp)
    }
}

impl FlowEntry {
    /// The key of the opposite direction's entry.
    #[inline(always)]
    pub const fn peer_key(&self) -> FlowKey {
        self.rewrite.reversed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = FlowKey> {
        any::<([u8; 4], [u8; 4], [u8; 2], [u8; 2])>().prop_map(|(src, dst, src_port, dst_port)| {
            FlowKey {
                src: Ipv4Be(src),
                dst: Ipv4Be(dst),
                src_port: PortBe(src_port),
                dst_port: PortBe(dst_port),
            }
        })
    }

    proptest! {
        #[test]
        fn reversing_a_key_twice_is_identity(key in key()) {
            prop_assert_eq!(key.reversed().reversed(), key);
        }

        /// What the program relies on when it makes the reply entry of a new connection.
        #[test]
        fn the_delta_back_is_the_complement_of_the_delta_there(key in key(), rewrite in key(), field in any::<u16>()) {
            let (_, there) = key.deltas(rewrite);
            let back = Delta::from_folded(!there.fold());
            let returned = back.apply(there.apply(field));
            prop_assert!(returned == field || (returned ^ field) == 0xffff && (field == 0 || field == 0xffff));
        }
    }
}
