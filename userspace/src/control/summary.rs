//! What `pairflip check` says of a good configuration: what it amounts to, and how host and servers fit it.

use serde::Serialize;

use crate::{
    config::{Applies, Check, Cluster, Config, Galera, Human},
    inspect::{Finding, Report, Weight},
};

/// A configuration in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub clusters: Vec<ClusterSummary>,
    /// What this version accepts but does in another way than the words say.
    pub warnings: Vec<String>,
    /// What host and servers say; absent where they were not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Report>,
}

/// A cluster in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterSummary {
    pub name: String,
    pub routes: usize,
    pub pairs: usize,
    pub backends: usize,
    /// Longest time from a backend's death to the verdict that it is down.
    pub detection_seconds: f64,
    /// How that number comes about.
    pub detection: String,
    /// What is asked of the backends, with the roles that it is asked of.
    pub checks: Vec<String>,
}

impl Summary {
    pub fn new(config: &Config) -> Self {
        Self {
            clusters: config.clusters.iter().map(ClusterSummary::new).collect(),
            warnings: config.warnings(),
            found: None,
        }
    }

    /// Returns the summary for a person.
    pub fn text(&self) -> String {
        let mut text = "the configuration is valid\n".to_owned();
        for cluster in &self.clusters {
            text.push_str(&format!(
                "cluster {}: {}, {}, {}\n  a dead backend is noticed within {}\n  checks: {}\n",
                cluster.name,
                count(cluster.routes, "route"),
                count(cluster.pairs, "pair"),
                count(cluster.backends, "backend"),
                cluster.detection,
                cluster.checks.join(", ")
            ));
        }
        for warning in &self.warnings {
            text.push_str(&format!("warning: {warning}\n"));
        }
        if let Some(report) = &self.found {
            text.push_str(&found(report));
        }
        text
    }
}

/// One line per finding, and below it what to do.
fn found(report: &Report) -> String {
    let mut text = String::new();
    for Finding { weight, subject, text: what, remedy } in &report.findings {
        let word = match weight {
            Weight::Good => "good   ",
            Weight::Warning => "WARNING",
            Weight::Error => "ERROR  ",
        };
        text.push_str(&format!("{word}  {subject}: {what}\n"));
        if !remedy.is_empty() {
            text.push_str(&format!("         {remedy}\n"));
        }
    }
    if report.answered == 0 {
        text.push_str(&format!(
            "none of the {} answers this host, so nothing is said about them: run this on the redirector\n",
            count(report.servers, "server")
        ));
    }
    text
}

impl ClusterSummary {
    fn new(cluster: &Cluster) -> Self {
        Self {
            name: cluster.name.clone(),
            routes: cluster.routes.len(),
            pairs: cluster.pairs.len(),
            backends: cluster.backends().count(),
            detection_seconds: cluster.check.detection_time().as_secs_f64(),
            detection: detection(&cluster.check),
            checks: checks(&cluster.check),
        }
    }
}

fn checks(check: &Check) -> Vec<String> {
    let mut checks = Vec::new();
    if let Some(login) = &check.login {
        let mut asked = vec![if login.tls.is_some() { "login over TLS" } else { "login" }];
        asked.extend(login.heartbeat.as_ref().map(|_| "heartbeat"));
        asked.extend(login.gtid.then_some("gtid"));
        asked.extend((login.galera != Galera::Off).then_some("galera"));
        checks.extend(asked.into_iter().map(ToOwned::to_owned));
    }
    let mut add = |kind: &str, name: &str, role: Applies| {
        checks.push(match role {
            Applies::Any => format!("{kind} {name}"),
            Applies::Primary | Applies::Replica => format!("{kind} {name} ({})", role.name()),
        });
    };
    check.sql.iter().for_each(|check| add("sql", &check.name, check.role));
    check.http.iter().for_each(|check| add("http", &check.name, check.role));
    check.tcp.iter().for_each(|check| add("tcp", &check.name, check.role));
    check.exec.iter().for_each(|check| add("exec", &check.name, check.role));
    checks
}

fn detection(check: &Check) -> String {
    format!(
        "{} = interval {} + (fall {} - 1) * fast_interval {} + timeout {}",
        Human(check.detection_time()),
        Human(check.interval),
        check.fall,
        Human(check.fast_interval),
        Human(check.timeout)
    )
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    #[test]
    fn a_summary_counts_what_is_there_and_computes_the_detection_time() {
        let text = r#"
            daemon.interfaces = ["eth0"]
            [[cluster]]
            name = "main"
            check = { user = "pairflip", password_file = "p", interval = "2s", timeout = "500ms", fall = 3, gtid = true, tcp = [{ name = "admin", port = 33062 }, { name = "sync", port = 4567, role = "primary" }] }
            drain = { mode = "idle" }
            route = [{ name = "writes", vip = "10.0.0.100:3306", access = "write" }]
            pair = [
                { name = "pair1", primary = "10.0.1.11:3306", replicas = ["10.0.1.12:3306"] },
                { name = "pair2", primary = "10.0.1.21:3306", replicas = ["10.0.1.22:3306"] },
            ]
        "#;
        let config =
            config::parse(text, Path::new("test.toml"), &|_: &Path| Ok("secret".to_owned()))
                .unwrap();
        let expected = "\
the configuration is valid
cluster main: 1 route, 2 pairs, 4 backends
  a dead backend is noticed within 3500ms = interval 2s + (fall 3 - 1) * fast_interval 500ms + timeout 500ms
  checks: login, gtid, tcp admin, tcp sync (primary)
";
        let summary = Summary::new(&config);
        assert_eq!(summary.text(), expected);
        assert!((summary.clusters[0].detection_seconds - 3.5).abs() < 1e-9);
    }
}
