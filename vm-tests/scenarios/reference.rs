//! What others do in the same place: who keeps which connection, and who tells the client.
//!
//! IPVS (NAT), nftables (DNAT by conntrack) and HAProxy (mode tcp) are set up as their manuals say, each with the gentlest flip it has.

use std::{fmt, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    scenario::{Needs, Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines, Running, client_line},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "IPVS, nftables and HAProxy in pairflip's place: who keeps which connection when",
    suite: Suite::All,
    needs: Needs {
        programs: &["ethtool", "ipvsadm", "nft", "haproxy"],
        modules: &["veth", "bridge", "ip_vs", "ip_vs_rr", "nf_tables", "nft_chain_nat", "nft_nat"],
        databases: true,
        packet_tests: false,
    },
    limit: Duration::from_secs(900),
    story: Story::Machines(story),
};

const VIP: &str = "10.77.0.100";
/// How long a client of a server that fell silent is watched, in seconds.
const PATIENCE: u32 = 20;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Redirector {
    Pairflip,
    Ipvs,
    Nftables,
    Haproxy,
}

/// What became of things.
#[derive(Debug, Eq, PartialEq)]
struct Findings {
    /// A connection that works while the flip happens.
    flip: Fate,
    /// One that works while the process of the redirector is killed; none has a process in the kernel's cases.
    kill: Option<Fate>,
    /// New connections while that process is away.
    served_without_process: Option<bool>,
    /// One that waits for an answer of a server that fell silent.
    silent_server: Fate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Kept,
    /// The client got an error at once.
    Told,
    /// The client waits.
    Hangs,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Told => "ended, the client is told",
            Self::Hangs => "the client hangs",
        })
    }
}

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    // What is not rewritten in both directions needs a way back.
    machines.database.run(
        "for db in db1 db3; do ip netns exec $db ip route add 10.77.0.0/24 via 10.78.0.2; done",
    )?;
    machines.redirector.run("sysctl -q -w net.ipv4.ip_forward=1")?;
    for (redirector, expected) in [
        (
            Redirector::Ipvs,
            Findings {
                flip: Fate::Kept,
                kill: None,
                served_without_process: None,
                silent_server: Fate::Hangs,
            },
        ),
        (
            Redirector::Nftables,
            Findings {
                flip: Fate::Kept,
                kill: None,
                served_without_process: None,
                silent_server: Fate::Hangs,
            },
        ),
        (
            Redirector::Haproxy,
            Findings {
                flip: Fate::Kept,
                kill: Some(Fate::Told),
                served_without_process: Some(false),
                silent_server: Fate::Told,
            },
        ),
        (
            Redirector::Pairflip,
            Findings {
                flip: Fate::Kept,
                kill: Some(Fate::Kept),
                served_without_process: Some(true),
                silent_server: Fate::Told,
            },
        ),
    ] {
        let found = watch(redirector, machines)?;
        notes.add(redirector.line(&found));
        ensure!(found == expected, "{redirector:?}: {found:?}, not {expected:?}");
    }
    Ok(())
}

fn watch(redirector: Redirector, machines: &mut Machines) -> Result<Findings> {
    redirector.set_up(machines)?;
    ensure!(machines.writes_reach()? == 1, "{redirector:?} serves");

    let working = work(machines, 1)?;
    redirector.flip(machines)?;
    ensure!(machines.writes_reach()? == 3, "{redirector:?} flips");
    let flip = fate(machines, working)?;

    let (kill, served_without_process) = if redirector.has_process() {
        let working = work(machines, 3)?;
        redirector.kill(machines)?;
        let served = machines.writes_reach().is_ok();
        let fate = fate(machines, working)?;
        redirector.restart(machines)?;
        (Some(fate), Some(served))
    } else {
        (None, None)
    };

    ensure!(machines.writes_reach()? == 3, "{redirector:?} serves pair2");
    let waiting = machines.client.start(&format!(
        "timeout {PATIENCE} {}",
        client_line(VIP, &format!("SELECT SLEEP({})", PATIENCE * 2))
    ))?;
    wait_until_it_works(machines, 3)?;
    machines.database.run("ip -n switch link set db3-eth0 down")?;
    let silent_server = fate(machines, waiting)?;
    machines.database.run("ip -n switch link set db3-eth0 up")?;
    redirector.remove(machines)?;
    Ok(Findings { flip, kill, served_without_process, silent_server })
}

/// A connection to a server that works for some seconds; returns once it does.
fn work(machines: &mut Machines, server: u32) -> Result<Running> {
    let line = client_line(VIP, &"SELECT SLEEP(0.2);".repeat(50));
    let working = machines.client.start(&format!("timeout 60 {line}"))?;
    wait_until_it_works(machines, server)?;
    Ok(working)
}

fn wait_until_it_works(machines: &mut Machines, server: u32) -> Result<()> {
    const SLEEPING: &str =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
    machines.wait_for("the server works", Duration::from_secs(20), |machines| {
        Ok(machines.sql(server, SLEEPING)? == "1")
    })?;
    Ok(())
}

fn fate(machines: &mut Machines, running: Running) -> Result<Fate> {
    let reply = machines.client.wait(running)?;
    Ok(match reply.status {
        0 => Fate::Kept,
        // `timeout` ended it, and says so with 124, or 143 where it is busybox's.
        124 | 143 => Fate::Hangs,
        _ => Fate::Told,
    })
}

impl Redirector {
    fn has_process(self) -> bool {
        matches!(self, Self::Pairflip | Self::Haproxy)
    }

    fn set_up(self, machines: &mut Machines) -> Result<()> {
        if self == Self::Pairflip {
            machines.start_daemon(Attach::Auto)?;
            // Long enough for the first checks.
            machines.wait_for("pairflip serves", Duration::from_secs(20), |machines| {
                Ok(machines.writes_reach().is_ok())
            })?;
            return Ok(());
        }
        let redirector = &mut machines.redirector;
        redirector.run(&format!("ip addr add {VIP}/32 dev eth0"))?;
        match self {
            Self::Ipvs => redirector.run(&format!(
                "ipvsadm -A -t {VIP}:3306 -s rr && ipvsadm -a -t {VIP}:3306 -r 10.78.0.21:3306 -m"
            ))?,
            Self::Nftables => {
                redirector.write("/etc/nat.nft", &nat(1))?;
                redirector.run("nft -f /etc/nat.nft")?
            }
            Self::Haproxy => {
                redirector.write("/etc/haproxy.cfg", &haproxy(1))?;
                redirector.run("haproxy -D -f /etc/haproxy.cfg -p /run/haproxy.pid && sleep 4")?
            }
            Self::Pairflip => unreachable!("handled above"),
        };
        Ok(())
    }

    /// From server 1 to server 3, as gently as it can.
    fn flip(self, machines: &mut Machines) -> Result<()> {
        let redirector = &mut machines.redirector;
        match self {
            Self::Pairflip => machines.pairflip("flip --route-only --to pair2")?,
            // The old server stays with weight 0: removing it would stop its connections.
            Self::Ipvs => redirector.run(&format!(
                "ipvsadm -a -t {VIP}:3306 -r 10.78.0.23:3306 -m && ipvsadm -e -t {VIP}:3306 -r 10.78.0.21:3306 -m -w 0"
            ))?,
            Self::Nftables => {
                redirector.write("/etc/nat.nft", &nat(3))?;
                redirector.run("nft -f /etc/nat.nft")?
            }
            // The old process serves its connections to their end.
            Self::Haproxy => {
                redirector.write("/etc/haproxy.cfg", &haproxy(3))?;
                redirector.run("haproxy -D -f /etc/haproxy.cfg -p /run/haproxy.pid -sf $(cat /run/haproxy.pid) && sleep 4")?
            }
        };
        Ok(())
    }

    fn kill(self, machines: &mut Machines) -> Result<()> {
        match self {
            Self::Pairflip => machines.kill_daemon(),
            Self::Ipvs | Self::Nftables | Self::Haproxy => {
                machines.redirector.run("killall -9 haproxy").map(|_| ())
            }
        }
    }

    fn restart(self, machines: &mut Machines) -> Result<()> {
        match self {
            Self::Pairflip => machines.start_daemon(Attach::Auto),
            Self::Ipvs | Self::Nftables | Self::Haproxy => machines
                .redirector
                .run("haproxy -D -f /etc/haproxy.cfg -p /run/haproxy.pid && sleep 4")
                .map(|_| ()),
        }
    }

    fn remove(self, machines: &mut Machines) -> Result<()> {
        let line = match self {
            Self::Pairflip => {
                machines.kill_daemon()?;
                machines.pairflip("unload --config /etc/pairflip/pairflip.toml")?;
                return Ok(());
            }
            Self::Ipvs => "ipvsadm -C",
            Self::Nftables => "nft flush ruleset",
            Self::Haproxy => "killall -9 haproxy",
        };
        machines.redirector.run(&format!("{line} && ip addr del {VIP}/32 dev eth0"))?;
        Ok(())
    }

    fn line(self, found: &Findings) -> String {
        let process = match (found.kill, found.served_without_process) {
            (Some(fate), Some(served)) => format!(
                "process killed: {fate}, new ones {}",
                if served { "served" } else { "refused" }
            ),
            _ => "no process".to_owned(),
        };
        format!(
            "{self:?}: flip: {}; {process}; server falls silent: {}",
            found.flip, found.silent_server
        )
    }
}

fn nat(server: u8) -> String {
    format!(
        "table ip vip
delete table ip vip
table ip vip {{
  chain prerouting {{
    type nat hook prerouting priority -100
    ip daddr {VIP} tcp dport 3306 dnat to 10.78.0.2{server}:3306
  }}
}}
"
    )
}

fn haproxy(server: u8) -> String {
    format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         listen writes\n bind {VIP}:3306\n \
         server db{server} 10.78.0.2{server}:3306 check inter 1s fall 3 rise 1 on-marked-down shutdown-sessions\n"
    )
}
