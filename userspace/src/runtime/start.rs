//! Bringing the daemon up: lock the state, load or adopt the data plane, describe the network to it, start the checks.
//!
//! The order matters: nothing that an earlier daemon left in force is changed before it has been read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use pairflip_policy::{BackendId, Input, Moment, Policy};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use super::{
    Pacer, Runtime,
    drain::Holders,
    drains::{Drains, News},
    ids::{Ids, all_backends, all_vips},
    restore::restored,
};
use crate::{
    check::{
        self, Probe,
        keys::{Keys, Notice},
    },
    config::{Attach, Cluster, Config, Forwarding},
    control,
    dataplane::{DataPlane, Families, LoadOptions, Mode},
    drain::{Ask, Flows},
    http,
    journal::Journal,
    net::{frames::FrameSender, links, ports},
    state::{State, StateDir},
};

/// Check results and requests that wait for the loop. It handles one in microseconds; a full queue makes probes wait.
const QUEUE: usize = 256;

/// What the loop listens to.
pub(super) struct Inbox {
    pub(super) results: mpsc::Receiver<(BackendId, Probe)>,
    pub(super) notices: mpsc::Receiver<Notice>,
    /// Of those who told servers what to do.
    pub(super) answers: mpsc::Receiver<Input>,
    /// What draining tasks ask of the data plane.
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) drains: mpsc::Receiver<News>,
    pub(super) requests: mpsc::Receiver<control::Request>,
}

/// The loop's owner and what it listens to.
pub(super) struct Parts {
    pub(super) runtime: Runtime,
    pub(super) inbox: Inbox,
    /// The control socket's server.
    pub(super) server: JoinHandle<()>,
}

pub(super) async fn start(config: Config) -> Result<Parts> {
    let started = Instant::now();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let state_dir = StateDir::open(&config.daemon.state_dir)?;
    let mut state = state_dir.load()?;

    // Before anything forwards: a port of the kernel's must not become a flow's.
    reserve_ports(&config, &mut state)?;
    state_dir.save(&state)?;
    let journal = Journal::open(&config.daemon.state_dir);

    let (request_sender, requests) = mpsc::channel(QUEUE);
    let server = control::server::bind(&config.daemon.control)?;

    let mut dataplane = tokio::task::block_in_place(|| DataPlane::load(&load_options(&config)))?;
    log_attachments(&dataplane);
    let indices = dataplane.assign_backends(&all_backends(&config))?;
    let slots = dataplane.assign_vips(&all_vips(&config))?;
    let ids = Ids::new(&config, &indices, slots);
    protect_host_connections(&config, &mut dataplane)?;
    describe_ports(&config, &mut dataplane)?;
    let targets: BTreeSet<_> = ids.backends.values().map(SocketAddr::ip).collect();
    let attached = config.daemon.interfaces.clone();
    let network = links::watch(targets.into_iter().collect(), attached)
        .await
        .context("watching routes and neighbours through netlink")?;

    let restored = restored(&config, &ids, &state, &dataplane)?;
    let policy = Policy::new(ids.specs(&config), restored, Moment::START);
    let (result_sender, results) = mpsc::channel(QUEUE);
    let (answer_sender, answers) = mpsc::channel(QUEUE);
    let (flows, asks) = Flows::channel();
    let (news, drains) = mpsc::channel(QUEUE);
    let (notice_sender, notices) = mpsc::channel(QUEUE);
    let keys = all_keys(&config, &notice_sender);
    let pacers = start_checks(&config, &ids, &keys, &result_sender);
    let mut runtime = Runtime {
        ids,
        policy,
        dataplane,
        state_dir,
        state,
        journal,
        hooks: super::hooks::Hooks::start(&config.hooks),
        started,
        pacers,
        keys,
        hops: BTreeMap::new(),
        devices: BTreeMap::new(),
        frames: FrameSender::open().context("opening a packet socket; CAP_NET_RAW is needed")?,
        last_ended: None,
        network,
        flips: super::PendingFlips::default(),
        switchovers: super::Switchovers::default(),
        answers: answer_sender,
        flows,
        holders: Holders::default(),
        drains: Drains::new(news),
        announced: false,
        stopping: None,
        config,
    };
    runtime.place_snat_addresses().await?;
    runtime.follow_network();
    runtime.publish_rules()?;
    runtime.publish_vips()?;
    runtime.read_flow_log()?;
    runtime.read_packet_log()?;

    let server = tokio::spawn(control::server::serve(server, request_sender.clone()));
    start_http(&runtime.config, request_sender).await;
    let inbox = Inbox { results, notices, answers, asks, drains, requests };
    Ok(Parts { runtime, inbox, server })
}

fn load_options(config: &Config) -> LoadOptions {
    LoadOptions {
        interfaces: config.daemon.interfaces.clone(),
        mode: match config.daemon.attach {
            Attach::Auto => None,
            Attach::Native => Some(Mode::Native),
            Attach::Generic => Some(Mode::Generic),
        },
        bpffs: config.daemon.bpffs.clone(),
        flows_max: config.daemon.flows_max,
        half_open_max: config.daemon.half_open_max,
        families: families(config),
        all_programs: false,
    }
}

fn families(config: &Config) -> Families {
    let has = |v6: bool| all_backends(config).iter().any(|backend| backend.is_ipv6() == v6);
    Families { v4: has(false), v6: has(true) }
}

fn log_attachments(dataplane: &DataPlane) {
    for attachment in dataplane.attachments() {
        let (interface, mode) = (&attachment.interface, attachment.mode.name());
        match &attachment.native_error {
            Some(reason) => tracing::warn!(
                interface,
                mode,
                reason,
                "attached in generic mode, which costs more per packet, because native mode is not possible"
            ),
            None if attachment.adopted => tracing::info!(
                interface,
                mode,
                "replaced the program of an earlier daemon; its connections live on"
            ),
            None => tracing::info!(interface, mode, "attached"),
        }
    }
}

/// The ports that belong to flows; only `snat` takes ports of this host.
fn snat_clusters(config: &Config) -> impl Iterator<Item = (&Cluster, RangeInclusive<u16>)> {
    let snat = |cluster: &&Cluster| cluster.forwarding == Forwarding::Snat;
    let range = |cluster: &Cluster| cluster.snat_ports.min..=cluster.snat_ports.max;
    config.clusters.iter().filter(snat).map(move |cluster| (cluster, range(cluster)))
}

fn reserve_ports(config: &Config, state: &mut State) -> Result<()> {
    for (_, range) in snat_clusters(config) {
        let reservation = ports::reserve(&range, state.ports.take())
            .context("taking snat_ports out of the kernel's hands")?;
        if reservation.before != reservation.after {
            tracing::info!(
                before = ?reservation.before.ephemeral,
                after = ?reservation.after.ephemeral,
                reserved = %reservation.after.reserved,
                "the kernel hands out no port of snat_ports (net.ipv4.ip_local_reserved_ports, ip_local_port_range); `pairflip unload` undoes this"
            );
        }
        state.ports = Some(reservation);
    }
    Ok(())
}

/// The host's own connections to backends that hold a port of `snat_ports` since before us keep it.
fn protect_host_connections(config: &Config, dataplane: &mut DataPlane) -> Result<()> {
    for (cluster, range) in snat_clusters(config) {
        let sockets = ports::sockets_inside(&range, &cluster.backends().collect())
            .context("listing the host's own connections inside snat_ports")?;
        for (local, remote) in sockets {
            tracing::warn!(%local, %remote, "a connection of this host's own uses a port of snat_ports; it keeps the port");
            dataplane.protect_host_connection(local, remote)?;
        }
    }
    Ok(())
}

fn describe_ports(config: &Config, dataplane: &mut DataPlane) -> Result<()> {
    let ranges = || snat_clusters(config).map(|(_, range)| range);
    // Without `snat` an empty range: no port is ours.
    let min = ranges().map(|range| *range.start()).min().unwrap_or(u16::MAX);
    let max = ranges().map(|range| *range.end()).max().unwrap_or(0);
    Ok(dataplane.set_snat_ports(min, max)?)
}

/// The keys of every cluster that logs in, by its index.
fn all_keys(config: &Config, notices: &mpsc::Sender<Notice>) -> BTreeMap<usize, Keys> {
    let clusters = config.clusters.iter().enumerate();
    clusters
        .filter_map(|(index, cluster)| {
            let login = cluster.check.login.clone()?;
            Some((index, Keys::new(login, index, notices.clone())))
        })
        .collect()
}

fn start_checks(
    config: &Config,
    ids: &Ids,
    keys: &BTreeMap<usize, Keys>,
    results: &mpsc::Sender<(BackendId, Probe)>,
) -> BTreeMap<BackendId, Pacer> {
    let mut pacers = BTreeMap::new();
    for (index, cluster) in config.clusters.iter().enumerate() {
        for checker in check::checkers(cluster, keys.get(&index)) {
            let Some(backend) = ids.backend(checker.target()) else { continue };
            let (pace, pace_receiver) = watch::channel(Some(cluster.check.fast_interval));
            let kick = Arc::new(Notify::new());
            let results = results.clone();
            let checks_kick = Arc::clone(&kick);
            tokio::spawn(async move {
                check::run(backend, checker, pace_receiver, &checks_kick, results).await;
            });
            pacers.insert(backend, Pacer { pace, kick });
        }
    }
    pacers
}

/// The read-only listener is a convenience: without it the daemon does its job, so a taken port is a warning.
async fn start_http(config: &Config, requests: mpsc::Sender<control::Request>) {
    let Some(address) = config.daemon.http else { return };
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => {
            tokio::spawn(http::serve(listener, requests));
        }
        Err(error) => tracing::warn!(
            %address,
            %error,
            "daemon.http cannot be bound: no metrics and no health page; free the address, or set http = \"\""
        ),
    }
}
