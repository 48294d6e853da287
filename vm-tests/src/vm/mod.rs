//! Virtual machines on the host's side: kernels, guests, machines, and the matrix of kernels and scenarios.

pub mod accel;
pub mod channel;
pub mod console;
mod initramfs;
pub mod kernel;
pub mod machines;
pub mod matrix;
mod modules;
pub mod network;
pub mod pack;
mod program;
pub mod qemu;
pub mod report;
pub mod run_dir;
pub mod traffic;
