//! A wire that delivers some frames later than those behind them.

use std::{
    mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::*;

/// One frame in so many waits until some others have passed it.
const EVERY: u64 = 10;
/// More than the three after which TCP takes a segment for lost.
const PASSED_BY: usize = 5;
/// A frame waits no longer when nothing comes behind it.
const SILENCE_MS: i32 = 2;
const FRAME_MAX: usize = 2048;

/// Sits between client1 and its switch, until it is dropped.
pub(crate) struct Reorder {
    switch: Namespace,
    overtaken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reorder {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let switch = lab.ns("switch");
        switch.ip("link set client1-eth0 nomaster")?;
        switch.ip("link add wire type veth peer name wire-br77")?;
        switch.ip("link set wire-br77 master br77 up")?;
        switch.ip("link set wire up")?;
        let (overtaken, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = switch.spawn({
            let (overtaken, stop) = (Arc::clone(&overtaken), Arc::clone(&stop));
            move || carry(&overtaken, &stop).unwrap()
        })?;
        Ok(Self { switch, overtaken, stop, thread: Some(thread) })
    }

    /// Frames so far that others overtook.
    pub(crate) fn overtaken(&self) -> u64 {
        self.overtaken.load(Ordering::Relaxed)
    }
}

impl Drop for Reorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        if ended.is_some_and(|ended| ended.is_err()) {
            report("the wire had failed");
        }
        let undone = self
            .switch
            .ip("link del wire")
            .and_then(|_| self.switch.ip("link set client1-eth0 master br77"));
        if let Err(error) = undone {
            report(&format!("{error:#}"));
        }
    }
}

fn carry(overtaken: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let ends = [open("client1-eth0")?, open("wire")?];
    let mut waiting = [Waiting::default(), Waiting::default()];
    while !stop.load(Ordering::Relaxed) {
        let silent = wait(&ends);
        for (from, to) in [(0, 1), (1, 0)] {
            if silent {
                waiting[from].flush(&ends[to])?;
            }
            while let Some(frame) = receive(&ends[from])? {
                waiting[from].pass(frame, &ends[to], overtaken)?;
            }
        }
    }
    Ok(())
}

/// Waits for frames from either end. Returns whether there are none.
fn wait(ends: &[OwnedFd; 2]) -> bool {
    let mut polled = ends.each_ref().map(|end| libc::pollfd {
        fd: end.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: pointer and length are those of the array.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, SILENCE_MS) == 0 }
}

/// One direction of the wire: the frame that waits, and how many passed it.
#[derive(Default)]
struct Waiting {
    frames: u64,
    frame: Option<Vec<u8>>,
    passed: usize,
}

impl Waiting {
    fn pass(&mut self, frame: Vec<u8>, to: &OwnedFd, overtaken: &AtomicU64) -> Result<()> {
        self.frames += 1;
        if self.frame.is_none() && self.frames.is_multiple_of(EVERY) {
            (self.frame, self.passed) = (Some(frame), 0);
            return Ok(());
        }
        send(to, &frame)?;
        self.passed += 1;
        if self.frame.is_some() && self.passed == PASSED_BY {
            overtaken.fetch_add(1, Ordering::Relaxed);
            self.flush(to)?;
        }
        Ok(())
    }

    fn flush(&mut self, to: &OwnedFd) -> Result<()> {
        self.frame.take().map_or(Ok(()), |frame| send(to, &frame))
    }
}

/// All frames that come in by an interface.
fn open(interface: &str) -> Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a system call without pointers; a new descriptor is nobody else's.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = libc::socket(libc::AF_PACKET, kind, 0);
        ensure!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let on = 1_i32;
    // SAFETY: all of its fields are numbers.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = nix::net::if_::if_nametoindex(interface)? as i32;
    // SAFETY: pointers and sizes are those of the variables above.
    let result = unsafe {
        // What we send is not what comes in.
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of_val(&on) as u32,
        ) | libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    ensure!(result == 0, "listening at {interface}: {}", std::io::Error::last_os_error());
    Ok(socket)
}

fn receive(from: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let mut frame = vec![0; FRAME_MAX];
    match nix::unistd::read(from, &mut frame) {
        Ok(len) => {
            frame.truncate(len);
            Ok(Some(frame))
        }
        Err(nix::errno::Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn send(to: &OwnedFd, frame: &[u8]) -> Result<()> {
    match nix::unistd::write(to, frame) {
        // A full queue loses a frame, as on any wire.
        Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
