//! Good configurations: every file of `configs/`, the defaults, and where passwords come from.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pairflip::config::{
    self, Access, Announce, Applies, Attach, Check, Comparison, Config, Deny, DrainMode,
    Forwarding, INTERFACES_MAX, NoBackend, PortRange, REPLICAS_MAX, Timeouts,
};
use pairflip_common::route::{BACKENDS_MAX, CLUSTERS_MAX, ROUTES_MAX, SNAT_ADDRESSES_MAX};
use pairflip_policy::Severity;

/// The least that a configuration can be.
const MINIMAL: &str = r#"
[daemon]
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
[[cluster.pair]]
name = "pair1"
primary = "10.0.1.11:3306"
replicas = ["10.0.1.12:3306"]
[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
replicas = ["10.0.1.22:3306"]
"#;

/// The example of DESIGN.md, section 5, to the letter.
const DESIGN_EXAMPLE: &str = r#"
[daemon]
interfaces = ["eth0"]                   # where VIP traffic and backend replies arrive; may be several
attach     = "auto"                     # auto | native | generic
control    = "/run/pairflip/control.sock"
state_dir  = "/var/lib/pairflip"
bpffs      = "/sys/fs/bpf/pairflip"     # where program, link and maps are pinned
http       = "127.0.0.1:8404"           # status page, metrics, health; read-only; "" turns it off

[[cluster]]
name       = "main"
forwarding = "snat"                     # snat | dnat | dsr
snat_addresses = ["10.0.1.2"]           # default: the address of the interface towards the backend
snat_ports     = "32768-60999"          # never shared with the host's own sockets
announce   = "arp"                      # arp: put the VIPs on the interface and announce them | none: someone else does
failover   = "manual"                   # manual | auto

  [cluster.check]
  user          = "pairflip"
  password_file = "/etc/pairflip/password"
  interval      = "1s"
  timeout       = "500ms"
  rise          = 2
  fall          = 3
  max_lag       = "10s"

  [cluster.drain]
  mode     = "idle"                     # finish | idle | cut
  deadline = "30s"

  [[cluster.route]]
  name   = "writes"
  vip    = "10.0.0.100:3306"
  access = "write"

  [[cluster.route]]
  name   = "reads"
  vip    = "10.0.0.101:3306"
  access = "read"

  [[cluster.pair]]
  name     = "pair1"
  primary  = "10.0.1.11:3306"
  replicas = ["10.0.1.12:3306"]

  [[cluster.pair]]
  name     = "pair2"
  primary  = "10.0.1.21:3306"
  replicas = ["10.0.1.22:3306"]
"#;

#[test]
fn every_file_of_configs_loads() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if let Err(errors) = config::load_with(&path, &any_password) {
            panic!("{errors}");
        }
        names.push(path.file_name().unwrap().to_owned());
    }
    assert!(names.iter().any(|name| name == "pairflip.toml"), "{names:?}");
}

#[test]
fn the_reference_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pairflip.toml");
    let mut reference = config::load_with(&path, &any_password).unwrap();
    // Only the second route is there for the example's sake.
    reference.clusters[0].routes.truncate(1);
    let minimal = parse(MINIMAL);
    // They are different files, and name different ones.
    reference.source = minimal.source.clone();
    let source = minimal.clusters[0].check.login.as_ref().map(|login| login.source.clone());
    let login = reference.clusters[0].check.login.as_mut().expect("a login");
    login.source = source.expect("a login");
    assert_eq!(reference, minimal);
}

#[test]
fn the_reference_shows_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pairflip.toml");
    let text = fs::read_to_string(path).unwrap();
    for key in [
        "interfaces",
        "attach",
        "control",
        "state_dir",
        "bpffs",
        "http",
        "flows_max",
        "half_open_max",
        "flow_log",
        "name",
        "forwarding",
        "snat_addresses",
        "snat_ports",
        "announce",
        "failover",
        "failover_window",
        "no_backend",
        "user",
        "password_file",
        "password_env",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "max_lag",
        "mysql",
        "heartbeat",
        "gtid",
        "galera",
        "tls",
        "query",
        "op",
        "value",
        "port",
        "method",
        "path",
        "host",
        "pass",
        "maintenance",
        "command",
        "role",
        "mode",
        "deadline",
        "half_open",
        "established",
        "closing",
        "vip",
        "access",
        "allow",
        "deny",
        "primary",
        "replicas",
        "weight",
        "slow_start",
        "hold_off",
        "min_replicas",
        "failback",
        "standby_replicas",
        "command",
        "events",
        "severity",
        "clusters",
    ] {
        let shown = text.lines().any(|line| {
            // A line of its own, or a part of `{ address = ..., weight = ... }`.
            let inner = line.find(&format!(" {key} = ")).map(|at| &line[at + 1..]);
            inner
                .unwrap_or_else(|| line.trim_start_matches([' ', '#']))
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with("= "))
        });
        assert!(shown, "{key} is not shown");
    }
}

#[test]
fn the_reference_names_the_limits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pairflip.toml");
    let text = fs::read_to_string(path).unwrap();
    for limit in [
        format!("1 to {INTERFACES_MAX} names"),
        format!("1 to {CLUSTERS_MAX} clusters"),
        format!("Up to {SNAT_ADDRESSES_MAX}."),
        format!("1 to {ROUTES_MAX}, one with"),
        "1 to 256 networks".to_owned(),
        format!("1 to {REPLICAS_MAX}. {BACKENDS_MAX} backends in all"),
    ] {
        assert!(text.contains(&limit), "{limit}");
    }
}

#[test]
fn the_references_examples_of_checks_load() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pairflip.toml");
    let text = fs::read_to_string(path).unwrap();
    let is_example = |line: &str| {
        let line = line.split(" = ").next().unwrap_or_default().trim_end();
        line.starts_with("[[cluster.check.")
            || [
                "heartbeat",
                "name",
                "role",
                "query",
                "op",
                "value",
                "port",
                "method",
                "path",
                "host",
                "pass",
                "maintenance",
                "command",
                "timeout",
            ]
            .contains(&line)
    };
    let lines = text.lines().map(|line| match line.strip_prefix("  #") {
        Some(example) if is_example(example) => example,
        Some(_) | None => line,
    });
    let check = &parse(&lines.collect::<Vec<_>>().join("\n")).clusters[0].check;
    let names: Vec<_> = check.sql.iter().map(|check| (&check.name, check.role)).collect();
    assert_eq!(names, [(&"not_rebuilding".to_owned(), Applies::Replica)]);
    assert_eq!((check.sql[0].op, check.sql[0].value.as_str()), (Comparison::Equal, "0"));
    assert_eq!(
        (check.http[0].port, check.http[0].maintenance.as_slice()),
        (9200, [404].as_slice())
    );
    assert_eq!(check.http[0].host.as_deref(), Some("db.example.com"));
    assert_eq!(check.tcp[0].port, Some(33_062));
    assert_eq!(check.exec[0].command, ["/usr/local/bin/no-backup-running", "--quick"]);
    assert_eq!(check.exec[0].timeout, Duration::from_millis(300));
    let heartbeat = check.login.as_ref().and_then(|login| login.heartbeat.clone()).unwrap();
    assert_eq!((heartbeat.table.as_str(), heartbeat.utc), ("`percona`.`heartbeat`", true));
}

#[test]
fn what_a_check_leaves_out_has_its_default() {
    let kinds = "password_file = \"password\"\ntimeout = \"250ms\"
[[cluster.check.sql]]\nname = \"a\"\nquery = \"SELECT 1\"\nvalue = true
[[cluster.check.http]]\nname = \"b\"\nport = 9200\nmaintenance = []
[[cluster.check.tcp]]\nname = \"c\"
[[cluster.check.exec]]\nname = \"d\"\ncommand = [\"/bin/true\"]";
    let check = &parse(&MINIMAL.replace("password_file = \"password\"", kinds)).clusters[0].check;
    assert_eq!((check.sql[0].role, check.sql[0].op), (Applies::Any, Comparison::Equal));
    assert_eq!(check.sql[0].value, "1");
    let http = &check.http[0];
    assert_eq!((http.method.as_str(), http.path.as_str(), &http.host), ("GET", "/", &None));
    assert_eq!(
        (http.pass.as_slice(), http.maintenance.as_slice()),
        ([200].as_slice(), [].as_slice())
    );
    assert_eq!(check.tcp[0].port, None);
    let timeouts =
        [check.sql[0].timeout, http.timeout, check.tcp[0].timeout, check.exec[0].timeout];
    assert_eq!(timeouts, [Duration::from_millis(250); 4]);
}

#[test]
fn a_cluster_can_do_without_a_login() {
    let account = "user = \"pairflip\"\npassword_file = \"password\"\n";
    let without = "mysql = false\n[[cluster.check.tcp]]\nname = \"port\"\n";
    let config = parse(&MINIMAL.replace(account, without));
    let check = &config.clusters[0].check;
    assert_eq!((check.login.is_none(), check.tcp.len()), (true, 1));
    assert_eq!(config.warnings(), [""; 0]);
    // Who is to be asked what sessions are doing must be logged in to.
    let idle = MINIMAL
        .replace(account, without)
        .replace("[[cluster.route]]", "[cluster.drain]\nmode = \"idle\"\n[[cluster.route]]");
    let warnings = parse(&idle).warnings();
    assert!(warnings.concat().contains("there is no check account"), "{warnings:?}");
}

#[test]
fn the_example_of_the_design_loads() {
    let config = parse(DESIGN_EXAMPLE);
    let cluster = &config.clusters[0];
    assert_eq!(cluster.snat_addresses, ["10.0.1.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(cluster.drain.mode, DrainMode::Idle);
    assert_eq!(cluster.drain.deadline, Some(Duration::from_secs(30)));
    assert_eq!(cluster.routes[1].access, Access::Read);
    let backends: Vec<String> = cluster.backends().map(|backend| backend.to_string()).collect();
    assert_eq!(backends, ["10.0.1.11:3306", "10.0.1.12:3306", "10.0.1.21:3306", "10.0.1.22:3306"]);
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(MINIMAL);
    assert_eq!(config.daemon.attach, Attach::Auto);
    assert_eq!(config.daemon.http, Some("127.0.0.1:8404".parse().unwrap()));
    let cluster = &config.clusters[0];
    assert!(cluster.snat_addresses.is_empty());
    assert_eq!(cluster.snat_ports, PortRange { min: 32768, max: 60999 });
    assert_eq!(cluster.announce, Announce::Arp);
    assert_eq!(cluster.no_backend, NoBackend::Reset);
    assert_eq!(cluster.drain.mode, DrainMode::Finish);
    let seconds = Duration::from_secs;
    let timeouts =
        Timeouts { half_open: seconds(130), established: seconds(36_000), closing: seconds(120) };
    assert_eq!(cluster.timeouts, timeouts);
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn a_second_cluster_may_be_of_the_other_family() {
    let second = MINIMAL
        .replace("[daemon]\ninterfaces = [\"eth0\"]\n", "")
        .replace("\"main\"", "\"main6\"\nsnat_addresses = [\"fd00::2\"]")
        .replace("10.0.0.100", "[2001:db8::100]")
        .replace("10.0.1.", "[2001:db8::1:")
        .replace(":11:3306", ":11]:3306")
        .replace(":12:3306", ":12]:3306")
        .replace(":21:3306", ":21]:3306")
        .replace(":22:3306", ":22]:3306");
    let config = parse(&format!("{MINIMAL}{second}"));
    let cluster = &config.clusters[1];
    assert_eq!(cluster.routes[0].vip.to_string(), "[2001:db8::100]:3306");
    let backends: Vec<String> = cluster.backends().map(|backend| backend.to_string()).collect();
    assert_eq!(backends[3], "[2001:db8::1:22]:3306");
    assert_eq!(cluster.snat_addresses, ["fd00::2".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn every_forwarding_mode_can_be_chosen() {
    for mode in [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr] {
        let line = format!("name = \"main\"\nforwarding = \"{}\"", mode.name());
        let config = parse(&MINIMAL.replace("name = \"main\"", &line));
        assert_eq!(config.clusters[0].forwarding, mode);
    }
    // Only dsr needs one port for all.
    let ports = MINIMAL.replace("10.0.1.22:3306", "10.0.1.22:3307");
    parse(&ports.replace("name = \"main\"", "name = \"main\"\nforwarding = \"dnat\""));
}

#[test]
fn a_route_can_be_for_some_networks_only() {
    let lines = "access = \"write\"\nallow = [\"10.0.0.0/8\", \"192.0.2.7/32\"]\ndeny = \"drop\"";
    let config = parse(&MINIMAL.replace("access = \"write\"", lines));
    let route = &config.clusters[0].routes[0];
    let networks = ["10.0.0.0/8", "192.0.2.7/32"].map(|network| network.parse().unwrap());
    assert_eq!((route.allow.as_slice(), route.deny), (networks.as_slice(), Deny::Drop));
    let everybody = &parse(MINIMAL).clusters[0].routes[0];
    assert_eq!((everybody.allow.as_slice(), everybody.deny), ([].as_slice(), Deny::Reset));
}

#[test]
fn replicas_may_have_weights_and_a_slow_start() {
    let text = MINIMAL
        .replace("[\"10.0.1.12:3306\"]", "[\"10.0.1.12:3306\", { address = \"10.0.1.13:3306\", weight = 50 }, { address = \"10.0.1.14:3306\" }]")
        .replace("name = \"main\"", "name = \"main\"\nslow_start = \"30s\"");
    let cluster = &parse(&text).clusters[0];
    let weights: Vec<u16> = cluster.pairs[0].replicas.iter().map(|it| it.weight).collect();
    assert_eq!(weights, [100, 50, 100]);
    assert_eq!(cluster.backends().count(), 6);
    assert_eq!(cluster.slow_start, Duration::from_secs(30));
    assert_eq!(parse(MINIMAL).clusters[0].slow_start, Duration::ZERO);
}

#[test]
fn connections_are_logged_when_asked_for() {
    assert!(!parse(MINIMAL).daemon.flow_log);
    assert!(parse(&MINIMAL.replace("[daemon]", "[daemon]\nflow_log = true")).daemon.flow_log);
}

#[test]
fn http_can_be_turned_off() {
    let config = parse(&MINIMAL.replace("[daemon]", "[daemon]\nhttp = \"\""));
    assert_eq!(config.daemon.http, None);
}

#[test]
fn the_fast_interval_follows_the_timeout() {
    let text = MINIMAL.replace("[cluster.check]", "[cluster.check]\ntimeout = \"250ms\"");
    assert_eq!(parse(&text).clusters[0].check.fast_interval, Duration::from_millis(250));
}

#[test]
fn detection_takes_one_interval_and_the_counting() {
    let check = Check {
        login: None,
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(300),
        timeout: Duration::from_millis(200),
        rise: 2,
        fall: 4,
        max_lag: Duration::from_secs(10),
        sql: Vec::new(),
        http: Vec::new(),
        tcp: Vec::new(),
        exec: Vec::new(),
    };
    assert_eq!(check.detection_time(), Duration::from_millis(2000 + 3 * 300 + 200));
    let once = Check { fall: 1, ..check };
    assert_eq!(once.detection_time(), Duration::from_millis(2200));
}

#[test]
fn a_password_is_read_beside_the_configuration_and_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pairflip.toml");
    fs::write(&path, MINIMAL).unwrap();
    let password = directory.path().join("password");
    fs::write(&password, "p\u{e4}ss word \r\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o640)).unwrap();
    let config = config::load(&path).unwrap();
    assert_eq!(password_of(&config), "p\u{e4}ss word ");
    assert!(!format!("{config:?}").contains("word "));
}

#[test]
fn a_password_comes_from_the_environment() {
    let text = MINIMAL.replace("password_file = \"password\"", "password_env = \"MYSQL_PWD\"");
    let variable = |name: &Path| match name.to_str() {
        Some("MYSQL_PWD") => Ok("from the environment".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let config = config::parse(&text, Path::new("pairflip.toml"), &variable).unwrap();
    assert_eq!(password_of(&config), "from the environment");
}

fn parse(text: &str) -> Config {
    match config::parse(text, Path::new("pairflip.toml"), &any_password) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

fn password_of(config: &Config) -> &str {
    let login = config.clusters[0].check.login.as_ref();
    login.expect("a login").password.expose()
}

fn any_password(_: &Path) -> io::Result<String> {
    Ok("secret".to_owned())
}

#[test]
fn a_hook_says_what_it_wants_to_be_told() {
    let text = format!(
        r#"
{MINIMAL}
[[hook]]
name = "pager"
command = ["/etc/pairflip/notify", "--team", "dba"]
events = ["flip_done", "route_changed"]
severity = "warning"
clusters = ["main"]
timeout = "30s"
[[hook]]
name = "all"
command = ["/bin/true"]
"#
    );
    let config = parse(&text);
    let [pager, all] = &config.hooks[..] else { panic!("two hooks") };
    assert_eq!(pager.command, ["/etc/pairflip/notify", "--team", "dba"]);
    assert_eq!(pager.events, ["flip_done", "route_changed"]);
    assert_eq!((pager.severity, pager.timeout), (Severity::Warning, Duration::from_secs(30)));
    assert_eq!(pager.clusters, ["main"]);
    assert_eq!((all.severity, all.timeout), (Severity::Info, Duration::from_secs(10)));
    assert!(all.events.is_empty() && all.clusters.is_empty());
}
