//! Slow start, seen from outside: facts and time in, the shares of the read route out.
//!
//! Pair 0 is backend 0 (primary), 1 and 2 (replicas, weights 100 and 60); `rise` is 2, `fall` is 3,
//! `slow_start` 10 s. Shares print as `backend:weight`.

mod common;

use std::time::Duration;

use common::{READS, answered, cluster, failed};
use pairflip_policy::*;

#[test]
fn the_first_passes_after_a_start_give_full_shares() {
    let world = World::healthy();
    assert_eq!(world.shares(), "1:100,2:60");
    assert_eq!(world.policy.deadline(), None);
}

#[test]
fn a_replica_that_returns_begins_with_a_tenth_and_grows_with_every_step() {
    let mut world = World::healthy();
    world.fell(2);
    assert_eq!(world.shares(), "1:100");
    world.returned(2);
    assert_eq!(world.shares(), "1:100,2:6");
    let seen: Vec<_> = std::iter::from_fn(|| world.wait()).collect();
    let expected = [12, 18, 24, 30, 36, 42, 48, 54, 60].map(|weight| format!("1:100,2:{weight}"));
    assert_eq!(seen, expected);
    assert_eq!(world.now.since(world.returned_at), Duration::from_secs(9));
}

#[test]
fn a_step_is_a_swap_and_no_change_of_the_route() {
    let mut world = World::healthy();
    world.fell(2);
    world.returned(2);
    let (generation, changes) = (world.view().generation, world.route_changes);
    world.wait();
    assert_eq!(world.view().generation, generation.next());
    assert_eq!(world.reason, Some(ChangeReason::SlowStart));
    assert_eq!(world.route_changes, changes);
}

#[test]
fn a_replica_that_lagged_starts_slowly_too() {
    let mut world = World::healthy();
    for _ in 0..3 {
        world.checked(1, answered(true, Some(60)));
    }
    assert_eq!(world.shares(), "2:60");
    world.returned(1);
    assert_eq!(world.shares(), "1:10,2:60");
}

#[test]
fn failures_that_do_not_reach_fall_cost_no_share() {
    let mut world = World::healthy();
    world.checked(2, failed(Cause::Refused));
    world.checked(2, failed(Cause::Refused));
    world.returned(2);
    assert_eq!(world.shares(), "1:100,2:60");
}

#[test]
fn a_second_fall_takes_the_replica_away_at_once_and_starts_over() {
    let mut world = World::healthy();
    world.fell(2);
    world.returned(2);
    world.wait();
    assert_eq!(world.shares(), "1:100,2:12");
    world.fell(2);
    assert_eq!(world.shares(), "1:100");
    assert_eq!(world.policy.deadline(), None);
    world.returned(2);
    assert_eq!(world.shares(), "1:100,2:6");
}

#[test]
fn the_only_replica_gets_everything_and_no_swaps_for_its_weight() {
    let mut world = World::healthy();
    world.fell(1);
    world.fell(2);
    assert_eq!(world.shares(), "0:100");
    world.returned(2);
    assert_eq!(world.shares(), "2:60");
    let generation = world.view().generation;
    while world.wait().is_some() {}
    assert_eq!(world.view().generation, generation);
}

#[test]
fn a_replica_that_joins_the_only_one_finds_it_at_its_own_step() {
    let mut world = World::healthy();
    world.fell(1);
    world.fell(2);
    world.returned(2);
    world.wait();
    world.returned(1);
    assert_eq!(world.shares(), "1:10,2:12");
}

#[test]
fn no_step_is_taken_while_nothing_is_heard_and_the_time_goes_on() {
    let mut world = World::healthy();
    world.fell(2);
    world.returned(2);
    for backend in 0..6 {
        world.checked(backend, failed(Cause::TimedOut));
    }
    assert_eq!(world.policy.deadline(), None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.shares(), "1:100,2:6");
    world.checked(1, answered(true, Some(0)));
    assert_eq!(world.shares(), "1:100,2:36");
}

#[test]
fn steps_while_a_swap_is_under_way_are_caught_up_in_one() {
    let mut world = World::healthy();
    world.fell(2);
    world.returned(2);
    world.swaps_hang = true;
    world.wait();
    world.wait();
    assert_eq!(world.shares(), "1:100,2:6");
    world.release();
    assert_eq!(world.shares(), "1:100,2:18");
}

#[test]
fn a_restart_gives_full_shares_and_keeps_them_by_itself() {
    let mut world = World::healthy();
    world.fell(2);
    world.returned(2);
    let kernel = world.kernel.clone();
    world.restart(kernel);
    assert_eq!(world.shares(), "1:100,2:60");
    let generation = world.view().generation;
    for backend in [0, 1, 2] {
        world.checked(backend, answered(backend != 0, Some(0)));
    }
    assert_eq!((world.view().generation, world.policy.deadline()), (generation, None));
}

#[test]
fn a_restored_weight_that_is_not_known_is_replaced() {
    let mut world = World::healthy();
    let generation = world.view().generation;
    let mut kernel = world.kernel.clone();
    for target in kernel.iter_mut().flat_map(|table| &mut table.routes) {
        if let RouteTarget::Forward { backends } = target {
            backends.iter_mut().for_each(|share| share.weight = 0);
        }
    }
    world.restart(kernel);
    assert_eq!(world.shares(), "1:100,2:60");
    assert_eq!(world.view().generation, generation.next());
}

#[test]
fn without_slow_start_a_replica_returns_with_its_full_share() {
    let mut world = World::new(Duration::ZERO);
    world.fell(2);
    world.returned(2);
    assert_eq!(world.shares(), "1:100,2:60");
    assert_eq!(world.policy.deadline(), None);
}

/// The policy, and drivers that succeed at once unless told to hang.
struct World {
    spec: ClusterSpec,
    policy: Policy,
    now: Moment,
    kernel: Option<RouteTable>,
    /// Of the last swap.
    reason: Option<ChangeReason>,
    route_changes: u32,
    swaps_hang: bool,
    hanging: Vec<RouteTable>,
    returned_at: Moment,
}

impl World {
    fn healthy() -> Self {
        Self::new(Duration::from_secs(10))
    }

    fn new(slow_start: Duration) -> Self {
        let mut spec = ClusterSpec { slow_start, ..cluster(0, 0, 2, 2) };
        spec.pairs[0].replicas[1].weight = 60;
        let mut world = Self {
            policy: Policy::new(vec![spec.clone()], Restored::default(), Moment::START),
            spec,
            now: Moment::START,
            kernel: None,
            reason: None,
            route_changes: 0,
            swaps_hang: false,
            hanging: Vec::new(),
            returned_at: Moment::START,
        };
        world.drain();
        for backend in 0..6 {
            world.checked(backend, answered(backend != 0, Some(0)));
        }
        world
    }

    fn checked(&mut self, backend: u16, result: CheckResult) {
        self.policy.handle(Input::Checked { backend: BackendId(backend), result }, self.now);
        self.drain();
    }

    fn fell(&mut self, backend: u16) {
        for _ in 0..3 {
            self.checked(backend, failed(Cause::Refused));
        }
    }

    fn returned(&mut self, backend: u16) {
        for _ in 0..2 {
            self.checked(backend, answered(true, Some(0)));
        }
        self.returned_at = self.now;
    }

    /// Sleeps until the deadline, and returns the shares then; `None` if there is none.
    fn wait(&mut self) -> Option<String> {
        self.now = self.policy.deadline()?;
        self.policy.handle_timeout(self.now);
        self.drain();
        assert!(self.policy.deadline().is_none_or(|at| at > self.now), "due again at once");
        Some(self.shares())
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.policy.handle_timeout(self.now);
        self.drain();
    }

    fn restart(&mut self, kernel: Option<RouteTable>) {
        let id = self.spec.id;
        let restored = Restored {
            active: [(id, PairId(0))].into(),
            generation: kernel.iter().map(|table| (id, table.generation)).collect(),
            tables: kernel.into_iter().map(|table| (id, table)).collect(),
            ..Restored::default()
        };
        self.policy = Policy::new(vec![self.spec.clone()], restored, self.now);
        self.drain();
    }

    fn release(&mut self) {
        self.swaps_hang = false;
        for table in std::mem::take(&mut self.hanging) {
            self.apply(table);
        }
        self.drain();
    }

    fn apply(&mut self, table: RouteTable) {
        let (cluster, generation) = (self.spec.id, table.generation);
        self.kernel = Some(table);
        self.policy.handle(Input::Applied { cluster, generation, result: Ok(()) }, self.now);
    }

    fn drain(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            match output {
                Output::SwapRoutes { table, reason, .. } => {
                    self.reason = Some(reason);
                    if self.swaps_hang { self.hanging.push(table) } else { self.apply(table) }
                }
                Output::PersistActive { cluster, .. } => {
                    self.policy.handle(Input::Persisted { cluster, result: Ok(()) }, self.now);
                }
                Output::Event(Event { what: EventKind::RouteChanged { .. }, .. }) => {
                    self.route_changes += 1;
                }
                Output::EndFlows { .. }
                | Output::Step { .. }
                | Output::CancelStep { .. }
                | Output::SwitchoverReply { .. }
                | Output::DrainFlows { .. }
                | Output::StopDrain { .. }
                | Output::Reply { .. }
                | Output::SetPace { .. }
                | Output::ForgetAdmin { .. }
                | Output::Fence { .. }
                | Output::Unfence { .. }
                | Output::Event(_) => {}
            }
        }
    }

    fn view(&self) -> ClusterView {
        self.policy.view().clusters.remove(0)
    }

    /// The read route's, as the kernel has them.
    fn shares(&self) -> String {
        let table = self.kernel.as_ref().expect("a table is in force");
        let shares = table.routes[usize::from(READS.0)].shares();
        let shares = shares.iter().map(|share| format!("{}:{}", share.backend.0, share.weight));
        shares.collect::<Vec<_>>().join(",")
    }
}
