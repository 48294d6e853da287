//! This host: interfaces and what they can do, ways to the backends, who has the VIPs.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::Finding;
use crate::{
    config::{Announce, Attach, Config, Forwarding},
    net::{
        announce,
        frames::mac_text,
        links::{self, Network, NextHop},
        xdp_features::{XdpFeatures, xdp_features},
    },
};

/// How long neighbours have for answering: the kernel asks three times, once a second.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(3200);

/// Fits into one buffer with every driver.
const ETHERNET_MTU: u32 = 1500;

pub(super) async fn inspect(config: &Config) -> Vec<Finding> {
    let mut findings = interfaces(config).await;
    match network(config).await {
        Ok(network) => {
            findings.extend(ways(config, &network));
            findings.extend(vips(config, &network).await);
        }
        Err(error) => findings.push(Finding::error(
            "this host",
            format!("its network cannot be asked: {error}"),
            "run it where AF_NETLINK sockets are allowed",
        )),
    }
    findings
}

async fn interfaces(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in &config.daemon.interfaces {
        match links::interface(name).await {
            Err(error) => findings.push(Finding::error(
                name,
                error.to_string(),
                "correct daemon.interfaces, or run this on the redirector",
            )),
            Ok(interface) => {
                let features = xdp_features(interface.ifindex);
                findings.push(interface_finding(
                    name,
                    interface.mtu,
                    features,
                    config.daemon.attach,
                ));
            }
        }
    }
    findings
}

fn interface_finding(
    name: &str,
    mtu: u32,
    features: std::io::Result<Option<XdpFeatures>>,
    attach: Attach,
) -> Finding {
    let features = match features {
        Ok(Some(features)) => features,
        Ok(None) => {
            let text = format!(
                "MTU {mtu}; this kernel does not tell what its driver can do (Linux 6.3 does)"
            );
            return Finding::good(name, text);
        }
        Err(error) => {
            let text = format!("MTU {mtu}; what its driver can do cannot be asked: {error}");
            return Finding::warning(name, text, "the daemon finds out by trying");
        }
    };
    let remedy = "use a driver that runs XDP programs, or accept what generic mode costs (attach = \"auto\" or \"generic\")";
    if attach == Attach::Generic {
        return Finding::good(name, format!("MTU {mtu}; generic mode, as configured"));
    }
    if !features.basic() {
        let text = format!(
            "MTU {mtu}; its driver runs no XDP programs, so packets take the slower generic path"
        );
        return match attach {
            Attach::Native => {
                Finding::error(name, text + ", and attach = \"native\" forbids that", remedy)
            }
            Attach::Auto | Attach::Generic => Finding::warning(name, text, remedy),
        };
    }
    let mut can = vec!["native XDP"];
    can.extend(features.redirect().then_some("sends through other interfaces"));
    can.extend(features.transmit().then_some("takes packets of others"));
    can.extend(features.fragments().then_some("packets in several buffers"));
    let text = format!("MTU {mtu}; {}", can.join(", "));
    if mtu > ETHERNET_MTU && !features.fragments() {
        return Finding::warning(
            name,
            text + ", and no packets in several buffers",
            "with this MTU the driver may refuse the program, which is then attached in generic mode: lower the MTU, or accept what that costs",
        );
    }
    Finding::good(name, text)
}

/// The ways to backends and VIPs, after their neighbours have had time to answer.
async fn network(config: &Config) -> std::io::Result<Network> {
    let mut targets: Vec<IpAddr> = Vec::new();
    for cluster in &config.clusters {
        targets.extend(cluster.backends().map(|backend| backend.ip()));
        targets.extend(cluster.routes.iter().map(|route| route.vip.ip()));
    }
    let mut network = links::watch(targets, config.daemon.interfaces.clone()).await?;
    let deadline = tokio::time::Instant::now() + NEIGHBOUR_PATIENCE;
    let is_missing = |network: &Network| {
        let missing =
            |hop: &Result<NextHop, String>| matches!(hop, Ok(hop) if hop.next_hop_mac.is_none());
        network.next_hops.values().any(missing)
    };
    while is_missing(&network.borrow_and_update()) {
        match tokio::time::timeout_at(deadline, network.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(network.borrow().clone())
}

/// Whether packets for each backend leave by an interface that the program is attached to.
fn ways(config: &Config, network: &Network) -> Vec<Finding> {
    let backends: BTreeSet<IpAddr> =
        config.clusters.iter().flat_map(|cluster| cluster.backends()).map(|it| it.ip()).collect();
    let mut findings = Vec::new();
    for backend in backends {
        match network.next_hops.get(&backend) {
            None => {}
            Some(Err(reason)) => findings.push(Finding::error(
                format!("the way to {backend}"),
                reason,
                "packets are sent by daemon.interfaces alone: list the interface that leads there, or add a route",
            )),
            Some(Ok(hop)) if hop.next_hop_mac.is_none() => findings.push(Finding::error(
                format!("the way to {backend}"),
                format!("the next hop does not answer {}", question(backend)),
                "start the host, or correct the route to it; connections to it are dropped until it answers",
            )),
            Some(Ok(_)) => {}
        }
    }
    findings
}

const fn question(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour solicitations" }
}

/// Whether each VIP has a place on this host, and nobody else has it.
async fn vips(config: &Config, network: &Network) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cluster in &config.clusters {
        for route in &cluster.routes {
            let vip = route.vip.ip();
            let subject = format!("VIP {vip} (route {})", route.name);
            let place = announce::interface_towards(vip, &config.daemon.interfaces).await;
            let Ok(Some(interface)) = place else {
                let is_ours = cluster.announce == Announce::Arp;
                findings.push(if is_ours {
                    Finding::error(
                        subject,
                        "none of daemon.interfaces is in its network, so it cannot be announced",
                        "give an interface an address of that network, or let someone else make the VIP known (announce = \"none\")",
                    )
                } else {
                    Finding::good(subject, "reached through a router (announce = \"none\")")
                });
                continue;
            };
            // What is on this host has no neighbour.
            let other = network.next_hops.get(&vip).and_then(|hop| hop.as_ref().ok()?.next_hop_mac);
            findings.push(match other {
                // The backends have it on their loopback, where they must keep silent about it.
                Some(mac) => Finding::warning(
                    subject,
                    format!("{} answers for it on {}", mac_text(mac), interface.name),
                    match cluster.forwarding {
                        Forwarding::Dsr => "if this is a backend, let it keep silent (arp_ignore = 1, arp_announce = 2); else take the VIP off that host before pairflip takes over",
                        Forwarding::Snat | Forwarding::Dnat => "take the VIP off that host before pairflip takes over: two hosts that answer for one address lose connections",
                    },
                ),
                None => Finding::good(subject, format!("on {}, and no other host answers for it", interface.name)),
            });
        }
    }
    findings
}
