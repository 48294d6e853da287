//! Real MariaDB and MySQL servers.

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

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    flavour::{Flavour, Fork},
    installation::Installation,
    netns::Namespace,
};
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

/// One server in a namespace.
#[derive(Debug)]
pub struct Database {
    pub address: Ipv4Addr,
    flavour: Flavour,
    installation: Installation,
    server_id: usize,
    namespace: Namespace,
    dir: PathBuf,
    options: Vec<String>,
    /// The server resolves names, and sees this as `/etc/hosts`.
    hosts: Option<String>,
    child: Option<Child>,
}

impl Database {
    /// Makes a server's files from the template and starts it.
    pub(crate) fn create(
        flavour: Flavour,
        namespace: Namespace,
        address: Ipv4Addr,
        server_id: usize,
        dir: &Path,
        options: &[&str],
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut database = Self {
            address,
            flavour,
            installation: Installation::of(flavour, |_| {})?,
            server_id,
            namespace,
            dir: dir.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            hosts: None,
            child: None,
        };
        database.copy_template()?;
        database.spawn()?;
        Ok(database)
    }

    fn copy_template(&self) -> Result<()> {
        run(Command::new("cp")
            .arg("-a")
            .arg(self.installation.template()?)
            .arg(self.dir.join("data")))?;
        Ok(())
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub fn fork(&self) -> Fork {
        self.flavour.fork()
    }

    /// Options of the server's own for starts to come, after those of the lab, so that they win.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// Has the server look for the names of its clients' addresses, in starts to come, and find these.
    pub fn resolve_names(&mut self, hosts: &str) {
        self.hosts = Some(hosts.to_owned());
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("mysql.sock")
    }

    fn spawn(&mut self) -> Result<()> {
        let log = fs::File::create(self.dir.join("log"))?;
        let program = self.installation.server();
        let mut command = self.namespace.command(&program[0])?;
        command
            .args(&program[1..])
            .arg("--user=root")
            .arg(format!("--datadir={}", self.dir.join("data").display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", self.dir.join("pid").display()))
            .args(self.fork().server_options(self.server_id))
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C at the terminal is for the one who owns the lab.
            .process_group(0);
        match &self.hosts {
            Some(hosts) => {
                let file = self.dir.join("hosts");
                fs::write(&file, hosts)?;
                with_hosts(&mut command, file);
            }
            // For MySQL it counts whatever its value, so it is given here alone.
            None => {
                command.arg("--skip-name-resolve");
            }
        }
        self.child = Some(command.spawn().context(
            "starting a database server; install mariadb-server-core, or run `cargo xtask setup`",
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
        let program = self.installation.client();
        run(Command::new(&program[0])
            .args(&program[1..])
            .args(["--user=root", "--skip-column-names", "--batch"])
            .arg(format!("--socket={}", self.socket().display()))
            .args(["--execute", statements]))
        .map(|text| text.trim_end().to_owned())
    }

    /// The command-line client of this server's fork with its first options, as words of a line.
    pub fn client(&self) -> String {
        self.installation.client().join(" ")
    }

    /// Runs statements as [`Database::sql`] does, and returns while they run. Killing the client ends them.
    pub fn sql_in_background(&self, statements: &str) -> Result<Child> {
        let program = self.installation.client();
        Command::new(&program[0])
            .args(&program[1..])
            .arg("--user=root")
            .arg(format!("--socket={}", self.socket().display()))
            .args(["--execute", statements])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting a client of a database server")
    }

    /// Ids of an account's connections.
    pub fn connections_of(&self, user: &str) -> Result<Vec<u64>> {
        let list = self.sql("SHOW PROCESSLIST")?;
        let rows = list.lines().map(|line| line.split('\t'));
        Ok(rows
            .filter_map(|mut row| {
                let id = row.next()?.parse().ok()?;
                (row.next()? == user).then_some(id)
            })
            .collect())
    }

    /// Ends an account's connections.
    pub fn kill_connections_of(&self, user: &str) -> Result<()> {
        for id in self.connections_of(user)? {
            // It may have ended by itself meanwhile.
            _ = self.sql(&format!("KILL {id}"));
        }
        Ok(())
    }

    /// Ends the connections whose statement has a word in it: those of a client that was killed run on.
    pub fn kill_statements(&self, word: &str) -> Result<()> {
        let list = self.sql("SHOW FULL PROCESSLIST")?;
        for row in list.lines().filter(|row| row.contains(word)) {
            let id = row.split('\t').next().unwrap_or_default();
            // It may have ended by itself meanwhile.
            _ = self.sql(&format!("KILL {id}"));
        }
        Ok(())
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

    /// Ends the server in good order, as a package upgrade does.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).context("stopping a server")?;
            child.wait().context("waiting for a server")?;
        }
        Ok(())
    }

    /// Stops or continues the server's process: it holds its connections and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the server does not run")?;
        kill(Pid::from_raw(child.id() as i32), signal).with_context(|| format!("sending {signal}"))
    }

    /// Another server at the same address, with the lab's accounts and otherwise empty.
    pub fn replace(&mut self, flavour: Flavour) -> Result<()> {
        self.kill()?;
        fs::remove_dir_all(self.dir.join("data")).context("removing the old server's files")?;
        self.installation = Installation::of(flavour, |_| {})?;
        self.flavour = flavour;
        self.copy_template()?;
        self.start()?;
        self.create_accounts()
    }

    /// A newer server on the same files.
    pub fn upgrade(&mut self, flavour: Flavour) -> Result<()> {
        self.stop()?;
        self.installation = Installation::of(flavour, |_| {})?;
        self.flavour = flavour;
        self.start()
    }

    pub(crate) fn create_accounts(&self) -> Result<()> {
        self.sql(&self.fork().create_accounts())?;
        Ok(())
    }

    /// Gives the check account what a safe flip needs besides.
    pub fn grant_flips(&self) -> Result<()> {
        let is_writable = self.sql("SELECT @@global.read_only")? == "0";
        self.sql(&self.fork().grant_flips())?;
        if is_writable { self.set_read_only(false) } else { Ok(()) }
    }

    pub fn replicate_from(&self, source: Ipv4Addr) -> Result<()> {
        self.sql(&self.fork().replicate_from(source))?;
        Ok(())
    }

    /// On MySQL this is `super_read_only`.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        self.sql(self.fork().set_read_only(read_only))?;
        Ok(())
    }

    /// Waits until every replication thread runs.
    pub fn wait_replicating(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let running = self.sql(self.fork().is_replicating())?;
            if running.ends_with("ON") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not replicate:\n{}",
                    self.address,
                    self.sql("SHOW REPLICA STATUS\\G")?
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Has a program see `file` as `/etc/hosts`, in a mount namespace that ends with it.
fn with_hosts(command: &mut Command, file: PathBuf) {
    let none = None::<&str>;
    // SAFETY: these are system calls and nothing else, so they are safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            Ok(mount(Some(&file), "/etc/hosts", none, MsFlags::MS_BIND, none)?)
        });
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Nothing to do about a process that cannot be killed.
        _ = self.kill();
    }
}
