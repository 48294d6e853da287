//! What is asked on the login's connection: queries, heartbeats, GTIDs, Galera; and passwords that change.

use std::fs;

use pairflip::{
    check::keys::Notice,
    config::{Comparison, Galera, Heartbeat, HostSecrets, SecretSource, SqlCheck},
};
use pairflip_policy::{About, Outcome};

use super::*;

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn queries_are_compared_with_what_is_expected() {
    let server = Server::start(11).await;
    let found = asked(
        &server,
        vec![
            sql("one", "SELECT 1", Comparison::Equal, "1"),
            sql("small", "SELECT 10", Comparison::Less, "9"),
            sql("shown", "SHOW GLOBAL VARIABLES LIKE 'read_only'", Comparison::Equal, "OFF"),
            sql("null", "SELECT NULL", Comparison::NotEqual, "1"),
            sql("none", "SELECT 1 FROM DUAL WHERE 1 = 0", Comparison::Equal, "1"),
            sql("nothing", "DO 1", Comparison::Equal, "1"),
            sql("wrong", "SELEC 1", Comparison::Equal, "1"),
            sql("absent", "SELECT 1 FROM test.absent", Comparison::Equal, "1"),
            sql("last", "SELECT 2", Comparison::Equal, "2"),
        ],
    )
    .await;
    let found: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(
        &found[..6],
        [
            ("one", ""),
            ("small", "got 10, expected < 9"),
            ("shown", ""),
            ("null", "got NULL, expected != 1"),
            ("none", "got no row, expected = 1"),
            ("nothing", "got no row, expected = 1"),
        ]
    );
    // A broken query is told in the server's words and says nothing about the server.
    assert!(found[6].1.starts_with("server error (ERROR 1064 (42000): "), "{:?}", found[6]);
    assert!(
        found[7].1.starts_with("the check user lacks a privilege (ERROR 1142 "),
        "{:?}",
        found[7]
    );
    assert!(found[7].1.ends_with("grant the check user what the query needs)"), "{:?}", found[7]);
    assert_eq!(found[8], ("last", ""));
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_query_with_several_rows_is_not_judged() {
    let server = Server::start(11).await;
    let several =
        sql("rows", "SELECT ID FROM information_schema.COLLATIONS", Comparison::Equal, "1");
    let mut prober = asking(&server, vec![several]);
    for round in 0..3 {
        let found = prober.probe().await;
        assert!(matches!(found.result, CheckResult::Answered(_)), "{round} {found:?}");
        let text = found.conditions[0].outcome.text();
        assert!(text.contains("the query returned several rows"), "{text}");
    }
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_query_that_hangs_is_ended_on_the_server_and_starves_no_other() {
    let server = Server::start(11).await;
    let hanging = sql("hanging", "SELECT SLEEP(60)", Comparison::Equal, "0");
    let mut prober = asking(&server, vec![hanging, sql("one", "SELECT 1", Comparison::Equal, "1")]);
    let mut names = Vec::new();
    for _ in 0..4 {
        let started = Instant::now();
        let found = prober.probe().await;
        let took = started.elapsed();
        assert!(took < TIMEOUT + SLACK, "{took:?}");
        // The server itself answers.
        assert!(matches!(found.result, CheckResult::Answered(_)), "{found:?}");
        let name = |it: &pairflip_policy::Condition| format!("{} {}", it.name, it.outcome.name());
        names.extend(found.conditions.iter().map(name));
    }
    assert!(names.contains(&"hanging timed_out".into()), "{names:?}");
    assert!(names.contains(&"one passed".into()), "{names:?}");
    tokio::time::sleep(TIMEOUT).await;
    let running =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
    assert_eq!(server.number(running).await, 0, "a query was left behind");
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn lag_is_the_age_of_the_newest_heartbeat() {
    let (primary, replica) = tokio::join!(Server::start(11), Server::start(12));
    let port = primary.address.port();
    replica
        .sql(&format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, \
             MASTER_USER = 'repl', MASTER_PASSWORD = 'secret', MASTER_USE_GTID = slave_pos"
        ))
        .await;
    replica.sql("START SLAVE").await;
    let mut prober = beating(&replica, None);

    // Not there: told, and the server's own word stands.
    let found = settled(&mut prober).await;
    let text = found.conditions[0].outcome.text();
    assert_eq!(
        (found.conditions[0].name.as_str(), found.conditions[0].about),
        ("heartbeat", About::Replication)
    );
    assert!(text.contains("grant the check user SELECT on `percona`.`heartbeat`"), "{text}");
    assert_eq!(lag(&found), Some(0));

    primary.sql("CREATE DATABASE percona").await;
    // As pt-heartbeat makes it.
    primary
        .sql(
            "CREATE TABLE percona.heartbeat (ts varchar(26) NOT NULL, \
             server_id int unsigned NOT NULL PRIMARY KEY, file varchar(255), position bigint unsigned)",
        )
        .await;
    replica.sql("GRANT SELECT ON percona.* TO checker@'%'").await;
    let found = until(&mut prober, |found| found.conditions[0].outcome.name() == "failed").await;
    let text = found.conditions[0].outcome.text();
    assert!(
        text.ends_with("has no row with server_id <> @@GLOBAL.server_id: does pt-heartbeat run?"),
        "{text}"
    );
    assert_eq!(lag(&found), None, "nobody knows");

    let beat = |id: u32, age: u32| {
        format!(
            "REPLACE INTO percona.heartbeat (ts, server_id) VALUES (DATE_FORMAT(NOW(6) - INTERVAL {age} SECOND, '%Y-%m-%dT%H:%i:%s.%f'), {id})"
        )
    };
    primary.sql(&beat(11, 5)).await;
    primary.sql(&beat(99, 500)).await;
    // The replica's own row says nothing about its lag.
    primary.sql(&beat(12, 0)).await;
    let found = until(&mut prober, |found| lag(found).is_some()).await;
    let seconds = lag(&found).expect("lag");
    assert!((5..15).contains(&seconds), "{seconds}");
    assert_eq!(found.conditions[0].outcome, Outcome::Passed);

    let mut of_another = beating(&replica, Some(99));
    let seconds = lag(&of_another.probe().await).expect("lag");
    assert!((500..520).contains(&seconds), "{seconds}");

    // A thread that stands has no lag, whatever beats.
    replica.sql("STOP SLAVE SQL_THREAD").await;
    assert_eq!(lag(&prober.probe().await), None);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn replication_by_positions_is_seen() {
    let server = Server::start(11).await;
    let questions = Questions { gtid: true, ..Questions::none(Role::Replica) };
    let mut prober = with_questions(&server, questions);
    assert_eq!(prober.probe().await.conditions[0].outcome, Outcome::Passed, "no channel, no fault");
    let source = "MASTER_HOST = '127.0.0.1', MASTER_USER = 'repl'";
    server.sql(&format!("CHANGE MASTER TO {source}, MASTER_USE_GTID = slave_pos")).await;
    let found = prober.probe().await.conditions.remove(0);
    assert_eq!((found.name.as_str(), found.outcome), ("gtid", Outcome::Passed));
    server
        .sql(&format!("CHANGE MASTER 'b' TO {source}, MASTER_PORT = 2, MASTER_USE_GTID = no"))
        .await;
    let text = prober.probe().await.conditions[0].outcome.text();
    assert_eq!(
        text,
        "replicates by positions, not by GTIDs (channel \"b\"): MASTER_USE_GTID = slave_pos"
    );
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_server_that_is_no_galera_node_fails_that_condition() {
    let server = Server::start(11).await;
    let questions = Questions { galera: Galera::Synced, ..Questions::none(Role::Primary) };
    let found = with_questions(&server, questions).probe().await;
    let text = found.conditions[0].outcome.text();
    assert_eq!(text, "wsrep_ready is OFF, expected ON");
    assert!(matches!(found.result, CheckResult::Answered(_)), "{found:?}");
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_password_that_changed_in_its_file_is_found_when_the_old_one_is_denied() {
    let server = Server::start(11).await;
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("password");
    fs::write(&file, "secret\n").expect("write");
    let (notices, mut told) = mpsc::channel(8);
    let login =
        Login { source: SecretSource::File(file.clone()), ..Login::plain("checker", "secret") };
    let keys = Keys::new(login, 3, notices);
    let mut probers = [(); 2].map(|()| {
        Prober::new(server.address, keys.clone(), Questions::none(Role::Replica), TIMEOUT)
    });
    let [first, second] = &mut probers;
    answered(first.probe().await);

    // The file first, then the server: nobody is denied but for the moment in between.
    fs::write(&file, "new secret\n").expect("write");
    answered(first.probe().await);
    server.sql("ALTER USER checker@'%' IDENTIFIED BY 'new secret'").await;
    first.disconnect();
    answered(first.probe().await);
    answered(second.probe().await);
    let Notice { cluster, text, is_trouble } = told.recv().await.expect("a notice");
    assert_eq!((cluster, is_trouble), (3, false));
    assert!(
        text.contains("password changed in") && text.ends_with("the new one is in use"),
        "{text}"
    );
    assert!(!text.contains("new secret"));

    // The server first; a file of no use is said once and leaves what there is.
    server.sql("ALTER USER checker@'%' IDENTIFIED BY 'third'").await;
    fs::write(&file, "").expect("write");
    first.disconnect();
    for _ in 0..3 {
        assert_eq!(failed(first.probe().await), Cause::AuthDenied);
    }
    let trouble = told.recv().await.expect("a notice");
    assert!(
        trouble.is_trouble && trouble.text.starts_with("the password stays as it was: "),
        "{trouble:?}"
    );
    assert!(told.try_recv().is_err(), "said once");
    fs::write(&file, "third").expect("write");
    answered(first.probe().await);
}

#[tokio::test]
#[ignore = "needs mariadbd: run by cargo xtask test"]
async fn a_reload_tries_the_new_password_out_at_once_and_keeps_the_old_one_if_it_is_of_no_use() {
    let server = Server::start(11).await;
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("password");
    fs::write(&file, "secret\n").expect("write");
    let login =
        Login { source: SecretSource::File(file.clone()), ..Login::plain("checker", "secret") };
    let keys = Keys::fixed(login);
    let mut prober =
        Prober::new(server.address, keys.clone(), Questions::none(Role::Replica), TIMEOUT);
    answered(prober.probe().await);
    assert_eq!(keys.reread(&HostSecrets), Default::default());

    fs::write(&file, "a\nb\n").expect("write");
    let reread = keys.reread(&HostSecrets);
    assert_eq!(reread.changed, Vec::<&str>::new());
    assert!(reread.failed[0].contains("has more than one line"), "{reread:?}");
    answered(prober.probe().await);

    fs::write(&file, "wrong\n").expect("write");
    assert_eq!(keys.reread(&HostSecrets).changed, ["password"]);
    assert_eq!(failed(prober.probe().await), Cause::AuthDenied, "it is tried out at once");
    fs::write(&file, "secret\n").expect("write");
    answered(prober.probe().await);
}

fn sql(name: &str, query: &str, op: Comparison, value: &str) -> SqlCheck {
    SqlCheck {
        name: name.into(),
        role: Applies::Any,
        query: query.into(),
        op,
        value: value.into(),
        timeout: TIMEOUT,
    }
}

fn asking(server: &Server, sql: Vec<SqlCheck>) -> Prober {
    with_questions(server, Questions { sql, ..Questions::none(Role::Replica) })
}

fn beating(server: &Server, server_id: Option<u32>) -> Prober {
    let table = "`percona`.`heartbeat`".to_owned();
    let heartbeat = Some(Heartbeat { table, server_id, utc: false });
    with_questions(server, Questions { heartbeat, ..Questions::none(Role::Replica) })
}

fn with_questions(server: &Server, questions: Questions) -> Prober {
    let keys = Keys::fixed(Login::plain("checker", "secret"));
    Prober::new(server.address, keys, questions, TIMEOUT)
}

async fn asked(server: &Server, sql: Vec<SqlCheck>) -> Vec<(String, String)> {
    let found = asking(server, sql).probe().await;
    assert!(matches!(found.result, CheckResult::Answered(_)), "{found:?}");
    found.conditions.into_iter().map(|it| (it.name, it.outcome.text())).collect()
}

fn lag(probe: &Probe) -> Option<u64> {
    answered(probe.clone()).replication[0].lag.map(|lag| lag.as_secs())
}

async fn settled(prober: &mut Prober) -> Probe {
    until(prober, |found| lag(found) == Some(0)).await
}

async fn until(prober: &mut Prober, is_so: impl Fn(&Probe) -> bool) -> Probe {
    let started = Instant::now();
    loop {
        let found = prober.probe().await;
        if is_so(&found) {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
