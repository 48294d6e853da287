//! `cargo xtask ci`: what CI runs, the same on a laptop.

use anyhow::Result;

use crate::{
    build::{cargo, check},
    say, setup, test,
};

pub(crate) fn ci() -> Result<()> {
    setup::setup(setup::For::Everything)?;
    say("\n== formatting");
    check(cargo().args(["fmt", "--all", "--check"]))?;
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
