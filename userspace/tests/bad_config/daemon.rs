//! `[daemon]`.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "no interfaces",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"attach = "auto""#)],
        errors: r#"bad.toml:1:1: daemon.interfaces: is missing
    name the interfaces where VIP traffic and backend replies arrive, as in interfaces = ["eth0"]"#,
    },
    Case {
        name: "an empty list of interfaces",
        changes: &[(r#"interfaces = ["eth0"]"#, "interfaces = []")],
        errors: r#"bad.toml:2:14: daemon.interfaces: the list is empty
    write at least one, as in ["eth0"]"#,
    },
    Case {
        name: "an interface that is not in a list",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = "eth0""#)],
        errors: r#"bad.toml:2:14: daemon.interfaces: expected a list, found "eth0"
    write interfaces = ["eth0"]"#,
    },
    Case {
        name: "an interface that is a number",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["eth0", 1]"#)],
        errors: r#"bad.toml:2:23: daemon.interfaces[2]: expected a string, found the number 1
    write it as in "eth0""#,
    },
    Case {
        name: "an interface twice",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["eth0", "eth1", "eth0"]"#)],
        errors: r#"bad.toml:2:31: daemon.interfaces[3]: "eth0" is there twice
    remove one of the two"#,
    },
    Case {
        name: "an interface with a long name",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["averyverylongname"]"#)],
        errors: r#"bad.toml:2:15: daemon.interfaces[1]: "averyverylongname" is longer than an interface's name can be (15 bytes)
    list the interfaces with: ip -br link"#,
    },
    Case {
        name: "an interface with an odd name",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["eth0/1"]"#)],
        errors: r#"bad.toml:2:15: daemon.interfaces[1]: "eth0/1" is not the name of an interface
    list the interfaces with: ip -br link"#,
    },
    Case {
        name: "an interface without a name",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = [""]"#)],
        errors: r#"bad.toml:2:15: daemon.interfaces[1]: "" is not the name of an interface
    list the interfaces with: ip -br link"#,
    },
    Case {
        name: "a slip in a word",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
attach = "nativ""#,
        )],
        errors: r#"bad.toml:3:10: daemon.attach: "nativ" is not a known value
    do you mean "native"?"#,
    },
    Case {
        name: "a word that does not exist",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
attach = "xdp""#,
        )],
        errors: r#"bad.toml:3:10: daemon.attach: "xdp" is not a known value
    write one of "auto", "native", "generic""#,
    },
    Case {
        name: "a word that is a boolean",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
attach = true"#,
        )],
        errors: r#"bad.toml:3:10: daemon.attach: expected a string, found true
    write attach = "auto""#,
    },
    Case {
        name: "a relative control path",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
control = "run/control.sock""#,
        )],
        errors: r#"bad.toml:3:11: daemon.control: "run/control.sock" is a relative path
    write an absolute path, as in "/run/pairflip/control.sock""#,
    },
    Case {
        name: "a control path that no socket can have",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
control = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
        )],
        errors: r#"bad.toml:3:11: daemon.control: the path has 108 bytes, and 107 is the most
    write an absolute path, as in "/run/pairflip/control.sock""#,
    },
    Case {
        name: "an empty state_dir",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
state_dir = """#,
        )],
        errors: r#"bad.toml:3:13: daemon.state_dir: the path is empty
    write an absolute path, as in "/var/lib/pairflip""#,
    },
    Case {
        name: "a relative bpffs",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
bpffs = "pairflip""#,
        )],
        errors: r#"bad.toml:3:9: daemon.bpffs: "pairflip" is a relative path
    write an absolute path, as in "/sys/fs/bpf/pairflip""#,
    },
    Case {
        name: "http without a port",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
http = "127.0.0.1""#,
        )],
        errors: r#"bad.toml:3:8: daemon.http: "127.0.0.1" is not an address and port
    write both, as in "127.0.0.1:8404", or "" to turn it off"#,
    },
    Case {
        name: "http with port 0",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
http = "127.0.0.1:0""#,
        )],
        errors: r#"bad.toml:3:8: daemon.http: "127.0.0.1:0" is not an address and port
    write both, as in "127.0.0.1:8404", or "" to turn it off"#,
    },
    Case {
        name: "http turned off with a boolean",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
http = false"#,
        )],
        errors: r#"bad.toml:3:8: daemon.http: expected a string, found false
    write http = "127.0.0.1:8404", or "" to turn it off"#,
    },
    Case {
        name: "no flows",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flows_max = 0"#,
        )],
        errors: "bad.toml:3:13: daemon.flows_max: 0 is out of range
    write a number from 16 to 16777216",
    },
    Case {
        name: "more flows than there is memory",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flows_max = 4_294_967_296"#,
        )],
        errors: "bad.toml:3:13: daemon.flows_max: 4294967296 is out of range
    write a number from 16 to 16777216",
    },
    Case {
        name: "flows as a string",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flows_max = "262144""#,
        )],
        errors: r#"bad.toml:3:13: daemon.flows_max: expected a whole number, found "262144"
    write flows_max = 262144"#,
    },
    Case {
        name: "flows as a fraction",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flows_max = 1e6"#,
        )],
        errors: "bad.toml:3:13: daemon.flows_max: expected a whole number, found the number 1e6
    write flows_max = 262144",
    },
    Case {
        name: "a negative half_open_max",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
half_open_max = -1"#,
        )],
        errors: "bad.toml:3:17: daemon.half_open_max: -1 is out of range
    write a number from 128 to 1048576",
    },
    Case {
        name: "a flow_log that is a string",
        changes: &[(
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flow_log = "yes""#,
        )],
        errors: r#"bad.toml:3:12: daemon.flow_log: expected true or false, found "yes"
    write flow_log = true"#,
    },
];
