//! Routing: where a route's new connections go, given what is known about the backends of one pair.
//!
//! Pure functions; who calls them when, and what the kernel holds meanwhile, is the cluster's
//! business.

use std::collections::BTreeMap;

use crate::{
    backend::Backend,
    health::Verdict,
    ids::BackendId,
    input::{Access, Admin, PairSpec, Role, RouteSpec, StandbyReplicas},
    output::{RouteTarget, Share},
    reason::RouteReason,
};

/// Where a route goes and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) target: RouteTarget,
    pub(crate) reason: RouteReason,
}

impl Answer {
    const fn forward(backends: Vec<Share>, reason: RouteReason) -> Self {
        Self { target: RouteTarget::Forward { backends }, reason }
    }

    const fn refuse(reason: RouteReason) -> Self {
        Self { target: RouteTarget::Refuse { reason }, reason }
    }
}

impl Answer {
    /// Reads stay where they are.
    pub(crate) fn kept(primary: BackendId) -> Self {
        Self::forward(vec![Share::primary(primary)], RouteReason::FailbackOff)
    }

    /// Writes stay where they are: new connections are paused in the kernel.
    pub(crate) fn paused(primary: BackendId) -> Self {
        Self::forward(vec![Share::primary(primary)], RouteReason::SwitchingOver)
    }

    /// Returns whether this keeps a route from going elsewhere.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        !self.target.backends().eq(other.target.backends())
    }
}

pub(crate) type Backends = BTreeMap<BackendId, Backend>;

/// Returns where a route of this access goes.
///
/// `presumed` are the backends that the kernel forwarded this route to at the start: they count as
/// fit until the checks come to a verdict, so that a restart of the daemon changes nothing by
/// itself.
pub(crate) fn answer(
    route: &RouteSpec,
    pair: &PairSpec,
    pairs: &[PairSpec],
    backends: &Backends,
    presumed: &[BackendId],
) -> Answer {
    match route.access {
        Access::Write => write_answer(&backends[&pair.primary], presumed),
        Access::Read => {
            let standbys = match route.standby_replicas {
                StandbyReplicas::Never => Vec::new(),
                StandbyReplicas::Fallback | StandbyReplicas::Always => {
                    standby_replicas(pair, pairs, backends, presumed)
                }
            };
            read_answer(route, pair, &standbys, backends, presumed)
        }
    }
}

/// Returns the fit replicas of the pairs that are not active: alive, replicating, and behind a primary that replicates.
fn standby_replicas(
    active: &PairSpec,
    pairs: &[PairSpec],
    backends: &Backends,
    presumed: &[BackendId],
) -> Vec<Share> {
    let is_fit = |verdict: Verdict, id: BackendId| match verdict {
        Verdict::Up => true,
        Verdict::None => presumed.contains(&id),
        Verdict::Down => false,
    };
    let mut shares = Vec::new();
    for pair in pairs.iter().filter(|pair| pair.id != active.id) {
        let upstream = backends[&pair.primary].replica_verdict();
        shares.extend(pair.replicas.iter().copied().filter(|Share { backend, .. }| {
            let replica = &backends[backend];
            // One that is not asked cannot be known to follow.
            let is_passed_on = is_fit(upstream, *backend);
            let is_there = replica.is_ready() && !replica.damping.waits();
            is_passed_on && is_there && is_fit(replica.read_verdict(), *backend)
        }));
    }
    shares
}

fn write_answer(primary: &Backend, presumed: &[BackendId]) -> Answer {
    if primary.admin != Admin::Ready {
        return Answer::refuse(RouteReason::PrimaryTakenOut);
    }
    if primary.conditions.maintenance().is_some() {
        return Answer::refuse(RouteReason::PrimaryMaintenance);
    }
    let forward = |reason| Answer::forward(vec![Share::primary(primary.id)], reason);
    let is_presumed = presumed.contains(&primary.id);
    match (primary.health.verdict(), primary.read_verdict()) {
        // One look at `read_only` is enough, without counting: a write to a fenced server must not
        // be tried.
        (Verdict::Up, _) if primary.read_only() == Some(true) => {
            Answer::refuse(RouteReason::PrimaryReadOnly)
        }
        (Verdict::Up, Verdict::Down) => Answer::refuse(RouteReason::PrimaryUnfit),
        (Verdict::Up, _) if primary.read_only().is_none() && !primary.is_unasked() => {
            Answer::refuse(RouteReason::PrimaryUndecided)
        }
        (Verdict::Up, Verdict::Up) if primary.is_unasked() => forward(RouteReason::PrimaryUp),
        (Verdict::Up, Verdict::Up) => forward(RouteReason::PrimaryWritable),
        (Verdict::None, Verdict::Down) => Answer::refuse(RouteReason::PrimaryUnfit),
        (Verdict::Up | Verdict::None, Verdict::None | Verdict::Up) if is_presumed => {
            forward(RouteReason::Restored)
        }
        (Verdict::None, _) if primary.checked_at.is_none() => {
            Answer::refuse(RouteReason::Unchecked)
        }
        (Verdict::Up | Verdict::None, Verdict::None | Verdict::Up) => {
            Answer::refuse(RouteReason::PrimaryUndecided)
        }
        (Verdict::Down, _) => Answer::refuse(RouteReason::PrimaryDown),
    }
}

fn read_answer(
    route: &RouteSpec,
    pair: &PairSpec,
    standbys: &[Share],
    backends: &Backends,
    presumed: &[BackendId],
) -> Answer {
    let mut replicas_presumed = false;
    let ready: Vec<Share> =
        pair.replicas.iter().copied().filter(|share| backends[&share.backend].is_ready()).collect();
    let mut replicas = ready.clone();
    replicas.retain(|share| match backends[&share.backend].read_verdict() {
        Verdict::Up => true,
        Verdict::None if presumed.contains(&share.backend) => {
            replicas_presumed = true;
            true
        }
        Verdict::None | Verdict::Down => false,
    });
    let primary = &backends[&pair.primary];
    let is_primary_fit = primary.is_ready() && primary.read_verdict() == Verdict::Up;
    let flapping = |share: &Share| backends[&share.backend].damping.waits();
    let (waiting, mut replicas): (Vec<Share>, Vec<Share>) =
        replicas.into_iter().partition(flapping);
    let is_whole = replicas.len() == pair.replicas.len();
    let min_replicas = route.min_replicas as usize;
    let is_helped = route.standby_replicas == StandbyReplicas::Fallback
        && replicas.len() < min_replicas
        && !standbys.is_empty();
    if is_helped || route.standby_replicas == StandbyReplicas::Always {
        replicas_presumed |=
            standbys.iter().any(|it| backends[&it.backend].read_verdict() == Verdict::None);
        replicas.extend(standbys);
    }
    if !replicas.is_empty() && replicas.len() < min_replicas && is_primary_fit {
        replicas = warmed(replicas, backends);
        replicas.push(Share::primary(primary.id));
        return Answer::forward(replicas, RouteReason::TooFewReplicas);
    }
    if !replicas.is_empty() {
        let reason = if replicas_presumed {
            RouteReason::Restored
        } else if is_helped {
            RouteReason::StandbyReplicas
        } else if is_whole {
            RouteReason::ReplicasFit
        } else {
            RouteReason::SomeReplicasFit
        };
        return Answer::forward(warmed(replicas, backends), reason);
    }
    let is_cut_off = |share: &Share| is_cut_off(&backends[&share.backend]);
    let is_primary_gone =
        primary.admin != Admin::Ready || primary.health.verdict() == Verdict::Down;
    let verdict = if primary.is_ready() { primary.read_verdict() } else { Verdict::Down };
    match verdict {
        Verdict::Up => Answer::forward(vec![Share::primary(primary.id)], RouteReason::NoReplicaFit),
        Verdict::None if presumed.contains(&primary.id) => {
            Answer::forward(vec![Share::primary(primary.id)], RouteReason::Restored)
        }
        Verdict::None | Verdict::Down if !waiting.is_empty() => {
            Answer::forward(waiting, RouteReason::ReplicasFlapping)
        }
        Verdict::Down if is_primary_gone && ready.iter().any(is_cut_off) => {
            let mut replicas = ready;
            replicas.retain(is_cut_off);
            Answer::forward(replicas, RouteReason::PrimaryDownReplicasCutOff)
        }
        Verdict::None | Verdict::Down => {
            let is_checked = |id| {
                let backend: &Backend = &backends[&id];
                backend.admin == Admin::Maint || backend.checked_at.is_some()
            };
            Answer::refuse(if pair.backends().all(is_checked) {
                RouteReason::NoBackendFit
            } else {
                RouteReason::Unchecked
            })
        }
    }
}

/// Returns the shares as they are now: a replica in its slow start gets a part of its weight.
fn warmed(mut shares: Vec<Share>, backends: &Backends) -> Vec<Share> {
    // The only one gets everything, whatever its weight; the configured one says so in the status.
    if shares.len() > 1 {
        for share in &mut shares {
            share.weight = backends[&share.backend].warmth.of(share.weight);
        }
    }
    shares
}

/// Returns whether a table has a read route's primary serve alone in place of its replicas.
pub(crate) fn is_fallback(target: &RouteTarget, route: &RouteSpec, pair: &PairSpec) -> bool {
    route.access == Access::Read && target.backends().eq([pair.primary])
}

/// Returns whether a replica is unfit for no other reason than that its primary is gone: it is alive
/// and has applied, or is applying, all that it received. Nobody in the pair has anything newer.
fn is_cut_off(replica: &Backend) -> bool {
    replica.health.verdict() == Verdict::Up
        && replica.conditions.verdict(Role::Replica) != Verdict::Down
        && replica.facts.as_ref().is_some_and(|facts| {
            let channels = &facts.replication;
            channels.iter().any(|channel| !channel.io_running)
                && channels.iter().all(|channel| channel.sql_running)
        })
}

/// Returns whether a first table may say this, or should wait for more first results.
///
/// Without the wait, a start would send reads to the primary for the few milliseconds until the
/// replica's first result, and pooled connections would stay there.
pub(crate) fn is_decided(answer: &Answer, pair: &PairSpec, backends: &Backends) -> bool {
    match answer.reason {
        RouteReason::Unchecked => false,
        RouteReason::NoReplicaFit | RouteReason::TooFewReplicas | RouteReason::StandbyReplicas => {
            pair.replicas.iter().all(|share| {
                let replica = &backends[&share.backend];
                !replica.is_ready() || replica.checked_at.is_some()
            })
        }
        RouteReason::Restored
        | RouteReason::PrimaryWritable
        | RouteReason::PrimaryDown
        | RouteReason::PrimaryUndecided
        | RouteReason::PrimaryReadOnly
        | RouteReason::PrimaryTakenOut
        | RouteReason::PrimaryUp
        | RouteReason::PrimaryUnfit
        | RouteReason::PrimaryMaintenance
        | RouteReason::SwitchingOver
        | RouteReason::ReplicasFit
        | RouteReason::SomeReplicasFit
        | RouteReason::FailbackOff
        | RouteReason::ReplicasFlapping
        | RouteReason::PrimaryDownReplicasCutOff
        | RouteReason::NoBackendFit => true,
    }
}

#[cfg(test)]
mod tests {
    use std::{slice, time::Duration};

    use super::*;
    use crate::{
        damping::Damping,
        health::Health,
        ids::{PairId, RouteId},
        input::{Channel, Facts, Failback},
        moment::Moment,
    };

    const PRIMARY: u16 = 0;

    #[test]
    fn a_write_route_goes_to_a_writable_primary() {
        check_write("up rw", &[], "0 primary_writable");
        check_write("falling rw", &[], "0 primary_writable");
    }

    #[test]
    fn a_write_route_refuses_a_read_only_primary_at_once() {
        check_write("up ro", &[], "refuse primary_read_only");
        check_write("falling ro", &[], "refuse primary_read_only");
        check_write("up ro", &[PRIMARY], "refuse primary_read_only");
    }

    #[test]
    fn a_write_route_refuses_a_primary_that_is_not_up() {
        check_write("down rw", &[], "refuse primary_down");
        check_write("rising rw", &[], "refuse primary_down");
        check_write("down rw", &[PRIMARY], "refuse primary_down");
        check_write("new", &[], "refuse unchecked");
        check_write("unknown", &[], "refuse primary_undecided");
        check_write("up", &[], "refuse primary_undecided");
    }

    #[test]
    fn a_restored_write_route_stays_until_the_verdict() {
        check_write("new", &[PRIMARY], "0 restored");
        check_write("unknown", &[PRIMARY], "0 restored");
    }

    #[test]
    fn reads_go_to_the_fit_replicas() {
        check_read("up rw", ["up fit", "up fit"], &[], "1,2 replicas_fit");
        check_read("down rw", ["up fit", "falling fit"], &[], "1,2 replicas_fit");
        check_read("up rw", ["up unfit", "up fit"], &[], "2 some_replicas_fit");
        check_read("up rw", ["down unfit", "up fit"], &[], "2 some_replicas_fit");
    }

    #[test]
    fn reads_fall_back_to_the_primary_when_no_replica_is_fit() {
        check_read("up rw", ["up unfit", "down unfit"], &[], "0 no_replica_fit");
        check_read("up ro", ["rising fit", "down unfit"], &[], "0 no_replica_fit");
    }

    #[test]
    fn reads_stay_on_replicas_that_only_lost_their_dead_primary() {
        let cut_off = "1 primary_down_replicas_cut_off";
        check_read("down rw", ["up unfit cut-off", "up unfit"], &[], cut_off);
        check_read("down rw", ["up unfit cut-off", "down unfit cut-off"], &[], cut_off);
        check_read("down rw", ["up unfit stopped", "down unfit"], &[], "refuse no_backend_fit");
        check_read("up rw", ["up unfit cut-off", "up unfit"], &[], "0 no_replica_fit");
    }

    #[test]
    fn reads_are_refused_when_no_backend_is_fit() {
        check_read("down rw", ["up unfit", "down unfit"], &[], "refuse no_backend_fit");
        check_read("unknown", ["unknown", "unknown"], &[], "refuse no_backend_fit");
        check_read("new", ["unknown", "unknown"], &[], "refuse unchecked");
    }

    #[test]
    fn restored_reads_stay_until_the_verdict_and_leave_what_is_down() {
        check_read("new", ["new", "new"], &[1, 2], "1,2 restored");
        check_read("up rw", ["up fit", "new"], &[1, 2], "1,2 restored");
        check_read("up rw", ["down unfit", "unknown"], &[1, 2], "2 restored");
        check_read("new", ["new", "new"], &[0], "0 restored");
        check_read("up rw", ["up fit", "new"], &[0], "1 some_replicas_fit");
        check_read("up rw", ["down unfit", "down unfit"], &[1, 2], "0 no_replica_fit");
    }

    #[test]
    fn a_first_table_waits_for_the_first_result_of_every_replica_before_a_fallback() {
        let (pair, backends) = pair_of(["up rw", "new", "up unfit"]);
        let fallback =
            answer(&route(Access::Read, 1), &pair, slice::from_ref(&pair), &backends, &[]);
        assert!(!is_decided(&fallback, &pair, &backends), "{fallback:?}");
        let (pair, backends) = pair_of(["up rw", "unknown", "up unfit"]);
        let fallback =
            answer(&route(Access::Read, 1), &pair, slice::from_ref(&pair), &backends, &[]);
        assert!(is_decided(&fallback, &pair, &backends), "{fallback:?}");
    }

    #[test]
    fn the_primary_helps_when_too_few_replicas_are_fit() {
        let check = |primary, replicas: [&str; 2], expected: &str| {
            let (pair, backends) = pair_of([primary, replicas[0], replicas[1]]);
            let answer =
                answer(&route(Access::Read, 2), &pair, slice::from_ref(&pair), &backends, &[]);
            assert_eq!(described(&answer), expected);
        };
        check("up rw", ["up fit", "up fit"], "1,2 replicas_fit");
        check("up rw", ["up fit", "down unfit"], "1,0 too_few_replicas");
        check("down rw", ["up fit", "down unfit"], "1 some_replicas_fit");
        check("up rw", ["down unfit", "down unfit"], "0 no_replica_fit");
    }

    #[test]
    fn replicas_that_flap_serve_only_when_there_is_nothing_else() {
        check_read("up rw", ["up fit flapping", "up fit"], &[], "2 some_replicas_fit");
        check_read("up rw", ["up fit flapping", "down unfit"], &[], "0 no_replica_fit");
        check_read("down rw", ["up fit flapping", "down unfit"], &[], "1 replicas_flapping");
        check_read("down rw", ["up unfit flapping", "down unfit"], &[], "refuse no_backend_fit");
    }

    #[test]
    fn replicas_of_standby_pairs_serve_where_they_are_wanted_and_follow() {
        use StandbyReplicas::{Always, Fallback, Never};
        let check = |wanted, active: [&str; 3], standby: [&str; 3], expected: &str| {
            let (pair, backends) = pair_of(active);
            let (other, others) = pair_from(10, standby);
            let backends = backends.into_iter().chain(others).collect();
            let route = RouteSpec { standby_replicas: wanted, ..route(Access::Read, 1) };
            let pairs = [pair.clone(), other];
            let answer = answer(&route, &pair, &pairs, &backends, &[]);
            assert_eq!(described(&answer), expected, "{wanted:?} {active:?} {standby:?}");
        };
        let (fit, ill) = (["up rw", "up fit", "up fit"], ["up rw", "up unfit", "down unfit"]);
        let standby = ["up ro fit", "up fit", "up unfit"];
        check(Always, fit, standby, "1,2,11 replicas_fit");
        check(Fallback, fit, standby, "1,2 replicas_fit");
        check(Fallback, ill, standby, "11 standby_replicas");
        check(Never, ill, standby, "0 no_replica_fit");
        check(Always, ill, standby, "11 some_replicas_fit");
        // What the standby primary does not have, its replicas have not either.
        for upstream in ["up ro unfit", "down ro fit", "unknown ro fit"] {
            check(Always, fit, [upstream, "up fit", "up fit"], "1,2 replicas_fit");
            check(Fallback, ill, [upstream, "up fit", "up fit"], "0 no_replica_fit");
        }
        check(Fallback, ill, ["up ro fit", "up fit flapping", "down fit"], "0 no_replica_fit");
    }

    fn route(access: Access, min_replicas: u32) -> RouteSpec {
        RouteSpec {
            id: RouteId(0),
            name: String::new(),
            access,
            min_replicas,
            failback: Failback::NewConnections,
            standby_replicas: StandbyReplicas::Never,
        }
    }

    fn check_write(primary: &str, presumed: &[u16], expected: &str) {
        let (pair, backends) = pair_of([primary, "up fit", "up fit"]);
        check(Access::Write, &pair, &backends, presumed, expected);
    }

    fn check_read(primary: &str, replicas: [&str; 2], presumed: &[u16], expected: &str) {
        let (pair, backends) = pair_of([primary, replicas[0], replicas[1]]);
        check(Access::Read, &pair, &backends, presumed, expected);
    }

    fn check(
        access: Access,
        pair: &PairSpec,
        backends: &Backends,
        presumed: &[u16],
        expected: &str,
    ) {
        let presumed: Vec<_> = presumed.iter().map(|&id| BackendId(id)).collect();
        let answer = answer(&route(access, 1), pair, slice::from_ref(pair), backends, &presumed);
        assert_eq!(described(&answer), expected);
    }

    fn described(answer: &Answer) -> String {
        let target = match &answer.target {
            RouteTarget::Forward { backends } => {
                let ids: Vec<_> =
                    backends.iter().map(|share| share.backend.0.to_string()).collect();
                ids.join(",")
            }
            RouteTarget::Refuse { .. } => "refuse".to_string(),
        };
        format!("{target} {}", answer.reason.name())
    }

    /// Backends 0 (primary), 1 and 2 (replicas), each described by health and then `rw`, `ro`,
    /// `fit` or `unfit`; `cut-off` lost its source, `stopped` its SQL thread as well.
    fn pair_of(descriptions: [&str; 3]) -> (PairSpec, Backends) {
        pair_from(PRIMARY, descriptions)
    }

    fn pair_from(first: u16, descriptions: [&str; 3]) -> (PairSpec, Backends) {
        let replica = |id| Share { backend: BackendId(first + id), weight: 100 };
        let pair = PairSpec {
            id: PairId(first),
            name: "pair1".into(),
            primary: BackendId(first),
            replicas: [1, 2].map(replica).into(),
        };
        let backends = pair.backends().zip(descriptions).map(|(id, text)| (id, backend(id, text)));
        let backends = backends.collect();
        (pair, backends)
    }

    fn flapping() -> Damping {
        let steps = [Verdict::Up, Verdict::Down, Verdict::Up, Verdict::Down];
        let times = (1..).map(Moment::from_millis);
        steps.into_iter().zip(times).fold(Damping::NEW, |damping, (verdict, now)| {
            damping.after(verdict, Duration::from_secs(10), now)
        })
    }

    fn backend(id: BackendId, description: &str) -> Backend {
        let role = if id.0.is_multiple_of(10) { Role::Primary } else { Role::Replica };
        let mut backend = Backend::new(id, PairId(0), role);
        for word in description.split(' ') {
            backend.health = match word {
                "unknown" => Health::Unknown { failures: 1 },
                "up" => Health::Up,
                "falling" => Health::Falling { failures: 1 },
                "down" => Health::Down,
                "rising" => Health::Rising { passes: 1 },
                _ => backend.health,
            };
            match word {
                "fit" => backend.fitness = Health::Up,
                "unfit" => backend.fitness = Health::Down,
                "flapping" => backend.damping = flapping(),
                "cut-off" | "stopped" => {
                    backend.facts = Some(Facts {
                        read_only: true,
                        replication: vec![Channel {
                            sql_running: word == "cut-off",
                            ..Channel::default()
                        }],
                        ..Facts::default()
                    });
                }
                "rw" | "ro" => {
                    backend.facts = Some(Facts { read_only: word == "ro", ..Facts::default() });
                }
                _ => {}
            }
            if word != "new" {
                backend.checked_at = Some(Moment::START + Duration::from_secs(1));
            }
        }
        backend
    }
}
