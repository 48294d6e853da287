//! Commands: a program on this host whose exit code tells how a server is.
//!
//! What keeps a command from telling (it cannot be started, or was killed by somebody else) is trouble of this host and says
//! nothing about the server.

use std::{net::SocketAddr, os::unix::process::ExitStatusExt as _};

use pairflip_policy::{Cause, CheckFailure, Outcome};

use super::cause::timed_out;
use crate::{
    config::{Applies, ExecCheck},
    exec::{ExecError, Finished, Runner},
};

/// Which server a command is asked about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub cluster: String,
    pub pair: String,
    pub address: SocketAddr,
    pub role: Applies,
}

/// One command for one server.
pub(super) struct Exec {
    name: String,
    program: String,
    runner: Runner,
}

impl Exec {
    pub(super) fn new(check: &ExecCheck) -> Self {
        Self {
            name: check.name.clone(),
            program: check.command[0].clone(),
            runner: Runner::new(check.command.clone(), check.timeout),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn check(&mut self, subject: &Subject) -> Outcome {
        let Subject { cluster, pair, address, role } = subject;
        let environment = [
            ("PAIRFLIP_CHECK", self.name.clone()),
            ("PAIRFLIP_CLUSTER", cluster.clone()),
            ("PAIRFLIP_PAIR", pair.clone()),
            ("PAIRFLIP_BACKEND", address.to_string()),
            ("PAIRFLIP_HOST", address.ip().to_string()),
            ("PAIRFLIP_PORT", address.port().to_string()),
            ("PAIRFLIP_ROLE", role.name().to_owned()),
        ];
        match self.runner.run(&environment, b"").await {
            Ok(finished) => outcome(&finished),
            Err(ExecError::TimedOut(timeout)) => {
                Outcome::Unanswered(timed_out("running the command", timeout))
            }
            Err(error @ (ExecError::Start(_) | ExecError::Stuck)) => {
                local(format!("{} {error}", self.program))
            }
        }
    }
}

fn outcome(Finished { status, words }: &Finished) -> Outcome {
    let text = |what: String| if words.is_empty() { what } else { format!("{what}: {words}") };
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Passed,
        (Some(code), _) => Outcome::Failed { text: text(format!("exit code {code}")) },
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            local(text(format!("the command was killed by signal {signal}")))
        }
    }
}

fn local(text: String) -> Outcome {
    Outcome::Unanswered(CheckFailure { cause: Cause::Local, text })
}
