//! Positions and errors: what is wrong is collected instead of ending the walk.

use std::path::Path;

use super::error::{ConfigError, ConfigErrors};
use super::value::{Fault, plain, quoted};

/// Where something is: its key for the eye, its byte for the line.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) at: usize,
}

/// Collects errors and turns bytes into lines and columns.
pub(super) struct Reader<'t> {
    text: &'t str,
    file: &'t Path,
    errors: Vec<ConfigError>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, file: &'t Path) -> Self {
        Self { text, file, errors: Vec::new() }
    }

    pub(super) fn file(&self) -> &'t Path {
        self.file
    }

    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn into_errors(self) -> ConfigErrors {
        ConfigErrors::sorted(self.errors)
    }

    pub(super) fn report(&mut self, place: &Place, fault: Fault) {
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            position: Some(position(self.text, place.at)),
            key: place.key.clone(),
            problem: fault.problem,
            remedy: fault.remedy,
        });
    }

    /// Returns the line of a place, for "first used at line 12".
    pub(super) fn line(&self, place: &Place) -> usize {
        position(self.text, place.at).0
    }

    /// Reports what the parser found, one per line: what it says after the first is guesswork.
    pub(super) fn syntax_errors(&mut self, errors: &[toml::de::Error]) {
        let mut lines = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let place = Place { key: String::new(), at: span.start };
            let line = self.line(&place);
            if lines.contains(&line) {
                continue;
            }
            lines.push(line);
            let source = self.text.lines().nth(line - 1).unwrap_or_default();
            let part = self.text.get(span).unwrap_or_default();
            self.report(&place, syntax_fault(error.message(), part, source));
        }
    }
}

/// Returns what `message` of the parser about `part` of the line `source` means to an operator.
fn syntax_fault(message: &str, part: &str, source: &str) -> Fault {
    if message == "duplicate key" {
        let problem = format!("syntax error: {} is there twice", quoted(part));
        return Fault::new(problem, "remove one of the two");
    }
    // The commonest slip: an address, a duration or a word without quotes, which the parser takes
    // for a number, a date or nothing at all.
    let (key, value) = source.split_once('=').unwrap_or_default();
    let value = value.split('#').next().unwrap_or_default().trim();
    let is_bare = value.starts_with(|c: char| c.is_ascii_alphanumeric() || "/.:+-_".contains(c));
    if is_bare && !message.starts_with("unexpected key or value") {
        // Whoever writes a password where none belongs must not find it in the journal.
        let shown = if key.contains("password") { "the value".to_owned() } else { plain(value) };
        return Fault::new(
            format!("syntax error: {shown} is neither a number nor in quotes"),
            "write strings, addresses and durations in double quotes, as in \"1s\"",
        );
    }
    Fault::new(
        format!("syntax error: {message}"),
        "correct the line; configs/pairflip.toml is a commented example",
    )
}

/// Returns line and column of byte `at`, from 1, the column in characters.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_lines_and_characters() {
        let text = "a = 1\n\u{e4}\u{f6} = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 4), (1, 5));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, text.find('2').unwrap()), (2, 6));
        assert_eq!(position(text, text.len() + 9), (3, 1));
    }
}
