//! Programs of database servers: the host's, or those of another release of Debian, fetched once and kept in the cache.
//!
//! What was fetched is not installed, and needs no chroot: its own dynamic loader runs it with its own libraries, and options
//! say where its files are. So it sees the host's paths like any other program, and there is nothing to mount and nothing to
//! clean up.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use super::flavour::{Flavour, Fork, Packages};
use crate::{archive::Archive, cache_dir, command::run};

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
/// What is kept of the packages: the rest, mostly Perl and tools, is more than half of them.
const KEPT: [&str; 7] = [
    "usr/sbin/mysqld",
    "usr/sbin/mariadbd",
    "usr/bin/mysql",
    "usr/bin/mariadb",
    "usr/share/mysql",
    "usr/share/mariadb",
    "usr/lib",
];
/// MariaDB's system tables, as `mariadb-install-db` makes them, which would run programs of the host.
const SYSTEM_TABLES: [&str; 6] = [
    "mariadb_system_tables.sql",
    "mariadb_performance_tables.sql",
    "mariadb_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "mariadb_sys_schema.sql",
];

/// The programs of one flavour.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    flavour: Flavour,
    /// Where it is unpacked; `None` for the host's own.
    root: Option<PathBuf>,
}

impl Installation {
    /// Finds the programs of a flavour; fetches what is not in the cache.
    pub(crate) fn of(flavour: Flavour, progress: impl FnMut(&str)) -> Result<Self> {
        let root = match flavour.packages() {
            None => None,
            Some(packages) => {
                Some(fetch(flavour, &packages, &cache_dir().join("servers"), progress)?)
            }
        };
        Ok(Self { flavour, root })
    }

    /// The server's program and its first options.
    pub(crate) fn server(&self) -> Vec<String> {
        let name = match self.flavour.fork() {
            Fork::MariaDb => "mariadbd",
            Fork::MySql => "mysqld",
        };
        let Some(root) = &self.root else {
            return vec![name.to_owned(), "--no-defaults".to_owned()];
        };
        let path = |path: &str| root.join(path).display().to_string();
        let share = self.share(root).display().to_string();
        let mut command = loaded(root, &path(&format!("usr/sbin/{name}")));
        command.extend([
            "--no-defaults".to_owned(),
            format!("--basedir={}", path("usr")),
            format!("--plugin-dir={}", path("usr/lib/mysql/plugin")),
            format!("--character-sets-dir={share}/charsets"),
            format!("--lc-messages-dir={share}"),
        ]);
        command
    }

    /// The command-line client and its first options.
    pub(crate) fn client(&self) -> Vec<String> {
        let name = match self.flavour.fork() {
            Fork::MariaDb => "mariadb",
            Fork::MySql => "mysql",
        };
        let mut command = match &self.root {
            None => vec![name.to_owned()],
            Some(root) => loaded(root, &root.join("usr/bin").join(name).display().to_string()),
        };
        command.push("--no-defaults".to_owned());
        command
    }

    /// Version, as the server itself says it.
    pub(crate) fn version(&self) -> Result<String> {
        let argv = self.server();
        let text = run(Command::new(&argv[0]).args(&argv[1..]).arg("--version")).context(
            "asking a database server for its version; install mariadb-server-core, or run `cargo xtask setup`",
        )?;
        // "mysqld  Ver 9.7.4 for Linux ...", and MariaDB's likewise.
        Ok(text.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
    }

    fn share(&self, root: &Path) -> PathBuf {
        root.join(match self.flavour.fork() {
            Fork::MariaDb => "usr/share/mariadb",
            Fork::MySql => "usr/share/mysql",
        })
    }

    /// A data directory of a server that never ran, made once per server version.
    pub(crate) fn template(&self) -> Result<PathBuf> {
        let fork = match self.flavour.fork() {
            Fork::MariaDb => "mariadb",
            Fork::MySql => "mysql",
        };
        let cache = cache_dir();
        let template = cache.join(format!("{fork}-{}", self.version()?));
        if template.is_dir() {
            return Ok(template);
        }
        fs::create_dir_all(&cache).context("making the cache")?;
        // Goes with what is in it if anything fails.
        let making = tempfile::tempdir_in(&cache).context("making a directory in the cache")?;
        let data = making.path().join("data");
        self.initialize(&data)
            .with_context(|| format!("making the first files of {}", self.flavour.name()))?;
        match fs::rename(&data, &template) {
            Ok(()) => {}
            // Another run was faster.
            Err(_) if template.is_dir() => {}
            Err(error) => return Err(error).context("keeping the template of the databases"),
        }
        Ok(template)
    }

    fn initialize(&self, data: &Path) -> Result<()> {
        match (&self.root, self.flavour.fork()) {
            (None, _) => {
                let mut install = Command::new("mariadb-install-db");
                if geteuid().is_root() {
                    // It would refuse to run as root otherwise; nobody else may name a user.
                    install.arg("--user=root");
                }
                run(install
                    .args([
                        "--no-defaults",
                        "--auth-root-authentication-method=normal",
                        "--skip-test-db",
                    ])
                    .arg(format!("--datadir={}", data.display())))?;
            }
            (Some(_), Fork::MySql) => {
                let argv = self.server();
                run(Command::new(&argv[0])
                    .args(&argv[1..])
                    // Its default takes 100 MB of every copy.
                    .args([
                        "--user=root",
                        "--initialize-insecure",
                        "--innodb-redo-log-capacity=16M",
                    ])
                    .arg(format!("--datadir={}", data.display())))?;
                // Every server makes an identity of its own.
                fs::remove_file(data.join("auto.cnf")).context("removing the server's identity")?;
            }
            (Some(root), Fork::MariaDb) => self.bootstrap(root, data)?,
        }
        Ok(())
    }

    fn bootstrap(&self, root: &Path, data: &Path) -> Result<()> {
        // The server reads one statement a line.
        let mut statements = String::from(
            "CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n",
        );
        for name in SYSTEM_TABLES {
            let path = self.share(root).join(name);
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let text = String::from_utf8_lossy(&text);
            // Accounts of this host's name, which is nobody's here.
            for line in text.lines().filter(|line| !line.contains("@current_hostname")) {
                statements.push_str(line);
                statements.push('\n');
            }
        }
        fs::create_dir_all(data)?;
        let input = data.with_extension("sql");
        fs::write(&input, statements)?;
        let argv = self.server();
        let output = Command::new(&argv[0])
            .args(&argv[1..])
            .args(["--user=root", "--bootstrap", "--enforce-storage-engine=", "--log-warnings=0"])
            .args([
                "--max-allowed-packet=8M",
                "--net-buffer-length=16K",
                "--innodb-log-file-size=16M",
            ])
            .arg(format!("--datadir={}", data.display()))
            .stdin(File::open(&input)?)
            .output()
            .context("starting mariadbd")?;
        if !output.status.success() {
            bail!(
                "mariadbd --bootstrap failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// A program, run by the loader that was unpacked with it and no library of the host's.
fn loaded(root: &Path, program: &str) -> Vec<String> {
    let path = |path: &str| root.join(path).display().to_string();
    vec![
        path(LOADER),
        "--inhibit-cache".to_owned(),
        "--argv0".to_owned(),
        program.to_owned(),
        "--library-path".to_owned(),
        path(LIBRARIES),
        program.to_owned(),
    ]
}

/// Returns where a flavour is unpacked, once it is.
fn fetch(
    flavour: Flavour,
    packages: &Packages,
    cache: &Path,
    mut progress: impl FnMut(&str),
) -> Result<PathBuf> {
    let dir = cache.join(flavour.name());
    if dir.is_dir() {
        return Ok(dir);
    }
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    // Held until the end: another run waits and then finds the programs.
    let lock = File::create(cache.join("lock")).context("making the lock of the servers' cache")?;
    lock.lock().context("locking the servers' cache")?;
    if dir.is_dir() {
        return Ok(dir);
    }
    progress(&format!("fetching {} from Debian's {}", flavour.name(), packages.suite));
    let making = tempfile::tempdir_in(cache).context("making a directory in the cache")?;
    let version = fetch_into(making.path(), flavour, packages, cache).with_context(|| {
        format!("fetching {} from Debian's suite {}", flavour.name(), packages.suite)
    })?;
    if !flavour.name().ends_with(&series(&version)) {
        // Tests may well pass; a suite that moved on must not stop them all.
        progress(&format!(
            "that suite has version {version} by now, which no test was written for"
        ));
    }
    let made = making.path().join("kept");
    fs::rename(&made, &dir).with_context(|| format!("keeping {}", dir.display()))?;
    Ok(dir)
}

/// Returns the version that the server says.
fn fetch_into(
    making: &Path,
    flavour: Flavour,
    packages: &Packages,
    cache: &Path,
) -> Result<String> {
    let apt = cache.join(format!("apt-{}", packages.suite));
    let archive = Archive::open(&apt, &[packages.suite])?;
    let unpacked = making.join("unpacked");
    archive.unpack_with_dependencies(&packages.names, &unpacked)?;
    let kept = making.join("kept");
    for path in KEPT.iter().filter(|path| unpacked.join(path).symlink_metadata().is_ok()) {
        let to = kept.join(path);
        fs::create_dir_all(to.parent().context("it has a directory")?)?;
        fs::rename(unpacked.join(path), &to).with_context(|| format!("keeping {path}"))?;
    }
    // A server that cannot even say its version must not be kept.
    let version = Installation { flavour, root: Some(kept.clone()) }.version()?;
    fs::write(kept.join("version"), &version)?;
    Ok(version)
}

/// The first two numbers of a version.
fn series(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_two_numbers() {
        assert_eq!(series("9.7.4-2"), "9.7");
        assert_eq!(series("11.8.9-MariaDB-4"), "11.8");
    }
}
