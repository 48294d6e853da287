//! `docs/decisions.md` is made by the machine itself: what it does in each situation, and how it counts.

use std::{fmt::Write as _, fs};

use pairflip_policy::Health;

use super::*;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/decisions.md");
const BEGIN: &str = "with PAIRFLIP_BLESS=1 -->\n";
const END: &str = "<!-- end of the tables -->";

#[test]
fn the_documented_decisions_are_those_of_the_machine() {
    let document = fs::read_to_string(DOCUMENT).expect("docs/decisions.md");
    let (before, rest) = document.split_once(BEGIN).expect("the begin of the tables");
    let (found, after) = rest.split_once(END).expect("the end of the tables");
    let expected = format!("\n{}\n{}\n", counting(), decisions());
    if std::env::var_os("PAIRFLIP_BLESS").is_some() {
        fs::write(DOCUMENT, format!("{before}{BEGIN}{expected}{END}{after}")).expect("write");
    } else {
        assert_eq!(
            found, expected,
            "docs/decisions.md is stale: run this test with PAIRFLIP_BLESS=1"
        );
    }
}

/// How a backend's health goes on after each kind of result, with `rise` 2 and `fall` 3.
fn counting() -> String {
    let states = [
        Health::NEW,
        Health::Unknown { failures: 2 },
        Health::Up,
        Health::Falling { failures: 1 },
        Health::Falling { failures: 2 },
        Health::Down,
        Health::Rising { passes: 1 },
    ];
    let mut table = "| Health | a check passes | a failure that counts | the same, without a witness | a result that says nothing |\n|---|---|---|---|---|\n".to_owned();
    for state in states {
        let (passed, failed) = (state.passed(2), state.failed().convicted(3));
        _ = writeln!(
            table,
            "| {state} | {passed} | {failed} | {} | {} |",
            state.failed(),
            state.recounted()
        );
    }
    table
}

/// What is known beforehand, what happens then (the last step is what is shown), and in words.
const SITUATIONS: &[(&str, &str)] = &[
    ("the first checks of the active pair are in", "a1 rw; a2 ok"),
    ("the active primary fails once", "H a1 refused"),
    ("the active primary fails `fall` times", "H a1 refused; a1 refused; a1 refused"),
    (
        "it falls silent, and another backend is heard",
        "H a1 timeout; b1 ro; a1 timeout; b1 ro; a1 timeout",
    ),
    (
        "every backend falls silent",
        "H a1 timeout; a2 timeout; b1 timeout; b2 timeout; a1 timeout; a2 timeout; b1 timeout; b2 timeout; \
         a1 timeout; a2 timeout; b1 timeout; b2 timeout",
    ),
    ("the check account is denied there", "H a1 denied; a1 denied; a1 denied; a1 denied"),
    ("it is seen read-only", "H a1 ro"),
    ("it is seen writable again", "H a1 ro; a1 rw"),
    ("it passes `rise` checks after it was down", "H a1 down; a1 rw; a1 rw"),
    ("its own replication stops", "H a1 stopped-rw; a1 stopped-rw; a1 stopped-rw"),
    ("a condition of it fails `fall` times", "J a1 disk fail; a1 disk fail; a1 disk fail"),
    ("a check of it says maintenance", "J a1 disk maint"),
    ("the replica fails `fall` times", "H a2 refused; a2 refused; a2 refused"),
    ("the replica lags more than `max_lag`, `fall` times", "H a2 lag; a2 lag; a2 lag"),
    ("the replica passes `rise` checks again", "H a2 down; a2 ok; a2 ok"),
    ("a condition of the replica fails `fall` times", "J a2 disk fail; a2 disk fail; a2 disk fail"),
    (
        "a condition cannot be judged",
        "J a2 disk local; a2 disk local; a2 disk local; a2 disk local",
    ),
    ("an operator drains the replica", "H drain a2"),
    ("an operator says that it is ready", "H drain a2; ready a2"),
    ("the standby primary fails `fall` times", "H b1 refused; b1 refused; b1 refused"),
    ("an operator flips, the standby is read-only", "H flip"),
    ("an operator flips to a writable standby", "H b1 rw; flip"),
    ("the same with `--drain cut`", "H b1 rw; flip cut"),
    ("an operator flips to a pair of which nothing is up", "H b1 down; b2 down; flip"),
    ("the state file cannot be written in a flip", "H b1 rw; writes fail; flip"),
    ("the kernel refuses the table of a flip", "H b1 rw; swaps fail; flip"),
    ("the daemon is started again", "H restart"),
];

fn decisions() -> String {
    let mut table = "| What happens | What pairflip does |\n|---|---|\n".to_owned();
    for (words, script) in SITUATIONS {
        let script = match script.split_once(' ') {
            Some(("H", rest)) => format!("{HEALTHY}{rest}"),
            Some(("J", rest)) => format!("{JUDGED}{rest}"),
            _ => (*script).to_owned(),
        };
        let done: Vec<String> = run(&script).last.iter().map(|output| described(output)).collect();
        let done = if done.is_empty() { "nothing".to_owned() } else { done.join("; ") };
        _ = writeln!(table, "| {words} | {done} |");
    }
    table
}

/// An output of the scripts' world in the words of the documentation.
fn described(output: &str) -> String {
    let place = |name: &str| match name {
        "-" => "refused".to_owned(),
        "a1" => "to the primary of pair 1".to_owned(),
        "a2" => "to the replica of pair 1".to_owned(),
        "b1" => "to the primary of pair 2".to_owned(),
        "b2" => "to the replica of pair 2".to_owned(),
        other => panic!("what is {other:?}?"),
    };
    let words: Vec<&str> = output.split(' ').collect();
    match words[..] {
        ["swap", _, _, writes, reads] => {
            let target = |word: &str| place(word.split_once('=').expect("a route").1);
            format!("writes {}, reads {}", target(writes), target(reads))
        }
        ["end", "pair#0"] => "connections of pair 1 are ended".to_owned(),
        ["end", name] => {
            format!("connections {} are ended", place(name))
        }
        ["persist", pair] => format!("the state file says {}", pair_name(pair)),
        ["reply", ref rest @ ..] => {
            let said: Vec<String> = rest.iter().map(|word| reply(word)).collect();
            format!("the operator is told: {}", said.join(", "))
        }
        _ => panic!("what is {output:?}?"),
    }
}

fn reply(word: &str) -> String {
    match word.split_once("->") {
        Some((from, to)) => format!("from {} to {}", pair_name(from), pair_name(to)),
        None => format!("`{word}`"),
    }
}

fn pair_name(pair: &str) -> &'static str {
    match pair {
        "pair#0" => "pair 1",
        "pair#1" => "pair 2",
        other => panic!("what is {other:?}?"),
    }
}
