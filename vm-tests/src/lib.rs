//! What tests and shows pairflip on real kernels: the lab in network namespaces, and virtual machines.

mod archive;
pub mod command;
pub mod guest;
pub mod lab;
pub mod scenario;
pub mod vm;
mod wait;

pub use lab::{
    Lab, Options,
    client::Client,
    daemon::Daemon,
    database::Database,
    flavour::{Flavour, Fork},
    netns::Namespace,
    topology::Topology,
};
pub use wait::wait_for;

/// Where what is expensive to make or fetch is kept: `$XDG_CACHE_HOME/pairflip`, or else `~/.cache/pairflip`.
pub fn cache_dir() -> std::path::PathBuf {
    let dir = |variable| std::env::var_os(variable).filter(|dir| !dir.is_empty());
    let cache = dir("XDG_CACHE_HOME").map(std::path::PathBuf::from).unwrap_or_else(|| {
        std::path::PathBuf::from(dir("HOME").unwrap_or_else(|| "/root".into())).join(".cache")
    });
    cache.join("pairflip")
}
