//! Which backend serves which slot of a route's choice table.

use std::net::SocketAddr;

use pairflip_common::route::CHOICE_SLOTS;

/// A backend that takes a share of a route's new connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    /// Index of the backend.
    pub backend: u16,
    pub address: SocketAddr,
    /// Share relative to the others'; at least 1.
    pub weight: u16,
}

/// Returns the choice table for `backends`.
///
/// Weighted rendezvous hashing per slot (Schindelhauer and Schomaker, 2005): each backend draws a number for the slot, and the
/// largest wins. A backend that is lost, returns or changes its weight moves only slots of its own. Addresses are hashed, not
/// indices, so every daemon computes the same table.
pub fn choice(backends: &[Choice]) -> [u16; CHOICE_SLOTS] {
    std::array::from_fn(|slot| {
        backends
            .iter()
            .map(|choice| (score(slot as u64, choice), choice.backend))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(0, |(_, index)| index)
    })
}

/// The time to the first arrival at a rate of `weight`, negated: the first of several such is `i` with probability `weight_i / sum`.
fn score(slot: u64, choice: &Choice) -> f64 {
    // 53 bits are what a float holds exactly; half a step keeps it off 0 and 1.
    let uniform = ((hash(slot, choice.address) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    uniform.ln() / f64::from(choice.weight.max(1))
}

/// The finalizer of SplitMix64, over slot and address.
fn hash(slot: u64, address: SocketAddr) -> u64 {
    let bits = match address {
        SocketAddr::V4(address) => u128::from(u32::from(*address.ip())),
        SocketAddr::V6(address) => u128::from(*address.ip()),
    };
    let mut hash = 0;
    for word in [bits as u64, (bits >> 64) as u64, u64::from(address.port()), slot] {
        hash = mix(hash ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
    hash
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_backend_serves_every_slot() {
        assert_eq!(choice(&backends(&[(7, 3)])), [7; CHOICE_SLOTS]);
    }

    proptest! {
        #[test]
        fn a_backend_that_is_lost_or_changes_its_weight_moves_only_its_own_slots(
            weights in proptest::collection::vec(1u16..=1000, 2..9),
            which in any::<prop::sample::Index>(),
            new in 0u16..=1000,
        ) {
            let all: Vec<_> = weights.iter().enumerate().map(|(id, weight)| (id as u16, *weight)).collect();
            let which = which.index(all.len());
            let mut changed = all.clone();
            if new == 0 {
                changed.remove(which);
            } else {
                changed[which].1 = new;
            }
            let which = which as u16;
            for (before, after) in choice(&backends(&all)).into_iter().zip(choice(&backends(&changed))) {
                prop_assert!(before == after || before == which || after == which);
                prop_assert!(before == after || (after == which) == (new > weights[usize::from(which)]));
            }
        }

        /// Four standard deviations of a binomial distribution: one in 16000 shares is further off.
        #[test]
        fn shares_are_as_the_weights_ask(
            weights in proptest::collection::vec(1u16..=100, 1..6),
        ) {
            let all: Vec<_> = weights.iter().enumerate().map(|(id, weight)| (id as u16, *weight)).collect();
            let table = choice(&backends(&all));
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (id, weight) in all {
                let share = table.iter().filter(|slot| **slot == id).count() as f64;
                let p = f64::from(weight) / sum;
                let slots = CHOICE_SLOTS as f64;
                let allowed = 4.5 * (slots * p * (1.0 - p)).sqrt() + 1.0;
                prop_assert!((share - slots * p).abs() <= allowed, "{id}: {share} of {slots}, p = {p}");
            }
        }
    }

    fn backends(all: &[(u16, u16)]) -> Vec<Choice> {
        all.iter()
            .map(|(id, weight)| Choice {
                backend: *id,
                address: SocketAddr::new([10, 0, 1, *id as u8].into(), 3306),
                weight: *weight,
            })
            .collect()
    }
}
