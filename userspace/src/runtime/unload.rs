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
    let mut done = unload(config, &state_dir, &mut state).await?;
    done.extend(left_by_flips(&state));
    Ok(done)
}

/// What a daemon that died in the middle of a flip left on the servers.
fn left_by_flips(state: &State) -> Vec<String> {
    let left = state.clusters.iter().filter_map(|(name, cluster)| {
        let flip = cluster.switchover.as_ref()?;
        Some(format!(
            "left: cluster {name} was in the middle of a flip from {} to {}, whose primaries may both be read-only; start pairflipd, which finishes or undoes it, or make one of them writable",
            flip.from, flip.to
        ))
    });
    left.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ClusterState, SwitchoverRecord};

    #[test]
    fn what_a_flip_left_on_the_servers_is_told() {
        let mut state = State::default();
        assert!(left_by_flips(&state).is_empty());
        let switchover = Some(SwitchoverRecord {
            from: "pair1".into(),
            to: "pair2".into(),
            position: None,
            target_was_writable: false,
        });
        let cluster = ClusterState {
            active_pair: "pair2".into(),
            reason: String::new(),
            since: 0,
            failover: None,
            switchover,
        };
        state.clusters.insert("main".into(), cluster);
        assert!(
            left_by_flips(&state)[0]
                .contains("cluster main was in the middle of a flip from pair1 to pair2")
        );
    }
}
