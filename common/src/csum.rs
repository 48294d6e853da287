//! The internet checksum, updated incrementally (RFC 1624, equation 3).
//!
//! A packet with a bad checksum must leave with a bad checksum: recomputing from scratch would launder corruption, so
//! the rewrite path only ever adds differences. Only packets that we make ourselves are summed from scratch.

/// A difference of one's complement sums: what to add to a checksum field when bytes change.
///
/// Sums are order independent, so the difference of a whole rewrite is computed once, when a flow is opened. And 2^32 and 2^16 are both
/// 1 modulo 2^16 - 1, so 32-bit words are summed as they are and folded at the end (RFC 1071, section 2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Delta(u64);

impl Delta {
    /// Accounts for `old` being replaced by `new`, both as read from the packet with native loads.
    #[inline(always)]
    pub const fn replace(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// The difference when bytes of one sum are replaced by those of another; both unfolded, of at most 2^40.
    #[inline(always)]
    pub const fn between(old: u64, new: u64) -> Self {
        Self(!fold(old) as u64 + new)
    }

    /// Both differences.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The difference folded to 16 bits, for keeping in a flow entry.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }

    /// Returns the checksum field's new value.
    #[inline(always)]
    pub const fn apply(self, field: u16) -> u16 {
        !fold(self.0 + (!field) as u64)
    }
}

impl From<FoldedDelta> for Delta {
    #[inline(always)]
    fn from(folded: FoldedDelta) -> Self {
        Self(folded.0.into())
    }
}

/// A difference kept with [`Delta::fold`], and few more: what an established packet costs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FoldedDelta(u32);

impl FoldedDelta {
    #[inline(always)]
    pub const fn new(folded: u16) -> Self {
        Self(folded as u32)
    }

    /// As [`Delta::replace`].
    #[inline(always)]
    pub const fn replace(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u32 + new as u32)
    }

    /// Returns the checksum field's new value.
    #[inline(always)]
    pub const fn apply(self, field: u16) -> u16 {
        // Two folds are enough for 2^16 words.
        let mut sum = self.0 + (!field) as u32;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}

/// Folds a sum of 16-bit or 32-bit words to 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// One's complement sum of `bytes` as 16-bit words in memory order; an odd last byte counts as if followed by zero.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        let word = u16::from_ne_bytes([pair[0], if pair.len() > 1 { pair[1] } else { 0 }]);
        sum += u64::from(word);
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
            let words = |bytes: [u8; 12]| -> u64 {
                bytes.chunks(4).map(|word| u64::from(u32::from_ne_bytes(word.try_into().unwrap()))).sum()
            };
            let delta = Delta::between(words(old), words(new));
            bytes[12..24].copy_from_slice(&new);
            let updated = FoldedDelta::new(delta.fold()).apply(checksum);
            bytes[10..12].copy_from_slice(&updated.to_ne_bytes());
            prop_assert_eq!(fold(sum(&bytes)), 0xffff);
        }

        #[test]
        fn a_bad_checksum_stays_bad(field in any::<u16>(), old in any::<[u8; 4]>(), new in any::<[u8; 4]>()) {
            let (old, new) = (u32::from_ne_bytes(old).into(), u32::from_ne_bytes(new).into());
            let there = Delta::between(old, new);
            let back = Delta::between(new, old);
            let returned = back.apply(there.apply(field));
            // 0x0000 and 0xffff are the same number in one's complement.
            prop_assert!(returned == field || (returned ^ field) == 0xffff && (field == 0 || field == 0xffff));
        }
    }
}
