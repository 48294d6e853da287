//! Reloading: passwords and certificates are read again. Anything else of the configuration needs a restart, which costs no connection;
//! what would is named.

use super::Runtime;
use crate::{
    check::keys::{Notice, Reread},
    config::{self, HostSecrets},
    control::protocol::Reloaded,
};

impl Runtime {
    /// Answers `POST /v1/reload` and SIGHUP.
    pub(super) fn reload(&mut self) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let mut notices = Vec::new();
        for (index, keys) in &self.keys {
            let name = self.config.clusters.get(*index).map_or("-", |cluster| &cluster.name);
            let Reread { changed, failed } = keys.reread(&HostSecrets);
            for what in changed {
                let text = format!("reload: the new {what} of the checks is in use");
                notices.push(Notice { cluster: *index, text, is_trouble: false });
                reloaded.changed.push(format!("{what} of the checks of cluster {name}"));
            }
            for why in failed {
                let text = format!("reload: {why}");
                notices.push(Notice { cluster: *index, text, is_trouble: true });
                reloaded.failed.push(format!("cluster {name}: {why}"));
            }
        }
        for notice in &notices {
            self.tell_of_keys(notice);
        }
        match config::differences(&self.config.source) {
            Ok(keys) => reloaded.needs_restart = keys,
            Err(error) => reloaded.failed.push(format!("the configuration is as it was: {error}")),
        }
        for key in &reloaded.needs_restart {
            tracing::warn!(
                "reload: {key} differs from what is in force; restart pairflipd, connections live on"
            );
        }
        if reloaded.changed.is_empty() && reloaded.failed.is_empty() {
            tracing::info!("reload: passwords and certificates are the same as before");
        }
        reloaded
    }
}
