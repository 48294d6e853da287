//! Logging in.

use pairflip::config::{self, HostSecrets, Tls, TlsFiles, TlsVerify};
use pairflip_vm_tests::lab::proxy::Proxy;

use pairflip_policy::CheckFailure;

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

#[test]
fn mysql_is_verified_by_the_authority_that_it_made_for_itself() {
    let lab = lab(Flavour::MySql97, 1);
    let data = lab.db(1).sql("SELECT @@datadir").unwrap();
    let own = TlsFiles { ca: Some(format!("{data}ca.pem").into()), ..TlsFiles::default() };
    let public = TlsFiles::default();
    let login = |files: &TlsFiles, verify| {
        let files = files.clone();
        let material = config::certificates(&files, &HostSecrets).unwrap();
        let tls = Some(Tls { verify, server_name: None, files, material });
        Login { tls, ..Login::plain(CHECK_USER, CHECK_PASSWORD) }
    };
    lab.db(1).sql("ALTER USER pairflip REQUIRE SSL").unwrap();
    let denied = failure(probe(&lab, 1));
    assert_eq!(denied.cause, Cause::AuthDenied, "{denied:?}");
    // With a cold cache the password goes through TLS, without a key of the server's.
    for _ in 0..2 {
        lab.db(1).sql("FLUSH PRIVILEGES").unwrap();
        let found = probe_with(&lab, 1, login(&own, TlsVerify::Ca));
        assert!(matches!(found, CheckResult::Answered(_)), "{found:?}");
    }
    // Its certificate names nobody.
    let nameless = failure(probe_with(&lab, 1, login(&own, TlsVerify::Name)));
    assert_eq!(nameless.cause, Cause::Tls, "{nameless:?}");
    assert!(nameless.text.contains("verify-ca"), "{nameless:?}");
    let stranger = failure(probe_with(&lab, 1, login(&public, TlsVerify::Ca)));
    assert_eq!(stranger.cause, Cause::Tls, "{stranger:?}");
    assert!(stranger.text.contains("has not the CA"), "{stranger:?}");
}

fn failure(result: CheckResult) -> CheckFailure {
    match result {
        CheckResult::Failed(failure) => failure,
        other @ (CheckResult::Answered(_) | CheckResult::Reached) => panic!("{other:?}"),
    }
}
