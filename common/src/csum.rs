//! The internet checksum, updated incrementally (RFC 1624, equation 3).
//!
//! A packet with a bad checksum must leave with a bad checksum: recomputing from scratch would launder corruption, so
//! the rewrite path only ever adds differences. Only packets that we make ourselves are summed from scratch.

/// A difference of one's complement sums: what to add to a checksum field when bytes change.
///
/// Sums are order independent, so the difference of a whole rewrite is computed once, when a flow is opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Delta(u32);

impl Delta {
    /// Accounts for `old` being replaced by `new`, both as read from the packet with native loads.
    #[inline(always)]
    pub const fn replace(self, old: u16, new: u16) -> Self {
        // !old is at most 0xffff, so each call adds less than 2^17: thousands fit before overflow.
        Self(self.0 + (!old) as u32 + new as u32)
    }

    /// As [`Delta::replace`], for an even number of bytes that start at an even offset.
    #[inline(always)]
    pub fn replace_bytes<const N: usize>(mut self, old: [u8; N], new: [u8; N]) -> Self {
        let mut i = 0;
        while i + 1 < N {
            self = self.replace(
                u16::from_ne_bytes([old[i], old[i + 1]]),
                u16::from_ne_bytes([new[i], new[i + 1]]),
            );
            i += 2;
        }
        self
    }

    /// The difference folded to 16 bits, for keeping in a flow entry.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }

    /// Restores a difference kept with [`Delta::fold`].
    #[inline(always)]
    pub const fn from_folded(folded: u16) -> Self {
        Self(folded as u32)
    }

    /// Returns the checksum field's new value.
    #[inline(always)]
    pub const fn apply(self, field: u16) -> u16 {
        !fold(self.0 + (!field) as u32)
    }
}

/// Folds a 32-bit sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// One's complement sum of `bytes` as 16-bit words in memory order; an odd last byte counts as if followed by zero.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let word = u16::from_ne_bytes([pair[0], if pair.len() > 1 { pair[1] } else { 0 }]);
        sum += u32::from(word);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// One's complement has two zeros; a checksum of a non-zero packet verifies with either.
        #[test]
        fn an_incremental_update_verifies_like_a_full_one(
            mut bytes in proptest::collection::vec(any::<u8>(), 40),
            new in any::<[u8; 12]>(),
        ) {
            bytes[0] = 0x45;
            bytes[10..12].fill(0);
            let checksum = !fold(sum(&bytes));
            bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());

            let old: [u8; 12] = bytes[12..24].try_into().unwrap();
            let delta = Delta::default().replace_bytes(old, new);
            bytes[12..24].copy_from_slice(&new);
            let updated = Delta::from_folded(delta.fold()).apply(checksum);
            bytes[10..12].copy_from_slice(&updated.to_ne_bytes());
            prop_assert_eq!(fold(sum(&bytes)), 0xffff);
        }

        #[test]
        fn a_bad_checksum_stays_bad(field in any::<u16>(), old in any::<[u8; 4]>(), new in any::<[u8; 4]>()) {
            let there = Delta::default().replace_bytes(old, new);
            let back = Delta::default().replace_bytes(new, old);
            let returned = back.apply(there.apply(field));
            // 0x0000 and 0xffff are the same number in one's complement.
            prop_assert!(returned == field || (returned ^ field) == 0xffff && (field == 0 || field == 0xffff));
        }
    }
}
