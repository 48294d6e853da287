//! What the client of three machines does through a VIP, and what must come of it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::machines::{Machines, Running, client_command, client_line};

/// Longest wait for what takes milliseconds on a network that is well, and seconds on one that loses packets.
const LIMIT: Duration = Duration::from_secs(30);
/// What a client sends and has sent back: letters and digits that repeat nowhere.
const PAYLOAD: &str = "/tmp/payload";
/// A neighbour that is not there.
const WRONG_MAC: &str = "02:00:00:00:00:01";

impl Machines {
    /// Makes what [`Machines::echo`] sends.
    pub fn make_payload(&mut self, bytes: usize) -> Result<()> {
        let line = format!("base64 -w 0 </dev/urandom | head -c {bytes} >{PAYLOAD}");
        self.client.run(&line)?;
        Ok(())
    }

    /// Sends the payload to a server inside a query and has it sent back as the result; returns the seconds that it took.
    pub fn echo(&mut self, vip: &str) -> Result<f64> {
        let echo = self.start_echo(vip)?;
        self.end_echo(echo)
    }

    pub fn start_echo(&mut self, vip: &str) -> Result<Running> {
        let query = format!("printf \"SELECT '\"; cat {PAYLOAD}; printf \"'\"");
        let same = format!("{{ cat {PAYLOAD}; echo; }} | cmp - /tmp/back");
        let client = client_command(vip);
        self.client.start(&format!("{{ {query}; }} | {client} >/tmp/back && {same}"))
    }

    pub fn end_echo(&mut self, echo: Running) -> Result<f64> {
        let reply = self.client.wait(echo)?;
        ensure!(reply.status == 0, "what came back differs: {reply:?}");
        Ok(reply.seconds)
    }

    /// Ends the connections of the active pair by a flip, while a client waits for an answer of `server`; returns how long after
    /// the order the client knew.
    pub fn cut(&mut self, vip: &str, server: u32, flip: &str) -> Result<Duration> {
        let waiting = self.client.start(&client_line(vip, "SELECT SLEEP(100)"))?;
        let asked =
            "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
        self.wait_for("the client waits for its answer", LIMIT, |machines| {
            Ok(machines.sql(server, asked)? == "1")
        })?;
        let source = self.wait_source(vip)?;
        let ordered = Instant::now();
        self.pairflip(&format!("flip --route-only --drain cut {flip}"))?;
        let reply = self.client.wait(waiting)?;
        let after = ordered.elapsed();
        ensure!(reply.status != 0 && after < LIMIT, "the client was not cut off: {reply:?}");
        let established =
            format!("ip netns exec db{server} ss -Htn state established dst {source}");
        self.wait_for("the server's side is closed, too", LIMIT, |machines| {
            Ok(machines.database.run(&established)?.is_empty())
        })?;
        Ok(after)
    }

    /// Waits until there is one connection to a VIP; returns what its server sees as the client.
    pub fn wait_source(&mut self, vip: &str) -> Result<String> {
        let mut sources = Vec::new();
        self.wait_for("there is one connection", LIMIT, |machines| {
            sources = machines.sources(vip)?;
            Ok(sources.len() == 1)
        })?;
        sources.pop().context("it was there")
    }

    /// What servers see as the clients of the connections to a VIP.
    pub fn sources(&mut self, vip: &str) -> Result<Vec<String>> {
        let flows: Value =
            serde_json::from_str(&self.pairflip("flows --json --state established")?)?;
        let listed = flows["flows"].as_array().context("no list of flows")?;
        let leads_to = |flow: &&Value| {
            let to: Option<SocketAddr> = flow["vip"].as_str().and_then(|to| to.parse().ok());
            to.is_some_and(|to| to.ip().to_string() == vip)
        };
        let of_vip = listed.iter().filter(leads_to);
        Ok(of_vip.filter_map(|flow| flow["source"].as_str().map(str::to_owned)).collect())
    }

    /// Makes the client believe that VIPs are somewhere else, so that it finds them by their announcement alone.
    pub fn mislead_client(&mut self, vips: &[impl AsRef<str>], interface: &str) -> Result<()> {
        for vip in vips.iter().map(AsRef::as_ref) {
            self.client.run(&format!(
                "ip neigh replace {vip} lladdr {WRONG_MAC} dev {interface} nud stale"
            ))?;
        }
        Ok(())
    }

    /// Waits until the client was told where VIPs are.
    pub fn wait_announced(&mut self, vips: &[impl AsRef<str>]) -> Result<()> {
        for vip in vips.iter().map(AsRef::as_ref) {
            self.wait_for(&format!("{vip} is announced"), LIMIT, |machines| {
                let neighbour = machines.client.run(&format!("ip neigh show {vip}"))?;
                neighbour.split("lladdr ").nth(1).context("the client forgot the neighbour")?;
                Ok(!neighbour.contains(WRONG_MAC))
            })?;
        }
        Ok(())
    }
}
