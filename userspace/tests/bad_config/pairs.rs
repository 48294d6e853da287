//! `[[cluster.pair]]`, and what must hold between clusters.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "no pairs",
        changes: &[(r#"[[cluster.pair]]
name = "pair1"
primary = "10.0.1.11:3306"
replicas = ["10.0.1.12:3306"]
"#, ""), (r#"[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]
"#, "")],
        errors: "bad.toml:4:1: cluster[main].pair: is missing
    add a [[cluster.pair]] section for each pair, two at least",
    },
    Case {
        name: "one pair",
        changes: &[(r#"[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]
"#, "")],
        errors: "bad.toml:21:1: cluster[main].pair: there is only one pair
    add a second [[cluster.pair]] section: a flip needs somewhere to go",
    },
    Case {
        name: "a pair name twice",
        changes: &[(r#"name = "pair2""#, r#"name = "pair1""#)],
        errors: r#"bad.toml:27:8: cluster[main].pair[pair1].name: "pair1" is the name of another, at line 22
    give each [[cluster.pair]] section a name of its own"#,
    },
    Case {
        name: "a pair without a primary",
        changes: &[(r#"primary = "10.0.1.21:3306"
"#, "")],
        errors: r#"bad.toml:26:1: cluster[main].pair[pair2].primary: is missing
    add the pair's primary, as in primary = "10.0.1.11:3306""#,
    },
    Case {
        name: "a pair without replicas",
        changes: &[(r#"replicas = ["10.0.1.22:3306"]
"#, "")],
        errors: r#"bad.toml:26:1: cluster[main].pair[pair2].replicas: is missing
    add the pair's replicas, as in replicas = ["10.0.1.12:3306"]"#,
    },
    Case {
        name: "an empty list of replicas",
        changes: &[(r#"replicas = ["10.0.1.22:3306"]"#, "replicas = []")],
        errors: r#"bad.toml:29:12: cluster[main].pair[pair2].replicas: the list is empty
    write at least one, as in ["10.0.1.12:3306"]"#,
    },
    Case {
        name: "one replica that is not in a list",
        changes: &[(r#"replicas = ["10.0.1.22:3306"]"#, r#"replicas = "10.0.1.22:3306""#)],
        errors: r#"bad.toml:29:12: cluster[main].pair[pair2].replicas: expected a list, found "10.0.1.22:3306"
    write replicas = ["10.0.1.12:3306"]"#,
    },
    Case {
        name: "a replica twice",
        changes: &[(r#"["10.0.1.22:3306"]"#, r#"["10.0.1.22:3306", "10.0.1.22:3306"]"#)],
        errors: r#"bad.toml:29:31: cluster[main].pair[pair2].replicas[2]: "10.0.1.22:3306" is there twice
    remove one of the two"#,
    },
    Case {
        name: "a primary that is its own replica",
        changes: &[("10.0.1.22:3306", "10.0.1.21:3306")],
        errors: "bad.toml:29:13: cluster[main].pair[pair2].replicas[1]: 10.0.1.21:3306 is a backend already, cluster[main].pair[pair2].primary at line 28
    list each server once: as the primary or a replica of one pair",
    },
    Case {
        name: "a backend in two pairs",
        changes: &[("10.0.1.22:3306", "10.0.1.12:3306")],
        errors: "bad.toml:29:13: cluster[main].pair[pair2].replicas[1]: 10.0.1.12:3306 is a backend already, cluster[main].pair[pair1].replicas[1] at line 24
    list each server once: as the primary or a replica of one pair",
    },
    Case {
        name: "a replica that is a name",
        changes: &[("10.0.1.22:3306", "db4.example.net:3306")],
        errors: r#"bad.toml:29:13: cluster[main].pair[pair2].replicas[1]: "db4.example.net:3306" has a name instead of an address
    write the IP address: names are not resolved, so no DNS fault moves traffic"#,
    },
    Case {
        name: "a pair of the other family",
        changes: &[("10.0.1.21:3306", "[2001:db8::21]:3306"), ("10.0.1.22:3306", "[2001:db8::22]:3306")],
        errors: "bad.toml:28:11: cluster[main].pair[pair2].primary: 2001:db8::21 is IPv6, and cluster[main].route[writes].vip at line 13 is IPv4
    one cluster has one family: make a second [[cluster]] with the IPv6 VIPs and backends",
    },
    Case {
        name: "IPv4 backends behind IPv6 VIPs",
        changes: &[("10.0.0.100:3306", "[2001:db8::100]:3306"), ("10.0.0.101:3306", "[2001:db8::101]:3306")],
        errors: "bad.toml:23:11: cluster[main].pair[pair1].primary: 10.0.1.11 is IPv4, and cluster[main].route[writes].vip at line 13 is IPv6
    one cluster has one family: make a second [[cluster]] with the IPv4 VIPs and backends",
    },
    Case {
        name: "an IPv6 backend twice, written in two ways",
        changes: &[("10.0.0.100:3306", "[2001:db8::100]:3306"), ("10.0.0.101:3306", "[2001:db8::101]:3306"),
            ("10.0.1.11:3306", "[2001:db8::11]:3306"), ("10.0.1.12:3306", "[2001:db8::12]:3306"),
            ("10.0.1.21:3306", "[2001:db8::21]:3306"), ("10.0.1.22:3306", "[2001:DB8:0::11]:3306")],
        errors: "bad.toml:29:13: cluster[main].pair[pair2].replicas[1]: [2001:db8::11]:3306 is a backend already, cluster[main].pair[pair1].primary at line 23
    list each server once: as the primary or a replica of one pair",
    },
    Case {
        name: "a primary that is a table",
        changes: &[(r#"primary = "10.0.1.21:3306""#, r#"primary = { address = "10.0.1.21" }"#)],
        errors: r#"bad.toml:28:11: cluster[main].pair[pair2].primary: expected a string, found a section
    write primary = "10.0.1.11:3306""#,
    },
    Case {
        name: "a weighted replica",
        changes: &[(r#"name = "pair2""#, r#"name = "pair2"
weight = 2"#)],
        errors: "bad.toml:28:1: cluster[main].pair[pair2].weight: unknown key of [[cluster.pair]]
    it belongs to replicas = [{ ... }]",
    },
    Case {
        name: "a replica that weighs nothing",
        changes: &[(r#"["10.0.1.22:3306"]"#, r#"["10.0.1.22:3306", { address = "10.0.1.23:3306", weight = 0 }]"#)],
        errors: "bad.toml:29:70: cluster[main].pair[pair2].replicas[2].weight: 0 is out of range
    write a number from 1 to 1000",
    },
    Case {
        name: "a replica that weighs too much",
        changes: &[(r#""10.0.1.22:3306""#, r#"{ address = "10.0.1.22:3306", weight = 1001 }"#)],
        errors: "bad.toml:29:52: cluster[main].pair[pair2].replicas[1].weight: 1001 is out of range
    write a number from 1 to 1000",
    },
    Case {
        name: "a weight without an address",
        changes: &[(r#""10.0.1.22:3306""#, "{ weight = 50 }")],
        errors: r#"bad.toml:29:13: cluster[main].pair[pair2].replicas[1].address: is missing
    add the replica's, as in address = "10.0.1.12:3306""#,
    },
    Case {
        name: "a slip in a replica",
        changes: &[(r#""10.0.1.22:3306""#, r#"{ address = "10.0.1.22:3306", wieght = 50 }"#)],
        errors: "bad.toml:29:43: cluster[main].pair[pair2].replicas[1].wieght: unknown key of replicas = [{ ... }]
    do you mean weight?",
    },
    Case {
        name: "a replica twice, with and without a weight",
        changes: &[(r#""10.0.1.22:3306""#, r#""10.0.1.22:3306", { address = "10.0.1.22:3306", weight = 50 }"#)],
        errors: r#"bad.toml:29:31: cluster[main].pair[pair2].replicas[2]: "10.0.1.22:3306" is there twice
    remove one of the two"#,
    },
    Case {
        name: "a replica that is a number",
        changes: &[(r#""10.0.1.22:3306""#, "3306")],
        errors: r#"bad.toml:29:13: cluster[main].pair[pair2].replicas[1]: expected a string, found the number 3306
    write it as in "10.0.1.12:3306""#,
    },
    Case {
        name: "a cluster name, a VIP and a backend twice",
        changes: &[(r#"[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]
"#, r#"[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]

[[cluster]]
name = "main"
[cluster.check]
user = "pairflip"
password_env = "PASSWORD"
[[cluster.route]]
name = "writes"
vip = "10.0.0.100:3306"
access = "write"
[[cluster.pair]]
name = "pair1"
primary = "10.0.1.31:3306"
replicas = ["10.0.1.32:3306"]
[[cluster.pair]]
name = "pair2"
primary = "10.0.1.12:3306"
replicas = ["10.0.1.42:3306"]
"#)],
        errors: r#"bad.toml:32:8: cluster[main].name: "main" is the name of another, at line 5
    give each [[cluster]] section a name of its own
bad.toml:38:7: cluster[main].route[writes].vip: 10.0.0.100:3306 is the VIP of another route, cluster[main].route[writes].vip at line 13
    give each route an address or a port of its own
bad.toml:46:11: cluster[main].pair[pair2].primary: 10.0.1.12:3306 is a backend already, cluster[main].pair[pair1].replicas[1] at line 24
    list each server once: as the primary or a replica of one pair
3 errors"#,
    },
    Case {
        name: "errors all over, in the order of the file",
        changes: &[(r#"interfaces = ["eth0"]"#, r#"interfaces = []
attch = "auto""#), (r#"vip = "10.0.0.101:3306""#, r#"vip = "10.0.0.101""#), (r#"password_file = "password""#, r#"password_file = "password"
rise = 0"#), (r#"replicas = ["10.0.1.22:3306"]"#, "replicas = []")],
        errors: r#"bad.toml:2:14: daemon.interfaces: the list is empty
    write at least one, as in ["eth0"]
bad.toml:3:1: daemon.attch: unknown key of [daemon]
    do you mean attach?
bad.toml:11:8: cluster[main].check.rise: 0 is out of range
    write a number from 1 to 100
bad.toml:20:7: cluster[main].route[reads].vip: "10.0.0.101" has no port
    add it, as in "10.0.0.101:3306"
bad.toml:31:12: cluster[main].pair[pair2].replicas: the list is empty
    write at least one, as in ["10.0.1.12:3306"]
5 errors"#,
    },
];
