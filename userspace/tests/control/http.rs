//! The read-only listener: it shows, and commands nothing.

use std::{
    io::Read as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use pairflip::control::protocol::{ErrorBody, Events, Flows, Status, Version};

use crate::runtime::{Answer, Daemon, Heard, over_tcp, request, status};

const REMEDY: &str = "here are GET /health, /metrics, /v1/version, /v1/status, /v1/flows and /v1/events; \
     commands go to the unix socket (daemon.control), as the pairflip command does";

#[test]
fn commands_are_sent_to_the_unix_socket() {
    let daemon = Daemon::start();
    for (method, target, status, code, what) in [
        ("POST", "/v1/flip", 404, "unknown_path", "there is no POST /v1/flip on"),
        ("POST", "/v1/unload", 404, "unknown_path", "there is no POST /v1/unload on"),
        ("GET", "/v1/flip", 404, "unknown_path", "there is no GET /v1/flip on"),
        ("GET", "/", 404, "unknown_path", "there is no GET / on"),
        ("GET", "/v1/Status", 404, "unknown_path", "there is no GET /v1/Status on"),
        ("POST", "/v1/status", 405, "wrong_method", "/v1/status does not take POST on"),
        ("DELETE", "/v1/flows", 405, "wrong_method", "/v1/flows does not take DELETE on"),
        ("POST", "/v1/events", 405, "wrong_method", "/v1/events does not take POST on"),
        ("PUT", "/metrics", 405, "wrong_method", "/metrics does not take PUT on"),
        ("POST", "/health", 405, "wrong_method", "/health does not take POST on"),
    ] {
        let body = r#"{"route_only": true}"#;
        let answer = over_tcp(daemon.http, &request(method, target, body));
        let ErrorBody { error } = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, error.code.as_str()), (status, code), "{method} {target}");
        assert_eq!(error.message, format!("{what} this listener, which is read-only"));
        assert_eq!(error.remedy, REMEDY);
    }
    assert_eq!(daemon.heard(), [], "nothing reached the runtime");
}

#[test]
fn bad_parameters_are_told_what_is_wrong() {
    let daemon = Daemon::start();
    for target in [
        "/v1/flows?limit=x",
        "/v1/flows?nothing",
        "/v1/events?after=x",
        "/v1/status?x",
        "/v1/version?x=1",
    ] {
        let answer = get(&daemon, target);
        let ErrorBody { error } = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, error.code.as_str()), (400, "bad_query"), "{target}");
    }
    assert_eq!(daemon.heard(), []);
}

#[test]
fn health_is_good_while_every_write_route_forwards() {
    let answer = get(&Daemon::start(), "/health");
    assert_eq!((answer.status, answer.body.as_str()), (200, "every write route forwards\n"));
}

#[test]
fn health_is_bad_with_the_reason_when_a_write_route_refuses() {
    let answer = get(&Daemon::start_with(status(&[])), "/health?from=balancer");
    let expected = "main/writes refuses: primary is down\n";
    assert_eq!((answer.status, answer.body.as_str()), (503, expected));
}

#[test]
fn health_is_not_bad_for_a_read_route() {
    let mut status = status(&["10.0.1.11:3306"]);
    let mut reads = status.clusters[0].routes[0].clone();
    reads.access = "read".into();
    reads.backends.clear();
    status.clusters[0].routes.push(reads);
    assert_eq!(get(&Daemon::start_with(status), "/health").status, 200);
}

#[test]
fn metrics_are_in_prometheus_text_format() {
    let answer = get(&Daemon::start(), "/metrics");
    assert_eq!(answer.status, 200);
    let content_type = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(answer.head.contains(content_type), "{}", answer.head);
    for sample in [
        "pairflip_flows 1\n",
        "pairflip_packets_total{reason=\"forwarded\"} 10\n",
        "pairflip_interface_native{interface=\"eth0\"} 0\n",
        "pairflip_route_generation{cluster=\"main\"} 7\n",
        "pairflip_backend_up{cluster=\"main\",pair=\"pair1\",backend=\"10.0.1.11:3306\",role=\"primary\"} 1\n",
    ] {
        assert!(answer.body.contains(sample), "{sample} is not in\n{}", answer.body);
    }
    // Every sample belongs to a metric that was announced.
    let mut announced = "";
    for line in answer.body.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(declaration) => announced = declaration.split(' ').next().unwrap(),
            None if line.starts_with('#') => {}
            None => assert_eq!(line.split(['{', ' ']).next(), Some(announced), "{line}"),
        }
    }
}

#[test]
fn status_flows_events_and_version_are_those_of_the_socket() {
    let daemon = Daemon::start();
    let read: Status = serde_json::from_str(&get(&daemon, "/v1/status").body).unwrap();
    assert_eq!(read, status(&["10.0.1.11:3306"]));
    let flows = get(&daemon, "/v1/flows?backend=10.0.1.12:3306");
    let flows: Flows = serde_json::from_str(&flows.body).unwrap();
    assert_eq!(flows.flows[0].backend, "10.0.1.12:3306");
    daemon.event("it rains");
    daemon.event("it pours");
    let events = get(&daemon, "/v1/events?after=1");
    let events: Events = serde_json::from_str(&events.body).unwrap();
    assert_eq!((events.events.len(), events.events[0].text.as_str()), (1, "it pours"));
    let version: Version = serde_json::from_str(&get(&daemon, "/v1/version").body).unwrap();
    assert_eq!(version.api, 1);
}

#[test]
fn a_storm_of_questions_asks_the_runtime_a_few_times() {
    let daemon = Daemon::start();
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(get(&daemon, "/health").status, 200);
    }
    let asked = daemon.heard().iter().filter(|heard| **heard == Heard::Status).count() as u128;
    // One at first, then at most one each 250 ms.
    let most = 1 + started.elapsed().as_millis() / 250;
    assert!((1..=most).contains(&asked), "{asked} questions, {most} at most");
}

#[test]
fn connections_that_say_nothing_are_closed_and_make_room() {
    let daemon = Daemon::start();
    let mut silent: Vec<TcpStream> =
        (0..70).map(|_| TcpStream::connect(daemon.http).unwrap()).collect();
    // All 64 places are taken by the silent ones, until their time is up.
    let answer = get(&daemon, "/health");
    assert_eq!(answer.status, 200);
    let first = &mut silent[0];
    first.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "the server closed the silent connection");
}

fn get(daemon: &Daemon, target: &str) -> Answer {
    over_tcp(daemon.http, &request("GET", target, ""))
}
