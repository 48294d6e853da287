//! Flips that something befalls: servers, links and the daemon that fail in the middle of one. Afterwards one primary takes
//! writes, and what was acknowledged is on both.
//!
//! Minutes in all, so not in CI: `cargo test -p pairflip-vm-tests --test flips -- --ignored --test-threads=1`.

use pairflip_policy::SwitchoverStep;
use pairflip_vm_tests::lab::fault::{Fault, Target};

use super::*;

/// Longest wait for a step.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// A lab whose clients write, and which flips from pair1 to pair2.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    clients: Clients,
}

impl Scene {
    fn start(servers: Flavour) -> Self {
        let (lab, daemon) = start(servers, false);
        let clients = Clients::start(&lab.ns("client1"), clients::Options::default()).unwrap();
        flipper::wait_at_work(&clients).unwrap();
        Self { lab, daemon, clients }
    }

    /// Waits until the flip was finished or undone, and clients write again.
    fn settle(&self) {
        flipper::wait_settled(&self.daemon).unwrap();
        let status = || self.daemon.ctl(&["status"]).unwrap();
        flipper::wait_at_work(&self.clients)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", status()));
        assert_eq!(writable(&self.lab).len(), 1, "{}", status());
    }

    /// The same, where a server that failed came back read-only, as it should, and nobody takes writes: then an alarm says so.
    /// Does what an operator does.
    fn settle_by_hand(&self) {
        flipper::wait_settled(&self.daemon).unwrap();
        thread::sleep(Duration::from_secs(3));
        if writable(&self.lab).is_empty() {
            let events = self.daemon.events_after(0).unwrap();
            let alarms: Vec<&str> = events
                .iter()
                .filter(|event| event["severity"] == "error")
                .filter_map(|event| event["text"].as_str())
                .collect();
            println!("nobody takes writes; alarms: {alarms:#?}");
            assert!(!alarms.is_empty(), "nobody takes writes, and nothing says so");
            let active = flipper::active(&self.daemon).unwrap();
            self.lab.db(flipper::primary(active)).set_read_only(false).unwrap();
        }
        self.settle();
    }

    /// Holds the servers against what clients were told.
    fn end(self, what: &str, flips: &[Flip]) {
        let Self { lab, daemon, clients } = self;
        let record = clients.stop().unwrap();
        report(what, &record, flips);
        let verdict = verify::verify(&lab, &record.ledger()).unwrap();
        assert_eq!(verdict.problems(), Vec::<String>::new(), "{what}: {verdict:?}");
        drop(daemon);
    }
}

/// Primaries that take writes, by number.
fn writable(lab: &Lab) -> Vec<usize> {
    verify::PRIMARIES.into_iter().filter(|number| is_writable(lab, *number)).collect()
}

fn is_writable(lab: &Lab, number: usize) -> bool {
    lab.db(number).sql("SELECT @@global.read_only").is_ok_and(|said| said.trim() == "0")
}

/// The steps of a flip that is neither undone nor resumed, in order.
fn steps() -> Vec<&'static str> {
    let all = SwitchoverStep::ALL.into_iter();
    all.filter(|step| !matches!(step, SwitchoverStep::Undo | SwitchoverStep::Resume))
        .map(SwitchoverStep::name)
        .collect()
}

/// What the log says when a step begins: that the one before it is done.
fn begins(step: &str) -> String {
    let before = steps().into_iter().take_while(|it| *it != step).last();
    before.map_or("started (drain".to_owned(), |before| format!("flip: {before} took"))
}

/// The daemon is killed in every step, started again, and the flip is finished or undone.
fn killed_in_each_step(servers: Flavour) {
    let mut scene = Scene::start(servers);
    let (mut flips, mut not_seen) = (Vec::new(), Vec::new());
    for step in steps() {
        let before = flipper::active(&scene.daemon).unwrap();
        let logged = scene.daemon.log().unwrap().len();
        let flip = UnderWay::start(&scene.daemon, &[]).unwrap();
        if let Err(error) = scene.daemon.wait_logged(&begins(step), logged, STEP_LIMIT) {
            not_seen.push(format!("{step}: {error:#}"));
        }
        scene.daemon.kill().unwrap();
        let killed = writable(&scene.lab);
        scene.daemon.start().unwrap();
        let ended = flip.end().unwrap();
        scene.settle();
        let after = flipper::active(&scene.daemon).unwrap();
        println!(
            "{}: daemon killed in {step}: pair{before} was active and pair{after} is; writable right after: {killed:?}; exit code {:?}",
            servers.name(),
            ended.code
        );
        flips.push(ended.flip);
    }
    assert_eq!(not_seen, Vec::<String>::new());
    scene.end("daemon killed in each step", &flips);
}

#[test]
#[ignore = "takes two minutes"]
fn a_daemon_killed_in_any_step_finishes_or_undoes_the_flip_on_mariadb() {
    killed_in_each_step(Flavour::MariaDb1011);
}

#[test]
#[ignore = "takes two minutes"]
fn a_daemon_killed_in_any_step_finishes_or_undoes_the_flip_on_mysql() {
    killed_in_each_step(Flavour::MySql97);
}

/// A fault of a primary when a step begins, taken away after a while.
fn fault_in(servers: Flavour, step: &str, number: usize, fault: Fault) {
    let Scene { mut lab, daemon, clients } = Scene::start(servers);
    let what = format!("{}: server {number} {} in {step}", servers.name(), fault.name());
    // It comes back read-only: whoever wants it writable has to say so.
    let target = Target::new(number, false);
    // Keeps the flip in `settle` until it is dropped.
    let open = (step == "settle").then(|| open_transaction(&lab));
    let logged = daemon.log().unwrap().len();
    let flip = UnderWay::start(&daemon, &["--deadline", "15s"]).unwrap();
    daemon.wait_logged(&begins(step), logged, STEP_LIMIT).unwrap();
    target.begin(&mut lab, fault).unwrap();
    drop(open);
    thread::sleep(Duration::from_secs(4));
    // Who is killed or hangs cannot be asked.
    let others = verify::PRIMARIES.into_iter().filter(|it| *it != number);
    let meanwhile: Vec<usize> = others.filter(|it| is_writable(&lab, *it)).collect();
    target.end(&mut lab, fault).unwrap();
    let ended = flip.end().unwrap();
    println!("{what}: exit code {:?}; then writable: {meanwhile:?}\n{}", ended.code, ended.said);
    let scene = Scene { lab, daemon, clients };
    scene.settle_by_hand();
    scene.end(&what, &[ended.flip]);
}

/// A transaction on the old primary that stays open until it is dropped; it is a client's through the VIP.
struct Open(Option<std::sync::mpsc::Sender<()>>, Option<thread::JoinHandle<Result<(), String>>>);

fn open_transaction(lab: &Lab) -> Open {
    let (ready, opened) = std::sync::mpsc::channel();
    let (close, closed) = std::sync::mpsc::channel::<()>();
    let work = move || {
        let client = pairflip_vm_tests::Client::new(VIP_WRITE).unwrap();
        let mut session = client.connect().unwrap();
        let mut run =
            |sql: &str| session.value::<u32>(sql).map(|_| ()).map_err(|error| format!("{error:#}"));
        _ = run("BEGIN");
        _ = run("UPDATE app.open SET n = n + 1");
        ready.send(()).unwrap();
        _ = closed.recv();
        // Returns no row, which is all right; other errors are not.
        match run("COMMIT") {
            Err(error) if !error.contains("returned no row") => Err(error),
            _ => Ok(()),
        }
    };
    let thread = lab.ns("client2").spawn(work).unwrap();
    opened.recv().unwrap();
    Open(Some(close), Some(thread))
}

impl Open {
    /// Commits; an error if the client got one.
    fn commit(mut self) -> Result<(), String> {
        drop(self.0.take());
        self.1.take().unwrap().join().unwrap()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.0.take());
        if let Some(thread) = self.1.take() {
            _ = thread.join();
        }
    }
}

#[test]
#[ignore = "takes two minutes"]
fn a_target_that_fails_in_the_middle_loses_nothing() {
    for fault in [Fault::Killed, Fault::Unplugged, Fault::Hung] {
        fault_in(Flavour::MariaDb1011, "settle", 3, fault);
    }
    for step in ["fence", "final_catch_up", "unfence", "end_sessions"] {
        fault_in(Flavour::MariaDb1011, step, 3, Fault::Killed);
        fault_in(Flavour::MySql97, step, 3, Fault::Killed);
    }
}

#[test]
#[ignore = "takes two minutes"]
fn an_old_primary_that_fails_in_the_middle_loses_nothing() {
    for fault in [Fault::Killed, Fault::Unplugged, Fault::Hung] {
        fault_in(Flavour::MariaDb1011, "settle", 1, fault);
    }
    fault_in(Flavour::MariaDb1011, "final_catch_up", 1, Fault::Unplugged);
    for step in ["fence", "final_catch_up", "unfence", "end_sessions"] {
        fault_in(Flavour::MariaDb1011, step, 1, Fault::Killed);
        fault_in(Flavour::MySql97, step, 1, Fault::Killed);
    }
}

#[test]
#[ignore = "takes a minute"]
fn what_outlasts_the_deadline_undoes_the_flip_and_keeps_its_transaction() {
    for servers in [Flavour::MariaDb1011, Flavour::MySql97] {
        let scene = Scene::start(servers);
        let open = open_transaction(&scene.lab);
        let flip = UnderWay::start(&scene.daemon, &["--deadline", "3s"]).unwrap();
        let ended = flip.end().unwrap();
        assert_eq!(ended.code, Some(UNDONE_IN_TIME), "{ended:?}");
        assert_eq!(flipper::active(&scene.daemon).unwrap(), 1);
        scene.settle();
        assert_eq!(open.commit(), Ok(()), "the transaction that was waited for goes on");
        scene.end("a transaction outlasts the deadline", &[ended.flip]);
    }
}

#[test]
#[ignore = "takes a minute"]
fn what_speaks_against_a_flip_refuses_it_and_changes_nothing() {
    for servers in [Flavour::MariaDb1011, Flavour::MySql97] {
        let scene = Scene::start(servers);
        let (a, b) = (scene.lab.db(1), scene.lab.db(3));
        let refused = |word: &str, more: &str| {
            let ended = UnderWay::start(&scene.daemon, &[]).unwrap().end().unwrap();
            assert_eq!(ended.code, Some(REFUSED), "{word}: {ended:?}");
            assert!(
                ended.said.contains(word) && ended.said.contains(more),
                "{word}: {}",
                ended.said
            );
            assert_eq!(writable(&scene.lab), [1], "{word}");
            println!("{}: {word}: {}", servers.name(), ended.said.trim());
            flipper::wait_at_work(&scene.clients).unwrap();
        };

        let mut locked =
            a.sql_in_background("LOCK TABLES app.open WRITE; SELECT SLEEP(60)").unwrap();
        thread::sleep(Duration::from_millis(500));
        refused("table_locks", "");
        locked.kill().unwrap();
        locked.wait().unwrap();
        a.sql("SELECT COUNT(*) FROM app.open").unwrap();

        let lock = "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(60)";
        let mut locked = a.sql_in_background(lock).unwrap();
        thread::sleep(Duration::from_millis(500));
        let ended = UnderWay::start(&scene.daemon, &[]).unwrap().end().unwrap();
        locked.kill().unwrap();
        locked.wait().unwrap();
        a.kill_statements("SLEEP").unwrap();
        assert_eq!(ended.code, Some(REFUSED), "{ended:?}");
        assert!(ended.said.contains("FLUSH TABLES WITH READ LOCK"), "{}", ended.said);
        flipper::wait_at_work(&scene.clients).unwrap();

        a.sql("XA START 'x'; INSERT INTO app.open VALUES (7); XA END 'x'; XA PREPARE 'x'").unwrap();
        refused("prepared_xa", "");
        a.sql("XA ROLLBACK 'x'").unwrap();

        b.sql(&b.fork().delay(30)).unwrap();
        b.wait_replicating().unwrap();
        refused("target_", "");
        b.sql(&b.fork().delay(0)).unwrap();
        b.wait_replicating().unwrap();

        let grant = match servers.fork() {
            Fork::MariaDb => "READ_ONLY ADMIN",
            Fork::MySql => "SYSTEM_VARIABLES_ADMIN",
        };
        a.sql(&format!("SET SESSION sql_log_bin=0; REVOKE {grant} ON *.* FROM pairflip")).unwrap();
        refused("missing_grant", "GRANT ");
        a.sql(&format!("SET SESSION sql_log_bin=0; GRANT {grant} ON *.* TO pairflip")).unwrap();

        let Scene { lab, daemon, clients } = scene;
        let flip = Way::Safe.flip(&lab, &daemon, 2).unwrap();
        let scene = Scene { lab, daemon, clients };
        scene.settle();
        scene.end("refused flips, then one", &[flip]);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn a_standby_that_cannot_apply_is_waited_for_and_then_the_flip_is_undone() {
    for servers in [Flavour::MariaDb1011, Flavour::MySql97] {
        let scene = Scene::start(servers);
        // Whoever commits there waits for it, and so does its applier.
        let hold = "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(60)";
        let mut holder = scene.lab.db(3).sql_in_background(hold).unwrap();
        thread::sleep(Duration::from_millis(300));
        let ended = UnderWay::start(&scene.daemon, &["--deadline", "4s"]).unwrap().end().unwrap();
        println!("{}: {}", servers.name(), ended.said);
        assert!(matches!(ended.code, Some(UNDONE_IN_TIME | UNDONE)), "{ended:?}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        scene.lab.db(3).kill_statements("SLEEP").unwrap();
        scene.settle();
        scene.end("a standby that cannot apply", &[ended.flip]);
    }
}

/// A fence waits for statements of clients that did not come through us, for a second. When it is given up it must not come later.
#[test]
#[ignore = "takes half a minute"]
fn a_fence_that_has_to_wait_is_given_up_and_does_not_come_later() {
    for servers in [Flavour::MariaDb1011, Flavour::MySql97] {
        let scene = Scene::start(servers);
        let a = scene.lab.db(1);
        a.sql("INSERT INTO app.open VALUES (1), (2)").unwrap();
        // Two in a row, so that one comes between the two locks that MySQL's fence takes.
        let slow = "UPDATE app.open SET n = n + SLEEP(3)";
        let mut writers = vec![a.sql_in_background(slow).unwrap()];
        thread::sleep(Duration::from_millis(500));
        let flip = UnderWay::start(&scene.daemon, &["--drain", "cut"]).unwrap();
        thread::sleep(Duration::from_millis(300));
        writers.push(a.sql_in_background(slow).unwrap());
        let ended = flip.end().unwrap();
        println!("{}: {:?}: {}", servers.name(), ended.code, ended.said);
        assert!(matches!(ended.code, Some(UNDONE | UNDONE_IN_TIME)), "{ended:?}");
        for mut writer in writers {
            writer.wait().unwrap();
        }
        scene.settle();
        assert_eq!(writable(&scene.lab), [1], "{}", servers.name());
        scene.end("a fence that had to wait", &[ended.flip]);
    }
}

/// The standby has all of it and has applied little of it, as one that is slower than its primary.
#[test]
#[ignore = "takes a minute"]
fn a_standby_that_lags_is_refused_and_when_forced_waited_for() {
    for servers in [Flavour::MariaDb1011, Flavour::MySql97] {
        let scene = Scene::start(servers);
        let hold = "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(60)";
        let mut holder = scene.lab.db(3).sql_in_background(hold).unwrap();
        // More than max_lag, which is 10 s.
        thread::sleep(Duration::from_secs(13));
        let ended = UnderWay::start(&scene.daemon, &[]).unwrap().end().unwrap();
        println!("{}: {}", servers.name(), ended.said);
        assert_eq!(ended.code, Some(REFUSED), "{ended:?}");
        assert!(ended.said.contains("target_lagging"), "{}", ended.said);
        assert_eq!(writable(&scene.lab), [1]);

        let flip = UnderWay::start(&scene.daemon, &["--force", "target_lagging"]).unwrap();
        flip.wait_step(&scene.daemon, "catch_up").unwrap();
        thread::sleep(Duration::from_secs(2));
        flipper::wait_at_work(&scene.clients).expect("nobody is paused while it catches up");
        holder.kill().unwrap();
        holder.wait().unwrap();
        scene.lab.db(3).kill_statements("SLEEP").unwrap();
        let ended = flip.end().unwrap();
        println!("{}: {}", servers.name(), ended.said);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        scene.settle();
        assert_eq!(writable(&scene.lab), [3]);
        scene.end("a standby that lags", &[ended.flip]);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn a_second_flip_at_the_same_time_is_refused_and_the_first_goes_on() {
    let scene = Scene::start(Flavour::MariaDb1011);
    let open = open_transaction(&scene.lab);
    let first = UnderWay::start(&scene.daemon, &[]).unwrap();
    first.wait_step(&scene.daemon, "settle").unwrap();
    let second = UnderWay::start(&scene.daemon, &[]).unwrap().end().unwrap();
    assert_eq!(second.code, Some(REFUSED), "{second:?}");
    println!("{}", second.said);
    assert_eq!(open.commit(), Ok(()));
    let first = first.end().unwrap();
    assert_eq!(first.code, Some(0), "{first:?}");
    scene.settle();
    assert_eq!(writable(&scene.lab), [3]);
    scene.end("two flips at a time", &[first.flip]);
}
