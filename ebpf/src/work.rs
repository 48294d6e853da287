//! What one CPU needs for the packet at hand: keys to look up and entries to insert. In a map, because the program's stack of 512 bytes is too
//! small for them, and the verifier wants what is there to be aligned.

use pairflip_common::{
    be::{Address, AnyAddress, PortBe},
    flow::{FlowEntry, FlowKey},
    route::{Allow, AllowKey, BackendKey, NetworkKey, Tags, VipKey, VipRoute},
};

use crate::maps::{ALLOW, BACKEND_IDS, NETWORKS, VIPS};

#[repr(C)]
pub(crate) struct Work<A> {
    /// The packet's own key.
    key: FlowKey<A>,
    peer_key: FlowKey<A>,
    any_key: FlowKey<AnyAddress>,
    vip: VipKey,
    backend: BackendKey,
    allow: AllowKey,
    network: NetworkKey,
    /// Where a new connection's entries are made.
    entry: FlowEntry<A>,
    peer: FlowEntry<A>,
}

/// This CPU's [`Work`], for one packet: XDP programs of one CPU do not preempt each other.
#[derive(Clone, Copy)]
pub(crate) struct Bench<A: 'static>(*mut Work<A>);

impl<A: Address> Bench<A> {
    #[inline(always)]
    pub(crate) const fn new(work: *mut Work<A>) -> Self {
        Self(work)
    }

    /// Sets [`Bench::key`]; once for a packet.
    #[inline(always)]
    pub(crate) fn set_key(
        self,
        src: &A,
        dst: &A,
        src_port: PortBe,
        dst_port: PortBe,
    ) -> &'static FlowKey<A> {
        // SAFETY: the memory is this packet's alone, and nobody has read the key yet.
        unsafe { (*self.0).key.set(src, dst, src_port, dst_port) };
        self.key()
    }

    /// The packet's addresses as it came; in an ICMP error, those of the quoted packet in the other direction.
    #[inline(always)]
    pub(crate) fn key(self) -> &'static FlowKey<A> {
        // SAFETY: written once for this packet, before anybody reads it.
        unsafe { &(*self.0).key }
    }

    /// The key of the opposite direction's entry. One at a time.
    #[inline(always)]
    pub(crate) fn peer_key(self, entry: &FlowEntry<A>) -> &'static FlowKey<A> {
        // SAFETY: the memory is this packet's alone.
        unsafe {
            let (key, leaves) = (&mut (*self.0).peer_key, &entry.rewrite);
            key.set(&leaves.dst, &leaves.src, leaves.dst_port, leaves.src_port);
            key
        }
    }

    /// The packet's key in tables of both families.
    #[inline(always)]
    pub(crate) fn any_key(self) -> &'static FlowKey<AnyAddress> {
        // SAFETY: as above.
        unsafe {
            let (key, own) = (&mut (*self.0).any_key, self.key());
            key.set(&own.src.any(), &own.dst.any(), own.src_port, own.dst_port);
            key
        }
    }

    /// Where a new connection's entries are made: the client's and the reply's.
    #[inline(always)]
    pub(crate) fn entries(self) -> (&'static mut FlowEntry<A>, &'static mut FlowEntry<A>) {
        // SAFETY: as above; called once for a packet.
        unsafe { (&mut (*self.0).entry, &mut (*self.0).peer) }
    }

    /// The route of a VIP; for port 0 any with this address.
    #[inline(always)]
    pub(crate) fn vip(self, address: A, port: PortBe) -> Option<VipRoute> {
        // SAFETY: the memory is this packet's alone. The daemon replaces values as a whole; a torn read of this 4-byte value cannot
        // happen.
        unsafe {
            let key = &mut (*self.0).vip;
            key.address.set(&address.any());
            key.port = port;
            let key: &VipKey = key;
            VIPS.get(key).copied()
        }
    }

    /// The backend with this address; for port 0 any of them.
    #[inline(always)]
    pub(crate) fn backend(self, address: A, port: PortBe) -> Option<u32> {
        // SAFETY: as above.
        unsafe {
            let key = &mut (*self.0).backend;
            key.address.set(&address.any());
            key.port = port;
            let key: &BackendKey = key;
            BACKEND_IDS.get(key).copied()
        }
    }

    #[inline(always)]
    pub(crate) fn is_allowed(self, client: A, vip: VipRoute) -> bool {
        // SAFETY: as above; aya's key is the same two fields without alignment.
        unsafe {
            let key = &mut (*self.0).allow;
            key.bits = Allow::BITS;
            key.allow.cluster = vip.cluster;
            key.allow.route = vip.route;
            key.allow.address.set(&client.any());
            ALLOW.get(&*core::ptr::from_mut(key).cast()).is_some()
        }
    }

    /// Index of the device that stands for a network.
    #[inline(always)]
    pub(crate) fn device(self, ifindex: u32, tags: Tags) -> Option<u32> {
        // SAFETY: as above.
        unsafe {
            let key = &mut (*self.0).network;
            key.ifindex = ifindex;
            key.tags = tags;
            let key: &NetworkKey = key;
            NETWORKS.get(key).copied()
        }
    }
}
