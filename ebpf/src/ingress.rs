//! What a packet is: not ours, of a known flow, a new connection, an ICMP error about a flow, or a stray.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use pairflip_common::{
    be::{Address, PortBe},
    counter::Counter,
    flow::{Direction, FlowEntry},
    route::{FEATURE_DNAT, FILTER_DNAT, FILTER_SNAT, FILTER_VIP, filter_slot},
};

use crate::{
    Action,
    ethernet::{ETHERNET_LEN, is_tag, skip_tags},
    family::{Family, Fragment, Ip, V4, V6},
    flow,
    maps::{BACKENDS, FILTER, SETTINGS, count},
    packet::{ACK, Ethernet, FIN, PROTOCOL_TCP, RST, SYN, Segment, Tcp, header},
    packet_log,
    verdict::Verdict,
};

pub(crate) const PASS: Action = XDP_PASS;
pub(crate) const DROP: Action = XDP_DROP;

/// In tables of VIPs and backends: the address with whatever port. Packets may carry it, too.
pub(crate) const ANY_PORT: PortBe = PortBe::new(0);

/// `frags`: the frame may lie in several buffers.
#[inline(always)]
pub(crate) fn packet(ctx: &XdpContext, frags: bool) -> Action {
    let Some(ethernet) = header::<Ethernet>(ctx, 0) else {
        return pass(Counter::PassNotIp);
    };
    // SAFETY: `header` checked the bounds.
    let mut ethertype = unsafe { (*ethernet).ethertype };
    let mut l2_len = ETHERNET_LEN;
    if is_tag(ethertype) {
        let Some(behind) = skip_tags(ctx) else {
            return pass(Counter::PassNotIp);
        };
        (ethertype, l2_len) = behind;
    }
    match ethertype {
        V4::ETHERTYPE => ip::<V4>(ctx, l2_len, frags),
        V6::ETHERTYPE => ip::<V6>(ctx, l2_len, frags),
        _ => pass(Counter::PassNotIp),
    }
}

#[inline(always)]
fn ip<F: Family>(ctx: &XdpContext, l2_len: usize, frags: bool) -> Action {
    let Some(header) = F::header(ctx, l2_len) else {
        return pass(Counter::PassNotIp);
    };
    // SAFETY: `F::header` checked the bounds.
    let (src, dst) = F::addresses(unsafe { &*header });
    // Everybody else's traffic leaves here: two array lookups, no hash.
    let marks = Marks { from: marks(src), to: marks(dst) };
    let ours = marks.to != 0 || marks.from & FILTER_DNAT != 0;
    if !ours && !errors_may_be_ours::<F>(ctx, l2_len, header) {
        return pass(Counter::PassNotOurs);
    }
    let Some(ip) = F::parse(ctx, l2_len, header) else {
        return pass(Counter::PassMalformed);
    };
    let other = if ours { Counter::PassNotTcp } else { Counter::PassNotOurs };
    if ip.protocol == F::PROTOCOL_ICMP && ip.fragment == Fragment::Whole {
        return F::icmp(ctx, l2_len, &ip, other);
    }
    if ip.protocol != PROTOCOL_TCP {
        return pass(other);
    }
    tcp::<F>(ctx, l2_len, &ip, &marks, frags)
}

/// Filter marks of a packet's addresses.
struct Marks {
    from: u64,
    to: u64,
}

/// A function of its own, so that it has most of the program's stack for itself.
#[inline(never)]
fn tcp<F: Family>(
    ctx: &XdpContext,
    l2_len: usize,
    ip: &Ip<F>,
    &Marks { from, to }: &Marks,
    frags: bool,
) -> Action {
    if ip.fragment != Fragment::Whole {
        return fragment(ctx, l2_len, ip, to);
    }
    let Some(segment) = Segment::<F>::parse(ctx, l2_len, ip, from, frags) else {
        return pass(Counter::PassMalformed);
    };
    if to & FILTER_VIP == 0 && from & FILTER_DNAT == 0 && !is_snat_port(segment.key().dst_port) {
        return pass(Counter::PassNotOurs);
    }
    packet_log::start();
    let flags = segment.flags;
    let action = decide(ctx, &segment, to).carry_out(ctx, &segment);
    packet_log::line(ctx, &segment, flags, action);
    action
}

#[inline(always)]
fn decide<F: Family>(ctx: &XdpContext, segment: &Segment<F>, to: u64) -> Verdict<F> {
    let mut next = match F::flow(segment.key()) {
        Some(entry) => Next::Flow(entry),
        None => half_open_or_none(ctx, segment),
    };
    if let Next::Flow(entry) = next {
        // SAFETY: a map value is valid until this program returns; what another CPU may change meanwhile is
        // counters and sequence numbers, never where the packet goes.
        let entry = unsafe { &mut *entry };
        if entry.direction == Direction::Host as u8 {
            return Verdict::pass(Counter::PassHost);
        }
        match flow::known(ctx, segment, entry) {
            Some(verdict) => return verdict,
            None => next = Next::NoFlow,
        }
    }
    match next {
        Next::NoFlow => new_or_stray(ctx, segment, to),
        Next::Done(verdict) => verdict,
        Next::Flow(_) => Verdict::drop(Counter::DropInternal),
    }
}

/// What is left to do for a packet. Each way on is taken at one place, so that the program has each piece once.
pub(crate) enum Next<F: Family> {
    /// Of this flow.
    Flow(*mut FlowEntry<F::Address>),
    /// Of no flow, or of one that ended.
    NoFlow,
    /// Nothing but this.
    Done(Verdict<F>),
}

/// In `dnat`, routers behind us tell clients, not us, about what we forwarded.
#[inline(always)]
fn errors_may_be_ours<F: Family>(ctx: &XdpContext, l2_len: usize, header: *mut F::Header) -> bool {
    SETTINGS.get(0).is_some_and(|settings| settings.features & FEATURE_DNAT != 0)
        && F::parse(ctx, l2_len, header).is_some_and(|ip| ip.protocol == F::PROTOCOL_ICMP)
}

#[inline(always)]
fn half_open_or_none<F: Family>(ctx: &XdpContext, segment: &Segment<F>) -> Next<F> {
    match F::half_open(segment.key()) {
        // SAFETY: as for the flow table.
        Some(entry) => flow::half_open(ctx, segment, unsafe { &mut *entry }),
        None if segment.flags & SYN != 0 => Next::NoFlow,
        // Another CPU may have moved it to the flow table between the two lookups.
        None => F::flow(segment.key()).map_or(Next::NoFlow, Next::Flow),
    }
}

/// A packet that no table knows: a new connection, or a stray.
#[inline(always)]
fn new_or_stray<F: Family>(ctx: &XdpContext, segment: &Segment<F>, to: u64) -> Verdict<F> {
    let key = segment.key();
    if to & FILTER_VIP != 0
        && key.dst_port != ANY_PORT
        && let Some(vip) = segment.bench.vip(key.dst, key.dst_port)
    {
        if segment.flags & (SYN | ACK | RST | FIN) == SYN {
            let code = F::open(ctx, &segment.place, segment.from, segment.seq_end(), vip);
            return Verdict::from_code(code, segment.bench.entries().0);
        }
    } else {
        if to & FILTER_SNAT == 0 || !is_snat_port(key.dst_port) {
            return Verdict::pass(if to == 0 {
                Counter::PassNotBackend
            } else {
                Counter::PassNoRoute
            });
        }
        if !is_from_backend(segment) {
            return Verdict::pass(Counter::PassNotBackend);
        }
    }
    Verdict::reset(Counter::ResetUnknownFlow)
}

/// Whether a packet is from a backend to an address that we reach it from. The filter's mark alone may be another address's.
#[inline(always)]
fn is_from_backend<F: Family>(segment: &Segment<F>) -> bool {
    let key = segment.key();
    if key.src_port == ANY_PORT {
        return false;
    }
    let id = segment.bench.backend(key.src, key.src_port);
    let dst = key.dst.any();
    id.and_then(|id| BACKENDS.get(id)).is_some_and(|backend| backend.snat_addresses.contains(&dst))
}

/// A fragment for us: its flow is in the first one only, and the kernel, which would put them together, knows no such connection
/// and would reset it. Without its first fragment the kernel never completes it.
#[inline(always)]
fn fragment<F: Family>(ctx: &XdpContext, l2_len: usize, ip: &Ip<F>, to: u64) -> Action {
    // SAFETY: `F::header` checked the bounds.
    let (src, dst) = F::addresses(unsafe { &*ip.header });
    let Some(bench) = F::bench() else {
        return drop(Counter::DropInternal);
    };
    if to & FILTER_VIP != 0 && bench.vip(dst, ANY_PORT).is_some() {
        return drop(Counter::DropFragment);
    }
    if ip.fragment == Fragment::First
        && let Some(tcp) = header::<Tcp>(ctx, l2_len + ip.headers_len)
    {
        // SAFETY: `header` checked the bounds.
        let Tcp { src_port, dst_port, .. } = unsafe { *tcp };
        if F::flow(bench.set_key(&src, &dst, src_port, dst_port)).is_some() {
            return drop(Counter::DropFragment);
        }
    }
    pass(Counter::PassNotOurs)
}

#[inline(always)]
fn marks<A: Address>(address: A) -> u64 {
    FILTER.get(filter_slot(address)).copied().unwrap_or(0)
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
    PASS
}

#[inline(always)]
pub(crate) fn drop(counter: Counter) -> Action {
    count(counter);
    DROP
}
