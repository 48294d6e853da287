//! A daemon without a data plane: the real servers, and a runtime with set answers.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use pairflip::{
    control::{
        Request,
        protocol::{
            AdminDone, AdminRequest, AdminStatus, ApiError, BackendStatus, CallOffRequest,
            CalledOff, ClusterStatus, DaemonStatus, Drain, Event, Events, EventsQuery,
            FailoverStatus, FlipDone, FlipPlan, FlipRequest, FlipStatus, FlipsRunning, Flow, Flows,
            FlowsQuery, InterfaceStatus, PairStatus, PreconditionStatus, Reloaded, RouteStatus,
            Status, StepStatus, Unloaded,
        },
        server,
    },
    journal::Journal,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};

/// A client that waits longer than this has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long it takes to say how far a flip is that waits.
const SLOW: Duration = Duration::from_millis(300);

/// What reached the runtime.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    Status,
    Flip(FlipRequest),
    PlanFlip(FlipRequest),
    CallOff(CallOffRequest),
    Admin(AdminRequest),
    Flows(FlowsQuery),
    Events(EventsQuery),
    Reload,
    Unload,
}

pub(crate) struct Daemon {
    runtime: Runtime,
    directory: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) http: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    journal: Arc<Mutex<Journal>>,
}

impl Daemon {
    /// Starts one whose write route forwards.
    pub(crate) fn start() -> Self {
        Self::start_with(status(&["10.0.1.11:3306"]))
    }

    pub(crate) fn start_with(status: Status) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), status)
    }

    /// Starts one where an earlier one was.
    pub(crate) fn start_in(directory: tempfile::TempDir, status: Status) -> Self {
        let runtime = Runtime::new().unwrap();
        let socket = directory.path().join("control.sock");
        let heard = Arc::default();
        let journal = Arc::new(Mutex::new(Journal::open(directory.path())));
        let http = runtime.block_on(async {
            let (sender, receiver) = mpsc::channel(16);
            tokio::spawn(server::serve(server::bind(&socket).unwrap(), sender.clone()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let http = listener.local_addr().unwrap();
            tokio::spawn(pairflip::http::serve(listener, sender));
            tokio::spawn(answer(receiver, status, Arc::clone(&heard), Arc::clone(&journal)));
            http
        });
        Self { runtime, directory, socket, http, heard, journal }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Something happens in the cluster `main`.
    pub(crate) fn event(&self, text: &str) {
        let mut journal = self.journal.lock().unwrap();
        let number = journal.last() + 1;
        journal.append(Event {
            number,
            time: "2026-11-25T10:00:00.123Z".into(),
            cluster: Some("main".into()),
            kind: "checks_answering".into(),
            severity: "info".into(),
            text: text.into(),
            facts: None,
            backends: vec![],
        });
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends it as a crash would: the socket's file stays.
    pub(crate) fn crash(self) -> tempfile::TempDir {
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        self.directory
    }
}

/// An answer in its parts.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends bytes over the unix socket and reads until the server closes.
pub(crate) fn over_unix(socket: &Path, request: &[u8]) -> Answer {
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, request)
}

/// Sends bytes over TCP and reads until the server closes.
pub(crate) fn over_tcp(address: SocketAddr, request: &[u8]) -> Answer {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, request)
}

/// A request with or without a body, whose connection closes after the answer.
pub(crate) fn request(method: &str, target: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Answer {
    // A server that has seen enough closes before it has read all.
    _ = stream.write_all(request);
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

async fn answer(
    mut requests: mpsc::Receiver<Request>,
    status: Status,
    heard: Arc<Mutex<Vec<Heard>>>,
    journal: Arc<Mutex<Journal>>,
) {
    let mut waiting = None;
    while let Some(request) = requests.recv().await {
        let hear = |what| heard.lock().unwrap().push(what);
        match request {
            Request::Status { reply } => {
                hear(Heard::Status);
                // A client that went away does not want its answer.
                _ = reply.send(Ok(status.clone()));
            }
            Request::Flip { flip, reply } => {
                hear(Heard::Flip(flip.clone()));
                if flip.to.as_deref() == Some("silence") {
                    continue;
                }
                if flip.to.as_deref() == Some("waiting") {
                    waiting = Some(reply);
                    continue;
                }
                _ = reply.send(flipped(flip));
            }
            Request::PlanFlip { flip, reply } => {
                hear(Heard::PlanFlip(flip.clone()));
                _ = reply.send(Ok(plan(&flip)));
            }
            // Not heard: how often somebody looks depends on how fast he is.
            Request::FlipsRunning { reply } => {
                let delay = if waiting.is_some() { SLOW } else { Duration::ZERO };
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    _ = reply.send(Ok(FlipsRunning { flips: vec![running()] }));
                });
            }
            Request::CallOff { call_off, reply } => {
                hear(Heard::CallOff(call_off));
                _ = reply.send(Ok(CalledOff { cluster: "main".into() }));
                let is_call_off = |heard: &&Heard| matches!(heard, Heard::CallOff(_));
                let calls = heard.lock().unwrap().iter().filter(is_call_off).count();
                if let Some(flip) = waiting.take_if(|_| calls == 2) {
                    _ = flip.send(Err(ApiError::new("flip_undone", "it was called off", "")));
                }
            }
            Request::Flows { query, reply } => {
                hear(Heard::Flows(query.clone()));
                _ = reply.send(Ok(flows(&query)));
            }
            Request::Events { query, reply } => {
                hear(Heard::Events(query.clone()));
                let journal = journal.lock().unwrap();
                let limit = query.limit.unwrap_or(100);
                let events = journal.list(query.after, limit, query.cluster.as_deref());
                _ = reply.send(Ok(Events { events, last: journal.last() }));
            }
            Request::Admin { admin, reply } => {
                hear(Heard::Admin(admin.clone()));
                let status = AdminStatus {
                    state: admin.state,
                    since: Some(1_700_000_000),
                    until: admin.for_seconds.map(|time| 1_700_000_000 + time),
                    by: admin.by,
                    note: admin.note,
                };
                let (cluster, target) = ("main".to_owned(), admin.target);
                _ = reply.send(Ok(AdminDone { cluster, target, admin: status }));
            }
            Request::Reload { reply } => {
                hear(Heard::Reload);
                _ = reply.send(Ok(Reloaded {
                    changed: vec!["password of the checks of cluster main".to_owned()],
                    failed: Vec::new(),
                    needs_restart: vec!["cluster[main].check.interval".to_owned()],
                }));
            }
            Request::Unload { reply } => {
                hear(Heard::Unload);
                let removed = vec!["took 10.0.0.100 off eth0".to_owned()];
                // As the real one: the answer is the last thing that it does.
                _ = reply.send(Ok(Unloaded { removed }));
                return;
            }
        }
    }
}

/// Flips to pair2; any other name is the code of the error that is wanted. (`silence` gets no
/// answer, `waiting` none before it is called off for the second time.)
fn flipped(flip: FlipRequest) -> Result<FlipDone, ApiError> {
    let to = flip.to.unwrap_or_else(|| "pair2".to_owned());
    if to != "pair2" {
        return Err(ApiError::new(&to, format!("refused with {to}"), "do better"));
    }
    let safe = |ms| (!flip.route_only).then_some(ms);
    Ok(FlipDone {
        paused_ms: safe(84),
        took_ms: safe(1_200),
        cluster: flip.cluster.unwrap_or_else(|| "main".to_owned()),
        from: "pair1".into(),
        to,
        generation: 8,
        drain: flip.drain.unwrap_or(Drain::Finish),
        warnings: vec!["the new primary is read-only".into()],
    })
}

/// Possible unless it goes to `pair3`.
fn plan(flip: &FlipRequest) -> FlipPlan {
    let possible = flip.to.as_deref() != Some("pair3");
    FlipPlan {
        cluster: "main".into(),
        from: "pair1".into(),
        to: "pair2".into(),
        drain: Drain::Finish,
        possible,
        deadline_ms: flip.deadline_ms.unwrap_or(60_000),
        max_pause_ms: 5_000,
        preconditions: vec![PreconditionStatus {
            name: "target_lagging".into(),
            rule: "the new primary is at most `max_lag` behind".into(),
            result: if possible { "holds" } else { "fails" }.into(),
            text: if possible { String::new() } else { "it is 12 s behind".into() },
            can_be_waived: true,
        }],
        steps: Vec::new(),
        warnings: Vec::new(),
    }
}

fn running() -> FlipStatus {
    FlipStatus {
        cluster: "main".into(),
        from: "pair1".into(),
        to: "pair2".into(),
        steps: vec![StepStatus {
            name: "survey".into(),
            text: "asking both primaries".into(),
            ms: 12,
            done: true,
        }],
        waiting_for: String::new(),
        ms: 12,
        deadline_ms: Some(59_000),
        can_be_called_off: true,
        stuck: false,
    }
}

fn flows(query: &FlowsQuery) -> Flows {
    let flow = Flow {
        client: "10.0.0.7:50000".into(),
        vip: "10.0.0.100:3306".into(),
        source: "10.0.1.2:40000".into(),
        backend: query.backend.clone().unwrap_or_else(|| "10.0.1.11:3306".to_owned()),
        cluster: "main".into(),
        state: "established".into(),
        held: false,
        generation: 7,
        age_seconds: 12.0,
        idle_seconds: 0.5,
        client_packets: 9,
        client_bytes: 900,
        server_packets: 8,
        server_bytes: 4000,
    };
    Flows { flows: vec![flow], total: 2 }
}

/// A small status; `write_backends` is where the write route goes.
pub(crate) fn status(write_backends: &[&str]) -> Status {
    let reason = if write_backends.is_empty() { "primary is down" } else { "primary is up" };
    Status {
        daemon: DaemonStatus {
            version: "0.1.0".into(),
            pid: 42,
            uptime_seconds: 65,
            adopted: false,
            interfaces: vec![InterfaceStatus { name: "eth0".into(), attach: "generic".into() }],
            flows: 1,
            flows_max: 1024,
            half_open: 0,
            half_open_max: 512,
            counters: [("forwarded".to_owned(), 10)].into(),
            warnings: vec![],
            hooks: vec![],
        },
        clusters: vec![ClusterStatus {
            flip: None,
            drains: Vec::new(),
            name: "main".into(),
            active_pair: "pair1".into(),
            generation: 7,
            failover: FailoverStatus::default(),
            checks: None,
            pairs: vec![PairStatus {
                name: "pair1".into(),
                state: "active".into(),
                admin: AdminStatus::default(),
                backends: vec![BackendStatus {
                    address: "10.0.1.11:3306".into(),
                    role: "primary".into(),
                    admin: AdminStatus::default(),
                    health: "up".into(),
                    reason: "passing".into(),
                    lag_seconds: None,
                    read_only: Some(false),
                    server_version: Some("11.4.5-MariaDB".into()),
                    conditions: Vec::new(),
                    flows: 1,
                    traffic: pairflip::control::protocol::TrafficStatus::default(),
                }],
            }],
            routes: vec![RouteStatus {
                name: "writes".into(),
                vip: "10.0.0.100:3306".into(),
                access: "write".into(),
                backends: write_backends.iter().map(ToString::to_string).collect(),
                weights: vec![100; write_backends.len()],
                fallback: false,
                reason: reason.into(),
                connections: std::collections::BTreeMap::new(),
            }],
        }],
    }
}
