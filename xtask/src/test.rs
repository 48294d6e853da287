//! `cargo xtask test`: all tests, with a count of what could not run.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, say, setup};

/// Sums over all test programs.
#[derive(Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

pub(crate) fn test() -> Result<()> {
    setup::setup(setup::For::Everything)?;
    build::build()?;
    let mut count = Count::default();
    let mut failures = Vec::new();
    let mut suite = |title: &str, arguments: &[&str]| -> Result<()> {
        say(&format!("\n== {title}"));
        if !run(build::cargo().arg("test").args(arguments), &mut count)? {
            failures.push(title.to_owned());
        }
        Ok(())
    };
    suite("unit, property and simulation tests", &["--quiet", "--no-fail-fast"])?;
    if setup::is_root() {
        let one_at_a_time = ["--ignored", "--test-threads=1"];
        suite(
            "packets through the kernel, and drivers against the real thing",
            &[&["--no-fail-fast", "--package", "pairflip", "--"], &one_at_a_time[..]].concat(),
        )?;
        suite(
            "real MariaDB servers and clients in network namespaces",
            &["--no-fail-fast", "--package", "pairflip-vm-tests", "--", "--test-threads=1"],
        )?;
    } else {
        say(
            "\nskipped: tests with the kernel and with real servers need root; run `sudo -E cargo xtask test`",
        );
        count.skipped += 1;
    }
    report(&format!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped));
    if !failures.is_empty() {
        bail!("failed: {}", failures.join("; "));
    }
    if count.skipped > 0 && std::env::var_os("CI").is_some() {
        bail!("{} skipped where nothing should be", count.skipped);
    }
    Ok(())
}

/// Runs one `cargo test`, shows its output as it comes and adds up its results. Returns whether it succeeded.
fn run(command: &mut Command, count: &mut Count) -> Result<bool> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("the output is not piped")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading test output")?;
        report(&line);
        if line.starts_with("test result:") {
            count.passed += number_before(&line, " passed");
            count.failed += number_before(&line, " failed");
        }
        // A test that finds that it cannot run here says so in this form.
        count.skipped += u64::from(line.contains("SKIPPED:"));
    }
    Ok(child.wait().with_context(|| format!("waiting for {command:?}"))?.success())
}

fn number_before(line: &str, word: &str) -> u64 {
    line.split(word)
        .next()
        .and_then(|text| text.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[expect(clippy::print_stdout, reason = "test results are the command's result")]
fn report(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_lines_of_cargo_test() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!((number_before(line, " passed"), number_before(line, " failed")), (12, 3));
    }
}
