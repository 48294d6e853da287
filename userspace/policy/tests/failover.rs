//! The rules of automatic failover, seen from outside: a script of facts in, what was done and what is refused out.
//!
//! Primaries are `a`, `b` and `c` (pair#0, pair#1, pair#2), their replicas `a2`, `b2` and `c2`; `server_id` is the backend's
//! number and one. `rise` is 2, `fall` is 3, the window an hour. Drivers answer at once; what is fenced is dead unless it is
//! said otherwise.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks at what it is about")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{cluster, failed};
use pairflip_policy::*;

/// `a` is active and writable, the others replicate from it.
const HEALTHY: &str = "a rw; a2 ok; b ok; b2 ok; ";
/// Three failures of the primary.
const DEAD: &str = "a refused; a refused; a refused; ";

#[test]
fn the_standby_that_lost_the_primary_and_applied_everything_takes_over() {
    let world = run(&format!("{HEALTHY}{DEAD}b lost; "));
    assert_eq!(
        world.done_since("end a"),
        "end a; end a; fence a; persist pair#1 promoting out=pair#0; swap pair#1 w=- r=b2; unfence b; \
         swap pair#1 w=b r=b2; persist pair#1 done out=pair#0"
    );
    let last = world.memory().last.expect("a failover");
    let positions = (last.old_position.as_deref(), last.new_position.as_deref());
    assert_eq!(positions, (Some("position of 1"), Some("position of 3")));
    assert_eq!(world.kinds(), "failover_started fence_failed failed_over failover_done");
}

#[test]
fn nothing_happens_before_fall_failures_in_a_row() {
    check_refused("a refused; a refused; b lost", None);
    check_refused("a refused; a refused; b lost; a rw; a refused; a refused", None);
    // One that is down and answers once begins to count again.
    check_refused(&format!("{DEAD}a rw; a refused; b lost; b lost"), None);
    check_done(&format!("{DEAD}a rw; a refused; a refused; b lost; a refused; b lost"));
}

#[test]
fn one_observer_is_not_enough() {
    let sees = "still receives from the active primary";
    check_refused(&format!("{DEAD}b ok; b ok"), Some(sees));
    check_refused("a timeout; b ok; a timeout; b ok; a timeout; b ok; b ok", Some(sees));
    check_done("a timeout; b ok; a timeout; b lost; a timeout; b lost");
    check_refused(&format!("{DEAD}b stopped"), Some("had its IO thread stopped"));
    check_refused(&format!("{DEAD}b io-1045"), Some("stopped by error 1045"));
    check_refused(&format!("{DEAD}b connecting"), None);
    check_done(&format!("{DEAD}b connecting; b lost"));
}

#[test]
fn answers_that_prove_the_primary_alive_never_cause_one() {
    for word in ["denied", "many", "blocked", "limit"] {
        check_refused(&format!("a {word}; a {word}; a {word}; a {word}; b lost; b lost"), None);
        // Not even of one that is down.
        let script = format!("a refused; a refused; {word}; a refused; b ok; b lost");
        check_refused(&script.replace(&format!("; {word};"), &format!("; a {word};")), None);
    }
    check_refused(&format!("{DEAD}a denied; b lost"), Some("the active primary is alive"));
}

#[test]
fn a_standby_that_has_not_applied_everything_does_not_take_over_until_it_has() {
    let reason = "has not applied all that it received";
    check_refused(&format!("{DEAD}b lost-behind; b lost-behind"), Some(reason));
    check_done(&format!("{DEAD}b lost-behind; b lost"));
    check_refused(&format!("{DEAD}b lost-unknown"), Some("does not say whether it has applied"));
    check_refused(&format!("{DEAD}b lost-sql"), Some("has its SQL thread stopped"));
}

#[test]
fn a_standby_that_was_not_sound_before_does_not_take_over() {
    let unsound = "did not replicate soundly right before";
    // Its source was lost long before it died.
    let long = "b lost; a rw; wait 1000; b lost; a rw; wait 1000; a rw; wait 1000; a rw; ";
    check_refused(&format!("{long}{DEAD}b lost"), Some(unsound));
    // It was stopped for a moment: what came meanwhile is missing.
    check_refused(&format!("b stopped; a rw; {DEAD}b lost"), Some(unsound));
    check_refused(&format!("b io-1045; a rw; {DEAD}b lost"), Some(unsound));
    check_refused("a refused; b stopped; a refused; a refused; b lost", Some(unsound));
    check_done(&format!("b connecting; a rw; {DEAD}b lost"));
    check_refused(&format!("b elsewhere; {DEAD}b elsewhere-lost"), Some("does not replicate from"));
    check_refused(&format!("b lag; {DEAD}b lost"), Some("lagged 11s"));
    check_refused(&format!("b delayed; {DEAD}b delayed"), Some("applies 60s late on purpose"));
    check_refused(&format!("b none; {DEAD}b none"), Some("does not replicate from"));
    // Nobody saw it replicate at all.
    let world = run(&format!("a rw; a2 ok; b2 ok; b lost; {DEAD}b lost"));
    assert!(world.refusal().contains(unsound), "{}", world.refusal());
}

#[test]
fn what_is_known_of_the_standby_must_be_from_after_the_conviction() {
    check_refused("a refused; a refused; b lost; a refused", None);
    check_done("a refused; a refused; b lost; a refused; b lost");
    check_refused(&format!("b lost; {DEAD}b refused"), Some("has no primary that answers"));
    check_refused(&format!("{DEAD}b denied"), Some("has no primary that answers"));
}

#[test]
fn operators_have_the_last_word() {
    for admin in ["maint", "drain"] {
        check_refused(&format!("{admin} pair#0; {DEAD}b lost"), None);
        check_refused(&format!("{admin} a; {DEAD}b lost"), None);
        let reason = format!("is in {admin}");
        check_refused(&format!("{admin} pair#1; {DEAD}b lost"), Some(&reason));
        check_refused(&format!("{admin} b; {DEAD}b lost"), Some(&reason));
    }
    let mut manual = World::new(2);
    manual.spec.failover = Failover::Manual;
    manual.restart();
    manual.steps(&format!("{HEALTHY}{DEAD}b lost; b lost"));
    assert_eq!((manual.fences(), manual.refusal()), (0, String::new()));
}

#[test]
fn a_primary_that_answers_its_fence_is_alive_and_gets_its_writes_back() {
    let world = run(&format!("{HEALTHY}fences work; {DEAD}b lost; b lost"));
    assert_eq!(world.done_since("end a"), "end a; end a; fence a; unfence a");
    assert!(world.refusal().contains("it was fenced, which is undone"), "{}", world.refusal());
    // It was read-only before: nothing is undone.
    let world = run(&format!("{HEALTHY}a ro; fences found; {DEAD}b lost; b lost"));
    assert_eq!(world.done_since("end a"), "end a; end a; fence a");
    // What it answers counts, too.
    let world = run(&format!("{HEALTHY}fences refuse; {DEAD}b lost; b lost"));
    assert_eq!(world.done_since("end a"), "end a; end a; fence a");
    // Nobody knows what it did: what it was before is put back.
    let world = run(&format!("{HEALTHY}fences break; {DEAD}b lost; b lost"));
    assert_eq!(world.done_since("end a"), "end a; end a; fence a; unfence a");
    // Up again, and dead again: another case.
    check_done(&format!("fences work; {DEAD}b lost; a rw; a rw; b ok; fences fail; {DEAD}b lost"));
}

#[test]
fn nothing_starts_before_the_kernel_turns_writes_away() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}swaps fail; {DEAD}b lost; b lost"));
    assert_eq!(world.fences(), 0);
    world.steps("swaps work; wait 500; b lost");
    assert_eq!(world.memory().last.map(|last| last.stage), Some(FailoverStage::Done));
}

#[test]
fn a_state_file_that_cannot_be_written_means_no_swap() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}writes fail; {DEAD}b lost"));
    assert_eq!(
        world.done_since("end a"),
        "end a; end a; fence a; persist pair#1 promoting out=pair#0; persist pair#0 out="
    );
    assert!(world.refusal().contains("could not be written"), "{}", world.refusal());
    world.steps("writes work; wait 1000; b lost");
    assert_eq!(world.memory().last.map(|last| last.stage), Some(FailoverStage::Done));
}

#[test]
fn what_no_longer_holds_calls_it_off_before_the_swap() {
    for (event, reason) in [
        ("b ok", "still receives"),
        ("b lost-behind", "has not applied"),
        ("maint pair#1", "is in maint"),
        ("maint a", "is in maint"),
        ("a rw", "not known to be dead"),
    ] {
        let mut world = World::new(2);
        world.steps(&format!("{HEALTHY}writes hang; {DEAD}b lost; {event}"));
        assert!(world.refusal().contains(reason), "{event}: {}", world.refusal());
        world.steps("writes work");
        assert_eq!(world.view().active, PairId(0), "{event}");
        assert_eq!((world.file.0, world.file.1.clone()), (PairId(0), FailoverMemory::default()));
    }
}

#[test]
fn the_new_primary_stays_read_only_when_the_old_one_answers_after_the_swap() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}swaps hang-next; {DEAD}b lost; a rw; swaps work; b lost"));
    assert_eq!(world.view().active, PairId(1));
    assert!(!world.done_since("fence a").contains("unfence b"), "{}", world.done_since("fence a"));
    assert!(world.status().contains("an operator must decide"), "{}", world.status());
}

#[test]
fn unfencing_is_tried_again_and_a_hand_that_did_it_counts() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}unfences fail; {DEAD}b lost; b lost; b lost"));
    assert_eq!(world.unfences(), 1);
    world.steps("wait 1000; b lost");
    assert_eq!(world.unfences(), 2, "after a second");
    assert_eq!(world.kinds().matches("unfence_failed").count(), 1, "{}", world.kinds());
    world.steps("b rw");
    assert_eq!(world.memory().last.map(|last| last.stage), Some(FailoverStage::Done));
}

#[test]
fn it_does_not_happen_twice_within_the_window() {
    let (mut world, second) = failed_over_to_b(3);
    world.steps(second);
    assert_eq!(world.view().active, PairId(1));
    assert!(world.refusal().contains("failover_window"), "{}", world.refusal());
    let kinds = world.kinds();
    assert!(kinds.ends_with("failover_done failover_refused"), "said once: {kinds}");
    // The window ends.
    world.steps("wait 3600000; c lost-b");
    assert_eq!(world.view().active, PairId(2));

    // Or an operator says that he knows.
    let (mut world, second) = failed_over_to_b(3);
    world.steps(&format!("ready pair#0; {second}"));
    assert_eq!(world.view().active, PairId(2));
    // A restart does not forget.
    let (mut world, second) = failed_over_to_b(3);
    world.steps("restart; b rw; b2 ok; c ok-b; c2 ok");
    world.steps(second);
    assert_eq!(world.view().active, PairId(1));
    assert!(world.refusal().contains("failover_window"), "{}", world.refusal());
}

#[test]
fn what_failed_stays_out_until_an_operator_says_that_it_is_well() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}{DEAD}b lost; wait 3600000; b rw; a ok-b; a ok-b"));
    assert_eq!(world.view().active, PairId(1));
    world.steps("restart; b rw; a ok-b; a ok-b");
    let out = "b refused; b refused; b refused; a lost-b; a lost-b";
    world.steps(out);
    assert!(
        world.refusal().contains("failed earlier and waits for an operator"),
        "{}",
        world.refusal()
    );
    world.steps("ready pair#0; a lost-b");
    assert_eq!(world.view().active, PairId(0), "{}", world.refusal());
}

#[test]
fn what_comes_back_writable_is_fenced_once_and_gets_nothing() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}{DEAD}b lost; fences work; a rw; a rw; a ro"));
    assert_eq!(
        world.done_since("swap pair#1 w=b r=b2"),
        "swap pair#1 w=b r=b2; persist pair#1 done out=pair#0; fence a"
    );
    assert!(world.kinds().ends_with("old_primary_returned fenced"), "{}", world.kinds());
    // An operator who makes it writable has his way.
    world.steps("a rw; a rw");
    assert_eq!(world.fences(), 2);
    // It dies and comes back.
    world.steps(&format!("{DEAD}a rw; a rw"));
    assert_eq!(world.fences(), 3);
    assert_eq!(world.view().active, PairId(1));
}

#[test]
fn what_cannot_be_fenced_is_tried_again_later_and_said_once() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}{DEAD}b lost; fences refuse; a rw; a rw; a rw"));
    assert_eq!(world.fences(), 2);
    world.steps("wait 10000; a rw; wait 10000; a rw");
    assert_eq!(world.fences(), 4);
    assert_eq!(world.kinds().matches("fence_failed").count(), 2, "{}", world.kinds());
}

#[test]
fn a_flip_acknowledges_it() {
    let (mut world, _) = failed_over_to_b(3);
    world.steps("flip pair#2");
    let memory = world.memory();
    assert_eq!((memory.out, memory.last.and_then(|last| last.until)), (BTreeSet::new(), None));
    assert_eq!(world.view().active, PairId(2));
}

#[test]
fn of_several_the_one_with_most_of_the_old_primarys_writes_takes_over() {
    let script = |b: &str, c: &str| {
        let mut world = World::new(3);
        world.steps("a rw; a2 ok; b ok; b2 ok; c ok; c2 ok");
        // Both have answered since before the first of them is chosen.
        world.steps(&format!(
            "a refused; a refused; maint b2; swaps fail; a refused; {b}; {c}; swaps work; wait 500"
        ));
        world
    };
    assert_eq!(script("b lost-at-500", "c lost-at-700").view().active, PairId(2));
    assert_eq!(script("b lost-at-700", "c lost-at-500").view().active, PairId(1));
    assert_eq!(script("b lost-at-700", "c lost-at-700").view().active, PairId(1), "the first");
    let world = script("b lost-at-700", "c lost-nowhere");
    assert_eq!(world.view().active, PairId(0));
    assert!(world.refusal().contains("2 pairs could take over"), "{}", world.refusal());
    // Whoever is asked first.
    let mut world = World::new(3);
    world.steps(&format!("{HEALTHY}c ok; c2 ok; {DEAD}c lost-at-500"));
    assert_eq!(world.view().active, PairId(0));
    world.steps("b lost-at-700");
    assert_eq!(world.view().active, PairId(1));
    assert_eq!(script("b lost-at-500", "c lost-behind").view().active, PairId(1), "the only one");
}

#[test]
fn a_flip_is_refused_while_a_server_is_being_changed() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}fences hang; {DEAD}b lost; flip pair#1"));
    assert_eq!(world.replies, ["failover_running"]);
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}unfences hang; {DEAD}b lost; flip pair#0"));
    assert_eq!(world.replies, ["failover_running"]);
    world.steps("unfences fail; flip pair#0");
    assert_eq!(world.replies, ["failover_running", "done"]);
    assert_eq!(world.unfences(), 1);
}

#[test]
fn a_flip_to_a_dead_pair_is_not_taken_back() {
    let (mut world, _) = failed_over_to_b(2);
    world.steps("a refused; a refused; a refused; b lost; flip pair#0; b lost; a refused; b lost");
    assert_eq!(world.view().active, PairId(0));
    assert!(world.status().contains("was down already when"), "{}", world.status());
    // It was well since.
    world.steps(&format!("a rw; a rw; b ok; {DEAD}b lost"));
    assert_eq!(world.view().active, PairId(1));
}

#[test]
fn all_silent_is_no_reason() {
    check_refused(
        "a timeout; b timeout; a2 timeout; b2 timeout; a timeout; a timeout; a timeout",
        None,
    );
}

#[test]
fn a_daemon_that_dies_after_the_state_file_goes_on_by_what_was_seen() {
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}swaps hang-next; {DEAD}b lost; restart"));
    // The kernel has not heard of it; the reads of the old pair go on.
    assert_eq!(world.view().active, PairId(0));
    world.steps(&format!("{DEAD}b2 ok; b lost"));
    assert_eq!(world.view().active, PairId(1));
    assert_eq!(world.memory().last.map(|last| last.stage), Some(FailoverStage::Done));

    // Without it, nobody saw the standby replicate.
    let mut world = World::new(2);
    world.steps(&format!("{HEALTHY}fences hang; {DEAD}b lost; restart; {DEAD}b2 ok; b lost"));
    assert_eq!(world.view().active, PairId(0));
    assert!(
        world.refusal().contains("has not answered since the daemon's start"),
        "{}",
        world.refusal()
    );

    // Nor when it is long ago.
    let mut world = World::new(2);
    world.steps(&format!(
        "{HEALTHY}swaps hang-next; {DEAD}b lost; wait 61000; restart; {DEAD}b2 ok; b lost"
    ));
    assert_eq!(world.view().active, PairId(0));
}

#[test]
fn a_daemon_that_dies_after_the_swap_unfences_only_beside_a_dead_primary() {
    let died = || {
        let mut world = World::new(2);
        world.steps(&format!("{HEALTHY}unfences hang; {DEAD}b lost; restart"));
        assert_eq!((world.view().active, world.unfences()), (PairId(1), 1));
        world
    };
    let mut world = died();
    world.steps("b lost; b2 ok; a refused; a refused");
    assert_eq!(world.unfences(), 1);
    world.steps("a refused; b lost");
    assert_eq!(world.unfences(), 2);
    assert_eq!(world.memory().last.map(|last| last.stage), Some(FailoverStage::Done));

    let mut world = died();
    world.steps("b lost; b2 ok; a rw; a refused; a refused; a refused; b lost");
    assert_eq!(world.unfences(), 1);
    assert!(world.status().contains("an operator must decide"), "{}", world.status());

    let mut world = died();
    world.steps("wait 61000; restart; b lost; b2 ok; a refused; a refused; a refused; b lost");
    assert_eq!(world.unfences(), 1);
    assert!(world.status().contains("too long ago"), "{}", world.status());

    // With the kernel's tables gone, not before they are there again.
    let mut world = died();
    world.steps("reboot; swaps hang; b lost; b2 ok; a refused; a refused; a refused; b lost");
    assert_eq!(world.unfences(), 1);
    world.steps("swaps work");
    assert_eq!(world.unfences(), 2);

    // It had been done.
    let mut world = died();
    world.steps("b rw; b2 ok");
    assert_eq!(world.unfences(), 1);
    assert_eq!(world.memory().last.map(|last| last.stage), Some(FailoverStage::Done));
}

#[test]
fn the_outlook_says_beforehand_who_would_take_over() {
    let outlook = |script: &str| run(&format!("{HEALTHY}{script}")).view().failover.outlook;
    assert_eq!(outlook(""), Outlook::Ready { to: PairId(1) });
    let unready = |fault| Outlook::Unready {
        reason: FailoverRefused::NoCandidate { faults: vec![(PairId(1), fault)] },
    };
    assert_eq!(outlook("b stopped"), unready(CandidateFault::IoStopped { error: 0 }));
    assert_eq!(outlook("b none"), unready(CandidateFault::NoChannel));
    assert_eq!(outlook("b powerless"), unready(CandidateFault::MayNotUnfence));
    let lag = Duration::from_secs(11);
    assert_eq!(outlook("b lag"), unready(CandidateFault::Lagging { lag }));
}

#[test]
fn standbys_are_asked_often_while_their_word_decides() {
    let world = run(&format!("{HEALTHY}{DEAD}b lost-behind"));
    assert_eq!(world.paces.get(&id("b")), Some(&Pace::Fast));
    let world = run(&format!("{HEALTHY}{DEAD}b lost"));
    assert_eq!(world.paces.get(&id("b")), Some(&Pace::Steady));
}

/// A cluster of so many pairs whose second took over, and a script that kills that one as well.
fn failed_over_to_b(pairs: u16) -> (World, &'static str) {
    let mut world = World::new(pairs);
    world.steps(&format!("{HEALTHY}{DEAD}b lost; b rw"));
    if pairs > 2 {
        world.steps("c ok-b; c2 ok");
    }
    assert_eq!(world.view().active, PairId(1), "{}", world.refusal());
    (world, "c ok-b; b rw; b refused; b refused; b refused; c lost-b; c lost-b")
}

/// Runs a script after everything was healthy; expects a failover to `b`.
fn check_done(script: &str) {
    let world = run(&format!("{HEALTHY}{script}"));
    assert_eq!(world.view().active, PairId(1), "{script}: {}", world.refusal());
}

/// Expects none and, if given, that the log gives this reason.
fn check_refused(script: &str, reason: Option<&str>) {
    let world = run(&format!("{HEALTHY}{script}"));
    assert_eq!(world.view().active, PairId(0), "{script}");
    assert_eq!(world.fences(), 0, "{script}");
    if let Some(reason) = reason {
        let told = world.refusal();
        assert!(told.contains(reason), "{script}: {told}");
        assert!(world.status().contains(reason), "{script}: {}", world.status());
    }
}

fn run(script: &str) -> World {
    let mut world = World::new(2);
    world.steps(script);
    world
}

/// How a driver behaves at the moment.
#[derive(Clone, Copy, PartialEq)]
enum Driver {
    Works,
    Fails,
    /// Of fences: the server was read-only before, says no, or is lost in the middle.
    Found,
    Refuses,
    Breaks,
    Hangs,
    /// The next one works.
    HangsNext,
}

/// The policy between its drivers, and what outlives a daemon.
struct World {
    spec: ClusterSpec,
    policy: Policy,
    now: Moment,
    /// When the present daemon started.
    started: Moment,
    swaps: Driver,
    writes: Driver,
    fences: Driver,
    unfences: Driver,
    kernel: Option<RouteTable>,
    file: (PairId, FailoverMemory),
    /// When the state file was written last.
    written: Moment,
    hanging: Vec<Output>,
    paces: std::collections::BTreeMap<BackendId, Pace>,
    requests: u64,
    replies: Vec<String>,
    done: Vec<String>,
    events: Vec<EventKind>,
}

impl World {
    fn new(pairs: u16) -> Self {
        let mut spec = cluster(0, 0, pairs, 1);
        spec.failover = Failover::Auto { window: Duration::from_secs(3600) };
        let mut world = Self {
            policy: Policy::new(vec![spec.clone()], Restored::default(), Moment::START),
            spec,
            now: Moment::START,
            started: Moment::START,
            swaps: Driver::Works,
            writes: Driver::Works,
            fences: Driver::Fails,
            unfences: Driver::Works,
            kernel: None,
            file: (PairId(0), FailoverMemory::default()),
            written: Moment::START,
            hanging: Vec::new(),
            paces: std::collections::BTreeMap::new(),
            requests: 0,
            replies: Vec::new(),
            done: Vec::new(),
            events: Vec::new(),
        };
        world.drain();
        world
    }

    fn steps(&mut self, script: &str) {
        for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            self.now = self.now + Duration::from_millis(1);
            let words: Vec<_> = step.split(' ').collect();
            self.step(&words);
        }
    }

    fn step(&mut self, words: &[&str]) {
        match words {
            [driver @ ("swaps" | "writes" | "fences" | "unfences"), word] => {
                let word = match *word {
                    "work" => Driver::Works,
                    "fail" => Driver::Fails,
                    "found" => Driver::Found,
                    "refuse" => Driver::Refuses,
                    "break" => Driver::Breaks,
                    "hang" => Driver::Hangs,
                    "hang-next" => Driver::HangsNext,
                    other => panic!("unknown driver state {other:?}"),
                };
                match *driver {
                    "swaps" => self.swaps = word,
                    "writes" => self.writes = word,
                    "fences" => self.fences = word,
                    _ => self.unfences = word,
                }
                for output in std::mem::take(&mut self.hanging) {
                    self.apply(output);
                }
                self.drain();
            }
            ["wait", milliseconds] => {
                let time = Duration::from_millis(milliseconds.parse().expect("milliseconds"));
                self.now = self.now + time;
                let now = self.moment();
                self.policy.handle_timeout(now);
                self.drain();
            }
            ["restart"] => self.restart(),
            ["reboot"] => {
                self.kernel = None;
                self.restart();
            }
            ["flip", pair] => {
                self.requests += 1;
                self.feed(Input::Flip {
                    cluster: ClusterId(0),
                    request: RequestId(self.requests),
                    to: Some(pair_id(pair)),
                    drain: None,
                    force: BTreeSet::from(Precondition::ALL),
                });
            }
            [admin @ ("ready" | "drain" | "maint"), target] => {
                let admin = match *admin {
                    "ready" => Admin::Ready,
                    "drain" => Admin::Drain,
                    _ => Admin::Maint,
                };
                let target = if target.starts_with("pair#") {
                    AdminTarget::Pair(pair_id(target))
                } else {
                    AdminTarget::Backend(id(target))
                };
                let setting = AdminSetting { admin, until: None };
                let flows = Drain::Finish;
                let deadline = None;
                let cluster = ClusterId(0);
                self.feed(Input::SetAdmin { cluster, target, setting, flows, deadline });
            }
            [name, word] => {
                let backend = id(name);
                self.feed(Input::Checked { backend, result: result(backend, word) });
            }
            other => panic!("unknown step {other:?}"),
        }
    }

    /// The daemon dies with what its drivers had in hand.
    fn restart(&mut self) {
        self.hanging.clear();
        (self.swaps, self.writes) = (Driver::Works, Driver::Works);
        (self.fences, self.unfences) = (Driver::Fails, Driver::Works);
        let id = self.spec.id;
        let mut memory = self.file.1.clone();
        if let Some(until) = memory.last.as_mut().and_then(|last| last.until.as_mut()) {
            // The file has the wall clock's time; the new daemon starts with 0.
            let left = Moment::from_start(until.elapsed() + self.started.elapsed()).since(self.now);
            *until = Moment::from_start(left);
        }
        let restored = Restored {
            active: [(id, self.file.0)].into(),
            generation: self.kernel.iter().map(|table| (id, table.generation)).collect(),
            tables: self.kernel.clone().map(|table| (id, table)).into_iter().collect(),
            failovers: [(id, memory)].into(),
            ..Restored::default()
        };
        self.started = self.now;
        self.policy = Policy::new(vec![self.spec.clone()], restored, Moment::START);
        self.drain();
    }

    fn moment(&self) -> Moment {
        Moment::from_start(self.now.since(self.started))
    }

    fn feed(&mut self, input: Input) {
        let now = self.moment();
        self.policy.handle(input, now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            self.done.extend(text(&output));
            self.apply(output);
        }
    }

    fn apply(&mut self, output: Output) {
        let driver = match &output {
            Output::SwapRoutes { .. } => &mut self.swaps,
            Output::PersistActive { .. } => &mut self.writes,
            Output::Fence { .. } => &mut self.fences,
            Output::Unfence { .. } => &mut self.unfences,
            Output::EndFlows { .. }
            | Output::ForgetAdmin { .. }
            | Output::Step { .. }
            | Output::CancelStep { .. }
            | Output::SwitchoverReply { .. }
            | Output::DrainFlows { .. }
            | Output::StopDrain { .. } => return,
            Output::SetPace { backend, pace } => {
                self.paces.insert(*backend, *pace);
                return;
            }
            Output::Reply { result, .. } => {
                self.replies.push(result.as_ref().map_or_else(|e| e.name(), |_| "done").into());
                return;
            }
            Output::Event(event) => return self.events.push(event.what.clone()),
        };
        let mode = *driver;
        if mode == Driver::HangsNext {
            *driver = Driver::Hangs;
        }
        if mode == Driver::Hangs {
            return self.hanging.push(output);
        }
        let works = matches!(mode, Driver::Works | Driver::HangsNext);
        let error = |fault| FenceError { fault, text: "simulated".into() };
        let answer = match output {
            Output::SwapRoutes { cluster, table, .. } => {
                let generation = table.generation;
                let result = if works {
                    self.kernel = Some(table);
                    Ok(())
                } else {
                    Err(ApplyError { reason: "no memory".into() })
                };
                Input::Applied { cluster, generation, result }
            }
            Output::PersistActive { cluster, pair, failover, .. } => {
                let result = if works {
                    self.file = (pair, failover);
                    self.written = self.now;
                    Ok(())
                } else {
                    Err(PersistError { reason: "disk full".into() })
                };
                Input::Persisted { cluster, result }
            }
            Output::Fence { cluster, backend, .. } => {
                let result = match mode {
                    Driver::Found => Ok(Fenced { was_read_only: true }),
                    Driver::Refuses => Err(error(FenceFault::Refused)),
                    Driver::Breaks => Err(error(FenceFault::Unknown)),
                    _ if works => Ok(Fenced { was_read_only: false }),
                    _ => Err(error(FenceFault::Unreachable)),
                };
                Input::Fenced { cluster, backend, result }
            }
            Output::Unfence { cluster, backend, .. } => {
                let result = if works { Ok(()) } else { Err(error(FenceFault::Refused)) };
                Input::Unfenced { cluster, backend, result }
            }
            _ => return,
        };
        let now = self.moment();
        self.policy.handle(answer, now);
    }

    fn view(&self) -> ClusterView {
        self.policy.view().clusters.remove(0)
    }

    fn memory(&self) -> FailoverMemory {
        self.view().failover.memory
    }

    /// What the log says last about why there is none.
    fn refusal(&self) -> String {
        let text = |event: &EventKind| match event {
            EventKind::FailoverRefused { reason } | EventKind::FailoverCalledOff { reason, .. } => {
                Some(reason.to_string())
            }
            _ => None,
        };
        self.events.iter().rev().find_map(text).unwrap_or_default()
    }

    /// What the status says about why there is none.
    fn status(&self) -> String {
        match self.view().failover.outlook {
            Outlook::Refused { reason }
            | Outlook::Unready { reason }
            | Outlook::Promoting { held: Some(reason), .. } => reason.to_string(),
            other => format!("{other:?}"),
        }
    }

    /// The kinds of events about failovers.
    fn kinds(&self) -> String {
        let names = self.events.iter().map(EventKind::name);
        let about = ["fail", "fence", "old_primary"];
        let names: Vec<_> =
            names.filter(|name| about.iter().any(|word| name.contains(word))).collect();
        let names: Vec<_> =
            names.into_iter().filter(|name| *name != "all_checks_failing").collect();
        names.join(" ")
    }

    fn done_since(&self, first: &str) -> String {
        let at = self.done.iter().position(|text| text == first);
        self.done[at.unwrap_or_else(|| panic!("no {first:?} in {:?}", self.done))..].join("; ")
    }

    fn fences(&self) -> usize {
        self.done.iter().filter(|text| text.starts_with("fence")).count()
    }

    fn unfences(&self) -> usize {
        self.done.iter().filter(|text| text.starts_with("unfence")).count()
    }
}

/// A check result in a word; what ends in `-b` is about the source `b` instead of `a`.
fn result(backend: BackendId, word: &str) -> CheckResult {
    let cause = match word {
        "refused" => Some(Cause::Refused),
        "timeout" => Some(Cause::TimedOut),
        "denied" => Some(Cause::AuthDenied),
        "many" => Some(Cause::TooManyConnections),
        "blocked" => Some(Cause::HostBlocked),
        "limit" => Some(Cause::UserLimit),
        _ => None,
    };
    if let Some(cause) = cause {
        return failed(cause);
    }
    let (word, source) = match word.strip_suffix("-b") {
        Some(word) => (word, 3),
        None if word.starts_with("elsewhere") => (word.trim_start_matches("elsewhere-"), 77),
        None => (word, 1),
    };
    let mut channel = Channel {
        name: String::new(),
        io_running: true,
        sql_running: true,
        lag: Some(Duration::ZERO),
        upstream: Upstream {
            address: format!("source {source}"),
            server_id: source,
            io_thread: IoThread::Running,
            applied: Some(true),
            executed: Some(LogPosition { file: "binlog.000001".into(), offset: 400 }),
            delay: Duration::ZERO,
        },
    };
    let upstream = &mut channel.upstream;
    let lost = IoThread::Connecting { error: 2003 };
    let mut place =
        |offset| upstream.executed = Some(LogPosition { file: "binlog.000001".into(), offset });
    match word {
        "rw" | "ro" | "ok" | "none" | "elsewhere" | "powerless" => {}
        "lost-at-500" => place(500),
        "lost-at-700" => place(700),
        "lost-nowhere" => upstream.executed = None,
        "lost" => {}
        "lost-behind" => upstream.applied = Some(false),
        "lost-unknown" => upstream.applied = None,
        "lost-sql" => channel.sql_running = false,
        "stopped" => upstream.io_thread = IoThread::Stopped { error: 0 },
        "io-1045" => upstream.io_thread = IoThread::Stopped { error: 1045 },
        "connecting" => upstream.io_thread = IoThread::Connecting { error: 0 },
        "lag" => channel.lag = Some(Duration::from_secs(11)),
        "delayed" => upstream.delay = Duration::from_secs(60),
        other => panic!("unknown check result {other:?}"),
    }
    if word.starts_with("lost") {
        channel.upstream.io_thread = lost;
    }
    if channel.upstream.io_thread != IoThread::Running {
        channel.io_running = false;
        channel.lag = None;
    }
    let server_id = u32::from(backend.0) + 1;
    CheckResult::Answered(Facts {
        read_only: word != "rw",
        server_id,
        version: "11.8.3-MariaDB".into(),
        // A primary replicates from the standby; that is nobody's business here.
        replication: if word == "none" { Vec::new() } else { vec![channel] },
        position: Some(format!("position of {server_id}")),
        may_fence: (word == "powerless").then_some(false),
    })
}

const NAMES: [&str; 6] = ["a", "a2", "b", "b2", "c", "c2"];

fn id(name: &str) -> BackendId {
    let index = NAMES.iter().position(|known| *known == name);
    BackendId(u16::try_from(index.expect("a backend name")).expect("few names"))
}

fn pair_id(name: &str) -> PairId {
    PairId(name.trim_start_matches("pair#").parse().expect("a pair's number"))
}

fn text(output: &Output) -> Option<String> {
    let name = |id: BackendId| NAMES[usize::from(id.0)];
    Some(match output {
        Output::SwapRoutes { table, .. } => {
            let target = |route: usize| {
                let names: Vec<_> = table.routes[route].backends().map(name).collect();
                if names.is_empty() { "-".to_owned() } else { names.join(",") }
            };
            format!("swap {} w={} r={}", table.active, target(0), target(1))
        }
        Output::EndFlows { which: EndWhich::Backend(backend), .. } => {
            format!("end {}", name(*backend))
        }
        Output::EndFlows { which: EndWhich::Route(route, backend), .. } => {
            format!("end {route} on {}", name(*backend))
        }
        Output::EndFlows { which: EndWhich::Pair(pair), .. } => format!("end {pair}"),
        Output::PersistActive { pair, failover, .. } => {
            let stage = match failover.last.as_ref().map(|last| last.stage) {
                Some(FailoverStage::Promoting) => " promoting",
                Some(FailoverStage::Done) => " done",
                None => "",
            };
            let out: Vec<_> = failover.out.iter().map(ToString::to_string).collect();
            format!("persist {pair}{stage} out={}", out.join(","))
        }
        Output::DrainFlows { .. } | Output::StopDrain { .. } => unreachable!("flows live on"),
        Output::Fence { backend, .. } => format!("fence {}", name(*backend)),
        Output::Unfence { backend, .. } => format!("unfence {}", name(*backend)),
        Output::Reply { .. }
        | Output::SetPace { .. }
        | Output::ForgetAdmin { .. }
        | Output::Step { .. }
        | Output::CancelStep { .. }
        | Output::SwitchoverReply { .. }
        | Output::Event(_) => return None,
    })
}
