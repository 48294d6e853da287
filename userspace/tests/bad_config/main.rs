//! Bad configurations: each with the exact text that an operator reads.
//!
//! A case is a change of one good configuration, [`BASE`], so its line numbers can be counted
//! there. The tables are by subject; what takes files or long lists is below.

mod check;
mod check_kinds;
mod cluster;
mod daemon;
mod hooks;
mod pairs;
mod routes;
mod sections;
mod syntax;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pairflip::config::{self, INTERFACES_MAX, REPLICAS_MAX};
use pairflip_common::route::{BACKENDS_MAX, CLUSTERS_MAX};

/// A good configuration, which the cases make bad.
const BASE: &str = r#"[daemon]
interfaces = ["eth0"]

[[cluster]]
name = "main"

[cluster.check]
user = "pairflip"
password_file = "password"

[[cluster.route]]
name = "writes"
vip = "10.0.0.100:3306"
access = "write"

[[cluster.route]]
name = "reads"
vip = "10.0.0.101:3306"
access = "read"

[[cluster.pair]]
name = "pair1"
primary = "10.0.1.11:3306"
replicas = ["10.0.1.12:3306"]

[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]
"#;

/// One bad configuration.
struct Case {
    name: &'static str,
    /// What is replaced in [`BASE`] by what. `*` stands for all of it.
    changes: &'static [(&'static str, &'static str)],
    errors: &'static str,
}

#[test]
fn the_base_is_good() {
    assert_eq!(errors_of(BASE), "");
}

#[test]
fn every_case_is_refused_with_its_text() {
    let tables = [
        syntax::CASES,
        sections::CASES,
        daemon::CASES,
        hooks::CASES,
        cluster::CASES,
        check::CASES,
        check_kinds::CASES,
        routes::CASES,
        pairs::CASES,
    ];
    let mut report = String::new();
    for case in tables.into_iter().flatten() {
        let found = errors_of(&changed(case));
        if found != case.errors {
            writeln!(report, "{}:\n{found}\nexpected:\n{}\n", case.name, case.errors).unwrap();
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn cutting_the_file_anywhere_gives_errors_and_no_panic() {
    for length in 1..BASE.len() {
        let errors = errors_of(&BASE[..length]);
        // The last bytes are a line end, whose absence does not matter.
        assert!(length + 1 >= BASE.len() || errors.starts_with("bad.toml:"), "{length}: {errors}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!("a = {}", "[".repeat(100_000));
    assert!(errors_of(&text).starts_with("bad.toml:1:"), "{}", errors_of(&text));
}

#[test]
fn long_lists_of_errors_are_cut() {
    let mut text = BASE.to_owned();
    for index in 0..100 {
        write!(text, "\n[unknown{index}]\n").unwrap();
    }
    let errors = errors_of(&text);
    assert_eq!(errors.matches("unknown key").count(), 40);
    assert!(errors.ends_with("\n100 errors, the first 40 are shown"), "{errors}");
}

#[test]
fn more_than_the_kernel_tables_hold_is_refused() {
    let names: Vec<String> = (0..=INTERFACES_MAX).map(|index| format!("\"eth{index}\"")).collect();
    let interfaces = BASE.replace("\"eth0\"", &names.join(", "));
    assert_eq!(
        errors_of(&interfaces),
        format!(
            "bad.toml:2:14: daemon.interfaces: there are {}, and {INTERFACES_MAX} is the most\n    \
             remove some, or divide them among several clusters or daemons",
            INTERFACES_MAX + 1
        )
    );

    let clusters = format!("{BASE}{}", "[[cluster]]\n".repeat(CLUSTERS_MAX as usize));
    assert_eq!(
        errors_of(&clusters),
        format!(
            "bad.toml:4:1: cluster: there are {}, and {CLUSTERS_MAX} is the most\n    \
             remove some, or divide them among several clusters or daemons",
            CLUSTERS_MAX + 1
        )
    );

    let networks: Vec<String> =
        (0..257).map(|n| format!("\"10.{}.{}.0/24\"", n / 256, n % 256)).collect();
    let allow = format!("access = \"read\"\nallow = [{}]", networks.join(", "));
    assert_eq!(
        errors_of(&BASE.replace("access = \"read\"", &allow)),
        "bad.toml:20:9: cluster[main].route[reads].allow: there are 257, and 256 is the most\n    \
         remove some, or divide them among several clusters or daemons"
    );

    let replicas = BASE.replace("\"10.0.1.22:3306\"", &backends(0, REPLICAS_MAX + 1).join(", "));
    assert_eq!(
        errors_of(&replicas),
        format!(
            "bad.toml:29:12: cluster[main].pair[pair2].replicas: there are {}, and {REPLICAS_MAX} \
             is the most\n    remove some, or divide them among several clusters or daemons",
            REPLICAS_MAX + 1
        )
    );
}

#[test]
fn more_backends_than_the_kernel_table_holds_are_refused() {
    let pair = |index: usize| {
        let addresses = backends(index * 64, 64);
        format!(
            "[[cluster.pair]]\nname = \"more{index}\"\nprimary = {}\nreplicas = [{}]\n",
            addresses[0],
            addresses[1..].join(", ")
        )
    };
    let pairs: String = (0..BACKENDS_MAX as usize / 64).map(pair).collect();
    // The four of the base come first, so the fourth from the end is the first too many.
    assert_eq!(
        errors_of(&format!("{BASE}{pairs}")),
        "bad.toml:93:1105: cluster[main].pair[more15].replicas[60]: there are 1028 backends, and \
         1024 is the most\n    divide the clusters among several daemons"
    );
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    check_file(
        directory.path(),
        None,
        "pairflip.toml: cannot read the configuration: No such file or directory (os error 2)\n    \
         create it (configs/pairflip.toml is a commented example), or name another file with \
         --config",
    );
    check_file(
        directory.path(),
        Some(b"[daemon]\n# caf\xe9\n"),
        "pairflip.toml:2:6: the file is not UTF-8 text\n    \
         write the character at this place in UTF-8, or remove it",
    );
    check_file(
        directory.path(),
        Some(&vec![b'#'; (1 << 20) + 1]),
        "pairflip.toml: the file is larger than 1024 KiB\n    \
         check that this is the configuration and not another file",
    );
    fs::remove_file(directory.path().join("pairflip.toml")).unwrap();
    fs::create_dir(directory.path().join("pairflip.toml")).unwrap();
    check_file(
        directory.path(),
        None,
        "pairflip.toml: cannot read the configuration: Is a directory (os error 21)\n    \
         name the configuration file with --config",
    );
}

#[test]
fn password_files_that_are_none_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    let place = "pairflip.toml:9:17: cluster[main].check.password_file:";
    let check_password = |content: &[u8], mode: u32, problem: &str| {
        fs::write(&password, content).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(mode)).unwrap();
        check_file(directory.path(), Some(BASE.as_bytes()), &format!("{place} {problem}"));
    };
    check_password(
        b"secret\n",
        0o602,
        "every user of this machine can change DIR/password (mode 0602)\n    \
         run: chmod o= DIR/password",
    );
    check_password(
        b"\xff\xfe\n",
        0o600,
        "DIR/password is not UTF-8 text\n    \
         name a file that holds nothing but the check user's password",
    );
    check_password(
        &[b'x'; 4097],
        0o600,
        "DIR/password is larger than 4 KiB\n    \
         name a file that holds nothing but the check user's password",
    );
    check_password(
        b"",
        0o600,
        "DIR/password is empty\n    write the check user's password into it; an account without \
         one is not supported",
    );
    fs::remove_file(&password).unwrap();
    fs::create_dir(&password).unwrap();
    check_file(
        directory.path(),
        Some(BASE.as_bytes()),
        &format!(
            "{place} DIR/password is not a regular file\n    \
             name a file that holds the check user's password"
        ),
    );
}

/// Checks the errors of `pairflip.toml` in `directory`, written with `content` if there is any;
/// `DIR` stands for the directory.
fn check_file(directory: &Path, content: Option<&[u8]>, expected: &str) {
    let path = directory.join("pairflip.toml");
    if let Some(content) = content {
        fs::write(&path, content).expect("a writable directory");
    }
    let expected = format!("DIR/{expected}").replace("DIR", &directory.to_string_lossy());
    assert_eq!(config::load(&path).expect_err("a bad configuration").to_string(), expected);
}

fn changed(case: &Case) -> String {
    let mut text = BASE.to_owned();
    for (from, to) in case.changes {
        if *from == "*" {
            text = (*to).to_owned();
            continue;
        }
        assert_eq!(text.matches(from).count(), 1, "{}: {from} is not there once", case.name);
        text = text.replace(from, to);
    }
    text
}

/// Returns what is wrong with `text`, or nothing.
fn errors_of(text: &str) -> String {
    match config::parse(text, Path::new("bad.toml"), &secret) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

/// The password files and variables of the cases, by name.
fn secret(name: &Path) -> io::Result<String> {
    match name.to_str() {
        Some("password" | "PASSWORD") => Ok("secret\n".to_owned()),
        Some("empty") => Ok("\n".to_owned()),
        Some("lines") => Ok("one\ntwo\n".to_owned()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

/// Returns `count` addresses in quotes, distinct for distinct positions from `first` on.
fn backends(first: usize, count: usize) -> Vec<String> {
    let address = |index: usize| format!("\"10.1.{}.{}:3306\"", index / 200, index % 200 + 1);
    (first..first + count).map(address).collect()
}
