//! Every scenario on every kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    accel::Accel,
    channel::{FromGuest, Verdict},
    console::Alarm,
    kernel::Kernel,
    machines::{Machines, Plan},
    network::Network,
    pack::{Build, memory_mib, pack},
    qemu::{Spec, Vm},
};
use crate::scenario::{Notes, Scenario, Story, Unsupported};

/// What to run, and with what.
#[derive(Debug)]
pub struct Matrix {
    pub kernels: Vec<Kernel>,
    pub scenarios: Vec<(&'static str, &'static Scenario)>,
    pub build: Build,
    pub accel: Accel,
    pub network: Network,
    /// Scenarios that run at once.
    pub jobs: usize,
    /// Sockets, disks, initramfs.
    pub dir: PathBuf,
    /// Where the consoles of failed scenarios are kept.
    pub results: PathBuf,
    /// Set when the run is to end before it is through.
    pub stop: Arc<AtomicBool>,
}

/// How often a scenario is told when the emulator spoils it.
const ATTEMPTS_MAX: usize = 3;

/// One cell.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub kernel: String,
    pub release: String,
    pub scenario: &'static str,
    pub verdict: Verdict,
    pub notes: Vec<String>,
    /// From packing the guest to the verdict.
    pub took: Duration,
}

impl Matrix {
    /// Runs all; `progress` is told of each outcome as it comes. Returns them kernel by kernel.
    pub fn run(&self, progress: impl Fn(&Outcome) + Sync) -> Result<Vec<Outcome>> {
        let programs = self.dir.join("programs");
        fs::create_dir_all(&programs).context("making the directory of stripped programs")?;
        let build = self.build.stripped(&programs)?;
        let pairs = self.kernels.iter().flat_map(|kernel| {
            self.scenarios.iter().map(move |(name, scenario)| (kernel, *name, *scenario))
        });
        let cells: Vec<Cell<'_>> = pairs
            .enumerate()
            .map(|(number, (kernel, name, scenario))| Cell {
                matrix: self,
                build: &build,
                kernel,
                name,
                scenario,
                number,
            })
            .collect();
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(vec![None; cells.len()]);
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = cell.outcome();
                        // One that was interrupted says nothing.
                        if self.stop.load(Ordering::Relaxed) {
                            break;
                        }
                        progress(&outcome);
                        lock(&outcomes)[cell.number] = Some(outcome);
                    }
                });
            }
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(outcomes.into_iter().flatten().collect())
    }
}

/// One kernel and one scenario.
struct Cell<'a> {
    matrix: &'a Matrix,
    build: &'a Build,
    kernel: &'a Kernel,
    name: &'static str,
    scenario: &'static Scenario,
    /// Its place in the matrix, which also keeps its machines apart from others.
    number: usize,
}

impl Cell<'_> {
    fn outcome(&self) -> Outcome {
        let dir = self.matrix.dir.join(self.number.to_string());
        let kept = self.matrix.results.join(format!("{}-{}", self.kernel.name, self.name));
        // Of an earlier run; there may be none.
        _ = fs::remove_dir_all(&kept);
        let mut notes = Notes::default();
        let mut start = Instant::now();
        let mut told = self.tell(&dir, &mut notes);
        for _ in 1..ATTEMPTS_MAX {
            let Err(error) = &told else { break };
            if !self.is_the_emulators_fault(error) {
                break;
            }
            notes = Notes::default();
            notes.add("told again: the emulator lost track of a kernel that changed its own code");
            start = Instant::now();
            told = self.tell(&dir, &mut notes);
        }
        let took = start.elapsed();
        let mut verdict = match told {
            Ok(verdict) => verdict,
            Err(error) => match error.downcast::<Unsupported>() {
                Ok(Unsupported(reason)) => Verdict::Unsupported(reason),
                Err(error) => Verdict::Failed(format!("{error:#}")),
            },
        };
        if let Verdict::Failed(reason) = &mut verdict {
            match keep_consoles(&dir, &kept) {
                Ok(()) => reason.push_str(&format!("\n(consoles: {})", kept.display())),
                Err(error) => reason.push_str(&format!("\n(consoles are lost: {error:#})")),
            }
        }
        // What is left goes with the run's directory.
        _ = fs::remove_dir_all(&dir);
        Outcome {
            kernel: self.kernel.name.clone(),
            release: self.kernel.release.clone(),
            scenario: self.name,
            verdict,
            notes: notes.0,
            took,
        }
    }

    /// A kernel patches its code through a breakpoint, and QEMU 7.2 that emulates several processors now and then runs the
    /// breakpoint after it is gone. Seen once in some fifty boots, at places like `sched_clock_cpu`.
    fn is_the_emulators_fault(&self, error: &anyhow::Error) -> bool {
        self.matrix.accel == Accel::Tcg && format!("{error:#}").contains("int3: 0000")
    }

    fn tell(&self, dir: &Path, notes: &mut Notes) -> Result<Verdict> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let Self { matrix, kernel, scenario, .. } = self;
        let initramfs = dir.join("initramfs.cpio");
        pack(self.build, kernel, &scenario.needs, scenario.story, &initramfs)?;
        let memory_mib = memory_mib(&initramfs, &scenario.needs)?;
        let deadline = Instant::now() + scenario.limit;
        match scenario.story {
            Story::OneGuest(_) => {
                let vm = Vm::boot(&Spec {
                    name: "guest".to_owned(),
                    accel: matrix.accel,
                    image: kernel.image.clone(),
                    initramfs,
                    role: self.name.to_owned(),
                    cpus: 2,
                    memory_mib,
                    devices: Vec::new(),
                    dir: dir.to_owned(),
                    alarm: Alarm::default(),
                })?;
                loop {
                    match vm.next(deadline)? {
                        FromGuest::Verdict(verdict) => return Ok(verdict),
                        FromGuest::Note(note) => notes.add(note),
                        FromGuest::Ready | FromGuest::Reply(_) => {}
                    }
                }
            }
            Story::Machines(story) => {
                let mut machines = Machines::boot(&Plan {
                    accel: matrix.accel,
                    network: matrix.network,
                    image: kernel.image.clone(),
                    initramfs,
                    memory_mib,
                    dir: dir.to_owned(),
                    set: self.number,
                    deadline,
                })?;
                story(&mut machines, notes)?;
                machines.all_well()?;
                Ok(Verdict::Passed)
            }
        }
    }
}

fn keep_consoles(dir: &Path, kept: &Path) -> Result<()> {
    fs::create_dir_all(kept).with_context(|| format!("making {}", kept.display()))?;
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "console") {
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
