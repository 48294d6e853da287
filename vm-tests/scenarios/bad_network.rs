//! Loss, delay and reordering on both sides of the redirector.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    scenario::{Needs, Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines, client_line, sum},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "netem loss, delay and reordering on both sides: transfers whole, connections served, flips in between",
    suite: Suite::All,
    needs: Needs {
        programs: &["ethtool", "tc"],
        modules: &["veth", "bridge", "sch_netem"],
        databases: true,
        packet_tests: false,
    },
    limit: Duration::from_secs(900),
    story: Story::Machines(story),
};

/// Of every packet that a machine sends.
const NETEM: &str = "netem delay 15ms 5ms loss 2% reorder 20% 50% duplicate 1%";
/// About 2 MB.
const ROWS: &str = "SELECT CONCAT(seq, REPEAT(MD5(seq), 6)) FROM app.seq_1_to_10000";
const CONNECTIONS: u32 = 20;

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    machines.start_daemon(Attach::Auto)?;
    let expected = machines.sql_sum(1, ROWS)?;
    machines.client.run(&format!("tc qdisc add dev eth0 root {NETEM}"))?;
    machines.database.run(&format!("ip netns exec switch tc qdisc add dev eth0 root {NETEM}"))?;

    let transfer = machines.client.start(&sum(&client_line("10.77.0.100", ROWS)))?;
    machines.wait_for("the transfer is a flow", Duration::from_secs(20), |machines| {
        Ok(machines.status()?["daemon"]["flows"] == 1)
    })?;
    let started = std::time::Instant::now();
    for number in 1..=CONNECTIONS {
        // Both pairs in turn: what is open stays where it is.
        let (pair, server) = if number % 2 == 0 { ("pair1", 1) } else { ("pair2", 3) };
        machines.pairflip(&format!("flip --route-only --to {pair}"))?;
        let reached = machines.writes_reach()?;
        ensure!(reached == server, "connection {number} reached server {reached}, not {server}");
        if number == CONNECTIONS / 4 {
            let flows = machines.status()?["daemon"]["flows"].clone();
            ensure!(flows != 0, "the transfer was over before there were flips enough");
        }
    }
    notes.add(format!(
        "{CONNECTIONS} connections, a flip before each, in {:.0} s",
        started.elapsed().as_secs_f64()
    ));
    let reply = machines.client.wait(transfer)?;
    ensure!(reply.stdout == expected, "the transfer differs: {reply:?}");
    notes.add(format!("2 MB through 2 % loss in {:.0} s, byte for byte", reply.seconds));

    let status = machines.status()?;
    ensure!(
        status["clusters"][0]["pairs"][0]["backends"][0]["health"] == "up",
        "checks stand a bad network: {}",
        status["clusters"][0]["pairs"][0]
    );
    Ok(())
}
