//! Checks over http and tcp against real sockets, and what they come to where nobody logs in.

use pairflip::config::{Check, HttpCheck, TcpCheck};
use pairflip_policy::{Condition, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// What an agent does with a connection.
#[derive(Clone, Copy)]
enum Agent {
    /// As scripts under xinetd do: answers without having read, and closes at once.
    Script(&'static str),
    /// Reads the request first, and keeps the connection open.
    Server(&'static str),
    Silent,
}

#[tokio::test]
async fn the_status_of_an_agent_decides() {
    check_agent(Agent::Script("HTTP/1.1 200 OK\r\n"), "passed ").await;
    check_agent(Agent::Script("HTTP/1.0 200 OK\r\n\r\nfine"), "passed ").await;
    check_agent(Agent::Script("HTTP/1.1 200\n"), "passed ").await;
    check_agent(Agent::Server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "passed ").await;
    check_agent(Agent::Script("HTTP/1.1 503 Service Unavailable\r\n"), "failed HTTP status 503")
        .await;
    let words = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\n\r\nnot\x07 synced\r\nx";
    check_agent(Agent::Script(words), "failed HTTP status 503: not synced").await;
    let chunked = "HTTP/1.1 503 no\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    check_agent(Agent::Script(chunked), "failed HTTP status 503").await;
    check_agent(Agent::Script("HTTP/1.1 500 Oops\r\n"), "failed HTTP status 500").await;
    check_agent(Agent::Script("HTTP/1.1 301 Moved\r\n"), "failed HTTP status 301").await;
    let out = "HTTP/1.1 404 Not Found\r\n\r\nbackup";
    check_agent(Agent::Script(out), "maintenance HTTP status 404: backup").await;
}

#[tokio::test]
async fn what_is_no_answer_of_http_is_none() {
    check_agent(Agent::Script(""), "connection_lost ").await;
    check_agent(Agent::Script("SSH-2.0-OpenSSH_9.2\r\n"), "protocol ").await;
    check_agent(Agent::Script("HTTP/1.1 2000 OK\r\n"), "protocol ").await;
    check_agent(Agent::Script("HTTP/1.1 042 OK\r\n"), "protocol ").await;
    check_agent(Agent::Script("HTTP/1.1 20"), "protocol ").await;
    check_agent(Agent::Silent, "timed_out ").await;
    let closed = closed_port();
    let outcome = probe(http_check(closed.port()), closed).await.conditions.remove(0).outcome;
    assert_eq!(outcome.name(), "refused");
    assert!(
        outcome.text().contains(&format!("GET /status on port {}", closed.port())),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn an_agent_is_asked_what_is_configured() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = vec![0; 1024];
        let count = stream.read(&mut request).await.expect("a request");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("write");
        String::from_utf8_lossy(&request[..count]).into_owned()
    });
    let mut check = http_check(address.port());
    let configured = &mut check.http[0];
    configured.method = "OPTIONS".into();
    configured.path = "/ready?x=1".into();
    configured.host = Some("db.example.com".into());
    configured.pass = vec![204];
    assert_eq!(probe(check, address).await.conditions[0].outcome, Outcome::Passed);
    let request = heard.await.expect("heard");
    assert!(
        request.starts_with("OPTIONS /ready?x=1 HTTP/1.1\r\nHost: db.example.com\r\n"),
        "{request}"
    );
    assert!(
        request.contains("Connection: close\r\n") && request.ends_with("\r\n\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_tcp_check_ends_with_a_reset() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let ended = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        stream.read(&mut [0; 16]).await.map_err(|error| error.kind())
    });
    let found = probe(tcp_check(None), address).await;
    assert_eq!(
        (found.conditions[0].outcome.name(), found.result),
        ("passed", CheckResult::Reached)
    );
    assert_eq!(ended.await.expect("ended"), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn without_a_login_the_port_says_whether_a_server_is_alive() {
    let agent = agent(Agent::Script("HTTP/1.1 503 no\r\n")).await;
    let closed = closed_port();
    let mut check = http_check(agent.port());
    // The agent answers, and the server's own port is closed: that one counts.
    check.tcp = tcp_check(None).tcp;
    let found = probe(check.clone(), closed).await;
    let CheckResult::Failed(failure) = found.result else { panic!("{found:?}") };
    assert_eq!(failure.cause, Cause::Refused);
    assert_eq!(names(&found.conditions), ["agent failed", "port refused"]);
    check.tcp.clear();
    assert_eq!(probe(check, closed).await.result, CheckResult::Reached);
}

#[tokio::test]
async fn checks_that_hang_delay_no_other_beyond_the_timeout() {
    let silent = agent(Agent::Silent).await;
    let mut check = http_check(silent.port());
    for number in 0..8 {
        let again = HttpCheck { name: format!("again{number}"), ..check.http[0].clone() };
        check.http.push(again);
    }
    check.tcp = tcp_check(Some(closed_port().port())).tcp;
    let started = Instant::now();
    let found = probe(check, silent).await;
    let took = started.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
    assert_eq!(found.conditions.iter().filter(|it| it.outcome.name() == "timed_out").count(), 9);
    assert_eq!(found.conditions[9].outcome.name(), "refused");
}

#[tokio::test]
async fn checks_are_asked_of_their_roles_only() {
    let closed = closed_port();
    let mut check = tcp_check(None);
    check.tcp[0].role = Applies::Primary;
    check.http = http_check(closed.port()).http;
    assert_eq!(names(&probe(check, closed).await.conditions), ["agent refused"]);
}

async fn check_agent(behaviour: Agent, expected: &str) {
    let address = agent(behaviour).await;
    let outcome = probe(http_check(address.port()), address).await.conditions.remove(0).outcome;
    let found = match &outcome {
        Outcome::Passed | Outcome::Failed { .. } | Outcome::Maintenance { .. } => {
            format!("{} {}", outcome.name(), outcome.text())
        }
        Outcome::Unanswered(_) => format!("{} ", outcome.name()),
    };
    assert_eq!(found, expected);
}

/// Starts an agent that behaves so towards everybody.
async fn agent(behaviour: Agent) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            match behaviour {
                Agent::Script(answer) => {
                    stream.write_all(answer.as_bytes()).await.expect("write");
                    // The request is there and unread, so closing resets the connection.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Agent::Server(answer) => {
                    assert!(stream.read(&mut [0; 1024]).await.expect("a request") > 0);
                    stream.write_all(answer.as_bytes()).await.expect("write");
                    held.push(stream);
                }
                Agent::Silent => held.push(stream),
            }
        }
    });
    address
}

async fn probe(check: Check, address: SocketAddr) -> Probe {
    Checker::new(&check, subject(address), None).probe().await
}

pub(super) fn subject(address: SocketAddr) -> Subject {
    let (cluster, pair) = ("main".into(), "pair1".into());
    Subject { cluster, pair, address, role: Applies::Replica }
}

pub(super) fn nothing() -> Check {
    Check {
        login: None,
        interval: Duration::from_secs(1),
        fast_interval: TIMEOUT,
        timeout: TIMEOUT,
        rise: 2,
        fall: 3,
        max_lag: Duration::from_secs(10),
        sql: Vec::new(),
        http: Vec::new(),
        tcp: Vec::new(),
        exec: Vec::new(),
    }
}

fn http_check(port: u16) -> Check {
    let http = vec![HttpCheck {
        name: "agent".into(),
        role: Applies::Any,
        port,
        method: "GET".into(),
        path: "/status".into(),
        host: None,
        pass: vec![200],
        maintenance: vec![404],
        timeout: TIMEOUT,
    }];
    Check { http, ..nothing() }
}

fn tcp_check(port: Option<u16>) -> Check {
    let tcp = vec![TcpCheck { name: "port".into(), role: Applies::Any, port, timeout: TIMEOUT }];
    Check { tcp, ..nothing() }
}

/// A port of this host on which nothing listens.
fn closed_port() -> SocketAddr {
    address(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind"))
}

fn names(conditions: &[Condition]) -> Vec<String> {
    let name = |it: &Condition| format!("{} {}", it.name, it.outcome.name());
    conditions.iter().map(name).collect()
}
