//! The daemon cannot do its work, or hears nothing: then it knows nothing, and nothing moves.

use nix::sys::signal::{Signal, kill};
use pairflip_vm_tests::lab::fault::Target;

use super::*;

/// Between that of everybody (0, weight 1024) and the idle class (weight 3), which gets three milliseconds in some hundreds.
const HOG_NICENESS: i32 = 10;

#[test]
fn a_daemon_that_was_stopped_counts_nothing_against_anybody() {
    let (lab, _targets) = with_late_answers();
    let world = World::start(lab);
    let client = healthy_with_client(&world, 2);
    let (routes, before) = (world.routes(), world.last_event());
    let pid = world.daemon.pid().unwrap();
    for stop in [10_000, 900, 950, 1000, 1050, 1100] {
        kill(pid, Signal::SIGSTOP).unwrap();
        thread::sleep(Duration::from_millis(stop));
        client.is_served(&world);
        kill(pid, Signal::SIGCONT).unwrap();
        thread::sleep(DETECTION);
    }
    nothing_moved(&world, &routes, before, "stopped");
    let backends = [1, 2].map(|number| world.address(number));
    let mut counted = world.told("health_changed", before);
    counted.retain(|text| backends.iter().any(|backend| text.starts_with(backend)));
    assert_eq!(counted, [""; 0]);
    client.is_served(&world);
}

#[test]
fn a_daemon_that_is_starved_takes_nobody_down() {
    let (lab, _targets) = with_late_answers();
    let world = World::start(lab);
    let client = healthy_with_client(&world, 2);
    let (routes, before) = (world.routes(), world.last_event());
    let pid = world.daemon.pid().unwrap().to_string();
    // It runs when nobody else wants to, beside programs that want to all the time.
    let idle = std::process::Command::new("chrt").args(["-a", "-i", "-p", "0", &pid]).status();
    assert!(idle.unwrap().success());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hogs: Vec<_> = (0..4 * thread::available_parallelism().unwrap().get())
        .map(|_| {
            let stop = std::sync::Arc::clone(&stop);
            thread::spawn(move || {
                // Servers and everybody else go first: what is slow is the daemon alone.
                // SAFETY: a system call without pointers, about the calling thread.
                assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, HOG_NICENESS) }, 0);
                while !stop.load(Ordering::Relaxed) {}
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(10));
    stop.store(true, Ordering::Relaxed);
    for hog in hogs {
        hog.join().unwrap();
    }
    thread::sleep(2 * DETECTION);
    nothing_moved(&world, &routes, before, "starved for 10 s");
    client.is_served(&world);
}

#[test]
fn a_daemon_that_runs_for_moments_only_takes_nobody_down() {
    let world = World::start(lab(Flavour::MariaDb1011, 4));
    let client = healthy_with_client(&world, 4);
    let (routes, before) = (world.routes(), world.last_event());
    let pid = world.daemon.pid().unwrap();
    let start = Instant::now();
    let mut pause = 0;
    while start.elapsed() < Duration::from_secs(20) {
        kill(pid, Signal::SIGSTOP).unwrap();
        // Longer than the timeout of a check, and of many lengths.
        pause = (pause + 130) % 400;
        thread::sleep(Duration::from_millis(550 + pause));
        kill(pid, Signal::SIGCONT).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(2 * DETECTION);
    nothing_moved(&world, &routes, before, "ran for moments");
    client.is_served(&world);
}

#[test]
fn when_every_check_fails_at_once_nothing_moves() {
    let world = World::start(lab(Flavour::MariaDb1011, 4));
    let client = healthy_with_client(&world, 4);
    let routes = world.routes();
    let before = world.last_event();
    let redirector = world.lab.ns("redirector");
    let drop_checks = "add table inet fault; add chain inet fault output { type filter hook output priority 0; }; \
                       add rule inet fault output tcp dport 3306 drop";
    let nft = |commands: &str| {
        assert!(redirector.command("nft").unwrap().arg(commands).status().unwrap().success());
    };
    nft(drop_checks);
    wait_for("it is told", DETECTION + SLACK, || {
        world.told("all_checks_failing", before).len() == 1
    });
    thread::sleep(3 * DETECTION);
    // What the kernel forwards goes past the redirector's own stack.
    client.is_served(&world);
    nothing_moved(&world, &routes, before, "all checks fail");
    let checks = world.daemon.status().unwrap()["clusters"][0]["checks"].take();
    assert!(checks.as_str().unwrap().contains("nothing is heard from any backend"), "{checks}");
    nft("delete table inet fault");
    wait_for("it is told", DETECTION + SLACK, || world.told("checks_answering", before).len() == 1);
    thread::sleep(DETECTION);
    nothing_moved(&world, &routes, before, "all checks failed for a while");
    client.is_served(&world);
}

#[test]
fn a_link_to_the_servers_that_goes_down_and_up_moves_nothing() {
    let world = World::start(lab_with(|options| Options { topology: Topology::TwoArm, ..options }));
    let client = healthy_with_client(&world, 4);
    let (routes, before) = (world.routes(), world.last_event());
    let redirector = world.lab.ns("redirector");
    redirector.ip("link set eth1 down").unwrap();
    wait_for("it is told", DETECTION + SLACK, || {
        world.told("all_checks_failing", before).len() == 1
    });
    thread::sleep(2 * DETECTION);
    nothing_moved(&world, &routes, before, "the link is down");
    redirector.ip("link set eth1 up").unwrap();
    wait_for("it is told", DETECTION + SLACK, || world.told("checks_answering", before).len() == 1);
    client.is_served(&world);
    thread::sleep(DETECTION);
    nothing_moved(&world, &routes, before, "the link was down");
}

fn nothing_moved(world: &World, routes: &Value, before: u64, what: &str) {
    let events = world.daemon.events_after(before).unwrap();
    assert_eq!(world.routes(), *routes, "{what}: {events:#?}");
    let down = events.iter().find(|event| event["facts"]["health"] == "down");
    assert_eq!(down, None, "{what}: {events:#?}");
    assert_eq!(world.told("route_changed", before), [""; 0], "{what}");
}

/// A pair whose answers take a while, so that whenever the daemon does not run there are probes under way.
fn with_late_answers() -> (Lab, [Target; 2]) {
    let mut lab = lab(Flavour::MariaDb1011, 2);
    let mut targets = [Target::new(1, true), Target::new(2, false)];
    for target in &mut targets {
        target.set_proxy(&mut lab, true).unwrap();
        // A login with its questions, some eight answers, stays within the timeout.
        target.delay(Duration::from_millis(30)).unwrap();
    }
    (lab, targets)
}

/// A client with a connection to either VIP.
struct Connected {
    orders: std::sync::mpsc::Sender<()>,
    answers: std::sync::mpsc::Receiver<(u32, u32)>,
}

impl Connected {
    fn is_served(&self, world: &World) {
        self.orders.send(()).unwrap();
        let answer = self.answers.recv_timeout(SLACK);
        if answer != Ok((1, 2)) {
            panic!("{answer:?}, not as it was: {:#?}", world.daemon.events_after(0));
        }
    }
}

fn healthy_with_client(world: &World, servers: usize) -> Connected {
    wait_for("all is well", DETECTION + SLACK, || {
        let status = world.daemon.status().unwrap();
        let routes = &status["clusters"][0]["routes"];
        (1..=servers).all(|number| world.reason(number) == "passing")
            // Where nobody is.
            && (servers + 1..=4).all(|number| world.backend(number)["health"] == "down")
            && routes[0]["reason"] == "primary is up and writable"
            && routes[1]["reason"] == "all replicas are fit"
    });
    let (orders, inbox) = std::sync::mpsc::channel();
    let (outbox, answers) = std::sync::mpsc::channel();
    let work = move || {
        let clients = [VIP_WRITE, VIP_READ].map(|vip| Client::new(vip).unwrap());
        let mut sessions = clients.iter().map(|client| client.connect().unwrap());
        let (mut writes, mut reads) = (sessions.next().unwrap(), sessions.next().unwrap());
        while inbox.recv().is_ok() {
            let ids = (writes.server_id().unwrap(), reads.server_id().unwrap());
            outbox.send(ids).unwrap();
        }
    };
    // It ends when nobody has orders any more.
    drop(world.lab.ns("client1").spawn(work).unwrap());
    let client = Connected { orders, answers };
    client.is_served(world);
    client
}
