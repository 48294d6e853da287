//! Which privileges the check account has, which it needs for what, and the statement that gives a missing one.
//!
//! Read from `SHOW GRANTS`, which every account may ask about itself.

use std::collections::BTreeSet;

use super::dialect::{Cell, Dialect, number};

/// Answered with one line of text per grant.
pub(crate) const GRANTS_QUERY: &str = "SHOW GRANTS";

/// What an account's privileges are needed for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Reading the state of replication.
    Check,
    /// Making a server read-only, and writable again.
    Fence,
    /// Seeing prepared XA transactions.
    Recover,
    /// Looking at the sessions of clients in performance_schema, and ending them.
    Drain,
    /// The same on a server that has no performance_schema.
    DrainUnrecorded,
}

impl Purpose {
    const fn text(self) -> &'static str {
        match self {
            Self::Check => "read the state of replication",
            Self::Fence => "fence and unfence primaries (`pairflip flip`, failover = \"auto\")",
            Self::Recover => "see prepared XA transactions (`pairflip flip`)",
            Self::Drain | Self::DrainUnrecorded => {
                "look at sessions and end those that are idle (`pairflip flip`, drain = \"idle\")"
            }
        }
    }
}

/// The privileges of an account that hold everywhere (`ON *.*`), and whether there may be more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Grants {
    /// `user@host` as the server has it, quoted for a statement.
    pub(crate) account: String,
    /// In capitals.
    everywhere: BTreeSet<String>,
    /// May read performance_schema, by a grant for that alone.
    reads_schema: bool,
    /// Roles may bring privileges that are not listed.
    has_roles: bool,
}

/// A privilege that an account lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Missing {
    pub(crate) purpose: &'static str,
    /// Gives it.
    pub(crate) statement: String,
    /// A role may bring it all the same.
    pub(crate) is_certain: bool,
}

impl Grants {
    /// Reads the answer to [`GRANTS_QUERY`].
    pub(crate) fn read(rows: &[Vec<Cell>]) -> Self {
        let mut grants = Self::default();
        for line in rows.iter().filter_map(|row| row.first()?.1.as_deref()) {
            let Some(rest) = strip_word(line.trim(), "GRANT") else { continue };
            let Some((before, account)) = split_word(rest, " TO ") else { continue };
            let account = account_of(account);
            match split_word(before, " ON ") {
                Some((privileges, "*.*")) => {
                    // The lines of a role are about the role's own name.
                    if grants.account.is_empty() {
                        grants.account = account;
                    }
                    grants.everywhere.extend(privileges.split(',').map(privilege));
                }
                Some((privileges, object)) => {
                    grants.reads_schema |= is_schema(object)
                        && privileges
                            .split(',')
                            .map(privilege)
                            .any(|name| name == "SELECT" || name == "ALL PRIVILEGES");
                }
                None => grants.has_roles = true,
            }
        }
        grants
    }

    /// Returns what this account lacks for a purpose on a server of this kind; nothing if it may do all of it.
    pub(crate) fn missing(
        &self,
        dialect: Dialect,
        version: &str,
        purpose: Purpose,
    ) -> Vec<Missing> {
        if self.everywhere.contains("ALL PRIVILEGES") {
            return Vec::new();
        }
        let version = number(version).unwrap_or_default();
        let missing = |object: &str, name: &str| Missing {
            purpose: purpose.text(),
            statement: format!("GRANT {name} ON {object} TO {};", self.account),
            is_certain: !self.has_roles,
        };
        let has = |name: &&str| self.everywhere.contains(*name);
        let needed = needed(dialect, version, purpose);
        let lacking = needed.iter().filter(|enough| !enough.iter().any(has));
        let mut all: Vec<Missing> = lacking.map(|enough| missing("*.*", enough[0])).collect();
        if purpose == Purpose::Drain && !self.reads_schema && !has(&"SELECT") {
            all.push(missing("performance_schema.*", "SELECT"));
        }
        all
    }
}

/// The privileges that are needed everywhere: of each list one is enough, the narrowest is the first.
///
/// MariaDB split them off REPLICATION CLIENT and SUPER in 10.5.2, and took the second one out of SUPER in 10.11 (its release
/// notes); MySQL split SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN off SUPER in 8.0.
fn needed(
    dialect: Dialect,
    version: [u32; 3],
    purpose: Purpose,
) -> &'static [&'static [&'static str]] {
    match (purpose, dialect == Dialect::MariaDb) {
        (Purpose::Check, true) if version >= [10, 5, 2] => &[&["SLAVE MONITOR", "REPLICA MONITOR"]],
        (Purpose::Check, _) => &[&["REPLICATION CLIENT", "SUPER"]],
        (Purpose::Fence, true) if version >= [10, 11, 0] => {
            &[&["READ_ONLY ADMIN", "READ ONLY ADMIN"]]
        }
        (Purpose::Fence, true) if version >= [10, 5, 2] => {
            &[&["READ_ONLY ADMIN", "READ ONLY ADMIN", "SUPER"]]
        }
        (Purpose::Fence, false) if version >= [8, 0, 0] => &[&["SYSTEM_VARIABLES_ADMIN", "SUPER"]],
        (Purpose::Fence, _) => &[&["SUPER"]],
        (Purpose::Recover, false) if version >= [8, 0, 0] => &[&["XA_RECOVER_ADMIN"]],
        (Purpose::Recover, _) => &[],
        (Purpose::Drain | Purpose::DrainUnrecorded, true) if version >= [10, 5, 2] => {
            &[&["PROCESS"], &["CONNECTION ADMIN", "SUPER"]]
        }
        (Purpose::Drain | Purpose::DrainUnrecorded, false) if version >= [8, 0, 0] => {
            &[&["PROCESS"], &["CONNECTION_ADMIN", "SUPER"]]
        }
        (Purpose::Drain | Purpose::DrainUnrecorded, _) => &[&["PROCESS"], &["SUPER"]],
    }
}

/// Whether an object of a grant is performance_schema as a whole.
fn is_schema(object: &str) -> bool {
    let object: String = object.chars().filter(|c| !matches!(c, '`' | '\'' | '"' | '\\')).collect();
    object.eq_ignore_ascii_case("performance_schema.*")
}

fn privilege(text: &str) -> String {
    text.trim().to_ascii_uppercase()
}

/// The account of `user@host IDENTIFIED BY ...` and the like, with its quotes.
fn account_of(text: &str) -> String {
    let mut quote = None;
    let end = text.char_indices().find(|&(_, c)| {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '`' | '\'' | '"') => quote = Some(c),
            None => return c.is_whitespace(),
        }
        false
    });
    text[..end.map_or(text.len(), |(index, _)| index)].to_owned()
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    head.eq_ignore_ascii_case(word).then(|| text[word.len()..].trim_start())
}

/// Splits at the first `word` outside quotes.
fn split_word<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let mut quote = None;
    for (index, c) in text.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '`' | '\'' | '"') => quote = Some(c),
            None if text[index..].starts_with(word) => {
                return Some((text[..index].trim(), text[index + word.len()..].trim()));
            }
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mariadb_needs_slave_monitor_to_check_and_read_only_admin_to_fence() {
        let grants = grants(&[
            "GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO `pairflip`@`%` IDENTIFIED BY PASSWORD '*X TO Y'",
        ]);
        check(&grants, Dialect::MariaDb, "10.11.19-MariaDB", Purpose::Check, None);
        let fence = Some("GRANT READ_ONLY ADMIN ON *.* TO `pairflip`@`%`;");
        check(&grants, Dialect::MariaDb, "10.11.19-MariaDB", Purpose::Fence, fence);
    }

    #[test]
    fn an_account_without_privileges_lacks_everything() {
        let grants = grants(&["GRANT USAGE ON *.* TO `a b`@`10.0.%`"]);
        let check_ = Some("GRANT SLAVE MONITOR ON *.* TO `a b`@`10.0.%`;");
        check(&grants, Dialect::MariaDb, "11.8.3-MariaDB", Purpose::Check, check_);
        let check_ = Some("GRANT REPLICATION CLIENT ON *.* TO `a b`@`10.0.%`;");
        check(&grants, Dialect::MySql, "9.7.4", Purpose::Check, check_);
        let fence = Some("GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO `a b`@`10.0.%`;");
        check(&grants, Dialect::MySql, "8.4.0", Purpose::Fence, fence);
        let fence = Some("GRANT SUPER ON *.* TO `a b`@`10.0.%`;");
        check(&grants, Dialect::MySqlOld, "5.7.44", Purpose::Fence, fence);
    }

    #[test]
    fn privileges_of_a_database_do_not_count() {
        let grants = grants(&[
            "GRANT USAGE ON *.* TO 'p'@'%'",
            "GRANT ALL PRIVILEGES ON `app`.* TO 'p'@'%'",
        ]);
        let statement = Some("GRANT REPLICATION CLIENT ON *.* TO 'p'@'%';");
        check(&grants, Dialect::MySql, "8.0.40", Purpose::Check, statement);
    }

    #[test]
    fn all_privileges_and_wider_ones_are_enough() {
        let all = grants(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION"]);
        let wide = grants(&["GRANT SELECT, SUPER ON *.* TO `root`@`%`"]);
        for purpose in [Purpose::Check, Purpose::Fence] {
            check(&all, Dialect::MariaDb, "10.11.0-MariaDB", purpose, None);
            check(&all, Dialect::MySql, "9.7.4", purpose, None);
            check(&wide, Dialect::MySql, "9.7.4", purpose, None);
        }
        check(&wide, Dialect::MariaDb, "10.6.1-MariaDB", Purpose::Fence, None);
        let fence = Some("GRANT READ_ONLY ADMIN ON *.* TO `root`@`%`;");
        check(&wide, Dialect::MariaDb, "10.11.1-MariaDB", Purpose::Fence, fence);
    }

    #[test]
    fn looking_at_sessions_and_ending_them_takes_three_privileges() {
        let none = grants(&["GRANT REPLICATION CLIENT ON *.* TO `p`@`%`"]);
        let all = Some(
            "GRANT PROCESS ON *.* TO `p`@`%`; GRANT CONNECTION_ADMIN ON *.* TO `p`@`%`; \
             GRANT SELECT ON performance_schema.* TO `p`@`%`;",
        );
        check(&none, Dialect::MySql, "9.7.4", Purpose::Drain, all);
        let mariadb =
            Some("GRANT PROCESS ON *.* TO `p`@`%`; GRANT CONNECTION ADMIN ON *.* TO `p`@`%`;");
        check(&none, Dialect::MariaDb, "10.11.19-MariaDB", Purpose::DrainUnrecorded, mariadb);
        let some = grants(&[
            "GRANT PROCESS ON *.* TO `p`@`%`",
            "GRANT CONNECTION_ADMIN ON *.* TO `p`@`%`",
            "GRANT SELECT ON `performance_schema`.* TO `p`@`%`",
        ]);
        check(&some, Dialect::MySql, "9.7.4", Purpose::Drain, None);
        let table = grants(&[
            "GRANT PROCESS, SUPER ON *.* TO `p`@`%`",
            "GRANT SELECT ON `performance_schema`.`threads` TO `p`@`%`",
        ]);
        let schema = Some("GRANT SELECT ON performance_schema.* TO `p`@`%`;");
        check(&table, Dialect::MySqlOld, "5.7.44", Purpose::Drain, schema);
    }

    #[test]
    fn dynamic_privileges_are_on_lines_of_their_own() {
        let grants = grants(&[
            "GRANT REPLICATION CLIENT ON *.* TO `p`@`%`",
            "GRANT CONNECTION_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `p`@`%`",
        ]);
        check(&grants, Dialect::MySql, "9.7.4", Purpose::Fence, None);
    }

    #[test]
    fn with_a_role_nothing_is_certain() {
        let grants =
            grants(&["GRANT USAGE ON *.* TO `p`@`%`", "GRANT `monitoring`@`%` TO `p`@`%`"]);
        let missing = grants.missing(Dialect::MySql, "9.7.4", Purpose::Check);
        assert!(!missing[0].is_certain);
    }

    fn grants(lines: &[&str]) -> Grants {
        let row = |line: &&str| vec![("Grants for p@%".to_owned(), Some((*line).to_owned()))];
        Grants::read(&lines.iter().map(row).collect::<Vec<_>>())
    }

    fn check(
        grants: &Grants,
        dialect: Dialect,
        version: &str,
        purpose: Purpose,
        statement: Option<&str>,
    ) {
        let missing = grants.missing(dialect, version, purpose);
        let found: Vec<&str> = missing.iter().map(|missing| missing.statement.as_str()).collect();
        assert_eq!(
            found.join(" "),
            statement.unwrap_or_default(),
            "{dialect:?} {version} {purpose:?}"
        );
        assert!(missing.iter().all(|missing| missing.is_certain));
    }
}
