//! Who is tried next, and what follows from what was seen. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pairflip_common::flow::{FlowState, Forwarding};

use crate::{
    dataplane::{Flow, FlowId},
    sessions::{Activity, Last},
};

/// Flows held at once: what one look asks for, and few enough that the last of them can be ended long before its hold ends.
pub(super) const BATCH_MAX: usize = 32;

/// Flows that are looked at without a hold at once.
pub(super) const GLANCE_MAX: usize = 256;

/// Silence of flows that are tried first: longer than any pause inside a pool's use of a connection is likely to be.
const QUIET_AT_FIRST: Duration = Duration::from_millis(50);

/// Silence after which what came before work (a ping, a SET) was not before work. Pools that validate go on within microseconds; this leaves
/// room for a garbage collector.
const BEGUN_SILENCE: Duration = Duration::from_millis(200);

/// Silence after which a cursor that was read from is taken for closed: servers do not show open ones outside transactions.
const FETCHED_SILENCE: Duration = Duration::from_secs(5);

/// Silence after which a flow without a session has none any more, and is not about to log in: servers give that 10 s (`connect_timeout`). Its
/// server was killed with its host, or closed it in `dsr`, where that is not seen.
const ABSENT_SILENCE: Duration = Duration::from_secs(11);

/// After this a payload without an answer is one that gets none (closing a prepared statement).
const UNANSWERED_SILENCE: Duration = Duration::from_millis(50);

/// The same in `dsr`, where answers are not seen, and the client's bare acknowledgement of one comes 40 ms later if at all. The backends are in
/// the redirector's own network, so that a packet is there long before, and the server says the rest.
const UNSEEN_SILENCE: Duration = Duration::from_millis(12);

/// The rest of a handshake whose SYN came before the pause: a round trip, and then some. Who takes longer is gone or pretends.
const OPENING_TIME: Duration = Duration::from_millis(250);

/// How often a busy flow is held in vain before the deadline, whenever that is: a hold meets the end of its work with one try in two to six.
const TRIES: u32 = 12;

/// How eagerly flows are tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pace {
    /// In this time the silence that is asked for falls from 50 ms to nothing, so that busy flows are reached, too.
    falling: Duration,
    deadline: Option<Duration>,
    /// Between two holds of one flow, at least and at most: each may cost its client a retransmission, which takes 200 ms.
    rest: (Duration, Duration),
    /// What was seen is looked at again after this time even if no packet moved: a look may have met the last steps of a statement.
    again: Duration,
    /// Where a server shows transactions in part only, wait until a session was silent for so long that it is in none. Otherwise what is shown is
    /// believed: a transaction that has touched nothing so far may be taken for none.
    pub(super) waits_for_silence: bool,
}

impl Pace {
    /// Nobody waits for the end: one transaction in some hundred of a busy client is late, more only when the deadline comes near.
    pub(super) fn patient(deadline: Option<Duration>) -> Self {
        let falling = Duration::from_secs(5);
        Self {
            falling: deadline.map_or(falling, |deadline| (deadline / 4).min(falling)),
            deadline,
            rest: (Duration::from_millis(100), Duration::from_secs(2)),
            again: Duration::from_secs(1),
            waits_for_silence: true,
        }
    }

    /// Writes wait until everybody is held.
    pub(super) fn urgent(deadline: Duration) -> Self {
        Self {
            falling: (deadline / 4).min(Duration::from_millis(200)),
            deadline: Some(deadline),
            rest: (Duration::ZERO, Duration::ZERO),
            again: Duration::from_millis(100),
            waits_for_silence: false,
        }
    }

    /// Returns the time between two holds of one flow, after this time.
    fn rest(&self, elapsed: Duration) -> Duration {
        let (min, max) = self.rest;
        self.deadline
            .map_or(max, |deadline| (deadline.saturating_sub(elapsed) / TRIES).clamp(min, max))
    }

    /// Returns the silence that makes a flow a candidate, after this time.
    pub(super) fn quiet(&self, elapsed: Duration) -> Duration {
        let left = self.falling.saturating_sub(elapsed).as_secs_f64();
        QUIET_AT_FIRST.mul_f64(left / self.falling.as_secs_f64().max(f64::EPSILON))
    }
}

/// What is remembered of a flow that was tried.
#[derive(Clone, Copy, Debug)]
struct Tried {
    /// Packets of both sides then: as long as they are the same, so is the session.
    packets: (u32, u32),
    at: Instant,
    /// When it was held last.
    held: Option<Instant>,
}

/// The flows that were tried in vain.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<FlowId, Tried>);

impl Memory {
    pub(super) fn remember_look(&mut self, flow: &Flow, now: Instant) {
        let held = self.0.get(&flow.id).and_then(|tried| tried.held);
        self.0.insert(flow.id, Tried { packets: packets(flow), at: now, held });
    }

    pub(super) fn remember_hold(&mut self, flow: &Flow, now: Instant) {
        self.0.insert(flow.id, Tried { packets: packets(flow), at: now, held: Some(now) });
    }

    pub(super) fn keep(&mut self, flows: &[Flow]) {
        let ids: BTreeSet<FlowId> = flows.iter().map(|flow| flow.id).collect();
        self.0.retain(|id, _| ids.contains(id));
    }

    fn allows(&self, flow: &Flow, pace: Pace, elapsed: Duration, now: Instant) -> bool {
        self.0.get(&flow.id).is_none_or(|tried| {
            let since = |at: Instant| now.saturating_duration_since(at);
            let has_moved = tried.packets != packets(flow) || since(tried.at) >= pace.again;
            has_moved && tried.held.is_none_or(|at| since(at) >= pace.rest(elapsed))
        })
    }
}

const fn packets(flow: &Flow) -> (u32, u32) {
    (flow.client_packets, flow.server_packets)
}

/// Returns whether a flow lives on the server: what is closing ends by itself.
pub(super) fn is_open(flow: &Flow) -> bool {
    matches!(flow.state, FlowState::Established)
}

/// Returns whether a flow may be about to live on the server, although no more SYNs are let through.
pub(super) fn is_opening(flow: &Flow) -> bool {
    matches!(flow.state, FlowState::HalfOpen) && flow.age < OPENING_TIME
}

/// Returns whether nothing of a flow is on its way to the server, as far as can be told.
pub(super) fn is_settled(flow: &Flow) -> bool {
    let silence = match flow.forwarding {
        Forwarding::Snat | Forwarding::Dnat => UNANSWERED_SILENCE,
        Forwarding::Dsr => UNSEEN_SILENCE,
    };
    flow.answered || flow.idle >= silence
}

/// Returns the flows to try after this time, the longest silent first.
pub(super) fn candidates<'a>(
    flows: &'a [Flow],
    memory: &Memory,
    pace: Pace,
    (elapsed, quiet): (Duration, Duration),
    now: Instant,
) -> Vec<&'a Flow> {
    let mut picked: Vec<&Flow> = flows
        .iter()
        .filter(|flow| is_open(flow) && flow.idle >= quiet)
        .filter(|flow| is_settled(flow) || flow.forwarding == Forwarding::Dsr)
        .filter(|flow| memory.allows(flow, pace, elapsed, now))
        .collect();
    picked.sort_by_key(|flow| std::cmp::Reverse(flow.idle));
    picked
}

/// Returns whether a session may be taken away from its client now: it is idle, and not in the middle of what a pool does with it.
pub(super) fn may_take(
    activity: &Activity,
    silent: Duration,
    quiet: Duration,
    waits_for_silence: bool,
) -> bool {
    match activity {
        Activity::Idle { last: Last::Done } => true,
        Activity::Idle { last: Last::Begun } => silent >= BEGUN_SILENCE,
        Activity::Idle { last: Last::Fetched } => silent >= FETCHED_SILENCE,
        Activity::Idle { last: Last::Work | Last::Unknown } => silent >= quiet,
        Activity::SeemsIdle => !waits_for_silence && silent >= quiet,
        Activity::Absent => silent >= ABSENT_SILENCE,
        Activity::InTransaction { .. }
        | Activity::HoldsLocks { .. }
        | Activity::Running { .. }
        | Activity::Unclear { .. }
        | Activity::Ambiguous => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::drain) fn flow(port: u16, silent_ms: u64) -> Flow {
        let address = |text: &str| text.parse().unwrap();
        let client = std::net::SocketAddr::new(address("10.0.0.7"), port);
        let id = crate::dataplane::flow_id(client, "10.0.0.100:3306".parse().unwrap());
        Flow {
            id,
            client,
            vip: "10.0.0.100:3306".parse().unwrap(),
            source: client,
            backend: "10.0.1.11:3306".parse().unwrap(),
            backend_index: 0,
            cluster: 0,
            forwarding: Forwarding::Dnat,
            state: FlowState::Established,
            generation: 1,
            age: Duration::from_secs(60),
            idle: Duration::from_millis(silent_ms),
            held: false,
            answered: true,
            client_packets: 10,
            client_bytes: 1000,
            server_packets: 10,
            server_bytes: 1000,
        }
    }

    fn picked(flows: &[Flow], memory: &Memory, quiet_ms: u64, now: Instant) -> Vec<u16> {
        let pace = Pace::patient(Some(Duration::from_secs(30)));
        let time = (Duration::from_secs(18), Duration::from_millis(quiet_ms));
        candidates(flows, memory, pace, time, now).iter().map(|it| it.client.port()).collect()
    }

    #[test]
    fn silent_flows_come_first_and_busy_ones_later() {
        let now = Instant::now();
        let flows = [flow(1, 10), flow(2, 900), flow(3, 60)];
        assert_eq!(picked(&flows, &Memory::default(), 50, now), [2, 3]);
        assert_eq!(picked(&flows, &Memory::default(), 0, now), [2, 3, 1]);
        let pace = Pace::patient(Some(Duration::from_secs(8)));
        assert_eq!(pace.quiet(Duration::ZERO), Duration::from_millis(50));
        assert_eq!(pace.quiet(Duration::from_secs(1)), Duration::from_millis(25));
        assert_eq!(pace.quiet(Duration::from_secs(3)), Duration::ZERO);
    }

    #[test]
    fn a_flow_with_a_question_on_its_way_is_left_alone() {
        let now = Instant::now();
        let asking = Flow { answered: false, ..flow(1, 10) };
        assert!(picked(&[asking], &Memory::default(), 0, now).is_empty());
        // Closing a prepared statement gets no answer.
        let closed = Flow { answered: false, ..flow(1, 60) };
        assert_eq!(picked(&[closed], &Memory::default(), 0, now), [1]);
        // Where answers are not seen it is tried, and waited for under the hold.
        let unseen = Flow { answered: false, forwarding: Forwarding::Dsr, ..flow(1, 10) };
        assert!(!is_settled(&unseen));
        assert_eq!(picked(&[unseen], &Memory::default(), 0, now), [1]);
        let ended = Flow { state: FlowState::Closing, ..flow(1, 60) };
        assert!(picked(&[ended], &Memory::default(), 0, now).is_empty());
    }

    #[test]
    fn a_handshake_is_waited_for_and_one_that_nobody_completes_is_not() {
        let begun = |age| Flow {
            state: FlowState::HalfOpen,
            age: Duration::from_millis(age),
            ..flow(1, 0)
        };
        assert!(is_opening(&begun(10)) && !is_opening(&begun(300)));
        assert!(!is_open(&begun(10)) && !is_opening(&flow(1, 0)));
    }

    #[test]
    fn a_flow_is_tried_again_when_it_moved_and_had_a_rest() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let before = flow(1, 10);
        let moved = Flow { client_packets: 11, ..before.clone() };
        let picked = |memory: &Memory, flow: &Flow, ms| {
            !picked(std::slice::from_ref(flow), memory, 0, later(ms)).is_empty()
        };
        // A look costs its client nothing.
        let mut memory = Memory::default();
        memory.remember_look(&before, start);
        assert!(picked(&memory, &moved, 0) && !picked(&memory, &before, 900));
        assert!(picked(&memory, &before, 1000));
        // 12 s are left for twelve holds.
        memory.remember_hold(&before, start);
        assert!(!picked(&memory, &moved, 900) && picked(&memory, &moved, 1000));
        memory.remember_look(&moved, later(500));
        assert!(!picked(&memory, &before, 900), "a look is no rest");
        let pace = Pace::patient(Some(Duration::from_secs(30)));
        let rest = |s| pace.rest(Duration::from_secs(s)).as_millis();
        assert_eq!([rest(0), rest(24), rest(30)], [2000, 500, 100]);
    }

    #[test]
    fn nobody_is_taken_in_the_middle_of_something() {
        let silent = Duration::from_millis(20);
        let quiet = Duration::from_millis(10);
        let may = |activity| may_take(&activity, silent, quiet, true);
        assert!(may(Activity::Idle { last: Last::Done }));
        assert!(may(Activity::Idle { last: Last::Work }));
        // A pool that has just validated a connection uses it at once.
        assert!(!may(Activity::Idle { last: Last::Begun }));
        assert!(!may(Activity::Idle { last: Last::Fetched }));
        assert!(may_take(&Activity::Idle { last: Last::Begun }, BEGUN_SILENCE, quiet, true));
        // Writes wait: what is shown is believed.
        assert!(!may(Activity::SeemsIdle) && may_take(&Activity::SeemsIdle, silent, quiet, false));
        assert!(!may_take(&Activity::Idle { last: Last::Work }, silent, silent * 2, false));
        for activity in [
            Activity::InTransaction { time: None, is_xa: false },
            Activity::HoldsLocks { kinds: "TABLE SHARED".into() },
            Activity::Running { time: Duration::ZERO },
            Activity::Unclear { why: "" },
            Activity::Ambiguous,
        ] {
            assert!(!may_take(&activity, Duration::MAX, Duration::ZERO, false), "{activity:?}");
        }
        assert!(!may_take(&Activity::Absent, Duration::from_secs(10), Duration::ZERO, false));
        assert!(may_take(&Activity::Absent, ABSENT_SILENCE, quiet, true), "nobody is there");
    }
}
