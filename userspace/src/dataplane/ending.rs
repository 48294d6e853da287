//! Ending flows, and what is kept of them so that both ends learn of it whatever is lost on the way.

use std::{cmp::Reverse, net::SocketAddr, time::Duration};

use pairflip_common::flow::FlowState;

use super::{
    AnyEntry, DataPlane, Error, FlowId, address::socket, flow_table::FlowTable, flows::idle,
};

/// A flow that was taken out of the tables, with all that is needed to tell both ends.
#[derive(Clone, Debug)]
pub struct EndedFlow {
    pub id: FlowId,
    pub client: AnyEntry,
    /// The reply direction's entry; missing in `dsr`, and when only half of the flow was left.
    pub reply: Option<AnyEntry>,
}

/// Source and destination of a packet.
pub type Ends = (SocketAddr, SocketAddr);

impl EndedFlow {
    /// Ends of packets to the client.
    pub fn towards_client(&self) -> Ends {
        (socket(self.id.dst, self.id.dst_port), socket(self.id.src, self.id.src_port))
    }

    /// Ends of packets to the backend.
    pub fn towards_backend(&self) -> Ends {
        let rewrite = self.client.rewrite;
        (socket(rewrite.src, rewrite.src_port), socket(rewrite.dst, rewrite.dst_port))
    }
}

impl DataPlane {
    /// Ends every flow that `which` picks: takes them out of the tables and returns them. Their next packets are answered with RST.
    pub fn end_flows(
        &mut self,
        which: impl Fn(&AnyEntry) -> bool,
    ) -> Result<Vec<EndedFlow>, Error> {
        let which = |entry: &AnyEntry| !is_ended(entry) && which(entry);
        let mut ended = Vec::new();
        for table in self.tables_mut() {
            let mut picked = Vec::new();
            table.for_each(&mut |id, entry| {
                if which(&entry) {
                    picked.push(id);
                }
            })?;
            let still = |client: &AnyEntry, _: Option<&AnyEntry>| which(client);
            ended.extend(picked.into_iter().filter_map(|id| take(table, id, still)));
        }
        let now = self.clock()?.jiffies as u32;
        let hz = self.hz()?;
        // The table of marks forgets what came first, and who was busy is the one with packets on their way.
        ended.sort_by_key(|flow| Reverse(idle(now, flow.client.last_seen, hz)));
        for flow in &ended {
            self.mark(flow, now);
        }
        Ok(ended)
    }

    /// Leaves entries by which the program knows late packets of the flow. Without them those of a server would be nobody's but in `snat`, and
    /// all would share the bounded rate of answers to strays.
    fn mark(&mut self, flow: &EndedFlow, now: u32) {
        let mark =
            |entry: AnyEntry| AnyEntry { state: FlowState::Ended as u8, last_seen: now, ..entry };
        let v6 = self.half_open6.is_for(&flow.id);
        let table: &mut dyn FlowTable = if v6 { &mut self.half_open6 } else { &mut self.half_open };
        // A client that came back meanwhile goes first.
        if table.add(&flow.id, &mark(flow.client))
            && let Some(reply) = flow.reply
        {
            table.add(&flow.client.peer_key(), &mark(reply));
        }
    }

    /// Flows that were ended so short a time ago and whose clients did not come back by the same port, with the numbers that late packets
    /// told since.
    pub fn recently_ended(&self, within: Duration) -> Result<Vec<EndedFlow>, Error> {
        let now = self.clock()?.jiffies as u32;
        let hz = self.hz()?;
        let mut recent = Vec::new();
        for table in [&self.half_open as &dyn FlowTable, &self.half_open6] {
            table.for_each(&mut |id, client| {
                if is_ended(&client) && idle(now, client.last_seen, hz) <= within {
                    let reply = reply(table, &id, &client);
                    recent.push(EndedFlow { id, client, reply });
                }
            })?;
        }
        Ok(recent)
    }
}

/// Whether an entry is what is left of a flow, and not one.
pub(super) fn is_ended(entry: &AnyEntry) -> bool {
    entry.state == FlowState::Ended as u8
}

/// The reply entry, unless it is another flow's: a half-open connection's may be evicted, and its port be given to another.
pub(super) fn reply(table: &dyn FlowTable, id: &FlowId, client: &AnyEntry) -> Option<AnyEntry> {
    table.get(&client.peer_key()).filter(|reply| reply.rewrite.is_reverse_of(id))
}

/// Takes one flow, judged as it is now: packets went on since the scan, and the client's port may be another flow's.
pub(super) fn take(
    table: &mut dyn FlowTable,
    id: FlowId,
    which: impl Fn(&AnyEntry, Option<&AnyEntry>) -> bool,
) -> Option<EndedFlow> {
    let client = table.get(&id)?;
    let reply = reply(table, &id, &client);
    if !which(&client, reply.as_ref()) {
        return None;
    }
    table.remove(&id);
    if reply.is_some() {
        table.remove(&client.peer_key());
    }
    Some(EndedFlow { id, client, reply })
}
