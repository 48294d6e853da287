//! Specs and check results that the tests share.

use std::time::Duration;

use pairflip_policy::{
    Access, BackendId, Cause, Channel, CheckFailure, CheckResult, ClusterId, ClusterSpec, Drain,
    Facts, Failback, Failover, PairId, PairSpec, RouteId, RouteSpec, Share, StandbyReplicas,
};

pub(crate) const WRITES: RouteId = RouteId(0);
pub(crate) const READS: RouteId = RouteId(1);

/// Returns a cluster with one write and one read route. Backends are numbered from `first`, pair by
/// pair, primary first.
pub(crate) fn cluster(id: u16, first: u16, pairs: u16, replicas: u16) -> ClusterSpec {
    let pairs = (0..pairs).map(|pair| {
        let primary = first + pair * (1 + replicas);
        PairSpec {
            id: PairId(pair),
            name: format!("pair{}", pair + 1),
            primary: BackendId(primary),
            replicas: (1..=replicas)
                .map(|replica| Share { backend: BackendId(primary + replica), weight: 100 })
                .collect(),
        }
    });
    ClusterSpec {
        id: ClusterId(id),
        name: format!("cluster{id}"),
        rise: 2,
        fall: 3,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_millis(500),
        max_lag: Duration::from_secs(10),
        slow_start: Duration::ZERO,
        hold_off: Duration::ZERO,
        drain: Drain::Finish,
        drain_deadline: None,
        failover: Failover::Manual,
        routes: vec![route(WRITES, "writes", Access::Write), route(READS, "reads", Access::Read)],
        pairs: pairs.collect(),
    }
}

/// Returns the answer of a server that replicates from one source with this lag; `None`: its
/// threads are stopped.
#[allow(dead_code, reason = "not every file of tests needs it")]
pub(crate) fn answered(read_only: bool, lag_s: Option<u64>) -> CheckResult {
    let channel = Channel {
        name: String::new(),
        io_running: lag_s.is_some(),
        sql_running: true,
        lag: lag_s.map(Duration::from_secs),
        ..Channel::default()
    };
    CheckResult::Answered(Facts {
        read_only,
        server_id: 1,
        version: "11.8.3-MariaDB".into(),
        replication: vec![channel],
        ..Facts::default()
    })
}

pub(crate) fn failed(cause: Cause) -> CheckResult {
    CheckResult::Failed(CheckFailure { cause, text: String::new() })
}

fn route(id: RouteId, name: &str, access: Access) -> RouteSpec {
    RouteSpec {
        id,
        name: name.into(),
        access,
        min_replicas: 1,
        failback: Failback::NewConnections,
        standby_replicas: StandbyReplicas::Never,
    }
}
