//! Inside a virtual machine: the first process, which makes a system out of a kernel and runs a scenario.

mod agent;
mod channel;
pub mod clients;
mod init;
pub mod servers;

pub(crate) use init::MODULES;
pub use init::run;
