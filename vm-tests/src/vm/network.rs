//! What connects machines: taps and bridges in a network namespace that ends with this process, or plain sockets.
//!
//! QEMU gives a card several queues only on a tap; one on a socket (`-netdev dgram`) has one. The namespace is also a user namespace
//! for a user who is not root, so neither needs rights on the host.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};

use crate::command::sh;

/// Queues of a card on a tap: one for each of a machine's two processors, and as many again, which a virtio card uses to send from
/// XDP without a lock (drivers/net/virtio_net.c, `virtnet_xdp_set`).
const QUEUES: u32 = 4;
/// Interrupts: two for each pair of queues, one for the control queue, one for changes of the configuration.
const VECTORS: u32 = 2 * QUEUES + 2;

/// How cards are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Network {
    /// Cards with several queues.
    Tap,
    /// Needs no rights; one queue. QEMU 7.2 or newer.
    Socket,
}

impl Network {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "taps",
            Self::Socket => "sockets",
        }
    }
}

/// Moves this process into a network namespace of its own where it may make taps. Must be called while it has one thread.
///
/// Nothing outside can be reached from then on.
pub fn enter_namespace() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNET;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context(
        "making a namespace for the machines' network; as a user who is not root this needs user namespaces (kernel.unprivileged_userns_clone), or use --network socket",
    )?;
    if !user.is_root() {
        fs::write("/proc/self/setgroups", "deny").context("giving up groups")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("becoming root inside")?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("becoming root inside")?;
    }
    sh("ip tuntap add dev probe mode tap multi_queue")
        .and_then(|_| sh("ip link del probe"))
        .and_then(|_| sh("ip link add probe type bridge"))
        .and_then(|_| sh("ip link del probe"))
        .context("making taps and bridges (is /dev/net/tun there and yours to open?); --network socket needs none")?;
    Ok(())
}

/// One end of a network: a machine's card.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    /// Name of the card in the guest, and its id in QEMU.
    pub(crate) interface: &'static str,
    /// 77 for the clients' network, 78 for the databases'.
    pub(crate) network: u8,
    /// Distinguishes cards of one network: last byte of the MAC.
    pub(crate) number: u8,
    /// The number of the card at the other end, where there are only two.
    pub(crate) peer: u8,
}

impl Card {
    /// Makes what the card is plugged into and returns QEMU's arguments. `set` distinguishes groups of machines that run side by side.
    pub(crate) fn plug(&self, network: Network, set: usize, dir: &Path) -> Result<Vec<String>> {
        let Self { interface, network: number, number: last, peer } = self;
        let mac = format!("52:54:00:{:02x}:{number:02x}:{last:02x}", set % 256);
        let (backend, queues) = match network {
            Network::Tap => {
                let tap = self.make_tap(set)?;
                let backend = format!(
                    "tap,id={interface},ifname={tap},script=no,downscript=no,queues={QUEUES}"
                );
                (backend, format!(",mq=on,vectors={VECTORS}"))
            }
            Network::Socket => {
                let path = |end: &u8| dir.join(format!("net{number}-{end}")).display().to_string();
                // A machine that is off loses what is sent to it, like a cable without one.
                let backend = format!(
                    "dgram,id={interface},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    path(last),
                    path(peer)
                );
                (backend, String::new())
            }
        };
        Ok(vec![
            "-netdev".to_owned(),
            backend,
            "-device".to_owned(),
            format!("virtio-net-pci,netdev={interface},mac={mac}{queues}"),
        ])
    }

    /// A tap outlives the machine that uses it, so that a machine may be started again.
    fn make_tap(&self, set: usize) -> Result<String> {
        let tap = tap(set, self.network, self.number);
        let bridge = bridge(set, self.network);
        if Path::new("/proc/sys/net/ipv4/conf").join(&tap).exists() {
            return Ok(tap);
        }
        if !Path::new("/proc/sys/net/ipv4/conf").join(&bridge).exists() {
            sh(&format!("ip link add {bridge} type bridge"))?;
            sh(&format!("ip link set {bridge} up"))?;
        }
        sh(&format!("ip tuntap add dev {tap} mode tap multi_queue"))?;
        sh(&format!("ip link set {tap} master {bridge} up"))?;
        Ok(tap)
    }
}

fn tap(set: usize, network: u8, number: u8) -> String {
    format!("s{set}n{network}c{number}")
}

fn bridge(set: usize, network: u8) -> String {
    format!("s{set}n{network}")
}

/// Plugs a card, by the network and the number that it was made with, into another network.
pub(crate) fn replug(set: usize, card: (u8, u8), to: u8) -> Result<()> {
    sh(&format!("ip link set {} master {}", tap(set, card.0, card.1), bridge(set, to)))?;
    Ok(())
}

/// Removes the taps and bridges of a group of machines.
pub(crate) fn remove(set: usize) -> Result<()> {
    let links = sh("ip -o link show")?;
    for link in links.lines() {
        let name = link.split(": ").nth(1).unwrap_or_default();
        let name = name.split('@').next().unwrap_or_default();
        if name.strip_prefix(&format!("s{set}n")).is_some() {
            sh(&format!("ip link del {name}"))?;
        }
    }
    Ok(())
}

/// The network that `wanted` asks for, or else the best that works here.
pub fn choose(wanted: Option<Network>, mut progress: impl FnMut(&str)) -> Result<Network> {
    match wanted {
        Some(Network::Socket) => Ok(Network::Socket),
        Some(Network::Tap) => enter_namespace().map(|()| Network::Tap),
        None => match enter_namespace() {
            Ok(()) => Ok(Network::Tap),
            Err(error) => {
                progress(&format!("cards have one queue each: {error:#}"));
                Ok(Network::Socket)
            }
        },
    }
}
