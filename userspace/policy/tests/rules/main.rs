//! The rules of checks, routes and flips, seen from outside: a script of facts in, the outputs of
//! its last step out.
//!
//! Backends are `a1 a2` (pair#0: primary, replica) and `b1 b2` (pair#1); `rise` is 2 and `fall` is
//! 3.

#[path = "../common/mod.rs"]
mod common;
mod transitions;

use std::collections::{BTreeMap, BTreeSet};

use common::{answered, cluster, failed};
use pairflip_policy::*;

/// Everything is up: pair#0 is active and writable, pair#1 is a read-only standby.
const HEALTHY: &str = "a1 rw; a2 ok; b1 ro; b2 ok; ";
/// As [`HEALTHY`], and every backend has two conditions that pass.
const JUDGED: &str = "a1 agent pass; a2 agent pass; b1 agent pass; b2 agent pass; \
                      a1 disk pass; a2 disk pass; b1 disk pass; b2 disk pass; \
                      a1 rw; a2 ok; b1 ro; b2 ok; ";

#[test]
fn the_first_table_is_written_when_every_answer_is_known() {
    check("a1 rw", "");
    check("a1 rw; a2 ok", "swap 1 pair#0 w=a1 r=a2");
    check("a2 ok; a1 rw", "swap 1 pair#0 w=a1 r=a2");
    check("a1 rw; a2 refused", "swap 1 pair#0 w=a1 r=a1");
    check("a1 denied; a2 denied", "swap 1 pair#0 w=- r=-");
}

#[test]
fn the_first_start_writes_the_state_file() {
    check("", "persist pair#0");
}

#[test]
fn another_version_at_an_address_is_told_once() {
    let mut policy = Policy::new(vec![cluster(0, 0, 1, 0)], Restored::default(), Moment::START);
    let mut told = |version: &str| {
        let CheckResult::Answered(facts) = answered(false, Some(0)) else { unreachable!() };
        let result = CheckResult::Answered(Facts { version: version.into(), ..facts });
        let mut told = events_of(&mut policy, result);
        told.retain(|what| matches!(what, EventKind::VersionChanged { .. }));
        told
    };
    assert_eq!(told("5.7.44"), [], "the first one is no change");
    assert_eq!(told("5.7.44"), []);
    let (from, to) = ("5.7.44".to_owned(), "8.0.36".to_owned());
    let changed = EventKind::VersionChanged { backend: BackendId(0), from, to };
    assert_eq!(told("8.0.36"), [changed]);
    assert_eq!(told("8.0.36"), []);
}

#[test]
fn a_probe_of_a_daemon_that_did_not_run_counts_for_nothing_and_is_no_witness() {
    for ours in ["starved", "local"] {
        check_healthy(&format!("a1 timeout; a1 timeout; a1 {ours}; a2 ok; a1 timeout; a2 ok"), "");
        // `a1` is silent, and so is everybody else as far as is known.
        let others = format!("a2 {ours}; b1 {ours}; b2 {ours}");
        check_healthy(&format!("a1 timeout; a1 timeout; {others}; a1 timeout"), "");
    }
    check_healthy("a1 timeout; a1 timeout; a2 ok; a1 timeout", "swap 2 pair#0 w=- r=a2; end a1");
}

#[test]
fn a_check_that_cannot_judge_is_told_once_and_so_is_its_end() {
    let mut policy = Policy::new(vec![cluster(0, 0, 1, 0)], Restored::default(), Moment::START);
    let mut told = |word: &str| {
        let told = events_of(&mut policy, result(word));
        let names = told.iter().map(EventKind::name).filter(|name| name.starts_with("check_"));
        names.collect::<Vec<_>>()
    };
    assert_eq!(told("rw"), [""; 0]);
    assert_eq!(told("many"), ["check_impaired"]);
    assert_eq!(told("many"), [""; 0]);
    assert_eq!(told("limit"), ["check_impaired"], "another cause is news");
    assert_eq!(told("rw"), ["check_restored"]);
    assert_eq!(told("rw"), [""; 0]);
}

/// What a policy tells of when its first backend has this result.
fn events_of(policy: &mut Policy, result: CheckResult) -> Vec<EventKind> {
    policy.handle(Input::Checked { backend: BackendId(0), result }, Moment::START);
    let mut told = Vec::new();
    while let Some(output) = policy.poll_output() {
        if let Output::Event(event) = output {
            told.push(event.what);
        }
    }
    told
}

#[test]
fn writes_are_refused_and_flows_ended_when_the_primary_is_down() {
    check_healthy("a1 refused; a1 refused", "");
    check_healthy("a1 refused; a1 refused; a1 refused", "swap 2 pair#0 w=- r=a2; end a1");
}

#[test]
fn one_pass_between_failures_keeps_the_routes() {
    check_healthy("a1 refused; a1 refused; a1 rw; a1 refused; a1 refused", "");
}

#[test]
fn a_primary_that_comes_back_takes_writes_after_rise_passes() {
    check_healthy("a1 down; a1 rw", "");
    check_healthy("a1 down; a1 rw; a1 rw", "swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn a_read_only_primary_is_refused_at_once_and_taken_back_at_once() {
    check_healthy("a1 ro", "swap 2 pair#0 w=- r=a2");
    check_healthy("a1 ro; a1 rw", "swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn a_primary_that_comes_back_read_only_gets_no_writes() {
    check_healthy("a1 down; a1 ro; a1 ro", "");
}

#[test]
fn a_primary_that_does_not_replicate_keeps_its_writes() {
    check_healthy("a1 stopped-rw; a1 stopped-rw; a1 stopped-rw; a1 stopped-rw", "");
}

#[test]
fn a_replica_that_lags_is_left_and_its_flows_live() {
    check_healthy("a2 lag; a2 lag", "");
    check_healthy("a2 lag; a2 lag; a2 lag", "swap 2 pair#0 w=a1 r=a1");
    check_healthy("a2 stopped; a2 stopped; a2 stopped", "swap 2 pair#0 w=a1 r=a1");
    check_healthy("a2 lag; a2 stopped; a2 lag; a2 ok; a2 ok", "swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn a_replica_that_comes_back_behind_gets_no_reads_until_it_caught_up() {
    check_healthy("a2 down; a2 lag; a2 lag; a2 lag", "");
    check_healthy("a2 down; a2 lag; a2 lag; a2 ok; a2 ok", "swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn reads_that_went_back_to_replicas_end_on_the_primary_only_where_that_is_wanted() {
    let end = |failback| {
        let mut world = World::new(with_reads(|route| route.failback = failback));
        world.steps(&format!("{HEALTHY} a2 down; a2 ok; a2 ok")).join("; ")
    };
    assert_eq!(end(Failback::NewConnections), "swap 3 pair#0 w=a1 r=a2");
    assert_eq!(end(Failback::Cut), "swap 3 pair#0 w=a1 r=a2; end route#1 on a1");
    let drain = "drain route#1 on a1 Idle: reads went back to replicas";
    assert_eq!(end(Failback::Idle), format!("swap 3 pair#0 w=a1 r=a2; {drain}"));
}

#[test]
fn a_drain_ends_with_its_reason() {
    let steps = |script: &str| {
        let mut world = World::new(with_reads(|route| route.failback = Failback::Idle));
        world.steps(&format!("{HEALTHY} a2 down; a2 ok; a2 ok; {script}")).join("; ")
    };
    // Reads are on the primary again.
    assert_eq!(steps("a2 down"), "swap 4 pair#0 w=a1 r=a1; end a2; stop route#1 on a1");
    // Its own end comes first.
    assert_eq!(steps("drained route#1; a2 down"), "swap 4 pair#0 w=a1 r=a1; end a2");

    let steps = |script: &str| {
        let mut spec = cluster(0, 0, 2, 1);
        (spec.drain, spec.drain_deadline) = (Drain::Idle, Some(std::time::Duration::from_secs(30)));
        World::new(spec).steps(&format!("{HEALTHY} b1 rw; b2 ok; {script}")).join("; ")
    };
    let there = "persist pair#1; swap 2 pair#1 w=b1 r=b2; drain pair#0 Idle for 30s: flip";
    let flip = steps("flip");
    assert!(flip.starts_with(there), "{flip}");
    let back = steps("flip; flip");
    assert!(back.contains("stop pair#0; drain pair#1 Idle for 30s: flip"), "{back}");

    let steps = |script: &str| {
        World::new(cluster(0, 0, 2, 1)).steps(&format!("{HEALTHY} {script}")).join("; ")
    };
    let drain = "swap 2 pair#0 w=a1 r=a1; drain a2 Idle: drain";
    assert_eq!(steps("drain a2 idle"), drain);
    // Said again it begins anew; with another word it is over.
    assert_eq!(steps("drain a2 idle; drain a2 idle"), "drain a2 Idle: drain");
    assert_eq!(steps("drain a2 idle; drain a2"), "stop a2");
    assert_eq!(steps("drain a2 idle; ready a2"), "stop a2; swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn without_failback_reads_stay_on_the_primary_until_an_operator_says_so() {
    let steps = |script: &str| {
        let mut world = World::new(with_reads(|route| route.failback = Failback::Off));
        world.steps(&format!("{HEALTHY} a2 down; a2 ok; a2 ok; {script}")).join("; ")
    };
    assert_eq!(steps(""), "");
    assert_eq!(steps("a2 ok; restart; a1 rw; a2 ok; a2 ok"), "", "a restart is no operator");
    assert_eq!(steps("ready b2"), "", "not one of this pair");
    assert_eq!(steps("ready a2"), "swap 3 pair#0 w=a1 r=a2");
    // One that is not fit yet returns when it is; the next fall counts anew.
    assert_eq!(steps("a2 down; ready a2"), "");
    assert_eq!(steps("a2 down; ready a2; a2 ok; a2 ok"), "swap 3 pair#0 w=a1 r=a2");
    assert_eq!(steps("ready a2; a2 down; a2 ok; a2 ok"), "");
    // Nor does a word count for later that was said while reads were on replicas.
    assert_eq!(steps("ready a2; ready a2; a2 down; a2 ok; a2 ok"), "");
    // Better a replica than nobody.
    assert_eq!(steps("a1 down"), "swap 3 pair#0 w=- r=a2; end a1");
    // Another pair begins anew.
    assert_eq!(
        steps("b1 rw; flip; flip"),
        "persist pair#0; swap 4 pair#0 w=a1 r=a2; reply pair#1->pair#0 old_primary_writable"
    );
}

#[test]
fn replicas_of_the_standby_pair_serve_before_the_primary_does_where_that_is_wanted() {
    let steps = |wanted, script: &str| {
        let mut world = World::new(with_reads(|route| route.standby_replicas = wanted));
        world.steps(&format!("{HEALTHY} {script}")).join("; ")
    };
    let down = "a2 refused; a2 refused; a2 refused";
    assert_eq!(steps(StandbyReplicas::Fallback, down), "swap 2 pair#0 w=a1 r=b2; end a2");
    assert_eq!(steps(StandbyReplicas::Always, "b2 ok; b1 ro; b2 ok"), "");
    // Its primary stops to follow: what it would serve grows old.
    let stale = "a2 down; b1 stopped; b1 stopped; b1 stopped";
    assert_eq!(steps(StandbyReplicas::Fallback, stale), "swap 3 pair#0 w=a1 r=a1");
    assert_eq!(
        steps(StandbyReplicas::Fallback, &format!("{stale}; b1 ro; b1 ro")),
        "swap 4 pair#0 w=a1 r=b2"
    );
    // A restart finds a table that leads to two pairs.
    assert_eq!(steps(StandbyReplicas::Always, "restart; b1 ro; a1 rw; a2 ok; b2 ok"), "");
    // A flip leads all reads over at once.
    let flip = steps(StandbyReplicas::Never, "b1 rw; flip");
    assert!(flip.contains("swap 2 pair#1 w=b1 r=b2"), "{flip}");
    let flip = steps(StandbyReplicas::Always, "b1 rw; flip");
    assert!(flip.contains("pair#1 w=b1 r=b2"), "{flip}");
}

/// A cluster whose read route is changed.
fn with_reads(change: impl FnOnce(&mut RouteSpec)) -> ClusterSpec {
    let mut spec = cluster(0, 0, 2, 1);
    change(&mut spec.routes[1]);
    spec
}

#[test]
fn a_condition_that_fails_makes_a_replica_unfit_and_its_flows_live() {
    check_judged("a2 disk pass; a2 disk fail; a2 disk fail", "");
    check_judged("a2 disk fail; a2 disk fail; a2 disk fail", "swap 2 pair#0 w=a1 r=a1");
    check_judged("a2 disk fail; a2 disk fail; a2 disk pass; a2 disk fail", "");
    check_judged("a2 disk unfit; a2 disk pass", "");
    check_judged("a2 disk unfit; a2 disk pass; a2 disk pass", "swap 3 pair#0 w=a1 r=a2");
    // Each is counted by itself, and one is enough.
    check_judged("a2 disk fail; a2 disk fail; a2 agent fail; a2 agent fail; a2 disk pass", "");
    check_judged("a2 disk unfit; a2 agent unfit; a2 disk pass; a2 disk pass", "");
}

#[test]
fn a_condition_that_fails_makes_a_primary_unfit_and_reads_do_not_fall_back_to_it() {
    check_judged("a1 disk unfit", "swap 2 pair#0 w=- r=a2");
    check_judged("a1 disk unfit; a2 down", "swap 3 pair#0 w=- r=-; end a2");
    check_judged("a1 disk unfit; a1 disk pass; a1 disk pass", "swap 3 pair#0 w=a1 r=a2");
    let world = run(&format!("{JUDGED}a1 disk unfit"));
    let view = &world.policy.view().clusters[0];
    assert_eq!(view.routes[0].reason, RouteReason::PrimaryUnfit);
    let primary = &view.pairs[0].backends[0];
    assert_eq!((primary.health, primary.fitness), (Health::Up, Some(Health::Down)));
    assert_eq!(primary.reason.to_string(), "condition disk: got 0, expected >= 1");
    // Its replica has lost it, too: alive and unfit is not gone, so nothing stale is served.
    check_judged("a1 disk unfit; a2 stopped; a2 stopped; a2 stopped", "swap 3 pair#0 w=- r=-");
}

#[test]
fn a_flip_to_an_unfit_primary_says_so() {
    check_judged(
        "a1 ro; b1 rw; b1 disk unfit; flip",
        "persist pair#1; swap 3 pair#1 w=- r=b2; reply pair#0->pair#1 target_unfit",
    );
}

#[test]
fn a_check_that_says_maintenance_takes_new_flows_away_at_once_and_ends_none() {
    check_judged("a2 agent maint", "swap 2 pair#0 w=a1 r=a1");
    check_judged("a2 agent maint; a2 agent pass", "swap 3 pair#0 w=a1 r=a2");
    check_judged("a1 agent maint", "swap 2 pair#0 w=- r=a2");
    check_judged("a1 agent maint; a1 agent pass", "swap 3 pair#0 w=a1 r=a2");
    check_judged("a1 agent maint; a2 agent maint", "swap 3 pair#0 w=- r=-");
    let world = run(&format!("{JUDGED}a1 agent maint"));
    let view = &world.policy.view().clusters[0];
    assert_eq!(view.routes[0].reason, RouteReason::PrimaryMaintenance);
    assert_eq!(view.pairs[0].backends[0].reason.name(), "maintenance");
    assert_eq!(world.paces[&id("a1")], Pace::Fast, "its return is awaited");
    // It is no failure, and what was counted before is void.
    check_judged("a2 agent fail; a2 agent fail; a2 agent maint; a2 agent fail; a2 agent fail", "");
}

#[test]
fn a_condition_that_cannot_be_judged_changes_nothing() {
    for word in ["local", "denied", "grant", "other"] {
        for backend in ["a1", "a2"] {
            let step = format!("{backend} disk {word}; ");
            check_judged(&step.repeat(10), "");
            let world = run(&format!("{JUDGED}{step}"));
            let pair = &world.policy.view().clusters[0].pairs[0];
            let view = pair.backends.iter().find(|view| view.id == id(backend)).expect("it");
            assert_eq!(view.reason.name(), "condition_impaired", "{word}");
        }
    }
    check_judged("a1 disk unfit; a1 disk local; a1 disk local; a1 disk local", "");
}

#[test]
fn silence_of_a_condition_waits_for_the_same_one_elsewhere() {
    let silence = "a1 agent timeout; a1 agent timeout; a1 agent timeout";
    check_judged(&format!("{silence}; a1 agent timeout"), "");
    // Other answers of other servers, and other conditions, say nothing about it.
    check_judged(&format!("{silence}; b1 ro; b2 ok; a2 disk pass"), "");
    check_judged(&format!("{silence}; b1 agent timeout; a2 agent unreachable"), "");
    check_judged(&format!("{silence}; b1 agent pass"), "swap 2 pair#0 w=- r=a2");
    check_judged(&format!("{silence}; b1 agent fail"), "swap 2 pair#0 w=- r=a2");
    check_judged(
        "a1 agent timeout; b1 agent pass; a1 agent timeout; a1 agent timeout",
        "swap 2 pair#0 w=- r=a2",
    );
    let world = run(&format!("{JUDGED}{silence}"));
    let view = &world.policy.view().clusters[0].pairs[0].backends[0];
    assert_eq!(view.reason.name(), "condition_unconfirmed");
}

#[test]
fn what_keeps_reads_away_is_said_before_what_is_counted() {
    let reason = |script: &str| {
        let world = run(&format!("{JUDGED}{script}"));
        world.policy.view().clusters[0].pairs[0].backends[1].reason.name()
    };
    assert_eq!(reason("a2 agent fail"), "condition");
    assert_eq!(reason("a2 agent fail; a2 lag"), "lagging");
    assert_eq!(reason("a2 agent unfit; a2 lag"), "condition");
}

#[test]
fn a_condition_that_was_silent_everywhere_is_counted_anew() {
    let all = ["a1", "a2", "b1", "b2"].map(|backend| format!("{backend} agent timeout; "));
    let all = all.concat().repeat(3);
    check_judged(&format!("{all}b1 agent pass"), "");
    check_judged(&format!("{all}b1 agent pass; a1 agent timeout"), "");
}

#[test]
fn a_server_that_comes_back_proves_its_conditions_anew() {
    let back = "a1 down; a1 agent pass; a1 rw; a1 agent pass; ";
    check_judged(&format!("{back}a1 disk fail; a1 rw"), "");
    check_judged(&format!("{back}a1 rw"), "");
    check_judged(&format!("{back}a1 disk pass; a1 rw"), "swap 3 pair#0 w=a1 r=a2");
    // One that nobody can judge keeps nobody out.
    check_judged(&format!("{back}a1 disk local; a1 rw"), "swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn a_restart_keeps_what_was_in_force_until_the_conditions_decide() {
    // A primary that was served stays while its condition is silent; one that was refused is not opened by a first failure.
    let first = "restart; a1 agent timeout; a1 rw; a2 agent pass; a2 ok; b1 ro; b2 ok";
    check_judged(&format!("a1 agent pass; {first}"), "");
    let unfit = "a1 disk unfit; restart; a1 disk fail; a1 rw; a2 ok; a1 disk fail";
    let world = run(&format!("{JUDGED}{unfit}"));
    let forwards = |text: &String| text.starts_with("swap") && text.contains("w=a1");
    assert_eq!(world.trace.iter().filter(|text| forwards(text)).count(), 1, "{:?}", world.trace);
}

#[test]
fn without_a_login_a_server_that_answers_gets_writes_and_reads() {
    check("a1 reached; a2 reached", "swap 1 pair#0 w=a1 r=a2");
    check("a1 agent pass; a1 reached; a2 agent fail; a2 reached", "swap 1 pair#0 w=a1 r=a1");
    let up = "a1 reached; a2 reached; b1 reached; b2 reached; ";
    check(&format!("{up}a1 down"), "swap 2 pair#0 w=- r=a2; end a1");
    let world = run(up);
    assert_eq!(world.policy.view().clusters[0].routes[0].reason, RouteReason::PrimaryUp);
}

#[test]
fn reads_are_refused_when_neither_replica_nor_primary_is_fit() {
    check_healthy("a2 down; a1 refused; a1 refused; a1 refused", "swap 3 pair#0 w=- r=-; end a1");
}

#[test]
fn a_check_that_cannot_judge_never_takes_a_backend_down() {
    for word in ["denied", "many", "blocked", "limit", "grant", "tls", "starved", "local", "other"]
    {
        let step = format!("a1 {word}; ");
        check_healthy(&step.repeat(10), "");
    }
}

#[test]
fn a_check_that_cannot_judge_interrupts_the_count() {
    check_healthy("a1 refused; a1 refused; a1 denied; a1 refused; a1 refused", "");
}

#[test]
fn every_other_cause_takes_a_backend_down() {
    for word in ["refused", "timeout", "unreachable", "lost", "protocol"] {
        let step = format!("a1 {word}; b1 ro; ");
        let ends = |times| {
            let trace = run(&format!("{HEALTHY}{}", step.repeat(times))).trace;
            trace.iter().filter(|text| text.starts_with("end")).count()
        };
        assert_eq!((ends(2), ends(3), ends(9)), (0, 1, 1), "{word}");
    }
}

#[test]
fn silence_of_one_backend_waits_for_a_witness() {
    check_healthy("a1 timeout; a1 timeout; a1 timeout; a1 timeout", "");
    check_healthy("a1 timeout; a1 timeout; a1 timeout; b2 ok", "swap 2 pair#0 w=- r=a2; end a1");
    check_healthy("a1 timeout; b2 ok; a1 timeout; a1 timeout", "swap 2 pair#0 w=- r=a2; end a1");
    check_healthy(
        "a1 timeout; a1 timeout; a1 timeout; b2 denied",
        "swap 2 pair#0 w=- r=a2; end a1",
    );
}

#[test]
fn a_witness_that_has_fallen_silent_is_none() {
    check_healthy("a1 timeout; b2 ok; b2 timeout; a1 timeout; a1 timeout", "");
}

#[test]
fn when_all_checks_fail_silently_nothing_changes() {
    let step = "a1 timeout; a2 unreachable; b1 timeout; b2 timeout; ";
    check_healthy(&step.repeat(10), "");
    let policy = run(&format!("{HEALTHY}{}", step.repeat(10))).policy;
    let view = &policy.view().clusters[0];
    assert!(matches!(view.checks, ChecksState::AllFailing { .. }), "{:?}", view.checks);
    assert_eq!(view.pairs[0].backends[0].reason.name(), "unconfirmed");
}

#[test]
fn what_was_counted_while_all_checks_failed_is_void() {
    let outage = "a1 timeout; a2 unreachable; b1 timeout; b2 timeout; ".repeat(10);
    check_healthy(&format!("{outage}b2 ok"), "");
    check_healthy(&format!("{outage}b2 refused"), "");
    check_healthy(&format!("{outage}b2 ok; a1 timeout; b2 ok; a1 timeout"), "");
    let down = "swap 2 pair#0 w=- r=a2; end a1";
    check_healthy(&format!("{outage}b2 ok; a1 timeout; b2 ok; a1 timeout; a1 timeout"), down);
}

#[test]
fn silence_after_other_failures_needs_a_witness_too() {
    check_healthy("a1 lost; a1 timeout; a1 timeout", "");
    check_healthy("a1 lost; a1 timeout; a1 timeout; b1 ro", "swap 2 pair#0 w=- r=a2; end a1");
    check_healthy("a1 timeout; a1 timeout; a1 refused", "swap 2 pair#0 w=- r=a2; end a1");
}

#[test]
fn a_flip_writes_the_state_file_then_swaps_all_routes_then_replies() {
    let done = "persist pair#1; swap 2 pair#1 w=b1 r=b2; reply pair#0->pair#1";
    check_healthy("b1 rw; flip", &format!("{done} old_primary_writable"));
    check_healthy(
        "a1 ro; b1 rw; flip",
        "persist pair#1; swap 3 pair#1 w=b1 r=b2; reply pair#0->pair#1",
    );
    check_healthy("b1 rw; flip pair#1", &format!("{done} old_primary_writable"));
}

#[test]
fn a_flip_with_cut_ends_the_old_flows_after_the_swap() {
    check_healthy(
        "a1 ro; b1 rw; flip cut",
        "persist pair#1; swap 3 pair#1 w=b1 r=b2; end pair#0; reply pair#0->pair#1",
    );
}

#[test]
fn a_flip_to_a_read_only_primary_warns_and_refuses_writes_until_it_is_writable() {
    check_healthy(
        "a1 ro; flip",
        "persist pair#1; swap 3 pair#1 w=- r=b2; reply pair#0->pair#1 target_read_only",
    );
    check_healthy("a1 ro; flip; b1 rw", "swap 4 pair#1 w=b1 r=b2");
}

#[test]
fn a_flip_warns_about_writes_that_may_be_missing() {
    let done = "persist pair#1; swap 3 pair#1 w=b1 r=b2; reply pair#0->pair#1";
    check_healthy("a1 ro; b1 behind-rw; flip", &format!("{done} target_lagging"));
    check_healthy("a1 ro; b1 stopped-rw; flip", &format!("{done} target_not_replicating"));
}

#[test]
fn a_flip_that_names_no_known_pair_is_refused() {
    check_healthy("flip pair#7", "reply unknown_pair");
    check_healthy("flip cluster#7", "reply unknown_cluster");
}

#[test]
fn a_flip_among_three_pairs_must_name_its_target() {
    let mut world = World::new(cluster(0, 0, 3, 1));
    assert_eq!(world.steps(&format!("{HEALTHY}flip")), ["reply ambiguous"]);
    let mut world = World::new(cluster(0, 0, 1, 1));
    assert_eq!(world.steps("a1 rw; flip"), ["reply no_other_pair"]);
}

#[test]
fn a_flip_to_the_active_pair_does_nothing_and_says_so() {
    check_healthy("flip pair#0", "reply pair#0->pair#0 already_active");
    check_healthy("b1 rw; flip; flip pair#1", "reply pair#1->pair#1 already_active");
}

#[test]
fn a_flip_to_a_pair_that_is_down_needs_force() {
    check_healthy("b1 down; b2 down; flip", "reply target_down");
    check("a1 rw; a2 ok; flip", "reply target_down");
    check_healthy(
        "a1 ro; b1 down; b2 down; flip force",
        "persist pair#1; swap 3 pair#1 w=- r=-; reply pair#0->pair#1 target_primary_down",
    );
}

#[test]
fn a_flip_to_a_pair_of_which_something_is_up_warns() {
    check_healthy(
        "a1 ro; b1 down; flip",
        "persist pair#1; swap 3 pair#1 w=- r=b2; reply pair#0->pair#1 target_primary_down",
    );
}

#[test]
fn a_second_flip_is_refused_while_one_runs() {
    check_healthy("b1 rw; writes hang; flip; flip pair#1", "reply flip_running");
    check_healthy("b1 rw; swaps hang; flip; flip pair#1", "reply flip_running");
}

#[test]
fn a_flip_whose_state_file_cannot_be_written_is_undone() {
    check_healthy("writes fail; flip", "persist pair#1; reply not_persisted; persist pair#0");
    // The write back goes on until it works.
    check_healthy("writes fail; flip; wait", "persist pair#0");
    check_healthy("writes fail; flip; writes work; wait; wait", "");
}

#[test]
fn a_flip_whose_swap_fails_is_undone() {
    check_healthy(
        "b1 rw; swaps fail; flip",
        "persist pair#1; swap 2 pair#1 w=b1 r=b2; reply not_applied; persist pair#0",
    );
    check_healthy("b1 rw; swaps fail; flip; swaps work; a1 ro", "swap 3 pair#0 w=- r=a2");
}

#[test]
fn a_flip_waits_for_the_swap_that_is_under_way() {
    check_healthy("b1 rw; swaps hang; a1 ro; flip", "persist pair#1");
    check_healthy(
        "b1 rw; swaps hang; a1 ro; flip; swaps work",
        "swap 3 pair#1 w=b1 r=b2; reply pair#0->pair#1",
    );
}

#[test]
fn what_changes_during_a_swap_is_caught_up() {
    check_healthy("swaps hang; a1 ro; a1 rw; swaps work", "swap 3 pair#0 w=a1 r=a2");
}

#[test]
fn a_swap_that_failed_is_tried_again_later() {
    check_healthy("swaps fail; a1 ro", "swap 2 pair#0 w=- r=a2");
    check_healthy("swaps fail; a1 ro; b2 ok", "");
    check_healthy("swaps fail; a1 ro; swaps work; wait", "swap 3 pair#0 w=- r=a2");
    check_healthy("swaps fail; a1 ro; a1 rw; wait", "");
}

#[test]
fn a_pair_that_comes_back_after_a_flip_gets_nothing_back() {
    check_healthy("b1 rw; a1 down; flip; a1 rw; a1 rw; a1 rw; a2 ok", "");
}

#[test]
fn a_restart_changes_nothing_by_itself() {
    check_healthy("restart", "");
    check_healthy("restart; a1 rw; a2 ok; b1 ro; b2 ok", "");
    check_healthy("restart; a2 ok; a1 denied; a1 denied", "");
    check_healthy("b1 rw; flip; restart; b1 rw; b2 ok; a1 rw; a2 ok", "");
}

#[test]
fn a_restart_keeps_a_backend_until_fall_failures() {
    check_healthy("restart; a2 ok; a1 refused; a1 refused", "");
    check_healthy(
        "restart; a2 ok; a1 refused; a1 refused; a1 refused",
        "swap 2 pair#0 w=- r=a2; end a1",
    );
}

#[test]
fn a_restart_refuses_a_primary_that_is_seen_read_only() {
    check_healthy("restart; a1 ro", "swap 2 pair#0 w=- r=a2");
}

#[test]
fn after_a_crash_between_state_file_and_swap_the_kernel_is_right() {
    check_healthy("b1 rw; swaps hang; flip; restart", "persist pair#0");
    let world = run(&format!("{HEALTHY}b1 rw; swaps hang; flip; restart"));
    assert_eq!(world.policy.view().clusters[0].active, PairId(0));
}

#[test]
fn after_a_reboot_the_state_file_is_right() {
    check_healthy("b1 rw; flip; reboot; b1 rw; b2 ok", "swap 3 pair#1 w=b1 r=b2");
}

#[test]
fn a_table_of_another_configuration_is_not_believed() {
    let mut world = World::new(cluster(0, 0, 2, 1));
    world.steps(HEALTHY);
    let mut spec = cluster(0, 0, 2, 1);
    spec.pairs.reverse();
    spec.pairs[0].id = PairId(0);
    spec.pairs[1].id = PairId(1);
    world.spec = spec;
    world.state_file = Some(PairId(1));
    assert_eq!(world.steps("restart"), [""; 0]);
    assert_eq!(world.policy.view().clusters[0].active, PairId(1));
}

#[test]
fn bad_inputs_change_nothing_and_are_reported() {
    let mut world = World::new(cluster(0, 0, 2, 1));
    world.steps(HEALTHY);
    let (before, now) = (world.policy.view(), world.now);
    let inputs = [
        Input::Checked { backend: BackendId(99), result: failed(Cause::Refused) },
        Input::Applied { cluster: ClusterId(9), generation: Generation(1), result: Ok(()) },
        Input::Applied { cluster: ClusterId(0), generation: Generation(77), result: Ok(()) },
        Input::Persisted { cluster: ClusterId(9), result: Ok(()) },
        Input::Persisted { cluster: ClusterId(0), result: Ok(()) },
    ];
    for input in inputs {
        world.policy.handle(input.clone(), now);
        let outputs: Vec<_> = std::iter::from_fn(|| world.policy.poll_output()).collect();
        let is_ignored = |output: &Output| {
            let Output::Event(Event { what, .. }) = output else { return false };
            matches!(what, EventKind::Ignored { .. })
        };
        assert!(outputs.len() == 1 && is_ignored(&outputs[0]), "{input:?}: {outputs:?}");
        assert_eq!(world.policy.view(), before, "{input:?}");
    }
}

#[test]
fn a_clock_reading_before_the_latest_counts_as_the_latest() {
    let mut world = run(HEALTHY);
    let latest = Moment::from_millis(5000);
    world.policy.handle(Input::Checked { backend: id("a1"), result: result("rw") }, latest);
    let earlier = Moment::from_millis(1);
    world.policy.handle(Input::Checked { backend: id("a1"), result: result("ro") }, earlier);
    let changed = std::iter::from_fn(|| world.policy.poll_output()).find_map(|output| {
        let Output::Event(event) = output else { return None };
        (event.what.name() == "read_only_changed").then_some(event.at)
    });
    assert_eq!(changed, Some(latest));
}

#[test]
fn probes_are_fast_while_something_is_counted_or_awaited() {
    check_paces("", "a1 a2 b1 b2");
    check_paces(HEALTHY, "");
    check_paces(&format!("{HEALTHY}a1 refused"), "a1");
    check_paces(&format!("{HEALTHY}a1 refused; a1 rw"), "");
    check_paces(&format!("{HEALTHY}a1 down"), "");
    check_paces(&format!("{HEALTHY}a1 down; a1 rw"), "a1");
    check_paces(&format!("{HEALTHY}a2 lag"), "a2");
    check_paces(&format!("{HEALTHY}a2 lag; a2 lag; a2 lag"), "");
}

#[test]
fn a_read_only_active_primary_is_probed_fast() {
    check_paces(&format!("{HEALTHY}a1 ro"), "a1");
    check_paces(&format!("{HEALTHY}a1 ro; a1 rw"), "");
}

#[test]
fn everybody_is_probed_fast_while_a_witness_is_wanted() {
    check_paces(&format!("{HEALTHY}a1 timeout"), "a1 a2 b1 b2");
    check_paces(&format!("{HEALTHY}a1 timeout; a1 rw"), "");
}

#[test]
fn a_server_that_turns_the_check_away_is_not_asked_more_often() {
    check_paces("a1 denied; a2 ok; b1 ro; b2 ok", "");
}

#[test]
fn the_view_tells_roles_routes_and_reasons() {
    let world = run(&format!("{HEALTHY}a2 lag; a2 lag; a2 lag; b1 stopped"));
    let view = &world.policy.view().clusters[0];
    let backends = view.pairs.iter().flat_map(|pair| &pair.backends);
    let reasons: Vec<_> = backends.map(|backend| backend.reason.name()).collect();
    assert_eq!(reasons, ["passing", "lagging", "io_thread_stopped", "passing"]);
    assert_eq!(view.pairs[0].state, PairState::Active);
    assert_eq!(view.pairs[1].state, PairState::Standby);
    assert_eq!(view.routes[1].backends, [BackendId(0)]);
    assert!(view.routes[1].fallback && !view.routes[0].fallback);
    assert_eq!(view.routes[1].reason, RouteReason::NoReplicaFit);
    assert_eq!(view.pairs[0].backends[1].fitness, Some(Health::Down));
    assert_eq!(view.generation, Generation(2));
}

fn check(script: &str, expected: &str) {
    let outputs = run(script).last.join("; ");
    assert_eq!(outputs, expected, "after {script:?}");
}

fn check_healthy(script: &str, expected: &str) {
    check(&format!("{HEALTHY}{script}"), expected);
}

fn check_judged(script: &str, expected: &str) {
    check(&format!("{JUDGED}{script}"), expected);
}

fn check_paces(script: &str, fast: &str) {
    let paces = run(script).paces;
    let names: Vec<_> =
        paces.iter().filter(|(_, pace)| **pace == Pace::Fast).map(|(id, _)| name(*id)).collect();
    assert_eq!(names.join(" "), fast, "after {script:?}");
}

fn run(script: &str) -> World {
    let mut world = World::new(cluster(0, 0, 2, 1));
    world.steps(script);
    world
}

/// How a driver behaves at the moment.
#[derive(Clone, Copy, PartialEq)]
enum Driver {
    Works,
    Fails,
    /// Answers when it works again.
    Hangs,
}

/// The policy between drivers that answer at once, and the kernel and state file that they write.
struct World {
    spec: ClusterSpec,
    policy: Policy,
    now: Moment,
    swaps: Driver,
    writes: Driver,
    kernel: Option<RouteTable>,
    state_file: Option<PairId>,
    hanging: Vec<Output>,
    paces: BTreeMap<BackendId, Pace>,
    requests: u64,
    last: Vec<String>,
    trace: Vec<String>,
}

impl World {
    fn new(spec: ClusterSpec) -> Self {
        let policy = Policy::new(vec![spec.clone()], Restored::default(), Moment::START);
        let mut world = Self {
            spec,
            policy,
            now: Moment::START,
            swaps: Driver::Works,
            writes: Driver::Works,
            kernel: None,
            state_file: None,
            hanging: Vec::new(),
            paces: BTreeMap::new(),
            requests: 0,
            last: Vec::new(),
            trace: Vec::new(),
        };
        world.drain();
        world
    }

    /// Runs a script and returns what its last step put out.
    fn steps(&mut self, script: &str) -> Vec<String> {
        for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            self.now = self.now + std::time::Duration::from_millis(1);
            self.last.clear();
            let words: Vec<_> = step.split(' ').collect();
            self.step(&words);
        }
        self.last.clone()
    }

    fn step(&mut self, words: &[&str]) {
        let driver = |word: &str| match word {
            "work" => Driver::Works,
            "fail" => Driver::Fails,
            "hang" => Driver::Hangs,
            other => panic!("unknown driver state {other:?}"),
        };
        match words {
            ["swaps", word] => {
                self.swaps = driver(word);
                self.release();
            }
            ["writes", word] => {
                self.writes = driver(word);
                self.release();
            }
            ["wait"] => {
                if let Some(deadline) = self.policy.deadline() {
                    self.now = deadline;
                    self.policy.handle_timeout(deadline);
                }
            }
            ["restart"] => self.restart(),
            ["reboot"] => {
                let generation = self.kernel.take().map(|table| table.generation);
                self.restart_with(generation);
            }
            ["flip", rest @ ..] => self.flip(rest),
            ["drained", "route#1"] => {
                let which = EndWhich::Route(common::READS, id("a1"));
                let result = Drained::default();
                self.feed(Input::Drained { cluster: ClusterId(0), which, result });
            }
            [word @ ("ready" | "drain" | "maint"), backend, rest @ ..] => {
                let admin = match *word {
                    "drain" => Admin::Drain,
                    "maint" => Admin::Maint,
                    _ => Admin::Ready,
                };
                self.feed(Input::SetAdmin {
                    cluster: ClusterId(0),
                    target: AdminTarget::Backend(id(backend)),
                    setting: AdminSetting { admin, until: None },
                    flows: if rest == ["idle"] { Drain::Idle } else { Drain::Finish },
                    deadline: None,
                });
            }
            [backend, "down"] => {
                let backend = id(backend);
                for _ in 0..3 {
                    self.feed(Input::Checked { backend, result: failed(Cause::Refused) });
                }
            }
            [backend, name, "unfit"] => {
                for _ in 0..3 {
                    let conditions = vec![condition(name, "fail")];
                    self.feed(Input::Conditions { backend: id(backend), conditions });
                }
            }
            [backend, name, word] => {
                let conditions = vec![condition(name, word)];
                self.feed(Input::Conditions { backend: id(backend), conditions });
            }
            [backend, word] => {
                self.feed(Input::Checked { backend: id(backend), result: result(word) })
            }
            other => panic!("unknown step {other:?}"),
        }
        self.drain();
    }

    fn flip(&mut self, words: &[&str]) {
        self.requests += 1;
        let mut cluster = ClusterId(0);
        let (mut to, mut drain, mut force) = (None, None, BTreeSet::new());
        for word in words {
            match *word {
                "cut" => drain = Some(Drain::Cut),
                "force" => force.extend(Precondition::from_name("target_down")),
                "pair#0" => to = Some(PairId(0)),
                "pair#1" => to = Some(PairId(1)),
                "pair#7" => to = Some(PairId(7)),
                "cluster#7" => cluster = ClusterId(7),
                other => panic!("unknown flip word {other:?}"),
            }
        }
        let request = RequestId(self.requests);
        self.feed(Input::Flip { cluster, request, to, drain, force });
    }

    fn restart(&mut self) {
        self.restart_with(self.kernel.as_ref().map(|table| table.generation));
    }

    fn restart_with(&mut self, generation: Option<Generation>) {
        self.hanging.clear();
        self.swaps = Driver::Works;
        let id = self.spec.id;
        let restored = Restored {
            admin: BTreeMap::new(),
            failovers: BTreeMap::new(),
            active: self.state_file.map(|pair| (id, pair)).into_iter().collect(),
            generation: generation.map(|generation| (id, generation)).into_iter().collect(),
            tables: self.kernel.clone().map(|table| (id, table)).into_iter().collect(),
            intents: BTreeMap::new(),
        };
        self.policy = Policy::new(vec![self.spec.clone()], restored, self.now);
    }

    fn release(&mut self) {
        for output in std::mem::take(&mut self.hanging) {
            self.apply(output);
        }
    }

    fn feed(&mut self, input: Input) {
        self.policy.handle(input, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.policy.poll_output() {
            if let Some(text) = text(&output) {
                self.last.push(text.clone());
                self.trace.push(text);
            }
            self.apply(output);
        }
    }

    fn apply(&mut self, output: Output) {
        match output {
            Output::SwapRoutes { cluster, table, reason } => {
                let generation = table.generation;
                let result = match self.swaps {
                    Driver::Works => Ok(()),
                    Driver::Fails => Err(ApplyError { reason: "no memory".into() }),
                    Driver::Hangs => {
                        let output = Output::SwapRoutes { cluster, table, reason };
                        return self.hanging.push(output);
                    }
                };
                if result.is_ok() {
                    self.kernel = Some(table);
                }
                self.policy.handle(Input::Applied { cluster, generation, result }, self.now);
            }
            Output::PersistActive { cluster, pair, failover, intent, reason } => {
                let result = match self.writes {
                    Driver::Works => Ok(()),
                    Driver::Fails => Err(PersistError { reason: "disk full".into() }),
                    Driver::Hangs => {
                        let output =
                            Output::PersistActive { cluster, pair, failover, intent, reason };
                        return self.hanging.push(output);
                    }
                };
                if result.is_ok() {
                    self.state_file = Some(pair);
                }
                self.policy.handle(Input::Persisted { cluster, result }, self.now);
            }
            Output::SetPace { backend, pace } => {
                self.paces.insert(backend, pace);
            }
            Output::EndFlows { .. }
            | Output::DrainFlows { .. }
            | Output::StopDrain { .. }
            | Output::Reply { .. }
            | Output::ForgetAdmin { .. }
            | Output::Event(_) => {}
            Output::Fence { .. } | Output::Unfence { .. } => unreachable!("failover is manual"),
            Output::Step { .. } | Output::CancelStep { .. } | Output::SwitchoverReply { .. } => {
                unreachable!("flips are route-only")
            }
        }
    }
}

fn condition(name: &str, word: &str) -> Condition {
    let outcome = match word {
        "pass" => Outcome::Passed,
        "fail" => Outcome::Failed { text: "got 0, expected >= 1".into() },
        "maint" => Outcome::Maintenance { text: "HTTP 404".into() },
        word => match result(word) {
            CheckResult::Failed(failure) => Outcome::Unanswered(failure),
            CheckResult::Answered(_) | CheckResult::Reached => panic!("{word} is no outcome"),
        },
    };
    Condition { name: name.into(), about: About::Server, outcome }
}

fn result(word: &str) -> CheckResult {
    match word {
        "reached" => CheckResult::Reached,
        "local" => failed(Cause::Local),
        "starved" => failed(Cause::Starved),
        "rw" => answered(false, Some(0)),
        "ro" | "ok" => answered(true, Some(0)),
        "lag" => answered(true, Some(11)),
        "stopped" => answered(true, None),
        "stopped-rw" => answered(false, None),
        "behind-rw" => answered(false, Some(1)),
        "refused" => failed(Cause::Refused),
        "timeout" => failed(Cause::TimedOut),
        "unreachable" => failed(Cause::Unreachable),
        "lost" => failed(Cause::ConnectionLost),
        "protocol" => failed(Cause::Protocol),
        "denied" => failed(Cause::AuthDenied),
        "many" => failed(Cause::TooManyConnections),
        "blocked" => failed(Cause::HostBlocked),
        "limit" => failed(Cause::UserLimit),
        "grant" => failed(Cause::MissingGrant),
        "tls" => failed(Cause::Tls),
        "other" => failed(Cause::Other),
        other => panic!("unknown check result {other:?}"),
    }
}

const NAMES: [&str; 4] = ["a1", "a2", "b1", "b2"];

fn id(name: &str) -> BackendId {
    let index = NAMES.iter().position(|known| *known == name);
    BackendId(u16::try_from(index.expect("a backend name")).expect("four names"))
}

fn name(id: BackendId) -> &'static str {
    NAMES[usize::from(id.0)]
}

fn text(output: &Output) -> Option<String> {
    Some(match output {
        Output::SwapRoutes { table, .. } => {
            let target = |route: usize| match table.routes[route].shares() {
                [] => "-".to_string(),
                shares => {
                    let names: Vec<_> = shares.iter().map(|share| name(share.backend)).collect();
                    names.join(",")
                }
            };
            format!("swap {} {} w={} r={}", table.generation, table.active, target(0), target(1))
        }
        Output::EndFlows { which, .. } => format!("end {}", flows(*which)),
        Output::DrainFlows { which, mode, deadline, reason, .. } => {
            let deadline = deadline.map_or_else(String::new, |time| format!(" for {time:?}"));
            format!("drain {} {mode:?}{deadline}: {reason}", flows(*which))
        }
        Output::StopDrain { which, .. } => format!("stop {}", flows(*which)),
        Output::PersistActive { pair, .. } => format!("persist {pair}"),
        Output::Reply { result: Ok(done), .. } => {
            let warnings: String = done.warnings.iter().map(|w| format!(" {}", w.name())).collect();
            format!("reply {}->{}{warnings}", done.from, done.to)
        }
        Output::Reply { result: Err(refused), .. } => format!("reply {}", refused.name()),
        Output::SetPace { .. } | Output::ForgetAdmin { .. } | Output::Event(_) => return None,
        Output::Fence { .. } | Output::Unfence { .. } => unreachable!("failover is manual"),
        Output::Step { .. } | Output::CancelStep { .. } | Output::SwitchoverReply { .. } => {
            unreachable!("flips are route-only")
        }
    })
}

fn flows(which: EndWhich) -> String {
    match which {
        EndWhich::Backend(backend) => name(backend).to_owned(),
        EndWhich::Pair(pair) => pair.to_string(),
        EndWhich::Route(route, backend) => format!("{route} on {}", name(backend)),
    }
}
