//! Listing, counting and sweeping flows.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pairflip_common::flow::{FlowState, Forwarding};

use super::{
    AnyEntry, DataPlane, EndedFlow, Error, FlowId,
    address::socket,
    batch::Position,
    ending::{is_ended, reply, take},
    flow_table::FlowTable,
};

/// One TCP connection through the redirector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flow {
    pub id: FlowId,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// What the backend sees as the client.
    pub source: SocketAddr,
    pub backend: SocketAddr,
    /// Index of the backend.
    pub backend_index: u16,
    /// Slot of the cluster.
    pub cluster: u16,
    pub forwarding: Forwarding,
    pub state: FlowState,
    pub generation: u32,
    /// Since the first SYN.
    pub age: Duration,
    /// Since the last packet of either side; in `dsr` of the client.
    pub idle: Duration,
    /// Its client's packets are dropped at the moment.
    pub held: bool,
    /// The last payload went from the server to the client, as far as can be seen.
    pub answered: bool,
    pub client_packets: u32,
    pub client_bytes: u64,
    /// From the backend; not seen in `dsr`.
    pub server_packets: u32,
    pub server_bytes: u64,
}

/// Names the flow of a client to a VIP.
pub fn flow_id(client: SocketAddr, vip: SocketAddr) -> FlowId {
    super::tables::key(client, vip)
}

/// The address that the client of a flow connected to.
pub fn vip(id: &FlowId) -> SocketAddr {
    socket(id.dst, id.dst_port)
}

/// Flows at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlowCounts {
    pub by_backend: BTreeMap<u16, u64>,
    pub total: u64,
    pub half_open: u64,
}

/// Which flows to list; `None` matches all.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowFilter {
    pub backend: Option<u16>,
    /// Slot of the cluster.
    pub cluster: Option<u16>,
    pub state: Option<FlowState>,
}

impl FlowFilter {
    fn matches(&self, entry: &AnyEntry) -> bool {
        !is_ended(entry)
            && self.backend.is_none_or(|backend| backend == entry.backend)
            && self.cluster.is_none_or(|cluster| cluster == entry.cluster)
            && self.state.is_none_or(|state| state as u8 == entry.state)
    }
}

/// How long a flow may be silent before its entries are removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepLimits {
    pub half_open: Duration,
    pub established: Duration,
    pub closing: Duration,
}

impl SweepLimits {
    fn of(&self, state: u8) -> Duration {
        match FlowState::from_byte(state) {
            Some(FlowState::HalfOpen) => self.half_open,
            Some(FlowState::Established) => self.established,
            // As long as TCP itself keeps the name of a connection that is over (RFC 9293, 3.6.1: TIME-WAIT).
            Some(FlowState::Closing | FlowState::Ended) | None => self.closing,
        }
    }
}

/// Where the sweep of each table is.
#[derive(Debug, Default)]
pub(super) struct SweepPositions([Position; TABLES]);

/// Two families, and in each flows and half-open connections.
const TABLES: usize = 4;

impl DataPlane {
    /// Half-open connections first: one that is promoted meanwhile is then found in the flow table.
    pub(super) fn tables(&self) -> [&dyn FlowTable; TABLES] {
        [&self.half_open, &self.half_open6, &self.flows, &self.flows6]
    }

    pub(super) fn tables_mut(&mut self) -> [&mut dyn FlowTable; TABLES] {
        [&mut self.half_open, &mut self.half_open6, &mut self.flows, &mut self.flows6]
    }

    pub fn flow_counts(&self) -> Result<FlowCounts, Error> {
        let mut counts = FlowCounts::default();
        for table in [&self.half_open as &dyn FlowTable, &self.half_open6] {
            table.for_each(&mut |_, entry| counts.half_open += u64::from(!is_ended(&entry)))?;
        }
        for table in [&self.flows as &dyn FlowTable, &self.flows6] {
            table.for_each(&mut |_, entry| {
                counts.total += 1;
                *counts.by_backend.entry(entry.backend).or_default() += 1;
            })?;
        }
        Ok(counts)
    }

    /// Lists flows, at most `limit`; the second value counts those that match.
    pub fn list_flows(&self, filter: FlowFilter, limit: usize) -> Result<(Vec<Flow>, u64), Error> {
        let mut found = Vec::new();
        let mut matching = 0;
        for table in self.tables() {
            table.for_each(&mut |id, entry| {
                if filter.matches(&entry) {
                    matching += 1;
                    if found.len() < limit {
                        found.push((id, entry));
                    }
                }
            })?;
        }
        let mut flows = self.described(found)?;
        flows.sort_by_key(|flow| flow.client);
        Ok((flows, matching))
    }

    /// Returns these flows as they are now; those that are gone are left out.
    pub fn find_flows(&self, ids: &[FlowId]) -> Result<Vec<Flow>, Error> {
        let entry = |id: &FlowId| {
            let tables = self.tables().into_iter().filter(|table| table.is_for(id));
            tables.filter_map(|table| table.get(id)).find(|entry| !is_ended(entry))
        };
        self.described(ids.iter().filter_map(|id| Some((*id, entry(id)?))).collect())
    }

    fn described(&self, found: Vec<(FlowId, AnyEntry)>) -> Result<Vec<Flow>, Error> {
        let now = self.clock()?;
        let hz = self.hz()?;
        let described = found.into_iter().filter_map(|(id, client)| {
            let reply = self.reply(&client, &id);
            let held = self.held_until(&id) > now.monotonic_ns;
            let mut flow = flow(id, &client, reply.as_ref(), held, now.jiffies as u32, hz)?;
            if flow.forwarding == Forwarding::Dsr {
                flow.backend = self.backend_address(client.backend).unwrap_or(flow.backend);
            }
            Some(flow)
        });
        Ok(described.collect())
    }

    /// Where `dsr` sends the packets of a flow, which keep the VIP as their destination.
    fn backend_address(&self, index: u16) -> Option<SocketAddr> {
        let backend = self.backends.get(&index.into(), 0).ok()?;
        (backend.ifindex != 0).then(|| socket(backend.address, backend.port))
    }

    /// Whether the last payload of a flow went from server to client, as far as can be seen; `None` if there is no such flow.
    pub fn is_answered(&self, id: &FlowId) -> Option<bool> {
        let table: &dyn FlowTable = if self.flows6.is_for(id) { &self.flows6 } else { &self.flows };
        let client = table.get(id)?;
        let reply = reply(table, id, &client);
        Some(client.answered(reply.as_ref()))
    }

    fn reply(&self, client: &AnyEntry, id: &FlowId) -> Option<AnyEntry> {
        let mut tables = self.tables().into_iter().filter(|table| table.is_for(id));
        tables.find_map(|table| reply(table, id, client))
    }

    /// Looks at some thousand entries of each table and removes the flows that were silent for longer than `limits` of their cluster's slot
    /// say. Called again and again, it goes through all of them. Returns those that it removed, but not those that had been ended before.
    pub fn sweep(&mut self, limits: impl Fn(u16) -> SweepLimits) -> Result<Vec<EndedFlow>, Error> {
        let now = self.clock()?.jiffies as u32;
        let hz = self.hz()?;
        let expired = |entry: &AnyEntry| {
            idle(now, entry.last_seen, hz) > limits(entry.cluster).of(entry.state)
        };
        let mut swept = Vec::new();
        let mut positions = std::mem::take(&mut self.sweep_positions);
        for (table, position) in self.tables_mut().into_iter().zip(&mut positions.0) {
            let mut picked = Vec::new();
            table.some(position, &mut |id, entry| {
                if expired(&entry) {
                    picked.push(id);
                }
            })?;
            // The server may have been the one that talked.
            let still = |client: &AnyEntry, reply: Option<&AnyEntry>| {
                expired(client) && reply.is_none_or(expired)
            };
            swept.extend(picked.into_iter().filter_map(|id| take(table, &id, still)));
        }
        self.sweep_positions = positions;
        swept.retain(|flow| !is_ended(&flow.client));
        Ok(swept)
    }

    /// Lets the packets of a connection of the host's own pass that is open inside `snat_ports`.
    pub fn protect_host_connection(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(), Error> {
        let key = super::tables::key(remote, local);
        if self.flows6.is_for(&key) { self.flows6.protect(&key) } else { self.flows.protect(&key) }
    }
}

fn flow(
    id: FlowId,
    client: &AnyEntry,
    reply: Option<&AnyEntry>,
    held: bool,
    now: u32,
    hz: u32,
) -> Option<Flow> {
    let idle_server = reply.map_or(Duration::MAX, |reply| idle(now, reply.last_seen, hz));
    let forwarding = Forwarding::from_byte(client.forwarding)?;
    Some(Flow {
        id,
        client: socket(id.src, id.src_port),
        vip: vip(&id),
        source: socket(client.rewrite.src, client.rewrite.src_port),
        backend: socket(client.rewrite.dst, client.rewrite.dst_port),
        backend_index: client.backend,
        cluster: client.cluster,
        forwarding,
        state: FlowState::from_byte(client.state)?,
        generation: client.generation,
        age: idle(now, client.opened, hz),
        idle: idle(now, client.last_seen, hz).min(idle_server),
        held,
        answered: client.answered(reply),
        client_packets: client.packets,
        client_bytes: client.bytes(),
        server_packets: reply.map_or(0, |reply| reply.packets),
        server_bytes: reply.map_or(0, AnyEntry::bytes),
    })
}

/// Time between two readings of the low half of the kernel's tick counter; a tick ahead of us counts as none.
pub(super) fn idle(now: u32, last_seen: u32, hz: u32) -> Duration {
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
