//! `cargo xtask bench drain`: reads that return to a replica, by `failback` and by kind of pool.

use std::time::Duration;

use anyhow::{Result, bail};
use pairflip_vm_tests::{
    Flavour, Lab, Options,
    lab::{
        clients::{self, TABLES, pool},
        failback::{Readers, Returned, fail_and_return},
    },
};

use crate::{build, say, setup};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The database servers: mariadb-10.11, mariadb-11.8 or mysql-9.7.
    #[arg(long, default_value = Flavour::default().name(), value_parser = Flavour::from_name)]
    servers: Flavour,
    /// Only this failback: new-connections, idle or cut.
    #[arg(long)]
    failback: Option<String>,
    #[arg(long, default_value_t = 40)]
    readers: u32,
    /// Seconds after which clients that are still on the primary count as left there.
    #[arg(long, default_value_t = 30)]
    deadline: u64,
}

const FAILBACKS: [&str; 3] = ["new-connections", "idle", "cut"];

pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    setup::setup(setup::For::Clients)?;
    build::build()?;
    pool::fetch_packages(say)?;
    let wanted = |failback: &&str| arguments.failback.as_deref().is_none_or(|w| w == *failback);
    let failbacks: Vec<&str> = FAILBACKS.into_iter().filter(wanted).collect();
    if failbacks.is_empty() {
        bail!("no such failback; there are {}", FAILBACKS.join(", "));
    }
    let mut rows = Vec::new();
    for failback in failbacks {
        rows.extend(measure(arguments, failback)?);
    }
    print(arguments, &rows);
    Ok(())
}

/// Every kind of pool, one after another, in one lab.
fn measure(arguments: &Arguments, failback: &str) -> Result<Vec<String>> {
    let name = format!("bench{}", std::process::id());
    let options = Options {
        servers: arguments.servers,
        servers_count: 2,
        performance_schema: true,
        ..Options::new(&name)
    };
    let mut lab = Lab::up(&options, |step| say(&format!("lab: {step}")))?;
    lab.grant_flips()?;
    lab.db(1).sql(TABLES)?;
    let config = lab.write_config(|text| config(&text, failback, arguments.deadline))?;
    let mut daemon = lab.daemon(&config);
    daemon.start()?;
    let options = clients::Options {
        writers: 0,
        readers: arguments.readers,
        think: Duration::from_millis(10),
        dwell: Duration::from_millis(40),
        ..clients::Options::default()
    };
    let limit = Duration::from_secs(arguments.deadline);
    let mut rows = Vec::new();
    for readers in Readers::ALL {
        say(&format!("failback {failback}: {}", readers.name()));
        let returned = fail_and_return(&mut lab, &daemon, readers, &options, limit)?;
        rows.push(row(failback, readers, &returned));
    }
    Ok(rows)
}

/// A replica that returns is used at once, and clients have until the deadline.
fn config(text: &str, failback: &str, deadline: u64) -> String {
    text.replace("name = \"main\"", "name = \"main\"\nhold_off = \"0s\"")
        .replace("access = \"read\"", &format!("access = \"read\"\n  failback = \"{failback}\""))
        + &format!("\n  [cluster.drain]\n  mode = \"finish\"\n  deadline = \"{deadline}s\"\n")
}

fn row(failback: &str, readers: Readers, returned: &Returned) -> String {
    let inside = returned.record.inside();
    let took = match returned.took {
        Some(took) => format!("{:.1}", took.as_secs_f64()),
        None => format!("{} stay", returned.left),
    };
    let ms = |time: Duration| time.as_millis();
    format!(
        "| `{failback}` | {} | {took} | {inside} | {} | {} | {}, {} |",
        readers.name(),
        returned.record.mishaps.len() - inside,
        returned.record.errors(),
        ms(returned.p99_before),
        ms(returned.p99_during),
    )
}

#[expect(clippy::print_stdout, reason = "the table is the command's result")]
fn print(arguments: &Arguments, rows: &[String]) {
    println!("{}, {} readers:\n", arguments.servers.name(), arguments.readers);
    println!(
        "| `failback` | Pool | All back after, s | Errors in a transaction | Errors outside | Which | p99 of a transaction before and meanwhile, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        println!("{row}");
    }
}
