//! `cargo xtask run`: the product, as a newcomer first sees it.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use pairflip_vm_tests::{
    Lab, Options, command,
    lab::{self, daemon::binary},
};

use crate::{build, root, say, setup};

/// Longest wait until both VIPs serve. The daemon is ready by then; what is left is a neighbour that answers.
const SERVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs the daemon on this host, in place of this process.
pub(crate) fn on_host(config: &Path) -> Result<()> {
    build::build()?;
    let error = Command::new(binary("pairflipd")).arg("--config").arg(config).exec();
    Err(error).context("starting pairflipd")
}

/// The lab, the daemon in it, and what to try.
pub(crate) fn demo() -> Result<()> {
    setup::setup(setup::For::Lab)?;
    build::build()?;
    // From here on Ctrl-C is waited for, so that it always cleans up.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("blocking signals")?;

    lab::clean_stale()?;
    let lab = Lab::up(&Options::new(&free_name()), |step| say(&format!("lab: {step}")))?;
    lab.grant_flips()?;
    let config = lab.write_config(|text| text)?;
    say("starting pairflipd on the redirector's host");
    let mut daemon = lab.daemon(&config);
    daemon.start()?;
    wait_until_serving(&lab)?;
    show(&daemon.ctl(&["status"])?);
    hints(&lab);
    signals.wait().context("waiting for Ctrl-C")?;
    say("\nremoving the lab");
    // With the configuration it also works when the daemon was killed.
    daemon.ctl(&["unload", "--config", &config.display().to_string()])?;
    drop(daemon);
    drop(lab);
    Ok(())
}

fn free_name() -> String {
    if lab::labs().iter().any(|name| name == "demo") {
        format!("demo{}", std::process::id())
    } else {
        "demo".to_owned()
    }
}

/// Asks both VIPs as a client does.
fn wait_until_serving(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + SERVE_TIMEOUT;
    for vip in lab::VIPS {
        let address = vip.ip().to_string();
        loop {
            let mut client = lab.ns("client1").command("mariadb")?;
            client.args([
                "--no-defaults",
                "--connect-timeout=2",
                "-N",
                "-uapp",
                "-papp",
                "-h",
                &address,
                "-e",
                "SELECT @@server_id",
            ]);
            let output = command::output(&mut client)?;
            if output.status.success() {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "VIP {vip} does not serve: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn hints(lab: &Lab) {
    let exec = if lab.name() == "demo" {
        "cargo xtask lab exec".to_owned()
    } else {
        format!("cargo xtask lab exec --lab {}", lab.name())
    };
    let pairflip =
        format!("{exec} redirector -- {} --socket {}", typed("pairflip"), lab.socket().display());
    say("\nTry, in another terminal:");
    say(&format!("  a client:  {exec} client1 -- {}", Lab::client_command("10.77.0.101")));
    say(&format!("  a flip:    {pairflip} flip"));
    say(&format!(
        "  a kill:    kill -9 {}   # the replica of pair1; then: {pairflip} status",
        lab.db(2).pid()
    ));
    say("\nCtrl-C removes everything.");
}

/// The binary's path as a person types it at the workspace's root.
fn typed(name: &str) -> String {
    let path = binary(name);
    Path::new(&path).strip_prefix(root()).map_or(path.clone(), |path| path.display().to_string())
}

#[expect(clippy::print_stdout, reason = "the status is the command's result")]
fn show(text: &str) {
    println!("\n{text}");
}
