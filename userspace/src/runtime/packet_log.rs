//! The packet log of builds for debugging.

use anyhow::{Context as _, Result};
use tokio::io::{Interest, unix::AsyncFd};

use super::Runtime;

impl Runtime {
    /// Writes what the program says about packets to the log from now on, if this is a build for debugging.
    pub(super) fn read_packet_log(&mut self) -> Result<()> {
        let log = self.dataplane.packet_log().context("opening the packet log")?;
        let Some(log) = log else { return Ok(()) };
        tracing::warn!(
            "this build writes a line about every packet (target packet, level debug), which costs more than forwarding it: for debugging only"
        );
        // SAFETY: the log owns its descriptor and keeps it as long as it lives.
        let lines = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) };
        let mut lines = lines.context("waiting for the packet log's lines")?;
        tokio::spawn(async move {
            while let Ok(mut ready) = lines.readable_mut().await {
                ready.get_inner_mut().write_lines();
                ready.clear_ready();
            }
        });
        Ok(())
    }
}
