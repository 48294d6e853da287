//! The harness itself: guests that crash or hang, and runs that are killed.
#![cfg(test)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pairflip_vm_tests::{
    cache_dir,
    vm::{
        accel::Accel,
        channel::{FromGuest, Verdict},
        console::Alarm,
        kernel::{self, Freshness},
        pack,
        qemu::{Spec, Vm},
    },
};

/// Longest from the start of a guest to its end, on a busy machine that emulates.
const LIMIT: Duration = Duration::from_secs(90);

/// The init that `cargo xtask vm` built, which runs before these tests.
fn guest() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("release/pairflip-guest")
}

fn boot(role: &str, dir: &Path) -> Vm {
    boot_with(role, dir, &Alarm::default())
}

fn boot_with(role: &str, dir: &Path, alarm: &Alarm) -> Vm {
    let names = ["6.12".to_owned()];
    let kernels =
        kernel::fetch(&names, Freshness::Cached, &cache_dir().join("kernels"), |_| {}).unwrap();
    let initramfs = dir.join(format!("{role}.cpio"));
    pack::init_alone(&guest(), &initramfs).unwrap();
    Vm::boot(&Spec {
        name: role.to_owned(),
        accel: Accel::Tcg,
        image: kernels[0].image.clone(),
        initramfs,
        role: role.to_owned(),
        cpus: 1,
        memory_mib: 512,
        devices: Vec::new(),
        dir: dir.to_owned(),
        alarm: alarm.clone(),
    })
    .unwrap()
}

/// Machines whose command line names a path.
fn machines(path: &Path) -> usize {
    let needle = path.display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.starts_with("qemu-system") && line.contains(&needle))
        .count()
}

#[test]
fn a_guest_ends_with_one_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut vm = boot("nothing", dir.path());
    let message = vm.next(Instant::now() + LIMIT).unwrap();
    assert!(matches!(message, FromGuest::Verdict(Verdict::Passed)), "{message:?}");
    vm.wait_off(LIMIT).unwrap();
}

#[test]
fn a_kernel_that_panics_is_an_error_with_the_consoles_end_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vm = boot("panic", dir.path());
    assert_eq!(machines(dir.path()), 1);
    let error = vm.next(Instant::now() + LIMIT).unwrap_err().to_string();
    assert!(error.contains("Kernel panic - not syncing: sysrq triggered crash"), "{error}");
    assert!(error.contains("Call Trace"), "{error}");
    drop(vm);
    assert_eq!(machines(dir.path()), 0);
}

#[test]
fn a_machine_that_is_waited_for_is_given_up_when_another_one_panics() {
    let dir = tempfile::tempdir().unwrap();
    let alarm = Alarm::default();
    let waited_for = boot_with("silence", dir.path(), &alarm);
    let _lost = boot_with("panic", dir.path(), &alarm);
    let error = waited_for.next(Instant::now() + LIMIT).unwrap_err().to_string();
    assert!(error.starts_with("machine panic: "), "{error}");
}

#[test]
fn a_guest_that_says_nothing_is_an_error_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let vm = boot("silence", dir.path());
    let error = vm.next(Instant::now() + Duration::from_secs(1)).unwrap_err().to_string();
    assert!(error.contains("machine silence: it said nothing in time"), "{error}");
}

#[test]
fn a_guest_with_an_unknown_task_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let vm = boot("no-such-scenario", dir.path());
    let message = vm.next(Instant::now() + LIMIT).unwrap();
    let FromGuest::Verdict(Verdict::Failed(reason)) = message else { panic!("{message:?}") };
    assert!(reason.contains("there is no scenario \"no-such-scenario\"; there are "), "{reason}");
}

/// Runs of `cargo xtask vm` in a place of their own, so that those of other people are none of these tests' business.
struct Place(tempfile::TempDir);

impl Place {
    fn run(&self, scenario: &str) -> Child {
        Command::new(env::var_os("PAIRFLIP_XTASK").expect("set by cargo xtask test"))
            .args(["vm", scenario, "--kernel", "6.12", "--accel", "tcg", "--network", "socket"])
            .arg("--results")
            .arg(self.0.path().join("results"))
            .env("TMPDIR", self.0.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn wait_for_machines(&self, wanted: usize) {
        let started = Instant::now();
        while machines(self.0.path()) != wanted {
            assert!(started.elapsed() < LIMIT, "{} machines", machines(self.0.path()));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Directories that runs left.
    fn left(&self) -> Vec<std::ffi::OsString> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("pairflip-vm-")).collect()
    }
}

#[test]
fn a_run_that_is_killed_takes_its_machines_along_and_the_next_removes_its_directory() {
    let place = Place(tempfile::tempdir().unwrap());
    let mut killed = place.run("packets");
    place.wait_for_machines(1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    place.wait_for_machines(0);
    assert_eq!(place.left().len(), 1);
    // Two more, side by side, find the directory.
    let mut others = [place.run("load"), place.run("load")];
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    assert_eq!(place.left(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn a_run_that_is_interrupted_removes_everything_by_itself() {
    let place = Place(tempfile::tempdir().unwrap());
    let mut interrupted = place.run("packets");
    place.wait_for_machines(1);
    kill(Pid::from_raw(interrupted.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
    assert_eq!(machines(place.0.path()), 0);
    assert_eq!(place.left(), Vec::<std::ffi::OsString>::new());
}
