//! Bytes that the kernel program and user space share.
//!
//! Every type here is `#[repr(C)]`, has no padding and no bit pattern that is invalid, because the other side may be a
//! program of another build. Sizes are asserted at compile time; a change of any layout raises [`ABI_VERSION`].
#![cfg_attr(not(test), no_std)]

pub mod be;
pub mod bench;
pub mod counter;
pub mod csum;
pub mod flow;
pub mod flow_log;
pub mod names;
pub mod route;
pub mod traffic;

/// Version of every layout in this crate. The daemon refuses to adopt bpffs pins of another version.
pub const ABI_VERSION: u32 = 2;

/// Asserts size and alignment at compile time and, with the `user` feature, makes the type readable from a map.
macro_rules! shared {
    ($($ty:ty: $size:expr, $align:expr;)*) => { $(
        const _: () = assert!(core::mem::size_of::<$ty>() == $size);
        const _: () = assert!(core::mem::align_of::<$ty>() == $align);
        // SAFETY: the type is repr(C), made of integers and byte arrays only, and the size assert
        // above equals the sum of its fields, so it has no padding and every bit pattern is valid.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $ty {}
    )* };
}
pub(crate) use shared;
