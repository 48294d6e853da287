//! Failovers: fencing and unfencing servers for the policy, what the state file keeps, and how it is told.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pairflip_policy::{
    BackendId, ClusterId, ClusterView, Failover, FailoverMemory, FailoverStage, FenceError,
    FenceFault, FenceReason, Input, LastFailover, Moment, Outlook, PairId, UnfenceReason,
};

use super::{Runtime, status};
use crate::{
    config::{self, Login},
    control::protocol::{FailoverStatus, LastFailoverStatus, OutStatus},
    primary::{self, Applied, Server},
    state::{self, FailoverRecord, LastFailoverRecord},
};

impl Runtime {
    /// Fences a server beside the loop; the answer comes back as an input.
    pub(super) fn fence(
        &self,
        cluster: ClusterId,
        backend: BackendId,
        timeout: Duration,
        reason: FenceReason,
    ) {
        tracing::info!(%cluster, %backend, ?reason, "fencing");
        let answers = self.answers.clone();
        let server = self.primary(cluster, backend);
        tokio::spawn(async move {
            let result = match server {
                Some(server) => primary::fence(&server, timeout).await,
                None => Err(not_configured()),
            };
            // The loop ends first when the daemon does.
            _ = answers.send(Input::Fenced { cluster, backend, result }).await;
        });
    }

    /// Unfences a server beside the loop; the answer comes back as an input.
    pub(super) fn unfence(
        &self,
        cluster: ClusterId,
        backend: BackendId,
        timeout: Duration,
        reason: UnfenceReason,
    ) {
        tracing::info!(%cluster, %backend, ?reason, "unfencing");
        let answers = self.answers.clone();
        let applied = match reason {
            UnfenceReason::Promotion => Applied::Required,
            UnfenceReason::Undo => Applied::NotRequired,
        };
        let server = self.primary(cluster, backend);
        tokio::spawn(async move {
            let result = match server {
                Some(server) => primary::unfence(&server, timeout, applied).await,
                None => Err(not_configured()),
            };
            _ = answers.send(Input::Unfenced { cluster, backend, result }).await;
        });
    }

    /// A backend of the configuration, and who may tell it what to do; `None` where nobody logs in.
    pub(super) fn primary(&self, cluster: ClusterId, backend: BackendId) -> Option<Server> {
        Some(Server { address: self.ids.address(backend)?, account: self.account(cluster)? })
    }

    pub(super) fn account(&self, cluster: ClusterId) -> Option<Arc<Login>> {
        Some(self.keys.get(&usize::from(cluster.0))?.held())
    }

    /// What the state file is to say.
    pub(super) fn failover_record(
        &self,
        cluster: ClusterId,
        memory: &FailoverMemory,
    ) -> Option<FailoverRecord> {
        let configured = &self.config.clusters[usize::from(cluster.0)];
        let before = self.state.clusters.get(&configured.name);
        let before = before.and_then(|kept| kept.failover.as_ref()?.last.as_ref());
        let name = |pair: &PairId| pair_name(configured, *pair);
        let (now, wall) = (self.now(), state::now());
        let last = memory.last.as_ref().map(|last| {
            let (from, to) = (name(&last.from), name(&last.to));
            let done = last.stage == FailoverStage::Done;
            let is_same = |kept: &&LastFailoverRecord| {
                kept.from == from && kept.to == to && (done || !kept.done)
            };
            LastFailoverRecord {
                at: before.filter(is_same).map_or(wall, |kept| kept.at),
                until: last.until.map(|until| wall + until.since(now).as_secs()),
                from,
                to,
                done,
                source_id: last.source_id,
                old_position: last.old_position.clone(),
                new_position: last.new_position.clone(),
            }
        });
        let record = FailoverRecord { last, out: memory.out.iter().map(name).collect() };
        (record != FailoverRecord::default()).then_some(record)
    }
}

/// What the state file says, by today's names. What left the configuration is not taken over.
pub(super) fn restored(cluster: &config::Cluster, record: &FailoverRecord) -> FailoverMemory {
    let now = state::now();
    let pair = |name: &String| {
        let index = cluster.pairs.iter().position(|pair| pair.name == *name)?;
        Some(PairId(index as u16))
    };
    let last = record.last.as_ref().and_then(|last| {
        Some(LastFailover {
            from: pair(&last.from)?,
            to: pair(&last.to)?,
            stage: if last.done { FailoverStage::Done } else { FailoverStage::Promoting },
            until: last
                .until
                .map(|until| Moment::START + Duration::from_secs(until.saturating_sub(now))),
            source_id: last.source_id,
            old_position: last.old_position.clone(),
            new_position: last.new_position.clone(),
        })
    });
    FailoverMemory { last, out: record.out.iter().filter_map(pair).collect::<BTreeSet<_>>() }
}

/// Whether another pair would take over, and what became of the last time.
pub(super) fn status(
    runtime: &Runtime,
    view: &ClusterView,
    configured: &config::Cluster,
) -> FailoverStatus {
    let name = |pair: PairId| pair_name(configured, pair);
    let outlook = &view.failover.outlook;
    let kept = runtime.state.clusters.get(&configured.name);
    let last = kept.and_then(|kept| kept.failover.as_ref()?.last.as_ref());
    let (state, to) = match outlook {
        Outlook::Manual => ("manual", None),
        Outlook::Ready { to } => ("ready", Some(*to)),
        Outlook::Unready { .. } => ("unready", None),
        Outlook::Refused { .. } => ("refused", None),
        Outlook::Possible { to } | Outlook::Running { to, .. } => ("running", Some(*to)),
        Outlook::Promoting { to, .. } => ("promoting", Some(*to)),
    };
    FailoverStatus {
        mode: match view.failover.failover {
            Failover::Manual => "manual",
            Failover::Auto { .. } => "auto",
        }
        .to_owned(),
        state: state.to_owned(),
        possible: matches!(outlook, Outlook::Ready { .. } | Outlook::Possible { .. }),
        to: to.map(name),
        text: status::name_pairs(configured, &outlook_text(outlook)),
        hold_until: last.and_then(|last| last.until).filter(|until| *until > state::now()),
        last: last.map(|last| LastFailoverStatus {
            from: last.from.clone(),
            to: last.to.clone(),
            at: last.at,
            done: last.done,
            old_position: last.old_position.clone(),
            new_position: last.new_position.clone(),
        }),
        out: view.failover.memory.out.iter().map(|pair| out(view, *pair, configured)).collect(),
    }
}

fn out(view: &ClusterView, pair: PairId, configured: &config::Cluster) -> OutStatus {
    let name = pair_name(configured, pair);
    let primary = view.pairs.iter().find(|it| it.id == pair).and_then(|pair| pair.backends.first());
    let text = match primary {
        Some(primary) if primary.health.is_up() || primary.reason.name() == "passing" => {
            match primary.read_only {
                Some(false) => format!(
                    "returned after failover; writable: fence it, then `pairflip ready {name}`"
                ),
                Some(true) | None => format!(
                    "returned after failover; read-only: see that it replicates, then `pairflip ready {name}`"
                ),
            }
        }
        Some(_) | None => {
            format!("failed; when it is back and replicates: `pairflip ready {name}`")
        }
    };
    OutStatus { pair: name, text }
}

fn outlook_text(outlook: &Outlook) -> String {
    match outlook {
        Outlook::Manual => "by an operator only".to_owned(),
        Outlook::Ready { to } => format!("{to} would take over"),
        Outlook::Unready { reason } | Outlook::Refused { reason } => {
            format!("not possible: {reason}")
        }
        Outlook::Possible { to } | Outlook::Running { to, .. } => format!("{to} is taking over"),
        Outlook::Promoting { to, held: None } => {
            format!("{to} took over and its primary is being made writable")
        }
        Outlook::Promoting { to, held: Some(reason) } => {
            format!("{to} took over and its primary stays read-only: {reason}")
        }
    }
}

pub(super) fn pair_name(cluster: &config::Cluster, pair: PairId) -> String {
    cluster
        .pairs
        .get(usize::from(pair.0))
        .map_or_else(|| pair.to_string(), |pair| pair.name.clone())
}

/// The policy names backends of the configuration only.
fn not_configured() -> FenceError {
    FenceError {
        fault: FenceFault::Unreachable,
        text: "the server is not in the configuration".to_owned(),
    }
}
