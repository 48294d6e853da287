//! Clients as applications are: writers and readers with persistent connections through the VIPs, and a record of all that they
//! were told.
//!
//! A writer's transaction is BEGIN, an INSERT of its number and the next one of its own, an UPDATE of a balance, COMMIT. What was
//! acknowledged must be there afterwards ([`verify`]); what clients were told instead is in the record, with the moment in
//! their transaction ([`record::Phase`]).

pub mod pause;
pub mod pool;
pub mod record;
mod session;
pub mod verify;
mod work;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use self::record::Record;
use super::{
    netns::Namespace,
    topology::{VIP_READ, VIP_WRITE},
};

/// Tables of the clients, empty. AUTO_INCREMENT ids, so that rows of two writable primaries collide.
pub const TABLES: &str = "
    DROP TABLE IF EXISTS app.ledger, app.balance;
    CREATE TABLE app.ledger (
        id BIGINT AUTO_INCREMENT PRIMARY KEY, writer INT NOT NULL, sequence INT NOT NULL, KEY (writer, sequence)
    ) ENGINE=InnoDB;
    CREATE TABLE app.balance (account INT PRIMARY KEY, amount BIGINT NOT NULL) ENGINE=InnoDB;
    INSERT INTO app.balance VALUES (0,0),(1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0),
        (8,0),(9,0),(10,0),(11,0),(12,0),(13,0),(14,0),(15,0);";
/// Accounts in the table of balances.
const ACCOUNTS: u32 = 16;

/// Which clients there are, and how busy.
#[derive(Clone, Debug)]
pub struct Options {
    pub writers: u32,
    pub readers: u32,
    /// Time of a client between two transactions.
    pub think: Duration,
    /// Time inside a transaction, between its two statements: of all readers, and of every fourth writer.
    pub dwell: Duration,
    pub write_vip: SocketAddr,
    pub read_vip: SocketAddr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            writers: 16,
            readers: 4,
            think: Duration::from_millis(20),
            dwell: Duration::from_millis(50),
            write_vip: VIP_WRITE.into(),
            read_vip: VIP_READ.into(),
        }
    }
}

/// What the clients and the one who watches them share.
#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    /// Transactions of writers that were acknowledged so far.
    commits: AtomicU64,
    /// Transactions of readers that ended well so far.
    reads: AtomicU64,
}

/// Clients that work until they are stopped. Dropping it ends them, too.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Record>>>,
}

impl Clients {
    /// Starts them on a host of the lab, whose servers have [`TABLES`].
    pub fn start(host: &Namespace, options: Options) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = host.spawn(move || work::run(&options, &theirs))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Starts them where the caller is.
    pub fn start_here(options: Options) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || work::run(&options, &theirs));
        Self { shared, thread: Some(thread) }
    }

    /// Transactions of writers that were acknowledged so far.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Transactions of readers that ended well so far.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// Lets everybody finish the transaction at hand; returns what they were told.
    pub fn stop(mut self) -> Result<Record> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("clients are stopped once")?;
        thread.join().map_err(|_| anyhow!("the clients' thread panicked"))?
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}
