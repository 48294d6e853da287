//! Flows: one entry per direction of a TCP connection, in one hash table per family.
//!
//! The client's direction is keyed `client -> VIP`, the reply direction as the backend sends it. Each entry holds all
//! that is needed to rewrite and send a packet of its direction, so an established packet costs one hash lookup.

use crate::{
    be::{Address, AnyAddress, Ipv4Be, Ipv6Be, Mac, PortBe},
    csum::Delta,
    shared,
};

/// The addresses of a packet as it arrives.
///
/// IPv4: 12 bytes. With the 48 bytes of the kernel's own header and the key rounded up to 16, a preallocated hash element of
/// this key and a [`FlowEntry`] is 128 bytes and the entry starts on a cache line of its own (`struct htab_elem`, v6.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey<A> {
    pub src: A,
    pub dst: A,
    pub src_port: PortBe,
    pub dst_port: PortBe,
}

/// How packets of one direction of a flow are rewritten and sent, and what was last seen of them.
///
/// Written by the kernel program alone, except for [`Direction::Host`] entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowEntry<A> {
    /// The addresses that the packet leaves with.
    pub rewrite: FlowKey<A>,
    /// [`Delta::fold`] of the address change, for the IPv4 header.
    pub ip_delta: u16,
    /// [`Delta::fold`] of address and port changes, for the TCP header.
    pub tcp_delta: u16,
    /// Client's direction: where the client's frames come from. Reply direction: where replies go. Same address.
    pub client_mac: Mac,
    /// Index into the devices table of the network on the client's side.
    pub client_device: u16,
    /// Low half of `jiffies64` when the last packet of this direction passed.
    pub last_seen: u32,
    /// Low half of `jiffies64` when the connection's first SYN passed.
    pub opened: u32,
    /// Next sequence number expected from this direction's sender (RFC 9293 SND.NXT), host order.
    pub seq_next: u32,
    /// Last acknowledgement that this direction's sender sent (RFC 9293 RCV.NXT), host order.
    pub ack: u32,
    /// Packets forwarded; wraps.
    pub packets: u32,
    /// The cluster's generation when the flow was opened.
    pub generation: u32,
    /// Bytes forwarded, Ethernet header included. In two halves, so that the entry of either family has no padding.
    pub bytes: [u32; 2],
    /// Index into the backends table.
    pub backend: u16,
    /// Index of the cluster.
    pub cluster: u16,
    /// A [`FlowState`].
    pub state: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// [`FLAG_FIN`] and the like.
    pub flags: u8,
    /// A [`Forwarding`].
    pub forwarding: u8,
}

/// This direction's sender sent FIN.
pub const FLAG_FIN: u8 = 1;
/// The last packet of this direction that said anything new carried payload: an acknowledgement without payload that moves on
/// clears it. See [`FlowEntry::answered`].
pub const FLAG_SPOKE: u8 = 2;

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum Forwarding {
    /// Both addresses change: backends see an address of the redirector. Replies find back in any topology.
    #[default]
    Snat = 0,
    /// The destination changes: backends see the client. Their way to the client leads through the redirector.
    Dnat = 1,
    /// Nothing but the MAC changes: the VIP is an address of the backend, replies go straight to the client. There is
    /// no entry for the reply direction.
    Dsr = 2,
}

impl Forwarding {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Snat),
            1 => Some(Self::Dnat),
            2 => Some(Self::Dsr),
            _ => None,
        }
    }
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
    /// Ended by the daemon. Not a connection any more: it stands in the half-open table so that late packets are answered.
    Ended = 4,
}

impl FlowState {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::HalfOpen),
            2 => Some(Self::Established),
            3 => Some(Self::Closing),
            4 => Some(Self::Ended),
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
    /// What the backend sends.
    Reply = 2,
    /// Not a flow: a connection of the host's own that was found inside `snat_ports` at start. Its packets pass.
    Host = 3,
}

/// What the clock program writes: the two clocks at one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClockReading {
    pub jiffies: u64,
    pub monotonic_ns: u64,
}

shared! {
    FlowKey<Ipv4Be>: 12, 4;
    FlowKey<Ipv6Be>: 36, 4;
    FlowKey<AnyAddress>: 36, 4;
    FlowEntry<Ipv4Be>: 64, 4;
    FlowEntry<Ipv6Be>: 88, 4;
    ClockReading: 16, 8;
}

impl<A: Address> FlowKey<A> {
    /// The key of a packet in the opposite direction between the same two ends.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }

    /// Sets all of it; see [`Address::set`].
    #[inline(always)]
    pub fn set(&mut self, src: &A, dst: &A, src_port: PortBe, dst_port: PortBe) {
        self.src.set(src);
        self.dst.set(dst);
        self.src_port = src_port;
        self.dst_port = dst_port;
    }

    /// Whether this is the key of a packet in the opposite direction.
    #[inline(always)]
    pub fn is_reverse_of(&self, other: &Self) -> bool {
        self.src == other.dst
            && self.dst == other.src
            && self.src_port == other.dst_port
            && self.dst_port == other.src_port
    }

    /// The key in tables of both families.
    #[inline(always)]
    pub fn any(self) -> FlowKey<AnyAddress> {
        FlowKey {
            src: self.src.any(),
            dst: self.dst.any(),
            src_port: self.src_port,
            dst_port: self.dst_port,
        }
    }

    /// One's complement sums of the addresses, and of addresses and ports: what the IPv4 and the TCP checksum cover.
    #[inline(always)]
    pub fn sums(&self) -> (u64, u64) {
        let ip = self.src.sum() + self.dst.sum();
        (ip, ip + u64::from(self.src_port.word()) + u64::from(self.dst_port.word()))
    }

    /// Differences for the IPv4 and the TCP checksum when `self` is replaced by `new`.
    #[inline(always)]
    pub fn deltas(&self, new: &Self) -> (Delta, Delta) {
        let ((old_ip, old_tcp), (ip, tcp)) = (self.sums(), new.sums());
        (Delta::between(old_ip, ip), Delta::between(old_tcp, tcp))
    }
}

impl<A: Address> FlowEntry<A> {
    /// The key of the opposite direction's entry, where the forwarding mode has one.
    #[inline(always)]
    pub const fn peer_key(&self) -> FlowKey<A> {
        self.rewrite.reversed()
    }

    /// Bytes forwarded.
    pub const fn bytes(&self) -> u64 {
        (self.bytes[1] as u64) << 32 | self.bytes[0] as u64
    }

    #[inline(always)]
    pub const fn add_bytes(&mut self, bytes: u32) {
        let (low, carry) = self.bytes[0].overflowing_add(bytes);
        self.bytes = [low, self.bytes[1].wrapping_add(carry as u32)];
    }

    /// Whether the last payload of the connection went from server to client, as far as can be seen; `reply` is the
    /// entry of the other direction, which [`Forwarding::Dsr`] does not have.
    ///
    /// The server's last packet with payload acknowledged everything that the client sent, or, where the server's packets do not pass
    /// here, the client acknowledged something new after its own last payload.
    pub const fn answered(&self, reply: Option<&Self>) -> bool {
        match reply {
            Some(reply) => reply.flags & FLAG_SPOKE != 0 && reply.ack == self.seq_next,
            None => self.flags & FLAG_SPOKE == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csum::FoldedDelta;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = FlowKey<Ipv4Be>> {
        any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(src, dst, src_port, dst_port)| FlowKey {
            src: Ipv4Be::new(src),
            dst: Ipv4Be::new(dst),
            src_port: PortBe::new(src_port),
            dst_port: PortBe::new(dst_port),
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
            let (_, there) = key.deltas(&rewrite);
            let back = FoldedDelta::new(!there.fold());
            let returned = back.apply(there.apply(field));
            prop_assert!(returned == field || (returned ^ field) == 0xffff && (field == 0 || field == 0xffff));
        }
    }
}
