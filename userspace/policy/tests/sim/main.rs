//! Simulation: seeded worlds of servers that replicate, networks that go away, drivers that are slow and fail, checks that come
//! late or lie, operators that ask for anything, and daemons that die in the middle. After every step the invariants of
//! `DESIGN.md` 6 are checked against what the world did and what the policy was told, never against what it believes.
//!
//! `server` is what servers are, `action` what can happen, `world` lets it happen, `judge` looks at what comes out.
//!
//! A failure prints the seed and the shortest list of actions that was found to cause one, and keeps it as a file.
//! `PAIRFLIP_SEED=N` replays one seed, `PAIRFLIP_SEEDS=N` runs that many.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks at what it is about")]

mod action;
#[path = "../common/mod.rs"]
mod common;
mod drains;
mod judge;
mod server;
mod switchover;
mod world;

use std::{
    cell::RefCell,
    fmt::Write as _,
    panic::{self, AssertUnwindSafe},
};

use action::Action;
use world::{Seen, World};

/// Seeds of a normal run; some seconds without optimization.
const SEEDS: u64 = 2000;
/// Steps of one seed: enough for a few flips, failovers, outages and restarts.
const STEPS: usize = 70;

#[test]
fn the_invariants_hold_in_every_seeded_world() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("PAIRFLIP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PAIRFLIP_SEEDS").unwrap_or(SEEDS),
    };
    // A failure is caught, shortened and told once.
    panic::set_hook(Box::new(|info| LAST_PANIC.with_borrow_mut(|last| *last = info.to_string())));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let parts: Vec<Result<Seen, u64>> = std::thread::scope(|scope| {
        let part = |first| {
            let mut seeds = seeds.clone().skip(first).step_by(threads);
            scope.spawn(move || {
                seeds.try_fold(Seen::default(), |seen, seed| {
                    run(seed, &actions(seed)).map(|more| seen.plus(more)).map_err(|_| seed)
                })
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|part| part.join().expect("failures are caught")).collect()
    });
    let failed = parts.iter().filter_map(|part| part.as_ref().err()).min();
    let report = failed.map(|seed| report(*seed));
    _ = panic::take_hook();
    if let Some(report) = report {
        panic!("{report}");
    }
    let seen = parts.into_iter().flatten().fold(Seen::default(), Seen::plus);
    eprintln!("{} worlds: {seen:?}", seeds.end - seeds.start);
    // A simulation in which nothing happens proves nothing.
    if seeds.end - seeds.start >= SEEDS {
        let rarest = seen.rarest();
        assert!(rarest.1 > SEEDS / 40, "too quiet a world, {} is rare: {seen:?}", rarest.0);
    }
}

thread_local! {
    /// What a panic said, and where.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The actions of a seed. The world it starts with is the seed's as well.
fn actions(seed: u64) -> Vec<Action> {
    let servers = World::new(seed).servers.len() as u64;
    let unlucky = seed.is_multiple_of(2).then_some((seed / 2 % servers) as u8);
    let mut random = Random(seed ^ 0x5eed);
    let is_calm = seed % 8 > 1;
    (0..STEPS).map(|_| Action::any(&mut random, servers, unlucky, is_calm)).collect()
}

/// Lets these actions happen in the world of a seed; an error is what a broken invariant said.
fn run(seed: u64, actions: &[Action]) -> Result<Seen, String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.start();
        for action in actions {
            world.act(*action);
        }
        world.settle();
        world.seen
    }));
    outcome.map_err(|_| LAST_PANIC.with_borrow(Clone::clone))
}

/// Shortens the actions of a seed that fails, and tells them.
fn report(seed: u64) -> String {
    let all = actions(seed);
    let short = shrink(&all, |actions| run(seed, actions).is_err());
    let said = run(seed, &short).expect_err("it failed a moment ago");
    let mut text =
        format!("seed {seed} fails; {} of its {} actions are enough:\n", short.len(), all.len());
    for action in &short {
        _ = writeln!(text, "  {action:?}");
    }
    // Once more, with all that goes in and out.
    let log = World::traced(seed, &short);
    let file = format!("{}/sim-{seed}.log", env!("CARGO_TARGET_TMPDIR"));
    let kept = std::fs::write(&file, format!("{text}\n{log}\n{said}\n"));
    _ = write!(text, "{said}\nwith all inputs and outputs in {file} ({kept:?})");
    text
}

/// Leaves out as much as it can of a list that fails: halves at first, then smaller pieces, single ones at last
/// (the minimizing delta debugging of Zeller and Hildebrandt, 2002).
fn shrink<T: Clone>(list: &[T], fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut list = list.to_vec();
    let mut piece = list.len().div_ceil(2);
    while piece > 0 {
        let mut start = 0;
        let mut is_shorter = false;
        while start < list.len() {
            let end = (start + piece).min(list.len());
            let rest = [&list[..start], &list[end..]].concat();
            if fails(&rest) {
                list = rest;
                is_shorter = true;
            } else {
                start = end;
            }
        }
        // Of single ones, what could not be left out before may be now.
        piece = if piece == 1 && is_shorter { 1 } else { piece / 2 };
    }
    list
}

#[test]
fn what_causes_a_failure_is_found_among_the_rest() {
    let list: Vec<u32> = (0..70).collect();
    let fails = |list: &[u32]| [3, 40, 41].iter().all(|number| list.contains(number));
    assert_eq!(shrink(&list, fails), [3, 40, 41]);
    assert_eq!(shrink(&list, |_| true), [0; 0]);
}

/// SplitMix64 (Steele, Lea and Flood 2014): a few lines, and every seed is a good one.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is small: the bias does not matter.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
