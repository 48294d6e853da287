//! The lab: clients, the redirector and four real database servers in network namespaces.
//!
//! `cargo xtask lab` and `cargo xtask run` show it to people, the tests of this package use it. Everything that a lab makes is
//! named for it and recorded in its directory, so that one that was killed is cleaned up by the next command.

pub mod client;
pub mod command;
pub mod daemon;
pub mod database;
pub mod lab;
mod mounts;
pub mod netns;
pub mod topology;
mod xdp_pass;

pub use client::Client;
pub use daemon::Daemon;
pub use database::Database;
pub use lab::{Lab, Options};
pub use netns::Namespace;
pub use topology::Topology;
