//! Networks that are VLANs, natively: one tag on a card and two on another, then one card for everything.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    lab::ways::{BACKENDS, Family, Forwarding, configuration},
    scenario::{Needs, Notes, Scenario, Story, Suite},
    vm::{
        machines::{Attach, Machines},
        network::Network,
    },
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "clients and databases in VLANs, natively: QinQ, a router on a stick; announcements, transfers, flips, cuts",
    suite: Suite::Quick,
    needs: NEEDS,
    limit: Duration::from_secs(400),
    story: Story::Machines(story),
};

pub(super) const NEEDS: Needs = Needs {
    programs: &["ethtool", "ss"],
    modules: &["veth", "bridge", "8021q"],
    databases: true,
    packet_tests: false,
};

/// Addresses on the redirector's VLAN devices.
const CLIENTS_SIDE: &str =
    "ip addr add 10.77.0.2/24 dev clients; ip addr add fd77::2/64 dev clients nodad";
const DATABASES_SIDE: &str =
    "ip addr add 10.78.0.2/24 dev databases; ip addr add fd78::2/64 dev databases nodad";
const PAYLOAD_BYTES: usize = 2_000_000;

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    let attach = Attach::native_if_possible(machines.network);
    both_wirings(machines, notes, attach).map(|_| ())
}

/// Serves over two cards, then over one; returns whether there was one, which needs taps.
pub(super) fn both_wirings(
    machines: &mut Machines,
    notes: &mut Notes,
    attach: Attach,
) -> Result<bool> {
    machines.start_databases()?;
    machines.make_payload(PAYLOAD_BYTES)?;
    two_cards(machines)?;
    serve(machines, notes, r#"["eth0", "eth1"]"#, attach).context("two cards")?;
    if machines.network == Network::Socket {
        notes.add("one card for both networks needs taps");
        return Ok(false);
    }
    one_card(machines)?;
    serve(machines, notes, r#"["eth0"]"#, attach).context("one card")?;
    Ok(true)
}

/// One tag towards the clients, two towards the databases.
fn two_cards(machines: &mut Machines) -> Result<()> {
    let clients = one_tag("eth0", "clients", 77);
    machines.client.run(&format!(
        "set -e; ip addr flush dev eth0; {clients}
         ip addr add 10.77.0.11/24 dev clients; ip addr add fd77::11/64 dev clients nodad"
    ))?;
    let databases = two_tags("eth1", "databases", 100, 78);
    machines.redirector.run(&format!(
        "set -e; ip addr flush dev eth0; ip addr flush dev eth1; {clients}; {databases}
         {CLIENTS_SIDE}; {DATABASES_SIDE}"
    ))?;
    let add = "ip -n db$number addr add fd78::2$number/64 dev eth0 nodad";
    machines.database.run(&format!("set -e; for number in 1 2 3 4; do {add}; done"))?;
    connect_databases(machines, &two_tags("eth0", "databases", 100, 78), 1496)
}

/// A router on a stick.
fn one_card(machines: &mut Machines) -> Result<()> {
    machines.join_networks()?;
    let databases = one_tag("eth0", "databases", 78);
    machines
        .redirector
        .run(&format!("set -e; ip link del provider; {databases}; {DATABASES_SIDE}"))?;
    machines.database.run("ip -n switch link del provider")?;
    connect_databases(machines, &databases, 1500)
}

/// Puts the databases' bridge behind a VLAN device. The redirector is at another MAC from then on.
fn connect_databases(machines: &mut Machines, devices: &str, mtu: u32) -> Result<()> {
    machines.database.run(&format!(
        "set -e; ip -n switch link set eth0 nomaster
         ip netns exec switch sh -ec '{devices}; ip link set databases master br78'
         for number in 1 2 3 4; do
             ip -n db$number link set eth0 mtu {mtu}
             ip -n db$number neigh flush dev eth0
         done"
    ))?;
    Ok(())
}

fn one_tag(card: &str, name: &str, id: u16) -> String {
    format!("ip link add link {card} name {name} type vlan id {id}; ip link set {name} up")
}

/// The second tag needs room that the network of the machines does not have, and Linux does not see to it.
fn two_tags(card: &str, name: &str, outer: u16, inner: u16) -> String {
    format!(
        "ip link add link {card} name provider type vlan proto 802.1ad id {outer}; ip link set provider up
         ip link add link provider name {name} mtu 1496 type vlan id {inner}; ip link set {name} up"
    )
}

/// A daemon's life: for IPv4 and IPv6 it announces, serves, flips and cuts, and leaves nothing behind.
pub(super) fn serve(
    machines: &mut Machines,
    notes: &mut Notes,
    interfaces: &str,
    attach: Attach,
) -> Result<()> {
    // A new device first looks for duplicates of its link-local address, and finds no neighbours until then.
    machines.wait_for("addresses can be used", Duration::from_secs(20), |machines| {
        Ok(machines.redirector.run("ip -6 address show tentative")?.is_empty())
    })?;
    let vips = Family::BOTH.map(|family| family.vip().ip().to_string());
    machines.mislead_client(&vips, "clients")?;
    machines.start_daemon_with(attach, |config| {
        configuration(&config, interfaces, Forwarding::Snat, BACKENDS)
    })?;
    machines.wait_announced(&vips)?;
    let mut said = Vec::new();
    for (family, vip) in Family::BOTH.into_iter().zip(&vips) {
        let name = family.name();
        let flip = |pair| format!("--cluster {name} --to {pair}");
        ensure!(machines.server_id(vip)? == 1, "IP{name}: pair1 is active at first");
        let seconds = machines.echo(vip).with_context(|| format!("IP{name}"))?;
        machines.pairflip(&format!("flip --route-only {}", flip("pair2")))?;
        ensure!(machines.server_id(vip)? == 3, "IP{name}: after the flip it is pair2");
        let woken = machines.cut(vip, 3, &flip("pair1")).with_context(|| format!("IP{name}"))?;
        ensure!(machines.server_id(vip)? == 1, "IP{name}: after the second flip it is pair1");
        let woken = woken.as_secs_f64() * 1000.0;
        said.push(format!(
            "IP{name} 2 MB there and back {seconds:.1} s, a cut known after {woken:.0} ms"
        ));
    }
    notes.add(format!("{interfaces} {}: {}", attach.name(), said.join("; ")));
    machines.unload()
}
