//! Real connections through the real daemon, in every way that packets can be forwarded, and over networks that are not ideal.
//!
//! Servers are the lab's MariaDB servers. A payload goes to one inside a query and comes back as its result, so that every byte
//! passes twice. Each test has a lab of its own.
#![cfg(test)]

mod echo;
mod flood;
mod forwarding;
mod hold;
mod moves;
mod network;
mod path;
mod reorder;

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use network::Setup;
use pairflip_vm_tests::{
    Client, Daemon, Lab, Namespace, Options, Topology,
    lab::{
        client::Session,
        ways::{BACKENDS, CLIENT1, CLIENTS, Family, Forwarding, REDIRECTOR},
    },
    wait_for,
};

const PAIR1_PRIMARY: u32 = 1;
const PAIR2_PRIMARY: u32 = 3;

/// A few hundred milliseconds where all is well; a transfer that hangs does so for minutes.
const TRANSFER_LIMIT: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// A lab whose hosts have both families, and whose databases are in both networks.
fn lab() -> Lab {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("x{}x{count}", std::process::id());
    let options =
        Options { topology: Topology::TwoArm, both_writable: true, ..Options::new(&name) };
    let lab = Lab::up(&options, |_| {}).unwrap();
    network::extend(&lab).unwrap();
    lab
}

/// Starts a daemon for the setup, which the network is made ready for.
fn start(lab: &Lab, setup: &Setup) -> Daemon {
    setup.prepare(lab).unwrap();
    let settled = || network::is_settled(lab).unwrap();
    wait_for("the hosts' own addresses are usable", Duration::from_secs(10), settled);
    let config = setup.write_config(lab).unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    daemon
}

/// Ends a daemon so that nothing of it is left for the next one.
fn end(lab: &Lab, setup: &Setup, mut daemon: Daemon) {
    let config = lab.dir().join("pairflip.toml").display().to_string();
    daemon.ctl(&["unload", "--config", &config]).unwrap();
    daemon.stop().unwrap();
    std::fs::remove_dir_all(lab.dir().join("state")).unwrap();
    setup.undo(lab).unwrap();
}

/// Runs `work` inside a namespace.
fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    namespace.inside(work).unwrap()
}

/// Text of all letters and digits that no part of repeats.
fn payload(len: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let letters = std::iter::repeat_with(|| {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[(state >> 58) as usize])
    });
    letters.take(len).collect()
}

/// Sends text to the server and has it sent back.
fn echo(session: &mut Session<'_>, text: &str) -> Result<()> {
    let back: String = session.value_within(TRANSFER_LIMIT, &format!("SELECT '{text}' AS echo"))?;
    ensure!(back == text, "{} bytes came back of {}, or others", back.len(), text.len());
    Ok(())
}

/// The client's address and port as the server sees them.
fn seen_by_server(session: &mut Session<'_>) -> Result<SocketAddr> {
    let host: String = session
        .value("SELECT host FROM information_schema.processlist WHERE id = connection_id()")?;
    let (address, port) = host.rsplit_once(':').context("no port")?;
    let address: IpAddr = address.parse().with_context(|| host.clone())?;
    Ok(SocketAddr::new(address.to_canonical(), port.parse()?))
}

/// The flow of the connection that a server sees as `source`, as `pairflip flows --json` has it.
fn flow(daemon: &Daemon, source: SocketAddr) -> Result<serde_json::Value> {
    let flows: serde_json::Value = serde_json::from_str(&daemon.ctl(&["flows", "--json"])?)?;
    let listed = flows["flows"].as_array().context("no list")?;
    let flow = listed.iter().find(|flow| flow["source"] == source.to_string());
    flow.cloned().with_context(|| format!("no flow of {source} in {flows}"))
}

/// A line of the test's report.
fn report(line: &str) {
    println!("{line}");
}
