//! What operators say about backends and pairs.

use super::*;

/// What a command says that is refused.
fn refused(daemon: &Daemon, command: &[&str]) -> String {
    let error = daemon.ctl(command).expect_err("it is refused");
    format!("{error:#}")
}

#[test]
fn a_replica_in_maintenance_is_left_alone_until_it_is_ready() {
    let (lab, mut daemon) = start(&options());
    let replica = backend(&daemon, PAIR1_REPLICA);
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_REPLICA);

    daemon.ctl(&["maint", &replica, "--note", "new disk"]).unwrap();
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_PRIMARY);
    let status = daemon.status().unwrap();
    let shown = &status["clusters"][0]["pairs"][0]["backends"][1];
    assert_eq!(shown["admin"]["state"], "maint", "{shown}");
    assert_eq!(shown["admin"]["note"], "new disk", "{shown}");
    assert_eq!(shown["reason"], "in maintenance, not checked", "{shown}");
    let checks = || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'pairflip'";
        lab.db(PAIR1_REPLICA as usize).sql(sql).unwrap()
    };
    wait_for("nobody checks it", SLACK, || checks().trim() == "0");

    daemon.kill().unwrap();
    daemon.start().unwrap();
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_PRIMARY, "after a restart");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(checks().trim(), "0", "after a restart");

    daemon.ctl(&["ready", &replica]).unwrap();
    wait_for("reads are back", SLACK, || {
        server_id(&lab, "client1", VIP_READ).unwrap() == PAIR1_REPLICA
    });
}

#[test]
fn a_drain_that_was_given_a_time_ends_by_itself() {
    let (lab, daemon) = start(&options());
    let replica = backend(&daemon, PAIR1_REPLICA);
    daemon.ctl(&["drain", &replica, "--for", "2s"]).unwrap();
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_PRIMARY);
    wait_for("reads are back", Duration::from_secs(2) + SLACK, || {
        server_id(&lab, "client1", VIP_READ).unwrap() == PAIR1_REPLICA
    });
    let status = daemon.status().unwrap();
    let shown = &status["clusters"][0]["pairs"][0]["backends"][1];
    assert_eq!(shown["admin"], serde_json::json!({ "state": "ready" }), "{shown}");
}

#[test]
fn writes_are_taken_away_by_force_only_and_a_pair_that_is_out_is_no_target() {
    let (lab, daemon) = start(&Options { both_writable: true, ..options() });
    let error = refused(&daemon, &["maint", "pair1"]);
    assert!(error.contains("pair1 has the active primary"), "{error}");
    let error = refused(&daemon, &["drain", "pair9"]);
    assert!(error.contains("neither a pair nor a backend"), "{error}");
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);

    daemon.ctl(&["maint", "pair2", "--note", "upgrade"]).unwrap();
    let error = refused(&daemon, &["flip", "--route-only"]);
    assert!(error.contains("the primary of pair2 is in maint"), "{error}");
    daemon.ctl(&["ready", "pair2"]).unwrap();
    wait_for("pair2 is checked again", SLACK, || daemon.ctl(&["flip", "--route-only"]).is_ok());
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR2_PRIMARY);

    daemon.ctl(&["drain", "pair2", "--force"]).unwrap();
    assert!(server_id(&lab, "client1", VIP_WRITE).is_err(), "writes are refused");
}

/// The address of a server.
fn backend(daemon: &Daemon, number: u32) -> String {
    let status = daemon.status().unwrap();
    let (pair, place) = ((number as usize - 1) / 2, (number as usize - 1) % 2);
    let address = &status["clusters"][0]["pairs"][pair]["backends"][place]["address"];
    address.as_str().expect("an address").to_owned()
}
