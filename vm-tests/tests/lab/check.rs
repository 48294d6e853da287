//! `pairflip check` against live servers.

use super::*;

#[test]
fn a_lab_in_order_has_nothing_to_say_but_good() {
    let (lab, daemon) = start(&options());
    let (code, page) = check(&lab, &daemon, &[]);
    assert_eq!(code, Some(0), "{page}");
    assert!(!page.contains("ERROR") && !page.contains("WARNING"), "{page}");
    for number in 1..=4 {
        let address = lab.topology().database(number);
        assert!(page.contains(&format!("good     {address}:3306 (")), "{page}");
    }
    let (code, page) = check(&lab, &daemon, &["--offline"]);
    assert_eq!((code, page.contains("good ")), (Some(0), false), "{page}");
}

#[test]
fn what_does_not_fit_is_named_with_what_to_do() {
    let (mut lab, mut daemon) = start(&options());
    daemon.stop().unwrap();
    let revoke = "REVOKE SLAVE MONITOR, BINLOG MONITOR ON *.* FROM pairflip@'%'";
    lab.db(2).sql(revoke).unwrap();
    lab.db(3).sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only=0").unwrap();
    lab.db(4).sql("STOP SLAVE SQL_THREAD; SET GLOBAL server_id=1, GLOBAL read_only=0").unwrap();
    // Whoever had the VIP before and still answers for it; the daemon's own is taken off.
    daemon.ctl(&["unload", "--config", &config(&lab)]).unwrap();
    lab.ns("client2").ip(&format!("addr add {}/32 dev eth0", VIP_READ.ip())).unwrap();
    let (code, page) = check(&lab, &daemon, &[]);
    assert_eq!(code, Some(1), "{page}");
    let topology = lab.topology();
    let address = |number| format!("{}:3306", topology.database(number));
    for expected in [
        format!("ERROR    {} (replica of pair1): the check user lacks a privilege: ", address(2)),
        "GRANT SLAVE MONITOR ON *.* TO `pairflip`@`%`;".to_owned(),
        format!(
            "ERROR    {} (primary of pair2): writes made on {} (primary of pair1) do not reach it",
            address(3),
            address(1)
        ),
        format!(
            "ERROR    {} (replica of pair2): its server_id 1 is that of {} (primary of pair1)",
            address(4),
            address(1)
        ),
        format!(
            "ERROR    {} (replica of pair2): replication from {}: the SQL thread does not run",
            address(4),
            address(3)
        ),
        format!("WARNING  {} (replica of pair2): it is writable", address(4)),
        format!(
            "WARNING  the primaries: {} (primary of pair1) and {} (primary of pair2) are writable at the same time",
            address(1),
            address(3)
        ),
        format!("WARNING  VIP {} (route reads): ", VIP_READ.ip()),
        format!("good     VIP {} (route writes): ", VIP_WRITE.ip()),
    ] {
        assert!(page.contains(&expected), "{expected:?} is not in:\n{page}");
    }

    // The statement gives what is missing.
    lab.db(2).sql("GRANT SLAVE MONITOR ON *.* TO `pairflip`@`%`;").unwrap();
    lab.db_mut(4).kill().unwrap();
    let (_, page) = check(&lab, &daemon, &[]);
    assert!(page.contains(&format!("good     {} (replica of pair1)", address(2))), "{page}");
    let refused = format!("ERROR    {} (replica of pair2): connection refused: ", address(4));
    assert!(page.contains(&refused), "{page}");
}

#[test]
fn what_a_failover_would_lack_is_said_before_it_is_needed() {
    let automatic =
        |config: String| config.replacen("[[cluster]]", "[[cluster]]\nfailover = \"auto\"", 1);
    let (lab, daemon) = start_with(&Options { may_only_check: true, ..options() }, automatic);
    let (code, page) = check(&lab, &daemon, &[]);
    let lacks = "the check account may not fence and unfence primaries";
    assert_eq!((code, page.matches(lacks).count()), (Some(1), 2), "of both primaries: {page}");
    for number in [1, 3] {
        lab.db(number).sql("GRANT READ_ONLY ADMIN ON *.* TO `pairflip`@`%`;").unwrap();
    }
    let (code, page) = check(&lab, &daemon, &[]);
    assert_eq!((code, page.contains(lacks)), (Some(0), false), "{page}");
    // Nothing that is configured needs it, and an operator will.
    assert!(page.contains("only flips with --route-only are possible"), "{page}");
    assert!(page.contains("GRANT PROCESS ON *.* TO `pairflip`@`%`;"), "{page}");
}

#[test]
fn a_host_that_reaches_no_server_is_told_apart() {
    let (mut lab, daemon) = start(&options());
    for number in 1..=4 {
        lab.db_mut(number).kill().unwrap();
    }
    let (code, page) = check(&lab, &daemon, &[]);
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("none of the 4 servers answers this host"), "{page}");
}

fn config(lab: &Lab) -> String {
    lab.dir().join("pairflip.toml").display().to_string()
}

/// Exit code and page.
fn check(lab: &Lab, daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let config = config(lab);
    let all = [&["check", "--config", &config], arguments].concat();
    let output = daemon.pairflip(&all).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}
