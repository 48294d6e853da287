//! The proof's proof: the safe order loses nothing, and what loses is found out.

use super::*;

#[test]
#[ignore = "the flip itself is tried each time"]
fn the_safe_order_by_hand_loses_nothing() {
    let (lab, daemon) = start(Flavour::MariaDb1011, false);
    let (record, _) = flip_under_load(Way::ByHand, &lab, &daemon, 2);
    let verdict = verify::verify(&lab, &record.ledger()).unwrap();
    assert_eq!(verdict.problems(), Vec::<String>::new(), "{verdict:?}");
}

#[test]
fn flips_of_routes_alone_lose_writes_and_are_found_out() {
    let (lab, daemon) = start(Flavour::MariaDb1011, true);
    // A standby that is one second behind, as any may be.
    let standby = lab.db(3);
    standby.sql(&standby.fork().delay(1)).unwrap();
    standby.wait_replicating().unwrap();
    let (record, _) = flip_under_load(Way::RouteOnly, &lab, &daemon, 2);
    let verdict = verify::verify(&lab, &record.ledger()).unwrap();
    println!("{:?}", verdict.problems());
    assert!(verdict.missing() > 0 && !verdict.is_same, "{verdict:?}");
    assert!(verdict.found.iter().any(|found| !found.is_replicating), "{verdict:?}");
}
