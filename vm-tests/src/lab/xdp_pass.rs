//! An XDP program that passes every packet, for the switch's end of the redirector's veth.
//!
//! veth takes frames that were sent by XDP only when the other end has an XDP program of its own (drivers/net/veth.c); receive
//! offload alone was not enough in the lab. A network card needs nothing of the kind. Loaded by hand, because the lab must
//! not depend on the object that it is there to test.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::netns::Namespace;
use crate::command::run;

/// `r0 = XDP_PASS; exit`, as `struct bpf_insn`.
const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// It may be given frames in several buffers, so it sets no limit to the MTU (Linux 5.18).
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The first fields of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Attaches the program natively. It stays with the interface.
pub(crate) fn attach(namespace: &Namespace, interface: &str) -> Result<()> {
    mount_bpffs().context("mounting a bpffs on /sys/fs/bpf; are you root?")?;
    let pin = format!("/sys/fs/bpf/pass-{}-{interface}", namespace.name());
    load_and_pin(&pin).with_context(|| format!("loading a program that passes for {interface}"))?;
    let result = run(namespace
        .command("ip")?
        .args(["link", "set", "dev", interface, "xdpdrv", "pinned", &pin]));
    fs::remove_file(&pin).with_context(|| format!("removing {pin}"))?;
    result.map(|_| ())
}

fn mount_bpffs() -> Result<()> {
    let root = Path::new("/sys/fs/bpf");
    if nix::sys::statfs::statfs(root)?.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC {
        nix::mount::mount(
            Some("bpf"),
            root,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )?;
    }
    Ok(())
}

fn load(prog_flags: u32) -> io::Result<OwnedFd> {
    let load = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: PROGRAM.len() as u32,
        insns: PROGRAM.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags,
    };
    // SAFETY: the attributes point to data that lives through the call, and a new descriptor is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &load)?) })
}

fn load_and_pin(pin: &str) -> io::Result<()> {
    // An older kernel does not know the flag.
    let program = load(BPF_F_XDP_HAS_FRAGS).or_else(|_| load(0))?;
    let path = CString::new(pin)?;
    let pin = PinAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: program.as_raw_fd() as u32,
        file_flags: 0,
    };
    // SAFETY: as above.
    unsafe { bpf(BPF_OBJ_PIN, &pin) }.map(|_| ())
}

/// # Safety
///
/// `attr` must be what the command expects, with valid pointers.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
