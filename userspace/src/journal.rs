//! The journal of events: a line of JSON each, in two files of bounded size, and the same in memory.
//!
//! It is for people who want to know what happened. No decision reads it, so nothing that is wrong with it
//! stops the daemon: lines that cannot be read are skipped, and a disk that cannot be written is a warning.
//! Lines are not synced: a crash of the daemon loses none, a power cut may lose the last ones.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::control::protocol::Event;

/// Size at which the file becomes the older one: 1000 to 3000 events, each of 300 to 900 bytes. With two of
/// them a quiet year fits as well as a bad night.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The events that are kept, oldest first.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    older_path: PathBuf,
    bytes_max: u64,
    /// `None` when it could not be opened; tried again with each event.
    file: Option<File>,
    /// What the files have, and what could not be written to them.
    older: Vec<Event>,
    newer: Vec<Event>,
    /// Of `newer` as lines, written or not: the file is no larger, and memory is bounded as well.
    bytes: u64,
    last: u64,
    /// The file is to become the older one before anything is written.
    is_full: bool,
    /// The file may end within a line, which must not swallow the next one.
    is_torn: bool,
    health: Health,
}

/// Whether the last event reached the file; a change is worth a line in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Health {
    Written,
    Failing,
}

impl Journal {
    /// Reads what is kept in the state directory and goes on there.
    pub fn open(state_dir: &Path) -> Self {
        Self::with_size(state_dir, FILE_BYTES_MAX)
    }

    fn with_size(state_dir: &Path, bytes_max: u64) -> Self {
        let path = state_dir.join("events.jsonl");
        let older_path = state_dir.join("events.jsonl.1");
        let older = events(&read(&older_path));
        let text = read(&path);
        let newer = events(&text);
        let last = older.iter().chain(&newer).map(|event| event.number).max().unwrap_or(0);
        Self {
            path,
            older_path,
            bytes_max,
            file: None,
            older,
            newer,
            bytes: text.len() as u64,
            last,
            is_full: false,
            is_torn: text.last().is_some_and(|byte| *byte != b'\n'),
            health: Health::Written,
        }
    }

    /// Number of the newest event; 0 before the first.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Whether an event of this cluster is kept.
    pub fn knows_cluster(&self, name: &str) -> bool {
        self.kept().any(|event| event.cluster.as_deref() == Some(name))
    }

    /// Returns events in their order: the first ones with larger numbers than `after`, or the last
    /// ones of all.
    pub fn list(&self, after: Option<u64>, limit: usize, cluster: Option<&str>) -> Vec<Event> {
        let fits = |event: &&Event| cluster.is_none() || event.cluster.as_deref() == cluster;
        let fitting = self.kept().filter(fits);
        match after {
            Some(after) => {
                fitting.filter(|event| event.number > after).take(limit).cloned().collect()
            }
            None => {
                let mut events: Vec<Event> = fitting.rev().take(limit).cloned().collect();
                events.reverse();
                events
            }
        }
    }

    fn kept(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.older.iter().chain(&self.newer)
    }

    /// Keeps an event. One that cannot be written is in memory until the daemon ends.
    pub fn append(&mut self, event: Event) {
        let mut line = match serde_json::to_vec(&event) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "an event cannot be written as JSON; please report this");
                return;
            }
        };
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
            self.is_full = true;
        }
        let result = self.write(&line);
        self.bytes += line.len() as u64;
        self.report(result);
        self.last = event.number;
        self.newer.push(event);
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_full {
            self.begin_file()?;
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().create(true).append(true).open(&self.path)?,
        };
        if self.is_torn {
            file.write_all(b"\n")?;
        }
        // Until it is whole.
        self.is_torn = true;
        file.write_all(line)?;
        self.is_torn = false;
        self.file = Some(file);
        Ok(())
    }

    /// Makes the file the older one. If that fails nothing is written: the size is a promise.
    fn begin_file(&mut self) -> io::Result<()> {
        self.file = None;
        match fs::rename(&self.path, &self.older_path) {
            // Never made, or removed by somebody.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.is_full = false;
        self.is_torn = false;
        Ok(())
    }

    fn report(&mut self, result: io::Result<()>) {
        let path = self.path.display();
        let health = match (result, self.health) {
            (Ok(()), Health::Written) | (Err(_), Health::Failing) => return,
            (Ok(()), Health::Failing) => {
                tracing::info!(%path, "the journal of events can be written again");
                Health::Written
            }
            (Err(error), Health::Written) => {
                tracing::warn!(
                    %path,
                    %error,
                    "writing the journal of events; make room or fix permissions in state_dir. Until then events are in this log, and in `pairflip events` until a restart"
                );
                Health::Failing
            }
        };
        self.health = health;
    }
}

/// All bytes of a file; none where there is none.
fn read(path: &Path) -> Vec<u8> {
    match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "reading the journal of events; it goes on without what is there");
            Vec::new()
        }
    }
}

/// The events of a file. Lines that are none were torn by a crash, a power cut or a full disk.
fn events(bytes: &[u8]) -> Vec<Event> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_events_survive_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path());
        assert_eq!(journal.last(), 0);
        add(&mut journal, "main", 3);
        drop(journal);
        let mut journal = Journal::open(directory.path());
        assert_eq!(
            journal.list(None, 9, None),
            [event(1, "main"), event(2, "main"), event(3, "main")]
        );
        add(&mut journal, "main", 1);
        assert_eq!(numbers(&Journal::open(directory.path())), [1, 2, 3, 4]);
    }

    #[test]
    fn the_last_ones_are_listed_or_the_first_ones_after_a_number() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path());
        for cluster in ["a", "b", "a", "b"] {
            add(&mut journal, cluster, 1);
        }
        for (after, limit, cluster, expected) in [
            (None, 2, None, &[3, 4][..]),
            (None, 0, None, &[]),
            (Some(1), 2, None, &[2, 3]),
            (Some(4), 2, None, &[]),
            (Some(9), 2, None, &[]),
            (None, 1, Some("a"), &[3]),
            (Some(0), 9, Some("b"), &[2, 4]),
            (None, 9, Some("c"), &[]),
        ] {
            let events = journal.list(after, limit, cluster);
            let listed: Vec<u64> = events.iter().map(|event| event.number).collect();
            assert_eq!(listed, expected, "{after:?} {limit} {cluster:?}");
        }
        assert!(journal.knows_cluster("b") && !journal.knows_cluster("c"));
    }

    #[test]
    fn a_file_that_is_full_replaces_the_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let line = serde_json::to_vec(&event(1, "main")).unwrap().len() as u64 + 1;
        let open = || Journal::with_size(directory.path(), 3 * line);
        let mut journal = open();
        for (expected, files) in
            [(&[1, 2, 3][..], [3, 0]), (&[1, 2, 3, 4, 5, 6], [3, 3]), (&[4, 5, 6, 7, 8, 9], [3, 3])]
        {
            add(&mut journal, "main", 3);
            assert_eq!(numbers(&journal), expected);
            assert_eq!(numbers(&open()), expected, "after a restart");
            let size =
                |name: &str| fs::metadata(directory.path().join(name)).map_or(0, |file| file.len());
            assert_eq!(
                [size("events.jsonl"), size("events.jsonl.1")],
                files.map(|lines| lines * line)
            );
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        // Also where the daemon was restarted meanwhile.
        add(&mut open(), "main", 1);
        assert_eq!(numbers(&open()), [7, 8, 9, 10]);
    }

    #[test]
    fn torn_lines_are_skipped_and_swallow_nothing() {
        for torn in ["{\"number\":2,\"ti", "\0\0\0\0", "[]", "\n\n", "{}\n", "\u{fffd}"] {
            let directory = tempfile::tempdir().unwrap();
            add(&mut Journal::open(directory.path()), "main", 1);
            let path = directory.path().join("events.jsonl");
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(torn.as_bytes()).unwrap();
            add(&mut Journal::open(directory.path()), "main", 2);
            assert_eq!(numbers(&Journal::open(directory.path())), [1, 2, 3], "{torn:?}");
        }
    }

    #[test]
    fn without_a_disk_events_are_kept_in_memory_within_the_same_bound_and_written_as_soon_as_it_is_back()
     {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let line = serde_json::to_vec(&event(1, "main")).unwrap().len() as u64 + 1;
        // Permissions do not stop root.
        fs::write(&state_dir, "a file, not a directory").unwrap();
        let mut journal = Journal::with_size(&state_dir, 3 * line);
        add(&mut journal, "main", 8);
        assert_eq!(journal.health, Health::Failing);
        assert_eq!(numbers(&journal), [4, 5, 6, 7, 8]);
        fs::remove_file(&state_dir).unwrap();
        fs::create_dir(&state_dir).unwrap();
        add(&mut journal, "main", 1);
        assert_eq!(journal.health, Health::Written);
        assert_eq!(numbers(&journal), [4, 5, 6, 7, 8, 9]);
        assert_eq!(numbers(&Journal::open(&state_dir)), [9]);
    }

    fn add(journal: &mut Journal, cluster: &str, count: usize) {
        for _ in 0..count {
            journal.append(event(journal.last() + 1, cluster));
        }
    }

    fn numbers(journal: &Journal) -> Vec<u64> {
        journal.kept().map(|event| event.number).collect()
    }

    fn event(number: u64, cluster: &str) -> Event {
        Event {
            number,
            time: "2026-11-25T10:00:00.000Z".into(),
            cluster: Some(cluster.to_owned()),
            kind: "checks_answering".into(),
            severity: "info".into(),
            text: "backends are heard again".into(),
            facts: None,
            backends: vec![],
        }
    }
}
