//! The controller as it is called: what it prints where, and its exit codes.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use pairflip::control::protocol::{
    AdminDone, AdminState, Drain, ErrorBody, Event, Events, FlipDone, FlipRequest, Flows, Reloaded,
    Status, Unloaded,
};

use crate::runtime::{Daemon, Heard, PATIENCE, status};

#[test]
fn status_is_a_page_or_json() {
    let daemon = Daemon::start();
    let page = said(&run(&daemon.socket, &["status"]), 0);
    assert!(page.starts_with("cluster main: pair1 is active (generation 7)\n  ROUTE "), "{page}");
    assert!(!page.contains('\x1b'), "colour in a pipe: {page:?}");
    let json = said(&run(&daemon.socket, &["status", "--json"]), 0);
    let read: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(read, status(&["10.0.1.11:3306"]));
}

#[test]
fn a_flip_shows_its_steps_and_how_long_writes_waited() {
    let daemon = Daemon::start();
    for name in ["flip", "flipactive"] {
        let output = run(&daemon.socket, &[name, "--deadline", "30s"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = "\
cluster main: pair1 -> pair2 (generation 8) in 1.2s; writes waited for 0.084s
warning: the new primary is read-only
";
        assert_eq!(text, expected);
    }
    let flip = FlipRequest { deadline_ms: Some(30_000), ..FlipRequest::default() };
    assert_eq!(daemon.heard(), [Heard::Flip(flip.clone()), Heard::Flip(flip)]);
}

#[test]
fn what_became_of_a_flip_is_in_the_exit_code() {
    let daemon = Daemon::start();
    for (error, code) in [
        ("precondition_unmet", 1),
        ("flip_undone", 4),
        ("flip_timed_out", 5),
        ("flip_undoing", 6),
        ("flip_unfinished", 6),
    ] {
        let said = run(&daemon.socket, &["flip", "--to", error]);
        assert_eq!(said.status.code(), Some(code), "{error}: {said:?}");
    }
}

#[test]
fn each_ctrl_c_calls_the_flip_off_also_while_its_progress_is_asked_for() {
    let daemon = Daemon::start();
    let child = start(&daemon.socket, &["flip", "--to", "waiting"]);
    wait_until("the flip is asked for", || !daemon.heard().is_empty());
    for times in 1..=2 {
        // The daemon takes its time to say how far the flip is, so that this comes in between.
        thread::sleep(Duration::from_millis(50));
        interrupt(&child);
        wait_until("it is called off", || daemon.heard().len() == 1 + times);
    }
    let output = ended(child);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("Ctrl-C: the flip is called off\n"), "{said}");
}

#[test]
fn ctrl_c_ends_the_waiting_for_the_old_pair_and_the_flip_is_done() {
    for way in [&["flip", "--wait"][..], &["flip", "--route-only", "--wait"]] {
        let daemon = Daemon::start();
        let child = start(&daemon.socket, way);
        wait_until("it waits", || daemon.heard().contains(&Heard::Status));
        interrupt(&child);
        let output = ended(child);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let done = text(&output.stdout);
        assert!(done.starts_with("cluster main: pair1 -> pair2 (generation 8)"), "{done}");
        let expected = "\
error: Ctrl-C: the flip is done; connections may be left on pair1
  `pairflip flows` lists them
";
        let said = text(&output.stderr);
        assert!(said.ends_with(expected), "{said}");
    }
}

#[test]
fn a_flip_is_done_also_when_the_daemon_goes_while_the_old_pair_is_waited_for() {
    let daemon = Daemon::start();
    let child = start(&daemon.socket, &["flip", "--wait"]);
    wait_until("it waits", || daemon.heard().contains(&Heard::Status));
    daemon.crash();
    let output = ended(child);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(text(&output.stdout).starts_with("cluster main: pair1 -> pair2"), "{output:?}");
}

#[test]
fn a_dry_run_asks_for_a_plan_and_ends_with_whether_it_is_possible() {
    let daemon = Daemon::start();
    let text = said(&run(&daemon.socket, &["flip", "--dry-run"]), 0);
    assert!(text.starts_with("cluster main: pair1 -> pair2  possible\npreconditions\n"), "{text}");
    assert!(text.ends_with("nothing was changed\n"), "{text}");
    let output = run(&daemon.socket, &["flip", "--dry-run", "--to", "pair3"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("--force target_lagging flips all the same"), "{text}");
    assert!(daemon.heard().iter().all(|heard| matches!(heard, Heard::PlanFlip(_))));
}

#[test]
fn a_flip_says_what_happened_and_warns() {
    let daemon = Daemon::start();
    let text = said(&run(&daemon.socket, &["flip", "--route-only", "--drain", "cut"]), 0);
    let expected = "\
cluster main: pair1 -> pair2 (generation 8); new connections go to pair2, connections on pair1 were ended
warning: the new primary is read-only
";
    assert_eq!(text, expected);
    let json = said(&run(&daemon.socket, &["--json", "flipactive", "--route-only"]), 0);
    let done: FlipDone = serde_json::from_str(&json).unwrap();
    assert_eq!((done.from.as_str(), done.to.as_str()), ("pair1", "pair2"));
}

#[test]
fn a_refusal_of_the_daemon_is_printed_with_its_remedy() {
    let daemon = Daemon::start();
    let flip = ["flip", "--route-only", "--to", "target_down"];
    let text = complaint(&run(&daemon.socket, &flip), 1);
    assert_eq!(text, "error: refused with target_down\n  do better\n");
    let json = complaint(&run(&daemon.socket, &[&flip[..], &["--json"]].concat()), 1);
    let ErrorBody { error } = serde_json::from_str(&json).unwrap();
    assert_eq!(error.code, "target_down");
}

#[test]
fn who_is_taken_out_for_how_long_why_and_by_whom_reaches_the_daemon() {
    let daemon = Daemon::start();
    let maint = ["maint", "10.0.1.12:3306", "--for", "30m", "--note", "new disk", "--drain", "cut"];
    let text = said(&run(&daemon.socket, &maint), 0);
    let who = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    let who = who.or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "uid 0".to_owned());
    let expected = format!(
        "cluster main: 10.0.1.12:3306 gets no new connections and is not checked \
         (maint by {who} until 2023-11-14T22:43:20Z: new disk)\n"
    );
    assert_eq!(text, expected);
    let json = said(&run(&daemon.socket, &["--json", "ready", "pair1", "--cluster", "main"]), 0);
    let done: AdminDone = serde_json::from_str(&json).unwrap();
    assert_eq!((done.target.as_str(), done.admin.state), ("pair1", AdminState::Ready));
    let [Heard::Admin(maint), Heard::Admin(ready)] = &daemon.heard()[..] else {
        panic!("{:?}", daemon.heard())
    };
    assert_eq!(
        (maint.for_seconds, maint.drain, maint.force),
        (Some(1800), Some(Drain::Cut), false)
    );
    assert_eq!((ready.cluster.as_deref(), ready.state), (Some("main"), AdminState::Ready));
}

#[test]
fn a_time_without_a_unit_is_not_guessed_at() {
    let text = complaint(&run(Path::new("/nowhere"), &["drain", "pair1", "--for", "30"]), 2);
    assert!(text.contains("\"30\" has no unit; add one of ms, s, m, h, d"), "{text}");
}

#[test]
fn flows_are_filtered_by_the_daemon() {
    let daemon = Daemon::start();
    let text = said(&run(&daemon.socket, &["flows", "--backend", "10.0.1.12:3306"]), 0);
    assert!(text.ends_with("1 of 2 flows; more with --limit\n"), "{text}");
    let json = said(&run(&daemon.socket, &["flows", "--limit", "1", "--json"]), 0);
    let flows: Flows = serde_json::from_str(&json).unwrap();
    assert_eq!(flows.total, 2);
    let queries: Vec<_> = daemon
        .heard()
        .into_iter()
        .map(|heard| match heard {
            Heard::Flows(query) => (query.backend, query.limit),
            Heard::Status
            | Heard::Flip(_)
            | Heard::PlanFlip(_)
            | Heard::CallOff(_)
            | Heard::Admin(_)
            | Heard::Events(_)
            | Heard::Reload
            | Heard::Unload => panic!("{heard:?}"),
        })
        .collect();
    assert_eq!(queries, [(Some("10.0.1.12:3306".to_owned()), None), (None, Some(1))]);
}

#[test]
fn events_are_lines_or_json() {
    let daemon = Daemon::start();
    assert_eq!(said(&run(&daemon.socket, &["events"]), 0), "no events\n");
    daemon.event("it rains");
    daemon.event("it pours");
    let line = |text: &str| format!("2026-11-25T10:00:00.123Z  info     main  {text}\n");
    let expected = line("it rains") + &line("it pours");
    assert_eq!(said(&run(&daemon.socket, &["events"]), 0), expected);
    let last = said(&run(&daemon.socket, &["events", "--limit", "1", "--cluster", "main"]), 0);
    assert_eq!(last, line("it pours"));
    let json = said(&run(&daemon.socket, &["events", "--json"]), 0);
    let Events { events, last } = serde_json::from_str(&json).unwrap();
    assert_eq!((events.len(), events[1].number, last), (2, 2, 2));
}

#[test]
fn events_are_followed_over_a_crash_of_the_daemon_without_a_gap() {
    let daemon = Daemon::start();
    daemon.event("of yesterday");
    daemon.event("first");
    let arguments = ["--limit", "1", "--cluster", "main", "--json"];
    let follower = Follower::start(&daemon, &arguments);
    let next = || -> Event { serde_json::from_str(&follower.line()).unwrap() };
    assert_eq!(next().text, "first");
    daemon.event("second");
    assert_eq!(next().text, "second");
    let directory = daemon.crash();
    // One complaint; it goes on asking, each second.
    assert_eq!(follower.complaint(), "{");
    thread::sleep(Duration::from_millis(1500));
    let daemon = Daemon::start_in(directory, status(&[]));
    daemon.event("third");
    let third = next();
    assert_eq!((third.text.as_str(), third.number), ("third", 4));
}

#[test]
fn a_journal_that_began_anew_is_followed_from_its_beginning() {
    let daemon = Daemon::start();
    daemon.event("of yesterday");
    daemon.event("first");
    let follower = Follower::start(&daemon, &["--limit", "0"]);
    wait_until("it asked again", || daemon.heard().len() >= 2);
    let directory = daemon.crash();
    fs::remove_file(directory.path().join("events.jsonl")).unwrap();
    let daemon = Daemon::start_in(directory, status(&[]));
    daemon.event("of today");
    assert!(follower.line().ends_with("  main  of today"));
}

#[test]
fn who_follows_events_ends_with_its_reader_also_when_nothing_happens() {
    let daemon = Daemon::start();
    let mut child =
        command(&daemon.socket, &["events", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(ended(child).status.code(), Some(0));
}

/// What a process said that ends by itself.
fn ended(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it runs on");
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// A running `pairflip events --follow`. It ends with the test.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
    complaints: mpsc::Receiver<String>,
}

impl Follower {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let arguments = [&["events", "--follow"], arguments].concat();
        let mut command = command(&daemon.socket, &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let complaints = lines_of(child.stderr.take().unwrap());
        Self { child, lines, complaints }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    fn complaint(&self) -> String {
        self.complaints.recv_timeout(PATIENCE).expect("a complaint in time")
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Nothing to do about one that has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A pipe's lines as they come, so that waiting for one has an end.
fn lines_of(pipe: impl io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        // Until nobody waits for them.
        lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
    });
    receiver
}

#[test]
fn a_daemon_that_is_not_there_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let expected = |reason: &str| {
        format!(
            "error: no pairflipd answers on {} ({reason})\n  is it running? start it with \
             `pairflipd --config FILE`, or name its socket (daemon.control of its configuration) \
             with --socket. The kernel forwards as it was without it\n",
            socket.display()
        )
    };
    let text = complaint(&run(&socket, &["status"]), 3);
    assert_eq!(text, expected("No such file or directory (os error 2)"));
    drop(UnixListener::bind(&socket).unwrap());
    let text = complaint(&run(&socket, &["status"]), 3);
    assert_eq!(text, expected("Connection refused (os error 111)"));
    let json = complaint(&run(&socket, &["flip", "--route-only", "--json"]), 3);
    let ErrorBody { error } = serde_json::from_str(&json).unwrap();
    assert_eq!(error.code, "not_running");
}

#[test]
fn a_daemon_that_crashed_left_a_socket_that_says_so() {
    let daemon = Daemon::start();
    let socket = daemon.socket.clone();
    let directory = daemon.crash();
    assert!(socket.exists());
    assert!(complaint(&run(&socket, &["status"]), 3).contains("Connection refused"));
    drop(directory);
}

#[test]
fn a_peer_that_is_no_daemon_is_an_error() {
    let text = complaint(&run_with_a_peer_that_hangs_up(&["reload"]), 1);
    let expected = "look at `pairflip status` and the daemon's log\n";
    assert!(text.starts_with("error: talking to pairflipd on "), "{text}");
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_flip_whose_daemon_goes_away_may_have_begun() {
    for way in [&["flip"][..], &["flip", "--route-only"]] {
        let text = complaint(&run_with_a_peer_that_hangs_up(way), 6);
        assert!(text.starts_with("error: talking to pairflipd on "), "{text}");
        assert!(text.contains("\n  start pairflipd again if it ended"), "{text}");
    }
}

fn run_with_a_peer_that_hangs_up(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = thread::spawn(move || drop(listener.accept().unwrap()));
    let output = run(&socket, arguments);
    peer.join().unwrap();
    output
}

#[test]
fn a_reload_says_what_is_new_and_what_needs_a_restart() {
    let daemon = Daemon::start();
    let text = said(&run(&daemon.socket, &["reload"]), 0);
    assert_eq!(
        text,
        "new and in use: password of the checks of cluster main\n\
         needs a restart of pairflipd (connections live on): cluster[main].check.interval\n"
    );
    let json = said(&run(&daemon.socket, &["reload", "--json"]), 0);
    let reloaded: Reloaded = serde_json::from_str(&json).unwrap();
    assert_eq!(reloaded.needs_restart, ["cluster[main].check.interval"]);
    assert_eq!(daemon.heard(), [Heard::Reload, Heard::Reload]);
}

#[test]
fn unload_goes_through_the_daemon() {
    let daemon = Daemon::start();
    let json = said(&run(&daemon.socket, &["unload", "--json"]), 0);
    let unloaded: Unloaded = serde_json::from_str(&json).unwrap();
    assert_eq!(unloaded.removed, ["took 10.0.0.100 off eth0"]);
    assert_eq!(daemon.heard(), [Heard::Unload]);
}

#[test]
fn unload_without_a_daemon_needs_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let config = directory.path().join("missing.toml");
    let output = run(&socket, &["unload", "--config", config.to_str().unwrap()]);
    let text = complaint(&output, 1);
    assert!(text.starts_with(&format!("error: {}:", config.display())), "{text}");
    assert!(text.contains("--config"), "{text}");
}

#[test]
fn check_sums_a_good_configuration_up() {
    let directory = tempfile::tempdir().unwrap();
    let config = good_config(directory.path());
    let output = run(Path::new("/nowhere"), &["check", "--offline", "--config", &config]);
    let expected = "\
the configuration is valid
cluster main: 1 route, 2 pairs, 4 backends
  a dead backend is noticed within 2500ms = interval 1s + (fall 3 - 1) * fast_interval 500ms + timeout 500ms
  checks: login
";
    assert_eq!(said(&output, 0), expected);
    let output = run(Path::new("/nowhere"), &["check", "--json", "--offline", "--config", &config]);
    let json: serde_json::Value = serde_json::from_str(&said(&output, 0)).unwrap();
    assert_eq!(json["clusters"][0]["detection_seconds"], 2.5);
    assert_eq!(json["warnings"], serde_json::json!([]));
}

#[test]
fn check_names_every_error_of_a_bad_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let config = good_config(directory.path());
    let bad = fs::read_to_string(&config)
        .unwrap()
        .replace("interfaces", "interface")
        .replace("fall = 3", "fall = 0");
    fs::write(&config, bad).unwrap();
    let output = run(Path::new("/nowhere"), &["check", "--config", &config]);
    let text = complaint(&output, 1);
    assert!(text.contains("interfaces") && text.contains("fall"), "{text}");
    assert!(text.contains(&format!("{config}:2:")), "{text}");
    let output = run(Path::new("/nowhere"), &["check", "--json", "--config", &config]);
    let ErrorBody { error } = serde_json::from_str(&complaint(&output, 1)).unwrap();
    assert_eq!(error.code, "bad_config");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let daemon = Daemon::start();
    let mut child = command(&daemon.socket, &["status"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_socket_can_be_named_by_the_environment() {
    let daemon = Daemon::start();
    let output = Command::new(env!("CARGO_BIN_EXE_pairflip"))
        .arg("status")
        .env("PAIRFLIP_SOCKET", &daemon.socket)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(daemon.directory().join("control.sock").exists());
}

fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pairflip"));
    command.arg("--socket").arg(socket).args(arguments).env("TERM", "xterm");
    command
}

fn start(socket: &Path, arguments: &[&str]) -> Child {
    let mut command = command(socket, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

fn run(socket: &Path, arguments: &[&str]) -> Output {
    command(socket, arguments).output().unwrap()
}

/// What it said, having ended with `code` and without a complaint.
fn said(output: &Output, code: i32) -> String {
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(code), ""));
    text(&output.stdout)
}

/// What it complained of, having ended with `code` and said nothing else.
fn complaint(output: &Output, code: i32) -> String {
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""));
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn good_config(directory: &Path) -> String {
    let password = directory.join("password");
    fs::write(&password, "secret\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let config = directory.join("pairflip.toml");
    let text = r#"[daemon]
interfaces = ["eth0"]
[[cluster]]
name = "main"
[cluster.check]
user = "pairflip"
password_file = "password"
interval = "1s"
timeout = "500ms"
fall = 3
[[cluster.route]]
name = "writes"
vip = "10.0.0.100:3306"
access = "write"
[[cluster.pair]]
name = "pair1"
primary = "10.0.1.11:3306"
replicas = ["10.0.1.12:3306"]
[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]
"#;
    fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}
