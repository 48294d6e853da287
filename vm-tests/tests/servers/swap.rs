//! Another server at the same address, under a daemon that goes on.

use super::*;

#[test]
fn an_upgrade_and_another_fork_at_an_address_are_noticed_without_a_restart() {
    let mut world = World::start(lab(Flavour::MariaDb1011, 2));
    world.wait_reason(2, &["passing"]);
    let mariadb_10_11 = world.backend(2)["server_version"].as_str().unwrap().to_owned();

    world.lab.db_mut(2).upgrade(Flavour::MariaDb118).unwrap();
    let mariadb_11_8 = expect_change(&world, &mariadb_10_11);
    assert!(mariadb_11_8.contains("MariaDB") && mariadb_11_8 != mariadb_10_11, "{mariadb_11_8}");
    world.lab.db(2).wait_replicating().unwrap();
    world.wait_reason(2, &["passing"]);

    // Statements of MariaDB are errors on this one; a fork cannot replicate from the other, so it has no channel.
    world.lab.db_mut(2).replace(Flavour::MySql97).unwrap();
    let mysql = expect_change(&world, &mariadb_11_8);
    assert!(!mysql.contains("MariaDB"), "{mysql}");
    world.wait_reason(2, &["replicates from nobody"]);
    // A channel that leads nowhere is read in MySQL's words.
    world.lab.db(2).replicate_from(world.lab.db(1).address).unwrap();
    world.wait_reason(2, &["thread is not running"]);

    world.lab.db_mut(2).replace(Flavour::MariaDb1011).unwrap();
    assert_eq!(expect_change(&world, &mysql), mariadb_10_11);
    // A new server lets nobody in until it has its accounts; a statement of the other fork would be an error of syntax.
    let mut refused = world.told("check_impaired", 0);
    refused.retain(|text| text.contains("ERROR 1064"));
    assert_eq!(refused, [""; 0]);
}

/// Waits for the event and returns the new version.
fn expect_change(world: &World, from: &str) -> String {
    let change = || {
        let told = world.told("version_changed", 0);
        let suffix = format!(" now; it was {from}");
        told.last().and_then(|text| Some(text.strip_suffix(&suffix)?.to_owned()))
    };
    wait_for("the event", DETECTION + SLACK, || change().is_some());
    let text = change().unwrap();
    let version = text.strip_prefix(&format!("{} is version ", world.address(2)));
    let version = version.unwrap_or_else(|| panic!("{text}")).to_owned();
    assert_eq!(world.backend(2)["server_version"], version.as_str());
    assert!(world.daemon.log().unwrap().contains(&text));
    version
}
