//! `cargo xtask lab`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use pairflip_vm_tests::{Flavour, Lab, Options, lab};

use crate::{say, setup};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Brings the lab up and leaves it there.
    Up {
        /// Name of the lab, for several side by side.
        #[arg(long, default_value = "demo")]
        name: String,
        /// Databases behind a second interface of the redirector.
        #[arg(long)]
        two_arm: bool,
        /// The database servers: mariadb-10.11 (the host's own), mariadb-11.8 or mysql-9.7. The latter two are fetched once.
        #[arg(long, default_value = Flavour::default().name(), value_parser = Flavour::from_name)]
        servers: Flavour,
    },
    /// Removes the lab that is named, or else all but those that a running command owns.
    Down {
        #[arg(long)]
        name: Option<String>,
    },
    /// Runs a command on a host of the lab: client1, client2, redirector, db1 to db4.
    Exec {
        /// Name of the lab; not needed while there is one.
        #[arg(long)]
        lab: Option<String>,
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

pub(crate) fn lab(command: Command) -> Result<()> {
    match command {
        Command::Up { name, two_arm, servers } => up(&name, two_arm, servers),
        Command::Down { name } => down(name),
        Command::Exec { lab, host, command } => exec(lab, &host, &command),
    }
}

fn up(name: &str, two_arm: bool, servers: Flavour) -> Result<()> {
    setup::setup(setup::For::Lab)?;
    let mut options = Options { servers, ..Options::new(name) };
    if two_arm {
        options.topology = pairflip_vm_tests::Topology::TwoArm;
    }
    let lab = Lab::up(&options, say)?;
    lab.grant_flips()?;
    let config = lab.write_config(|text| text)?;
    say(&format!("the lab {name:?} is up; a configuration for it is in {}", config.display()));
    say(
        "  cargo xtask lab exec redirector -- bash     # a shell on a host: client1, client2, redirector, db1 to db4",
    );
    say(&format!("  cargo xtask lab down --name {name}"));
    lab::keep(lab)
}

fn down(name: Option<String>) -> Result<()> {
    let names = match name {
        Some(name) => vec![name],
        None => lab::labs().into_iter().filter(|name| !lab::is_owned(name)).collect(),
    };
    if names.is_empty() {
        say("nothing to remove");
    }
    for name in names {
        lab::remove(&name)?;
        say(&format!("removed the lab {name:?}"));
    }
    for name in lab::labs() {
        say(&format!(
            "the lab {name:?} is left to the command that runs it; end that, or use --name {name}"
        ));
    }
    Ok(())
}

fn exec(name: Option<String>, host: &str, command: &[String]) -> Result<()> {
    let name = match (name, lab::labs().as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only.clone(),
        (None, []) => {
            bail!("no lab is up; `cargo xtask lab up` or `cargo xtask run` brings one up")
        }
        (None, several) => {
            bail!("several labs are up: name one with --lab: {}", several.join(", "))
        }
    };
    let mut inside = lab::exec(&name, host, &command[0])?;
    // In place of this process, so that exit code and Ctrl-C are the command's.
    let error = inside.args(&command[1..]).exec();
    Err(error).with_context(|| format!("starting {:?} on {host}", command[0]))
}
