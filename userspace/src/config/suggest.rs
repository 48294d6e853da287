//! What the operator probably meant by a key or a word that does not exist.

/// Words of HAProxy and of older MySQL, and what they are called here.
const SYNONYMS: &[(&str, &str)] = &[
    ("address", "vip"),
    ("bind", "vip"),
    ("clusters", "cluster"),
    ("device", "interfaces"),
    ("devices", "interfaces"),
    ("fastinter", "fast_interval"),
    ("hooks", "hook"),
    ("inter", "interval"),
    ("lag", "max_lag"),
    ("listen", "http"),
    ("master", "primary"),
    ("password", "password_file"),
    ("pairs", "pair"),
    ("replica", "replicas"),
    ("routes", "route"),
    ("service", "route"),
    ("slave", "replicas"),
    ("slaves", "replicas"),
    ("socket", "control"),
    ("source", "snat_addresses"),
    ("username", "user"),
];

/// Longer words are not slips of ours, and comparing costs the square of the length.
const WORD_BYTES_MAX: usize = 64;

/// Returns the word of `known` that `word` is a slip or another name of.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == folded).map(|(_, ours)| *ours);
    if let Some(ours) = synonym.and_then(|ours| known.iter().find(|key| **key == ours)) {
        return Some(ours);
    }
    // A third of the word may be wrong: more, and short words match anything.
    let budget = (folded.chars().count() / 3).max(1);
    known
        .iter()
        .map(|key| (distance(&folded, key), *key))
        .filter(|(distance, _)| *distance <= budget)
        // Of several the first, which is the default where there is one.
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// Returns how many letters must be added, removed, changed or swapped with their neighbour
/// (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let change = usize::from(from[i - 1] != to[j - 1]);
            let mut cost = (last[j - 1] + change).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_slips() {
        for (from, to, expected) in [
            ("fall", "fall", 0),
            ("intervall", "interval", 1),
            ("itnerval", "interval", 1),
            ("", "vip", 3),
            ("vip", "", 3),
            ("ries", "rise", 1),
        ] {
            assert_eq!(distance(from, to), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn slips_synonyms_and_spellings_are_understood() {
        let known = ["interval", "fast_interval", "rise", "replicas", "password_file"];
        for (word, expected) in [
            ("intervall", Some("interval")),
            ("Fast-Interval", Some("fast_interval")),
            ("inter", Some("interval")),
            ("slaves", Some("replicas")),
            ("password", Some("password_file")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }
}
