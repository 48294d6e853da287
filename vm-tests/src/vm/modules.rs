//! Which module files a guest needs, in the order in which they load.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::scenario::Unsupported;

/// Modules that older kernels find by an alias when another one asks for them, and newer ones have built in under another name.
pub(crate) const IF_THERE: [&str; 1] = ["crc32c_generic"];

/// Returns the files of `wanted` and of what they depend on, dependencies first. What is built in needs no file.
pub(crate) fn files(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let Some(dir) = &kernel.modules else { return Ok(Vec::new()) };
    let index = Index::read(dir)?;
    let mut order = Vec::new();
    for name in wanted {
        match index.paths.get(*name) {
            Some(path) => index.add(path, &mut order),
            None if index.built_in.contains(*name) => {}
            None if IF_THERE.contains(name) => {}
            None => {
                let reason = format!("kernel {} has no module {name}", kernel.release);
                return Err(Unsupported(reason).into());
            }
        }
    }
    Ok(order.into_iter().map(|path| dir.join(path)).collect())
}

/// Reads a module's file, decompressed.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("reading {}", path.display())),
    };
    let output = crate::command::output(Command::new(program).arg("-dc").arg(path))?;
    if !output.status.success() {
        bail!("decompressing {} with {program} failed", path.display());
    }
    Ok(output.stdout)
}

/// `modules.dep` and `modules.builtin`.
struct Index {
    paths: HashMap<String, String>,
    depends: HashMap<String, Vec<String>>,
    built_in: std::collections::HashSet<String>,
}

impl Index {
    fn read(dir: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let mut paths = HashMap::new();
        let mut depends = HashMap::new();
        for line in text("modules.dep")?.lines() {
            let (path, rest) = line.split_once(':').with_context(|| format!("{line:?}"))?;
            paths.insert(name_of(path), path.to_owned());
            depends.insert(path.to_owned(), rest.split_whitespace().map(str::to_owned).collect());
        }
        let built_in = text("modules.builtin")?.lines().map(name_of).collect();
        Ok(Self { paths, depends, built_in })
    }

    /// `modules.dep` lists all that a module depends on, the nearest first.
    fn add(&self, path: &String, order: &mut Vec<String>) {
        let below = self.depends.get(path).into_iter().flatten().rev();
        for file in below.chain([path]) {
            if !order.contains(file) {
                order.push(file.clone());
            }
        }
    }
}

/// The name under which a module is known: files may have dashes.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_load_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "net/bridge/br_netfilter.ko: net/bridge/bridge.ko net/llc/llc.ko\n\
             net/bridge/bridge.ko: net/llc/llc.ko\nnet/llc/llc.ko:\n",
        )
        .unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/drivers/virtio/virtio-pci.ko\n")
            .unwrap();
        let kernel = Kernel {
            name: "test".to_owned(),
            release: "1.2.3".to_owned(),
            image: PathBuf::new(),
            modules: Some(dir.path().to_owned()),
        };
        let names = |wanted: &[&str]| -> Vec<String> {
            let files = files(&kernel, wanted).unwrap();
            files.iter().map(|path| name_of(&path.display().to_string())).collect()
        };
        assert_eq!(names(&["br_netfilter", "virtio_pci"]), ["llc", "bridge", "br_netfilter"]);
        assert_eq!(names(&["llc", "bridge"]), ["llc", "bridge"]);
        let error = files(&kernel, &["veth"]).unwrap_err().to_string();
        assert_eq!(error, "kernel 1.2.3 has no module veth");
    }
}
