//! The four servers: two pairs, a primary and a replica each, the primaries replicating to each other.

use std::path::Path;

use anyhow::Result;

use super::{
    database::Database,
    flavour::Flavour,
    netns::Namespace,
    topology::{Topology, database_name},
};

/// Servers by number: 1 and 2 are primary and replica of pair1, 3 and 4 those of pair2. Dropping them kills them.
#[derive(Debug, Default)]
pub struct Servers {
    databases: Vec<Database>,
}

impl Servers {
    /// Starts the first `count` of the four with some more options, each in its namespace with its files in `dir`, and makes
    /// their accounts.
    pub(crate) fn start(
        &mut self,
        flavour: Flavour,
        count: usize,
        options: &[&str],
        topology: Topology,
        namespace: impl Fn(&str) -> Namespace,
        dir: &Path,
    ) -> Result<()> {
        for number in 1..=count {
            let name = database_name(number);
            self.databases.push(Database::create(
                flavour,
                namespace(name),
                topology.database(number),
                number,
                &dir.join(name),
                options,
            )?);
        }
        for database in &mut self.databases {
            database.wait_ready()?;
            database.create_accounts()?;
        }
        Ok(())
    }

    /// Starts replication between those that run, and makes the primary of pair1 writable, and that of pair2 if wanted.
    pub(crate) fn replicate(&self, both_writable: bool) -> Result<()> {
        let count = self.databases.len();
        let mut channels = vec![(2, 1), (4, 3), (1, 3), (3, 1)];
        channels.retain(|(replica, source)| (*replica).max(*source) <= count);
        for (replica, source) in &channels {
            self.get(*replica).replicate_from(self.get(*source).address)?;
        }
        for (replica, _) in &channels {
            self.get(*replica).wait_replicating()?;
        }
        self.get(1).set_read_only(false)?;
        if both_writable && count >= 3 {
            self.get(3).set_read_only(false)?;
        }
        Ok(())
    }

    /// Gives the check account what safe flips need besides, on all of them.
    pub(crate) fn grant_flips(&self) -> Result<()> {
        self.databases.iter().try_for_each(Database::grant_flips)
    }

    pub(crate) fn get(&self, number: usize) -> &Database {
        &self.databases[number - 1]
    }

    pub(crate) fn get_mut(&mut self, number: usize) -> &mut Database {
        &mut self.databases[number - 1]
    }

    pub(crate) fn stop(&mut self) {
        self.databases.clear();
    }
}
