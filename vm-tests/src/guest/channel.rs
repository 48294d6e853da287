//! The guest's end of the channel to the host, see [`crate::vm::channel`].

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
};

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use crate::vm::channel::{FromGuest, Order};

/// The second serial port.
const PORT: &str = "/dev/ttyS1";

#[derive(Debug)]
pub(crate) struct Channel {
    to_host: File,
    from_host: BufReader<File>,
}

impl Channel {
    pub(crate) fn open() -> Result<Self> {
        let port =
            OpenOptions::new().read(true).write(true).open(PORT).context("opening the channel")?;
        // As it is, the kernel would echo, and change ends of lines.
        let mut settings = tcgetattr(&port).context("reading the port's settings")?;
        cfmakeraw(&mut settings);
        tcsetattr(&port, SetArg::TCSANOW, &settings).context("making the port raw")?;
        let from_host = BufReader::new(port.try_clone()?);
        let mut channel = Self { to_host: port, from_host };
        // Whatever the firmware wrote is a line of its own.
        channel.to_host.write_all(b"\n").context("writing to the host")?;
        Ok(channel)
    }

    pub(crate) fn send(&mut self, message: &FromGuest) -> Result<()> {
        let mut line = serde_json::to_string(message)?;
        line.push('\n');
        self.to_host.write_all(line.as_bytes()).context("writing to the host")
    }

    /// The next order; none when the host is gone.
    pub(crate) fn next(&mut self) -> Result<Option<Order>> {
        let mut line = String::new();
        let read = self.from_host.read_line(&mut line).context("reading from the host")?;
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).with_context(|| format!("an order: {line:?}")).map(Some)
    }

    /// Waits until all that was written has left.
    pub(crate) fn drain(&self) -> Result<()> {
        nix::sys::termios::tcdrain(&self.to_host).context("writing to the host")
    }
}
