//! Kernels to boot: those of `kernels.toml`, fetched once and cached, or one's own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{archive::Archive, command::run};

/// The list of kernels, as in `kernels.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    package: String,
    suites: Vec<String>,
    pub kernels: Vec<String>,
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What the matrix calls it: the series of the list, or the release.
    pub name: String,
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    /// Directory with `modules.dep`; none for a kernel that came without modules.
    pub modules: Option<PathBuf>,
}

/// Whether kernels that are cached may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    Cached,
    /// Asks the archive for newer versions.
    Update,
}

/// The list in `kernels.toml`.
pub fn list() -> Result<List> {
    toml::from_str(include_str!("../../kernels.toml")).context("reading kernels.toml")
}

/// Returns the named kernels of the list, in its order; fetches what is not in `cache`.
pub fn fetch(
    names: &[String],
    freshness: Freshness,
    cache: &Path,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Kernel>> {
    let list = list()?;
    if let Some(unknown) = names.iter().find(|name| !list.kernels.contains(name)) {
        bail!(
            "{unknown:?} is neither a file nor in vm-tests/kernels.toml, which has {}",
            list.kernels.join(", ")
        );
    }
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    // Held until the end: another run waits and then finds the kernels.
    let lock = File::create(cache.join("lock")).context("making the lock of the kernel cache")?;
    lock.lock().context("locking the kernel cache")?;

    let mut archive = None;
    let mut kernels = Vec::new();
    for name in list.kernels.iter().filter(|name| names.contains(name)) {
        // The name's file says which version it is; another run may still boot an older one.
        let known = cache.join(format!("{name}.version"));
        if freshness == Freshness::Update || cached(name, &known, cache).is_err() {
            let archive = match &archive {
                Some(archive) => archive,
                None => {
                    progress("reading the package lists of Debian's archive");
                    archive.insert(Archive::open(&cache.join("apt"), &list.suites)?)
                }
            };
            progress(&format!("fetching kernel {name}"));
            let version = fetch_one(archive, &list.package, name, cache)
                .with_context(|| format!("fetching kernel {name}"))?;
            fs::write(&known, version).context("noting the kernel's version")?;
        }
        kernels.push(cached(name, &known, cache)?);
    }
    Ok(kernels)
}

/// Returns the version, once it is in the cache.
fn fetch_one(archive: &Archive, metapackage: &str, name: &str, cache: &Path) -> Result<String> {
    let packages = archive.versions(metapackage)?;
    let newest = packages
        .iter()
        .filter(|package| name == "newest" || package.version.starts_with(&format!("{name}.")))
        .max_by_key(|package| numbers(&package.version))
        .with_context(|| format!("no suite has a {metapackage} {name}"))?;
    let image = newest
        .depends
        .iter()
        .find(|dependency| dependency.starts_with("linux-image-"))
        .with_context(|| format!("{metapackage} {} depends on no image", newest.version))?;
    let release = image.trim_start_matches("linux-image-");
    let dir = cache.join(&newest.version);
    if dir.exists() {
        return Ok(newest.version.clone());
    }
    let making = cache.join("unpacking");
    if making.exists() {
        fs::remove_dir_all(&making).context("removing what a killed run left")?;
    }
    // Since 7.0 Debian packages image, modules and the list of what is built in apart, all named for the release.
    let parts = ["binary", "modules", "base"].map(|part| format!("linux-{part}-{release}"));
    archive.unpack(image, &parts, &making)?;
    arrange(&making, release)?;
    fs::write(making.join("release"), release)?;
    fs::rename(&making, &dir).with_context(|| format!("keeping {}", dir.display()))?;
    Ok(newest.version.clone())
}

/// Brings an unpacked kernel to one shape: `vmlinuz`, `lib/modules/RELEASE` with `modules.dep`, and nothing else.
fn arrange(dir: &Path, release: &str) -> Result<()> {
    let modules = dir.join("lib/modules");
    if !modules.exists() {
        fs::create_dir_all(dir.join("lib"))?;
        fs::rename(dir.join("usr/lib/modules"), &modules).context("finding the modules")?;
    }
    let images =
        [dir.join(format!("boot/vmlinuz-{release}")), modules.join(release).join("vmlinuz")];
    let image = images.iter().find(|image| image.exists()).context("finding the image")?;
    fs::rename(image, dir.join("vmlinuz"))?;
    for rest in ["boot", "usr"] {
        if dir.join(rest).exists() {
            fs::remove_dir_all(dir.join(rest))?;
        }
    }
    run(Command::new("depmod").arg("-b").arg(dir).arg(release))
        .context("ordering the modules; depmod is in the package kmod")?;
    Ok(())
}

/// The kernel that `known` names, if all of it is there.
fn cached(name: &str, known: &Path, cache: &Path) -> Result<Kernel> {
    let version = fs::read_to_string(known)
        .with_context(|| format!("reading which version kernel {name} is"))?;
    let dir = cache.join(version);
    let release = fs::read_to_string(dir.join("release"))
        .with_context(|| format!("reading the release of kernel {name}"))?;
    let modules = dir.join("lib/modules").join(&release);
    for file in [dir.join("vmlinuz"), modules.join("modules.dep")] {
        if !file.exists() {
            bail!("{} is missing", file.display());
        }
    }
    Ok(Kernel {
        name: name.to_owned(),
        release,
        image: dir.join("vmlinuz"),
        modules: Some(modules),
    })
}

/// A kernel of one's own: an image, with its modules in `lib/modules/RELEASE` below `modules`, where `make modules_install` with
/// `INSTALL_MOD_PATH` puts them.
pub fn own(image: &Path, modules: Option<&Path>) -> Result<Kernel> {
    let release = release_of(image)
        .with_context(|| format!("{} is not a kernel image for x86 (bzImage)", image.display()))?;
    let modules = match modules {
        None => None,
        Some(root) => {
            let dir = root.join("lib/modules").join(&release);
            if !dir.join("modules.dep").exists() {
                bail!(
                    "{} is missing; `make modules_install INSTALL_MOD_PATH={}` makes it",
                    dir.join("modules.dep").display(),
                    root.display()
                );
            }
            Some(dir)
        }
    };
    Ok(Kernel { name: release.clone(), release, image: image.to_owned(), modules })
}

/// The release inside a bzImage: a string at 0x200 plus what 0x20E says (Documentation/arch/x86/boot.rst, `kernel_version`).
fn release_of(image: &Path) -> Result<String> {
    let bytes = fs::read(image)?;
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        bail!("it has no setup header");
    }
    let offset = usize::from(u16::from_le_bytes([bytes[0x20e], bytes[0x20f]])) + 0x200;
    let text = bytes.get(offset..).unwrap_or_default();
    let release = text.split(|byte| *byte == b' ' || *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(release).into_owned())
}

/// The numbers of a version, for comparison.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_valid() {
        assert!(list().unwrap().kernels.contains(&"newest".to_owned()));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("6.12.117-1") > numbers("6.12.95-1~bpo12+1"));
        assert!(numbers("7.3.4-1~bpo13+1") > numbers("6.12.117-1"));
    }
}
