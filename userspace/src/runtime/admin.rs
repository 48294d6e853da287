//! Admin states: names to targets and back, what the state file keeps of them, and who said so.

use std::{collections::BTreeMap, time::Duration};

use pairflip_policy::{
    Admin, AdminRefused, AdminSetting, AdminTarget, ClusterId, Drain, Input, Moment, PairId,
};

use super::{Runtime, drains::AdminReply, ids::Ids};
use crate::{
    config::Cluster,
    control::protocol::{self, AdminDone, AdminRequest, AdminStatus, ApiError},
    state::{self, AdminRecord, AdminState, State},
};

/// Longest time that an admin state may be given: who means longer says nothing and it stays.
const FOR_MAX: Duration = Duration::from_secs(365 * 86_400);

impl Runtime {
    /// Takes an admin request in. Servers whose flows are to be ended by idleness are asked beforehand whether that is possible.
    pub(super) fn admin(&mut self, admin: AdminRequest, reply: AdminReply) {
        let is_idle = admin.drain == Some(protocol::Drain::Idle)
            && admin.state != protocol::AdminState::Ready;
        match self.admin_target(&admin) {
            Ok(target) if is_idle => self.admit_drain(target, admin, reply),
            // Who asked may have gone; the state file says what was set.
            Ok(_) | Err(_) => _ = reply.send(self.set_admin(&admin)),
        }
    }

    /// Sets an admin state: first in the state file, so that a restart knows of it, then in force.
    pub(super) fn set_admin(&mut self, request: &AdminRequest) -> Result<AdminDone, ApiError> {
        let (cluster, target) = self.admin_target(request)?;
        let admin = match request.state {
            protocol::AdminState::Ready => Admin::Ready,
            protocol::AdminState::Drain => Admin::Drain,
            protocol::AdminState::Maint => Admin::Maint,
        };
        let time = match request.for_seconds.map(Duration::from_secs) {
            Some(time) if time.is_zero() || time > FOR_MAX => {
                return Err(ApiError::new(
                    "bad_body",
                    format!("for_seconds is {}", time.as_secs()),
                    format!(
                        "give 1 to {}, or leave it out: then it stays until `pairflip ready`",
                        FOR_MAX.as_secs()
                    ),
                ));
            }
            time => time.filter(|_| admin != Admin::Ready),
        };
        self.policy
            .may_set_admin(cluster, target, admin, request.force)
            .map_err(|refused| refusal(refused, &request.target))?;
        let record = record(request, time);
        let name = self.target_name(cluster, target);
        self.keep(cluster, &name, record.clone())?;
        let until = time.map(|time| self.now() + time);
        let flows = match request.drain {
            Some(protocol::Drain::Cut) => Drain::Cut,
            Some(protocol::Drain::Idle) => Drain::Idle,
            Some(protocol::Drain::Finish) | None => Drain::Finish,
        };
        let configured = &self.config.clusters[usize::from(cluster.0)];
        let deadline = match (request.deadline_ms, request.drain) {
            (Some(millis), _) => Some(Duration::from_millis(millis)),
            (None, Some(_)) => configured.drain.deadline,
            (None, None) => None,
        };
        let setting = AdminSetting { admin, until };
        self.feed(Input::SetAdmin { cluster, target, setting, flows, deadline });
        let cluster = self.config.clusters[usize::from(cluster.0)].name.clone();
        Ok(AdminDone { cluster, target: name, admin: shown(record.as_ref()) })
    }

    /// What the state file need not keep any more. Should the write fail, a restart finds that its time is over.
    pub(super) fn forget_admin(&mut self, cluster: ClusterId, target: AdminTarget) {
        let name = self.target_name(cluster, target);
        if let Err(error) = self.keep(cluster, &name, None) {
            tracing::warn!(error = %error.message, "the state file still has an admin state whose time is over");
        }
    }

    /// What operators said about a target, for the status.
    pub(super) fn admin_status(&self, cluster: ClusterId, target: AdminTarget) -> AdminStatus {
        let name = self.target_name(cluster, target);
        let records = self.state.admin.get(&self.config.clusters[usize::from(cluster.0)].name);
        shown(records.and_then(|records| records.get(&name)))
    }

    fn admin_target(&self, request: &AdminRequest) -> Result<(ClusterId, AdminTarget), ApiError> {
        if let Some(backend) =
            request.target.parse().ok().and_then(|address| self.ids.backend(address))
        {
            let address = self.ids.address(backend);
            let owns = |cluster: &Cluster| cluster.backends().any(|known| Some(known) == address);
            let cluster = self.config.clusters.iter().position(owns).unwrap_or_default();
            return Ok((ClusterId(cluster as u16), AdminTarget::Backend(backend)));
        }
        let cluster = self.named_cluster(request.cluster.as_deref())?;
        let configured = &self.config.clusters[cluster];
        match configured.pairs.iter().position(|pair| pair.name == request.target) {
            Some(pair) => Ok((ClusterId(cluster as u16), AdminTarget::Pair(PairId(pair as u16)))),
            None => {
                let pairs = configured.pairs.iter().map(|pair| pair.name.clone());
                let backends = configured.backends().map(|address| address.to_string());
                let names: Vec<String> = pairs.chain(backends).collect();
                Err(ApiError::new(
                    "unknown_target",
                    format!(
                        "{:?} is neither a pair nor a backend of cluster {:?}",
                        request.target, configured.name
                    ),
                    format!("name one of {}", names.join(", ")),
                ))
            }
        }
    }

    /// As the state file and operators name it.
    pub(super) fn target_name(&self, cluster: ClusterId, target: AdminTarget) -> String {
        let pairs = &self.config.clusters[usize::from(cluster.0)].pairs;
        match target {
            AdminTarget::Backend(backend) => self
                .ids
                .address(backend)
                .map_or_else(|| backend.to_string(), |address| address.to_string()),
            AdminTarget::Pair(pair) => pairs
                .get(usize::from(pair.0))
                .map_or_else(|| pair.to_string(), |pair| pair.name.clone()),
        }
    }

    /// Writes the state file with this record, or without one.
    fn keep(
        &mut self,
        cluster: ClusterId,
        target: &str,
        record: Option<AdminRecord>,
    ) -> Result<(), ApiError> {
        let cluster = self.config.clusters[usize::from(cluster.0)].name.clone();
        let change = |kept: &mut State| {
            let records = kept.admin.entry(cluster).or_default();
            match record {
                Some(record) => _ = records.insert(target.to_owned(), record),
                None => _ = records.remove(target),
            }
            kept.admin.retain(|_, records| !records.is_empty());
        };
        tokio::task::block_in_place(|| self.change_state(change)).map_err(|error| {
            ApiError::new(
                "not_persisted",
                format!("the state file could not be written: {error}"),
                "make room or fix permissions in state_dir; nothing was changed",
            )
        })
    }
}

/// What the state file says that has not run out, by today's names. What left the configuration is not taken over.
pub(super) fn restored(
    cluster: &Cluster,
    ids: &Ids,
    state: &State,
) -> BTreeMap<AdminTarget, AdminSetting> {
    let now = state::now();
    let target = |name: &str| {
        let pair = cluster.pairs.iter().position(|pair| pair.name == name);
        let backend = || cluster.backends().find(|address| address.to_string() == name);
        match pair {
            Some(pair) => Some(AdminTarget::Pair(PairId(pair as u16))),
            None => backend().and_then(|address| ids.backend(address)).map(AdminTarget::Backend),
        }
    };
    let records = state.admin.get(&cluster.name).into_iter().flatten();
    records
        .filter_map(|(name, record)| {
            let admin = match record.state {
                AdminState::Drain => Admin::Drain,
                AdminState::Maint => Admin::Maint,
            };
            // One whose time is over ends, with its event, as soon as the policy runs.
            let left = record.until.map(|until| Duration::from_secs(until.saturating_sub(now)));
            Some((
                target(name)?,
                AdminSetting { admin, until: left.map(|left| Moment::START + left) },
            ))
        })
        .collect()
}

fn record(request: &AdminRequest, time: Option<Duration>) -> Option<AdminRecord> {
    let state = match request.state {
        protocol::AdminState::Ready => return None,
        protocol::AdminState::Drain => AdminState::Drain,
        protocol::AdminState::Maint => AdminState::Maint,
    };
    let since = state::now();
    let by = if request.by.is_empty() { "unknown" } else { &request.by };
    Some(AdminRecord {
        state,
        since,
        until: time.map(|time| since + time.as_secs()),
        by: by.to_owned(),
        note: request.note.clone(),
    })
}

fn shown(record: Option<&AdminRecord>) -> AdminStatus {
    record.map_or_else(AdminStatus::default, |record| AdminStatus {
        state: match record.state {
            AdminState::Drain => protocol::AdminState::Drain,
            AdminState::Maint => protocol::AdminState::Maint,
        },
        since: Some(record.since),
        until: record.until,
        by: record.by.clone(),
        note: record.note.clone(),
    })
}

fn refusal(refused: AdminRefused, target: &str) -> ApiError {
    match refused {
        AdminRefused::UnknownTarget => ApiError::new(
            "unknown_target",
            format!("{target:?} is not configured"),
            "see `pairflip status` for the names",
        ),
        AdminRefused::ActivePrimary => ApiError::new(
            "active_primary",
            format!(
                "{target} has the active primary: without it write routes refuse new connections"
            ),
            "flip to another pair first, or say --force if writes shall be refused",
        ),
    }
}
