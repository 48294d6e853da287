//! `[cluster.check]`.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "no check",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, "")],
        errors: "bad.toml:4:1: cluster[main].check: is missing
    add a [cluster.check] section with user and password_file",
    },
    Case {
        name: "a check without user and password",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, "[cluster.check]
")],
        errors: r#"bad.toml:7:1: cluster[main].check.user: is missing
    name the account that checks log in with, as in user = "pairflip"
bad.toml:7:1: cluster[main].check.password_file: is missing
    add password_file = "/etc/pairflip/password", or password_env with the name of an environment variable
2 errors"#,
    },
    Case {
        name: "an empty user",
        changes: &[(r#"user = "pairflip""#, r#"user = """#)],
        errors: r#"bad.toml:8:8: cluster[main].check.user: "" is not an account name
    use 1 to 128 characters, without the host part"#,
    },
    Case {
        name: "a password file that is not there",
        changes: &[(r#"password_file = "password""#, r#"password_file = "missing""#)],
        errors: "bad.toml:9:17: cluster[main].check.password_file: cannot read missing: No such file or directory (os error 2)
    create it with the check user's password in it: (umask 077; cat > missing)",
    },
    Case {
        name: "an empty password file",
        changes: &[(r#"password_file = "password""#, r#"password_file = "empty""#)],
        errors: "bad.toml:9:17: cluster[main].check.password_file: empty is empty
    write the check user's password into it; an account without one is not supported",
    },
    Case {
        name: "a password file of two lines",
        changes: &[(r#"password_file = "password""#, r#"password_file = "lines""#)],
        errors: "bad.toml:9:17: cluster[main].check.password_file: lines has more than one line
    leave nothing but the check user's password in it",
    },
    Case {
        name: "a password variable that is not set",
        changes: &[(r#"password_file = "password""#, r#"password_env = "MISSING""#)],
        errors: "bad.toml:9:16: cluster[main].check.password_env: the environment variable MISSING is not set
    set it for the daemon (systemd: EnvironmentFile=), or use password_file",
    },
    Case {
        name: "a password variable with a dollar sign",
        changes: &[(r#"password_file = "password""#, r#"password_env = "$PASSWORD""#)],
        errors: r#"bad.toml:9:16: cluster[main].check.password_env: "$PASSWORD" is not the name of an environment variable
    write the bare name, as in "PAIRFLIP_PASSWORD""#,
    },
    Case {
        name: "two passwords",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
password_env = "PASSWORD""#)],
        errors: "bad.toml:10:16: cluster[main].check.password_env: password_file is there as well
    remove one of the two",
    },
    Case {
        name: "a duration without a unit",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
timeout = "500""#)],
        errors: r#"bad.toml:10:11: cluster[main].check.timeout: "500" has no unit
    add one of ms, s, m, h, d, as in "500ms""#,
    },
    Case {
        name: "a duration that is a number",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
timeout = 500"#)],
        errors: r#"bad.toml:10:11: cluster[main].check.timeout: expected a string, found the number 500
    write timeout = "500ms""#,
    },
    Case {
        name: "a duration of zero",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
timeout = "0s""#)],
        errors: r#"bad.toml:10:11: cluster[main].check.timeout: "0s" is too short
    write a duration from 10ms to 1h"#,
    },
    Case {
        name: "a negative duration",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
timeout = "-1s""#)],
        errors: r#"bad.toml:10:11: cluster[main].check.timeout: "-1s" is not a duration
    write a whole number and a unit, as in "500ms""#,
    },
    Case {
        name: "a duration with a fraction",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "1.5s""#)],
        errors: r#"bad.toml:10:12: cluster[main].check.interval: "1.5s" is not a duration: ".5s" is not a unit
    write a whole number and one of ms, s, m, h, d, as in "1500ms""#,
    },
    Case {
        name: "a duration in a strange unit",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "2 fortnights""#)],
        errors: r#"bad.toml:10:12: cluster[main].check.interval: "2 fortnights" is not a duration: "fortnights" is not a unit
    write a whole number and one of ms, s, m, h, d, as in "1500ms""#,
    },
    Case {
        name: "a duration that is too long",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "61m""#)],
        errors: r#"bad.toml:10:12: cluster[main].check.interval: "61m" is too long
    write a duration from 10ms to 1h"#,
    },
    Case {
        name: "a duration beyond all numbers",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "99999999999999999999d""#)],
        errors: r#"bad.toml:10:12: cluster[main].check.interval: "99999999999999999999d" is too long
    write a duration from 10ms to 1h"#,
    },
    Case {
        name: "a lag below what servers report",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
max_lag = "500ms""#)],
        errors: r#"bad.toml:10:11: cluster[main].check.max_lag: "500ms" is too short
    write a duration from 1s to 7d"#,
    },
    Case {
        name: "a timeout longer than the interval",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
timeout = "2s""#)],
        errors: "bad.toml:10:11: cluster[main].check.timeout: timeout (2s) is longer than interval (1s by default)
    keep timeout <= fast_interval <= interval, so that probes never overlap",
    },
    Case {
        name: "an interval shorter than the timeout by default",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "200ms""#)],
        errors: "bad.toml:10:12: cluster[main].check.interval: timeout (500ms by default) is longer than interval (200ms)
    keep timeout <= fast_interval <= interval, so that probes never overlap",
    },
    Case {
        name: "a timeout longer than the fast interval",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
timeout = "400ms"
fast_interval = "300ms""#)],
        errors: "bad.toml:11:17: cluster[main].check.fast_interval: timeout (400ms) is longer than fast_interval (300ms)
    keep timeout <= fast_interval <= interval, so that probes never overlap",
    },
    Case {
        name: "a fast interval longer than the interval",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "1s"
fast_interval = "2s""#)],
        errors: "bad.toml:10:12: cluster[main].check.interval: fast_interval (2s) is longer than interval (1s)
    keep timeout <= fast_interval <= interval, so that probes never overlap",
    },
    Case {
        name: "all three times the wrong way round",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
interval = "100ms"
fast_interval = "200ms"
timeout = "300ms""#)],
        errors: "bad.toml:10:12: cluster[main].check.interval: fast_interval (200ms) is longer than interval (100ms)
    keep timeout <= fast_interval <= interval, so that probes never overlap
bad.toml:11:17: cluster[main].check.fast_interval: timeout (300ms) is longer than fast_interval (200ms)
    keep timeout <= fast_interval <= interval, so that probes never overlap
2 errors",
    },
    Case {
        name: "no rise",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
rise = 0"#)],
        errors: "bad.toml:10:8: cluster[main].check.rise: 0 is out of range
    write a number from 1 to 100",
    },
    Case {
        name: "too high a fall",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
fall = 101"#)],
        errors: "bad.toml:10:8: cluster[main].check.fall: 101 is out of range
    write a number from 1 to 100",
    },
    Case {
        name: "a fall that is a string",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
fall = "3""#)],
        errors: r#"bad.toml:10:8: cluster[main].check.fall: expected a whole number, found "3"
    write fall = 3"#,
    },
];
