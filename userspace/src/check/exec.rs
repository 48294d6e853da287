//! Commands: a program on this host whose exit code tells how a server is.
//!
//! It runs in a process group of its own, without the daemon's environment, which may hold secrets. When its time is over the
//! whole group is killed, and every process of it that is ours is waited for. What keeps a command from telling (it cannot be started,
//! or was killed by somebody else) is trouble of this host and says nothing about the server.

use std::{net::SocketAddr, os::unix::process::ExitStatusExt as _, process::Stdio};

use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use pairflip_policy::{Cause, CheckFailure, Outcome};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use super::cause::timed_out;
use crate::config::{Applies, ExecCheck};

/// Bytes of each output that are kept; the rest is read and forgotten, so that nobody waits on a full pipe.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Characters of the output that an operator is shown.
const WORDS_CHARS_MAX: usize = 200;
/// Where programs that the command calls are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which server a command is asked about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub cluster: String,
    pub pair: String,
    pub address: SocketAddr,
    pub role: Applies,
}

/// One command for one server.
pub(super) struct Runner {
    check: ExecCheck,
    /// The last run, while it is being waited for after it was killed.
    leftover: Option<JoinHandle<()>>,
}

impl Runner {
    pub(super) const fn new(check: ExecCheck) -> Self {
        Self { check, leftover: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.check.name
    }

    pub(super) async fn check(&mut self, subject: &Subject) -> Outcome {
        if self.leftover.as_ref().is_some_and(|leftover| !leftover.is_finished()) {
            return local("the last run was killed and does not end; no other is started".into());
        }
        let mut group = match Group::start(&self.check, subject) {
            Ok(group) => group,
            Err(error) => {
                let program = &self.check.command[0];
                return local(format!("cannot start {program}: {error}"));
            }
        };
        match timeout(self.check.timeout, group.run()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                self.leftover = group.kill();
                Outcome::Unanswered(timed_out("running the command", self.check.timeout))
            }
        }
    }
}

fn local(text: String) -> Outcome {
    Outcome::Unanswered(CheckFailure { cause: Cause::Local, text })
}

/// A running command and its children. Killed when it is dropped.
struct Group {
    child: Option<Child>,
    id: Option<Pid>,
}

impl Group {
    fn start(check: &ExecCheck, subject: &Subject) -> std::io::Result<Self> {
        let Subject { cluster, pair, address, role } = subject;
        let child = Command::new(&check.command[0])
            .args(&check.command[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("PAIRFLIP_CHECK", &check.name)
            .env("PAIRFLIP_CLUSTER", cluster)
            .env("PAIRFLIP_PAIR", pair)
            .env("PAIRFLIP_BACKEND", address.to_string())
            .env("PAIRFLIP_HOST", address.ip().to_string())
            .env("PAIRFLIP_PORT", address.port().to_string())
            .env("PAIRFLIP_ROLE", role.name())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child: Some(child), id })
    }

    /// Waits for the end and says what it means.
    async fn run(&mut self) -> Outcome {
        let Some(child) = &mut self.child else { return local("it is not running".into()) };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let outputs = (child.stdout.take(), child.stderr.take());
        let status = {
            let read = async {
                tokio::join!(drain(outputs.0, &mut stdout), drain(outputs.1, &mut stderr));
                // A child of the command may hold the pipes for longer than the command lives.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                // What the command wrote is read before its end counts.
                biased;
                () = read => return local("its output ended twice".into()),
                status = child.wait() => status,
            }
        };
        self.end_children();
        let words = first_line(&stderr).or_else(|| first_line(&stdout));
        let text = |what: String| match &words {
            Some(words) => format!("{what}: {words}"),
            None => what,
        };
        match status {
            Ok(status) if status.success() => Outcome::Passed,
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Outcome::Failed { text: text(format!("exit code {code}")) },
                (None, signal) => {
                    let signal = signal.unwrap_or_default();
                    local(text(format!("the command was killed by signal {signal}")))
                }
            },
            Err(error) => local(format!("waiting for the command: {error}")),
        }
    }

    /// Kills what the command left behind.
    fn end_children(&mut self) {
        self.child = None;
        if let Some(id) = self.id.take() {
            // The number is the group's for as long as one process of it lives; if none does, nobody else has got it this soon.
            _ = killpg(id, Signal::SIGKILL);
            reap(id);
        }
    }

    /// Kills all of it; the task ends when the command is waited for.
    fn kill(mut self) -> Option<JoinHandle<()>> {
        let (child, id) = (self.child.take(), self.id.take());
        let id = id?;
        _ = killpg(id, Signal::SIGKILL);
        let mut child = child?;
        Some(tokio::spawn(async move {
            _ = child.wait().await;
            reap(id);
        }))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The daemon ends, or the backend went into maintenance, while the command runs.
        if let Some(id) = self.id {
            _ = killpg(id, Signal::SIGKILL);
        }
    }
}

/// Waits for processes of the group that are ours: where the daemon is the first process of a container, it inherits orphans.
fn reap(group: Pid) {
    let ours = Pid::from_raw(-group.as_raw());
    while let Ok(status) = waitpid(ours, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Reads an output to its end and keeps its beginning.
async fn drain(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut output) = output else { return };
    let mut part = [0; OUTPUT_BYTES_MAX];
    while let Ok(count) = output.read(&mut part).await
        && count > 0
    {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&part[..count.min(room)]);
    }
}

fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect())
}
