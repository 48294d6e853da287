//! A guest's root file system: a cpio archive that the kernel unpacks at boot (Documentation/driver-api/early-userspace).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use cpio::newc;

use super::program::Program;
use crate::command::run;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// What goes in, by its path in the guest.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    File { content: Content, permissions: u32 },
    Link(PathBuf),
}

#[derive(Debug)]
enum Content {
    OnHost(PathBuf),
    Bytes(Vec<u8>),
}

impl Initramfs {
    pub(crate) fn bytes(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        let content = Content::Bytes(bytes.into());
        self.insert(Path::new(path), Entry::File { content, permissions: 0o644 });
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.insert(Path::new(path), Entry::Directory);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.insert(Path::new(path), Entry::Link(target.into()));
    }

    pub(crate) fn file(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let metadata = fs::metadata(host).with_context(|| format!("packing {}", host.display()))?;
        let permissions = metadata.permissions().mode() & 0o777;
        let content = Content::OnHost(host.to_owned());
        self.insert(guest, Entry::File { content, permissions });
        Ok(())
    }

    /// A directory of the host with all below it.
    pub(crate) fn tree(&mut self, host: &Path, guest: &Path) -> Result<()> {
        self.insert(guest, Entry::Directory);
        let entries = fs::read_dir(host).with_context(|| format!("packing {}", host.display()))?;
        for entry in entries {
            let entry = entry?;
            let inside = guest.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.tree(&entry.path(), &inside)?;
            } else {
                self.file(&entry.path(), &inside)?;
            }
        }
        Ok(())
    }

    /// A program with the libraries that it is linked to.
    pub(crate) fn program(&mut self, program: &Program, guest: &Path) -> Result<()> {
        self.file(&program.path, guest)?;
        for (host, guest) in program.libraries()? {
            self.file(&host, &guest)?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive, uncompressed: an emulated machine unpacks slower than it copies.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("making {}", to.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            // Paths are relative to the root; a parent sorts before what it holds.
            let name = path.strip_prefix("/").unwrap_or(path).display().to_string();
            let (mode, bytes) = match entry {
                Entry::Directory => (DIRECTORY | 0o755, Vec::new()),
                Entry::Link(target) => (LINK | 0o777, target.display().to_string().into_bytes()),
                Entry::File { content: Content::Bytes(bytes), permissions } => {
                    (REGULAR | permissions, bytes.clone())
                }
                Entry::File { content: Content::OnHost(path), permissions } => {
                    let bytes =
                        fs::read(path).with_context(|| format!("packing {}", path.display()))?;
                    (REGULAR | permissions, bytes)
                }
            };
            let size = u32::try_from(bytes.len())
                .with_context(|| format!("{name} is larger than a cpio entry can be (4 GiB)"))?;
            let mut writer =
                newc::Builder::new(&name).ino(number as u32 + 1).mode(mode).write(&mut file, size);
            writer.write_all(&bytes).with_context(|| format!("writing {name}"))?;
            writer.finish()?;
        }
        newc::trailer(&mut file)?.flush().context("writing the initramfs")
    }
}

/// Writes a copy of a program without its debug information, which a guest's memory need not hold.
pub(crate) fn strip(program: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(program))
        .with_context(|| {
            format!("stripping {}; strip is in the package binutils", program.display())
        })
        .map(|_| ())
}
