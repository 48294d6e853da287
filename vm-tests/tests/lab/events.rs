//! What happened, as the journal tells it.

use serde_json::Value;

use super::*;

#[test]
fn the_journal_tells_in_order_why_a_replica_went_down_and_that_the_daemon_was_started_again() {
    let (mut lab, mut daemon) = start(&options());
    let replica = daemon.status().unwrap()["clusters"][0]["pairs"][0]["backends"][1].clone();
    let address = replica["address"].as_str().unwrap().to_owned();
    lab.db_mut(2).kill().unwrap();
    let is_down =
        |event: &Value| event["kind"] == "health_changed" && text(event).contains(" to down: ");
    wait_for("the replica is down", DETECTION + SLACK, || events(&daemon).iter().any(is_down));
    wait_for("reads fall back", SLACK, || {
        events(&daemon).iter().any(|event| text(event).contains("no replica is fit"))
    });
    let before = events(&daemon);
    daemon.kill().unwrap();
    daemon.start().unwrap();

    let events = events(&daemon);
    assert_eq!(events[..before.len()], before, "a crash loses nothing");
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["number"], index + 1, "{event}");
        assert_eq!(event["cluster"], "main", "{event}");
    }
    let down = &before[before.iter().position(is_down).unwrap()];
    assert!(text(down).starts_with(&format!("{address} went from ")), "{down}");
    assert!(text(down).contains(" to down: connection refused ("), "{down}");
    assert_eq!(down["severity"], "error", "{down}");
    assert_eq!(down["facts"]["backend"], address.as_str(), "{down}");
    assert_eq!(down["facts"]["health"], "down", "{down}");
    assert_eq!(down["facts"]["read_only"], true, "as last seen: {down}");
    assert_eq!(down["facts"]["server_version"], replica["server_version"], "{down}");
    // An event about a route has how all of the cluster were.
    let is_fallback = |event: &&Value| text(event).contains("no replica is fit");
    let fallback = before.iter().find(is_fallback).expect("reads fell back");
    let backends = fallback["backends"].as_array().unwrap();
    let of_replica = backends.iter().find(|it| it["backend"] == address.as_str()).unwrap();
    assert_eq!((backends.len(), &of_replica["health"]), (4, &Value::from("down")), "{fallback}");
    let mut since = events[before.len()..].iter();
    let start = since.find(|event| event["kind"] == "started").expect("the daemon was started");
    assert!(text(start).contains("as the kernel forwards"), "{start}");
    assert_eq!(before[0]["kind"], "started");

    let page = daemon.ctl(&["events", "--cluster", "main"]).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    assert!(lines.len() >= events.len(), "{page}");
    for (line, event) in lines.iter().zip(&events) {
        assert!(line.starts_with(event["time"].as_str().unwrap()), "{line}");
        assert!(line.ends_with(text(event)), "{line}");
    }
    let error = format!("{:#}", daemon.ctl(&["events", "--cluster", "other"]).unwrap_err());
    assert!(error.contains("there is no cluster \"other\""), "{error}");
}

#[test]
fn flips_and_admin_states_are_in_the_journal_with_who_said_so() {
    let (lab, daemon) = start(&Options { both_writable: true, ..options() });
    daemon.ctl(&["flip", "--route-only", "--to", "pair2"]).unwrap();
    daemon.ctl(&["maint", "pair1", "--note", "new disk"]).unwrap();
    daemon.ctl(&["ready", "pair1"]).unwrap();
    let told = events(&daemon);
    let mut rest = told.iter();
    for (kind, words) in [
        ("flip_started", "flip from pair1 to pair2 started"),
        ("route_changed", "route writes "),
        ("flip_done", "flip from pair1 to pair2 done"),
        ("admin_changed", "pair1 is taken out: maint by "),
        ("admin_changed", "pair1 is ready again"),
    ] {
        let found = rest.any(|event| event["kind"] == kind && text(event).starts_with(words));
        assert!(found, "{kind} {words:?} does not come next in {told:#?}");
    }
    assert!(told.iter().any(|event| text(event).ends_with(": new disk")), "{told:#?}");
    drop(lab);
}

#[test]
fn hooks_are_told_and_one_that_hangs_delays_neither_a_flip_nor_the_others() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let (_lab, daemon) = start_with(&Options { both_writable: true, ..options() }, |text| {
        let script = format!("cat >> {}", out.path().display());
        format!(
            "[[hook]]\nname = \"told\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\nevents = [\"flip_done\"]\n\
             [[hook]]\nname = \"hangs\"\ncommand = [\"/bin/sleep\", \"600\"]\ntimeout = \"2s\"\n\
             [[hook]]\nname = \"missing\"\ncommand = [\"/does/not/exist\"]\nclusters = [\"main\"]\n{text}"
        )
    });
    daemon.ctl(&["flip", "--route-only", "--to", "pair2"]).unwrap();
    daemon.ctl(&["flip", "--route-only", "--to", "pair1"]).unwrap();
    let told = || std::fs::read_to_string(out.path()).unwrap_or_default();
    wait_for("the hook is told of both flips", SLACK, || told().lines().count() == 2);
    let flips: Vec<Value> =
        told().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let journal: Vec<Value> =
        events(&daemon).into_iter().filter(|event| event["kind"] == "flip_done").collect();
    assert_eq!(flips, journal, "the hook gets what the journal has, in order");

    let hook = |name: &str| {
        let status = daemon.status().unwrap();
        let hooks = status["daemon"]["hooks"].as_array().unwrap().clone();
        hooks.into_iter().find(|hook| hook["name"] == name).unwrap()
    };
    let killed = "did not end within 2s and was killed with its children";
    wait_for("the hook that hangs is killed", SLACK, || {
        hook("hangs")["failure"].as_str().is_some_and(|failure| failure.contains(killed))
    });
    assert_eq!(hook("told")["failed"], 0);
    let page = daemon.ctl(&["status"]).unwrap();
    assert!(page.contains("warning: hook missing: /does/not/exist cannot be started: "), "{page}");
}

/// All of them.
fn events(daemon: &Daemon) -> Vec<Value> {
    let json = daemon.ctl(&["events", "--json", "--limit", "10000"]).unwrap();
    let answer: Value = serde_json::from_str(&json).unwrap();
    answer["events"].as_array().unwrap().clone()
}

fn text(event: &Value) -> &str {
    event["text"].as_str().unwrap()
}
