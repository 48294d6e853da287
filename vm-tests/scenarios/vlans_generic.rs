//! Networks that are VLANs, in the kernel's generic path: as natively, and with VLAN devices that are listed themselves.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::vlans::{NEEDS, both_wirings, serve};
use crate::{
    scenario::{Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "the same generically, and with VLAN devices in daemon.interfaces",
    suite: Suite::All,
    needs: NEEDS,
    limit: Duration::from_secs(600),
    story: Story::Machines(story),
};

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    if !both_wirings(machines, notes, Attach::Generic)? {
        return Ok(());
    }
    // The card would join packets to such as are larger than the MTU before a VLAN device sees them. The second feature has a name
    // for older kernels and one for newer ones.
    machines.redirector.run(
        "ethtool -K eth0 gro off && { ethtool -K eth0 rx-gro-hw off || ethtool -K eth0 lro off; }",
    )?;
    serve(machines, notes, r#"["clients", "databases"]"#, Attach::Generic)
        .context("listed VLAN devices")
}
