//! Who is where in the lab's network.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::{netns::Namespace, xdp_pass};
use crate::command::run;

/// How the redirector is connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Topology {
    /// Clients, redirector and databases in one network; packets leave by the interface they came in on.
    OneArm,
    /// Clients on one side of the redirector, databases on the other.
    TwoArm,
}

/// Addresses of the write and the read VIP.
pub const VIP_WRITE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 100), 3306);
pub const VIP_READ: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 101), 3306);

/// A host of the lab and its interfaces: name and address of each.
pub struct Host {
    pub name: &'static str,
    pub interfaces: Vec<(&'static str, Ipv4Addr)>,
}

impl Topology {
    pub fn hosts(self) -> Vec<Host> {
        let host =
            |name, address: [u8; 4]| Host { name, interfaces: vec![("eth0", address.into())] };
        let mut redirector = host("redirector", [10, 77, 0, 2]);
        if self == Self::TwoArm {
            redirector.interfaces.push(("eth1", [10, 78, 0, 2].into()));
        }
        let mut hosts =
            vec![redirector, host("client1", [10, 77, 0, 11]), host("client2", [10, 77, 0, 12])];
        for number in 1..=4 {
            hosts.push(Host {
                name: database_name(number),
                interfaces: vec![("eth0", self.database(number))],
            });
        }
        hosts
    }

    /// Address of database server 1 to 4: primary and replica of pair1, primary and replica of pair2.
    pub fn database(self, number: usize) -> Ipv4Addr {
        let network = match self {
            Self::OneArm => 77,
            Self::TwoArm => 78,
        };
        Ipv4Addr::new(10, network, 0, 20 + number as u8)
    }

    /// The interfaces of the redirector that carry VIP traffic.
    pub fn redirector_interfaces(self) -> &'static [&'static str] {
        match self {
            Self::OneArm => &["eth0"],
            Self::TwoArm => &["eth0", "eth1"],
        }
    }

    /// Connects every host to its network's switch, a bridge in a namespace of its own.
    pub(crate) fn connect(
        self,
        switch: &Namespace,
        namespace: impl Fn(&str) -> Namespace,
    ) -> Result<()> {
        for bridge in ["br77", "br78"] {
            make_bridge(switch, bridge)?;
        }
        for host in self.hosts() {
            host.connect(switch, &namespace(host.name))?;
        }
        Ok(())
    }
}

impl Host {
    /// Connects the host to the bridges of its networks.
    pub(crate) fn connect(&self, switch: &Namespace, inside: &Namespace) -> Result<()> {
        for (interface, address) in &self.interfaces {
            let bridge = format!("br{}", address.octets()[1]);
            plug(switch, inside, self.name, interface, &bridge)?;
            inside.ip(&format!("addr add {address}/24 dev {interface}"))?;
        }
        if self.name.starts_with("client") {
            inside.run(spare_ports)??;
        }
        Ok(())
    }
}

/// Makes an interface of a host and puts its other end into a bridge.
pub(crate) fn plug(
    switch: &Namespace,
    inside: &Namespace,
    host: &str,
    interface: &str,
    bridge: &str,
) -> Result<()> {
    let port = format!("{host}-{interface}");
    inside
        .ip(&format!("link add {interface} type veth peer name {port} netns {}", switch.name()))?;
    switch.ip(&format!("link set {port} master {bridge} up"))?;
    if host == "redirector" {
        xdp_pass::attach(switch, &port)?;
    } else {
        // Partial checksums are invisible to XDP, and it sees no frame beyond the MTU.
        ethtool(inside, interface, "tx off tso off gso off gro off")?;
    }
    inside.ip(&format!("link set {interface} up"))?;
    Ok(())
}

pub(crate) fn make_bridge(switch: &Namespace, bridge: &str) -> Result<()> {
    switch.ip(&format!("link add {bridge} type bridge"))?;
    switch.ip(&format!("link set {bridge} up"))?;
    Ok(())
}

/// Short connections from few addresses soon hunt for a port outside TIME_WAIT.
pub(crate) fn spare_ports() -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?;
    std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
    Ok(())
}

/// Name of database server 1 to 4.
pub fn database_name(number: usize) -> &'static str {
    ["db1", "db2", "db3", "db4"][number - 1]
}

fn ethtool(namespace: &Namespace, interface: &str, features: &str) -> Result<()> {
    run(namespace.command("ethtool")?.args(["-K", interface]).args(features.split(' ')))?;
    Ok(())
}
