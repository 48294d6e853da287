//! The status in Prometheus' text format. Pure.

use std::fmt::Write as _;

use crate::control::protocol::{
    AdminState, BackendStatus, ClusterStatus, DrainStatus, PairStatus, Status, TrafficStatus,
};

/// Of the text format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Samples of one metric: labels and value. `None` leaves a sample out, as what is not known has
/// no number.
type Sample = (String, Option<f64>);

pub(super) fn render(status: &Status) -> String {
    let mut text = String::new();
    daemon(&mut text, status);
    clusters(&mut text, &status.clusters);
    backends(&mut text, &status.clusters);
    text
}

fn daemon(text: &mut String, status: &Status) {
    let daemon = &status.daemon;
    let info = labels(&[("version", &daemon.version)]);
    metric(
        text,
        "pairflip_info",
        "gauge",
        "1; the label says which version runs.",
        [(info, Some(1.0))],
    );
    for (name, help, value) in [
        ("pairflip_uptime_seconds", "Time since the daemon's start.", daemon.uptime_seconds),
        ("pairflip_flows", "Flows past the handshake.", daemon.flows),
        ("pairflip_flows_max", "Flows that fit; beyond, new ones are refused.", daemon.flows_max),
        ("pairflip_half_open", "Connections in their handshake.", daemon.half_open),
        (
            "pairflip_half_open_max",
            "Connections in their handshake that fit; beyond, the oldest is forgotten.",
            daemon.half_open_max,
        ),
    ] {
        metric(text, name, "gauge", help, [(String::new(), Some(value as f64))]);
    }
    let native = daemon.interfaces.iter().map(|interface| {
        (labels(&[("interface", &interface.name)]), flag(interface.attach == "native"))
    });
    let help = "1 where the program runs in the driver, 0 in the slower generic path.";
    metric(text, "pairflip_interface_native", "gauge", help, native);
    let hooks = daemon.hooks.iter().flat_map(|hook| {
        [("done", hook.done), ("failed", hook.failed), ("lost", hook.lost)].map(
            |(outcome, count)| {
                let labels = labels(&[("hook", &hook.name), ("outcome", outcome)]);
                (labels, Some(count as f64))
            },
        )
    });
    let help = "Events of a hook by what became of them; lost ones found its queue full.";
    metric(text, "pairflip_hook_events_total", "counter", help, hooks);
    let packets = daemon
        .counters
        .iter()
        .map(|(reason, count)| (labels(&[("reason", reason)]), Some(*count as f64)));
    let help = "Packets by what became of them.";
    metric(text, "pairflip_packets_total", "counter", help, packets);
}

fn clusters(text: &mut String, clusters: &[ClusterStatus]) {
    let per_cluster = |value: fn(&ClusterStatus) -> Option<f64>| {
        clusters.iter().map(move |cluster| (labels(&[("cluster", &cluster.name)]), value(cluster)))
    };
    let help = "Grows by one with each change of the cluster's route table.";
    let generations = per_cluster(|cluster| Some(f64::from(cluster.generation)));
    metric(text, "pairflip_route_generation", "gauge", help, generations);
    let help = "1 while nothing is heard from any backend, so routes stay as they are.";
    let failing = per_cluster(|cluster| flag(cluster.checks.is_some()));
    metric(text, "pairflip_checks_failing", "gauge", help, failing);

    let help = "1 while another pair would take over if the active primary failed; absent with failover = \"manual\".";
    let possible = per_cluster(|cluster| {
        flag(cluster.failover.possible).filter(|_| cluster.failover.mode == "auto")
    });
    metric(text, "pairflip_failover_possible", "gauge", help, possible);
    let help = "When the last failover was decided, in seconds since 1970; absent where none was.";
    let last = per_cluster(|cluster| cluster.failover.last.as_ref().map(|last| last.at as f64));
    metric(text, "pairflip_failover_last_timestamp_seconds", "gauge", help, last);
    let help = "Pairs that failed and get nothing until an operator says that they are well.";
    let out = per_cluster(|cluster| Some(cluster.failover.out.len() as f64));
    metric(text, "pairflip_failover_out", "gauge", help, out);

    let drains = |value: fn(&DrainStatus) -> f64| {
        clusters.iter().flat_map(move |cluster| {
            cluster.drains.iter().map(move |drain| {
                let labels =
                    labels(&[("cluster", &cluster.name), ("of", &drain.of), ("mode", &drain.mode)]);
                (labels, Some(value(drain)))
            })
        })
    };
    let help = "Flows that are being drained and are left; absent where nothing is drained.";
    metric(text, "pairflip_drain_flows_left", "gauge", help, drains(|it| it.left as f64));
    let help = "Flows that a drain under way has ended.";
    metric(text, "pairflip_drain_flows_ended", "gauge", help, drains(|it| it.ended as f64));
    let help = "Time since the start of a drain under way.";
    metric(text, "pairflip_drain_age_seconds", "gauge", help, drains(|it| it.age_seconds));

    let per_pair = |is_set: fn(&PairStatus) -> bool| {
        clusters.iter().flat_map(move |cluster| {
            cluster.pairs.iter().map(move |pair| {
                let labels = labels(&[("cluster", &cluster.name), ("pair", &pair.name)]);
                (labels, flag(is_set(pair)))
            })
        })
    };
    let help = "1 for the pair that takes new connections.";
    let active = per_pair(|pair| pair.state == "active");
    metric(text, "pairflip_pair_active", "gauge", help, active);
    let help = "0 while an operator has taken the pair out (drain, maint).";
    let ready = per_pair(|pair| pair.admin.state == AdminState::Ready);
    metric(text, "pairflip_pair_ready", "gauge", help, ready);

    let mut route_backends = Vec::new();
    let mut fallbacks = Vec::new();
    let mut weights = Vec::new();
    for cluster in clusters {
        for route in &cluster.routes {
            let labels = labels(&[
                ("cluster", &cluster.name),
                ("route", &route.name),
                ("access", &route.access),
            ]);
            for (backend, weight) in route.backends.iter().zip(&route.weights) {
                let labels = self::labels(&[
                    ("cluster", &cluster.name),
                    ("route", &route.name),
                    ("backend", backend),
                ]);
                weights.push((labels, Some(f64::from(*weight))));
            }
            route_backends.push((labels.clone(), Some(route.backends.len() as f64)));
            fallbacks.push((labels, flag(route.fallback)));
        }
    }
    let help = "Backends that take the route's new connections; 0 refuses them.";
    metric(text, "pairflip_route_backends", "gauge", help, route_backends);
    let help = "1 while the primary serves a read route because no replica is fit.";
    metric(text, "pairflip_route_fallback", "gauge", help, fallbacks);
    let openings = clusters.iter().flat_map(|cluster| {
        cluster.routes.iter().flat_map(|route| {
            route.connections.iter().map(|(outcome, count)| {
                let labels = labels(&[
                    ("cluster", &cluster.name),
                    ("route", &route.name),
                    ("outcome", outcome),
                ]);
                (labels, Some(*count as f64))
            })
        })
    });
    let help = "New connections by what became of them: opened, or why not.";
    metric(text, "pairflip_route_connections_total", "counter", help, openings);
    let help = "The backend's part of the route's new connections, relative to the others'.";
    metric(text, "pairflip_route_weight", "gauge", help, weights);
}

fn backends(text: &mut String, clusters: &[ClusterStatus]) {
    let per_backend = |value: &dyn Fn(&BackendStatus) -> Option<f64>| -> Vec<Sample> {
        let mut samples = Vec::new();
        for cluster in clusters {
            for pair in &cluster.pairs {
                for backend in &pair.backends {
                    let labels = labels(&[
                        ("cluster", &cluster.name),
                        ("pair", &pair.name),
                        ("backend", &backend.address),
                        ("role", &backend.role),
                    ]);
                    samples.push((labels, value(backend)));
                }
            }
        }
        samples
    };
    let help = "1 while the backend is up and fit for new connections.";
    // A falling backend is up until `fall` failures say otherwise.
    let up = per_backend(&|backend| flag(matches!(backend.health.as_str(), "up" | "falling")));
    metric(text, "pairflip_backend_up", "gauge", help, up);
    let ready = per_backend(&|backend| flag(backend.admin.state == AdminState::Ready));
    let help = "0 while an operator has taken the backend out (drain, maint); see also its pair.";
    metric(text, "pairflip_backend_ready", "gauge", help, ready);
    conditions(text, clusters);
    let help = "1 when the server was last seen read-only; absent before its first answer.";
    let read_only = per_backend(&|backend| backend.read_only.and_then(flag));
    metric(text, "pairflip_backend_read_only", "gauge", help, read_only);
    let help = "Replication lag as the server reports it; absent when it does not.";
    let lag = per_backend(&|backend| backend.lag_seconds);
    metric(text, "pairflip_backend_lag_seconds", "gauge", help, lag);
    let help = "Flows past the handshake that are pinned to the backend.";
    let flows = per_backend(&|backend| Some(backend.flows as f64));
    metric(text, "pairflip_backend_flows", "gauge", help, flows);
    for (name, help, value) in [
        (
            "pairflip_backend_connections_total",
            "Connections that were opened towards the backend.",
            (|traffic| traffic.connections) as fn(&TrafficStatus) -> u64,
        ),
        (
            "pairflip_backend_client_packets_total",
            "Packets that clients sent to the backend.",
            |traffic| traffic.client_packets,
        ),
        (
            "pairflip_backend_client_bytes_total",
            "Bytes of these, Ethernet headers included.",
            |traffic| traffic.client_bytes,
        ),
        (
            "pairflip_backend_server_packets_total",
            "Packets that the backend sent to clients; not seen in dsr.",
            |traffic| traffic.server_packets,
        ),
        (
            "pairflip_backend_server_bytes_total",
            "Bytes of these, Ethernet headers included.",
            |traffic| traffic.server_bytes,
        ),
    ] {
        let samples = per_backend(&|backend| Some(value(&backend.traffic) as f64));
        metric(text, name, "counter", help, samples);
    }
}

/// Absent for backends without conditions.
fn conditions(text: &mut String, clusters: &[ClusterStatus]) {
    let mut samples = Vec::new();
    for cluster in clusters {
        for backend in cluster.pairs.iter().flat_map(|pair| &pair.backends) {
            for condition in &backend.conditions {
                let labels = labels(&[
                    ("cluster", &cluster.name),
                    ("backend", &backend.address),
                    ("condition", &condition.name),
                ]);
                let is_out = condition.result == "maintenance";
                let is_fit = matches!(condition.health.as_str(), "up" | "falling") && !is_out;
                samples.push((labels, flag(is_fit)));
            }
        }
    }
    let help = "0 while the condition keeps new connections from the backend.";
    metric(text, "pairflip_backend_condition_fit", "gauge", help, samples);
}

fn metric(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample>,
) {
    // Writing to a String does not fail.
    _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        if let Some(value) = value {
            _ = writeln!(text, "{name}{labels} {value}");
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let list: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", list.join(","))
}

/// Interface names may hold what ends a label.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a sample's value")]
fn flag(set: bool) -> Option<f64> {
    Some(if set { 1.0 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::example;

    #[test]
    fn every_number_of_the_status_is_a_metric() {
        let expected = r#"# HELP pairflip_info 1; the label says which version runs.
# TYPE pairflip_info gauge
pairflip_info{version="0.1.0"} 1
# HELP pairflip_uptime_seconds Time since the daemon's start.
# TYPE pairflip_uptime_seconds gauge
pairflip_uptime_seconds 273900
# HELP pairflip_flows Flows past the handshake.
# TYPE pairflip_flows gauge
pairflip_flows 1204
# HELP pairflip_flows_max Flows that fit; beyond, new ones are refused.
# TYPE pairflip_flows_max gauge
pairflip_flows_max 262144
# HELP pairflip_half_open Connections in their handshake.
# TYPE pairflip_half_open gauge
pairflip_half_open 3
# HELP pairflip_half_open_max Connections in their handshake that fit; beyond, the oldest is forgotten.
# TYPE pairflip_half_open_max gauge
pairflip_half_open_max 16384
# HELP pairflip_interface_native 1 where the program runs in the driver, 0 in the slower generic path.
# TYPE pairflip_interface_native gauge
pairflip_interface_native{interface="eth0"} 1
# HELP pairflip_hook_events_total Events of a hook by what became of them; lost ones found its queue full.
# TYPE pairflip_hook_events_total counter
pairflip_hook_events_total{hook="pager",outcome="done"} 12
pairflip_hook_events_total{hook="pager",outcome="failed"} 2
pairflip_hook_events_total{hook="pager",outcome="lost"} 0
# HELP pairflip_packets_total Packets by what became of them.
# TYPE pairflip_packets_total counter
pairflip_packets_total{reason="drop_ttl"} 0
pairflip_packets_total{reason="forwarded"} 81000224
pairflip_packets_total{reason="half_open_evicted"} 12
pairflip_packets_total{reason="reset_no_backend"} 4
# HELP pairflip_route_generation Grows by one with each change of the cluster's route table.
# TYPE pairflip_route_generation gauge
pairflip_route_generation{cluster="main"} 7
# HELP pairflip_checks_failing 1 while nothing is heard from any backend, so routes stay as they are.
# TYPE pairflip_checks_failing gauge
pairflip_checks_failing{cluster="main"} 0
# HELP pairflip_failover_possible 1 while another pair would take over if the active primary failed; absent with failover = "manual".
# TYPE pairflip_failover_possible gauge
pairflip_failover_possible{cluster="main"} 0
# HELP pairflip_failover_last_timestamp_seconds When the last failover was decided, in seconds since 1970; absent where none was.
# TYPE pairflip_failover_last_timestamp_seconds gauge
pairflip_failover_last_timestamp_seconds{cluster="main"} 1700000000
# HELP pairflip_failover_out Pairs that failed and get nothing until an operator says that they are well.
# TYPE pairflip_failover_out gauge
pairflip_failover_out{cluster="main"} 1
# HELP pairflip_drain_flows_left Flows that are being drained and are left; absent where nothing is drained.
# TYPE pairflip_drain_flows_left gauge
pairflip_drain_flows_left{cluster="main",of="route reads on 10.0.1.11:3306",mode="idle"} 2
# HELP pairflip_drain_flows_ended Flows that a drain under way has ended.
# TYPE pairflip_drain_flows_ended gauge
pairflip_drain_flows_ended{cluster="main",of="route reads on 10.0.1.11:3306",mode="idle"} 38
# HELP pairflip_drain_age_seconds Time since the start of a drain under way.
# TYPE pairflip_drain_age_seconds gauge
pairflip_drain_age_seconds{cluster="main",of="route reads on 10.0.1.11:3306",mode="idle"} 4.2
# HELP pairflip_pair_active 1 for the pair that takes new connections.
# TYPE pairflip_pair_active gauge
pairflip_pair_active{cluster="main",pair="pair1"} 1
pairflip_pair_active{cluster="main",pair="pair2"} 0
# HELP pairflip_pair_ready 0 while an operator has taken the pair out (drain, maint).
# TYPE pairflip_pair_ready gauge
pairflip_pair_ready{cluster="main",pair="pair1"} 1
pairflip_pair_ready{cluster="main",pair="pair2"} 1
# HELP pairflip_route_backends Backends that take the route's new connections; 0 refuses them.
# TYPE pairflip_route_backends gauge
pairflip_route_backends{cluster="main",route="writes",access="write"} 0
pairflip_route_backends{cluster="main",route="reads",access="read"} 1
# HELP pairflip_route_fallback 1 while the primary serves a read route because no replica is fit.
# TYPE pairflip_route_fallback gauge
pairflip_route_fallback{cluster="main",route="writes",access="write"} 0
pairflip_route_fallback{cluster="main",route="reads",access="read"} 1
# HELP pairflip_route_connections_total New connections by what became of them: opened, or why not.
# TYPE pairflip_route_connections_total counter
pairflip_route_connections_total{cluster="main",route="writes",outcome="denied"} 2
pairflip_route_connections_total{cluster="main",route="writes",outcome="no_backend"} 4
pairflip_route_connections_total{cluster="main",route="writes",outcome="opened"} 1204
pairflip_route_connections_total{cluster="main",route="reads",outcome="denied"} 2
pairflip_route_connections_total{cluster="main",route="reads",outcome="no_backend"} 4
pairflip_route_connections_total{cluster="main",route="reads",outcome="opened"} 1204
# HELP pairflip_route_weight The backend's part of the route's new connections, relative to the others'.
# TYPE pairflip_route_weight gauge
pairflip_route_weight{cluster="main",route="reads",backend="10.0.1.11:3306"} 100
# HELP pairflip_backend_up 1 while the backend is up and fit for new connections.
# TYPE pairflip_backend_up gauge
pairflip_backend_up{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 1
pairflip_backend_up{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 0
pairflip_backend_up{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 1
pairflip_backend_up{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
# HELP pairflip_backend_ready 0 while an operator has taken the backend out (drain, maint); see also its pair.
# TYPE pairflip_backend_ready gauge
pairflip_backend_ready{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 1
pairflip_backend_ready{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 0
pairflip_backend_ready{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 1
pairflip_backend_ready{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 1
# HELP pairflip_backend_condition_fit 0 while the condition keeps new connections from the backend.
# TYPE pairflip_backend_condition_fit gauge
pairflip_backend_condition_fit{cluster="main",backend="10.0.1.21:3306",condition="disk"} 0
# HELP pairflip_backend_read_only 1 when the server was last seen read-only; absent before its first answer.
# TYPE pairflip_backend_read_only gauge
pairflip_backend_read_only{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 1
pairflip_backend_read_only{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 1
pairflip_backend_read_only{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
# HELP pairflip_backend_lag_seconds Replication lag as the server reports it; absent when it does not.
# TYPE pairflip_backend_lag_seconds gauge
pairflip_backend_lag_seconds{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 12.5
pairflip_backend_lag_seconds{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
# HELP pairflip_backend_flows Flows past the handshake that are pinned to the backend.
# TYPE pairflip_backend_flows gauge
pairflip_backend_flows{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 1200
pairflip_backend_flows{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 4
pairflip_backend_flows{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
pairflip_backend_flows{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
# HELP pairflip_backend_connections_total Connections that were opened towards the backend.
# TYPE pairflip_backend_connections_total counter
pairflip_backend_connections_total{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 2400
pairflip_backend_connections_total{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 8
pairflip_backend_connections_total{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
pairflip_backend_connections_total{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
# HELP pairflip_backend_client_packets_total Packets that clients sent to the backend.
# TYPE pairflip_backend_client_packets_total counter
pairflip_backend_client_packets_total{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 36000
pairflip_backend_client_packets_total{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 120
pairflip_backend_client_packets_total{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
pairflip_backend_client_packets_total{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
# HELP pairflip_backend_client_bytes_total Bytes of these, Ethernet headers included.
# TYPE pairflip_backend_client_bytes_total counter
pairflip_backend_client_bytes_total{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 4800000
pairflip_backend_client_bytes_total{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 16000
pairflip_backend_client_bytes_total{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
pairflip_backend_client_bytes_total{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
# HELP pairflip_backend_server_packets_total Packets that the backend sent to clients; not seen in dsr.
# TYPE pairflip_backend_server_packets_total counter
pairflip_backend_server_packets_total{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 60000
pairflip_backend_server_packets_total{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 200
pairflip_backend_server_packets_total{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
pairflip_backend_server_packets_total{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
# HELP pairflip_backend_server_bytes_total Bytes of these, Ethernet headers included.
# TYPE pairflip_backend_server_bytes_total counter
pairflip_backend_server_bytes_total{cluster="main",pair="pair1",backend="10.0.1.11:3306",role="primary"} 72000000
pairflip_backend_server_bytes_total{cluster="main",pair="pair1",backend="10.0.1.12:3306",role="replica"} 240000
pairflip_backend_server_bytes_total{cluster="main",pair="pair2",backend="10.0.1.21:3306",role="primary"} 0
pairflip_backend_server_bytes_total{cluster="main",pair="pair2",backend="10.0.1.22:3306",role="replica"} 0
"#;
        assert_eq!(render(&example::status()), expected);
    }

    #[test]
    fn a_label_cannot_be_ended_by_its_value() {
        assert_eq!(labels(&[("interface", "a\"b\\c\nd")]), r#"{interface="a\"b\\c\nd"}"#);
    }
}
