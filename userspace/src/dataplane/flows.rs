//! Listing, counting, sweeping and ending flows.

use std::{collections::BTreeMap, net::SocketAddrV4, os::fd::AsFd as _, time::Duration};

use pairflip_common::{
    be::{Ipv4Be, PortBe},
    flow::{Direction, FlowEntry, FlowKey, FlowState},
    names,
};

use super::{DataPlane, Error, batch};

/// One TCP connection through the redirector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flow {
    pub client: SocketAddrV4,
    pub vip: SocketAddrV4,
    pub snat: SocketAddrV4,
    pub backend: SocketAddrV4,
    /// Index of the backend.
    pub backend_index: u16,
    pub state: FlowState,
    pub generation: u32,
    /// Since the client's last packet.
    pub idle: Duration,
    pub client_packets: u32,
    pub client_bytes: u64,
}

/// Flows at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowCounts {
    pub by_backend: BTreeMap<u16, u64>,
    pub total: u64,
    pub half_open: u64,
}

/// How long a flow may be silent before its entries are removed.
#[derive(Clone, Copy, Debug)]
pub struct SweepLimits {
    pub half_open: Duration,
    pub established: Duration,
    pub closing: Duration,
}

/// A flow that was taken out of the tables, with all that is needed to tell both ends.
#[derive(Clone, Debug)]
pub struct EndedFlow {
    pub client_key: FlowKey,
    pub client: FlowEntry,
    /// The reply direction's entry; missing when only half of the flow was left.
    pub reply: Option<FlowEntry>,
}

impl DataPlane {
    /// Calls `each` with the client entry of every connection in a table.
    fn for_each_client(
        &self,
        table: Table,
        mut each: impl FnMut(FlowKey, FlowEntry),
    ) -> Result<(), Error> {
        let (fd, name) = match table {
            Table::HalfOpen => (&self.half_open_fd, names::HALF_OPEN),
            Table::Flows => (&self.flows_fd, names::FLOWS),
        };
        batch::for_each::<FlowKey, FlowEntry>(fd.as_fd(), |key, entry| {
            if entry.direction == Direction::Client as u8 {
                each(key, entry);
            }
        })
        .map_err(|source| Error::Read { map: name, source })
    }

    pub fn flow_counts(&self) -> Result<FlowCounts, Error> {
        let mut counts = FlowCounts::default();
        self.for_each_client(Table::HalfOpen, |_, _| counts.half_open += 1)?;
        self.for_each_client(Table::Flows, |_, entry| {
            counts.total += 1;
            *counts.by_backend.entry(entry.backend).or_default() += 1;
        })?;
        Ok(counts)
    }

    /// Lists flows, at most `limit`; the second value counts those that match.
    pub fn list_flows(
        &self,
        backend: Option<u16>,
        limit: usize,
    ) -> Result<(Vec<Flow>, u64), Error> {
        let now = self.clock()?.jiffies as u32;
        let hz = self.hz()?;
        let mut flows = Vec::new();
        let mut matching = 0;
        let mut list = |key: FlowKey, entry: FlowEntry| {
            let Some(state) = FlowState::from_byte(entry.state) else { return };
            if backend.is_some_and(|wanted| wanted != entry.backend) {
                return;
            }
            matching += 1;
            if flows.len() < limit {
                flows.push(Flow {
                    client: socket(key.src, key.src_port),
                    vip: socket(key.dst, key.dst_port),
                    snat: socket(entry.rewrite.src, entry.rewrite.src_port),
                    backend: socket(entry.rewrite.dst, entry.rewrite.dst_port),
                    backend_index: entry.backend,
                    state,
                    generation: entry.generation,
                    idle: idle(now, entry.last_seen, hz),
                    client_packets: entry.packets,
                    client_bytes: entry.bytes,
                });
            }
        };
        for table in Table::ALL {
            self.for_each_client(table, &mut list)?;
        }
        flows.sort_by_key(|flow| flow.client);
        Ok((flows, matching))
    }

    /// Takes every flow that `which` picks out of the tables and returns them. Their next packets are strays, which the
    /// program answers with RST.
    pub fn take_flows(
        &mut self,
        which: impl Fn(&FlowEntry) -> bool,
    ) -> Result<Vec<EndedFlow>, Error> {
        self.take_where(|client, _| which(client))
    }

    /// Removes flows that were silent for longer than their state's limit. Returns how many.
    pub fn sweep(&mut self, limits: SweepLimits) -> Result<usize, Error> {
        let now = self.clock()?.jiffies as u32;
        let hz = self.hz()?;
        let expired = |entry: &FlowEntry| {
            let limit = match FlowState::from_byte(entry.state) {
                Some(FlowState::HalfOpen) => limits.half_open,
                Some(FlowState::Established) => limits.established,
                Some(FlowState::Closing) | None => limits.closing,
            };
            idle(now, entry.last_seen, hz) > limit
        };
        // The server may have been the one that talked.
        let swept =
            self.take_where(|client, reply| expired(client) && reply.is_none_or(expired))?;
        Ok(swept.len())
    }

    /// Half-open connections first: one that is promoted meanwhile is then found in the flow table.
    fn take_where(
        &mut self,
        which: impl Fn(&FlowEntry, Option<&FlowEntry>) -> bool,
    ) -> Result<Vec<EndedFlow>, Error> {
        let mut taken = Vec::new();
        for table in Table::ALL {
            let mut picked = Vec::new();
            self.for_each_client(table, |key, entry| {
                // Judged again below, with its reply entry.
                if which(&entry, None) {
                    picked.push(key);
                }
            })?;
            taken.extend(picked.into_iter().filter_map(|key| self.take(table, key, &which)));
        }
        Ok(taken)
    }

    /// Takes one flow, judged as it is now: packets went on since the scan, and the client's port may be another flow's.
    fn take(
        &mut self,
        table: Table,
        client_key: FlowKey,
        which: impl Fn(&FlowEntry, Option<&FlowEntry>) -> bool,
    ) -> Option<EndedFlow> {
        let map = match table {
            Table::HalfOpen => &mut self.half_open,
            Table::Flows => &mut self.flows,
        };
        let client = map.get(&client_key, 0).ok()?;
        let peer_key = client.peer_key();
        // A half-open connection's reply entry may be evicted, and its port another's by now.
        let reply =
            map.get(&peer_key, 0).ok().filter(|reply| reply.rewrite == client_key.reversed());
        if !which(&client, reply.as_ref()) {
            return None;
        }
        // Entries that are gone by now are what we want.
        _ = map.remove(&client_key);
        if reply.is_some() {
            _ = map.remove(&peer_key);
        }
        Some(EndedFlow { client_key, client, reply })
    }
}

/// The two tables that connections live in.
#[derive(Clone, Copy, Debug)]
enum Table {
    HalfOpen,
    Flows,
}

impl Table {
    const ALL: [Self; 2] = [Self::HalfOpen, Self::Flows];
}

fn socket(address: Ipv4Be, port: PortBe) -> SocketAddrV4 {
    SocketAddrV4::new(address.0.into(), port.host())
}

/// Time between two readings of the low half of the kernel's tick counter; a tick ahead of us counts as none.
fn idle(now: u32, last_seen: u32, hz: u32) -> Duration {
    let ticks = now.wrapping_sub(last_seen);
    if ticks > u32::MAX / 2 {
        return Duration::ZERO;
    }
    Duration::from_millis(u64::from(ticks) * 1000 / u64::from(hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_survives_a_wrap_of_the_counter() {
        assert_eq!(idle(50, u32::MAX - 49, 100), Duration::from_secs(1));
    }

    #[test]
    fn a_packet_seen_after_the_clock_was_read_is_not_idle() {
        assert_eq!(idle(100, 101, 100), Duration::ZERO);
    }
}
