//! The decisions of pairflip: facts and a clock reading in, actions out.
//!
//! Sans-IO: nothing here opens a socket, reads a clock, sleeps or calls back. The same machine runs
//! in the daemon and in the deterministic simulation (`tests/sim`).
//!
//! # Contract
//!
//! Feed one input, apply outputs until there are none, then sleep until [`Policy::deadline`] or the
//! next input.
//!
//! ```
//! use std::{collections::BTreeSet, time::Duration};
//! use pairflip_policy::*;
//!
//! let (a1, a2, b1, b2) = (BackendId(0), BackendId(1), BackendId(2), BackendId(3));
//! let replicas = |backend| vec![Share { backend, weight: 100 }];
//! let spec = ClusterSpec {
//!     id: ClusterId(0),
//!     name: "main".into(),
//!     rise: 2,
//!     fall: 3,
//!     interval: Duration::from_secs(1),
//!     fast_interval: Duration::from_millis(500),
//!     timeout: Duration::from_millis(500),
//!     max_lag: Duration::from_secs(10),
//!     slow_start: Duration::ZERO,
//!     hold_off: Duration::ZERO,
//!     drain: Drain::Finish,
//!     drain_deadline: None,
//!     failover: Failover::Manual,
//!     routes: vec![RouteSpec {
//!         id: RouteId(0), name: "writes".into(), access: Access::Write, min_replicas: 1,
//!         failback: Failback::NewConnections, standby_replicas: StandbyReplicas::Never,
//!     }],
//!     pairs: vec![
//!         PairSpec { id: PairId(0), name: "pair1".into(), primary: a1, replicas: replicas(a2) },
//!         PairSpec { id: PairId(1), name: "pair2".into(), primary: b1, replicas: replicas(b2) },
//!     ],
//! };
//! let mut policy = Policy::new(vec![spec], Restored::default(), Moment::START);
//!
//! // A driver that succeeds at everything: its answers are inputs again.
//! fn run(policy: &mut Policy, input: Input, now: Moment) -> Vec<Output> {
//!     let (mut inbox, mut done) = (vec![input], Vec::new());
//!     while let Some(input) = inbox.pop() {
//!         policy.handle(input, now);
//!         while let Some(output) = policy.poll_output() {
//!             match &output {
//!                 Output::SwapRoutes { cluster, table, .. } => inbox.push(Input::Applied {
//!                     cluster: *cluster, generation: table.generation, result: Ok(()),
//!                 }),
//!                 Output::PersistActive { cluster, .. } => {
//!                     inbox.push(Input::Persisted { cluster: *cluster, result: Ok(()) });
//!                 }
//!                 _ => {}
//!             }
//!             done.push(output);
//!         }
//!     }
//!     done
//! }
//! let answer = |read_only| CheckResult::Answered(Facts {
//!     read_only, server_id: 1, version: "11.8".into(), ..Facts::default()
//! });
//!
//! // The active primary answers and is writable: the write route leads to it.
//! run(&mut policy, Input::Checked { backend: a1, result: answer(false) }, Moment::from_millis(3));
//! assert_eq!(policy.view().clusters[0].routes[0].backends, [a1]);
//!
//! // The operator flips. The state file is written first, then one swap moves every route, then comes the reply.
//! run(&mut policy, Input::Checked { backend: b1, result: answer(false) }, Moment::from_millis(4));
//! let outputs = run(&mut policy, Input::Flip {
//!     cluster: ClusterId(0), request: RequestId(1), to: None, drain: None, force: BTreeSet::new(),
//! }, Moment::from_millis(5));
//! assert!(matches!(outputs.last(), Some(Output::Reply { result: Ok(done), .. }) if done.to == PairId(1)));
//! assert_eq!(policy.view().clusters[0].routes[0].backends, [b1]);
//! ```
//!
//! # What always holds
//!
//! - Every forwarded route of a table leads to one pair, and a table replaces all routes of its
//!   cluster at once. Only a read route that is told to ([`StandbyReplicas`]) leads to replicas of
//!   other pairs as well.
//! - A table never forwards writes to a backend that was last seen read-only, except while a switchover has it so and new
//!   connections are paused.
//! - The active pair changes only when an operator asks, or by a failover ([`Failover::Auto`], see
//!   [`failover`]): never without `fall` failures in a row and a second observer, never to a pair that
//!   has not applied what it received, never twice within the window. A returned pair gets nothing
//!   back by itself.
//! - A switchover ([`switchover`]) makes the new primary writable only when the old one was seen read-only and the new one
//!   has everything up to there, and gives the old one its writes back only while the routes lead to it and the new one is
//!   not writable. Its intent is in the state file before the first change; it ends done, undone, or with an alarm.
//! - A swap counts as done when [`Input::Applied`] says so, and a flip's swap follows its state
//!   file.
//! - Flows are ended only when `fall` failures in a row took their backend down, or where an operator, a flip or reads that
//!   went back to replicas left them behind and `cut` or `idle` says so; draining ends with its reason.
//! - Who an operator took out gets no new flows, whatever the checks say, and comes back by an
//!   operator's word or when the time given runs out.
//! - A failed condition makes a backend unfit for new flows and ends none. What cannot be judged, and silence of the same condition on all
//!   backends, changes nothing.
//! - When nothing is heard from any backend, nothing changes.
//! - A share's weight is at least 1 and at most the configured one; it is less only while its
//!   replica, back after it was unfit, is within [`ClusterSpec::slow_start`].
//! - An input that does not fit changes nothing.
//!
//! # Detection time
//!
//! A dead backend is down after at most `interval + (fall - 1) * fast_interval + timeout`. A
//! failure of silence (no answer, no way to the host) also needs a witness: another backend of the
//! cluster heard from after the first failure. All of them are probed at the fast pace while one is
//! needed, so that this costs nothing from `fall = 2` on and at most one `fast_interval` with `fall
//! = 1`.
//!
//! # Deliberately absent
//!
//! Addresses, files, sockets, clocks, randomness, and any error type: the policy cannot fail.

mod backend;
mod cluster;
pub mod condition;
mod damping;
pub mod failover;
mod flip;
pub mod health;
pub mod ids;
pub mod input;
mod machine;
pub mod moment;
pub mod output;
pub mod reason;
mod routing;
mod slow_start;
pub mod switchover;
pub mod view;

pub use condition::{About, Condition, Outcome, results_table};
pub use failover::{
    CandidateFault, Failover, FailoverMemory, FailoverRefused, FailoverStage, LastFailover, Outlook,
};
pub use flip::FlipCause;
pub use health::{Health, Verdict};
pub use ids::{BackendId, ClusterId, Generation, PairId, RequestId, RouteId};
pub use input::{
    Access, Admin, AdminSetting, AdminTarget, ApplyError, Cause, Channel, CheckFailure,
    CheckResult, ClusterSpec, Drain, Drained, Effect, Facts, Failback, FenceError, FenceFault,
    Fenced, Input, IoThread, LogPosition, PairSpec, PersistError, Restored, Role, RouteSpec,
    StandbyReplicas, Upstream,
};
pub use machine::Policy;
pub use moment::Moment;
pub use output::{
    AdminRefused, EndWhich, Event, EventKind, FenceReason, FlipDone, FlipRefused, Output, Pace,
    RouteTable, RouteTarget, Severity, Share, UnfenceReason,
};
pub use reason::{
    ActiveSource, BackendReason, ChangeReason, DrainReason, EndReason, FlipWarning, IgnoredReason,
    PersistReason, ReplicationFault, RouteReason,
};
pub use switchover::{
    Intent, IntentStage, Judged, Judgement, Limits, OpenTransaction, Precondition, PrimaryFacts,
    Step, StepAnswer, StepFailure, StepFault, StepId, Survey, SwitchoverOutcome, SwitchoverStep,
    SwitchoverView, UndoCause, Undone,
};
pub use view::{
    BackendView, ChecksState, ClusterView, ConditionView, FailoverView, FlipStage, FlipView,
    PairState, PairView, PolicyView, RouteView,
};
