//! VIPs on an interface, and telling the neighbours.
//!
//! The address makes the kernel answer ARP for the VIP; the announcement corrects the caches of
//! hosts that knew another owner. Whether an address was ours to remove is the caller's to
//! remember, see [`Placed`].

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle,
    packet_route::address::{AddressAttribute, AddressMessage},
};
use serde::{Deserialize, Serialize};

use super::{
    frames::{FrameSender, arp_announcement},
    links::Interface,
    rtnetlink_handle,
};

/// How often a VIP is announced: one more than ANNOUNCE_NUM of RFC 5227, since nothing repeats a
/// lost one later.
const ANNOUNCE_COUNT: u32 = 3;
/// Half of ANNOUNCE_INTERVAL of RFC 5227, so that all are out while clients still retry their SYNs.
/// Linux ignores a change of a neighbour entry that is younger than a second (`locktime`).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
const HOST_PREFIX_BITS: u8 = 32;

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
    #[error("cannot put {vip}/32 on {interface}; CAP_NET_ADMIN is needed")]
    Add { vip: Ipv4Addr, interface: String, source: rtnetlink::Error },
    #[error("cannot take {vip}/32 off {interface}")]
    Remove { vip: Ipv4Addr, interface: String, source: rtnetlink::Error },
    #[error("cannot open a packet socket; CAP_NET_RAW is needed")]
    Socket(#[source] io::Error),
    #[error("cannot send an ARP announcement of {vip} on {interface}")]
    Send { vip: Ipv4Addr, interface: String, source: io::Error },
}

/// Puts `vip`/32 on the interface, unless this host has the address already.
pub async fn place(interface: &Interface, vip: Ipv4Addr) -> Result<Placed, AnnounceError> {
    let handle = rtnetlink_handle().map_err(AnnounceError::Netlink)?;
    if let Some(found) = find(&handle, vip, |_| true).await? {
        return Ok(Placed::ByOthers { ifindex: found.header.index });
    }
    let added =
        handle.address().add(interface.ifindex, IpAddr::V4(vip), HOST_PREFIX_BITS).execute().await;
    match added {
        Ok(()) => Ok(Placed::ByUs),
        // Someone was faster between the listing and the adding.
        Err(error) if is_errno(&error, libc::EEXIST) => {
            Ok(Placed::ByOthers { ifindex: interface.ifindex })
        }
        Err(source) => Err(AnnounceError::Add { vip, interface: interface.name.clone(), source }),
    }
}

/// Takes `vip`/32 off the interface; fine if it is not there. Call it only for what was
/// [`Placed::ByUs`].
pub async fn remove(interface: &Interface, vip: Ipv4Addr) -> Result<(), AnnounceError> {
    let handle = rtnetlink_handle().map_err(AnnounceError::Netlink)?;
    let is_ours = |message: &AddressMessage| {
        message.header.index == interface.ifindex && message.header.prefix_len == HOST_PREFIX_BITS
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
pub async fn announce(interface: &Interface, vip: Ipv4Addr) -> Result<(), AnnounceError> {
    let sender = FrameSender::open().map_err(AnnounceError::Socket)?;
    let frame = arp_announcement(interface.mac, vip);
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

async fn find(
    handle: &Handle,
    vip: Ipv4Addr,
    is_wanted: impl Fn(&AddressMessage) -> bool,
) -> Result<Option<AddressMessage>, AnnounceError> {
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(AnnounceError::List)?;
    Ok(addresses.into_iter().find(|message| local(message) == Some(vip) && is_wanted(message)))
}

/// Returns the host's own address; on point-to-point links `Address` would be the peer's.
fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| {
        let AddressAttribute::Local(IpAddr::V4(address)) = attribute else { return None };
        Some(*address)
    })
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
