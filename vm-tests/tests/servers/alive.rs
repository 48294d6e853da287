//! Errors of a server that is alive: none may move anything, and each is said with its number and what to do.

use std::net::TcpStream;

use pairflip_vm_tests::lab::client::Session;

use super::*;

/// The primary's connections when it is full: the least that MariaDB allows.
const CONNECTIONS_MAX: usize = 10;

#[test]
fn mariadb_10_11_is_alive() {
    is_alive(Flavour::MariaDb1011);
}

#[test]
fn mariadb_11_8_is_alive() {
    is_alive(Flavour::MariaDb118);
}

#[test]
fn mysql_9_7_is_alive() {
    is_alive(Flavour::MySql97);
}

/// All six on the primary, one after another, with an application's connection open all the time.
fn is_alive(flavour: Flavour) {
    let mut lab = lab(flavour, 4);
    let primary = lab.db_mut(1);
    primary.stop().unwrap();
    primary.set_options(&[
        // MariaDB refuses to limit it later when it started without a limit.
        "--max-user-connections=400",
        "--max-connect-errors=5",
    ]);
    // A host whose name cannot be found is never blocked.
    primary.resolve_names("127.0.0.1 localhost\n10.77.0.2 redirector.lab\n");
    primary.start().unwrap();
    primary.set_read_only(false).unwrap();
    // A failover would be possible; none of this may cause one.
    lab.db(1).sql(fence_grant(lab.db(1).fork())).unwrap();
    lab.db(3).set_read_only(false).unwrap();
    lab.db(3).sql(fence_grant(lab.db(3).fork())).unwrap();
    lab.db(3).set_read_only(true).unwrap();
    let automatic =
        |config: String| config.replacen("[[cluster]]", "[[cluster]]\nfailover = \"auto\"", 1);
    let world = World::start_with(lab, automatic);
    wait_for("all is well", DETECTION + SLACK, || {
        (1..=4).all(|number| world.reason(number) == "passing")
            && world.page().contains("failover auto: pair2 would take over")
    });

    let (orders, inbox) = std::sync::mpsc::channel();
    let (answers, outbox) = std::sync::mpsc::channel();
    let application = world
        .lab
        .ns("client1")
        .spawn(move || {
            let client = Client::new(VIP_WRITE).unwrap();
            let mut session = client.connect().unwrap();
            while inbox.recv().is_ok() {
                answers.send(session.server_id().unwrap()).unwrap();
            }
        })
        .unwrap();
    let still_served = || {
        orders.send(()).unwrap();
        assert_eq!(outbox.recv().unwrap(), 1, "the application's connection");
    };
    still_served();

    wrong_password(&world, &still_served);
    too_many_connections(&world, &still_served);
    limits_of_users(&world, &still_served);
    blocked_host(&world, &still_served);
    drop(orders);
    application.join().unwrap();
}

/// Without CONNECTION_ADMIN, which would have a connection kept free for it.
const fn fence_grant(fork: Fork) -> &'static str {
    match fork {
        Fork::MariaDb => "SET sql_log_bin=0; GRANT READ_ONLY ADMIN ON *.* TO pairflip",
        Fork::MySql => "SET sql_log_bin=0; GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO pairflip",
    }
}

fn wrong_password(world: &World, still_served: &dyn Fn()) {
    let account = |password: &str| {
        let alter = format!("SET sql_log_bin=0; ALTER USER pairflip IDENTIFIED BY '{password}'");
        world.lab.db(1).sql(&alter).unwrap();
    };
    let expected = Expected {
        number: "1045",
        cause: "access denied to the check user",
        remedy: "`password_file`",
    };
    expect(world, &expected, still_served, || account("another"), || account(CHECK_PASSWORD));
}

fn too_many_connections(world: &World, still_served: &dyn Fn()) {
    let primary = world.lab.db(1);
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let used = ["app", "repl"]
        .iter()
        .map(|user| primary.connections_of(user).unwrap().len())
        .sum::<usize>();
    let (filled, full) = std::sync::mpsc::channel();
    let filler = world
        .lab
        .ns("client2")
        .spawn(move || {
            let client = Client::new(VIP_WRITE).unwrap();
            let sessions: Vec<Session<'_>> =
                (used..CONNECTIONS_MAX).map(|_| client.connect().unwrap()).collect();
            filled.send(()).unwrap();
            // Until the sender is dropped.
            _ = wait.recv();
            for mut session in sessions {
                assert_eq!(session.server_id().unwrap(), 1, "full, and its clients are served");
            }
        })
        .unwrap();
    full.recv().unwrap();
    let expected =
        Expected { number: "1040", cause: "too many connections", remedy: "raise max_connections" };
    expect_after(
        world,
        &expected,
        still_served,
        || {
            // In one session: the next one would find the server full.
            let ids = primary.connections_of(CHECK_USER).unwrap();
            let kills: Vec<String> = ids.iter().map(|id| format!("KILL {id};")).collect();
            let limit = format!("SET GLOBAL max_connections = {CONNECTIONS_MAX};");
            primary.sql(&format!("{limit} {}", kills.concat())).unwrap();
        },
        || {},
        // One connection beyond the limit is root's; a login that is being refused may have it.
        || {
            wait_for("root is let in", SLACK, || {
                primary.sql("SET GLOBAL max_connections = 500").is_ok()
            });
        },
    );
    drop(stop);
    filler.join().unwrap();
}

fn limits_of_users(world: &World, still_served: &dyn Fn()) {
    let primary = world.lab.db(1);
    let address = primary.address;
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let (logged_in, ready) = std::sync::mpsc::channel();
    let holder = world
        .lab
        .ns("client2")
        .spawn(move || {
            let client = Client::of(CHECK_USER, CHECK_PASSWORD, (address, 3306)).unwrap();
            let mut session = client.connect().unwrap();
            logged_in.send(session.value::<u64>("SELECT CONNECTION_ID()").unwrap()).unwrap();
            // Until the sender is dropped.
            _ = wait.recv();
        })
        .unwrap();
    let held = ready.recv().unwrap();
    let disconnect = || {
        for id in primary.connections_of(CHECK_USER).unwrap() {
            if id != held {
                primary.sql(&format!("KILL {id}")).unwrap();
            }
        }
    };
    let sql = |statement: &str| {
        primary.sql(&format!("SET sql_log_bin=0; {statement}")).unwrap();
    };
    let global =
        Expected { number: "1203", cause: "limit of its account", remedy: "max_user_connections" };
    expect_after(
        world,
        &global,
        still_served,
        || sql("SET GLOBAL max_user_connections = 1"),
        disconnect,
        || sql("SET GLOBAL max_user_connections = 400"),
    );
    let of_account =
        Expected { number: "1226", cause: "limit of its account", remedy: "max_user_connections" };
    expect_after(
        world,
        &of_account,
        still_served,
        || sql("ALTER USER pairflip WITH MAX_USER_CONNECTIONS 1"),
        disconnect,
        || sql("ALTER USER pairflip WITH MAX_USER_CONNECTIONS 0"),
    );
    drop(stop);
    holder.join().unwrap();
    let per_hour =
        Expected { number: "1226", cause: "limit of its account", remedy: "MAX_*_PER_HOUR" };
    expect(
        world,
        &per_hour,
        still_served,
        || sql("ALTER USER pairflip WITH MAX_CONNECTIONS_PER_HOUR 1"),
        || sql("ALTER USER pairflip WITH MAX_CONNECTIONS_PER_HOUR 0"),
    );
}

fn blocked_host(world: &World, still_served: &dyn Fn()) {
    let primary = world.lab.db(1);
    let target = (primary.address, 3306);
    let abort_handshakes = || {
        let hang_up = move || {
            for _ in 0..10 {
                // Read the greeting, then hang up: a connection that is closed with an RST does not count.
                let mut stream = TcpStream::connect(target).unwrap();
                let mut greeting = [0; 1024];
                std::io::Read::read(&mut stream, &mut greeting).unwrap();
            }
        };
        world.lab.ns("redirector").run(hang_up).unwrap();
    };
    let flush = match primary.fork() {
        Fork::MariaDb => "FLUSH HOSTS",
        Fork::MySql => "TRUNCATE TABLE performance_schema.host_cache",
    };
    let expected = Expected {
        number: "1129",
        cause: "blocked by max_connect_errors",
        remedy: "clients come from here",
    };
    expect(world, &expected, still_served, abort_handshakes, || {
        primary.sql(flush).unwrap();
    });
}

/// What is said of an error.
struct Expected {
    number: &'static str,
    cause: &'static str,
    remedy: &'static str,
}

/// Provokes an error, by ending the daemon's connection after `provoke`, and asserts that it is said and nothing moves.
fn expect(
    world: &World,
    expected: &Expected,
    still_served: &dyn Fn(),
    provoke: impl FnOnce(),
    repair: impl FnOnce(),
) {
    let disconnect = || world.lab.db(1).kill_connections_of(CHECK_USER).unwrap();
    expect_after(world, expected, still_served, provoke, disconnect, repair);
}

fn expect_after(
    world: &World,
    expected: &Expected,
    still_served: &dyn Fn(),
    provoke: impl FnOnce(),
    disconnect: impl Fn(),
    repair: impl FnOnce(),
) {
    world.wait_reason(1, &["passing"]);
    let Expected { number, cause, remedy } = expected;
    let (routes, before) = (world.routes(), world.last_event());
    provoke();
    wait_for(number, DETECTION + SLACK, || {
        let reason = world.reason(1);
        if !reason.contains(number) {
            disconnect();
            thread::sleep(Duration::from_millis(300));
        }
        reason.contains(number)
    });
    // Long enough for a verdict, if this led to one.
    thread::sleep(DETECTION);
    let backend = world.backend(1);
    let reason = backend["reason"].as_str().unwrap();
    assert_eq!(backend["health"], "up", "{reason}");
    for word in ["alive, but the check cannot judge it", number, cause, remedy] {
        assert!(reason.contains(word), "{word:?} is not in {reason:?}");
    }
    assert!(world.page().contains(number), "{}", world.page());
    let told = world.told("check_impaired", before);
    let [text] = told.as_slice() else { panic!("{number} is told once: {told:?}") };
    for word in [&world.address(1), *number, *remedy, "its health stays as it was"] {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    let log = world.daemon.log().unwrap();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(text.as_str())), "{log}");
    still_served();
    repair();
    world.wait_reason(1, &["passing"]);
    wait_for("the end is told", SLACK, || world.told("check_restored", before).len() == 1);
    assert_eq!(world.routes(), routes, "{number} moved a route");
    for kind in
        ["health_changed", "route_changed", "fitness_changed", "flip_started", "failover_started"]
    {
        assert_eq!(world.told(kind, before), [""; 0], "{number}");
    }
    still_served();
}
