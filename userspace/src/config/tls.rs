//! Certificates: read and tried out once, so that a login finds nothing wrong with them later.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::secret::{Pem, SecretFault, Secrets};
use super::value::Fault;

/// Where certificates are read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Files {
    /// Default: the authorities of the system.
    pub ca: Option<PathBuf>,
    /// Of the client; with `key`, or neither.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What the files held. Prints without the key.
#[derive(Clone, Eq, PartialEq)]
pub struct Material {
    /// Authorities, in DER.
    pub roots: Arc<Vec<Vec<u8>>>,
    /// The client's certificates and its key, in PEM.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|_| "redacted");
        f.debug_struct("Material")
            .field("roots", &self.roots.len())
            .field("identity", &identity)
            .finish()
    }
}

/// Returns what is in the files, or the key of the configuration whose file is of no use, and why.
pub(super) fn load(
    files: &Files,
    secrets: &dyn Secrets,
) -> Result<Material, (&'static str, Fault)> {
    let roots = match &files.ca {
        Some(path) => authorities(path, secrets),
        None => system_authorities(),
    };
    let (store, roots) = roots.map_err(|fault| ("ca_file", fault))?;
    let identity = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => Some(identity(cert, key, store, secrets)?),
        (Some(_) | None, _) => None,
    };
    Ok(Material { roots: Arc::new(roots), identity })
}

type Roots = (RootCertStore, Vec<Vec<u8>>);

fn authorities(path: &Path, secrets: &dyn Secrets) -> Result<Roots, Fault> {
    let name = path.display();
    let certificates = certificates(path, &text(path, Pem::Certificates, secrets)?)?;
    let mut store = RootCertStore::empty();
    for (number, certificate) in (1..).zip(&certificates) {
        store.add(certificate.clone()).map_err(|error| {
            Fault::new(
                format!("certificate {number} of {name} cannot be used: {error}"),
                format!("look at it: openssl x509 -noout -text -in {name}"),
            )
        })?;
    }
    Ok((store, certificates.iter().map(|certificate| certificate.to_vec()).collect()))
}

fn system_authorities() -> Result<Roots, Fault> {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // A system's bundle may have entries that nobody can use.
    let usable = found.certs.into_iter().filter(|found| store.add(found.clone()).is_ok());
    let roots: Vec<_> = usable.map(|found| found.to_vec()).collect();
    if roots.is_empty() {
        return Err(Fault::new(
            "is missing, and this machine has no certificates of public authorities",
            "add ca_file with the CA that signed the servers' certificates, or install ca-certificates",
        ));
    }
    Ok((store, roots))
}

fn identity(
    cert: &Path,
    key: &Path,
    store: RootCertStore,
    secrets: &dyn Secrets,
) -> Result<(String, String), (&'static str, Fault)> {
    let of_cert = |fault| ("cert_file", fault);
    let of_key = |fault| ("key_file", fault);
    let chain_text = text(cert, Pem::Certificates, secrets).map_err(of_cert)?;
    let chain = certificates(cert, &chain_text).map_err(of_cert)?;
    let key_text = text(key, Pem::Key, secrets).map_err(of_key)?;
    let name = key.display();
    let private = PrivateKeyDer::from_pem_slice(key_text.as_bytes()).map_err(|error| {
        let remedy =
            "write a private key without a passphrase in PEM there: -----BEGIN PRIVATE KEY-----";
        of_key(Fault::new(format!("{name} has no private key: {error}"), remedy))
    })?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(store))
        .and_then(|builder| builder.with_client_auth_cert(chain, private));
    config.map_err(|error| {
        let problem = format!("{name} and {} do not make a pair: {error}", cert.display());
        of_key(Fault::new(problem, "name the key that belongs to the certificate"))
    })?;
    Ok((chain_text, key_text))
}

fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let name = path.display();
    let remedy = "name a file with certificates in PEM: -----BEGIN CERTIFICATE-----";
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| Fault::new(format!("{name} is not PEM: {error}"), remedy))?;
    if found.is_empty() {
        return Err(Fault::new(format!("{name} has no certificate"), remedy));
    }
    Ok(found)
}

fn text(path: &Path, kind: Pem, secrets: &dyn Secrets) -> Result<String, Fault> {
    let name = path.display();
    secrets.pem(path, kind).map_err(|fault| match fault {
        SecretFault::Io(error) => Fault::new(
            format!("cannot read {name}: {error}"),
            "name a file that the daemon can read",
        ),
        SecretFault::Exposed { mode } => Fault::new(
            format!("every user of this machine can change {name} (mode {mode:04o})"),
            format!("run: chmod o-w {name}"),
        ),
        SecretFault::NotRegular => {
            Fault::new(format!("{name} is not a regular file"), "name a file in PEM")
        }
        SecretFault::TooLarge => {
            Fault::new(format!("{name} is larger than 1 MiB"), "name a file in PEM")
        }
        SecretFault::NotUtf8 => {
            Fault::new(format!("{name} is not text"), "convert it to PEM: openssl x509 -inform der")
        }
        SecretFault::Unset => Fault::new(format!("{name} does not exist"), "create it"),
    })
}
