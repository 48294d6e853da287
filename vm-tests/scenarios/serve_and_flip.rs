//! Four servers, two clients, a flip and a dead replica, all in one guest.

use std::{
    net::SocketAddrV4,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    Client, Lab, Options,
    lab::topology::{VIP_READ, VIP_WRITE},
    scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "real servers in one guest: who gets what, a flip, a replica that dies",
    suite: Suite::Quick,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(400),
    story: Story::OneGuest(story),
};

pub(crate) fn story(notes: &mut Notes) -> Result<()> {
    let start = Instant::now();
    let mut lab = Lab::up(&Options { both_writable: true, ..Options::new("vm") }, |_| {})?;
    let config = lab.write_config(|config| config)?;
    let mut daemon = lab.daemon(&config);
    daemon.start()?;
    notes.add(format!("the lab was up after {:.0} s", start.elapsed().as_secs_f64()));
    ensure!(reached(&lab, VIP_WRITE)? == 1, "writes go to the primary of pair1");
    ensure!(reached(&lab, VIP_READ)? == 2, "reads go to its replica");

    daemon.ctl(&["flip", "--route-only"])?;
    ensure!(reached(&lab, VIP_WRITE)? == 3, "after the flip writes go to the primary of pair2");
    ensure!(reached(&lab, VIP_READ)? == 4, "and reads to its replica");

    lab.db_mut(4).kill()?;
    let killed = Instant::now();
    while reached(&lab, VIP_READ).ok() != Some(3) {
        ensure!(killed.elapsed() < Duration::from_secs(30), "reads fall back to the primary");
        thread::sleep(Duration::from_millis(100));
    }
    notes.add(format!(
        "reads fell back {:.1} s after the replica died",
        killed.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn reached(lab: &Lab, vip: SocketAddrV4) -> Result<u32> {
    lab.ns("client1").run(move || Client::new(vip)?.server_id())?
}
