//! Flips between request and answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use pairflip_policy::{
    BackendId, ClusterId, Drain, FlipRefused, FlipWarning, Input, Judged, Judgement, Limits,
    PairId, Precondition, RequestId, SwitchoverOutcome, SwitchoverStep, SwitchoverView, UndoCause,
};
use tokio::sync::oneshot;

use super::{Runtime, failover::pair_name, ids::drain, status};
use crate::{
    config,
    control::protocol::{
        self, ApiError, CallOffRequest, CalledOff, FlipDone, FlipPlan, FlipRequest, FlipsRunning,
        PlannedStatement, PlannedStep, PreconditionStatus, no_plan_of_routes,
    },
    primary::{self, Speaker},
};

/// Who waits for the answer.
pub(super) enum FlipReply {
    Done(oneshot::Sender<Result<FlipDone, ApiError>>),
    /// Nothing is to be changed.
    Plan(oneshot::Sender<Result<FlipPlan, ApiError>>),
}

/// What there is to call off.
enum CallOff {
    /// One that is the policy's to undo.
    Running,
    /// It cannot be undone any more, or is being undone.
    TooLate {
        step: SwitchoverStep,
    },
    /// Those that wait for check results, and so have done nothing.
    Waiting(Vec<FlipReply>),
    Nothing,
}

impl FlipReply {
    /// The operator may have gone; what was done stands, and `status` shows it.
    fn refuse(self, error: ApiError) {
        match self {
            Self::Done(reply) => _ = reply.send(Err(error)),
            Self::Plan(reply) => _ = reply.send(Err(error)),
        }
    }
}

/// What an operator asked for, by number.
#[derive(Clone)]
struct Asked {
    cluster: ClusterId,
    to: Option<PairId>,
    drain: Option<Drain>,
    force: BTreeSet<Precondition>,
    extent: Extent,
}

/// How far a flip goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Extent {
    /// Only the routes are moved. This has no dry run.
    Routes,
    /// No write is lost.
    Switchover { limits: Limits, dry_run: bool },
}

impl Extent {
    const fn is_dry_run(self) -> bool {
        matches!(self, Self::Switchover { dry_run: true, .. })
    }
}

/// A flip that waits for fresh check results.
struct WaitingFlip {
    asked: Asked,
    /// Backends that have not reported since the request.
    outstanding: BTreeSet<BackendId>,
    deadline: Instant,
}

/// Flips between request and reply.
#[derive(Default)]
pub(super) struct PendingFlips {
    next: u64,
    waiting: BTreeMap<RequestId, WaitingFlip>,
    replies: BTreeMap<RequestId, (Asked, FlipReply)>,
}

impl PendingFlips {
    fn add(
        &mut self,
        asked: Asked,
        reply: FlipReply,
        outstanding: BTreeSet<BackendId>,
        deadline: Instant,
    ) {
        self.next += 1;
        let request = RequestId(self.next);
        let waiting = WaitingFlip { asked: asked.clone(), outstanding, deadline };
        self.waiting.insert(request, waiting);
        self.replies.insert(request, (asked, reply));
    }

    pub(super) fn checked(&mut self, backend: BackendId) {
        for flip in self.waiting.values_mut() {
            flip.outstanding.remove(&backend);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|flip| flip.deadline).min()
    }

    fn take_due(&mut self) -> Vec<(RequestId, WaitingFlip)> {
        let now = Instant::now();
        self.waiting
            .extract_if(.., |_, flip| flip.outstanding.is_empty() || flip.deadline <= now)
            .collect()
    }

    /// Answers everybody who has no answer when the daemon ends.
    pub(super) fn end(&mut self) {
        for (request, (asked, reply)) in mem::take(&mut self.replies) {
            let is_begun = !self.waiting.contains_key(&request) && !asked.extent.is_dry_run();
            reply.refuse(if is_begun { left_unfinished() } else { stopping() });
        }
        self.waiting.clear();
    }

    /// Takes out what waits, unless a flip is running: that one is meant, whoever else waits for his own.
    fn call_off(&mut self, cluster: ClusterId, running: Option<&SwitchoverView>) -> CallOff {
        match running {
            Some(running) if running.can_be_called_off => return CallOff::Running,
            Some(running) => return CallOff::TooLate { step: running.step },
            None => {}
        }
        // A dry run is no flip, and ends by itself.
        let waiting = self.waiting.extract_if(.., |_, flip| {
            flip.asked.cluster == cluster && !flip.asked.extent.is_dry_run()
        });
        let replies: Vec<FlipReply> = waiting
            .filter_map(|(request, _)| self.replies.remove(&request))
            .map(|(_, reply)| reply)
            .collect();
        if replies.is_empty() { CallOff::Nothing } else { CallOff::Waiting(replies) }
    }
}

impl Runtime {
    /// Takes a flip in: names become ids, and the backends are asked how they are right now.
    pub(super) fn flip(&mut self, flip: &FlipRequest, reply: FlipReply) {
        if self.stopping.is_some() {
            return reply.refuse(stopping());
        }
        let dry_run = matches!(reply, FlipReply::Plan(_));
        let asked = match self.resolve(flip, dry_run) {
            Ok(asked) => asked,
            Err(error) => return reply.refuse(error),
        };
        if self.flips.waiting.values().any(|waiting| waiting.asked.cluster == asked.cluster) {
            // "The other pair" must not be looked up twice for what may be one operator's two tries.
            return reply.refuse(ApiError::new(
                "flip_running",
                "a flip of this cluster is waiting for fresh check results",
                "wait for it, then look at `pairflip status`",
            ));
        }
        let configured = &self.config.clusters[usize::from(asked.cluster.0)];
        let is_checked = |backend: &BackendId| {
            self.pacers.get(backend).is_some_and(|pacer| pacer.pace.borrow().is_some())
        };
        let outstanding: BTreeSet<BackendId> = configured
            .backends()
            .filter_map(|address| self.ids.backend(address))
            .filter(is_checked)
            .collect();
        for backend in &outstanding {
            if let Some(pacer) = self.pacers.get(backend) {
                pacer.kick.notify_one();
            }
        }
        let deadline = Instant::now() + configured.check.timeout;
        self.flips.add(asked, reply, outstanding, deadline);
    }

    fn resolve(&self, flip: &FlipRequest, dry_run: bool) -> Result<Asked, ApiError> {
        let cluster = self.named_cluster(flip.cluster.as_deref())?;
        let configured = &self.config.clusters[cluster];
        let to = flip.to.as_ref().map(|name| pair_by_name(configured, name)).transpose()?;
        let force = flip.force.iter().map(|name| precondition(name)).collect::<Result<_, _>>()?;
        let drain = flip.drain.map(|drain| match drain {
            protocol::Drain::Finish => Drain::Finish,
            protocol::Drain::Idle => Drain::Idle,
            protocol::Drain::Cut => Drain::Cut,
        });
        let extent = extent(configured, flip, dry_run)?;
        Ok(Asked { cluster: ClusterId(cluster as u16), to, drain, force, extent })
    }

    /// Hands those flips to the policy whose checks are in, or late.
    pub(super) fn start_due_flips(&mut self) {
        if self.stopping.is_some() {
            // The next daemon would only undo it. Who waits is told at the end.
            return;
        }
        for (request, flip) in self.flips.take_due() {
            let Asked { cluster, to, drain, force, extent } = flip.asked;
            self.feed(match extent {
                Extent::Routes => Input::Flip { cluster, request, to, drain, force },
                Extent::Switchover { limits, dry_run } => {
                    Input::Switchover { cluster, request, to, drain, force, limits, dry_run }
                }
            });
        }
    }

    /// The policy's answer to a flip of the routes alone.
    pub(super) fn reply(
        &mut self,
        request: RequestId,
        result: Result<pairflip_policy::FlipDone, FlipRefused>,
    ) {
        let Some((asked, reply)) = self.take_reply(request) else { return };
        let configured = &self.config.clusters[usize::from(asked.cluster.0)];
        match (result, reply) {
            (Ok(done), FlipReply::Done(reply)) => _ = reply.send(Ok(flip_done(configured, &done))),
            (Ok(_), reply @ FlipReply::Plan(_)) => reply.refuse(answer_to_another()),
            (Err(refused), reply) => reply.refuse(refusal(configured, &refused)),
        }
    }

    /// The policy's answer to a flip that loses no write.
    pub(super) fn switchover_reply(&mut self, request: RequestId, outcome: SwitchoverOutcome) {
        let Some((asked, reply)) = self.take_reply(request) else { return };
        let configured = &self.config.clusters[usize::from(asked.cluster.0)];
        match (outcome, reply) {
            (SwitchoverOutcome::Done { done, paused, took }, FlipReply::Done(reply)) => {
                let mut answer = flip_done(configured, &done);
                answer.paused_ms = Some(paused.as_millis() as u64);
                answer.took_ms = Some(took.as_millis() as u64);
                _ = reply.send(Ok(answer));
            }
            (SwitchoverOutcome::Planned { preflight, warnings }, FlipReply::Plan(reply)) => {
                _ = reply.send(Ok(self.plan(&asked, &preflight, &warnings)));
            }
            (SwitchoverOutcome::Done { done, .. }, FlipReply::Plan(reply)) => {
                // It is active already.
                _ = reply.send(Ok(self.plan(&asked, &[], &done.warnings)));
            }
            (outcome, reply) => reply.refuse(unfinished(configured, outcome)),
        }
    }

    fn take_reply(&mut self, request: RequestId) -> Option<(Asked, FlipReply)> {
        let pending = self.flips.replies.remove(&request);
        if pending.is_none() {
            tracing::error!(%request, "a flip was answered that nobody asked for; please report this");
        }
        pending
    }

    fn plan(&self, asked: &Asked, preflight: &[Judged], warnings: &[FlipWarning]) -> FlipPlan {
        let configured = &self.config.clusters[usize::from(asked.cluster.0)];
        let view = self.policy.view();
        let view = view.clusters.iter().find(|view| view.id == asked.cluster);
        let from = view.map_or(PairId(0), |view| view.active);
        let others = (0..configured.pairs.len() as u16).map(PairId).find(|pair| *pair != from);
        let to = asked.to.or(others).unwrap_or(from);
        let speaker = |pair: PairId| {
            let address = configured.pairs[usize::from(pair.0)].primary;
            let pair = view.and_then(|view| view.pairs.iter().find(|it| it.id == pair));
            let facts = pair.and_then(|pair| pair.backends.first()?.facts.as_ref());
            Speaker::new(address, facts.map_or("", |facts| facts.version.as_str()))
        };
        let drain = asked.drain.unwrap_or_else(|| drain(configured));
        let (from_speaker, to_speaker) = (speaker(from), speaker(to));
        let steps = planned_steps(drain).map(|step| PlannedStep {
            name: step.name().to_owned(),
            text: step.to_string(),
            statements: primary::statements(step, from_speaker, to_speaker)
                .into_iter()
                .map(|(server, sql)| PlannedStatement { server: server.to_string(), sql })
                .collect(),
        });
        let limits = match asked.extent {
            Extent::Switchover { limits, .. } => limits,
            Extent::Routes => configured_limits(configured),
        };
        let is_met = |it: &Judged| matches!(it.judgement, Judgement::Holds | Judgement::Waived);
        FlipPlan {
            cluster: configured.name.clone(),
            from: pair_name(configured, from),
            to: pair_name(configured, to),
            drain: wire_drain(drain),
            possible: preflight.iter().all(is_met),
            deadline_ms: limits.deadline.as_millis() as u64,
            max_pause_ms: limits.max_pause.as_millis() as u64,
            preconditions: preflight.iter().map(|it| precondition_status(configured, it)).collect(),
            steps: if from == to { Vec::new() } else { steps.collect() },
            warnings: named_warnings(configured, warnings),
        }
    }

    pub(super) fn flips_running(&self) -> FlipsRunning {
        let view = self.policy.view();
        let flips = view.clusters.iter().filter_map(|cluster| self.flip_status(cluster));
        FlipsRunning { flips: flips.collect() }
    }

    /// Calls a flip off. What comes of it is in the answer to its own request.
    pub(super) fn call_off(&mut self, call_off: &CallOffRequest) -> Result<CalledOff, ApiError> {
        let index = self.named_cluster(call_off.cluster.as_deref())?;
        let cluster = ClusterId(index as u16);
        let name = self.config.clusters[index].name.clone();
        let view = self.policy.view();
        let flip = view.clusters.iter().find(|it| it.id == cluster).and_then(|it| it.flip.as_ref());
        match self.flips.call_off(cluster, flip.and_then(|flip| flip.switchover.as_ref())) {
            CallOff::Nothing => Err(ApiError::new(
                "no_flip",
                format!("no flip of cluster {name} is under way that could be called off"),
                "see `pairflip status`",
            )),
            CallOff::TooLate { step } => Err(ApiError::new(
                "too_late",
                format!("the flip of cluster {name} cannot be called off: it is at {step}"),
                "wait for its end; to go back, flip again",
            )),
            CallOff::Running => {
                self.feed(Input::CallOff { cluster, request: None });
                Ok(CalledOff { cluster: name })
            }
            CallOff::Waiting(replies) => {
                for reply in replies {
                    reply.refuse(ApiError::new(
                        "flip_undone",
                        "the flip was called off before it began; nothing was changed",
                        "",
                    ));
                }
                Ok(CalledOff { cluster: name })
            }
        }
    }
}

fn pair_by_name(cluster: &config::Cluster, name: &str) -> Result<PairId, ApiError> {
    let index = cluster.pairs.iter().position(|pair| pair.name == *name).ok_or_else(|| {
        let names: Vec<&str> = cluster.pairs.iter().map(|pair| pair.name.as_str()).collect();
        ApiError::new(
            "unknown_pair",
            format!("cluster {:?} has no pair {name:?}", cluster.name),
            format!("pairs are {}", names.join(", ")),
        )
    })?;
    Ok(PairId(index as u16))
}

fn precondition(name: &str) -> Result<Precondition, ApiError> {
    Precondition::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Precondition::waivable().map(Precondition::name).collect();
        ApiError::new(
            "unknown_precondition",
            format!("{name:?} is not a precondition that can be waived"),
            format!("--force takes {}", known.join(", ")),
        )
    })
}

fn configured_limits(cluster: &config::Cluster) -> Limits {
    Limits { deadline: cluster.flip.deadline, max_pause: cluster.flip.max_pause }
}

fn extent(
    cluster: &config::Cluster,
    flip: &FlipRequest,
    dry_run: bool,
) -> Result<Extent, ApiError> {
    match (flip.route_only, dry_run) {
        (true, true) => Err(no_plan_of_routes()),
        (true, false) => Ok(Extent::Routes),
        (false, dry_run) => Ok(Extent::Switchover { limits: limits(cluster, flip)?, dry_run }),
    }
}

fn limits(cluster: &config::Cluster, flip: &FlipRequest) -> Result<Limits, ApiError> {
    if cluster.check.login.is_none() {
        return Err(ApiError::new(
            "no_login",
            format!(
                "cluster {:?} has no login (mysql = false), so its primaries cannot be fenced",
                cluster.name
            ),
            "give [cluster.check] an account, or make the old primary read-only by other means and flip with --route-only",
        ));
    }
    let mut limits = configured_limits(cluster);
    if let Some(ms) = flip.deadline_ms {
        let range = config::FLIP_DEADLINE_RANGE;
        limits.deadline = Duration::from_millis(ms);
        if !range.contains(&limits.deadline) {
            return Err(ApiError::new(
                "bad_body",
                format!("deadline_ms is {ms}"),
                format!("take {} to {}", range.start().as_millis(), range.end().as_millis()),
            ));
        }
    }
    Ok(limits)
}

/// The steps of a flip that succeeds, in order.
fn planned_steps(drain: Drain) -> impl Iterator<Item = SwitchoverStep> {
    SwitchoverStep::ALL.into_iter().filter(move |step| match step {
        SwitchoverStep::Undo | SwitchoverStep::Resume => false,
        SwitchoverStep::Settle => drain != Drain::Cut,
        SwitchoverStep::Survey
        | SwitchoverStep::Prepare
        | SwitchoverStep::CatchUp
        | SwitchoverStep::Pause
        | SwitchoverStep::Fence
        | SwitchoverStep::FinalCatchUp
        | SwitchoverStep::Commit
        | SwitchoverStep::Unfence
        | SwitchoverStep::Open
        | SwitchoverStep::Release
        | SwitchoverStep::EndSessions
        | SwitchoverStep::Verify
        | SwitchoverStep::Finish => true,
    })
}

fn precondition_status(cluster: &config::Cluster, judged: &Judged) -> PreconditionStatus {
    PreconditionStatus {
        name: judged.precondition.name().to_owned(),
        rule: judged.precondition.rule().to_owned(),
        result: judged.judgement.name().to_owned(),
        text: status::name_pairs(cluster, &judged.text),
        can_be_waived: judged.precondition.can_be_waived(),
    }
}

fn flip_done(cluster: &config::Cluster, done: &pairflip_policy::FlipDone) -> FlipDone {
    FlipDone {
        cluster: cluster.name.clone(),
        from: pair_name(cluster, done.from),
        to: pair_name(cluster, done.to),
        generation: done.generation.0,
        drain: wire_drain(done.drain),
        paused_ms: None,
        took_ms: None,
        warnings: named_warnings(cluster, &done.warnings),
    }
}

fn named_warnings(cluster: &config::Cluster, warnings: &[FlipWarning]) -> Vec<String> {
    warnings.iter().map(|warning| status::name_pairs(cluster, &warning.to_string())).collect()
}

const fn wire_drain(drain: Drain) -> protocol::Drain {
    match drain {
        Drain::Finish => protocol::Drain::Finish,
        Drain::Idle => protocol::Drain::Idle,
        Drain::Cut => protocol::Drain::Cut,
    }
}

fn refusal(cluster: &config::Cluster, refused: &FlipRefused) -> ApiError {
    ApiError::new(
        refused.name(),
        status::name_pairs(cluster, &refused.to_string()),
        remedy(refused),
    )
}

/// Why a flip that loses no write is not done.
fn unfinished(cluster: &config::Cluster, outcome: SwitchoverOutcome) -> ApiError {
    let named = |text: &str| status::name_pairs(cluster, text);
    match outcome {
        SwitchoverOutcome::Refused(refused) => refusal(cluster, &refused),
        SwitchoverOutcome::Undone(undone) => {
            let (code, remedy) = match undone.cause {
                UndoCause::Deadline => (
                    "flip_timed_out",
                    "end what it waited for, or give it more time (--deadline, [cluster.flip] max_pause), or --drain cut, which does not wait for open transactions; then flip again",
                ),
                UndoCause::CalledOff => ("flip_undone", ""),
                UndoCause::Error | UndoCause::Restarted => {
                    ("flip_undone", "put right what it names, then flip again")
                }
            };
            let text = format!("undone, everything is as before: {}", named(&undone.to_string()));
            ApiError::new(code, text, remedy)
        }
        SwitchoverOutcome::Undoing { undone, text } => ApiError::new(
            "flip_undoing",
            format!(
                "nobody takes writes: the flip failed ({}) and the old primary could not be made writable again: {}",
                named(&undone.to_string()),
                named(&text)
            ),
            "the daemon goes on trying; repair the old primary, or make the other pair active with --route-only after you made its primary writable",
        ),
        SwitchoverOutcome::Trouble { step, text } => ApiError::new(
            "flip_unfinished",
            format!(
                "the flip is past the point of no return and not finished; {step}: {}",
                named(&text)
            ),
            "the daemon goes on trying; look at `pairflip status` and `pairflip events`",
        ),
        SwitchoverOutcome::Planned { .. } | SwitchoverOutcome::Done { .. } => answer_to_another(),
    }
}

fn stopping() -> ApiError {
    ApiError::new("stopping", "the daemon is stopping", "start pairflipd and ask again")
}

fn left_unfinished() -> ApiError {
    ApiError::new(
        "flip_unfinished",
        "the daemon ended in the middle of the flip",
        "start pairflipd again: it finishes the flip or undoes it; then look at `pairflip status`",
    )
}

fn answer_to_another() -> ApiError {
    ApiError::new("broken", "this answer is to another question; please report this", "")
}

fn remedy(refused: &FlipRefused) -> &'static str {
    match refused {
        FlipRefused::UnknownCluster { .. } | FlipRefused::UnknownPair { .. } => {
            "see `pairflip status` for the names"
        }
        FlipRefused::Ambiguous { .. } => "name the pair with --to",
        FlipRefused::NoOtherPair => "add a pair to the configuration",
        FlipRefused::FlipRunning { .. } | FlipRefused::FailoverRunning => {
            "wait for it, then look at `pairflip status`"
        }
        FlipRefused::TargetDown { .. } => {
            "bring a backend of the pair up, or flip all the same with --force target_down: its routes refuse until a check passes"
        }
        FlipRefused::TargetTakenOut { .. } => {
            "`pairflip ready` it first, or flip all the same with --force target_taken_out: its write routes refuse until it is ready"
        }
        FlipRefused::Unmet { .. } => {
            "put right what does not hold, or name it with --force where that can be waived"
        }
        FlipRefused::NotPersisted { .. } => {
            "make room or fix permissions in state_dir; nothing was changed"
        }
        FlipRefused::NotApplied { .. } => "look at the daemon's log; the old routes are in force",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pairflip_policy::Moment;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn a_dry_run_never_moves_routes() {
        let cluster = configured();
        let flip = |route_only| FlipRequest { route_only, ..FlipRequest::default() };
        let refused = extent(&cluster, &flip(true), true).unwrap_err();
        assert_eq!(refused.code, "bad_body");
        assert_eq!(extent(&cluster, &flip(true), false), Ok(Extent::Routes));
        for dry_run in [true, false] {
            let expected = Extent::Switchover { limits: configured_limits(&cluster), dry_run };
            assert_eq!(extent(&cluster, &flip(false), dry_run), Ok(expected));
        }
    }

    #[test]
    fn the_flip_that_runs_is_called_off_and_not_one_that_waits() {
        let mut flips = PendingFlips::default();
        let mut answer = add_flip(&mut flips);
        let at = |step, can_be_called_off| SwitchoverView {
            step,
            since: Moment::from_millis(0),
            deadline: None,
            can_be_called_off,
            stuck: false,
        };
        let settling = at(SwitchoverStep::Settle, true);
        assert!(matches!(flips.call_off(CLUSTER, Some(&settling)), CallOff::Running));
        let unfencing = at(SwitchoverStep::Unfence, false);
        let too_late = flips.call_off(CLUSTER, Some(&unfencing));
        assert!(matches!(too_late, CallOff::TooLate { step: SwitchoverStep::Unfence }));
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "it waits as before");
    }

    #[test]
    fn where_none_runs_a_flip_that_waits_is_called_off_and_no_dry_run() {
        let mut flips = PendingFlips::default();
        let mut plan = add_dry_run(&mut flips);
        assert!(matches!(flips.call_off(CLUSTER, None), CallOff::Nothing));
        let _answer = add_flip(&mut flips);
        assert!(matches!(flips.call_off(ClusterId(1), None), CallOff::Nothing));
        let CallOff::Waiting(replies) = flips.call_off(CLUSTER, None) else { panic!("it waits") };
        assert!(matches!(&replies[..], [FlipReply::Done(_)]));
        assert_eq!(plan.try_recv(), Err(TryRecvError::Empty), "the dry run goes on");
    }

    #[test]
    fn the_daemons_end_tells_a_flip_that_was_begun_from_what_changed_nothing() {
        let mut flips = PendingFlips::default();
        let (begun, planned) = (add_flip(&mut flips), add_dry_run(&mut flips));
        assert_eq!(flips.take_due().len(), 2, "the policy has them");
        let waits = add_flip(&mut flips);
        flips.end();
        let code =
            |answer: Result<Result<FlipDone, ApiError>, _>| answer.unwrap().unwrap_err().code;
        assert_eq!(code(begun.blocking_recv()), "flip_unfinished");
        assert_eq!(code(waits.blocking_recv()), "stopping");
        assert_eq!(planned.blocking_recv().unwrap().unwrap_err().code, "stopping");
    }

    const CLUSTER: ClusterId = ClusterId(0);

    /// A flip that waits for check results.
    fn add_flip(flips: &mut PendingFlips) -> oneshot::Receiver<Result<FlipDone, ApiError>> {
        let (reply, answer) = oneshot::channel();
        add(flips, FlipReply::Done(reply), false);
        answer
    }

    fn add_dry_run(flips: &mut PendingFlips) -> oneshot::Receiver<Result<FlipPlan, ApiError>> {
        let (reply, answer) = oneshot::channel();
        add(flips, FlipReply::Plan(reply), true);
        answer
    }

    fn add(flips: &mut PendingFlips, reply: FlipReply, dry_run: bool) {
        let limits = configured_limits(&configured());
        let extent = Extent::Switchover { limits, dry_run };
        let force = BTreeSet::new();
        let asked = Asked { cluster: CLUSTER, to: None, drain: None, force, extent };
        flips.add(asked, reply, BTreeSet::new(), Instant::now());
    }

    fn configured() -> config::Cluster {
        let text = r#"
            daemon.interfaces = ["eth0"]
            [[cluster]]
            name = "main"
            check = { user = "pairflip", password_file = "p" }
            route = [{ name = "writes", vip = "10.0.0.100:3306", access = "write" }]
            pair = [
                { name = "a", primary = "10.0.1.11:3306", replicas = ["10.0.1.12:3306"] },
                { name = "b", primary = "10.0.1.21:3306", replicas = ["10.0.1.22:3306"] },
            ]
        "#;
        let secrets = |_: &Path| Ok("secret".to_owned());
        config::parse(text, Path::new("pairflip.toml"), &secrets).unwrap().clusters.remove(0)
    }
}
