//! What writers and readers do, all on one thread.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mysql_async::{Conn, Opts};
use tokio::{runtime::Builder, task::JoinSet, time::sleep};

use super::{
    ACCOUNTS, Options, Shared,
    record::{Client, Commit, Kind, Mishap, Phase, Read, Record},
    session,
};

/// Time after an error before the client tries again.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// One client: what it is, its connection while it has one, and what it was told.
struct Worker {
    client: Client,
    opts: Opts,
    conn: Option<Conn>,
    dwell: Duration,
    /// Transactions that it tried.
    tries: u32,
    record: Record,
    shared: Arc<Shared>,
}

/// An error in a transaction, and where.
struct Broken {
    kind: Kind,
    phase: Phase,
    began: Option<Instant>,
}

/// Runs all clients until they are stopped.
pub(super) fn run(options: &Options, shared: &Arc<Shared>) -> Result<Record> {
    let runtime =
        Builder::new_current_thread().enable_all().build().context("starting clients' runtime")?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        let writers = (0..options.writers).map(|n| (Client::Writer(n), options.write_vip));
        let readers = (0..options.readers).map(|n| (Client::Reader(n), options.read_vip));
        for (client, vip) in writers.chain(readers) {
            let dwells = match client {
                Client::Writer(number) => number % 4 == 0,
                Client::Reader(_) => true,
            };
            let worker = Worker {
                client,
                opts: session::opts(vip),
                conn: None,
                dwell: if dwells { options.dwell } else { Duration::ZERO },
                tries: 0,
                record: Record::default(),
                shared: Arc::clone(shared),
            };
            clients.spawn(worker.work(options.think));
        }
        let mut record = Record::default();
        while let Some(done) = clients.join_next().await {
            record.add(done.context("a client panicked")?);
        }
        Ok(record)
    })
}

impl Worker {
    async fn work(mut self, think: Duration) -> Record {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            match self.once().await {
                Ok(()) => sleep(think).await,
                Err(broken) => {
                    let Broken { kind, phase, began } = broken;
                    let (at, client) = (Instant::now(), self.client);
                    self.record.mishaps.push(Mishap { at, client, kind, phase, began });
                    self.recover(kind).await;
                    sleep(AFTER_ERROR).await;
                }
            }
        }
        if let Some(conn) = self.conn.take() {
            session::close(conn).await;
        }
        self.record
    }

    /// Connects if needed, and does one transaction.
    async fn once(&mut self) -> Result<(), Broken> {
        if self.conn.is_none() {
            let outside = |kind| Broken { kind, phase: Phase::Connect, began: None };
            self.conn = Some(session::connect(&self.opts).await.map_err(outside)?);
        }
        let start = Instant::now();
        self.run("BEGIN").await.map_err(|kind| Broken {
            kind,
            phase: Phase::Begin,
            began: None,
        })?;
        let began = Some(Instant::now());
        self.tries += 1;
        let inside = |kind| Broken { kind, phase: Phase::Inside, began };
        let [first, second] = self.statements();
        self.run(&first).await.map_err(inside)?;
        // Before the statement that many wait for.
        sleep(self.dwell).await;
        self.run(&second).await.map_err(inside)?;
        let ended = self.run("COMMIT").await;
        let (at, took) = (Instant::now(), start.elapsed());
        match (self.client, ended) {
            (Client::Writer(writer), Ok(())) => {
                self.record.commits.push(Commit { row: (writer, self.tries), at, took });
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            (Client::Reader(_), Ok(())) => {
                self.record.reads.push(Read { at, took });
                self.shared.reads.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            (client, Err(kind)) => {
                if let (Client::Writer(writer), false) = (client, is_refusal(kind)) {
                    self.record.unknown.push((writer, self.tries));
                }
                Err(Broken { kind, phase: Phase::Commit, began })
            }
        }
    }

    fn statements(&self) -> [String; 2] {
        let tries = self.tries;
        match self.client {
            Client::Writer(writer) => {
                let account = (writer + tries) % ACCOUNTS;
                [
                    format!("INSERT INTO app.ledger (writer, sequence) VALUES ({writer}, {tries})"),
                    format!("UPDATE app.balance SET amount = amount + 1 WHERE account = {account}"),
                ]
            }
            Client::Reader(reader) => {
                let account = (reader + tries) % ACCOUNTS;
                [
                    format!("SELECT amount FROM app.balance WHERE account = {account}"),
                    "SELECT COUNT(*) FROM app.balance".to_owned(),
                ]
            }
        }
    }

    async fn run(&mut self, statement: &str) -> Result<(), Kind> {
        match &mut self.conn {
            Some(conn) => session::run(conn, statement).await,
            None => Err(Kind::Lost),
        }
    }

    /// After the server's own error the connection may be used on, as pools do, once it is rolled back.
    async fn recover(&mut self, kind: Kind) {
        let is_usable = matches!(kind, Kind::Server(_)) && self.run("ROLLBACK").await.is_ok();
        if !is_usable && let Some(conn) = self.conn.take() {
            session::close(conn).await;
        }
    }
}

/// Whether a COMMIT that was answered so has certainly not committed: 1290, 1792 and 1836 say that the server is read-only,
/// 1205 that it waited in vain.
fn is_refusal(kind: Kind) -> bool {
    matches!(kind, Kind::Server(1205 | 1290 | 1792 | 1836))
}
