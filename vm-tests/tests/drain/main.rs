//! Draining by idleness: real sessions through the real daemon, of every kind, on every flavour.
//!
//! Each test has a lab of its own, and does in it all that it can.
#![cfg(test)]

mod busy;
mod cursor;
mod limits;
mod sessions;

use std::{
    net::SocketAddrV4,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use pairflip_vm_tests::{
    Client, Daemon, Flavour, Lab, Namespace, Options,
    lab::{
        client::Session,
        topology::{VIP_READ, VIP_WRITE},
    },
    wait_for,
};
use serde_json::Value;

/// Longest wait for a flow that is to be ended at once: on a busy machine everything takes longer.
const SOON: Duration = Duration::from_secs(5);

/// A lab of the first `count` servers, which record what draining asks for.
fn lab(flavour: Flavour, count: usize) -> Lab {
    lab_with(|options| Options {
        servers: flavour,
        servers_count: count,
        performance_schema: true,
        ..options
    })
}

fn lab_with(change: impl FnOnce(Options) -> Options) -> Lab {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("d{}x{number}", std::process::id());
    Lab::up(&change(Options::new(&name)), |_| {}).unwrap()
}

/// Starts a server anew, with the options that it was given; the first one is writable again.
fn restart(lab: &mut Lab, number: usize) {
    lab.db_mut(number).stop().unwrap();
    lab.db_mut(number).start().unwrap();
    if number == 1 {
        lab.db(number).set_read_only(false).unwrap();
    }
}

fn start(lab: &Lab, change: impl FnOnce(String) -> String) -> Daemon {
    let config = lab
        .write_config(|config| {
            change(config).replace("interval      = \"1s\"", "interval = \"500ms\"")
        })
        .unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    daemon
}

/// Runs `work` on a client's host.
fn on_client<T: Send>(lab: &Lab, work: impl FnOnce() -> T + Send) -> T {
    inside(&lab.ns("client1"), work)
}

fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    namespace.inside(work).unwrap()
}

/// Drains server 1 or 2.
fn drain(lab: &Lab, daemon: &Daemon, number: usize, more: &[&str]) {
    let address = address(lab, number);
    let words = [&["drain", &address, "--force"], more].concat();
    daemon.ctl(&words).unwrap();
}

fn ready(lab: &Lab, daemon: &Daemon, number: usize) {
    daemon.ctl(&["ready", &address(lab, number)]).unwrap();
}

fn address(lab: &Lab, number: usize) -> String {
    format!("{}:3306", lab.db(number).address)
}

/// Returns whether a session is there; it is not changed by that.
fn lives(session: &mut Session<'_>) -> bool {
    session.ping().is_ok()
}

/// What the status says of the first drain.
fn drains(daemon: &Daemon) -> Value {
    daemon.status().unwrap()["clusters"][0]["drains"].clone()
}

/// Texts of the events of a kind.
fn told(daemon: &Daemon, kind: &str) -> Vec<String> {
    let events = daemon.events_after(0).unwrap();
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

/// Where new connections of a VIP go.
fn server_id(lab: &Lab, vip: SocketAddrV4) -> u32 {
    on_client(lab, || Client::new(vip).unwrap().server_id().unwrap())
}
