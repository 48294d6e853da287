//! Configuration: one TOML file, parsed once at the edge into types that cannot be wrong.
//!
//! The file is walked by hand over toml's spanned tables instead of through serde: that way every
//! error of the file is found in one go, each with its position, its key and a remedy. Nothing in
//! here changes the machine, and nothing after here validates again.
//!
//! | module | owns |
//! |---|---|
//! | `model` | the validated types |
//! | `reader` | positions, syntax errors, the list of errors |
//! | `section`, `field` | unknown and missing keys; type mismatches |
//! | `value` | durations, addresses, port ranges, names, paths |
//! | `daemon`, `cluster`, `check`, `hook` | which keys there are, their defaults and ranges |
//! | `rules` | what must hold between clusters, routes and pairs |
//! | `secret`, `tls` | passwords, from a file or the environment; certificates |

mod check;
mod cluster;
mod daemon;
mod difference;
mod error;
mod field;
mod hook;
mod model;
mod reader;
mod rules;
mod secret;
mod section;
mod suggest;
mod tls;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

pub use self::cluster::REPLICAS_MAX;
pub use self::daemon::INTERFACES_MAX;
pub use self::error::{ConfigError, ConfigErrors};
pub use self::hook::KEYS_REREAD;
pub use self::model::{
    Access, Announce, Applies, Attach, Check, Cluster, Comparison, Config, Daemon, Deny,
    DrainConfig, DrainMode, ExecCheck, Failback, Failover, FlipConfig, Forwarding, Galera,
    Heartbeat, Hook, HttpCheck, Login, Network, NoBackend, Pair, PortRange, Replica, Route, Source,
    SqlCheck, StandbyReplicas, TcpCheck, Timeouts, Tls, TlsFiles, TlsMaterial, TlsVerify,
};
pub(crate) use self::secret::RereadSecrets;
use self::secret::UnreadSecrets;
pub use self::secret::{HostSecrets, Pem, Secret, SecretFault, SecretSource, Secrets};
pub use self::value::Human;

use self::reader::Reader;
use self::rules::Census;
use self::section::{Schema, Section};

pub use self::cluster::FLIP_DEADLINE_RANGE;

/// Where the daemon looks when it is not told.
pub const DEFAULT_PATH: &str = "/etc/pairflip/pairflip.toml";

/// Bytes of a configuration file. 1024 backends take some 60 KiB; a file of more than this is not
/// a configuration, and must not be read to its end.
const FILE_BYTES_MAX: u64 = 1 << 20;

const ROOT: Schema =
    Schema { header: "the top level", keys: &["daemon", "cluster", "hook"], unsupported: &[] };

/// Every kind of section, for telling where a stray key belongs.
const SCHEMAS: &[&Schema] = &[
    &ROOT,
    &daemon::SCHEMA,
    &cluster::CLUSTER,
    &check::CHECK,
    &check::HEARTBEAT,
    &check::TLS,
    &check::SQL,
    &check::HTTP,
    &check::TCP,
    &check::EXEC,
    &cluster::FLIP,
    &cluster::DRAIN,
    &cluster::TIMEOUTS,
    &cluster::ROUTE,
    &cluster::PAIR,
    &cluster::REPLICA,
    &hook::HOOK,
];

/// Returns the duration that an argument gives, as the file writes them: a whole number and a unit.
///
/// # Errors
///
/// What is wrong with the text, and how to write it; also when it is not within `range`.
pub fn duration_argument(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    value::duration(text, range).map_err(|fault| format!("{}; {}", fault.problem, fault.remedy))
}

/// Returns the configuration in `path`, with the passwords it refers to.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_with(path, &HostSecrets)
}

/// Returns the configuration in `path`; `secrets` stands in for password files and variables.
///
/// A closure will do: `load_with(path, &|_: &Path| Ok("secret".to_owned()))`.
pub fn load_with(path: &Path, secrets: &dyn Secrets) -> Result<Config, ConfigErrors> {
    let text = read_text(path).map_err(ConfigErrors::one)?;
    parse(&text, path, secrets)
}

/// Returns the configuration in `text`; `path` is its name in errors and the place that a relative
/// `password_file` starts from.
pub fn parse(text: &str, path: &Path, secrets: &dyn Secrets) -> Result<Config, ConfigErrors> {
    let mut reader = Reader::new(text, path);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        // What the parser recovered is a guess; judging it would bury the cause in consequences.
        reader.syntax_errors(&syntax_errors);
        return Err(reader.into_errors());
    }
    let source = Source { path: path.to_owned(), text: text.to_owned() };
    let config = read_document(&mut reader, document.get_ref(), secrets, source);
    match config {
        Some(config) if reader.is_clean() => Ok(config),
        Some(_) | None => Err(reader.into_errors()),
    }
}

fn read_document(
    reader: &mut Reader,
    root: &DeTable,
    secrets: &dyn Secrets,
    source: Source,
) -> Option<Config> {
    let section = Section::open(reader, &ROOT, String::new(), 0, root);
    let daemon = section
        .require(reader, "daemon", "add a [daemon] section with interfaces = [\"eth0\"]")
        .and_then(|field| daemon::read(reader, &field));
    let mut census = Census::default();
    let clusters = section
        .require(reader, "cluster", "add a [[cluster]] section with its routes and pairs")
        .and_then(|field| cluster::read_all(reader, &mut census, &field, secrets));
    let hooks = section.optional(reader, "hook", Vec::new(), hook::read_all);
    census.judge(reader);
    if let (Some(hooks), Some(clusters)) = (&hooks, &clusters) {
        hook::judge(reader, hooks, clusters);
    }
    let hooks = hooks?.into_iter().map(|(hook, _)| hook).collect();
    Some(Config { source, daemon: daemon?, clusters: clusters?, hooks })
}

/// Returns the keys in which a configuration file differs from what was read from it before.
///
/// # Errors
///
/// What is wrong with the file now.
pub(crate) fn differences(source: &Source) -> Result<Vec<String>, ConfigErrors> {
    // What is wrong with a secret is told where it is read again.
    let config = load_with(&source.path, &UnreadSecrets)?;
    Ok(difference::differing_keys(&source.text, &config.source.text))
}

/// Returns the password of a source as it is now, or what is wrong with it and what to do.
pub(crate) fn password(source: &SecretSource, secrets: &dyn Secrets) -> Result<Secret, String> {
    secret::read(source, secrets).map_err(|fault| format!("{}; {}", fault.problem, fault.remedy))
}

/// Returns the certificates of these files as they are now, or what is wrong with them and what to do.
pub fn certificates(files: &TlsFiles, secrets: &dyn Secrets) -> Result<TlsMaterial, String> {
    tls::load(files, secrets)
        .map_err(|(key, fault)| format!("{key}: {}; {}", fault.problem, fault.remedy))
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: io::Error| {
        let remedy = if error.kind() == io::ErrorKind::NotFound {
            "create it (configs/pairflip.toml is a commented example), or name another file with \
             --config"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "run as root, or let this user read the file"
        } else {
            "name the configuration file with --config"
        };
        ConfigError::file(path, format!("cannot read the configuration: {error}"), remedy)
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::file(
            path,
            format!("the file is larger than {} KiB", FILE_BYTES_MAX >> 10),
            "check that this is the configuration and not another file",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let (line, column) = reader::position(&String::from_utf8_lossy(valid), valid.len());
        ConfigError {
            position: Some((line, column)),
            ..ConfigError::file(
                path,
                "the file is not UTF-8 text".to_owned(),
                "write the character at this place in UTF-8, or remove it",
            )
        }
    })
}
