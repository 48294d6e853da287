//! One at a time: second flips are refused, and what is stuck can be taken over from.

use pairflip_policy::*;

use crate::{
    common::{answered, cluster, failed},
    world::{A, B, FROM, Mode, TO, World},
};

#[test]
fn a_second_flip_is_refused_at_every_step() {
    for word in ["survey", "catch_up", "settle", "fence", "swap", "unfence", "end_sessions"] {
        let mut world = World::with((word, Mode::Hangs));
        world.switch();
        world.switch();
        world.ask(None, &[], true);
        world.flip_routes(TO);
        for outcome in &world.outcomes {
            let SwitchoverOutcome::Refused(refused) = outcome else { panic!("{outcome:?}") };
            assert_eq!(refused.name(), "flip_running", "{word}");
        }
        assert_eq!(world.outcomes.len(), 2, "{word}");
        let refused: Vec<_> = world.replies.iter().filter_map(|it| it.as_ref().err()).collect();
        // The pair is active by then.
        if !["unfence", "end_sessions"].contains(&word) {
            assert_eq!(refused.len(), 1, "{word}: {:?}", world.replies);
        }
        world.resume();
        world.wait(2);
        world.assert_done(word);
    }
}

#[test]
fn a_route_only_flip_takes_over_from_an_undo_that_is_stuck() {
    let mut world = World::with(("final_catch_up", Mode::Fails(StepFault::TimedOut)));
    world.modes.insert("unfence_back", Mode::Fails(StepFault::Unreachable));
    world.switch();
    world.wait(1);
    world.flip_routes(TO);
    let [Ok(done)] = &world.replies[..] else { panic!("{:?}", world.replies) };
    assert_eq!(done.drain, Drain::Cut, "the old primary may yet become writable");
    assert!(
        matches!(&world.outcomes[..], [SwitchoverOutcome::Undoing { text, .. }] if text.contains("took over")),
        "{:?}",
        world.outcomes
    );
    let taken_over = |it: &EventKind| matches!(it, EventKind::SwitchoverTakenOver { .. });
    assert!(world.events.iter().any(taken_over));
    world.done.clear();
    world.modes.clear();
    world.wait(5);
    assert_eq!(world.done, [""; 0], "it still meddles");
    assert_eq!((world.file.clone(), world.active()), ((TO, None), TO));
}

#[test]
fn a_flip_of_routes_that_does_not_succeed_leaves_what_it_took_over_to_itself() {
    for word in ["persist", "swap"] {
        let mut world = World::with(("final_catch_up", Mode::Fails(StepFault::TimedOut)));
        world.modes.insert("unfence_back", Mode::Fails(StepFault::Unreachable));
        world.switch();
        world.wait(1);
        world.modes.insert(word, Mode::Fails(StepFault::Refused));
        world.flip_routes(TO);
        assert!(matches!(world.replies[..], [Err(_)]), "{word}: {:?}", world.replies);
        world.modes.clear();
        world.wait(5);
        world.assert_undone(word);
    }
}

#[test]
fn a_failover_takes_over_from_an_undo_whose_old_primary_is_dead() {
    let window = std::time::Duration::from_secs(3600);
    let spec = ClusterSpec { failover: Failover::Auto { window }, ..cluster(0, 0, 2, 1) };
    for step in ["settle", "final_catch_up"] {
        let mut policy = Policy::new(vec![spec.clone()], Restored::default(), Moment::START);
        let mut now = Moment::START;
        let mut fenced = Vec::new();
        let mut feed = |policy: &mut Policy, input: Input, fenced: &mut Vec<BackendId>| {
            now = now + std::time::Duration::from_millis(1);
            drive(policy, input, now, step, fenced);
        };
        let checks = |lost: bool| {
            let channel = |io_thread, io_running, lag| Channel {
                io_running,
                sql_running: true,
                lag,
                upstream: Upstream {
                    server_id: 1,
                    io_thread,
                    applied: Some(true),
                    ..Upstream::default()
                },
                ..Channel::default()
            };
            let zero = Some(std::time::Duration::ZERO);
            let channel = if lost {
                channel(IoThread::Connecting { error: 2003 }, false, None)
            } else {
                channel(IoThread::Running, true, zero)
            };
            CheckResult::Answered(Facts {
                read_only: true,
                server_id: 3,
                replication: vec![channel],
                may_fence: Some(true),
                ..Facts::default()
            })
        };
        for _ in 0..2 {
            feed(
                &mut policy,
                Input::Checked { backend: A, result: answered(false, Some(0)) },
                &mut fenced,
            );
            for id in [1, 3] {
                let result = answered(true, Some(0));
                feed(&mut policy, Input::Checked { backend: BackendId(id), result }, &mut fenced);
            }
            feed(&mut policy, Input::Checked { backend: B, result: checks(false) }, &mut fenced);
        }
        feed(
            &mut policy,
            Input::Switchover {
                cluster: ClusterId(0),
                request: RequestId(1),
                to: None,
                drain: None,
                force: Precondition::ALL.into(),
                limits: crate::world::LIMITS,
                dry_run: false,
            },
            &mut fenced,
        );
        for _ in 0..3 {
            let result = failed(Cause::Refused);
            feed(&mut policy, Input::Checked { backend: A, result }, &mut fenced);
        }
        feed(&mut policy, Input::Checked { backend: B, result: checks(true) }, &mut fenced);
        feed(&mut policy, Input::Checked { backend: B, result: checks(true) }, &mut fenced);
        assert_eq!(policy.view().clusters[0].active, TO, "{step}");
        assert_ne!(TO, FROM);
        assert_eq!(fenced, [A], "{step}: the failover asked it first");
    }
}

/// Drivers that do everything; the step of this word fails, and after that the old primary is gone.
fn drive(
    policy: &mut Policy,
    input: Input,
    now: Moment,
    failing: &str,
    fenced: &mut Vec<BackendId>,
) {
    let mut inbox = vec![input];
    while let Some(input) = inbox.pop() {
        policy.handle(input, now);
        while let Some(output) = policy.poll_output() {
            inbox.extend(answer(output, failing, fenced));
        }
    }
}

fn answer(output: Output, failing: &str, fenced: &mut Vec<BackendId>) -> Option<Input> {
    let gone = || StepFailure { fault: StepFault::Unreachable, text: "gone".into() };
    Some(match output {
        Output::SwapRoutes { cluster, table, .. } => {
            Input::Applied { cluster, generation: table.generation, result: Ok(()) }
        }
        Output::PersistActive { cluster, .. } => Input::Persisted { cluster, result: Ok(()) },
        Output::Fence { cluster, backend, .. } => {
            fenced.push(backend);
            let fault = FenceFault::Unreachable;
            let result = Err(FenceError { fault, text: "gone".into() });
            Input::Fenced { cluster, backend, result }
        }
        Output::Unfence { cluster, backend, .. } => {
            Input::Unfenced { cluster, backend, result: Ok(()) }
        }
        Output::Step { cluster, id, step, .. } => {
            let result = match &step {
                step if step.name() == failing => Err(gone()),
                Step::Unfence { .. } => Err(gone()),
                Step::Survey { .. } => Ok(StepAnswer::Surveyed(Box::new(Survey {
                    from: Ok(crate::world::facts(false)),
                    to: Ok(crate::world::facts(true)),
                }))),
                Step::Fence { .. } => Ok(StepAnswer::Fenced { was_read_only: false }),
                _ => Ok(StepAnswer::Done),
            };
            Input::StepDone { cluster, id, result }
        }
        _ => return None,
    })
}
