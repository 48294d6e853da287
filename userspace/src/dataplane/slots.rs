//! Indices that outlive the daemon: a thing that the kernel's tables know keeps its slot.

/// More things than slots.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{wanted} slots are wanted and the table has {size}")]
pub struct SlotError {
    pub wanted: usize,
    pub size: usize,
}

/// Gives each of `wanted` a slot below `size`: its slot in `existing` if it has one, else the lowest that is free.
///
/// Slots of things that are no longer wanted stay taken, because flows may still refer to them, until no other is left.
pub fn assign<T: PartialEq>(
    existing: &[(u16, T)],
    wanted: &[T],
    size: usize,
) -> Result<Vec<u16>, SlotError> {
    if wanted.len() > size {
        return Err(SlotError { wanted: wanted.len(), size });
    }
    let mut slots: Vec<Option<u16>> = Vec::new();
    for thing in wanted {
        // Two things of one slot: a cluster was split. The first keeps it.
        let known = existing.iter().find(|(_, known)| known == thing).map(|(slot, _)| *slot);
        slots.push(known.filter(|slot| !slots.contains(&Some(*slot))));
    }
    for index in 0..slots.len() {
        if slots[index].is_some() {
            continue;
        }
        let taken = |slot: &u16| slots.contains(&Some(*slot));
        let known = |slot: &u16| existing.iter().any(|(existing, _)| existing == slot);
        let free = (0..size as u16)
            .find(|slot| !taken(slot) && !known(slot))
            .or_else(|| (0..size as u16).find(|slot| !taken(slot)));
        slots[index] = free;
    }
    slots.into_iter().collect::<Option<_>>().ok_or(SlotError { wanted: wanted.len(), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_thing_keeps_its_slot_and_a_new_one_takes_a_free_one() {
        assert_eq!(assign(&[(3, "a"), (0, "b")], &["new", "a"], 8), Ok(vec![1, 3]));
    }

    #[test]
    fn the_slot_of_a_thing_that_left_is_reused_only_when_no_other_is_free() {
        assert_eq!(assign(&[(0, "gone")], &["a"], 2), Ok(vec![1]));
        assert_eq!(assign(&[(0, "gone")], &["a", "b"], 2), Ok(vec![1, 0]));
    }

    #[test]
    fn two_things_that_shared_a_slot_part() {
        assert_eq!(assign(&[(0, "a"), (0, "b")], &["a", "b"], 4), Ok(vec![0, 1]));
    }

    #[test]
    fn too_many_things_are_an_error() {
        assert_eq!(assign(&[], &["a", "b"], 1), Err(SlotError { wanted: 2, size: 1 }));
    }
}
