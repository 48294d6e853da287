//! Servers that fail, each in its way: noticed in the time that is promised, and nobody waits for them.

use pairflip_vm_tests::lab::fault::{Fault, Target, promise};

use super::*;

/// What detection may take beyond the promise on a machine that does other things as well.
const LATE: Duration = Duration::from_secs(2);
/// Time between the starts of two checks while one is failing; the default is the timeout.
const FAST_INTERVAL: Duration = Duration::from_millis(500);

#[test]
fn every_fault_of_a_replica_is_noticed_in_time_and_its_clients_are_told() {
    let World { mut lab, daemon } = World::start(lab(Flavour::MariaDb1011, 2));
    let mut target = Target::new(2, false);
    target.wait_up(&lab, &daemon).unwrap();
    let promised = promise(&lab, &daemon).unwrap();
    assert_eq!(promised, DETECTION);
    for fault in Fault::ALL {
        target.set_proxy(&mut lab, fault.is_of_proxy()).unwrap();
        target.wait_up(&lab, &daemon).unwrap();
        wait_for("reads go to the replica", SLACK, || {
            let status = daemon.status().unwrap();
            status["clusters"][0]["routes"][1]["reason"] == "all replicas are fit"
        });
        let (connected, ready) = std::sync::mpsc::channel();
        let client = lab
            .ns("client1")
            .spawn(move || {
                let client = Client::new(VIP_READ).unwrap();
                let mut session = client.connect().unwrap();
                connected.send(session.server_id().unwrap()).unwrap();
                let limit = DETECTION + SLACK;
                let started = Instant::now();
                let answer = session.value_within::<u32>(limit, "SELECT SLEEP(60)");
                assert!(answer.is_err(), "{answer:?}");
                started.elapsed() < limit
            })
            .unwrap();
        assert_eq!(ready.recv().unwrap(), 2);
        let took = target.time_to_down(&mut lab, &daemon, fault).unwrap();
        assert!(took <= promised + LATE, "{fault:?}: down after {took:?}, promised {promised:?}");
        // `fall` failures, and no fewer, so two intervals between them.
        assert!(took >= 2 * FAST_INTERVAL - FAST_INTERVAL / 5, "{fault:?}: down after {took:?}");
        assert!(client.join().unwrap(), "{fault:?}: a client waits for a dead server");
        let status = daemon.status().unwrap();
        assert_eq!(status["clusters"][0]["routes"][1]["fallback"], true, "{fault:?}");
        target.end(&mut lab, fault).unwrap();
    }
}

#[test]
fn servers_that_hang_do_not_slow_the_checks_of_another() {
    const WATCHED: Duration = Duration::from_secs(5);
    let World { mut lab, daemon } = World::start(lab(Flavour::MariaDb1011, 4));
    let targets = [2, 3, 4].map(|number| Target::new(number, false));
    for target in &targets {
        target.wait_up(&lab, &daemon).unwrap();
    }
    // Each check asks once with SELECT, and nobody else does.
    let selects = |lab: &Lab| -> u64 {
        let row = lab.db(1).sql("SHOW GLOBAL STATUS LIKE 'Com_select'").unwrap();
        row.rsplit('\t').next().unwrap().parse().unwrap()
    };
    let checks = |lab: &Lab| {
        let (before, start) = (selects(lab), Instant::now());
        thread::sleep(WATCHED);
        // Every 500 ms.
        let expected = start.elapsed().as_millis() as u64 / 500;
        (selects(lab) - before, expected)
    };
    let (quiet, expected) = checks(&lab);
    assert!(quiet.abs_diff(expected) <= 2, "{quiet} checks, {expected} expected");
    // One after another, their timeouts alone would take three intervals.
    for target in &targets {
        target.begin(&mut lab, Fault::Hung).unwrap();
    }
    let (beside, expected) = checks(&lab);
    let status = daemon.status().unwrap();
    assert_eq!(status["clusters"][0]["pairs"][0]["backends"][1]["health"], "down");
    assert!(beside.abs_diff(expected) <= 2, "{beside} checks, {expected} expected");
    for target in &targets {
        target.end(&mut lab, Fault::Hung).unwrap();
    }
}
