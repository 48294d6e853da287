//! The table: ICMP and ICMPv6.

use std::net::SocketAddr;

use crate::{
    bench::ACK,
    cases::{dsr, routed, snat, spoil_last_byte, v6},
    frames::{Body, Icmp, Packet, Quote},
    scene::{
        Scene,
        Side::{self, Backend, Client},
        When::{ClientClosed, Fresh, HalfOpen, Open},
    },
    table::{
        Expect::{Drop, Forward, Pass},
        Row, row,
    },
};

/// An error that both families have, by its meaning.
#[derive(Clone, Copy)]
enum Error {
    Unreachable,
    Port,
    Prohibited,
    TooBig,
    TimeExceeded,
    Reassembly,
    Parameter,
}

impl Error {
    /// Type and code in IPv4 and in IPv6 (RFC 792, RFC 4443).
    fn numbers(self) -> [(u8, u8); 2] {
        match self {
            Self::Unreachable => [(3, 1), (1, 3)],
            Self::Port => [(3, 3), (1, 4)],
            Self::Prohibited => [(3, 13), (1, 1)],
            Self::TooBig => [(3, 4), (2, 0)],
            Self::TimeExceeded => [(11, 0), (3, 0)],
            Self::Reassembly => [(11, 1), (3, 1)],
            Self::Parameter => [(12, 0), (4, 0)],
        }
    }
}

fn error(scene: &Scene, from: Side, error: Error, tcp_len: usize) -> Packet {
    let [v4, v6] = error.numbers();
    let numbers = if scene.vip.is_ipv4() { v4 } else { v6 };
    let rest = match error {
        Error::TooBig => [0, 0, 5, 0x14],
        Error::Parameter => [0, 0, 0, 6],
        Error::Unreachable
        | Error::Port
        | Error::Prohibited
        | Error::TimeExceeded
        | Error::Reassembly => [0; 4],
    };
    scene.error(from, numbers, rest, tcp_len)
}

/// Changes the quoted packet.
fn quoting(mut packet: Packet, change: impl FnOnce(Packet) -> Packet) -> Packet {
    if let Body::Icmp(Icmp { quote: Quote::Packet(quoted, _), .. }) = &mut packet.body {
        **quoted = change((**quoted).clone());
    }
    packet
}

const WHOLE: usize = 25;
const SENT_ON: &[&str] = &["icmp_forwarded"];

fn echo(scene: &Scene, dst: SocketAddr) -> Packet {
    let kind = if scene.vip.is_ipv4() { 8 } else { 128 };
    let icmp = Icmp { kind, code: 0, rest: [1, 2, 3, 4], quote: Quote::Bytes(vec![9; 32]) };
    scene.packet(Client, scene.client, dst, Body::Icmp(icmp))
}

#[rustfmt::skip]
pub(crate) fn errors() -> Vec<Row> {
    vec![
        row("a backend's host is unreachable", Open, Backend, |s| error(s, Backend, Error::Unreachable, WHOLE), Forward(SENT_ON)).only(routed),
        row("a backend's port is unreachable", Open, Backend, |s| error(s, Backend, Error::Port, WHOLE), Forward(SENT_ON)).only(routed),
        row("a backend is prohibited", Open, Backend, |s| error(s, Backend, Error::Prohibited, WHOLE), Forward(SENT_ON)).only(routed),
        row("too big on the way to a backend", Open, Backend, |s| error(s, Backend, Error::TooBig, WHOLE), Forward(SENT_ON)).only(routed),
        row("TTL used up on the way to a backend", Open, Backend, |s| error(s, Backend, Error::TimeExceeded, WHOLE), Forward(SENT_ON)).only(routed),
        row("a backend has not all fragments", Open, Backend, |s| error(s, Backend, Error::Reassembly, WHOLE), Forward(SENT_ON)).only(routed),
        row("a backend does not like a header", Open, Backend, |s| error(s, Backend, Error::Parameter, WHOLE), Forward(SENT_ON)).only(routed),
        row("an error of a backend itself", Open, Backend, |s| {
            let error = error(s, Backend, Error::Port, WHOLE);
            let dst = error.dst;
            error.between(s.backend, dst)
        }, Forward(SENT_ON)).only(routed),
        row("a backend is unreachable before the handshake's end", HalfOpen, Backend, |s| error(s, Backend, Error::Unreachable, WHOLE),
            Forward(SENT_ON)).only(routed),
        row("a backend is unreachable after the client closed", ClientClosed, Backend, |s| error(s, Backend, Error::Unreachable, WHOLE),
            Forward(SENT_ON)).only(routed),
        row("an error that quotes 8 bytes", Open, Backend, |s| error(s, Backend, Error::TooBig, 8), Forward(SENT_ON)).only(routed),
        row("an error that quotes 8 bytes in a padded frame", Open, Backend, |s| error(s, Backend, Error::TooBig, 8).trailer(16),
            Forward(SENT_ON)).only(routed),
        row("an error that quotes 9 bytes", Open, Backend, |s| error(s, Backend, Error::TooBig, 9), Forward(SENT_ON)).only(routed),
        row("an error that quotes 16 bytes", Open, Backend, |s| error(s, Backend, Error::TooBig, 16), Forward(SENT_ON)).only(routed),
        row("an error that quotes up to the checksum", Open, Backend, |s| error(s, Backend, Error::TooBig, 18), Forward(SENT_ON)).only(routed),
        row("an error that quotes a header", Open, Backend, |s| error(s, Backend, Error::TooBig, 20), Forward(SENT_ON)).only(routed),
        row("an error with options", Open, Backend, |s| error(s, Backend, Error::TooBig, WHOLE).with_options(3), Forward(SENT_ON)).only(routed),
        row("an error about a packet with options", Open, Backend,
            |s| quoting(error(s, Backend, Error::TooBig, 8), |quoted| quoted.with_options(3)), Forward(SENT_ON)).only(routed),
        row("an error with TTL 2", Open, Backend, |s| error(s, Backend, Error::TooBig, WHOLE).ttl(2), Forward(SENT_ON)).only(routed),
        row("an error with TTL 1", Open, Backend, |s| error(s, Backend, Error::TooBig, WHOLE).ttl(1), Drop("drop_ttl")).only(routed),
        row("a damaged error stays damaged", Open, Backend, |s| error(s, Backend, Error::TooBig, WHOLE), Forward(SENT_ON)).only(routed)
            .damaged(spoil_last_byte),

        row("a client's host is unreachable", Open, Client, |s| error(s, Client, Error::Unreachable, WHOLE), Forward(SENT_ON)),
        row("a client's port is unreachable", Open, Client, |s| error(s, Client, Error::Port, WHOLE), Forward(SENT_ON)),
        row("a client is prohibited", Open, Client, |s| error(s, Client, Error::Prohibited, WHOLE), Forward(SENT_ON)),
        row("too big on the way to a client", Open, Client, |s| error(s, Client, Error::TooBig, WHOLE), Forward(SENT_ON)),
        row("TTL used up on the way to a client", Open, Client, |s| error(s, Client, Error::TimeExceeded, WHOLE), Forward(SENT_ON)),
        row("a client has not all fragments", Open, Client, |s| error(s, Client, Error::Reassembly, WHOLE), Forward(SENT_ON)),
        row("a client does not like a header", Open, Client, |s| error(s, Client, Error::Parameter, WHOLE), Forward(SENT_ON)),
        row("a client's error that quotes 8 bytes", Open, Client, |s| error(s, Client, Error::TooBig, 8), Forward(SENT_ON)),
        row("a client's error that quotes 12 bytes", Open, Client, |s| error(s, Client, Error::TooBig, 12), Forward(SENT_ON)),
        row("a client's error before the handshake's end", HalfOpen, Client, |s| error(s, Client, Error::Prohibited, WHOLE), Forward(SENT_ON)),
        row("a client's error with options", Open, Client, |s| error(s, Client, Error::TooBig, WHOLE).with_options(2), Forward(SENT_ON)),
        row("a client's error with TTL 1", Open, Client, |s| error(s, Client, Error::TooBig, WHOLE).ttl(1), Drop("drop_ttl")).only(routed),
        row("a client's error with TTL 1 where nobody routes", Open, Client, |s| error(s, Client, Error::TooBig, WHOLE).ttl(1),
            Forward(SENT_ON)).only(dsr),

        row("an error that quotes 7 bytes", Open, Backend, |s| error(s, Backend, Error::TooBig, 7), Pass("pass_not_tcp")).only(snat),
        row("an error whose quote is in the padding", Open, Client, |s| error(s, Client, Error::TooBig, 8), Pass("pass_not_tcp")).damaged(|frame, ip| {
            let low = if frame[ip] >> 4 == 4 { ip + 3 } else { ip + 5 };
            frame[low] -= 1;
        }),
        row("an error longer than its frame", Open, Client, |s| error(s, Client, Error::TooBig, WHOLE), Pass("pass_not_tcp")).damaged(|frame, ip| {
            let low = if frame[ip] >> 4 == 4 { ip + 3 } else { ip + 5 };
            frame[low] += 1;
        }),
        row("an error about an unknown connection", Fresh, Client, |s| error(s, Client, Error::Port, WHOLE), Pass("pass_not_tcp")),
        row("an error about a later fragment", Open, Client,
            |s| quoting(error(s, Client, Error::Reassembly, 8), |quoted| quoted.fragment(4, false)), Pass("pass_not_tcp")),
        row("an error about the first fragment", Open, Client,
            |s| quoting(error(s, Client, Error::Reassembly, 8), |quoted| quoted.fragment(0, true)), Forward(SENT_ON)),
        row("a fragment of an error", Open, Client, |s| error(s, Client, Error::TooBig, WHOLE).fragment(0, true), Pass("pass_not_tcp")),
        row("a redirect", Open, Client, |s| s.error(Client, if s.vip.is_ipv4() { (5, 1) } else { (137, 0) }, [10, 0, 0, 1], WHOLE),
            Pass("pass_not_tcp")),
        row("a ping", Open, Client, |s| echo(s, s.vip), Pass("pass_not_tcp")),
        row("a ping of somebody else", Open, Client, |s| echo(s, s.stranger), Pass("pass_not_ours")),
        row("a neighbour solicitation", Open, Client, |s| {
            let icmp = Icmp { kind: 135, code: 0, rest: [0; 4], quote: Quote::Bytes(vec![0; 16]) };
            s.packet(Client, s.client, s.vip, Body::Icmp(icmp))
        }, Pass("pass_not_tcp")).only(v6),
        row("somebody else's error", Open, Client, |s| {
            let quoted = s.client(ACK).between(s.stranger, s.client);
            let quote = Quote::Packet(Box::new(quoted), 8);
            let src = SocketAddr::new(s.router, 0);
            s.packet(Client, src, s.stranger, Body::Icmp(Icmp { kind: 3, code: 1, rest: [0; 4], quote }))
        }, Pass("pass_not_ours")),
        row("an error about a flow on its way to somebody else", Open, Client, |s| {
            let error = error(s, Client, Error::Port, WHOLE);
            let src = error.src;
            error.between(src, s.backend)
        }, Pass("pass_not_tcp")).only(routed),
        row("a fragment of somebody else's error", Open, Client, |s| echo(s, s.stranger).fragment(0, true), Pass("pass_not_ours")),
    ]
}
