//! `cargo xtask bench detection`: from a fault of a server to the daemon's verdict, against what the configuration promises.

use std::time::Duration;

use anyhow::Result;
use pairflip_vm_tests::{
    Daemon, Flavour, Lab, Options,
    lab::fault::{Fault, Target, promise},
};

use crate::{build, say, setup};

/// One row of the table.
struct Row {
    fault: Fault,
    role: &'static str,
    took: Vec<Duration>,
}

pub(crate) fn bench(count: usize, servers: Flavour) -> Result<()> {
    setup::setup(setup::For::Lab)?;
    build::build()?;
    let name = format!("bench{}", std::process::id());
    let options = Options { servers, servers_count: 2, ..Options::new(&name) };
    let mut lab = Lab::up(&options, |step| say(&format!("lab: {step}")))?;
    // Waiting for a replica that flaps is not what is measured.
    let config = lab.write_config(|text| {
        text.replace("name = \"main\"", "name = \"main\"\nhold_off = \"0s\"")
    })?;
    let mut daemon = lab.daemon(&config);
    daemon.start()?;
    let promised = promise(&lab, &daemon)?;
    let mut rows = Vec::new();
    for (role, mut target) in
        [("replica", Target::new(2, false)), ("primary", Target::new(1, true))]
    {
        for fault in Fault::ALL {
            say(&format!("{role} {}, {count} times", fault.name()));
            target.set_proxy(&mut lab, fault.is_of_proxy())?;
            let took = measure(&target, &mut lab, &daemon, fault, count)?;
            rows.push(Row { fault, role, took });
        }
        target.set_proxy(&mut lab, false)?;
        target.wait_up(&lab, &daemon)?;
    }
    print(&rows, promised);
    Ok(())
}

fn measure(
    target: &Target,
    lab: &mut Lab,
    daemon: &Daemon,
    fault: Fault,
    count: usize,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for number in 0..count {
        target.wait_up(lab, daemon)?;
        // Each at another point between two checks, which are one second apart.
        std::thread::sleep(Duration::from_millis(1500 + (number as u64 * 370) % 1000));
        took.push(target.time_to_down(lab, daemon, fault)?);
        target.end(lab, fault)?;
    }
    took.sort_unstable();
    Ok(took)
}

#[expect(clippy::print_stdout, reason = "the table is the command's result")]
fn print(rows: &[Row], promised: Duration) {
    println!("| Fault | Role | n | Promised, s | Least | Median | Most | Most / promised |");
    println!("|---|---|---|---|---|---|---|---|");
    for Row { fault, role, took } in rows {
        let [least, .., most] = took.as_slice() else { continue };
        println!(
            "| {} | {role} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            fault.name(),
            took.len(),
            promised.as_secs_f64(),
            least.as_secs_f64(),
            took[took.len() / 2].as_secs_f64(),
            most.as_secs_f64(),
            most.as_secs_f64() / promised.as_secs_f64(),
        );
    }
}
