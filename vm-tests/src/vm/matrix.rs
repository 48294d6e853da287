//! Every scenario on every kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    accel::Accel,
    channel::{FromGuest, Verdict},
    kernel::Kernel,
    machines::{Machines, Plan},
    network::{self, Network},
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
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub kernel: String,
    pub release: String,
    pub scenario: &'static str,
    pub verdict: Verdict,
    pub notes: Vec<String>,
    /// From boot to verdict.
    pub took: Duration,
}

impl Matrix {
    /// Runs all; `progress` is told of each outcome as it comes. Returns them kernel by kernel.
    pub fn run(&self, progress: impl Fn(&Outcome) + Sync) -> Result<Vec<Outcome>> {
        let programs = self.dir.join("programs");
        fs::create_dir_all(&programs).context("making the directory of stripped programs")?;
        let build = self.build.stripped(&programs)?;
        let cells: Vec<(&Kernel, &(&'static str, &'static Scenario))> = self
            .kernels
            .iter()
            .flat_map(|kernel| self.scenarios.iter().map(move |scenario| (kernel, scenario)))
            .collect();
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(vec![None; cells.len()]);
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    loop {
                        let cell = next.fetch_add(1, Ordering::Relaxed);
                        let Some((kernel, (name, scenario))) = cells.get(cell) else { break };
                        let outcome = self.outcome(&build, kernel, name, scenario, cell);
                        progress(&outcome);
                        lock(&outcomes)[cell] = Some(outcome);
                    }
                });
            }
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn outcome(
        &self,
        build: &Build,
        kernel: &Kernel,
        name: &'static str,
        scenario: &Scenario,
        cell: usize,
    ) -> Outcome {
        let dir = self.dir.join(cell.to_string());
        let mut notes = Notes::default();
        let start = Instant::now();
        let told = tell(self, build, kernel, name, scenario, cell, &dir, &mut notes);
        let took = start.elapsed();
        let mut verdict = match told {
            Ok(verdict) => verdict,
            Err(error) => match error.downcast::<Unsupported>() {
                Ok(Unsupported(reason)) => Verdict::Unsupported(reason),
                Err(error) => Verdict::Failed(format!("{error:#}")),
            },
        };
        if let Verdict::Failed(reason) = &mut verdict {
            let kept = self.results.join(format!("{}-{name}", kernel.name));
            match keep_consoles(&dir, &kept) {
                Ok(()) => reason.push_str(&format!("\n(consoles: {})", kept.display())),
                Err(error) => reason.push_str(&format!("\n(consoles are lost: {error:#})")),
            }
        }
        // What is left goes with the run's directory.
        _ = fs::remove_dir_all(&dir);
        Outcome {
            kernel: kernel.name.clone(),
            release: kernel.release.clone(),
            scenario: name,
            verdict,
            notes: notes.0,
            took,
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, from one place")]
fn tell(
    matrix: &Matrix,
    build: &Build,
    kernel: &Kernel,
    name: &str,
    scenario: &Scenario,
    cell: usize,
    dir: &Path,
    notes: &mut Notes,
) -> Result<Verdict> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let initramfs = dir.join("initramfs.cpio");
    pack(build, kernel, &scenario.needs, scenario.story, &initramfs)?;
    let memory_mib = memory_mib(&initramfs, &scenario.needs)?;
    match scenario.story {
        Story::OneGuest(_) => {
            let vm = Vm::boot(&Spec {
                name: "guest".to_owned(),
                accel: matrix.accel,
                image: kernel.image.clone(),
                initramfs,
                role: name.to_owned(),
                cpus: 2,
                memory_mib,
                devices: Vec::new(),
                dir: dir.to_owned(),
            })?;
            let deadline = Instant::now() + scenario.limit;
            loop {
                match vm.next(deadline)? {
                    FromGuest::Verdict(verdict) => return Ok(verdict),
                    FromGuest::Note(note) => notes.add(note),
                    FromGuest::Ready | FromGuest::Reply(_) => {}
                }
            }
        }
        Story::Machines(story) => {
            let plan = Plan {
                accel: matrix.accel,
                network: matrix.network,
                image: kernel.image.clone(),
                initramfs,
                memory_mib,
                dir: dir.to_owned(),
                set: cell,
            };
            if matrix.network == Network::Tap {
                network::remove(cell)?;
            }
            let mut machines = Machines::boot(&plan)?;
            story(&mut machines, notes).map(|()| Verdict::Passed)
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
