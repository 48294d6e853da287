//! What must become of any frame at all, by the documentation and the RFCs: a second opinion, made of slices and without regard to
//! speed. It is told which entries the tables have for a packet and judges the packet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use etherparse::checksum::Sum16BitWords;
use pairflip_common::flow::{Direction, FlowState, Forwarding};

use crate::{
    bench::{ACK, FIN, RST, SYN},
    frames::{DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING},
};

/// One world's addresses.
pub(crate) struct Config {
    pub(crate) forwarding: Forwarding,
    pub(crate) vip: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) snat: IpAddr,
    pub(crate) snat_ports: (u16, u16),
    /// Of the ways to the clients and to the backend.
    pub(crate) mtus: [usize; 2],
}

/// What a table has for a packet's addresses.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) half_open: bool,
    pub(crate) direction: u8,
    pub(crate) state: u8,
    pub(crate) seq_next: u32,
    /// The addresses that a packet leaves with.
    pub(crate) ends: (SocketAddr, SocketAddr),
    pub(crate) client_mac: [u8; 6],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    /// A packet of our own goes back.
    Answer,
    Forward,
}

/// A verdict, and for what is forwarded the entry; without one a new connection is opened.
#[derive(Debug)]
pub(crate) struct Opinion {
    pub(crate) verdict: Verdict,
    pub(crate) entry: Option<Entry>,
    pub(crate) packet: Option<Ip>,
}

/// Where things are in a frame with an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) at: usize,
    pub(crate) v4: bool,
    pub(crate) protocol: u8,
    /// Offset, and whether more fragments follow.
    fragment: (u16, bool),
    pub(crate) body_at: usize,
    pub(crate) len: usize,
    src: IpAddr,
    dst: IpAddr,
}

impl Ip {
    pub(crate) fn is_error(&self) -> bool {
        self.protocol == if self.v4 { 1 } else { 58 }
    }

    fn is_whole(&self) -> bool {
        self.fragment == (0, false)
    }

    pub(crate) fn end(&self) -> usize {
        self.at + self.len
    }

    /// Where the addresses are.
    pub(crate) fn ends(&self) -> (Range<usize>, Range<usize>) {
        let (first, len) = if self.v4 { (self.at + 12, 4) } else { (self.at + 8, 16) };
        (first..first + len, first + len..first + 2 * len)
    }

    pub(crate) fn ttl_at(&self) -> usize {
        self.at + if self.v4 { 8 } else { 7 }
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What is in the frame behind up to two tags.
pub(crate) fn layer3(frame: &[u8]) -> Option<(usize, bool)> {
    let mut at = 14;
    while at < 22 && matches!(word(frame, at - 2)?, 0x8100 | 0x88a8) {
        at += 4;
    }
    match word(frame, at - 2)? {
        0x0800 => Some((at, true)),
        0x86dd => Some((at, false)),
        _ => None,
    }
}

/// Reads an IP packet at `at`; `None` if its headers do not fit.
pub(crate) fn ip(bytes: &[u8], at: usize, v4: bool) -> Option<Ip> {
    let header = bytes.get(at..at + if v4 { 20 } else { 40 })?;
    if header[0] >> 4 != if v4 { 4 } else { 6 } {
        return None;
    }
    if v4 {
        let header_len = usize::from(header[0] & 15) * 4;
        let bits = word(header, 6)?;
        return (header_len >= 20).then_some(Ip {
            at,
            v4,
            protocol: header[9],
            fragment: (bits & 0x1fff, bits & 0x2000 != 0),
            body_at: at + header_len,
            len: word(header, 2)?.into(),
            src: Ipv4Addr::from(long(header, 12)?).into(),
            dst: Ipv4Addr::from(long(header, 16)?).into(),
        });
    }
    let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok().map(Ipv6Addr::from);
    let (mut protocol, mut body_at, mut fragment) = (header[6], at + 40, (0, false));
    for _ in 0..6 {
        if ![HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION].contains(&protocol) || fragment.0 != 0 {
            break;
        }
        let extension = bytes.get(body_at..body_at + 8)?;
        if protocol == FRAGMENT {
            let bits = word(extension, 2)?;
            // Several of them: what one says another cannot take back.
            fragment = (bits >> 3, bits & 1 != 0 || fragment.1);
            body_at += 8;
        } else {
            if protocol == ROUTING && extension[3] != 0 {
                return None;
            }
            body_at += 8 * (usize::from(extension[1]) + 1);
        }
        protocol = extension[0];
    }
    Some(Ip {
        at,
        v4,
        protocol,
        fragment,
        body_at,
        len: 40 + usize::from(word(header, 4)?),
        src: address(8)?.into(),
        dst: address(24)?.into(),
    })
}

const fn opinion(verdict: Verdict) -> Opinion {
    Opinion { verdict, entry: None, packet: None }
}

/// `entry` looks up a packet by its source and destination.
pub(crate) fn judge(
    config: &Config,
    frame: &[u8],
    entry: &dyn Fn(SocketAddr, SocketAddr) -> Option<Entry>,
) -> Opinion {
    judge_ip(config, frame, entry).unwrap_or(opinion(Verdict::Pass))
}

/// `None`: nothing of ours.
fn judge_ip(
    config: &Config,
    frame: &[u8],
    entry: &dyn Fn(SocketAddr, SocketAddr) -> Option<Entry>,
) -> Option<Opinion> {
    let (at, v4) = layer3(frame)?;
    let packet = ip(frame, at, v4)?;
    if packet.is_error() && packet.is_whole() {
        return judge_error(config, frame, packet, entry);
    }
    if packet.protocol != 6 {
        return None;
    }
    let ports = word(frame, packet.body_at).zip(word(frame, packet.body_at + 2));
    if !packet.is_whole() {
        let known = packet.fragment.0 == 0
            && frame.len() >= packet.body_at + 20
            && ports.is_some_and(|(src_port, dst_port)| {
                let src = SocketAddr::new(packet.src, src_port);
                entry(src, SocketAddr::new(packet.dst, dst_port)).is_some_and(|e| !e.half_open)
            });
        let ours = packet.dst == config.vip.ip() || known;
        return ours.then_some(opinion(Verdict::Drop));
    }
    // The TCP header must be in the packet, and the packet in the frame.
    let tcp = frame.get(packet.body_at..packet.body_at + 20)?;
    let tcp_len = usize::from(tcp[12] >> 4) * 4;
    if tcp_len < 20 || packet.body_at + tcp_len > packet.end() || packet.end() > frame.len() {
        return None;
    }
    let src = SocketAddr::new(packet.src, word(tcp, 0)?);
    let dst = SocketAddr::new(packet.dst, word(tcp, 2)?);
    let flags = tcp[13];
    let units = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let payload_len = (packet.end() - packet.body_at - tcp_len) as u32;
    let end = long(tcp, 4)?.wrapping_add(payload_len).wrapping_add(units);
    let known = entry(src, dst).filter(|entry| {
        // A client that starts over.
        if entry.state == FlowState::Ended as u8 {
            let starts = flags & (SYN | ACK | RST | FIN) == SYN;
            return !(starts && entry.direction == Direction::Client as u8);
        }
        let over = if entry.half_open {
            entry.seq_next != end
        } else {
            entry.state == FlowState::Closing as u8
        };
        !(flags & (SYN | ACK) == SYN && entry.direction == Direction::Client as u8 && over)
    });
    if let Some(entry) = known {
        // Only where the server's packets do not pass here is a client's reset of use to it.
        let answers_challenge = flags & RST != 0 && config.forwarding == Forwarding::Dsr;
        if entry.state == FlowState::Ended as u8 && !answers_challenge {
            return Some(opinion(stray(flags)));
        }
        return Some(forward(config, frame, packet, Some(entry)));
    }
    if dst == config.vip {
        if flags & (SYN | ACK | RST | FIN) != SYN {
            return Some(opinion(stray(flags)));
        }
        if src.ip() == config.vip.ip() {
            return Some(opinion(Verdict::Drop));
        }
        return Some(forward(config, frame, packet, None));
    }
    let (min, max) = config.snat_ports;
    let reply = config.forwarding == Forwarding::Snat
        && dst.ip() == config.snat
        && (min..=max).contains(&dst.port())
        && src == config.backend;
    reply.then_some(opinion(stray(flags)))
}

fn stray(flags: u8) -> Verdict {
    if flags & RST != 0 { Verdict::Drop } else { Verdict::Answer }
}

fn forward(config: &Config, frame: &[u8], packet: Ip, entry: Option<Entry>) -> Opinion {
    let to_client = entry.as_ref().is_some_and(|entry| entry.direction == Direction::Reply as u8);
    let mtu = config.mtus[usize::from(!to_client)];
    let ends_here = frame[packet.ttl_at()] <= 1 && config.forwarding != Forwarding::Dsr;
    if packet.len > mtu || ends_here {
        // The shortest that is quoted is 8 bytes behind the header; with options all that they can be.
        let quote_len = match (packet.v4, packet.body_at - packet.at) {
            (true, 20) => 28,
            (true, _) => 68,
            (false, 40) => 48,
            (false, _) => 104,
        };
        return opinion(if packet.len < quote_len { Verdict::Drop } else { Verdict::Answer });
    }
    Opinion { verdict: Verdict::Forward, entry, packet: Some(packet) }
}

fn judge_error(
    config: &Config,
    frame: &[u8],
    packet: Ip,
    entry: &dyn Fn(SocketAddr, SocketAddr) -> Option<Entry>,
) -> Option<Opinion> {
    let kind = *frame.get(packet.body_at)?;
    let is_error = if packet.v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    let quoted = ip(frame, packet.body_at + 8, packet.v4)?;
    if !is_error || quoted.protocol != 6 || quoted.fragment.0 != 0 {
        return None;
    }
    if packet.end() > frame.len() || quoted.body_at + 8 > packet.end() {
        return None;
    }
    let src = SocketAddr::new(quoted.src, word(frame, quoted.body_at)?);
    let dst = SocketAddr::new(quoted.dst, word(frame, quoted.body_at + 2)?);
    // An error goes to the source of the packet that it quotes (RFC 792, RFC 4443).
    let entry = entry(dst, src).filter(|_| packet.dst == quoted.src)?;
    if frame[packet.ttl_at()] <= 1 && config.forwarding != Forwarding::Dsr {
        return Some(opinion(Verdict::Drop));
    }
    Some(Opinion { verdict: Verdict::Forward, entry: Some(entry), packet: Some(packet) })
}

/// Whether every checksum of the packet is right.
pub(crate) fn verifies(frame: &[u8], packet: &Ip) -> bool {
    let Some(body) = frame.get(packet.body_at..packet.end()) else { return false };
    let (src, dst) = packet.ends();
    let pseudo = Sum16BitWords::new()
        .add_slice(&frame[src])
        .add_slice(&frame[dst])
        .add_slice(&(body.len() as u32).to_be_bytes())
        .add_2bytes([0, packet.protocol]);
    let start = if packet.v4 && packet.is_error() { Sum16BitWords::new() } else { pseudo };
    let header = !packet.v4
        || Sum16BitWords::new().add_slice(&frame[packet.at..packet.body_at]).ones_complement() == 0;
    header && start.add_slice(body).ones_complement() == 0
}
