//! The network of these tests: the lab with two arms, with more on top.
//!
//! ```text
//!            client1 .11   client2 .12   databases .21-.24
//!                 |             |          | eth1     | eth0
//!   net 77  ------+-------------+-----+----+----------|-----
//!   net 78  --------------------------|--+------------+-----
//!                             eth0    |  | eth1
//!                                  redirector .2
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use pairflip_vm_tests::{
    Lab, Namespace, Topology,
    lab::{
        topology::database_name,
        ways::{
            BACKENDS, CLIENT1, CLIENTS, Family, Forwarding, REDIRECTOR, VIP_READ, VIP_WRITE,
            configuration,
        },
    },
};

const CLIENT2: u8 = 12;

/// A configuration, and what an operator does to the network for it.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) forwarding: Forwarding,
    pub(crate) topology: Topology,
    pub(crate) attach: &'static str,
    /// More lines for `[daemon]`.
    pub(crate) daemon: String,
    /// The net of the backends' addresses, if not that of the topology.
    pub(crate) backends: Option<u8>,
    /// Net and number of the client that connects.
    pub(crate) client: (u8, u8),
}

impl Setup {
    pub(crate) fn new(forwarding: Forwarding, topology: Topology) -> Self {
        Self {
            forwarding,
            topology,
            attach: "auto",
            daemon: String::new(),
            backends: None,
            client: (CLIENTS, CLIENT1),
        }
    }

    /// The net of the backends' addresses.
    pub(crate) fn net(&self) -> u8 {
        self.backends.unwrap_or(match self.topology {
            Topology::OneArm => CLIENTS,
            Topology::TwoArm => BACKENDS,
        })
    }

    pub(crate) fn backend(&self, family: Family, number: u8) -> SocketAddr {
        family.backend(self.net(), number)
    }

    /// What the server should see as its client's address.
    pub(crate) fn source(&self, family: Family) -> IpAddr {
        match (self.forwarding, self.topology) {
            (Forwarding::Snat, Topology::OneArm) => family.address(CLIENTS, REDIRECTOR),
            (Forwarding::Snat, Topology::TwoArm) => family.address(BACKENDS, REDIRECTOR),
            (Forwarding::Dnat | Forwarding::Dsr, _) => family.address(self.client.0, self.client.1),
        }
    }

    pub(crate) fn write_config(&self, lab: &Lab) -> Result<PathBuf> {
        let interfaces = match self.topology {
            Topology::OneArm => "[\"eth0\"]",
            Topology::TwoArm => "[\"eth0\", \"eth1\"]",
        };
        let password = lab.dir().join("password").display().to_string();
        lab.write_config(|text| {
            configuration(&text, interfaces, self.forwarding, self.net())
                .replace(
                    "[daemon]",
                    &format!("[daemon]\nattach = \"{}\"\n{}", self.attach, self.daemon),
                )
                .replace("/etc/pairflip/password", &password)
        })
    }

    /// What the forwarding mode needs of the servers.
    pub(crate) fn prepare(&self, lab: &Lab) -> Result<()> {
        self.change(lab, "replace")
    }

    pub(crate) fn undo(&self, lab: &Lab) -> Result<()> {
        self.change(lab, "del")
    }

    fn change(&self, lab: &Lab, verb: &str) -> Result<()> {
        for number in 1..=4 {
            let database = lab.ns(database_name(number));
            for family in Family::BOTH {
                match self.forwarding {
                    Forwarding::Snat => {}
                    Forwarding::Dnat if self.backends.is_some() => {}
                    Forwarding::Dnat => {
                        let client = family.host(family.address(self.client.0, self.client.1));
                        let redirector = family.address(self.net(), REDIRECTOR);
                        database.ip(&format!("route {verb} {client} via {redirector}"))?;
                    }
                    Forwarding::Dsr => {
                        for vip in [VIP_WRITE, VIP_READ] {
                            let vip = family.host(family.address(CLIENTS, vip));
                            database.ip(&format!("addr {verb} {vip} dev lo"))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Adds IPv6 to every host of a lab with two arms, and puts the databases into the clients' network, too.
pub(crate) fn extend(lab: &Lab) -> Result<()> {
    sysctl(
        &lab.ns("redirector"),
        &[
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.eth0.send_redirects=0",
        ],
    )?;
    for (host, number) in [("redirector", REDIRECTOR), ("client1", CLIENT1), ("client2", CLIENT2)] {
        add_address(&lab.ns(host), "eth0", Family::V6, CLIENTS, number)?;
    }
    add_address(&lab.ns("redirector"), "eth1", Family::V6, BACKENDS, REDIRECTOR)?;
    for number in 1..=4 {
        let host = database_name(number);
        let database = lab.ns(host);
        // For `dsr`: the VIP is on the loopback, and the redirector alone answers for it.
        sysctl(&database, &["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"])?;
        lab.connect(host, "eth1", "br77")?;
        let number = 20 + number as u8;
        add_address(&database, "eth0", Family::V6, BACKENDS, number)?;
        for family in Family::BOTH {
            add_address(&database, "eth1", family, CLIENTS, number)?;
        }
    }
    Ok(())
}

/// Whether the hosts are done with looking for duplicates of their link-local addresses; until then they may not find each other.
pub(crate) fn is_settled(lab: &Lab) -> Result<bool> {
    let extra = std::fs::read_to_string(lab.dir().join("hosts")).unwrap_or_default();
    let mut hosts: Vec<&str> = extra.lines().collect();
    hosts.extend(Topology::TwoArm.hosts().iter().map(|host| host.name));
    for host in hosts {
        if !lab.ns(host).ip("-6 address show tentative")?.trim().is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn add_address(
    namespace: &Namespace,
    interface: &str,
    family: Family,
    net: u8,
    host: u8,
) -> Result<()> {
    let address = family.address(net, host);
    let (bits, detection) = match family {
        Family::V4 => (24, ""),
        Family::V6 => (64, "nodad"),
    };
    namespace.ip(&format!("addr add {address}/{bits} dev {interface} {detection}"))?;
    Ok(())
}

pub(crate) fn sysctl(namespace: &Namespace, settings: &[&str]) -> Result<()> {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    namespace.run(move || {
        settings.iter().try_for_each(|setting| {
            let (name, value) = setting.split_once('=').context("not a setting")?;
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            std::fs::write(&path, value).with_context(|| format!("writing {path}"))
        })
    })?
}
