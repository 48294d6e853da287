//! Packet cases of the host's test-run, on this kernel.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command,
    scenario::{Needs, Notes, Scenario, Story, Suite},
};

/// What a kernel can make a difference to: the program's way with packets, its maps, and its races. The rest of the cases say the same of every
/// kernel, and each loads the program anew, which takes an emulated machine seconds.
const CASES: [&str; 10] = [
    "the_table_of_packets",
    "the_program_and_the_model",
    "a_full_table_refuses",
    "a_restarted_daemon_adopts",
    "silent_flows_are_swept",
    "ended_flows_leave",
    "buffers::",
    "flow_log::",
    "races::",
    "counters::",
];

/// Mutated frames that the program and its model judge: fewer than on the host, since a machine may be emulated.
const FUZZ_FRAMES: &str = "5000";

/// Every so many combinations of row and network of the table; likewise.
const TABLE_STRIDE: &str = "29";

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "packet cases (userspace/tests/packets) through this kernel's test-run: the table, mutated frames, maps, races",
    suite: Suite::Quick,
    needs: Needs { programs: &[], modules: &[], databases: false, packet_tests: true },
    limit: Duration::from_secs(300),
    story: Story::OneGuest(story),
};

fn story(notes: &mut Notes) -> Result<()> {
    let output = command::output(
        Command::new("packet-tests")
            .args(["--include-ignored", "--test-threads=1"])
            .args(CASES)
            .env("PAIRFLIP_FUZZ_FRAMES", FUZZ_FRAMES)
            .env("PAIRFLIP_TABLE_STRIDE", TABLE_STRIDE),
    )?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let result = said.lines().find(|line| line.starts_with("test result:"));
    notes.add(result.context("the tests gave no result")?);
    Ok(())
}
