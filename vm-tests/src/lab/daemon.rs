//! `pairflipd` and `pairflip` as a user runs them.

use std::{
    env, fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::netns::Namespace;
use crate::command;

/// Longest wait for readiness: loading the program, one round of checks, with room for a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon and its controller. Dropping it kills the daemon; what it loaded goes with the lab.
#[derive(Debug)]
pub struct Daemon {
    namespace: Namespace,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that is not started yet.
    pub fn new(namespace: Namespace, config: &Path, socket: &Path, log: &Path) -> Self {
        Self {
            namespace,
            config: config.to_owned(),
            socket: socket.to_owned(),
            log: log.to_owned(),
            child: None,
        }
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::File::create(&self.log)?;
        let mut command = self.namespace.command(&binary("pairflipd"))?;
        command
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        self.child =
            Some(command.spawn().context("starting pairflipd; build it with `cargo xtask build`")?);
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.log()?.contains(" ready") {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                bail!("pairflipd did not become ready ({ended:?}); its log:\n{}", self.log()?);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the daemon logged since its last start.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("killing pairflipd")?;
            child.wait().context("waiting for pairflipd")?;
        }
        Ok(())
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)
                .context("stopping pairflipd")?;
            let status = child.wait().context("waiting for pairflipd")?;
            if !status.success() {
                bail!("pairflipd ended with {status}; its log:\n{}", self.log()?);
            }
        }
        Ok(())
    }

    /// Runs the controller; returns all it said, whatever its exit status.
    pub fn pairflip(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&binary("pairflip"))?;
        command::output(command.arg("--socket").arg(&self.socket).args(arguments))
    }

    /// Runs the controller, which must succeed; returns its standard output.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.pairflip(arguments)?;
        if !output.status.success() {
            bail!(
                "pairflip {arguments:?} failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts the controller, and returns while it works.
    pub fn start_pairflip(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.namespace.command(&binary("pairflip"))?;
        command.arg("--socket").arg(&self.socket).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("starting pairflip")
    }

    /// Waits until the log says something after its first `before` bytes. It is looked at all the time: a step of a flip
    /// takes milliseconds.
    pub fn wait_logged(&self, text: &str, before: usize, limit: Duration) -> Result<()> {
        let mut log = fs::File::open(&self.log)?;
        log.seek(SeekFrom::Start(before as u64))?;
        let (start, mut said) = (Instant::now(), String::new());
        while !said.contains(text) {
            log.read_to_string(&mut said)?;
            if start.elapsed() > limit {
                bail!("the log did not say {text:?} within {limit:?}, but:\n{said}");
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// `pairflip status --json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.ctl(&["status", "--json"])?).context("reading the status")
    }

    /// Every event of the journal after that number, oldest first.
    pub fn events_after(&self, number: u64) -> Result<Vec<serde_json::Value>> {
        let json = self.ctl(&["events", "--json", "--limit", "10000"])?;
        let answer: serde_json::Value =
            serde_json::from_str(&json).context("reading the events")?;
        let events = answer["events"].as_array().context("the events are no list")?;
        Ok(events.iter().filter(|event| event["number"].as_u64() > Some(number)).cloned().collect())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing to do about a process that cannot be killed.
        _ = self.kill();
    }
}

/// Path of a binary of the product: in `PAIRFLIP_BIN_DIR`, or the release build of this workspace.
pub fn binary(name: &str) -> String {
    let dir = |variable| env::var_os(variable).map(PathBuf::from);
    let release = dir("PAIRFLIP_BIN_DIR")
        .or_else(|| dir("CARGO_TARGET_DIR").map(|target| target.join("release")))
        .unwrap_or_else(|| workspace().join("target/release"));
    release.join(name).display().to_string()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
