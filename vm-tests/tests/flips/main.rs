//! Flips while clients write, on real servers: what was acknowledged is there afterwards.
//!
//! Each test has a lab of its own.
#![cfg(test)]

mod faults;
mod loss;
mod rolling_ddl;
mod safe;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use pairflip_vm_tests::{
    Daemon, Flavour, Fork, Lab, Options,
    lab::{
        clients::{self, Clients, TABLES, pause::Flip, pause::Pauses, record::Record, verify},
        flipper::{self, UnderWay, Way},
        topology::VIP_WRITE,
        ways::{self, Forwarding},
    },
};

/// Exit codes of `pairflip flip`.
const REFUSED: i32 = 1;
const UNDONE: i32 = 4;
const UNDONE_IN_TIME: i32 = 5;

/// A lab with the daemon running and the clients' tables in it.
fn start(servers: Flavour, both_writable: bool) -> (Lab, Daemon) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("f{}x{count}", std::process::id());
    let options =
        Options { both_writable, servers, performance_schema: true, ..Options::new(&name) };
    let lab = Lab::up(&options, |_| {}).unwrap();
    lab.grant_flips().unwrap();
    lab.db(1).sql(TABLES).unwrap();
    lab.db(1).sql("CREATE TABLE app.open (n INT); INSERT INTO app.open VALUES (0)").unwrap();
    let config = lab.write_config(|config| config).unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    (lab, daemon)
}

/// Flips to and fro while clients work.
fn flip_under_load(way: Way, lab: &Lab, daemon: &Daemon, count: usize) -> (Record, Vec<Flip>) {
    let clients = Clients::start(&lab.ns("client1"), clients::Options::default()).unwrap();
    let flips = flipper::flip_under_load(way, lab, daemon, &clients, count, |_| {}).unwrap();
    let record = clients.stop().unwrap();
    report(way.name(), &record, &flips);
    (record, flips)
}

/// What clients saw, for the test's output.
fn report(what: &str, record: &Record, flips: &[Flip]) {
    let pauses = Pauses::of(record, flips);
    println!(
        "{what}: {} acknowledged, {} unknown; pauses {:.0?}, of one writer {:.0?}; errors: {}; inside a transaction that was open at a flip: {}",
        record.commits.len(),
        record.unknown.len(),
        pauses.all,
        pauses.one,
        record.errors(),
        record.open_at(flips),
    );
}
