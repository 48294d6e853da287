//! A line about every TCP packet that is looked up, in builds for debugging (feature `packet-log`). Other builds have nothing of it.

#[cfg(feature = "packet-log")]
pub(crate) use on::*;

#[cfg(feature = "packet-log")]
mod on {
    use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map, programs::XdpContext};
    use aya_log_ebpf::debug;
    use pairflip_common::be::Address;

    use crate::{Action, family::Family, packet::Segment};

    /// The counters of the packet at hand, a bit for each.
    #[btf_map]
    static COUNTED: PerCpuArray<u64, 1> = PerCpuArray::new();

    #[inline(always)]
    pub(crate) fn start() {
        if let Some(counted) = COUNTED.get_ptr_mut(0) {
            // SAFETY: the slot belongs to this CPU, and XDP programs of one CPU do not preempt each other.
            unsafe { *counted = 0 }
        }
    }

    #[inline(always)]
    pub(crate) fn counted(counter: u32) {
        if let Some(counted) = COUNTED.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { *counted |= 1 << (counter & 63) }
        }
    }

    /// What is read by the daemon's `dataplane/packet_log.rs`: the program has no strings to name things by.
    #[inline(never)]
    pub(crate) fn line<F: Family>(
        ctx: &XdpContext,
        segment: &Segment<F>,
        flags: u8,
        action: Action,
    ) -> u32 {
        let counted = COUNTED.get(0).copied().unwrap_or(0);
        let key = segment.key();
        let (src, dst) = (key.src.any().octets(), key.dst.any().octets());
        debug!(
            ctx,
            "{} {} {} {:i} {} {:i} {}",
            counted,
            flags,
            action,
            src,
            key.src_port.host(),
            dst,
            key.dst_port.host()
        );
        0
    }
}

#[cfg(not(feature = "packet-log"))]
pub(crate) use off::*;

#[cfg(not(feature = "packet-log"))]
mod off {
    use aya_ebpf::programs::XdpContext;

    use crate::{Action, family::Family, packet::Segment};

    #[inline(always)]
    pub(crate) fn start() {}

    #[inline(always)]
    pub(crate) fn counted(_: u32) {}

    #[inline(always)]
    pub(crate) fn line<F: Family>(_: &XdpContext, _: &Segment<F>, _: u8, _: Action) {}
}
