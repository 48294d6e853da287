//! The proof's proof: the safe order loses nothing, and what loses is found out.

use super::*;

#[test]
fn the_safe_order_by_hand_loses_nothing() {
    let (lab, daemon) = start(Flavour::MariaDb1011, false);
    let (record, flips) = flip_under_load(Way::ByHand, &lab, &daemon, 3);
    report("by hand", &record, &flips);
    let verdict = verify::verify(&lab, &record.ledger()).unwrap();
    assert_eq!(verdict.problems(), Vec::<String>::new(), "{verdict:?}");
}

#[test]
fn flips_of_routes_alone_lose_writes_and_are_found_out() {
    let (lab, daemon) = start(Flavour::MariaDb1011, true);
    let (record, flips) = flip_under_load(Way::RouteOnly, &lab, &daemon, 3);
    report("route only", &record, &flips);
    let verdict = verify::verify(&lab, &record.ledger()).unwrap();
    println!("{:?}", verdict.problems());
    assert!(verdict.missing() > 0, "{verdict:?}");
    assert!(!verdict.is_same);
}
