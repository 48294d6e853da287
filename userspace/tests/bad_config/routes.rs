//! `[[cluster.route]]`.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "no routes",
        changes: &[(r#"[[cluster.route]]
name = "writes"
vip = "10.0.0.100:3306"
access = "write"
"#, ""), (r#"[[cluster.route]]
name = "reads"
vip = "10.0.0.101:3306"
access = "read"
"#, "")],
        errors: "bad.toml:4:1: cluster[main].route: is missing
    add a [[cluster.route]] section for each VIP",
    },
    Case {
        name: "no write route",
        changes: &[(r#"[[cluster.route]]
name = "writes"
vip = "10.0.0.100:3306"
access = "write"
"#, "")],
        errors: r#"bad.toml:12:1: cluster[main].route: there is no write route
    give the route that applications write through access = "write""#,
    },
    Case {
        name: "a route without anything",
        changes: &[(r#"[[cluster.route]]
name = "reads"
vip = "10.0.0.101:3306"
access = "read"
"#, "[[cluster.route]]
")],
        errors: r#"bad.toml:16:1: cluster[main].route[#2].name: is missing
    add name = "writes"
bad.toml:16:1: cluster[main].route[#2].vip: is missing
    add the address that clients use, as in vip = "10.0.0.100:3306"
bad.toml:16:1: cluster[main].route[#2].access: is missing
    add access = "write" or access = "read"
3 errors"#,
    },
    Case {
        name: "an access that does not exist",
        changes: &[(r#"access = "read""#, r#"access = "readonly""#)],
        errors: r#"bad.toml:19:10: cluster[main].route[reads].access: "readonly" is not a known value
    write one of "write", "read""#,
    },
    Case {
        name: "a slip in an access",
        changes: &[(r#"access = "read""#, r#"access = "reed""#)],
        errors: r#"bad.toml:19:10: cluster[main].route[reads].access: "reed" is not a known value
    do you mean "read"?"#,
    },
    Case {
        name: "a route name twice",
        changes: &[(r#"name = "reads""#, r#"name = "writes""#)],
        errors: r#"bad.toml:17:8: cluster[main].route[writes].name: "writes" is the name of another, at line 12
    give each [[cluster.route]] section a name of its own"#,
    },
    Case {
        name: "a VIP twice",
        changes: &[("10.0.0.101:3306", "10.0.0.100:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: 10.0.0.100:3306 is the VIP of another route, cluster[main].route[writes].vip at line 13
    give each route an address or a port of its own",
    },
    Case {
        name: "a VIP without a port",
        changes: &[("10.0.0.101:3306", "10.0.0.101")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "10.0.0.101" has no port
    add it, as in "10.0.0.101:3306""#,
    },
    Case {
        name: "a VIP with port 0",
        changes: &[("10.0.0.101:3306", "10.0.0.101:0")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "10.0.0.101:0" is not an address and port
    write a port from 1 to 65535"#,
    },
    Case {
        name: "a VIP with a port that is too high",
        changes: &[("10.0.0.101:3306", "10.0.0.101:65536")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "10.0.0.101:65536" is not an address and port
    write a port from 1 to 65535"#,
    },
    Case {
        name: "a VIP that is a name",
        changes: &[("10.0.0.101:3306", "appslave:3306")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "appslave:3306" has a name instead of an address
    write the IP address: names are not resolved, so no DNS fault moves traffic"#,
    },
    Case {
        name: "an IPv6 VIP beside an IPv4 one",
        changes: &[("10.0.0.101:3306", "[2001:db8::101]:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: 2001:db8::101 is IPv6, and cluster[main].route[writes].vip at line 13 is IPv4
    one cluster has one family: make a second [[cluster]] with the IPv6 VIPs and backends",
    },
    Case {
        name: "an IPv6 VIP without brackets",
        changes: &[("10.0.0.101:3306", "2001:db8::101:3306")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "2001:db8::101:3306" is IPv6 without brackets and a port
    put the address in brackets and the port after them, as in "[2001:db8::11]:3306""#,
    },
    Case {
        name: "an IPv6 VIP without a port",
        changes: &[("10.0.0.101:3306", "[2001:db8::101]")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "[2001:db8::101]" is not an address and port
    write both, as in "[2001:db8::11]:3306""#,
    },
    Case {
        name: "an IPv6 VIP of one interface",
        changes: &[("10.0.0.101:3306", "[fe80::1%eth0]:3306")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "[fe80::1%eth0]:3306" names an interface, as only link-local addresses do
    write an address that is the same on every interface"#,
    },
    Case {
        name: "a link-local VIP",
        changes: &[("10.0.0.101:3306", "[fe80::1]:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: fe80::1 is a link-local address, which another host may have on another interface
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "an IPv6 VIP that is no host",
        changes: &[("10.0.0.101:3306", "[::]:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: :: is not the address of a host
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "an IPv6 loopback VIP",
        changes: &[("10.0.0.101:3306", "[::1]:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: ::1 is a loopback address, whose packets never reach an interface
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "an IPv6 multicast VIP",
        changes: &[("10.0.0.101:3306", "[ff02::1]:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: ff02::1 is a multicast address
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "an IPv4 VIP in IPv6 notation",
        changes: &[("10.0.0.101:3306", "[::ffff:10.0.0.101]:3306")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: ::ffff:10.0.0.101 is an IPv4 address in IPv6 notation
    write it as IPv4: "10.0.0.101:3306""#,
    },
    Case {
        name: "a VIP that is no host",
        changes: &[("10.0.0.101:3306", "0.0.0.0:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: 0.0.0.0 is not the address of a host
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "a multicast VIP",
        changes: &[("10.0.0.101:3306", "224.0.0.5:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: 224.0.0.5 is a multicast address
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "a loopback VIP",
        changes: &[("10.0.0.101:3306", "127.0.0.1:3306")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: 127.0.0.1 is a loopback address, whose packets never reach an interface
    write the address of one host, reachable through an interface",
    },
    Case {
        name: "a VIP with leading zeros",
        changes: &[("10.0.0.101:3306", "010.000.000.101:3306")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: "010.000.000.101:3306" is not an address and port
    write both, as in "10.0.1.11:3306""#,
    },
    Case {
        name: "a VIP that is a number",
        changes: &[(r#""10.0.0.101:3306""#, "3306")],
        errors: r#"bad.toml:18:7: cluster[main].route[reads].vip: expected a string, found the number 3306
    write vip = "10.0.0.100:3306""#,
    },
    Case {
        name: "the address of a backend as VIP",
        changes: &[("10.0.0.101:3306", "10.0.1.22:3307")],
        errors: "bad.toml:18:7: cluster[main].route[reads].vip: 10.0.1.22 is the address of a backend, cluster[main].pair[pair2].replicas[1] at line 29
    choose an address that no server has",
    },
    Case {
        name: "an empty allow list",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = []"#)],
        errors: r#"bad.toml:20:9: cluster[main].route[reads].allow: the list is empty
    write at least one, as in ["10.0.0.0/8"]"#,
    },
    Case {
        name: "a network with host bits",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["10.0.0.0/8", "10.1.2.3/16"]"#)],
        errors: r#"bad.toml:20:24: cluster[main].route[reads].allow[2]: "10.1.2.3/16" has bits set beyond its prefix
    write the network, "10.1.0.0/16", or the one host, "10.1.2.3/32""#,
    },
    Case {
        name: "a network without a prefix length",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["10.1.2.3"]"#)],
        errors: r#"bad.toml:20:10: cluster[main].route[reads].allow[1]: "10.1.2.3" has no prefix length
    add it: "10.1.2.3/32" is this one host"#,
    },
    Case {
        name: "a network that is a name",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["office"]"#)],
        errors: r#"bad.toml:20:10: cluster[main].route[reads].allow[1]: "office" is not a network
    write an address and the length of its prefix, as in "10.0.0.0/8""#,
    },
    Case {
        name: "a network twice",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["10.0.0.0/8", "10.0.0.0/8"]"#)],
        errors: r#"bad.toml:20:24: cluster[main].route[reads].allow[2]: "10.0.0.0/8" is there twice
    remove one of the two"#,
    },
    Case {
        name: "a network of the other family",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["10.0.0.0/8", "2001:db8::/32"]"#)],
        errors: "bad.toml:20:24: cluster[main].route[reads].allow[2]: 2001:db8::/32 is IPv6, and cluster[main].route[writes].vip at line 13 is IPv4
    remove it: the clients of a VIP have addresses of its own family",
    },
    Case {
        name: "an IPv4 network in IPv6 notation",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["::ffff:10.0.0.0/104"]"#)],
        errors: r#"bad.toml:20:10: cluster[main].route[reads].allow[1]: ::ffff:10.0.0.0/104 is an IPv4 network in IPv6 notation
    write it as IPv4: "10.0.0.0/8""#,
    },
    Case {
        name: "a deny that does not exist",
        changes: &[(r#"access = "read""#, r#"access = "read"
allow = ["10.0.0.0/8"]
deny = "reject""#)],
        errors: r#"bad.toml:21:8: cluster[main].route[reads].deny: "reject" is not a known value
    do you mean "reset"?"#,
    },
    Case {
        name: "a deny without an allow list",
        changes: &[(r#"access = "read""#, r#"access = "read"
deny = "drop""#)],
        errors: r#"bad.toml:20:8: cluster[main].route[reads].deny: nobody is denied without allow
    add allow = ["10.0.0.0/8"] with the networks that may connect"#,
    },
    Case {
        name: "a write route that wants replicas",
        changes: &[(r#"access = "write""#, r#"access = "write"
min_replicas = 2"#)],
        errors: r#"bad.toml:15:16: cluster[main].route[writes].min_replicas: belongs to access = "read"
    remove it: writes go to the primary alone"#,
    },
    Case {
        name: "a write route that fails back and goes to standby replicas",
        changes: &[(r#"access = "write""#, r#"access = "write"
failback = "cut"
standby_replicas = "always""#)],
        errors: r#"bad.toml:15:12: cluster[main].route[writes].failback: belongs to access = "read"
    remove it: writes go to the primary alone
bad.toml:16:20: cluster[main].route[writes].standby_replicas: belongs to access = "read"
    remove it: writes go to the primary alone
2 errors"#,
    },
    Case {
        name: "ways of failing back that there are not",
        changes: &[(r#"access = "read""#, r#"access = "read"
failback = "auto"
standby_replicas = true"#)],
        errors: r#"bad.toml:20:12: cluster[main].route[reads].failback: "auto" is not a known value
    write one of "new-connections", "idle", "cut", "off"
bad.toml:21:20: cluster[main].route[reads].standby_replicas: expected a string, found true
    write standby_replicas = "never"
2 errors"#,
    },
    Case {
        name: "33 routes",
        changes: &[(r#"[[cluster.route]]
name = "reads"
vip = "10.0.0.101:3306"
access = "read"
"#, r#"[[cluster.route]]
name = "r1"
vip = "10.0.2.1:3306"
access = "read"
[[cluster.route]]
name = "r2"
vip = "10.0.2.2:3306"
access = "read"
[[cluster.route]]
name = "r3"
vip = "10.0.2.3:3306"
access = "read"
[[cluster.route]]
name = "r4"
vip = "10.0.2.4:3306"
access = "read"
[[cluster.route]]
name = "r5"
vip = "10.0.2.5:3306"
access = "read"
[[cluster.route]]
name = "r6"
vip = "10.0.2.6:3306"
access = "read"
[[cluster.route]]
name = "r7"
vip = "10.0.2.7:3306"
access = "read"
[[cluster.route]]
name = "r8"
vip = "10.0.2.8:3306"
access = "read"
[[cluster.route]]
name = "r9"
vip = "10.0.2.9:3306"
access = "read"
[[cluster.route]]
name = "r10"
vip = "10.0.2.10:3306"
access = "read"
[[cluster.route]]
name = "r11"
vip = "10.0.2.11:3306"
access = "read"
[[cluster.route]]
name = "r12"
vip = "10.0.2.12:3306"
access = "read"
[[cluster.route]]
name = "r13"
vip = "10.0.2.13:3306"
access = "read"
[[cluster.route]]
name = "r14"
vip = "10.0.2.14:3306"
access = "read"
[[cluster.route]]
name = "r15"
vip = "10.0.2.15:3306"
access = "read"
[[cluster.route]]
name = "r16"
vip = "10.0.2.16:3306"
access = "read"
[[cluster.route]]
name = "r17"
vip = "10.0.2.17:3306"
access = "read"
[[cluster.route]]
name = "r18"
vip = "10.0.2.18:3306"
access = "read"
[[cluster.route]]
name = "r19"
vip = "10.0.2.19:3306"
access = "read"
[[cluster.route]]
name = "r20"
vip = "10.0.2.20:3306"
access = "read"
[[cluster.route]]
name = "r21"
vip = "10.0.2.21:3306"
access = "read"
[[cluster.route]]
name = "r22"
vip = "10.0.2.22:3306"
access = "read"
[[cluster.route]]
name = "r23"
vip = "10.0.2.23:3306"
access = "read"
[[cluster.route]]
name = "r24"
vip = "10.0.2.24:3306"
access = "read"
[[cluster.route]]
name = "r25"
vip = "10.0.2.25:3306"
access = "read"
[[cluster.route]]
name = "r26"
vip = "10.0.2.26:3306"
access = "read"
[[cluster.route]]
name = "r27"
vip = "10.0.2.27:3306"
access = "read"
[[cluster.route]]
name = "r28"
vip = "10.0.2.28:3306"
access = "read"
[[cluster.route]]
name = "r29"
vip = "10.0.2.29:3306"
access = "read"
[[cluster.route]]
name = "r30"
vip = "10.0.2.30:3306"
access = "read"
[[cluster.route]]
name = "r31"
vip = "10.0.2.31:3306"
access = "read"
[[cluster.route]]
name = "r32"
vip = "10.0.2.32:3306"
access = "read"
"#)],
        errors: "bad.toml:11:1: cluster[main].route: there are 33, and 32 is the most
    remove some, or divide them among several clusters or daemons",
    },
];
