//! Reading what the program counts, summed over all CPUs.

use aya::{maps::PerCpuValues, util::nr_cpus};
use pairflip_common::{
    counter::Counter,
    names,
    route::VipRoute,
    traffic::{Openings, Outcome, Traffic, openings_index},
};

use super::{DataPlane, Error, tables::map_error};

impl DataPlane {
    /// Packets by what became of them.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values =
                    self.counters.get(&(*counter as u32), 0).map_err(map_error(names::COUNTERS))?;
                Ok((counter.name(), values.iter().sum()))
            })
            .collect()
    }

    /// What one backend was sent and what it sent.
    pub fn traffic(&self, backend: u16) -> Result<Traffic, Error> {
        let values = self.traffic.get(&backend.into(), 0).map_err(map_error(names::TRAFFIC))?;
        Ok(values.iter().fold(Traffic::default(), Traffic::add))
    }

    /// New connections of one route, by what became of them.
    pub fn openings(&self, route: VipRoute) -> Result<Vec<(&'static str, u64)>, Error> {
        let values =
            self.openings.get(&openings_index(route), 0).map_err(map_error(names::OPENINGS))?;
        let sum = |outcome: Outcome| values.iter().map(|cpu| cpu.0[outcome as usize]).sum();
        Ok(Outcome::ALL.map(|outcome| (outcome.name(), sum(outcome))).to_vec())
    }

    /// For another backend that takes the index.
    pub(super) fn clear_traffic(&mut self, backend: u16) -> Result<(), Error> {
        let map_error = map_error(names::TRAFFIC);
        self.traffic.set(backend.into(), zeros::<Traffic>(names::TRAFFIC)?, 0).map_err(map_error)
    }

    /// For another route that takes the place.
    pub(super) fn clear_openings(&mut self, route: VipRoute) -> Result<(), Error> {
        let (index, map_error) = (openings_index(route), map_error(names::OPENINGS));
        self.openings.set(index, zeros::<Openings>(names::OPENINGS)?, 0).map_err(map_error)
    }
}

fn zeros<T: aya::Pod + Default>(map: &'static str) -> Result<PerCpuValues<T>, Error> {
    let cpus = nr_cpus().map_err(|(_, source)| Error::Read { map, source })?;
    PerCpuValues::try_from(vec![T::default(); cpus]).map_err(|source| Error::Read { map, source })
}
