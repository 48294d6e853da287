//! What a server says of itself and of its replication: how it is read, and what the status makes of it.

use super::*;

#[test]
fn mariadb_10_11_tells_its_state() {
    tells_its_state(Flavour::MariaDb1011);
}

#[test]
fn mariadb_11_8_tells_its_state() {
    tells_its_state(Flavour::MariaDb118);
}

#[test]
fn mysql_9_7_tells_its_state() {
    tells_its_state(Flavour::MySql97);
}

fn tells_its_state(flavour: Flavour) {
    let mut world = World::start(lab(flavour, 2));
    a_healthy_pair(&world);
    read_only(&world);
    a_thread_that_is_stopped(&world);
    a_lag(&world);
    a_source_that_is_gone(&mut world);
}

fn a_healthy_pair(world: &World) {
    let (lab, fork) = (&world.lab, world.lab.db(1).fork());
    let primary = world.facts(1);
    assert_eq!((primary.read_only, primary.server_id), (false, 1));
    assert_eq!(primary.replication, [], "it replicates from nobody");
    assert_eq!(primary.version, lab.db(1).sql("SELECT @@version").unwrap());
    assert_eq!(primary.version.contains("MariaDB"), fork == Fork::MariaDb);
    let replica = world.facts(2);
    assert_eq!((replica.read_only, replica.server_id), (true, 2));
    assert_eq!(channel(world), (true, true, Some(0)));

    wait_for("all is well", DETECTION + SLACK, || {
        [1, 2].iter().all(|number| world.backend(*number)["health"] == "up")
    });
    assert_eq!(world.reason(1), "passing");
    world.wait_reason(2, &["passing"]);
    let replica = world.backend(2);
    assert_eq!((&replica["lag_seconds"], &replica["read_only"]), (&0.0.into(), &true.into()));
    assert_eq!(replica["server_version"], primary.version.as_str());
    assert!(world.page().contains(&world.address(2)), "{}", world.page());
}

fn read_only(world: &World) {
    let replica = world.lab.db(2);
    replica.sql("SET GLOBAL read_only = 0").unwrap();
    assert!(!world.facts(2).read_only);
    // On MySQL without `super_read_only`.
    replica.sql("SET GLOBAL read_only = 1").unwrap();
    assert!(world.facts(2).read_only);
    if replica.fork() == Fork::MySql {
        replica.sql("SET GLOBAL read_only = 0; SET GLOBAL super_read_only = 1").unwrap();
        assert!(world.facts(2).read_only, "super_read_only");
    }
    world.lab.db(1).set_read_only(true).unwrap();
    world.wait_reason(1, &["read-only"]);
    let routes = world.daemon.status().unwrap()["clusters"][0]["routes"].take();
    assert_eq!(routes[0]["reason"], "primary is read-only");
    world.lab.db(1).set_read_only(false).unwrap();
    world.wait_reason(1, &["passing"]);
}

fn a_thread_that_is_stopped(world: &World) {
    let replica = world.lab.db(2);
    replica.sql("STOP REPLICA IO_THREAD").unwrap();
    let (io_running, sql_running, _lag) = channel(world);
    assert_eq!((io_running, sql_running), (false, true));
    // Whatever lag the server still names.
    world.wait_reason(2, &["IO thread is not running"]);
    wait_for("unfit", DETECTION + SLACK, || world.backend(2)["health"] == "unfit");
    replica.sql("START REPLICA").unwrap();
    world.wait_reason(2, &["passing"]);

    replica.sql("STOP REPLICA SQL_THREAD").unwrap();
    assert_eq!(channel(world), (true, false, None), "the lag is NULL");
    world.wait_reason(2, &["SQL thread is not running"]);
    wait_for("unfit", DETECTION + SLACK, || world.backend(2)["health"] == "unfit");
    assert_eq!(world.backend(2)["lag_seconds"], Value::Null);
    replica.sql("START REPLICA").unwrap();
    world.wait_reason(2, &["passing"]);
}

fn a_lag(world: &World) {
    let (primary, replica) = (world.lab.db(1), world.lab.db(2));
    let lags = || channel(world).2.is_some_and(|lag| lag >= 1);
    primary.sql("CREATE TABLE app.t (id INT PRIMARY KEY)").unwrap();

    replica.sql(&replica.fork().delay(3600)).unwrap();
    primary.sql("INSERT INTO app.t VALUES (1)").unwrap();
    wait_for("a replica with a delay lags", DETECTION + SLACK, lags);
    world.wait_reason(2, &["lags ", "(max_lag 2s)"]);
    wait_for("unfit", DETECTION + SLACK, || world.backend(2)["health"] == "unfit");
    assert!(world.backend(2)["lag_seconds"].as_f64().unwrap() > 2.0);
    replica.sql(&replica.fork().delay(0)).unwrap();
    world.wait_reason(2, &["passing"]);

    let mut blocker =
        replica.sql_in_background("LOCK TABLES app.t READ; SELECT SLEEP(60)").unwrap();
    wait_for("the table is locked", SLACK, || {
        replica.sql("SHOW PROCESSLIST").unwrap().contains("SLEEP")
    });
    primary.sql("INSERT INTO app.t VALUES (2)").unwrap();
    wait_for("a replica whose applier is blocked lags", DETECTION + SLACK, lags);
    world.wait_reason(2, &["lags ", "(max_lag 2s)"]);
    // The server would only notice at the end of the sleep that its client is gone.
    replica.kill_connections_of("root").unwrap();
    blocker.wait().unwrap();
    world.wait_reason(2, &["passing"]);
    assert_eq!(replica.sql("SELECT COUNT(*) FROM app.t").unwrap(), "2");
}

fn a_source_that_is_gone(world: &mut World) {
    world.lab.db_mut(1).kill().unwrap();
    wait_for("the IO thread tries to connect", DETECTION + SLACK, || !channel(world).0);
    assert_eq!(channel(world), (false, true, None), "the lag is NULL");
    wait_for("the status says it", DETECTION + SLACK, || {
        let replica = world.backend(2);
        replica["lag_seconds"] == Value::Null
            && replica["reason"].as_str().unwrap().contains("IO thread is not running")
    });
}

/// Of the replica's one channel: whether its IO and its SQL thread run, and its lag in seconds.
fn channel(world: &World) -> (bool, bool, Option<u64>) {
    let facts = world.facts(2);
    let [channel] = facts.replication.as_slice() else { panic!("{facts:?}") };
    (channel.io_running, channel.sql_running, channel.lag.map(|lag| lag.as_secs()))
}
