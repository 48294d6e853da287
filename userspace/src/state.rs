//! What must survive the daemon: the active pair of every cluster, and what was changed on the host.
//!
//! One JSON file in the state directory, replaced atomically: a reader sees the old or the new one, never a half. A file
//! that cannot be read is an error, never an empty state: guessing the active pair could send writes to the wrong one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::net::ports::Reservation;

/// Version of the file's layout.
const VERSION: u32 = 1;

/// Everything that is kept.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// By cluster name.
    #[serde(default)]
    pub clusters: BTreeMap<String, ClusterState>,
    /// Admin states that operators set: by cluster name, then by pair name or backend address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub admin: BTreeMap<String, BTreeMap<String, AdminRecord>>,
    /// How the kernel's port settings were before the daemon changed them; `unload` restores them.
    #[serde(default)]
    pub ports: Option<Reservation>,
    /// VIPs that the daemon put on an interface; `unload` takes them off.
    #[serde(default)]
    pub vips: Vec<PlacedVip>,
}

/// What is kept of one cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// Name of the active pair.
    pub active_pair: String,
    /// Why it is the active one.
    pub reason: String,
    /// Seconds since 1970 when it was written.
    pub since: u64,
    /// Absent where none ever was, or nothing of it matters any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverRecord>,
    /// Of a switchover that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverRecord>,
}

/// What is kept of a switchover that is under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRecord {
    /// Names of pairs.
    pub from: String,
    pub to: String,
    /// Where the old primary was fenced, once the new one has all of it and is about to take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The new primary took writes before, and an operator forced that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub target_was_writable: bool,
}

/// What is kept of failovers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastFailoverRecord>,
    /// Pairs that failed and wait for an operator's word.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub out: BTreeSet<String>,
}

/// The last failover, or the one that is under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LastFailoverRecord {
    /// Names of pairs.
    pub from: String,
    pub to: String,
    /// The new primary was seen writable.
    pub done: bool,
    /// Seconds since 1970 when it was decided, and until when there is no other; `None` once an operator knows of it.
    pub at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// `server_id` of the old primary.
    pub source_id: u32,
    /// What the logs of both primaries held as far as was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_position: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_position: Option<String>,
}

/// What an operator said about a backend or a pair.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdminRecord {
    pub state: AdminState,
    /// Seconds since 1970 when it was said, and when it ends by itself.
    pub since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Who said it, and why.
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// An admin state that is not the usual one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    Drain,
    Maint,
}

/// An address that is on an interface because of us.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedVip {
    pub address: std::net::IpAddr,
    pub interface: String,
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}: {source}; check that the directory is there and writable by root")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a state file of this version: {reason}; move it away to start with the first pair of every cluster active, or restore it from a backup"
    )]
    Unreadable { path: PathBuf, reason: String },
    #[error(
        "another pairflipd uses {path}; stop it first, or give this one a state_dir of its own"
    )]
    InUse { path: PathBuf },
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            clusters: BTreeMap::new(),
            admin: BTreeMap::new(),
            ports: None,
            vips: Vec::new(),
        }
    }
}

/// The time as the state has it: seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a later daemon reads it; the present one decides by its own clock"
)]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Released by the kernel when the process ends, however it ends.
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if needed and locks it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path).map_err(error("making", path))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(error("opening", &lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Error::InUse { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    fn file(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Reads the state; an empty one when none was ever written.
    pub fn load(&self) -> Result<State, Error> {
        let path = self.file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => return Err(error("reading", &path)(source)),
        };
        let state: State = serde_json::from_str(&text).map_err(|source| Error::Unreadable {
            path: path.clone(),
            reason: source.to_string(),
        })?;
        if state.version != VERSION {
            let reason =
                format!("it has version {}, this pairflipd writes {VERSION}", state.version);
            return Err(Error::Unreadable { path, reason });
        }
        Ok(state)
    }

    /// Replaces the file; when this returns, the new state is on disk.
    pub fn save(&self, state: &State) -> Result<(), Error> {
        let path = self.file();
        let new = self.path.join("state.json.new");
        let text = serde_json::to_string_pretty(state).map_err(|source| Error::Unreadable {
            path: path.clone(),
            reason: source.to_string(),
        })?;
        let mut file = File::create(&new).map_err(error("creating", &new))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(error("writing", &new))?;
        fs::rename(&new, &path).map_err(error("replacing", &path))?;
        // The rename itself must reach the disk, too.
        let dir = File::open(&self.path).map_err(error("opening", &self.path))?;
        nix::unistd::fsync(dir.as_fd()).map_err(|errno| error("syncing", &self.path)(errno.into()))
    }
}

fn error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(dir.path()).unwrap();
        assert_eq!(state_dir.load().unwrap(), State::default());
        let last = LastFailoverRecord {
            from: "pair1".into(),
            to: "pair2".into(),
            done: true,
            at: 7,
            until: Some(3607),
            source_id: 11,
            old_position: Some("1-11-99".into()),
            new_position: None,
        };
        let cluster = ClusterState {
            active_pair: "pair2".into(),
            reason: "failover".into(),
            since: 7,
            failover: Some(FailoverRecord { last: Some(last), out: ["pair1".into()].into() }),
            switchover: Some(SwitchoverRecord {
                from: "pair2".into(),
                to: "pair1".into(),
                position: Some("1-11-99".into()),
                target_was_writable: false,
            }),
        };
        let record = AdminRecord {
            state: AdminState::Maint,
            since: 7,
            until: Some(9),
            by: "dba".into(),
            note: "disk".into(),
        };
        let state = State {
            clusters: [("main".into(), cluster)].into(),
            admin: [("main".into(), [("pair1".into(), record)].into())].into(),
            ..State::default()
        };
        state_dir.save(&state).unwrap();
        assert_eq!(state_dir.load().unwrap(), state);
    }

    #[test]
    fn addresses_of_both_families_are_kept_and_files_of_version_0_1_are_read() {
        let text = r#"{
            "version": 1,
            "clusters": {"main": {"active_pair": "pair2", "reason": "flip", "since": 7}},
            "ports": {
                "before": {"reserved": "8080", "ephemeral": [32768, 60999]},
                "after": {"reserved": "8080,32768-60999", "ephemeral": [16384, 60999]}
            },
            "vips": [{"address": "10.0.0.100", "interface": "eth0"}]
        }"#;
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("state.json"), text).unwrap();
        let mut state = state_dir.load().unwrap();
        assert_eq!(state.vips[0].address.to_string(), "10.0.0.100");
        assert!(state.ports.is_some());
        let address = "2001:db8::100".parse().unwrap();
        state.vips.push(PlacedVip { address, interface: "eth0".into() });
        state_dir.save(&state).unwrap();
        assert_eq!(state_dir.load().unwrap(), state);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(Error::InUse { .. })));
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_an_empty_state() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":2}"#,
            r#"{"version":1,"surprise":0}"#,
            "{\"version\":1,\"clusters\":{\"main\":{}}}",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let state_dir = StateDir::open(dir.path()).unwrap();
            fs::write(dir.path().join("state.json"), text).unwrap();
            let error = state_dir.load().unwrap_err().to_string();
            assert!(error.contains("is not a state file of this version"), "{text}: {error}");
            assert!(error.contains("move it away"), "{error}");
        }
    }
}
