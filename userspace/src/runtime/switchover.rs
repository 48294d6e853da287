//! Switchovers: what the state file keeps of one that is under way.

use pairflip_policy::{Intent, IntentStage, PairId};

use super::failover::pair_name;
use crate::{config, state::SwitchoverRecord};

/// What the state file is to say.
pub(super) fn record(cluster: &config::Cluster, intent: &Intent) -> SwitchoverRecord {
    SwitchoverRecord {
        from: pair_name(cluster, intent.from),
        to: pair_name(cluster, intent.to),
        position: match &intent.stage {
            IntentStage::Prepared => None,
            IntentStage::Promoting { position } => Some(position.clone()),
        },
        target_was_writable: intent.target_was_writable,
    }
}

/// What the state file says, by today's names; `None` when a pair left the configuration.
pub(super) fn restored(cluster: &config::Cluster, record: &SwitchoverRecord) -> Option<Intent> {
    let pair = |name: &String| {
        let index = cluster.pairs.iter().position(|pair| pair.name == *name)?;
        Some(PairId(index as u16))
    };
    Some(Intent {
        from: pair(&record.from)?,
        to: pair(&record.to)?,
        stage: match &record.position {
            None => IntentStage::Prepared,
            Some(position) => IntentStage::Promoting { position: position.clone() },
        },
        target_was_writable: record.target_was_writable,
    })
}
