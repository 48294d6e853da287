//! Other people's programs: run with a deadline, a bounded output and an environment of our making.
//!
//! Nothing of the daemon's own environment is passed on but `PATH`: it may hold passwords. A program that outlives its
//! deadline is killed with everything that it started and that stayed in its process group.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

/// Bytes of each output that are kept; the rest is read and forgotten, so that nobody waits on a full pipe.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Characters of it that an operator is shown: a line of the log, not a report.
const WORDS_CHARS_MAX: usize = 200;

/// How long output is waited for after the program's end: what it wrote is in the pipe already, and something that it left
/// in the background may keep the pipe open for good.
const OUTPUT_GRACE: Duration = Duration::from_millis(50);

/// How long a run that was killed has for its end before the next one is given up: that takes milliseconds, or for ever.
const END_GRACE: Duration = Duration::from_millis(100);

/// Where programs are looked for by programs, if the daemon itself was not told.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that ended by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// The first line that it wrote to standard error, else to standard output; empty if it wrote none.
    pub(crate) words: String,
}

/// A program that did not end by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// Its fault or ours, but never that of what it was to look at.
    #[error("cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("was not started: its last run was killed and does not end")]
    Stuck,
    #[error("did not end within {0:?} and was killed with its children")]
    TimedOut(Duration),
}

/// One program that is run again and again, never twice at a time.
#[derive(Debug)]
pub(crate) struct Runner {
    /// Path and arguments.
    command: Vec<String>,
    deadline: Duration,
    /// The last run, while it is being waited for after it was killed: one that hangs in the kernel does not end.
    leftover: Option<JoinHandle<()>>,
}

impl Runner {
    pub(crate) const fn new(command: Vec<String>, deadline: Duration) -> Self {
        Self { command, deadline, leftover: None }
    }

    /// Runs the program to its end; `environment` is all that it gets besides `PATH`. What it leaves in the background is killed.
    pub(crate) async fn run(
        &mut self,
        environment: &[(&str, String)],
        input: &[u8],
    ) -> Result<Finished, ExecError> {
        let deadline = Instant::now() + self.deadline;
        if let Some(leftover) = &mut self.leftover
            && timeout(END_GRACE, leftover).await.is_err()
        {
            return Err(ExecError::Stuck);
        }
        self.leftover = None;
        let mut group = Group::spawn(&self.command, environment).map_err(ExecError::Start)?;
        match timeout_at(deadline, group.finish(input)).await {
            Ok(finished) => finished.map_err(ExecError::Start),
            Err(_elapsed) => {
                self.leftover = group.kill();
                Err(ExecError::TimedOut(self.deadline))
            }
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

/// A program and whatever it starts, in a process group of their own. Dropped before its end it is killed.
struct Group {
    /// `None` once it was waited for, or is waited for by somebody else.
    child: Option<Child>,
    id: Pid,
}

impl Group {
    fn spawn(command: &[String], environment: &[(&str, String)]) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // A child that was not waited for has one.
        let id = child.id().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { child: Some(child), id: Pid::from_raw(id.cast_signed()) })
    }

    /// Feeds the program, and waits for its end.
    async fn finish(&mut self, input: &[u8]) -> io::Result<Finished> {
        let Some(child) = &mut self.child else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let status = {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A program that does not care for its input may close it, or end.
                    _ = stdin.write_all(input).await;
                }
            };
            let wait = async { (child.wait().await, Instant::now() + OUTPUT_GRACE) };
            let read = async {
                tokio::join!(drain(stdout, &mut output), drain(stderr, &mut errors));
            };
            tokio::pin!(feed, wait, read);
            let (mut is_fed, mut is_read) = (false, false);
            loop {
                tokio::select! {
                    (status, until) = &mut wait => {
                        if !is_read {
                            _ = timeout_at(until, &mut read).await;
                        }
                        break status;
                    }
                    () = &mut feed, if !is_fed => is_fed = true,
                    () = &mut read, if !is_read => is_read = true,
                }
            }
        };
        self.child = None;
        // The number is the group's for as long as one process of it lives; if none does, nobody else has got it this soon.
        self.end();
        reap(self.id);
        let words = first_line(&errors).or_else(|| first_line(&output)).unwrap_or_default();
        Ok(Finished { status: status?, words })
    }

    /// Kills all of it; the task ends when the program is waited for.
    fn kill(mut self) -> Option<JoinHandle<()>> {
        self.end();
        let (mut child, id) = (self.child.take()?, self.id);
        Some(tokio::spawn(async move {
            _ = child.wait().await;
            reap(id);
        }))
    }

    fn end(&self) {
        _ = killpg(self.id, Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody waits for it any more, while it runs.
        if self.child.is_some() {
            self.end();
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn input_environment_output_and_exit_code_get_through() {
        let script = "read line; echo \"$line $WORD ${HOME-none}\"; exit 3";
        let finished = shell(script, b"hello\n", LONG).await.unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.words, "hello word none");
        let script = "echo fine; echo >&2; echo 'trouble ' >&2; echo more >&2";
        assert_eq!(shell(script, b"", LONG).await.unwrap().words, "trouble");
    }

    #[tokio::test]
    async fn input_that_nobody_reads_and_output_without_end_hurt_nobody() {
        let input = vec![b'x'; 1 << 20];
        let finished = shell("head -c 3000000 /dev/zero | tr '\\0' y", &input, LONG).await.unwrap();
        assert!(finished.status.success());
        assert_eq!(finished.words, "y".repeat(WORDS_CHARS_MAX));
    }

    #[tokio::test]
    async fn at_the_deadline_the_children_die_too() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 600 & echo $! $$ > {}; wait", pids.display());
        let begun = Instant::now();
        let error = shell(&script, b"", Duration::from_millis(500)).await.unwrap_err();
        assert!(matches!(error, ExecError::TimedOut(_)), "{error}");
        assert!(begun.elapsed() < LONG);
        let pids = std::fs::read_to_string(&pids).unwrap();
        assert_eq!(pids.split_whitespace().count(), 2);
        for pid in pids.split_whitespace() {
            wait_until_gone(pid).await;
        }
    }

    #[tokio::test]
    async fn one_that_was_killed_is_run_again_at_once() {
        let command = ["/bin/sleep", "600"].map(str::to_owned);
        let mut runner = Runner::new(command.into(), Duration::from_millis(50));
        for _ in 0..5 {
            let error = runner.run(&[], b"").await.unwrap_err();
            assert!(matches!(error, ExecError::TimedOut(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn something_left_in_the_background_is_killed_and_not_waited_for() {
        let begun = Instant::now();
        let finished = shell("sleep 600 & echo $!", b"", LONG).await.unwrap();
        assert!(finished.status.success());
        assert!(begun.elapsed() < LONG);
        wait_until_gone(&finished.words).await;
    }

    #[tokio::test]
    async fn a_program_that_closes_its_output_is_waited_for() {
        let finished = shell("exec >&- 2>&-; sleep 0.2; exit 7", b"", LONG).await.unwrap();
        assert_eq!(finished.status.code(), Some(7));
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_told_apart() {
        for command in [&["/does/not/exist".to_owned()][..], &["/etc/passwd".to_owned()], &[]] {
            let error = Runner::new(command.to_vec(), LONG).run(&[], b"").await.unwrap_err();
            assert!(matches!(error, ExecError::Start(_)), "{error}");
        }
    }

    async fn shell(script: &str, input: &[u8], deadline: Duration) -> Result<Finished, ExecError> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        let mut runner = Runner::new(command.into(), deadline);
        runner.run(&[("WORD", "word".to_owned())], input).await
    }

    /// A process that was killed is gone as soon as its parent, or the first process, has noticed.
    async fn wait_until_gone(pid: &str) {
        let begun = Instant::now();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(") ").next()?.chars().next()
        };
        while state().is_some_and(|state| state != 'Z') {
            assert!(begun.elapsed() < LONG, "process {pid} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
