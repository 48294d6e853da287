//! What is counted for each backend and each route.

use std::collections::BTreeMap;

use pairflip::dataplane::{DataPlane, Denial};
use pairflip_common::{flow::Forwarding, route::VipRoute, traffic::Traffic};

use crate::{
    bench::{ACK, PSH, SYN},
    scene::{Side, When},
    world::{Family, Given, World},
};

const BACKEND: u16 = 0;
const ROUTE: VipRoute = VipRoute { cluster: 0, route: 0 };

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_backend_has_the_packets_of_its_flows() {
    for forwarding in [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr] {
        let mut world = World::new(Family::V4, forwarding, 16);
        let scene = world.connect(When::Open);
        let query = scene.client(ACK | PSH).payload(&[7; 100]);
        world.run_from(Side::Client, &query);
        let expected = if world.routed() {
            let rows = scene.server(ACK | PSH).payload(&[7; 1000]);
            world.run_from(Side::Backend, &rows);
            // SYN, ACK and query; the server's SYN and rows: 14 bytes of Ethernet, 40 of IP and TCP.
            Traffic {
                connections: 1,
                client_packets: 3,
                client_bytes: 3 * 54 + 100,
                server_packets: 2,
                server_bytes: 2 * 54 + 1000,
            }
        } else {
            Traffic {
                connections: 1,
                client_packets: 3,
                client_bytes: 3 * 54 + 100,
                ..Traffic::default()
            }
        };
        assert_eq!(world.bench.dataplane.traffic(BACKEND).unwrap(), expected, "{world}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_route_has_its_new_connections_by_what_became_of_them() {
    let mut world = World::new(Family::V6, Forwarding::Snat, 16);
    for (given, outcome) in [
        (Given::Nothing, "opened"),
        (Given::Denied(Denial::Reset), "denied"),
        (Given::Denied(Denial::Drop), "denied"),
        (Given::NoBackend(Denial::Reset), "no_backend"),
        (Given::NoBackend(Denial::Drop), "no_backend"),
        (Given::Paused, "paused"),
        (Given::NextHopUnknown, "next_hop_unknown"),
        (Given::PortsExhausted, "ports_exhausted"),
    ] {
        let scene = world.connect(When::Fresh);
        world.arrange(given, &scene);
        let before = openings(&world.bench.dataplane);
        world.run_from(Side::Client, &scene.client(SYN));
        let after = openings(&world.bench.dataplane);
        world.take_back(given, &scene);
        let grown: Vec<_> = after.iter().filter(|(name, count)| before[*name] != **count).collect();
        assert_eq!(grown, [(&outcome, &(before[outcome] + 1))], "{given:?}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn who_takes_the_place_of_another_starts_at_zero() {
    let mut world = World::new(Family::V4, Forwarding::Snat, 16);
    world.connect(When::Open);
    world.bench.reload();
    assert_eq!(
        world.bench.dataplane.traffic(BACKEND).unwrap().connections,
        1,
        "a restart keeps them"
    );
    let vip = world.vip();
    world.bench.dataplane.add_vip(vip, ROUTE).unwrap();
    assert_eq!(openings(&world.bench.dataplane)["opened"], 1, "the same VIP keeps them");

    world.bench.dataplane.add_vip("10.0.0.199:3306".parse().unwrap(), ROUTE).unwrap();
    assert!(openings(&world.bench.dataplane).values().all(|count| *count == 0));
    world.bench.move_backend(BACKEND, 1);
    assert_eq!(world.bench.dataplane.traffic(BACKEND).unwrap(), Traffic::default());
}

fn openings(dataplane: &DataPlane) -> BTreeMap<&'static str, u64> {
    dataplane.openings(ROUTE).unwrap().into_iter().collect()
}
