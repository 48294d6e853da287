//! Fencing: servers that are made read-only or writable for a failover, and what their answers mean.

use std::mem;

use super::{CALLED_OFF, Cluster, FENCE_TIMEOUT, Outputs, RETRY};
use crate::{
    failover::{FailoverRefused, Outlook},
    ids::BackendId,
    input::{FenceError, FenceFault, Fenced},
    moment::Moment,
    output::{EventKind, FenceReason, Output, UnfenceReason},
    reason::IgnoredReason,
};

impl Cluster {
    pub(super) fn fence(&mut self, backend: BackendId, reason: FenceReason, outputs: &mut Outputs) {
        self.failover.fencing = Some((backend, reason));
        let (cluster, timeout) = (self.spec.id, FENCE_TIMEOUT);
        outputs.push_back(Output::Fence { cluster, backend, timeout, reason });
    }

    pub(super) fn unfence(
        &mut self,
        backend: BackendId,
        reason: UnfenceReason,
        outputs: &mut Outputs,
    ) {
        self.failover.unfencing = Some((backend, reason));
        let (cluster, timeout) = (self.spec.id, FENCE_TIMEOUT);
        outputs.push_back(Output::Unfence { cluster, backend, timeout, reason });
    }

    pub(crate) fn fenced(
        &mut self,
        backend: BackendId,
        result: Result<Fenced, FenceError>,
        now: Moment,
        outputs: &mut Outputs,
    ) -> Result<(), IgnoredReason> {
        let answered = self.failover.fencing.take_if(|(expected, _)| *expected == backend);
        let (_, reason) = answered.ok_or(IgnoredReason::UnexpectedFence { backend })?;
        if result.is_ok()
            && let Some(known) = self.backends.get_mut(&backend)
        {
            known.set_read_only(true);
        }
        match reason {
            FenceReason::Failover => self.old_primary_fenced(backend, result, now, outputs),
            FenceReason::Returned => self.returned_fenced(backend, result, now, outputs),
        }
        Ok(())
    }

    fn old_primary_fenced(
        &mut self,
        backend: BackendId,
        result: Result<Fenced, FenceError>,
        now: Moment,
        outputs: &mut Outputs,
    ) {
        // It may have been called off meanwhile.
        let run = self.failover.run.take();
        let (answer, was_changed) = match result {
            Err(FenceError { fault: FenceFault::Unreachable, text }) => {
                let what = EventKind::FenceFailed { backend, reason: FenceReason::Failover, text };
                self.event(what, now, outputs);
                if let Some(to) = run
                    && self.judge(now) == (Outlook::Possible { to })
                {
                    self.flip_over(to, now);
                } else if let Some(inherited) = self.failover.inherits.take() {
                    self.failover.undo = Some((inherited, now));
                }
                return;
            }
            Ok(Fenced { was_read_only }) => {
                let answer = if was_read_only {
                    "it is read-only"
                } else {
                    "it was fenced, which is undone"
                };
                (answer.to_owned(), !was_read_only)
            }
            Err(FenceError { fault: FenceFault::Unknown, text }) => {
                (text, self.backends[&backend].read_only() == Some(false))
            }
            Err(FenceError { fault: FenceFault::Refused | FenceFault::NotApplied, text }) => {
                (text, false)
            }
        };
        if was_changed {
            self.failover.undo = Some((backend, now));
        }
        if let Some(to) = run {
            let reason = FailoverRefused::CalledOff { answer };
            self.undo_failover(to, reason, now + CALLED_OFF, now, outputs);
        }
    }

    pub(crate) fn unfenced(
        &mut self,
        backend: BackendId,
        result: Result<(), FenceError>,
        now: Moment,
        outputs: &mut Outputs,
    ) -> Result<(), IgnoredReason> {
        let answered = self.failover.unfencing.take_if(|(expected, _)| *expected == backend);
        let (_, reason) = answered.ok_or(IgnoredReason::UnexpectedFence { backend })?;
        match result {
            Ok(()) => {
                self.failover.unfence_failure_told = false;
                if let Some(known) = self.backends.get_mut(&backend) {
                    known.set_read_only(false);
                }
            }
            Err(FenceError { text, .. }) => {
                let refused = FailoverRefused::Failed { what: text.clone() };
                // Tried again and again: said once.
                if !mem::replace(&mut self.failover.unfence_failure_told, true) {
                    let what = EventKind::UnfenceFailed { backend, reason, text };
                    self.event(what, now, outputs);
                }
                match reason {
                    UnfenceReason::Promotion => {
                        self.failover.reported = Some(refused.clone());
                        self.failover.rest = Some((refused, now + RETRY));
                    }
                    UnfenceReason::Undo => self.failover.undo = Some((backend, now + RETRY)),
                }
            }
        }
        Ok(())
    }

    /// Gives an old primary that lives after all its writes back, as long as it is the one that should have them.
    pub(super) fn undo_fence(&mut self, now: Moment, outputs: &mut Outputs) {
        let Some((backend, at)) = self.failover.undo else { return };
        if self.pair(self.active).primary != backend {
            self.failover.undo = None;
        } else if at <= now && self.is_free() {
            self.failover.undo = None;
            self.unfence(backend, UnfenceReason::Undo, outputs);
        }
    }
}
