//! Replication as configured against as found. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use pairflip_policy::{Channel, IoThread, Role};

use super::{
    Finding,
    server::{Answer, Server},
};
use crate::config::Cluster;

/// Servers of the cluster that answered, with what they said.
type Answers<'a> = Vec<(&'a Server, &'a Answer)>;

/// Judges what the servers of a cluster say about each other.
pub(super) fn judge(cluster: &Cluster, servers: &[Server]) -> Vec<Finding> {
    let answers: Answers<'_> = servers
        .iter()
        .filter_map(|server| Some((server, server.answer.as_ref().ok()?)))
        // Those that are not logged in to say nothing of the kind.
        .filter(|(_, answer)| !answer.facts.version.is_empty())
        .collect();
    let mut findings = server_ids(&answers);
    findings.extend(answers.iter().flat_map(|(server, answer)| channels(cluster, server, answer)));
    findings.extend(sources(&answers));
    findings.extend(ways(&answers));
    findings.extend(logs(&answers));
    findings.extend(modes(&answers));
    findings.extend(versions(&answers));
    findings
}

fn server_ids(answers: &Answers<'_>) -> Vec<Finding> {
    let mut firsts: BTreeMap<u32, &Server> = BTreeMap::new();
    let mut findings = Vec::new();
    for (server, answer) in answers {
        let id = answer.facts.server_id;
        match firsts.get(&id) {
            None => _ = firsts.insert(id, server),
            Some(first) => findings.push(Finding::error(
                server,
                format!("its server_id {id} is that of {first} as well, so neither applies what the other wrote"),
                "give each server an id of its own (server_id in its configuration)",
            )),
        }
    }
    findings
}

/// Threads, lag and deliberate delay of each channel.
fn channels(cluster: &Cluster, server: &Server, answer: &Answer) -> Vec<Finding> {
    let max_lag = cluster.check.max_lag;
    let mut findings = Vec::new();
    for channel in &answer.facts.replication {
        let from = format!("replication from {}{}", channel.upstream.address, named(channel));
        if !channel.io_running {
            let why = match channel.upstream.io_thread {
                IoThread::Connecting { error: 0 } => "is connecting".to_owned(),
                IoThread::Connecting { error } => format!("cannot connect (error {error})"),
                IoThread::Stopped { error: 0 } => "is stopped".to_owned(),
                IoThread::Stopped { error } => format!("stopped with error {error}"),
                IoThread::Running | IoThread::Unknown => "does not run".to_owned(),
            };
            findings.push(Finding::error(
                server,
                format!("{from}: the IO thread {why}"),
                "see Last_IO_Error in its replication status, and start it again",
            ));
        }
        if !channel.sql_running {
            findings.push(Finding::error(
                server,
                format!("{from}: the SQL thread does not run, so nothing is applied"),
                "see Last_SQL_Error in its replication status, repair what it names, and start it again",
            ));
        }
        if let Some(lag) = channel.lag.filter(|lag| *lag > max_lag) {
            findings.push(Finding::warning(
                server,
                format!(
                    "{from}: it lags {}s, and max_lag is {}s",
                    lag.as_secs(),
                    max_lag.as_secs()
                ),
                "reads go elsewhere and no failover leads there until it has caught up",
            ));
        }
        if !channel.upstream.delay.is_zero() {
            findings.push(Finding::warning(
                server,
                format!("{from} is delayed by {}s on purpose", channel.upstream.delay.as_secs()),
                "take the delay off, or this server out of the configuration: it always lags",
            ));
        }
    }
    findings
}

fn named(channel: &Channel) -> String {
    if channel.name.is_empty() { String::new() } else { format!(" (channel {:?})", channel.name) }
}

/// The servers that a server replicates from, as far as they are of this cluster.
fn upstreams<'a>(answers: &Answers<'a>, answer: &Answer) -> Vec<&'a Server> {
    let is_source = |(server, of): &&(&Server, &Answer)| {
        answer.facts.replication.iter().any(|channel| {
            // Known by the name that it was given, or by who answered there: names are not resolved.
            channel.upstream.address == server.address.to_string()
                || (channel.upstream.server_id != 0
                    && channel.upstream.server_id == of.facts.server_id)
        })
    };
    answers.iter().filter(is_source).map(|(server, _)| *server).collect()
}

/// Whether each replica replicates from its own primary, and each primary from somebody.
fn sources(answers: &Answers<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (server, answer) in answers {
        let found = upstreams(answers, answer);
        let primary = answers
            .iter()
            .map(|(other, _)| *other)
            .find(|other| other.pair == server.pair && other.role == Role::Primary);
        match (server.role, primary) {
            (Role::Replica, Some(primary))
                if !found.iter().any(|it| it.address == primary.address) =>
            {
                let from = match &answer.facts.replication[..] {
                    [] => "nobody".to_owned(),
                    channels => channels
                        .iter()
                        .map(|channel| channel.upstream.address.clone())
                        .collect::<Vec<_>>()
                        .join(", "),
                };
                findings.push(Finding::error(
                    server,
                    format!("it replicates from {from}, and not from {primary}"),
                    "point its replication at its pair's primary (CHANGE REPLICATION SOURCE TO, CHANGE MASTER TO), or correct the configuration",
                ));
            }
            (Role::Primary | Role::Replica, _) => {}
        }
    }
    findings
}

/// Whether writes of each primary reach every other one.
fn ways(answers: &Answers<'_>) -> Vec<Finding> {
    let primaries: Vec<&Server> = answers
        .iter()
        .map(|(server, _)| *server)
        .filter(|server| server.role == Role::Primary)
        .collect();
    let mut findings = Vec::new();
    for target in &primaries {
        let reached_from = ancestors(answers, target.address);
        for source in primaries.iter().filter(|source| source.address != target.address) {
            if !reached_from.contains(&source.address) {
                findings.push(Finding::error(
                    target,
                    format!("writes made on {source} do not reach it"),
                    "let the primaries replicate from each other (CHANGE REPLICATION SOURCE TO, CHANGE MASTER TO): a flip would lead to old data",
                ));
            }
        }
    }
    findings
}

/// Every server whose writes reach this one.
fn ancestors(answers: &Answers<'_>, of: SocketAddr) -> BTreeSet<SocketAddr> {
    let mut found = BTreeSet::new();
    let mut open = vec![of];
    while let Some(address) = open.pop() {
        let answer = answers.iter().find(|(server, _)| server.address == address);
        for source in answer.map(|(_, answer)| upstreams(answers, answer)).unwrap_or_default() {
            if found.insert(source.address) {
                open.push(source.address);
            }
        }
    }
    found
}

/// Whether primaries write a binary log, and pass on what they replicate.
fn logs(answers: &Answers<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (server, answer) in answers.iter().filter(|(server, _)| server.role == Role::Primary) {
        if answer.is_on(&["log_bin"]) == Some(false) {
            findings.push(Finding::error(
                server,
                "it writes no binary log (log_bin is off), so nobody can replicate from it",
                "set log_bin in its configuration and restart it",
            ));
        } else if answer.is_on(&["log_replica_updates", "log_slave_updates"]) == Some(false) {
            findings.push(Finding::error(
                server,
                "it does not pass on what it replicates (log_slave_updates is off), so its replicas miss the writes of the other pairs",
                "set log_slave_updates (MySQL 8.0.26 and later: log_replica_updates) in its configuration and restart it",
            ));
        }
        if answer.variables.get("gtid_mode").is_some_and(|mode| mode != "ON") {
            findings.push(Finding::warning(
                server,
                "gtid_mode is not ON",
                "turn GTIDs on: without them nobody can compare what two servers have when one of them is gone",
            ));
        }
    }
    findings
}

/// Whether one primary is writable, and no replica.
fn modes(answers: &Answers<'_>) -> Vec<Finding> {
    let is_writable = |role: Role| {
        move |(server, answer): &&(&Server, &Answer)| server.role == role && !answer.facts.read_only
    };
    let mut findings: Vec<Finding> = answers
        .iter()
        .filter(is_writable(Role::Replica))
        .map(|(server, _)| {
            Finding::warning(
                server,
                "it is writable: whoever connects to it can change what its primary does not know of",
                "SET GLOBAL read_only = 1 (MySQL: super_read_only = 1), and the same in its configuration",
            )
        })
        .collect();
    let writable: Vec<String> =
        answers.iter().filter(is_writable(Role::Primary)).map(|(it, _)| it.to_string()).collect();
    let primaries = answers.iter().filter(|(server, _)| server.role == Role::Primary).count();
    match &writable[..] {
        [_] => {}
        [] if primaries == 0 => {}
        [] => findings.push(Finding::warning(
            "the primaries",
            "none of them is writable, so write routes will refuse",
            "SET GLOBAL read_only = 0 on the active one",
        )),
        several => findings.push(Finding::warning(
            "the primaries",
            format!("{} are writable at the same time", several.join(" and ")),
            "fence those of the standby pairs: SET GLOBAL read_only = 1 (MySQL: super_read_only = 1), and the same in their configuration, so that none comes back writable after a crash",
        )),
    }
    findings
}

/// Whether anybody replicates from a newer release than its own.
fn versions(answers: &Answers<'_>) -> Vec<Finding> {
    let release = |answer: &Answer| {
        let number = crate::check::dialect::number(&answer.facts.version)?;
        Some((number[0], number[1]))
    };
    let mut findings = Vec::new();
    for (server, answer) in answers {
        for source in upstreams(answers, answer) {
            let of = answers.iter().find(|(other, _)| other.address == source.address);
            let Some((_, of)) = of else { continue };
            if of.is_mariadb == answer.is_mariadb && release(answer) < release(of) {
                findings.push(Finding::warning(
                    server,
                    format!(
                        "it is {}, and older than its source {source}, which is {}",
                        answer.facts.version, of.facts.version
                    ),
                    "upgrade replicas first: replication from a newer release to an older one may break at any statement",
                ));
            }
        }
    }
    findings
}
