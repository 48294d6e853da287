//! Who gets what.

use super::*;

#[test]
fn writes_reach_the_active_primary_and_reads_its_replica_in_every_topology() {
    for (topology, attach) in [
        (Topology::OneArm, "auto"),
        (Topology::TwoArm, "auto"),
        (Topology::OneArm, "generic"),
        (Topology::TwoArm, "generic"),
    ] {
        let (lab, daemon) = start_with(&Options { topology, ..options() }, |config| {
            config.replace("[daemon]", &format!("[daemon]\nattach = \"{attach}\""))
        });
        for host in ["client1", "client2"] {
            assert_eq!(
                server_id(&lab, host, VIP_WRITE).unwrap(),
                PAIR1_PRIMARY,
                "{topology:?} {attach}"
            );
            assert_eq!(
                server_id(&lab, host, VIP_READ).unwrap(),
                PAIR1_REPLICA,
                "{topology:?} {attach}"
            );
        }
        let status = daemon.status().unwrap();
        let mode = if attach == "generic" { "generic" } else { "native" };
        assert_eq!(status["daemon"]["interfaces"][0]["attach"], mode);
        assert_eq!(status["clusters"][0]["active_pair"], "pair1");
    }
}

#[test]
fn the_backend_sees_the_redirector_and_flows_say_who_is_behind_it() {
    let (lab, daemon) = start(&options());
    let (user, flows) = {
        let namespace = lab.ns("client1");
        let (ready, wait) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let client = namespace
            .spawn(move || {
                let client = Client::new(VIP_WRITE).unwrap();
                let mut session = client.connect().unwrap();
                ready.send(session.value::<String>("SELECT host FROM information_schema.processlist WHERE id = connection_id()").unwrap()).unwrap();
                gone.recv().unwrap();
                session.close().unwrap();
            })
            .unwrap();
        let seen_by_backend = wait.recv().unwrap();
        let flows: serde_json::Value =
            serde_json::from_str(&daemon.ctl(&["flows", "--json"]).unwrap()).unwrap();
        go.send(()).unwrap();
        client.join().unwrap();
        (seen_by_backend, flows)
    };
    assert!(user.starts_with("10.77.0.2:"), "{user}");
    assert_eq!(flows["total"], 1);
    let flow = &flows["flows"][0];
    assert_eq!(flow["source"], user.as_str());
    assert_eq!(flow["vip"], "10.77.0.100:3306");
    assert_eq!(flow["state"], "established");
    assert!(flow["client"].as_str().unwrap().starts_with("10.77.0.11:"));
    wait_for("a closed flow leaves the table", Duration::from_secs(5), || {
        daemon.status().unwrap()["daemon"]["flows"] == 0
    });
}

#[test]
fn the_hosts_own_connections_keep_out_of_snat_ports() {
    let (lab, _daemon) = start(&options());
    let inside = lab
        .ns("redirector")
        .run(|| {
            // More than there would be by chance: without the reservation each has a port of the range.
            let streams: Vec<_> =
                (0..50).map(|_| std::net::TcpStream::connect("10.77.0.21:3306").unwrap()).collect();
            streams
                .iter()
                .filter(|stream| (32_768..=60_999).contains(&stream.local_addr().unwrap().port()))
                .count()
        })
        .unwrap();
    assert_eq!(inside, 0);
}

#[test]
fn a_backend_that_changes_its_mac_is_followed() {
    let (lab, _daemon) = start(&options());
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);
    let db = lab.ns("db1");
    db.ip("link set eth0 down").unwrap();
    db.ip("link set eth0 address 02:00:00:00:77:21").unwrap();
    db.ip("link set eth0 up").unwrap();
    wait_for("writes through the new address", DETECTION + DETECTION + SLACK, || {
        server_id(&lab, "client1", VIP_WRITE).is_ok_and(|id| id == PAIR1_PRIMARY)
    });
}

#[test]
fn an_interface_without_native_support_falls_back_to_generic_and_says_so() {
    let lab = Lab::up(&options(), |_| {}).unwrap();
    // A bridge has no driver that could run the program.
    lab.ns("redirector").ip("link add br9 type bridge").unwrap();
    let config =
        lab.write_config(|config| config.replace("[\"eth0\"]", "[\"eth0\", \"br9\"]")).unwrap();
    let mut daemon = lab.daemon(&config);
    daemon.start().unwrap();
    let interfaces = &daemon.status().unwrap()["daemon"]["interfaces"];
    assert_eq!(
        (&interfaces[0]["attach"], &interfaces[1]["attach"]),
        (&"native".into(), &"generic".into())
    );
    let log = daemon.log().unwrap();
    assert!(log.contains("native mode is not possible"), "{log}");
}

#[test]
fn vips_that_someone_else_announces_are_left_to_him() {
    let (lab, daemon) = start_with(&options(), |config| {
        config.replace("name = \"main\"", "name = \"main\"\nannounce = \"none\"")
    });
    let redirector = lab.ns("redirector");
    assert!(!redirector.ip("address show eth0").unwrap().contains("10.77.0.100"));
    redirector.ip("address add 10.77.0.100/32 dev eth0").unwrap();
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);
    let config = lab.dir().join("pairflip.toml").display().to_string();
    daemon.ctl(&["unload", "--config", &config]).unwrap();
    assert!(redirector.ip("address show eth0").unwrap().contains("10.77.0.100"));
}
