//! One virtual machine: a QEMU process, its console and its channel.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{getpid, getppid},
};

use super::{
    accel::Accel,
    channel::{FromGuest, Order, Reply},
    console::{Alarm, Excerpt, Watcher},
};

/// The role of a machine that does what the host tells it.
pub const ORDERS: &str = "orders";

/// Longest wait for QEMU to make its sockets, before the guest runs.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a machine that waits looks whether another one is lost.
const ALARM_INTERVAL: Duration = Duration::from_millis(500);

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What files and errors call it.
    pub name: String,
    pub accel: Accel,
    pub image: PathBuf,
    pub initramfs: PathBuf,
    /// What the guest is to do, for its init: `pairflip.run=...`.
    pub role: String,
    pub cpus: u32,
    pub memory_mib: u32,
    /// Further arguments: network cards and disks.
    pub devices: Vec<String>,
    /// For sockets and the console's log.
    pub dir: PathBuf,
    /// Shared by machines of one story.
    pub alarm: Alarm,
}

/// A machine that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    spec: Spec,
    process: Process,
    /// Ends when console and channel have ended.
    messages: Receiver<FromGuest>,
    channel: UnixStream,
    excerpt: Excerpt,
    /// The host wants the machine to end.
    turned_off: Arc<AtomicBool>,
}

/// A QEMU that ends when it is dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing to do about a process that cannot be killed.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Vm {
    /// Starts the machine; returns as soon as it runs.
    pub fn boot(spec: &Spec) -> Result<Self> {
        let channel_path = spec.dir.join(format!("{}.channel", spec.name));
        let child = command(spec, &channel_path)
            .spawn()
            .context("starting qemu-system-x86_64; `cargo xtask setup` installs it")?;
        let mut process = Process(child);
        let excerpt = Excerpt::default();
        let console = process.0.stdout.take().context("the console is not piped")?;
        let log = File::create(spec.dir.join(format!("{}.console", spec.name)))
            .context("making the console's log")?;
        let watcher = Watcher {
            machine: spec.name.clone(),
            takes_orders: spec.role == ORDERS,
            alarm: spec.alarm.clone(),
            excerpt: excerpt.clone(),
            log,
        };
        let (sender, messages) = mpsc::channel();
        let console_runs = sender.clone();
        let turned_off = Arc::new(AtomicBool::new(false));
        let expected = Arc::clone(&turned_off);
        thread::spawn(move || {
            watcher.watch(console, &expected);
            drop(console_runs);
        });
        let channel = connect(&channel_path, &mut process.0).map_err(|cause| {
            cause.context(excerpt.error(&spec.name, "QEMU does not start the machine"))
        })?;
        let reader = channel.try_clone().context("sharing the channel")?;
        thread::spawn(move || read_channel(reader, &sender));
        Ok(Self { spec: spec.clone(), process, messages, channel, excerpt, turned_off })
    }

    /// The next message; an error with the console's end if a kernel fails, this machine ends, or nothing comes until `deadline`.
    pub fn next(&self, deadline: Instant) -> Result<FromGuest> {
        loop {
            self.spec.alarm.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left.min(ALARM_INTERVAL)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(self.error("it said nothing in time"));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.spec.alarm.check()?;
                    return Err(self.error("it turned itself off"));
                }
            }
        }
    }

    fn error(&self, what: &str) -> anyhow::Error {
        self.excerpt.error(&self.spec.name, what)
    }

    /// Gives an order that has no answer.
    pub fn tell(&mut self, order: &Order) -> Result<()> {
        if matches!(order, Order::PowerOff) {
            self.turned_off.store(true, Ordering::Relaxed);
        }
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.channel
            .write_all(line.as_bytes())
            .with_context(|| format!("talking to the machine {}", self.spec.name))
    }

    /// Gives an order and waits for the answer.
    pub fn order(&mut self, order: &Order, limit: Duration) -> Result<Reply> {
        let deadline = Instant::now() + limit;
        self.tell(order)?;
        loop {
            match self.next(deadline).with_context(|| format!("waiting for {order:?}"))? {
                FromGuest::Reply(reply) => return Ok(reply),
                FromGuest::Ready | FromGuest::Note(_) => {}
                FromGuest::Verdict(verdict) => bail!("the guest ended by itself: {verdict:?}"),
            }
        }
    }

    /// Pulls a network card's cable, or puts it in, by QEMU's machine protocol (QMP `set_link`).
    pub fn set_link(&self, card: &str, up: bool) -> Result<()> {
        let path = self.spec.dir.join(format!("{}.qmp", self.spec.name));
        let mut stream =
            UnixStream::connect(&path).context("connecting to QEMU's control socket")?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        for command in [
            r#"{"execute": "qmp_capabilities"}"#.to_owned(),
            format!(r#"{{"execute": "set_link", "arguments": {{"name": "{card}", "up": {up}}}}}"#),
        ] {
            writeln!(stream, "{command}")?;
            loop {
                let line = answers.next().context("QEMU closed its control socket")??;
                if line.contains("\"return\"") {
                    break;
                }
                if line.contains("\"error\"") {
                    bail!("QEMU refused {command}: {line}");
                }
            }
        }
        Ok(())
    }

    /// Cuts the power: what was not on the disk is lost.
    pub fn kill(&mut self) -> Result<()> {
        self.turned_off.store(true, Ordering::Relaxed);
        self.process.0.kill().context("killing QEMU")?;
        self.process.0.wait().context("waiting for QEMU")?;
        Ok(())
    }

    /// Waits until the machine has turned itself off.
    pub fn wait_off(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.process.0.try_wait().context("waiting for QEMU")?.is_none() {
            if Instant::now() > deadline {
                return Err(self.error("it does not turn itself off"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }
}

fn command(spec: &Spec, channel: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    let append = [
        "console=ttyS0 panic=-1 loglevel=4 random.trust_cpu=on no_timer_check",
        // An emulated processor may be away for long: only what lasts is a lockup.
        "watchdog_thresh=30 softlockup_panic=1",
        // What kills one task of a kernel would otherwise go unnoticed by the rest.
        "oops=panic",
        &format!("pairflip.run={}", spec.role),
    ]
    .join(" ");
    let qmp = spec.dir.join(format!("{}.qmp", spec.name));
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "q35", "-name", &spec.name])
        .args(spec.accel.arguments())
        .args(["-smp", &spec.cpus.to_string(), "-m", &format!("{}M", spec.memory_mib)])
        .arg("-kernel")
        .arg(&spec.image)
        .arg("-initrd")
        .arg(&spec.initramfs)
        .args(["-append", &append])
        .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
        .args([
            "-chardev",
            &format!("socket,id=channel,server=on,wait=on,path={}", channel.display()),
        ])
        .args(["-serial", "chardev:channel"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())])
        .args(&spec.devices)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal is for the one who owns the machine.
        .process_group(0);
    let harness = getpid();
    // SAFETY: these are system calls and nothing else, so they are safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // However this process ends, its machines end with it; also if it has ended by now.
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != harness {
                return Err(std::io::Error::other("the harness has ended"));
            }
            // This process waits for signals on a thread; a machine must not inherit that they are blocked.
            SigSet::empty().thread_set_mask()?;
            // QEMU's own complaints belong into the console's log.
            if libc::dup2(1, 2) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command
}

/// QEMU waits for this connection before it runs the guest, so that no message is lost.
fn connect(path: &Path, process: &mut Child) -> Result<UnixStream> {
    let deadline = Instant::now() + SOCKET_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("connecting to the guest's channel");
            }
            Err(_) => {}
        }
        if let Some(status) = process.try_wait().context("waiting for QEMU")? {
            // Its last words are on their way through the console.
            thread::sleep(Duration::from_millis(100));
            bail!("QEMU ended at once ({status})");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn read_channel(channel: UnixStream, messages: &Sender<FromGuest>) {
    let mut reader = BufReader::new(channel);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        // What is no message is the firmware's, from before the guest opened the port.
        if let Ok(message) = serde_json::from_slice(&bytes)
            && messages.send(message).is_err()
        {
            break;
        }
        bytes.clear();
    }
}
