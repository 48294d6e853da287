//! The flow log: a line when a connection opens and when it ends, where `daemon.flow_log` asks for it.
//!
//! What the program sees comes through a ring; what the daemon ends itself, it writes itself.

use anyhow::{Context as _, Result};
use pairflip_common::flow_log::RecordKind;
use tokio::io::unix::AsyncFd;

use super::Runtime;
use crate::dataplane::{EndedFlow, FlowLine, FlowLog};

/// What its lines are filtered by: `pairflipd --log info,flow=off`.
const TARGET: &str = "flow";

impl Runtime {
    /// Writes the lines of the ring to the log from now on.
    pub(super) fn read_flow_log(&mut self) -> Result<()> {
        if !self.config.daemon.flow_log {
            return Ok(());
        }
        if let Some(log) = self.dataplane.take_flow_log()? {
            let backends = self.ids.backends.clone();
            // SAFETY: the ring owns its descriptor and keeps it as long as it lives.
            let ring =
                unsafe { AsyncFd::register(log) }.context("waiting for the flow log's lines")?;
            tokio::spawn(async move {
                let name = |index: u16| {
                    let backend = backends.get(&pairflip_policy::BackendId(index));
                    backend.map_or_else(|| "gone".to_owned(), ToString::to_string)
                };
                read(ring, name).await;
            });
        }
        Ok(())
    }

    /// A line about a flow that the daemon ended.
    pub(super) fn log_ended(&self, flow: &EndedFlow, why: &str) {
        if !self.config.daemon.flow_log {
            return;
        }
        let (vip, client) = flow.towards_client();
        let (source, target) = flow.towards_backend();
        // In `dsr` the target of the packets is the VIP.
        let backend = pairflip_policy::BackendId(flow.client.backend);
        let backend = self.ids.backends.get(&backend).copied().unwrap_or(target);
        tracing::info!(target: TARGET, %client, %vip, %backend, %source, why, client_bytes = flow.client.bytes(), server_bytes = flow.reply.map_or(0, |reply| reply.bytes()), "closed");
    }
}

async fn read(mut ring: AsyncFd<FlowLog>, backend: impl Fn(u16) -> String) {
    loop {
        match ring.readable_mut().await {
            Ok(mut ready) => {
                while let Some(line) = ready.get_inner_mut().next_line() {
                    write(&line, &backend(line.backend));
                }
                ready.clear_ready();
            }
            Err(error) => {
                tracing::error!(%error, "the flow log cannot be read any more; restart pairflipd, connections live on");
                return;
            }
        }
    }
}

fn write(line: &FlowLine, backend: &str) {
    let FlowLine { client, vip, source, .. } = line;
    let why = match line.kind {
        RecordKind::Opened => {
            tracing::info!(target: TARGET, %client, %vip, backend, %source, "opened");
            return;
        }
        RecordKind::Closed => "closed_by_both",
        RecordKind::ResetByClient => "reset_by_client",
        RecordKind::ResetByServer => "reset_by_server",
        RecordKind::Replaced => "port_used_again",
    };
    let seconds = line.age.as_secs_f64();
    tracing::info!(target: TARGET, %client, %vip, backend, %source, why, seconds, client_bytes = line.client_bytes, server_bytes = line.server_bytes, "closed");
}
