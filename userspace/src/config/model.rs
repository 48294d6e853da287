//! The validated configuration. Everything downstream relies on what `rules` and `cluster` checked:
//! addresses are unique and usable, counts fit the kernel's tables, durations are in order.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use ipnet::IpNet as Network;

use pairflip_policy::Severity;

use super::secret::{Secret, SecretSource};
pub use super::tls::{Files as TlsFiles, Material as TlsMaterial};

/// A whole configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub source: Source,
    pub daemon: Daemon,
    /// At least one, with unique names.
    pub clusters: Vec<Cluster>,
    /// With unique names.
    pub hooks: Vec<Hook>,
}

/// Where a configuration was read, and what was there; it holds no secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
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
    pub flip: FlipConfig,
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
    /// `None` with `mysql = false`.
    pub login: Option<Login>,
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
    /// Asked on the login's connection; none without a login.
    pub sql: Vec<SqlCheck>,
    pub http: Vec<HttpCheck>,
    pub tcp: Vec<TcpCheck>,
    pub exec: Vec<ExecCheck>,
}

/// The check account, and what is asked when it is in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    pub user: String,
    pub password: Secret,
    pub source: SecretSource,
    /// `None`: the connection is not encrypted.
    pub tls: Option<Tls>,
    /// `None`: lag is the server's own word.
    pub heartbeat: Option<Heartbeat>,
    /// Replication has to go by GTIDs.
    pub gtid: bool,
    pub galera: Galera,
}

impl Login {
    /// Returns an account that asks nothing beyond the first questions, over a plain connection.
    pub fn plain(user: &str, password: &str) -> Self {
        let password = Secret::new(password);
        Self {
            user: user.to_owned(),
            source: SecretSource::Given(password.clone()),
            password,
            tls: None,
            heartbeat: None,
            gtid: false,
            galera: Galera::Off,
        }
    }
}

/// `tls`: how the servers prove themselves, and we to them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    pub verify: TlsVerify,
    /// What has to be in the certificates; `None`: the backend's address.
    pub server_name: Option<String>,
    pub files: TlsFiles,
    pub material: TlsMaterial,
}

/// What is looked at in a server's certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsVerify {
    /// A known authority signed it.
    Ca,
    /// And it has the server's name or address.
    Name,
}

/// `heartbeat`: a table that somebody writes the time into on the source, as pt-heartbeat does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// In backquotes.
    pub table: String,
    /// Whose row counts; `None`: the newest row of another server.
    pub server_id: Option<u32>,
    /// The times are in UTC; else in the server's time zone.
    pub utc: bool,
}

/// `galera`: which states of a node are fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Galera {
    /// It is no condition.
    Off,
    Synced,
    /// A node that gives its state to another one counts as well.
    SyncedOrDonor,
}

/// Which backends a check is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applies {
    Any,
    Primary,
    Replica,
}

impl Applies {
    /// Returns the word of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }

    /// Returns whether backends of this role are among them.
    pub fn covers(self, role: Self) -> bool {
        self == Self::Any || self == role
    }
}

/// `[[cluster.check.sql]]`: a question with an expected answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SqlCheck {
    pub name: String,
    pub role: Applies,
    pub query: String,
    pub op: Comparison,
    pub value: String,
    pub timeout: Duration,
}

/// How an answer is compared with what is expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Every comparison, the default first.
    pub const ALL: [Self; 6] = [
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
    ];

    /// Returns the sign of the configuration.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Returns whether `found` is as expected: as numbers where both are, else as text.
    pub fn holds(self, found: &str, expected: &str) -> bool {
        let order = match (found.trim().parse::<i128>(), expected.parse::<i128>()) {
            (Ok(found), Ok(expected)) => Some(found.cmp(&expected)),
            _ => match (found.trim().parse::<f64>(), expected.parse::<f64>()) {
                (Ok(found), Ok(expected)) => found.partial_cmp(&expected),
                _ => Some(found.cmp(expected)),
            },
        };
        match self {
            Self::Equal => order.is_some_and(Ordering::is_eq),
            Self::NotEqual => !order.is_some_and(Ordering::is_eq),
            Self::Less => order.is_some_and(Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order.is_some_and(Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

/// `[[cluster.check.http]]`: an agent on the server that answers with a status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    pub name: String,
    pub role: Applies,
    pub port: u16,
    pub method: String,
    pub path: String,
    /// `None`: the server's address.
    pub host: Option<String>,
    pub pass: Vec<u16>,
    /// No new connections and no failure, as HAProxy's `disable-on-404`.
    pub maintenance: Vec<u16>,
    pub timeout: Duration,
}

/// `[[cluster.check.tcp]]`: a port that accepts connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TcpCheck {
    pub name: String,
    pub role: Applies,
    /// `None`: the backend's own.
    pub port: Option<u16>,
    pub timeout: Duration,
}

/// `[[cluster.check.exec]]`: a command on this host whose exit code tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecCheck {
    pub name: String,
    pub role: Applies,
    /// The program's absolute path, then its arguments.
    pub command: Vec<String>,
    pub timeout: Duration,
}

/// `[cluster.flip]`: how long a flip may take before it is undone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlipConfig {
    /// From the request until the new primary is told to take writes.
    pub deadline: Duration,
    /// The part of it in which writes wait.
    pub max_pause: Duration,
}

impl FlipConfig {
    pub(super) const DEFAULT: Self =
        Self { deadline: Duration::from_secs(60), max_pause: Duration::from_secs(5) };
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
    /// Each as soon as it is idle and outside a transaction.
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
    /// Of a read route: what happens when replicas are fit again after the primary served in their place.
    pub failback: Failback,
    /// Of a read route: whether replicas of standby pairs serve.
    pub standby_replicas: StandbyReplicas,
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

/// How reads return from the primary to replicas that are fit again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failback {
    /// New connections go to replicas; those on the primary live on.
    NewConnections,
    /// Each of those is ended as soon as it is outside a transaction; see [`Config::warnings`].
    Idle,
    /// Those are ended at once.
    Cut,
    /// An operator has to say so.
    Off,
}

/// Whether a read route leads to replicas of pairs that are not active, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StandbyReplicas {
    Never,
    /// Where fewer than `min_replicas` of the active pair are fit.
    Fallback,
    Always,
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

/// `[[hook]]`: a program that is told of events.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hook {
    pub name: String,
    /// Absolute path and arguments.
    pub command: Vec<String>,
    /// Kinds of events; empty means all.
    pub events: Vec<String>,
    /// The least.
    pub severity: Severity,
    /// Names of clusters; empty means all.
    pub clusters: Vec<String>,
    /// When it is killed.
    pub timeout: Duration,
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

    /// Returns whether flows are ended by idleness, after a flip or when reads go back to replicas.
    pub fn drains_idle(&self) -> bool {
        self.drain.mode == DrainMode::Idle
            || self.routes.iter().any(|route| route.failback == Failback::Idle)
    }

    fn warnings(&self) -> Vec<String> {
        if !self.drains_idle() || self.check.login.is_some() {
            return Vec::new();
        }
        vec![format!(
            "cluster[{}]: drain.mode = \"idle\" and failback = \"idle\" ask the servers what sessions are doing, \
             and there is no check account: flows would live on; set user and password_file in [cluster.check], \
             or write \"finish\", \"new-connections\" or \"cut\"",
            self.name
        )]
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
