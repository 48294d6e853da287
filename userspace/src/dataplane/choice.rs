//! Which backend serves which slot of a route's choice table.

use std::net::SocketAddrV4;

use pairflip_common::route::CHOICE_SLOTS;

/// Returns the choice table for `backends`, each an index and its address.
///
/// Rendezvous hashing (Thaler and Ravishankar, 1998) per slot: a backend that is lost or returns moves only its own
/// share of the slots. Addresses are hashed, not indices, so every daemon computes the same table.
pub fn choice(backends: &[(u16, SocketAddrV4)]) -> [u16; CHOICE_SLOTS] {
    std::array::from_fn(|slot| {
        backends
            .iter()
            .max_by_key(|(_, address)| score(slot as u64, *address))
            .map_or(0, |(index, _)| *index)
    })
}

/// The finalizer of SplitMix64 over slot and address.
fn score(slot: u64, address: SocketAddrV4) -> u64 {
    let address = u64::from(u32::from(*address.ip())) << 16 | u64::from(address.port());
    let mut hash = address.wrapping_add((slot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_backend_serves_every_slot() {
        assert_eq!(choice(&backends(&[7])), [7; CHOICE_SLOTS]);
    }

    #[test]
    fn a_lost_backend_moves_only_its_own_slots() {
        let before = choice(&backends(&[1, 2, 3]));
        let after = choice(&backends(&[1, 3]));
        for (before, after) in before.iter().zip(after) {
            assert!(*before == 2 || *before == after);
        }
    }

    #[test]
    fn backends_get_about_the_same_share() {
        let table = choice(&backends(&[1, 2, 3, 4]));
        for id in 1..=4 {
            let share = table.iter().filter(|slot| **slot == id).count();
            assert!((16..=48).contains(&share), "backend {id} has {share} of 128 slots");
        }
    }

    fn backends(ids: &[u16]) -> Vec<(u16, SocketAddrV4)> {
        ids.iter().map(|id| (*id, SocketAddrV4::new([10, 0, 1, *id as u8].into(), 3306))).collect()
    }
}
