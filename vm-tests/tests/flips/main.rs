//! Flips while clients write, on real servers: what was acknowledged is there afterwards.
//!
//! Each test has a lab of its own.
#![cfg(test)]

mod loss;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use pairflip_vm_tests::{
    Daemon, Flavour, Lab, Options,
    lab::{
        clients::{self, Clients, TABLES, pause::Flip, record::Record, verify},
        flipper::{self, Way},
    },
};

/// Time between two flips, in which clients come back and write.
const BETWEEN: Duration = Duration::from_millis(1500);

/// A lab with the daemon running and the clients' tables in it.
fn start(servers: Flavour, both_writable: bool) -> (Lab, Daemon) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("f{}x{count}", std::process::id());
    let lab = Lab::up(&Options { both_writable, servers, ..Options::new(&name) }, |_| {}).unwrap();
    lab.db(1).sql(TABLES).unwrap();
    let config = lab.write_config(|config| config).unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    (lab, daemon)
}

/// Flips to and fro while clients work.
fn flip_under_load(way: Way, lab: &Lab, daemon: &Daemon, count: usize) -> (Record, Vec<Flip>) {
    let clients = Clients::start(&lab.ns("client1"), clients::Options::default()).unwrap();
    wait_for("clients write", Duration::from_secs(20), || clients.commits() > 200);
    let mut flips = Vec::new();
    for _ in 0..count {
        let to = 3 - flipper::active(daemon).unwrap();
        flips.push(way.flip(lab, daemon, to).unwrap());
        let before = clients.commits();
        wait_for("clients write again", Duration::from_secs(20), || {
            clients.commits() > before + 50
        });
        thread::sleep(BETWEEN);
    }
    (clients.stop().unwrap(), flips)
}

/// Waits until `done`. Panics after `limit`.
fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What clients saw, for the test's output.
fn report(what: &str, record: &Record, flips: &[Flip]) {
    let pauses = clients::pause::Pauses::of(record, flips);
    println!(
        "{what}: {} acknowledged, {} unknown; pauses {:.0?}, of one writer {:.0?}; {} errors inside a transaction, {} open at a flip; errors: {}",
        record.commits.len(),
        record.unknown.len(),
        pauses.all,
        pauses.one,
        record.inside(),
        record.open_at(flips),
        record.errors(),
    );
}
