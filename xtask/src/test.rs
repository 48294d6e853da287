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
    let mut skipped_without_root = 0;
    let mut failures = Vec::new();
    let mut suite = |title: &str, command: &mut Command| -> Result<()> {
        say(&format!("\n== {title}"));
        if !run(command, &mut count)? {
            failures.push(title.to_owned());
        }
        Ok(())
    };
    let cargo_test = |arguments: &[&str]| {
        let mut command = build::cargo();
        command.arg("test").args(arguments);
        command
    };
    suite("unit, property and simulation tests", &mut cargo_test(&["--quiet", "--no-fail-fast"]))?;
    suite(
        "unit tests of the lab and of virtual machines",
        &mut cargo_test(&["--quiet", "--no-fail-fast", "--package", "pairflip-vm-tests", "--lib"]),
    )?;
    if setup::is_root() {
        let one_at_a_time = ["--ignored", "--test-threads=1"];
        suite(
            "packets through the kernel, and drivers against the real thing",
            &mut cargo_test(
                &[&["--no-fail-fast", "--package", "pairflip", "--"], &one_at_a_time[..]].concat(),
            ),
        )?;
        // A lab is idle for most of a test, and they do not meet.
        suite(
            "real MariaDB servers and clients in network namespaces",
            &mut cargo_test(&[
                "--no-fail-fast",
                "--package",
                "pairflip-vm-tests",
                "--test",
                "lab",
                "--",
                "--test-threads=3",
            ]),
        )?;
        suite(
            "what MariaDB 10.11 and 11.8 and MySQL 9.7 say, and what is made of it",
            &mut cargo_test(&[
                "--no-fail-fast",
                "--package",
                "pairflip-vm-tests",
                "--test",
                "servers",
                "--",
                "--test-threads=3",
            ]),
        )?;
        suite(
            "draining by idleness, of every kind of session",
            &mut cargo_test(&[
                "--no-fail-fast",
                "--package",
                "pairflip-vm-tests",
                "--test",
                "drain",
                "--",
                "--test-threads=2",
            ]),
        )?;
        // One after another: clients keep both processors busy.
        suite(
            "flips while clients write: nothing acknowledged is lost",
            &mut cargo_test(&[
                "--no-fail-fast",
                "--package",
                "pairflip-vm-tests",
                "--test",
                "flips",
                "--",
                "--test-threads=1",
                "--nocapture",
            ]),
        )?;
        // With their output: what was measured is in it.
        suite(
            "transfers in every way of forwarding, over paths that are not ideal",
            &mut cargo_test(&[
                "--no-fail-fast",
                "--package",
                "pairflip-vm-tests",
                "--test",
                "transfer",
                "--",
                "--ignored",
                "--test-threads=1",
                "--nocapture",
            ]),
        )?;
    } else {
        say(
            "\nskipped: tests with the kernel and with real servers need root; run `sudo -E cargo xtask test`",
        );
        skipped_without_root = 1;
    }
    // A process of its own: it cuts itself off from the network.
    let own = std::env::current_exe().context("finding this program")?;
    suite("real kernels in virtual machines", Command::new(&own).arg("vm"))?;
    suite(
        "the harness of virtual machines",
        cargo_test(&["--package", "pairflip-vm-tests", "--test", "vm", "--", "--test-threads=1"])
            .env("PAIRFLIP_XTASK", own),
    )?;
    count.skipped += skipped_without_root;
    report(&format!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped));
    if !failures.is_empty() {
        bail!("failed: {}", failures.join("; "));
    }
    if count.skipped > 0 && std::env::var_os("CI").is_some() {
        bail!("{} skipped where nothing should be", count.skipped);
    }
    Ok(())
}

/// Runs one test program, shows its output as it comes and adds up its results. Returns whether it succeeded.
fn run(command: &mut Command, count: &mut Count) -> Result<bool> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("the output is not piped")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading test output")?;
        report(&line);
        if line.starts_with("test result:") || line.starts_with("matrix:") {
            count.passed += number_before(&line, " passed");
            count.failed += number_before(&line, " failed");
            count.skipped += number_before(&line, " unsupported");
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
        let line =
            "matrix: 11 passed, 0 failed, 1 unsupported (also in target/vm: matrix.md, junit.xml)";
        assert_eq!((number_before(line, " passed"), number_before(line, " unsupported")), (11, 1));
    }
}
