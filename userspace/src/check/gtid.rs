//! GTID sets, as far as two questions go: does one hold all of another, and what does it lack?

use std::collections::BTreeMap;

/// Returns whether MySQL's `part` lies within its `whole`; `None` if one of them is not understood.
///
/// A set is `UUID:1-5:8,UUID:TAG:1-3` (tags from 8.3 on), with newlines after commas.
pub(crate) fn mysql_contains(whole: &str, part: &str) -> Option<bool> {
    let (whole, part) = (mysql_set(whole)?, mysql_set(part)?);
    let mut ranges =
        part.iter().flat_map(|(source, ranges)| ranges.iter().map(move |it| (source, *it)));
    Some(ranges.all(|(source, range)| covers(&whole, source, range)))
}

/// Returns the ranges of MySQL's `part` that its `whole` does not hold all of; `None` if it holds everything, or one of them is not
/// understood.
pub(crate) fn mysql_missing(whole: &str, part: &str) -> Option<String> {
    let (whole, part) = (mysql_set(whole)?, mysql_set(part)?);
    let ranges =
        part.iter().flat_map(|(source, ranges)| ranges.iter().map(move |it| (source, *it)));
    let missing = ranges.filter(|(source, range)| !covers(&whole, source, *range));
    let texts: Vec<String> = missing
        .map(|(source, (first, last))| match whole.get(source).and_then(|had| had.last()) {
            // As a rule it is the end that is missing.
            Some((from, to)) if *from <= first && first <= *to => {
                format!("{source}:{}-{last}", to + 1)
            }
            Some(_) | None => format!("{source}:{first}-{last}"),
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

fn covers(set: &MySqlSet, source: &str, (first, last): (u64, u64)) -> bool {
    set.get(source).is_some_and(|ranges| {
        // Servers merge ranges that touch, so one of them covers it or none does.
        ranges.iter().any(|(from, to)| *from <= first && last <= *to)
    })
}

/// The ranges of each source.
type MySqlSet = BTreeMap<String, Vec<(u64, u64)>>;

/// The ranges of each source, tags belonging to its name.
fn mysql_set(text: &str) -> Option<MySqlSet> {
    let mut set = MySqlSet::new();
    for source in text.split(',').map(str::trim).filter(|source| !source.is_empty()) {
        let (uuid, rest) = source.split_once(':')?;
        let mut name = uuid.to_ascii_lowercase();
        for piece in rest.split(':').map(str::trim) {
            if piece.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                name = format!("{}:{piece}", uuid.to_ascii_lowercase());
                continue;
            }
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let range = (first.parse().ok()?, last.parse().ok()?);
            set.entry(name.clone()).or_default().push(range);
        }
    }
    Some(set)
}

/// Returns whether MariaDB's position `applied` has reached `received` in every domain of it; `None` if one of them
/// is not understood.
///
/// A position is `DOMAIN-SERVER-SEQUENCE`, one per domain.
pub(crate) fn mariadb_reached(applied: &str, received: &str) -> Option<bool> {
    let (applied, received) = (mariadb_position(applied)?, mariadb_position(received)?);
    let mut received = received.iter();
    Some(received.all(|(domain, at)| applied.get(domain).is_some_and(|done| done.0 >= at.0)))
}

/// Returns the domains of MariaDB's position `others` that `own` has not reached, or where another server wrote at the same place; `None`
/// if there are none, or one of the positions is not understood.
pub(crate) fn mariadb_missing(own: &str, others: &str) -> Option<String> {
    let (own, others) = (mariadb_position(own)?, mariadb_position(others)?);
    let is_missing = |domain: &u32, (sequence, server): (u64, u32)| match own.get(domain) {
        None => true,
        Some((done, by)) => *done < sequence || *done == sequence && *by != server,
    };
    let missing = others.iter().filter(|(domain, at)| is_missing(domain, **at));
    let texts: Vec<String> = missing
        .map(|(domain, (sequence, server))| format!("{domain}-{server}-{sequence}"))
        .collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// Sequence and server by domain.
fn mariadb_position(text: &str) -> Option<BTreeMap<u32, (u64, u32)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let mut numbers = part.split('-');
            let domain = numbers.next()?.parse().ok()?;
            let server = numbers.next()?.parse().ok()?;
            let sequence = numbers.next()?.parse().ok()?;
            numbers.next().is_none().then_some((domain, (sequence, server)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn a_mysql_set_contains_another() {
        let check = |whole: &str, part: &str, expected| {
            let names = |text: &str| text.replace('A', A).replace('B', B);
            assert_eq!(mysql_contains(&names(whole), &names(part)), expected, "{part} in {whole}");
        };
        check("A:1-5", "A:1-5", Some(true));
        check("A:1-5", "A:2-3", Some(true));
        check("A:1-5", "", Some(true));
        check("A:1-5", "A:5-6", Some(false));
        check("A:1-5:8-9", "A:5-8", Some(false));
        check("A:1-5:8-9", "A:8", Some(true));
        check("A:1-5,\nB:1-70", "B:60-70", Some(true));
        check("A:1-5", "B:1", Some(false));
        check("", "A:1", Some(false));
        check("A:1-5:blue:1-3", "A:blue:2", Some(true));
        check("A:1-5:blue:1-3", "A:blue:4", Some(false));
        check("A:blue:1-5", "A:1", Some(false));
        check("A:1-5", "A", None);
        check("A:x-5", "A:1", Some(false));
        check("A:1-5", "A:1-", None);
    }

    #[test]
    fn a_mariadb_position_reaches_another() {
        for (applied, received, expected) in [
            ("1-1-100", "1-1-100", Some(true)),
            ("1-1-100", "1-1-99", Some(true)),
            ("1-1-100", "1-1-101", Some(false)),
            ("1-1-100,2-3-7", "1-1-100", Some(true)),
            ("1-1-100", "1-1-100,2-3-7", Some(false)),
            ("", "1-1-1", Some(false)),
            ("", "", Some(true)),
            ("1-1", "1-1-1", None),
            ("1-1-1-1", "1-1-1", None),
            ("gtid", "1-1-1", None),
        ] {
            assert_eq!(mariadb_reached(applied, received), expected, "{applied} and {received}");
        }
    }
}
