//! Differences: which keys of two configuration files differ, for a daemon that is told to reload and can take over some of them only.

use toml::{Table, Value};

/// Returns the keys whose values differ, as errors name them; empty if a text is no TOML, which is told elsewhere.
pub(super) fn differing_keys(old: &str, new: &str) -> Vec<String> {
    let (Ok(old), Ok(new)) = (old.parse::<Table>(), new.parse::<Table>()) else {
        return Vec::new();
    };
    let mut keys = Vec::new();
    compare_tables("", &old, &new, &mut keys);
    keys
}

fn compare_tables(path: &str, old: &Table, new: &Table, keys: &mut Vec<String>) {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => compare(&path, old, new, keys),
            _ => keys.push(path),
        }
    }
}

fn compare(path: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    if old == new {
        return;
    }
    if let (Some(old), Some(new)) = (old.as_table(), new.as_table()) {
        return compare_tables(path, old, new, keys);
    }
    let (Some(old), Some(new)) = (named(old), named(new)) else {
        return keys.push(path.to_owned());
    };
    let added = new.iter().filter(|(name, _)| old.iter().all(|(other, _)| other != name));
    for (name, section) in old.iter().chain(added) {
        let path = format!("{path}[{name}]");
        let of = |sections: &[(String, Table)]| {
            sections.iter().find(|(other, _)| other == name).map(|(_, table)| table.clone())
        };
        match (of(&old), of(&new)) {
            (Some(old), Some(new)) => compare_tables(&path, &old, &new, keys),
            (Some(_), None) | (None, _) => keys.push(path),
        }
        _ = section;
    }
    // The order of pairs and routes is part of what they say.
    let names = |sections: &[(String, Table)]| {
        sections.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let (mut old, mut new) = (names(&old), names(&new));
    old.retain(|name| new.contains(name));
    new.retain(|name| old.contains(name));
    if old != new {
        keys.push(format!("{path} (order)"));
    }
}

/// Returns the sections of a list of which each has a name.
fn named(value: &Value) -> Option<Vec<(String, Table)>> {
    let sections = value.as_array()?.iter().map(|section| {
        let table = section.as_table()?;
        Some((table.get("name")?.as_str()?.to_owned(), table.clone()))
    });
    sections.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
[daemon]
interfaces = ["eth0"]
[[cluster]]
name = "main"
check = { user = "a", interval = "1s" }
[[cluster.pair]]
name = "pair1"
primary = "10.0.1.11:3306"
[[cluster.pair]]
name = "pair2"
primary = "10.0.1.21:3306"
"#;

    #[test]
    fn what_differs_is_named() {
        check(OLD, "");
        check(&format!("# a comment\n{OLD}"), "");
        check(&OLD.replace("1s", "2s"), "cluster[main].check.interval");
        check(&OLD.replace("eth0", "eth1"), "daemon.interfaces");
        check(&OLD.replace("interfaces", "flow_log = true\ninterfaces"), "daemon.flow_log");
        check(&OLD.replace("10.0.1.21", "10.0.1.22"), "cluster[main].pair[pair2].primary");
        check(
            &OLD.replace("\"pair2\"", "\"pair3\""),
            "cluster[main].pair[pair2], cluster[main].pair[pair3]",
        );
        let swapped =
            OLD.replace("pair1", "x").replace("pair2", "pair1").replace("\"x\"", "\"pair2\"");
        check(
            &swapped,
            "cluster[main].pair[pair1].primary, cluster[main].pair[pair2].primary, cluster[main].pair (order)",
        );
    }

    fn check(new: &str, expected: &str) {
        assert_eq!(differing_keys(OLD, new).join(", "), expected);
    }
}
