//! A connection that works all the time, while the daemon is killed, is away, comes back and replaces the program.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines, client_line},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "an established connection through daemon kill, absence, restart and program replacement",
    suite: Suite::All,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(600),
    story: Story::Machines(story),
};

/// Statements of the connection, a fifth of a second each.
const STATEMENTS: usize = 250;

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    machines.start_daemon(Attach::Auto)?;
    let before = program(machines)?;
    let statement = "SELECT SLEEP(0.2) + @@server_id;".repeat(STATEMENTS);
    let working = machines.client.start(&client_line("10.77.0.100", &statement))?;
    machines.wait_for("the connection is a flow", Duration::from_secs(20), |machines| {
        Ok(machines.status()?["daemon"]["flows"] == 1)
    })?;

    machines.kill_daemon()?;
    ensure!(machines.writes_reach()? == 1, "new connections go on without a daemon");
    machines.start_daemon(Attach::Auto)?;
    let after = program(machines)?;
    ensure!(before != after, "the restarted daemon replaced the program ({before})");
    notes.add(format!("the program was replaced: {before} -> {after}"));
    machines.pairflip("flip --route-only --to pair2")?;
    ensure!(machines.writes_reach()? == 3, "the restarted daemon flips");
    machines.kill_daemon()?;
    machines.start_daemon(Attach::Auto)?;
    ensure!(machines.status()?["daemon"]["flows"] == 1, "the connection was over too early");
    ensure!(machines.writes_reach()? == 3, "and the flip outlives another restart");

    let reply = machines.client.wait(working)?;
    ensure!(reply.status == 0, "the connection broke: {reply:?}");
    let answers = reply.stdout.lines().filter(|line| *line == "1").count();
    ensure!(answers == STATEMENTS, "{answers} of {STATEMENTS} answers came from server 1");
    notes.add(format!("{answers} statements of one connection in {:.0} s", reply.seconds));
    Ok(())
}

/// The id of the program on the redirector's first card.
fn program(machines: &mut Machines) -> Result<String> {
    let link = machines.redirector.run("ip -d link show eth0")?;
    let id = link.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
    id.map(str::to_owned).with_context(|| format!("no program on eth0: {link}"))
}
