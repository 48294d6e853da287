//! A flow that is held when the daemon dies.

use pairflip::dataplane::{DataPlane, Families, FlowFilter, LoadOptions};

use super::*;

const HOLD: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_held_flow_goes_on_by_itself_when_nobody_is_left_to_release_it() {
    let lab = lab();
    let text = payload(MIB);
    let setup = Setup::new(Forwarding::Snat, Topology::TwoArm);
    let mut daemon = start(&lab, &setup);
    inside(&lab.ns("client1"), || {
        for family in Family::BOTH {
            let client = Client::new(family.vip()).unwrap();
            let mut session = client.connect().unwrap();
            let source = seen_by_server(&mut session).unwrap();
            daemon.kill().unwrap();
            inside(&lab.ns("redirector"), || hold(&lab, source));
            let held = Instant::now();
            echo(&mut session, &text).unwrap();
            let waited = held.elapsed();
            // TCP's pauses between its tries double: the one that succeeds is sent before twice the time.
            assert!(waited > HOLD - Duration::from_millis(50), "it was held for {waited:?} only");
            assert!(waited < HOLD * 3, "it was held for {waited:?}");
            report(&format!(
                "IP{}: held for {HOLD:?} by a process that is gone, the flow goes on after {waited:.2?}",
                family.name()
            ));
            session.close().unwrap();
            daemon.start().unwrap();
        }
    });
}

/// Holds the flow that a server sees as `source`, in the place of the daemon, and leaves.
fn hold(lab: &Lab, source: SocketAddr) {
    let options = LoadOptions {
        interfaces: vec!["eth0".into(), "eth1".into()],
        mode: None,
        bpffs: lab.bpffs(),
        flows_max: 1024,
        half_open_max: 1024,
        families: Families::BOTH,
        all_programs: false,
    };
    let mut dataplane = DataPlane::load(&options).unwrap();
    assert!(dataplane.adopted());
    let (flows, _) = dataplane.list_flows(FlowFilter::default(), usize::MAX).unwrap();
    let flow = flows.iter().find(|flow| flow.source == source).expect("the flow");
    dataplane.hold(&flow.id, HOLD).unwrap();
}
