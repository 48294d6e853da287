//! Checks: asking each backend how it is, at the pace that the policy sets.
//!
//! A probe is the I/O, a [`CheckResult`] is what it found. Nothing here counts, remembers or
//! decides: a failed check is data for the policy, and no answer of a server, however broken, ends
//! the loop.

mod cause;
mod dialect;
mod gtid;
pub mod mysql;

use std::time::Duration;

use pairflip_policy::{BackendId, CheckResult};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use mysql::Prober;

pub(crate) use self::{cause::failure, dialect::Dialect};

/// Probes one backend until nobody wants to know: the sender of `pace` or the receiver of `results`
/// was dropped.
///
/// The first probe starts at once, later ones `pace` after the start of the one before; a probe
/// never takes longer than its timeout, and the configuration keeps the timeout at or below every
/// pace. A new pace counts from the start of the last probe, so a faster one takes effect
/// immediately; without one there are no probes and no connection. `kick` asks for a probe now.
pub async fn run(
    backend: BackendId,
    mut prober: Prober,
    mut pace: watch::Receiver<Option<Duration>>,
    kick: &Notify,
    results: mpsc::Sender<(BackendId, CheckResult)>,
) {
    loop {
        if let Wake::Nobody = wait_for_pace(&mut prober, &mut pace, &results).await {
            return;
        }
        let started = Instant::now();
        let result = prober.probe().await;
        let took = started.elapsed();
        tracing::debug!(%backend, server = %prober.target(), ?took, ?result, "checked");
        if results.send((backend, result)).await.is_err() {
            return;
        }
        if let Wake::Nobody = wait(started, &mut pace, kick, &results).await {
            return;
        }
    }
}

/// Why [`wait`] returned.
enum Wake {
    /// The next probe is due, if there is a pace.
    Probe,
    /// Nobody wants to know any more.
    Nobody,
}

/// Waits until there is a pace. A server in maintenance is left alone: no connection that its shutdown would wait for.
async fn wait_for_pace(
    prober: &mut Prober,
    pace: &mut watch::Receiver<Option<Duration>>,
    results: &mpsc::Sender<(BackendId, CheckResult)>,
) -> Wake {
    while pace.borrow_and_update().is_none() {
        prober.disconnect();
        tokio::select! {
            () = results.closed() => return Wake::Nobody,
            changed = pace.changed() => if changed.is_err() { return Wake::Nobody },
        }
    }
    Wake::Probe
}

async fn wait(
    started: Instant,
    pace: &mut watch::Receiver<Option<Duration>>,
    kick: &Notify,
    results: &mpsc::Sender<(BackendId, CheckResult)>,
) -> Wake {
    loop {
        let Some(interval) = *pace.borrow_and_update() else { return Wake::Probe };
        let due = started + interval;
        tokio::select! {
            () = tokio::time::sleep_until(due) => return Wake::Probe,
            () = kick.notified() => return Wake::Probe,
            () = results.closed() => return Wake::Nobody,
            changed = pace.changed() => if changed.is_err() { return Wake::Nobody },
        }
    }
}
