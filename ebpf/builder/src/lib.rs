//! Finds a compiler for the BPF target and builds the kernel object with it.
//!
//! Used by `userspace/build.rs`, so that a plain `cargo build` works, and by `cargo xtask setup`, which installs what
//! [`find`] says is missing. Two compilers will do: Debian's `rustc-web` with its ready-made `core` for BPF, or
//! rustup's nightly with `rust-src`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Version of the linker that the object is known to build with.
pub const LINKER_VERSION: &str = "0.10.3";

/// The BPF target of little-endian machines.
const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build for the BPF target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Compiler {
    /// A compiler with `core` for BPF already built, as Debian packages it.
    Prebuilt { rustc: PathBuf },
    /// A rustup toolchain with the sources of `core`.
    BuildStd { toolchain: String },
}

/// All that the object needs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

/// What is missing on this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Missing {
    Compiler,
    Linker,
}

/// Finds compiler and linker, or says which is missing.
pub fn find() -> Result<Toolchain, Vec<Missing>> {
    match (find_compiler(), find_linker()) {
        (Some(compiler), Some(linker)) => Ok(Toolchain { compiler, linker }),
        (compiler, linker) => {
            let mut missing = Vec::new();
            if compiler.is_none() {
                missing.push(Missing::Compiler);
            }
            if linker.is_none() {
                missing.push(Missing::Linker);
            }
            Err(missing)
        }
    }
}

/// Where `cargo xtask setup` installs tools, shared by all checkouts of a user.
pub fn tools_dir() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    cache.unwrap_or_else(|| home().join(".cache")).join("pairflip/tools")
}

fn find_compiler() -> Option<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    if output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]))
        .is_some_and(|dir| has_core(Path::new(&dir)))
    {
        return Some(Compiler::Prebuilt { rustc });
    }
    let toolchain = "nightly";
    let sysroot =
        output(Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]))?;
    Path::new(&sysroot)
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
        .then(|| Compiler::BuildStd { toolchain: toolchain.to_owned() })
}

fn has_core(libdir: &Path) -> bool {
    fs::read_dir(libdir).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn find_linker() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    [tools_dir().join("bin")]
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(cargo_home)
        .map(|dir| dir.join("bpf-linker"))
        .find(|linker| linker.is_file())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// Builds the object of the workspace at `root` into `target_dir` and returns its path. `packet_log`: one that writes a line about every TCP packet,
/// for debugging.
pub fn build(root: &Path, target_dir: &Path, packet_log: bool) -> Result<PathBuf> {
    let toolchain = find().map_err(|missing| anyhow::anyhow!("{}", explain(&missing)))?;
    let mut cargo = cargo(&toolchain, root, target_dir)?;
    if packet_log {
        cargo.args(["--features", "packet-log"]);
    }
    let status = cargo.status().context("starting cargo to build the kernel object")?;
    if !status.success() {
        bail!(
            "building the kernel object with {toolchain:?} failed ({status}); its output is above"
        );
    }
    Ok(target_dir.join(TARGET).join("release/pairflip-xdp"))
}

/// Says what to do about missing tools.
pub fn explain(missing: &[Missing]) -> String {
    let mut text = String::from(
        "the kernel object cannot be built on this machine yet; run `cargo xtask setup`, or install:",
    );
    for tool in missing {
        text.push_str(match tool {
            Missing::Compiler => "\n  a compiler for BPF: `apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf`,\n    or `rustup toolchain install nightly --component rust-src`",
            Missing::Linker => "\n  bpf-linker: `cargo install bpf-linker`",
        });
    }
    text
}

fn cargo(toolchain: &Toolchain, root: &Path, target_dir: &Path) -> Result<Command> {
    let mut command = match &toolchain.compiler {
        Compiler::Prebuilt { rustc } => {
            let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.env("RUSTC", rustc);
            command
        }
        Compiler::BuildStd { toolchain } => {
            let mut command = Command::new("rustup");
            command.args(["run", toolchain, "cargo"]);
            command
        }
    };
    // The outer cargo, clippy or nextest speak to their own compiler through these.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let ours = name == "CARGO_HOME" || name == "RUSTC";
        if !ours
            && (name.starts_with("CARGO") || name.starts_with("RUST"))
            && !name.starts_with("RUSTUP_HOME")
        {
            command.env_remove(key);
        }
    }
    if let Compiler::BuildStd { .. } = toolchain.compiler {
        command.env_remove("RUSTC");
    }
    let arch = env::consts::ARCH;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit instructions: Linux 5.1.
        "-Ctarget-cpu=v3".to_owned(),
        // Headers are byte arrays. Without this each 4-byte field is loaded byte by byte; every kernel that runs XDP on
        // these machines allows unaligned loads (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
    ];
    command
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // aya-ebpf uses unstable attributes for its map definitions; `core` is built from source by nightly only.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with(&toolchain.linker)?)
        .env("LD_LIBRARY_PATH", library_path())
        .args(["build", "--release", "--locked", "--package", "pairflip-ebpf", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir);
    if let Compiler::BuildStd { .. } = toolchain.compiler {
        command.args(["-Z", "build-std=core"]);
    }
    Ok(command)
}

fn path_with(linker: &Path) -> Result<OsString> {
    let dir = linker.parent().context("the linker's path has no directory")?;
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths([dir.to_owned()].into_iter().chain(env::split_paths(&path)))
        .context("putting the linker's directory on PATH")
}

/// bpf-linker loads LLVM from a Rust toolchain; rustup's proxies set this path, a cargo started directly does not.
fn library_path() -> OsString {
    let mut paths: Vec<PathBuf> = env::var_os("LD_LIBRARY_PATH")
        .map(|paths| env::split_paths(&paths).collect())
        .unwrap_or_default();
    if let Some(sysroot) = output(Command::new("rustc").args(["--print", "sysroot"])) {
        paths.push(Path::new(&sysroot).join("lib"));
    }
    env::join_paths(paths).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_tool_is_named_with_the_command_that_installs_it() {
        let text = explain(&[Missing::Compiler, Missing::Linker]);
        for word in ["cargo xtask setup", "rustc-web", "rust-src", "cargo install bpf-linker"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
