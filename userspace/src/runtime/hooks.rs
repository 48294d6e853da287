//! Hooks: programs that are told of events, one after the other and in order, and that nobody waits for.
//!
//! Each hook has a queue and a task of its own, so a slow one delays neither the daemon nor the others. What does not fit
//! into its queue is lost to it, counted and said; `pairflip events` still has it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pairflip_policy::Severity;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    config::Hook,
    control::protocol::{self, HookStatus},
    exec::Runner,
};

/// Events that wait for a hook: a bad night's worth while it hangs for its `timeout` each time.
const QUEUE: usize = 256;

/// All hooks of the configuration.
pub(super) struct Hooks(Vec<Running>);

struct Running {
    hook: Arc<Hook>,
    queue: mpsc::Sender<protocol::Event>,
    task: JoinHandle<()>,
    tally: Arc<Tally>,
}

/// What became of a hook's events since the daemon's start.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
    /// Why the last one failed; `None` since one did not.
    failure: Mutex<Option<String>>,
}

impl Hooks {
    /// Starts a task for each; says which of them cannot work.
    pub(super) fn start(hooks: &[Hook]) -> Self {
        for problem in hooks.iter().filter_map(problem) {
            tracing::warn!("{problem}");
        }
        Self(hooks.iter().cloned().map(Running::start).collect())
    }

    /// Hands an event to the hooks that it is for. Never waits.
    pub(super) fn tell(&self, event: &protocol::Event, severity: Severity) {
        for running in self.0.iter().filter(|running| wants(&running.hook, event, severity)) {
            running.tell(event);
        }
    }

    pub(super) fn status(&self) -> Vec<HookStatus> {
        self.0.iter().map(Running::status).collect()
    }

    /// Lets the hooks do what is left, but not for longer than this.
    pub(super) async fn finish(self, longest: Duration) {
        let deadline = tokio::time::Instant::now() + longest;
        for Running { hook, queue, task, .. } in self.0 {
            drop(queue);
            let abort = task.abort_handle();
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                abort.abort();
                tracing::warn!(
                    hook = hook.name,
                    "the hook was not done when the daemon ended, and was killed"
                );
            }
        }
    }
}

/// What keeps a hook from working, if that can be seen without running it.
pub(super) fn problem(hook: &Hook) -> Option<String> {
    use nix::unistd::{AccessFlags, access};
    let Hook { name, command, .. } = hook;
    let program = command.first()?;
    let error = access(program.as_str(), AccessFlags::X_OK).err()?;
    Some(format!(
        "hook[{name}]: {program} cannot be run ({}): install it or make it executable; until then its events are lost to it",
        error.desc()
    ))
}

fn wants(hook: &Hook, event: &protocol::Event, severity: Severity) -> bool {
    let is_cluster = |cluster: &String| hook.clusters.contains(cluster);
    severity >= hook.severity
        && (hook.events.is_empty() || hook.events.contains(&event.kind))
        && (hook.clusters.is_empty() || event.cluster.as_ref().is_some_and(is_cluster))
}

impl Running {
    fn start(hook: Hook) -> Self {
        let (queue, mut events) = mpsc::channel::<protocol::Event>(QUEUE);
        let (hook, tally) = (Arc::new(hook), Arc::new(Tally::default()));
        let (tasks_hook, tasks_tally) = (Arc::clone(&hook), Arc::clone(&tally));
        let task = tokio::spawn(async move {
            let mut runner = Runner::new(tasks_hook.command.clone(), tasks_hook.timeout);
            while let Some(event) = events.recv().await {
                let result = run(&tasks_hook, &mut runner, &event).await;
                tasks_tally.note(&tasks_hook.name, event.number, result);
            }
        });
        Self { hook, queue, task, tally }
    }

    fn tell(&self, event: &protocol::Event) {
        if self.queue.try_send(event.clone()).is_err() {
            let lost = self.tally.lost.fetch_add(1, Ordering::Relaxed) + 1;
            // Once a burst is said: whoever floods the log hides what matters.
            if lost.is_power_of_two() {
                tracing::warn!(
                    hook = self.hook.name,
                    lost,
                    "events are lost to the hook: {QUEUE} wait for it already; make it faster, or give it fewer with `events` and `severity`"
                );
            }
        }
    }

    fn status(&self) -> HookStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HookStatus {
            name: self.hook.name.clone(),
            done: count(&self.tally.done),
            failed: count(&self.tally.failed),
            lost: count(&self.tally.lost),
            failure: self.tally.failure().clone(),
        }
    }
}

impl Tally {
    fn note(&self, hook: &str, event: u64, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                if self.failure().take().is_some() {
                    tracing::info!(hook, event, "the hook works again");
                }
            }
            Err(failure) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(hook, event, "the hook failed: {failure}");
                *self.failure() = Some(failure);
            }
        }
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Nobody panics while holding it, and half a text would hurt nobody.
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn run(hook: &Hook, runner: &mut Runner, event: &protocol::Event) -> Result<(), String> {
    let mut input = serde_json::to_vec(event).map_err(|error| error.to_string())?;
    input.push(b'\n');
    let environment = environment(&hook.name, event);
    match runner.run(&environment, &input).await {
        Err(error) => Err(format!("{} {error}", hook.command[0])),
        Ok(finished) if finished.status.success() => Ok(()),
        Ok(finished) => {
            let said = match finished.words.as_str() {
                "" => String::new(),
                words => format!(": {words}"),
            };
            Err(format!("{} ended with {}{said}", hook.command[0], finished.status))
        }
    }
}

/// What the event says, for programs that do not read JSON.
fn environment(hook: &str, event: &protocol::Event) -> Vec<(&'static str, String)> {
    let protocol::Event { number, time, cluster, kind, severity, text, facts, .. } = event;
    let mut environment = vec![
        ("PAIRFLIP_HOOK", hook.to_owned()),
        ("PAIRFLIP_EVENT_NUMBER", number.to_string()),
        ("PAIRFLIP_EVENT_TIME", time.clone()),
        ("PAIRFLIP_EVENT_KIND", kind.clone()),
        ("PAIRFLIP_EVENT_SEVERITY", severity.clone()),
        // Of a server's message, which may be anything; the environment has no NUL.
        ("PAIRFLIP_EVENT_TEXT", text.replace('\0', "\u{fffd}")),
        ("PAIRFLIP_CLUSTER", cluster.clone().unwrap_or_default()),
    ];
    if let Some(facts) = facts {
        environment.push(("PAIRFLIP_BACKEND", facts.backend.clone()));
    }
    environment
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Instant};

    use super::*;

    #[tokio::test]
    async fn a_hook_gets_its_events_in_order_as_json_and_in_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let hook = script(
            directory.path(),
            "cat; echo $PAIRFLIP_EVENT_KIND $PAIRFLIP_CLUSTER $PAIRFLIP_HOOK",
        );
        let hooks = Hooks::start(&[hook]);
        for number in 1..=3 {
            hooks.tell(&event(number, "flip_done", "main"), Severity::Info);
        }
        hooks.finish(Duration::from_secs(20)).await;
        let text = fs::read_to_string(directory.path().join("out")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        for (index, lines) in lines.chunks(2).enumerate() {
            let told: protocol::Event = serde_json::from_str(lines[0]).unwrap();
            assert_eq!(told, event(index as u64 + 1, "flip_done", "main"));
            assert_eq!(lines[1], "flip_done main test");
        }
    }

    #[test]
    fn a_hook_is_told_what_it_asked_for() {
        let all = hook(&["/bin/true"]);
        let some = Hook {
            events: vec!["flip_done".into()],
            severity: Severity::Warning,
            clusters: vec!["main".into()],
            ..all.clone()
        };
        let flip = event(1, "flip_done", "main");
        let nowhere = protocol::Event { cluster: None, ..flip.clone() };
        for (event, severity, is_wanted) in [
            (&flip, Severity::Error, true),
            (&flip, Severity::Warning, true),
            (&flip, Severity::Info, false),
            (&event(1, "flip_refused", "main"), Severity::Error, false),
            (&event(1, "flip_done", "other"), Severity::Error, false),
            (&nowhere, Severity::Error, false),
        ] {
            assert!(wants(&all, event, severity));
            assert_eq!(wants(&some, event, severity), is_wanted, "{event:?} {severity:?}");
        }
    }

    #[tokio::test]
    async fn failures_are_counted_with_their_reason_until_it_works_again() {
        let directory = tempfile::tempdir().unwrap();
        let hook = script(
            directory.path(),
            "test $PAIRFLIP_EVENT_NUMBER -gt 1 || { echo no luck >&2; exit 5; }",
        );
        let hooks = Hooks::start(&[hook, self::hook(&["/does/not/exist"])]);
        hooks.tell(&event(1, "started", "main"), Severity::Info);
        let [failed, missing] = &settled(&hooks, 1).await[..] else { panic!("two hooks") };
        assert_eq!((failed.done, failed.failed, failed.lost), (0, 1, 0));
        let failure = failed.failure.as_deref().unwrap();
        assert_eq!(failure, "/bin/sh ended with exit status: 5: no luck");
        let failure = missing.failure.as_deref().unwrap();
        assert!(
            failure.starts_with("/does/not/exist cannot be started: No such file"),
            "{failure}"
        );
        hooks.tell(&event(2, "started", "main"), Severity::Info);
        let again = &settled(&hooks, 2).await[0];
        assert_eq!((again.done, again.failed, &again.failure), (1, 1, &None));
    }

    #[tokio::test]
    async fn a_hook_that_hangs_delays_nobody_and_loses_what_does_not_fit() {
        let hooks = Hooks::start(&[hook(&["/bin/sleep", "600"])]);
        let begun = Instant::now();
        let count = QUEUE as u64 + 10;
        for number in 1..=count {
            hooks.tell(&event(number, "started", "main"), Severity::Info);
        }
        let status = &hooks.status()[0];
        // The first one may have left the queue.
        assert!((9..=10).contains(&status.lost), "{status:?}");
        hooks.finish(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_cannot_be_run_is_seen_before_it_is_needed() {
        assert_eq!(problem(&hook(&["/bin/true"])), None);
        let text = problem(&hook(&["/does/not/exist"])).unwrap();
        assert!(text.contains("hook[test]: /does/not/exist cannot be run (No such file"), "{text}");
        assert!(problem(&hook(&["/etc/passwd"])).unwrap().contains("Permission denied"));
    }

    /// Waits until every hook is through with so many events.
    async fn settled(hooks: &Hooks, count: u64) -> Vec<HookStatus> {
        let begun = Instant::now();
        loop {
            let status = hooks.status();
            if status.iter().all(|status| status.done + status.failed == count) {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A shell script whose output goes to a file `out`.
    fn script(directory: &Path, text: &str) -> Hook {
        let out = directory.join("out");
        let script = format!("exec >>{}; {text}", out.display());
        hook(&["/bin/sh", "-c", &script])
    }

    fn hook(command: &[&str]) -> Hook {
        Hook {
            name: "test".into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            events: Vec::new(),
            severity: Severity::Info,
            clusters: Vec::new(),
            timeout: Duration::from_secs(20),
        }
    }

    fn event(number: u64, kind: &str, cluster: &str) -> protocol::Event {
        protocol::Event {
            number,
            time: "2026-11-25T10:00:00.000Z".into(),
            cluster: Some(cluster.to_owned()),
            kind: kind.into(),
            severity: "info".into(),
            text: "it happened".into(),
            facts: None,
            backends: vec![],
        }
    }
}
