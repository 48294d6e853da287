//! What the daemon changes on the host as it runs: paths to backends, addresses on interfaces, announcements.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context as _, Result};

use super::{Runtime, end::Hop, v4};
use crate::{
    config::{self, Announce},
    dataplane::BackendPath,
    net::{
        announce::{self, Placed},
        links::{self, Interface, NextHop},
    },
    state::PlacedVip,
};

impl Runtime {
    /// Writes the paths to all backends as the network has them now. A backend that cannot be reached keeps its last path.
    pub(super) fn follow_network(&mut self) {
        let next_hops = self.network.borrow_and_update().next_hops.clone();
        for (backend, address) in self.ids.backends.clone() {
            match next_hops.get(&IpAddr::V4(*address.ip())) {
                Some(Ok(hop)) => self.set_path(backend.0, address, hop),
                Some(Err(reason)) => {
                    tracing::warn!(backend = %address, reason, "no route to the backend; its last path stays in use");
                }
                None => {
                    tracing::error!(backend = %address, "the backend's path is not watched; please report this")
                }
            }
        }
    }

    fn set_path(&mut self, index: u16, address: SocketAddr, hop: &NextHop) {
        let Some(cluster) = self
            .config
            .clusters
            .iter()
            .find(|cluster| cluster.backends().any(|known| known == address))
        else {
            return;
        };
        let IpAddr::V4(source) = hop.source else {
            tracing::error!(backend = %address, source = %hop.source, "the kernel reaches the backend from an IPv6 address; please report this");
            return;
        };
        if !hop.tags.is_empty() {
            tracing::warn!(
                backend = %address,
                ifindex = hop.ifindex,
                tags = ?hop.tags,
                "the backend is behind a VLAN device; its last path stays in use; add the VLAN device to daemon.interfaces"
            );
            return;
        }
        let path = BackendPath {
            address: v4_address,
            ifindex: hop.ifindex,
            own_mac: hop.own_mac,
            next_hop_mac: hop.next_hop_mac,
            snat_addresses: if cluster.snat_addresses.is_empty() {
                vec![source]
            } else {
                snat_addresses
            },
            snat_ports: (cluster.snat_ports.min, cluster.snat_ports.max),
        };
        if !self.devices.values().any(|(ifindex, _)| *ifindex == hop.ifindex) {
            tracing::warn!(
                backend = %address,
                ifindex = hop.ifindex,
                "the backend is behind an interface that daemon.interfaces does not list: its replies do not reach the data plane; add the interface"
            );
        }
        if let Err(error) = self.dataplane.set_backend(index, &path) {
            tracing::error!(backend = %address, %error, "writing the backend's path; its last one stays in use");
            return;
        }
        match hop.next_hop_mac {
            Some(peer_mac) => {
                let new = Hop { ifindex: hop.ifindex, own_mac: hop.own_mac, peer_mac };
                if self.hops.insert(index, new) != Some(new) {
                    tracing::info!(backend = %address, ifindex = hop.ifindex, via = %mac(peer_mac), "path to the backend");
                }
            }
            None => {
                tracing::debug!(backend = %address, "the next hop's address is not known yet; new connections wait")
            }
        }
    }

    /// Makes the VIPs known to the program. Those without a table yet refuse.
    pub(super) fn publish_vips(&mut self) -> Result<()> {
        for (cluster_index, cluster) in self.config.clusters.iter().enumerate() {
            for (route_index, route) in cluster.routes.iter().enumerate() {
                let slot = self.ids.route_slot(
                    pairflip_policy::ClusterId(cluster_index as u16),
                    pairflip_policy::RouteId(route_index as u16),
                );
                if let Some(slot) = slot {
                    // boundary
                    self.dataplane.add_vip(v4::socket(route.vip)?, slot)?;
                }
            }
        }
        Ok(())
    }

    /// SNAT addresses that the host does not have are the data plane's alone; ARP for them must be answered, too.
    pub(super) async fn place_snat_addresses(&mut self) -> Result<()> {
        let addresses: BTreeSet<IpAddr> = self
            .config
            .clusters
            .iter()
            .flat_map(|cluster| cluster.snat_addresses.iter().copied())
            .collect();
        for address in addresses {
            self.place(address).await?;
        }
        Ok(())
    }

    /// Puts the VIPs on their interfaces and tells the network. Called once, when every route has its answer.
    pub(super) async fn announce(&mut self) {
        self.announced = true;
        let vips: BTreeSet<IpAddr> = self
            .config
            .clusters
            .iter()
            .filter(|cluster| cluster.announce == Announce::Arp)
            .flat_map(|cluster: &config::Cluster| cluster.routes.iter().map(|route| route.vip.ip()))
            .collect();
        for vip in vips {
            match self.place(vip).await {
                Ok(interface) => {
                    // boundary
                    let Ok(vip) = v4::address(vip) else { continue };
                    tokio::spawn(async move {
                        if let Err(error) = announce::announce(&interface, vip.into()).await {
                            tracing::error!(%vip, interface = interface.name, error = format!("{error:#}"), "announcing the VIP; clients may go on to another host until their ARP entry expires");
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(%vip, error = format!("{error:#}"), "the VIP cannot be put on an interface; clients in its network cannot find it")
                }
            }
        }
    }

    async fn place(&mut self, address: IpAddr) -> Result<Interface> {
        let interface = self.interface_for(address).await?;
        let placed = announce::place(&interface, address.into())
            .await
            .with_context(|| format!("putting {address} on {}", interface.name))?;
        let record = PlacedVip { address, interface: interface.name.clone() };
        if placed == Placed::ByUs && !self.state.vips.contains(&record) {
            self.state.vips.push(record);
            self.state_dir.save(&self.state)?;
        }
        Ok(interface)
    }

    /// The interface of `daemon.interfaces` that leads to the address's network, or the first.
    async fn interface_for(&self, address: IpAddr) -> Result<Interface> {
        if let Some(record) = self.state.vips.iter().find(|record| record.address == address)
            && let Ok(interface) = links::interface(&record.interface).await
        {
            return Ok(interface);
        }
        let interfaces = &self.config.daemon.interfaces;
        let towards = announce::interface_towards(address.into(), interfaces).await;
        match towards.context("looking for the interface that leads to the address")? {
            Some(interface) => Ok(interface),
            None => {
                let first = interfaces.first().context("daemon.interfaces is empty")?;
                Ok(links::interface(first).await?)
            }
        }
    }
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
