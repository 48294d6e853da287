//! The redirector loses its power, and is rebooted: what it knew is there again, and its VIPs are announced.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "the redirector's power cut, and a reboot: the active pair restored, VIPs announced again",
    suite: Suite::All,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(900),
    story: Story::Machines(story),
};

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    machines.start_daemon(Attach::Auto)?;
    ensure!(machines.writes_reach()? == 1, "pair1 is active at first");
    machines.pairflip("flip --route-only --to pair2")?;

    machines.power_cycle_redirector()?;
    come_back(machines)?;
    notes.add("pair2 was active after a power cut right behind the flip");

    machines.reboot_redirector()?;
    come_back(machines)?;
    notes.add("pair2 was active after a reboot");
    Ok(())
}

/// Starts the daemon as a host does at boot; the client learns of the VIPs by their announcement alone.
fn come_back(machines: &mut Machines) -> Result<()> {
    let vips = ["10.77.0.100", "10.77.0.101"];
    machines.mislead_client(&vips, "eth0")?;
    machines.start_daemon(Attach::Auto)?;
    machines.wait_announced(&vips)?;
    ensure!(
        machines.writes_reach()? == 3,
        "writes go to pair2, which is not what a first start says"
    );
    ensure!(machines.reads_reach()? == 4, "reads go to pair2");
    Ok(())
}
