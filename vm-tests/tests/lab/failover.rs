//! `failover = "auto"` on real servers that die, with clients that write.

use std::sync::{Arc, Mutex, atomic::AtomicBool};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pairflip_vm_tests::command::run;

use super::*;

/// Detection, the standby's loss of its source (it tries again after a second), a fresh check, and the steps themselves.
const FAILOVER: Duration = Duration::from_secs(6);

/// A write that was acknowledged: its number, by which server, and when.
#[derive(Clone, Copy)]
struct Ack {
    id: u64,
    server: u32,
    at: Instant,
}

/// A lab whose daemon fails over by itself, and a table to write to.
fn start_auto(change: impl FnOnce(String) -> String) -> (Lab, Daemon) {
    let lab = Lab::up(&options(), |_| {}).unwrap();
    for number in 1..=4 {
        lab.db(number)
            .sql("SET SESSION sql_log_bin=0; GRANT READ_ONLY ADMIN ON *.* TO 'pairflip'@'%'")
            .unwrap();
    }
    lab.db(1).sql("CREATE TABLE app.ledger (id BIGINT PRIMARY KEY)").unwrap();
    let auto = |config: String| {
        change(config.replace("name = \"main\"\n", "name = \"main\"\nfailover = \"auto\"\n"))
    };
    let config = lab.write_config(auto).unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    (lab, daemon)
}

fn start_ready() -> (Lab, Daemon) {
    let (lab, daemon) = start_auto(|config| config);
    wait_for("the standby is ready to take over", SLACK, || failover(&daemon)["possible"] == true);
    (lab, daemon)
}

fn failover(daemon: &Daemon) -> serde_json::Value {
    daemon.status().unwrap()["clusters"][0]["failover"].clone()
}

fn active(daemon: &Daemon) -> String {
    daemon.status().unwrap()["clusters"][0]["active_pair"].as_str().expect("a name").to_owned()
}

fn text(daemon: &Daemon) -> String {
    failover(daemon)["text"].as_str().expect("a text").to_owned()
}

/// The events of a kind, as texts.
fn events(daemon: &Daemon, kind: &str) -> Vec<String> {
    let text = daemon.ctl(&["events", "--json", "--limit", "1000"]).unwrap();
    let events: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = events["events"].as_array().expect("events");
    events
        .iter()
        .filter(|event| event["kind"] == kind)
        .map(|event| event["text"].as_str().expect("a text").to_owned())
        .collect()
}

/// Waits until the daemon says why there is no failover, and for longer than one would take.
fn stays_refused(daemon: &Daemon, reason: &str) {
    let start = Instant::now();
    while !text(daemon).contains(reason) {
        assert!(start.elapsed() < FAILOVER + SLACK, "no {reason:?} but {:?}", text(daemon));
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(FAILOVER);
    assert!(text(daemon).contains(reason), "{}", text(daemon));
    assert_eq!(failover(daemon)["state"], "refused");
    assert_eq!(active(daemon), "pair1");
    let told = events(daemon, "failover_refused");
    assert!(told.iter().any(|text| text.contains(reason)), "{told:?}");
    assert!(told.len() < 5, "each reason is said once: {told:?}");
    assert!(daemon.ctl(&["status"]).unwrap().contains(reason));
}

/// Writes through the VIP until told to stop, one number after the other.
fn write_until(stop: &AtomicBool, acks: &Mutex<Vec<Ack>>) {
    let client = Client::new(VIP_WRITE).unwrap();
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut session) = client.connect() else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            // A number of its own for each try: one whose answer was lost may be there.
            id += 1;
            let insert = format!("INSERT INTO app.ledger VALUES ({id}) RETURNING @@server_id");
            let Ok(server) = session.value_within::<u32>(Duration::from_secs(20), &insert) else {
                break;
            };
            acks.lock().unwrap().push(Ack { id, server, at: Instant::now() });
        }
    }
}

/// How many of these writes a server does not have.
fn missing(lab: &Lab, server: usize, ids: &[u64]) -> usize {
    let there = lab.db(server).sql("SELECT id FROM app.ledger").unwrap();
    let there: std::collections::BTreeSet<u64> =
        there.lines().map(|line| line.parse().unwrap()).collect();
    ids.iter().filter(|id| !there.contains(id)).count()
}

#[test]
fn the_standby_takes_over_from_a_killed_primary_and_what_returns_is_fenced() {
    let (mut lab, daemon) = start_ready();
    let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let writer = {
        let (stop, acks) = (Arc::clone(&stop), Arc::clone(&acks));
        lab.ns("client1").spawn(move || write_until(&stop, &acks)).unwrap()
    };
    thread::sleep(Duration::from_secs(2));
    let killed = Instant::now();
    lab.db_mut(1).kill().unwrap();
    let by = |server: u32| -> Vec<Ack> {
        acks.lock().unwrap().iter().copied().filter(|ack| ack.server == server).collect()
    };
    wait_for("writes go on", FAILOVER + SLACK, || by(PAIR2_PRIMARY).len() > 100);
    thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();

    let (before, after) = (by(PAIR1_PRIMARY), by(PAIR2_PRIMARY));
    let recovered = after[0].at - killed;
    let ids = |acks: &[Ack]| acks.iter().map(|ack| ack.id).collect::<Vec<_>>();
    let lost = missing(&lab, 3, &ids(&before));
    println!(
        "failover: {recovered:?} from kill -9 to the first acknowledged write; {lost} of {} acknowledged before are missing, {} after",
        before.len(),
        after.len()
    );
    assert!(before.len() > 100 && recovered < FAILOVER, "{recovered:?}");
    assert_eq!(missing(&lab, 3, &ids(&after)), 0, "acknowledged since");
    assert_eq!(lab.db(3).sql("SELECT @@read_only").unwrap(), "0");
    assert_eq!(server_id(&lab, "client1", VIP_READ).unwrap(), PAIR2_REPLICA);
    let status = failover(&daemon);
    assert_eq!(status["last"]["from"], "pair1", "{status}");
    assert_eq!(status["last"]["done"], true, "{status}");
    assert!(status["last"]["old_position"].as_str().unwrap().contains("1-1-"), "{status}");
    assert!(status["last"]["new_position"].as_str().unwrap().contains("1-1-"), "{status}");
    assert!(status["hold_until"].is_u64(), "{status}");
    assert_eq!(events(&daemon, "failover_done").len(), 1);

    // It comes back writable, as a server does that nobody told otherwise.
    let shut = nft(&lab, "add rule inet t in ip saddr 10.77.0.2 drop");
    lab.db_mut(1).start().unwrap();
    lab.db(1).set_read_only(false).unwrap();
    drop(shut);
    wait_for("it is fenced", DETECTION + SLACK, || {
        lab.db(1).sql("SELECT @@read_only").unwrap() == "1"
    });
    wait_for("it is said", SLACK, || !events(&daemon, "fenced").is_empty());
    let returned = events(&daemon, "old_primary_returned");
    assert!(returned.len() == 1 && returned[0].contains("writable"), "{returned:?}");
    thread::sleep(DETECTION);
    assert_eq!(active(&daemon), "pair2", "nothing goes back by itself");
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR2_PRIMARY);
    let said = daemon.ctl(&["status"]).unwrap();
    assert!(said.contains("! pair1 returned after failover"), "{said}");

    // An operator says that it is well.
    assert_eq!(failover(&daemon)["possible"], false);
    daemon.ctl(&["ready", "pair1"]).unwrap();
    wait_for("it could take over again", Duration::from_secs(10), || {
        failover(&daemon)["possible"] == true
    });
    assert_eq!(failover(&daemon)["out"], serde_json::json!([]));
}

#[test]
fn a_second_failure_within_the_window_is_refused_also_after_a_restart() {
    let (mut lab, mut daemon) = start_ready();
    lab.db_mut(1).kill().unwrap();
    wait_for("the standby takes over", FAILOVER + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR2_PRIMARY)
    });
    lab.db_mut(1).start().unwrap();
    wait_for("it replicates", Duration::from_secs(20), || {
        let running = lab.db(1).sql("SHOW GLOBAL STATUS LIKE 'Slave_running'").unwrap();
        running.ends_with("ON")
    });
    daemon.kill().unwrap();
    daemon.start().unwrap();
    assert!(text(&daemon).contains("failover_window"), "{}", text(&daemon));
    let status = failover(&daemon);
    assert_eq!(status["out"][0]["pair"], "pair1", "{status}");
    lab.db_mut(3).kill().unwrap();
    wait_for("it is refused", FAILOVER + SLACK, || failover(&daemon)["state"] == "refused");
    thread::sleep(FAILOVER);
    assert!(text(&daemon).contains("failover_window"), "{}", text(&daemon));
    assert_eq!(active(&daemon), "pair2");
    assert!(server_id(&lab, "client1", VIP_WRITE).is_err(), "writes are refused");
    // It does once an operator says that it may.
    daemon.ctl(&["ready", "pair1"]).unwrap();
    wait_for("the other takes over", FAILOVER + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
}

#[test]
fn a_standby_whose_replication_was_stopped_does_not_take_over() {
    let (mut lab, daemon) = start_ready();
    lab.db(3).sql("STOP SLAVE").unwrap();
    wait_for("it is said beforehand", DETECTION + SLACK, || {
        failover(&daemon)["state"] == "unready"
    });
    lab.db(1).sql("INSERT INTO app.ledger VALUES (1)").unwrap();
    thread::sleep(DETECTION);
    lab.db_mut(1).kill().unwrap();
    stays_refused(&daemon, "pair2 has its SQL thread stopped");
    // Nor when somebody starts it now: what it missed is gone.
    lab.db(3).sql("START SLAVE").unwrap();
    stays_refused(
        &daemon,
        "pair2 did not replicate soundly right before the active primary failed",
    );
    assert_eq!(lab.db(3).sql("SELECT @@read_only").unwrap(), "1");
}

#[test]
fn a_primary_that_only_we_cannot_reach_is_not_replaced() {
    let (lab, daemon) = start_ready();
    let shut = nft(&lab, "add rule inet t in ip saddr 10.77.0.2 drop");
    stays_refused(&daemon, "pair2 still receives from the active primary");
    assert_eq!(lab.db(1).sql("SELECT @@read_only").unwrap(), "0", "nobody touched it");
    drop(shut);
    wait_for("writes return", DETECTION + DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
}

#[test]
fn without_the_privilege_to_fence_it_is_refused_beforehand() {
    let (mut lab, daemon) = start_ready();
    lab.db(3)
        .sql("SET SESSION sql_log_bin=0; REVOKE READ_ONLY ADMIN ON *.* FROM pairflip; KILL USER pairflip")
        .unwrap();
    // Once it was there it is not asked for again, until the daemon is.
    let mut daemon = daemon;
    daemon.stop().unwrap();
    daemon.start().unwrap();
    let missing = "pair2 has a primary that the check user may not make writable";
    wait_for("it is said beforehand", SLACK, || text(&daemon).contains(missing));
    lab.db_mut(1).kill().unwrap();
    stays_refused(&daemon, missing);
    assert_eq!(lab.db(3).sql("SELECT @@read_only").unwrap(), "1");
}

#[test]
fn a_primary_that_turns_the_check_away_is_not_replaced() {
    let (lab, daemon) = start_ready();
    lab.db(1)
        .sql("SET sql_log_bin=0; ALTER USER pairflip IDENTIFIED BY 'changed'; KILL USER pairflip")
        .unwrap();
    wait_for("the status says it", DETECTION + SLACK, || {
        text(&daemon).contains("the active primary is alive")
    });
    thread::sleep(FAILOVER);
    assert_eq!(active(&daemon), "pair1");
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);
}

#[test]
fn a_hung_primary_is_replaced_when_the_standby_has_noticed_too() {
    let (lab, daemon) = start_ready();
    let pid = Pid::from_raw(lab.db(1).pid() as i32);
    let hung = Instant::now();
    kill(pid, Signal::SIGSTOP).unwrap();
    // The standby waits for slave_net_timeout (5 s in the lab), then for an answer to its login (as long again).
    let limit = Duration::from_secs(30);
    wait_for("the standby takes over", limit, || active(&daemon) == "pair2");
    wait_for("writes go on", SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR2_PRIMARY)
    });
    println!("failover: {:?} from SIGSTOP to a writable standby", hung.elapsed());
    kill(pid, Signal::SIGCONT).unwrap();
    wait_for("what continues is fenced", DETECTION + SLACK, || {
        lab.db(1).sql("SELECT @@read_only").is_ok_and(|value| value == "1")
    });
    assert_eq!(active(&daemon), "pair2");
}

#[test]
fn nothing_fails_over_from_or_to_a_pair_in_maintenance_and_nothing_at_all_in_manual_mode() {
    let (mut lab, mut daemon) = start_ready();
    daemon.ctl(&["maint", "pair2"]).unwrap();
    lab.db_mut(1).kill().unwrap();
    stays_refused(&daemon, "pair2 is in maint");

    lab.db_mut(1).start().unwrap();
    lab.db(1).set_read_only(false).unwrap();
    daemon.ctl(&["ready", "pair2"]).unwrap();
    wait_for("it is ready again", Duration::from_secs(20), || {
        failover(&daemon)["possible"] == true
    });
    daemon.ctl(&["maint", "pair1", "--force"]).unwrap();
    lab.db_mut(1).kill().unwrap();
    thread::sleep(FAILOVER);
    assert_eq!(active(&daemon), "pair1");
    assert!(text(&daemon).contains("the active primary is in maint"), "{}", text(&daemon));

    lab.db_mut(1).start().unwrap();
    lab.db(1).set_read_only(false).unwrap();
    daemon.ctl(&["ready", "pair1"]).unwrap();
    daemon.stop().unwrap();
    let config = lab.write_config(|config| config).unwrap();
    daemon = lab.daemon(&config);
    daemon.start().unwrap();
    wait_for("writes go there", SLACK, || server_id(&lab, "client1", VIP_WRITE).is_ok());
    lab.db_mut(1).kill().unwrap();
    thread::sleep(FAILOVER + FAILOVER);
    assert_eq!((active(&daemon), text(&daemon)), ("pair1".into(), "by an operator only".into()));
    assert_eq!(lab.db(3).sql("SELECT @@read_only").unwrap(), "1");
}

/// Rules in the first primary's packet filter, until they are dropped.
struct Filter(pairflip_vm_tests::lab::netns::Namespace);

fn nft(lab: &Lab, rule: &str) -> Filter {
    let filter = Filter(lab.ns("db1"));
    for command in
        ["add table inet t", "add chain inet t in { type filter hook input priority 0; }", rule]
    {
        run(filter.0.command("nft").unwrap().args(command.split(' '))).unwrap();
    }
    filter
}

impl Drop for Filter {
    fn drop(&mut self) {
        // The namespace may be gone.
        _ = self
            .0
            .command("nft")
            .and_then(|mut command| run(command.args(["delete", "table", "inet", "t"])));
    }
}
