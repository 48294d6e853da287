//! Configuration errors as a person at 3 a.m. reads them: place, key, problem, remedy.

use std::fmt;
use std::path::{Path, PathBuf};

/// Errors that one listing shows. A file of the wrong kind would fill the journal otherwise.
const LISTED_MAX: usize = 40;

/// One thing that is wrong in the configuration.
///
/// The texts are the product here: nobody handles one error unlike another, they are only read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Line and column, from 1, in characters; `None` when the file could not be read.
    pub position: Option<(usize, usize)>,
    /// The key in question as in `cluster[main].route[reads].vip`; empty for errors of the file.
    pub key: String,
    pub problem: String,
    pub remedy: String,
}

impl ConfigError {
    /// Returns an error about the file as a whole.
    pub(super) fn file(path: &Path, problem: String, remedy: &str) -> Self {
        Self {
            file: path.to_owned(),
            position: None,
            key: String::new(),
            problem,
            remedy: remedy.to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}\n    {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong in the configuration, in the order of the file; never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn one(error: ConfigError) -> Self {
        Self(vec![error])
    }

    pub(super) fn sorted(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.position);
        Self(errors)
    }

    /// Returns the errors in the order of the file.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(LISTED_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        match self.0.len() {
            0 | 1 => Ok(()),
            count @ 2..=LISTED_MAX => write!(f, "\n{count} errors"),
            count => write!(f, "\n{count} errors, the first {LISTED_MAX} are shown"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
