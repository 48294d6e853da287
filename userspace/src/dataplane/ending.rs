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
        which: impl Fn(&FlowId, &AnyEntry) -> bool,
    ) -> Result<Vec<EndedFlow>, Error> {
        let now = self.clock()?.jiffies as u32;
        let hz = self.hz()?;
        let which = |id: &FlowId, entry: &AnyEntry| !is_ended(entry) && which(id, entry);
        let families: [(&mut dyn FlowTable, &mut dyn FlowTable); 2] =
            [(&mut self.half_open, &mut self.flows), (&mut self.half_open6, &mut self.flows6)];
        let mut ended = Vec::new();
        for (half_open, flows) in families {
            for (_, id) in picked(half_open, which, now, hz)? {
                if let Some(flow) = take(half_open, &id, |client, _| which(&id, client)) {
                    mark(half_open, &flow, now);
                    ended.push(flow);
                }
            }
            // The table of marks forgets what came first, and who was busy is the one with packets on their way.
            let mut picked = picked(flows, which, now, hz)?;
            picked.sort_by_key(|(idle, _)| Reverse(*idle));
            for (_, id) in picked {
                if let Some(flow) = find(flows, &id, |client, _| which(&id, client)) {
                    // First the mark, so that there is no moment in which its packets are nobody's.
                    mark(half_open, &flow, now);
                    remove(flows, &flow);
                    ended.push(flow);
                }
            }
        }
        Ok(ended)
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

/// The flows that `which` picks, and how long each has been silent.
fn picked(
    table: &dyn FlowTable,
    which: impl Fn(&FlowId, &AnyEntry) -> bool,
    now: u32,
    hz: u32,
) -> Result<Vec<(Duration, FlowId)>, Error> {
    let mut picked = Vec::new();
    table.for_each(&mut |id, entry| {
        if which(&id, &entry) {
            picked.push((idle(now, entry.last_seen, hz), id));
        }
    })?;
    Ok(picked)
}

/// Finds one flow, judged as it is now: packets went on since the scan, and the client's port may be another flow's.
fn find(
    table: &dyn FlowTable,
    id: &FlowId,
    which: impl Fn(&AnyEntry, Option<&AnyEntry>) -> bool,
) -> Option<EndedFlow> {
    let client = table.get(id)?;
    let reply = reply(table, id, &client);
    which(&client, reply.as_ref()).then_some(EndedFlow { id: *id, client, reply })
}

fn remove(table: &mut dyn FlowTable, flow: &EndedFlow) {
    table.remove(&flow.id);
    if flow.reply.is_some() {
        table.remove(&flow.client.peer_key());
    }
}

/// Finds one flow and takes it out.
pub(super) fn take(
    table: &mut dyn FlowTable,
    id: &FlowId,
    which: impl Fn(&AnyEntry, Option<&AnyEntry>) -> bool,
) -> Option<EndedFlow> {
    let flow = find(table, id, which)?;
    remove(table, &flow);
    Some(flow)
}

/// Leaves entries by which the program knows late packets of the flow. Without them those of a server would be nobody's but in `snat`, and
/// all would share the bounded rate of answers to strays.
fn mark(half_open: &mut dyn FlowTable, flow: &EndedFlow, now: u32) {
    let mark =
        |entry: AnyEntry| AnyEntry { state: FlowState::Ended as u8, last_seen: now, ..entry };
    // A client that came back meanwhile goes first.
    if half_open.add(&flow.id, &mark(flow.client))
        && let Some(reply) = flow.reply
    {
        half_open.add(&flow.client.peer_key(), &mark(reply));
    }
}
