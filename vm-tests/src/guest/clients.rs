//! The client machine's applications: the lab's clients, with their ledger in a file.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::lab::clients::{Clients, Options};

/// Where the ledger is once the clients were stopped.
pub const LEDGER: &str = "/tmp/ledger.json";
/// How many writes were acknowledged so far.
pub const COMMITS: &str = "/tmp/commits";
/// Made by whoever wants the clients to stop.
pub const STOP: &str = "/tmp/stop";

/// Works on the VIPs until [`STOP`] is there, then leaves the [`LEDGER`].
pub fn run() -> Result<()> {
    // Machines that are emulated are busy with fewer.
    let clients = Clients::start_here(Options {
        writers: 16,
        readers: 2,
        // Emulated servers must be able to apply what they are sent.
        think: Duration::from_secs(4),
        ..Options::default()
    });
    while !Path::new(STOP).exists() {
        write(COMMITS, &clients.commits().to_string())?;
        thread::sleep(Duration::from_millis(200));
    }
    let ledger = clients.stop()?.ledger();
    write(LEDGER, &serde_json::to_string(&ledger).context("writing the ledger")?)
}

/// Writes a file that readers see whole or not at all.
fn write(path: &str, text: &str) -> Result<()> {
    let new = format!("{path}.new");
    fs::write(&new, text).with_context(|| format!("writing {new}"))?;
    fs::rename(&new, path).with_context(|| format!("making {path}"))
}
