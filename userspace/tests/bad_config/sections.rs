//! Sections and keys that are missing, unknown or not of the right kind.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "no [daemon]",
        changes: &[(r#"[daemon]
interfaces = ["eth0"]
"#, "")],
        errors: r#"bad.toml:1:1: daemon: is missing
    add a [daemon] section with interfaces = ["eth0"]"#,
    },
    Case {
        name: "no [[cluster]]",
        changes: &[("*", r#"[daemon]
interfaces = ["eth0"]
"#)],
        errors: "bad.toml:1:1: cluster: is missing
    add a [[cluster]] section with its routes and pairs",
    },
    Case {
        name: "daemon that is not a section",
        changes: &[(r#"[daemon]
interfaces = ["eth0"]
"#, r#"daemon = "eth0"
"#)],
        errors: r#"bad.toml:1:10: daemon: expected a section, found "eth0"
    write [daemon] and its keys below"#,
    },
    Case {
        name: "[[daemon]] with double brackets",
        changes: &[("[daemon]", "[[daemon]]")],
        errors: "bad.toml:1:1: daemon: expected a section, found a list
    write [daemon], once, with single brackets",
    },
    Case {
        name: "[cluster] with single brackets",
        changes: &[("*", r#"[daemon]
interfaces = ["eth0"]
[cluster]
name = "main"
"#)],
        errors: "bad.toml:3:1: cluster: expected a list of sections, found a section
    write [[cluster]], with double brackets",
    },
    Case {
        name: "[cluster.pair] with single brackets",
        changes: &[(r#"[[cluster.pair]]
name = "pair1"
primary = "10.0.1.11:3306"
replicas = ["10.0.1.12:3306"]
"#, ""), ("[[cluster.pair]]", "[cluster.pair]")],
        errors: "bad.toml:22:1: cluster[main].pair: expected a list of sections, found a section
    write [[cluster.pair]], with double brackets",
    },
    Case {
        name: "[[cluster.check]] with double brackets",
        changes: &[("[cluster.check]", "[[cluster.check]]")],
        errors: "bad.toml:7:1: cluster[main].check: expected a section, found a list
    write [cluster.check], once, with single brackets",
    },
    Case {
        name: "a list of names for clusters",
        changes: &[("*", r#"cluster = ["main"]
[daemon]
interfaces = ["eth0"]
"#)],
        errors: r#"bad.toml:1:12: cluster[#1]: expected a section, found "main"
    write [[cluster]] and its keys below"#,
    },
    Case {
        name: "an empty list of clusters",
        changes: &[("*", r#"cluster = []
[daemon]
interfaces = ["eth0"]
"#)],
        errors: "bad.toml:1:11: cluster: the list is empty
    add a [[cluster]] section",
    },
    Case {
        name: "an unknown key at the top level",
        changes: &[("[daemon]", "verbose = true
[daemon]")],
        errors: "bad.toml:1:1: verbose: unknown key of the top level
    the keys of the top level are: daemon, cluster, hook",
    },
    Case {
        name: "a slip in a section",
        changes: &[("[daemon]", "[deamon]")],
        errors: "bad.toml:1:2: deamon: unknown key of the top level
    do you mean daemon?",
    },
    Case {
        name: "a slip in a key",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
intervall = "1s""#)],
        errors: "bad.toml:10:1: cluster[main].check.intervall: unknown key of [cluster.check]
    do you mean interval?",
    },
    Case {
        name: "HAProxy's word",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
inter = "1s""#)],
        errors: "bad.toml:10:1: cluster[main].check.inter: unknown key of [cluster.check]
    do you mean interval?",
    },
    Case {
        name: "the old word for replicas",
        changes: &[(r#"replicas = ["10.0.1.12:3306"]"#, r#"slaves = ["10.0.1.12:3306"]"#)],
        errors: "bad.toml:24:1: cluster[main].pair[pair1].slaves: unknown key of [[cluster.pair]]
    do you mean replicas?",
    },
    Case {
        name: "a key of another section",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
snat_ports = "32768-60999""#)],
        errors: "bad.toml:10:1: cluster[main].check.snat_ports: unknown key of [cluster.check]
    it belongs to [[cluster]]",
    },
    Case {
        name: "a key of several other sections",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["eth0"]
name = "db""#)],
        errors: "bad.toml:3:1: daemon.name: unknown key of [daemon]
    it belongs to [[cluster]] or [[cluster.check.sql]] or [[cluster.check.http]] or [[cluster.check.tcp]] or [[cluster.check.exec]] or [[cluster.route]] or [[cluster.pair]] or [[hook]]",
    },
    Case {
        name: "a key of nowhere",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
colour = "red""#)],
        errors: "bad.toml:10:1: cluster[main].check.colour: unknown key of [cluster.check]
    the keys of [cluster.check] are: mysql, user, password_file, password_env, interval, fast_interval, timeout, rise, fall, max_lag, heartbeat, gtid, galera, tls, sql, http, tcp, exec",
    },
    Case {
        name: "a key in quotes with odd characters",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = ["eth0"]
"a\nb\u001b" = 1"#)],
        errors: r"bad.toml:3:1: daemon.a\nb\u{1b}: unknown key of [daemon]
    the keys of [daemon] are: interfaces, attach, control, state_dir, bpffs, http, flows_max, half_open_max, flow_log",
    },
    Case {
        name: "a password in the configuration",
        changes: &[(r#"password_file = "password""#, r#"password = "secret""#)],
        errors: r#"bad.toml:9:1: cluster[main].check.password: a password must not be in the configuration
    put it into a file of mode 0600 and write password_file = "/path/of/it""#,
    },
    Case {
        name: "failback",
        changes: &[(r#"name = "main""#, r#"name = "main"
failback = "idle""#)],
        errors: "bad.toml:6:1: cluster[main].failback: unknown key of [[cluster]]
    it belongs to [[cluster.route]]",
    },
    Case {
        name: "another kind of check",
        changes: &[(r#"password_file = "password""#, r#"password_file = "password"
http = "/status""#)],
        errors: r#"bad.toml:10:8: cluster[main].check.http: expected a list of sections, found "/status"
    write [[cluster.check.http]], with double brackets"#,
    },
];
