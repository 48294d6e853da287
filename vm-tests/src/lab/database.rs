//! Real MariaDB servers.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use nix::unistd::geteuid;

use super::netns::Namespace;
use crate::command::run;

/// Longest wait for a server to answer after its start; recovery after a kill takes about a second.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The account that pairflip's checks use in the lab.
pub const CHECK_USER: &str = "pairflip";
pub const CHECK_PASSWORD: &str = "check-secret";
/// The account of the lab's applications.
pub const APP_USER: &str = "app";
pub const APP_PASSWORD: &str = "app";

/// Where the template is in a virtual machine, whose home is `/root`.
pub(crate) const GUEST_CACHE: &str = "/root/.cache/pairflip";

/// One `mariadbd` in a namespace.
#[derive(Debug)]
pub struct Database {
    pub address: Ipv4Addr,
    server_id: usize,
    namespace: Namespace,
    dir: PathBuf,
    child: Option<Child>,
}

impl Database {
    /// Makes a server's files from the template and starts it.
    pub(crate) fn create(
        namespace: Namespace,
        address: Ipv4Addr,
        server_id: usize,
        dir: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        run(Command::new("cp").arg("-a").arg(template()?).arg(dir.join("data")))?;
        let mut database = Self { address, server_id, namespace, dir: dir.to_owned(), child: None };
        database.spawn()?;
        Ok(database)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("mysql.sock")
    }

    fn spawn(&mut self) -> Result<()> {
        let log = fs::File::create(self.dir.join("log"))?;
        let mut command = self.namespace.command("mariadbd")?;
        command
            .arg("--no-defaults")
            .arg("--user=root")
            .arg(format!("--datadir={}", self.dir.join("data").display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", self.dir.join("pid").display()))
            // Both families, and addresses that a test adds later.
            .arg("--bind-address=*")
            .arg(format!("--server-id={}", self.server_id))
            .arg(format!("--gtid-domain-id={}", self.server_id.div_ceil(2)))
            .args([
                "--port=3306",
                "--log-bin=binlog",
                "--log-slave-updates",
                "--gtid-strict-mode=1",
                "--skip-name-resolve",
            ])
            .args([
                "--innodb-buffer-pool-size=32M",
                "--innodb-log-file-size=16M",
                "--innodb-flush-log-at-trx-commit=2",
            ])
            .args([
                "--master-retry-count=1000000",
                "--slave-net-timeout=5",
                "--skip-slave-start=0",
                "--max-connections=500",
            ])
            // As MySQL's documentation advises: a server that crashed must not come back writable by itself.
            .arg("--read-only=1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C at the terminal is for the one who owns the lab.
            .process_group(0);
        self.child = Some(command.spawn().context(
            "starting mariadbd; install mariadb-server-core, or run `cargo xtask setup`",
        )?);
        fs::write(self.dir.join("pid-started"), self.pid().to_string())?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits until the server answers on its socket.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while self.sql("SELECT 1").is_err() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                bail!(
                    "{} did not come up ({ended:?}); its log ends (newest first):\n{}",
                    self.address,
                    tail.join("\n")
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Runs statements as root through the server's own socket; returns rows as lines, columns separated by tabs.
    pub fn sql(&self, statements: &str) -> Result<String> {
        run(Command::new("mariadb")
            .args(["--no-defaults", "--user=root", "--skip-column-names", "--batch"])
            .arg(format!("--socket={}", self.socket().display()))
            .args(["--execute", statements]))
        .map(|text| text.trim_end().to_owned())
    }

    /// Starts the server again after [`Database::kill`].
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("killing mariadbd")?;
            child.wait().context("waiting for mariadbd")?;
        }
        Ok(())
    }

    pub(crate) fn create_accounts(&self) -> Result<()> {
        // Not in the binary log: every server makes its own, so that replication starts with nothing to repeat.
        self.sql(&format!(
            "SET SESSION sql_log_bin=0;
             CREATE USER '{CHECK_USER}'@'%' IDENTIFIED BY '{CHECK_PASSWORD}';
             GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO '{CHECK_USER}'@'%';
             CREATE USER 'repl'@'%' IDENTIFIED BY 'repl';
             GRANT REPLICATION SLAVE ON *.* TO 'repl'@'%';
             CREATE DATABASE app;
             CREATE USER '{APP_USER}'@'%' IDENTIFIED BY '{APP_PASSWORD}';
             GRANT ALL ON app.* TO '{APP_USER}'@'%';"
        ))?;
        Ok(())
    }

    pub(crate) fn replicate_from(&self, source: Ipv4Addr) -> Result<()> {
        self.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='{source}', MASTER_USER='repl', MASTER_PASSWORD='repl',
             MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE;"
        ))?;
        Ok(())
    }

    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        self.sql(&format!("SET GLOBAL read_only={}", u8::from(read_only)))?;
        Ok(())
    }

    /// Waits until every replication thread runs.
    pub(crate) fn wait_replicating(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // Says ON when the IO thread is connected and the SQL thread runs.
            let running = self.sql("SHOW GLOBAL STATUS LIKE 'Slave_running'")?;
            if running.ends_with("ON") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not replicate:\n{}",
                    self.address,
                    self.sql("SHOW SLAVE STATUS\\G")?
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Nothing to do about a process that cannot be killed.
        _ = self.kill();
    }
}

/// A data directory as `mariadb-install-db` makes it, made once per server version.
pub(crate) fn template() -> Result<PathBuf> {
    let version = run(Command::new("mariadbd").args(["--no-defaults", "--version"])).context(
        "asking mariadbd for its version; install mariadb-server-core, or run `cargo xtask setup`",
    )?;
    let version = version.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
    let cache = crate::cache_dir();
    let template = cache.join(format!("mariadb-{version}"));
    if template.is_dir() {
        return Ok(template);
    }
    fs::create_dir_all(&cache).context("making the cache")?;
    // Goes with what is in it if anything fails.
    let making = tempfile::tempdir_in(&cache).context("making a directory in the cache")?;
    let data = making.path().join("data");
    let mut install = Command::new("mariadb-install-db");
    if geteuid().is_root() {
        // It would refuse to run as root otherwise; nobody else may name a user.
        install.arg("--user=root");
    }
    run(install
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display())))?;
    match fs::rename(&data, &template) {
        Ok(()) => {}
        // Another run was faster.
        Err(_) if template.is_dir() => {}
        Err(error) => return Err(error).context("keeping the template of the databases"),
    }
    Ok(template)
}
