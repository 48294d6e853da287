//! The prober, and what fences, against real MariaDB servers, and against things that are none.

use std::{
    cmp::Ordering,
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pairflip::{
    check::{self, Checker, Probe, exec::Subject, keys::Keys, mysql::Prober, questions::Questions},
    config::{Applies, Login},
    primary::{self, Applied, Server as Primary},
};
use pairflip_policy::{
    BackendId, Cause, Channel, CheckResult, Facts, FenceError, FenceFault, Fenced, Role, Upstream,
};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc, watch};

#[path = "probe/additional.rs"]
mod additional;
#[path = "probe/commands.rs"]
mod commands;
#[path = "probe/login.rs"]
mod login;
#[path = "probe/tls.rs"]
mod tls;

const TIMEOUT: Duration = Duration::from_millis(500);
/// How much later than `TIMEOUT` a probe may end on a busy test machine.
const SLACK: Duration = Duration::from_millis(200);

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_healthy_server_tells_its_facts() {
    let server = Server::start(11).await;
    let mut prober = server.prober();
    let facts = answered(prober.probe().await);
    assert!(!facts.read_only);
    assert_eq!(facts.server_id, 11);
    assert!(facts.version.contains("MariaDB"), "{}", facts.version);
    assert_eq!(facts.replication, []);

    server.sql("SET GLOBAL read_only = 1").await;
    assert!(answered(prober.probe().await).read_only);
    server.sql("SET GLOBAL read_only = 0").await;
    assert!(!answered(prober.probe().await).read_only);

    for _ in 0..20 {
        answered(prober.probe().await);
    }
    let logins = server
        .number("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'checker'")
        .await;
    assert_eq!(logins, 1, "one connection is kept");
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn errors_of_a_living_server_are_told_apart() {
    let server = Server::start(11).await;
    let denied = failed(prober(server.address, "checker", "wrong", TIMEOUT).probe().await);
    assert_eq!(denied, Cause::AuthDenied);
    let unknown = failed(prober(server.address, "nobody", "secret", TIMEOUT).probe().await);
    assert_eq!(unknown, Cause::AuthDenied);

    server.sql("CREATE USER poor IDENTIFIED BY 'secret'").await;
    let mut poor = prober(server.address, "poor", "secret", TIMEOUT);
    assert_eq!(failed(poor.probe().await), Cause::MissingGrant);
    server.sql("GRANT SLAVE MONITOR ON *.* TO poor").await;
    answered(poor.probe().await);

    server.sql("ALTER USER checker@'%' WITH MAX_USER_CONNECTIONS 1").await;
    let mut first = server.prober();
    answered(first.probe().await);
    assert_eq!(failed(server.prober().probe().await), Cause::UserLimit);
    server.sql("ALTER USER checker@'%' WITH MAX_USER_CONNECTIONS 0").await;

    server.sql("SET GLOBAL max_connections = 10").await;
    let mut held = Vec::new();
    while let Ok(conn) = Conn::new(server.root()).await {
        held.push(conn);
    }
    assert_eq!(failed(server.prober().probe().await), Cause::TooManyConnections);
    answered(first.probe().await);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_hung_server_times_out_on_time_and_is_not_flooded() {
    let server = Server::start(11).await;
    let mut prober = server.prober();
    answered(prober.probe().await);
    server.signal(Signal::SIGSTOP);
    for _ in 0..16 {
        let started = Instant::now();
        assert_eq!(failed(prober.probe().await), Cause::TimedOut);
        let took = started.elapsed();
        assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
    }
    server.signal(Signal::SIGCONT);
    answered(prober.probe().await);
    // 8 s of hanging: the connection that hung was closed in order, one login was given up after
    // 5 s, the next one succeeded.
    let aborted = server
        .number(
            "SELECT variable_value FROM information_schema.global_status \
             WHERE variable_name = 'aborted_connects'",
        )
        .await;
    assert!(aborted <= 1, "{aborted}");
    let logins = server
        .number("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'checker'")
        .await;
    assert_eq!(logins, 1);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_killed_server_refuses_and_a_restarted_one_is_found_at_once() {
    let mut server = Server::start(11).await;
    let mut prober = server.prober();
    answered(prober.probe().await);
    server.kill();
    for _ in 0..3 {
        assert_eq!(failed(prober.probe().await), Cause::Refused);
    }
    server.restart().await;
    answered(prober.probe().await);

    // A kept connection that broke between two probes is no failure.
    server.kill();
    server.restart().await;
    answered(prober.probe().await);
    let id =
        server.number("SELECT id FROM information_schema.processlist WHERE user = 'checker'").await;
    server.sql(&format!("KILL {id}")).await;
    answered(prober.probe().await);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_server_is_fenced_and_unfenced_and_seen_to_be() {
    let mut server = Server::start(11).await;
    let account = Login::plain("checker", "secret");
    let timeout = Duration::from_secs(3);
    let address = server.address;
    let primary = Primary { address, account: account.clone().into() };
    let fence = || primary::fence(&primary, timeout);
    let unfence = || primary::unfence(&primary, timeout, Applied::NotRequired);
    let fault = |error: FenceError| (error.fault, error.text);

    let mut prober = server.prober();
    assert_eq!(answered(prober.probe().await).may_fence, None, "nobody asked");
    let questions = Questions { fences: true, ..Questions::none(Role::Primary) };
    let mut prober = Prober::new(address, Keys::fixed(account.clone()), questions, timeout);
    assert_eq!(answered(prober.probe().await).may_fence, Some(false));
    let (refused, text) = fault(fence().await.expect_err("it may not"));
    assert_eq!(refused, FenceFault::Refused);
    assert!(text.contains("grant the check user READ_ONLY ADMIN"), "{text}");
    server.sql("GRANT READ_ONLY ADMIN ON *.* TO checker@'%'").await;
    assert_eq!(answered(prober.probe().await).may_fence, Some(true), "over the same connection");

    assert_eq!(fence().await, Ok(Fenced { was_read_only: false }));
    assert_eq!(server.number("SELECT @@read_only").await, 1);
    assert_eq!(fence().await, Ok(Fenced { was_read_only: true }));
    assert_eq!(unfence().await, Ok(()));
    assert_eq!(server.number("SELECT @@read_only").await, 0);

    // Somebody's lock is waited for no longer than a second, and then nothing has changed.
    server.sql("CREATE TABLE test.t (id INT)").await;
    let mut holder = Conn::new(server.root()).await.expect("connect");
    holder.query_drop("LOCK TABLE test.t WRITE").await.expect("lock");
    let started = Instant::now();
    let (refused, text) = fault(fence().await.expect_err("it is locked"));
    assert_eq!(refused, FenceFault::Refused, "{text}");
    assert!(text.contains("Lock wait timeout"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(server.number("SELECT @@read_only").await, 0);
    holder.query_drop("UNLOCK TABLES").await.expect("unlock");

    // One that hangs, one that turns the account away, one that is dead.
    server.signal(Signal::SIGSTOP);
    assert_eq!(fault(fence().await.expect_err("it hangs")).0, FenceFault::Unreachable);
    server.signal(Signal::SIGCONT);
    let stranger = Primary { address, account: Login::plain("checker", "wrong").into() };
    let turned_away = primary::fence(&stranger, timeout).await.expect_err("wrong password");
    assert_eq!(turned_away.fault, FenceFault::Refused);
    server.kill();
    assert_eq!(fault(fence().await.expect_err("it is dead")).0, FenceFault::Unreachable);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_standby_that_has_not_applied_everything_is_not_unfenced() {
    let (primary, standby) = tokio::join!(Server::start(11), Server::start(12));
    let port = primary.address.port();
    let source = format!(
        "MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'repl', \
         MASTER_PASSWORD = 'secret', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1"
    );
    standby.sql("GRANT READ_ONLY ADMIN ON *.* TO checker@'%'").await;
    standby.sql("SET GLOBAL read_only = 1").await;
    standby.sql(&format!("CHANGE MASTER TO {source}")).await;
    standby.sql("START SLAVE").await;
    primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)").await;
    let mut prober = standby.prober();
    eventually(&mut prober, &[channel("", true, true, Some(0))]).await;
    standby.sql("STOP SLAVE SQL_THREAD").await;
    primary.sql("INSERT INTO test.t VALUES (1)").await;
    let started = Instant::now();
    while answered(prober.probe().await).replication[0].upstream.applied != Some(false) {
        assert!(started.elapsed() < Duration::from_secs(10), "it receives");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let account = Login::plain("checker", "secret").into();
    let timeout = Duration::from_secs(3);
    let promoted = Primary { address: standby.address, account };
    let unfence = || primary::unfence(&promoted, timeout, Applied::Required);
    let error = unfence().await.expect_err("it has not applied everything");
    assert_eq!(error.fault, FenceFault::NotApplied, "{}", error.text);
    assert_eq!(standby.number("SELECT @@read_only").await, 1);
    drop(primary);
    standby.sql("START SLAVE SQL_THREAD").await;
    let started = Instant::now();
    while unfence().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "it applies");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(standby.number("SELECT COUNT(*) FROM test.t").await, 1);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn replication_is_reported_per_channel() {
    let (primary, replica) = tokio::join!(Server::start(11), Server::start(12));
    let mut prober = replica.prober();
    assert_eq!(answered(prober.probe().await).replication, []);

    let port = primary.address.port();
    let source = format!(
        "MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'repl', \
         MASTER_PASSWORD = 'secret', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1"
    );
    replica.sql(&format!("CHANGE MASTER TO {source}")).await;
    assert_eq!(channels(prober.probe().await), [channel("", false, false, None)]);

    replica.sql("START SLAVE").await;
    let running = channel("", true, true, Some(0));
    eventually(&mut prober, std::slice::from_ref(&running)).await;

    replica.sql("STOP SLAVE IO_THREAD").await;
    assert_eq!(channels(prober.probe().await), [channel("", false, true, None)]);
    replica.sql("START SLAVE IO_THREAD").await;
    eventually(&mut prober, std::slice::from_ref(&running)).await;
    replica.sql("STOP SLAVE SQL_THREAD").await;
    assert_eq!(channels(prober.probe().await), [channel("", true, false, None)]);
    replica.sql("START SLAVE SQL_THREAD").await;
    eventually(&mut prober, std::slice::from_ref(&running)).await;

    // A second, named source that cannot be reached.
    replica.sql("CHANGE MASTER 'other' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1").await;
    let found = channels(prober.probe().await);
    assert_eq!(found, [running, channel("other", false, false, None)]);
    replica.sql("RESET SLAVE 'other' ALL").await;

    // An applier that waits behind a lock lags.
    primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)").await;
    let mut holder = Conn::new(replica.root()).await.expect("connect");
    while holder.query_drop("LOCK TABLE test.t WRITE").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    primary.sql("INSERT INTO test.t VALUES (1)").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let behind = answered(prober.probe().await).replication.remove(0);
    assert!(behind.lag.expect("lag") >= Duration::from_secs(1), "{behind:?}");
    assert_eq!(behind.upstream.applied, Some(false), "{behind:?}");

    // The primary dies: the IO thread retries, which is not running.
    drop(primary);
    eventually(&mut prober, &[channel("", false, true, None)]).await;
    let started = Instant::now();
    let upstream = |facts: &Facts| facts.replication[0].upstream.clone();
    let lost = loop {
        let facts = answered(prober.probe().await);
        if upstream(&facts).io_thread.has_lost_source() {
            break upstream(&facts);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{facts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((lost.server_id, lost.applied), (11, Some(false)), "{lost:?}");
    assert_eq!(lost.address, format!("127.0.0.1:{port}"));
    let before = lost.executed.expect("a place in the primary's log");
    holder.query_drop("UNLOCK TABLES").await.expect("unlock");
    let started = Instant::now();
    let caught_up = loop {
        let facts = answered(prober.probe().await);
        if upstream(&facts).applied == Some(true) {
            break facts;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{facts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let after = upstream(&caught_up).executed.expect("a place in the primary's log");
    assert_eq!(after.compare(&before), Some(Ordering::Greater), "{after} after {before}");
    // This one does not log what it copies, so its own log is empty and named by its place.
    let position = caught_up.position.expect("a position");
    assert!(position.contains("-bin.000001:"), "{position}");
}

#[tokio::test]
#[ignore = "needs a quiet machine: run by cargo xtask test"]
async fn what_is_no_mysql_server_is_a_protocol_error_or_worse() {
    let greetings: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x00\x00\x00",
        b"\x05\x00\x00\x00\x0a8.0\x00",
        b"\xff\xff\xff\x00\x0a",
        &[0; 64],
    ];
    for greeting in greetings {
        let cause = failed(probe_of(greeting.to_vec()).await);
        assert!(cause.may_take_down(), "{greeting:?}: {cause:?}");
    }
    assert_eq!(failed(probe_of(Vec::new()).await), Cause::ConnectionLost);
}

#[tokio::test]
#[ignore = "needs a quiet machine: run by cargo xtask test"]
async fn no_answer_however_broken_ends_the_prober() {
    // A well-formed greeting of MariaDB, then an OK packet and answers; bytes are changed at
    // random.
    let mut answer = b"\x5a\x00\x00\x00\x0a5.5.5-10.11.6-MariaDB\x00\x01\x00\x00\x00".to_vec();
    answer.extend(
        b"abcdefgh\x00\xfe\xf7\x2d\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00",
    );
    answer.extend(b"ijklmnopqrst\x00mysql_native_password\x00");
    answer.extend(b"\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00");
    answer.extend(b"\x01\x00\x00\x01\x04\x1a\x00\x00\x02\x03def\x00\x00\x00\x02ro\x00\x0c\x3f\x00");
    let mut random = Random(7);
    for round in 0..1500 {
        let mut bytes = answer.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        bytes.truncate(random.below(bytes.len()) + 1);
        let cause = failed(probe_of(bytes).await);
        assert_ne!(cause, Cause::TimedOut, "round {round}");
    }
}

#[test]
#[ignore = "needs root and a network namespace: run by cargo xtask test"]
fn silence_and_missing_ways_are_told_apart() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare: run as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let target = SocketAddr::from((Ipv4Addr::new(10, 9, 0, 2), 3306));
            let mut prober = prober(target, "checker", "secret", TIMEOUT);
            assert_eq!(failed(prober.probe().await), Cause::Unreachable, "no route");

            for command in [
                "link set lo up",
                "link add pf0 type veth peer name pf1",
                "addr add 10.9.0.1/24 dev pf0",
                "link set pf1 up arp off",
                "link set pf0 up",
            ] {
                let status = Command::new("ip").args(command.split(' ')).status().expect("ip");
                assert!(status.success(), "ip {command}");
            }
            // Nobody answers ARP: silence, until the kernel gives up after three seconds.
            let mut causes = Vec::new();
            while causes.last() != Some(&Cause::Unreachable) && causes.len() < 10 {
                causes.push(failed(prober.probe().await));
            }
            let (last, earlier) = causes.split_last().expect("causes");
            assert_eq!(*last, Cause::Unreachable);
            assert!(earlier.iter().all(|cause| *cause == Cause::TimedOut), "{causes:?}");
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test]
async fn an_ipv6_address_is_connected_to_as_it_is() {
    let listener = match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("skipped: no IPv6 on this machine: {error}"),
    };
    let target = address(&listener);
    let server = std::thread::spawn(move || drop(listener.accept().expect("a connection")));
    let cause = failed(prober(target, "checker", "secret", TIMEOUT).probe().await);
    assert_eq!(cause, Cause::ConnectionLost);
    server.join().expect("accepted");
    let cause = failed(prober(target, "checker", "secret", TIMEOUT).probe().await);
    assert_eq!(cause, Cause::Refused);
}

#[tokio::test]
#[ignore = "needs a quiet machine: run by cargo xtask test"]
async fn probes_keep_their_pace_and_can_be_asked_for() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let target = address(&closed);
    drop(closed);
    let (pace, paces) = watch::channel(Some(Duration::from_millis(300)));
    let kick = Arc::new(Notify::new());
    let (sender, mut results) = mpsc::channel(1);
    let prober = prober(target, "checker", "secret", TIMEOUT);
    let kicked = Arc::clone(&kick);
    let subject = Subject {
        cluster: "main".into(),
        pair: "pair1".into(),
        address: target,
        role: Applies::Replica,
    };
    let checker = Checker::login_only(subject, prober);
    let task = tokio::spawn(async move {
        check::run(BackendId(3), checker, paces, &kicked, sender).await;
    });
    let mut next = async |what: &str, at_least: u64, at_most: u64| {
        let started = Instant::now();
        let (backend, result) = results.recv().await.expect(what);
        assert_eq!((backend, failed(result)), (BackendId(3), Cause::Refused));
        let took = started.elapsed();
        let expected = Duration::from_millis(at_least)..Duration::from_millis(at_most);
        assert!(expected.contains(&took), "{what}: {took:?}");
    };
    next("the first at once", 0, 100).await;
    next("steady", 200, 400).await;
    next("steady", 200, 400).await;
    kick.notify_one();
    next("asked for", 0, 100).await;
    next("steady after that", 200, 400).await;
    pace.send(Some(Duration::from_millis(50))).expect("send");
    next("faster at once", 0, 150).await;
    next("fast", 0, 100).await;
    // For half a second there are none.
    let resume = async {
        pace.send(None).expect("send");
        tokio::time::sleep(Duration::from_millis(500)).await;
        pace.send(Some(Duration::from_millis(50))).expect("send");
    };
    tokio::join!(resume, next("none in maintenance", 400, 700));
    pace.send(Some(Duration::from_secs(3600))).expect("send");
    drop(pace);
    tokio::time::timeout(Duration::from_secs(1), task).await.expect("ends").expect("no panic");
}

fn prober(target: SocketAddr, user: &str, password: &str, timeout: Duration) -> Prober {
    let keys = Keys::fixed(Login::plain(user, password));
    Prober::new(target, keys, Questions::none(Role::Replica), timeout)
}

fn answered(probe: Probe) -> Facts {
    match probe.result {
        CheckResult::Answered(facts) => facts,
        other @ (CheckResult::Failed(_) | CheckResult::Reached) => panic!("{other:?}"),
    }
}

/// The channels as far as reads go.
fn channels(probe: Probe) -> Vec<Channel> {
    let mut channels = answered(probe).replication;
    channels.iter_mut().for_each(|channel| channel.upstream = Upstream::default());
    channels
}

fn failed(probe: Probe) -> Cause {
    match probe.result {
        CheckResult::Failed(failure) => failure.cause,
        other @ (CheckResult::Answered(_) | CheckResult::Reached) => panic!("{other:?}"),
    }
}

async fn eventually(prober: &mut Prober, expected: &[Channel]) {
    let started = Instant::now();
    loop {
        let found = channels(prober.probe().await);
        if found == expected {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn channel(name: &str, io_running: bool, sql_running: bool, lag_s: Option<u64>) -> Channel {
    let lag = lag_s.map(Duration::from_secs);
    Channel { name: name.into(), io_running, sql_running, lag, ..Channel::default() }
}

/// Probes a server that says `bytes` whatever it hears, then closes.
async fn probe_of(bytes: Vec<u8>) -> Probe {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let target = address(&listener);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        // The other side may have hung up already.
        if stream.write_all(&bytes).is_ok() && stream.shutdown(std::net::Shutdown::Write).is_ok() {
            let mut heard = Vec::new();
            drop(stream.take(1 << 16).read_to_end(&mut heard));
        }
    });
    let mut prober = prober(target, "checker", "secret", Duration::from_secs(5));
    let result = prober.probe().await;
    drop(prober);
    tokio::task::spawn_blocking(|| server.join()).await.expect("join").expect("server");
    result
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("address")
}

/// A linear congruential generator (Knuth's MMIX constants): the same bytes in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A real server with the accounts `root`, `checker` and `repl`, on a loopback port.
struct Server {
    dir: TempDir,
    id: u32,
    address: SocketAddr,
    options: Vec<String>,
    process: Child,
}

impl Server {
    async fn start(id: u32) -> Self {
        Self::start_with(id, &[]).await
    }

    async fn start_with(id: u32, options: &[String]) -> Self {
        let dir = tempfile::Builder::new().prefix("pairflip-probe-").tempdir().expect("dir");
        let output = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .args(["--auth-root-authentication-method=normal", "--innodb-log-file-size=4M"])
            .arg(format!("--datadir={}", dir.path().join("data").display()))
            // Two installations at the same time trip over each other's temporary tables.
            .env("TMPDIR", dir.path())
            .output()
            .expect("mariadb-install-db: install mariadb-server");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = address(&free);
        drop(free);
        let process = Self::spawn(&dir, id, address, options);
        let server = Self { dir, id, address, options: options.to_vec(), process };
        server.ready().await;
        for statement in [
            "CREATE DATABASE test",
            "CREATE USER checker@'%' IDENTIFIED BY 'secret'",
            "GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO checker@'%'",
            "CREATE USER repl@'%' IDENTIFIED BY 'secret'",
            "GRANT REPLICATION SLAVE ON *.* TO repl@'%'",
            // What was set up here is no part of what replicas are to copy.
            "RESET MASTER",
        ] {
            server.sql(statement).await;
        }
        server
    }

    fn spawn(dir: &TempDir, id: u32, address: SocketAddr, options: &[String]) -> Child {
        let path = |name| dir.path().join(name).display().to_string();
        let log = File::create(dir.path().join("log")).expect("log");
        Command::new("mariadbd")
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--log-bin"])
            .args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M"])
            .args(options)
            .arg(format!("--server-id={id}"))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--tmpdir={}", path("")))
            .arg(format!("--socket={}", path("socket")))
            .arg(format!("--pid-file={}", path("pid")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("mariadbd: install mariadb-server")
    }

    async fn ready(&self) {
        let started = Instant::now();
        while let Err(error) = Conn::new(self.root()).await {
            let log = self.dir.path().join("log");
            assert!(started.elapsed() < Duration::from_secs(30), "{error}, see {}", log.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn root(&self) -> OptsBuilder {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.address.port())
            .user(Some("root"))
            .prefer_socket(false)
    }

    async fn sql(&self, statement: &str) {
        let mut conn = Conn::new(self.root()).await.expect("connect");
        conn.query_drop(statement).await.expect(statement);
        conn.disconnect().await.expect("disconnect");
    }

    async fn number(&self, query: &str) -> u64 {
        let mut conn = Conn::new(self.root()).await.expect("connect");
        conn.query_first(query).await.expect(query).expect("a row")
    }

    fn prober(&self) -> Prober {
        prober(self.address, "checker", "secret", TIMEOUT)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("kill");
    }

    fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }

    async fn restart(&mut self) {
        self.process = Self::spawn(&self.dir, self.id, self.address, &self.options);
        self.ready().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
