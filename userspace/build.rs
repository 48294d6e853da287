//! Builds the kernel object, so that the daemon carries it.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// Set for a build for debugging; see docs/operating.md.
const PACKET_LOG: &str = "PAIRFLIP_PACKET_LOG";

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().context("the package is not inside the workspace")?;
    for path in ["ebpf/src", "ebpf/Cargo.toml", "common/src", "common/Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-env-changed={PACKET_LOG}");
    let packet_log = env::var_os(PACKET_LOG).is_some();
    let object = pairflip_ebpf_builder::build(root, &out.join("bpf"), packet_log)?;
    fs::copy(&object, out.join("pairflip.bpf.o"))
        .with_context(|| format!("copying the kernel object from {}", object.display()))?;
    Ok(())
}
