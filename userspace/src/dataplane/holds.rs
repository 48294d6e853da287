//! Holding flows and pausing routes: for some milliseconds, and never for longer than the kernel was told, whatever becomes of the daemon.

use std::time::Duration;

use pairflip_common::{names, route::VipRoute};

use super::{
    DataPlane, Error, FlowId,
    tables::{is_missing, map_error},
};

/// Longest hold. TCP sends again after 200 ms and then doubles (RFC 6298; Linux's minimum), so a client waits at most about twice the
/// time that its packets were dropped.
pub const HOLD_MAX: Duration = Duration::from_secs(10);
/// Longest pause. Linux sends a SYN again after 1, 2, 4, 8 and 16 s.
pub const PAUSE_MAX: Duration = Duration::from_secs(300);

impl DataPlane {
    /// Drops the client's packets of a flow for `time`, at most [`HOLD_MAX`]; TCP sends them again. Holding again sets the time anew.
    ///
    /// # Errors
    /// When as many flows are held as the table takes ([`pairflip_common::route::HOLDS_MAX`]).
    pub fn hold(&mut self, id: &FlowId, time: Duration) -> Result<(), Error> {
        let until = self.begin_holds(time)?;
        self.holds.insert(*id, until, 0).map_err(map_error(names::HOLDS))
    }

    /// Holds as many of these as find a place, as [`DataPlane::hold`] does; returns which.
    ///
    /// # Errors
    /// When nobody can be held.
    pub fn hold_all(&mut self, ids: &[FlowId], time: Duration) -> Result<Vec<FlowId>, Error> {
        let until = self.begin_holds(time)?;
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            match self.holds.insert(*id, until, 0).map_err(map_error(names::HOLDS)) {
                Ok(()) => held.push(*id),
                Err(error) if held.is_empty() => return Err(error),
                Err(_full) => break,
            }
        }
        Ok(held)
    }

    /// Has the program look for holds until then, and returns the time for their entries.
    fn begin_holds(&mut self, time: Duration) -> Result<u64, Error> {
        let time = time.min(HOLD_MAX);
        let now = self.clock()?;
        self.drop_expired_holds(now.monotonic_ns);
        let mut settings = self.settings()?;
        // Two ticks more, since both clocks were read within one.
        let ticks = (time.as_millis() as u32 * settings.hz).div_ceil(1000) + 2;
        let tick = now.jiffies as u32;
        let holds_until = tick.wrapping_add(ticks);
        let is_longer = settings.holds_until.wrapping_sub(tick) < ticks;
        if is_longer || !settings.may_hold(tick) {
            settings.holds_until = holds_until;
            self.set_settings(settings)?;
        }
        Ok(now.monotonic_ns + time.as_nanos() as u64)
    }

    /// Lets a held flow go on before its time.
    pub fn release(&mut self, id: &FlowId) -> Result<(), Error> {
        match self.holds.remove(id) {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(source) => Err(Error::Map { map: names::HOLDS, source }),
        }
    }

    /// Until when a flow is held, on the monotonic clock in ns; 0 if it never was.
    pub(super) fn held_until(&self, id: &FlowId) -> u64 {
        self.holds.get(id, 0).unwrap_or(0)
    }

    /// Their place in the table is for others.
    fn drop_expired_holds(&mut self, now: u64) {
        let expired: Vec<FlowId> = self
            .holds
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, until)| *until <= now)
            .map(|(id, _)| id)
            .collect();
        for id in expired {
            _ = self.holds.remove(&id);
        }
    }

    /// Drops new connections of a route for `time`, at most [`PAUSE_MAX`]; [`Duration::ZERO`] ends a pause. Established ones go on.
    ///
    /// When this returns no SYN of before the pause is on its way through the program.
    pub fn pause(&mut self, route: VipRoute, time: Duration) -> Result<(), Error> {
        let until = if time.is_zero() {
            0
        } else {
            self.clock()?.monotonic_ns + time.min(PAUSE_MAX).as_nanos() as u64
        };
        let Some(mut routes) = self.routes(route.cluster)? else { return Ok(()) };
        if let Some(route) = routes.get_mut(&route.route) {
            route.paused_until = until;
        }
        self.write_routes(route.cluster, &routes)
    }
}
