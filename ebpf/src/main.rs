//! The XDP program. Every packet ends as forwarded, passed, dropped or answered, each with a counted reason.
//!
//! `ingress` decides what a packet is; `flow` forwards packets of known flows and follows their life; `open` starts
//! new ones; `verdict` carries out what they decide; `reset` answers what has no flow; `icmp` handles errors. `family` holds what IPv4 and IPv6 do differently.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    expect(dead_code, reason = "only the BPF target has entry points")
)]

#[cfg(target_arch = "bpf")]
mod bench;
mod ethernet;
mod family;
mod flow;
mod global;
mod icmp;
mod ingress;
mod log;
mod maps;
mod open;
mod packet;
mod packet_log;
mod reset;
mod verdict;
mod work;

/// What becomes of a packet that is not forwarded: the XDP action, already counted.
pub(crate) type Action = u32;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_PASS, XDP_TX},
        helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64},
        macros::xdp,
        programs::XdpContext,
    };
    use pairflip_common::flow::ClockReading;

    #[xdp]
    pub(crate) fn pairflip(ctx: XdpContext) -> u32 {
        crate::ingress::packet(&ctx, false)
    }

    #[xdp(frags)]
    pub(crate) fn pairflip_frags(ctx: XdpContext) -> u32 {
        crate::ingress::packet(&ctx, true)
    }

    #[xdp]
    pub(crate) fn pairflip_tx(_: XdpContext) -> u32 {
        XDP_TX
    }

    #[xdp]
    pub(crate) fn pairflip_clock(ctx: XdpContext) -> u32 {
        if let Some(reading) = crate::packet::header::<ClockReading>(&ctx, 0) {
            // SAFETY: `header` checked the bounds; the helpers have no preconditions.
            unsafe {
                reading.write_unaligned(ClockReading {
                    jiffies: bpf_jiffies64(),
                    monotonic_ns: bpf_ktime_get_ns(),
                });
            }
        }
        XDP_PASS
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        // SAFETY: nothing in this program panics; the verifier refuses a program with a reachable endless loop.
        unsafe { core::hint::unreachable_unchecked() }
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// So that the package builds and is checked on the host as well.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
