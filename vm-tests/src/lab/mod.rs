//! The lab: clients, the redirector and four real database servers in network namespaces.
//!
//! `cargo xtask lab` and `cargo xtask run` show it to people, tests and scenarios use it. Everything that a lab makes is named for
//! it and recorded in its directory, so that one that was killed is cleaned up by the next command.

pub mod client;
pub mod clients;
pub mod daemon;
pub mod database;
pub mod failback;
pub mod fault;
pub mod flavour;
pub mod flipper;
mod installation;
mod mounts;
pub mod netns;
pub mod proxy;
pub mod servers;
pub mod topology;
pub mod ways;
mod xdp_pass;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use self::{
    daemon::Daemon,
    database::{APP_PASSWORD, APP_USER, CHECK_PASSWORD, Database},
    flavour::Flavour,
    installation::Installation,
    netns::Namespace,
    servers::Servers,
    topology::{Topology, VIP_READ, VIP_WRITE},
};
use crate::command::sh;

/// Where labs keep their files, one directory each.
const LABS: &str = "/run/pairflip-lab";
/// Owner of a lab that stays: process 1 always lives.
const NOBODY: i32 = 1;
/// Which mounts the first lab did not find; gone with the last lab.
const MOUNTS: &str = "/run/pairflip-lab/mounts";

/// What kind of lab to bring up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Distinguishes labs that run side by side.
    pub name: String,
    pub topology: Topology,
    /// Both primaries writable; otherwise that of pair2 is read-only, as it should be.
    pub both_writable: bool,
    pub servers: Flavour,
    /// How many of the servers 1 to 4 are started. The configuration names all of them.
    pub servers_count: usize,
    /// The check account may read the state of replication, and nothing else: no flip, no draining.
    pub may_only_check: bool,
    /// MariaDB records transactions and locks, as MySQL does unasked: what a flip looks at under load.
    pub performance_schema: bool,
}

impl Options {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            topology: Topology::OneArm,
            both_writable: false,
            servers: Flavour::default(),
            servers_count: 4,
            may_only_check: false,
            performance_schema: false,
        }
    }
}

/// A lab that runs. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    name: String,
    topology: Topology,
    servers: Servers,
}

impl Lab {
    /// Brings a lab up; `progress` is told of the long steps.
    pub fn up(options: &Options, mut progress: impl FnMut(&str)) -> Result<Self> {
        if !options.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            // A bpffs refuses names with dots, and what else is named for the lab has rules of its own.
            bail!("{:?} is no name for a lab: letters, digits and dashes only", options.name);
        }
        clean_stale()?;
        let dir = lab_dir(&options.name);
        claim(&dir)?;
        // From here on dropping the lab removes what was made.
        let mut lab = Self {
            name: options.name.clone(),
            topology: options.topology,
            servers: Servers::default(),
        };
        progress("network namespaces: 2 clients, the redirector, 4 databases");
        lab.make_network()?;
        let installation = Installation::of(options.servers, &mut progress)?;
        progress(&format!(
            "starting {} servers: {} {}",
            options.servers_count,
            options.servers.name(),
            installation.version()?
        ));
        lab.servers.start(
            options.servers,
            options.servers_count,
            if options.performance_schema {
                options.servers.fork().performance_schema()
            } else {
                &[]
            },
            options.topology,
            |host| namespace(&options.name, host),
            &dir,
        )?;
        if !options.may_only_check {
            lab.servers.grant_flips()?;
        }
        progress("replication: primary to replica in each pair, primary to primary");
        lab.servers.replicate(options.both_writable)?;
        Ok(lab)
    }

    fn make_network(&self) -> Result<()> {
        let switch = Namespace::create(self.ns("switch").name())?;
        for host in self.topology.hosts() {
            Namespace::create(self.ns(host.name).name())?;
        }
        self.topology.connect(&switch, |host| self.ns(host))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> PathBuf {
        lab_dir(&self.name)
    }

    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The namespace of a host.
    pub fn ns(&self, host: &str) -> Namespace {
        namespace(&self.name, host)
    }

    /// Adds a host that only some tests need, without interfaces; it goes with the lab.
    pub fn add_host(&self, name: &str) -> Result<Namespace> {
        let mut record = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(extra_hosts(&self.name))
            .context("recording a host of the lab")?;
        writeln!(record, "{name}").context("recording a host of the lab")?;
        Namespace::create(self.ns(name).name())
    }

    /// Connects a host to the switch's bridge of a network, which is made if it is not there yet. Frames look as on a wire:
    /// no larger than the MTU and with complete checksums.
    pub fn connect(&self, host: &str, interface: &str, bridge: &str) -> Result<()> {
        let (switch, inside) = (self.ns("switch"), self.ns(host));
        if switch.ip(&format!("link show {bridge}")).is_err() {
            topology::make_bridge(&switch, bridge)?;
        }
        topology::plug(&switch, &inside, host, interface, bridge)
    }

    /// Database server 1 to 4.
    pub fn db(&self, number: usize) -> &Database {
        self.servers.get(number)
    }

    pub fn db_mut(&mut self, number: usize) -> &mut Database {
        self.servers.get_mut(number)
    }

    /// Gives the check account what safe flips need besides. Not at first: with it a check is never turned away.
    pub fn grant_flips(&self) -> Result<()> {
        self.servers.grant_flips()
    }

    /// Writes a configuration for this lab: the one of `configs/` with the lab's paths in it.
    pub fn write_config(&self, change: impl FnOnce(String) -> String) -> Result<PathBuf> {
        let dir = self.dir();
        fs::write(dir.join("password"), CHECK_PASSWORD)?;
        sh(&format!("chmod 600 {}", dir.join("password").display()))?;
        let template = match self.topology {
            Topology::OneArm => include_str!("../../../configs/lab.toml"),
            Topology::TwoArm => include_str!("../../../configs/lab-two-arm.toml"),
        };
        let text = template
            .replace("/etc/pairflip/password", &dir.join("password").display().to_string())
            .replace("/run/pairflip/control.sock", &self.socket().display().to_string())
            .replace("/var/lib/pairflip", &dir.join("state").display().to_string())
            .replace("/sys/fs/bpf/pairflip", &self.bpffs().display().to_string());
        let path = dir.join("pairflip.toml");
        fs::write(&path, change(text))?;
        Ok(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir().join("control.sock")
    }

    pub fn bpffs(&self) -> PathBuf {
        bpffs(&self.name)
    }

    /// A daemon in the redirector's namespace, not started yet.
    pub fn daemon(&self, config: &Path) -> Daemon {
        Daemon::new(
            self.ns("redirector"),
            config,
            &self.socket(),
            &self.dir().join("pairflipd.log"),
        )
    }

    /// The command that a person would type on a client to talk to a VIP.
    pub fn client_command(vip: &str) -> String {
        format!("mariadb -h {vip} -u {APP_USER} -p{APP_PASSWORD} -e 'SELECT @@server_id'")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.servers.stop();
        if let Err(error) = remove(&self.name) {
            #[expect(clippy::print_stderr, reason = "a person must know what is left")]
            {
                eprintln!(
                    "removing the lab {:?}: {error:#}; `cargo xtask lab down` tries again",
                    self.name
                );
            }
        }
    }
}

/// Makes a lab's directory with its owner in it.
fn claim(dir: &Path) -> Result<()> {
    let _lock = lock()?;
    if dir.exists() {
        bail!("the lab {} runs already; `cargo xtask lab down` removes it", dir.display());
    }
    fs::create_dir_all(dir).with_context(|| format!("making {}; are you root?", dir.display()))?;
    own(dir)?;
    mounts::note_missing(Path::new(MOUNTS))
}

/// Notes that this process sees to it that a lab is removed.
fn own(dir: &Path) -> Result<()> {
    fs::write(dir.join("owner"), std::process::id().to_string())
        .with_context(|| format!("noting the owner of {}", dir.display()))
}

/// Held while labs begin, are looked at, and while the last one ends: nobody takes for stale, or for nobody's, what is just
/// being made.
fn lock() -> Result<fs::File> {
    fs::create_dir_all(crate::cache_dir()).context("making the cache")?;
    let path = crate::cache_dir().join("lab.lock");
    let file =
        fs::File::create(&path).with_context(|| format!("making the lock {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// Data directory of a server of the host's own that never ran.
pub(crate) fn host_template() -> Result<PathBuf> {
    Installation::of(Flavour::MariaDb1011, |_| {})?.template()
}

/// Fetches every flavour that is not the host's own and makes its first files, so that tests need no network.
pub fn fetch_servers(mut progress: impl FnMut(&str)) -> Result<()> {
    for flavour in Flavour::ALL {
        Installation::of(flavour, &mut progress)?.template()?;
    }
    Ok(())
}

/// Names of the labs that are there, whether their owner lives or not.
pub fn labs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(LABS) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The namespace of a host of a lab by name.
pub fn namespace(lab: &str, host: &str) -> Namespace {
    Namespace::existing(&format!("pf-{lab}-{host}"))
}

/// Removes labs whose owner is dead, and which nobody else is removing.
pub fn clean_stale() -> Result<()> {
    let mut stale;
    {
        let _lock = lock()?;
        stale = labs();
        let lives =
            |name: &str| owner(name).is_some_and(|pid| kill(Pid::from_raw(pid), None).is_ok());
        stale.retain(|name| !lives(name));
        stale.iter().try_for_each(|name| own(&lab_dir(name)))?;
    }
    stale.iter().try_for_each(|name| remove(name))
}

/// Whether a process that lives will remove the lab by itself.
pub fn is_owned(name: &str) -> bool {
    owner(name).is_some_and(|pid| pid != NOBODY && kill(Pid::from_raw(pid), None).is_ok())
}

fn owner(name: &str) -> Option<i32> {
    fs::read_to_string(lab_dir(name).join("owner")).ok()?.trim().parse().ok()
}

/// Hands the lab to no process, so that it stays when this one ends.
pub fn keep(lab: Lab) -> Result<()> {
    fs::write(lab.dir().join("owner"), NOBODY.to_string())?;
    std::mem::forget(lab);
    Ok(())
}

/// Removes all that a lab made, as far as it is there.
pub fn remove(name: &str) -> Result<()> {
    let mut namespaces: Vec<Namespace> =
        Topology::TwoArm.hosts().iter().map(|host| namespace(name, host.name)).collect();
    namespaces.push(namespace(name, "switch"));
    let extra = fs::read_to_string(extra_hosts(name)).unwrap_or_default();
    namespaces.extend(extra.lines().map(|host| namespace(name, host)));
    for namespace in &namespaces {
        end_processes(namespace)?;
    }
    for namespace in &namespaces {
        namespace.delete()?;
    }
    let bpffs = bpffs(name);
    if bpffs.exists() {
        fs::remove_dir_all(&bpffs).with_context(|| format!("removing {}", bpffs.display()))?;
    }
    let _lock = lock()?;
    let dir = lab_dir(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    if labs().is_empty() {
        mounts::remove_noted(Path::new(MOUNTS))?;
        // Another lab may be coming up by now.
        _ = fs::remove_dir(LABS);
    }
    Ok(())
}

/// Ends what runs inside a namespace that we made: servers that a killed lab left.
fn end_processes(namespace: &Namespace) -> Result<()> {
    if !Path::new("/run/netns").join(namespace.name()).exists() {
        return Ok(());
    }
    for _ in 0..50 {
        let pids = sh(&format!("ip netns pids {}", namespace.name()))?;
        let own = std::process::id().to_string();
        let pids: Vec<i32> = pids
            .split_whitespace()
            .filter(|pid| *pid != own)
            .filter_map(|pid| pid.parse().ok())
            .collect();
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            // It may have ended by itself meanwhile.
            _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("processes in namespace {} do not end", namespace.name());
}

fn lab_dir(name: &str) -> PathBuf {
    Path::new(LABS).join(name)
}

/// Where the names of hosts are that [`Lab::add_host`] added.
fn extra_hosts(name: &str) -> PathBuf {
    lab_dir(name).join("hosts")
}

fn bpffs(name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/pairflip-lab-{name}"))
}

/// A command inside a host of a lab, for `cargo xtask lab exec`.
pub fn exec(lab: &str, host: &str, program: &str) -> Result<Command> {
    let namespace = namespace(lab, host);
    if !Path::new("/run/netns").join(namespace.name()).exists() {
        let hosts: Vec<&str> = Topology::TwoArm.hosts().iter().map(|host| host.name).collect();
        bail!("the lab has no host {host:?}; hosts are {}", hosts.join(", "));
    }
    namespace.command(program)
}

/// Both VIPs: writes, reads.
pub const VIPS: [std::net::SocketAddrV4; 2] = [VIP_WRITE, VIP_READ];
