//! The rules of the switchover, seen from outside: each step fails in each way, is called off, runs out of time, and loses
//! its daemon. What is asserted is what clients and operators would notice.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks at what it is about")]

#[path = "../common/mod.rs"]
mod common;
mod preconditions;
mod tables;
mod takeover;
mod world;

use std::time::Duration;

use common::failed;
use pairflip_policy::*;
use world::{A, B, FROM, Mode, TO, World};

const FAULTS: [StepFault; 5] = [
    StepFault::Unreachable,
    StepFault::Refused,
    StepFault::TimedOut,
    StepFault::Unknown,
    StepFault::Moved,
];
/// What happens before the new primary is told to take writes, by the words of the drivers.
const UNDOABLE: [&str; 5] = ["catch_up", "pause", "settle", "fence", "final_catch_up"];

#[test]
fn a_switchover_takes_its_steps_in_order() {
    let mut world = World::new();
    world.switch();
    world.wait(2);
    assert_eq!(
        world.done.join("; "),
        "survey; persist pair#0 prepared; catch_up; pause; settle; fence a; final_catch_up; \
         persist pair#1 promoting; swap pair#1 w=-; unfence b; swap pair#1 w=b; release; end_sessions; \
         persist pair#1"
    );
    world.assert_done("all went well");
    let [SwitchoverOutcome::Done { done, .. }] = &world.outcomes[..] else {
        panic!("{:?}", world.outcomes)
    };
    assert_eq!((done.from, done.to, &done.warnings[..]), (FROM, TO, &[][..]));
}

#[test]
fn with_cut_open_transactions_are_not_waited_for_and_the_old_pairs_flows_are_ended() {
    let mut world = World::new();
    world.ask(Some(Drain::Cut), &[], false);
    world.wait(2);
    world.assert_done("cut");
    assert!(!world.done.contains(&"settle".to_owned()));
    assert!(world.done.contains(&"end pair#0".to_owned()));
}

#[test]
fn whatever_fails_before_the_new_primary_is_told_is_undone() {
    for word in UNDOABLE {
        for fault in FAULTS {
            let context = format!("{word} {fault:?}");
            let mut world = World::with((word, Mode::Fails(fault)));
            world.switch();
            world.wait(2);
            world.assert_undone(&context);
            let undone = undone(&world, &context);
            assert_eq!((undone.step.name(), undone.cause), (word, UndoCause::Error), "{context}");
        }
        let mut world = World::with((word, Mode::DoneAndLost));
        world.switch();
        world.wait(2);
        world.assert_undone(&format!("{word}, which was done"));
    }
}

#[test]
fn a_target_that_an_operator_takes_out_meanwhile_undoes_until_it_is_needed() {
    for (word, is_undone) in [("catch_up", true), ("settle", true), ("unfence", false)] {
        let mut world = World::with((word, Mode::Hangs));
        world.switch();
        world.feed(Input::SetAdmin {
            cluster: world::CLUSTER,
            target: AdminTarget::Backend(B),
            setting: AdminSetting { admin: Admin::Maint, until: None },
            flows: Drain::Finish,
            deadline: None,
        });
        world.modes.clear();
        world.wait(9);
        if is_undone {
            world.assert_undone(word);
            assert!(undone(&world, word).text.contains("took the new primary out"), "{word}");
        } else {
            assert!(!world.read_only[&B], "{word}: there is no way back");
        }
    }
}

#[test]
fn a_fence_that_changed_nothing_is_not_undone_and_one_that_may_have_is() {
    for fault in FAULTS {
        let mut world = World::with(("fence", Mode::Fails(fault)));
        world.switch();
        let is_given_back = world.done.contains(&"unfence a".to_owned());
        assert_eq!(is_given_back, fault == StepFault::Unknown, "{fault:?}");
    }
}

#[test]
fn a_primary_that_somebody_else_fenced_meanwhile_is_left_as_it_is() {
    let mut world = World::new();
    world.read_only.insert(A, true);
    world.switch();
    world.wait(1);
    assert_eq!(undone(&world, "").step, SwitchoverStep::Fence);
    assert!(!world.done.contains(&"unfence a".to_owned()), "{:?}", world.done);
    assert_eq!(world.writes(), [], "writes to a read-only primary");
}

#[test]
fn a_state_file_that_cannot_be_written_refuses_at_first_and_undoes_later() {
    let mut world = World::with(("persist", Mode::Fails(StepFault::Refused)));
    world.switch();
    assert!(
        matches!(&world.outcomes[..], [SwitchoverOutcome::Refused(FlipRefused::NotPersisted { reason, .. })] if reason == "disk full"),
        "{:?}",
        world.outcomes
    );
    assert!(!world.done.contains(&"catch_up".to_owned()));

    let mut world = World::with(("final_catch_up", Mode::Hangs));
    world.switch();
    world.modes.insert("persist", Mode::Fails(StepFault::Refused));
    world.modes.remove("final_catch_up");
    resume_with(&mut world);
    assert_eq!(undone(&world, "commit").step, SwitchoverStep::Commit);
    assert_eq!((world.read_only[&A], world.writes()), (false, vec![A]), "a full disk is no outage");
    world.modes.clear();
    world.wait(3);
    world.assert_undone("the disk has room again");
}

#[test]
fn a_full_disk_does_not_keep_the_routes_from_going_back() {
    let mut world = World::with(("unfence", Mode::Hangs));
    world.switch();
    world.modes.insert("persist", Mode::Fails(StepFault::Refused));
    world.modes.insert("unfence", Mode::Fails(StepFault::Refused));
    resume_with(&mut world);
    assert_eq!((world.active(), world.writes()), (FROM, vec![A]));
    assert!(!world.read_only[&A]);
    assert_eq!(world.alarm(), None);
}

#[test]
fn nothing_is_told_as_undone_while_the_state_file_may_still_get_it() {
    let mut world = World::with(("persist", Mode::Hangs));
    world.switch();
    world.call_off();
    assert_eq!(world.outcomes, [], "a write is on its way");
    world.resume();
    world.assert_undone("it arrived, and was taken out again");
    assert_eq!(undone(&world, "").cause, UndoCause::CalledOff);
}

#[test]
fn routes_that_cannot_be_swapped_are_undone() {
    let mut world = World::with(("swap", Mode::Fails(StepFault::Refused)));
    world.switch();
    world.assert_undone("swap");
    assert_eq!(undone(&world, "swap").step, SwitchoverStep::Commit);
}

#[test]
fn a_new_primary_that_is_known_not_to_have_changed_sends_everything_back() {
    for fault in [StepFault::Unreachable, StepFault::Refused, StepFault::TimedOut] {
        let mut world = World::with(("unfence", Mode::Fails(fault)));
        world.switch();
        world.wait(2);
        world.assert_undone(&format!("unfence {fault:?}"));
        assert_eq!(undone(&world, "").step, SwitchoverStep::Unfence);
    }
}

#[test]
fn a_new_primary_that_may_have_changed_leaves_only_the_way_forward() {
    for mode in [Mode::Fails(StepFault::Unknown), Mode::DoneAndLost] {
        let mut world = World::with(("unfence", mode));
        world.switch();
        assert!(world.alarm().is_some_and(|text| text.contains("nobody takes writes")));
        assert!(!world.view().and_then(|it| it.switchover).expect("it runs").can_be_called_off);
        world.call_off();
        // What is known not to have been done now may have been done before.
        world.modes.insert("unfence", Mode::Fails(StepFault::Refused));
        world.wait(10);
        assert!(!world.done.contains(&"unfence a".to_owned()), "{mode:?}");
        assert_eq!(world.outcomes, []);
        world.wait(21);
        assert!(
            matches!(
                &world.outcomes[..],
                [SwitchoverOutcome::Trouble { step: SwitchoverStep::Unfence, .. }]
            ),
            "{:?}",
            world.outcomes
        );
        world.modes.clear();
        world.wait(8);
        world.assert_done("it answered at last");
        assert_eq!(world.outcomes.len(), 1, "the operator has his answer");
    }
}

#[test]
fn what_fails_after_the_new_primary_took_over_is_a_warning() {
    for (word, warning) in [("release", "not_released"), ("end_sessions", "sessions_left")] {
        for fault in FAULTS {
            let mut world = World::with((word, Mode::Fails(fault)));
            world.switch();
            world.wait(2);
            world.is_paused = false;
            world.assert_done(word);
            let [SwitchoverOutcome::Done { done, .. }] = &world.outcomes[..] else {
                panic!("{:?}", world.outcomes)
            };
            let warnings: Vec<_> = done.warnings.iter().map(FlipWarning::name).collect();
            assert_eq!(warnings, [warning]);
        }
    }
}

#[test]
fn an_old_primary_that_is_not_seen_to_replicate_is_a_warning() {
    let mut world = World::new();
    world.switch();
    for _ in 0..7 {
        world.feed(Input::Checked { backend: A, result: common::answered(true, None) });
        world.tick();
    }
    let [SwitchoverOutcome::Done { done, .. }] = &world.outcomes[..] else {
        panic!("{:?}", world.outcomes)
    };
    assert_eq!(done.warnings, [FlipWarning::OldNotReplicating]);
}

#[test]
fn a_deadline_undoes_at_every_step_before_the_new_primary_is_told() {
    for word in ["catch_up", "settle", "final_catch_up"] {
        let mut world = World::with((word, Mode::Hangs));
        world.switch();
        assert_eq!(world.outcomes, [], "{word}");
        world.modes.clear();
        world.wait(35);
        world.assert_undone(word);
        let undone = undone(&world, word);
        assert_eq!((undone.step.name(), undone.cause), (word, UndoCause::Deadline));
    }
    for word in ["pause", "fence"] {
        // Whether it was done is not known.
        let mut world = World::with((word, Mode::Hangs));
        world.switch();
        world.modes.clear();
        world.wait(35);
        world.assert_undone(word);
        assert_eq!(undone(&world, word).step.name(), word);
    }
}

#[test]
fn writes_never_wait_for_longer_than_max_pause_before_the_new_primary_is_told() {
    for word in ["persist", "swap"] {
        let mut world = World::with(("final_catch_up", Mode::Hangs));
        world.switch();
        world.modes = [(word, Mode::Hangs)].into();
        resume_with(&mut world);
        world.wait(9);
        assert_eq!(world.outcomes, [], "{word}");
        world.wait(2);
        // What is on its way cannot be called back.
        world.resume();
        world.wait(3);
        world.assert_undone(word);
        let undone = undone(&world, word);
        assert_eq!((undone.step, undone.cause), (SwitchoverStep::Commit, UndoCause::Deadline));
        assert!(undone.text.contains("max_pause"), "{}", undone.text);
    }
}

#[test]
fn a_call_off_undoes_at_every_step_before_the_new_primary_is_told() {
    for word in ["catch_up", "pause", "settle", "fence", "final_catch_up", "persist", "swap"] {
        let mut world = World::with((word, Mode::Hangs));
        world.switch();
        world.call_off();
        world.resume();
        world.wait(2);
        world.assert_undone(word);
        assert_eq!(undone(&world, word).cause, UndoCause::CalledOff, "{word}");
    }
    // One that only asks is not waited for; a fence is, or it could come after its undo.
    let mut world = World::with(("settle", Mode::Hangs));
    world.switch();
    world.call_off();
    world.assert_undone("settle");
    let mut world = World::with(("fence", Mode::Hangs));
    world.switch();
    world.call_off();
    assert!(!world.done.contains(&"unfence a".to_owned()));
}

#[test]
fn it_is_too_late_to_call_off_once_the_new_primary_is_told() {
    for word in ["unfence", "release", "end_sessions"] {
        let mut world = World::with((word, Mode::Hangs));
        world.switch();
        world.call_off();
        world.resume();
        world.wait(2);
        world.assert_done(word);
    }
}

#[test]
fn an_undo_that_cannot_reach_the_old_primary_goes_on_with_an_alarm() {
    let mut world = World::with(("final_catch_up", Mode::Fails(StepFault::TimedOut)));
    world.modes.insert("unfence_back", Mode::Fails(StepFault::Unreachable));
    world.switch();
    let alarm = world.alarm().expect("an alarm");
    assert!(alarm.contains("nobody takes writes") && alarm.contains("--route-only"), "{alarm}");
    world.wait(1);
    assert!(!world.is_paused, "clients wait for nothing");
    assert_eq!(world.writes(), [], "writes to a read-only primary");
    world.wait(5);
    assert!(
        matches!(&world.outcomes[..], [SwitchoverOutcome::Undoing { .. }]),
        "{:?}",
        world.outcomes
    );
    let alarms = |world: &World| {
        world.events.iter().filter(|it| matches!(it, EventKind::SwitchoverStuck { .. })).count()
    };
    assert_eq!(alarms(&world), 1, "once is enough");
    world.modes.clear();
    world.wait(2);
    world.assert_undone("it is back");
    assert_eq!(world.outcomes.len(), 1);
    assert!(world.events.iter().any(|it| matches!(it, EventKind::SwitchoverUndone { .. })));
}

#[test]
fn the_old_primary_stays_fenced_beside_a_new_one_that_takes_writes() {
    let mut world = World::with(("final_catch_up", Mode::Hangs));
    world.switch();
    // Somebody else made it writable.
    world.read_only.insert(B, false);
    world.check();
    world.modes = [("final_catch_up", Mode::Fails(StepFault::Moved))].into();
    resume_with(&mut world);
    world.wait(3);
    assert!(!world.done.contains(&"unfence a".to_owned()));
    assert!(world.alarm().is_some_and(|text| text.contains("the new one takes writes")));
    world.read_only.insert(B, true);
    world.wait(3);
    world.assert_undone("it was made read-only again");
}

#[test]
fn an_old_primary_that_dies_undoes_until_it_is_not_needed_any_more() {
    let mut world = World::with(("settle", Mode::Hangs));
    world.switch();
    for _ in 0..3 {
        world.feed(Input::Checked { backend: A, result: failed(Cause::Refused) });
    }
    assert_eq!(undone(&world, "settle").cause, UndoCause::Error);

    let mut world = World::with(("swap", Mode::Hangs));
    world.switch();
    for _ in 0..3 {
        world.feed(Input::Checked { backend: A, result: failed(Cause::Refused) });
    }
    world.resume();
    assert_eq!((world.writes(), world.read_only[&B]), (vec![B], false), "nothing was missing");
}

#[test]
fn a_daemon_that_dies_at_any_step_is_followed_by_one_that_undoes_or_finishes() {
    let (undone, done) =
        (World::assert_undone as fn(&World, &str), World::assert_done as fn(&World, &str));
    for (at, is_done, expected) in [
        ("persist pair#0 prepared", false, undone),
        ("persist pair#0 prepared", true, undone),
        ("catch_up", true, undone),
        ("pause", true, undone),
        ("settle", true, undone),
        ("fence a", false, undone),
        ("fence a", true, undone),
        ("final_catch_up", true, undone),
        ("persist pair#1 promoting", false, undone),
        // The kernel's word counts.
        ("persist pair#1 promoting", true, undone),
        ("swap pair#1 w=-", false, undone),
        ("swap pair#1 w=-", true, done),
        ("unfence b", false, done),
        ("unfence b", true, done),
        ("swap pair#1 w=b", false, done),
        ("swap pair#1 w=b", true, done),
        ("release", false, done),
        ("end_sessions", true, done),
        ("persist pair#1", false, done),
    ] {
        let context =
            format!("killed at {at:?}, which was {}done", if is_done { "" } else { "not " });
        let mut world = World::new();
        world.kill = Some((at, is_done));
        world.switch();
        world.wait(2);
        assert!(world.is_dead, "{context}: it lives");
        world.restart(false);
        world.wait(8);
        expected(&world, &context);
    }
}

#[test]
fn one_check_that_sees_the_new_primary_writable_ends_nothing_after_a_restart() {
    let mut world = World::new();
    world.kill = Some(("unfence b", false));
    world.switch();
    world.restart(false);
    // What it says of itself is that it is read-only.
    world.feed(Input::Checked { backend: B, result: common::answered(false, Some(0)) });
    world.wait(8);
    world.assert_done("it was asked again");
    assert!(world.done.contains(&"unfence b".to_owned()), "{:?}", world.done);

    // It was made writable by the daemon before, or by hand.
    let mut world = World::new();
    world.kill = Some(("unfence b", true));
    world.switch();
    world.restart(false);
    world.done.clear();
    world.wait(8);
    world.assert_done("it takes writes");
    assert!(!world.done.contains(&"unfence b".to_owned()), "{:?}", world.done);

    // The old one was started again without its fence.
    let mut world = World::new();
    world.kill = Some(("unfence b", true));
    world.switch();
    world.read_only.insert(A, false);
    world.restart(false);
    world.modes.insert("fence", Mode::Fails(StepFault::Refused));
    world.wait(2);
    assert!(world.alarm().is_some_and(|text| text.contains("both primaries may take writes")));
    world.modes.clear();
    world.wait(8);
    world.assert_done("one primary is enough");

    // It cannot be asked: that is told, and tried again.
    let mut world = World::new();
    world.kill = Some(("unfence b", true));
    world.switch();
    world.restart(false);
    world.modes.insert("survey", Mode::Fails(StepFault::Unreachable));
    world.wait(2);
    assert!(world.alarm().is_some_and(|text| text.contains("asked again every second")));
    assert_eq!(world.writes(), [B], "clients are not kept from it meanwhile");
    // It is told again when it is for another reason.
    world.read_only.insert(B, true);
    world.modes.insert("fence", Mode::Fails(StepFault::Refused));
    world.wait(2);
    assert!(world.alarm().is_some_and(|text| text.contains("nobody takes writes")));
    world.modes.clear();
    world.wait(8);
    world.assert_done("it answers");
}

#[test]
fn after_a_reboot_the_state_file_decides_and_the_old_primary_is_fenced_again() {
    let mut world = World::new();
    world.kill = Some(("swap pair#1 w=-", false));
    world.switch();
    // Somebody started it anew, writable.
    world.read_only.insert(A, false);
    world.restart(true);
    world.wait(8);
    world.assert_done("the state file names the new pair");

    // Who cannot be asked whether it took writes since is not passed over.
    let mut world = World::new();
    world.kill = Some(("swap pair#1 w=-", false));
    world.switch();
    world.modes.insert("fence", Mode::Fails(StepFault::Unreachable));
    world.restart(true);
    world.wait(8);
    assert!(world.read_only[&B]);
    assert!(world.alarm().is_some_and(|text| text.contains("nobody takes writes")));
}

#[test]
fn a_restart_goes_on_without_the_old_primary_where_its_last_position_is_known() {
    let mut world = World::new();
    world.kill = Some(("unfence b", false));
    world.switch();
    world.modes.insert("fence", Mode::Fails(StepFault::Unreachable));
    world.restart(false);
    world.wait(8);
    world.assert_done("it was fenced when it was lost");
    assert!(world.done.contains(&"reach".to_owned()));
}

#[test]
fn a_daemon_that_dies_while_it_undoes_is_followed_by_one_that_goes_on() {
    for at in ["unfence a", "release", "swap pair#0 w=-"] {
        for is_done in [false, true] {
            let mut world = World::with(("unfence", Mode::Fails(StepFault::Refused)));
            world.kill = Some((at, is_done));
            world.switch();
            world.wait(1);
            assert!(world.is_dead, "{at}");
            world.modes.clear();
            world.restart(false);
            world.wait(8);
            world.assert_undone(&format!("killed at {at:?} {is_done}"));
        }
    }
}

#[test]
fn a_check_that_began_before_the_new_primary_was_writable_does_not_close_its_route() {
    let mut world = World::with(("end_sessions", Mode::Hangs));
    world.switch();
    assert_eq!(world.writes(), [B]);
    world.feed(Input::Checked { backend: B, result: common::answered(true, Some(0)) });
    assert_eq!(world.writes(), [B]);
    // A later one knows better.
    world.now = world.now + Duration::from_secs(1);
    world.feed(Input::Checked { backend: B, result: common::answered(true, Some(0)) });
    assert_eq!(world.writes(), []);
}

#[test]
fn a_new_primary_that_is_behind_catches_up_again_as_long_as_that_brings_it_closer() {
    let mut world = World::with(("catch_up", Mode::Hangs));
    world.switch();
    // Each time it has what the old primary had when it was asked, and the last time it is as far behind as before.
    for (seconds, is_closer) in [(8, true), (4, true), (2, true), (2, false)] {
        world.wait(seconds);
        assert!(!world.is_paused, "it is behind by {seconds} s");
        let asked = world.hanging.pop();
        let Some(Output::Step { cluster, id, step: Step::CatchUp { .. }, .. }) = asked else {
            panic!("{asked:?}")
        };
        world.feed(Input::StepDone { cluster, id, result: Ok(StepAnswer::Done) });
        assert_eq!(!world.hanging.is_empty(), is_closer, "it was behind by {seconds} s");
    }
    world.wait(2);
    world.assert_done("it is close enough");
}

#[test]
fn routes_for_writes_stay_while_they_are_paused() {
    let mut world = World::with(("final_catch_up", Mode::Hangs));
    world.switch();
    world.check();
    assert_eq!(world.writes(), [A], "clients would be refused instead of paused");
    let step = world.view().and_then(|view| view.switchover).expect("it runs");
    assert_eq!((step.step, step.can_be_called_off), (SwitchoverStep::FinalCatchUp, true));
}

/// Lets what hung be done or not, as the modes say by now.
fn resume_with(world: &mut World) {
    let modes = world.modes.clone();
    let hanging = std::mem::take(&mut world.hanging);
    assert!(!hanging.is_empty(), "nothing hangs");
    world.modes = modes;
    world.apply_all(hanging);
}

fn undone(world: &World, context: &str) -> Undone {
    match &world.outcomes[..] {
        [SwitchoverOutcome::Undone(undone)] => undone.clone(),
        other => panic!("{context}: {other:?}, after {:?}", world.done),
    }
}
