//! `cargo xtask ci`: what CI runs, the same on a laptop.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    build::{cargo, check},
    root, say, setup, test,
};

pub(crate) fn ci() -> Result<()> {
    setup::setup(setup::For::Everything)?;
    say("\n== formatting");
    check(cargo().args(["fmt", "--all", "--check"]))?;
    check(Command::new("rustfmt").args(["--check", "--edition", "2024"]).args(scenarios()?))?;
    say("\n== clippy");
    check(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    say("\n== docs");
    check(
        cargo()
            .args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    test::test()
}

/// The scenarios' files, which a build script lists, so that cargo's formatter does not find them.
fn scenarios() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root().join("vm-tests/scenarios")).context("listing scenarios")?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
