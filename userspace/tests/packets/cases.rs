//! The table: TCP.

use pairflip::dataplane::Denial;
use pairflip_common::flow::Forwarding;

use crate::{
    bench::{ACK, FIN, PSH, RST, SYN},
    frames::{Body, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING},
    scene::{
        Side::{Backend, Client},
        When::{Answered, BothClosed, ClientClosed, Cut, Fresh, HalfOpen, Open, ServerClosed},
    },
    table::{
        Expect::{Drop, Forward, Pass, Reset, TimeExceeded, TooBig},
        Row, row,
    },
    world::{Arms, BACKEND_MTU, CLIENT_MTU, Family, Given, STRAY_PORT, World},
};

/// What a SYN of Linux carries: segment size, selective acknowledgement, timestamps, window scale.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
/// Selective acknowledgements and timestamps take all the room there is.
const ALL_OPTIONS: [u8; 40] = [1; 40];

pub(crate) fn routed(world: &World) -> bool {
    world.routed()
}

pub(crate) fn v4(world: &World) -> bool {
    world.family == Family::V4
}

pub(crate) fn v6(world: &World) -> bool {
    world.family == Family::V6
}

pub(crate) fn snat(world: &World) -> bool {
    world.forwarding == Forwarding::Snat
}

pub(crate) fn dnat(world: &World) -> bool {
    world.forwarding == Forwarding::Dnat
}

pub(crate) fn dsr(world: &World) -> bool {
    world.forwarding == Forwarding::Dsr
}

fn two_armed(world: &World) -> bool {
    world.arms == Arms::Two && world.routed()
}

/// From the first SYN to the last acknowledgement.
#[rustfmt::skip]
pub(crate) fn life() -> Vec<Row> {
    vec![
        row("a SYN opens a connection", Fresh, Client, |s| s.client(SYN), Forward(&["syn_forwarded"])),
        row("a SYN with options", Fresh, Client, |s| s.client(SYN).tcp(|t| t.options = SYN_OPTIONS.to_vec()),
            Forward(&["syn_forwarded"])),
        row("a SYN with data", Fresh, Client, |s| s.client(SYN).payload(b"early"), Forward(&["syn_forwarded"])),
        row("a SYN whose number wraps", Fresh, Client, |s| s.client(SYN).seq(u32::MAX), Forward(&["syn_forwarded"])),
        row("a SYN sent again stays with its port", HalfOpen, Client, |s| s.client(SYN).seq(s.c - 1),
            Forward(&["half_open_forwarded"])),
        row("a SYN of another number starts over", HalfOpen, Client, |s| s.client(SYN).seq(77_000),
            Forward(&["syn_forwarded"])),
        row("a SYN of another number starts over after the answer", Answered, Client, |s| s.client(SYN).seq(77_000),
            Forward(&["syn_forwarded"])),
        row("the server answers", HalfOpen, Backend, |s| s.server(SYN | ACK), Forward(&["half_open_forwarded"])).only(routed),
        row("the server answers again", Answered, Backend, |s| s.server(SYN | ACK).seq(s.s - 1),
            Forward(&["half_open_forwarded"])).only(routed),
        row("the server refuses", HalfOpen, Backend, |s| s.server(RST | ACK).seq(0), Forward(&["half_open_forwarded"])).only(routed),
        row("the client gives up", HalfOpen, Client, |s| s.client(RST), Forward(&["half_open_forwarded"])),
        row("the client gives up after the answer", Answered, Client, |s| s.client(RST), Forward(&["half_open_forwarded"])),
        row("the last acknowledgement opens the flow", Answered, Client, |s| s.client(ACK), Forward(&["flow_opened", "forwarded"])),
        row("the last acknowledgement with data", Answered, Client, |s| s.client(ACK | PSH).payload(b"hi"),
            Forward(&["flow_opened", "forwarded"])),
        row("the last acknowledgement with FIN", Answered, Client, |s| s.client(ACK | FIN), Forward(&["flow_opened", "forwarded"])),
        row("an acknowledgement before the answer opens nothing", HalfOpen, Client, |s| s.client(ACK).ack(1),
            Forward(&["half_open_forwarded"])).only(routed),
        row("a guessed acknowledgement opens nothing", Answered, Client, |s| s.client(ACK).ack(s.s + 1),
            Forward(&["half_open_forwarded"])).only(routed),
        row("an acknowledgement from elsewhere in the stream opens nothing", HalfOpen, Client, |s| s.client(ACK).seq(s.c + 9),
            Forward(&["half_open_forwarded"])).only(dsr),

        row("a query", Open, Client, |s| s.client(ACK | PSH).payload(b"select 1"), Forward(&["forwarded"])),
        row("an odd number of bytes", Open, Client, |s| s.client(ACK | PSH).payload(b"select"), Forward(&["forwarded"])),
        row("a keepalive", Open, Client, |s| s.client(ACK).seq(s.c - 1), Forward(&["forwarded"])),
        row("a query with as many options as there can be", Open, Client, |s| s.client(ACK | PSH).tcp(|t| t.options = ALL_OPTIONS.to_vec()),
            Forward(&["forwarded"])),
        row("rows", Open, Backend, |s| s.server(ACK | PSH).payload(b"42"), Forward(&["forwarded"])).only(routed),
        row("rows with options", Open, Backend, |s| s.server(ACK | PSH).payload(b"42").tcp(|t| t.options = ALL_OPTIONS.to_vec()),
            Forward(&["forwarded"])).only(routed),
        row("the server answers its SYN again", Open, Backend, |s| s.server(SYN | ACK).seq(s.s - 1),
            Forward(&["forwarded"])).only(routed),
        row("a packet with padding", Open, Client, |s| s.client(ACK).trailer(6), Forward(&["forwarded"])),
        row("a reply with padding", Open, Backend, |s| s.server(ACK).trailer(9), Forward(&["forwarded"])).only(routed),
        row("a damaged query stays damaged", Open, Client, |s| s.client(ACK).payload(b"select 1"), Forward(&["forwarded"]))
            .damaged(spoil_last_byte),
        row("damaged rows stay damaged", Open, Backend, |s| s.server(ACK).payload(b"42"), Forward(&["forwarded"]))
            .only(routed).damaged(spoil_last_byte),

        row("the client closes", Open, Client, |s| s.client(FIN | ACK), Forward(&["forwarded"])),
        row("the server closes", Open, Backend, |s| s.server(FIN | ACK), Forward(&["forwarded"])).only(routed),
        row("the server closes after the client", ClientClosed, Backend, |s| s.server(FIN | ACK), Forward(&["forwarded"])).only(routed),
        row("the server goes on after the client closed", ClientClosed, Backend, |s| s.server(ACK).payload(b"late"),
            Forward(&["forwarded"])).only(routed),
        row("the client goes on after the server closed", ServerClosed, Client, |s| s.client(ACK).payload(b"late"),
            Forward(&["forwarded"])).only(routed),
        row("the acknowledgement of the last FIN ends the flow", BothClosed, Client, |s| s.client(ACK),
            Forward(&["forwarded", "flow_closed"])).only(routed),
        row("an older acknowledgement ends nothing", BothClosed, Client, |s| s.client(ACK).ack(s.s - 1),
            Forward(&["forwarded"])).only(routed),
        row("a FIN sent again ends nothing", BothClosed, Client, |s| s.client(FIN | ACK).seq(s.c - 1),
            Forward(&["forwarded"])).only(routed),

        row("a reset of the client ends the flow", Open, Client, |s| s.client(RST), Forward(&["forwarded", "flow_closed"])),
        row("a reset of the server ends the flow", Open, Backend, |s| s.server(RST | ACK), Forward(&["forwarded", "flow_closed"])).only(routed),
        row("a reset of another number ends nothing", Open, Client, |s| s.client(RST).seq(s.c + 9000), Forward(&["forwarded"])),
        row("a reset of an old number ends nothing", Open, Client, |s| s.client(RST).seq(s.c - 1), Forward(&["forwarded"])),
        row("a server's reset of another number ends nothing", Open, Backend, |s| s.server(RST).seq(s.s + 1),
            Forward(&["forwarded"])).only(routed),
        row("a SYN on a flow is the server's to challenge", Open, Client, |s| s.client(SYN).seq(1_000_000), Forward(&["forwarded"])),
        row("a SYN after the client closed starts over", ClientClosed, Client, |s| s.client(SYN).seq(1_000_000),
            Forward(&["flow_closed", "syn_forwarded"])),
        row("a SYN after the server closed starts over", ServerClosed, Client, |s| s.client(SYN).seq(1_000_000),
            Forward(&["flow_closed", "syn_forwarded"])).only(routed),

        row("a late query of a flow that was cut", Cut, Client, |s| s.client(ACK | PSH).payload(b"late"), Reset("reset_ended")),
        row("late rows of a flow that was cut", Cut, Backend, |s| s.server(ACK | PSH).payload(b"late"), Reset("reset_ended")).only(routed),
        row("a server's challenge after a cut", Cut, Backend, |s| s.server(ACK).ack(s.c - 300), Reset("reset_ended")).only(routed),
        row("late rows from where the backend is not", Cut, Backend, |s| s.server(ACK),
            Drop("drop_wrong_side")).given(Given::BackendElsewhere).only(two_armed),
        row("a server's reset after a cut", Cut, Backend, |s| s.server(RST), Drop("drop_ended")).only(routed),
        row("a client's reset after a cut", Cut, Client, |s| s.client(RST), Drop("drop_ended")).only(routed),
        row("a client's reset after a cut answers the server's challenge", Cut, Client, |s| s.client(RST).seq(s.c - 300),
            Forward(&["half_open_forwarded"])).only(dsr),
        row("a SYN after a cut starts over", Cut, Client, |s| s.client(SYN).seq(1_000_000), Forward(&["syn_forwarded"])),
        row("a SYN with FIN after a cut", Cut, Client, |s| s.client(SYN | FIN), Reset("reset_ended")),
    ]
}

/// What has no flow, or may not have one.
#[rustfmt::skip]
pub(crate) fn strays() -> Vec<Row> {
    vec![
        row("a stray acknowledgement", Fresh, Client, |s| s.client(ACK), Reset("reset_unknown_flow")),
        row("a stray packet with data", Fresh, Client, |s| s.client(ACK | PSH).payload(&[7; 900]), Reset("reset_unknown_flow")),
        row("a stray packet with options", Fresh, Client, |s| s.client(ACK).with_options(2), Reset("reset_unknown_flow")),
        row("a stray FIN", Fresh, Client, |s| s.client(FIN | ACK), Reset("reset_unknown_flow")),
        row("a stray FIN without acknowledgement", Fresh, Client, |s| s.client(FIN).payload(b"x"), Reset("reset_unknown_flow")),
        row("a stray answer", Fresh, Client, |s| s.client(SYN | ACK), Reset("reset_unknown_flow")),
        row("a SYN with FIN", Fresh, Client, |s| s.client(SYN | FIN), Reset("reset_unknown_flow")),
        row("a packet without flags", Fresh, Client, |s| s.client(0), Reset("reset_unknown_flow")),
        row("a stray reset", Fresh, Client, |s| s.client(RST), Drop("drop_no_reset")),
        row("a SYN with RST", Fresh, Client, |s| s.client(SYN | RST), Drop("drop_no_reset")),
        row("a stray reply", Fresh, Backend, |s| s.server(ACK).between(s.backend, (s.snat, STRAY_PORT).into()),
            Reset("reset_unknown_flow")).only(snat),
        row("a stray reset of a backend", Fresh, Backend, |s| s.server(RST).between(s.backend, (s.snat, STRAY_PORT).into()),
            Drop("drop_no_reset")).only(snat),
        row("a stranger to a SNAT port", Open, Backend, |s| s.server(ACK).between(s.stranger, s.source),
            Pass("pass_not_backend")).only(snat),
        row("another port of a backend to a SNAT port", Open, Backend, |s| s.server(ACK).between((s.backend.ip(), 22).into(), s.source),
            Pass("pass_not_backend")).only(snat),
        row("a backend to a port outside snat_ports", Open, Backend, |s| s.server(ACK).between(s.backend, (s.snat, 22).into()),
            Pass("pass_not_ours")).only(snat),
        row("a backend to a client that it knows directly", Fresh, Backend, |s| s.server(ACK).between(s.backend, s.stranger),
            Pass("pass_not_backend")).only(dnat),
        row("another port of a VIP", Fresh, Client, |s| s.client(SYN).between(s.client, (s.vip.ip(), 22).into()), Pass("pass_no_route")),
        row("port 0 of a VIP", Fresh, Client, |s| s.client(SYN).between(s.client, (s.vip.ip(), 0).into()), Pass("pass_no_route")),
        row("a stray reply from port 0", Fresh, Backend, |s| s.server(ACK).between((s.backend.ip(), 0).into(), (s.snat, STRAY_PORT).into()),
            Pass("pass_not_backend")).only(snat),
        row("somebody else's packet", Fresh, Client, |s| s.client(SYN).between(s.client, s.stranger), Pass("pass_not_ours")),
        row("another protocol", Fresh, Client, |s| s.packet(Client, s.client, s.vip, Body::Other(17, vec![7; 30])),
            Pass("pass_not_tcp")),

        row("a denied client is told", Fresh, Client, |s| s.client(SYN), Reset("reset_denied")).given(Given::Denied(Denial::Reset)),
        row("a denied client is not told", Fresh, Client, |s| s.client(SYN), Drop("drop_denied")).given(Given::Denied(Denial::Drop)),
        row("a denied client's flow goes on", Open, Client, |s| s.client(ACK), Forward(&["forwarded"])).given(Given::Denied(Denial::Reset)),
        row("an allowed client", Fresh, Client, |s| s.client(SYN), Forward(&["syn_forwarded"])).given(Given::Allowed),
        row("a paused route takes nothing new", Fresh, Client, |s| s.client(SYN), Drop("drop_paused")).given(Given::Paused),
        row("a paused route lets handshakes end", Answered, Client, |s| s.client(ACK),
            Forward(&["flow_opened", "forwarded"])).given(Given::Paused),
        row("a held flow", Open, Client, |s| s.client(ACK).payload(b"wait"), Drop("drop_held")).given(Given::Held),
        row("a held flow's server goes on", Open, Backend, |s| s.server(ACK), Forward(&["forwarded"])).given(Given::Held).only(routed),
        row("no backend, and the client is told", Fresh, Client, |s| s.client(SYN),
            Reset("reset_no_backend")).given(Given::NoBackend(Denial::Reset)),
        row("no backend, and the client waits", Fresh, Client, |s| s.client(SYN),
            Drop("drop_no_backend")).given(Given::NoBackend(Denial::Drop)),
        row("a flow goes on without a backend for new ones", Open, Client, |s| s.client(ACK),
            Forward(&["forwarded"])).given(Given::NoBackend(Denial::Drop)),
        row("a SYN waits for the next hop", Fresh, Client, |s| s.client(SYN), Drop("drop_next_hop_unknown")).given(Given::NextHopUnknown),
        row("a flow waits for the next hop", Open, Client, |s| s.client(ACK), Drop("drop_next_hop_unknown")).given(Given::NextHopUnknown),
        row("ports are used up", Fresh, Client, |s| s.client(SYN),
            Reset("reset_ports_exhausted")).given(Given::PortsExhausted).only(snat),

        row("a SYN from a VIP", Fresh, Client, |s| s.client(SYN).between((s.vip.ip(), 4000).into(), s.vip), Drop("drop_wrong_side")),
        row("a SYN from a backend, where it is not", Fresh, Client, |s| s.client(SYN).between((s.backend.ip(), 4000).into(), s.vip),
            Drop("drop_wrong_side")).only(two_armed),
        row("a reply from where the backend is not", Open, Backend, |s| s.server(ACK),
            Drop("drop_wrong_side")).given(Given::BackendElsewhere).only(two_armed),
        row("an answer from where the backend is not", HalfOpen, Backend, |s| s.server(SYN | ACK),
            Drop("drop_wrong_side")).given(Given::BackendElsewhere).only(two_armed),
        row("a reset from where the backend is not", Open, Backend, |s| s.server(RST),
            Drop("drop_wrong_side")).given(Given::BackendElsewhere).only(two_armed),
    ]
}

/// What is about the IP packet.
#[rustfmt::skip]
pub(crate) fn shapes() -> Vec<Row> {
    vec![
        row("options", Open, Client, |s| s.client(ACK).with_options(1).payload(b"x"), Forward(&["forwarded"])),
        row("many options", Open, Client, |s| s.client(ACK).with_options(10).payload(b"x"), Forward(&["forwarded"])),
        row("a SYN with IP options", Fresh, Client, |s| s.client(SYN).with_options(3), Forward(&["syn_forwarded"])),
        row("a reply with IP options", Open, Backend, |s| s.server(ACK).with_options(2), Forward(&["forwarded"])).only(routed),
        row("two extension headers", Open, Client, |s| s.client(ACK).extensions(&[HOP_BY_HOP, DESTINATION]),
            Forward(&["forwarded"])).only(v6),
        row("three extension headers", Fresh, Client, |s| s.client(SYN).extensions(&[HOP_BY_HOP, DESTINATION, ROUTING]),
            Forward(&["syn_forwarded"])).only(v6),
        row("four extension headers", Open, Client, |s| s.client(ACK).extensions(&[HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT]),
            Forward(&["forwarded"])).only(v6),
        row("five extension headers", Open, Client, |s| s.client(ACK).extensions(&[HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, DESTINATION]),
            Forward(&["forwarded"])).only(v6),
        row("six extension headers", Open, Client, |s| s.client(ACK).extensions(&[HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, DESTINATION, DESTINATION]),
            Forward(&["forwarded"])).only(v6),
        row("seven extension headers", Open, Client, |s| s.client(ACK).extensions(&[DESTINATION; 7]), Pass("pass_not_tcp")).only(v6),
        row("a routing header with hops left", Open, Client, |s| s.client(ACK).extensions(&[ROUTING]),
            Pass("pass_malformed")).only(v6).damaged(|frame, ip| frame[ip + 43] = 1),
        row("an authentication header", Open, Client, |s| s.client(ACK).extensions(&[51]), Pass("pass_not_tcp")).only(v6),

        row("a packet that may be fragmented, and is not", Open, Client, |s| s.client(ACK).fragment(0, false), Forward(&["forwarded"])),
        row("a first fragment", Open, Client, |s| s.client(ACK).fragment(0, true).payload(&[1; 24]), Drop("drop_fragment")),
        row("a later fragment", Open, Client, |s| s.client(ACK).fragment(3, true).payload(&[1; 24]), Drop("drop_fragment")),
        row("the last fragment", Open, Client, |s| s.client(ACK).fragment(3, false), Drop("drop_fragment")),
        row("a first fragment of a reply", Open, Backend, |s| s.server(ACK).fragment(0, true).payload(&[1; 24]),
            Drop("drop_fragment")).only(routed),
        row("a later fragment of a reply", Open, Backend, |s| s.server(ACK).fragment(3, false), Pass("pass_not_ours")).only(routed),
        row("somebody else's fragment", Open, Client, |s| s.client(ACK).between(s.client, s.stranger).fragment(0, true),
            Pass("pass_not_ours")),

        row("as large as the way allows", Open, Client, |s| s.client(ACK).len(BACKEND_MTU), Forward(&["forwarded"])),
        row("too large for the way", Open, Client, |s| s.client(ACK).len(BACKEND_MTU + 1), TooBig),
        row("too large with options", Open, Client, |s| s.client(ACK).with_options(2).len(BACKEND_MTU + 1), TooBig),
        row("a reply as large as the way allows", Open, Backend, |s| s.server(ACK).len(CLIENT_MTU), Forward(&["forwarded"])).only(routed),
        row("a reply too large for the way", Open, Backend, |s| s.server(ACK).len(CLIENT_MTU + 1), TooBig).only(routed),
        row("TTL 2", Open, Client, |s| s.client(ACK).ttl(2), Forward(&["forwarded"])),
        row("TTL 1", Open, Client, |s| s.client(ACK).ttl(1), TimeExceeded).only(routed),
        row("TTL 0", Open, Client, |s| s.client(ACK).ttl(0), TimeExceeded).only(routed),
        row("TTL 1 of a padded packet", Open, Client, |s| s.client(ACK).ttl(1).trailer(6), TimeExceeded).only(routed),
        row("TTL 1 with options", Open, Client, |s| s.client(ACK).ttl(1).with_options(2).payload(&[8; 60]), TimeExceeded).only(routed),
        row("TTL 1 with options and less than is quoted", Open, Client, |s| s.client(ACK).ttl(1).with_options(2),
            Drop("drop_ttl")).only(routed),
        row("TTL 1 of a SYN", Fresh, Client, |s| s.client(SYN).ttl(1), TimeExceeded).only(routed),
        row("TTL 1 of a reply", Open, Backend, |s| s.server(ACK).ttl(1), TimeExceeded).only(routed),
        row("TTL 1 where nobody routes", Open, Client, |s| s.client(ACK).ttl(1), Forward(&["forwarded"])).only(dsr),

        row("ARP", Open, Client, |s| s.client(ACK), Pass("pass_not_ip")).damaged(|frame, ip| frame[ip - 2..ip].copy_from_slice(&[8, 6])),
        row("three VLAN tags", Open, Client, |s| s.client(ACK), Pass("pass_not_ip")).damaged(|frame, ip| {
            frame.splice(ip - 2..ip - 2, [0x81, 0, 0, 1].repeat(3));
        }),
        row("nothing behind the Ethernet header", Open, Client, |s| s.client(ACK), Pass("pass_not_ip")).damaged(|frame, ip| frame.truncate(ip)),
        row("half an IP header", Open, Client, |s| s.client(ACK), Pass("pass_not_ip")).damaged(|frame, ip| frame.truncate(ip + 19)),
        row("another IP version", Open, Client, |s| s.client(ACK), Pass("pass_not_ip")).damaged(|frame, ip| frame[ip] = 0x55),
        row("half a TCP header", Open, Client, |s| s.client(ACK), Pass("pass_malformed")).damaged(|frame, _| frame.truncate(frame.len() - 1)),
        row("an IP header of 16 bytes", Open, Client, |s| s.client(ACK), Pass("pass_malformed")).only(v4).damaged(|frame, ip| frame[ip] = 0x44),
        row("longer than its frame", Open, Client, |s| s.client(ACK), Pass("pass_malformed")).damaged(|frame, ip| {
            // Both families have the low byte of a length where it is enough.
            let low = if frame[ip] >> 4 == 4 { ip + 3 } else { ip + 5 };
            frame[low] += 1;
        }),
        row("shorter than its headers", Open, Client, |s| s.client(ACK), Pass("pass_malformed")).damaged(|frame, ip| {
            let low = if frame[ip] >> 4 == 4 { ip + 3 } else { ip + 5 };
            frame[low] -= 1;
        }),
        row("a TCP header of 16 bytes", Open, Client, |s| s.client(ACK), Pass("pass_malformed")).damaged(|frame, _| {
            let at = frame.len() - 8;
            frame[at] = 4 << 4;
        }),
        row("an extension header beyond the frame", Open, Client, |s| s.client(ACK).extensions(&[DESTINATION]),
            Pass("pass_malformed")).only(v6).damaged(|frame, ip| frame[ip + 41] = 200),
    ]
}

#[expect(clippy::ptr_arg, reason = "of the type that other damage needs")]
pub(crate) fn spoil_last_byte(frame: &mut Vec<u8>, _: usize) {
    if let Some(byte) = frame.last_mut() {
        *byte ^= 0x55;
    }
}
