//! Delay, loss, reordering and duplicates on both sides of the redirector, in every family and way of forwarding.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    lab::ways::{BACKENDS, CLIENT1, CLIENTS, Family, Forwarding, REDIRECTOR, configuration},
    scenario::{Needs, Notes, Scenario, Story, Suite},
    vm::{
        machines::{Attach, Machines, client_line},
        network::Network,
    },
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "IPv4 and IPv6, snat, dnat and dsr through netem's delay, loss, reordering and duplicates: transfers, flips, cuts",
    suite: Suite::All,
    needs: Needs {
        programs: &["ethtool", "ss", "tc"],
        modules: &["veth", "bridge", "sch_netem"],
        databases: true,
        packet_tests: false,
    },
    limit: Duration::from_secs(900),
    story: Story::Machines(story),
};

/// Of every packet that a machine sends.
const NETEM: &str = "netem delay 15ms 5ms loss 2% reorder 20% 50% duplicate 1%";
const PAYLOAD_BYTES: usize = 4_000_000;
const CONNECTIONS: u32 = 8;

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    machines.make_payload(PAYLOAD_BYTES)?;
    add_ipv6(machines)?;
    machines.client.run(&format!("tc qdisc add dev eth0 root {NETEM}"))?;
    machines.database.run(&format!("ip netns exec switch tc qdisc add dev eth0 root {NETEM}"))?;
    for forwarding in Forwarding::ALL {
        if forwarding == Forwarding::Dsr && machines.network == Network::Socket {
            notes.add("dsr needs client and databases in one network, which needs taps");
            continue;
        }
        let (interfaces, net) = prepare(machines, forwarding)?;
        let attach = Attach::native_if_possible(machines.network);
        machines.start_daemon_with(attach, |config| {
            configuration(&config, interfaces, forwarding, net)
        })?;
        for family in Family::BOTH {
            let way = format!("IP{} {}", family.name(), forwarding.name());
            let told = connections(machines, family, forwarding).with_context(|| way.clone())?;
            notes.add(format!("{way}: {told}"));
        }
        machines.unload()?;
    }
    Ok(())
}

fn add_ipv6(machines: &mut Machines) -> Result<()> {
    let add = |net, number, interface: &str| {
        let address = Family::V6.address(net, number);
        format!("addr add {address}/64 dev {interface} nodad")
    };
    machines.client.run(&format!("ip {}", add(CLIENTS, CLIENT1, "eth0")))?;
    for (net, interface) in [(CLIENTS, "eth0"), (BACKENDS, "eth1")] {
        machines.redirector.run(&format!("ip {}", add(net, REDIRECTOR, interface)))?;
    }
    for number in 1..=4 {
        machines
            .database
            .run(&format!("ip -n db{number} {}", add(BACKENDS, 20 + number, "eth0")))?;
    }
    Ok(())
}

/// Does what the forwarding mode needs of the network; returns the redirector's interfaces and the net of the backends.
fn prepare(machines: &mut Machines, forwarding: Forwarding) -> Result<(&'static str, u8)> {
    let client = |family: Family| family.host(family.address(CLIENTS, CLIENT1));
    let [v4, v6] = Family::BOTH.map(client);
    let lines = match forwarding {
        Forwarding::Snat => return Ok((r#"["eth0", "eth1"]"#, BACKENDS)),
        Forwarding::Dnat => {
            format!("ip route add {v4} via 10.78.0.2; ip route add {v6} via fd78::2")
        }
        Forwarding::Dsr => {
            machines.join_networks()?;
            format!(
                "ip route del {v4}; ip route del {v6}
                 sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
                 ip addr add 10.77.0.100/32 dev lo; ip addr add fd77::100/128 dev lo
                 ip addr add 10.77.0.101/32 dev lo; ip addr add fd77::101/128 dev lo
                 ip addr add 10.77.0.2$number/24 dev eth0
                 ip addr add fd77::2$number/64 dev eth0 nodad"
            )
        }
    };
    machines.database.run(&format!(
        "set -e; for number in 1 2 3 4; do export number; ip netns exec db$number sh -ec '{lines}'; done"
    ))?;
    Ok(match forwarding {
        Forwarding::Snat | Forwarding::Dnat => (r#"["eth0", "eth1"]"#, BACKENDS),
        Forwarding::Dsr => (r#"["eth0"]"#, CLIENTS),
    })
}

/// A transfer that outlives flips, new connections after each, and a cut.
fn connections(machines: &mut Machines, family: Family, forwarding: Forwarding) -> Result<String> {
    let vip = family.vip().ip().to_string();
    let expected = match forwarding {
        Forwarding::Snat => family.address(BACKENDS, REDIRECTOR),
        Forwarding::Dnat | Forwarding::Dsr => family.address(CLIENTS, CLIENT1),
    };
    let user = machines.client.run(&client_line(&vip, "SELECT USER()"))?;
    ensure!(user == format!("app@{expected}"), "the server sees {user}");

    let transfer = machines.start_echo(&vip)?;
    let source = machines.wait_source(&vip)?;
    let started = Instant::now();
    for number in 1..=CONNECTIONS {
        // Both pairs in turn: what is open stays where it is.
        let (pair, server) = if number % 2 == 0 { ("pair1", 1) } else { ("pair2", 3) };
        let cluster = family.name();
        machines.pairflip(&format!("flip --route-only --cluster {cluster} --to {pair}"))?;
        let reached = machines.server_id(&vip)?;
        ensure!(reached == server, "connection {number} reached server {reached}, not {server}");
        if number == CONNECTIONS / 4 {
            let is_on = machines.sources(&vip)?.contains(&source);
            ensure!(is_on, "the transfer was over before there were flips enough");
        }
    }
    let flips = started.elapsed().as_secs_f64();
    let seconds = machines.end_echo(transfer)?;
    let woken = machines.cut(&vip, 1, &format!("--cluster {} --to pair2", family.name()))?;
    ensure!(machines.server_id(&vip)? == 3, "after the cut new connections go to pair2");

    let backend = &machines.status()?["clusters"][0]["pairs"][0]["backends"][0];
    ensure!(backend["health"] == "up", "checks stand a bad network: {backend}");
    Ok(format!(
        "{CONNECTIONS} connections, a flip before each, in {flips:.0} s; 4 MB there and back in {seconds:.0} s, byte for byte; a cut woke a client after {:.0} ms",
        woken.as_secs_f64() * 1000.0
    ))
}
