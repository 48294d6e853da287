//! A guest whose story is told by the host: it does what it is told, one order at a time.

use std::{
    collections::HashMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use super::{channel::Channel, init::say};
use crate::vm::channel::{FromGuest, Order, Reply};

/// Lines that were started and not waited for yet.
#[derive(Default)]
struct Started {
    last: u32,
    children: HashMap<u32, (Child, Instant)>,
}

/// Serves until the host turns the machine off.
pub(crate) fn serve(channel: &mut Channel) -> Result<()> {
    let mut started = Started::default();
    channel.send(&FromGuest::Ready)?;
    while let Some(order) = channel.next()? {
        say(&format!("order: {order:?}"));
        if matches!(order, Order::PowerOff) {
            return Ok(());
        }
        let reply = obey(order, &mut started).unwrap_or_else(|error| Reply {
            status: -1,
            stderr: format!("{error:#}"),
            ..Reply::default()
        });
        say(&format!("reply: {reply:?}"));
        channel.send(&FromGuest::Reply(reply))?;
    }
    Ok(())
}

fn obey(order: Order, started: &mut Started) -> Result<Reply> {
    match order {
        Order::Run(line) => {
            let start = Instant::now();
            let output = shell(&line).output().context("starting a shell")?;
            Ok(reply(&output, start))
        }
        Order::Start(line) => {
            started.last += 1;
            let child = shell(&line).spawn().context("starting a shell")?;
            started.children.insert(started.last, (child, Instant::now()));
            Ok(Reply { number: started.last, ..Reply::default() })
        }
        Order::Wait(number) => {
            let (child, start) = take(started, number)?;
            Ok(reply(&child.wait_with_output().context("waiting for a line")?, start))
        }
        Order::Kill(number) => {
            let (mut child, start) = take(started, number)?;
            child.kill().context("killing a line")?;
            Ok(reply(&child.wait_with_output().context("waiting for a line")?, start))
        }
        Order::Write { path, text } => {
            if let Some(parent) = Path::new(&path).parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("making {}", parent.display()))?;
            }
            fs::write(&path, text).with_context(|| format!("writing {path}"))?;
            Ok(Reply::default())
        }
        Order::PowerOff => bail!("handled by the caller"),
    }
}

fn take(started: &mut Started, number: u32) -> Result<(Child, Instant)> {
    started.children.remove(&number).with_context(|| format!("no line {number} was started"))
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn reply(output: &Output, start: Instant) -> Reply {
    let status = output.status;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Reply {
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        number: 0,
        seconds: start.elapsed().as_secs_f64(),
    }
}
