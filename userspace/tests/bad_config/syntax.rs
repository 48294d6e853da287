//! What is not TOML.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "nothing at all",
        changes: &[("*", "")],
        errors: r#"bad.toml:1:1: daemon: is missing
    add a [daemon] section with interfaces = ["eth0"]
bad.toml:1:1: cluster: is missing
    add a [[cluster]] section with its routes and pairs
2 errors"#,
    },
    Case {
        name: "a value without quotes",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
http = 127.0.0.1:8404"#,
        )],
        errors: r#"bad.toml:3:13: syntax error: 127.0.0.1:8404 is neither a number nor in quotes
    write strings, addresses and durations in double quotes, as in "1s""#,
    },
    Case {
        name: "a duration without quotes",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
interval = 1s"#,
        )],
        errors: r#"bad.toml:10:12: syntax error: 1s is neither a number nor in quotes
    write strings, addresses and durations in double quotes, as in "1s""#,
    },
    Case {
        name: "a name without quotes",
        changes: &[(r#"name = "main""#, "name = main # one")],
        errors: r#"bad.toml:5:8: syntax error: main is neither a number nor in quotes
    write strings, addresses and durations in double quotes, as in "1s""#,
    },
    Case {
        name: "a password without quotes",
        changes: &[(r#"password_file = "password""#, "password = hunter2")],
        errors: r#"bad.toml:9:12: syntax error: the value is neither a number nor in quotes
    write strings, addresses and durations in double quotes, as in "1s""#,
    },
    Case {
        name: "a string that does not end",
        changes: &[(r#"name = "main""#, r#"name = "main"#)],
        errors: r#"bad.toml:5:13: syntax error: invalid basic string, expected `"`
    correct the line; configs/pairflip.toml is a commented example"#,
    },
    Case {
        name: "a section header that does not end",
        changes: &[("[daemon]", "[daemon")],
        errors: "bad.toml:1:8: syntax error: unclosed table, expected `]`
    correct the line; configs/pairflip.toml is a commented example",
    },
    Case {
        name: "two assignments on one line",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["eth0"] attach = "auto""#)],
        errors: "bad.toml:2:23: syntax error: unexpected key or value, expected newline, `#`
    correct the line; configs/pairflip.toml is a commented example",
    },
    Case {
        name: "a key twice",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
interfaces = ["eth1"]"#,
        )],
        errors: r#"bad.toml:3:1: syntax error: "interfaces" is there twice
    remove one of the two"#,
    },
    Case {
        name: "a section twice",
        changes: &[(
            r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#,
            r#"[cluster.check]
user = "pairflip"
password_file = "password"

[cluster.check]
user = "pairflip"
password_file = "password"
"#,
        )],
        errors: r#"bad.toml:11:10: syntax error: "check" is there twice
    remove one of the two
bad.toml:12:1: syntax error: "user" is there twice
    remove one of the two
bad.toml:13:1: syntax error: "password_file" is there twice
    remove one of the two
3 errors"#,
    },
    Case {
        name: "a control character",
        changes: &[(r#"interfaces = ["eth0"]"#, "interfaces = [\"eth0\"]\nhttp = \"\u{1}\"")],
        errors: r"bad.toml:3:9: syntax error: invalid basic string, expected non-double-quote visible characters, `\`
    correct the line; configs/pairflip.toml is a commented example",
    },
    Case {
        name: "several syntax errors, one per line",
        changes: &[(r#"name = "main""#, "name = main"), (r#"access = "read""#, "access = read")],
        errors: r#"bad.toml:5:8: syntax error: main is neither a number nor in quotes
    write strings, addresses and durations in double quotes, as in "1s"
bad.toml:19:10: syntax error: read is neither a number nor in quotes
    write strings, addresses and durations in double quotes, as in "1s"
2 errors"#,
    },
];
