//! Installing what is missing, and saying so.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use pairflip_ebpf_builder::{LINKER_VERSION, Missing, find, tools_dir};
use pairflip_vm_tests::lab;

use crate::{build::check, say};

/// What the tools are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum For {
    Building,
    /// Building and the lab.
    Lab,
    /// Building, the lab, and clients in Python and Java.
    Clients,
    /// Building, the lab with all database servers, and virtual machines.
    Everything,
}

/// A program of the lab and the Debian package that has it.
const LAB_PROGRAMS: [(&str, &str); 6] = [
    ("mariadbd", "mariadb-server-core"),
    ("mariadb", "mariadb-client-core"),
    ("mariadb-install-db", "mariadb-server-core"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
];

/// What clients in Python and Java are run by. Their libraries are fetched, not installed.
const CLIENT_PROGRAMS: [(&str, &str); 2] =
    [("/usr/bin/python3", "python3"), ("javac", "default-jdk-headless")];

/// A program or file that virtual machines need, or that is copied into them.
const MACHINE_PROGRAMS: [(&str, &str); 9] = [
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("dpkg", "dpkg"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ipvsadm", "ipvsadm"),
];

const BPF_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

pub(crate) fn setup(purpose: For) -> Result<()> {
    if let Err(missing) = find() {
        for tool in missing {
            match tool {
                Missing::Compiler => install_compiler()?,
                Missing::Linker => install_linker()?,
            }
        }
        if let Err(missing) = find() {
            bail!("after the installation: {}", pairflip_ebpf_builder::explain(&missing));
        }
    }
    let programs: Vec<(&str, &str)> = match purpose {
        For::Building => Vec::new(),
        For::Lab => LAB_PROGRAMS.to_vec(),
        For::Clients => [&LAB_PROGRAMS[..], &CLIENT_PROGRAMS[..]].concat(),
        For::Everything => [&LAB_PROGRAMS[..], &MACHINE_PROGRAMS[..]].concat(),
    };
    let missing = programs.iter().filter(|(program, _)| !on_path(program));
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    if purpose == For::Everything {
        lab::fetch_servers(say)?;
    }
    Ok(())
}

/// Debian's packages where they exist, else rustup's nightly.
fn install_compiler() -> Result<()> {
    if on_path("apt-get") && is_root() {
        apt_update()?;
        if BPF_PACKAGES.iter().all(|package| has_candidate(package)) {
            return apt_install(&BPF_PACKAGES);
        }
        say(
            "this release has no rustc-web with a standard library for BPF; using rustup's nightly",
        );
    }
    if !on_path("rustup") {
        bail!("{}", pairflip_ebpf_builder::explain(&[Missing::Compiler]));
    }
    say("installing rustup's nightly toolchain with rust-src");
    check(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]))
    .context(pairflip_ebpf_builder::explain(&[Missing::Compiler]))
}

fn install_linker() -> Result<()> {
    let dir = tools_dir();
    say(&format!("installing bpf-linker {LINKER_VERSION} into {} (a minute)", dir.display()));
    check(
        Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--root"])
            .arg(&dir)
            .arg(format!("bpf-linker@{LINKER_VERSION}")),
    )
    .context("installing bpf-linker")
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !on_path("apt-get") {
        bail!(
            "these are missing and there is no apt-get: install what Debian calls {}",
            packages.join(", ")
        );
    }
    if !is_root() {
        bail!("packages are missing and this is not root; run: sudo {by_hand}");
    }
    apt_update()?;
    say(&format!("installing {}", packages.join(", ")));
    check(
        Command::new("apt-get")
            .args(["install", "--yes", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()),
    )
    .with_context(|| format!("run it by hand to see more: {by_hand}"))
}

/// A list that cannot be brought up to date may still do.
fn apt_update() -> Result<()> {
    say("bringing apt's package lists up to date");
    let status = Command::new("apt-get")
        .args(["update", "-qq"])
        .stdout(Stdio::null())
        .status()
        .context("starting apt-get")?;
    if !status.success() {
        say("apt-get update failed; going on with the lists that are there");
    }
    Ok(())
}

fn has_candidate(package: &str) -> bool {
    Command::new("apt-cache").args(["policy", package]).output().is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.contains("Candidate: ") && !text.contains("Candidate: (none)")
    })
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An absolute path stays what it is.
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
