//! What can happen in a world: each action is complete in itself, so that a list of them replays, with any of them left out.

use crate::{Random, server::Opinion};

/// One thing that happens. Numbers choose among what there is at that moment, by remainder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Time passes: none at all, the usual, or hours at once. It never goes back: the clock is monotonic.
    Pass {
        millis: u32,
    },
    /// Replication gets on, every server of a cluster is checked, one after the other, and drivers have done their work.
    Round {
        cluster: u8,
        millis: u16,
        luck: u8,
    },
    /// The active primary of a cluster dies, or its host does.
    Kill {
        cluster: u8,
        silent: bool,
    },
    /// One server is checked.
    Check {
        server: u8,
        noise: u8,
    },
    /// One server is asked, and what it said arrives later.
    Ask {
        server: u8,
        noise: u8,
    },
    Hear {
        server: u8,
    },
    /// Replication of a cluster gets on.
    Replicate {
        cluster: u8,
    },
    /// A client writes, over a new connection or one that it has.
    Write {
        cluster: u8,
        old_flow: bool,
    },
    /// A driver finishes one thing, or fails at it.
    Answer {
        index: u8,
        luck: u8,
        late: u8,
    },
    Change {
        server: u8,
        what: Change,
    },
    /// The network between two servers, or between us and a server.
    Cut {
        one: u8,
        other: u8,
    },
    Mend {
        one: u8,
        other: u8,
    },
    CutUs {
        server: u8,
    },
    MendUs {
        server: u8,
    },
    /// Nothing gets through from us to any server, and back again.
    Outage,
    Flip {
        cluster: u8,
        to: Option<u8>,
        drain: u8,
        force: bool,
    },
    /// A switchover; the bits say how.
    Switch {
        cluster: u8,
        to: Option<u8>,
        bits: u16,
    },
    /// A switchover of a cluster in which all is well. After so many answers of drivers something happens.
    SwitchThen {
        cluster: u8,
        bits: u16,
        answers: u8,
        then: Then,
    },
    CallOff {
        cluster: u8,
    },
    Admin {
        cluster: u8,
        target: u8,
        pair: bool,
        admin: u8,
        millis: Option<u16>,
        cut: bool,
        force: bool,
    },
    Nonsense {
        kind: u8,
        cluster: u8,
    },
    TimeOut,
    /// The daemon dies. What its drivers had in hand was done or not, by these bits.
    Restart {
        done: u16,
        reboot: bool,
    },
    /// It dies after so many outputs of what is fed next.
    Crash {
        outputs: u8,
        done: u16,
    },
}

/// What happens in the middle of a switchover.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    Nothing,
    CallOff,
    Restart {
        done: bool,
    },
    Reboot {
        done: bool,
    },
    KillOld {
        silent: bool,
    },
    KillNew,
    CutOld,
    CutThem,
    /// The answer of the new primary, when it is to take writes, is lost, and nothing works for a while.
    LoseUnfence {
        late: u8,
    },
    /// The next answers are failures.
    Fail {
        late: u8,
    },
    Write,
}

/// What becomes of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// It runs and replicates.
    Well,
    /// The process is gone.
    Dead,
    /// The host is gone.
    Silent,
    /// Alive, and turns the check account away.
    Denies,
    /// It says that it lags.
    Lags,
    /// It receives and does not apply.
    AppliesNothing,
    StopsIo,
    StopsSql,
    TogglesReadOnly,
    /// Its checks say something else than what it is.
    LiesAboutReadOnly,
    LiesAboutLag,
    TellsTheTruth,
    /// What its condition says from now on.
    Condition(Opinion),
}

impl Action {
    /// Returns something that may happen next in a world of so many servers. In half of the worlds one server has most of the trouble.
    pub(crate) fn any(
        random: &mut Random,
        servers: u64,
        unlucky: Option<u8>,
        is_calm: bool,
    ) -> Self {
        let server = |random: &mut Random| match unlucky {
            Some(unlucky) if random.below(4) > 0 => unlucky,
            _ => random.below(servers) as u8,
        };
        let cluster = random.below(2) as u8;
        // Where much happens at once, little comes to an end.
        let choice = match random.below(224) {
            choice if is_calm && choice < 200 && random.below(3) > 0 => choice % 50,
            choice => choice,
        };
        match choice {
            0..45 => Self::Round {
                cluster,
                millis: random.below(700) as u16,
                luck: random.below(130) as u8,
            },
            45..50 => Self::Kill { cluster, silent: random.below(4) == 0 },

            50..75 => Self::Check { server: server(random), noise: random.below(256) as u8 },
            75..80 => Self::Ask { server: server(random), noise: random.below(256) as u8 },
            80..86 => Self::Hear { server: server(random) },
            86..92 => Self::Replicate { cluster },
            92..102 => Self::Write { cluster, old_flow: random.below(2) == 0 },
            102..138 => Self::Answer {
                index: random.below(8) as u8,
                luck: random.below(100) as u8,
                late: random.below(4) as u8,
            },
            138..156 => {
                let server = server(random);
                Self::Change { server, what: Change::any(random) }
            }
            156..159 => {
                Self::Cut { one: random.below(servers) as u8, other: random.below(servers) as u8 }
            }
            159..161 => {
                Self::Mend { one: random.below(servers) as u8, other: random.below(servers) as u8 }
            }
            161..163 => Self::CutUs { server: server(random) },
            163..165 => Self::MendUs { server: server(random) },
            165..168 => Self::Outage,
            168..174 | 220..222 => Self::Flip {
                cluster: random.below(3) as u8,
                to: (random.below(6) > 0).then(|| random.below(5) as u8),
                drain: random.below(3) as u8,
                force: random.below(2) == 0,
            },
            174..180 => Self::Admin {
                cluster,
                target: random.below(servers) as u8,
                pair: random.below(3) == 0,
                admin: random.below(3) as u8,
                millis: (random.below(2) == 0).then(|| random.below(4000) as u16),
                cut: random.below(2) == 0,
                force: random.below(4) == 0,
            },
            180..182 => {
                Self::Nonsense { kind: random.below(7) as u8, cluster: random.below(4) as u8 }
            }
            182..189 => Self::TimeOut,
            189..193 => Self::Pass {
                millis: match random.below(8) {
                    0..2 => 0,
                    2..5 => random.below(500) as u32,
                    5..7 => random.below(60_000) as u32,
                    _ => random.below(7_200_000) as u32,
                },
            },
            193..197 => Self::Restart { done: random.next() as u16, reboot: random.below(5) == 0 },
            197..210 => Self::Switch {
                cluster: random.below(2) as u8,
                to: (random.below(6) > 0).then(|| random.below(4) as u8),
                bits: random.next() as u16,
            },
            210 => Self::CallOff { cluster },
            211..220 => Self::SwitchThen {
                cluster,
                bits: random.next() as u16,
                answers: random.below(22) as u8,
                then: Then::any(random),
            },
            _ => Self::Crash { outputs: random.below(6) as u8, done: random.next() as u16 },
        }
    }
}

impl Then {
    fn any(random: &mut Random) -> Self {
        match random.below(17) {
            15 => Self::LoseUnfence { late: random.below(4) as u8 },
            16 => Self::KillOld { silent: false },
            0..2 => Self::Nothing,
            2..4 => Self::CallOff,
            4..6 => Self::Restart { done: random.below(2) == 0 },
            6 => Self::Reboot { done: random.below(2) == 0 },
            7 | 14 => Self::KillOld { silent: random.below(2) == 0 },
            8 => Self::KillNew,
            9 => Self::CutOld,
            10 => Self::CutThem,
            11 | 12 => Self::Fail { late: random.below(4) as u8 },
            _ => Self::Write,
        }
    }
}

impl Change {
    fn any(random: &mut Random) -> Self {
        match random.below(29) {
            0..6 => Self::Well,
            6..12 => Self::Dead,
            12..14 => Self::Silent,
            14 => Self::Denies,
            15 => Self::Lags,
            16 => Self::AppliesNothing,
            17 => Self::StopsIo,
            18 => Self::StopsSql,
            19..21 => Self::TogglesReadOnly,
            21 => Self::LiesAboutReadOnly,
            22 => Self::LiesAboutLag,
            23 => Self::TellsTheTruth,
            24 => Self::Condition(Opinion::Fails),
            25 => Self::Condition(Opinion::Maintenance),
            26 => Self::Condition(Opinion::Silent),
            27 => Self::Condition(Opinion::Unjudged),
            _ => Self::Condition(Opinion::Passes),
        }
    }
}
