//! `[[hook]]`: programs that are told of events.

use std::ops::RangeInclusive;
use std::time::Duration;

use pairflip_policy::{EventKind, Severity};

use super::field::Field;
use super::model::{Cluster, Hook};
use super::reader::{Place, Reader};
use super::section::{Schema, Section};
use super::suggest;
use super::value::{self, Fault, quoted};

pub(super) const HOOK: Schema = Schema {
    header: "[[hook]]",
    keys: &["name", "command", "events", "severity", "clusters", "timeout"],
    unsupported: &[],
};

/// A pager, a chat room, a ticket, a DNS update, a metric: more is a message bus's business.
const HOOKS_MAX: usize = 16;
/// Words of a command line; what needs more is a script.
const COMMAND_MAX: usize = 64;
/// Bytes of each: longer than any path.
const WORD_BYTES_MAX: usize = 4096;
const COMMAND_EXAMPLE: &str = "[\"/etc/pairflip/notify\", \"--team\", \"dba\"]";

/// The kind of the one event that no policy decides: a secret was read again, or could not be.
pub const KEYS_REREAD: &str = "keys_reread";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Events of a hook wait for the one before.
const TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

/// Returns the hooks, with the place of each name of a cluster, to be looked up when there are clusters.
pub(super) fn read_all(reader: &mut Reader, field: &Field) -> Option<Vec<(Hook, Vec<Place>)>> {
    let sections = field.tables(reader, &HOOK, HOOKS_MAX)?;
    // Every hook is read before the first `None` counts, so that all errors are found.
    let hooks: Vec<_> = sections.iter().map(|section| read(reader, section)).collect();
    hooks.into_iter().collect()
}

fn read(reader: &mut Reader, section: &Section) -> Option<(Hook, Vec<Place>)> {
    let name = section
        .require(reader, "name", "add name = \"pager\"")
        .and_then(|field| field.parse(reader, "\"pager\"", value::name));
    let command = section
        .require(reader, "command", &format!("add command = {COMMAND_EXAMPLE}"))
        .and_then(|field| read_command(reader, &field));
    let events = section.optional(reader, "events", Vec::new(), |reader, field| {
        field.distinct(reader, "[\"flip_done\"]", usize::MAX, event)
    });
    let severities = [Severity::Info, Severity::Warning, Severity::Error].map(|it| (it.name(), it));
    let severity = section.optional(reader, "severity", Severity::Info, |reader, field| {
        field.choose(reader, &severities, &[])
    });
    let clusters = section.optional(reader, "clusters", Vec::new(), |reader, field| {
        field.distinct(reader, "[\"main\"]", usize::MAX, value::name)
    });
    let timeout = section.optional(reader, "timeout", DEFAULT_TIMEOUT, |reader, field| {
        field.parse(reader, "\"10s\"", |text| value::duration(text, TIMEOUT_RANGE))
    });
    let (clusters, places) = clusters?.into_iter().unzip();
    let hook = Hook {
        name: name?,
        command: command?,
        events: events?.into_iter().map(|(name, _)| name).collect(),
        severity: severity?,
        clusters,
        timeout: timeout?,
    };
    Some((hook, places))
}

fn read_command(reader: &mut Reader, field: &Field) -> Option<Vec<String>> {
    let remedy = format!(
        "write a path and its arguments, {COMMAND_MAX} words at most, as in {COMMAND_EXAMPLE}"
    );
    field.command(reader, COMMAND_EXAMPLE, COMMAND_MAX, &remedy, word)
}

fn word(text: &str, index: usize) -> Result<String, Fault> {
    if index == 0 {
        // Not looked for in PATH: which program runs as root must not depend on the environment.
        let example = quoted("/etc/pairflip/notify");
        return value::absolute_path(text, &example, WORD_BYTES_MAX).map(|_| text.to_owned());
    }
    if text.contains('\0') || text.len() > WORD_BYTES_MAX {
        let problem = format!("{} is no argument of a command", quoted(text));
        let remedy = format!("write {WORD_BYTES_MAX} bytes at most, none of them NUL");
        return Err(Fault::new(problem, remedy));
    }
    Ok(text.to_owned())
}

fn event(text: &str) -> Result<String, Fault> {
    let kinds: Vec<&str> = EventKind::NAMES.into_iter().chain([KEYS_REREAD]).collect();
    if kinds.contains(&text) {
        return Ok(text.to_owned());
    }
    let remedy = match suggest::nearest(text, &kinds) {
        Some(name) => format!("do you mean {}?", quoted(name)),
        None => format!("the kinds are: {}", kinds.join(", ")),
    };
    Err(Fault::new(format!("{} is no kind of event", quoted(text)), remedy))
}

/// Reports names of clusters that there are not.
pub(super) fn judge(reader: &mut Reader, hooks: &[(Hook, Vec<Place>)], clusters: &[Cluster]) {
    let known: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let named = hooks.iter().flat_map(|(hook, places)| hook.clusters.iter().zip(places));
    for (name, place) in named.filter(|(name, _)| !known.contains(&name.as_str())) {
        let problem = format!("there is no cluster {}", quoted(name));
        let remedy = format!("the clusters are: {}", known.join(", "));
        reader.report(place, Fault::new(problem, remedy));
    }
}
