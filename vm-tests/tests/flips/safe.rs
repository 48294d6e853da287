//! `pairflip flip`: nothing acknowledged is lost, and no transaction that was open is broken.

use super::*;

fn three_flips(servers: Flavour) {
    let (lab, daemon) = start(servers, false);
    let (record, flips) = flip_under_load(Way::Safe, &lab, &daemon, 3);
    let verdict = verify::verify(&lab, &record.ledger()).unwrap();
    assert_eq!(verdict.problems(), Vec::<String>::new(), "{verdict:?}");
    assert_eq!(
        record.open_at(&flips),
        0,
        "errors in transactions that were open: {}",
        record.errors()
    );
    assert_eq!(flipper::active(&daemon).unwrap(), 2, "three flips are one");
}

#[test]
fn three_flips_on_mariadb_lose_nothing() {
    three_flips(Flavour::MariaDb1011);
}

#[test]
fn three_flips_on_mysql_lose_nothing() {
    three_flips(Flavour::MySql97);
}

/// MariaDB as it comes: it records neither transactions nor locks, so that a transaction that has touched nothing may be ended with its session.
#[test]
fn flips_lose_nothing_where_servers_see_the_clients_and_record_nothing() {
    let name = format!("f{}way", std::process::id());
    let lab = Lab::up(&Options::new(&name), |_| {}).unwrap();
    for (forwarding, from, to) in [(Forwarding::Dnat, 1, 2), (Forwarding::Dsr, 3, 1)] {
        lab.db(from).sql(TABLES).unwrap();
        ways::let_servers_reply(&lab, forwarding, &[1, 2, 3, 4]).unwrap();
        let with = format!("name = \"main\"\nforwarding = \"{}\"", forwarding.name());
        let config = lab.write_config(|text| text.replace("name = \"main\"", &with)).unwrap();
        let mut daemon = lab.daemon(&config);
        daemon.start().unwrap();
        let plan = daemon.ctl(&["flip", "--dry-run"]).unwrap();
        assert!(plan.contains("performance_schema is off"), "what a flip cannot see: {plan}");
        let (record, _) = flip_under_load(Way::Safe, &lab, &daemon, 1);
        let verdict = verify::verify(&lab, &record.ledger()).unwrap();
        assert_eq!(verdict.problems(), Vec::<String>::new(), "{verdict:?}");
        assert_eq!(flipper::active(&daemon).unwrap(), to);
        daemon.ctl(&["unload", "--config", &config.display().to_string()]).unwrap();
        daemon.stop().unwrap();
    }
}
