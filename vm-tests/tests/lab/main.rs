//! The product on real MariaDB servers, in network namespaces: what an operator and a client would notice.
//!
//! Each test has a lab of its own. They run one after another: a lab is four servers.
#![cfg(test)]

mod admin;
mod check;
mod conditions;
mod events;
mod failover;
mod failure;
mod flip;
mod lifecycle;
mod serve;

use std::{
    net::SocketAddrV4,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use pairflip_vm_tests::{
    Client, Daemon, Lab, Options, Topology,
    lab::topology::{VIP_READ, VIP_WRITE},
    wait_for,
};

/// Servers by number, which is also their `@@server_id`.
const PAIR1_PRIMARY: u32 = 1;
const PAIR1_REPLICA: u32 = 2;
const PAIR2_PRIMARY: u32 = 3;
const PAIR2_REPLICA: u32 = 4;

/// What the lab's configuration promises for a dead backend: interval + (fall - 1) * fast_interval + timeout.
const DETECTION: Duration = Duration::from_millis(2500);
/// On a busy machine everything takes longer; a promise that is broken is broken by more than this.
const SLACK: Duration = Duration::from_secs(3);

fn options() -> Options {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Options::new(&format!("t{}x{count}", std::process::id()))
}

/// A lab with the daemon running.
fn start(options: &Options) -> (Lab, Daemon) {
    start_with(options, |config| config)
}

fn start_with(options: &Options, change: impl FnOnce(String) -> String) -> (Lab, Daemon) {
    let lab = Lab::up(options, |_| {}).unwrap();
    let config = lab.write_config(change).unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    (lab, daemon)
}

/// Which server a new connection from a client's host reaches.
fn server_id(lab: &Lab, host: &str, vip: SocketAddrV4) -> Result<u32> {
    lab.ns(host).run(move || Client::new(vip)?.server_id())?
}
