//! `pairflip flip`: the request, what is shown while it is carried out, and Ctrl-C.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use clap::Args;
use hyper::Method;
use pairflip::{
    config,
    control::{
        client::{ClientError, request, request_within},
        protocol::{
            ApiError, CallOffRequest, CalledOff, FlipDone, FlipPlan, FlipRequest, FlipStatus,
            FlipsRunning, Status,
        },
        render,
    },
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    DrainMode, EXIT_FAILED, EXIT_UNFINISHED, EXIT_WAIT_ENDED, Failure, WATCH_INTERVAL, get, over,
    show, style_of,
};

/// Longer than any deadline that the daemon takes, and its undoing.
const FLIP_TIMEOUT: Duration = Duration::from_secs(2 * 3600);
/// Between two looks at a flip's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(super) struct Flip {
    /// The pair to make active. Not needed where there are two.
    #[arg(long, value_name = "PAIR")]
    pub(super) to: Option<String>,
    /// The cluster. Not needed where there is one.
    #[arg(long, value_name = "NAME")]
    pub(super) cluster: Option<String>,
    /// Ask both primaries, say what would be done and what speaks against it, and change nothing.
    #[arg(long, conflicts_with = "route_only")]
    pub(super) dry_run: bool,
    /// Only move the routes: no server is asked or told anything, fencing and catching up are yours,
    /// and acknowledged writes can be lost.
    #[arg(long)]
    pub(super) route_only: bool,
    /// Undo it if the new primary was not told to take writes within this time [default: as
    /// configured].
    #[arg(long, value_name = "DURATION", conflicts_with = "route_only", value_parser = deadline)]
    pub(super) deadline: Option<Duration>,
    /// What happens to connections on the old pair [default: as configured]. `cut` does not wait for
    /// open transactions. Whatever it is, none stays on the old primary, which is read-only afterwards.
    #[arg(long)]
    pub(super) drain: Option<DrainMode>,
    /// Flip although this precondition does not hold; may be repeated. `--dry-run` names them.
    #[arg(long, value_name = "WHAT")]
    pub(super) force: Vec<String>,
    /// Afterwards wait until no connection is left on the old pair.
    #[arg(long)]
    pub(super) wait: bool,
}

fn deadline(text: &str) -> Result<Duration, String> {
    config::duration_argument(text, config::FLIP_DEADLINE_RANGE)
}

impl Flip {
    pub(super) async fn run(self, socket: &Path, json: bool) -> Result<String, Failure> {
        let Self { to, cluster, dry_run, route_only, deadline, drain, force, wait } = self;
        let drain = drain.map(DrainMode::wire);
        let deadline_ms = deadline.map(|deadline| deadline.as_millis() as u64);
        let flip = FlipRequest { cluster, to, route_only, drain, deadline_ms, force };
        if dry_run {
            return plan(socket, json, &flip).await;
        }
        // From here on Ctrl-C does nothing by itself.
        let mut interrupts = interrupts()?;
        let done = if route_only {
            move_routes(socket, &flip, &mut interrupts).await?
        } else {
            follow(socket, json, &flip, &mut interrupts).await?
        };
        let text = show(&done, json, |done| render::flip(done, style_of(&io::stdout())))?;
        if wait && let Err(failure) = wait_for_flows(socket, &done, &mut interrupts).await {
            super::write(io::stdout(), &text);
            return Err(failure);
        }
        Ok(text)
    }
}

/// Each Ctrl-C, also those that come while something else is waited for.
fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt()).map_err(|error| Failure {
        error: ApiError::new("broken", format!("listening for Ctrl-C: {error}"), ""),
        code: EXIT_FAILED,
    })
}

/// Asks for a flip of the routes alone. Nothing could be undone: Ctrl-C only ends the waiting for its answer.
async fn move_routes(
    socket: &Path,
    flip: &FlipRequest,
    interrupts: &mut Signal,
) -> Result<FlipDone, Failure> {
    let asked = request(socket, Method::POST, "/v1/flip", Some(flip));
    tokio::select! {
        biased;
        answer = asked => answer.map_err(after_silence),
        _ = interrupts.recv() => Err(Failure {
            error: ApiError::new(
                "interrupted",
                "Ctrl-C: the daemon was asked to move the routes, and did not answer yet",
                "look at `pairflip status`",
            ),
            code: EXIT_UNFINISHED,
        }),
    }
}

async fn plan(socket: &Path, json: bool, flip: &FlipRequest) -> Result<String, Failure> {
    let plan: FlipPlan = request(socket, Method::POST, "/v1/flip/plan", Some(flip)).await?;
    let text = show(&plan, json, |plan| render::plan(plan, style_of(&io::stdout())))?;
    if plan.possible {
        return Ok(text);
    }
    super::write(io::stdout(), &text);
    let failing: Vec<&str> = plan
        .preconditions
        .iter()
        .filter(|it| matches!(it.result.as_str(), "fails" | "unknown"))
        .map(|it| it.name.as_str())
        .collect();
    let error = ApiError::new(
        "precondition_unmet",
        format!("this flip would be refused: {}", failing.join(", ")),
        "repair what the lines above name, or waive it with --force where they say so",
    );
    Err(Failure { error, code: EXIT_FAILED })
}

/// Asks for the flip, shows how far it is until the answer comes, and calls it off on each Ctrl-C.
async fn follow(
    socket: &Path,
    json: bool,
    flip: &FlipRequest,
    interrupts: &mut Signal,
) -> Result<FlipDone, Failure> {
    let asked = request_within(FLIP_TIMEOUT, socket, Method::POST, "/v1/flip", Some(flip));
    let mut asked = std::pin::pin!(asked);
    let mut shown = Shown::new(json);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => {
                if let Some(flip) = &shown.last {
                    let flip = flip.clone();
                    shown.show(&flip, true);
                }
                return answer.map_err(after_silence);
            }
            _ = interrupts.recv() => call_off(socket, flip).await,
            _ = ticks.tick() => {
                // Progress is for looking at: the answer says what became of it.
                if let Ok(running) = get::<FlipsRunning>(socket, "/v1/flip").await
                    && let Some(running) = running.flips.into_iter().find(|it| is_same(it, flip))
                {
                    shown.show(&running, false);
                }
            }
        }
    }
}

fn is_same(running: &FlipStatus, flip: &FlipRequest) -> bool {
    flip.cluster.as_ref().is_none_or(|cluster| *cluster == running.cluster)
}

/// A daemon that went away may have begun. It goes on, or undoes it, when it is started again.
fn after_silence(error: ClientError) -> Failure {
    let is_silent = matches!(error, ClientError::Broken { .. } | ClientError::TimedOut { .. });
    let mut failure = Failure::from(error);
    if is_silent {
        failure.code = EXIT_UNFINISHED;
        failure.error.remedy =
            "start pairflipd again if it ended: it finishes what was begun, or undoes it; then look at `pairflip status`"
                .into();
    }
    failure
}

async fn call_off(socket: &Path, flip: &FlipRequest) {
    let call_off = CallOffRequest { cluster: flip.cluster.clone() };
    let answer: Result<CalledOff, ClientError> =
        request(socket, Method::POST, "/v1/flip/call-off", Some(&call_off)).await;
    let text = match answer {
        Ok(_) => "Ctrl-C: the flip is called off".to_owned(),
        Err(error) => format!("Ctrl-C: {}", error.into_api().message),
    };
    _ = writeln!(io::stderr(), "{text}");
}

/// What is on the terminal of a flip under way.
struct Shown {
    /// Standard error is a terminal, and nobody wants JSON.
    terminal: bool,
    json: bool,
    /// Lines that are there, or steps that were told.
    lines: usize,
    last: Option<FlipStatus>,
}

impl Shown {
    fn new(json: bool) -> Self {
        Self { terminal: !json && io::stderr().is_terminal(), json, lines: 0, last: None }
    }

    /// On a terminal at the same place; elsewhere a line for each step that is done.
    fn show(&mut self, flip: &FlipStatus, is_last: bool) {
        if self.json {
            return;
        }
        let mut stderr = io::stderr();
        let text = if self.terminal {
            let page = render::progress(flip, style_of(&stderr));
            let up = if self.lines == 0 { String::new() } else { format!("\x1b[{}A", self.lines) };
            let text = over(&up, &page);
            self.lines = page.lines().count();
            text
        } else {
            let done = flip.steps.iter().filter(|step| step.done || is_last).skip(self.lines);
            let lines: Vec<String> =
                done.map(|step| format!("{:>7} ms  {}\n", step.ms, step.text)).collect();
            self.lines += lines.len();
            lines.concat()
        };
        _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        self.last = Some(flip.clone());
    }
}

/// Until no flow is left on the old pair, or Ctrl-C.
async fn wait_for_flows(
    socket: &Path,
    done: &FlipDone,
    interrupts: &mut Signal,
) -> Result<(), Failure> {
    if done.from == done.to {
        return Ok(());
    }
    let error = tokio::select! {
        biased;
        left = no_flow_is_left(socket, done) => match left {
            Ok(()) => return Ok(()),
            Err(error) => error.into_api(),
        },
        _ = interrupts.recv() => ApiError::new(
            "interrupted",
            format!("Ctrl-C: the flip is done; connections may be left on {}", done.from),
            "`pairflip flows` lists them",
        ),
    };
    Err(Failure { error, code: EXIT_WAIT_ENDED })
}

async fn no_flow_is_left(socket: &Path, done: &FlipDone) -> Result<(), ClientError> {
    loop {
        let status: Status = get(socket, "/v1/status").await?;
        let cluster = status.clusters.iter().find(|cluster| cluster.name == done.cluster);
        let old = cluster.and_then(|it| it.pairs.iter().find(|pair| pair.name == done.from));
        let flows: u64 = old.iter().flat_map(|pair| &pair.backends).map(|it| it.flows).sum();
        if flows == 0 {
            return Ok(());
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}
