//! The directory of one run: sockets, initramfs, disks. It goes with the run, and one of a killed run with the next.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::unistd::getuid;

use crate::cache_dir;

/// Dropping it removes the directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held by whoever lives: the kernel releases it when the process ends, however it ends.
    _lock: File,
}

impl RunDir {
    /// Makes a directory in the system's place for temporary files; removes those of this user's runs that were killed.
    pub fn make() -> Result<Self> {
        fs::create_dir_all(cache_dir()).context("making the cache")?;
        // Nobody looks for what is stale while a directory is made.
        let making = File::create(cache_dir().join("vm.lock")).context("making a lock")?;
        making.lock().context("waiting for another run to start")?;
        let parent = std::env::temp_dir();
        let prefix = format!("pairflip-vm-{}-", getuid());
        remove_stale(&parent, &prefix)?;
        // Short, because the path of a socket has 108 bytes at most.
        let path = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let lock = File::create(path.join("lock")).context("making the run's lock")?;
        lock.lock().context("locking the run's directory")?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The next run tries again.
        _ = fs::remove_dir_all(&self.path);
    }
}

fn remove_stale(parent: &Path, prefix: &str) -> Result<()> {
    let entries = fs::read_dir(parent).with_context(|| format!("reading {}", parent.display()))?;
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        // One without a lock was killed while it was made.
        let lock = File::open(entry.path().join("lock"));
        if ours && lock.is_ok_and(|lock| lock.try_lock().is_err()) {
            continue;
        }
        if ours {
            // It may be removed by its owner, who just ended.
            _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_lives_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let run = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            (File::create(path.join("lock")).unwrap(), path)
        };
        let (_, dead) = run("pairflip-vm-7-1");
        let (alive, kept) = run("pairflip-vm-7-2");
        alive.lock().unwrap();
        let (_, of_another_user) = run("pairflip-vm-8-1");
        let (_, other) = run("something-else");
        let half_made = parent.path().join("pairflip-vm-7-3");
        fs::create_dir(&half_made).unwrap();
        remove_stale(parent.path(), "pairflip-vm-7-").unwrap();
        assert_eq!((dead.exists(), half_made.exists()), (false, false));
        assert_eq!((kept.exists(), of_another_user.exists(), other.exists()), (true, true, true));
    }
}
