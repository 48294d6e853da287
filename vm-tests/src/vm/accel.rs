//! How machines are run: by KVM where a guest boots with it, emulated elsewhere.

use std::{
    fs::OpenOptions,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    channel::{FromGuest, Verdict},
    console::Alarm,
    kernel::Kernel,
    pack,
    qemu::{Spec, Vm},
};

/// Longest wait for a guest under KVM to boot; it takes about one second where it works.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// QEMU's accelerator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accel {
    Kvm,
    /// Every instruction is emulated, 10 to 30 times slower, with one thread for each processor.
    Tcg,
}

impl Accel {
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Without five-level page tables, which only cost.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "emulated (TCG)",
        }
    }

    /// Boots a guest with KVM and looks whether it comes up: the device may be there and guests die on it.
    pub fn probe(kernel: &Kernel, guest: &Path, dir: &Path) -> Self {
        let usable = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if usable && boots(kernel, guest, dir) { Self::Kvm } else { Self::Tcg }
    }
}

fn boots(kernel: &Kernel, guest: &Path, dir: &Path) -> bool {
    let initramfs = dir.join("probe.cpio");
    if pack::init_alone(guest, &initramfs).is_err() {
        return false;
    }
    let spec = Spec {
        name: "probe".to_owned(),
        accel: Accel::Kvm,
        image: kernel.image.clone(),
        initramfs,
        role: "nothing".to_owned(),
        cpus: 1,
        memory_mib: 512,
        devices: Vec::new(),
        dir: dir.to_owned(),
        alarm: Alarm::default(),
    };
    let deadline = Instant::now() + PROBE_TIMEOUT;
    Vm::boot(&spec)
        .is_ok_and(|vm| matches!(vm.next(deadline), Ok(FromGuest::Verdict(Verdict::Passed))))
}
