//! What a packet is: not ours, of a known flow, a new connection, or a stray.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use pairflip_common::{
    be::{Ipv4Be, PortBe},
    counter::Counter,
    flow::{Direction, FlowEntry},
    route::{BackendKey, FILTER_SNAT, FILTER_VIP, VipKey, VipRoute, filter_slot},
};

use crate::{
    Action,
    flow::{self, Known},
    maps::{BACKEND_IDS, FILTER, FLOWS, HALF_OPEN, SETTINGS, VIPS, count},
    open,
    packet::{
        ACK, ETHERNET_LEN, ETHERTYPE_IPV4, Ethernet, FIN, Ipv4, PROTOCOL_TCP, RST, SYN, Segment,
        header,
    },
    reset,
};

#[inline(always)]
pub(crate) fn packet(ctx: &XdpContext) -> Action {
    let Some(ip) = ipv4(ctx) else {
        return pass(Counter::PassNotIpv4);
    };
    // SAFETY: `ipv4` checked the bounds.
    let Ipv4 { dst, protocol, fragment, .. } = unsafe { *ip };

    // Everybody else's traffic leaves here: one array lookup, no hash.
    let marks = FILTER.get(filter_slot(dst)).copied().unwrap_or(0);
    if marks == 0 {
        return pass(Counter::PassNotOurs);
    }
    if protocol != PROTOCOL_TCP {
        return pass(Counter::PassNotTcp);
    }
    // More-fragments bit or an offset (RFC 791): only the first fragment has ports.
    if u16::from_be_bytes(fragment) & 0x3fff != 0 {
        return if is_vip_address(dst) {
            drop(Counter::DropFragment)
        } else {
            pass(Counter::PassNotOurs)
        };
    }
    let Some(segment) = Segment::parse(ctx, ip) else {
        return pass(Counter::PassMalformed);
    };
    if marks & FILTER_VIP == 0 && !is_snat_port(segment.key.dst_port) {
        return pass(Counter::PassNotOurs);
    }
    let mut next = match FLOWS.get_ptr_mut(segment.key) {
        Some(entry) => Next::Flow(entry),
        None => half_open_or_none(ctx, &segment),
    };
    if let Next::Flow(entry) = next {
        // SAFETY: a map value is valid until this program returns; what another CPU may change meanwhile is
        // counters and sequence numbers, never where the packet goes.
        let entry = unsafe { &mut *entry };
        if entry.direction == Direction::Host as u8 {
            return pass(Counter::PassHost);
        }
        match flow::known(ctx, &segment, entry) {
            Known::Done(action) => return action,
            Known::StartOver => next = Next::NoFlow,
        }
    }
    match next {
        Next::NoFlow => new_or_stray(ctx, &segment, marks),
        Next::Done(action) => action,
        Next::Flow(_) => drop(Counter::DropInternal),
    }
}

/// What is left to do for a packet. Each way on is taken at one place, so that the program has each piece once.
pub(crate) enum Next {
    /// Of this flow.
    Flow(*mut FlowEntry),
    /// Of no flow, or of one that ended.
    NoFlow,
    /// Nothing: the packet got its action.
    Done(Action),
}

#[inline(always)]
fn ipv4(ctx: &XdpContext) -> Option<*mut Ipv4> {
    let ethernet = header::<Ethernet>(ctx, 0)?;
    let ip = header::<Ipv4>(ctx, ETHERNET_LEN)?;
    // SAFETY: `header` checked the bounds.
    let (ethertype, version_ihl) = unsafe { ((*ethernet).ethertype, (*ip).version_ihl) };
    (ethertype == ETHERTYPE_IPV4 && version_ihl >> 4 == 4).then_some(ip)
}

#[inline(always)]
fn half_open_or_none(ctx: &XdpContext, segment: &Segment) -> Next {
    match HALF_OPEN.get_ptr_mut(segment.key) {
        // SAFETY: as for the flow table.
        Some(entry) => flow::half_open(ctx, segment, unsafe { &mut *entry }),
        None if segment.flags & SYN != 0 => Next::NoFlow,
        // Another CPU may have moved it to the flow table between the two lookups.
        None => FLOWS.get_ptr_mut(segment.key).map_or(Next::NoFlow, Next::Flow),
    }
}

/// A packet that no table knows: a new connection, or a stray.
#[inline(always)]
fn new_or_stray(ctx: &XdpContext, segment: &Segment, marks: u64) -> Action {
    if marks & FILTER_VIP != 0
        && let Some(vip) = vip(segment.key.dst, segment.key.dst_port)
    {
        if segment.flags & (SYN | ACK | RST | FIN) == SYN {
            return open::connection(ctx, segment, vip);
        }
    } else {
        if marks & FILTER_SNAT == 0 || !is_snat_port(segment.key.dst_port) {
            return pass(Counter::PassNoRoute);
        }
        let from =
            BackendKey { address: segment.key.src, port: segment.key.src_port, reserved: [0; 2] };
        // SAFETY: only the presence of the value counts.
        if unsafe { BACKEND_IDS.get(from) }.is_none() {
            return pass(Counter::PassNotBackend);
        }
    }
    reset::answer(ctx, segment, Counter::ResetUnknownFlow)
}

#[inline(always)]
fn vip(address: Ipv4Be, port: PortBe) -> Option<VipRoute> {
    // SAFETY: the daemon replaces values as a whole; a torn read of this 4-byte value cannot happen.
    unsafe { VIPS.get(VipKey { address, port, reserved: [0; 2] }) }.copied()
}

#[inline(always)]
fn is_vip_address(address: Ipv4Be) -> bool {
    vip(address, PortBe::new(0)).is_some()
}

#[inline(always)]
fn is_snat_port(port: PortBe) -> bool {
    SETTINGS.get(0).is_some_and(|settings| {
        (settings.snat_port_min..=settings.snat_port_max).contains(&port.host())
    })
}

#[inline(always)]
pub(crate) fn pass(counter: Counter) -> Action {
    count(counter);
    XDP_PASS
}

#[inline(always)]
pub(crate) fn drop(counter: Counter) -> Action {
    count(counter);
    XDP_DROP
}
