//! VIPs on an interface, and telling the neighbours.
//!
//! The address makes the kernel answer ARP or neighbour solicitations for the VIP; the announcement
//! corrects the caches of hosts that knew another owner. On a VLAN device both go through that
//! device, which adds the tag. Whether an address was ours to remove is the caller's to remember,
//! see [`Placed`].

use std::{cmp::Reverse, io, net::IpAddr, time::Duration};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle,
    packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo},
};
use serde::{Deserialize, Serialize};

use super::{
    frames::{FrameSender, arp_announcement, neighbour_advertisement},
    links::{self, Interface},
    messages, rtnetlink_handle,
};

/// How often a VIP is announced: one more than ANNOUNCE_NUM of RFC 5227, since nothing repeats a
/// lost one later. It is MAX_NEIGHBOR_ADVERTISEMENT of RFC 4861.
const ANNOUNCE_COUNT: u32 = 3;
/// Half of ANNOUNCE_INTERVAL of RFC 5227, so that all are out while clients still retry their SYNs.
/// Linux ignores a change of an ARP entry that is younger than a second (`locktime`). Also the
/// RetransTimer of RFC 4861, the shortest pause between advertisements.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// A lifetime without end, for the kernel.
const FOREVER: u32 = u32::MAX;

/// What [`place`] found or did.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Placed {
    /// It was not there; whoever unloads us removes it.
    ByUs,
    /// It was there, perhaps with a wider prefix or on another interface; it stays when we go.
    ByOthers { ifindex: u32 },
}

/// Why a VIP could not be put on or taken off.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    #[error("cannot open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("cannot list the addresses of this host")]
    List(#[source] rtnetlink::Error),
    #[error("cannot put {vip} on {interface}; CAP_NET_ADMIN is needed")]
    Add { vip: IpAddr, interface: String, source: rtnetlink::Error },
    #[error(
        "cannot put {vip} on {interface}: it has no IPv6; `sysctl \
         net.ipv6.conf.{interface}.disable_ipv6=0`"
    )]
    NoIpv6 { vip: IpAddr, interface: String },
    #[error("cannot take {vip} off {interface}")]
    Remove { vip: IpAddr, interface: String, source: rtnetlink::Error },
    #[error("cannot open a packet socket; CAP_NET_RAW is needed")]
    Socket(#[source] io::Error),
    #[error("cannot send an announcement of {vip} on {interface}")]
    Send { vip: IpAddr, interface: String, source: io::Error },
}

/// Returns the interface whose network an address is in: one of `attached`, or a VLAN device above
/// one. `None` if there is no such interface.
///
/// The narrowest network decides; where an address of the host itself does not tell, the kernel's
/// route does (DHCPv6 gives addresses without a network).
pub async fn interface_towards(
    address: IpAddr,
    attached: &[String],
) -> io::Result<Option<Interface>> {
    // Every interface has the network of link-local addresses.
    if messages::is_link_local(address) {
        return Ok(None);
    }
    let handle = rtnetlink_handle()?;
    let topology = links::topology(&handle, attached).await.map_err(io::Error::other)?;
    let addresses = links::addresses(&handle).await.map_err(io::Error::other)?;
    let connected = addresses
        .iter()
        .filter(|known| known.connects(address))
        .filter_map(|known| Some((known.prefix_bits, topology.served(known.ifindex)?)))
        .min_by_key(|(prefix_bits, _)| Reverse(*prefix_bits));
    if let Some((_, interface)) = connected {
        return Ok(Some(interface));
    }
    let route = links::route(&handle, address).await.map_err(io::Error::other)?;
    let on_link = route.ok().filter(|route| route.is_on_link);
    Ok(on_link.and_then(|route| topology.served(route.neighbour.0)))
}

/// Puts `vip` on the interface, as the only address of its network, unless this host has it
/// already.
///
/// The kernel answers for it at once. It does not use an IPv6 VIP as the source of connections of
/// its own: by the rules of RFC 6724 it would prefer it to the interface's real address.
pub async fn place(interface: &Interface, vip: IpAddr) -> Result<Placed, AnnounceError> {
    let handle = rtnetlink_handle().map_err(AnnounceError::Netlink)?;
    if let Some(found) = find(&handle, vip, |_| true).await? {
        return Ok(Placed::ByOthers { ifindex: found.header.index });
    }
    let mut request = handle.address().add(interface.ifindex, vip, host_prefix_bits(vip));
    if vip.is_ipv6() {
        let message = request.message_mut();
        // Detecting duplicates takes seconds, and fails while the other redirector gives it up.
        message.header.flags |= AddressHeaderFlags::Nodad;
        // Deprecated from the start (RFC 6724, 5, rule 3).
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = FOREVER;
        lifetime.ifa_preferred = 0;
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    let name = || interface.name.clone();
    match request.execute().await {
        Ok(()) => Ok(Placed::ByUs),
        // Someone was faster between the listing and the adding.
        Err(error) if is_errno(&error, libc::EEXIST) => {
            Ok(Placed::ByOthers { ifindex: interface.ifindex })
        }
        // A lack of rights would be EPERM.
        Err(error) if vip.is_ipv6() && is_errno(&error, libc::EACCES) => {
            Err(AnnounceError::NoIpv6 { vip, interface: name() })
        }
        Err(source) => Err(AnnounceError::Add { vip, interface: name(), source }),
    }
}

/// Takes `vip` off the interface; fine if it is not there. Call it only for what was
/// [`Placed::ByUs`].
pub async fn remove(interface: &Interface, vip: IpAddr) -> Result<(), AnnounceError> {
    let handle = rtnetlink_handle().map_err(AnnounceError::Netlink)?;
    let is_ours = |message: &AddressMessage| {
        message.header.index == interface.ifindex
            && message.header.prefix_len == host_prefix_bits(vip)
    };
    let Some(found) = find(&handle, vip, is_ours).await? else { return Ok(()) };
    match handle.address().del(found).execute().await {
        Ok(()) => Ok(()),
        Err(error) if is_errno(&error, libc::EADDRNOTAVAIL) => Ok(()),
        Err(source) => {
            Err(AnnounceError::Remove { vip, interface: interface.name.clone(), source })
        }
    }
}

/// Sends three announcements, the first one at once; takes two seconds in all.
///
/// Run it beside other work: nothing waits for it.
pub async fn announce(interface: &Interface, vip: IpAddr) -> Result<(), AnnounceError> {
    let sender = FrameSender::open().map_err(AnnounceError::Socket)?;
    let frame = match vip {
        IpAddr::V4(vip) => arp_announcement(interface.mac, vip),
        IpAddr::V6(vip) => neighbour_advertisement(interface.mac, vip),
    };
    for count in 0..ANNOUNCE_COUNT {
        if count > 0 {
            tokio::time::sleep(ANNOUNCE_INTERVAL).await;
        }
        sender.send(interface.ifindex, &frame).map_err(|source| AnnounceError::Send {
            vip,
            interface: interface.name.clone(),
            source,
        })?;
    }
    Ok(())
}

fn host_prefix_bits(vip: IpAddr) -> u8 {
    match vip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

async fn find(
    handle: &Handle,
    vip: IpAddr,
    is_wanted: impl Fn(&AddressMessage) -> bool,
) -> Result<Option<AddressMessage>, AnnounceError> {
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(AnnounceError::List)?;
    let is_vip = |message: &AddressMessage| {
        messages::address(message).is_some_and(|address| address.local == vip)
    };
    Ok(addresses.into_iter().find(|message| is_vip(message) && is_wanted(message)))
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
