//! Three machines in a row: a client, the redirector, and the four databases on one machine.
//!
//! The redirector has a card towards either side (`eth0` clients, `eth1` databases), two processors, and a disk for its state.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    accel::Accel,
    channel::{FromGuest, Order, Reply},
    console::Alarm,
    network::{self, Card, Network},
    qemu::{ORDERS, Spec, Vm},
};
use crate::{
    command::run,
    guest,
    lab::{
        clients::{
            TABLES,
            record::Ledger,
            verify::{Verdict, verify_with},
        },
        database::{APP_PASSWORD, APP_USER, CHECK_PASSWORD},
        flavour::Fork,
        topology::{VIP_READ, VIP_WRITE},
    },
};

/// Longest wait for a machine to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Longest that a line may run.
const LINE_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for the databases, which start and replicate on an emulated machine.
const SERVERS_LIMIT: Duration = Duration::from_secs(240);
/// Longest wait for the daemon.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Where the daemon's configuration and log are on the redirector.
const CONFIG: &str = "/etc/pairflip/pairflip.toml";
const LOG: &str = "/var/log/pairflipd.log";
const CLIENTS: u8 = 77;
const DATABASES: u8 = 78;

/// What all machines of a scenario share.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) accel: Accel,
    pub(crate) network: Network,
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) memory_mib: u32,
    pub(crate) dir: PathBuf,
    /// Distinguishes machines that run side by side.
    pub(crate) set: usize,
    /// When the story must be over.
    pub(crate) deadline: Instant,
}

/// A machine and the lines that run on it.
#[derive(Debug)]
pub struct Machine {
    vm: Vm,
    deadline: Instant,
}

/// A line that was started and runs on.
#[derive(Clone, Copy, Debug)]
pub struct Running(u32);

/// All three. Dropping them turns them off hard.
#[derive(Debug)]
pub struct Machines {
    pub client: Machine,
    pub redirector: Machine,
    pub database: Machine,
    pub network: Network,
    set: usize,
    alarm: Alarm,
    servers: Option<Running>,
    daemon: Option<Running>,
}

/// How a scenario wants the daemon.
#[derive(Clone, Copy, Debug)]
pub enum Attach {
    Auto,
    Native,
    Generic,
}

impl Attach {
    /// In the configuration, and in the status of an interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// Natively, where every kernel's card can: with one queue older ones refuse.
    pub fn native_if_possible(network: Network) -> Self {
        match network {
            Network::Tap => Self::Native,
            Network::Socket => Self::Auto,
        }
    }
}

impl Machines {
    /// Boots all machines, brings their cards up and starts the databases.
    pub(crate) fn boot(plan: &Plan) -> Result<Self> {
        let card = |interface, network, number, peer| Card { interface, network, number, peer };
        let cards = [
            vec![card("eth0", CLIENTS, 11, 2)],
            vec![card("eth0", CLIENTS, 2, 11), card("eth1", DATABASES, 2, 20)],
            vec![card("eth0", DATABASES, 20, 2)],
        ];
        let disk = plan.dir.join("redirector.disk");
        make_disk(&disk)?;
        let alarm = Alarm::default();
        let mut machines = Vec::new();
        for (name, cards) in ["client", "redirector", "database"].into_iter().zip(cards) {
            let mut devices = Vec::new();
            for card in cards {
                devices.extend(card.plug(plan.network, plan.set, &plan.dir)?);
            }
            if name == "redirector" {
                devices.push("-drive".to_owned());
                devices.push(format!("if=virtio,format=raw,file={}", disk.display()));
            }
            machines.push(Vm::boot(&Spec {
                name: name.to_owned(),
                accel: plan.accel,
                image: plan.image.clone(),
                initramfs: plan.initramfs.clone(),
                role: ORDERS.to_owned(),
                cpus: 2,
                memory_mib: plan.memory_mib,
                devices,
                dir: plan.dir.clone(),
                alarm: alarm.clone(),
            })?);
        }
        let [client, redirector, database] =
            machines.try_into().ok().context("three machines were started")?;
        let machine = |vm| Machine { vm, deadline: plan.deadline };
        let mut machines = Self {
            client: machine(client),
            redirector: machine(redirector),
            database: machine(database),
            network: plan.network,
            set: plan.set,
            alarm,
            servers: None,
            daemon: None,
        };
        for machine in [&machines.client, &machines.redirector, &machines.database] {
            machine.wait_ready()?;
        }
        let up = "ip link set eth0 up";
        machines.client.run(&format!("ip addr add 10.77.0.11/24 dev eth0 && {up}"))?;
        machines.prepare_redirector()?;
        Ok(machines)
    }

    /// An error if any machine was lost, also after the last order.
    pub(crate) fn all_well(&self) -> Result<()> {
        self.alarm.check()
    }

    /// Starts the databases; both primaries are writable.
    pub fn start_databases(&mut self) -> Result<()> {
        let line = "exec pairflip-guest servers >/var/log/servers.log 2>&1";
        self.servers = Some(self.database.start(line)?);
        let deadline = Instant::now() + SERVERS_LIMIT;
        while self.database.try_run(&format!("test -e {}", guest::servers::READY))?.status != 0 {
            let failed = self.database.try_run("grep error: /var/log/servers.log")?.status == 0;
            if failed || Instant::now() > deadline {
                let log = self.database.run("tail -n 20 /var/log/servers.log /databases/*/log")?;
                bail!("the databases did not come up:\n{log}");
            }
            thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Starts clients with a ledger on the client's machine, and waits until they write. Server 1 takes writes.
    pub fn start_clients(&mut self) -> Result<Running> {
        let tables = TABLES.replace('\n', " ");
        self.sql(1, &tables)?;
        let running = self.client.start("exec pairflip-guest clients")?;
        self.wait_clients_write()?;
        Ok(running)
    }

    /// Waits until clients' writes are acknowledged from now on.
    pub fn wait_clients_write(&mut self) -> Result<()> {
        const AT_WORK: u64 = 30;
        let before = self.commits()?;
        let what = "clients' writes are acknowledged";
        self.wait_for(what, Duration::from_secs(90), |machines| {
            Ok(machines.commits()? >= before + AT_WORK)
        })?;
        Ok(())
    }

    fn commits(&mut self) -> Result<u64> {
        let text = self.client.try_run(&format!("cat {}", guest::clients::COMMITS))?.stdout;
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// Stops the clients, and holds both primaries against what they were told.
    pub fn verify_clients(&mut self, running: Running) -> Result<(Ledger, Verdict)> {
        self.client.run(&format!("touch {}", guest::clients::STOP))?;
        let end = self.client.wait(running)?;
        ensure!(end.status == 0, "the clients ended with {}: {}", end.status, end.stderr);
        let ledger = self.client.run(&format!("cat {}", guest::clients::LEDGER))?;
        let ledger: Ledger = serde_json::from_str(&ledger).context("reading the ledger")?;
        let ask = |number: usize, query: &str| self.sql(number as u32, &query.replace('\n', " "));
        let verdict = verify_with(Fork::MariaDb, &ledger, ask)?;
        Ok((ledger, verdict))
    }

    fn prepare_redirector(&mut self) -> Result<()> {
        let redirector = &mut self.redirector;
        redirector.run(
            "set -e
             mkdir -p /var/lib/pairflip && mount -t ext4 /dev/vda /var/lib/pairflip
             ip addr add 10.77.0.2/24 dev eth0 && ip addr add 10.78.0.2/24 dev eth1
             ip link set eth0 up && ip link set eth1 up",
        )?;
        redirector.write("/etc/pairflip/password", CHECK_PASSWORD)?;
        redirector.run("chmod 600 /etc/pairflip/password")?;
        Ok(())
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start_daemon(&mut self, attach: Attach) -> Result<()> {
        self.start_daemon_with(attach, |config| config)
    }

    /// The same with another configuration than that of `configs/lab-two-arm.toml`.
    pub fn start_daemon_with(
        &mut self,
        attach: Attach,
        change: impl FnOnce(String) -> String,
    ) -> Result<()> {
        let config = include_str!("../../../configs/lab-two-arm.toml")
            .replace("[daemon]", &format!("[daemon]\nattach = \"{}\"", attach.name()));
        let config = change(config);
        self.redirector.write(CONFIG, &config)?;
        // Its predecessor's would say that it is ready.
        self.redirector.run(&format!("rm -f {LOG}"))?;
        // The shell becomes the daemon, so that killing the line kills the daemon.
        let line = format!("exec pairflipd --config {CONFIG} >{LOG} 2>&1");
        self.daemon = Some(self.redirector.start(&line)?);
        let deadline = Instant::now() + READY_LIMIT;
        while self.redirector.try_run(&format!("grep -q ' ready' {LOG}"))?.status != 0 {
            let runs = self.redirector.try_run("pidof pairflipd")?.status == 0;
            let log = self.redirector.try_run(&format!("cat {LOG}"))?.stdout;
            ensure!(
                (runs || log.is_empty()) && Instant::now() < deadline,
                "pairflipd did not become ready; its log:\n{log}"
            );
            thread::sleep(Duration::from_millis(100));
        }
        self.check_attached(attach)
    }

    fn check_attached(&mut self, attach: Attach) -> Result<()> {
        let status = self.status()?;
        let interfaces = status["daemon"]["interfaces"].as_array().context("no interfaces")?;
        for interface in interfaces {
            let is_wanted = matches!(attach, Attach::Auto) || interface["attach"] == attach.name();
            ensure!(is_wanted, "wanted {}, attached is {interface}", attach.name());
        }
        Ok(())
    }

    /// Waits on the redirector itself until its daemon says something, after so many lines of its log, since a look from here takes longer than what is looked for.
    pub fn wait_logged(&mut self, text: &str, after: usize) -> Result<()> {
        let line = format!(
            "n=0; until tail -n +{} {LOG} | grep -q '{text}'; do n=$((n + 1)); [ $n -lt 2000 ] || exit 1; sleep 0.01; done",
            after + 1
        );
        if self.redirector.try_run(&line)?.status != 0 {
            let log = self.redirector.run(&format!("tail -n 15 {LOG}"))?;
            bail!("pairflipd did not say {text:?}; its log ends:\n{log}");
        }
        Ok(())
    }

    /// Lines that the daemon's log has by now.
    pub fn logged(&mut self) -> Result<usize> {
        let count = self.redirector.run(&format!("wc -l < {LOG}"))?;
        count.trim().parse().with_context(|| format!("{count:?} is no number of lines"))
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the daemon does not run")?;
        self.redirector.kill(daemon)?;
        Ok(())
    }

    /// Ends the daemon and takes away what it left in the kernel.
    pub fn unload(&mut self) -> Result<()> {
        self.kill_daemon()?;
        self.pairflip(&format!("unload --config {CONFIG}"))?;
        Ok(())
    }

    /// Runs the controller, which must succeed.
    pub fn pairflip(&mut self, arguments: &str) -> Result<String> {
        self.redirector.run(&format!("pairflip {arguments}"))
    }

    pub fn status(&mut self) -> Result<Value> {
        serde_json::from_str(&self.pairflip("status --json")?).context("reading the status")
    }

    /// Which server a new connection of the client to the write VIP reaches.
    pub fn writes_reach(&mut self) -> Result<u32> {
        self.server_id(&VIP_WRITE.ip().to_string())
    }

    /// Which server a new connection of the client to the read VIP reaches.
    pub fn reads_reach(&mut self) -> Result<u32> {
        self.server_id(&VIP_READ.ip().to_string())
    }

    /// Which server a new connection of the client to an address reaches.
    pub fn server_id(&mut self, address: &str) -> Result<u32> {
        let said = self.client.run(&client_line(address, "SELECT @@server_id"))?;
        said.trim().parse().with_context(|| format!("a server's number: {said:?}"))
    }

    /// Runs statements as root on a server, by number.
    pub fn sql(&mut self, server: u32, statements: &str) -> Result<String> {
        self.database.run(&root_line(server, statements))
    }

    /// Size and MD5 sum of what a query on a server itself returns.
    pub fn sql_sum(&mut self, server: u32, query: &str) -> Result<String> {
        self.database.run(&sum(&root_line(server, query)))
    }

    /// Plugs the databases' card into the clients' network, as if both networks were one switch.
    pub fn join_networks(&self) -> Result<()> {
        ensure!(self.network == Network::Tap, "a socket connects two cards, and no third one");
        network::replug(self.set, (DATABASES, 20), CLIENTS)
    }

    /// Cuts the redirector's power and turns it on again; what was on its disk is there again.
    pub fn power_cycle_redirector(&mut self) -> Result<()> {
        self.redirector.vm.kill()?;
        self.redirector_on()
    }

    /// Shuts the redirector down in order, as a host's init does, and turns it on again.
    pub fn reboot_redirector(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            self.redirector.run("kill -TERM $(pidof pairflipd)")?;
            let end = self.redirector.wait(daemon)?;
            ensure!(end.status == 0, "pairflipd ended with {}", end.status);
        }
        self.redirector.run("umount /var/lib/pairflip")?;
        self.redirector.power_off()?;
        self.redirector_on()
    }

    fn redirector_on(&mut self) -> Result<()> {
        self.daemon = None;
        let spec = self.redirector.vm.spec().clone();
        self.redirector.vm = Vm::boot(&spec)?;
        self.redirector.wait_ready()?;
        self.prepare_redirector()
    }

    /// Waits until `done`, asking again and again; returns how long it took.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<Duration> {
        let start = Instant::now();
        while !done(self).with_context(|| format!("waiting until {what}"))? {
            ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(start.elapsed())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if self.network == Network::Tap {
            for machine in [&mut self.client, &mut self.redirector, &mut self.database] {
                // Taps cannot go while a machine holds them.
                _ = machine.vm.kill();
            }
            // They end with this process in any case.
            _ = network::remove(self.set);
        }
    }
}

impl Machine {
    fn wait_ready(&self) -> Result<()> {
        match self.vm.next(Instant::now() + BOOT_LIMIT)? {
            FromGuest::Ready => Ok(()),
            first @ (FromGuest::Note(_) | FromGuest::Verdict(_) | FromGuest::Reply(_)) => {
                bail!("machine {}: it said {first:?} first", self.vm.spec().name)
            }
        }
    }

    /// Runs a shell line, which must succeed; returns its standard output.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let reply = self.try_run(line)?;
        if reply.status != 0 {
            bail!(
                "on machine {}: `{line}` failed with status {}: {} {}",
                self.vm.spec().name,
                reply.status,
                reply.stdout,
                reply.stderr
            );
        }
        Ok(reply.stdout)
    }

    /// Runs a shell line and returns all that came of it.
    pub fn try_run(&mut self, line: &str) -> Result<Reply> {
        self.order(&Order::Run(line.to_owned()))
    }

    /// Starts a shell line and leaves it running.
    pub fn start(&mut self, line: &str) -> Result<Running> {
        let reply = self.order(&Order::Start(line.to_owned()))?;
        ensure!(reply.status == 0, "starting `{line}`: {}", reply.stderr);
        Ok(Running(reply.number))
    }

    /// Waits for a started line.
    pub fn wait(&mut self, running: Running) -> Result<Reply> {
        self.order(&Order::Wait(running.0))
    }

    /// `kill -9` of a started line; returns what it said until then.
    pub fn kill(&mut self, running: Running) -> Result<Reply> {
        self.order(&Order::Kill(running.0))
    }

    fn order(&mut self, order: &Order) -> Result<Reply> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.vm.order(order, LINE_LIMIT.min(left))
    }

    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        let order = Order::Write { path: path.to_owned(), text: text.to_owned() };
        let reply = self.order(&order)?;
        ensure!(reply.status == 0, "{}", reply.stderr);
        Ok(())
    }

    /// Pulls the cable of a card.
    pub fn unplug(&self, card: &str) -> Result<()> {
        self.vm.set_link(card, false)
    }

    pub fn plug(&self, card: &str) -> Result<()> {
        self.vm.set_link(card, true)
    }

    fn power_off(&mut self) -> Result<()> {
        self.vm.tell(&Order::PowerOff)?;
        self.vm.wait_off(BOOT_LIMIT)
    }
}

/// The shell line of a client that runs one statement and says the result alone.
pub fn client_line(address: &str, statement: &str) -> String {
    format!("{} -e \"{statement}\"", client_command(address))
}

/// A client that runs what its standard input says.
pub(crate) fn client_command(address: &str) -> String {
    format!(
        "mariadb --no-defaults --connect-timeout=10 -h {address} -u{APP_USER} -p{APP_PASSWORD} -N"
    )
}

fn root_line(server: u32, statements: &str) -> String {
    let dir = guest::servers::DIR;
    format!("mariadb --no-defaults -uroot -N -S {dir}/db{server}/mysql.sock -e \"{statements}\"")
}

/// A shell line that says size and MD5 sum of what `line` says, and fails if that fails.
pub fn sum(line: &str) -> String {
    format!("{line} >/tmp/sum && wc -c </tmp/sum && md5sum </tmp/sum")
}

/// An empty file system for the redirector's state.
fn make_disk(path: &PathBuf) -> Result<()> {
    let file = fs::File::create(path).context("making the redirector's disk")?;
    file.set_len(16 << 20).context("making the redirector's disk")?;
    drop(file);
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path))
        .context("making a file system; mkfs.ext4 is in the package e2fsprogs")?;
    Ok(())
}
