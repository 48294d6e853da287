//! The daemon comes and goes; connections stay.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    os::unix::process::CommandExt as _,
    path::Path,
    sync::mpsc,
};

use pairflip_vm_tests::lab::daemon::binary;

use super::*;

/// About 60 MB, slowly enough to flip, kill and restart meanwhile.
const TRANSFER: &str = "SELECT CONCAT(seq, REPEAT(MD5(seq), 6)) FROM app.seq_1_to_300000";

#[test]
fn a_long_transfer_survives_flips_a_killed_daemon_and_a_new_program_byte_for_byte() {
    let (lab, mut daemon) = start(&Options { both_writable: true, ..options() });
    let direct = SocketAddrV4::new(lab.db(1).address, 3306);
    let expected = lab.ns("client2").run(move || transfer(direct, Duration::ZERO, None)).unwrap();
    let (started, wait) = mpsc::channel();
    let through = lab
        .ns("client1")
        .spawn(move || transfer(VIP_WRITE, Duration::from_micros(50), Some(started)))
        .unwrap();
    wait.recv().unwrap();

    daemon.ctl(&["flip", "--route-only", "--to", "pair2"]).unwrap();
    daemon.kill().unwrap();
    assert_eq!(
        server_id(&lab, "client2", VIP_WRITE).unwrap(),
        PAIR2_PRIMARY,
        "forwarding goes on without the daemon"
    );
    daemon.start().unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status["daemon"]["adopted"], true);
    assert_eq!(status["clusters"][0]["active_pair"], "pair2");
    daemon.ctl(&["flip", "--route-only", "--to", "pair1"]).unwrap();
    for _ in 0..3 {
        // Every start replaces the program atomically.
        daemon.stop().unwrap();
        daemon.start().unwrap();
        assert!(daemon.log().unwrap().contains("replaced the program of an earlier daemon"));
        daemon.ctl(&["flip", "--route-only"]).unwrap();
    }
    assert!(!through.is_finished(), "the transfer was over too early to prove anything");
    let flows = daemon.ctl(&["flows"]).unwrap();
    assert!(flows.contains("10.77.0.21:3306"), "{flows}");
    assert_eq!(through.join().unwrap(), expected);
}

/// Rows and a hash of all their bytes.
fn transfer(
    to: SocketAddrV4,
    pause: Duration,
    mut started: Option<mpsc::Sender<()>>,
) -> (u64, u64) {
    let client = Client::new(to).unwrap();
    let mut session = client.connect().unwrap();
    let mut hasher = DefaultHasher::new();
    let mut rows = 0;
    session
        .for_each(TRANSFER, |row| {
            row.hash(&mut hasher);
            rows += 1;
            if rows == 1000
                && let Some(started) = started.take()
            {
                started.send(()).unwrap();
            }
            if !pause.is_zero() && rows % 100 == 0 {
                thread::sleep(pause * 100);
            }
        })
        .unwrap();
    (rows, hasher.finish())
}

#[test]
fn a_restarted_daemon_keeps_the_active_pair_also_when_the_kernel_forgot() {
    let (lab, mut daemon) = start(&Options { both_writable: true, ..options() });
    daemon.ctl(&["flip", "--route-only", "--to", "pair2"]).unwrap();
    let config = lab.dir().join("pairflip.toml").display().to_string();
    daemon.ctl(&["unload", "--config", &config]).unwrap();
    daemon.stop().unwrap();
    daemon.start().unwrap();
    assert_eq!(daemon.status().unwrap()["clusters"][0]["active_pair"], "pair2");
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR2_PRIMARY);
}

#[test]
fn unload_leaves_nothing_behind_with_and_without_a_daemon() {
    let (lab, mut daemon) = start(&options());
    let config = lab.dir().join("pairflip.toml").display().to_string();
    for daemon_runs in [true, false] {
        if !daemon_runs {
            daemon.start().unwrap();
            daemon.kill().unwrap();
        }
        assert!(addresses(&lab).contains("10.77.0.100/32"));
        assert!(lab.bpffs().exists());
        let said = daemon.ctl(&["unload", "--config", &config]).unwrap();
        assert!(
            said.contains("took 10.77.0.100 off eth0") && said.contains("detached the program"),
            "{said}"
        );
        daemon.stop().unwrap();
        assert!(!addresses(&lab).contains("10.77.0.100"));
        assert!(!lab.ns("redirector").ip("link show eth0").unwrap().contains("xdp"));
        assert!(!lab.bpffs().exists());
        assert_eq!(sysctl(&lab, "ip_local_reserved_ports"), "");
        assert_eq!(sysctl(&lab, "ip_local_port_range"), "32768\t60999");
    }
    assert!(daemon.ctl(&["unload", "--config", &config]).unwrap().contains("nothing was loaded"));
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let (lab, daemon) = start(&options());
    let mut second = lab.daemon(&lab.dir().join("pairflip.toml"));
    let error = format!("{:#}", second.start().unwrap_err());
    assert!(error.contains("another pairflipd uses"), "{error}");
    assert_eq!(daemon.status().unwrap()["clusters"][0]["active_pair"], "pair1");
    assert_eq!(server_id(&lab, "client1", VIP_WRITE).unwrap(), PAIR1_PRIMARY);
}

#[test]
fn a_kernel_that_is_too_old_is_told_what_it_lacks() {
    let lab = Lab::up(&options(), |_| {}).unwrap();
    let config = lab.write_config(|config| config).unwrap();
    // It does not end by itself if it starts after all.
    let mut daemon = lab.ns("redirector").command("timeout").unwrap();
    daemon.args(["30", &binary("pairflipd"), "--config"]).arg(config);
    // SAFETY: system calls and nothing else, so they are safe between fork and exec.
    unsafe { daemon.pre_exec(become_old) };
    let output = pairflip_vm_tests::command::output(&mut daemon).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("this is Linux 2.6") && said.contains("older than 5.10"), "{said}");
    assert!(said.contains("BPF links for XDP (Linux 5.9)"), "{said}");
}

/// Makes the kernel call itself 2.6 to this process, and know no BPF links, like one before 5.7.
fn become_old() -> std::io::Result<()> {
    /// personality(2).
    const UNAME26: libc::c_ulong = 0x0002_0000;
    /// Of `enum bpf_cmd`.
    const BPF_LINK_CREATE: u32 = 28;
    /// Where `struct seccomp_data` has the system call's number and its first argument.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let load = |offset| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let skip_unless = |value, jf| libc::sock_filter { code: 0x15, jt: 0, jf, k: value };
    let answer = |value| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value };
    let mut filter = [
        load(NUMBER),
        skip_unless(libc::SYS_bpf as u32, 3),
        load(FIRST_ARGUMENT),
        skip_unless(BPF_LINK_CREATE, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_mut_ptr() };
    // SAFETY: the filter lives through the calls, which copy it.
    let failed = unsafe {
        libc::personality(UNAME26) < 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) < 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn a_lab_that_was_killed_is_cleaned_by_the_next() {
    let stale = options();
    let lab = Lab::up(&stale, |_| {}).unwrap();
    let dir = lab.dir();
    // As if its owner had been killed: no process has this id, which is beyond the kernel's largest.
    std::fs::write(dir.join("owner"), "4194305").unwrap();
    let pid = lab.db(1).pid();
    std::mem::forget(lab);
    pairflip_vm_tests::lab::clean_stale().unwrap();
    // Another test that begins at the same time may have been the first.
    wait_for("the lab is removed", SLACK, || !dir.exists());
    assert!(!Path::new(&format!("/run/netns/pf-{}-db1", stale.name)).exists());
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

fn addresses(lab: &Lab) -> String {
    lab.ns("redirector").ip("-brief address show eth0").unwrap()
}

fn sysctl(lab: &Lab, name: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/{name}");
    lab.ns("redirector")
        .run(move || std::fs::read_to_string(path).unwrap().trim().to_owned())
        .unwrap()
}
