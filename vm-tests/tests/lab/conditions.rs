//! Conditions: servers that are alive and should get no new connections; and secrets that change.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use super::*;

const CHECKS: &str = r#"
  [[cluster.check.http]]
  name = "agent"
  role = "replica"
  port = 9200

  [[cluster.check.exec]]
  name    = "disk"
  command = ["DIR/disk", "DIR"]

  [[cluster.check.sql]]
  name  = "logins"
  role  = "primary"
  query = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'nobody'"
  value = 0

"#;

#[test]
fn servers_that_are_unfit_or_in_maintenance_keep_their_connections_and_get_no_new_ones() {
    let lab = Lab::up(&options(), |_| {}).unwrap();
    let dir = lab.dir().display().to_string();
    let config = lab.write_config(|config| format!("{config}\n")).unwrap();
    add_checks(&config, &dir);
    let script = "#!/bin/sh\ntest ! -e $1/full-$PAIRFLIP_HOST || { echo 97% full; exit 1; }\n";
    let path = lab.dir().join("disk");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let agents = [2, 4].map(|number| agent(&lab, number));
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();

    let held = hold(&lab, VIP_READ);
    assert_eq!(held.server(), PAIR1_REPLICA);
    *agents[0].lock().unwrap() = "404 Not Found";
    wait_for("reads leave", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
    assert_eq!(backend(&daemon, 2)["reason"], "in maintenance, says agent: HTTP status 404: words");
    assert_eq!(held.server(), PAIR1_REPLICA, "its connections live");
    *agents[0].lock().unwrap() = "200 OK";
    wait_for("reads return", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_ok_and(|id| id == PAIR1_REPLICA)
    });

    let writer = hold(&lab, VIP_WRITE);
    let full = format!("{dir}/full-{}", lab.db(1).address);
    fs::write(&full, "").unwrap();
    wait_for("writes are refused", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_err()
    });
    let primary = backend(&daemon, 1);
    assert_eq!(
        (&primary["health"], &primary["reason"]),
        (&"unfit".into(), &"condition disk: exit code 1: 97% full".into())
    );
    let route = daemon.status().unwrap()["clusters"][0]["routes"][0].clone();
    assert_eq!(route["reason"], "a condition of the primary failed");
    assert_eq!(writer.server(), PAIR1_PRIMARY, "its connections live");
    // With the replica gone as well, reads do not fall back to it.
    *agents[0].lock().unwrap() = "404 Not Found";
    wait_for("reads are refused", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_READ).is_err()
    });
    fs::remove_file(&full).unwrap();
    wait_for("writes return", DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
    let kinds: Vec<_> = daemon.events_after(0).unwrap();
    let has = |kind: &str| kinds.iter().any(|event| event["kind"] == kind);
    assert!(has("fitness_changed") && has("maintenance_changed"), "{kinds:?}");
    assert!(!has("check_impaired") && !has("condition_impaired"), "{kinds:?}");
}

#[test]
fn a_password_is_changed_without_a_restart() {
    let (lab, daemon) = start(&options());
    let file = lab.dir().join("password");
    assert!(daemon.ctl(&["reload"]).unwrap().contains("the same as before"));

    // Anything else is named, and not taken over.
    let config = lab.dir().join("pairflip.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("rise          = 2", "rise          = 3")).unwrap();
    let said = daemon.ctl(&["reload"]).unwrap();
    let restart = "needs a restart of pairflipd (connections live on): cluster[main].check.rise";
    assert!(said.contains(restart), "{said}");
    fs::write(&config, "nonsense").unwrap();
    let refused = daemon.pairflip(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("the configuration is as it was: "), "{text}");

    // By command: everybody logs in anew, with the new one.
    for number in 1..=4 {
        lab.db(number)
            .sql("SET sql_log_bin = 0; ALTER USER pairflip IDENTIFIED BY 'second'")
            .unwrap();
    }
    fs::write(&file, "second\n").unwrap();
    // The broken configuration is told as well, and does not keep the password from being used.
    let refused = daemon.pairflip(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    wait_for("everybody is logged in to", DETECTION, || all_pass(&daemon));

    // By itself, when the servers deny the old one.
    fs::write(&file, "third\n").unwrap();
    for number in 1..=4 {
        let change = "SET sql_log_bin = 0; ALTER USER pairflip IDENTIFIED BY 'third'";
        lab.db(number).sql(change).unwrap();
        let id = "SELECT id FROM information_schema.processlist WHERE user = 'pairflip'";
        let id = lab.db(number).sql(id).unwrap();
        lab.db(number).sql(&format!("KILL {id}")).unwrap();
    }
    thread::sleep(DETECTION);
    assert!(all_pass(&daemon));

    // A file of no use leaves what there is.
    fs::write(&file, "").unwrap();
    let refused = daemon.pairflip(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("the password stays as it was") && text.contains("is empty"), "{text}");
    thread::sleep(DETECTION);
    assert!(all_pass(&daemon));
    let told = daemon.events_after(0).unwrap();
    let of_keys = told.iter().filter(|event| event["kind"] == "keys_reread").count();
    assert!(of_keys >= 3, "{told:?}");
}

fn add_checks(config: &Path, dir: &str) {
    let text = fs::read_to_string(config).unwrap();
    let route = text.find("  [[cluster.route]]").unwrap();
    let checks = CHECKS.replace("DIR", dir);
    fs::write(config, format!("{}{checks}\n{}", &text[..route], &text[route..])).unwrap();
}

fn backend(daemon: &Daemon, number: usize) -> serde_json::Value {
    let status = daemon.status().unwrap();
    status["clusters"][0]["pairs"][(number - 1) / 2]["backends"][(number - 1) % 2].clone()
}

fn all_pass(daemon: &Daemon) -> bool {
    (1..=4).all(|number| backend(daemon, number)["reason"] == "passing")
}

/// An agent on a database's host that answers with this status, whatever it is asked.
fn agent(lab: &Lab, number: usize) -> Arc<Mutex<&'static str>> {
    let status = Arc::new(Mutex::new("200 OK"));
    let told = Arc::clone(&status);
    let (ready, wait) = std::sync::mpsc::channel();
    let serving = move || {
        let listener = TcpListener::bind(("0.0.0.0", 9200)).unwrap();
        ready.send(()).unwrap();
        // It ends with the test's process.
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let status = *told.lock().unwrap();
            // The daemon may be gone.
            _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\nwords\r\n").as_bytes());
            _ = stream.read(&mut [0; 1024]);
        }
    };
    lab.ns(&format!("db{number}")).spawn(serving).unwrap();
    wait.recv().unwrap();
    status
}

/// A session that is held open, and asked which server it is on.
struct Held {
    ask: std::sync::mpsc::Sender<()>,
    answers: std::sync::mpsc::Receiver<u32>,
}

impl Held {
    fn server(&self) -> u32 {
        self.ask.send(()).unwrap();
        self.answers.recv().unwrap()
    }
}

fn hold(lab: &Lab, vip: SocketAddrV4) -> Held {
    let (ask, asked) = std::sync::mpsc::channel();
    let (answer, answers) = std::sync::mpsc::channel();
    let holding = move || {
        let client = Client::new(vip).unwrap();
        let mut session = client.connect().unwrap();
        while asked.recv().is_ok() {
            answer.send(session.server_id().unwrap()).unwrap();
        }
    };
    lab.ns("client1").spawn(holding).unwrap();
    Held { ask, answers }
}
