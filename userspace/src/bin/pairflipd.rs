//! The daemon: flags, logging, readiness, exit code.

use std::{io::IsTerminal as _, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use pairflip::{config, runtime};
use tracing_subscriber::EnvFilter;

/// pairflip's daemon: checks the MySQL servers and steers the kernel's packet path.
///
/// Runs in the foreground and logs to standard error. When it ends, by a signal or a crash, the kernel goes on forwarding
/// as it was, and the next start takes over without losing a connection; `pairflip unload` removes everything. Says it is
/// ready with a log line and to systemd (sd_notify) once every route has its answer.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// What to log: error, warn, info, debug, trace, or per module as in `pairflip::check=debug,info`.
    #[arg(long, value_name = "FILTER", env = "PAIRFLIP_LOG", default_value = "info")]
    log: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The netlink library warns of every message that comes after its reader has gone, which is how readers end.
    let filter = EnvFilter::try_new(format!("netlink_proto=error,{}", arguments.log))
        .with_context(|| format!("reading --log {:?}", arguments.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime's threads")?;
    runtime.block_on(runtime::run(config, || {
        tracing::info!("ready");
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "telling systemd that the daemon is ready");
        }
    }))
}
