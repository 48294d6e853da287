//! Returned: what failed stays out until an operator says that it is well, and is fenced when it comes back writable.

use std::mem;

use super::{Cluster, Outputs, RETURNED_RETRY};
use crate::{
    failover::FailoverStage,
    health::Verdict,
    ids::BackendId,
    input::{Admin, AdminTarget, FenceError, Fenced, Role},
    moment::Moment,
    output::{EventKind, FenceReason},
};

/// A primary that failed and answers again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returned {
    /// It was seen read-only since it came back.
    pub(super) fenced: bool,
    /// The log has heard that it cannot be fenced.
    failure_told: bool,
    pub(super) retry_at: Option<Moment>,
}

impl Cluster {
    /// What failed and came back writable is fenced, once each time that it comes back.
    pub(super) fn fence_returned(&mut self, now: Moment, outputs: &mut Outputs) {
        let is_over =
            self.failover.memory.last.as_ref().is_none_or(|last| last.stage == FailoverStage::Done);
        if !is_over || self.failing_over_to().is_some() {
            return;
        }
        for pair in self.failover.memory.out.clone() {
            let id = self.pair(pair).primary;
            let backend = &self.backends[&id];
            let is_gone = backend.failure.is_some() && backend.health.verdict() == Verdict::Down;
            if is_gone || backend.admin == Admin::Maint {
                self.failover.returned.remove(&id);
            }
            if backend.failure.is_some() || backend.facts.is_none() {
                continue;
            }
            // Facts are from before it died until it answers.
            if backend.answered_at.is_none_or(|at| at <= self.failover.promoting_since) {
                continue;
            }
            let read_only = backend.read_only() == Some(true);
            let is_new = !self.failover.returned.contains_key(&id);
            if is_new {
                let what = EventKind::OldPrimaryReturned { backend: id, pair, read_only };
                self.event(what, now, outputs);
            }
            let is_free = self.is_free();
            let returned = self.failover.returned.entry(id).or_default();
            returned.fenced |= read_only;
            let is_due = returned.retry_at.is_none_or(|at| at <= now);
            if !returned.fenced && is_due && is_free {
                self.fence(id, FenceReason::Returned, outputs);
            }
        }
    }

    pub(super) fn returned_fenced(
        &mut self,
        backend: BackendId,
        result: Result<Fenced, FenceError>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        let returned = self.failover.returned.entry(backend).or_default();
        match result {
            Ok(_) => {
                returned.fenced = true;
                self.event(EventKind::Fenced { backend }, now, outputs);
            }
            Err(FenceError { text, .. }) => {
                returned.retry_at = Some(now + RETURNED_RETRY);
                if !mem::replace(&mut returned.failure_told, true) {
                    let reason = FenceReason::Returned;
                    self.event(EventKind::FenceFailed { backend, reason, text }, now, outputs);
                }
            }
        }
    }

    /// An operator made another pair active: what was remembered is known to somebody.
    pub(in crate::cluster) fn acknowledge_failover(&mut self, now: Moment) {
        self.failover.active_since = Some(now);
        self.failover.memory.out.clear();
        self.failover.returned.clear();
        self.failover.rest = None;
        self.failover.inherits = None;
        self.end_window();
    }

    /// An operator says that a pair, or its primary, is well.
    pub(in crate::cluster) fn readmit(&mut self, target: AdminTarget) {
        let pair = match target {
            AdminTarget::Pair(pair) => pair,
            AdminTarget::Backend(id) if self.backends[&id].role == Role::Primary => {
                self.backends[&id].pair
            }
            AdminTarget::Backend(_) => return,
        };
        // About to fail over: what is said now is not about what comes of it.
        if pair == self.active && self.failing_over_to().is_some() {
            return;
        }
        if self.failover.memory.out.remove(&pair) && self.failover.memory.out.is_empty() {
            self.end_window();
        }
    }

    fn end_window(&mut self) {
        if let Some(last) = &mut self.failover.memory.last {
            last.until = None;
            last.stage = FailoverStage::Done;
        }
    }
}
