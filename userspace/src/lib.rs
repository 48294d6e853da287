//! pairflip's user space: drivers around the pure decisions of `pairflip_policy`, and the event loop that joins them.

pub mod check;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod drain;
mod exec;
pub mod http;
pub mod inspect;
pub mod journal;
pub mod net;
pub mod primary;
pub mod runtime;
pub mod sessions;
pub mod state;
