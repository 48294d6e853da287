//! Leaving nothing behind: program, maps, addresses and port settings.

use anyhow::{Context as _, Result};

use super::Runtime;
use crate::{
    config::Config,
    dataplane,
    net::{announce, links, ports},
    state::{State, StateDir},
};

impl Runtime {
    pub(super) async fn unload(&mut self) -> Result<Vec<String>> {
        unload(&self.config, &self.state_dir, &mut self.state).await
    }
}

/// `pairflip unload` without a running daemon. Returns what was removed or restored, a line each.
pub async fn unload_offline(config: &Config) -> Result<Vec<String>> {
    let state_dir = StateDir::open(&config.daemon.state_dir)?;
    let mut state = state_dir.load()?;
    unload(config, &state_dir, &mut state).await
}

/// VIPs first, so that no new connection comes to a host that no longer forwards it.
async fn unload(config: &Config, state_dir: &StateDir, state: &mut State) -> Result<Vec<String>> {
    let mut done = Vec::new();
    while let Some(record) = state.vips.last() {
        // An interface that is gone took its addresses along.
        if let Ok(interface) = links::interface(&record.interface).await {
            announce::remove(&interface, record.address)
                .await
                .with_context(|| format!("taking {} off {}", record.address, record.interface))?;
            done.push(format!("took {} off {}", record.address, record.interface));
        }
        state.vips.pop();
        state_dir.save(state)?;
    }
    let bpffs = &config.daemon.bpffs;
    let removed = dataplane::unload(bpffs)
        .with_context(|| format!("removing the pins below {}", bpffs.display()))?;
    if !removed.is_empty() {
        done.push(format!(
            "detached the program and removed {} pins below {}",
            removed.len(),
            bpffs.display()
        ));
    }
    if let Some(reservation) = &state.ports {
        ports::restore(reservation).context("giving snat_ports back to the kernel")?;
        if reservation.before != reservation.after {
            done.push("gave snat_ports back to the kernel".to_owned());
        }
        state.ports = None;
        state_dir.save(state)?;
    }
    Ok(done)
}
