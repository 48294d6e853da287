//! The matrix for people (terminal, Markdown) and for machines (JUnit XML).

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{channel::Verdict, matrix::Outcome};

/// How often each verdict was given.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    pub passed: usize,
    pub failed: usize,
    pub unsupported: usize,
}

/// Counts the verdicts.
pub fn count(outcomes: &[Outcome]) -> Count {
    let mut count = Count::default();
    for outcome in outcomes {
        match outcome.verdict {
            Verdict::Passed => count.passed += 1,
            Verdict::Failed(_) => count.failed += 1,
            Verdict::Unsupported(_) => count.unsupported += 1,
        }
    }
    count
}

/// One line for the terminal, as soon as the outcome is there.
pub fn line(outcome: &Outcome) -> String {
    let seconds = outcome.took.as_secs_f64();
    let head = format!(
        "{:<11} {:<8} {:<22} {seconds:>6.1} s",
        word(&outcome.verdict),
        outcome.kernel,
        outcome.scenario
    );
    let mut details: Vec<&str> = outcome.notes.iter().map(String::as_str).collect();
    if let Verdict::Failed(reason) | Verdict::Unsupported(reason) = &outcome.verdict {
        details.push(reason);
    }
    details.iter().fold(head, |text, detail| {
        text + "\n            " + &detail.replace('\n', "\n            ")
    })
}

/// The matrix as a table: a row for each scenario, a column for each kernel, and below it what there is to say.
pub fn table(outcomes: &[Outcome]) -> String {
    let kernels = distinct(outcomes.iter().map(|outcome| outcome.kernel.as_str()));
    let scenarios = distinct(outcomes.iter().map(|outcome| outcome.scenario));
    let mut rows = vec![
        std::iter::once("scenario".to_owned())
            .chain(kernels.iter().map(|name| (*name).to_owned()))
            .collect::<Vec<_>>(),
    ];
    for scenario in scenarios {
        let mut row = vec![scenario.to_owned()];
        for kernel in &kernels {
            let cell = outcomes
                .iter()
                .find(|outcome| outcome.scenario == scenario && outcome.kernel == *kernel)
                .map_or_else(
                    || "-".to_owned(),
                    |outcome| {
                        format!("{} ({:.0} s)", word(&outcome.verdict), outcome.took.as_secs_f64())
                    },
                );
            row.push(cell);
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

/// The table with what belongs to it, as a file of its own.
pub fn markdown(outcomes: &[Outcome], about: &str) -> String {
    let mut text = format!("# pairflip on real kernels\n\n{about}\n\n{}\n", table(outcomes));
    for kernel in distinct(outcomes.iter().map(|outcome| outcome.kernel.as_str())) {
        let release = outcomes
            .iter()
            .find(|outcome| outcome.kernel == kernel)
            .map_or("", |outcome| outcome.release.as_str());
        _ = writeln!(text, "- {kernel}: {release}");
    }
    for outcome in outcomes {
        let mut details = outcome.notes.clone();
        if let Verdict::Failed(reason) | Verdict::Unsupported(reason) = &outcome.verdict {
            details.push(format!("{}: {reason}", word(&outcome.verdict)));
        }
        if details.is_empty() {
            continue;
        }
        _ = writeln!(text, "\n## {} on {}\n", outcome.scenario, outcome.kernel);
        for detail in details {
            if detail.contains('\n') {
                _ = writeln!(text, "```\n{detail}\n```");
            } else {
                _ = writeln!(text, "- {detail}");
            }
        }
    }
    text
}

/// JUnit XML: a suite for each kernel.
pub fn junit(outcomes: &[Outcome]) -> Result<String> {
    let mut report = Report::new("pairflip in virtual machines");
    for kernel in distinct(outcomes.iter().map(|outcome| outcome.kernel.as_str())) {
        let mut suite = TestSuite::new(kernel);
        for outcome in outcomes.iter().filter(|outcome| outcome.kernel == kernel) {
            let status = match &outcome.verdict {
                Verdict::Passed => TestCaseStatus::success(),
                Verdict::Failed(reason) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status
                        .set_message(reason.lines().next().unwrap_or(""))
                        .set_description(reason.as_str());
                    status
                }
                Verdict::Unsupported(reason) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(reason.as_str());
                    status
                }
            };
            let mut case = TestCase::new(outcome.scenario, status);
            case.set_classname(&*outcome.release).set_time(outcome.took);
            case.set_system_out(outcome.notes.join("\n"));
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.to_string().context("writing JUnit XML")
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed(_) => "FAILED",
        Verdict::Unsupported(_) => "unsupported",
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let outcome = |kernel: &str, scenario, verdict, notes: &[&str]| Outcome {
            kernel: kernel.to_owned(),
            release: format!("{kernel}.0-cloud-amd64"),
            scenario,
            verdict,
            notes: notes.iter().map(|note| (*note).to_owned()).collect(),
            took: Duration::from_secs(7),
        };
        vec![
            outcome("5.10", "load", Verdict::Passed, &["1234 instructions"]),
            outcome("5.10", "netem", Verdict::Unsupported("no module sch_netem".to_owned()), &[]),
            outcome(
                "6.1",
                "load",
                Verdict::Failed("reason <1>\nits console ends:".to_owned()),
                &[],
            ),
        ]
    }

    #[test]
    fn the_table_has_every_kernel_and_scenario() {
        assert_eq!(
            table(&outcomes()),
            "| scenario | 5.10              | 6.1          |\n\
             | -------- | ----------------- | ------------ |\n\
             | load     | passed (7 s)      | FAILED (7 s) |\n\
             | netem    | unsupported (7 s) | -            |\n"
        );
    }

    #[test]
    fn junit_says_what_failed_and_what_was_skipped_and_why() {
        let report = Report::deserialize_from_str(&junit(&outcomes()).unwrap()).unwrap();
        let suite = &report.test_suites[0];
        assert_eq!((suite.tests, suite.failures), (2, 0));
        assert_eq!(report.test_suites[1].failures, 1);
        let xml = junit(&outcomes()).unwrap();
        assert!(xml.contains("<skipped message=\"no module sch_netem\""), "{xml}");
        assert!(xml.contains("reason &lt;1&gt;"), "{xml}");
    }

    #[test]
    fn markdown_lists_findings_and_reasons() {
        let text = markdown(&outcomes(), "Emulated.");
        for expected in ["- 1234 instructions", "unsupported: no module sch_netem", "5.10.0-cloud"]
        {
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(count(&outcomes()), Count { passed: 1, failed: 1, unsupported: 1 });
    }
}
