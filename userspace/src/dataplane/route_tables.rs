//! Route tables: maps inside the map CLUSTERS, one for each cluster.
//!
//! Linux 5.15 to 6.2 compare how an inner map was described by BTF, not what it is made of: a table without a description does not
//! fit an outer map whose template has one (`bpf_map_meta_equal`, `timer_off`). aya describes the template and cannot describe
//! a table that is made later. So the outer map is made here, before the object is loaded, with a template that is made as
//! the tables are.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{Array, MapData, MapError};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use pairflip_common::{
    names,
    route::{CLUSTERS_MAX, ROUTES_MAX, Route},
};

use super::Error;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The first fields of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// An empty table, not a cluster's yet.
pub(crate) fn new_table() -> Result<Array<MapData, Route>, MapError> {
    Array::create(ROUTES_MAX, 0)
}

/// Makes and pins the outer map unless its pin is there.
pub(crate) fn prepare(bpffs: &Path) -> Result<(), Error> {
    let path = bpffs.join(names::CLUSTERS);
    if path.exists() {
        return Ok(());
    }
    // Up to Linux 5.10 maps count as locked memory. Where the limit cannot be raised, making the map says what is missing.
    _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let outer = create_outer().map_err(|source| Error::Create { map: names::CLUSTERS, source })?;
    MapData::from_fd(outer)
        .map_err(|source| Error::Map { map: names::CLUSTERS, source })?
        .pin(&path)
        .map_err(|source| Error::Pin { path, reason: source.to_string() })
}

fn create_outer() -> io::Result<OwnedFd> {
    let key_size = size_of::<u32>() as u32;
    let template = create(&CreateAttr {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size,
        value_size: size_of::<Route>() as u32,
        max_entries: ROUTES_MAX,
        ..CreateAttr::default()
    })?;
    let mut map_name = [0; 16];
    map_name[..names::CLUSTERS.len()].copy_from_slice(names::CLUSTERS.as_bytes());
    create(&CreateAttr {
        map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS,
        key_size,
        // A descriptor.
        value_size: size_of::<u32>() as u32,
        max_entries: CLUSTERS_MAX,
        inner_map_fd: template.as_raw_fd() as u32,
        map_name,
        ..CreateAttr::default()
    })
}

fn create(attr: &CreateAttr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` lives through the call, and the kernel takes what is beyond its size as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            std::ptr::from_ref(attr),
            size_of::<CreateAttr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}
