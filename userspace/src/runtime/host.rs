//! What the daemon changes on the host as it runs: paths to backends, addresses on interfaces, announcements.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};

use pairflip_common::flow::Forwarding;

use super::{
    Runtime,
    end::{Device, Hop},
};
use crate::{
    config::{self, Announce},
    dataplane::{self, BackendPath, ClientNetwork},
    net::{
        announce::{self, Placed},
        frames::{VlanTag, mac_text},
        links::{self, Interface, Network, NextHop},
    },
    state::PlacedVip,
};

impl Runtime {
    /// Writes the networks of clients and the paths to all backends as they are now. A backend that cannot be reached keeps its
    /// last path.
    pub(super) fn follow_network(&mut self) {
        let network = self.network.borrow_and_update().clone();
        if let Err(error) = self.set_networks(&network) {
            tracing::error!(%error, "writing the clients' networks; the last ones stay in use");
        }
        for (backend, address) in self.ids.backends.clone() {
            match network.next_hops.get(&address.ip()) {
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

    fn set_networks(&mut self, network: &Network) -> Result<(), dataplane::Error> {
        let bare = network.interfaces.values().map(|interface| {
            let device =
                Device { ifindex: interface.ifindex, own_mac: interface.mac, tags: Vec::new() };
            (device, interface.mtu)
        });
        let vlans = network.vlans.iter().map(|vlan| {
            let device =
                Device { ifindex: vlan.ifindex, own_mac: vlan.mac, tags: vlan.tags.clone() };
            (device, vlan.mtu)
        });
        let found: Vec<(Device, u32)> = bare.chain(vlans).collect();
        let networks: Vec<ClientNetwork> = found
            .iter()
            .map(|(device, mtu)| ClientNetwork {
                ifindex: device.ifindex,
                mac: device.own_mac,
                mtu: *mtu,
                tags: tags(&device.tags),
            })
            .collect();
        let slots = self.dataplane.set_networks(&networks)?;
        self.devices = slots.into_iter().zip(found.into_iter().map(|(device, _)| device)).collect();
        Ok(())
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
        let forwarding = forwarding(cluster.forwarding);
        let snat_addresses = match forwarding {
            Forwarding::Snat if cluster.snat_addresses.is_empty() => vec![hop.source],
            Forwarding::Snat => cluster.snat_addresses.clone(),
            Forwarding::Dnat | Forwarding::Dsr => Vec::new(),
        };
        let path = BackendPath {
            address,
            forwarding,
            ifindex: hop.ifindex,
            own_mac: hop.own_mac,
            next_hop_mac: hop.next_hop_mac,
            tags: tags(&hop.tags),
            mtu: hop.mtu,
            snat_addresses,
            snat_ports: (cluster.snat_ports.min, cluster.snat_ports.max),
        };
        if !self.devices.values().any(|device| device.ifindex == hop.ifindex) {
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
                let new = Hop {
                    ifindex: hop.ifindex,
                    own_mac: hop.own_mac,
                    peer_mac,
                    tags: hop.tags.clone(),
                };
                if self.hops.insert(index, new.clone()).as_ref() != Some(&new) {
                    tracing::info!(backend = %address, ifindex = hop.ifindex, via = %mac_text(peer_mac), "path to the backend");
                }
            }
            None => {
                tracing::debug!(backend = %address, "the next hop's address is not known yet; new connections wait")
            }
        }
    }

    /// Makes the VIPs known to the program. Those without a table yet refuse.
    pub(super) fn publish_vips(&mut self) -> Result<()> {
        for (slot, route) in self.ids.routes(&self.config) {
            self.dataplane.add_vip(route.vip, slot)?;
        }
        Ok(())
    }

    /// Says who may connect where, and what the program looks out for.
    pub(super) fn publish_rules(&mut self) -> Result<()> {
        let networks = |route: &config::Route| -> Vec<dataplane::Network> {
            route.allow.iter().map(|network| (network.network(), network.prefix_len())).collect()
        };
        let allowed: Vec<_> =
            self.ids.routes(&self.config).map(|(slot, route)| (slot, networks(route))).collect();
        self.dataplane.set_allowed(&allowed)?;
        let dnat = self
            .config
            .clusters
            .iter()
            .any(|cluster| cluster.forwarding == config::Forwarding::Dnat);
        self.dataplane.set_features(dnat, self.config.daemon.flow_log)?;
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
                    tokio::spawn(async move {
                        if let Err(error) = announce::announce(&interface, vip).await {
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
        let placed = announce::place(&interface, address)
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
        let towards = announce::interface_towards(address, interfaces).await;
        match towards.context("looking for the interface that leads to the address")? {
            Some(interface) => Ok(interface),
            None => {
                let first = interfaces.first().context("daemon.interfaces is empty")?;
                Ok(links::interface(first).await?)
            }
        }
    }
}

fn tags(tags: &[VlanTag]) -> Vec<(u16, u16)> {
    tags.iter().map(|tag| (tag.protocol, tag.id)).collect()
}

pub(super) fn forwarding(configured: config::Forwarding) -> Forwarding {
    match configured {
        config::Forwarding::Snat => Forwarding::Snat,
        config::Forwarding::Dnat => Forwarding::Dnat,
        config::Forwarding::Dsr => Forwarding::Dsr,
    }
}
