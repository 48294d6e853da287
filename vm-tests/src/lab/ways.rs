//! The ways in which packets can be forwarded, with the addresses for all of them, and the configuration of a cluster.
//!
//! Each net is `10.N.0.0/24` and `fdN::/64`, and a host has the same number in all of them.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;

use super::{Lab, VIPS};

pub const CLIENTS: u8 = 77;
pub const BACKENDS: u8 = 78;
pub const REDIRECTOR: u8 = 2;
pub const CLIENT1: u8 = 11;
pub const VIP_WRITE: u8 = 100;
pub const VIP_READ: u8 = 101;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forwarding {
    Snat,
    Dnat,
    Dsr,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    pub fn address(self, net: u8, host: u8) -> IpAddr {
        let text = match self {
            Self::V4 => format!("10.{net}.0.{host}"),
            Self::V6 => format!("fd{net}::{host}"),
        };
        text.parse().expect("an address")
    }

    pub fn vip(self) -> SocketAddr {
        SocketAddr::new(self.address(CLIENTS, VIP_WRITE), 3306)
    }

    /// Server 1 to 4 in a net.
    pub fn backend(self, net: u8, number: u8) -> SocketAddr {
        SocketAddr::new(self.address(net, 20 + number), 3306)
    }

    /// A network, in `ip`'s notation.
    pub fn network(self, net: u8) -> String {
        match self {
            Self::V4 => format!("10.{net}.0.0/24"),
            Self::V6 => format!("fd{net}::/64"),
        }
    }

    /// One host, in `ip`'s notation.
    pub fn host(self, address: IpAddr) -> String {
        match self {
            Self::V4 => format!("{address}/32"),
            Self::V6 => format!("{address}/128"),
        }
    }
}

impl Forwarding {
    pub const ALL: [Self; 3] = [Self::Snat, Self::Dnat, Self::Dsr];

    pub fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Dnat => "dnat",
            Self::Dsr => "dsr",
        }
    }
}

/// A configuration of the lab with a cluster for each family, which has its name, instead of those that it has.
pub fn configuration(lab: &str, interfaces: &str, forwarding: Forwarding, net: u8) -> String {
    let daemon = lab.split("[[cluster]]").next().unwrap_or_default();
    let [v4, v6] = Family::BOTH.map(|family| cluster(family, forwarding, net));
    daemon.replace(r#"["eth0", "eth1"]"#, interfaces) + &v4 + &v6
}

fn cluster(family: Family, forwarding: Forwarding, net: u8) -> String {
    let [b1, b2, b3, b4] = [1, 2, 3, 4].map(|number| family.backend(net, number));
    format!(
        r#"
        [[cluster]]
        name = "{}"
        forwarding = "{}"
        check = {{ user = "pairflip", password_file = "/etc/pairflip/password" }}
        route = [
            {{ name = "writes", vip = "{}", access = "write" }},
            {{ name = "reads", vip = "{}", access = "read" }},
        ]
        pair = [
            {{ name = "pair1", primary = "{b1}", replicas = ["{b2}"] }},
            {{ name = "pair2", primary = "{b3}", replicas = ["{b4}"] }},
        ]
        "#,
        family.name(),
        forwarding.name(),
        family.vip(),
        SocketAddr::new(family.address(CLIENTS, VIP_READ), 3306),
    )
}

/// Does on servers of a one-arm lab what a way of forwarding needs there, after the ways before it in [`Forwarding::ALL`].
pub fn let_servers_reply(lab: &Lab, forwarding: Forwarding, servers: &[usize]) -> Result<()> {
    for number in servers {
        let database = lab.ns(&format!("db{number}"));
        match forwarding {
            Forwarding::Snat => {}
            Forwarding::Dnat => {
                database.ip("route replace 10.77.0.11/32 via 10.77.0.2")?;
            }
            Forwarding::Dsr => {
                database.ip("route del 10.77.0.11/32")?;
                database.run(|| {
                    // Who asks for a VIP is not told of one on the loopback.
                    fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")?;
                    fs::write("/proc/sys/net/ipv4/conf/all/arp_announce", "2")
                })??;
                for vip in VIPS {
                    database.ip(&format!("addr add {}/32 dev lo", vip.ip()))?;
                }
            }
        }
    }
    Ok(())
}
