//! A safe flip, and in the middle of it the redirector loses its power: when it is back, one primary takes writes and nothing
//! that was acknowledged is lost.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    scenario::{LAB_NEEDS, Notes, Scenario, Story, Suite},
    vm::machines::{Attach, Machines},
};

pub(crate) static SCENARIO: Scenario = Scenario {
    about: "the redirector's power cut in the middle of a safe flip, with clients that write",
    suite: Suite::All,
    needs: LAB_NEEDS,
    limit: Duration::from_secs(1500),
    story: Story::Machines(story),
};

/// Steps after which the power is cut: before the old primary is fenced, and while both are read-only, the routes old or new; and when the new
/// one takes writes. Besides, once while the flip waits for a transaction.
const STEPS: [&str; 4] = ["settle", "fence", "commit", "unfence"];
/// Long enough to be in the next step for sure.
const WAITING: Duration = Duration::from_millis(500);
/// Longest wait until a flip that was cut short is finished or undone.
const SETTLED_LIMIT: Duration = Duration::from_secs(120);

fn story(machines: &mut Machines, notes: &mut Notes) -> Result<()> {
    machines.start_databases()?;
    machines.sql(3, "SET GLOBAL read_only=1")?;
    machines.start_daemon(Attach::Auto)?;
    let clients = machines.start_clients()?;

    wait_possible(machines)?;
    // A transaction that the flip waits for, with writes paused and idle connections held.
    let open = "BEGIN; INSERT INTO app.ledger (writer, sequence) VALUES (-1, 1); SELECT SLEEP(20); ROLLBACK";
    let open = crate::vm::machines::client_line("10.77.0.100", open);
    machines.client.start(&open)?;
    thread::sleep(Duration::from_secs(1));
    cut(machines, "pause", WAITING, notes)?;

    for step in STEPS {
        wait_possible(machines)?;
        cut(machines, step, Duration::ZERO, notes)?;
    }

    let (ledger, verdict) = machines.verify_clients(clients)?;
    ensure!(verdict.problems().is_empty(), "{}", verdict.problems().join("; "));
    notes.add(format!("{} acknowledged writes, none lost", ledger.acknowledged.len()));
    Ok(())
}

/// Waits until a flip is possible: emulated servers are slow to apply what they are sent.
fn wait_possible(machines: &mut Machines) -> Result<()> {
    machines.wait_for("a flip is possible", SETTLED_LIMIT, |machines| {
        let plan = machines.redirector.try_run("pairflip flip --dry-run --force recent_flip")?;
        Ok(plan.status == 0)
    })?;
    Ok(())
}

/// Flips, cuts the power some time after a step, and waits until clients write again.
fn cut(machines: &mut Machines, step: &str, after: Duration, notes: &mut Notes) -> Result<()> {
    let active = active(machines)?;
    // A flip that was resumed has logged the same steps.
    let logged = machines.logged()?;
    machines.redirector.start("exec pairflip flip --force recent_flip --deadline 5m")?;
    machines.wait_logged(&format!("flip: {step} took"), logged)?;
    thread::sleep(after);
    machines.power_cycle_redirector()?;
    machines.start_daemon(Attach::Auto)?;
    machines.wait_for("the flip is finished or undone", SETTLED_LIMIT, |machines| {
        Ok(machines.status()?["clusters"][0]["flip"].is_null())
    })?;
    let writable = (1..=3).step_by(2).map(|number| machines.sql(number, "SELECT @@read_only"));
    let writable = writable.collect::<Result<Vec<_>>>()?;
    ensure!(
        writable.iter().filter(|it| it.trim() == "0").count() == 1,
        "power cut after {step}: read_only of the primaries is {writable:?}"
    );
    let now = self::active(machines)?;
    machines.wait_clients_write().with_context(|| format!("power cut after {step}"))?;
    let outcome = if now == active { "undone" } else { "done" };
    // After the others the flip may or may not have got as far as the commit before the power went.
    match step {
        "pause" => ensure!(outcome == "undone", "power cut after {step}: {outcome}"),
        "commit" | "unfence" => ensure!(outcome == "done", "power cut after {step}: {outcome}"),
        _ => {}
    }
    notes.add(format!("power cut after {step}: {outcome}"));
    Ok(())
}

fn active(machines: &mut Machines) -> Result<String> {
    let status = machines.status()?;
    Ok(status["clusters"][0]["active_pair"].as_str().context("no pair is active")?.to_owned())
}
