//! Reading a hash map in batches: aya has no batch operations, and a system call per entry is too slow for a million.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::Pod;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (kernel 5.6).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries per system call. A batch must hold one whole hash bucket; buckets have about one entry.
const BATCH: u32 = 4096;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a walk over a hash map is: a bucket of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position(Option<u32>);

/// Goes on with a walk for some thousand entries, in one system call that holds the lock of one bucket at a time. Returns whether the map's
/// end was reached, from where the next call begins anew.
pub(super) fn some<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    position: &mut Position,
    mut each: impl FnMut(K, V),
) -> io::Result<bool> {
    let mut keys: Vec<MaybeUninit<K>> = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
    let mut values: Vec<MaybeUninit<V>> = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
    // Hash maps keep their position in a u32.
    let in_batch = position.0.unwrap_or_default();
    let mut out_batch = 0u32;
    let mut attr = BatchAttr {
        in_batch: if position.0.is_some() { &raw const in_batch as u64 } else { 0 },
        out_batch: &raw mut out_batch as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: BATCH,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: the pointers are to local variables and to vectors of BATCH elements of the map's own key and value
    // types; aya checked both sizes when the typed map was made.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>())
    };
    let error = (result < 0).then(io::Error::last_os_error);
    let end = match &error {
        None => false,
        // The kernel's word for "that was the last batch"; `count` entries came with it.
        Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Some(error) => return Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0))),
    };
    for (key, value) in keys.iter().zip(&values).take(attr.count as usize) {
        // SAFETY: the kernel wrote the first `count` keys and values, and both types are Pod.
        unsafe { each(key.assume_init(), value.assume_init()) };
    }
    position.0 = (!end).then_some(out_batch);
    Ok(end)
}
