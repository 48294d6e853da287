//! `cargo xtask bench flip`: flips while clients write, what was lost, what clients were told, and how long writes paused.

use std::time::Duration;

use anyhow::{Result, bail};
use pairflip_vm_tests::{
    Flavour, Lab, Options,
    lab::{
        clients::{
            self, Clients, TABLES,
            pause::{Flip, Pauses, median_and_max},
            record::Record,
            verify::{Verdict, verify},
        },
        flipper::{Way, flip_under_load},
    },
};

use crate::{build, say, setup};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Flips for each of the servers.
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// The database servers: mariadb-10.11, mariadb-11.8 or mysql-9.7 [default: the first and the last].
    #[arg(long, value_parser = Flavour::from_name)]
    servers: Option<Flavour>,
    /// How to flip: safe, by-hand (the same order by hand) or route-only (both primaries writable; loses writes).
    #[arg(long, default_value = Way::Safe.name(), value_parser = Way::from_name)]
    way: Way,
    #[arg(long, default_value_t = 16)]
    writers: u32,
    #[arg(long, default_value_t = 8)]
    readers: u32,
}

/// One kind of servers, and what came of it.
struct Run {
    servers: Flavour,
    flips: Vec<Flip>,
    record: Record,
    verdict: Verdict,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    setup::setup(setup::For::Lab)?;
    build::build()?;
    let mut runs = Vec::new();
    for servers in [Flavour::MariaDb1011, Flavour::MySql97] {
        if arguments.servers.is_none_or(|wanted| wanted == servers) {
            runs.push(run(arguments, servers)?);
        }
    }
    if let (true, Some(servers)) = (runs.is_empty(), arguments.servers) {
        runs.push(run(arguments, servers)?);
    }
    print(&runs, arguments.way);
    let problems: Vec<String> = runs.iter().flat_map(|run| run.verdict.problems()).collect();
    if problems.is_empty() || arguments.way.needs_two_writable() {
        return Ok(());
    }
    bail!("after these flips: {}", problems.join("; "));
}

fn run(arguments: &Arguments, servers: Flavour) -> Result<Run> {
    let Arguments { count, way, writers, readers, .. } = *arguments;
    let name = format!("bench{}", std::process::id());
    let both_writable = way.needs_two_writable();
    let options =
        Options { servers, both_writable, performance_schema: true, ..Options::new(&name) };
    let lab = Lab::up(&options, |step| say(&format!("lab: {step}")))?;
    lab.grant_flips()?;
    lab.db(1).sql(TABLES)?;
    let config = lab.write_config(|text| text)?;
    let mut daemon = lab.daemon(&config);
    daemon.start()?;
    let options = clients::Options { writers, readers, ..clients::Options::default() };
    let clients = Clients::start(&lab.ns("client1"), options)?;
    let progress = |number| {
        if number % 10 == 0 || number == count {
            say(&format!("{}: {number} of {count} flips", servers.name()));
        }
    };
    let flips = flip_under_load(way, &lab, &daemon, &clients, count, progress)?;
    let record = clients.stop()?;
    let verdict = verify(&lab, &record.ledger())?;
    Ok(Run { servers, flips, record, verdict })
}

#[expect(clippy::print_stdout, reason = "the table is the command's result")]
fn print(runs: &[Run], way: Way) {
    println!(
        "| Servers | Flips, {} | Acknowledged | Lost | Unknown, of these there | Errors in a transaction | of these open at the flip | No write at all, s: median, most | One writer, s: median, most |",
        way.name()
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for Run { servers, flips, record, verdict } in runs {
        let pauses = Pauses::of(record, flips);
        let [all, one] = [&pauses.all, &pauses.one].map(|pauses| {
            let (median, most) = median_and_max(pauses);
            format!("{:.2}, {:.2}", seconds(median), seconds(most))
        });
        println!(
            "| {} | {} | {} | {} | {}, {} | {} | {} | {all} | {one} |",
            servers.name(),
            flips.len(),
            record.commits.len(),
            verdict.missing(),
            record.unknown.len(),
            verdict.found.iter().map(|found| found.unknown).max().unwrap_or_default(),
            record.inside(),
            record.open_at(flips),
        );
    }
    for Run { servers, record, verdict, .. } in runs {
        println!("\nErrors on {}: {}", servers.name(), record.errors());
        for problem in verdict.problems() {
            println!("PROBLEM: {problem}");
        }
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
