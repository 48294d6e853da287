//! The network as the data plane needs to know it, kept fresh: through which interface, with which
//! VLAN tags and to which MAC the kernel would send to each backend, and which interfaces the
//! program's packets come in by.
//!
//! The data plane reads the answers from arrays and never asks the kernel's routing itself. All is
//! looked up again at every change of links, addresses, routes or a next hop's neighbour entry, and
//! at least every 30 s.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressMessage,
        link::LinkMessage,
        neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use tokio::{sync::watch, time::sleep};

pub use super::frames::VlanTag;
use super::{
    frames::Mac,
    messages::{self, Address, Neighbour, Route},
    rtnetlink_handle, serve,
    topology::Topology,
};

/// Changes come in bursts (a link that comes up brings addresses, routes and neighbours); one
/// look-up answers them all.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Also how often neighbours are asked to prove themselves, since packets of the data plane are no
/// proof for the kernel.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// While a next hop's MAC is missing. The kernel itself asks once per second.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);

/// How to send to one target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextHop {
    /// Where the frames leave by: never a VLAN device, unless the program is attached to it.
    pub ifindex: u32,
    /// Of the VLAN device, if the route leads through one.
    pub own_mac: Mac,
    /// `None` until the neighbour has answered once; a neighbour that went silent keeps its last
    /// MAC.
    pub next_hop_mac: Option<Mac>,
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// Outermost first, two at most.
    pub tags: Vec<VlanTag>,
    /// The largest IP packet that fits: the MTU of the device that the route names, or of the
    /// route, or the one that the kernel has learned for the way, whichever is smallest.
    pub mtu: u32,
}

/// The next hop of each target, or why there is none.
pub type NextHops = BTreeMap<IpAddr, Result<NextHop, String>>;

/// An Ethernet interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    pub ifindex: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
}

/// A VLAN device above an interface that the program is attached to.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Vlan {
    /// Of the attached interface.
    pub ifindex: u32,
    /// What frames have there, outermost first: one or two.
    pub tags: Vec<VlanTag>,
    /// Of the VLAN device.
    pub mac: Mac,
    /// Of the VLAN device.
    pub mtu: u32,
}

/// What is watched.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Network {
    pub next_hops: NextHops,
    /// The attached interfaces that there are now, by name. One that was deleted and made anew is
    /// another interface of the same name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Every VLAN device above an attached interface that is not attached itself, in order.
    pub vlans: Vec<Vlan>,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    #[error("cannot open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("no interface {name}; `ip -brief link` lists what there is")]
    Missing { name: String, source: rtnetlink::Error },
    #[error("{name} is not an Ethernet interface")]
    NotEthernet { name: String },
}

/// Looks an interface up by name.
pub async fn interface(name: &str) -> Result<Interface, InterfaceError> {
    let handle = rtnetlink_handle().map_err(InterfaceError::Netlink)?;
    let message = handle.link().get().match_name(name).execute().try_next().await;
    let not_ethernet = || InterfaceError::NotEthernet { name: name.to_owned() };
    match message {
        Ok(Some(message)) => {
            let link = messages::link(&message);
            let (ifindex, mac) = (message.header.index, link.mac.ok_or_else(not_ethernet)?);
            Ok(Interface { ifindex, name: name.to_owned(), mac, mtu: link.mtu })
        }
        Ok(None) => {
            let source = rtnetlink::Error::RequestFailed;
            Err(InterfaceError::Missing { name: name.to_owned(), source })
        }
        Err(source) => Err(InterfaceError::Missing { name: name.to_owned(), source }),
    }
}

/// Watches the next hops of `targets` and the interfaces that the program is attached to, named by
/// `attached`, until the last receiver is dropped.
///
/// Returns after the first look-up; a neighbour that was not known before has no MAC in it yet.
pub async fn watch(
    targets: Vec<IpAddr>,
    attached: Vec<String>,
) -> io::Result<watch::Receiver<Network>> {
    // Changes are heard from before the first look-up on, so that none falls between the two.
    let events = subscribe()?;
    let mut resolver = Resolver::new(rtnetlink_handle()?, targets, attached);
    resolver.look_up().await.map_err(io::Error::other)?;
    let (sender, receiver) = watch::channel(resolver.network.clone());
    tokio::spawn(follow(resolver, events, sender));
    Ok(receiver)
}

type Event = NetlinkMessage<RouteNetlinkMessage>;
type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

fn subscribe() -> io::Result<Events> {
    let (connection, _handle, events) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv6Rule,
    ])?;
    serve(connection);
    Ok(Box::pin(events.map(|(message, _from)| message)))
}

async fn follow(mut resolver: Resolver, mut events: Events, sender: watch::Sender<Network>) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = sleep(resolver.pause()) => {}
            () = changed(&resolver, &mut events) => sleep(DEBOUNCE).await,
        }
        // What has come in meanwhile is answered by the look-up that follows.
        while events.next().now_or_never().flatten().is_some() {}
        resolver.refresh().await;
        sender.send_if_modified(|published| {
            let is_new = *published != resolver.network;
            if is_new {
                published.clone_from(&resolver.network);
            }
            is_new
        });
    }
}

/// Returns when something changed that may concern us. Notifications that ended are subscribed to
/// anew.
async fn changed(resolver: &Resolver, events: &mut Events) {
    loop {
        match events.next().await {
            Some(event) if resolver.concerns_us(&event) => return,
            Some(_other_hosts) => {}
            None => match subscribe() {
                Ok(fresh) => {
                    *events = fresh;
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot hear of network changes; trying again");
                    sleep(MISSING_INTERVAL).await;
                }
            },
        }
    }
}

/// Asks the kernel, and remembers what it forgets.
struct Resolver {
    handle: Handle,
    targets: BTreeSet<IpAddr>,
    attached: Vec<String>,
    network: Network,
    /// The neighbours that the targets are reached through, with the last MAC of each that ever
    /// answered.
    neighbours: BTreeMap<Neighbour, Option<Mac>>,
}

impl Resolver {
    fn new(handle: Handle, targets: Vec<IpAddr>, attached: Vec<String>) -> Self {
        Self {
            handle,
            targets: targets.into_iter().collect(),
            attached,
            network: Network::default(),
            neighbours: BTreeMap::new(),
        }
    }

    /// Returns how long to wait for a change before looking again.
    fn pause(&self) -> Duration {
        let is_missing =
            |hop: &Result<NextHop, String>| matches!(hop, Ok(NextHop { next_hop_mac: None, .. }));
        if self.network.next_hops.values().any(is_missing) {
            MISSING_INTERVAL
        } else {
            REFRESH_INTERVAL
        }
    }

    /// Other hosts' neighbour entries change all the time on a busy network; only ours matter.
    fn concerns_us(&self, event: &Event) -> bool {
        let NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message),
        ) = &event.payload
        else {
            return true;
        };
        messages::neighbour(message)
            .is_some_and(|neighbour| self.neighbours.contains_key(&neighbour))
    }

    /// Looks everything up; what cannot be asked stays as it was known.
    async fn refresh(&mut self) {
        if let Err(error) = self.look_up().await {
            tracing::warn!(%error, "cannot ask the kernel for next hops; the known ones stay");
        }
    }

    async fn look_up(&mut self) -> Result<(), rtnetlink::Error> {
        let mut routes = BTreeMap::new();
        for target in &self.targets {
            let route = match messages::unfit(*target) {
                Some(reason) => Err(reason),
                None => route(&self.handle, *target).await?,
            };
            routes.insert(*target, route);
        }
        let used: BTreeSet<Neighbour> =
            routes.values().flatten().map(|route| route.neighbour).collect();
        // A neighbour that is not used any more is forgotten; one that is new starts without a MAC.
        self.neighbours.retain(|neighbour, _| used.contains(neighbour));
        for neighbour in used {
            self.neighbours.entry(neighbour).or_default();
        }
        self.learn_neighbours().await?;
        let addresses = addresses(&self.handle).await?;
        let topology = topology(&self.handle, &self.attached).await?;
        let next_hops = routes.into_iter().map(|(target, route)| {
            let next_hop = route.and_then(|route| {
                self.next_hop(&route, messages::source(target, &route, &addresses), &topology)
            });
            (target, next_hop)
        });
        self.network = Network {
            next_hops: next_hops.collect(),
            interfaces: topology.interfaces(&self.attached),
            vlans: topology.vlans(),
        };
        Ok(())
    }

    fn next_hop(
        &self,
        route: &Route,
        source: Result<IpAddr, String>,
        topology: &Topology,
    ) -> Result<NextHop, String> {
        let (ifindex, _) = route.neighbour;
        let wire = topology.wire(ifindex)?;
        Ok(NextHop {
            ifindex: wire.ifindex,
            own_mac: wire.own_mac,
            // The kernel knows the neighbour on the VLAN device.
            next_hop_mac: self.neighbours.get(&route.neighbour).copied().flatten(),
            source: source?,
            tags: wire.tags,
            mtu: route.mtu.map_or(wire.mtu, |mtu| mtu.min(wire.mtu)),
        })
    }

    /// Reads the MACs of our neighbours and has the kernel ask those that it is not sure of.
    async fn learn_neighbours(&mut self) -> Result<(), rtnetlink::Error> {
        // Of both families, since none is named.
        let listed: Vec<NeighbourMessage> =
            self.handle.neighbours().get().execute().try_collect().await?;
        let mut unsure: BTreeSet<Neighbour> = self.neighbours.keys().copied().collect();
        for message in &listed {
            let Some(known) = messages::neighbour(message) else { continue };
            let Some(last_mac) = self.neighbours.get_mut(&known) else { continue };
            if let Some(mac) = messages::neighbour_mac(message) {
                *last_mac = Some(mac);
            }
            if messages::is_settled(message.header.state) {
                unsure.remove(&known);
            }
        }
        for (ifindex, address) in unsure {
            self.nudge(ifindex, address).await;
        }
        Ok(())
    }

    /// Makes the kernel resolve or re-confirm a neighbour, as if it had a packet to send there (`ip
    /// neigh ... use`).
    async fn nudge(&self, ifindex: u32, address: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            tracing::debug!(%error, ifindex, %address, "cannot have the neighbour resolved");
        }
    }
}

/// The inner `Err` is the kernel's answer that there is no way.
pub(super) async fn route(
    handle: &Handle,
    target: IpAddr,
) -> Result<Result<Route, String>, rtnetlink::Error> {
    let request = match target {
        IpAddr::V4(target) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(target, Ipv4Addr::BITS as u8)
            .build(),
        IpAddr::V6(target) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(target, Ipv6Addr::BITS as u8)
            .build(),
    };
    match handle.route().get(request).execute().try_next().await {
        Ok(Some(message)) => Ok(messages::route(target, &message)),
        Ok(None) => Err(rtnetlink::Error::RequestFailed),
        Err(rtnetlink::Error::NetlinkError(error)) => {
            Ok(Err(format!("no route to {target}: {}; see `ip route get {target}`", error.to_io())))
        }
        Err(error) => Err(error),
    }
}

/// Lists the addresses of this host, of both families.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<Address>, rtnetlink::Error> {
    let listed: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    Ok(listed.iter().filter_map(messages::address).collect())
}

pub(super) async fn topology(
    handle: &Handle,
    attached: &[String],
) -> Result<Topology, rtnetlink::Error> {
    let listed: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    Ok(Topology::new(&listed, attached))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{
        link::LinkMessage, neighbour::NeighbourAttribute, route::RouteMessage,
    };

    use super::*;

    #[tokio::test]
    async fn of_neighbour_entries_only_those_of_next_hops_concern_us() {
        let gateway = "fe80::1".parse().expect("address");
        let other = "fe80::2".parse().expect("address");
        let mut resolver = Resolver::new(rtnetlink_handle().expect("netlink"), vec![], vec![]);
        resolver.neighbours.insert((7, gateway), None);
        for (ifindex, address, concerns) in
            [(7, gateway, true), (7, other, false), (8, gateway, false)]
        {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = ifindex;
            message.attributes = vec![NeighbourAttribute::Destination(address.into())];
            let new = RouteNetlinkMessage::NewNeighbour(message.clone());
            assert_eq!(resolver.concerns_us(&new.into()), concerns, "{ifindex} {address}");
            let gone = RouteNetlinkMessage::DelNeighbour(message);
            assert_eq!(resolver.concerns_us(&gone.into()), concerns, "{ifindex} {address}");
        }
        let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
        assert!(resolver.concerns_us(&link.into()));
        let route = RouteNetlinkMessage::DelRoute(RouteMessage::default());
        assert!(resolver.concerns_us(&route.into()));
    }
}
