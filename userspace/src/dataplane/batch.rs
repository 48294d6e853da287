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

/// Calls `each` for every entry of a hash map. Entries that come or go meanwhile may or may not be seen.
pub(super) fn for_each<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(K, V),
) -> io::Result<()> {
    let mut keys: Vec<MaybeUninit<K>> = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
    let mut values: Vec<MaybeUninit<V>> = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
    // Hash maps keep their position in a u32.
    let mut position = 0u32;
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { &raw const position as u64 },
            out_batch: &raw mut position as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: the pointers are to `position` and to vectors of BATCH elements of the map's own key and value
        // types; aya checked both sizes when the typed map was made.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let end = match &error {
            None => false,
            // The kernel's word for "that was the last batch"; `count` entries came with it.
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Some(error) => {
                return Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0)));
            }
        };
        for (key, value) in keys.iter().zip(&values).take(attr.count as usize) {
            // SAFETY: the kernel wrote the first `count` keys and values, and both types are Pod.
            unsafe { each(key.assume_init(), value.assume_init()) };
        }
        if end {
            return Ok(());
        }
        first = false;
    }
}
