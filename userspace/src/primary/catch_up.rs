//! Catching up: waiting until one primary has applied what the other one has written.

use std::{net::SocketAddr, time::Duration};

use pairflip_policy::{Channel, Facts, StepFailure, StepFault};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Server, Session,
    position::{Position, channel_from},
    unseen,
};

/// Between two looks: soon at first, because writes wait for it, then less often.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(100)];
/// How many looks are taken at each of these.
const LOOKS_EACH: usize = 50;
/// Between the two readings that must be equal. A fenced server commits nothing more; this is about sessions that a fence does not stop.
const BETWEEN_READINGS: Duration = Duration::from_millis(5);
/// A quarter of this, at most, is kept of the time for telling what was seen last.
const LAST_LOOK: Duration = Duration::from_millis(400);

/// Waits until `to` has applied all that `from` has written by now; `from` goes on.
pub async fn catch_up(
    from: &Server,
    to: &Server,
    timeout: Duration,
    progress: &watch::Sender<String>,
) -> Result<(), StepFailure> {
    let (old, new) = open(from, to, timeout).await?;
    old.look(async |old| {
        let (position, server_id) = position(old, from).await?;
        let source = Source { address: from.address, server_id, position };
        new.look(async |new| wait(new, to, &source, progress).await).await
    })
    .await
}

/// The same with a fenced `from`, whose position must not change any more. Returns it.
pub async fn final_catch_up(
    from: &Server,
    to: &Server,
    timeout: Duration,
    progress: &watch::Sender<String>,
) -> Result<String, StepFailure> {
    let (old, new) = open(from, to, timeout).await?;
    old.look(async |old| {
        let (position, server_id) = fenced_position(old, from).await?;
        let source = Source { address: from.address, server_id, position };
        sleep(BETWEEN_READINGS).await;
        unmoved(old, from, &source.position).await?;
        new.look(async |new| wait(new, to, &source, progress).await).await?;
        unmoved(old, from, &source.position).await?;
        Ok(source.position.to_string())
    })
    .await
}

/// Waits until `to` has applied a position of `from`, which is not asked.
pub async fn reach(
    from: &Server,
    to: &Server,
    position: &str,
    timeout: Duration,
    progress: &watch::Sender<String>,
) -> Result<(), StepFailure> {
    let position = Position::parse(position).ok_or_else(|| strange(from, Some(position)))?;
    let source = Source { address: from.address, server_id: 0, position };
    let new = Session::open(to, timeout).await.map_err(|error| unseen(to, error))?;
    new.look(async |new| wait(new, to, &source, progress).await).await
}

/// What is to be applied, and whose it is.
struct Source {
    address: SocketAddr,
    /// 0 if it is not known.
    server_id: u32,
    position: Position,
}

async fn open(
    from: &Server,
    to: &Server,
    timeout: Duration,
) -> Result<(Session, Session), StepFailure> {
    let (old, new) = tokio::join!(Session::open(from, timeout), Session::open(to, timeout));
    Ok((old.map_err(|error| unseen(from, error))?, new.map_err(|error| unseen(to, error))?))
}

/// Returns where a server's log ends, and its id.
async fn position(session: &mut Session, server: &Server) -> Result<(Position, u32), StepFailure> {
    let (facts, _) = session.facts().await.map_err(|error| unseen(server, error))?;
    let text = facts.position.as_deref();
    let position = text.and_then(Position::parse).ok_or_else(|| strange(server, text))?;
    Ok((position, facts.server_id))
}

async fn fenced_position(
    session: &mut Session,
    server: &Server,
) -> Result<(Position, u32), StepFailure> {
    let (facts, _) = session.facts().await.map_err(|error| unseen(server, error))?;
    if !facts.read_only {
        let text = format!(
            "{}: somebody made it writable again after it was fenced; find out who (an orchestrator, a cron job) and flip again",
            server.address
        );
        return Err(StepFailure { fault: StepFault::Moved, text });
    }
    let text = facts.position.as_deref();
    let position = text.and_then(Position::parse).ok_or_else(|| strange(server, text))?;
    Ok((position, facts.server_id))
}

async fn unmoved(
    session: &mut Session,
    server: &Server,
    position: &Position,
) -> Result<(), StepFailure> {
    let (now, _) = fenced_position(session, server).await?;
    if now == *position {
        return Ok(());
    }
    let text = format!(
        "{}: it is fenced and was written to all the same, from {position} to {now}; look for accounts with READ_ONLY ADMIN or SUPER (a heartbeat, an administrator), which a fence does not stop",
        server.address
    );
    Err(StepFailure { fault: StepFault::Moved, text })
}

/// Looks at a server until it has applied all of it.
async fn wait(
    session: &mut Session,
    server: &Server,
    source: &Source,
    progress: &watch::Sender<String>,
) -> Result<(), StepFailure> {
    let started = Instant::now();
    // So that the last word is what was seen, and not that nothing was.
    let last = session.deadline - session.timeout.min(LAST_LOOK) / 4;
    for look in 0_usize.. {
        let (facts, _) = session.facts().await.map_err(|error| unseen(server, error))?;
        let channel = channel_from(&facts, source.address, source.server_id);
        match source.position.is_reached(&facts, channel) {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => return Err(strange(server, facts.position.as_deref())),
        }
        let text = behind(server, source, &facts, channel);
        if let Some(channel) = channel.filter(|channel| !channel.sql_running) {
            let text = format!(
                "{text}; the SQL thread of its replication from {} does not run",
                channel.upstream.address
            );
            return Err(StepFailure { fault: StepFault::Refused, text });
        }
        if Instant::now() >= last {
            let text = format!("{text}, after {:.1?}", started.elapsed());
            return Err(StepFailure { fault: StepFault::TimedOut, text });
        }
        progress.send_replace(text);
        sleep(LOOKS[(look / LOOKS_EACH).min(LOOKS.len() - 1)]).await;
    }
    Ok(())
}

fn behind(server: &Server, source: &Source, facts: &Facts, channel: Option<&Channel>) -> String {
    let has = match (&source.position, channel.and_then(|it| it.upstream.executed.as_ref())) {
        (Position::Log(_), Some(executed)) => executed.to_string(),
        (Position::Log(_) | Position::MySql(_) | Position::MariaDb(_), _) => {
            facts.position.clone().unwrap_or_default()
        }
    };
    let lag = channel.and_then(|channel| channel.lag);
    let lag = lag.map_or_else(String::new, |lag| format!(", {} s behind", lag.as_secs()));
    format!("{} has applied {has} of {}{lag}", server.address, source.position)
}

fn strange(server: &Server, position: Option<&str>) -> StepFailure {
    let position = position.unwrap_or("nothing");
    StepFailure {
        fault: StepFault::Refused,
        text: format!(
            "{}: its position is {position:?}, which is no GTID set and no place in a binary log; is log_bin on, and may the check user see it (BINLOG MONITOR on MariaDB, REPLICATION CLIENT on MySQL)?",
            server.address
        ),
    }
}
