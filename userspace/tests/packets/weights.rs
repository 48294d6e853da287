//! Weights: which share of the new connections each replica gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pairflip::dataplane::{BackendPath, Choice, Denial, RouteTarget};
use pairflip_common::{flow::Forwarding, route::CHOICE_SLOTS};

use crate::{
    bench::{Action, SYN},
    scene::When,
    world::{Family, World},
};

const WEIGHTS: [u16; 4] = [100, 200, 300, 400];
/// The replica that is lost.
const LOST: usize = 2;
/// Fewer where the machine is emulated.
const CLIENTS: usize = 4096;
/// Shares are hashes and so the same in each run; of random ones, one in 16000 would be further off.
const DEVIATIONS: f64 = 4.0;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn replicas_get_shares_by_weight_and_a_lost_one_moves_only_its_own() {
    for family in [Family::V4, Family::V6] {
        let mut world = World::new(family, Forwarding::Snat, 1024);
        for replica in 0..WEIGHTS.len() {
            let path = BackendPath {
                next_hop_mac: Some(mac(replica)),
                ..world.path(address(&world, replica))
            };
            world.bench.dataplane.set_backend(replica as u16, &path).unwrap();
        }
        let all: Vec<usize> = (0..WEIGHTS.len()).collect();
        let left: Vec<usize> = all.iter().copied().filter(|replica| *replica != LOST).collect();
        let before = choices(&mut world, &all, 1);
        check_shares(&world, &before, &all, CHOICE_SLOTS as f64);

        let after = choices(&mut world, &left, 2);
        let moved: Vec<usize> = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| {
                assert!(**before == LOST || before == after, "{world}: from {before} to {after}");
                **before == LOST
            })
            .map(|(_, after)| *after)
            .collect();
        let slots = CHOICE_SLOTS as f64 * share(LOST, &all);
        check_shares(&world, &moved, &left, slots);

        assert_eq!(choices(&mut world, &all, 3), before, "{world}: it returns to what it had");
    }
}

/// Lets every client send a SYN of a connection of its own in this `round`; returns the replica that each came to.
fn choices(world: &mut World, replicas: &[usize], round: u32) -> Vec<usize> {
    let choice = |replica: &usize| Choice {
        backend: *replica as u16,
        address: address(world, *replica),
        weight: WEIGHTS[*replica],
    };
    let target = RouteTarget::Forward(replicas.iter().map(choice).collect());
    world.set_route(target, false, Denial::Reset);
    let chosen = (0..(CLIENTS / crate::stride()) as u32).map(|number| {
        let scene = world.connect_from(client(world.family, number), world.vip(), When::Fresh);
        let (action, frame) = world.bench.run(&scene.client(SYN).seq(round << 20).bytes());
        assert_eq!(action, Action::Tx, "{world}");
        let found = replicas.iter().find(|replica| frame[..6] == mac(**replica));
        *found.expect("one of the route's replicas")
    });
    chosen.collect()
}

/// Each slot of a choice table is given away by weight, and each connection falls into one of them: both leave a
/// deviation of a binomial distribution.
fn check_shares(world: &World, chosen: &[usize], replicas: &[usize], slots: f64) {
    let connections = chosen.len() as f64;
    for replica in replicas {
        let wanted = share(*replica, replicas);
        let got = chosen.iter().filter(|chosen| *chosen == replica).count() as f64 / connections;
        let deviation = (wanted * (1.0 - wanted) * (1.0 / slots + 1.0 / connections)).sqrt();
        assert!(
            (got - wanted).abs() < DEVIATIONS * deviation,
            "{world}: replica {replica} got {got:.3} of the connections instead of {wanted:.3}, give or take {deviation:.3}"
        );
    }
}

fn share(replica: usize, replicas: &[usize]) -> f64 {
    let sum: u16 = replicas.iter().map(|replica| WEIGHTS[*replica]).sum();
    f64::from(WEIGHTS[replica]) / f64::from(sum)
}

fn address(world: &World, replica: usize) -> SocketAddr {
    let mut address = world.backend();
    address.set_port(address.port() + replica as u16);
    address
}

fn mac(replica: usize) -> [u8; 6] {
    [2, 0, 0, 0, 2, replica as u8]
}

/// Four connections from each of many addresses.
fn client(family: Family, number: u32) -> SocketAddr {
    let (host, port) = (number / 4, 1024 + (number % 4) as u16);
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0xac10_0000 + host)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_000c << 80 | u128::from(host))),
    };
    SocketAddr::new(address, port)
}
