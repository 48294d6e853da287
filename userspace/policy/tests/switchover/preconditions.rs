//! What must hold beforehand: each that fails refuses by its word, and can be waived or not.

use std::time::Duration;

use pairflip_policy::*;

use crate::world::{FROM, World, channel, facts};

/// Makes one precondition fail.
fn break_one(precondition: Precondition, world: &mut World) {
    let gone = || Err(StepFailure { fault: StepFault::Unreachable, text: "gone".into() });
    let (mut old, mut new) = (facts(false), facts(true));
    let stopped = Channel { sql_running: false, ..channel() };
    match precondition {
        Precondition::OldUnreachable => return world.survey.from = gone(),
        Precondition::TargetUnreachable => return world.survey.to = gone(),
        Precondition::OldReadOnly => old.read_only = true,
        Precondition::MissingGrant => new.missing_grants = vec!["GRANT x".into()],
        Precondition::TargetWritable => new.read_only = false,
        Precondition::TargetNotReplicating => new.replication = Some(stopped),
        Precondition::OldNotReplicating => old.replication = None,
        Precondition::TargetDelayed => {
            let upstream = Upstream { delay: Duration::from_secs(60), ..Upstream::default() };
            new.replication = Some(Channel { upstream, ..channel() });
        }
        Precondition::TargetLagging => {
            new.replication = Some(Channel { lag: Some(Duration::from_secs(11)), ..channel() });
        }
        Precondition::ErrantTransactions => new.errant = Some("2-2-9".into()),
        Precondition::PreparedXa => old.xa_prepared = vec!["'x'".into()],
        Precondition::LongTransaction => {
            let age = Duration::from_millis(10_001);
            old.transactions =
                vec![OpenTransaction { who: "10.0.0.7".into(), age, what: "UPDATE t".into() }];
        }
        Precondition::TableLocks => old.table_locks = vec!["somebody".into()],
        Precondition::TargetDown
        | Precondition::TargetTakenOut
        | Precondition::TargetUnfit
        | Precondition::RecentFlip => break_by_checks(precondition, world),
    }
    (world.survey.from, world.survey.to) = (Ok(old), Ok(new));
}

/// The same for what checks and operators know.
fn break_by_checks(precondition: Precondition, world: &mut World) {
    let primary = crate::world::B;
    match precondition {
        Precondition::TargetDown => {
            let replica = BackendId(3);
            for backend in [primary, replica, primary, replica, primary, replica] {
                let result = crate::failed(Cause::Refused);
                world.feed(Input::Checked { backend, result });
            }
        }
        Precondition::TargetTakenOut => world.feed(Input::SetAdmin {
            cluster: crate::world::CLUSTER,
            target: AdminTarget::Backend(primary),
            setting: AdminSetting { admin: Admin::Drain, until: None },
            flows: Drain::Finish,
            deadline: None,
        }),
        Precondition::TargetUnfit => {
            for _ in 0..3 {
                let outcome = Outcome::Failed { text: "disk".into() };
                let condition = Condition { name: "disk".into(), about: About::Server, outcome };
                let conditions = vec![condition];
                world.feed(Input::Conditions { backend: primary, conditions });
                world.check();
            }
        }
        _ => {
            world.flip_routes(PairId(1));
            world.flip_routes(FROM);
        }
    }
}

#[test]
fn each_precondition_refuses_by_its_word_unless_it_is_waived() {
    for precondition in Precondition::ALL {
        let mut world = World::new();
        break_one(precondition, &mut world);
        world.done.clear();
        world.switch();
        assert_eq!(world.done, ["survey"], "{precondition:?} changed something");
        let [SwitchoverOutcome::Refused(refused @ FlipRefused::Unmet { preflight })] =
            &world.outcomes[..]
        else {
            panic!("{precondition:?}: {:?}", world.outcomes)
        };
        let failing = preflight.iter().filter(|it| it.judgement == Judgement::Fails);
        let failing: Vec<_> = failing.map(|it| it.precondition).collect();
        assert_eq!(failing, [precondition]);
        assert!(refused.to_string().contains(precondition.name()), "{refused}");

        // Word for word: what is forced is that one only.
        world.ask(None, &[precondition], true);
        let Some(SwitchoverOutcome::Planned { preflight, .. }) = world.outcomes.last() else {
            panic!("{:?}", world.outcomes)
        };
        let judgement = |it: &&Judged| it.precondition == precondition;
        let found = preflight.iter().find(judgement).expect("it is in the list").judgement;
        let expected =
            if precondition.can_be_waived() { Judgement::Waived } else { Judgement::Fails };
        assert_eq!(found, expected, "{precondition:?}");
        assert_eq!(
            Precondition::from_name(precondition.name()).is_some(),
            precondition.can_be_waived()
        );
    }
}

#[test]
fn a_dry_run_tells_every_precondition_and_changes_nothing() {
    let mut world = World::new();
    world.ask(None, &[], true);
    let [SwitchoverOutcome::Planned { preflight, warnings }] = &world.outcomes[..] else {
        panic!("{:?}", world.outcomes)
    };
    assert_eq!(warnings, &[]);
    assert!(preflight.iter().map(|it| it.precondition).eq(Precondition::ALL));
    assert!(preflight.iter().all(|it| it.judgement == Judgement::Holds), "{preflight:?}");
    assert_eq!((&world.done[..], &world.events[..]), (&["survey".to_owned()][..], &[][..]));
    assert_eq!(world.view(), None);
}

#[test]
fn what_was_waived_and_what_cannot_be_seen_is_told_with_the_result() {
    let mut world = World::new();
    break_one(Precondition::PreparedXa, &mut world);
    if let Ok(old) = &mut world.survey.from {
        old.privileged = vec!["root@10.0.0.9".into()];
        old.privileged_unseen = Some("GRANT SELECT".into());
        old.blind = Some("performance_schema is off".into());
    }
    let unseen = [
        FlipWarning::Privileged { who: "root@10.0.0.9".into() },
        FlipWarning::PrivilegedUnseen { grant: "GRANT SELECT".into() },
        FlipWarning::Blind { text: "performance_schema is off".into() },
    ];
    world.ask(None, &[Precondition::PreparedXa], true);
    let Some(SwitchoverOutcome::Planned { warnings, .. }) = world.outcomes.pop() else {
        panic!("{:?}", world.outcomes)
    };
    assert_eq!(warnings, unseen, "what was waived is in the list of preconditions");
    world.ask(None, &[Precondition::PreparedXa], false);
    world.wait(2);
    world.assert_done("waived");
    let [SwitchoverOutcome::Done { done, .. }] = &world.outcomes[..] else {
        panic!("{:?}", world.outcomes)
    };
    let words: Vec<_> = done.warnings.iter().map(FlipWarning::name).collect();
    assert_eq!(words, ["waived", "privileged", "privileged_unseen", "blind"]);
}

#[test]
fn a_target_that_was_writable_and_forced_does_not_stop_the_undo() {
    let mut world = World::new();
    world.read_only.insert(crate::B, false);
    world.check();
    break_one(Precondition::TargetWritable, &mut world);
    world.modes.insert("final_catch_up", crate::Mode::Fails(StepFault::TimedOut));
    world.ask(None, &[Precondition::TargetWritable], false);
    assert!(matches!(&world.outcomes[..], [SwitchoverOutcome::Undone(_)]), "{:?}", world.outcomes);
    assert_eq!((world.alarm(), world.read_only[&crate::A]), (None, false));
}
