//! `Policy`: hands every input to the cluster it concerns and queues the outputs.
//!
//! Owns no decision; those are the cluster's.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    cluster::{Asked, Cluster},
    ids::{BackendId, ClusterId},
    input::{Admin, AdminTarget, ClusterSpec, Input, Restored},
    moment::Moment,
    output::{AdminRefused, Event, EventKind, FlipRefused, Output},
    reason::IgnoredReason,
    switchover::SwitchoverOutcome,
    view::PolicyView,
};

/// The whole decision machine, see the [crate] documentation for its contract.
#[derive(Clone, Debug)]
pub struct Policy {
    clusters: BTreeMap<ClusterId, Cluster>,
    owners: BTreeMap<BackendId, ClusterId>,
    /// Drained by the caller after every input, so it holds the outputs of one input.
    outputs: VecDeque<Output>,
    /// The latest clock reading; a reading before it counts as it.
    now: Moment,
}

impl Policy {
    /// Returns a machine that goes on from what was restored. Outputs are waiting at once.
    ///
    /// # Panics
    ///
    /// If a cluster has no pair, or a backend or cluster id is used twice: the configuration
    /// promises otherwise.
    #[must_use]
    pub fn new(specs: Vec<ClusterSpec>, mut restored: Restored, now: Moment) -> Self {
        let mut policy = Self {
            clusters: BTreeMap::new(),
            owners: BTreeMap::new(),
            outputs: VecDeque::new(),
            now,
        };
        for spec in specs {
            let id = spec.id;
            for backend in spec.pairs.iter().flat_map(|pair| pair.backends()) {
                let owner = policy.owners.insert(backend, id);
                assert!(owner.is_none(), "{backend} belongs to two pairs");
            }
            let cluster = Cluster::new(
                spec,
                restored.active.remove(&id),
                restored.generation.remove(&id).unwrap_or_default(),
                restored.tables.remove(&id),
                restored.admin.remove(&id).unwrap_or_default(),
                restored.failovers.remove(&id).unwrap_or_default(),
                restored.intents.remove(&id),
                now,
                &mut policy.outputs,
            );
            let twin = policy.clusters.insert(id, cluster);
            assert!(twin.is_none(), "{id} is configured twice");
        }
        policy
    }

    /// Takes in one fact. Drain [`Policy::poll_output`] afterwards.
    pub fn handle(&mut self, input: Input, now: Moment) {
        let now = self.advance_clock(now);
        let outputs = &mut self.outputs;
        match input {
            Input::Checked { backend, result } => {
                let owner = self.owners.get(&backend);
                match owner.and_then(|owner| self.clusters.get_mut(owner)) {
                    Some(cluster) => cluster.checked(backend, result, now, outputs),
                    None => self.ignore(IgnoredReason::UnknownBackend { backend }),
                }
            }
            Input::Conditions { backend, conditions } => {
                let owner = self.owners.get(&backend);
                match owner.and_then(|owner| self.clusters.get_mut(owner)) {
                    Some(cluster) => cluster.judged(backend, conditions, now, outputs),
                    None => self.ignore(IgnoredReason::UnknownBackend { backend }),
                }
            }
            Input::Flip { cluster, request, to, drain, force } => {
                match self.clusters.get_mut(&cluster) {
                    Some(cluster) => cluster.flip(request, to, drain, &force, now, outputs),
                    None => {
                        let result = Err(FlipRefused::UnknownCluster { cluster });
                        outputs.push_back(Output::Reply { request, result });
                    }
                }
            }
            Input::Switchover { cluster, request, to, drain, force, limits, dry_run } => {
                let asked = Asked { request, to, drain, force, limits, dry_run };
                match self.clusters.get_mut(&cluster) {
                    Some(cluster) => cluster.switch_over(asked, now, outputs),
                    None => {
                        let refused = FlipRefused::UnknownCluster { cluster };
                        let outcome = SwitchoverOutcome::Refused(refused);
                        outputs.push_back(Output::SwitchoverReply { request, outcome });
                    }
                }
            }
            Input::CallOff { cluster, request } => match self.clusters.get_mut(&cluster) {
                Some(cluster) => cluster.call_off(request, now, outputs),
                None => self.ignore(IgnoredReason::UnknownCluster),
            },
            Input::StepDone { cluster, id, result } => match self.clusters.get_mut(&cluster) {
                Some(cluster) => cluster.step_done(id, result, now, outputs),
                None => self.ignore(IgnoredReason::UnknownCluster),
            },
            Input::SetAdmin { cluster, target, setting, flows, deadline } => {
                match self.clusters.get_mut(&cluster) {
                    Some(cluster) => {
                        cluster.set_admin(target, setting, (flows, deadline), now, outputs);
                    }
                    None => self.ignore(IgnoredReason::UnknownCluster),
                }
            }
            Input::Applied { cluster, generation, result } => {
                match self.clusters.get_mut(&cluster) {
                    Some(cluster) => cluster.applied(generation, result, now, outputs),
                    None => self.ignore(IgnoredReason::UnknownCluster),
                }
            }
            Input::Persisted { cluster, result } => match self.clusters.get_mut(&cluster) {
                Some(cluster) => cluster.persisted(result, now, outputs),
                None => self.ignore(IgnoredReason::UnknownCluster),
            },
            Input::Fenced { cluster, backend, result } => match self.clusters.get_mut(&cluster) {
                Some(cluster) => cluster.fence_answered(backend, result, now, outputs),
                None => self.ignore(IgnoredReason::UnknownCluster),
            },
            Input::Drained { cluster, which, result } => match self.clusters.get_mut(&cluster) {
                Some(cluster) => cluster.drained(which, result, now, outputs),
                None => self.ignore(IgnoredReason::UnknownCluster),
            },
            Input::Unfenced { cluster, backend, result } => match self.clusters.get_mut(&cluster) {
                Some(cluster) => cluster.unfence_answered(backend, result, now, outputs),
                None => self.ignore(IgnoredReason::UnknownCluster),
            },
        }
    }

    /// Returns whether an operator may set this; `force` waives that it turns writes away.
    ///
    /// # Errors
    ///
    /// If the target is not configured, or it is the active primary and `force` is not given.
    pub fn may_set_admin(
        &self,
        cluster: ClusterId,
        target: AdminTarget,
        admin: Admin,
        force: bool,
    ) -> Result<(), AdminRefused> {
        let cluster = self.clusters.get(&cluster).ok_or(AdminRefused::UnknownTarget)?;
        cluster.may_set_admin(target, admin, force)
    }

    /// Returns the next action; `None` when the last input is dealt with.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`Policy::handle_timeout`] is due; `None` when only an input can change
    /// something.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.clusters.values().filter_map(Cluster::deadline).min()
    }

    /// Does what is due. Harmless when called early. Drain [`Policy::poll_output`] afterwards.
    pub fn handle_timeout(&mut self, now: Moment) {
        let now = self.advance_clock(now);
        for cluster in self.clusters.values_mut() {
            cluster.timed_out(now, &mut self.outputs);
        }
    }

    /// Returns everything that is known, for status output.
    #[must_use]
    pub fn view(&self) -> PolicyView {
        let view = |cluster: &Cluster| cluster.view(self.now);
        PolicyView { clusters: self.clusters.values().map(view).collect() }
    }

    fn advance_clock(&mut self, now: Moment) -> Moment {
        self.now = self.now.max(now);
        self.now
    }

    fn ignore(&mut self, reason: IgnoredReason) {
        let what = EventKind::Ignored { reason };
        self.outputs.push_back(Output::Event(Event { at: self.now, cluster: None, what }));
    }
}
