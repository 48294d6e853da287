//! `cargo xtask`: everything that building, trying and testing pairflip needs.

mod build;
mod ci;
mod detection;
mod drains;
mod flips;
mod lab;
mod run;
mod setup;
mod test;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use pairflip_vm_tests::Flavour;

/// Builds, runs and tests pairflip. Each command installs what it needs and says what it installs.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building and testing need: a compiler for BPF, bpf-linker, MariaDB, network tools and
    /// QEMU; fetches MariaDB 11.8 and MySQL 9.7 for the tests.
    Setup,
    /// Builds target/release/pairflipd and target/release/pairflip.
    Build,
    /// Brings up the demo lab with pairflipd in it and waits for Ctrl-C; with --config, runs pairflipd on this host.
    Run {
        /// Run on this host with this configuration instead of in the demo lab.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// The lab by itself: two clients, the redirector's host and four database servers in network namespaces.
    #[command(subcommand)]
    Lab(lab::Command),
    /// Runs all tests: unit, property and simulation tests, packets through the kernel, real servers in namespaces.
    Test,
    /// The product on real kernels in virtual machines: a matrix of kernels and scenarios. Without root where user namespaces work.
    Vm(vm::Arguments),
    /// What CI runs: formatting, clippy, docs, then `test`.
    Ci,
    /// Measures; each benchmark prints its figures beside their floor and target.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Nanoseconds per packet from the kernel's test-run.
    Packet {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Time from a fault of a server to the daemon's verdict, beside what the configuration promises. Some ten minutes.
    Detection {
        /// How often each fault happens to each role; at least 2.
        #[arg(long, default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..))]
        count: usize,
        /// The database servers: mariadb-10.11 (the host's own), mariadb-11.8 or mysql-9.7.
        #[arg(long, default_value = Flavour::default().name(), value_parser = Flavour::from_name)]
        servers: Flavour,
    },
    /// Flips while 16 clients write: what is lost, what clients are told, how long writes pause. Some five minutes.
    Flip(flips::Arguments),
    /// Reads that return to a replica, by failback and by kind of pool: errors, time, latency. Some ten minutes.
    Drain(drains::Arguments),
}

fn main() -> ExitCode {
    let path = std::env::var("PATH").unwrap_or_default();
    // SAFETY: no other thread runs yet. Users who are not root have these not on their path, where Debian keeps depmod and mkfs.
    unsafe { std::env::set_var("PATH", format!("{path}:/usr/sbin:/sbin")) };
    let result = match Arguments::parse().command {
        Command::Setup => setup::setup(setup::For::Everything),
        Command::Build => build::build(),
        Command::Run { config: Some(config) } => run::on_host(&config),
        Command::Run { config: None } => run::demo(),
        Command::Lab(command) => lab::lab(command),
        Command::Test => test::test(),
        Command::Vm(arguments) => vm::vm(&arguments),
        Command::Ci => ci::ci(),
        Command::Bench(Bench::Packet { json }) => bench_packet(json),
        Command::Bench(Bench::Detection { count, servers }) => detection::bench(count, servers),
        Command::Bench(Bench::Flip(arguments)) => flips::bench(&arguments),
        Command::Bench(Bench::Drain(arguments)) => drains::bench(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn bench_packet(json: bool) -> Result<()> {
    setup::setup(setup::For::Building)?;
    let mut command = build::cargo();
    command.args(["bench", "--quiet", "--package", "pairflip", "--bench", "packet", "--"]);
    if json {
        command.arg("--json");
    }
    build::check(&mut command)
}

/// The workspace's directory.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A line for the person at the terminal; standard output is for results.
#[expect(clippy::print_stderr, reason = "xtask talks to a person")]
fn say(line: &str) {
    eprintln!("{line}");
}
