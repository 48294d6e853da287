//! Network namespaces: named, entered by a thread or by a child process.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::SigSet,
};

use crate::command::sh;

/// A network namespace under `/run/netns`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace, with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        sh(&format!("ip netns add {name}"))?;
        let namespace = Self::existing(name);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs iproute2's `ip` inside.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        sh(&format!("ip -n {} {arguments}", self.name))
    }

    /// Returns a command that will run inside. `ip netns exec` would do, too, but hides the bpffs.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: these are system calls and nothing else, so they are safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // The caller may wait for signals; what runs inside must not inherit that they are blocked.
                SigSet::empty().thread_set_mask()?;
                Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?)
            });
        }
        Ok(command)
    }

    /// Runs `work` on a thread inside. Threads that it starts are inside, too.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.spawn(work)?.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            anyhow!("the work in namespace {} panicked: {}", self.name, text.unwrap_or_default())
        })
    }

    /// Starts `work` on a thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let file = self.open()?;
        Ok(thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|errno| panic!("entering a namespace: {errno}"));
            work()
        }))
    }

    /// Moves the calling thread inside, for good. For threads of a scope; [`Namespace::spawn`] starts others.
    pub fn enter(&self) -> Result<()> {
        setns(self.open()?.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering namespace {}", self.name))
    }

    /// Runs `work` on a thread inside that may borrow, and panics as it does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("opening namespace {}", self.name))
    }

    /// Removes the namespace; its interfaces go with it once no process is inside.
    pub fn delete(&self) -> Result<()> {
        if self.path().exists() {
            sh(&format!("ip netns del {}", self.name))?;
        }
        Ok(())
    }
}
