//! What checks can ask beyond the first questions, on every flavour.

use pairflip::{
    check::questions::Questions,
    config::{Applies, Comparison, Heartbeat, SqlCheck},
};
use pairflip_policy::Outcome;

use super::*;

#[test]
fn every_flavour_answers_every_question() {
    for flavour in Flavour::ALL {
        let lab = lab(flavour, 2);
        let heartbeat = |ago: u32| {
            format!(
                "SET sql_log_bin = 1; REPLACE INTO percona.heartbeat (ts, server_id) VALUES \
                 (DATE_FORMAT(UTC_TIMESTAMP(6) - INTERVAL {ago} SECOND, '%Y-%m-%dT%H:%i:%s.%f'), 1)"
            )
        };
        lab.db(1).sql("CREATE DATABASE percona").unwrap();
        let table = "CREATE TABLE percona.heartbeat (ts varchar(26) NOT NULL, \
                     server_id int unsigned NOT NULL PRIMARY KEY)";
        lab.db(1).sql(table).unwrap();
        lab.db(1).sql("GRANT SELECT ON percona.* TO pairflip").unwrap();
        lab.db(1).sql(&heartbeat(100)).unwrap();
        let copied = "SELECT COUNT(*) FROM percona.heartbeat";
        let limit = Duration::from_secs(10);
        wait_for("the heartbeat arrives", limit, || {
            lab.db(2).sql(copied).is_ok_and(|count| count == "1")
        });

        let found = probe_all(&lab, 2, questions());
        let CheckResult::Answered(facts) = &found.result else { panic!("{flavour:?}: {found:?}") };
        let lag = facts.replication[0].lag.expect("a lag");
        assert!((100..160).contains(&lag.as_secs()), "{flavour:?}: {lag:?}");
        let outcome = |name: &str| {
            let condition = found.conditions.iter().find(|condition| condition.name == name);
            condition.unwrap_or_else(|| panic!("{flavour:?}: no {name}")).outcome.clone()
        };
        for name in ["heartbeat", "gtid", "shown", "number"] {
            assert_eq!(outcome(name), Outcome::Passed, "{flavour:?}: {name}");
        }
        assert_eq!(outcome("hanging").name(), "timed_out", "{flavour:?}: {found:?}");
        // The server itself ends what was given up.
        let running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(60)%'";
        wait_for("the query ends", limit, || lab.db(2).sql(running).unwrap() == "0");
    }
}

fn questions() -> Questions {
    let sql = |name: &str, query: &str, value: &str| SqlCheck {
        name: name.to_owned(),
        role: Applies::Any,
        query: query.to_owned(),
        op: Comparison::Equal,
        value: value.to_owned(),
        timeout: Duration::from_secs(1),
    };
    let table = "`percona`.`heartbeat`".to_owned();
    Questions {
        heartbeat: Some(Heartbeat { table, server_id: None, utc: true }),
        gtid: true,
        sql: vec![
            sql("shown", "SHOW GLOBAL VARIABLES LIKE 'server_id'", "2"),
            sql("number", "SELECT 1.50", "1.5"),
            sql("hanging", "SELECT SLEEP(60)", "0"),
        ],
        ..Questions::none(Role::Replica)
    }
}
