//! Process 1: mounts, modules, one task, power off.

use std::{fs, os::fd::AsRawFd as _, panic, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

use super::{agent, channel::Channel};
use crate::{
    command::sh,
    scenario::{self, Notes, Story, Unsupported},
    vm::{
        channel::{FromGuest, Verdict},
        qemu::ORDERS,
    },
};

/// Module files in the order in which they load, see [`crate::vm::pack`].
pub(crate) const MODULES: &str = "/modules";
/// Where programs are: those of the host at their places, the rest from busybox.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/busybox";

/// Runs as process 1 and never returns.
pub fn run() -> ! {
    let verdict = match panic::catch_unwind(up) {
        Ok(result) => result,
        Err(_) => Err(anyhow!("the guest's init panicked; the console says where")),
    };
    if let Err(error) = verdict {
        say(&format!("guest: {error:#}"));
    }
    nix::unistd::sync();
    // Nothing more can be done if the kernel refuses.
    _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn up() -> Result<()> {
    for (name, value) in [("PATH", PATH), ("HOME", "/root"), ("PAIRFLIP_BIN_DIR", "/bin")] {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(name, value) };
    }
    mount_all()?;
    let mut channel = Channel::open()?;
    let task = task()?;
    let verdict = match system_up().and_then(|()| perform(&task, &mut channel)) {
        Ok(verdict) => verdict,
        Err(error) => match error.downcast::<Unsupported>() {
            Ok(Unsupported(reason)) => Verdict::Unsupported(reason),
            Err(error) => Verdict::Failed(format!("{error:#}")),
        },
    };
    say(&format!("guest: {task}: {verdict:?}"));
    channel.send(&FromGuest::Verdict(verdict))?;
    channel.drain()
}

fn perform(task: &str, channel: &mut Channel) -> Result<Verdict> {
    match task {
        "nothing" => Ok(Verdict::Passed),
        // The next two are for the tests of the harness itself.
        "panic" => {
            fs::write("/proc/sysrq-trigger", "c").context("crashing the kernel")?;
            bail!("the kernel did not crash")
        }
        "silence" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        ORDERS => agent::serve(channel).map(|()| Verdict::Passed),
        name => {
            let scenario = scenario::find(name)?;
            let Story::OneGuest(story) = scenario.story else {
                bail!("scenario {name} is told by the host")
            };
            let mut notes = Notes::default();
            let result = panic::catch_unwind(panic::AssertUnwindSafe(|| story(&mut notes)));
            for note in notes.0 {
                channel.send(&FromGuest::Note(note))?;
            }
            match result {
                Ok(told) => told.map(|()| Verdict::Passed),
                Err(_) => bail!("the scenario panicked; the console says where"),
            }
        }
    }
}

fn mount_all() -> Result<()> {
    for (kind, target) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")]
    {
        fs::create_dir_all(target)?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {target}"))?;
    }
    // Like a host that was booted by systemd; pins are made below.
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>)
        .context("mounting /sys/fs/bpf")
}

fn system_up() -> Result<()> {
    load_modules()?;
    sh("ip link set lo up")?;
    Ok(())
}

fn load_modules() -> Result<()> {
    let Ok(entries) = fs::read_dir(MODULES) else { return Ok(()) };
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    files.iter().try_for_each(|file| load_module(file))
}

fn load_module(path: &Path) -> Result<()> {
    let file = fs::File::open(path)?;
    // SAFETY: the descriptor is open and the parameters are a string.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("loading module {}", path.display())),
    }
}

/// What the host wants, from the kernel's command line.
fn task() -> Result<String> {
    let line = fs::read_to_string("/proc/cmdline").context("reading the command line")?;
    line.split_whitespace()
        .find_map(|word| word.strip_prefix("pairflip.run="))
        .map(str::to_owned)
        .context("the command line has no pairflip.run=")
}

/// A line on the console.
#[expect(clippy::print_stderr, reason = "the console is the guest's log")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
