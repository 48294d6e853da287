//! Programs of the host that go into guests, and such as are not installed because installing them would start a service.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{cache_dir, command::run};

/// Programs that are unpacked instead of installed: program, package.
const UNPACKED: [(&str, &str); 1] = [("haproxy", "haproxy")];

/// A program and where its libraries are, beside the system's places.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    root: Option<PathBuf>,
}

/// Where a program is, as the host's shell would find it, or else unpacked from its package.
pub(crate) fn find(name: &str) -> Result<Program> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    if let Some(path) = installed {
        return Ok(Program { path, root: None });
    }
    let Some((_, package)) = UNPACKED.iter().find(|(program, _)| *program == name) else {
        bail!("{name} is not installed; `cargo xtask setup` installs what scenarios need");
    };
    let root = cache_dir().join(package);
    let path = root.join("usr/sbin").join(name);
    if !path.is_file() {
        unpack(package, &root).with_context(|| format!("unpacking the package {package}"))?;
    }
    Ok(Program { path, root: Some(root) })
}

/// Unpacks a package with those that installing it would add to this host.
fn unpack(package: &str, root: &Path) -> Result<()> {
    let plan =
        run(Command::new("apt-get").args(["install", "-s", "--no-install-recommends", package]))?;
    let names: Vec<&str> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .collect();
    let parent = root.parent().context("the cache has a place")?;
    // Goes with what is in it if anything fails.
    let making = tempfile::tempdir_in(parent).context("making a directory in the cache")?;
    let downloads = making.path().join("downloads");
    fs::create_dir(&downloads).with_context(|| format!("making {}", downloads.display()))?;
    run(Command::new("apt-get")
        .args(["download", "-qq", "-o", "APT::Sandbox::User=root"])
        .args(&names)
        .current_dir(&downloads))?;
    for entry in fs::read_dir(&downloads)? {
        run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(making.path()))?;
    }
    fs::remove_dir_all(&downloads)?;
    match fs::rename(making.path(), root) {
        Ok(()) => Ok(()),
        // Another run was faster.
        Err(_) if root.is_dir() => Ok(()),
        Err(error) => Err(error).context("keeping the unpacked package"),
    }
}

impl Program {
    pub(crate) fn built(path: &Path) -> Self {
        Self { path: path.to_owned(), root: None }
    }

    /// The shared libraries and the loader, as paths on the host and in the guest. A static program has none.
    pub(crate) fn libraries(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut ldd = Command::new("ldd");
        if let Some(root) = &self.root {
            let dirs = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let dirs: Vec<String> =
                dirs.iter().map(|dir| root.join(dir).display().to_string()).collect();
            ldd.env("LD_LIBRARY_PATH", dirs.join(":"));
        }
        let output = crate::command::output(ldd.arg(&self.path))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
            bail!("{} cannot run here: {}", self.path.display(), missing.trim());
        }
        // "libm.so.6 => /lib/.../libm.so.6 (0x...)", or the loader alone "/lib64/ld-linux-x86-64.so.2 (0x...)".
        let paths = text
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
            .map(PathBuf::from);
        Ok(paths.map(|path| (path.clone(), self.in_guest(&path))).collect())
    }

    fn in_guest(&self, path: &Path) -> PathBuf {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        Path::new("/").join(path.strip_prefix(root).unwrap_or(path))
    }
}
