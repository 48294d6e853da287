//! Admin states: what operators said about backends and pairs, until they say otherwise or the time
//! that they gave runs out.

use std::time::Duration;

use crate::{
    ids::BackendId,
    input::{Access, Admin, AdminSetting, AdminTarget, Drain},
    moment::Moment,
    output::{AdminRefused, EventKind, Output},
    reason::{ChangeReason, DrainReason, EndReason, IgnoredReason},
};

use super::{Cluster, Outputs, drains::flows_of};

impl Cluster {
    /// Returns what was said about a target.
    pub(super) fn admin_of(&self, target: AdminTarget) -> AdminSetting {
        self.admin.get(&target).copied().unwrap_or_default()
    }

    pub(crate) fn may_set_admin(
        &self,
        target: AdminTarget,
        admin: Admin,
        force: bool,
    ) -> Result<(), AdminRefused> {
        let known = self.backends_of_target(target);
        if known.is_empty() {
            return Err(AdminRefused::UnknownTarget);
        }
        let serves_writes = self.spec.routes.iter().any(|route| route.access == Access::Write);
        let is_writer = serves_writes && known.contains(&self.pair(self.active).primary);
        if admin != Admin::Ready && is_writer && !force {
            return Err(AdminRefused::ActivePrimary);
        }
        Ok(())
    }

    pub(crate) fn set_admin(
        &mut self,
        target: AdminTarget,
        setting: AdminSetting,
        (flows, deadline): (Drain, Option<Duration>),
        now: Moment,
        outputs: &mut Outputs,
    ) {
        if self.backends_of_target(target).is_empty() {
            let reason = IgnoredReason::UnknownTarget { target };
            return self.event(EventKind::Ignored { reason }, now, outputs);
        }
        self.change_admin(target, setting, false, now, outputs);
        if setting.admin == Admin::Ready {
            self.readmit(target);
            let pair = self.pair(self.active);
            let mut replicas = pair.replicas.iter().map(|share| share.backend);
            let named = self.backends_of_target(target);
            // A word that is said while there is nothing to return from does not count for later.
            let is_awaited = self.spec.routes.iter().any(|route| self.waits_for_failback(route));
            self.may_fail_back |= is_awaited && replicas.any(|replica| named.contains(&replica));
        }
        self.advance(ChangeReason::Admin, now, outputs);
        if setting.admin != Admin::Ready {
            // After the swap, so that whose flow ends finds the new routes.
            let admin = setting.admin;
            let why = (DrainReason::TakenOut { admin }, EndReason::TakenOut { admin });
            self.drain(flows_of(target), flows, deadline, why, outputs);
        }
    }

    /// Takes over what the state file said, without what left the configuration.
    pub(super) fn restore_admin(&mut self, now: Moment, outputs: &mut Outputs) {
        for (target, setting) in std::mem::take(&mut self.admin) {
            if self.backends_of_target(target).is_empty() {
                outputs.push_back(Output::ForgetAdmin { cluster: self.spec.id, target });
            } else {
                self.change_admin(target, setting, false, now, outputs);
            }
        }
    }

    /// Ends what has had its time.
    pub(super) fn expire_admin(&mut self, now: Moment, outputs: &mut Outputs) {
        let is_over = |setting: &AdminSetting| setting.until.is_some_and(|until| until <= now);
        let over: Vec<_> =
            self.admin.iter().filter(|(_, setting)| is_over(setting)).map(|(id, _)| *id).collect();
        for target in over {
            self.change_admin(target, AdminSetting::default(), true, now, outputs);
            outputs.push_back(Output::ForgetAdmin { cluster: self.spec.id, target });
        }
    }

    /// Returns when the time of an admin state runs out.
    pub(super) fn next_admin_end(&self) -> Option<Moment> {
        self.admin.values().filter_map(|setting| setting.until).min()
    }

    fn change_admin(
        &mut self,
        target: AdminTarget,
        setting: AdminSetting,
        expired: bool,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let from = self.admin_of(target).admin;
        if setting.admin == Admin::Ready {
            self.admin.remove(&target);
            self.stop_drain(flows_of(target), outputs);
        } else {
            self.admin.insert(target, setting);
        }
        for id in self.backends_of_target(target) {
            let admin = self.effective_admin(id);
            let Some(backend) = self.backends.get_mut(&id) else { continue };
            backend.set_admin(admin);
            if admin == Admin::Maint {
                // What the kernel held at the start says nothing about a server after maintenance.
                self.presumed.iter_mut().for_each(|presumed| presumed.retain(|known| *known != id));
            }
        }
        if from != setting.admin {
            let what = EventKind::AdminChanged { target, from, to: setting.admin, expired };
            self.event(what, now, outputs);
        }
    }

    fn effective_admin(&self, id: BackendId) -> Admin {
        let own = self.admin_of(AdminTarget::Backend(id)).admin;
        own.max(self.admin_of(AdminTarget::Pair(self.backends[&id].pair)).admin)
    }

    /// Returns the backends of a target; none if it is not configured.
    fn backends_of_target(&self, target: AdminTarget) -> Vec<BackendId> {
        match target {
            AdminTarget::Backend(id) => {
                self.backends.contains_key(&id).then_some(id).into_iter().collect()
            }
            AdminTarget::Pair(id) => {
                let pair = self.spec.pairs.iter().find(|pair| pair.id == id);
                pair.map_or_else(Vec::new, |pair| pair.backends().collect())
            }
        }
    }
}
