//! A TCP proxy in front of a server, for faults that a server cannot be told to have: answers that come late or never, from a
//! port that accepts; and for a look at what a server says.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::netns::Namespace;

/// How much of what servers said is kept: a few logins.
const HEARD_MAX_BYTES: usize = 1 << 16;
/// How often the proxy looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// A proxy inside a namespace. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Milliseconds by which answers are late.
    delay_ms: AtomicU64,
    is_mute: AtomicBool,
    ends: AtomicBool,
    heard: Mutex<Vec<u8>>,
}

impl Proxy {
    /// Accepts on `port` of every address and forwards to `to`, which is inside as well.
    pub fn start(namespace: &Namespace, port: u16, to: u16) -> Result<Self> {
        let listener = namespace
            .run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?
            .with_context(|| format!("listening on port {port} of {}", namespace.name()))?;
        listener.set_nonblocking(true).context("making a proxy's socket answer at once")?;
        let shared = Arc::new(Shared::default());
        let accepting = {
            let shared = Arc::clone(&shared);
            namespace.spawn(move || accept(&listener, to, &shared))?
        };
        Ok(Self { shared, accepting: Some(accepting) })
    }

    /// Answers come this much later from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether connections are accepted, and nothing of them is read or answered.
    pub fn mute(&self, is_mute: bool) {
        self.shared.is_mute.store(is_mute, Ordering::Relaxed);
    }

    /// What servers said since the last call, as far as it is kept.
    pub fn heard(&self) -> Vec<u8> {
        std::mem::take(&mut *self.shared.heard())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            // A proxy that panicked has ended, too.
            _ = accepting.join();
        }
    }
}

impl Shared {
    fn heard(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}

fn accept(listener: &TcpListener, to: u16, shared: &Arc<Shared>) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !shared.ends() {
        match listener.accept() {
            Ok((client, _)) => {
                // A server that is not there ends the connection, as it would by itself.
                if let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, to)))
                    && let Ok(both) = join(client, server, shared)
                {
                    open.extend(both);
                }
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
    for stream in open {
        // It may be closed already.
        _ = stream.shutdown(Shutdown::Both);
    }
}

/// Carries bytes both ways, each on a thread that ends with its connection.
fn join(
    client: TcpStream,
    server: TcpStream,
    shared: &Arc<Shared>,
) -> std::io::Result<[TcpStream; 2]> {
    client.set_nonblocking(false)?;
    let both = [client.try_clone()?, server.try_clone()?];
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let sharing = Arc::clone(shared);
    thread::spawn(move || carry(from_client, to_server, &sharing, Way::Questions));
    let sharing = Arc::clone(shared);
    thread::spawn(move || carry(server, client, &sharing, Way::Answers));
    Ok(both)
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Way {
    Questions,
    Answers,
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared, way: Way) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        while shared.is_mute.load(Ordering::Relaxed) && !shared.ends() {
            thread::sleep(LOOK);
        }
        if way == Way::Answers {
            thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed)));
            let mut heard = shared.heard();
            let room = HEARD_MAX_BYTES.saturating_sub(heard.len()).min(read);
            heard.extend(&bytes[..room]);
        }
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // The other direction may have closed it already.
        _ = stream.shutdown(Shutdown::Both);
    }
}
