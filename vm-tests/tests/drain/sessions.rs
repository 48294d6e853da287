//! Sessions of every kind: not ended while they are in the middle of something, ended when they are through with it.

use super::{cursor::Cursor, *};

/// What a session does, and what brings it to an end.
struct Kind {
    name: &'static str,
    begin: &'static [&'static str],
    end: &'static str,
}

const KINDS: [Kind; 15] = [
    kind("BEGIN alone", &["BEGIN"], "COMMIT"),
    kind("BEGIN and a constant", &["BEGIN", "SELECT 1"], "ROLLBACK"),
    kind("reading", &["BEGIN", "SELECT * FROM app.i"], "COMMIT"),
    kind("writing", &["BEGIN", "UPDATE app.i SET b = b + 1 WHERE a = 1"], "COMMIT"),
    kind("FOR UPDATE", &["BEGIN", "SELECT * FROM app.i WHERE a = 2 FOR UPDATE"], "COMMIT"),
    kind("read only", &["START TRANSACTION READ ONLY"], "COMMIT"),
    kind("chained", &["BEGIN", "SELECT * FROM app.i", "COMMIT AND CHAIN"], "COMMIT"),
    kind("no autocommit", &["SET autocommit = 0", "SELECT * FROM app.i"], "COMMIT"),
    kind("LOCK TABLES", &["LOCK TABLES app.l WRITE"], "UNLOCK TABLES"),
    kind("GET_LOCK", &["SELECT GET_LOCK('pairflip', 1)"], "SELECT RELEASE_LOCK('pairflip')"),
    kind("HANDLER", &["HANDLER app.i OPEN AS h"], "HANDLER h CLOSE"),
    kind("MyISAM", &["BEGIN", "INSERT INTO app.m VALUES (1)"], "COMMIT"),
    kind("XA", &["XA START 'a'"], "XA END 'a'; XA ROLLBACK 'a'"),
    kind(
        "XA prepared",
        &["XA START 'b'", "UPDATE app.i SET b = 0 WHERE a = 3", "XA END 'b'", "XA PREPARE 'b'"],
        "XA ROLLBACK 'b'",
    ),
    kind("savepoint", &["BEGIN", "SAVEPOINT s"], "ROLLBACK"),
];

const fn kind(name: &'static str, begin: &'static [&'static str], end: &'static str) -> Kind {
    Kind { name, begin, end }
}

/// Long enough that whatever may be ended is.
const UNDISTURBED: Duration = Duration::from_millis(1500);

#[test]
fn sessions_of_mysql_are_ended_when_they_are_idle_and_not_before() {
    each_kind(Flavour::MySql97);
}

#[test]
fn sessions_of_mariadb_are_ended_when_they_are_idle_and_not_before() {
    each_kind(Flavour::MariaDb1011);
}

#[test]
fn sessions_of_the_newer_mariadb_are_ended_when_they_are_idle_and_not_before() {
    each_kind(Flavour::MariaDb118);
}

fn each_kind(flavour: Flavour) {
    let lab = lab(flavour, 1);
    lab.db(1)
        .sql(
            "CREATE TABLE app.i (a INT PRIMARY KEY, b INT); INSERT INTO app.i VALUES (1,1), (2,2), (3,3);
             CREATE TABLE app.l (a INT PRIMARY KEY); CREATE TABLE app.m (a INT) ENGINE=MyISAM;
             CREATE USER reader@'%'; GRANT SELECT ON app.* TO reader@'%'",
        )
        .unwrap();
    let daemon = start(&lab, |config| config);
    on_client(&lab, || {
        let client = Client::new(VIP_WRITE).unwrap();
        let mut idle = client.connect().unwrap();
        let tls =
            (flavour != Flavour::MariaDb1011).then(|| Client::new(VIP_WRITE).unwrap().over_tls());
        let mut encrypted = tls.as_ref().map(|tls| tls.connect().unwrap());
        if let Some(encrypted) = &mut encrypted {
            let cipher = "SELECT VARIABLE_VALUE FROM performance_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'";
            assert_ne!(encrypted.value::<String>(cipher).unwrap(), "");
            encrypted.run("BEGIN").unwrap();
        }
        // Not through us.
        let elsewhere = Client::new((lab.db(1).address, 3306)).unwrap();
        let mut stranger = elsewhere.connect().unwrap();
        let mut sessions = Vec::new();
        for kind in &KINDS {
            let mut session = client.connect().unwrap();
            for statement in kind.begin {
                session.run(statement).unwrap_or_else(|error| panic!("{}: {error:#}", kind.name));
            }
            sessions.push((kind, session));
        }
        // No transaction: only that it was read from a moment ago tells that it is open.
        let mut cursor =
            Cursor::open(VIP_WRITE, "reader", "SELECT x.a FROM app.i x, app.i y").unwrap();
        cursor.fetch().unwrap();
        drain(&lab, &daemon, 1, &["--drain", "idle"]);
        wait_for("the idle one is ended", SOON, || drains(&daemon)[0]["ended"] == 1);
        assert!(!lives(&mut idle));
        thread::sleep(UNDISTURBED);
        let left = &drains(&daemon)[0];
        let expected = KINDS.len() + 1 + usize::from(encrypted.is_some());
        assert_eq!((&left["ended"], &left["left"]), (&1.into(), &expected.into()), "{left}");
        for (kind, session) in &mut sessions {
            assert!(lives(session), "{} was ended", kind.name);
        }
        cursor.fetch().expect("it was ended between two rows");
        if let Some(encrypted) = &mut encrypted {
            encrypted.run("COMMIT").expect("it was not ended in its transaction");
        }
        for (kind, session) in &mut sessions {
            for statement in kind.end.split("; ") {
                session.run(statement).unwrap_or_else(|error| panic!("{}: {error:#}", kind.name));
            }
        }
        cursor.run("COMMIT").unwrap();
        let begun = Instant::now();
        while told(&daemon, "drained").is_empty() {
            assert!(begun.elapsed() < SOON, "some are not ended: {}", drains(&daemon));
            thread::sleep(Duration::from_millis(50));
        }
        for (kind, session) in &mut sessions {
            assert!(!lives(session), "{} was not ended", kind.name);
        }
        assert!(cursor.fetch().is_err(), "a cursor that is closed was not ended");
        assert!(encrypted.is_none_or(|mut encrypted| !lives(&mut encrypted)));
        assert!(lives(&mut stranger), "a session that is not ours was ended");
    });
}
