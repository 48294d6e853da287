//! What real servers say, of every flavour: MariaDB 10.11 and 11.8, MySQL 9.7. And what a person sees of it.
//!
//! Each test has a lab of its own.
#![cfg(test)]

mod alive;
mod auth;
mod conditions;
mod detection;
mod replication;
mod stability;
mod swap;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use pairflip::{
    check::{Probe, keys::Keys, mysql::Prober, questions::Questions},
    config::Login,
};
use pairflip_policy::{Cause, CheckResult, Facts, Role};
use pairflip_vm_tests::{
    Client, Daemon, Flavour, Fork, Lab, Options, Topology,
    lab::{
        database::{CHECK_PASSWORD, CHECK_USER},
        topology::{VIP_READ, VIP_WRITE},
    },
    wait_for,
};
use serde_json::Value;

/// What the tests' configuration promises for a dead backend: interval + (fall - 1) * fast_interval + timeout.
const DETECTION: Duration = Duration::from_millis(2000);
/// On a busy machine everything takes longer; a promise that is broken is broken by more than this.
const SLACK: Duration = Duration::from_secs(8);

/// A lab with the daemon running.
struct World {
    lab: Lab,
    daemon: Daemon,
}

fn lab(flavour: Flavour, count: usize) -> Lab {
    lab_with(|options| Options { servers: flavour, servers_count: count, ..options })
}

fn lab_with(change: impl FnOnce(Options) -> Options) -> Lab {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("s{}x{number}", std::process::id());
    let options = change(Options { may_only_check: true, ..Options::new(&name) });
    Lab::up(&options, |_| {}).unwrap()
}

impl World {
    fn start(lab: Lab) -> Self {
        Self::start_with(lab, |config| config)
    }

    fn start_with(lab: Lab, change: impl FnOnce(String) -> String) -> Self {
        let config = lab
            .write_config(|config| {
                change(config)
                    .replace("interval      = \"1s\"", "interval      = \"500ms\"")
                    .replace("max_lag       = \"10s\"", "max_lag       = \"2s\"")
                    .replace("name = \"main\"", "name = \"main\"\nhold_off = \"0s\"")
            })
            .unwrap();
        let mut daemon = lab.daemon(&config);
        daemon.start().unwrap();
        Self { lab, daemon }
    }

    /// What the status says of server 1 to 4.
    fn backend(&self, number: usize) -> Value {
        let status = self.daemon.status().unwrap();
        status["clusters"][0]["pairs"][(number - 1) / 2]["backends"][(number - 1) % 2].clone()
    }

    fn reason(&self, number: usize) -> String {
        self.backend(number)["reason"].as_str().unwrap().to_owned()
    }

    /// Waits until the reason of a server's state has all of these words in it.
    fn wait_reason(&self, number: usize, words: &[&str]) {
        let start = Instant::now();
        loop {
            let reason = self.reason(number);
            if words.iter().all(|word| reason.contains(word)) {
                return;
            }
            assert!(start.elapsed() < DETECTION + SLACK, "{reason:?} does not say {words:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a person sees.
    fn page(&self) -> String {
        self.daemon.ctl(&["status"]).unwrap()
    }

    fn routes(&self) -> Value {
        let mut cluster = self.daemon.status().unwrap()["clusters"][0].take();
        let mut routes = cluster["routes"].take();
        for route in routes.as_array_mut().unwrap() {
            // They count on.
            route["connections"].take();
        }
        serde_json::json!([cluster["active_pair"], cluster["generation"], routes])
    }

    /// Number of the newest event.
    fn last_event(&self) -> u64 {
        self.daemon.events_after(0).unwrap().last().unwrap()["number"].as_u64().unwrap()
    }

    /// Texts of the events of a kind after that number.
    fn told(&self, kind: &str, after: u64) -> Vec<String> {
        let events = self.daemon.events_after(after).unwrap();
        let of_kind = events.iter().filter(|event| event["kind"] == kind);
        of_kind.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }

    fn address(&self, number: usize) -> String {
        format!("{}:3306", self.lab.db(number).address)
    }

    /// One probe of a server from the redirector's host, over a connection of its own.
    fn probe(&self, number: usize) -> CheckResult {
        probe(&self.lab, number)
    }

    fn facts(&self, number: usize) -> Facts {
        match self.probe(number) {
            CheckResult::Answered(facts) => facts,
            result @ (CheckResult::Failed(_) | CheckResult::Reached) => panic!("{result:?}"),
        }
    }
}

/// One probe of a server from the redirector's host, over a connection of its own.
fn probe(lab: &Lab, number: usize) -> CheckResult {
    probe_with(lab, number, Login::plain(CHECK_USER, CHECK_PASSWORD))
}

fn probe_with(lab: &Lab, number: usize, login: Login) -> CheckResult {
    ask(lab, number, login, Questions::none(Role::Replica)).result
}

fn probe_all(lab: &Lab, number: usize, questions: Questions) -> Probe {
    ask(lab, number, Login::plain(CHECK_USER, CHECK_PASSWORD), questions)
}

fn ask(lab: &Lab, number: usize, login: Login, questions: Questions) -> Probe {
    let target = (lab.db(number).address, 3306).into();
    let probing = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let keys = Keys::fixed(login);
            Prober::new(target, keys, questions, Duration::from_secs(5)).probe().await
        })
    };
    lab.ns("redirector").run(probing).unwrap()
}
