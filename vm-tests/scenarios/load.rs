//! The verifier accepts the program, and how much of its patience that takes.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramInfo;

use crate::{
    Daemon, Namespace,
    scenario::{Needs, Notes, Scenario, Story, Suite},
};

const CONFIG: &str = "/etc/pairflip/pairflip.toml";

/// Instructions that the verifier looks at before it gives up, since Linux 5.2 (`BPF_COMPLEXITY_LIMIT_INSNS`).
const VERIFIER_LIMIT: u32 = 1_000_000;
/// What we allow ourselves. A program that comes near the limit on one kernel passes it on the next.
const OWN_LIMIT: u32 = VERIFIER_LIMIT / 5;

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "the kernel's verifier accepts the program; how many instructions it looked at",
    suite: Suite::Quick,
    needs: Needs { programs: &[], modules: &["veth"], databases: false, packet_tests: false },
    limit: Duration::from_secs(120),
    story: Story::OneGuest(story),
};

fn story(notes: &mut Notes) -> Result<()> {
    // A redirector with nobody to talk to: its servers are down, its program is loaded.
    let host = Namespace::create("redirector")?;
    host.ip("link add eth0 type veth peer name switch")?;
    host.ip("addr add 10.77.0.2/24 dev eth0")?;
    host.ip("link set eth0 up")?;
    host.ip("link set switch up")?;
    fs::create_dir_all("/etc/pairflip")?;
    fs::write("/etc/pairflip/password", "secret")?;
    fs::write(CONFIG, include_str!("../../configs/lab.toml"))?;
    let mut redirector = Daemon::new(
        host,
        Path::new(CONFIG),
        Path::new("/run/pairflip/control.sock"),
        Path::new("/var/log/pairflipd.log"),
    );
    redirector.start()?;
    let status = redirector.status()?;
    let attach = &status["daemon"]["interfaces"][0]["attach"];
    ensure!(attach == "native", "veth has native XDP, attached is {attach}");

    let program = ProgramInfo::from_pin(Path::new("/sys/fs/bpf/pairflip/program"))
        .context("opening the pinned program")?;
    let memory = program.memory_locked().unwrap_or(0);
    let translated = program.size_translated().context("asking for the program's size")?;
    notes.add(format!(
        "{} instructions after translation, {} bytes of machine code, {memory} bytes locked",
        translated / 8,
        program.size_jitted(),
    ));
    match program.verified_instruction_count() {
        Some(count) => {
            notes.add(format!(
                "the verifier looked at {count} instructions, {:.1} % of its limit",
                f64::from(count) * 100.0 / f64::from(VERIFIER_LIMIT)
            ));
            ensure!(
                count < OWN_LIMIT,
                "the verifier looked at {count} instructions; our own limit is {OWN_LIMIT}"
            );
        }
        None => notes
            .add("how many instructions the verifier looked at is told by Linux 5.16 and newer"),
    }
    redirector.stop()
}
