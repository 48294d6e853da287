//! What becomes of a packet: decided first, carried out at one place, so that the program has each piece once and the verifier walks
//! through it once for all decisions that lead there.

use aya_ebpf::programs::XdpContext;
use pairflip_common::{counter::Counter, flow::FlowEntry};

use crate::{Action, family::Family, flow, ingress, maps::count_index, packet::Segment};

/// After the packet: nothing.
pub(crate) const NOTHING: u8 = 0;
/// After the packet: remove the half-open connection. Other values are a [`pairflip_common::flow_log::RecordKind`]: remove the flow.
pub(crate) const FORGET: u8 = 0xff;

#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
enum Kind {
    Pass,
    Drop,
    Reset,
    Forward,
}

/// A verdict about a new connection as one number, because functions of the program return no more: counter, and kind above it.
pub(crate) type Code = u32;
const KIND_SHIFT: u32 = 16;
pub(crate) const COUNTER_MASK: u32 = 0xffff;

const RESET: u32 = Kind::Reset as u32;
const DROP: u32 = Kind::Drop as u32;
const FORWARD: u32 = Kind::Forward as u32;

#[inline(always)]
pub(crate) const fn refuse(counter: Counter) -> Code {
    RESET << KIND_SHIFT | counter as u32
}

#[inline(always)]
pub(crate) const fn ignore(counter: Counter) -> Code {
    DROP << KIND_SHIFT | counter as u32
}

#[inline(always)]
pub(crate) const fn accept(counter: Counter) -> Code {
    FORWARD << KIND_SHIFT | counter as u32
}

/// A decision about a packet.
pub(crate) struct Verdict<F: Family> {
    kind: Kind,
    counter: u32,
    /// Of the flow, when it is forwarded.
    entry: *mut FlowEntry<F::Address>,
    pub(crate) then: u8,
}

impl<F: Family> Verdict<F> {
    #[inline(always)]
    const fn new(kind: Kind, counter: Counter, entry: *mut FlowEntry<F::Address>) -> Self {
        Self { kind, counter: counter as u32, entry, then: NOTHING }
    }

    #[inline(always)]
    pub(crate) const fn pass(counter: Counter) -> Self {
        Self::new(Kind::Pass, counter, core::ptr::null_mut())
    }

    #[inline(always)]
    pub(crate) const fn drop(counter: Counter) -> Self {
        Self::new(Kind::Drop, counter, core::ptr::null_mut())
    }

    #[inline(always)]
    pub(crate) const fn reset(counter: Counter) -> Self {
        Self::new(Kind::Reset, counter, core::ptr::null_mut())
    }

    #[inline(always)]
    pub(crate) const fn forward(entry: &mut FlowEntry<F::Address>, counter: Counter) -> Self {
        Self::new(Kind::Forward, counter, entry)
    }

    /// The verdict about a new connection; `entry` is the client's.
    #[inline(always)]
    pub(crate) const fn from_code(code: Code, entry: *mut FlowEntry<F::Address>) -> Self {
        let kind = match code >> KIND_SHIFT {
            RESET => Kind::Reset,
            FORWARD => Kind::Forward,
            _ => Kind::Drop,
        };
        Self { kind, counter: code & COUNTER_MASK, entry, then: NOTHING }
    }

    #[inline(always)]
    pub(crate) fn carry_out(&self, ctx: &XdpContext, segment: &Segment<F>) -> Action {
        match self.kind {
            Kind::Pass => {
                count_index(self.counter);
                ingress::PASS
            }
            Kind::Drop => {
                count_index(self.counter);
                ingress::DROP
            }
            Kind::Reset => F::answer_rst(ctx, &segment.place, self.counter),
            Kind::Forward => {
                // SAFETY: a map value is valid until the program returns; what another CPU may change meanwhile is
                // counters and sequence numbers, never where the packet goes.
                let entry = unsafe { &mut *self.entry };
                let action = flow::forward(ctx, segment, entry, self.counter);
                match self.then {
                    NOTHING => {}
                    FORGET => flow::forget(segment, entry),
                    kind => flow::remove(segment, entry, kind),
                }
                action
            }
        }
    }
}
