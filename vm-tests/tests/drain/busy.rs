//! Pools that are busy while their flows are drained: nobody loses a transaction, and who validates on borrow sees no error at all.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64},
};

use pairflip_vm_tests::lab::ways::{self, Forwarding};

use super::*;

/// What a pool does with a connection before it hands it out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Borrow {
    /// Pings it.
    Validated,
    /// Nothing; it opens another one when an error has told.
    Blind,
}

/// Where a client was when it saw an error.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Stage {
    /// Nothing had run: a retry is safe.
    Begin,
    Transaction,
}

const CLIENTS: u64 = 24;
/// Time for all of the reads to be back, of which the deadline cuts nobody.
const DEADLINE: Duration = Duration::from_secs(10);

/// What all clients of a round write down.
#[derive(Default)]
struct Book {
    is_over: AtomicBool,
    transactions: AtomicU64,
    errors: Mutex<Vec<(Borrow, Stage, String)>>,
    /// Server that each client's last transaction was on.
    servers: Mutex<std::collections::BTreeMap<u64, u32>>,
    /// Of transactions, in ms, while flows are drained.
    took: Mutex<Vec<f64>>,
}

#[test]
fn reads_of_busy_pools_return_to_the_replica_and_nobody_sees_an_error() {
    for flavour in [Flavour::MariaDb1011, Flavour::MySql97] {
        let lab = lab(flavour, 2);
        lab.db(1)
            .sql("CREATE TABLE app.t (a INT PRIMARY KEY); INSERT INTO app.t VALUES (1)")
            .unwrap();
        // What it is forwarded by makes no difference to the server.
        let ways =
            if flavour == Flavour::MySql97 { &[Forwarding::Snat][..] } else { &Forwarding::ALL };
        for forwarding in ways.iter().copied() {
            ways::let_servers_reply(&lab, forwarding, &[1, 2]).unwrap();
            lab.db(2).sql("STOP REPLICA").unwrap();
            let mut daemon = start(&lab, |config| {
                let with = format!(
                    "name = \"main\"\nforwarding = \"{}\"\ndrain = {{ deadline = \"{DEADLINE:?}\" }}",
                    forwarding.name()
                );
                config
                    .replace("name = \"main\"", &with)
                    .replace("access = \"read\"", "access = \"read\"\nfailback = \"idle\"")
            });
            assert_eq!(server_id(&lab, VIP_READ), 1, "the replica is not fit");
            let book = Book::default();
            thread::scope(|scope| {
                for number in 0..CLIENTS {
                    let (lab, book) = (&lab, &book);
                    scope.spawn(move || on_client(lab, || work(number, book)));
                }
                // Also when it panics: the clients must end.
                let _end = End(&book.is_over);
                watch(&lab, &daemon, &book, forwarding);
            });
            judge(&book, flavour, forwarding, &daemon);
            let config = lab.dir().join("pairflip.toml").display().to_string();
            daemon.ctl(&["unload", "--config", &config]).unwrap();
            daemon.stop().unwrap();
            std::fs::remove_dir_all(lab.dir().join("state")).unwrap();
        }
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets the replica return, and waits for all clients to be on it.
fn watch(lab: &Lab, daemon: &Daemon, book: &Book, forwarding: Forwarding) {
    let servers = |wanted: u32| {
        let servers = book.servers.lock().unwrap();
        servers.len() == CLIENTS as usize && servers.values().all(|server| *server == wanted)
    };
    wait_for("all clients work on the primary", SOON, || servers(1));
    thread::sleep(Duration::from_millis(500));
    book.took.lock().unwrap().clear();
    lab.db(2).sql("START REPLICA").unwrap();
    let text = || told(daemon, "drained").concat();
    wait_for("the drain is over", DEADLINE + SOON, || !text().is_empty());
    assert!(text().contains(" 0 cut at the deadline"), "{forwarding:?}: {}", text());
    wait_for("all clients work on the replica", SOON, || servers(2));
}

fn judge(book: &Book, flavour: Flavour, forwarding: Forwarding, daemon: &Daemon) {
    let errors = book.errors.lock().unwrap();
    let of = |borrow, stage| errors.iter().filter(|it| (it.0, it.1) == (borrow, stage)).count();
    let mut took = book.took.lock().unwrap();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[(took.len() as f64 * share) as usize];
    println!(
        "{} {}: {}; {} transactions, while draining median {:.1} ms, p99 {:.1} ms; errors of blind pools: {} at BEGIN",
        flavour.name(),
        forwarding.name(),
        told(daemon, "drained").concat(),
        book.transactions.load(Ordering::Relaxed),
        at(0.5),
        at(0.99),
        of(Borrow::Blind, Stage::Begin),
    );
    let lost: Vec<_> = errors.iter().filter(|it| it.1 == Stage::Transaction).collect();
    assert!(lost.is_empty(), "{flavour:?} {forwarding:?}: inside a transaction: {lost:?}");
    let seen: Vec<_> = errors.iter().filter(|it| it.0 == Borrow::Validated).collect();
    assert!(seen.is_empty(), "{flavour:?} {forwarding:?}: pools that validate saw {seen:?}");
}

/// One client of a pool: borrows, works, gives back, and does so again.
fn work(number: u64, book: &Book) {
    let borrow = if number % 4 == 3 { Borrow::Blind } else { Borrow::Validated };
    // Every other one works almost without a pause.
    let pause = Duration::from_millis(if number.is_multiple_of(2) { 2 } else { 4 * number });
    let client = Client::new(VIP_READ).unwrap();
    let mut pooled: Option<Session<'_>> = None;
    while !book.is_over.load(Ordering::Relaxed) {
        if borrow == Borrow::Validated && pooled.as_mut().is_some_and(|it| it.ping().is_err()) {
            pooled = None;
        }
        let session = match &mut pooled {
            Some(session) => session,
            None => pooled.insert(client.connect().unwrap()),
        };
        let began = Instant::now();
        match transaction(session) {
            Ok(server) => {
                book.took.lock().unwrap().push(began.elapsed().as_secs_f64() * 1000.0);
                book.transactions.fetch_add(1, Ordering::Relaxed);
                book.servers.lock().unwrap().insert(number, server);
            }
            Err((stage, error)) => {
                book.errors.lock().unwrap().push((borrow, stage, format!("{error:#}")));
                pooled = None;
            }
        }
        thread::sleep(pause);
    }
}

fn transaction(session: &mut Session<'_>) -> Result<u32, (Stage, anyhow::Error)> {
    session.run("BEGIN").map_err(|error| (Stage::Begin, error))?;
    let inside = |error| (Stage::Transaction, error);
    let server = session.server_id().map_err(inside)?;
    for _ in 0..2 {
        session.run("SELECT a FROM app.t").map_err(inside)?;
    }
    session.run("COMMIT").map_err(inside)?;
    Ok(server)
}
