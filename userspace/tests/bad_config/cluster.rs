//! `[[cluster]]` itself, and `[cluster.drain]`.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a cluster without a name",
        changes: &[(r#"name = "main""#, "")],
        errors: r#"bad.toml:4:1: cluster[#1].name: is missing
    add name = "main""#,
    },
    Case {
        name: "an odd name",
        changes: &[(r#"name = "main""#, r#"name = "main db""#)],
        errors: r#"bad.toml:5:8: cluster[main db].name: "main db" is not a name
    use 1 to 32 letters, digits, - and _, the first of them not a -"#,
    },
    Case {
        name: "an empty name",
        changes: &[(r#"name = "main""#, r#"name = """#)],
        errors: r#"bad.toml:5:8: cluster[#1].name: "" is not a name
    use 1 to 32 letters, digits, - and _, the first of them not a -"#,
    },
    Case {
        name: "a long name",
        changes: &[(r#"name = "main""#, r#"name = "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm""#)],
        errors: r#"bad.toml:5:8: cluster[mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm].name: "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm" is not a name
    use 1 to 32 letters, digits, - and _, the first of them not a -"#,
    },
    Case {
        name: "SNAT addresses and ports without SNAT",
        changes: &[(r#"name = "main""#, r#"name = "main"
forwarding = "dnat"
snat_addresses = ["10.0.1.2"]
snat_ports = "32768-60999""#)],
        errors: r#"bad.toml:7:18: cluster[main].snat_addresses: belongs to forwarding = "snat", and this cluster's is "dnat"
    remove it: backends see the clients' own addresses and ports
bad.toml:8:14: cluster[main].snat_ports: belongs to forwarding = "snat", and this cluster's is "dnat"
    remove it: backends see the clients' own addresses and ports
2 errors"#,
    },
    Case {
        name: "SNAT ports with DSR",
        changes: &[(r#"name = "main""#, r#"name = "main"
forwarding = "dsr"
snat_ports = "32768-60999""#)],
        errors: r#"bad.toml:7:14: cluster[main].snat_ports: belongs to forwarding = "snat", and this cluster's is "dsr"
    remove it: backends see the clients' own addresses and ports"#,
    },
    Case {
        name: "a VIP and a backend of other ports with DSR",
        changes: &[(r#"name = "main""#, r#"name = "main"
forwarding = "dsr""#), ("10.0.0.101:3306", "10.0.0.101:3307"), ("10.0.1.22:3306", "10.0.1.22:3308")],
        errors: r#"bad.toml:19:7: cluster[main].route[reads].vip: dsr changes no port, and cluster[main].route[writes].vip at line 14 has port 3306, not 3307
    give all VIPs and backends of the cluster one port, or write forwarding = "snat"
bad.toml:30:13: cluster[main].pair[pair2].replicas[1]: dsr changes no port, and cluster[main].route[writes].vip at line 14 has port 3306, not 3308
    give all VIPs and backends of the cluster one port, or write forwarding = "snat"
2 errors"#,
    },
    Case {
        name: "a forwarding mode that does not exist",
        changes: &[(r#"name = "main""#, r#"name = "main"
forwarding = "nat""#)],
        errors: r#"bad.toml:6:14: cluster[main].forwarding: "nat" is not a known value
    do you mean "snat"?"#,
    },
    Case {
        name: "a kind of failover that does not exist",
        changes: &[(r#"name = "main""#, r#"name = "main"
failover = "automatic""#)],
        errors: r#"bad.toml:6:12: cluster[main].failover: "automatic" is not a known value
    write one of "manual", "auto""#,
    },
    Case {
        name: "a window that is none",
        changes: &[(r#"name = "main""#, r#"name = "main"
failover = "auto"
failover_window = "0s""#)],
        errors: r#"bad.toml:7:19: cluster[main].failover_window: "0s" is too short
    write a duration from 1s to 30d"#,
    },
    Case {
        name: "a SNAT address twice",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["10.0.1.2", "10.0.1.2"]"#)],
        errors: r#"bad.toml:6:31: cluster[main].snat_addresses[2]: "10.0.1.2" is there twice
    remove one of the two"#,
    },
    Case {
        name: "a SNAT address with a port",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["10.0.1.2:3306"]"#)],
        errors: r#"bad.toml:6:19: cluster[main].snat_addresses[1]: "10.0.1.2:3306" is not an IP address
    write an address without a port, as in "10.0.1.2" or "2001:db8::2""#,
    },
    Case {
        name: "an IPv6 SNAT address",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["10.0.1.2", "fd00::2"]"#)],
        errors: "bad.toml:6:31: cluster[main].snat_addresses[2]: fd00::2 is IPv6, and cluster[main].route[writes].vip at line 14 is IPv4
    one cluster has one family: make a second [[cluster]] with the IPv6 VIPs and backends",
    },
    Case {
        name: "an IPv4 SNAT address in IPv6 notation",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["::ffff:10.0.1.2"]"#)],
        errors: r#"bad.toml:6:19: cluster[main].snat_addresses[1]: ::ffff:10.0.1.2 is an IPv4 address in IPv6 notation
    write it as IPv4: "10.0.1.2""#,
    },
    Case {
        name: "nine SNAT addresses",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["10.0.1.30", "10.0.1.31", "10.0.1.32", "10.0.1.33", "10.0.1.34", "10.0.1.35", "10.0.1.36", "10.0.1.37", "10.0.1.38"]"#)],
        errors: "bad.toml:6:18: cluster[main].snat_addresses: there are 9, and 8 is the most
    remove some, or divide them among several clusters or daemons",
    },
    Case {
        name: "a SNAT address of a backend",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["10.0.1.22"]"#)],
        errors: "bad.toml:6:19: cluster[main].snat_addresses[1]: 10.0.1.22 is the address of a backend, cluster[main].pair[pair2].replicas[1] at line 30
    write an address of the redirector itself",
    },
    Case {
        name: "a loopback SNAT address",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_addresses = ["127.0.0.1"]"#)],
        errors: "bad.toml:6:19: cluster[main].snat_addresses[1]: 127.0.0.1 is a loopback address, whose packets never reach an interface
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "SNAT ports the wrong way round",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_ports = "60999-32768""#)],
        errors: r#"bad.toml:6:14: cluster[main].snat_ports: "60999-32768" has its ends the wrong way round
    write the lower port first: "32768-60999""#,
    },
    Case {
        name: "SNAT ports from 0",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_ports = "0-60999""#)],
        errors: r#"bad.toml:6:14: cluster[main].snat_ports: "0-60999" is not a range of ports
    write two ports from 1024 to 65535"#,
    },
    Case {
        name: "SNAT ports of services",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_ports = "22-60999""#)],
        errors: r#"bad.toml:6:14: cluster[main].snat_ports: "22-60999" has ports below 1024, which belong to services
    begin at 1024 or higher"#,
    },
    Case {
        name: "SNAT ports beyond the last",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_ports = "32768-65536""#)],
        errors: r#"bad.toml:6:14: cluster[main].snat_ports: "32768-65536" is not a range of ports
    write two ports from 1024 to 65535"#,
    },
    Case {
        name: "one SNAT port",
        changes: &[(r#"name = "main""#, r#"name = "main"
snat_ports = "40000""#)],
        errors: r#"bad.toml:6:14: cluster[main].snat_ports: "40000" is not a range of ports
    write the lowest and the highest, as in "32768-60999""#,
    },
    Case {
        name: "an announcement that does not exist",
        changes: &[(r#"name = "main""#, r#"name = "main"
announce = "vrrp""#)],
        errors: r#"bad.toml:6:12: cluster[main].announce: "vrrp" is not a known value
    write one of "arp", "none""#,
    },
    Case {
        name: "a no_backend that does not exist",
        changes: &[(r#"name = "main""#, r#"name = "main"
no_backend = "reject""#)],
        errors: r#"bad.toml:6:14: cluster[main].no_backend: "reject" is not a known value
    do you mean "reset"?"#,
    },
    Case {
        name: "a drain mode that does not exist",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, r#"[cluster.check]
user = "pairflip"
password_file = "password"
[cluster.drain]
mode = "kill"
"#)],
        errors: r#"bad.toml:11:8: cluster[main].drain.mode: "kill" is not a known value
    write one of "finish", "idle", "cut""#,
    },
    Case {
        name: "a deadline without a unit",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, r#"[cluster.check]
user = "pairflip"
password_file = "password"
[cluster.drain]
mode = "idle"
deadline = "30"
"#)],
        errors: r#"bad.toml:12:12: cluster[main].drain.deadline: "30" has no unit
    add one of ms, s, m, h, d, as in "30s""#,
    },
    Case {
        name: "timeouts out of their ranges",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, r#"[cluster.check]
user = "pairflip"
password_file = "password"
[cluster.timeouts]
half_open = "11m"
established = "59s"
closing = "500ms"
"#)],
        errors: r#"bad.toml:11:13: cluster[main].timeouts.half_open: "11m" is too long
    write a duration from 1s to 10m
bad.toml:12:15: cluster[main].timeouts.established: "59s" is too short
    write a duration from 1m to 30d
bad.toml:13:11: cluster[main].timeouts.closing: "500ms" is too short
    write a duration from 1s to 1h
3 errors"#,
    },
    Case {
        name: "a timeout that is a number",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, r#"[cluster.check]
user = "pairflip"
password_file = "password"
[cluster.timeouts]
established = 36000
"#)],
        errors: r#"bad.toml:11:15: cluster[main].timeouts.established: expected a string, found the number 36000
    write established = "10h""#,
    },
    Case {
        name: "a timeout that does not exist",
        changes: &[(r#"[cluster.check]
user = "pairflip"
password_file = "password"
"#, r#"[cluster.check]
user = "pairflip"
password_file = "password"
[cluster.timeouts]
idle = "1h"
"#)],
        errors: "bad.toml:11:1: cluster[main].timeouts.idle: unknown key of [cluster.timeouts]
    the keys of [cluster.timeouts] are: half_open, established, closing",
    },
    Case {
        name: "too slow a start",
        changes: &[(r#"name = "main""#, r#"name = "main"
slow_start = "2h""#)],
        errors: r#"bad.toml:6:14: cluster[main].slow_start: "2h" is too long
    write a duration from 0s to 1h"#,
    },
    Case {
        name: "a slow start without a unit",
        changes: &[(r#"name = "main""#, r#"name = "main"
slow_start = "0""#)],
        errors: r#"bad.toml:6:14: cluster[main].slow_start: "0" has no unit
    add one of ms, s, m, h, d, as in "0s""#,
    },
    Case {
        name: "too long a hold-off",
        changes: &[(r#"name = "main""#, r#"name = "main"
hold_off = "1d""#)],
        errors: r#"bad.toml:6:12: cluster[main].hold_off: "1d" is too long
    write a duration from 0s to 1h"#,
    },
    Case {
        name: "automatic failover without a login",
        changes: &[
            ("name = \"main\"", "name = \"main\"\nfailover = \"auto\""),
            (r#"user = "pairflip"
password_file = "password""#, r#"mysql = false
tcp = [{ name = "port" }]"#),
        ],
        errors: r#"bad.toml:6:12: cluster[main].failover: needs a login: without one nobody sees what the standby has applied
    write failover = "manual", or remove mysql = false from [cluster.check] and give it an account"#,
    },
];
