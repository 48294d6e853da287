//! Flips under load.

use std::sync::{Arc, atomic::AtomicBool, mpsc};

use super::*;

/// One short connection: when it was opened and closed, and what it reached.
struct Visit {
    vip: SocketAddrV4,
    start: Instant,
    end: Instant,
    result: Result<u32, String>,
}

/// One flip: when the command was given and when it returned.
struct Flip {
    start: Instant,
    end: Instant,
    to: usize,
}

#[test]
fn twenty_flips_under_load_fail_no_connection_and_the_vips_never_disagree() {
    const FLIPS: usize = 20;
    let (lab, daemon) = start(&Options { both_writable: true, ..options() });
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = ["client1", "client2"]
        .into_iter()
        .flat_map(|host| [host; 2])
        .map(|host| {
            let stop = Arc::clone(&stop);
            lab.ns(host).spawn(move || visit_until(&stop)).unwrap()
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let mut flips = Vec::new();
    for n in 0..FLIPS {
        let to = (n + 1) % 2;
        let start = Instant::now();
        daemon.ctl(&["flip", "--route-only", "--to", ["pair1", "pair2"][to]]).unwrap();
        flips.push(Flip { start, end: Instant::now(), to });
        thread::sleep(Duration::from_millis(200));
    }
    stop.store(true, Ordering::Relaxed);
    let visits: Vec<Vec<Visit>> =
        clients.into_iter().map(|client| client.join().unwrap()).collect();

    let total: usize = visits.iter().map(Vec::len).sum();
    assert!(total > 40 * FLIPS, "{total} connections are no load");
    for visit in visits.iter().flatten() {
        let id =
            visit.result.as_ref().unwrap_or_else(|error| panic!("a connection failed: {error}"));
        if let Some(active) = sole_active(&flips, visit.start, visit.end) {
            assert_eq!(
                *id,
                server(active, visit.vip),
                "opened while pair{} was active",
                active + 1
            );
        }
    }
    for client in &visits {
        for two in client.windows(2) {
            assert_agreement(&flips, &two[0], &two[1]);
        }
    }
    let status = daemon.status().unwrap();
    assert_eq!(status["clusters"][0]["active_pair"], "pair1");
    assert_eq!(status["clusters"][0]["generation"], 1 + FLIPS);
}

fn visit_until(stop: &AtomicBool) -> Vec<Visit> {
    let clients = [VIP_WRITE, VIP_READ].map(|vip| (vip, Client::new(vip).unwrap()));
    let mut visits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for (vip, client) in &clients {
            let start = Instant::now();
            let result = client.server_id().map_err(|error| format!("{error:#}"));
            visits.push(Visit { vip: *vip, start, end: Instant::now(), result });
        }
    }
    visits
}

/// The pair that was active during all of an interval, if no flip touches it.
fn sole_active(flips: &[Flip], start: Instant, end: Instant) -> Option<usize> {
    let touched = flips.iter().any(|flip| flip.start <= end && start <= flip.end);
    (!touched).then(|| flips.iter().rev().find(|flip| flip.end < start).map_or(0, |flip| flip.to))
}

fn server(pair: usize, vip: SocketAddrV4) -> u32 {
    match (pair, vip == VIP_WRITE) {
        (0, true) => PAIR1_PRIMARY,
        (0, false) => PAIR1_REPLICA,
        (_, true) => PAIR2_PRIMARY,
        (_, false) => PAIR2_REPLICA,
    }
}

/// With one flip between two connections, the later one never sees the older pair when the earlier saw the newer.
fn assert_agreement(flips: &[Flip], earlier: &Visit, later: &Visit) {
    let touching: Vec<&Flip> =
        flips.iter().filter(|flip| flip.start <= later.end && earlier.start <= flip.end).collect();
    let (Ok(earlier), Ok(later), [flip]) = (&earlier.result, &later.result, touching.as_slice())
    else {
        return;
    };
    let pair = |id: u32| usize::from(id >= PAIR2_PRIMARY);
    assert!(
        !(pair(*earlier) == flip.to && pair(*later) != flip.to),
        "after server {earlier} of the new pair, server {later} of the old one"
    );
}

#[test]
fn cut_ends_connections_on_both_sides_at_once_and_finish_leaves_them_alone() {
    let (lab, daemon) = start(&Options { both_writable: true, ..options() });
    let sleeper = |to: SocketAddrV4| {
        let (ready, wait) = mpsc::channel();
        let thread = lab
            .ns("client1")
            .spawn(move || {
                let client = Client::new(to).unwrap();
                let mut session = client.connect().unwrap();
                ready.send(session.server_id().unwrap()).unwrap();
                let result =
                    session.value::<u32>("SELECT SLEEP(8)").map_err(|error| format!("{error:#}"));
                (result, Instant::now())
            })
            .unwrap();
        (thread, wait.recv().unwrap())
    };
    let sleeping = |number: usize| {
        lab.db(number).sql("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'").unwrap()
    };

    let (finished, server) = sleeper(VIP_WRITE);
    assert_eq!(server, PAIR1_PRIMARY);
    wait_for("the server works on it", SLACK, || sleeping(1) == "1");
    daemon.ctl(&["flip", "--route-only", "--to", "pair2", "--drain", "finish"]).unwrap();
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR2_PRIMARY);
    assert_eq!(finished.join().unwrap().0.unwrap(), 0, "SLEEP ran to its end");

    let (cut, server) = sleeper(VIP_WRITE);
    assert_eq!(server, PAIR2_PRIMARY);
    wait_for("the server works on it", SLACK, || sleeping(3) == "1");
    let flipped = Instant::now();
    daemon.ctl(&["flip", "--route-only", "--to", "pair1", "--drain", "cut"]).unwrap();
    let (result, at) = cut.join().unwrap();
    assert!(result.is_err(), "the client was told");
    assert!(at - flipped < SLACK, "the client was told after {:?}", at - flipped);
    // A server notices a lost client of SLEEP when it polls the socket, or at the end of the statement; an RST it did not
    // accept would leave the connection established.
    let connections = || {
        lab.ns("db3")
            .command("ss")
            .and_then(|mut command| {
                pairflip_vm_tests::command::run(command.args([
                    "-Htn",
                    "state",
                    "established",
                    "sport",
                    "=",
                    ":3306",
                    "dst",
                    "10.77.0.2",
                    "dport",
                    ">=",
                    ":32768",
                ]))
            })
            .unwrap()
    };
    wait_for("the server's socket is closed", Duration::from_secs(2), || connections().is_empty());
    assert_eq!(daemon.status().unwrap()["daemon"]["flows"], 0);
}

#[test]
fn a_flip_to_a_read_only_primary_refuses_writes_until_it_is_writable() {
    let (lab, daemon) = start(&options());
    let said = daemon.ctl(&["flip", "--route-only"]).unwrap();
    assert!(said.contains("pair1 -> pair2"), "{said}");
    assert!(said.contains("the new primary is read-only"), "{said}");
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR2_REPLICA);
    assert!(server_id(&lab, "client1", VIP_WRITE).is_err());
    let status = daemon.status().unwrap();
    assert_eq!(status["clusters"][0]["routes"][0]["reason"], "primary is read-only");
    lab.db(1).set_read_only(true).unwrap();
    lab.db(3).set_read_only(false).unwrap();
    wait_for("writes open", SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR2_PRIMARY)
    });
}

#[test]
fn a_flip_takes_writes_along_and_a_dry_run_changes_nothing() {
    let (lab, daemon) = start(&options());
    let mut administrator = lab.db(1).sql_in_background("SELECT SLEEP(60)").unwrap();
    wait_for("the plan names who is not stopped", SLACK, || {
        daemon.ctl(&["flip", "--dry-run"]).unwrap().contains("root@localhost")
    });
    administrator.kill().unwrap();
    administrator.wait().unwrap();
    lab.db(1).sql("REVOKE SELECT ON mysql.* FROM pairflip").unwrap();
    let plan = daemon.ctl(&["flip", "--dry-run"]).unwrap();
    assert!(plan.contains("GRANT SELECT ON mysql.* TO `pairflip`@`%`;"), "{plan}");
    assert!(plan.contains("pair1 -> pair2  possible") && plan.contains("SET GLOBAL"), "{plan}");
    assert_eq!(daemon.status().unwrap()["clusters"][0]["generation"], 1, "nothing was changed");
    let said = daemon.ctl(&["flipactive"]).unwrap();
    assert!(said.contains("pair1 -> pair2") && said.contains("writes waited for"), "{said}");
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR2_PRIMARY);
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR2_REPLICA);
    let read_only = |number| lab.db(number).sql("SELECT @@global.read_only").unwrap();
    assert_eq!([read_only(1), read_only(3)], ["1", "0"]);
    // Two operators with one thought.
    let (code, said) = refused(&daemon, &["flip"]);
    assert!(code == Some(1) && said.contains("recent_flip"), "{code:?}: {said}");
    lab.db(3).sql("REVOKE READ_ONLY ADMIN ON *.* FROM pairflip").unwrap();
    let (code, said) = refused(&daemon, &["flip", "--force", "recent_flip"]);
    let grant = "GRANT READ_ONLY ADMIN ON *.* TO `pairflip`@`%`;";
    assert!(code == Some(1) && said.contains(grant), "{code:?}: {said}");
    for (arguments, expected) in [
        (&["flip", "--to", "pair9"][..], "has no pair \"pair9\""),
        (&["flip", "--cluster", "other"], "no cluster \"other\""),
        (&["flip", "--force", "everything"], "is not a precondition"),
        (&["flip", "--force", "missing_grant"], "is not a precondition that can be waived"),
    ] {
        let (code, said) = refused(&daemon, arguments);
        assert!(code == Some(1) && said.contains(expected), "{arguments:?}: {code:?} {said}");
    }
    let again = daemon.ctl(&["flip", "--to", "pair2"]).unwrap();
    assert!(again.contains("active already"), "{again}");
}

/// The first is held from the beginning, and the second is found when it has ended its transaction: both sessions are ended on the server.
#[test]
fn who_is_held_while_a_flip_waits_for_another_sees_a_plain_close() {
    let (lab, daemon) = start(&options());
    lab.db(1).sql("CREATE TABLE app.t (n INT); INSERT INTO app.t VALUES (0)").unwrap();
    let (told, over) = (&AtomicBool::new(false), &AtomicBool::new(false));
    // Also when the test fails meanwhile: its threads must end.
    let limit = Instant::now() + Duration::from_secs(60);
    let is_set = move |flag: &AtomicBool| flag.load(Ordering::Relaxed) || Instant::now() > limit;
    let (idle, busy) = thread::scope(|scope| {
        let busy = scope.spawn(|| {
            lab.ns("client2").inside(|| {
                let client = Client::new(VIP_WRITE).unwrap();
                let mut session = client.connect().unwrap();
                session.run("BEGIN").unwrap();
                while !is_set(told) {
                    session.run("UPDATE app.t SET n = n + 1").expect("it is in a transaction");
                }
                session.run("COMMIT").expect("it was waited for");
                while !is_set(over) {
                    thread::sleep(Duration::from_millis(10));
                }
                session.run("BEGIN").expect_err("its session was ended")
            })
        });
        let idle = scope.spawn(|| {
            lab.ns("client1").inside(|| {
                let client = Client::new(VIP_WRITE).unwrap();
                let mut session = client.connect().unwrap();
                session.run("SELECT n FROM app.t").unwrap();
                while !is_set(over) {
                    thread::sleep(Duration::from_millis(10));
                }
                session.run("BEGIN").expect_err("its session was ended")
            })
        });
        let flows = || daemon.status().unwrap()["daemon"]["flows"].as_u64();
        wait_for("both are there", SLACK, || flows() == Some(2));
        thread::sleep(Duration::from_millis(100));
        let mut flip = daemon.start_pairflip(&["flip"]).unwrap();
        wait_for("the flip waits for the transaction", SLACK, || waits(&daemon));
        thread::sleep(Duration::from_millis(500));
        told.store(true, Ordering::Relaxed);
        assert!(flip.wait().unwrap().success());
        over.store(true, Ordering::Relaxed);
        (idle.join().unwrap().unwrap(), busy.join().unwrap().unwrap())
    });
    for error in [idle, busy] {
        let said = format!("{error:#}");
        assert!(!said.contains("reset"), "{said}");
    }
    assert_ne!(lab.db(3).sql("SELECT n FROM app.t").unwrap(), "0");
}

/// Whether a flip waits for a transaction.
fn waits(daemon: &Daemon) -> bool {
    let flip = daemon.status().unwrap()["clusters"][0]["flip"].take();
    flip["waiting_for"].as_str().is_some_and(|text| text.contains("in a transaction"))
}

fn refused(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = daemon.pairflip(arguments).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn ctrl_c_and_the_daemons_end_undo_a_flip_that_waits() {
    let (lab, mut daemon) = start(&options());
    lab.db(1).sql("CREATE TABLE app.t (n INT); INSERT INTO app.t VALUES (0)").unwrap();
    let (ready, opened) = mpsc::channel();
    let (close, closed) = mpsc::channel::<()>();
    let client = lab.ns("client1").spawn(move || {
        let client = Client::new(VIP_WRITE).unwrap();
        let mut session = client.connect().unwrap();
        session.run("BEGIN").unwrap();
        session.run("UPDATE app.t SET n = n + 1").unwrap();
        ready.send(()).unwrap();
        _ = closed.recv();
        session.run("COMMIT")
    });
    let client = client.unwrap();
    opened.recv().unwrap();
    let mut flip = daemon.start_pairflip(&["flip"]).unwrap();
    wait_for("the flip waits for the transaction", SLACK, || waits(&daemon));
    let (code, said) = refused(&daemon, &["unload"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a flip of cluster main is running"), "{said}");
    let pid = nix::unistd::Pid::from_raw(flip.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(flip.wait().unwrap().code(), Some(4));
    assert!(daemon.status().unwrap()["clusters"][0]["flip"].is_null(), "nothing is left of it");

    let mut flip = daemon.start_pairflip(&["flip"]).unwrap();
    wait_for("the flip waits for the transaction", SLACK, || waits(&daemon));
    daemon.stop().unwrap();
    assert_eq!(flip.wait().unwrap().code(), Some(4), "the daemon undid it before it ended");
    daemon.start().unwrap();
    let events = daemon.ctl(&["events"]).unwrap();
    assert!(!events.contains("was started in the middle of a flip"), "{events}");
    assert_eq!(lab.db(1).sql("SELECT @@global.read_only").unwrap(), "0");
    drop(close);
    client.join().unwrap().expect("the transaction commits");
    assert_eq!(lab.db(1).sql("SELECT n FROM app.t").unwrap(), "1");
}
