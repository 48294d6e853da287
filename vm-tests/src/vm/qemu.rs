//! One virtual machine: a QEMU process, its console and its channel.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::{prctl, signal::Signal};

use super::{
    accel::Accel,
    channel::{FromGuest, Order, Reply},
};

/// Lines of the console that an error shows.
const TAIL_LINES: usize = 30;
/// Longest wait for QEMU to make its sockets, before the guest runs.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);

/// How much later than the console's end the channel's last message may be.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Console texts after which waiting is pointless.
const FATAL: [&str; 9] = [
    "Kernel panic - not syncing",
    "BUG: unable to handle",
    "BUG: kernel NULL pointer",
    "general protection fault",
    "Oops: ",
    "watchdog: BUG: soft lockup",
    "Watchdog detected hard LOCKUP",
    // Ours, see `dataplane::load::Error::Program`.
    "the kernel refused the program",
    "end Kernel panic",
];

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
}

/// A machine that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    spec: Spec,
    process: Child,
    events: Receiver<Event>,
    channel: UnixStream,
    tail: Arc<Mutex<VecDeque<String>>>,
}

#[derive(Debug)]
enum Event {
    Message(FromGuest),
    Fatal(String),
    /// QEMU closed the console: it ended.
    Ended,
}

impl Vm {
    /// Starts the machine; returns as soon as it runs.
    pub fn boot(spec: &Spec) -> Result<Self> {
        let channel_path = spec.dir.join(format!("{}.channel", spec.name));
        let mut process = command(spec, &channel_path)
            .spawn()
            .context("starting qemu-system-x86_64; `cargo xtask setup` installs it")?;
        let (sender, events) = mpsc::channel();
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let console = process.stdout.take().context("the console is not piped")?;
        let log = File::create(spec.dir.join(format!("{}.console", spec.name)))
            .context("making the console's log")?;
        let (lines, events_of_console) = (Arc::clone(&tail), sender.clone());
        thread::spawn(move || watch_console(console, log, &lines, &events_of_console));
        let connected = connect(&channel_path, &mut process);
        let channel = match connected {
            Ok(channel) => channel,
            Err(error) => {
                _ = process.kill();
                _ = process.wait();
                let said: Vec<String> = lock(&tail).iter().cloned().collect();
                return Err(error.context(format!(
                    "starting the machine {}: {}",
                    spec.name,
                    said.join("\n")
                )));
            }
        };
        let reader = channel.try_clone().context("sharing the channel")?;
        thread::spawn(move || read_channel(reader, &sender));
        Ok(Self { spec: spec.clone(), process, events, channel, tail })
    }

    /// The next message, an error with the console's end if the guest fails or stays silent until `deadline`.
    pub fn next(&self, deadline: Instant) -> Result<FromGuest> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(Event::Message(message)) => Ok(message),
            Ok(Event::Fatal(line)) => {
                // What follows it says why.
                thread::sleep(Duration::from_millis(500));
                Err(self.error(&line))
            }
            Ok(Event::Ended) => match self.events.recv_timeout(LAST_WORDS) {
                // It came by the other thread.
                Ok(Event::Message(message)) => Ok(message),
                _ => Err(self.error("the machine turned itself off")),
            },
            Err(RecvTimeoutError::Timeout) => Err(self.error("the guest is silent")),
            Err(RecvTimeoutError::Disconnected) => Err(self.error("the machine is gone")),
        }
    }

    fn error(&self, what: &str) -> anyhow::Error {
        let lines: Vec<String> = lock(&self.tail).iter().cloned().collect();
        anyhow!("machine {}: {what}; its console ends:\n{}", self.spec.name, lines.join("\n"))
    }

    /// Gives an order that has no answer.
    pub fn tell(&mut self, order: &Order) -> Result<()> {
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
        self.process.kill().context("killing QEMU")?;
        self.process.wait().context("waiting for QEMU")?;
        Ok(())
    }

    /// Waits until the machine has turned itself off.
    pub fn wait_off(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.process.try_wait().context("waiting for QEMU")?.is_none() {
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

impl Drop for Vm {
    fn drop(&mut self) {
        // Nothing to do about a process that cannot be killed.
        _ = self.kill();
    }
}

fn command(spec: &Spec, channel: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    let append = [
        "console=ttyS0 panic=-1 loglevel=4 random.trust_cpu=on no_timer_check",
        // An emulated processor may be away for long: only what lasts is a lockup.
        "watchdog_thresh=30 softlockup_panic=1",
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
    // SAFETY: prctl and dup2 are system calls and nothing else, so they are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // However this process ends, its machines end with it.
            prctl::set_pdeathsig(Signal::SIGKILL)?;
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

fn watch_console(
    console: impl Read,
    mut log: File,
    tail: &Mutex<VecDeque<String>>,
    events: &Sender<Event>,
) {
    let mut reader = BufReader::new(console);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        // A log that cannot be written must not stop the watching.
        _ = log.write_all(&bytes);
        bytes.clear();
        let fatal = FATAL.iter().any(|text| line.contains(text));
        {
            let mut tail = lock(tail);
            tail.push_back(line.clone());
            if tail.len() > TAIL_LINES {
                tail.pop_front();
            }
        }
        // Nobody listens any more when the machine is being dropped.
        if fatal && events.send(Event::Fatal(line)).is_err() {
            break;
        }
    }
    _ = events.send(Event::Ended);
}

fn read_channel(channel: UnixStream, events: &Sender<Event>) {
    for line in BufReader::new(channel).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(message) => {
                if events.send(Event::Message(message)).is_err() {
                    break;
                }
            }
            // The port may carry a byte of the firmware's before the guest opens it.
            Err(_) => continue,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
