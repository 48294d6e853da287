//! `[[cluster]]` and the sections below it: their keys, defaults and ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use pairflip_common::route::{BACKENDS_MAX, CLUSTERS_MAX, ROUTES_MAX, SNAT_ADDRESSES_MAX};

use super::check;
use super::field::Field;
use super::model::{
    Access, Announce, Cluster, Deny, DrainConfig, DrainMode, Failback, Failover, FlipConfig,
    Forwarding, NoBackend, Pair, PortRange, Replica, Route, StandbyReplicas, Timeouts,
};
use super::reader::Reader;
use super::rules::Census;
use super::secret::Secrets;
use super::section::{Schema, Section};
use super::value::{self, Fault, Human};

pub(super) const CLUSTER: Schema = Schema {
    header: "[[cluster]]",
    keys: &[
        "name",
        "forwarding",
        "snat_addresses",
        "snat_ports",
        "announce",
        "failover",
        "failover_window",
        "no_backend",
        "slow_start",
        "hold_off",
        "check",
        "flip",
        "drain",
        "timeouts",
        "route",
        "pair",
    ],
    unsupported: &[(
        "hooks",
        "write [[hook]] sections at the top level, with clusters = [\"NAME\"]",
    )],
};

pub(super) const FLIP: Schema =
    Schema { header: "[cluster.flip]", keys: &["deadline", "max_pause"], unsupported: &[] };

pub(super) const DRAIN: Schema =
    Schema { header: "[cluster.drain]", keys: &["mode", "deadline"], unsupported: &[] };

pub(super) const TIMEOUTS: Schema = Schema {
    header: "[cluster.timeouts]",
    keys: &["half_open", "established", "closing"],
    unsupported: &[],
};

pub(super) const ROUTE: Schema = Schema {
    header: "[[cluster.route]]",
    keys: &[
        "name",
        "vip",
        "access",
        "min_replicas",
        "failback",
        "standby_replicas",
        "allow",
        "deny",
    ],
    unsupported: &[],
};

pub(super) const PAIR: Schema =
    Schema { header: "[[cluster.pair]]", keys: &["name", "primary", "replicas"], unsupported: &[] };

/// The long form of an element of `replicas`.
pub(super) const REPLICA: Schema =
    Schema { header: "replicas = [{ ... }]", keys: &["address", "weight"], unsupported: &[] };

/// The kernel's usual range for outgoing connections; the daemon takes it out of its hands.
const DEFAULT_SNAT_PORTS: PortRange = PortRange { min: 32_768, max: 60_999 };

/// Of a flip, in the configuration and on the command line. Shorter than any flip is a way to try that it is undone.
pub const FLIP_DEADLINE_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// A pause that is longer than clients wait for a connection only makes more errors.
const MAX_PAUSE_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);

const DEADLINE_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(7 * 86_400);
/// A second is a thousand round trips within a data centre; no host tries for ten minutes.
const HALF_OPEN_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// A minute of silence is an ordinary query.
const ESTABLISHED_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);
const CLOSING_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Off: nobody is surprised by a replica that gets less than its share.
const DEFAULT_SLOW_START: Duration = Duration::ZERO;
/// Caches are warm after an hour.
const SLOW_START_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Longer than a restart that goes wrong once, shorter than anybody waits for.
const DEFAULT_HOLD_OFF: Duration = Duration::from_secs(10);
/// Sixteen times as long at most: most of a day.
const HOLD_OFF_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Long enough for somebody to be woken up and to look.
const DEFAULT_FAILOVER_WINDOW: Duration = Duration::from_secs(3600);
/// Below a second it is none; a month is as good as for ever.
const FAILOVER_WINDOW_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
const DEFAULT_MIN_REPLICAS: u32 = 1;
const DEFAULT_WEIGHT: u32 = 100;
/// A tenth of the default is a small server's; ten times it leaves room for a large one.
const WEIGHT_RANGE: RangeInclusive<u32> = 1..=1000;
/// Replicas of a pair: with more of them, some would have few of the 1024 slots of a route's choice table and an uneven share.
pub const REPLICAS_MAX: usize = 128;
/// Networks of one route: an office, its branches and its hosts; more is a firewall's business.
const ALLOW_MAX: usize = 256;
pub(super) fn read_all(
    reader: &mut Reader,
    census: &mut Census,
    field: &Field,
    secrets: &dyn Secrets,
) -> Option<Vec<Cluster>> {
    let sections = field.tables(reader, &CLUSTER, CLUSTERS_MAX as usize)?;
    // Every cluster is read before the first `None` counts, so that all errors are found.
    let clusters: Vec<_> =
        sections.iter().map(|section| read(reader, census, section, secrets)).collect();
    clusters.into_iter().collect()
}

fn read(
    reader: &mut Reader,
    census: &mut Census,
    section: &Section,
    secrets: &dyn Secrets,
) -> Option<Cluster> {
    let mark = census.mark();
    let name = read_name(reader, section, "name = \"main\"");
    let forwarding = read_forwarding(reader, section);
    let failover = section.optional(reader, "failover", Failover::Manual, |reader, field| {
        field.choose(reader, &[("manual", Failover::Manual), ("auto", Failover::Auto)], &[])
    });
    let failover_window =
        section.optional(reader, "failover_window", DEFAULT_FAILOVER_WINDOW, |reader, field| {
            field.parse(reader, "\"1h\"", |text| value::duration(text, FAILOVER_WINDOW_RANGE))
        });
    let snat_addresses = section.optional(reader, "snat_addresses", Vec::new(), |reader, field| {
        field.distinct(reader, "[\"10.0.1.2\"]", SNAT_ADDRESSES_MAX, value::address)
    });
    let snat_ports = section.optional(reader, "snat_ports", DEFAULT_SNAT_PORTS, |reader, field| {
        field.parse(reader, "\"32768-60999\"", value::port_range)
    });
    let announce = section.optional(reader, "announce", Announce::Arp, |reader, field| {
        field.choose(reader, &[("arp", Announce::Arp), ("none", Announce::None)], &[])
    });
    let no_backend = section.optional(reader, "no_backend", NoBackend::Reset, |reader, field| {
        field.choose(reader, &[("reset", NoBackend::Reset), ("drop", NoBackend::Drop)], &[])
    });
    let slow_start = section.optional(reader, "slow_start", DEFAULT_SLOW_START, |reader, field| {
        field.parse(reader, "\"30s\"", |text| value::duration(text, SLOW_START_RANGE))
    });
    let hold_off = section.optional(reader, "hold_off", DEFAULT_HOLD_OFF, |reader, field| {
        field.parse(reader, "\"10s\"", |text| value::duration(text, HOLD_OFF_RANGE))
    });
    let check = section
        .require(reader, "check", "add a [cluster.check] section with user and password_file")
        .and_then(|field| check::read(reader, &field, secrets));
    let flip = section.optional(reader, "flip", FlipConfig::DEFAULT, read_flip);
    let default_drain = DrainConfig { mode: DrainMode::Finish, deadline: None };
    let drain = section.optional(reader, "drain", default_drain, read_drain);
    let timeouts = section.optional(reader, "timeouts", Timeouts::DEFAULT, read_timeouts);
    let routes = section
        .require(reader, "route", "add a [[cluster.route]] section for each VIP")
        .and_then(|field| read_routes(reader, census, &field));
    let pairs = section
        .require(reader, "pair", "add a [[cluster.pair]] section for each pair, two at least")
        .and_then(|field| read_pairs(reader, census, &field));
    for (address, place) in snat_addresses.iter().flatten() {
        census.add_snat_address(*address, place.clone());
    }
    census.judge_cluster(reader, mark, forwarding);
    if failover == Some(Failover::Auto)
        && check.as_ref().is_some_and(|check| check.login.is_none())
        && let Some(field) = section.field("failover")
    {
        let problem = "needs a login: without one nobody sees what the standby has applied";
        let remedy = "write failover = \"manual\", or remove mysql = false from [cluster.check] and give it an account";
        reader.report(&field.place, Fault::new(problem, remedy));
    }
    Some(Cluster {
        name: name?,
        forwarding: forwarding?,
        snat_addresses: snat_addresses?.into_iter().map(|(address, _)| address).collect(),
        snat_ports: snat_ports?,
        announce: announce?,
        failover: failover?,
        failover_window: failover_window?,
        no_backend: no_backend?,
        check: check?,
        flip: flip?,
        drain: drain?,
        slow_start: slow_start?,
        hold_off: hold_off?,
        timeouts: timeouts?,
        routes: routes?,
        pairs: pairs?,
    })
}

/// Reports keys that another mode would need, too: whoever wrote them expects them to be obeyed.
fn read_forwarding(reader: &mut Reader, section: &Section) -> Option<Forwarding> {
    let choices = [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr].map(|it| (it.name(), it));
    let forwarding =
        section.optional(reader, "forwarding", Forwarding::Snat, |reader, field| {
            field.choose(reader, &choices, &[])
        })?;
    if forwarding != Forwarding::Snat {
        for field in ["snat_addresses", "snat_ports"].iter().filter_map(|key| section.field(key)) {
            let problem = format!(
                "belongs to forwarding = \"snat\", and this cluster's is {}",
                value::quoted(forwarding.name())
            );
            let remedy = "remove it: backends see the clients' own addresses and ports";
            reader.report(&field.place, Fault::new(problem, remedy));
        }
    }
    Some(forwarding)
}

fn read_name(reader: &mut Reader, section: &Section, example: &str) -> Option<String> {
    section
        .require(reader, "name", &format!("add {example}"))
        .and_then(|field| field.parse(reader, "\"main\"", value::name))
}

fn read_flip(reader: &mut Reader, field: &Field) -> Option<FlipConfig> {
    let section = field.table(reader, &FLIP)?;
    let default = FlipConfig::DEFAULT;
    let deadline = section.optional(reader, "deadline", default.deadline, |reader, field| {
        field.parse(reader, "\"60s\"", |text| value::duration(text, FLIP_DEADLINE_RANGE))
    });
    let max_pause = section.optional(reader, "max_pause", default.max_pause, |reader, field| {
        field.parse(reader, "\"5s\"", |text| value::duration(text, MAX_PAUSE_RANGE))
    });
    Some(FlipConfig { deadline: deadline?, max_pause: max_pause? })
}

fn read_drain(reader: &mut Reader, field: &Field) -> Option<DrainConfig> {
    let section = field.table(reader, &DRAIN)?;
    let mode = section.optional(reader, "mode", DrainMode::Finish, |reader, field| {
        let choices =
            [("finish", DrainMode::Finish), ("idle", DrainMode::Idle), ("cut", DrainMode::Cut)];
        field.choose(reader, &choices, &[])
    });
    let deadline = section.optional(reader, "deadline", None, |reader, field| {
        field.parse(reader, "\"30s\"", |text| value::duration(text, DEADLINE_RANGE)).map(Some)
    });
    Some(DrainConfig { mode: mode?, deadline: deadline? })
}

fn read_timeouts(reader: &mut Reader, field: &Field) -> Option<Timeouts> {
    let section = field.table(reader, &TIMEOUTS)?;
    let mut timeout = |name: &str, default: Duration, range: RangeInclusive<Duration>| {
        section.optional(reader, name, default, |reader, field| {
            let example = value::quoted(&Human(default).to_string());
            field.parse(reader, &example, |text| value::duration(text, range))
        })
    };
    let half_open = timeout("half_open", Timeouts::DEFAULT.half_open, HALF_OPEN_RANGE);
    let established = timeout("established", Timeouts::DEFAULT.established, ESTABLISHED_RANGE);
    let closing = timeout("closing", Timeouts::DEFAULT.closing, CLOSING_RANGE);
    Some(Timeouts { half_open: half_open?, established: established?, closing: closing? })
}

fn read_routes(reader: &mut Reader, census: &mut Census, field: &Field) -> Option<Vec<Route>> {
    let sections = field.tables(reader, &ROUTE, ROUTES_MAX as usize)?;
    let routes: Vec<_> =
        sections.iter().map(|section| read_route(reader, census, section)).collect();
    let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
    if routes.iter().all(|route| route.access != Access::Write) {
        let remedy = "give the route that applications write through access = \"write\"";
        reader.report(&field.place, Fault::new("there is no write route", remedy));
        return None;
    }
    Some(routes)
}

fn read_route(reader: &mut Reader, census: &mut Census, section: &Section) -> Option<Route> {
    let name = read_name(reader, section, "name = \"writes\"");
    let vip = section
        .require(reader, "vip", "add the address that clients use, as in vip = \"10.0.0.100:3306\"")
        .and_then(|field| {
            let vip = field.parse(reader, "\"10.0.0.100:3306\"", value::socket)?;
            census.add_vip(vip, field.place);
            Some(vip)
        });
    let access =
        section.require(reader, "access", "add access = \"write\" or access = \"read\"").and_then(
            |field| field.choose(reader, &[("write", Access::Write), ("read", Access::Read)], &[]),
        );
    let for_reads = |reader: &mut Reader, field: &Field| {
        if access == Some(Access::Write) {
            let remedy = "remove it: writes go to the primary alone";
            reader.report(&field.place, Fault::new("belongs to access = \"read\"", remedy));
            return None;
        }
        Some(())
    };
    let min_replicas =
        section.optional(reader, "min_replicas", DEFAULT_MIN_REPLICAS, |reader, field| {
            let count = field.integer(reader, DEFAULT_MIN_REPLICAS, 1..=REPLICAS_MAX as u32)?;
            for_reads(reader, field).map(|()| count)
        });
    let failbacks = [
        ("new-connections", Failback::NewConnections),
        ("idle", Failback::Idle),
        ("cut", Failback::Cut),
        ("off", Failback::Off),
    ];
    let failback =
        section.optional(reader, "failback", Failback::NewConnections, |reader, field| {
            let failback = field.choose(reader, &failbacks, &[])?;
            for_reads(reader, field).map(|()| failback)
        });
    let uses = [
        ("never", StandbyReplicas::Never),
        ("fallback", StandbyReplicas::Fallback),
        ("always", StandbyReplicas::Always),
    ];
    let standby_replicas =
        section.optional(reader, "standby_replicas", StandbyReplicas::Never, |reader, field| {
            let standby_replicas = field.choose(reader, &uses, &[])?;
            for_reads(reader, field).map(|()| standby_replicas)
        });
    let allow = section.optional(reader, "allow", Vec::new(), |reader, field| {
        let networks = field.distinct(reader, "[\"10.0.0.0/8\"]", ALLOW_MAX, value::network)?;
        Some(
            networks
                .into_iter()
                .map(|(network, place)| {
                    census.add_allowed(network, place);
                    network
                })
                .collect(),
        )
    });
    let deny = section.optional(reader, "deny", Deny::Reset, |reader, field| {
        let deny = field.choose(reader, &[("reset", Deny::Reset), ("drop", Deny::Drop)], &[])?;
        if section.field("allow").is_none() {
            let remedy = "add allow = [\"10.0.0.0/8\"] with the networks that may connect";
            reader.report(&field.place, Fault::new("nobody is denied without allow", remedy));
            return None;
        }
        Some(deny)
    });
    Some(Route {
        name: name?,
        vip: vip?,
        access: access?,
        min_replicas: min_replicas?,
        failback: failback?,
        standby_replicas: standby_replicas?,
        allow: allow?,
        deny: deny?,
    })
}

fn read_pairs(reader: &mut Reader, census: &mut Census, field: &Field) -> Option<Vec<Pair>> {
    let sections = field.tables(reader, &PAIR, BACKENDS_MAX as usize / 2)?;
    let pairs: Vec<_> = sections.iter().map(|section| read_pair(reader, census, section)).collect();
    if pairs.len() < 2 {
        let remedy = "add a second [[cluster.pair]] section: a flip needs somewhere to go";
        reader.report(&field.place, Fault::new("there is only one pair", remedy));
        return None;
    }
    pairs.into_iter().collect()
}

fn read_pair(reader: &mut Reader, census: &mut Census, section: &Section) -> Option<Pair> {
    let name = read_name(reader, section, "name = \"pair1\"");
    let primary = section
        .require(reader, "primary", "add the pair's primary, as in primary = \"10.0.1.11:3306\"")
        .and_then(|field| {
            let primary = field.parse(reader, "\"10.0.1.11:3306\"", value::socket)?;
            census.add_backend(primary, field.place);
            Some(primary)
        });
    let replicas = section
        .require(
            reader,
            "replicas",
            "add the pair's replicas, as in replicas = [\"10.0.1.12:3306\"]",
        )
        .and_then(|field| read_replicas(reader, census, &field));
    Some(Pair { name: name?, primary: primary?, replicas: replicas? })
}

/// Returns 1 to [`REPLICAS_MAX`] replicas.
fn read_replicas(reader: &mut Reader, census: &mut Census, field: &Field) -> Option<Vec<Replica>> {
    let example = "[\"10.0.1.12:3306\"]";
    let address = |replica: &Replica| replica.address;
    let replicas = field.distinct_by(reader, example, REPLICAS_MAX, read_replica, address)?;
    let replicas = replicas.into_iter().map(|(replica, place)| {
        census.add_backend(replica.address, place);
        replica
    });
    Some(replicas.collect())
}

/// Returns a replica, written as its address or as a table of address and weight.
fn read_replica(reader: &mut Reader, field: &Field) -> Option<Replica> {
    let read_address = |reader: &mut Reader, field: &Field| {
        field.parse(reader, "\"10.0.1.12:3306\"", value::socket)
    };
    if !field.is_table() {
        let address = read_address(reader, field)?;
        return Some(Replica { address, weight: DEFAULT_WEIGHT as u16 });
    }
    let section = field.table(reader, &REPLICA)?;
    let address = section
        .require(reader, "address", "add the replica's, as in address = \"10.0.1.12:3306\"")
        .and_then(|field| read_address(reader, &field));
    let weight = section.optional(reader, "weight", DEFAULT_WEIGHT, |reader, field| {
        field.integer(reader, DEFAULT_WEIGHT, WEIGHT_RANGE)
    });
    Some(Replica { address: address?, weight: u16::try_from(weight?).ok()? })
}
