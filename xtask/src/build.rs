//! Calling cargo.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{root, say, setup};

/// `cargo` at the workspace's root, with the environment of a shell.
///
/// Whoever runs this program by cargo, tests among them, passes on what cargo tells it about its own package. Build
/// scripts that look at such variables (ring's) would be run again, and everything above them be built again, each time.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if is_package || name == "CARGO_PRIMARY_PACKAGE" || name == "OUT_DIR" {
            command.env_remove(&*name);
        }
    }
    command.current_dir(root());
    command
}

/// Runs a command that talks to the terminal itself.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

pub(crate) fn build() -> Result<()> {
    setup::setup(setup::For::Building)?;
    say("building the release binaries (minutes the first time, a second when nothing changed)");
    check(cargo().args(["build", "--release", "--package", "pairflip"]))
}

/// Where cargo puts what it builds for this workspace.
pub(crate) fn target_dir() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}
