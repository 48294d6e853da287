//! Names and addresses of the configuration against the numbers that policy and kernel use.

use std::{collections::BTreeMap, net::SocketAddr};

use pairflip_common::route::VipRoute;
use pairflip_policy::{
    Access, BackendId, ClusterId, ClusterSpec, Drain, Failback, Failover, PairId, PairSpec,
    RouteId, RouteSpec, Share, StandbyReplicas,
};

use crate::{
    config::{self, Config, DrainMode},
    dataplane::Choice,
};

/// The configured things by number.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) backends: BTreeMap<BackendId, SocketAddr>,
    /// Where each route lives in the kernel's tables: by cluster and route in configuration order.
    slots: Vec<Vec<VipRoute>>,
}

impl Ids {
    /// `indices` are the backends' places in the kernel's table, in the order of [`all_backends`].
    pub(super) fn new(config: &Config, indices: &[u16], slots: Vec<Vec<VipRoute>>) -> Self {
        let backends =
            indices.iter().map(|index| BackendId(*index)).zip(all_backends(config)).collect();
        Self { backends, slots }
    }

    pub(super) fn backend(&self, address: SocketAddr) -> Option<BackendId> {
        self.backends.iter().find(|(_, known)| **known == address).map(|(id, _)| *id)
    }

    pub(super) fn address(&self, backend: BackendId) -> Option<SocketAddr> {
        self.backends.get(&backend).copied()
    }

    /// Shares as the data plane wants them. A backend that is not configured takes none.
    pub(super) fn choices(&self, shares: &[Share]) -> Vec<Choice> {
        shares
            .iter()
            .filter_map(|share| {
                let address = self.address(share.backend)?;
                Some(Choice { backend: share.backend.0, address, weight: share.weight })
            })
            .collect()
    }

    /// The cluster's slot in the kernel's outer table; every route of a cluster has the same.
    pub(super) fn cluster_slot(&self, cluster: ClusterId) -> Option<u16> {
        self.slots.get(usize::from(cluster.0))?.first().map(|slot| slot.cluster)
    }

    pub(super) fn route_slot(&self, cluster: ClusterId, route: RouteId) -> Option<VipRoute> {
        self.slots.get(usize::from(cluster.0))?.get(usize::from(route.0)).copied()
    }

    /// Every backend of a cluster with its full share, in configuration order.
    pub(super) fn shares(&self, cluster: &config::Cluster) -> Vec<Share> {
        let mut shares = Vec::new();
        for pair in &cluster.pairs {
            let primary = (pair.primary, Share::PRIMARY_WEIGHT);
            let replicas = pair.replicas.iter().map(|replica| (replica.address, replica.weight));
            shares.extend([primary].into_iter().chain(replicas).filter_map(|(address, weight)| {
                Some(Share { backend: self.backend(address)?, weight })
            }));
        }
        shares
    }

    /// Every route with its place in the kernel's tables.
    pub(super) fn routes<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = (VipRoute, &'a config::Route)> {
        let clusters = self.slots.iter().zip(&config.clusters);
        clusters.flat_map(|(slots, cluster)| slots.iter().copied().zip(&cluster.routes))
    }

    /// The configuration as the policy wants it.
    pub(super) fn specs(&self, config: &Config) -> Vec<ClusterSpec> {
        config
            .clusters
            .iter()
            .enumerate()
            .map(|(index, cluster)| self.spec(index, cluster))
            .collect()
    }

    fn spec(&self, index: usize, cluster: &config::Cluster) -> ClusterSpec {
        let id = |address: SocketAddr| self.backend(address).unwrap_or_default();
        ClusterSpec {
            id: ClusterId(index as u16),
            name: cluster.name.clone(),
            rise: cluster.check.rise,
            fall: cluster.check.fall,
            interval: cluster.check.interval,
            fast_interval: cluster.check.fast_interval,
            timeout: cluster.check.timeout,
            max_lag: cluster.check.max_lag,
            slow_start: cluster.slow_start,
            hold_off: cluster.hold_off,
            drain: drain(cluster),
            drain_deadline: cluster.drain.deadline,
            failover: match cluster.failover {
                config::Failover::Manual => Failover::Manual,
                config::Failover::Auto => Failover::Auto { window: cluster.failover_window },
            },
            routes: cluster
                .routes
                .iter()
                .enumerate()
                .map(|(index, route)| RouteSpec {
                    id: RouteId(index as u16),
                    name: route.name.clone(),
                    access: match route.access {
                        config::Access::Write => Access::Write,
                        config::Access::Read => Access::Read,
                    },
                    min_replicas: route.min_replicas,
                    failback: match route.failback {
                        config::Failback::NewConnections => Failback::NewConnections,
                        config::Failback::Idle => Failback::Idle,
                        config::Failback::Cut => Failback::Cut,
                        config::Failback::Off => Failback::Off,
                    },
                    standby_replicas: match route.standby_replicas {
                        config::StandbyReplicas::Never => StandbyReplicas::Never,
                        config::StandbyReplicas::Fallback => StandbyReplicas::Fallback,
                        config::StandbyReplicas::Always => StandbyReplicas::Always,
                    },
                })
                .collect(),
            pairs: cluster
                .pairs
                .iter()
                .enumerate()
                .map(|(index, pair)| PairSpec {
                    id: PairId(index as u16),
                    name: pair.name.clone(),
                    primary: id(pair.primary),
                    replicas: pair
                        .replicas
                        .iter()
                        .map(|replica| Share {
                            backend: id(replica.address),
                            weight: replica.weight,
                        })
                        .collect(),
                })
                .collect(),
        }
    }
}

/// What happens to the old pair's flows when nobody says.
pub(super) const fn drain(cluster: &config::Cluster) -> Drain {
    match cluster.drain.mode {
        DrainMode::Finish => Drain::Finish,
        DrainMode::Idle => Drain::Idle,
        DrainMode::Cut => Drain::Cut,
    }
}

/// Every backend, in configuration order.
pub(super) fn all_backends(config: &Config) -> Vec<SocketAddr> {
    config.clusters.iter().flat_map(config::Cluster::backends).collect()
}

/// The VIPs of every cluster, in configuration order.
pub(super) fn all_vips(config: &Config) -> Vec<Vec<SocketAddr>> {
    config
        .clusters
        .iter()
        .map(|cluster| cluster.routes.iter().map(|route| route.vip).collect())
        .collect()
}
