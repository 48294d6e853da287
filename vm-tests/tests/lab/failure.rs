//! Servers that fail and come back.

use super::*;

#[test]
fn reads_go_to_the_primary_while_the_replica_is_dead_and_return() {
    let (mut lab, daemon) = start(&options());
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_REPLICA);
    lab.db_mut(2).kill().unwrap();
    wait_for("reads fall back", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
    let status = daemon.status().unwrap();
    let reads = &status["clusters"][0]["routes"][1];
    assert_eq!((&reads["fallback"], &reads["reason"]), (&true.into(), &"no replica is fit".into()));
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);

    lab.db_mut(2).start().unwrap();
    wait_for("reads return", DETECTION + SLACK + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_ok_and(|id| id == PAIR1_REPLICA)
    });
    assert_eq!(daemon.status().unwrap()["clusters"][0]["routes"][1]["fallback"], false);
}

#[test]
fn a_replica_that_stops_replicating_gets_no_reads() {
    let (lab, daemon) = start(&options());
    lab.db(2).sql("STOP SLAVE SQL_THREAD").unwrap();
    wait_for("reads fall back", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
    let status = daemon.status().unwrap();
    let replica = &status["clusters"][0]["pairs"][0]["backends"][1];
    assert_eq!(
        (&replica["health"], &replica["reason"]),
        (&"unfit".into(), &"SQL thread is not running".into())
    );
    lab.db(2).sql("START SLAVE").unwrap();
    wait_for("reads return", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_ok_and(|id| id == PAIR1_REPLICA)
    });
}

#[test]
fn a_dead_primary_ends_its_connections_and_refuses_writes_at_once() {
    let (mut lab, daemon) = start(&options());
    // Unplugged, not killed: a kill would tell the client by itself.
    let (ready, wait) = std::sync::mpsc::channel();
    let blocked = lab
        .ns("client1")
        .spawn(move || {
            let client = Client::new(VIP_WRITE).unwrap();
            let mut session = client.connect().unwrap();
            ready.send(session.server_id().unwrap()).unwrap();
            let result = session.value::<u32>("SELECT SLEEP(60)");
            (result.is_err(), Instant::now())
        })
        .unwrap();
    assert_eq!(wait.recv().unwrap(), PAIR1_PRIMARY);
    let unplugged = Instant::now();
    lab.ns("db1").ip("link set eth0 down").unwrap();
    let (told, at) = blocked.join().unwrap();
    assert!(told);
    assert!(at - unplugged < DETECTION + DETECTION + SLACK, "told after {:?}", at - unplugged);

    let start = Instant::now();
    let error = format!("{:#}", server_id(&lab, "client1", VIP_WRITE).unwrap_err());
    assert!(error.contains("refused"), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "a hang of {:?}, not a refusal",
        start.elapsed()
    );
    let status = daemon.status().unwrap();
    assert_eq!(status["clusters"][0]["active_pair"], "pair1", "nothing moves by itself");
    assert_eq!(status["clusters"][0]["routes"][0]["reason"], "primary is down");
    assert_eq!(status["daemon"]["flows"], 0);

    // Long enough for the replica to notice that its source is gone, and for the checks to notice that.
    wait_for("the replica is cut off", Duration::from_secs(20), || {
        daemon.status().unwrap()["clusters"][0]["routes"][1]["reason"]
            == "primary is down; its replicas serve what they have"
    });
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_REPLICA);

    // Killed: refused by the host, noticed as well.
    lab.ns("db1").ip("link set eth0 up").unwrap();
    wait_for("writes return", DETECTION + DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok()
    });
    lab.db_mut(1).kill().unwrap();
    wait_for("writes refuse", DETECTION + SLACK, || {
        daemon.status().unwrap()["clusters"][0]["routes"][0]["reason"] == "primary is down"
    });
}

#[test]
fn a_read_only_server_is_never_given_writes() {
    let (lab, daemon) = start(&options());
    lab.db(1).set_read_only(true).unwrap();
    wait_for("writes refuse", DETECTION + SLACK, || server_id(&lab, "client1", VIP_WRITE).is_err());
    let status = daemon.status().unwrap();
    let cluster = &status["clusters"][0];
    assert_eq!(cluster["routes"][0]["reason"], "primary is read-only");
    assert_eq!(cluster["pairs"][0]["backends"][0]["read_only"], true);
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR1_REPLICA, "reads go on");
    lab.db(1).set_read_only(false).unwrap();
    wait_for("writes return", SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
}

#[test]
fn a_check_account_that_is_locked_out_moves_nothing_and_says_so() {
    let (lab, daemon) = start(&options());
    lab.db(1)
        .sql("SET sql_log_bin=0; ALTER USER pairflip IDENTIFIED BY 'changed'; KILL USER pairflip")
        .unwrap();
    wait_for("the status says it", DETECTION + SLACK, || {
        let status = daemon.status().unwrap();
        let primary = &status["clusters"][0]["pairs"][0]["backends"][0];
        primary["reason"].as_str().unwrap().contains("access denied")
    });
    thread::sleep(DETECTION);
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);
}
