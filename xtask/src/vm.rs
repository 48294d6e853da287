//! `cargo xtask vm`: the product on real kernels, in virtual machines.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};
use pairflip_vm_tests::{
    cache_dir,
    scenario::{self, Suite},
    vm::{
        accel::Accel,
        kernel::{self, Freshness, Kernel},
        matrix::Matrix,
        network::{self, Network},
        pack::{self, Build},
        report,
        run_dir::RunDir,
    },
};

use crate::{build, root, say, setup};

/// Exit status of a process that a signal ended: 128 and SIGINT's number.
const INTERRUPTED: i32 = 130;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Scenarios by name; without any, the quick ones.
    scenarios: Vec<String>,
    /// All scenarios.
    #[arg(long, conflicts_with = "scenarios")]
    all: bool,
    /// Lists scenarios and kernels.
    #[arg(long)]
    list: bool,
    /// A kernel of vm-tests/kernels.toml, or a bzImage; may be given several times. All of the list without it.
    #[arg(long, value_name = "NAME|FILE")]
    kernel: Vec<String>,
    /// Where `make modules_install INSTALL_MOD_PATH=DIR` put the modules of a bzImage.
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Asks Debian's archive for newer kernels than the cached ones.
    #[arg(long)]
    update: bool,
    /// How machines are run; without it, KVM where a guest boots with it.
    #[arg(long)]
    accel: Option<AccelArgument>,
    /// How machines are connected; without it, taps where they can be made.
    #[arg(long)]
    network: Option<NetworkArgument>,
    /// Where matrix.md, junit.xml and the consoles of failed scenarios go; without it, target/vm.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Scenarios that run at once. A machine has two processors.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

#[derive(Clone, Copy, ValueEnum)]
enum AccelArgument {
    Kvm,
    Tcg,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkArgument {
    /// Several queues for each card; needs root, or user namespaces and /dev/net/tun.
    Tap,
    /// One queue for each card; needs nothing.
    Socket,
}

pub(crate) fn vm(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        return list();
    }
    let scenarios = selected(arguments)?;
    setup::setup(setup::For::Everything)?;
    let build = build_all()?;
    let kernels = kernels(arguments)?;
    pack::fetch(&scenarios)?;

    let wanted = arguments.network.map(|network| match network {
        NetworkArgument::Tap => Network::Tap,
        NetworkArgument::Socket => Network::Socket,
    });
    // From here on this process is cut off from the outside, and may start threads.
    let network = network::choose(wanted, say)?;
    let dir = RunDir::make()?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_when_interrupted(Arc::clone(&stop))?;
    let accel = match arguments.accel {
        Some(AccelArgument::Kvm) => Accel::Kvm,
        Some(AccelArgument::Tcg) => Accel::Tcg,
        None => Accel::probe(kernels.last().context("no kernel")?, &build.guest, dir.path()),
    };
    let about = format!("Machines: {}, cards on {}.", accel.name(), network.name());
    say(&format!("{about} {} scenarios on {} kernels:", scenarios.len(), kernels.len()));
    let results = arguments.results.clone().unwrap_or_else(|| build::target_dir().join("vm"));
    let matrix = Matrix {
        kernels,
        scenarios,
        build,
        accel,
        network,
        jobs: usize::from(arguments.jobs),
        dir: dir.path().to_owned(),
        results: results.clone(),
        stop: Arc::clone(&stop),
    };
    let outcomes = matrix.run(|outcome| show(&report::line(outcome)))?;
    drop(dir);

    fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
    fs::write(results.join("matrix.md"), report::markdown(&outcomes, &about))
        .context("writing the matrix as Markdown")?;
    fs::write(results.join("junit.xml"), report::junit(&outcomes)?)
        .context("writing the matrix as JUnit XML")?;
    show(&format!("\n{}", report::table(&outcomes)));
    let count = report::count(&outcomes);
    show(&format!(
        "matrix: {} passed, {} failed, {} unsupported (also in {}: matrix.md, junit.xml)",
        count.passed,
        count.failed,
        count.unsupported,
        results.strip_prefix(root()).unwrap_or(&results).display()
    ));
    if stop.load(Ordering::Relaxed) {
        std::process::exit(INTERRUPTED);
    }
    if count.failed > 0 {
        bail!("{} of {} failed", count.failed, outcomes.len());
    }
    Ok(())
}

fn list() -> Result<()> {
    show("scenarios (* quick):");
    for (name, scenario) in scenario::all() {
        let mark = if scenario.suite == Suite::Quick { '*' } else { ' ' };
        show(&format!("  {mark} {name:<22} {}", scenario.about));
    }
    show(&format!("kernels: {}", kernel::list()?.kernels.join(", ")));
    Ok(())
}

fn selected(arguments: &Arguments) -> Result<Vec<(&'static str, &'static scenario::Scenario)>> {
    if let Some(unknown) = arguments.scenarios.iter().find(|name| scenario::find(name).is_err()) {
        scenario::find(unknown)?;
    }
    let selected = scenario::all().iter().filter(|(name, scenario)| {
        let named = arguments.scenarios.iter().any(|wanted| wanted == name);
        let quick = arguments.scenarios.is_empty() && scenario.suite == Suite::Quick;
        arguments.all || named || quick
    });
    Ok(selected.copied().collect())
}

fn kernels(arguments: &Arguments) -> Result<Vec<Kernel>> {
    let (files, mut names): (Vec<&String>, Vec<&String>) =
        arguments.kernel.iter().partition(|kernel| Path::new(kernel).is_file());
    let list = kernel::list()?.kernels;
    if arguments.kernel.is_empty() {
        names = list.iter().collect();
    }
    let names: Vec<String> = names.into_iter().cloned().collect();
    let freshness = if arguments.update { Freshness::Update } else { Freshness::Cached };
    let mut kernels = kernel::fetch(&names, freshness, &cache_dir().join("kernels"), say)?;
    for file in files {
        kernels.push(kernel::own(Path::new(file), arguments.modules.as_deref())?);
    }
    Ok(kernels)
}

/// The product and the guest's init as released, the tests of packets as they are tested on the host.
fn build_all() -> Result<Build> {
    build::build()?;
    build::check(build::cargo().args([
        "build",
        "--release",
        "--package",
        "pairflip-vm-tests",
        "--bin",
        "pairflip-guest",
    ]))?;
    let release = build::target_dir().join("release");
    Ok(Build {
        product: release.clone(),
        guest: release.join("pairflip-guest"),
        packet_tests: test_program("packets")?,
    })
}

/// Builds a test program of the product and returns its path.
fn test_program(name: &str) -> Result<PathBuf> {
    let mut command = build::cargo();
    command.args([
        "test",
        "--release",
        "--quiet",
        "--package",
        "pairflip",
        "--test",
        name,
        "--no-run",
    ]);
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("the output is not piped")?;
    let mut found = None;
    for line in BufReader::new(output).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        if message["target"]["name"] == name {
            found = message["executable"].as_str().map(PathBuf::from).or(found);
        }
    }
    if !child.wait()?.success() {
        bail!("building the tests of {name} failed");
    }
    found.with_context(|| format!("cargo names no program for the tests of {name}"))
}

/// On the first signal machines and other children are killed, again and again until all that waits for them has ended.
fn stop_when_interrupted(stop: Arc<AtomicBool>) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;
    thread::spawn(move || {
        if signals.wait().is_err() {
            return;
        }
        say("interrupted; removing the machines");
        stop.store(true, Ordering::Relaxed);
        loop {
            for child in children() {
                // It may have ended by itself.
                _ = kill(child, Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    Ok(())
}

/// Children of all threads of this process.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids = |list: String| -> Vec<Pid> {
        list.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
    };
    lists.flat_map(pids).collect()
}

#[expect(clippy::print_stdout, reason = "the matrix is the command's result")]
fn show(text: &str) {
    println!("{text}");
}
