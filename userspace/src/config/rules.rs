//! What must hold between the clusters, routes and pairs of a daemon.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddrV4};

use pairflip_common::route::BACKENDS_MAX;

use super::reader::{Place, Reader};
use super::value::Fault;

/// Every address of the file and where it is written, in the order of the file per kind.
#[derive(Default)]
pub(super) struct Census {
    vips: Vec<(SocketAddrV4, Place)>,
    backends: Vec<(SocketAddrV4, Place)>,
    snat_addresses: Vec<(Ipv4Addr, Place)>,
}

impl Census {
    pub(super) fn add_vip(&mut self, vip: SocketAddrV4, place: Place) {
        self.vips.push((vip, place));
    }

    pub(super) fn add_backend(&mut self, backend: SocketAddrV4, place: Place) {
        self.backends.push((backend, place));
    }

    pub(super) fn add_snat_address(&mut self, address: Ipv4Addr, place: Place) {
        self.snat_addresses.push((address, place));
    }

    /// Reports every rule that is broken.
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
            backends.entry(*backend.ip()).or_insert(place);
        }
        let mut judge = |address: Ipv4Addr, place: &Place, remedy: &str| {
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
            judge(*vip.ip(), place, "choose an address that no server has");
        }
        for (address, place) in &self.snat_addresses {
            judge(*address, place, "write an address of the redirector itself");
        }
    }
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
