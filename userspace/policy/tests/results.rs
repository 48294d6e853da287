//! The documentation says what the code does: the table of results in `docs/checks.md` is made of the enums.

use std::fs;

use pairflip_policy::{Cause, Effect, results_table};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/checks.md");
const BEGIN: &str = "with PAIRFLIP_BLESS=1 -->\n";
const END: &str = "<!-- end of results -->";

#[test]
fn the_documented_table_of_results_is_that_of_the_code() {
    let document = fs::read_to_string(DOCUMENT).expect("docs/checks.md");
    let (before, rest) = document.split_once(BEGIN).expect("the begin of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    let expected = format!("\n{}\n", results_table());
    if std::env::var_os("PAIRFLIP_BLESS").is_some() {
        fs::write(DOCUMENT, format!("{before}{BEGIN}{expected}{END}{after}")).expect("write");
    } else {
        assert_eq!(found, expected, "docs/checks.md is stale: run this test with PAIRFLIP_BLESS=1");
    }
}

#[test]
fn every_cause_is_in_the_table_and_only_those_that_prove_nothing_alive_take_down() {
    let takes_down: Vec<_> =
        Cause::ALL.into_iter().filter(|cause| cause.effect() != Effect::Nothing).collect();
    let expected = [
        Cause::Refused,
        Cause::ConnectionLost,
        Cause::Protocol,
        Cause::TimedOut,
        Cause::Unreachable,
    ];
    assert_eq!(takes_down, expected);
    for cause in Cause::ALL {
        assert!(results_table().contains(&format!("| `{}` |", cause.name())), "{cause}");
    }
}
