//! Logging in.

use pairflip_vm_tests::lab::proxy::Proxy;

use super::*;

#[test]
fn caching_sha2_password_without_tls_works_with_a_cold_and_a_warm_cache() {
    let mut lab = lab(Flavour::MySql97, 1);
    let plugin = "SELECT plugin FROM mysql.user WHERE user = 'pairflip'";
    assert_eq!(lab.db(1).sql(plugin).unwrap(), "caching_sha2_password");
    lab.db_mut(1).stop().unwrap();
    lab.db_mut(1).set_options(&["--port=3307"]);
    lab.db_mut(1).start().unwrap();
    let proxy = Proxy::start(&lab.ns("db1"), 3306, 3307).unwrap();
    let asks_for_the_key = || {
        assert!(matches!(probe(&lab, 1), CheckResult::Answered(_)));
        let heard = proxy.heard();
        String::from_utf8_lossy(&heard).contains("BEGIN PUBLIC KEY")
    };
    assert!(asks_for_the_key(), "the cache of a server that just started is cold");
    assert!(!asks_for_the_key(), "the server remembers");
    lab.db(1).sql("FLUSH PRIVILEGES").unwrap();
    assert!(asks_for_the_key(), "the server was made to forget");
    assert!(!asks_for_the_key());
}

#[test]
fn a_wrong_password_is_denied_by_every_flavour() {
    for flavour in Flavour::ALL {
        let lab = lab(flavour, 1);
        lab.db(1).sql("ALTER USER pairflip IDENTIFIED BY 'another'").unwrap();
        let CheckResult::Failed(failure) = probe(&lab, 1) else { panic!("it let us in") };
        assert_eq!(failure.cause, Cause::AuthDenied, "{flavour:?}: {failure:?}");
        assert!(failure.text.contains("1045"), "{flavour:?}: {failure:?}");
    }
}
