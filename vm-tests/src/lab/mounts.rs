//! Mounts that a lab brings about, so that the last lab can take them away again.
//!
//! `ip netns add` mounts `/run/netns` on itself, and XDP objects are pinned in a bpffs. A machine that
//! had one of them before the first lab keeps it.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use nix::mount::umount;

const NETNS: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

/// Notes in `record` which of the mounts are not there yet. The first lab's note holds for all.
pub(crate) fn note_missing(record: &Path) -> Result<()> {
    if record.exists() {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let is_mounted = |dir: &str| mounts.lines().any(|line| line.split(' ').nth(1) == Some(dir));
    let missing: Vec<&str> = [NETNS, BPFFS].into_iter().filter(|dir| !is_mounted(dir)).collect();
    fs::write(record, missing.join("\n")).with_context(|| format!("writing {}", record.display()))
}

/// Takes away the mounts that `record` names, unless somebody else uses them by now.
pub(crate) fn remove_noted(record: &Path) -> Result<()> {
    let noted = match fs::read_to_string(record) {
        Ok(noted) => noted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", record.display())),
    };
    for dir in noted.lines().filter(|dir| is_unused(dir)) {
        // Not mounted, or busy: then it is not ours to remove.
        if umount(dir).is_ok() && dir == NETNS {
            // `ip netns add` made it, too.
            _ = fs::remove_dir(dir);
        }
    }
    fs::remove_file(record).with_context(|| format!("removing {}", record.display()))
}

fn is_unused(dir: &str) -> bool {
    // A bpffs always has these two files; they are nobody's pins.
    let own = |name: &str| dir == BPFFS && name.ends_with(".debug");
    fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| own(&entry.file_name().to_string_lossy())))
    })
}
