//! What a scenario is. Each is one file in `scenarios/`; its name is the file's.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::vm::machines::Machines;

include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));

/// One story, told on every kernel.
#[derive(Debug)]
pub struct Scenario {
    /// One line for the list.
    pub about: &'static str,
    pub suite: Suite,
    pub needs: Needs,
    /// Longest time from boot to verdict on an emulated machine.
    pub limit: Duration,
    pub story: Story,
}

/// When a scenario runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suite {
    /// Always: on every kernel within CI's time.
    Quick,
    /// With `--all`, or when it is named.
    All,
}

/// What a guest has beside the product, busybox and `ip`.
#[derive(Debug, Default)]
pub struct Needs {
    /// Programs of the host, copied with their libraries.
    pub programs: &'static [&'static str],
    /// Kernel modules beside those of the network cards.
    pub modules: &'static [&'static str],
    /// MariaDB's server and client, and a data directory to copy.
    pub databases: bool,
    /// The tests of packets, built for the host.
    pub packet_tests: bool,
}

/// Who tells the story.
#[derive(Clone, Copy, Debug)]
pub enum Story {
    /// One guest with everything in it tells it to itself.
    OneGuest(fn(&mut Notes) -> Result<()>),
    /// The host tells it to a client, a redirector and a database machine.
    Machines(fn(&mut Machines, &mut Notes) -> Result<()>),
}

/// Figures and findings for the matrix.
#[derive(Debug, Default)]
pub struct Notes(pub Vec<String>);

impl Notes {
    pub fn add(&mut self, note: impl Into<String>) {
        self.0.push(note.into());
    }
}

/// An error that says why a scenario cannot run here. It is not a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// All scenarios, by name.
pub fn all() -> &'static [(&'static str, &'static Scenario)] {
    ALL
}

/// The scenario of a name.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let found = ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, scenario)| *scenario).with_context(|| {
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        format!("there is no scenario {name:?}; there are {}", names.join(", "))
    })
}

/// What the lab needs in a guest, and the four servers of the database machine, which are a part of it.
pub const LAB_NEEDS: Needs = Needs {
    programs: &["ethtool"],
    modules: &["veth", "bridge"],
    databases: true,
    packet_tests: false,
};
