//! What happens when two CPUs, or the table's own housekeeping, meet at one connection.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use pairflip::dataplane::BackendPath;
use pairflip_common::{
    be::{Ipv4Be, Ipv6Be},
    flow::Forwarding,
};

use crate::{
    bench::{ACK, Action, Bench, SYN},
    fuzz::Tables,
    scene::{Scene, Side, When},
    table::{goes_on, sent_on},
    world::{Family, SNAT_PORTS, World},
};

/// Connections that two CPUs open at once in each family and mode.
const ROUNDS: usize = 400;
/// Every so many of them are looked at closely.
const SAMPLE: usize = 10;
/// Turns to wait for the other CPU before somebody else may have this one: far more than a packet takes.
const SPINS: u32 = 100_000;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_packet_on_two_cpus_at_once_opens_one_connection() {
    if !thread::spawn(|| stay_on(1).is_ok()).join().unwrap() {
        println!("SKIPPED: there is one CPU only");
        return;
    }
    for (family, forwarding) in crate::ways() {
        open_at_once(World::new(family, forwarding, 4096));
    }
}

fn open_at_once(mut world: World) {
    let mut scenes: Vec<Scene> =
        (0..ROUNDS / crate::stride()).map(|_| world.connect(When::Fresh)).collect();
    let frames = frames(&scenes, SYN);
    for (scene, [one, other]) in scenes.iter_mut().zip(race(&world.bench, &frames)) {
        // The one that came too late is lost, and sent again by its client.
        let sent = if one.0 == Action::Drop { &other } else { &one };
        assert_eq!(sent.0, Action::Tx, "{world}");
        assert!(
            other.0 == Action::Drop || one.0 == Action::Drop || one == other,
            "{world}: {one:02x?} {other:02x?}"
        );
        world.learn(scene, &sent.1);
        scene.c += 1;
    }
    let per_connection = if world.routed() { 2 } else { 1 };
    assert_eq!(entries(&world), (0, per_connection * scenes.len()), "{world}");
    for scene in &mut scenes {
        if world.routed() {
            world.bench.run(&scene.server(SYN | ACK).bytes());
        }
        scene.s += 1;
    }
    let frames = self::frames(&scenes, ACK);
    for [one, other] in race(&world.bench, &frames) {
        assert_eq!(one.0, Action::Tx, "{world}");
        assert_eq!(one, other, "{world}");
    }
    assert_eq!(entries(&world), (per_connection * scenes.len(), 0), "{world}");
    assert_eq!(world.bench.counter("flow_opened"), scenes.len() as u64, "{world}");
    for scene in scenes.iter().step_by(SAMPLE) {
        goes_on(&mut world, scene);
    }
    println!("{world}: {} were simultaneous", world.bench.counter("drop_simultaneous"));
}

/// Under a flood, the table that evicts may take one of a connection's two entries.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connection_whose_reply_entry_was_evicted_starts_over() {
    for family in [Family::V4, Family::V6] {
        let mut world = World::new(family, Forwarding::Snat, 1024);
        let scene = world.connect(When::Answered);
        evict_reply(&world, &scene);
        let outcome = world.run_from(Side::Client, &scene.client(ACK));
        assert_eq!(outcome.counted, [("half_open_evicted", 1), ("reset_unknown_flow", 1)].into());
        assert_eq!(entries(&world), (0, 0), "{world}");

        let scene = world.connect(When::HalfOpen);
        evict_reply(&world, &scene);
        let again = world.run_from(Side::Client, &scene.client(SYN).seq(scene.c - 1));
        assert_eq!(again.counted, [("half_open_evicted", 1), ("syn_forwarded", 1)].into());
        assert_eq!(entries(&world), (0, 2), "{world}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_port_that_went_to_another_connection_stays_with_it() {
    for family in [Family::V4, Family::V6] {
        let mut world = World::new(family, Forwarding::Snat, 1024);
        let port = SNAT_PORTS.0;
        let path = BackendPath { snat_ports: (port, port), ..world.path(world.backend()) };
        world.bench.dataplane.set_backend(0, &path).unwrap();
        let first = world.connect(When::Answered);
        evict_reply(&world, &first);
        let second = world.connect(When::HalfOpen);
        assert_eq!(second.source, first.source, "{world}");

        let outcome = world.run_from(Side::Client, &first.client(ACK));
        assert_eq!(outcome.counted, [("half_open_evicted", 1), ("reset_unknown_flow", 1)].into());
        let answer = second.server(SYN | ACK);
        let sent = sent_on(&mut world, Side::Backend, &second, &answer, &["half_open_forwarded"]);
        assert_eq!(sent, Ok(()));
        let second = Scene { s: second.s + 1, ..second };
        let ack = second.client(ACK);
        let sent = sent_on(&mut world, Side::Client, &second, &ack, &["flow_opened", "forwarded"]);
        assert_eq!(sent, Ok(()));
        goes_on(&mut world, &second);
    }
}

fn frames(scenes: &[Scene], flags: u8) -> Vec<Vec<u8>> {
    scenes.iter().map(|scene| scene.client(flags).bytes()).collect()
}

/// Runs each frame on two CPUs at once; returns what came of it on either.
fn race(bench: &Bench, frames: &[Vec<u8>]) -> Vec<[(Action, Vec<u8>); 2]> {
    let ready = [const { AtomicUsize::new(0) }; 2];
    let run = |own: usize| {
        stay_on(own).unwrap();
        let run = |(number, frame): (usize, &Vec<u8>)| {
            ready[own].store(number + 1, Ordering::Release);
            let mut spins = 0;
            while ready[1 - own].load(Ordering::Acquire) <= number {
                spins += 1;
                if spins > SPINS { thread::yield_now() } else { std::hint::spin_loop() }
            }
            bench.run(frame)
        };
        frames.iter().enumerate().map(run).collect::<Vec<_>>()
    };
    let [one, other] = thread::scope(|scope| {
        [0, 1].map(|cpu| scope.spawn(move || run(cpu))).map(|thread| thread.join().unwrap())
    });
    one.into_iter().zip(other).map(|(one, other)| [one, other]).collect()
}

fn stay_on(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

/// Takes away the reply entry of a half-open connection.
fn evict_reply(world: &World, scene: &Scene) {
    match world.family {
        Family::V4 => Tables::<Ipv4Be>::v4(&world.bench).evict(scene.backend, scene.source),
        Family::V6 => Tables::<Ipv6Be>::v6(&world.bench).evict(scene.backend, scene.source),
    }
}

/// Entries of the flow table, and of that of half-open connections.
fn entries(world: &World) -> (usize, usize) {
    match world.family {
        Family::V4 => Tables::<Ipv4Be>::v4(&world.bench).entries(),
        Family::V6 => Tables::<Ipv6Be>::v6(&world.bench).entries(),
    }
}
