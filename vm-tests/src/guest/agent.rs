//! A guest whose story is told by the host: it does what it is told, one order at a time.

use std::{
    collections::HashMap,
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{channel::Channel, init::say};
use crate::vm::channel::{FromGuest, Order, Reply};

/// Lines that were started and not waited for yet.
#[derive(Default)]
struct Started {
    last: u32,
    lines: HashMap<u32, Line>,
}

/// A line that runs. A thread takes what it says and notes when it ends.
struct Line {
    group: Pid,
    end: JoinHandle<Result<Reply>>,
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
        Order::Run(line) => start(&line)?.end(),
        Order::Start(line) => {
            started.last += 1;
            started.lines.insert(started.last, start(&line)?);
            Ok(Reply { number: started.last, ..Reply::default() })
        }
        Order::Wait(number) => started.take(number)?.end(),
        Order::Kill(number) => {
            let line = started.take(number)?;
            // The whole line: what a shell started would hold its output open. It may have ended by itself.
            _ = killpg(line.group, Signal::SIGKILL);
            line.end()
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

impl Started {
    fn take(&mut self, number: u32) -> Result<Line> {
        self.lines.remove(&number).with_context(|| format!("no line {number} was started"))
    }
}

impl Line {
    fn end(self) -> Result<Reply> {
        self.end.join().map_err(|_| anyhow!("the thread of a line panicked"))?
    }
}

fn start(line: &str) -> Result<Line> {
    let begin = Instant::now();
    let child = shell(line).spawn().context("starting a shell")?;
    let group = Pid::from_raw(child.id() as i32);
    let end = thread::spawn(move || {
        let output = child.wait_with_output().context("waiting for a line")?;
        Ok(reply(&output, begin))
    });
    Ok(Line { group, end })
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(line)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

fn reply(output: &Output, begin: Instant) -> Reply {
    let status = output.status;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Reply {
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        number: 0,
        seconds: begin.elapsed().as_secs_f64(),
    }
}
