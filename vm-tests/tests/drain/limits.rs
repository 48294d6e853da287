//! What draining does not do, and says; and what happens when it is interrupted.

use super::*;

/// A daemon's refusal of a command.
fn refused(daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.pairflip(words).unwrap();
    assert!(!output.status.success(), "{words:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_the_privileges_it_is_refused_with_the_statements_that_give_them() {
    for flavour in [Flavour::MariaDb1011, Flavour::MySql97] {
        let lab = lab_with(|options| Options {
            servers: flavour,
            servers_count: 1,
            performance_schema: true,
            may_only_check: true,
            ..options
        });
        let daemon = start(&lab, |config| {
            config.replace("name = \"main\"", "name = \"main\"\ndrain = { mode = \"idle\" }")
        });
        let address = address(&lab, 1);
        let words = ["drain", &address, "--force", "--drain", "idle"];
        on_client(&lab, || {
            let client = Client::new(VIP_WRITE).unwrap();
            let mut session = client.connect().unwrap();
            let text = refused(&daemon, &words);
            let state =
                &daemon.status().unwrap()["clusters"][0]["pairs"][0]["backends"][0]["admin"];
            assert_eq!(state["state"], "ready", "{text}");
            // It is said beforehand, too.
            let config = lab.dir().join("pairflip.toml").display().to_string();
            let check = daemon.pairflip(&["check", "--config", &config]).unwrap();
            let check = String::from_utf8_lossy(&check.stdout).into_owned();
            let statements: Vec<String> = text
                .split_inclusive(';')
                .filter_map(|part| Some(part[part.find("GRANT ")?..].to_owned()))
                .collect();
            assert_eq!(statements.len(), 3, "{text}");
            for statement in &statements {
                assert!(check.contains(statement.as_str()), "{statement} is not in {check}");
                lab.db(1).sql(&format!("SET SESSION sql_log_bin=0; {statement}")).unwrap();
            }
            session.run("BEGIN").unwrap();
            drain(&lab, &daemon, 1, &["--drain", "idle"]);
            thread::sleep(Duration::from_millis(500));
            assert!(lives(&mut session), "{flavour:?}: it was ended in its transaction");
        });
    }
}

#[test]
fn at_the_deadline_the_rest_is_cut_and_what_is_ready_again_is_left_alone() {
    let mut lab = lab(Flavour::MariaDb118, 1);
    // Names in place of addresses, from here on.
    lab.db_mut(1).resolve_names(
        "127.0.0.1 localhost\n10.77.0.2 redirector.example\n10.77.0.11 client1.example\n",
    );
    restart(&mut lab, 1);
    let mut daemon = start(&lab, |config| config);
    on_client(&lab, || {
        let client = Client::new(VIP_WRITE).unwrap();
        let mut idle = client.connect().unwrap();
        let host: String = idle
            .value("SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()")
            .unwrap();
        assert!(host.starts_with("redirector.example:"), "{host}");
        let mut busy = client.connect().unwrap();
        busy.run("BEGIN").unwrap();
        let off = "UPDATE performance_schema.setup_instruments SET ENABLED = 'NO' WHERE NAME = 'transaction'";
        lab.db(1).sql(off).unwrap();
        let text = refused(&daemon, &["drain", &address(&lab, 1), "--force", "--drain", "idle"]);
        let on = &text[text.find("UPDATE performance_schema").expect("a statement")..];
        lab.db(1).sql(on.split_inclusive(';').next().unwrap()).unwrap();
        let begun = Instant::now();
        drain(&lab, &daemon, 1, &["--drain", "idle", "--deadline", "3s"]);
        wait_for("the idle one is ended", SOON, || drains(&daemon)[0]["ended"] == 1);
        assert!(!lives(&mut idle));
        let page = daemon.ctl(&["status"]).unwrap();
        let line = format!("draining {} (drain, idle): 1 ended, 1 left", address(&lab, 1));
        assert!(page.contains(&line) && page.contains("the rest is cut in"), "{page}");
        assert!(page.contains("in a transaction for"), "{page}");
        busy.run("SELECT 1").expect("the deadline is not over");
        wait_for("the rest is cut", SOON, || !told(&daemon, "drained").is_empty());
        assert!(begun.elapsed() >= Duration::from_secs(3));
        assert!(!lives(&mut busy));
        let told = told(&daemon, "drained").concat();
        assert!(told.contains("1 flows ended while idle, 1 cut at the deadline"), "{told}");
        ready(&lab, &daemon, 1);

        // Called off by `ready`, and by the death of the daemon: who was held goes on.
        wait_for("writes are served", SOON, || client.server_id().is_ok());
        let mut session = client.connect().unwrap();
        session.run("BEGIN").unwrap();
        drain(&lab, &daemon, 1, &["--drain", "idle", "--deadline", "1s"]);
        ready(&lab, &daemon, 1);
        thread::sleep(Duration::from_millis(1500));
        session.run("COMMIT").expect("it was called off");

        wait_for("writes are served", SOON, || client.server_id().is_ok());
        drain(&lab, &daemon, 1, &["--drain", "finish"]);
        session.run("BEGIN").unwrap();
        drain(&lab, &daemon, 1, &["--drain", "idle"]);
        for _ in 0..20 {
            session.run("SELECT 1").unwrap();
        }
        daemon.kill().unwrap();
        for _ in 0..20 {
            session.run("SELECT 1").expect("a hold outlived the daemon");
        }
        session.run("COMMIT").unwrap();
        daemon.start().unwrap();
        thread::sleep(Duration::from_millis(500));
        assert!(lives(&mut session), "a restart calls drains off");
        assert_eq!(drains(&daemon).as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn a_mariadb_that_records_nothing_needs_a_long_silence_and_says_what_it_does_not_see() {
    let lab = lab_with(|options| Options { servers_count: 1, ..options });
    lab.db(1).sql("CREATE TABLE app.t (a INT PRIMARY KEY); INSERT INTO app.t VALUES (1)").unwrap();
    let daemon = start(&lab, |config| config);
    on_client(&lab, || {
        let client = Client::new(VIP_WRITE).unwrap();
        let mut idle = client.connect().unwrap();
        let mut reading = client.connect().unwrap();
        reading.run("BEGIN").unwrap();
        reading.run("SELECT * FROM app.t").unwrap();
        let begun = Instant::now();
        drain(&lab, &daemon, 1, &["--drain", "idle"]);
        wait_for("the caveat is told", SOON, || {
            drains(&daemon)[0]["remarks"].to_string().contains("performance_schema off")
        });
        wait_for("the idle one is ended", 2 * SOON, || drains(&daemon)[0]["ended"] == 1);
        assert!(begun.elapsed() >= Duration::from_secs(4), "it was not silent for long");
        assert!(!lives(&mut idle));
        thread::sleep(Duration::from_millis(500));
        reading.run("COMMIT").expect("its transaction is seen");
    });
}

#[test]
fn a_session_that_the_account_may_not_end_is_told_and_left_to_the_deadline() {
    let lab = lab(Flavour::MySql97, 1);
    lab.db(1).sql("GRANT SYSTEM_USER ON *.* TO app@'%'").unwrap();
    let daemon = start(&lab, |config| config);
    on_client(&lab, || {
        let client = Client::new(VIP_WRITE).unwrap();
        let mut session = client.connect().unwrap();
        drain(&lab, &daemon, 1, &["--drain", "idle", "--deadline", "2s"]);
        wait_for("it is told", SOON, || daemon.log().unwrap().contains("SYSTEM_USER"));
        assert!(lives(&mut session));
        wait_for("it is cut", SOON, || told(&daemon, "drained").concat().contains("1 cut"));
    });
}
