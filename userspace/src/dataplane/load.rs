//! Loading and attaching: adopt what an earlier daemon left in bpffs, replace its program, or start fresh.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
    programs::{
        ProgramError, Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode},
    },
    util::KernelVersion,
};
use nix::mount::MsFlags;
use pairflip_common::{ABI_VERSION, names, route::Settings};

use super::{
    DataPlane, flow_table::Table, flows::SweepPositions, kernel::Lacking, object, route_tables,
};

/// What the data plane needs to know to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub interfaces: Vec<String>,
    /// `None` tries native first and falls back to generic.
    pub mode: Option<Mode>,
    /// Directory of the pins, on a bpffs.
    pub bpffs: PathBuf,
    /// Flows, two entries each. Ignored when maps are adopted.
    pub flows_max: u32,
    /// Half-open connections, two entries each. Ignored when maps are adopted.
    pub half_open_max: u32,
    /// Families that there are routes for. The tables of the other take no memory worth mention.
    pub families: Families,
    /// Loads the benchmark's and the clock's programs, too.
    pub all_programs: bool,
}

/// Which families are used; both may be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

impl Families {
    pub const BOTH: Self = Self { v4: true, v6: true };
}

/// Entries of a table of a family that is not used.
const UNUSED_ENTRIES: u32 = 64;

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Run by the driver.
    Native,
    /// Run by the kernel after it made a socket buffer: works everywhere, costs more.
    Generic,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// One interface with the program on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    pub interface: String,
    pub mode: Mode,
    /// True when an earlier daemon's link was kept and only its program replaced.
    pub adopted: bool,
    /// Why native was not possible, where it was tried.
    pub native_error: Option<String>,
}

/// Why the data plane could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{error}; {lacking}")]
    OldKernel { lacking: Lacking, error: Box<Self> },
    #[error(
        "mounting a bpffs for {path}: {source}; run as root, or mount one: mount -t bpf bpf /sys/fs/bpf"
    )]
    Bpffs { path: PathBuf, source: io::Error },
    #[error(
        "the maps pinned at {path} have layout {found}, this pairflipd speaks layout {ABI_VERSION}; run the pairflipd that made them, or `pairflip unload` to start over (established connections are lost)"
    )]
    OtherLayout { path: PathBuf, found: String },
    #[error("loading the kernel object: {source}; it needs root, and locked memory for its maps")]
    Load { source: Box<aya::EbpfError> },
    #[error("the kernel refused the program {name}: {source}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error(
        "the kernel object has no {0}; this is a build of mixed versions, build again with `cargo xtask build`"
    )]
    Missing(&'static str),
    #[error("attaching to {interface} ({mode}): {reason}")]
    Attach { interface: String, mode: &'static str, reason: String },
    #[error("pinning {path}: {reason}")]
    Pin { path: PathBuf, reason: String },
    #[error("making map {map}: {source}; it needs root")]
    Create { map: &'static str, source: io::Error },
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: aya::maps::MapError },
    #[error("reading map {map}: {source}")]
    Read { map: &'static str, source: io::Error },
    #[error(
        "a network with more than two VLAN tags: not supported; put the VIP or the backend on another network"
    )]
    Tags,
    #[error(
        "{wanted} allowed networks, and the table takes {}; join networks, or leave the fine filtering to a firewall",
        pairflip_common::route::ALLOW_MAX
    )]
    TooManyNetworks { wanted: usize },
    #[error(transparent)]
    Slots(#[from] super::SlotError),
}

impl Error {
    /// Whether a newer kernel may be the remedy.
    fn is_the_kernels(&self) -> bool {
        match self {
            Self::Load { .. }
            | Self::Program { .. }
            | Self::Create { .. }
            | Self::Attach { .. } => nix::unistd::geteuid().is_root(),
            Self::OldKernel { .. }
            | Self::Bpffs { .. }
            | Self::OtherLayout { .. }
            | Self::Missing(_)
            | Self::Pin { .. }
            | Self::Map { .. }
            | Self::Read { .. }
            | Self::Tags
            | Self::TooManyNetworks { .. }
            | Self::Slots(_) => false,
        }
    }
}

impl DataPlane {
    /// Loads the program, adopts or makes the maps, and attaches to every interface.
    pub fn load(options: &LoadOptions) -> Result<Self, Error> {
        Self::try_load(options).map_err(|error| match Lacking::of_this_kernel() {
            Some(lacking) if error.is_the_kernels() => {
                Error::OldKernel { lacking, error: Box::new(error) }
            }
            _ => error,
        })
    }

    fn try_load(options: &LoadOptions) -> Result<Self, Error> {
        prepare_bpffs(&options.bpffs)?;
        let adopted = check_layout(&options.bpffs)?;
        route_tables::prepare(&options.bpffs)?;
        let mut loader = EbpfLoader::new();
        let Families { v4, v6 } = options.families;
        for (name, used, max) in [
            (names::FLOWS, v4, options.flows_max),
            (names::FLOWS6, v6, options.flows_max),
            (names::HALF_OPEN, v4, options.half_open_max),
            (names::HALF_OPEN6, v6, options.half_open_max),
        ] {
            if used {
                make_way(&options.bpffs.join(name), name)?;
            }
            let entries = if used { max.saturating_mul(2) } else { UNUSED_ENTRIES };
            loader.map_max_entries(name, entries);
        }
        for name in names::PINNED {
            loader.map_pin_path(name, options.bpffs.join(name));
        }
        let mut ebpf =
            loader.load(object()).map_err(|source| Error::Load { source: Box::new(source) })?;
        let program = if takes_several_buffers() { names::PROGRAM_FRAGS } else { names::PROGRAM };
        load_program(&mut ebpf, program)?;
        load_program(&mut ebpf, names::PROGRAM_CLOCK)?;
        if options.all_programs {
            if program != names::PROGRAM {
                load_program(&mut ebpf, names::PROGRAM)?;
            }
            load_program(&mut ebpf, names::PROGRAM_TX)?;
            load_program(&mut ebpf, names::PROGRAM_BENCH)?;
        }
        let mut dataplane = Self::from_ebpf(ebpf, program, adopted)?;
        dataplane.init_settings()?;
        dataplane.pin_program(&options.bpffs)?;
        for interface in &options.interfaces {
            let attachment = dataplane.attach(interface, options)?;
            dataplane.attachments.push(attachment);
        }
        Ok(dataplane)
    }

    fn from_ebpf(mut ebpf: Ebpf, program: &'static str, adopted: bool) -> Result<Self, Error> {
        macro_rules! map {
            ($name:expr) => {{
                let map = ebpf.take_map($name).ok_or(Error::Missing($name))?;
                map.try_into().map_err(|source| Error::Map { map: $name, source })?
            }};
        }
        macro_rules! table {
            ($name:expr, $is_v6:expr) => {{
                let fd = fd(&ebpf, $name)?;
                Table { map: map!($name), fd, name: $name, is_v6: $is_v6 }
            }};
        }
        Ok(Self {
            flows: table!(names::FLOWS, false),
            flows6: table!(names::FLOWS6, true),
            half_open: table!(names::HALF_OPEN, false),
            half_open6: table!(names::HALF_OPEN6, true),
            holds: map!(names::HOLDS),
            allow: map!(names::ALLOW),
            clusters: map!(names::CLUSTERS),
            vips: map!(names::VIPS),
            backends: map!(names::BACKENDS),
            backend_ids: map!(names::BACKEND_IDS),
            devices: map!(names::DEVICES),
            networks: map!(names::NETWORKS),
            filter: map!(names::FILTER),
            settings: map!(names::SETTINGS),
            counters: map!(names::COUNTERS),
            traffic: map!(names::TRAFFIC),
            openings: map!(names::OPENINGS),
            scratch: map!(names::SCRATCH),
            flow_log: Some(map!(names::FLOW_LOG)),
            sweep_positions: SweepPositions::default(),
            program,
            ebpf,
            attachments: Vec::new(),
            adopted,
        })
    }

    fn pin_program(&mut self, bpffs: &Path) -> Result<(), Error> {
        let path = bpffs.join("program");
        let pin_error = |reason: String| Error::Pin { path: path.clone(), reason };
        remove_if_there(&path).map_err(|source| pin_error(source.to_string()))?;
        let program = xdp(&mut self.ebpf, self.program)?;
        program.pin(&path).map_err(|source| pin_error(source.to_string()))
    }

    /// Replaces the program of a pinned link, or attaches anew.
    fn attach(&mut self, interface: &str, options: &LoadOptions) -> Result<Attachment, Error> {
        for mode in [Mode::Native, Mode::Generic] {
            let pin = link_pin(&options.bpffs, interface, mode);
            if !pin.exists() {
                continue;
            }
            if options.mode.is_none_or(|wanted| wanted == mode) && self.replace(&pin).is_ok() {
                return Ok(Attachment {
                    interface: interface.to_owned(),
                    mode,
                    adopted: true,
                    native_error: None,
                });
            }
            // The interface was made anew, or another mode is wanted: the old link is of no use.
            remove_if_there(&pin)
                .map_err(|source| Error::Pin { path: pin, reason: source.to_string() })?;
        }
        let (mode, native_error) = match options.mode {
            Some(mode) => {
                self.attach_new(interface, mode, &options.bpffs)?;
                (mode, None)
            }
            None => match self.attach_new(interface, Mode::Native, &options.bpffs) {
                Ok(()) => (Mode::Native, None),
                Err(error) => {
                    self.attach_new(interface, Mode::Generic, &options.bpffs)?;
                    (Mode::Generic, Some(error.to_string()))
                }
            },
        };
        Ok(Attachment { interface: interface.to_owned(), mode, adopted: false, native_error })
    }

    fn replace(&mut self, pin: &Path) -> Result<(), Error> {
        let error = |reason: String| Error::Pin { path: pin.to_owned(), reason };
        let link = PinnedLink::from_pin(pin).map_err(|source| error(source.to_string()))?;
        let link =
            XdpLink::try_from(FdLink::from(link)).map_err(|source| error(source.to_string()))?;
        let program = xdp(&mut self.ebpf, self.program)?;
        program.attach_to_link(link).map_err(|source| error(explain(&source)))?;
        Ok(())
    }

    fn attach_new(&mut self, interface: &str, mode: Mode, bpffs: &Path) -> Result<(), Error> {
        let attach_error = |reason: String| Error::Attach {
            interface: interface.to_owned(),
            mode: mode.name(),
            reason,
        };
        let program = xdp(&mut self.ebpf, self.program)?;
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id =
            program.attach(interface, flags).map_err(|source| attach_error(explain(&source)))?;
        let link = program.take_link(id).map_err(|source| attach_error(explain(&source)))?;
        // Without a link object the program would leave with the daemon.
        let link = FdLink::try_from(link).map_err(|_| {
            attach_error(
                "this kernel has no BPF links for XDP, which came with Linux 5.9".to_owned(),
            )
        })?;
        let path = link_pin(bpffs, interface, mode);
        link.pin(&path).map_err(|source| Error::Pin { path, reason: source.to_string() })?;
        Ok(())
    }
}

/// Removes every pin below `bpffs`, which detaches the program and frees the maps. Returns what was removed.
pub fn unload(bpffs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(bpffs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    // Links first, so that no packet meets a program whose maps are half gone.
    paths.sort_by_key(|path| !is_link(path));
    for path in paths.into_iter().filter(|path| is_ours(path)) {
        fs::remove_file(&path)?;
        removed.push(path);
    }
    // The directory may be the mount itself, or hold somebody else's pins.
    _ = fs::remove_dir(bpffs);
    Ok(removed)
}

fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("link-"))
}

fn is_ours(path: &Path) -> bool {
    is_link(path)
        || path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name == "program" || names::PINNED.contains(&name))
}

/// The pin's name says the mode, because the kernel's link object does not. bpffs refuses dots in names.
fn link_pin(bpffs: &Path, interface: &str, mode: Mode) -> PathBuf {
    bpffs.join(format!("link-{}-{}", mode.name(), interface.replace('.', ":")))
}

/// A descriptor of our own of a hash map: aya's typed maps do not lend theirs.
fn fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, Error> {
    let (Some(Map::HashMap(data)) | Some(Map::LruHashMap(data))) = ebpf.map(name) else {
        return Err(Error::Missing(name));
    };
    data.fd().as_fd().try_clone_to_owned().map_err(|source| Error::Read { map: name, source })
}

/// Removes the pin of a table that was made when its family was not used, so that it is made anew: there are no flows in it.
fn make_way(pin: &Path, name: &'static str) -> Result<(), Error> {
    if !pin.exists() {
        return Ok(());
    }
    let error = |source| Error::Map { map: name, source };
    let entries =
        MapData::from_pin(pin).and_then(|map| Ok(map.info()?.max_entries())).map_err(error)?;
    if entries > UNUSED_ENTRIES {
        return Ok(());
    }
    remove_if_there(pin)
        .map_err(|source| Error::Pin { path: pin.to_owned(), reason: source.to_string() })
}

/// Whether this kernel knows programs for packets that lie in several buffers: drivers ask for them where an interface's MTU is larger
/// than a page has room for.
fn takes_several_buffers() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    ebpf.program_mut(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(|source| Error::Program { name, source: Box::new(source) })
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    xdp(ebpf, name)?.load().map_err(|source| Error::Program { name, source: Box::new(source) })
}

/// Makes the directory of the pins, mounting a bpffs on `/sys/fs/bpf` when none is there.
fn prepare_bpffs(path: &Path) -> Result<(), Error> {
    const ROOT: &str = "/sys/fs/bpf";
    let error = |source: io::Error| Error::Bpffs { path: path.to_owned(), source };
    if path.starts_with(ROOT) && !is_bpffs(Path::new(ROOT)).map_err(error)? {
        nix::mount::mount(Some("bpf"), ROOT, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| error(errno.into()))?;
    }
    fs::create_dir_all(path).map_err(error)?;
    if !is_bpffs(path).map_err(error)? {
        return Err(error(io::Error::other("the directory is not on a bpffs")));
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(nix::sys::statfs::statfs(path)?.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// Returns whether there are maps to adopt; an error when they are of another layout.
fn check_layout(bpffs: &Path) -> Result<bool, Error> {
    let path = bpffs.join(names::SETTINGS);
    if !path.exists() {
        return Ok(false);
    }
    let other = |found: String| Error::OtherLayout { path: bpffs.to_owned(), found };
    let settings = MapData::from_pin(&path)
        .and_then(|map| Array::<_, Settings>::try_from(Map::Array(map)))
        .and_then(|map| map.get(&0, 0))
        .map_err(|error| other(format!("unknown ({error})")))?;
    match settings.abi_version {
        // An earlier daemon ended between making the maps and writing to them: they are empty.
        0 => Ok(false),
        ABI_VERSION => Ok(true),
        version => Err(other(version.to_string())),
    }
}

fn explain(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if text.contains("os error 16") {
        text.push_str("; another XDP program is attached: find it with `ip link show` or `bpftool net`, remove it with `ip link set dev NAME xdp off`");
    }
    text
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
