//! Faults of a server, and how long the daemon takes to notice them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use nix::sys::signal::Signal;

use super::{Lab, daemon::Daemon, netns::Namespace, proxy::Proxy, topology::database_name};
use crate::command::run;

/// Longest wait for the verdict; far beyond every promise.
const NOTICE_MAX: Duration = Duration::from_secs(30);
/// By how much answers of a slow server are late: more than any timeout of the tests.
const SLOW: Duration = Duration::from_secs(2);
/// Port of a server that has a proxy in front of it.
const BEHIND_PROXY: u16 = 3307;

/// What can happen to a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Its process ended: the host refuses.
    Killed,
    /// Its process was stopped: the kernel accepts, nobody answers, open connections stay.
    Hung,
    /// Its cable was pulled.
    Unplugged,
    /// Its host drops what it is sent, and says nothing.
    Dropping,
    /// Its answers are all right, and late.
    Slow,
    /// It accepts connections and never says anything, nor on those that are open.
    Mute,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::Killed, Self::Hung, Self::Unplugged, Self::Dropping, Self::Slow, Self::Mute];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Hung => "hung",
            Self::Unplugged => "unplugged",
            Self::Dropping => "dropping",
            Self::Slow => "slow",
            Self::Mute => "mute",
        }
    }

    /// Whether the server must be behind a [`Proxy`]: a server has no such fault by itself.
    pub const fn is_of_proxy(self) -> bool {
        match self {
            Self::Killed | Self::Hung | Self::Unplugged | Self::Dropping => false,
            Self::Slow | Self::Mute => true,
        }
    }
}

/// A server that faults happen to. It keeps its role: a primary is writable again when it comes back.
#[derive(Debug)]
pub struct Target {
    number: usize,
    is_writable: bool,
    proxy: Option<Proxy>,
}

impl Target {
    pub fn new(number: usize, is_writable: bool) -> Self {
        Self { number, is_writable, proxy: None }
    }

    /// Restarts the server behind a proxy, or without one.
    pub fn set_proxy(&mut self, lab: &mut Lab, is_wanted: bool) -> Result<()> {
        if self.proxy.is_some() == is_wanted {
            return Ok(());
        }
        self.proxy = None;
        let port = format!("--port={BEHIND_PROXY}");
        let database = lab.db_mut(self.number);
        database.stop()?;
        let behind_proxy: &[&str] = &[&port];
        database.set_options(if is_wanted { behind_proxy } else { &[] });
        self.restart(lab)?;
        if is_wanted {
            self.proxy = Some(Proxy::start(&self.host(lab), 3306, BEHIND_PROXY)?);
        }
        Ok(())
    }

    /// Answers come this much later from now on; not beyond any timeout, it is no fault.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        self.proxy()?.delay(delay);
        Ok(())
    }

    /// Brings a fault about.
    pub fn begin(&self, lab: &mut Lab, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed => lab.db_mut(self.number).kill(),
            Fault::Hung => lab.db(self.number).signal(Signal::SIGSTOP),
            Fault::Unplugged => self.host(lab).ip("link set eth0 down").map(|_| ()),
            Fault::Dropping => nft(
                &self.host(lab),
                "add table inet fault; \
                     add chain inet fault input { type filter hook input priority 0; }; \
                     add rule inet fault input tcp dport 3306 drop",
            ),
            Fault::Slow => self.delay(SLOW),
            Fault::Mute => {
                self.proxy()?.mute(true);
                Ok(())
            }
        }
    }

    /// Takes a fault away.
    pub fn end(&self, lab: &mut Lab, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed => self.restart(lab),
            Fault::Hung => lab.db(self.number).signal(Signal::SIGCONT),
            Fault::Unplugged => self.host(lab).ip("link set eth0 up").map(|_| ()),
            Fault::Dropping => nft(&self.host(lab), "delete table inet fault"),
            Fault::Slow => self.delay(Duration::ZERO),
            Fault::Mute => {
                self.proxy()?.mute(false);
                Ok(())
            }
        }
    }

    fn restart(&self, lab: &mut Lab) -> Result<()> {
        let database = lab.db_mut(self.number);
        database.start()?;
        if self.is_writable { database.set_read_only(false) } else { Ok(()) }
    }

    fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("this fault is of a server behind a proxy")
    }

    fn host(&self, lab: &Lab) -> Namespace {
        lab.ns(database_name(self.number))
    }

    pub fn address(&self, lab: &Lab) -> String {
        format!("{}:3306", lab.db(self.number).address)
    }

    /// Brings a fault about, and returns how much later the daemon took the backend down, by the journal's times.
    pub fn time_to_down(&self, lab: &mut Lab, daemon: &Daemon, fault: Fault) -> Result<Duration> {
        let before = daemon
            .events_after(0)?
            .last()
            .map_or(0, |event| event["number"].as_u64().unwrap_or_default());
        let address = self.address(lab);
        #[expect(clippy::disallowed_methods, reason = "the journal has times of day")]
        let since = Timestamp::now();
        let waiting = Instant::now();
        self.begin(lab, fault)?;
        loop {
            let events = daemon.events_after(before)?;
            let down = events.iter().find(|event| {
                event["kind"] == "health_changed"
                    && event["facts"]["backend"] == address.as_str()
                    && event["facts"]["health"] == "down"
            });
            if let Some(down) = down {
                let at = down["time"].as_str().context("an event has a time")?;
                let at: Timestamp = at.parse().with_context(|| format!("reading the time {at}"))?;
                // The journal has milliseconds; a verdict within the same one is none.
                let took = Duration::try_from(at.duration_since(since));
                return took.with_context(|| format!("{address} was down before it was {fault:?}"));
            }
            if waiting.elapsed() > NOTICE_MAX {
                bail!("{address} is {}, and not down after {NOTICE_MAX:?}", fault.name());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the daemon sees the server as it was before a fault.
    pub fn wait_up(&self, lab: &Lab, daemon: &Daemon) -> Result<()> {
        let address = self.address(lab);
        let waiting = Instant::now();
        loop {
            let status = daemon.status()?;
            let pairs = status["clusters"][0]["pairs"].as_array().context("there are pairs")?;
            let mut backends =
                pairs.iter().filter_map(|pair| pair["backends"].as_array()).flatten();
            let backend = backends.find(|backend| backend["address"] == address.as_str());
            let backend = backend.with_context(|| format!("there is no backend {address}"))?;
            if backend["health"] == "up" && backend["reason"] == "passing" {
                return Ok(());
            }
            ensure!(waiting.elapsed() < NOTICE_MAX, "{address} does not come up again: {backend}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What a configuration promises for a dead backend, as `pairflip check` says it.
pub fn promise(lab: &Lab, daemon: &Daemon) -> Result<Duration> {
    let config = lab.dir().join("pairflip.toml");
    let config = config.display().to_string();
    let text = daemon.ctl(&["check", "--offline", "--json", "--config", &config])?;
    let summary: serde_json::Value = serde_json::from_str(&text).context("reading the summary")?;
    let seconds = summary["clusters"][0]["detection_seconds"].as_f64();
    Ok(Duration::from_secs_f64(seconds.context("the summary has a detection time")?))
}

fn nft(namespace: &Namespace, commands: &str) -> Result<()> {
    run(namespace.command("nft")?.arg(commands)).context("nft is in the package nftables")?;
    Ok(())
}
