//! What must hold between the clusters, routes and pairs of a daemon.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use pairflip_common::route::BACKENDS_MAX;

use super::model::{Forwarding, Network};
use super::reader::{Place, Reader};
use super::value::Fault;

/// Every address of the file and where it is written, in the order of the file per kind.
#[derive(Default)]
pub(super) struct Census {
    vips: Vec<(SocketAddr, Place)>,
    backends: Vec<(SocketAddr, Place)>,
    snat_addresses: Vec<(IpAddr, Place)>,
    allowed: Vec<(Network, Place)>,
}

/// How far a census was when something began.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    vips: usize,
    backends: usize,
    snat_addresses: usize,
    allowed: usize,
}

impl Census {
    pub(super) fn add_vip(&mut self, vip: SocketAddr, place: Place) {
        self.vips.push((vip, place));
    }

    pub(super) fn add_backend(&mut self, backend: SocketAddr, place: Place) {
        self.backends.push((backend, place));
    }

    pub(super) fn add_snat_address(&mut self, address: IpAddr, place: Place) {
        self.snat_addresses.push((address, place));
    }

    pub(super) fn add_allowed(&mut self, network: Network, place: Place) {
        self.allowed.push((network, place));
    }

    /// Returns where the entries of a cluster that is read next begin.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            vips: self.vips.len(),
            backends: self.backends.len(),
            snat_addresses: self.snat_addresses.len(),
            allowed: self.allowed.len(),
        }
    }

    /// Reports what is broken between the entries of one cluster, which are those from `mark` on.
    ///
    /// `forwarding` is `None` where it was wrong itself.
    pub(super) fn judge_cluster(
        &self,
        reader: &mut Reader,
        mark: Mark,
        forwarding: Option<Forwarding>,
    ) {
        let vips = &self.vips[mark.vips..];
        let backends = &self.backends[mark.backends..];
        let snat_addresses = &self.snat_addresses[mark.snat_addresses..];
        // The VIPs are what the cluster is for; its first is what the rest has to fit.
        let Some((first, first_place)) = vips.first().or(backends.first()) else { return };
        let other = |address: IpAddr| address.is_ipv4() != first.is_ipv4();
        // One of a kind says it all: whole pairs are of the other family, or one word is a slip.
        let strangers = [
            vips.iter().find(|(vip, _)| other(vip.ip())).map(|(vip, place)| (vip.ip(), place)),
            backends.iter().find(|(it, _)| other(it.ip())).map(|(it, place)| (it.ip(), place)),
            snat_addresses.iter().find(|(it, _)| other(*it)).map(|(it, place)| (*it, place)),
        ];
        for (address, place) in strangers.into_iter().flatten() {
            let problem = format!(
                "{address} is {}, and {} at line {} is {}",
                family(address),
                first_place.key,
                reader.line(first_place),
                family(first.ip()),
            );
            let remedy = format!(
                "one cluster has one family: make a second [[cluster]] with the {} VIPs and \
                 backends",
                family(address)
            );
            reader.report(place, Fault::new(problem, remedy));
        }
        let allowed = &self.allowed[mark.allowed..];
        if let Some((network, place)) = allowed.iter().find(|(it, _)| other(it.addr())) {
            let problem = format!(
                "{network} is {}, and {} at line {} is {}",
                family(network.addr()),
                first_place.key,
                reader.line(first_place),
                family(first.ip()),
            );
            let remedy = "remove it: the clients of a VIP have addresses of its own family";
            reader.report(place, Fault::new(problem, remedy));
        }
        if forwarding == Some(Forwarding::Dsr) {
            let port = first.port();
            let others = [vips, backends].map(|them| them.iter().find(|(it, _)| it.port() != port));
            for (other, place) in others.into_iter().flatten() {
                let problem = format!(
                    "dsr changes no port, and {} at line {} has port {port}, not {}",
                    first_place.key,
                    reader.line(first_place),
                    other.port(),
                );
                let remedy = "give all VIPs and backends of the cluster one port, or write \
                              forwarding = \"snat\"";
                reader.report(place, Fault::new(problem, remedy));
            }
        }
    }

    /// Reports every rule that is broken between clusters.
    pub(super) fn judge(&self, reader: &mut Reader) {
        report_twice(
            reader,
            &self.vips,
            "is the VIP of another route",
            "give each route an address or a port of its own",
        );
        report_twice(
            reader,
            &self.backends,
            "is a backend already",
            "list each server once: as the primary or a replica of one pair",
        );
        self.judge_addresses(reader);
        if self.backends.len() > BACKENDS_MAX as usize {
            let (_, place) = &self.backends[BACKENDS_MAX as usize];
            let problem = format!(
                "there are {} backends, and {BACKENDS_MAX} is the most",
                self.backends.len()
            );
            let remedy = "divide the clusters among several daemons";
            reader.report(place, Fault::new(problem, remedy));
        }
    }

    /// Reports addresses that a backend shares with the redirector, whatever the port: the
    /// redirector answers for its VIPs, and would take the backend's packets from the network.
    fn judge_addresses(&self, reader: &mut Reader) {
        let mut backends = BTreeMap::new();
        for (backend, place) in &self.backends {
            backends.entry(backend.ip()).or_insert(place);
        }
        let mut judge = |address: IpAddr, place: &Place, remedy: &str| {
            if let Some(backend) = backends.get(&address) {
                let line = reader.line(backend);
                let problem = format!(
                    "{address} is the address of a backend, {} at line {line}",
                    backend.key
                );
                reader.report(place, Fault::new(problem, remedy));
            }
        };
        for (vip, place) in &self.vips {
            judge(vip.ip(), place, "choose an address that no server has");
        }
        for (address, place) in &self.snat_addresses {
            judge(*address, place, "write an address of the redirector itself");
        }
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn report_twice<T: Copy + Display + Ord>(
    reader: &mut Reader,
    values: &[(T, Place)],
    problem: &str,
    remedy: &str,
) {
    let mut firsts: BTreeMap<T, &Place> = BTreeMap::new();
    for (value, place) in values {
        let Some(first) = firsts.get(value) else {
            firsts.insert(*value, place);
            continue;
        };
        let line = reader.line(first);
        let problem = format!("{value} {problem}, {} at line {line}", first.key);
        reader.report(place, Fault::new(problem, remedy));
    }
}
