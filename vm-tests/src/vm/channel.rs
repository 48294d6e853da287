//! What host and guest say to each other on the guest's second serial port: one JSON value a line.
//!
//! The first serial port is the guest's console, which the kernel writes to as well.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A message of the guest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FromGuest {
    /// The guest is up and takes orders.
    Ready,
    /// Something for the matrix: a figure or a finding of the scenario.
    Note(String),
    /// The scenario's end.
    Verdict(Verdict),
    /// The answer to an order.
    Reply(Reply),
}

/// How a scenario ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed(String),
    /// It cannot run on this kernel or machine, and why.
    Unsupported(String),
}

/// An order of the host, for guests whose story is told by the host.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Runs a shell line to its end.
    Run(String),
    /// Starts a shell line and answers at once with its number.
    Start(String),
    /// Waits for a started line and answers with what it said.
    Wait(u32),
    /// Ends a started line, as `kill -9` does.
    Kill(u32),
    /// Writes a file.
    Write { path: String, text: String },
    /// Writes back what is in memory and turns the machine off.
    PowerOff,
}

/// What came of an order.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Reply {
    /// Exit status, 128 and the signal's number when a signal ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    /// Of a started line.
    pub number: u32,
    /// Seconds that a line ran.
    pub seconds: f64,
}

impl Reply {
    pub fn took(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}
