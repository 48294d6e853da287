//! The validated configuration. Everything downstream relies on what `rules` and `cluster` checked:
//! addresses are unique and usable, counts fit the kernel's tables, durations are in order.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use ipnet::IpNet as Network;

use super::Secret;

/// A whole configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub daemon: Daemon,
    /// At least one, with unique names.
    pub clusters: Vec<Cluster>,
}

/// `[daemon]`: what belongs to no cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Daemon {
    /// Interfaces that the program is attached to; at least one, each once.
    pub interfaces: Vec<String>,
    pub attach: Attach,
    pub control: PathBuf,
    pub state_dir: PathBuf,
    /// Directory of the bpffs pins.
    pub bpffs: PathBuf,
    /// Read-only HTTP listener; `None` when it is turned off.
    pub http: Option<SocketAddr>,
    /// Flows at a time. When they are reached new connections are refused; open ones live.
    pub flows_max: u32,
    /// Half-open connections at a time. When they are reached the oldest is forgotten.
    pub half_open_max: u32,
    /// Each connection's opening and end is a line of the log.
    pub flow_log: bool,
}

/// How the program is attached to the interfaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attach {
    /// In the driver, and where it cannot, in the kernel's generic path.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic path: slower, works with every driver.
    Generic,
}

/// `[[cluster]]`: pairs, and the routes that flip together.
///
/// All of its addresses are of one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub forwarding: Forwarding,
    /// Source addresses towards the backends; empty means that of the interface that leads there.
    /// Always empty without [`Forwarding::Snat`].
    pub snat_addresses: Vec<IpAddr>,
    /// Of no meaning without [`Forwarding::Snat`].
    pub snat_ports: PortRange,
    pub announce: Announce,
    pub failover: Failover,
    /// After a failover no other one for so long, unless an operator acknowledges it.
    pub failover_window: Duration,
    pub no_backend: NoBackend,
    pub check: Check,
    pub drain: DrainConfig,
    /// Time over which a replica that returns gets its full share; zero gives it at once.
    pub slow_start: Duration,
    /// How long a replica that flaps is left out at first; zero never leaves it out.
    pub hold_off: Duration,
    pub timeouts: Timeouts,
    /// At least one of them a write route; VIPs are unique in the daemon.
    pub routes: Vec<Route>,
    /// At least two; the first is active on a first start.
    pub pairs: Vec<Pair>,
}

/// How packets reach the backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forwarding {
    /// From the redirector's address and a port of `snat_ports`.
    Snat,
    /// From the client's address; replies come back through the redirector.
    Dnat,
    /// As the client sent them; replies go straight to the client. The cluster has one port.
    Dsr,
}

impl Forwarding {
    /// Returns the word of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Dnat => "dnat",
            Self::Dsr => "dsr",
        }
    }
}

/// `snat_ports`: both ends included, `min <= max`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortRange {
    pub min: u16,
    pub max: u16,
}

/// Who makes the VIPs known to the network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Announce {
    /// The daemon puts them on the interface and announces them by ARP.
    Arp,
    /// Someone else.
    None,
}

/// Who decides about another pair becoming active.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failover {
    /// Operators.
    Manual,
    /// The daemon as well, when the active primary is dead beyond doubt.
    Auto,
}

/// What a new connection gets when its route has no fit backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoBackend {
    /// RST: the client learns at once.
    Reset,
    /// Nothing: the client tries again by itself.
    Drop,
}

/// `[cluster.check]`: how backends are probed and judged.
///
/// `timeout <= fast_interval <= interval`, so probes of a backend never overlap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    pub user: String,
    pub password: Secret,
    /// Start to start, while a backend's health is settled.
    pub interval: Duration,
    /// Start to start, while passes or failures are being counted.
    pub fast_interval: Duration,
    /// Of a whole probe: connect, log in, ask.
    pub timeout: Duration,
    /// Passes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take a backend down.
    pub fall: u32,
    /// Replication lag beyond which a replica gets no new connections.
    pub max_lag: Duration,
}

/// `[cluster.drain]`: what happens to existing flows when new ones go elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DrainConfig {
    pub mode: DrainMode,
    /// Time after which the remaining flows are cut; `None` lets them live on.
    pub deadline: Option<Duration>,
}

/// How existing flows end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DrainMode {
    /// By themselves.
    Finish,
    /// Each as soon as it is outside a transaction; see [`Config::warnings`].
    Idle,
    /// Now.
    Cut,
}

/// `[cluster.timeouts]`: silence of both sides after which a connection is forgotten.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// In its handshake.
    pub half_open: Duration,
    pub established: Duration,
    /// After the first FIN.
    pub closing: Duration,
}

impl Timeouts {
    /// Half-open: Linux gives up a SYN after 127 s (`tcp_syn_retries = 6`). Established: longer than MySQL's own `wait_timeout` of
    /// 28800 s, so that the server ends an idle session first. Closing: twice the 60 s of Linux's FIN-WAIT-2.
    pub const DEFAULT: Self = Self {
        half_open: Duration::from_secs(130),
        established: Duration::from_secs(10 * 3600),
        closing: Duration::from_secs(120),
    };
}

/// `[[cluster.route]]`: one VIP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    pub name: String,
    pub vip: SocketAddr,
    pub access: Access,
    /// Of a read route: with fewer fit replicas than this the primary serves as well.
    pub min_replicas: u32,
    /// Who may connect, without host bits and each once; empty means everybody.
    pub allow: Vec<Network>,
    /// What the others get.
    pub deny: Deny,
}

/// What a new connection gets that `allow` does not cover.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deny {
    /// RST: the client learns at once.
    Reset,
    /// Nothing: the VIP looks unused.
    Drop,
}

/// What clients of a route do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    Write,
    Read,
}

/// `[[cluster.pair]]`: one primary and its replicas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pair {
    pub name: String,
    pub primary: SocketAddr,
    /// At least one.
    pub replicas: Vec<Replica>,
}

/// One replica of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Replica {
    pub address: SocketAddr,
    /// Its part of the pair's new reads, relative to the other replicas'; at least 1.
    pub weight: u16,
}

impl Config {
    /// Returns what this version accepts but does in another way than the words say.
    ///
    /// The daemon logs each at start, and `pairflip check` prints them.
    pub fn warnings(&self) -> Vec<String> {
        self.clusters.iter().flat_map(Cluster::warnings).collect()
    }
}

impl Cluster {
    /// Returns every backend in the order of the file: of each pair the primary, then its replicas.
    pub fn backends(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.pairs.iter().flat_map(Pair::backends)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.drain.mode == DrainMode::Idle {
            warnings.push(format!(
                "cluster[{}].drain.mode: \"idle\" acts as \"finish\" in this version: flows on the \
                 old pair live until their clients close them; use \"cut\" to end them at the flip",
                self.name
            ));
        }
        if self.drain.deadline.is_some() && self.drain.mode != DrainMode::Cut {
            warnings.push(format!(
                "cluster[{}].drain.deadline: is not enforced in this version: flows on the old \
                 pair live until their clients close them; use mode = \"cut\" to end them at the \
                 flip",
                self.name
            ));
        }
        warnings
    }
}

impl Pair {
    /// Returns the primary, then the replicas in the order of the file.
    pub fn backends(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        std::iter::once(self.primary).chain(self.replicas.iter().map(|replica| replica.address))
    }
}

impl Check {
    /// Returns the longest time from a backend's death to the verdict that it is down.
    ///
    /// It dies just after a passed probe: the next one is sent up to `interval` later, the further
    /// `fall - 1` follow at `fast_interval`, start to start, and the last takes `timeout` to fail.
    pub fn detection_time(&self) -> Duration {
        self.interval + (self.fall - 1) * self.fast_interval + self.timeout
    }
}

impl PortRange {
    /// Returns how many ports there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a range always holds a port")]
    pub fn len(self) -> u32 {
        u32::from(self.max - self.min) + 1
    }

    /// Returns whether `port` lies inside.
    pub fn contains(self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }
}
