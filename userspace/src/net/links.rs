//! Next hops: through which interface and to which MAC the kernel would send to each backend, kept
//! fresh.
//!
//! The data plane reads the answers from an array and never asks the kernel's routing itself. A
//! next hop is looked up again at every change of links, addresses, routes or its neighbour entry,
//! and at least every 30 s.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::LinkMessage,
        neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use tokio::{sync::watch, time::sleep};

use super::{
    frames::Mac,
    messages::{self, Link, Neighbour, Route},
    rtnetlink_handle, serve,
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NextHop {
    pub ifindex: u32,
    pub own_mac: Mac,
    /// `None` until the neighbour has answered once; a neighbour that went silent keeps its last
    /// MAC.
    pub next_hop_mac: Option<Mac>,
    /// The address that the kernel would send from.
    pub source: Ipv4Addr,
}

/// The next hop of each target, or why there is none.
pub type NextHops = BTreeMap<Ipv4Addr, Result<NextHop, String>>;

/// An Ethernet interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    pub ifindex: u32,
    pub name: String,
    pub mac: Mac,
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
            let mac = messages::link(&message).mac.ok_or_else(not_ethernet)?;
            Ok(Interface { ifindex: message.header.index, name: name.to_owned(), mac })
        }
        Ok(None) => {
            let source = rtnetlink::Error::RequestFailed;
            Err(InterfaceError::Missing { name: name.to_owned(), source })
        }
        Err(source) => Err(InterfaceError::Missing { name: name.to_owned(), source }),
    }
}

/// Watches the next hops of `targets` until the last receiver is dropped.
///
/// Returns after the first look-up; a neighbour that was not known before has no MAC in it yet.
pub async fn watch(targets: Vec<Ipv4Addr>) -> io::Result<watch::Receiver<NextHops>> {
    // Changes are heard from before the first look-up on, so that none falls between the two.
    let events = subscribe()?;
    let mut resolver = Resolver::new(rtnetlink_handle()?, targets);
    resolver.look_up().await.map_err(io::Error::other)?;
    let (sender, receiver) = watch::channel(resolver.next_hops.clone());
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
    ])?;
    serve(connection);
    Ok(Box::pin(events.map(|(message, _from)| message)))
}

async fn follow(mut resolver: Resolver, mut events: Events, sender: watch::Sender<NextHops>) {
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
            let is_new = *published != resolver.next_hops;
            if is_new {
                published.clone_from(&resolver.next_hops);
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
    targets: BTreeSet<Ipv4Addr>,
    next_hops: NextHops,
    /// The neighbours that the targets are reached through, with the last MAC of each that ever
    /// answered.
    neighbours: BTreeMap<Neighbour, Option<Mac>>,
}

impl Resolver {
    fn new(handle: Handle, targets: Vec<Ipv4Addr>) -> Self {
        Self {
            handle,
            targets: targets.into_iter().collect(),
            next_hops: NextHops::new(),
            neighbours: BTreeMap::new(),
        }
    }

    /// Returns how long to wait for a change before looking again.
    fn pause(&self) -> Duration {
        let is_missing =
            |hop: &Result<NextHop, String>| matches!(hop, Ok(NextHop { next_hop_mac: None, .. }));
        if self.next_hops.values().any(is_missing) { MISSING_INTERVAL } else { REFRESH_INTERVAL }
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
            routes.insert(*target, self.route(*target).await?);
        }
        let used: BTreeSet<Neighbour> =
            routes.values().flatten().map(|route| route.neighbour).collect();
        // A neighbour that is not used any more is forgotten; one that is new starts without a MAC.
        self.neighbours.retain(|neighbour, _| used.contains(neighbour));
        for neighbour in used {
            self.neighbours.entry(neighbour).or_default();
        }
        self.learn_neighbours().await?;
        let links = links(&self.handle).await?;
        self.next_hops = routes
            .into_iter()
            .map(|(target, route)| (target, route.and_then(|route| self.next_hop(&route, &links))))
            .collect();
        Ok(())
    }

    fn next_hop(&self, route: &Route, links: &BTreeMap<u32, Link>) -> Result<NextHop, String> {
        let (ifindex, _) = route.neighbour;
        let link = links.get(&ifindex).ok_or_else(|| format!("interface {ifindex} is gone"))?;
        if !link.is_up {
            return Err(format!("interface {} is down; `ip link set {0} up`", link.name));
        }
        let own_mac = link.mac.ok_or_else(|| {
            format!("the route leads through {}, which is not an Ethernet interface", link.name)
        })?;
        let next_hop_mac = self.neighbours.get(&route.neighbour).copied().flatten();
        Ok(NextHop { ifindex, own_mac, next_hop_mac, source: route.source })
    }

    /// The inner `Err` is the kernel's answer that there is no way.
    async fn route(&self, target: Ipv4Addr) -> Result<Result<Route, String>, rtnetlink::Error> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(target, Ipv4Addr::BITS as u8)
            .build();
        match self.handle.route().get(request).execute().try_next().await {
            Ok(Some(message)) => Ok(messages::route(target, &message)),
            Ok(None) => Err(rtnetlink::Error::RequestFailed),
            Err(rtnetlink::Error::NetlinkError(error)) => Ok(Err(format!(
                "no route to {target}: {}; see `ip route get {target}`",
                error.to_io()
            ))),
            Err(error) => Err(error),
        }
    }

    /// Reads the MACs of our neighbours and has the kernel ask those that it is not sure of.
    async fn learn_neighbours(&mut self) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.neighbours().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let listed: Vec<NeighbourMessage> = request.execute().try_collect().await?;
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
    async fn nudge(&self, ifindex: u32, address: Ipv4Addr) {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, IpAddr::V4(address))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            tracing::debug!(%error, ifindex, %address, "cannot have the neighbour resolved");
        }
    }
}

async fn links(handle: &Handle) -> Result<BTreeMap<u32, Link>, rtnetlink::Error> {
    let listed: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    Ok(listed.iter().map(|message| (message.header.index, messages::link(message))).collect())
}
