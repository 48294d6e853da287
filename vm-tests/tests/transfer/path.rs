//! Paths that are not ideal: a link in the middle that takes smaller packets, one that loses some, and one that delivers some late.
//!
//! Two routers with a narrow link between them join nets 77 and 78 to nets 79 and 81, which lie behind it:
//!
//! ```text
//!   net 79 (far, a client) --+                          +-- net 77
//!                            +-- near.. narrow ..wide --+
//!   net 81 (databases) ------+                          +-- net 78
//! ```

use pairflip_vm_tests::{command::run, lab::topology::database_name};

use super::{
    network::{add_address, sysctl},
    reorder::Reorder,
    *,
};

/// Nets behind the narrow link: of a client, and of the databases' third interfaces.
const FAR_CLIENT: u8 = 79;
const FAR_BACKENDS: u8 = 81;
/// The link between the routers.
const LINK: u8 = 80;
/// Number of the router on this side of the link, and of the one on the other.
pub(crate) const WIDE: u8 = 3;
const NEAR: u8 = 1;

/// Smallest MTU that IPv6 allows, and one that only IPv4 does.
fn narrow(family: Family) -> u32 {
    match family {
        Family::V4 => 1000,
        Family::V6 => 1280,
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn transfers_complete_where_a_link_in_the_middle_takes_smaller_packets() {
    let lab = lab();
    let routers = Routers::add(&lab).unwrap();
    let text = payload(2 * MIB);
    for (place, ways) in [
        (Place::TowardsClient, &Forwarding::ALL[..]),
        // In `dsr` backends are in a network of the redirector's.
        (Place::TowardsBackend, &[Forwarding::Snat, Forwarding::Dnat]),
    ] {
        for forwarding in ways.iter().copied() {
            let (host, setup) = place.setup(forwarding);
            routers.route(&lab, place, forwarding).unwrap();
            for family in [Family::V6, Family::V4] {
                routers.set_mtu(family).unwrap();
                let daemon = start(&lab, &setup);
                forget_paths(&lab).unwrap();
                let what = format!("IP{} {} {place:?}", family.name(), forwarding.name());
                let started = Instant::now();
                let narrowed = Counters::read(&daemon);
                inside(&lab.ns(host), || {
                    let client = Client::new(family.vip())?;
                    let mut session = client.connect().context("connecting")?;
                    ensure!(seen_by_server(&mut session)?.ip() == setup.source(family));
                    echo(&mut session, &text)
                })
                .with_context(|| what.clone())
                .unwrap_or_else(|error| {
                    panic!("{error:#}\n{}", daemon.status().unwrap_or_default())
                });
                let translated = Counters::read(&daemon).translated - narrowed.translated;
                assert!(translated > 0, "{what}: nobody was told of the narrow link");
                report(&format!(
                    "{what}: {} bytes there and back in {:.1?}, {translated} ICMP errors translated",
                    text.len(),
                    started.elapsed()
                ));
                end(&lab, &setup, daemon);
            }
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn transfers_complete_where_one_packet_in_twenty_is_lost() {
    // On the wire: what a host drops of its own it also knows of.
    const RULES: &str = "table bridge loss {
        chain wire {
            type filter hook forward priority 0;
            oifname client1-eth0 tcp sport 3306 numgen random mod 20 == 0 counter drop;
            iifname client1-eth0 tcp dport 3306 numgen random mod 20 == 0 counter drop;
        }
    }";
    let lab = lab();
    let text = payload(MIB);
    let nft = |arguments: &str| {
        let mut command = lab.ns("switch").command("nft").unwrap();
        run(command.arg(arguments)).unwrap()
    };
    nft(RULES);
    for forwarding in Forwarding::ALL {
        let setup = Setup::new(forwarding, Topology::TwoArm);
        let daemon = start(&lab, &setup);
        for family in Family::BOTH {
            let what = format!("IP{} {} with loss", family.name(), forwarding.name());
            let started = Instant::now();
            inside(&lab.ns("client1"), || {
                let client = Client::new(family.vip())?;
                let mut session = client.connect().context("connecting")?;
                echo(&mut session, &text)
            })
            .with_context(|| what.clone())
            .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log().unwrap_or_default()));
            report(&format!(
                "{what}: {} bytes there and back in {:.1?}",
                text.len(),
                started.elapsed()
            ));
        }
        end(&lab, &setup, daemon);
    }
    let counted = nft("list table bridge loss");
    report(counted.trim());
}

/// Frames that do not fit into one buffer of a driver.
const LARGE_MTU: u32 = 9000;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn transfers_complete_with_frames_of_several_buffers() {
    let lab = lab();
    let text = payload(4 * MIB);
    raise_mtus(&lab).unwrap();
    for attach in ["native", "generic"] {
        for forwarding in Forwarding::ALL {
            let setup = Setup { attach, ..Setup::new(forwarding, Topology::TwoArm) };
            let daemon = start(&lab, &setup);
            for family in Family::BOTH {
                let what =
                    format!("IP{} {} {attach}, large frames", family.name(), forwarding.name());
                let started = Instant::now();
                let bytes = inside(&lab.ns("client1"), || {
                    let client = Client::new(family.vip())?;
                    let mut session = client.connect().context("connecting")?;
                    let source = seen_by_server(&mut session)?;
                    echo(&mut session, &text)?;
                    let flow = flow(&daemon, source)?;
                    let number = |key: &str| flow[key].as_f64().unwrap_or_default();
                    anyhow::Ok(number("client_bytes") / number("client_packets"))
                })
                .with_context(|| what.clone())
                .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log().unwrap_or_default()));
                report(&format!(
                    "{what}: {} bytes there and back in {:.1?}, {bytes:.0} in a packet of the client's",
                    text.len(),
                    started.elapsed()
                ));
                // Acknowledgements are small.
                assert!(bytes > 3000.0, "{what}: {bytes} bytes in a packet are no large frames");
            }
            end(&lab, &setup, daemon);
        }
    }
}

/// Of every interface of the lab.
fn raise_mtus(lab: &Lab) -> Result<()> {
    let databases = (1..=4).map(database_name);
    for host in ["switch", "client1", "client2", "redirector"].into_iter().chain(databases) {
        let namespace = lab.ns(host);
        for line in namespace.ip("-brief link")?.lines() {
            let name = line.split([' ', '@']).next().unwrap_or_default();
            if name != "lo" {
                namespace.ip(&format!("link set {name} mtu {LARGE_MTU}"))?;
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn transfers_complete_where_packets_overtake_each_other() {
    let lab = lab();
    let text = payload(2 * MIB);
    let wire = Reorder::start(&lab).unwrap();
    for forwarding in Forwarding::ALL {
        let setup = Setup::new(forwarding, Topology::TwoArm);
        let daemon = start(&lab, &setup);
        for family in Family::BOTH {
            let what = format!("IP{} {} out of order", family.name(), forwarding.name());
            let (started, before) = (Instant::now(), wire.overtaken());
            inside(&lab.ns("client1"), || {
                let client = Client::new(family.vip())?;
                let mut session = client.connect().context("connecting")?;
                echo(&mut session, &text)?;
                session.close()
            })
            .with_context(|| what.clone())
            .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log().unwrap_or_default()));
            let overtaken = wire.overtaken() - before;
            assert!(overtaken > 100, "{what}: {overtaken} packets only were overtaken");
            report(&format!(
                "{what}: {} bytes there and back in {:.1?}, {overtaken} packets were overtaken",
                text.len(),
                started.elapsed()
            ));
        }
        end(&lab, &setup, daemon);
    }
}

/// Where the narrow link is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    TowardsClient,
    TowardsBackend,
}

impl Place {
    /// The client's host, and what the daemon is told.
    pub(crate) fn setup(self, forwarding: Forwarding) -> (&'static str, Setup) {
        let setup = Setup::new(forwarding, Topology::TwoArm);
        match self {
            Self::TowardsClient => ("far", Setup { client: (FAR_CLIENT, CLIENT1), ..setup }),
            Self::TowardsBackend => ("client1", Setup { backends: Some(FAR_BACKENDS), ..setup }),
        }
    }
}

struct Counters {
    translated: u64,
}

impl Counters {
    fn read(daemon: &Daemon) -> Self {
        let status = daemon.status().unwrap();
        let count = &status["daemon"]["counters"]["icmp_forwarded"];
        Self { translated: count.as_u64().unwrap() }
    }
}

/// The two routers: `wide` on this side of the link, `near` to what is behind it.
pub(crate) struct Routers {
    pub(crate) wide: Namespace,
    near: Namespace,
}

impl Routers {
    pub(crate) fn add(lab: &Lab) -> Result<Self> {
        let (wide, near) = (lab.add_host("wide")?, lab.add_host("near")?);
        let far = lab.add_host("far")?;
        for router in [&wide, &near] {
            sysctl(router, &["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        }
        let plugs = [
            ("wide", &wide, "eth0", CLIENTS, WIDE),
            ("wide", &wide, "eth1", BACKENDS, WIDE),
            ("near", &near, "eth0", FAR_CLIENT, NEAR),
            ("near", &near, "eth1", FAR_BACKENDS, NEAR),
            ("far", &far, "eth0", FAR_CLIENT, CLIENT1),
        ];
        for (host, namespace, interface, net, number) in plugs {
            lab.connect(host, interface, &format!("br{net}"))?;
            for family in Family::BOTH {
                add_address(namespace, interface, family, net, number)?;
            }
        }
        wide.ip(&format!("link add narrow type veth peer name narrow netns {}", near.name()))?;
        for number in 1..=4 {
            let host = database_name(number);
            lab.connect(host, "eth2", "br81")?;
            for family in Family::BOTH {
                add_address(&lab.ns(host), "eth2", family, FAR_BACKENDS, 20 + number as u8)?;
            }
        }
        for family in Family::BOTH {
            let net = |net| family.network(net);
            far.ip(&format!("route add default via {}", family.address(FAR_CLIENT, NEAR)))?;
            lab.ns("redirector").ip(&format!(
                "route add {} via {}",
                net(FAR_BACKENDS),
                family.address(BACKENDS, WIDE)
            ))?;
        }
        let routers = Self { wide, near };
        routers.set_mtu(Family::V6)?;
        Ok(routers)
    }

    /// Makes the link as narrow as a family may have it. IPv6 leaves a link that is too narrow for it, with its routes.
    pub(crate) fn set_mtu(&self, family: Family) -> Result<()> {
        for (router, number) in [(&self.wide, WIDE), (&self.near, NEAR)] {
            router.ip(&format!("link set narrow mtu {} up", narrow(family)))?;
            router.ip("addr flush dev narrow scope global")?;
            add_address(router, "narrow", family, LINK, number)?;
        }
        for net in [FAR_CLIENT, FAR_BACKENDS] {
            let via = family.address(LINK, NEAR);
            self.wide.ip(&format!("route replace {} via {via}", family.network(net)))?;
        }
        self.near.ip(&format!("route replace default via {}", family.address(LINK, WIDE)))?;
        Ok(())
    }

    /// Makes packets and replies take the same way, which leads over the link.
    pub(crate) fn route(&self, lab: &Lab, place: Place, forwarding: Forwarding) -> Result<()> {
        if let Place::TowardsClient = place {
            return if forwarding == Forwarding::Dsr { Self::answer_past_us(lab) } else { Ok(()) };
        }
        for family in Family::BOTH {
            let client = family.host(family.address(CLIENTS, CLIENT1));
            let redirector = family.address(BACKENDS, REDIRECTOR);
            if forwarding == Forwarding::Dnat {
                self.wide.ip(&format!("route replace {client} via {redirector}"))?;
            }
            for number in 1..=4 {
                let database = lab.ns(database_name(number));
                let back = family.address(FAR_BACKENDS, NEAR);
                for target in [&client, &family.host(redirector)] {
                    database.ip(&format!("route replace {target} via {back}"))?;
                }
            }
        }
        Ok(())
    }

    /// Servers reach the far client without the redirector, from the clients' network.
    fn answer_past_us(lab: &Lab) -> Result<()> {
        for family in Family::BOTH {
            let (far, through) = (family.network(FAR_CLIENT), family.address(CLIENTS, WIDE));
            for number in 1..=4 {
                lab.ns(database_name(number)).ip(&format!("route replace {far} via {through}"))?;
            }
        }
        Ok(())
    }
}

/// What hosts learned of paths would spare the next transfer the discovery.
fn forget_paths(lab: &Lab) -> Result<()> {
    for host in ["client1", "far", "db1", "db2", "db3", "db4"] {
        lab.ns(host).ip("route flush cache")?;
        lab.ns(host).ip("-6 route flush cache")?;
    }
    Ok(())
}
