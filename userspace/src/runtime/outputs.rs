//! Carrying out what the policy asks for.

use std::collections::BTreeMap;

use pairflip_policy::{
    ApplyError, BackendId, ClusterId, FailoverMemory, Input, Intent, Output, Pace, PairId,
    PersistError, PersistReason, RouteTable, RouteTarget,
};

use super::{Runtime, host::forwarding, switchover};
use crate::{
    config::{Deny, NoBackend},
    dataplane::{self, Denial, RouteChange},
    state::{self, ClusterState},
};

/// Carries out one output. The answer, where there is one, goes back to the policy.
pub(super) fn apply(runtime: &mut Runtime, output: Output) -> Option<Input> {
    match output {
        Output::SwapRoutes { cluster, table, reason } => {
            tracing::debug!(%cluster, generation = %table.generation, %reason, "swapping routes");
            let generation = table.generation;
            let result = swap(runtime, cluster, &table)
                .map_err(|error| ApplyError { reason: error.to_string() });
            Some(Input::Applied { cluster, generation, result })
        }
        Output::PersistActive { cluster, pair, failover, intent, reason } => {
            let result = persist(runtime, cluster, pair, &failover, intent.as_ref(), reason)
                .map_err(|error| PersistError { reason: error.to_string() });
            Some(Input::Persisted { cluster, result })
        }
        Output::Fence { cluster, backend, timeout, reason } => {
            runtime.fence(cluster, backend, timeout, reason);
            None
        }
        Output::Unfence { cluster, backend, timeout, reason } => {
            runtime.unfence(cluster, backend, timeout, reason);
            None
        }
        Output::Step { cluster, id, step, timeout } => runtime.step(cluster, id, step, timeout),
        Output::CancelStep { cluster, id } => {
            runtime.cancel_step(cluster, id);
            None
        }
        Output::SwitchoverReply { request, outcome } => {
            runtime.switchover_reply(request, outcome);
            None
        }
        Output::EndFlows { cluster, which, reason } => {
            runtime.end_flows(cluster, which, reason);
            None
        }
        Output::DrainFlows { cluster, which, mode, deadline, reason } => {
            runtime.drain_flows((cluster, which), mode, deadline, reason);
            None
        }
        Output::StopDrain { cluster, which } => {
            runtime.drains.stop(cluster, which);
            None
        }
        Output::Reply { request, result } => {
            runtime.reply(request, result);
            None
        }
        Output::SetPace { backend, pace } => {
            set_pace(runtime, backend, pace);
            None
        }
        Output::ForgetAdmin { cluster, target } => {
            runtime.forget_admin(cluster, target);
            None
        }
        Output::Event(event) => {
            runtime.tell(&event);
            None
        }
    }
}

fn swap(
    runtime: &mut Runtime,
    cluster: ClusterId,
    table: &RouteTable,
) -> Result<(), dataplane::Error> {
    let configured = &runtime.config.clusters[usize::from(cluster.0)];
    let no_backend = match configured.no_backend {
        NoBackend::Reset => Denial::Reset,
        NoBackend::Drop => Denial::Drop,
    };
    let mut changes = BTreeMap::new();
    for (index, (target, route)) in table.routes.iter().zip(&configured.routes).enumerate() {
        let Some(slot) = runtime.ids.route_slot(cluster, pairflip_policy::RouteId(index as u16))
        else {
            continue;
        };
        let target = match target {
            RouteTarget::Forward { backends } => {
                dataplane::RouteTarget::Forward(runtime.ids.choices(backends))
            }
            RouteTarget::Refuse { .. } => dataplane::RouteTarget::Deny(no_backend),
        };
        let change = RouteChange {
            target,
            forwarding: forwarding(configured.forwarding),
            restricted: !route.allow.is_empty(),
            deny: match route.deny {
                Deny::Reset => Denial::Reset,
                Deny::Drop => Denial::Drop,
            },
        };
        changes.insert(slot.route, change);
    }
    let slot = runtime.ids.cluster_slot(cluster).unwrap_or_default();
    runtime.dataplane.swap_routes(slot, table.generation.0, table.active.0, &changes)
}

fn persist(
    runtime: &mut Runtime,
    cluster: ClusterId,
    pair: PairId,
    failover: &FailoverMemory,
    intent: Option<&Intent>,
    reason: PersistReason,
) -> Result<(), state::Error> {
    let configured = &runtime.config.clusters[usize::from(cluster.0)];
    let name = configured.name.clone();
    let active_pair = configured.pairs[usize::from(pair.0)].name.clone();
    // Why and since when it is active does not change by what is remembered besides.
    let is_same = matches!(reason, PersistReason::FailoverMemory | PersistReason::Intent);
    let kept = runtime.state.clusters.get(&name).filter(|_| is_same);
    let state = ClusterState {
        reason: kept.map_or_else(|| reason.to_string(), |kept| kept.reason.clone()),
        since: kept.map_or_else(state::now, |kept| kept.since),
        failover: runtime.failover_record(cluster, failover),
        switchover: intent.map(|intent| switchover::record(configured, intent)),
        active_pair,
    };
    runtime.change_state(|kept| _ = kept.clusters.insert(name, state))
}

fn set_pace(runtime: &mut Runtime, backend: BackendId, pace: Pace) {
    let Some(address) = runtime.ids.address(backend) else { return };
    let Some(cluster) = runtime
        .config
        .clusters
        .iter()
        .find(|cluster| cluster.backends().any(|known| known == address))
    else {
        return;
    };
    let interval = match pace {
        Pace::Steady => Some(cluster.check.interval),
        Pace::Fast => Some(cluster.check.fast_interval),
        Pace::Off => None,
    };
    if let Some(pacer) = runtime.pacers.get(&backend) {
        pacer.pace.send_replace(interval);
    }
}
