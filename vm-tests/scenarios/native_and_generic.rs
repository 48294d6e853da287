//! Three machines, cards with several queues: the same service natively and generically, and what a transfer takes.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite},
    vm::{
        machines::{Attach, Machines, client_line, sum},
        network::Network,
    },
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "native XDP on virtio cards with several queues against generic XDP: behaviour, and a transfer's time",
    suite: Suite::All,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(600),
    story: Story::Machines(story),
};

/// About 10 MB from the primary of pair1.
const ROWS: &str = "SELECT CONCAT(seq, REPEAT(MD5(seq), 6)) FROM app.seq_1_to_50000";

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    let queues = machines.redirector.run("ls -d /sys/class/net/eth0/queues/rx-* | wc -l")?;
    notes.add(format!("the redirector's cards have {queues} receive queues"));
    if machines.network == Network::Tap {
        ensure!(
            queues.trim() == "2",
            "a card on a tap has a queue for each processor, not {queues}"
        );
    }
    let mut seconds = Vec::new();
    for (attach, mode) in [(Attach::Native, "native"), (Attach::Generic, "generic")] {
        machines.start_daemon(attach)?;
        ensure!(machines.writes_reach()? == 1, "{mode}: writes go to the primary of pair1");
        ensure!(machines.reads_reach()? == 2, "{mode}: reads go to its replica");
        seconds.push(transfer(machines)?.as_secs_f64());
        machines.pairflip("flip --route-only --to pair2")?;
        ensure!(machines.writes_reach()? == 3, "{mode}: after the flip writes go to pair2");
        machines.pairflip("flip --route-only --to pair1")?;
        machines.unload()?;
    }
    notes.add(format!(
        "a transfer of 10 MB: native {:.1} s, generic {:.1} s (ratio {:.2})",
        seconds[0],
        seconds[1],
        seconds[1] / seconds[0]
    ));
    Ok(())
}

/// Transfers through the VIP, compares with what the server says about itself, returns the time.
fn transfer(machines: &mut Machines) -> Result<Duration> {
    let own = machines.sql_sum(1, ROWS)?;
    let reply = machines.client.try_run(&sum(&client_line("10.77.0.100", ROWS)))?;
    ensure!(reply.stdout == own, "the transfer differs: {reply:?}");
    Ok(reply.took())
}
