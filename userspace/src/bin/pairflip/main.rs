//! The controller: one request to the daemon, its answer for a person or as JSON.

mod flip;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use hyper::Method;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pairflip::{
    config::{self, ConfigErrors},
    control::{
        client::{ClientError, request},
        protocol::{
            AdminRequest, AdminState, ApiError, Drain, ErrorBody, Event, Events, Flows, Reloaded,
            Status, Unloaded,
        },
        render::{self, Style},
        summary::Summary,
    },
    inspect, runtime,
};
use serde::{Serialize, de::DeserializeOwned};

use self::flip::Flip;

/// The command failed or was refused.
const EXIT_FAILED: u8 = 1;
/// No daemon to ask.
const EXIT_NO_DAEMON: u8 = 3;
/// A flip was begun and undone.
const EXIT_UNDONE: u8 = 4;
/// The same, because its time was up.
const EXIT_UNDONE_IN_TIME: u8 = 5;
/// A flip was begun and is neither done nor undone.
const EXIT_UNFINISHED: u8 = 6;
/// A flip is done, and connections may be left that were to be waited for.
const EXIT_WAIT_ENDED: u8 = 7;

const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Erases the display (ECMA-48, 8.3.39).
const CLEAR: &str = "\x1b[2J";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed or refused; the reason and a remedy are on standard error
  2  wrong usage; nothing was asked of the daemon
  3  no daemon answers on the socket, or it may not be asked
  4  a flip was begun and undone: everything is as before
  5  the same, because its deadline was reached
  6  a flip was begun and is neither done nor undone: look at `pairflip status`
  7  a flip is done, but --wait ended early: Ctrl-C, or the daemon did not answer";

/// Commands pairflipd, the MySQL failover redirector.
#[derive(Debug, Parser)]
#[command(version, name = "pairflip", after_help = EXIT_CODES)]
struct Arguments {
    /// The daemon's control socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/pairflip/control.sock",
        env = "PAIRFLIP_SOCKET"
    )]
    socket: PathBuf,
    /// Answers and errors as JSON, errors on standard error as ever.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows which pair is active, where each VIP goes, and why.
    Status {
        /// Shows it anew every second, until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// Makes another pair active, without losing an acknowledged write.
    ///
    /// Asks both primaries whether anything speaks against it; waits until the new one has caught up;
    /// pauses new connections for writes and holds open ones as they become idle; makes the old
    /// primary read-only; waits until the new one has everything; moves the routes; makes the new one
    /// writable; ends what is left on the old one. Until the new primary is told to take writes, any
    /// error, the deadline and Ctrl-C undo everything; after that it is finished, also by a daemon
    /// that is started again in the middle.
    #[command(visible_alias = "flipactive")]
    Flip(Flip),
    /// Takes a backend or a pair out of new connections. Open ones live on unless --drain says otherwise.
    Drain(Admin),
    /// As drain, and it is not checked either: for work on the server.
    Maint(Admin),
    /// Puts a backend or a pair back that `drain` or `maint` took out.
    Ready {
        /// ADDRESS:PORT of a backend, or the name of a pair.
        target: String,
        /// The cluster of the pair. Not needed where there is one.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
    },
    /// Lists connections through the redirector.
    Flows {
        /// Only those to this backend.
        #[arg(long, value_name = "ADDRESS:PORT")]
        backend: Option<SocketAddr>,
        /// Only those of this cluster.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// Only those in this state: half_open, established or closing.
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// List at most this many [default: 1000].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Lists them anew every second, until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// Shows what happened, oldest first: changes of health, routes and admin states, flips, and why.
    ///
    /// Times are UTC. The daemon keeps the last thousands of events, also over restarts.
    Events {
        /// Goes on with each event as it happens, until Ctrl-C.
        #[arg(long)]
        follow: bool,
        /// Only those of this cluster.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// Show the last N, to begin with [default: 100].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Checks a configuration, and holds it against this host and the servers. Needs no daemon, changes
    /// nothing.
    ///
    /// Asks every server as the daemon would: is it there, may the check account do what it needs, does
    /// replication go as configured, is one primary writable, do the clocks agree. Looks at interfaces,
    /// at the ways to the servers and at who has the VIPs. Ends with 1 if something that is configured
    /// will not work. A host that no server answers is taken for another than the redirector: then only
    /// the file counts.
    Check {
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
        /// The file only: no server is asked.
        #[arg(long)]
        offline: bool,
    },
    /// Reads the passwords and certificates of the checks again, and says which other changes of the
    /// configuration need a restart of the daemon. SIGHUP does the same.
    Reload,
    /// Removes everything from the kernel and the host, and stops the daemon. Connections through
    /// the redirector break.
    Unload {
        /// Says where things are when no daemon runs.
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Admin {
    /// ADDRESS:PORT of a backend, or the name of a pair.
    target: String,
    /// The cluster of the pair. Not needed where there is one.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// After this time it is ready again by itself, as in 30m [default: it stays].
    #[arg(long = "for", value_name = "DURATION", value_parser = admin_time)]
    time: Option<Duration>,
    /// Why; shown in the status.
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// What happens to its connections [default: they live on].
    #[arg(long)]
    drain: Option<DrainMode>,
    /// After this time what is left of them is cut, as in 30s [default: with --drain as configured in
    /// [cluster.drain], else never].
    #[arg(long, value_name = "DURATION", value_parser = drain_deadline)]
    deadline: Option<Duration>,
    /// Also when write routes refuse because of it.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum DrainMode {
    /// They live on until their clients close them.
    Finish,
    /// Each is ended when its session is idle, outside a transaction and holds no locks. Refused where
    /// the check account may not look.
    Idle,
    /// They are ended now, on both sides.
    Cut,
}

/// Why a command failed, and the exit code that says so.
struct Failure {
    error: ApiError,
    code: u8,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    let (text, code) = match run(arguments).await {
        Ok(text) if text.is_empty() => return ExitCode::SUCCESS,
        Ok(text) => return ExitCode::from(write(io::stdout(), &text)),
        Err(Failure { error, code }) => (error_text(error, json), code),
    };
    write(io::stderr(), &text);
    ExitCode::from(code)
}

async fn run(arguments: Arguments) -> Result<String, Failure> {
    let Arguments { socket, json, command } = arguments;
    match command {
        Command::Status { watch } => {
            let once = async || {
                let status: Status = get(&socket, "/v1/status").await?;
                show(&status, json, |status| render::status(status, style()))
            };
            if watch { repeat(once, json).await } else { once().await }
        }
        Command::Flip(flip) => flip.run(&socket, json).await,
        Command::Drain(admin) => set_admin(&socket, json, admin.request(AdminState::Drain)).await,
        Command::Maint(admin) => set_admin(&socket, json, admin.request(AdminState::Maint)).await,
        Command::Ready { target, cluster } => {
            let admin = Admin {
                target,
                cluster,
                time: None,
                note: String::new(),
                drain: None,
                deadline: None,
                force: false,
            };
            set_admin(&socket, json, admin.request(AdminState::Ready)).await
        }
        Command::Flows { backend, cluster, state, limit, watch } => {
            let mut query = Vec::new();
            let backend = backend.map(|backend| backend.to_string());
            query.extend(backend.map(|backend| format!("backend={}", percent_encoded(&backend))));
            query.extend(cluster.map(|cluster| format!("cluster={}", percent_encoded(&cluster))));
            query.extend(state.map(|state| format!("state={}", percent_encoded(&state))));
            query.extend(limit.map(|limit| format!("limit={limit}")));
            let target = format!("/v1/flows?{}", query.join("&"));
            let once = async || {
                let flows: Flows = get(&socket, &target).await?;
                show(&flows, json, |flows| render::flows(flows, style()))
            };
            if watch { repeat(once, json).await } else { once().await }
        }
        Command::Events { follow, cluster, limit } => {
            let cluster = cluster.map(|cluster| format!("cluster={}", percent_encoded(&cluster)));
            let limit = limit.map(|limit| format!("limit={limit}"));
            let query: Vec<String> = cluster.clone().into_iter().chain(limit).collect();
            let events: Events = get(&socket, &format!("/v1/events?{}", query.join("&"))).await?;
            if follow {
                return follow_events(&socket, json, events, cluster).await;
            }
            show(&events, json, |events| match &events.events[..] {
                [] => "no events".to_owned(),
                events => render::events(events, style()),
            })
        }
        Command::Check { config, offline } => check(json, &config, offline).await,
        Command::Reload => reload(&socket, json).await,
        Command::Unload { config } => {
            show(&unload(&socket, &config).await?, json, |unloaded| match &unloaded.removed[..] {
                [] => "nothing was loaded".to_owned(),
                removed => removed.join("\n"),
            })
        }
    }
}

async fn check(json: bool, config: &Path, offline: bool) -> Result<String, Failure> {
    let config = config::load(config)?;
    let mut summary = Summary::new(&config);
    if !offline {
        summary.found = Some(inspect::inspect(&config).await);
    }
    let text = show(&summary, json, Summary::text)?;
    if !summary.found.is_some_and(|report| report.has_errors()) {
        return Ok(text);
    }
    write(io::stdout(), &text);
    let error = ApiError::new(
        "found_errors",
        "something that is configured will not work",
        "see the lines that begin with ERROR",
    );
    Err(Failure { error, code: EXIT_FAILED })
}

async fn set_admin(socket: &Path, json: bool, admin: AdminRequest) -> Result<String, Failure> {
    let done = request(socket, Method::POST, "/v1/admin", Some(&admin)).await?;
    show(&done, json, |done| render::admin(done, style()))
}

impl Admin {
    fn request(self, state: AdminState) -> AdminRequest {
        let Self { target, cluster, time, note, drain, deadline, force } = self;
        let for_seconds = time.map(|time| time.as_secs());
        let drain = drain.map(DrainMode::wire);
        let deadline_ms = deadline.map(|deadline| deadline.as_millis() as u64);
        let by = login_name();
        AdminRequest { cluster, target, state, for_seconds, note, by, drain, deadline_ms, force }
    }
}

impl DrainMode {
    fn wire(self) -> Drain {
        match self {
            Self::Finish => Drain::Finish,
            Self::Idle => Drain::Idle,
            Self::Cut => Drain::Cut,
        }
    }
}

/// Who gives the order: behind sudo the person, not root.
fn login_name() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| env::var(name).ok());
    named.unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()))
}

fn drain_deadline(text: &str) -> Result<Duration, String> {
    config::duration_argument(text, Duration::from_millis(10)..=Duration::from_secs(7 * 86_400))
}

fn admin_time(text: &str) -> Result<Duration, String> {
    config::duration_argument(text, Duration::from_secs(1)..=Duration::from_secs(365 * 86_400))
}

/// Shows what `once` says every second, on a terminal always at the same place. A daemon that does not answer for a while is no reason to
/// stop; one that never did is.
async fn repeat(
    once: impl AsyncFn() -> Result<String, Failure>,
    json: bool,
) -> Result<String, Failure> {
    let mut text = once().await?;
    let terminal = io::stdout().is_terminal();
    if terminal {
        print(CLEAR);
    }
    loop {
        let frame = if terminal { in_place(&text) } else { format!("{}\n", text.trim_end()) };
        if !print(&frame) {
            return Ok(String::new());
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
        text = once().await.unwrap_or_else(|Failure { error, .. }| error_text(error, json));
    }
}

/// Prints events, and those that follow, as long as somebody reads. A daemon that does not answer is waited for: numbers outlive it.
async fn follow_events(
    socket: &Path,
    json: bool,
    first: Events,
    cluster: Option<String>,
) -> Result<String, Failure> {
    let cluster = cluster.map_or_else(String::new, |cluster| format!("&{cluster}"));
    let mut after = first.last;
    let mut answer: Result<Events, ClientError> = Ok(first);
    let mut was_silent = false;
    loop {
        let is_silent = answer.is_err();
        match answer {
            Ok(Events { events, last }) => {
                if !print(&event_lines(&events, json)?) {
                    return Ok(String::new());
                }
                // Smaller numbers than before: a journal that began anew.
                after = if last < after {
                    0
                } else {
                    events.last().map_or(after, |event| event.number.max(after))
                };
            }
            Err(error) if !was_silent => {
                _ = write(io::stderr(), &error_text(error.into_api(), json))
            }
            Err(_) => {}
        }
        was_silent = is_silent;
        tokio::time::sleep(WATCH_INTERVAL).await;
        if !has_reader() {
            return Ok(String::new());
        }
        answer = get(socket, &format!("/v1/events?after={after}{cluster}")).await;
    }
}

/// As JSON an object on each line.
fn event_lines(events: &[Event], json: bool) -> Result<String, Failure> {
    if !json {
        return Ok(render::events(events, style()));
    }
    events.iter().map(|event| Ok(json_text(event, serde_json::to_string)? + "\n")).collect()
}

/// Whether a pipe at standard output has another end; nothing is written for hours in a quiet night.
fn has_reader() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut polled, PollTimeout::ZERO).is_err()
        || !polled[0].revents().is_some_and(|events| events.intersects(gone))
}

/// From the first line on, over what was there: no moment of an empty screen.
fn in_place(text: &str) -> String {
    over("\x1b[H", text)
}

/// A text over what was there, from where `start` brings the cursor.
fn over(start: &str, text: &str) -> String {
    format!("{start}{}\x1b[K\n\x1b[J", text.trim_end().replace('\n', "\x1b[K\n"))
}

/// Whether somebody still reads.
fn print(text: &str) -> bool {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

async fn get<T: DeserializeOwned>(socket: &Path, target: &str) -> Result<T, ClientError> {
    request(socket, Method::GET, target, None::<&()>).await
}

/// What could not be read is an error, whatever else was.
async fn reload(socket: &Path, json: bool) -> Result<String, Failure> {
    let reloaded: Reloaded = request(socket, Method::POST, "/v1/reload", None::<&()>).await?;
    if reloaded.failed.is_empty() {
        return show(&reloaded, json, render::reloaded);
    }
    let error = ApiError::new(
        "reload_failed",
        reloaded.failed.join("\n"),
        "repair it and reload again; what is not named here is in use",
    );
    Err(Failure { error, code: EXIT_FAILED })
}

/// Through the daemon where one runs, else by what the configuration says.
async fn unload(socket: &Path, config: &Path) -> Result<Unloaded, Failure> {
    match request(socket, Method::POST, "/v1/unload", None::<&()>).await {
        Err(ClientError::NotRunning { .. }) => {
            let config = config::load(config)?;
            let removed = runtime::unload_offline(&config).await.map_err(|error| Failure {
                error: ApiError::new(
                    "unload_failed",
                    format!("unloading without a daemon: {error:#}"),
                    "run it again as root; what was removed stays removed",
                ),
                code: EXIT_FAILED,
            })?;
            Ok(Unloaded { removed })
        }
        result => Ok(result?),
    }
}

fn show<T: Serialize>(
    value: &T,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    if !json {
        return Ok(text(value));
    }
    json_text(value, serde_json::to_string_pretty)
}

fn json_text<T: Serialize>(
    value: &T,
    form: impl FnOnce(&T) -> serde_json::Result<String>,
) -> Result<String, Failure> {
    form(value).map_err(|error| Failure {
        error: ApiError::new("broken", format!("writing the answer as JSON: {error}"), ""),
        code: EXIT_FAILED,
    })
}

fn style() -> Style {
    style_of(&io::stdout())
}

/// Colour only where somebody sees it and has not said otherwise (<https://no-color.org>).
fn style_of(stream: &impl io::IsTerminal) -> Style {
    let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_some_and(|term| term != "dumb");
    if wanted && stream.is_terminal() { Style::Colour } else { Style::Plain }
}

fn error_text(error: ApiError, json: bool) -> String {
    if !json {
        let remedy = if error.remedy.is_empty() { "" } else { "\n  " };
        return format!("error: {}{remedy}{}", error.message, error.remedy);
    }
    let message = error.message.clone();
    serde_json::to_string_pretty(&ErrorBody { error }).unwrap_or(message)
}

/// Writes a text and the end of its last line; returns the exit code. Who closed the other end
/// (`pairflip flows | head`) has read enough.
fn write(mut stream: impl io::Write, text: &str) -> u8 {
    match writeln!(stream, "{}", text.trim_end()).and_then(|()| stream.flush()) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(_) => EXIT_FAILED,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::NotRunning { .. } | ClientError::Connect { .. } => EXIT_NO_DAEMON,
            ClientError::TimedOut { .. } | ClientError::Broken { .. } => EXIT_FAILED,
            ClientError::Refused(ref error) => match error.code.as_str() {
                "flip_undone" => EXIT_UNDONE,
                "flip_timed_out" => EXIT_UNDONE_IN_TIME,
                "flip_undoing" | "flip_unfinished" => EXIT_UNFINISHED,
                _ => EXIT_FAILED,
            },
        };
        Self { error: error.into_api(), code }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self { error: ApiError::new("bad_config", errors.to_string(), ""), code: EXIT_FAILED }
    }
}

/// A value for a query: all but what RFC 3986, section 2.3 leaves unreserved is escaped.
fn percent_encoded(value: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn a_drain_may_be_by_idleness_and_have_a_deadline() {
        let command = parse("drain 10.0.1.12:3306 --drain idle --deadline 1500ms").unwrap().command;
        let Command::Drain(admin) = command else { panic!("not a drain") };
        let request = admin.request(AdminState::Drain);
        assert_eq!((request.drain, request.deadline_ms), (Some(Drain::Idle), Some(1500)));
        assert!(parse("drain 10.0.1.12:3306 --deadline 1ms").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn socket_and_json_may_stand_before_and_after_the_command() {
        for line in ["--json --socket /x status", "status --json --socket /x"] {
            let Arguments { socket, json, command } = parse(line).unwrap();
            assert_eq!((socket, json), (PathBuf::from("/x"), true));
            assert!(matches!(command, Command::Status { watch: false }));
        }
    }

    #[test]
    fn flip_goes_by_its_old_name_too() {
        for name in ["flip", "flipactive"] {
            let line = format!(
                "{name} --to pair2 --cluster main --route-only --drain cut --force a --force b"
            );
            let Command::Flip(flip) = parse(&line).unwrap().command else {
                panic!("{line} is no flip");
            };
            assert_eq!(
                (flip.to.as_deref(), flip.cluster.as_deref()),
                (Some("pair2"), Some("main"))
            );
            assert_eq!((flip.route_only, flip.drain), (true, Some(DrainMode::Cut)));
            assert_eq!(flip.force, ["a", "b"]);
        }
    }

    #[test]
    fn a_flip_is_the_safe_one_and_drains_as_configured_unless_told() {
        let Command::Flip(flip) = parse("flip").unwrap().command else { panic!("no flip") };
        assert_eq!((flip.route_only, flip.dry_run, flip.wait), (false, false, false));
        assert_eq!((flip.drain, flip.deadline), (None, None));
    }

    #[test]
    fn flows_take_an_address_and_a_number() {
        let Command::Flows { backend, limit, .. } =
            parse("flows --backend 10.0.1.11:3306 --limit 5").unwrap().command
        else {
            panic!("no flows");
        };
        assert_eq!((backend, limit), (Some("10.0.1.11:3306".parse().unwrap()), Some(5)));
    }

    #[test]
    fn configurations_are_looked_for_where_the_daemon_looks() {
        for line in ["check", "unload"] {
            let (Command::Check { config, .. } | Command::Unload { config }) =
                parse(line).unwrap().command
            else {
                panic!("{line} takes no configuration");
            };
            assert_eq!(config, Path::new(config::DEFAULT_PATH));
        }
    }

    #[test]
    fn bad_arguments_are_refused() {
        for (line, kind) in [
            ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("fly", ErrorKind::InvalidSubcommand),
            ("status --watch=yes", ErrorKind::TooManyValues),
            ("status extra", ErrorKind::UnknownArgument),
            ("flip pair2", ErrorKind::UnknownArgument),
            ("flip --to", ErrorKind::InvalidValue),
            ("flip --route-only=yes", ErrorKind::TooManyValues),
            ("flip --route-only --dry-run", ErrorKind::ArgumentConflict),
            ("flip --route-only --deadline 5s", ErrorKind::ArgumentConflict),
            ("flip --deadline soon", ErrorKind::ValueValidation),
            ("flip --drain never", ErrorKind::InvalidValue),
            ("flip --drain never", ErrorKind::InvalidValue),
            ("flip --to a --to b", ErrorKind::ArgumentConflict),
            ("flows --backend db1", ErrorKind::ValueValidation),
            ("flows --backend 10.0.1.11", ErrorKind::ValueValidation),
            ("flows --limit many", ErrorKind::ValueValidation),
            ("flows --limit -1", ErrorKind::UnknownArgument),
            ("events --limit many", ErrorKind::ValueValidation),
            ("events --follow=yes", ErrorKind::TooManyValues),
            ("events --after 7", ErrorKind::UnknownArgument),
            ("check --config", ErrorKind::InvalidValue),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn a_frame_overwrites_the_last_one_to_the_end_of_each_line_and_of_the_screen() {
        assert_eq!(in_place("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Arguments::command().render_help().to_string();
        for code in 0..=EXIT_WAIT_ENDED {
            assert!(help.contains(&format!("\n  {code}  ")), "{code} is not in\n{help}");
        }
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("pairflip").chain(line.split_whitespace()))
    }
}
