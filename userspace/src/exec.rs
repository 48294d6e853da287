//! Other people's programs: run with a deadline, a bounded output and an environment of our making.
//!
//! Nothing of the daemon's own environment is passed on but `PATH`: it may hold passwords. A program that outlives its
//! deadline is killed with everything that it started and that stayed in its process group.

use std::{
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    process::{Child, Command},
    time::{Instant, timeout, timeout_at},
};

/// Bytes of a program's output that are kept: a message for a log line, not a report.
const OUTPUT_BYTES_MAX: usize = 1024;

/// How long output is waited for after the program's end: what it wrote is in the pipe already, and something that it left
/// in the background may keep the pipe open for good.
const OUTPUT_GRACE: Duration = Duration::from_millis(50);

/// Where programs are looked for by programs, if the daemon itself was not told.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that ended by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// The beginning of what it wrote to standard output and error, in the order written, as one line.
    pub(crate) output: String,
}

/// A program that did not end by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// Its fault or ours, but never that of what it was to look at.
    #[error("cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("did not end within {0:?} and was killed with its children")]
    TimedOut(Duration),
}

/// Runs a program to its end: `command` is its path and arguments, `environment` all that it gets besides `PATH`.
pub(crate) async fn run(
    command: &[String],
    environment: &[(&str, String)],
    input: &[u8],
    deadline: Duration,
) -> Result<Finished, ExecError> {
    let (reader, writer) = io::pipe().map_err(ExecError::Start)?;
    let mut output = pipe::Receiver::from_owned_fd(reader.into()).map_err(ExecError::Start)?;
    let mut group = Group::spawn(command, environment, writer.into()).map_err(ExecError::Start)?;
    let stdin = group.child.stdin.take();
    let mut kept = Vec::new();
    let ended = timeout(deadline, async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that does not care for its input may close it, or end.
                _ = stdin.write_all(input).await;
            }
        };
        let wait = async { (group.child.wait().await, Instant::now() + OUTPUT_GRACE) };
        let read = keep_beginning(&mut output, &mut kept);
        tokio::pin!(feed, wait, read);
        let (mut is_fed, mut is_read) = (false, false);
        loop {
            tokio::select! {
                (status, until) = &mut wait => {
                    if !is_read {
                        _ = timeout_at(until, &mut read).await;
                    }
                    return status;
                }
                () = &mut feed, if !is_fed => is_fed = true,
                () = &mut read, if !is_read => is_read = true,
            }
        }
    })
    .await;
    match ended {
        Ok(status) => {
            group.is_over = true;
            let status = status.map_err(ExecError::Start)?;
            Ok(Finished { status, output: one_line(&kept) })
        }
        Err(_elapsed) => Err(ExecError::TimedOut(deadline)),
    }
}

/// Reads all there is, so that the program never waits for a reader, and keeps the beginning.
async fn keep_beginning(output: &mut pipe::Receiver, kept: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(count) = output.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A program and whatever it starts, in a process group of their own. Dropped before its end it is killed.
struct Group {
    child: Child,
    /// The leader was waited for, so that its number may be somebody else's by now.
    is_over: bool,
}

impl Group {
    fn spawn(
        command: &[String],
        environment: &[(&str, String)],
        output: OwnedFd,
    ) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let errors = output.try_clone()?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, is_over: false })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is `None` once the leader was waited for; until then its number is nobody else's.
        if !self.is_over
            && let Some(leader) = self.child.id()
        {
            _ = killpg(Pid::from_raw(leader.cast_signed()), Signal::SIGKILL);
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
        let script = "read line; echo \"$line $WORD ${HOME-none}\"; echo trouble >&2; exit 3";
        let finished = shell(script, b"hello\n", LONG).await.unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.output, "hello word none trouble");
    }

    #[tokio::test]
    async fn input_that_nobody_reads_and_output_without_end_hurt_nobody() {
        let input = vec![b'x'; 1 << 20];
        let finished = shell("head -c 3000000 /dev/zero | tr '\\0' y", &input, LONG).await.unwrap();
        assert!(finished.status.success());
        assert_eq!(finished.output, "y".repeat(OUTPUT_BYTES_MAX));
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
    async fn something_left_in_the_background_is_not_waited_for() {
        let begun = Instant::now();
        let finished = shell("sleep 15 & echo done", b"", LONG).await.unwrap();
        assert_eq!((finished.status.success(), finished.output.as_str()), (true, "done"));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_program_that_closes_its_output_is_waited_for() {
        let finished = shell("exec >&- 2>&-; sleep 0.2; exit 7", b"", LONG).await.unwrap();
        assert_eq!(finished.status.code(), Some(7));
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_told_apart() {
        for command in [&["/does/not/exist".to_owned()][..], &["/etc/passwd".to_owned()], &[]] {
            let error = run(command, &[], b"", LONG).await.unwrap_err();
            assert!(matches!(error, ExecError::Start(_)), "{error}");
        }
    }

    async fn shell(script: &str, input: &[u8], deadline: Duration) -> Result<Finished, ExecError> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&command, &[("WORD", "word".to_owned())], input, deadline).await
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
