//! Ports in `dnat`: a client keeps its own, unless another connection of its has that one at the backend.

use std::{net::SocketAddr, ops::RangeInclusive};

use pairflip_common::flow::Forwarding;

use crate::{
    bench::SYN,
    scene::{Scene, Side, When},
    table::{goes_on, refused},
    world::{Family, World},
};

/// Where the program looks for another port.
const OTHER_PORTS: RangeInclusive<u16> = 32_768..=60_999;
/// Room for a flow on each of them.
const FLOWS_MAX: u32 = 16_384;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn in_dnat_a_port_that_is_taken_at_the_backend_gives_way_to_another() {
    for family in [Family::V4, Family::V6] {
        let mut world = World::new(family, Forwarding::Dnat, 1024);
        for first_is in [When::HalfOpen, When::Open] {
            let first = world.connect(first_is);
            assert_eq!(first.source, first.client, "{world}: a free port is kept");
            let second = connect_to_second_vip(&mut world, &first, When::Open);
            assert_eq!(second.source.ip(), first.client.ip(), "{world}");
            assert_ne!(second.source, first.source, "{world}");
            assert!(OTHER_PORTS.contains(&second.source.port()), "{world}: {}", second.source);
            goes_on(&mut world, &second);
            if first_is == When::Open {
                goes_on(&mut world, &first);
            }
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn in_dnat_a_client_without_a_free_port_is_refused_and_loses_no_flow() {
    for family in [Family::V4, Family::V6] {
        let mut world = World::new(family, Forwarding::Dnat, FLOWS_MAX);
        let first = world.connect(When::Open);
        for port in OTHER_PORTS {
            let taken = SocketAddr::new(first.client.ip(), port);
            world.bench.dataplane.protect_host_connection(taken, first.backend).unwrap();
        }
        let second = connect_to_second_vip(&mut world, &first, When::Fresh);
        let syn = second.client(SYN);
        let outcome = world.run_from(Side::Client, &syn);
        assert_eq!(refused(&outcome, &syn, "reset_ports_exhausted"), Ok(()), "{world}");
        assert_eq!(world.bench.dataplane.flow_counts().unwrap().half_open, 0, "{world}");
        goes_on(&mut world, &first);
    }
}

/// A connection from the address and port of another one.
fn connect_to_second_vip(world: &mut World, first: &Scene, when: When) -> Scene {
    world.add_second_vip();
    world.connect_from(first.client, world.second_vip(), when)
}
