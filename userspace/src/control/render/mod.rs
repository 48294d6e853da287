//! Answers of the daemon for a terminal: aligned, one thing per line, so that they can be grepped.
//!
//! Pure: whether there is colour is the caller's to know. Colour repeats what the words say.

mod flip;

use std::collections::BTreeMap;

use pairflip_common::counter::Counter;

pub use self::flip::{flip, plan, progress};
use super::protocol::{
    AdminDone, AdminState, AdminStatus, BackendStatus, ClusterStatus, DrainStatus, Event,
    FailoverStatus, Flows, HookStatus, OutStatus, PairStatus, Reloaded, RouteStatus, Status,
};

/// Connections shown of each drain.
const DRAINED_SHOWN: usize = 5;

/// Whether the text goes to a terminal that shows colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    Plain,
    Colour,
}

/// What a piece of text means to the reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tone {
    Neutral,
    /// Column heads.
    Faint,
    /// What the eye should find first.
    Strong,
    Good,
    /// Works, but somebody should look.
    Odd,
    Bad,
}

/// Which side a column's cells are flush with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Align {
    Left,
    Right,
}

struct Cell {
    text: String,
    tone: Tone,
}

/// Everything at a glance: which pair is active, where each VIP goes, and why.
pub fn status(status: &Status, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    for cluster in &status.clusters {
        page.cluster(cluster);
        page.line(Tone::Neutral, "");
    }
    page.daemon(status);
    page.text
}

/// One line per flow.
pub fn flows(flows: &Flows, style: Style) -> String {
    let rows: Vec<[Cell; 11]> = flows
        .flows
        .iter()
        .map(|flow| {
            [
                cell(&flow.client),
                cell(&flow.vip),
                cell(&flow.source),
                cell(&flow.backend),
                cell(&if flow.held { format!("{}, held", flow.state) } else { flow.state.clone() }),
                cell(&format!("{:.1}s", flow.age_seconds)),
                cell(&format!("{:.1}s", flow.idle_seconds)),
                cell(&flow.client_packets.to_string()),
                cell(&flow.client_bytes.to_string()),
                cell(&flow.server_packets.to_string()),
                cell(&flow.server_bytes.to_string()),
            ]
        })
        .collect();
    let mut page = Page { text: String::new(), style };
    if !rows.is_empty() {
        page.table(
            [
                ("CLIENT", Align::Left),
                ("VIP", Align::Left),
                ("SEEN BY BACKEND AS", Align::Left),
                ("BACKEND", Align::Left),
                ("STATE", Align::Left),
                ("AGE", Align::Right),
                ("IDLE", Align::Right),
                ("PACKETS IN", Align::Right),
                ("BYTES IN", Align::Right),
                ("PACKETS OUT", Align::Right),
                ("BYTES OUT", Align::Right),
            ],
            &rows,
        );
    }
    let listed = rows.len() as u64;
    let text = match flows.total {
        0 => "no flows".to_owned(),
        1 if listed == 1 => "1 flow".to_owned(),
        total if listed == total => format!("{total} flows"),
        total => format!("{listed} of {total} flows; more with --limit"),
    };
    page.line(Tone::Neutral, &text);
    page.text
}

/// One line per event; nothing where there is none.
pub fn events(events: &[Event], style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    for event in events {
        let Event { time, cluster, severity, text, .. } = event;
        let tone = match severity.as_str() {
            "error" => Tone::Bad,
            "warning" => Tone::Odd,
            _ => Tone::Neutral,
        };
        page.paint(Tone::Neutral, &format!("{}  ", printable(time)));
        page.paint(tone, &format!("{:<7}", printable(severity)));
        let cluster = cluster.as_deref().unwrap_or("-");
        page.line(Tone::Neutral, &format!("  {cluster}  {text}"));
    }
    page.text
}

/// The text so far.
struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn cluster(&mut self, cluster: &ClusterStatus) {
        let ClusterStatus { name, active_pair, generation, .. } = cluster;
        self.line(
            Tone::Strong,
            &format!("cluster {name}: {active_pair} is active (generation {generation})"),
        );
        if let Some(checks) = &cluster.checks {
            self.line(Tone::Bad, &format!("  ! {checks}"));
        }
        self.flip_under_way(cluster.flip.as_ref());
        self.failover(&cluster.failover);
        for drain in &cluster.drains {
            self.drain(drain);
        }
        let routes: Vec<[Cell; 7]> = cluster.routes.iter().map(route_row).collect();
        self.table(
            [
                ("ROUTE", Align::Left),
                ("ACCESS", Align::Left),
                ("VIP", Align::Left),
                ("GOES TO", Align::Left),
                ("OPENED", Align::Right),
                ("TURNED AWAY", Align::Right),
                ("WHY", Align::Left),
            ],
            &routes,
        );
        self.line(Tone::Neutral, "");
        let mut backends = Vec::new();
        for pair in &cluster.pairs {
            backends.extend(pair.backends.iter().map(|backend| backend_row(pair, backend)));
        }
        self.table(
            [
                ("PAIR", Align::Left),
                ("STATE", Align::Left),
                ("ROLE", Align::Left),
                ("BACKEND", Align::Left),
                ("ADMIN", Align::Left),
                ("HEALTH", Align::Left),
                ("MODE", Align::Left),
                ("LAG", Align::Right),
                ("FLOWS", Align::Right),
                ("WHY", Align::Left),
            ],
            &backends,
        );
    }

    fn failover(&mut self, failover: &FailoverStatus) {
        let FailoverStatus { mode, state, text, hold_until, last, out, .. } = failover;
        // A daemon of 0.1 says nothing.
        if mode.is_empty() {
            return;
        }
        let tone = match state.as_str() {
            "refused" | "promoting" => Tone::Bad,
            "unready" | "running" => Tone::Odd,
            _ => Tone::Neutral,
        };
        self.line(tone, &format!("  failover {mode}: {text}"));
        if let Some(last) = last {
            let position = |position: &Option<String>| {
                position.clone().unwrap_or_else(|| "an unknown position".to_owned())
            };
            let held = hold_until
                .map(|until| format!("; no other until {} unless acknowledged", utc(until)));
            let unfinished = if last.done { "" } else { ", not finished" };
            self.line(
                Tone::Neutral,
                &format!(
                    "  last failover: {} -> {} at {}{unfinished}; old primary at {}, new one at {}{}",
                    last.from,
                    last.to,
                    utc(last.at),
                    position(&last.old_position),
                    position(&last.new_position),
                    held.unwrap_or_default(),
                ),
            );
        }
        for OutStatus { pair, text } in out {
            self.line(Tone::Bad, &format!("  ! {pair} {text}"));
        }
    }

    fn drain(&mut self, drain: &DrainStatus) {
        let DrainStatus { of, reason, mode, age_seconds, deadline_seconds, ended, left, .. } =
            drain;
        let deadline = deadline_seconds.map_or_else(
            || "no deadline".to_owned(),
            |left| format!("the rest is cut in {left:.0} s"),
        );
        self.line(
            Tone::Odd,
            &format!("  draining {of} ({reason}, {mode}): {ended} ended, {left} left, {age_seconds:.0} s so far, {deadline}"),
        );
        for remark in &drain.remarks {
            self.line(Tone::Odd, &format!("    {remark}"));
        }
        for flow in drain.waiting.iter().take(DRAINED_SHOWN) {
            let doing = flow.doing.as_deref().unwrap_or("busy");
            let text = format!(
                "    {} on {}: {doing}, silent for {:.1} s",
                flow.client, flow.backend, flow.silent_seconds
            );
            self.line(Tone::Neutral, &text);
        }
        let more = drain.waiting.len().saturating_sub(DRAINED_SHOWN);
        if more > 0 {
            self.line(Tone::Neutral, "    and others; --json lists more");
        }
    }

    fn daemon(&mut self, status: &Status) {
        let daemon = &status.daemon;
        let interfaces: Vec<String> = daemon
            .interfaces
            .iter()
            .map(|interface| format!("{} {}", interface.name, interface.attach))
            .collect();
        let text = format!(
            "pairflipd {}, pid {}, up {}; {}; flows {} of {}, half-open {} of {}",
            daemon.version,
            daemon.pid,
            duration(daemon.uptime_seconds),
            interfaces.join(", "),
            daemon.flows,
            daemon.flows_max,
            daemon.half_open,
            daemon.half_open_max,
        );
        self.line(Tone::Neutral, &text);
        self.counters("packets turned away", &daemon.counters, is_refusal);
        self.counters("limits hit", &daemon.counters, |reason| LIMITS.contains(&reason));
        self.warnings(&daemon.warnings);
        let troubles: Vec<String> = daemon.hooks.iter().filter_map(trouble).collect();
        self.warnings(&troubles);
    }

    /// A line of the counters that `which` picks and that have counted something.
    fn counters(
        &mut self,
        title: &str,
        counters: &BTreeMap<String, u64>,
        which: impl Fn(&str) -> bool,
    ) {
        let counted: Vec<String> = counters
            .iter()
            .filter(|(reason, count)| **count > 0 && which(reason))
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        if !counted.is_empty() {
            self.line(Tone::Neutral, &format!("{title}: {}", counted.join(", ")));
        }
    }

    fn warnings(&mut self, warnings: &[String]) {
        for warning in warnings {
            self.line(Tone::Odd, &format!("warning: {warning}"));
        }
    }

    /// Writes columns as wide as their widest cell; nothing follows the last one.
    fn table<const N: usize>(&mut self, heads: [(&str, Align); N], rows: &[[Cell; N]]) {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].text.chars().count());
            cells.chain([heads[column].0.len()]).max().unwrap_or(0)
        });
        let head = heads.map(|(head, _)| Cell { text: head.to_owned(), tone: Tone::Faint });
        for row in std::iter::once(&head).chain(rows) {
            for (column, Cell { text, tone }) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(text.chars().count()));
                self.text.push_str("  ");
                if heads[column].1 == Align::Right {
                    self.text.push_str(&padding);
                }
                self.paint(*tone, text);
                if heads[column].1 == Align::Left && column + 1 < N {
                    self.text.push_str(&padding);
                }
            }
            self.text.push('\n');
        }
    }

    fn line(&mut self, tone: Tone, text: &str) {
        self.paint(tone, &printable(text));
        self.text.push('\n');
    }

    fn paint(&mut self, tone: Tone, text: &str) {
        // Select Graphic Rendition (ECMA-48, 8.3.117); the 16 colours follow the terminal's theme.
        let code = match (self.style, tone) {
            (Style::Plain, _) | (_, Tone::Neutral) => {
                self.text.push_str(text);
                return;
            }
            (Style::Colour, Tone::Faint) => "2",
            (Style::Colour, Tone::Strong) => "1",
            (Style::Colour, Tone::Good) => "32",
            (Style::Colour, Tone::Odd) => "33",
            (Style::Colour, Tone::Bad) => "1;31",
        };
        self.text.push_str(&format!("\x1b[{code}m{text}\x1b[0m"));
    }
}

fn route_row(route: &RouteStatus) -> [Cell; 7] {
    let target = with_weights(route.backends.iter().cloned(), &route.weights).join(", ");
    let target = if target.is_empty() {
        Cell { text: "REFUSED".to_owned(), tone: Tone::Bad }
    } else if route.fallback {
        Cell { tone: Tone::Odd, ..cell(&format!("{target} (fallback)")) }
    } else {
        cell(&target)
    };
    let opened = route.connections.get("opened").copied().unwrap_or(0);
    let turned_away = route.connections.values().sum::<u64>() - opened;
    [
        cell(&route.name),
        cell(&route.access),
        cell(&route.vip),
        target,
        cell(&opened.to_string()),
        cell(&turned_away.to_string()),
        cell(&route.reason),
    ]
}

/// Returns the backends of a route, with their weights where these make a difference.
pub(crate) fn with_weights(
    backends: impl IntoIterator<Item = String>,
    weights: &[u16],
) -> Vec<String> {
    let differ = weights.iter().any(|weight| Some(weight) != weights.first());
    let shown = |(index, backend): (usize, String)| match weights.get(index) {
        Some(weight) if differ => format!("{backend} (weight {weight})"),
        Some(_) | None => backend,
    };
    backends.into_iter().enumerate().map(shown).collect()
}

fn backend_row(pair: &PairStatus, backend: &BackendStatus) -> [Cell; 10] {
    let PairStatus { name, state, .. } = pair;
    let tone = match backend.health.as_str() {
        "up" => Tone::Good,
        "down" => Tone::Bad,
        _ => Tone::Odd,
    };
    let mode = match backend.read_only {
        Some(true) => "ro",
        Some(false) => "rw",
        None => "-",
    };
    let lag = backend.lag_seconds.map_or_else(|| "-".to_owned(), |lag| format!("{lag:.0}s"));
    let strength = if state == "active" { Tone::Strong } else { Tone::Neutral };
    // The stricter of both counts.
    let admin = [&backend.admin, &pair.admin].into_iter().max_by_key(|admin| admin.state as u8);
    let admin = admin.filter(|admin| admin.state != AdminState::Ready);
    let why = match admin {
        Some(admin) => format!("{}; {}", backend.reason, taken_out(admin)),
        None => backend.reason.clone(),
    };
    [
        cell(name),
        Cell { tone: strength, ..cell(state) },
        cell(&backend.role),
        cell(&backend.address),
        admin.map_or_else(
            || Cell { tone: Tone::Faint, ..cell("ready") },
            |admin| Cell { tone: Tone::Odd, ..cell(admin.state.name()) },
        ),
        Cell { tone, ..cell(&backend.health.to_uppercase()) },
        cell(mode),
        cell(&lag),
        cell(&backend.flows.to_string()),
        cell(&why),
    ]
}

/// Who said so, until when and why: `drain by dba until 2026-11-25T10:00:00Z: new disk`.
pub(crate) fn taken_out(admin: &AdminStatus) -> String {
    let AdminStatus { state, until, by, note, .. } = admin;
    let until = until.map_or_else(String::new, |until| format!(" until {}", utc(until)));
    let note = if note.is_empty() { String::new() } else { format!(": {note}") };
    format!("{} by {by}{until}{note}", state.name())
}

/// A time in seconds since 1970 as RFC 3339 has it.
fn utc(seconds: u64) -> String {
    let time =
        i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("{seconds} s after 1970"), |time| time.to_string())
}

/// Says what a reload did.
pub fn reloaded(reloaded: &Reloaded) -> String {
    let mut lines: Vec<String> =
        reloaded.changed.iter().map(|what| format!("new and in use: {what}")).collect();
    if lines.is_empty() {
        lines.push("passwords and certificates are the same as before".to_owned());
    }
    let restart = |key| format!("needs a restart of pairflipd (connections live on): {key}");
    lines.extend(reloaded.needs_restart.iter().map(restart));
    lines.join("\n")
}

/// What an admin command did.
pub fn admin(done: &AdminDone, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    let AdminDone { cluster, target, admin } = done;
    let text = match admin.state {
        AdminState::Ready => format!("cluster {cluster}: {target} is ready"),
        AdminState::Drain => {
            format!("cluster {cluster}: {target} gets no new connections ({})", taken_out(admin))
        }
        AdminState::Maint => format!(
            "cluster {cluster}: {target} gets no new connections and is not checked ({})",
            taken_out(admin)
        ),
    };
    page.line(Tone::Strong, &text);
    page.text
}

fn cell(text: &str) -> Cell {
    Cell { text: printable(text), tone: Tone::Neutral }
}

/// Reasons quote what servers say; it must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Whether the counter is of packets that clients sent in vain.
/// What ends with a cut, for one, was not turned away.
fn is_refusal(reason: &str) -> bool {
    (reason.starts_with("drop_") || reason.starts_with("reset_"))
        && !reason.ends_with("_ended")
        && !LIMITS.contains(&reason)
}

/// What was counted because there was no more room for it; docs/operating.md says what to do.
const LIMITS: [&str; 4] = [
    Counter::HalfOpenEvicted.name(),
    Counter::FlowLogLost.name(),
    Counter::ResetPortsExhausted.name(),
    Counter::ResetFlowsFull.name(),
];

/// The two largest units: `3d4h`, `5m12s`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// What is wrong with a hook, if anything.
fn trouble(hook: &HookStatus) -> Option<String> {
    let HookStatus { name, done, failed, lost, failure } = hook;
    let mut parts = Vec::new();
    if let Some(failure) = failure {
        parts.push(format!("{failure} ({failed} of {} events failed)", done + failed));
    }
    if *lost > 0 {
        parts.push(format!("{lost} events were lost to it, because it is too slow"));
    }
    (!parts.is_empty()).then(|| format!("hook {name}: {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{Flow, example};

    #[test]
    fn the_status_says_which_pair_is_active_where_vips_go_and_why() {
        let expected = "\
cluster main: pair1 is active (generation 7)
  failover auto: not possible: pair2 lagged 12s
  last failover: pair2 -> pair1 at 2023-11-14T22:13:20Z; old primary at 2-21-1200, new one at 2-21-1199; no other until 2023-11-14T23:13:20Z unless acknowledged
  ! pair2 returned after failover; writable: fence it
  draining route reads on 10.0.1.11:3306 (reads went back to replicas, idle): 38 ended, 2 left, 4 s so far, the rest is cut in 26 s
    10.0.0.7:41822 on 10.0.1.11:3306: in a transaction for 3.1 s, silent for 0.4 s
  ROUTE   ACCESS  VIP              GOES TO                    OPENED  TURNED AWAY  WHY
  writes  write   10.0.0.100:3306  REFUSED                      1204            6  primary is read-only
  reads   read    10.0.0.101:3306  10.0.1.11:3306 (fallback)    1204            6  no replica is fit

  PAIR   STATE    ROLE     BACKEND         ADMIN  HEALTH   MODE  LAG  FLOWS  WHY
  pair1  active   primary  10.0.1.11:3306  ready  FALLING  ro      -   1200  read-only
  pair1  active   replica  10.0.1.12:3306  drain  UNFIT    ro    12s      4  lags 12.5s (max_lag 10s); drain by dba: new disk
  pair2  standby  primary  10.0.1.21:3306  ready  UP       rw     0s      0  passing
  pair2  standby  replica  10.0.1.22:3306  ready  DOWN     -       -      0  connection refused

pairflipd 0.1.0, pid 4711, up 3d4h; eth0 native; flows 1204 of 262144, half-open 3 of 16384
packets turned away: reset_no_backend 4
limits hit: half_open_evicted 12
warning: mind the gap
warning: hook pager: /etc/pairflip/page ended with exit status: 1 (2 of 14 events failed)
";
        assert_eq!(status(&example::status(), Style::Plain), expected);
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let coloured = status(&example::status(), Style::Colour);
        for painted in [
            "\x1b[1;31mREFUSED\x1b[0m",
            "\x1b[33m10.0.1.11:3306 (fallback)\x1b[0m",
            "\x1b[32mUP\x1b[0m",
            "\x1b[33mUNFIT\x1b[0m",
            "\x1b[1;31mDOWN\x1b[0m",
            "\x1b[1mactive\x1b[0m",
            "\x1b[33mwarning: mind the gap\x1b[0m",
        ] {
            assert!(coloured.contains(painted), "{painted:?} is not in\n{coloured}");
        }
        assert_eq!(without_colour(&coloured), status(&example::status(), Style::Plain));
    }

    #[test]
    fn events_are_coloured_by_severity_and_cannot_steer_the_terminal() {
        let event = |severity: &str, text: &str| Event {
            number: 7,
            time: "2026-11-25T10:00:00.123Z".into(),
            cluster: Some("main".into()),
            kind: "health_changed".into(),
            severity: severity.into(),
            text: text.into(),
            facts: None,
            backends: vec![],
        };
        let list = [event("error", "a is down"), event("warning", "b\x1b[2J"), event("info", "c")];
        let expected = "\
2026-11-25T10:00:00.123Z  error    main  a is down
2026-11-25T10:00:00.123Z  warning  main  b?[2J
2026-11-25T10:00:00.123Z  info     main  c
";
        assert_eq!(events(&list, Style::Plain), expected);
        let coloured = events(&list, Style::Colour);
        assert!(coloured.contains("\x1b[1;31merror  \x1b[0m"), "{coloured:?}");
        assert!(coloured.contains("\x1b[33mwarning\x1b[0m"), "{coloured:?}");
        assert_eq!(without_colour(&coloured), expected);
    }

    #[test]
    fn checks_that_cannot_be_believed_are_said_first() {
        let mut example = example::status();
        example.clusters[0].checks = Some("nothing is heard from any backend".into());
        let text = status(&example, Style::Plain);
        let expected = "\
cluster main: pair1 is active (generation 7)
  ! nothing is heard from any backend
  failover ";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn weights_are_said_where_they_differ() {
        let backends = || ["a", "b", "c"].map(str::to_owned);
        for (weights, expected) in [
            ([100, 100, 100].as_slice(), "a, b, c"),
            (&[100, 50, 100], "a (weight 100), b (weight 50), c (weight 100)"),
            (&[], "a, b, c"),
            (&[1, 2], "a (weight 1), b (weight 2), c"),
        ] {
            assert_eq!(with_weights(backends(), weights).join(", "), expected);
        }
    }

    #[test]
    fn what_a_server_says_does_not_steer_the_terminal() {
        let mut example = example::status();
        example.clusters[0].pairs[1].backends[1].reason = "no\x1b[2J\nway".into();
        let text = status(&example, Style::Plain);
        assert!(text.contains("no?[2J?way\n"), "{text}");
    }

    #[test]
    fn flows_are_listed_with_the_address_that_the_backend_sees() {
        let listed = Flows {
            flows: vec![flow("10.0.0.7:1999", 9), flow("10.0.0.17:65001", 12_345)],
            total: 3,
        };
        let expected = "  \
  CLIENT           VIP              SEEN BY BACKEND AS  BACKEND         STATE                AGE  IDLE  PACKETS IN  BYTES IN  PACKETS OUT  BYTES OUT
  10.0.0.7:1999    10.0.0.100:3306  10.0.1.2:40000      10.0.1.11:3306  established        61.0s  1.2s           9       900            7       4000
  10.0.0.17:65001  10.0.0.100:3306  10.0.1.2:40000      10.0.1.11:3306  established, held  61.0s  1.2s       12345       900            7       4000
2 of 3 flows; more with --limit
";
        assert_eq!(flows(&listed, Style::Plain), expected);
    }

    #[test]
    fn the_number_of_flows_is_said_in_words() {
        let text = |listed: usize, total| {
            let flows_ = Flows { flows: vec![flow("10.0.0.7:1999", 9); listed], total };
            flows(&flows_, Style::Plain).lines().last().unwrap_or_default().to_owned()
        };
        assert_eq!(text(0, 0), "no flows");
        assert_eq!(text(1, 1), "1 flow");
        assert_eq!(text(2, 2), "2 flows");
        assert_eq!(text(0, 2), "0 of 2 flows; more with --limit");
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        assert_eq!([5, 65, 3720, 90_000].map(duration), ["5s", "1m5s", "1h2m", "1d1h"]);
    }

    fn flow(client: &str, client_packets: u32) -> Flow {
        Flow {
            client: client.into(),
            vip: "10.0.0.100:3306".into(),
            source: "10.0.1.2:40000".into(),
            backend: "10.0.1.11:3306".into(),
            cluster: "main".into(),
            state: "established".into(),
            held: client_packets > 1000,
            generation: 7,
            age_seconds: 61.0,
            idle_seconds: 1.21,
            client_packets,
            client_bytes: 900,
            server_packets: 7,
            server_bytes: 4000,
        }
    }

    fn without_colour(text: &str) -> String {
        let mut plain = String::new();
        for (index, piece) in text.split('\x1b').enumerate() {
            let piece = if index == 0 { piece } else { piece.split_once('m').unwrap().1 };
            plain.push_str(piece);
        }
        plain
    }
}
