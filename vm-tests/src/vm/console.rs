//! What a machine says on its console: kept in a file, watched for the end of a kernel, quoted in errors.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Lines that an error quotes: the last ones, or those before a fault.
const LINES: usize = 30;
/// Lines that an error quotes from a fault on. A panic of an oops is one of 60 to 100; its reason is at the start.
const FAULT_LINES: usize = 60;

/// A console that is silent this long after a fault has said why.
const QUIET: Duration = Duration::from_millis(500);
/// Longest wait for the reason of a fault.
const REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// Console texts after which waiting is pointless.
const FATAL: [&str; 8] = [
    "Kernel panic - not syncing",
    "BUG: unable to handle",
    "BUG: kernel NULL pointer",
    "general protection fault",
    "Oops: ",
    "watchdog: BUG: soft lockup",
    "Watchdog detected hard LOCKUP",
    // Ours, see `dataplane::load::Error::Program`.
    "the kernel refused the program",
];

/// Raised by the console of any machine of a story, so that none is waited for when one of them is lost.
#[derive(Clone, Debug, Default)]
pub struct Alarm(Arc<Mutex<Option<Fault>>>);

/// A kernel that can do no more.
#[derive(Clone, Debug)]
struct Fault {
    machine: String,
    line: String,
    excerpt: Excerpt,
}

impl Alarm {
    /// An error once a machine is lost.
    pub fn check(&self) -> Result<()> {
        let Some(fault) = lock(&self.0).clone() else { return Ok(()) };
        // What the console says next is why.
        fault.excerpt.wait_quiet();
        Err(fault.excerpt.error(&fault.machine, &fault.line))
    }
}

/// The lines of a console that an error quotes.
#[derive(Clone, Debug, Default)]
pub struct Excerpt(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    /// How many there may be once a fault is among them.
    limit: Option<usize>,
    last: Option<Instant>,
    ended: bool,
}

impl Lines {
    /// Takes a line; true if it is the first that says that the kernel can do no more.
    fn push(&mut self, line: String) -> bool {
        self.last = Some(Instant::now());
        let first_fault = self.limit.is_none() && FATAL.iter().any(|text| line.contains(text));
        if first_fault {
            self.limit = Some(self.lines.len() + FAULT_LINES);
        }
        match self.limit {
            Some(limit) if self.lines.len() >= limit => {}
            Some(_) => self.lines.push_back(line),
            None => {
                self.lines.push_back(line);
                if self.lines.len() > LINES {
                    self.lines.pop_front();
                }
            }
        }
        first_fault
    }
}

impl Excerpt {
    /// An error about `machine` that quotes its console.
    pub fn error(&self, machine: &str, what: &str) -> anyhow::Error {
        let quoted = Vec::from(lock(&self.0).lines.clone()).join("\n");
        anyhow!("machine {machine}: {what}; its console ends:\n{quoted}")
    }

    fn wait_quiet(&self) {
        let deadline = Instant::now() + REASON_TIMEOUT;
        while Instant::now() < deadline {
            let lines = lock(&self.0);
            if lines.ended || lines.last.is_none_or(|last| last.elapsed() > QUIET) {
                return;
            }
            drop(lines);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Reads a machine's console to its end.
#[derive(Debug)]
pub struct Watcher {
    pub machine: String,
    /// It ends when the host wants it, and not by itself.
    pub takes_orders: bool,
    pub alarm: Alarm,
    pub excerpt: Excerpt,
    pub log: File,
}

impl Watcher {
    pub fn watch(mut self, console: impl Read, turned_off: &AtomicBool) {
        let mut reader = BufReader::new(console);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            // A log that cannot be written must not stop the watching.
            _ = self.log.write_all(&bytes);
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            let first_fault = lock(&self.excerpt.0).push(line.clone());
            if first_fault {
                self.raise(&line);
            }
        }
        lock(&self.excerpt.0).ended = true;
        if self.takes_orders && !turned_off.load(Ordering::Relaxed) {
            self.raise("it turned itself off");
        }
    }

    fn raise(&self, line: &str) {
        lock(&self.alarm.0).get_or_insert_with(|| Fault {
            machine: self.machine.clone(),
            line: line.to_owned(),
            excerpt: self.excerpt.clone(),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(lines: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut kept = Lines::default();
        for line in lines {
            kept.push(line);
        }
        kept.lines.into()
    }

    #[test]
    fn a_console_is_quoted_from_its_end() {
        let quoted = quoted((0..1000).map(|line| line.to_string()));
        assert_eq!(quoted.first().unwrap(), "970");
        assert_eq!(quoted.last().unwrap(), "999");
    }

    #[test]
    fn what_led_to_a_panic_and_how_it_begins_is_quoted_however_much_follows() {
        let before = (0..1000).map(|line| format!("before {line}"));
        let panic = ["Kernel panic - not syncing: why".to_owned(), "Call Trace:".to_owned()];
        let after = (0..1000).map(|line| format!("Oops: {line}"));
        let quoted = quoted(before.chain(panic).chain(after));
        assert_eq!(quoted[0], "before 970");
        assert_eq!(quoted[LINES..LINES + 2], ["Kernel panic - not syncing: why", "Call Trace:"]);
        assert_eq!(quoted.last().unwrap(), "Oops: 57");
    }

    #[test]
    fn only_the_first_fault_is_raised() {
        let mut kept = Lines::default();
        assert!(!kept.push("all is well".to_owned()));
        assert!(kept.push("Oops: 0000 [#1]".to_owned()));
        assert!(!kept.push("Kernel panic - not syncing: Fatal exception".to_owned()));
    }
}
