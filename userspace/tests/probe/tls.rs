//! TLS to real servers: who is let in, and what is said about a certificate that is of no use.

use std::{fs, path::PathBuf};

use pairflip::config::{self, HostSecrets, SecretSource, Tls, TlsFiles, TlsVerify};
use pairflip_policy::CheckFailure;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, date_time_ymd,
};

use super::*;

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_verified_server_is_logged_in_to_over_tls() {
    let world = Certificates::new();
    let server = world.server("good", &["db.example.com", "127.0.0.1"]).await;
    server.sql("ALTER USER checker@'%' REQUIRE SSL").await;
    let plain = failure(server.prober().probe().await);
    assert_eq!(plain.cause, Cause::AuthDenied, "{plain:?}");
    // By its address, by its name, and by its authority alone.
    answered(world.prober(&server, TlsVerify::Name, None).probe().await);
    answered(world.prober(&server, TlsVerify::Name, Some("db.example.com")).probe().await);
    answered(world.prober(&server, TlsVerify::Ca, None).probe().await);
    let mut prober = world.prober(&server, TlsVerify::Name, None);
    for _ in 0..5 {
        answered(prober.probe().await);
    }
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn what_is_wrong_with_a_certificate_is_told_and_takes_nobody_down() {
    let world = Certificates::new();
    let server = world.server("good", &["db.example.com"]).await;
    let by_address = failure(world.prober(&server, TlsVerify::Name, None).probe().await);
    check(
        &by_address,
        &["not valid for name \"127.0.0.1\"", "\"db.example.com\"", "set `server_name`"],
    );
    let other = world.prober(&server, TlsVerify::Name, Some("other.example.com")).probe().await;
    check(&failure(other), &["not valid for name \"other.example.com\"", "db.example.com"]);
    answered(world.prober(&server, TlsVerify::Ca, None).probe().await);

    let stranger = Certificates::new();
    for verify in [TlsVerify::Name, TlsVerify::Ca] {
        let found = failure(stranger.prober(&server, verify, None).probe().await);
        check(&found, &["UnknownIssuer", "has not the CA that signed"]);
    }

    let expired = world.server("expired", &["127.0.0.1"]).await;
    for verify in [TlsVerify::Name, TlsVerify::Ca] {
        let found = failure(world.prober(&expired, verify, None).probe().await);
        check(&found, &["certificate expired", "FLUSH SSL"]);
    }

    let none = Server::start(13).await;
    let found = failure(world.prober(&none, TlsVerify::Ca, None).probe().await);
    check(&found, &["server that has TLS on"]);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_server_can_ask_for_our_certificate() {
    let world = Certificates::new();
    let server = world.server("good", &["127.0.0.1"]).await;
    server.sql("ALTER USER checker@'%' REQUIRE X509").await;
    let without = failure(world.prober(&server, TlsVerify::Name, None).probe().await);
    assert_eq!(without.cause, Cause::AuthDenied, "{without:?}");
    let files = TlsFiles {
        cert: Some(world.path("client.pem")),
        key: Some(world.path("client.key")),
        ..world.files()
    };
    answered(world.prober_with(&server, TlsVerify::Name, None, files).probe().await);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_new_authority_is_in_use_after_a_reload() {
    let world = Certificates::new();
    let server = world.server("good", &["127.0.0.1"]).await;
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("ca.pem");
    fs::write(&file, &Certificates::new().ca).expect("write");
    let files = TlsFiles { ca: Some(file.clone()), ..TlsFiles::default() };
    let keys = world.keys(TlsVerify::Name, None, files);
    let mut prober =
        Prober::new(server.address, keys.clone(), Questions::none(Role::Replica), TIMEOUT);
    assert_eq!(failed(prober.probe().await), Cause::Tls);
    fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("write");
    let reread = keys.reread(&HostSecrets);
    assert!(
        reread.failed[0].starts_with("the certificates stay as they were: ca_file: "),
        "{reread:?}"
    );
    fs::write(&file, &world.ca).expect("write");
    assert_eq!(keys.reread(&HostSecrets).changed, ["certificates"]);
    answered(prober.probe().await);
}

#[test]
fn files_of_certificates_that_are_of_no_use_are_refused() {
    let world = Certificates::new();
    let check = |files: TlsFiles, expected: &str| {
        let error = config::certificates(&files, &HostSecrets).expect_err(expected);
        let error = error.replace(&format!("{}/", world.dir.path().display()), "");
        assert!(error.starts_with(expected), "{error}");
    };
    let pair = |cert: &str, key: &str| TlsFiles {
        cert: Some(world.path(cert)),
        key: Some(world.path(key)),
        ..world.files()
    };
    check(
        TlsFiles { ca: Some(world.path("absent.pem")), ..TlsFiles::default() },
        "ca_file: cannot read absent.pem: ",
    );
    check(
        TlsFiles { ca: Some(world.path("client.key")), ..TlsFiles::default() },
        "ca_file: client.key has no certificate; ",
    );
    check(pair("client.key", "client.key"), "cert_file: client.key has no certificate; ");
    check(pair("client.pem", "client.pem"), "key_file: client.pem has no private key: ");
    check(pair("client.pem", "ca.key"), "key_file: ca.key and client.pem do not make a pair: ");
    config::certificates(&pair("client.pem", "client.key"), &HostSecrets).expect("a pair");
}

fn check(failure: &CheckFailure, parts: &[&str]) {
    assert_eq!(failure.cause, Cause::Tls, "{failure:?}");
    assert!(!failure.cause.may_take_down());
    for part in parts {
        assert!(failure.text.contains(part), "{part:?} is not in {}", failure.text);
    }
}

fn failure(probe: Probe) -> CheckFailure {
    match probe.result {
        CheckResult::Failed(failure) => failure,
        other @ (CheckResult::Answered(_) | CheckResult::Reached) => panic!("{other:?}"),
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// An authority of its own and what it signed, as files.
struct Certificates {
    dir: TempDir,
    /// In PEM.
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let key = KeyPair::generate().expect("key");
        fs::write(dir.path().join("ca.key"), key.serialize_pem()).expect("write");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = common_name(&dir.path().display().to_string());
        let ca = params.self_signed(&key).expect("sign").pem();
        fs::write(dir.path().join("ca.pem"), &ca).expect("write");
        let certificates = Self { dir, ca, issuer: Issuer::new(params, key) };
        certificates.sign("client", &["client"]);
        certificates
    }

    fn sign(&self, name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = common_name(name);
        if name == "expired" {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("write");
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("write");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server with a certificate for these names and addresses.
    async fn server(&self, name: &str, names: &[&str]) -> Server {
        self.sign(name, names);
        let path = |name: &str| self.path(name).display().to_string();
        let options = [
            format!("--ssl-ca={}", path("ca.pem")),
            format!("--ssl-cert={}", path(&format!("{name}.pem"))),
            format!("--ssl-key={}", path(&format!("{name}.key"))),
        ];
        Server::start_with(11, &options).await
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { ca: Some(self.path("ca.pem")), ..TlsFiles::default() }
    }

    fn prober(&self, server: &Server, verify: TlsVerify, name: Option<&str>) -> Prober {
        self.prober_with(server, verify, name, self.files())
    }

    fn prober_with(
        &self,
        server: &Server,
        verify: TlsVerify,
        name: Option<&str>,
        files: TlsFiles,
    ) -> Prober {
        let keys = self.keys(verify, name, files);
        Prober::new(server.address, keys, Questions::none(Role::Replica), TIMEOUT)
    }

    fn keys(&self, verify: TlsVerify, name: Option<&str>, files: TlsFiles) -> Keys {
        let material = config::certificates(&files, &HostSecrets).expect("usable files");
        let server_name = name.map(ToOwned::to_owned);
        fs::write(self.path("password"), "secret").expect("write");
        let source = SecretSource::File(self.path("password"));
        let tls = Some(Tls { verify, server_name, files, material });
        Keys::fixed(Login { tls, source, ..Login::plain("checker", "secret") })
    }
}
