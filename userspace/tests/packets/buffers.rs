//! Packets that are larger than a page: drivers hand them over in several buffers, and the program sees the first one only.

use aya::util::KernelVersion;

use crate::{
    bench::{ACK, Action, PSH},
    scene::{Scene, Side, When},
    table::{own_error, refused, same, same_bytes, sent_on},
    vlans::VLANS,
    world::{Arms, World},
};

/// Of the largest frames that network cards commonly take.
const MTU: usize = 9000;
/// Around what test-run has in its first buffer (a page less head and tail room), at the ends of the next ones, and the MTU.
const LENGTHS: [usize; 8] = [3300, 3505, 3506, 3507, 4096, 7602, 7603, MTU];

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_in_several_buffers_are_forwarded_answered_or_passed_in_every_network() {
    if KernelVersion::current().unwrap() < KernelVersion::new(5, 18, 0) {
        println!("SKIPPED: packets in several buffers came with Linux 5.18");
        return;
    }
    for (family, forwarding) in crate::ways() {
        let mut world = World::new(family, forwarding, 1024);
        world.set_mtu(MTU);
        for vlans in VLANS.iter().step_by(crate::stride()) {
            for arms in [Arms::One, Arms::Two] {
                world.move_to(arms, vlans);
                are_forwarded(&mut world);
                are_answered_when_they_cannot_be_forwarded(&mut world);
                pass_untouched_when_not_ours(&mut world);
            }
        }
    }
}

fn are_forwarded(world: &mut World) {
    let scene = world.connect(When::Open);
    for len in LENGTHS {
        for side in sides(world) {
            let packet = scene.from(side, ACK | PSH).len(len);
            assert_eq!(sent_on(world, side, &scene, &packet, &["forwarded"]), Ok(()));
        }
    }
    damaged_stays_damaged(world, &scene);
}

fn are_answered_when_they_cannot_be_forwarded(world: &mut World) {
    let scene = world.connect(When::Open);
    for side in sides(world) {
        let packet = scene.from(side, ACK | PSH).len(MTU + 1);
        let outcome = world.run_from(side, &packet);
        let told = same(&outcome, Action::Tx, &["icmp_too_big"])
            .and_then(|()| same_bytes(&outcome.frame, &own_error(&packet, Some(MTU as u32))));
        assert_eq!(told, Ok(()), "{world}: too big, from the {side:?}");
    }
    if world.routed() {
        let packet = scene.client(ACK | PSH).ttl(1).len(MTU);
        let outcome = world.run_from(Side::Client, &packet);
        let told = same(&outcome, Action::Tx, &["icmp_ttl"])
            .and_then(|()| same_bytes(&outcome.frame, &own_error(&packet, None)));
        assert_eq!(told, Ok(()), "{world}: TTL 1");
    }
    let stray = world.connect(When::Fresh).client(ACK | PSH).len(MTU);
    let outcome = world.run_from(Side::Client, &stray);
    assert_eq!(refused(&outcome, &stray, "reset_unknown_flow"), Ok(()), "{world}: a stray");
}

fn pass_untouched_when_not_ours(world: &mut World) {
    let scene = world.connect(When::Open);
    let foreign = scene.client(ACK).between(scene.client, scene.stranger).len(MTU);
    let mut longer_than_its_frame = scene.client(ACK).len(MTU).bytes();
    longer_than_its_frame.pop();
    for (frame, counter) in
        [(foreign.bytes(), "pass_not_ours"), (longer_than_its_frame, "pass_malformed")]
    {
        world.set_facing(Side::Client);
        let outcome = world.run(&frame);
        let passed = same(&outcome, Action::Pass, &[counter])
            .and_then(|()| same_bytes(&outcome.frame, &frame));
        assert_eq!(passed, Ok(()), "{world}");
    }
}

/// The last byte is far from the headers.
fn damaged_stays_damaged(world: &mut World, scene: &Scene) {
    let packet = scene.client(ACK | PSH).len(MTU);
    let damage = |mut frame: Vec<u8>| {
        *frame.last_mut().expect("a frame") ^= 0x55;
        frame
    };
    world.set_facing(Side::Client);
    let outcome = world.run(&damage(packet.bytes()));
    let expected = damage(world.forwarded(Side::Client, scene, &packet).bytes());
    assert_eq!(same_bytes(&outcome.frame, &expected), Ok(()), "{world}");
}

fn sides(world: &World) -> Vec<Side> {
    if world.routed() { vec![Side::Client, Side::Backend] } else { vec![Side::Client] }
}
