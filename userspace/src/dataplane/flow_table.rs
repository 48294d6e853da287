//! The tables of one family: flows, and connections before the end of their handshake.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};
use pairflip_common::{
    be::{Address, AnyAddress},
    flow::{Direction, FlowEntry, FlowKey},
};

use super::{
    Error,
    address::{convert, convert_entry},
    batch::{self, Position},
};

/// Flag of a map update: fail when the key is there (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// The client's key of a flow, of either family.
pub type FlowId = FlowKey<AnyAddress>;
/// An entry of either family.
pub type AnyEntry = FlowEntry<AnyAddress>;

/// One hash map of flows. The rest of the data plane sees keys and entries of both families through it.
pub(super) trait FlowTable: Send {
    /// Calls `each` with the client entry of every connection.
    fn for_each(&self, each: &mut dyn FnMut(FlowId, AnyEntry)) -> Result<(), Error>;
    /// The same for some thousand entries; see [`batch::some`].
    fn some(
        &self,
        position: &mut Position,
        each: &mut dyn FnMut(FlowId, AnyEntry),
    ) -> Result<bool, Error>;
    fn get(&self, key: &FlowId) -> Option<AnyEntry>;
    /// Puts an entry in, if there is none with this key; returns whether it did.
    fn add(&mut self, key: &FlowId, entry: &AnyEntry) -> bool;
    /// An entry that is gone by now is what the caller wants.
    fn remove(&mut self, key: &FlowId);
    /// Lets packets of a connection of the host's own pass; a flow of ours that has the key keeps it.
    fn protect(&mut self, key: &FlowId) -> Result<(), Error>;
    /// Whether keys of this family belong here.
    fn is_for(&self, key: &FlowId) -> bool;
}

pub(super) struct Table<A> {
    pub(super) map: HashMap<MapData, FlowKey<A>, FlowEntry<A>>,
    /// For batch operations, which aya does not have.
    pub(super) fd: OwnedFd,
    pub(super) name: &'static str,
    pub(super) is_v6: bool,
}

impl<A: Address + Send> FlowTable for Table<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn for_each(&self, each: &mut dyn FnMut(FlowId, AnyEntry)) -> Result<(), Error> {
        let mut position = Position::default();
        while !self.some(&mut position, each)? {}
        Ok(())
    }

    fn some(
        &self,
        position: &mut Position,
        each: &mut dyn FnMut(FlowId, AnyEntry),
    ) -> Result<bool, Error> {
        batch::some::<FlowKey<A>, FlowEntry<A>>(self.fd.as_fd(), position, |key, entry| {
            if entry.direction == Direction::Client as u8 {
                each(convert(&key), convert_entry(&entry));
            }
        })
        .map_err(|source| Error::Read { map: self.name, source })
    }

    fn get(&self, key: &FlowId) -> Option<AnyEntry> {
        self.map.get(&convert(key), 0).ok().map(|entry| convert_entry(&entry))
    }

    fn add(&mut self, key: &FlowId, entry: &AnyEntry) -> bool {
        let entry = convert_entry(entry);
        self.map.insert(convert(key), entry, BPF_NOEXIST).is_ok()
    }

    fn remove(&mut self, key: &FlowId) {
        _ = self.map.remove(&convert(key));
    }

    fn protect(&mut self, key: &FlowId) -> Result<(), Error> {
        let entry = FlowEntry { direction: Direction::Host as u8, ..FlowEntry::default() };
        match self.map.insert(convert(key), entry, BPF_NOEXIST) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            Err(source) => Err(Error::Map { map: self.name, source }),
        }
    }

    fn is_for(&self, key: &FlowId) -> bool {
        super::address::ip(key.src).is_ipv6() == self.is_v6
    }
}
