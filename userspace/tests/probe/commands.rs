//! Checks by commands, with real processes.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use pairflip::config::{Check, ExecCheck};
use pairflip_policy::Outcome;

use super::*;
use additional::{nothing, subject};

#[tokio::test]
async fn the_exit_code_of_a_command_decides() {
    check("exit 0", "passed", "").await;
    check("echo fine; exit 0", "passed", "").await;
    check("exit 3", "failed", "exit code 3").await;
    check("echo; echo 'disk full'; echo more; exit 1", "failed", "exit code 1: disk full").await;
    check("echo out; echo 'error  ' >&2; exit 1", "failed", "exit code 1: error").await;
    check("printf 'a\\033[31mb\\0c\\n'; exit 1", "failed", "exit code 1: a[31mbc").await;
}

#[tokio::test]
async fn trouble_of_this_host_says_nothing_about_the_server() {
    let text = "trouble of this host (/no/such/check cannot be started: No such file or directory (os error 2))";
    check_command(&["/no/such/check"], "local", text).await;
    let text = "trouble of this host (/ cannot be started: Permission denied (os error 13))";
    check_command(&["/"], "local", text).await;
    let text = "trouble of this host (the command was killed by signal 9: last words)";
    check("echo last words; kill -9 $$", "local", text).await;
}

#[tokio::test]
async fn a_command_is_told_about_its_server_and_not_the_daemons_secrets() {
    // SAFETY: the tests of this binary read no variable of this name.
    unsafe { std::env::set_var("PAIRFLIP_TEST_SECRET", "hidden") };
    let script = "test \"$PAIRFLIP_CLUSTER $PAIRFLIP_PAIR $PAIRFLIP_ROLE $PAIRFLIP_CHECK\" = \
                  'main pair1 replica disk' || exit 1
                  test \"$PAIRFLIP_BACKEND $PAIRFLIP_HOST $PAIRFLIP_PORT\" = \
                  '127.0.0.1:3306 127.0.0.1 3306' || exit 2
                  test -z \"$PAIRFLIP_TEST_SECRET\" || exit 3
                  test \"$PWD\" = / || exit 4";
    check(script, "passed", "").await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let dir = tempfile::tempdir().expect("dir");
    let pids = dir.path().join("pids");
    let script = format!(
        "sleep 60 & echo $! >> {0}; (sleep 61; true) & echo $! >> {0}; echo $$ >> {0}; wait",
        pids.display()
    );
    let started = Instant::now();
    check(&script, "timed_out", "timed out (running the command: no answer within 500ms)").await;
    let took = started.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
    let pids = fs::read_to_string(pids).expect("pids");
    assert_eq!(pids.lines().count(), 3, "{pids}");
    for pid in pids.lines() {
        gone(pid).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed_and_does_not_delay_its_answer() {
    let dir = tempfile::tempdir().expect("dir");
    let pid = dir.path().join("pid");
    // It holds the pipes open.
    let script = format!("sleep 60 & echo $! > {}; exit 0", pid.display());
    let started = Instant::now();
    check(&script, "passed", "").await;
    assert!(started.elapsed() < TIMEOUT, "{:?}", started.elapsed());
    gone(fs::read_to_string(pid).expect("pid").trim()).await;
}

#[tokio::test]
async fn a_command_that_writes_without_end_is_bounded() {
    check("yes | head -c 50000000; echo >&2; exit 1", "failed", "exit code 1: y").await;
    let line = "exit code 1: ".to_owned() + &"x".repeat(200);
    check("head -c 100000 /dev/zero | tr '\\0' x; exit 1", "failed", &line).await;
}

#[tokio::test]
async fn a_probe_that_is_given_up_leaves_no_command() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("pid");
    let script = format!("sleep 60 & echo $! > {}; wait", file.display());
    let check = command(&["/bin/sh", "-c", &script]);
    let mut checker = Checker::new(&check, subject(server()), None);
    let given_up = tokio::time::timeout(Duration::from_millis(200), checker.probe()).await;
    assert!(given_up.is_err());
    gone(fs::read_to_string(file).expect("pid").trim()).await;
}

#[tokio::test]
async fn a_script_that_is_being_written_is_trouble_of_this_host() {
    let dir = tempfile::tempdir().expect("dir");
    let script = dir.path().join("check");
    let file = File::create(&script).expect("create");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    fs::write(&script, "#!/bin/sh\nexit 0\n").expect("write");
    let path = script.display().to_string();
    let outcome = run(&command(&[&path])).await;
    drop(file);
    assert_eq!(outcome.name(), "local", "{outcome:?}");
}

async fn check(script: &str, name: &str, text: &str) {
    check_command(&["/bin/sh", "-c", script], name, text).await;
}

async fn check_command(words: &[&str], name: &str, text: &str) {
    let outcome = run(&command(words)).await;
    assert_eq!((outcome.name(), outcome.text().as_str()), (name, text), "{words:?}");
}

async fn run(check: &Check) -> Outcome {
    Checker::new(check, subject(server()), None).probe().await.conditions.remove(0).outcome
}

fn command(words: &[&str]) -> Check {
    let command = words.iter().map(ToString::to_string).collect();
    let exec = ExecCheck { name: "disk".into(), role: Applies::Any, command, timeout: TIMEOUT };
    Check { exec: vec![exec], ..nothing() }
}

fn server() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 3306))
}

/// Waits until there is no such process, not even as a zombie.
async fn gone(pid: &str) {
    let started = Instant::now();
    while Path::new("/proc").join(pid).exists() {
        let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
        // Who is no child of ours is the first process's to wait for.
        if status.is_ok_and(|status| {
            let is_zombie = status.contains("State:\tZ");
            let parent = format!("PPid:\t{}\n", std::process::id());
            is_zombie && !status.contains(&parent)
        }) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
