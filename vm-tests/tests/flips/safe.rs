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
