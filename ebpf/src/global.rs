//! Functions that the kernel's verifier looks at once, for any numbers as their arguments, and not again for every way that leads to
//! them (global functions, Linux 5.6): what is large and seldom run. What they need besides numbers is in [`crate::work`].

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use pairflip_common::{counter::Counter, route::VipRoute};

use crate::{
    Action,
    ethernet::LAYER2_LEN_MASK,
    family::{Family, HEADERS_LEN_MASK, Ip, V4, V6},
    icmp,
    maps::count_opening,
    open::Syn,
    packet::Place,
    reset,
    verdict::{COUNTER_MASK, Code, ignore},
};

macro_rules! global {
    ($family:ty, $open:ident, $icmp:ident, $answer_rst:ident, $answer_icmp:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $open(
            ctx: *mut xdp_md,
            lengths: u32,
            from: u32,
            seq_end: u32,
            vip: u32,
        ) -> u32 {
            let Some(bench) = <$family>::bench() else {
                return ignore(Counter::DropInternal);
            };
            let vip = VipRoute { cluster: (vip >> 16) as u16, route: vip as u16 };
            let (l2_len, bytes) = ((lengths & 0xff) as usize, lengths >> 8);
            let syn = Syn::<$family> { bench, l2_len, bytes, from, seq_end, vip };
            let code = syn.open(&XdpContext::new(ctx));
            count_opening(vip, code & COUNTER_MASK);
            code
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $icmp(
            ctx: *mut xdp_md,
            l2_len: u32,
            headers_len: u32,
            total_len: u32,
            other: u32,
        ) -> u32 {
            let (l2_len, headers_len) = lengths(l2_len, headers_len);
            icmp::packet::<$family>(
                &XdpContext::new(ctx),
                l2_len,
                headers_len,
                total_len as usize & 0xffff,
                other,
            )
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $answer_rst(
            ctx: *mut xdp_md,
            lengths: u32,
            ip_len: u32,
            frame_len: u32,
            counter: u32,
        ) -> u32 {
            let place = place(lengths, ip_len, frame_len);
            reset::answer::<$family>(&XdpContext::new(ctx), &place, counter)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $answer_icmp(
            ctx: *mut xdp_md,
            lengths: u32,
            ip_len: u32,
            frame_len: u32,
            mtu: u32,
        ) -> u32 {
            let place = place(lengths, ip_len, frame_len);
            icmp::answer::<$family>(&XdpContext::new(ctx), &place, mtu)
        }

        impl Global for $family {
            #[inline(always)]
            fn open(
                ctx: &XdpContext,
                place: &Place,
                from: u64,
                seq_end: u32,
                vip: VipRoute,
            ) -> Code {
                let vip = u32::from(vip.cluster) << 16 | u32::from(vip.route);
                let lengths = place.bytes() << 8 | place.l2_len as u32;
                $open(ctx.ctx, lengths, from as u32, seq_end, vip)
            }

            #[inline(always)]
            fn icmp(ctx: &XdpContext, l2_len: usize, ip: &Ip<Self>, other: Counter) -> Action {
                let headers_len = ip.headers_len as u32;
                $icmp(ctx.ctx, l2_len as u32, headers_len, ip.total_len, other as u32)
            }

            #[inline(always)]
            fn answer_rst(ctx: &XdpContext, place: &Place, counter: u32) -> Action {
                $answer_rst(ctx.ctx, pack(place), place.ip_len, place.frame_len, counter)
            }

            #[inline(always)]
            fn answer_icmp(ctx: &XdpContext, place: &Place, mtu: u32) -> Action {
                $answer_icmp(ctx.ctx, pack(place), place.ip_len, place.frame_len, mtu)
            }
        }
    };
}

/// The functions of a family, with types.
pub(crate) trait Global: Sized {
    /// Opens a connection; see [`Syn`].
    fn open(ctx: &XdpContext, place: &Place, from: u64, seq_end: u32, vip: VipRoute) -> Code;
    /// See [`icmp::packet`].
    fn icmp(ctx: &XdpContext, l2_len: usize, ip: &Ip<Self>, other: Counter) -> Action
    where
        Self: Family;
    /// See [`reset::answer`].
    fn answer_rst(ctx: &XdpContext, place: &Place, counter: u32) -> Action;
    /// See [`icmp::answer`].
    fn answer_icmp(ctx: &XdpContext, place: &Place, mtu: u32) -> Action;
}

global!(V4, pairflip_open4, pairflip_icmp4, pairflip_answer_rst4, pairflip_answer_icmp4);
global!(V6, pairflip_open6, pairflip_icmp6, pairflip_answer_rst6, pairflip_answer_icmp6);

/// Lengths as the verifier may believe them.
#[inline(always)]
fn lengths(l2_len: u32, headers_len: u32) -> (usize, usize) {
    (l2_len as usize & LAYER2_LEN_MASK, headers_len as usize & HEADERS_LEN_MASK)
}

/// Both lengths of a place in one number: a function takes five.
#[inline(always)]
fn pack(place: &Place) -> u32 {
    (place.headers_len as u32) << 16 | place.l2_len as u32
}

#[inline(always)]
fn place(packed: u32, ip_len: u32, frame_len: u32) -> Place {
    let (l2_len, headers_len) = lengths(packed & 0xffff, packed >> 16);
    Place { l2_len, headers_len, ip_len, frame_len }
}
