//! Every combination of address family, forwarding mode, topology and way to attach.

use std::sync::mpsc;

use pairflip_vm_tests::command::run;

use super::*;

/// What the client of a cut connection may wait at most on a busy machine; what is promised is a tenth of it.
const CUT_LIMIT: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn connections_work_in_every_way_of_forwarding() {
    let lab = lab();
    let text = payload(4 * MIB);
    for topology in [Topology::OneArm, Topology::TwoArm] {
        for attach in ["native", "generic"] {
            for forwarding in Forwarding::ALL {
                let setup = Setup { attach, ..Setup::new(forwarding, topology) };
                let daemon = start(&lab, &setup);
                for family in Family::BOTH {
                    let what =
                        format!("IP{} {} {topology:?} {attach}", family.name(), forwarding.name());
                    let started = Instant::now();
                    let woken = connection(&lab, &daemon, &setup, family, &text)
                        .with_context(|| what.clone())
                        .unwrap_or_else(|error| {
                            panic!("{error:#}\n{}", daemon.status().unwrap_or_default())
                        });
                    report(&format!(
                        "{what}: all well in {:.1?}; a cut woke a blocked client after {:.1} ms, a busy one after {:.1} ms",
                        started.elapsed(),
                        woken.blocked.as_secs_f64() * 1000.0,
                        woken.busy.as_secs_f64() * 1000.0
                    ));
                }
                end(&lab, &setup, daemon);
            }
        }
    }
}

/// Of one cut.
const BUSY: usize = 24;

/// Data that is on its way makes the RST of some servers miss; those ask, and must be answered whatever the way of forwarding.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn both_ends_of_every_busy_connection_learn_of_a_cut() {
    let lab = lab();
    let text = payload(MIB);
    for forwarding in Forwarding::ALL {
        let setup = Setup::new(forwarding, Topology::TwoArm);
        let daemon = start(&lab, &setup);
        for family in Family::BOTH {
            inside(&lab.ns("client1"), || {
                let client = Client::new(family.vip()).unwrap();
                let mut sessions: Vec<Session<'_>> =
                    (0..BUSY).map(|_| client.connect().unwrap()).collect();
                let sources: Vec<SocketAddr> =
                    sessions.iter_mut().map(|session| seen_by_server(session).unwrap()).collect();
                thread::scope(|scope| {
                    for mut session in sessions.drain(..) {
                        let text = &text;
                        scope.spawn(move || while echo(&mut session, text).is_ok() {});
                    }
                    thread::sleep(Duration::from_millis(300));
                    let name = family.name();
                    daemon
                        .ctl(&["flip", "--route-only", "--cluster", name, "--drain", "cut"])
                        .unwrap();
                });
                let open: Vec<_> =
                    sources.into_iter().filter(|source| !closes(&lab, "db1", *source)).collect();
                assert!(
                    open.is_empty(),
                    "IP{name} {forwarding:?}: still open at the server: {open:?}",
                    name = family.name()
                );
            });
        }
        end(&lab, &setup, daemon);
    }
}

/// How long after the order clients learned that they were cut off.
struct Woken {
    /// One that waits for an answer.
    blocked: Duration,
    /// One that sends and receives all the time.
    busy: Duration,
}

/// Everything that is asked of one combination.
fn connection(
    lab: &Lab,
    daemon: &Daemon,
    setup: &Setup,
    family: Family,
    text: &str,
) -> Result<Woken> {
    inside(&lab.ns("client1"), || {
        let client = Client::new(family.vip())?;
        let mut old = client.connect().context("connecting")?;
        ensure!(old.server_id()? == PAIR1_PRIMARY, "another server");
        let source = seen_by_server(&mut old)?;
        ensure!(source.ip() == setup.source(family), "the server sees {source}");
        echo(&mut old, text).context("sending there and back")?;
        check_flow(daemon, setup, family, source, text.len() as u64)?;

        let flip = |to, drain| {
            daemon.ctl(&[
                "flip",
                "--route-only",
                "--cluster",
                family.name(),
                "--to",
                to,
                "--drain",
                drain,
            ])
        };
        flip("pair2", "finish")?;
        ensure!(client.server_id()? == PAIR2_PRIMARY, "new connections go to the old pair");
        ensure!(old.server_id()? == PAIR1_PRIMARY, "the old connection moved");
        echo(&mut old, &text[..MIB]).context("over the old connection after the flip")?;

        let session = client.connect().context("connecting to be cut")?;
        let blocked = cut(session, sleep, || flip("pair1", "cut"))?;
        ensure!(closes(lab, "db3", blocked.source), "the server's side stays open");
        ensure!(old.server_id()? == PAIR1_PRIMARY, "the connection to the other pair was cut");
        ensure!(client.server_id()? == PAIR1_PRIMARY, "new connections go to the old pair");
        old.close()?;

        let session = client.connect().context("connecting to be cut")?;
        let work = |session: &mut Session<'_>| while echo(session, &text[..MIB]).is_ok() {};
        let busy = cut(session, work, || flip("pair2", "cut"))?;
        // Data on its way can make the server's RST miss; then the server asks for the right number.
        ensure!(closes(lab, "db1", busy.source), "the busy server's side stays open");
        flip("pair1", "finish")?;
        Ok(Woken { blocked: blocked.after, busy: busy.after })
    })
}

/// Waits for an answer that does not come before the test is over.
fn sleep(session: &mut Session<'_>) {
    let result = session.value_within::<u32>(TRANSFER_LIMIT, "SELECT SLEEP(30)");
    assert!(result.is_err(), "the server answered");
}

fn check_flow(
    daemon: &Daemon,
    setup: &Setup,
    family: Family,
    source: SocketAddr,
    len: u64,
) -> Result<()> {
    let flow = flow(daemon, source)?;
    let client = family.address(setup.client.0, setup.client.1);
    let says = |key: &str, value: &str| flow[key].as_str() == Some(value);
    let from: SocketAddr = flow["client"].as_str().context("no client")?.parse()?;
    ensure!(from.ip() == client, "{flow}");
    ensure!(says("vip", &family.vip().to_string()), "{flow}");
    ensure!(says("backend", &setup.backend(family, 1).to_string()), "{flow}");
    ensure!(says("cluster", family.name()) && says("state", "established"), "{flow}");
    let bytes = |key: &str| flow[key].as_u64().unwrap_or_default();
    ensure!(bytes("client_bytes") > len, "{flow}");
    match setup.forwarding {
        // What the server sends does not pass here.
        Forwarding::Dsr => ensure!(bytes("server_bytes") == 0, "{flow}"),
        Forwarding::Snat | Forwarding::Dnat => ensure!(bytes("server_bytes") > len, "{flow}"),
    }
    Ok(())
}

/// A connection that was cut.
struct Cut {
    /// The client as the server sees it.
    source: SocketAddr,
    /// How long after the order its client learned of it.
    after: Duration,
}

/// Ends a connection by `order` while its client does `work` on it, which ends with an error.
fn cut<T>(
    mut session: Session<'_>,
    work: impl FnOnce(&mut Session<'_>) + Send,
    order: impl FnOnce() -> Result<T>,
) -> Result<Cut> {
    let source = seen_by_server(&mut session)?;
    let (told, when) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            work(&mut session);
            // Who waits for it may have given up.
            _ = told.send(Instant::now());
        });
        // The client is in the middle of it by then.
        thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        order()?;
        let after = when.recv_timeout(TRANSFER_LIMIT)? - start;
        ensure!(after < CUT_LIMIT, "the client was told after {after:?}");
        Ok(Cut { source, after })
    })
}

/// Whether a server's connection to a client ends soon.
fn closes(lab: &Lab, host: &str, client: SocketAddr) -> bool {
    let start = Instant::now();
    loop {
        let mut ss = lab.ns(host).command("ss").unwrap();
        ss.args(["-Htn", "state", "established", "dst"]).arg(client.to_string());
        if run(&mut ss).unwrap().is_empty() {
            return true;
        }
        if start.elapsed() > Duration::from_secs(5) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
