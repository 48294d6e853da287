//! The directory of one run: sockets, initramfs, disks. It goes with the run, and one of a killed run with the next.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const PREFIX: &str = "pairflip-vm-";

/// Dropping it removes the directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held by whoever lives: the kernel releases it when the process ends, however it ends.
    _lock: File,
}

impl RunDir {
    /// Makes a directory in the system's place for temporary files; removes those of runs that were killed.
    pub fn make() -> Result<Self> {
        let parent = std::env::temp_dir();
        remove_stale(&parent)?;
        // Short, because the path of a socket has 108 bytes at most.
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
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

fn remove_stale(parent: &Path) -> Result<()> {
    let entries = fs::read_dir(parent).with_context(|| format!("reading {}", parent.display()))?;
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let dead = match File::open(entry.path().join("lock")) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                // Another user's.
                Err(TryLockError::Error(_)) => false,
            },
            // Just being made, or another user's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(_) => false,
        };
        if dead {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
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
        let (_, dead) = run("pairflip-vm-1");
        let (alive, kept) = run("pairflip-vm-2");
        alive.lock().unwrap();
        let (_, other) = run("something-else");
        remove_stale(parent.path()).unwrap();
        assert_eq!((dead.exists(), kept.exists(), other.exists()), (false, true, true));
    }
}
