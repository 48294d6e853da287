//! `[[hook]]`.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a hook without anything",
        changes: &[("[daemon]", "[[hook]]\n[daemon]")],
        errors: r#"bad.toml:1:1: hook[#1].name: is missing
    add name = "pager"
bad.toml:1:1: hook[#1].command: is missing
    add command = ["/etc/pairflip/notify", "--team", "dba"]
2 errors"#,
    },
    Case {
        name: "a hook whose words are all wrong",
        changes: &[(
            "[daemon]",
            r#"[[hook]]
name = "pager"
command = ["notify"]
events = ["flipdone"]
severity = "debug"
clusters = ["other"]
timeout = "1h"
[daemon]"#,
        )],
        errors: r#"bad.toml:3:12: hook[pager].command[1]: "notify" is a relative path
    write an absolute path, as in "/etc/pairflip/notify"
bad.toml:4:11: hook[pager].events[1]: "flipdone" is no kind of event
    do you mean "flip_done"?
bad.toml:5:12: hook[pager].severity: "debug" is not a known value
    write one of "info", "warning", "error"
bad.toml:7:11: hook[pager].timeout: "1h" is too long
    write a duration from 100ms to 10m
4 errors"#,
    },
    Case {
        name: "a hook for a cluster that there is not",
        changes: &[(
            "[daemon]",
            r#"[[hook]]
name = "pager"
command = ["/bin/true"]
clusters = ["main", "other"]
[daemon]"#,
        )],
        errors: r#"bad.toml:4:21: hook[pager].clusters[2]: there is no cluster "other"
    the clusters are: main"#,
    },
    Case {
        name: "commands that are none",
        changes: &[(
            "[daemon]",
            r#"[[hook]]
name = "a"
command = "/bin/true"
[[hook]]
name = "b"
command = []
[[hook]]
name = "c"
command = ["/bin/true", "\u0000"]
[daemon]"#,
        )],
        errors: r#"bad.toml:3:11: hook[a].command: expected a list, found "/bin/true"
    write command = ["/etc/pairflip/notify", "--team", "dba"]
bad.toml:6:11: hook[b].command: a command of 0 words
    write a path and its arguments, 64 words at most, as in ["/etc/pairflip/notify", "--team", "dba"]
bad.toml:9:25: hook[c].command[2]: "\0" is no argument of a command
    write 4096 bytes at most, none of them NUL
3 errors"#,
    },
    Case {
        name: "hooks of a cluster",
        changes: &[("name = \"main\"", "name = \"main\"\nhooks = []")],
        errors: r#"bad.toml:6:1: cluster[main].hooks: not supported by this version
    write [[hook]] sections at the top level, with clusters = ["NAME"]"#,
    },
];
