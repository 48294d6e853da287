//! The network changes under established connections.

use super::{
    network::sysctl,
    path::{Place, Routers, WIDE},
    *,
};

/// Long enough for TCP to send a few times again, and for a host to look for a neighbour.
const SETTLE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn connections_outlive_a_backends_new_mac_and_a_link_that_goes_down_and_up() {
    let lab = lab();
    let (database, redirector) = (lab.ns("db1"), lab.ns("redirector"));
    // Whoever moves tells its neighbours, as virtual machines and bonds do.
    sysctl(&database, &["net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.ndisc_notify=1"])
        .unwrap();
    // Without it an operator puts IPv6 addresses on again after the link went down.
    sysctl(&redirector, &["net.ipv6.conf.eth1.keep_addr_on_down=1"]).unwrap();
    for forwarding in Forwarding::ALL {
        let setup = Setup::new(forwarding, Topology::TwoArm);
        let daemon = start(&lab, &setup);
        for (family, mac) in [(Family::V4, "02:00:00:00:78:31"), (Family::V6, "02:00:00:00:78:32")]
        {
            let what = format!("IP{} {}", family.name(), forwarding.name());
            goes_on(
                &lab,
                &daemon,
                "client1",
                family,
                &format!("{what}: the backend's MAC"),
                || {
                    // Linux keeps a neighbour's entry for a second, whatever it hears.
                    thread::sleep(Duration::from_secs(1));
                    database.ip(&format!("link set eth0 address {mac}"))?;
                    Ok(())
                },
            );
            goes_on(&lab, &daemon, "client1", family, &format!("{what}: the link"), || {
                redirector.ip("link set eth1 down")?;
                thread::sleep(SETTLE);
                redirector.ip("link set eth1 up")?;
                Ok(())
            });
        }
        end(&lab, &setup, daemon);
    }
}

/// In `dsr` the answers do not come by us, and backends are behind no router.
const ROUTED: [Forwarding; 2] = [Forwarding::Snat, Forwarding::Dnat];

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn connections_outlive_a_gateways_new_mac_and_a_route_that_moves() {
    let lab = lab();
    let routers = Routers::add(&lab).unwrap();
    for forwarding in ROUTED {
        for (family, mac) in [(Family::V6, "02:00:00:00:77:31"), (Family::V4, "02:00:00:00:77:32")]
        {
            let what = format!("IP{} {}", family.name(), forwarding.name());
            routers.set_mtu(family).unwrap();
            let (host, setup) = Place::TowardsClient.setup(forwarding);
            let daemon = start(&lab, &setup);
            goes_on(&lab, &daemon, host, family, &format!("{what}: the gateway's MAC"), || {
                routers.wide.ip(&format!("link set eth0 address {mac}"))?;
                Ok(())
            });
            end(&lab, &setup, daemon);
        }
    }
    for forwarding in ROUTED {
        for family in [Family::V6, Family::V4] {
            let what = format!("IP{} {}", family.name(), forwarding.name());
            routers.set_mtu(family).unwrap();
            routers.route(&lab, Place::TowardsBackend, forwarding).unwrap();
            let (host, setup) = Place::TowardsBackend.setup(forwarding);
            let daemon = start(&lab, &setup);
            let backends = family.network(setup.net());
            let redirector = lab.ns("redirector");
            let source = family.host(setup.source(family));
            goes_on(&lab, &daemon, host, family, &format!("{what}: the route"), || {
                let through = family.address(CLIENTS, WIDE);
                redirector.ip(&format!("route replace {backends} via {through}"))?;
                // Packets of the connection come back to the address that it has.
                let back = family.address(CLIENTS, REDIRECTOR);
                routers.wide.ip(&format!("route replace {source} via {back}"))?;
                Ok(())
            });
            end(&lab, &setup, daemon);
            routers.wide.ip(&format!("route del {source}")).unwrap();
            let through = family.address(BACKENDS, WIDE);
            redirector.ip(&format!("route replace {backends} via {through}")).unwrap();
        }
    }
}

/// Asserts that a connection that is open before and during a change carries data after it.
fn goes_on(
    lab: &Lab,
    daemon: &Daemon,
    host: &str,
    family: Family,
    what: &str,
    change: impl FnOnce() -> Result<()> + Send,
) {
    let text = payload(MIB);
    let took = inside(&lab.ns(host), || {
        let client = Client::new(family.vip())?;
        let mut session = client.connect().context("connecting")?;
        echo(&mut session, &text).context("before")?;
        change()?;
        let changed = Instant::now();
        echo(&mut session, &text).context("after")?;
        ensure!(client.server_id()? == PAIR1_PRIMARY, "a new connection");
        session.close()?;
        Ok(changed.elapsed())
    })
    .with_context(|| what.to_owned())
    .unwrap_or_else(|error: anyhow::Error| {
        panic!("{error:#}\n{}", daemon.log().unwrap_or_default())
    });
    report(&format!("{what} changes: the connection goes on, {} bytes in {took:.1?}", text.len()));
}
