//! `contrib/rolling-ddl` on a lab whose clients write all the time.

use std::{path::Path, process::Output};

use pairflip_vm_tests::{command, lab::daemon::binary};

use super::*;

const CHANGE: &str = "ALTER TABLE app.ledger ADD COLUMN note VARCHAR(20) NOT NULL DEFAULT ''";
const DONE: &str = "SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = 'app' AND table_name = 'ledger' AND column_name = 'note'";

/// A lab whose servers have an account that may change them.
fn start_with_admin(servers: Flavour) -> (Lab, Daemon) {
    let (lab, daemon) = start(servers, false);
    for number in 1..=4 {
        let read_only = lab.db(number).sql("SELECT @@global.read_only").unwrap() == "1";
        lab.db(number)
            .sql(
                "SET SESSION sql_log_bin=0; SET GLOBAL read_only=0;
                 CREATE USER admin@'%' IDENTIFIED BY 'admin'; GRANT ALL ON *.* TO admin@'%'",
            )
            .unwrap();
        lab.db(number).set_read_only(read_only).unwrap();
    }
    (lab, daemon)
}

fn rolling_ddl(lab: &Lab, more: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/rolling-ddl");
    let change = lab.dir().join("change.sql");
    std::fs::write(&change, format!("{CHANGE};\n")).unwrap();
    let binaries = binary("pairflip");
    let binaries = Path::new(&binaries).parent().unwrap().display().to_string();
    let mut command = lab.ns("redirector").command(&script.display().to_string()).unwrap();
    command
        .env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()))
        .args(["--json", "--change", &change.display().to_string(), "--done", DONE])
        .args(["--client", &format!("{} --user=admin --password=admin", lab.db(1).client())])
        .args(["--socket", &lab.socket().display().to_string()])
        .args(more);
    let output = command::output(&mut command).unwrap();
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many of the four servers have the change.
fn changed(lab: &Lab) -> Vec<usize> {
    (1..=4).filter(|number| lab.db(*number).sql(DONE).unwrap() == "1").collect()
}

#[test]
fn a_schema_is_changed_on_all_servers_while_clients_write() {
    changed_while_clients_write(Flavour::MariaDb1011);
}

#[test]
#[ignore = "takes half a minute"]
fn a_schema_is_changed_on_all_servers_of_mysql_too() {
    changed_while_clients_write(Flavour::MySql97);
}

fn changed_while_clients_write(servers: Flavour) {
    let (lab, daemon) = start_with_admin(servers);
    // Fewer writes than a replica applies beside its own change.
    let options =
        clients::Options { think: Duration::from_millis(100), ..clients::Options::default() };
    let clients = Clients::start(&lab.ns("client1"), options).unwrap();
    flipper::wait_at_work(&clients).unwrap();

    let planned = rolling_ddl(&lab, &["--dry-run"]);
    assert!(planned.status.success());
    assert!(text(&planned.stdout).contains("would be changed"), "{planned:?}");
    assert!(changed(&lab).is_empty(), "a dry run changes nothing");

    let standby = rolling_ddl(&lab, &["--no-flip"]);
    assert!(standby.status.success());
    assert_eq!(changed(&lab), [3, 4], "the standby pair, and nothing of the pair that serves");
    assert_eq!(lab.db(3).sql("SELECT @@read_only").unwrap(), "1");
    if servers.fork() == Fork::MySql {
        assert_eq!(lab.db(3).sql("SELECT @@super_read_only").unwrap(), "1");
    }
    flipper::wait_at_work(&clients).unwrap();

    let start = std::time::Instant::now();
    let whole = rolling_ddl(&lab, &[]);
    assert!(whole.status.success());
    let flips = [Flip { start, end: std::time::Instant::now() }];
    assert_eq!(changed(&lab), [1, 2, 3, 4]);
    assert_eq!(flipper::active(&daemon).unwrap(), 2);
    flipper::wait_at_work(&clients).unwrap();
    let record = clients.stop().unwrap();
    report("rolling-ddl", &record, &flips);
    let verdict = verify::verify(&lab, &record.ledger()).unwrap();
    assert_eq!(verdict.problems(), Vec::<String>::new(), "{verdict:?}");

    let again = rolling_ddl(&lab, &[]);
    assert!(again.status.success());
    assert_eq!(flipper::active(&daemon).unwrap(), 2, "nothing to do, nothing to flip for");
}

#[test]
fn a_change_that_fails_leaves_its_pair_out_of_service_and_says_what_to_do() {
    let (lab, daemon) = start_with_admin(Flavour::MariaDb1011);
    // The replica of the standby pair has it half-way: another column of that name cannot be added.
    lab.db(4).sql("SET SESSION sql_log_bin=0; RENAME TABLE app.ledger TO app.gone").unwrap();
    let failed = rolling_ddl(&lab, &[]);
    assert_eq!(failed.status.code(), Some(4), "{failed:?}");
    let said = text(&failed.stdout);
    assert!(said.contains("pair2 stays in maint") && said.contains("10.77.0.24:3306"), "{said}");
    assert!(changed(&lab).is_empty());
    let status = daemon.status().unwrap();
    assert_eq!(status["clusters"][0]["pairs"][1]["admin"]["state"], "maint");
    assert_eq!(flipper::active(&daemon).unwrap(), 1);

    lab.db(4).sql("SET SESSION sql_log_bin=0; RENAME TABLE app.gone TO app.ledger").unwrap();
    assert!(rolling_ddl(&lab, &["--no-flip"]).status.success());
    assert_eq!(changed(&lab), [3, 4], "it goes on where it stopped");
}
