//! Requests over the unix socket, byte for byte.

use pairflip::control::{
    Request,
    client::{self, ClientError},
    protocol::{
        Drain, ErrorBody, Events, EventsQuery, FlipRequest, Flows, FlowsQuery, Status, Unloaded,
        Version,
    },
    server,
};

use crate::runtime::{Answer, Daemon, Heard, over_unix, request, status};

const COMMANDS: &str = "GET /v1/version, /v1/status, /v1/flip, /v1/flows and /v1/events; POST /v1/flip, /v1/flip/plan, /v1/flip/call-off, /v1/admin, /v1/reload and /v1/unload";
const FLIP_BODY: &str = r#"send {} and, as needed, "to": PAIR, "cluster": NAME, "drain": "finish", "idle" or "cut", "force": [PRECONDITION, ...], and either "deadline_ms": NUMBER or "route_only": true"#;
const ADMIN_BODY: &str = r#"send {"target": PAIR or "ADDRESS:PORT", "state": "ready", "drain" or "maint"} and, as needed, "cluster": NAME, "for_seconds": NUMBER, "note": TEXT, "by": NAME, "drain": "finish", "idle" or "cut", "deadline_ms": NUMBER, "force": true"#;
const FLOWS_QUERY: &str = "parameters are backend=ADDRESS:PORT, cluster=NAME, state=STATE and limit=NUMBER, each at most once";
const EVENTS_QUERY: &str =
    "parameters are after=NUMBER, limit=NUMBER and cluster=NAME, each at most once";
const NO_QUERY: &str = "leave out everything from the question mark on; commands take a JSON body";

/// A bad request: method, target, body; then status, code, message, remedy.
type Row<'a> = (&'a str, &'a str, &'a str, u16, &'a str, &'a str, &'a str);

#[test]
fn bad_requests_are_told_what_is_wrong_and_reach_nobody() {
    let fields = "expected one of `cluster`, `to`, `route_only`, `drain`, `deadline_ms`, `force`";
    let unknown_field = format!(
        "the body is not what was expected: unknown field `pair`, {fields} at line 1 column 7"
    );
    let large = format!("{{\"to\": \"{}\"}}", "x".repeat(64 << 10));
    let deep = format!("{{\"x\": {}", "[".repeat(60_000));
    let too_deep = format!(
        "the body is not what was expected: unknown field `x`, {fields} at line 1 column 4"
    );
    let rows: &[Row<'_>] = &[
        // Paths.
        ("GET", "/", "", 404, "unknown_path", "there is no /", COMMANDS),
        ("GET", "/v1", "", 404, "unknown_path", "there is no /v1", COMMANDS),
        ("GET", "/v2/status", "", 404, "unknown_path", "there is no /v2/status", COMMANDS),
        ("GET", "/v1/status/", "", 404, "unknown_path", "there is no /v1/status/", COMMANDS),
        ("POST", "/v1/failover", "{}", 404, "unknown_path", "there is no /v1/failover", COMMANDS),
        ("GET", "/v1/..%2f%00\"", "", 404, "unknown_path", "there is no /v1/..%2f%00\"", COMMANDS),
        // Methods.
        ("POST", "/v1/status", "", 405, "wrong_method", "/v1/status does not take POST", COMMANDS),
        (
            "GET",
            "/v1/flip/plan",
            "",
            405,
            "wrong_method",
            "/v1/flip/plan does not take GET",
            COMMANDS,
        ),
        ("PUT", "/v1/flip", "{}", 405, "wrong_method", "/v1/flip does not take PUT", COMMANDS),
        ("GET", "/v1/unload", "", 405, "wrong_method", "/v1/unload does not take GET", COMMANDS),
        (
            "DELETE",
            "/v1/flows",
            "",
            405,
            "wrong_method",
            "/v1/flows does not take DELETE",
            COMMANDS,
        ),
        ("FLY", "/v1/flows", "", 405, "wrong_method", "/v1/flows does not take FLY", COMMANDS),
        // Bodies of /v1/admin.
        (
            "POST",
            "/v1/admin",
            "",
            400,
            "bad_body",
            "the body is empty, and JSON was expected",
            ADMIN_BODY,
        ),
        (
            "POST",
            "/v1/admin",
            r#"{"target": "pair1", "state": "off"}"#,
            400,
            "bad_body",
            "the body is not what was expected: unknown variant `off`, expected one of `ready`, `drain`, `maint` at line 1 column 34",
            ADMIN_BODY,
        ),
        // Parameters.
        (
            "GET",
            "/v1/status?cluster=main",
            "",
            400,
            "bad_query",
            "/v1/status takes no parameters in its path, and got \"cluster=main\"",
            NO_QUERY,
        ),
        (
            "POST",
            "/v1/flip?to=pair2",
            r#"{"route_only": true}"#,
            400,
            "bad_query",
            "/v1/flip takes no parameters in its path, and got \"to=pair2\"",
            NO_QUERY,
        ),
        (
            "POST",
            "/v1/unload?dry_run=1",
            "",
            400,
            "bad_query",
            "/v1/unload takes no parameters in its path, and got \"dry_run=1\"",
            NO_QUERY,
        ),
        (
            "GET",
            "/v1/flows?limit=-1",
            "",
            400,
            "bad_query",
            "the query is not what /v1/flows takes: limit: invalid digit found in string",
            FLOWS_QUERY,
        ),
        (
            "GET",
            "/v1/flows?limit=99999999999999999999",
            "",
            400,
            "bad_query",
            "the query is not what /v1/flows takes: limit: number too large to fit in target type",
            FLOWS_QUERY,
        ),
        (
            "GET",
            "/v1/flows?server=10.0.1.11:3306",
            "",
            400,
            "bad_query",
            "the query is not what /v1/flows takes: server: unknown field `server`, expected \
             one of `backend`, `cluster`, `state`, `limit`",
            FLOWS_QUERY,
        ),
        (
            "GET",
            "/v1/flows?limit=1&limit=2",
            "",
            400,
            "bad_query",
            "the query is not what /v1/flows takes: duplicate field `limit`",
            FLOWS_QUERY,
        ),
        (
            "GET",
            "/v1/events?after=yesterday",
            "",
            400,
            "bad_query",
            "the query is not what /v1/events takes: after: invalid digit found in string",
            EVENTS_QUERY,
        ),
        (
            "GET",
            "/v1/events?limit=",
            "",
            400,
            "bad_query",
            "the query is not what /v1/events takes: limit: cannot parse integer from empty string",
            EVENTS_QUERY,
        ),
        (
            "GET",
            "/v1/events?follow=1",
            "",
            400,
            "bad_query",
            "the query is not what /v1/events takes: follow: unknown field `follow`, expected one of `after`, `limit`, `cluster`",
            EVENTS_QUERY,
        ),
        (
            "GET",
            "/v1/events?cluster=a&cluster=b",
            "",
            400,
            "bad_query",
            "the query is not what /v1/events takes: duplicate field `cluster`",
            EVENTS_QUERY,
        ),
        ("POST", "/v1/events", "", 405, "wrong_method", "/v1/events does not take POST", COMMANDS),
        // Bodies.
        (
            "POST",
            "/v1/flip",
            "",
            400,
            "bad_body",
            "the body is empty, and JSON was expected",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip",
            "route_only=true",
            400,
            "bad_body",
            "the body is no JSON object",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip",
            r#"{"route_only": true"#,
            400,
            "bad_body",
            "the body is not what was expected: EOF while parsing an object at line 1 column 19",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip",
            r#"{"route_only": true} {}"#,
            400,
            "bad_body",
            "the body is not what was expected: trailing characters at line 1 column 22",
            FLIP_BODY,
        ),
        ("POST", "/v1/flip", r#"{"pair": "pair2"}"#, 400, "bad_body", &unknown_field, FLIP_BODY),
        (
            "POST",
            "/v1/flip",
            r#"{"route_only": "yes"}"#,
            400,
            "bad_body",
            "the body is not what was expected: invalid type: string \"yes\", expected a boolean \
             at line 1 column 20",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip",
            r#"{"route_only": true, "drain": "never"}"#,
            400,
            "bad_body",
            "the body is not what was expected: unknown variant `never`, expected one of \
             `finish`, `idle`, `cut` at line 1 column 37",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip",
            r#"{"to": "a", "to": "b", "route_only": true}"#,
            400,
            "bad_body",
            "the body is not what was expected: duplicate field `to` at line 1 column 16",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip",
            r#"[null, "pair2", true]"#,
            400,
            "bad_body",
            "the body is no JSON object",
            FLIP_BODY,
        ),
        ("POST", "/v1/flip", &deep, 400, "bad_body", &too_deep, FLIP_BODY),
        (
            "POST",
            "/v1/flip",
            &large,
            413,
            "body_too_large",
            "the body is larger than 64 KiB",
            "a request takes a hundred bytes; check what is being sent",
        ),
        (
            "POST",
            "/v1/unload",
            r#"{"dry_run": true}"#,
            400,
            "bad_body",
            "the body is not what was expected: unknown field `dry_run`, there are no fields at \
             line 1 column 10",
            "send no body, or {}",
        ),
        // What this version does not do.
        (
            "POST",
            "/v1/flip",
            r#"{"route_only": true, "deadline_ms": 500}"#,
            400,
            "bad_body",
            "route_only and deadline_ms do not go together: moving the routes takes no time",
            FLIP_BODY,
        ),
        (
            "POST",
            "/v1/flip/plan",
            r#"{"route_only": true}"#,
            400,
            "bad_body",
            "there is no plan of a flip with route_only: it asks no server anything",
            "leave route_only out for the plan of a flip that loses no write; to move the routes now, send the same to /v1/flip",
        ),
        (
            "POST",
            "/v1/flip/call-off",
            r#"{"to": "pair2"}"#,
            400,
            "bad_body",
            "the body is not what was expected: unknown field `to`, expected `cluster` at line 1 column 5",
            r#"send {}, or {"cluster": NAME}"#,
        ),
    ];
    let daemon = Daemon::start();
    for (method, target, body, status, code, message, remedy) in rows {
        let answer = over_unix(&daemon.socket, &request(method, target, body));
        let expected = serde_json::json!({
            "error": { "code": code, "message": message, "remedy": remedy }
        });
        let shown = &body[..body.len().min(80)];
        assert_eq!(json(&answer), expected, "{method} {target} {shown}");
        assert_eq!(answer.status, *status, "{method} {target} {shown}");
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    }
    assert_eq!(daemon.heard(), [], "a bad request reached the runtime");
    assert_eq!(get(&daemon, "/v1/status").status, 200, "the server lives on");
}

#[test]
fn what_is_not_http_is_refused_and_the_server_lives_on() {
    let daemon = Daemon::start();
    let long_header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let long_target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    for (bytes, status) in [
        ("\x16\x03\x01\x02\x00\r\n\r\n", 400),
        ("GET /v1/status\r\n\r\n", 400),
        ("GET /v1/status HTTP/9.9\r\n\r\n", 400),
        (&long_header, 431),
        (&long_target, 414),
    ] {
        let answer = over_unix(&daemon.socket, bytes.as_bytes());
        assert_eq!(answer.status, status, "{}", &bytes[..bytes.len().min(40)]);
    }
    // Half a request, and gone.
    std::io::Write::write_all(
        &mut std::os::unix::net::UnixStream::connect(&daemon.socket).unwrap(),
        b"POST /v1/flip HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"route_only\": true",
    )
    .unwrap();
    assert_eq!(get(&daemon, "/v1/status").status, 200);
    assert_eq!(daemon.heard(), [Heard::Status]);
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    let daemon = Daemon::start();
    let answer = over_unix(&daemon.socket, &request("GET", "/v1/flip/plan", ""));
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
}

#[test]
fn refusals_of_the_runtime_go_out_as_they_are_with_a_fitting_status() {
    let daemon = Daemon::start();
    for (code, status) in [
        ("unknown_pair", 404),
        ("unknown_cluster", 404),
        ("cluster_not_named", 400),
        ("unknown_precondition", 400),
        ("ambiguous", 400),
        ("target_down", 409),
        ("flip_running", 409),
        ("no_other_pair", 409),
        ("not_persisted", 500),
        ("not_applied", 500),
        ("dataplane", 500),
    ] {
        let body = format!(r#"{{"route_only": true, "to": "{code}"}}"#);
        let answer = over_unix(&daemon.socket, &request("POST", "/v1/flip", &body));
        assert_eq!(answer.status, status, "{code}");
        let ErrorBody { error } = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((error.code.as_str(), error.remedy.as_str()), (code, "do better"));
        assert_eq!(error.message, format!("refused with {code}"));
    }
}

#[test]
fn good_requests_reach_the_runtime_whole() {
    let daemon = Daemon::start();
    let body = r#"{"cluster": "c", "to": "pair2", "route_only": true, "drain": "cut", "force": ["target_down"]}"#;
    let done = over_unix(&daemon.socket, &request("POST", "/v1/flip", body));
    assert_eq!(
        json(&done),
        serde_json::json!({
            "cluster": "c", "from": "pair1", "to": "pair2", "generation": 8, "drain": "cut",
            "warnings": ["the new primary is read-only"],
        })
    );
    // A body needs no content type, and may come in pieces.
    let chunked = "POST /v1/flip HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n\
                   9\r\n{\"route_o\r\na\r\nnly\":true}\r\n0\r\n\r\n";
    assert_eq!(over_unix(&daemon.socket, chunked.as_bytes()).status, 200);
    assert_eq!(get(&daemon, "/v1/flows").status, 200);
    assert_eq!(get(&daemon, "/v1/flows?backend=10.0.1.11%3A3306&limit=5").status, 200);
    assert_eq!(get(&daemon, "/v1/events").status, 200);
    assert_eq!(get(&daemon, "/v1/events?after=7&limit=5&cluster=a%20b").status, 200);
    assert_eq!(get(&daemon, "/v1/status?").status, 200);
    let unloaded = over_unix(&daemon.socket, &request("POST", "/v1/unload", "{}"));
    assert_eq!(json(&unloaded), serde_json::json!({ "removed": ["took 10.0.0.100 off eth0"] }));

    let flip = FlipRequest {
        cluster: Some("c".into()),
        to: Some("pair2".into()),
        route_only: true,
        deadline_ms: None,
        drain: Some(Drain::Cut),
        force: vec!["target_down".into()],
    };
    let plain = FlipRequest { route_only: true, ..FlipRequest::default() };
    let query = FlowsQuery {
        backend: Some("10.0.1.11:3306".into()),
        limit: Some(5),
        ..FlowsQuery::default()
    };
    let events = EventsQuery { after: Some(7), limit: Some(5), cluster: Some("a b".into()) };
    assert_eq!(
        daemon.heard(),
        [
            Heard::Flip(flip),
            Heard::Flip(plain),
            Heard::Flows(FlowsQuery::default()),
            Heard::Flows(query),
            Heard::Events(EventsQuery::default()),
            Heard::Events(events),
            Heard::Status,
            Heard::Unload,
        ]
    );
}

#[test]
fn a_daemon_that_stops_before_it_answers_says_so() {
    let daemon = Daemon::start();
    let body = r#"{"route_only": true, "to": "silence"}"#;
    let answer = over_unix(&daemon.socket, &request("POST", "/v1/flip", body));
    assert_eq!(answer.status, 503);
    assert_eq!(
        json(&answer),
        serde_json::json!({ "error": {
            "code": "stopping",
            "message": "the daemon is stopping",
            "remedy": "start pairflipd and ask again",
        } })
    );
}

#[test]
fn the_server_ends_after_the_runtime_and_its_last_answer() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    block_on(async {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let served = tokio::spawn(server::serve(server::bind(&socket).unwrap(), sender));
        let asked = {
            let socket = socket.clone();
            tokio::spawn(async move {
                let target = "/v1/unload";
                client::request(&socket, hyper::Method::POST, target, None::<&()>).await
            })
        };
        let Some(Request::Unload { reply }) = receiver.recv().await else {
            panic!("an unload was asked for");
        };
        drop(receiver);
        reply.send(Ok(Unloaded { removed: vec!["all".into()] })).unwrap();
        served.await.unwrap();
        let unloaded: Result<Unloaded, _> = asked.await.unwrap();
        assert_eq!(unloaded.unwrap().removed, ["all"]);
    });
}

#[test]
fn the_client_reads_what_the_server_writes() {
    let daemon = Daemon::start();
    let get = |target: &str| {
        block_on(client::request::<serde_json::Value>(
            &daemon.socket,
            hyper::Method::GET,
            target,
            None::<&()>,
        ))
    };
    let read: Status = serde_json::from_value(get("/v1/status").unwrap()).unwrap();
    assert_eq!(read, status(&["10.0.1.11:3306"]));
    let flows: Flows = serde_json::from_value(get("/v1/flows?limit=1").unwrap()).unwrap();
    assert_eq!((flows.flows.len(), flows.total), (1, 2));
    daemon.event("it rains");
    let events: Events = serde_json::from_value(get("/v1/events").unwrap()).unwrap();
    assert_eq!((events.events[0].text.as_str(), events.last), ("it rains", 1));
    let version: Version = serde_json::from_value(get("/v1/version").unwrap()).unwrap();
    assert_eq!(version, Version { version: env!("CARGO_PKG_VERSION").into(), api: 1 });
    let ClientError::Refused(error) = get("/v1/nothing").unwrap_err() else {
        panic!("the daemon's own error is passed on");
    };
    assert_eq!(error.code, "unknown_path");
}

#[test]
fn an_answer_of_another_version_is_an_error_with_a_remedy() {
    let daemon = Daemon::start();
    let result: Result<Flows, _> =
        block_on(client::request(&daemon.socket, hyper::Method::GET, "/v1/status", None::<&()>));
    let error = result.unwrap_err().into_api();
    assert_eq!(error.code, "broken");
    assert!(error.message.contains("use the pairflip of the daemon's version"), "{error:?}");
}

fn get(daemon: &Daemon, target: &str) -> Answer {
    over_unix(&daemon.socket, &request("GET", target, ""))
}

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
