//! Ethernet and VLAN tags (IEEE 802.1Q): reading them off, and writing those of the network that a packet leaves to.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use pairflip_common::{be::Mac, route::Tags};

use crate::{
    maps::SCRATCH,
    packet::{Ethernet, header},
};

pub(crate) const ETHERNET_LEN: usize = size_of::<Ethernet>();
const TAG_LEN: usize = 4;
/// Both MACs; the tags are behind them.
const MACS_LEN: usize = 12;
const TAGGED_LEN: usize = ETHERNET_LEN + TAG_LEN;
const TWICE_TAGGED_LEN: usize = TAGGED_LEN + TAG_LEN;
/// Covers the most that is in front of an IP header; see [`crate::family::HEADERS_LEN_MASK`].
pub(crate) const LAYER2_LEN_MASK: usize = 0x1f;
const _: () = assert!(TWICE_TAGGED_LEN <= LAYER2_LEN_MASK);

/// Tag protocols: customer and service tag.
const CUSTOMER_TAG: [u8; 2] = [0x81, 0x00];
const SERVICE_TAG: [u8; 2] = [0x88, 0xa8];

#[inline(always)]
pub(crate) fn is_tag(ethertype: [u8; 2]) -> bool {
    ethertype == CUSTOMER_TAG || ethertype == SERVICE_TAG
}

/// Returns what is behind one or two tags, and how many bytes are in front of it.
#[inline(always)]
pub(crate) fn skip_tags(ctx: &XdpContext) -> Option<([u8; 2], usize)> {
    let inner = ethertype(ctx, TAGGED_LEN)?;
    let (ethertype, len) = if is_tag(inner) {
        (ethertype(ctx, TWICE_TAGGED_LEN)?, TWICE_TAGGED_LEN)
    } else {
        (inner, TAGGED_LEN)
    };
    // Through memory, so that the verifier follows one unknown length and not one per number of tags.
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU, and XDP programs of one CPU do not preempt each other.
    let len = unsafe {
        (&raw mut (*scratch).l2_len).write_volatile(len as u32);
        (&raw const (*scratch).l2_len).read_volatile()
    } as usize;
    Some((ethertype, len & LAYER2_LEN_MASK))
}

/// The ethertype that ends a header of `len` bytes.
#[inline(always)]
fn ethertype(ctx: &XdpContext, len: usize) -> Option<[u8; 2]> {
    // SAFETY: `header` checked the bounds.
    header::<[u8; 2]>(ctx, len - 2).map(|ethertype| unsafe { *ethertype })
}

/// All in front of the IP header.
#[derive(Clone, Copy)]
pub(crate) struct Layer2 {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    /// As in the frame, with priorities.
    tags: Tags,
}

impl Layer2 {
    #[inline(always)]
    pub(crate) fn read(ctx: &XdpContext, len: usize) -> Option<Self> {
        let ethernet = header::<Ethernet>(ctx, 0)?;
        let (mut outer, mut inner) = ([0; TAG_LEN], [0; TAG_LEN]);
        if len > ETHERNET_LEN {
            // SAFETY: `header` checked the bounds.
            outer = unsafe { *header(ctx, MACS_LEN)? };
        }
        if len > TAGGED_LEN {
            // SAFETY: as above.
            inner = unsafe { *header(ctx, MACS_LEN + TAG_LEN)? };
        }
        // SAFETY: as above.
        let Ethernet { dst, src, .. } = unsafe { *ethernet };
        Some(Self { dst, src, tags: Tags::new(outer, inner) })
    }

    /// Writes it to the packet's start, which must have room for it.
    #[inline(always)]
    pub(crate) fn write(&self, ctx: &XdpContext, ethertype: [u8; 2]) -> Option<()> {
        let ethernet = header::<Ethernet>(ctx, 0)?;
        // SAFETY: `header` checked the bounds.
        unsafe {
            (*ethernet).dst.set(&self.dst);
            (*ethernet).src.set(&self.src);
        }
        let len = self.len();
        if len > ETHERNET_LEN {
            // SAFETY: as above.
            unsafe { *header(ctx, MACS_LEN)? = self.tags.outer() };
        }
        if len > TAGGED_LEN {
            // SAFETY: as above.
            unsafe { *header(ctx, MACS_LEN + TAG_LEN)? = self.tags.inner() };
        }
        // SAFETY: as above.
        unsafe { *header(ctx, len - 2)? = ethertype };
        Some(())
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        ETHERNET_LEN + self.tags.len()
    }

    /// The VLAN.
    #[inline(always)]
    pub(crate) fn network(&self) -> Tags {
        self.tags.without_priority()
    }

    /// Replaces the tags by those of the network `to`, if they are those of the network `from`. Others are of no network that this
    /// host knows, and stay. Priorities stay.
    #[inline(always)]
    fn change_network(&mut self, from: Tags, to: Tags) {
        if self.network() == from && from != to {
            self.tags = to.with_priority_of(self.tags);
        }
    }
}

/// Where a packet goes next. References into maps, because what is copied to the stack must be aligned there.
pub(crate) struct Hop<'a> {
    pub(crate) ifindex: u32,
    pub(crate) src: &'a Mac,
    pub(crate) dst: &'a Mac,
    pub(crate) mtu: u16,
    /// The network that it came from, and the one that it goes to.
    pub(crate) from: &'a Tags,
    pub(crate) to: &'a Tags,
}

/// Writes the frame's MACs, and its tags where there are some. Every pointer into the packet is invalid afterwards.
#[inline(always)]
pub(crate) fn address(
    ctx: &XdpContext,
    hop: &Hop<'_>,
    l2_len: usize,
    ethertype: [u8; 2],
) -> Option<()> {
    if l2_len == ETHERNET_LEN && hop.to.is_empty() {
        let ethernet = header::<Ethernet>(ctx, 0)?;
        // SAFETY: `header` checked the bounds.
        unsafe {
            (*ethernet).dst.set(hop.dst);
            (*ethernet).src.set(hop.src);
        }
        return Some(());
    }
    (address_tagged(ctx, hop, l2_len, ethertype) != 0).then_some(())
}

#[inline(never)]
fn address_tagged(ctx: &XdpContext, hop: &Hop<'_>, l2_len: usize, ethertype: [u8; 2]) -> u32 {
    let Some(mut layer2) = Layer2::read(ctx, l2_len) else { return 0 };
    layer2.change_network(*hop.from, *hop.to);
    layer2.dst.set(hop.dst);
    layer2.src.set(hop.src);
    let shorter = l2_len as i32 - layer2.len() as i32;
    if shorter != 0 {
        // SAFETY: the helper checks its arguments. It invalidates all packet pointers; none is used below.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, shorter) } != 0 {
            return 0;
        }
    }
    layer2.write(ctx, ethertype).map_or(0, |()| 1)
}
