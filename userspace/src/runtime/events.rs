//! What happened: to the log, to the journal, to hooks, and to who asks.

use jiff::Timestamp;
use pairflip_policy::{BackendView, ClusterView, Event, Severity};

use super::{Runtime, status};
use crate::{
    check::keys::Notice,
    config::KEYS_REREAD,
    control::protocol::{self, ApiError, EventFacts, Events, EventsQuery},
};

/// Events listed when the request does not say how many.
const EVENTS_LISTED: usize = 100;

/// The facts of an event.
#[derive(Default)]
struct About {
    backend: Option<EventFacts>,
    all: Vec<EventFacts>,
}

impl Runtime {
    /// Tells people of an event, with names in place of numbers. What changed nothing is for the log only.
    pub(super) fn tell(&mut self, event: &Event) {
        if let Some(cluster) = event.cluster {
            self.switchovers.note(cluster, &event.what);
        }
        let text = status::describe(self, event);
        let cluster = event.cluster.and_then(|id| self.config.clusters.get(usize::from(id.0)));
        let cluster = cluster.map(|cluster| cluster.name.clone());
        log(event.severity(), cluster.as_deref().unwrap_or("-"), &text);
        if event.severity() == Severity::Debug {
            return;
        }
        let about = self.about(event);
        self.record(cluster, event.what.name(), event.severity(), text, about);
    }

    /// Tells people of what became of a cluster's secrets.
    pub(super) fn tell_of_keys(&mut self, notice: &Notice) {
        let cluster = self.config.clusters.get(notice.cluster).map(|cluster| cluster.name.clone());
        let severity = if notice.is_trouble { Severity::Error } else { Severity::Info };
        log(severity, cluster.as_deref().unwrap_or("-"), &notice.text);
        self.record(cluster, KEYS_REREAD, severity, notice.text.clone(), About::default());
    }

    /// Keeps an event, and hands it to hooks.
    fn record(
        &mut self,
        cluster: Option<String>,
        kind: &str,
        severity: Severity,
        text: String,
        about: About,
    ) {
        let told = protocol::Event {
            number: self.journal.last() + 1,
            time: stamp(),
            cluster,
            kind: kind.to_owned(),
            severity: severity.name().to_owned(),
            text,
            facts: about.backend,
            backends: about.all,
        };
        self.hooks.tell(&told, severity);
        self.journal.append(told);
    }

    /// Returns how things were at the moment of an event: the backend that it is about, else all of the cluster.
    fn about(&self, event: &Event) -> About {
        let view = self.policy.view();
        let is_own = |cluster: &&ClusterView| Some(cluster.id) == event.cluster;
        let pairs = view.clusters.iter().filter(is_own).flat_map(|cluster| &cluster.pairs);
        let mut backends = pairs.flat_map(|pair| &pair.backends);
        match event.what.backend() {
            Some(id) => About {
                backend: backends.find(|view| view.id == id).map(|view| self.facts(view)),
                ..About::default()
            },
            None => {
                About { all: backends.map(|view| self.facts(view)).collect(), ..About::default() }
            }
        }
    }

    fn facts(&self, view: &BackendView) -> EventFacts {
        EventFacts {
            backend: status::address(self, view.id),
            health: status::health(view).to_owned(),
            read_only: view.read_only,
            lag_seconds: view.lag.map(|lag| lag.as_secs_f64()),
            server_version: view.facts.as_ref().map(|facts| facts.version.clone()),
        }
    }

    /// Answers `GET /v1/events`.
    pub(super) fn events(&self, query: &EventsQuery) -> Result<Events, ApiError> {
        let cluster = query.cluster.as_deref();
        // One that left the configuration may have a history.
        if let Some(name) = cluster
            && !self.journal.knows_cluster(name)
        {
            self.named_cluster(cluster)?;
        }
        let limit = query.limit.unwrap_or(EVENTS_LISTED);
        let events = self.journal.list(query.after, limit, cluster);
        Ok(Events { events, last: self.journal.last() })
    }
}

/// The time of day, for people.
#[expect(clippy::disallowed_methods, reason = "nothing is decided by it")]
fn stamp() -> String {
    format!("{:.3}", Timestamp::now())
}

fn log(severity: Severity, cluster: &str, text: &str) {
    match severity {
        Severity::Debug => tracing::debug!(cluster, "{text}"),
        Severity::Info => tracing::info!(cluster, "{text}"),
        Severity::Warning => tracing::warn!(cluster, "{text}"),
        Severity::Error => tracing::error!(cluster, "{text}"),
    }
}
