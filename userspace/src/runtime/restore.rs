//! What an earlier daemon left: its state file and the kernel's route tables, as the policy wants them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use pairflip_common::route::{Route, RouteAction};
use pairflip_policy::{
    BackendId, ClusterId, Generation, PairId, Restored, RouteReason, RouteTable, RouteTarget, Share,
};

use super::ids::Ids;
use crate::{
    config::{Config, StandbyReplicas},
    dataplane::{DataPlane, choice},
    state::State,
};

/// Reads back what survived. An active pair that left the configuration is an error: any other would be a guess.
pub(super) fn restored(
    config: &Config,
    ids: &Ids,
    state: &State,
    dataplane: &DataPlane,
) -> Result<Restored> {
    let mut restored = Restored::default();
    for (index, cluster) in config.clusters.iter().enumerate() {
        let id = ClusterId(index as u16);
        if let Some(saved) = state.clusters.get(&cluster.name) {
            let pair = cluster.pairs.iter().position(|pair| pair.name == saved.active_pair).with_context(|| {
                format!(
                    "the state file says that {:?} is the active pair of cluster {:?}, and the configuration has no such pair; give the pair its name back, or flip to another pair before removing it",
                    saved.active_pair, cluster.name
                )
            })?;
            restored.active.insert(id, PairId(pair as u16));
            if let Some(record) = &saved.failover {
                restored.failovers.insert(id, super::failover::restored(cluster, record));
            }
            if let Some(record) = &saved.switchover {
                restored.intents.insert(id, super::switchover::restored(cluster, record)?);
            }
        }
        restored.admin.insert(id, super::admin::restored(cluster, ids, state));
        let Some(slot) = ids.cluster_slot(id) else { continue };
        let Some(routes) = dataplane.routes(slot)? else { continue };
        let generation = routes.values().map(|route| route.generation).max().unwrap_or(0);
        restored.generation.insert(id, Generation(generation));
        if let Some(table) = table(id, cluster, ids, generation, &routes) {
            restored.tables.insert(id, table);
        }
    }
    Ok(restored)
}

/// The kernel's table of a cluster in the policy's words; `None` when it does not fit the configuration: a route is new,
/// or the routes lead to no one pair.
fn table(
    id: ClusterId,
    cluster: &crate::config::Cluster,
    ids: &Ids,
    generation: u32,
    routes: &BTreeMap<u16, Route>,
) -> Option<RouteTable> {
    let mut targets = Vec::new();
    for index in 0..cluster.routes.len() {
        let slot = ids.route_slot(id, pairflip_policy::RouteId(index as u16))?;
        targets.push(target(routes.get(&slot.route)?, cluster, ids));
    }
    let used: BTreeSet<BackendId> = targets.iter().flat_map(RouteTarget::backends).collect();
    // A route that may lead to replicas of any pair says nothing about the active one.
    let strict = cluster.routes.iter().zip(&targets);
    let strict = strict.filter(|(route, _)| route.standby_replicas == StandbyReplicas::Never);
    let telling: BTreeSet<BackendId> = strict.flat_map(|(_, target)| target.backends()).collect();
    let belongs = |pair: &&crate::config::Pair| {
        let members: Vec<BackendId> =
            pair.backends().filter_map(|address| ids.backend(address)).collect();
        telling.iter().all(|backend| members.contains(backend))
    };
    // A table that refuses everything says nothing about the pair; the state file does.
    if used.is_empty() {
        return None;
    }
    let said = routes.values().map(|route| usize::from(route.pair)).next()?;
    let active = if telling.is_empty() {
        said
    } else {
        cluster.pairs.iter().position(|pair| belongs(&pair))?
    };
    Some(RouteTable {
        generation: Generation(generation),
        active: PairId(active as u16),
        routes: targets,
    })
}

/// A route of the kernel in the policy's words.
///
/// The choice table says who gets connections, and not which weights it was made of. If the
/// configured ones make the same table, it is they; otherwise they are 0, which is not known: the
/// configuration was changed, or the daemon ended within a slow start.
fn target(route: &Route, cluster: &crate::config::Cluster, ids: &Ids) -> RouteTarget {
    if route.action != RouteAction::Forward as u8 {
        return RouteTarget::Refuse { reason: RouteReason::Restored };
    }
    let used: BTreeSet<BackendId> = route.choice.into_iter().map(BackendId).collect();
    let mut shares: Vec<Share> = ids.shares(cluster);
    shares.retain(|share| used.contains(&share.backend));
    let is_same = shares.len() == used.len() && choice(&ids.choices(&shares)) == route.choice;
    if !is_same {
        shares = used.into_iter().map(|backend| Share { backend, weight: 0 }).collect();
    }
    RouteTarget::Forward { backends: shares }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pairflip_common::route::CHOICE_SLOTS;

    use super::*;
    use crate::config;

    #[test]
    fn shares_are_the_configured_ones_where_they_make_the_kernels_table() {
        let (config, ids) = configured();
        let cluster = &config.clusters[0];
        let shares: Vec<Share> =
            [6, 5].map(|id| Share { backend: BackendId(id), weight: 70 }).into();
        let route = forward(choice(&ids.choices(&shares)));
        // In the order of the configuration, which is the policy's.
        assert_eq!(target(&route, cluster, &ids).shares(), shares);
        let only = forward([7; CHOICE_SLOTS]);
        let expected = [Share { backend: BackendId(7), weight: Share::PRIMARY_WEIGHT }];
        assert_eq!(target(&only, cluster, &ids).shares(), expected);
    }

    #[test]
    fn weights_of_another_table_are_not_known() {
        let (config, ids) = configured();
        let cluster = &config.clusters[0];
        let mut uneven = [6; CHOICE_SLOTS];
        uneven[0] = 5;
        let unknown = |ids: &[u16]| -> Vec<Share> {
            ids.iter().map(|id| Share { backend: BackendId(*id), weight: 0 }).collect()
        };
        assert_eq!(target(&forward(uneven), cluster, &ids).shares(), unknown(&[5, 6]));
        // A backend that left the configuration stays in the table, which then fits no pair.
        uneven[0] = 99;
        assert_eq!(target(&forward(uneven), cluster, &ids).shares(), unknown(&[6, 99]));
    }

    #[test]
    fn a_flip_that_was_under_way_to_a_pair_that_is_gone_says_what_to_do() {
        let (config, _) = configured();
        let to = |name: &str| crate::state::SwitchoverRecord {
            from: "pair1".into(),
            to: name.into(),
            position: None,
            target_was_writable: false,
        };
        let restored = |name| super::super::switchover::restored(&config.clusters[0], &to(name));
        assert_eq!(restored("pair2").unwrap().to, PairId(1));
        let error = restored("pair7").unwrap_err().to_string();
        assert!(error.contains("no pair \"pair7\"; give the pair its name back"), "{error}");
    }

    /// Backends are 4 (primary), 6 and 5 of the first pair, and 7 and 8 of the second.
    fn configured() -> (Config, Ids) {
        let text = r#"
            daemon.interfaces = ["eth0"]
            [[cluster]]
            name = "main"
            check = { user = "pairflip", password_file = "p" }
            route = [{ name = "writes", vip = "10.0.0.100:3306", access = "write" }]
            pair = [
                { name = "pair1", primary = "10.0.1.11:3306", replicas = [
                    { address = "10.0.1.12:3306", weight = 70 },
                    { address = "10.0.1.13:3306", weight = 70 },
                ] },
                { name = "pair2", primary = "10.0.1.21:3306", replicas = ["10.0.1.22:3306"] },
            ]
        "#;
        let secrets = |_: &Path| Ok("secret".to_owned());
        let config = config::parse(text, Path::new("test.toml"), &secrets).unwrap();
        let ids = Ids::new(&config, &[4, 6, 5, 7, 8], Vec::new());
        (config, ids)
    }

    fn forward(choice: [u16; CHOICE_SLOTS]) -> Route {
        Route { action: RouteAction::Forward as u8, choice, ..Route::default() }
    }
}
