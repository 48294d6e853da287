//! The data plane and the network drivers of this build know IPv4 and SNAT only: what is configured
//! beyond that is refused at the start, and addresses lose their family on the way to them.
//!
//! boundary: goes away with the last driver that names `Ipv4Addr`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use pairflip_common::route::CHOICE_SLOTS;
use pairflip_policy::Share;

use super::ids::Ids;
use crate::{
    config::{Cluster, Config, Forwarding, Timeouts},
    dataplane::{self, SweepLimits},
};

/// Refuses what this build cannot forward, before anything is changed.
pub(super) fn check(config: &Config) -> Result<()> {
    ensure!(!config.daemon.flow_log, "daemon.flow_log is not in this build; remove it");
    for cluster in &config.clusters {
        let name = &cluster.name;
        ensure!(
            addresses(cluster).all(|address| address.is_ipv4()),
            "cluster[{name}] has IPv6 addresses, whose forwarding is not in this build; use IPv4"
        );
        ensure!(
            cluster.forwarding == Forwarding::Snat,
            "cluster[{name}].forwarding: {:?} is not in this build; use \"snat\"",
            cluster.forwarding.name()
        );
        ensure!(
            cluster.slow_start.is_zero(),
            "cluster[{name}].slow_start is not in this build; remove it"
        );
        for pair in &cluster.pairs {
            let first = pair.replicas.first().map(|replica| replica.weight);
            ensure!(
                pair.replicas.iter().all(|replica| Some(replica.weight) == first),
                "cluster[{name}].pair[{}].replicas: different weights are not in this build; make \
                 them equal",
                pair.name
            );
        }
        for route in &cluster.routes {
            ensure!(
                route.allow.is_empty(),
                "cluster[{name}].route[{}].allow is not in this build; use a firewall",
                route.name
            );
        }
    }
    Ok(())
}

fn addresses(cluster: &Cluster) -> impl Iterator<Item = IpAddr> + '_ {
    let vips = cluster.routes.iter().map(|route| route.vip.ip());
    vips.chain(cluster.backends().map(|backend| backend.ip())).chain(cluster.snat_addresses.clone())
}

pub(super) fn address(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
    .with_context(|| format!("{address} is IPv6, which is not in this build"))
}

pub(super) fn socket(socket: SocketAddr) -> Result<SocketAddrV4> {
    Ok(SocketAddrV4::new(address(socket.ip())?, socket.port()))
}

pub(super) fn sockets(sockets: impl IntoIterator<Item = SocketAddr>) -> Result<Vec<SocketAddrV4>> {
    sockets.into_iter().map(socket).collect()
}

/// The choice table of these shares, whose weights are equal; `None` when one is not configured.
pub(super) fn choice(shares: &[Share], ids: &Ids) -> Option<[u16; CHOICE_SLOTS]> {
    let backend =
        |share: &Share| Some((share.backend.0, socket(ids.address(share.backend)?).ok()?));
    Some(dataplane::choice(&shares.iter().map(backend).collect::<Option<Vec<_>>>()?))
}

/// The longest of every cluster's: a sweep knows no clusters, and must not forget a flow too early.
pub(super) fn sweep_limits(config: &Config) -> SweepLimits {
    let longest = |timeout: fn(&Timeouts) -> Duration| {
        config.clusters.iter().map(|cluster| timeout(&cluster.timeouts)).max().unwrap_or_default()
    };
    SweepLimits {
        half_open: longest(|timeouts| timeouts.half_open),
        established: longest(|timeouts| timeouts.established),
        closing: longest(|timeouts| timeouts.closing),
    }
}
