//! All packet cases of the host's test-run, on this kernel.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command,
    scenario::{Needs, Notes, Scenario, Story, Suite},
};

/// Mutated frames that the program and its model judge: fewer than on the host, since a machine may be emulated.
const FUZZ_FRAMES: &str = "5000";

/// Every so many combinations of row and network of the table; likewise.
const TABLE_STRIDE: &str = "7";

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "every packet case (userspace/tests/packets) through this kernel's test-run",
    suite: Suite::Quick,
    needs: Needs { programs: &[], modules: &[], databases: false, packet_tests: true },
    limit: Duration::from_secs(300),
    story: Story::OneGuest(story),
};

fn story(notes: &mut Notes) -> Result<()> {
    let output = command::output(
        Command::new("packet-tests")
            .args(["--include-ignored", "--test-threads=1"])
            // It builds a program, and a guest has no compiler.
            .args(["--skip", "a_build_for_debugging"])
            .env("PAIRFLIP_FUZZ_FRAMES", FUZZ_FRAMES)
            .env("PAIRFLIP_TABLE_STRIDE", TABLE_STRIDE),
    )?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let result = said.lines().find(|line| line.starts_with("test result:"));
    notes.add(result.context("the tests gave no result")?);
    Ok(())
}
