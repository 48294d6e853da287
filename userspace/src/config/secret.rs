//! Passwords: read from a file or an environment variable, never from the configuration itself.
//!
//! A password never appears in an error, a log line or a `Debug` print.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::value::Fault;

/// Bytes of a password file. Servers take 256 at most; more is another kind of file.
const FILE_BYTES_MAX: u64 = 4096;

/// Bytes of a file of certificates: four times the bundle of all public authorities.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Permission bit that lets every user of the machine change the file.
const MODE_OTHERS_WRITE: u32 = 0o002;
/// Permission bit that lets every user of the machine read the file.
const MODE_OTHERS_READ: u32 = 0o004;

/// A password. Prints as `Secret(redacted)`.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password that did not come from a configuration, as tests do.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// Returns the password itself, for the login only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Where a password is read, at the start and again when it may have changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SecretSource {
    File(PathBuf),
    Variable(String),
    /// Nowhere: it did not come from a configuration.
    Given(Secret),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::Given(_) => f.write_str("the program"),
        }
    }
}

/// Returns the password of a source as it is now.
pub(super) fn read(source: &SecretSource, secrets: &dyn Secrets) -> Result<Secret, Fault> {
    match source {
        SecretSource::File(path) => from_file(path, secrets),
        SecretSource::Variable(name) => from_variable(name, secrets),
        SecretSource::Given(secret) => Ok(secret.clone()),
    }
}

/// What a file in PEM is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pem {
    /// Public.
    Certificates,
    /// As secret as a password.
    Key,
}

/// Where passwords and certificates come from.
pub trait Secrets {
    /// Returns the content of a password file.
    fn file(&self, path: &Path) -> Result<String, SecretFault>;
    /// Returns the content of an environment variable.
    fn variable(&self, name: &str) -> Result<String, SecretFault>;
    /// Returns the content of a file of certificates, or of a private key.
    fn pem(&self, path: &Path, _kind: Pem) -> Result<String, SecretFault> {
        self.file(path)
    }
}

/// Why a password could not be had.
#[derive(Debug)]
pub enum SecretFault {
    /// The file cannot be read.
    Io(io::Error),
    /// The file's mode lets every user of the machine change it.
    Exposed {
        mode: u32,
    },
    /// A directory, a device, a pipe.
    NotRegular,
    /// The file is larger than a password.
    TooLarge,
    NotUtf8,
    /// The environment variable is not set.
    Unset,
}

/// The files and the environment of this process.
pub struct HostSecrets;

impl Secrets for HostSecrets {
    fn file(&self, path: &Path) -> Result<String, SecretFault> {
        read_text(path, FILE_BYTES_MAX, Readers::Us)
    }

    fn pem(&self, path: &Path, kind: Pem) -> Result<String, SecretFault> {
        let readers = match kind {
            Pem::Certificates => Readers::Anybody,
            Pem::Key => Readers::Us,
        };
        read_text(path, PEM_BYTES_MAX, readers)
    }

    fn variable(&self, name: &str) -> Result<String, SecretFault> {
        std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => SecretFault::Unset,
            std::env::VarError::NotUnicode(_) => SecretFault::NotUtf8,
        })
    }
}

/// As [`HostSecrets`], for looks that nobody asked for: what is worth a warning was said at the start.
pub(crate) struct RereadSecrets;

impl Secrets for RereadSecrets {
    fn file(&self, path: &Path) -> Result<String, SecretFault> {
        read_text(path, FILE_BYTES_MAX, Readers::Anybody)
    }

    fn variable(&self, name: &str) -> Result<String, SecretFault> {
        HostSecrets.variable(name)
    }

    fn pem(&self, path: &Path, _kind: Pem) -> Result<String, SecretFault> {
        read_text(path, PEM_BYTES_MAX, Readers::Anybody)
    }
}

/// Passwords that nobody looks at, for a look at the rest of a configuration.
pub(super) struct UnreadSecrets;

impl Secrets for UnreadSecrets {
    fn file(&self, _path: &Path) -> Result<String, SecretFault> {
        Ok("unread".to_owned())
    }

    fn variable(&self, _name: &str) -> Result<String, SecretFault> {
        Ok("unread".to_owned())
    }

    fn pem(&self, path: &Path, _kind: Pem) -> Result<String, SecretFault> {
        read_text(path, PEM_BYTES_MAX, Readers::Anybody)
    }
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Readers {
    Us,
    /// It is public, or a warning would be said again and again.
    Anybody,
}

fn read_text(path: &Path, bytes_max: u64, readers: Readers) -> Result<String, SecretFault> {
    // A pipe nobody writes to must not hang the start: O_NONBLOCK opens it at once.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(SecretFault::Io)?;
    // Asked of the open file, so that what is judged is what is read.
    let metadata = file.metadata().map_err(SecretFault::Io)?;
    if !metadata.is_file() {
        return Err(SecretFault::NotRegular);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & MODE_OTHERS_WRITE != 0 {
        return Err(SecretFault::Exposed { mode });
    }
    // Not an error: the daemon would stay down over a password of an account that can only look.
    if readers == Readers::Us && mode & MODE_OTHERS_READ != 0 {
        let path = path.display();
        tracing::warn!(
            "every user of this machine can read {path} (mode {mode:04o}); run: chmod o= {path}"
        );
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(SecretFault::Io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(SecretFault::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| SecretFault::NotUtf8)
}

/// A closure answers for files and, given the name as a path, for variables.
impl<F: Fn(&Path) -> io::Result<String>> Secrets for F {
    fn file(&self, path: &Path) -> Result<String, SecretFault> {
        self(path).map_err(SecretFault::Io)
    }

    fn variable(&self, name: &str) -> Result<String, SecretFault> {
        self(Path::new(name)).map_err(SecretFault::Io)
    }
}

/// Returns the password in `path`.
fn from_file(path: &Path, secrets: &dyn Secrets) -> Result<Secret, Fault> {
    let name = path.display();
    let text = secrets.file(path).map_err(|fault| match fault {
        SecretFault::Io(error) if error.kind() == io::ErrorKind::NotFound => Fault::new(
            format!("cannot read {name}: {error}"),
            format!("create it with the check user's password in it: (umask 077; cat > {name})"),
        ),
        SecretFault::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => Fault::new(
            format!("cannot read {name}: {error}"),
            "run as the user that the file belongs to, as the daemon does",
        ),
        SecretFault::Io(error) => Fault::new(
            format!("cannot read {name}: {error}"),
            "name a file that holds the check user's password",
        ),
        SecretFault::Exposed { mode } => Fault::new(
            format!("every user of this machine can change {name} (mode {mode:04o})"),
            format!("run: chmod o= {name}"),
        ),
        SecretFault::NotRegular => Fault::new(
            format!("{name} is not a regular file"),
            "name a file that holds the check user's password",
        ),
        SecretFault::TooLarge => Fault::new(
            format!("{name} is larger than {} KiB", FILE_BYTES_MAX >> 10),
            "name a file that holds nothing but the check user's password",
        ),
        SecretFault::NotUtf8 => Fault::new(
            format!("{name} is not UTF-8 text"),
            "name a file that holds nothing but the check user's password",
        ),
        SecretFault::Unset => {
            Fault::new(format!("{name} does not exist"), "create it with the password in it")
        }
    })?;
    // Editors end the line; a password with a line end inside is a wrong file.
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(Fault::new(
            format!("{name} is empty"),
            "write the check user's password into it; an account without one is not supported",
        ));
    }
    if line.contains(['\n', '\0']) {
        return Err(Fault::new(
            format!("{name} has more than one line"),
            "leave nothing but the check user's password in it",
        ));
    }
    Ok(Secret::new(line))
}

/// Returns the password in the environment variable `name`.
fn from_variable(name: &str, secrets: &dyn Secrets) -> Result<Secret, Fault> {
    if name.is_empty() || name.contains(['=', '\0', '$']) {
        return Err(Fault::new(
            format!("{name:?} is not the name of an environment variable"),
            "write the bare name, as in \"PAIRFLIP_PASSWORD\"",
        ));
    }
    let text = secrets.variable(name).map_err(|fault| match fault {
        SecretFault::NotUtf8 => Fault::new(
            format!("the environment variable {name} is not UTF-8 text"),
            "set it to the check user's password",
        ),
        SecretFault::Unset
        | SecretFault::Io(_)
        | SecretFault::Exposed { .. }
        | SecretFault::NotRegular
        | SecretFault::TooLarge => Fault::new(
            format!("the environment variable {name} is not set"),
            "set it for the daemon (systemd: EnvironmentFile=), or use password_file",
        ),
    })?;
    if text.is_empty() {
        return Err(Fault::new(
            format!("the environment variable {name} is empty"),
            "set it to the check user's password; an account without one is not supported",
        ));
    }
    Ok(Secret::new(text))
}
