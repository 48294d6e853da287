//! Plain TCP next to a database server: far more connections than it would take, at a price that a test can pay.
//!
//! The server's port stays MariaDB's, because that is what the daemon checks. A rule on its host hands the connections that come
//! through the redirector to a listener of ours, addresses and ports as they are (Linux's TPROXY).

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{Arc, atomic::AtomicBool, mpsc},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
        resource::{Resource, getrlimit, setrlimit},
    },
};
use pairflip_vm_tests::command::run;

use super::*;

const PORT: u16 = 7;
/// Longest wait for bytes: long enough for some retransmissions.
const PATIENCE: Duration = Duration::from_secs(20);
/// The server looks as often whether it is to end.
const TURN_MS: u8 = 20;
/// Bytes that a connection sends at a time.
const BLOCK: usize = 512;

/// Sends back what connections from client1 send to a database server's port. Ends when it is dropped.
pub(crate) struct Server {
    host: Namespace,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(host: Namespace, setup: &Setup) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, is_ready) = mpsc::channel();
        let thread = host.spawn(move || {
            // A descriptor table of its own, so that each end of a connection counts in another one: a table takes only so many.
            unshare(CloneFlags::CLONE_FILES).unwrap();
            let listener = listen().unwrap();
            ready.send(()).unwrap();
            serve(&listener, &stopped).unwrap();
        })?;
        // The copy of the table holds what is open now: not the pipe of a command, whose end nobody would see.
        is_ready.recv().context("the echo server failed")?;
        let server = Self { host, stop, thread: Some(thread) };
        server.nft(&format!("table inet echo {{\nchain incoming {{\n{}}}\n}}", rules(setup)))?;
        Ok(server)
    }

    fn nft(&self, rules: &str) -> Result<()> {
        run(self.host.command("nft")?.arg(rules))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        if ended.is_some_and(|ended| ended.is_err()) {
            report("the echo server had failed");
        }
        if let Err(error) = self.nft("delete table inet echo") {
            report(&format!("{error:#}"));
        }
    }
}

/// Which connections are ours. In `snat` those from a port for clients: the daemon's own come from others.
fn rules(setup: &Setup) -> String {
    let ports = if setup.forwarding == Forwarding::Snat { "tcp sport 32768-60999" } else { "" };
    let mut rules = "type filter hook prerouting priority mangle;\n".to_owned();
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let source = setup.source(family);
        rules +=
            &format!("{ip} saddr {source} {ports} tcp dport 3306 tproxy {ip} to :{PORT} accept;\n");
    }
    rules
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind(("::", PORT))?;
    let on = 1_i32;
    // SAFETY: the option is a number, of which pointer and size are given.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_TRANSPARENT,
            (&raw const on).cast(),
            size_of_val(&on) as u32,
        )
    };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Number of the listener among the sockets; streams have those from 0 on.
const LISTENER: u64 = u64::MAX;

/// Without a runtime: that would be woken through descriptors of another table.
fn serve(listener: &TcpListener, stopped: &AtomicBool) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [EpollEvent::empty(); 256];
    while !stopped.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, TURN_MS)?;
        for event in &events[..ready] {
            if event.data() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    epoll
                        .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, streams.len() as u64))?;
                    streams.push(Some(stream));
                }
            } else if let Some(slot) = streams.get_mut(event.data() as usize) {
                // Of a client that is gone.
                slot.take_if(|stream| !send_back(stream));
            }
        }
    }
    Ok(())
}

/// Sends back what there is to read; returns whether the client is still there.
fn send_back(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    let len = stream.read(&mut buffer).unwrap_or(0);
    len > 0 && stream.write_all(&buffer[..len]).is_ok()
}

/// Connections of client1 to the echo server. Made and used inside its namespace.
pub(crate) struct Flows {
    to: SocketAddr,
    streams: Vec<TcpStream>,
    text: Vec<u8>,
    round: usize,
}

impl Flows {
    pub(crate) fn connect(to: SocketAddr, count: usize) -> Result<Self> {
        let text = payload(BLOCK + count).into_bytes();
        let streams = (0..count).map(|_| connect(to)).collect::<Result<_>>()?;
        Ok(Self { to, streams, text, round: 0 })
    }

    /// Sends bytes over every connection and checks that they come back, other bytes for each connection and each time.
    pub(crate) fn carry_data(&mut self) -> Result<()> {
        self.round += 1;
        let Self { streams, text, round, .. } = self;
        let count = streams.len();
        let block = |number| &text[(number + *round) % count..][..BLOCK];
        for (number, stream) in streams.iter_mut().enumerate() {
            stream
                .write_all(block(number))
                .with_context(|| format!("sending over connection {number}"))?;
        }
        let mut back = [0; BLOCK];
        for (number, stream) in streams.iter_mut().enumerate() {
            stream
                .read_exact(&mut back)
                .with_context(|| format!("receiving over connection {number}"))?;
            ensure!(back == block(number), "other bytes came back over connection {number}");
        }
        Ok(())
    }

    /// Whether a connection that is new now carries data.
    pub(crate) fn new_one_works(&self) -> Result<()> {
        Self::connect(self.to, 1)?.carry_data().context("a new connection")
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Lets a table have descriptors for this many connections.
pub(crate) fn allow_flows(count: usize) -> Result<()> {
    // Room for all else that a test has open.
    let wanted = count as u64 + 512;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
            .with_context(|| format!("asking for {wanted} descriptors"))?;
    }
    Ok(())
}
