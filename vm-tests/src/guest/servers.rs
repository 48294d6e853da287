//! The database machine: four servers on one card, each a host of its own behind a bridge.

use std::{path::Path, thread, time::Duration};

use anyhow::Result;

use crate::{
    command::sh,
    lab::{
        flavour::Flavour,
        netns::Namespace,
        servers::Servers,
        topology::{Topology, make_bridge},
    },
};

/// Where each server keeps its files: `/databases/db1` and so on, with the socket `mysql.sock`.
pub const DIR: &str = "/databases";
/// Exists once all servers answer and replicate.
pub const READY: &str = "/databases/ready";

/// Brings the servers up, both primaries writable, and keeps them until it is killed.
pub fn run() -> Result<()> {
    let switch = Namespace::create("switch")?;
    make_bridge(&switch, "br78")?;
    sh("ip link set eth0 netns switch")?;
    switch.ip("link set eth0 master br78 up")?;
    for host in Topology::TwoArm.hosts().iter().filter(|host| host.name.starts_with("db")) {
        host.connect(&switch, &Namespace::create(host.name)?)?;
    }
    let mut servers = Servers::default();
    servers.start(
        Flavour::MariaDb1011,
        4,
        Flavour::MariaDb1011.fork().performance_schema(),
        Topology::TwoArm,
        Namespace::existing,
        Path::new(DIR),
    )?;
    servers.replicate(true)?;
    servers.grant_flips()?;
    std::fs::write(READY, "")?;
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
