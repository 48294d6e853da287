//! `[cluster.check]`: kinds of checks, conditions of the login, TLS.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "mysql = false with keys of a login",
        changes: &[(
            r#"user = "pairflip"
password_file = "password"
"#,
            r#"mysql = false
user = "pairflip"
password_file = "password"
galera = "synced"
[[cluster.check.tcp]]
name = "port"
"#,
        )],
        errors: r#"bad.toml:9:8: cluster[main].check.user: belongs to a login, and mysql = false has none
    remove it, or remove mysql = false
bad.toml:10:17: cluster[main].check.password_file: belongs to a login, and mysql = false has none
    remove it, or remove mysql = false
bad.toml:11:10: cluster[main].check.galera: belongs to a login, and mysql = false has none
    remove it, or remove mysql = false
3 errors"#,
    },
    Case {
        name: "mysql = false and nothing else",
        changes: &[(
            r#"user = "pairflip"
password_file = "password"
"#,
            r#"mysql = false
"#,
        )],
        errors: r#"bad.toml:7:1: cluster[main].check.mysql: with mysql = false nothing says whether primaries are alive
    add a [[cluster.check.tcp]] or [[cluster.check.http]] section for them, or remove mysql = false
bad.toml:7:1: cluster[main].check.mysql: with mysql = false nothing says whether replicas are alive
    add a [[cluster.check.tcp]] or [[cluster.check.http]] section for them, or remove mysql = false
2 errors"#,
    },
    Case {
        name: "mysql = false and a check for primaries only",
        changes: &[(
            r#"user = "pairflip"
password_file = "password"
"#,
            r#"mysql = false
[[cluster.check.http]]
name = "agent"
role = "primary"
port = 9200
"#,
        )],
        errors: r#"bad.toml:7:1: cluster[main].check.mysql: with mysql = false nothing says whether replicas are alive
    add a [[cluster.check.tcp]] or [[cluster.check.http]] section for them, or remove mysql = false"#,
    },
    Case {
        name: "mysql = false and only a command",
        changes: &[(
            r#"user = "pairflip"
password_file = "password"
"#,
            r#"mysql = false
[[cluster.check.exec]]
name = "agent"
command = ["/bin/true"]
"#,
        )],
        errors: r#"bad.toml:7:1: cluster[main].check.mysql: with mysql = false nothing says whether primaries are alive
    add a [[cluster.check.tcp]] or [[cluster.check.http]] section for them, or remove mysql = false
bad.toml:7:1: cluster[main].check.mysql: with mysql = false nothing says whether replicas are alive
    add a [[cluster.check.tcp]] or [[cluster.check.http]] section for them, or remove mysql = false
2 errors"#,
    },
    Case {
        name: "mysql that is no boolean",
        changes: &[(
            r#"user = "pairflip""#,
            r#"mysql = "no"
user = "pairflip""#,
        )],
        errors: r#"bad.toml:8:9: cluster[main].check.mysql: expected true or false, found "no"
    write mysql = true"#,
    },
    Case {
        name: "a heartbeat table without a database",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
heartbeat = "heartbeat""#,
        )],
        errors: r#"bad.toml:10:13: cluster[main].check.heartbeat: "heartbeat" is not a table of a database
    write both names with letters, digits, _ and $, as in "percona.heartbeat""#,
    },
    Case {
        name: "a heartbeat table with a quote",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
heartbeat = { table = "a`.b", server_id = 0, utc = "yes", color = 1 }"#,
        )],
        errors: r#"bad.toml:10:23: cluster[main].check.heartbeat.table: "a`.b" is not a table of a database
    write both names with letters, digits, _ and $, as in "percona.heartbeat"
bad.toml:10:43: cluster[main].check.heartbeat.server_id: 0 is out of range
    write a number from 1 to 4294967295
bad.toml:10:52: cluster[main].check.heartbeat.utc: expected true or false, found "yes"
    write utc = true
bad.toml:10:59: cluster[main].check.heartbeat.color: unknown key of heartbeat = { ... }
    the keys of heartbeat = { ... } are: table, server_id, utc
4 errors"#,
    },
    Case {
        name: "a heartbeat without a table",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
heartbeat = {}"#,
        )],
        errors: r#"bad.toml:10:13: cluster[main].check.heartbeat.table: is missing
    add it, as in table = "percona.heartbeat""#,
    },
    Case {
        name: "gtid that is no boolean",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
gtid = "on""#,
        )],
        errors: r#"bad.toml:10:8: cluster[main].check.gtid: expected true or false, found "on"
    write gtid = true"#,
    },
    Case {
        name: "galera that is a boolean",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
galera = true"#,
        )],
        errors: r#"bad.toml:10:10: cluster[main].check.galera: expected a string, found true
    write galera = "synced""#,
    },
    Case {
        name: "an unknown galera state",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
galera = "sync""#,
        )],
        errors: r#"bad.toml:10:10: cluster[main].check.galera: "sync" is not a known value
    write one of "synced", "donor", "off""#,
    },
    Case {
        name: "TLS without verification",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { mode = "require" }"#,
        )],
        errors: r#"bad.toml:10:16: cluster[main].check.tls.mode: "require" is not supported by this version
    write "verify-ca": encryption to whoever answers protects nothing"#,
    },
    Case {
        name: "an unknown mode of TLS",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { mode = "verify_ca" }"#,
        )],
        errors: r#"bad.toml:10:16: cluster[main].check.tls.mode: "verify_ca" is not a known value
    do you mean "verify-ca"?"#,
    },
    Case {
        name: "a CA that is not there",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { ca_file = "missing" }"#,
        )],
        errors: r#"bad.toml:10:19: cluster[main].check.tls.ca_file: cannot read missing: No such file or directory (os error 2)
    name a file that the daemon can read"#,
    },
    Case {
        name: "a CA that is none",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { ca_file = "lines" }"#,
        )],
        errors: r#"bad.toml:10:19: cluster[main].check.tls.ca_file: lines has no certificate
    name a file with certificates in PEM: -----BEGIN CERTIFICATE-----"#,
    },
    Case {
        name: "a client certificate without a key",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { ca_file = "lines", cert_file = "lines" }"#,
        )],
        errors: r#"bad.toml:10:7: cluster[main].check.tls.key_file: is missing
    a client certificate is two files: add the other one, or remove both"#,
    },
    Case {
        name: "a key without a client certificate",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { ca_file = "lines", key_file = "lines" }"#,
        )],
        errors: r#"bad.toml:10:7: cluster[main].check.tls.cert_file: is missing
    a client certificate is two files: add the other one, or remove both"#,
    },
    Case {
        name: "a server name that is none",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { ca_file = "lines", server_name = "a b" }"#,
        )],
        errors: r#"bad.toml:10:42: cluster[main].check.tls.server_name: "a b" is neither a DNS name nor an address
    write the name in the servers' certificates, as in "db.example.com""#,
    },
    Case {
        name: "a server name that nobody looks at",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
tls = { mode = "verify-ca", ca_file = "lines", server_name = "db" }"#,
        )],
        errors: r#"bad.toml:10:62: cluster[main].check.tls.server_name: is not looked at with mode = "verify-ca"
    remove it, or write mode = "verify""#,
    },
    Case {
        name: "a sql check without anything",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.sql]]
"#,
        )],
        errors: r#"bad.toml:10:1: cluster[main].check.sql[#1].name: is missing
    add name = "disk"
bad.toml:10:1: cluster[main].check.sql[#1].query: is missing
    add the question, as in query = "SELECT @@read_only"
bad.toml:10:1: cluster[main].check.sql[#1].value: is missing
    add the expected answer, as in value = 1 or value = "ON"
3 errors"#,
    },
    Case {
        name: "a sql check with wrong values",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.sql]]
name = "a b"
role = "master"
query = " "
op = "=="
value = [1]
timeout = "1s"
"#,
        )],
        errors: r#"bad.toml:11:8: cluster[main].check.sql[a b].name: "a b" is not a name
    use 1 to 32 letters, digits, - and _, the first of them not a -
bad.toml:12:8: cluster[main].check.sql[a b].role: "master" is not a known value
    do you mean "primary"?
bad.toml:13:9: cluster[main].check.sql[a b].query: " " is empty, too long, or has control characters
    write it as in "SELECT @@read_only"
bad.toml:14:6: cluster[main].check.sql[a b].op: "==" is not a known value
    do you mean "="?
bad.toml:15:9: cluster[main].check.sql[a b].value: expected a string or a number, found a list
    write value = 1
bad.toml:16:11: cluster[main].check.sql[a b].timeout: 1s is longer than the timeout of the whole probe, 500ms
    shorten it, or raise timeout of [cluster.check]
6 errors"#,
    },
    Case {
        name: "checks with the name of another",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.tcp]]
name = "port"
[[cluster.check.exec]]
name = "port"
command = ["/bin/true"]
[[cluster.check.tcp]]
name = "port"
"#,
        )],
        errors: r#"bad.toml:13:8: cluster[main].check.exec[port].name: "port" is the name of another check
    give this [[cluster.check.exec]] section a name of its own
bad.toml:16:8: cluster[main].check.tcp[port].name: "port" is the name of another, at line 11
    give each [[cluster.check.tcp]] section a name of its own
2 errors"#,
    },
    Case {
        name: "a check with the name of a result of the login",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.tcp]]
name = "galera"
"#,
        )],
        errors: r#"bad.toml:11:8: cluster[main].check.tcp[galera].name: "galera" is the name of a result of the login
    give the check another name"#,
    },
    Case {
        name: "an http check without a port",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.http]]
name = "agent"
"#,
        )],
        errors: r#"bad.toml:10:1: cluster[main].check.http[agent].port: is missing
    add the port of the agent, as in port = 9200"#,
    },
    Case {
        name: "an http check with wrong values",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.http]]
name = "agent"
port = 0
method = "GET /"
path = "status"
host = "a\r\nb"
pass = [200, 99]
maintenance = 404
"#,
        )],
        errors: r#"bad.toml:12:8: cluster[main].check.http[agent].port: 0 is out of range
    write a number from 1 to 65535
bad.toml:13:10: cluster[main].check.http[agent].method: "GET /" has a space, is empty, or is not ASCII
    write it as in "GET"
bad.toml:14:8: cluster[main].check.http[agent].path: "status" does not start with /
    write path = "/status"
bad.toml:15:8: cluster[main].check.http[agent].host: "a\r\nb" has a space, is empty, or is not ASCII
    write it as in "db.example.com"
bad.toml:16:14: cluster[main].check.http[agent].pass[2]: 99 is out of range
    write a number from 100 to 599
bad.toml:17:15: cluster[main].check.http[agent].maintenance: expected a list, found the number 404
    write maintenance = [404]
6 errors"#,
    },
    Case {
        name: "an http status that means two things",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.http]]
name = "agent"
port = 9200
pass = [200, 404]
"#,
        )],
        errors: r#"bad.toml:13:8: cluster[main].check.http[agent].pass: 404 is in pass and in maintenance
    leave it in one of them; maintenance = [] is allowed"#,
    },
    Case {
        name: "a tcp check with a port in quotes",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.tcp]]
name = "port"
port = "3306"
"#,
        )],
        errors: r#"bad.toml:12:8: cluster[main].check.tcp[port].port: expected a whole number, found "3306"
    write port = 9200"#,
    },
    Case {
        name: "a command without a path",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.exec]]
name = "disk"
command = ["check"]
"#,
        )],
        errors: r#"bad.toml:12:12: cluster[main].check.exec[disk].command[1]: "check" is not an absolute path
    write the program's whole path; no shell and no PATH is used"#,
    },
    Case {
        name: "a command in one string",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.exec]]
name = "disk"
command = "/bin/check"
"#,
        )],
        errors: r#"bad.toml:12:11: cluster[main].check.exec[disk].command: expected a list, found "/bin/check"
    write command = ["/usr/local/bin/check", "--quick"]"#,
    },
    Case {
        name: "an empty command",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.exec]]
name = "disk"
command = []
"#,
        )],
        errors: r#"bad.toml:12:11: cluster[main].check.exec[disk].command: a command of 0 words
    write 1 to 64, as in ["/usr/local/bin/check", "--quick"]"#,
    },
    Case {
        name: "a command that takes longer than the probe",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.exec]]
name = "disk"
command = ["/bin/true"]
timeout = "501ms"
"#,
        )],
        errors: r#"bad.toml:13:11: cluster[main].check.exec[disk].timeout: 501ms is longer than the timeout of the whole probe, 500ms
    shorten it, or raise timeout of [cluster.check]"#,
    },
    Case {
        name: "too many checks of a kind",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
[[cluster.check.tcp]]
"#,
        )],
        errors: r#"bad.toml:10:1: cluster[main].check.tcp: there are 17, and 16 is the most
    remove some, or divide them among several clusters or daemons"#,
    },
    Case {
        name: "one check with single brackets",
        changes: &[(
            r#"password_file = "password""#,
            r#"password_file = "password"
[cluster.check.tcp]
name = "port"
"#,
        )],
        errors: r#"bad.toml:10:1: cluster[main].check.tcp: expected a list of sections, found a section
    write [[cluster.check.tcp]], with double brackets"#,
    },
];
