//! Report: events for what changed in a cluster's backends since the last report. Decides nothing.

use std::mem;

use crate::{
    backend::Backend,
    health::{Health, Verdict},
    ids::{BackendId, PairId},
    input::{Cause, CheckFailure, ClusterSpec, Role},
    moment::Moment,
    output::EventKind,
    view::ChecksState,
};

use super::{Cluster, Outputs};

impl Cluster {
    /// Emits an event for everything that changed, and returns the backends that went down.
    pub(super) fn report(&mut self, now: Moment, outputs: &mut Outputs) -> Vec<(BackendId, Cause)> {
        let mut kinds = Vec::new();
        let mut downs = Vec::new();
        for backend in self.backends.values_mut() {
            let reason = |backend: &Backend| backend.reason(&self.spec, self.active);
            let from = mem::replace(&mut backend.reported.health, backend.health);
            let (id, to) = (backend.id, backend.health);
            if from.name() != to.name() {
                let reason = reason(backend);
                kinds.push(EventKind::HealthChanged { backend: id, from, to, reason });
            }
            if from.verdict() != Verdict::Down
                && let (Health::Down, Some(failure)) = (to, &backend.failure)
            {
                downs.push((id, failure.cause));
            }
            let to = backend.overall_fitness().unwrap_or(Health::Up);
            let from = mem::replace(&mut backend.reported.fitness, to);
            let is_first = matches!((from.verdict(), to), (Verdict::None, Health::Up));
            // Of a dead server it is no news that it is not fit; of a primary, that it is.
            if backend.health.is_up()
                && from.name() != to.name()
                && !(backend.role == Role::Primary && is_first)
            {
                let reason = reason(backend);
                kinds.push(EventKind::FitnessChanged { backend: id, from, to, reason });
            }
            kinds.extend(maintenance_change(backend, &self.spec, self.active));
            kinds.extend(condition_changes(backend));
            kinds.extend(read_only_change(backend));
            kinds.extend(version_change(backend));
            kinds.extend(impairment_change(backend));
        }
        kinds.extend(self.checks_change(now));
        for kind in kinds {
            self.event(kind, now, outputs);
        }
        downs
    }

    fn checks_change(&mut self, now: Moment) -> Option<EventKind> {
        match (self.checks, self.all_silent()) {
            (ChecksState::Working, true) => {
                self.checks = ChecksState::AllFailing { since: now };
                Some(EventKind::AllChecksFailing)
            }
            (ChecksState::AllFailing { .. }, false) => {
                self.checks = ChecksState::Working;
                Some(EventKind::ChecksAnswering)
            }
            (ChecksState::Working, false) | (ChecksState::AllFailing { .. }, true) => None,
        }
    }
}

fn read_only_change(backend: &mut Backend) -> Option<EventKind> {
    let read_only = backend.read_only()?;
    let reported = backend.reported.read_only.replace(read_only);
    (reported != Some(read_only))
        .then_some(EventKind::ReadOnlyChanged { backend: backend.id, read_only })
}

fn version_change(backend: &mut Backend) -> Option<EventKind> {
    let to = backend.facts.as_ref()?.version.clone();
    if backend.reported.version.as_ref() == Some(&to) {
        return None;
    }
    // The first one is no change.
    let from = backend.reported.version.replace(to.clone())?;
    Some(EventKind::VersionChanged { backend: backend.id, from, to })
}

fn impairment_change(backend: &mut Backend) -> Option<EventKind> {
    if backend.failure.as_ref().is_some_and(|failure| failure.cause == Cause::Starved) {
        // It comes and goes with every probe, and has nothing to do with the server.
        return None;
    }
    let impairment = backend.impairment().cloned();
    let cause = impairment.as_ref().map(|failure| failure.cause);
    let reported = mem::replace(&mut backend.reported.impaired, cause);
    let backend = backend.id;
    match impairment {
        Some(CheckFailure { cause, text }) => {
            (reported != Some(cause)).then_some(EventKind::CheckImpaired { backend, cause, text })
        }
        // One that is down by now can be judged, too.
        None => reported.map(|_| EventKind::CheckRestored { backend }),
    }
}

fn maintenance_change(
    backend: &mut Backend,
    spec: &ClusterSpec,
    active: PairId,
) -> Option<EventKind> {
    let name = backend.conditions.maintenance().map(|(name, _)| name.to_owned());
    let reported = mem::replace(&mut backend.reported.maintenance, name.clone());
    let reason = name.as_ref().map(|_| backend.reason(spec, active));
    (reported.is_some() != name.is_some())
        .then_some(EventKind::MaintenanceChanged { backend: backend.id, reason })
}

/// Returns the conditions that can no longer be judged, or for another reason than before, and those that can be again.
fn condition_changes(backend: &mut Backend) -> Vec<EventKind> {
    let impaired = backend.conditions.impaired();
    let impaired: Vec<_> = impaired.map(|(name, why)| (name.to_owned(), why.clone())).collect();
    let causes = impaired.iter().map(|(name, why)| (name.clone(), why.cause)).collect();
    let reported = mem::replace(&mut backend.reported.impaired_conditions, causes);
    let restored = reported.keys().filter(|name| impaired.iter().all(|(other, _)| other != *name));
    let backend = backend.id;
    let restored =
        restored.map(|name| EventKind::ConditionRestored { backend, name: name.clone() });
    let news = impaired.iter().filter(|(name, why)| reported.get(name) != Some(&why.cause));
    news.map(|(name, CheckFailure { cause, text })| EventKind::ConditionImpaired {
        backend,
        name: name.clone(),
        cause: *cause,
        text: text.clone(),
    })
    .chain(restored)
    .collect()
}
