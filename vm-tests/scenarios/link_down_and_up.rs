//! Cables are pulled and put in again, on either side of the redirector.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines, client_line},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "the redirector's cables pulled and put in: connections wait or end, new ones come back",
    suite: Suite::All,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(600),
    story: Story::Machines(story),
};

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    machines.start_daemon(Attach::Auto)?;
    ensure!(machines.writes_reach()? == 1, "writes go to the primary of pair1");

    // The clients' side: nothing is wrong with the servers, so a connection waits and goes on.
    let working =
        machines.client.start(&client_line("10.77.0.100", &"SELECT SLEEP(0.2);".repeat(60)))?;
    machines.wait_for("the connection is a flow", Duration::from_secs(20), |machines| {
        Ok(machines.status()?["daemon"]["flows"] == 1)
    })?;
    machines.redirector.unplug("eth0")?;
    machines.redirector.run("sleep 3")?;
    machines.redirector.plug("eth0")?;
    let reply = machines.client.wait(working)?;
    ensure!(reply.status == 0, "a connection outlives 3 s without the clients' cable: {reply:?}");
    ensure!(machines.writes_reach()? == 1, "new connections are served again");

    // The databases' side: all servers are silent at once, so the fault is ours and nothing moves.
    machines.redirector.unplug("eth1")?;
    machines.redirector.run("sleep 8")?;
    let status = machines.status()?;
    let route = &status["clusters"][0]["routes"][0];
    ensure!(
        route["backends"][0] == "10.78.0.21:3306",
        "the write route still leads to the primary, whose silence proves nothing: {route}"
    );
    machines.redirector.plug("eth1")?;
    let took = machines.wait_for("writes return", Duration::from_secs(60), |machines| {
        Ok(machines.writes_reach().is_ok_and(|server| server == 1))
    })?;
    notes.add(format!("writes were back {:.1} s after the databases' cable", took.as_secs_f64()));
    machines.wait_for("reads return to the replica", Duration::from_secs(60), |machines| {
        Ok(machines.reads_reach().is_ok_and(|server| server == 2))
    })?;
    Ok(())
}
