//! What goes into a guest: the product, tools of the host, databases, modules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    initramfs::{Initramfs, strip},
    kernel::Kernel,
    modules,
    program::{self, Program},
};
use crate::{
    command::run,
    lab::{self, database},
    scenario::{Needs, Scenario, Story},
};

/// What was built on the host for the guests.
#[derive(Clone, Debug)]
pub struct Build {
    /// Directory of `pairflipd` and `pairflip`.
    pub product: PathBuf,
    pub guest: PathBuf,
    /// The test program `packets`.
    pub packet_tests: PathBuf,
}

impl Build {
    /// Copies into `dir` without debug information.
    pub(crate) fn stripped(&self, dir: &Path) -> Result<Self> {
        for (from, name) in [
            (self.product.join("pairflipd"), "pairflipd"),
            (self.product.join("pairflip"), "pairflip"),
            (self.guest.clone(), "guest"),
            (self.packet_tests.clone(), "packet-tests"),
        ] {
            strip(&from, &dir.join(name))?;
        }
        Ok(Self {
            product: dir.to_owned(),
            guest: dir.join("guest"),
            packet_tests: dir.join("packet-tests"),
        })
    }
}

/// Modules of the machines' cards and of the redirector's disk.
const MACHINE_MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "virtio_blk"];
/// What every guest has.
const PROGRAMS: [&str; 1] = ["ip"];
/// Where Debian's MariaDB has what its server reads at its start: 10.11 and 11.8.
const MARIADB_SHARE: [&str; 2] = ["/usr/share/mysql", "/usr/share/mariadb"];

/// Fetches and makes what scenarios need of this host, while it can be reached.
pub fn fetch(scenarios: &[(&'static str, &'static Scenario)]) -> Result<()> {
    for (name, scenario) in scenarios {
        for program in scenario.needs.programs {
            program::find(program).with_context(|| format!("scenario {name}"))?;
        }
        if scenario.needs.databases {
            lab::host_template()?;
        }
    }
    Ok(())
}

/// Writes an initramfs with the guest's init and `ip`, which it calls: enough for what is no scenario.
pub fn init_alone(guest: &Path, to: &Path) -> Result<()> {
    let mut contents = Initramfs::default();
    contents.program(&Program::built(guest), Path::new("/init"))?;
    add_directories(&mut contents);
    contents.program(&program::find("ip")?, Path::new("/usr/bin/ip"))?;
    contents.write(to)
}

/// Writes the initramfs of a scenario for a kernel.
pub(crate) fn pack(
    build: &Build,
    kernel: &Kernel,
    needs: &Needs,
    story: Story,
    to: &Path,
) -> Result<()> {
    let mut contents = Initramfs::default();
    contents.program(&Program::built(&build.guest), Path::new("/init"))?;
    contents.link("/bin/pairflip-guest", "/init");
    for name in ["pairflipd", "pairflip"] {
        contents
            .program(&Program::built(&build.product.join(name)), &Path::new("/bin").join(name))?;
    }
    add_busybox(&mut contents)?;
    for name in PROGRAMS.iter().chain(needs.programs) {
        contents.program(&program::find(name)?, &Path::new("/usr/bin").join(name))?;
    }
    if needs.packet_tests {
        contents.program(&Program::built(&build.packet_tests), Path::new("/bin/packet-tests"))?;
    }
    if needs.databases {
        add_databases(&mut contents)?;
    }
    contents
        .bytes("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n");
    contents.bytes("/etc/group", "root:x:0:\nnogroup:x:65534:\n");
    add_directories(&mut contents);
    let mut wanted = [&modules::IF_THERE[..], needs.modules].concat();
    if matches!(story, Story::Machines(_)) {
        wanted.extend(MACHINE_MODULES);
    }
    add_modules(&mut contents, kernel, &wanted)?;
    contents.write(to)
}

fn add_directories(contents: &mut Initramfs) {
    for directory in ["/dev", "/proc", "/run", "/sys", "/tmp", "/root", "/var/lib", "/var/log"] {
        contents.directory(directory);
    }
}

fn add_busybox(contents: &mut Initramfs) -> Result<()> {
    let busybox = program::find("busybox")?;
    contents.program(&busybox, Path::new("/busybox/busybox"))?;
    let applets = run(Command::new(&busybox.path).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        contents.link(&format!("/busybox/{applet}"), "busybox");
    }
    // The shell of busybox would take its own `ip` and `tc` before those of the host.
    contents.program(&program::find("sh")?, Path::new("/bin/sh"))
}

fn add_databases(contents: &mut Initramfs) -> Result<()> {
    for name in ["mariadbd", "mariadb"] {
        contents.program(&program::find(name)?, &Path::new("/usr/bin").join(name))?;
    }
    let share = MARIADB_SHARE.iter().map(Path::new).find(|dir| dir.join("charsets").is_dir());
    let share = share.with_context(|| {
        format!("none of {} has the files of the MariaDB server", MARIADB_SHARE.join(", "))
    })?;
    for dir in ["english", "charsets"] {
        contents.tree(&share.join(dir), &share.join(dir))?;
    }
    let template = lab::host_template()?;
    let name = template.file_name().context("the template has a name")?;
    contents.tree(&template, &Path::new(database::GUEST_CACHE).join(name))
}

fn add_modules(contents: &mut Initramfs, kernel: &Kernel, wanted: &[&str]) -> Result<()> {
    let files = modules::files(kernel, wanted)?;
    contents.directory(crate::guest::MODULES);
    for (number, file) in files.iter().enumerate() {
        let name = file.file_stem().context("a module has a name")?.to_string_lossy();
        let path = format!("{}/{number:03}-{name}", crate::guest::MODULES);
        contents.bytes(&path, modules::read(file)?);
    }
    Ok(())
}

/// Size of a machine's memory for its initramfs, which it holds twice while it unpacks.
pub(crate) fn memory_mib(initramfs: &Path, needs: &Needs) -> Result<u32> {
    let size = fs::metadata(initramfs).context("measuring the initramfs")?.len() >> 20;
    // Each of four servers takes about 150 MiB and its copy of the files.
    let databases = if needs.databases { 1800 } else { 0 };
    Ok(384 + 2 * size as u32 + databases)
}
