//! The kernel interprets the program instead of compiling it.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::serve_and_flip;
use crate::scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite, Unsupported};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "serve-and-flip with the kernel's BPF compiler turned off",
    suite: Suite::All,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(400),
    story: Story::OneGuest(story),
};

const SWITCH: &str = "/proc/sys/net/core/bpf_jit_enable";

fn story(notes: &mut Notes) -> Result<()> {
    if let Err(error) = fs::write(SWITCH, "0") {
        return Err(Unsupported(format!(
            "this kernel always compiles (CONFIG_BPF_JIT_ALWAYS_ON): {error}"
        ))
        .into());
    }
    let value = fs::read_to_string(SWITCH).context("reading the switch")?;
    ensure!(value.trim() == "0", "the compiler is on: {value}");
    serve_and_flip::story(notes)
}
