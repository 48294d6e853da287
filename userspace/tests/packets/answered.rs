//! Whether the last payload of a connection went from server to client: what decides when a flow may be cut.

use crate::{
    bench::{ACK, FIN, PSH},
    frames::Packet,
    scene::{Scene, Side, When},
    world::World,
};

/// What the ends of a connection do.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends something new, and acknowledges all that it got.
    Query,
    /// So does the server.
    Rows,
    /// The client acknowledges all that it got.
    Ack,
    ServerAck,
    /// The client sends its last query once more; so does the server with its last rows.
    QueryAgain,
    RowsAgain,
    /// Rows that were sent before the last query came.
    RowsAcross,
    Keepalive,
    Fin,
}
use Step::{Ack, Fin, Keepalive, Query, QueryAgain, Rows, RowsAcross, RowsAgain, ServerAck};

/// Each step, and whether the connection is answered after it.
type Story = (&'static str, &'static [(Step, bool)]);

/// Where the server's packets are seen: its last payload acknowledged everything that the client sent.
const SEEN: &[Story] = &[
    ("a greeting answers", &[(Rows, true), (Ack, true)]),
    ("an acknowledgement is no greeting", &[(Ack, false), (ServerAck, false)]),
    ("a query waits for rows", &[(Query, false), (ServerAck, false), (Rows, true), (Ack, true)]),
    ("a query is acknowledged", &[(Rows, true), (Query, false), (ServerAck, false), (Rows, true)]),
    ("rows in several packets", &[(Query, false), (Rows, true), (Rows, true), (Ack, true)]),
    ("rows acknowledge the query", &[(Query, false), (Rows, true), (ServerAck, true), (Ack, true)]),
    ("one query after another", &[(Query, false), (Rows, true), (Query, false), (Rows, true)]),
    ("queries in a row", &[(Query, false), (Query, false), (RowsAcross, false), (Rows, true)]),
    ("rows and a query cross", &[(Rows, true), (Query, false), (RowsAcross, false), (Rows, true)]),
    ("a late copy of a query", &[(Query, false), (Rows, true), (QueryAgain, true)]),
    ("a query that was lost behind us", &[(Query, false), (QueryAgain, false), (Rows, true)]),
    (
        "rows that were lost behind us",
        &[(Query, false), (Rows, true), (RowsAgain, true), (Ack, true)],
    ),
    ("a copy of rows answers nothing", &[(Rows, true), (Query, false), (RowsAgain, false)]),
    ("a keepalive asks nothing", &[(Query, false), (Rows, true), (Keepalive, true)]),
    ("a keepalive is no answer", &[(Query, false), (Keepalive, false)]),
    ("the end of a client waits, too", &[(Rows, true), (Fin, false)]),
];

/// Where they are not: the client acknowledged something new after its own last payload.
const UNSEEN: &[Story] = &[
    ("nothing was asked", &[(Ack, true)]),
    ("a query waits for rows", &[(Query, false), (Rows, false), (Ack, true)]),
    (
        "an acknowledgement of nothing new",
        &[(Query, false), (Ack, false), (Rows, false), (Ack, true)],
    ),
    (
        "rows in several packets",
        &[(Query, false), (Rows, false), (Ack, true), (Rows, true), (Ack, true)],
    ),
    (
        "the next query acknowledges the rows",
        &[(Query, false), (Rows, false), (Query, false), (Rows, false), (Ack, true)],
    ),
    (
        "a query that was lost behind us",
        &[(Query, false), (QueryAgain, false), (Rows, false), (Ack, true)],
    ),
    ("a late copy of a query", &[(Query, false), (Rows, false), (Ack, true), (QueryAgain, true)]),
    ("a keepalive asks nothing", &[(Query, false), (Rows, false), (Ack, true), (Keepalive, true)]),
    ("a keepalive is no answer", &[(Query, false), (Keepalive, false)]),
];

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connection_is_answered_when_the_servers_payload_was_the_last() {
    for (family, forwarding) in crate::ways() {
        let mut world = World::new(family, forwarding, 1024);
        for (name, steps) in if world.routed() { SEEN } else { UNSEEN } {
            tell(&mut world, name, steps);
        }
        for when in [When::Fresh, When::HalfOpen] {
            let id = world.connect(when).id();
            assert_eq!(world.bench.dataplane.is_answered(&id), None, "{world}: {when:?}");
        }
    }
}

fn tell(world: &mut World, name: &str, steps: &[(Step, bool)]) {
    let mut talk = Talk::new(world.connect(When::Open));
    for (at, (step, answered)) in steps.iter().enumerate() {
        let (from, packet) = talk.take(*step);
        if from == Side::Client || world.routed() {
            let outcome = world.run_from(from, &packet);
            assert_eq!(outcome.action, world.leaves_as(), "{world}: {name}");
        }
        let got = world.bench.dataplane.is_answered(&talk.scene.id());
        assert_eq!(got, Some(*answered), "{world}: {name}: after step {at}, {step:?}");
    }
}

/// A connection whose ends remember what they sent last.
struct Talk {
    scene: Scene,
    query: Option<Packet>,
    rows: Option<Packet>,
}

impl Talk {
    fn new(scene: Scene) -> Self {
        Self { scene, query: None, rows: None }
    }

    fn take(&mut self, step: Step) -> (Side, Packet) {
        const QUERY: &[u8] = b"select 1";
        const ROWS: &[u8] = b"1 row";
        let scene = self.scene.clone();
        match step {
            Query => {
                self.scene.c += QUERY.len() as u32;
                (Side::Client, self.query.insert(scene.client(ACK | PSH).payload(QUERY)).clone())
            }
            Rows => {
                self.scene.s += ROWS.len() as u32;
                (Side::Backend, self.rows.insert(scene.server(ACK | PSH).payload(ROWS)).clone())
            }
            RowsAcross => {
                self.scene.s += ROWS.len() as u32;
                let before = scene.c - QUERY.len() as u32;
                (Side::Backend, scene.server(ACK | PSH).payload(ROWS).ack(before))
            }
            Ack => (Side::Client, scene.client(ACK)),
            ServerAck => (Side::Backend, scene.server(ACK)),
            QueryAgain => (Side::Client, self.query.clone().expect("a query was sent")),
            RowsAgain => (Side::Backend, self.rows.clone().expect("rows were sent")),
            Keepalive => (Side::Client, scene.client(ACK).seq(scene.c - 1)),
            Fin => {
                self.scene.c += 1;
                (Side::Client, scene.client(ACK | FIN))
            }
        }
    }
}
