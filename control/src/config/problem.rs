//! Mistakes of a configuration file, and how they are shown.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::place::Place;

/// Most columns of a line that are shown.
const WIDEST: usize = 160;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read
    #[error("cannot read the configuration {}: {source}", file.display())]
    Unreadable {
        /// The file
        file: PathBuf,
        /// Why not
        source: std::io::Error,
    },
    /// It has mistakes
    #[error("{}", Listing { file, problems, quoting: false })]
    Invalid {
        /// The file
        file: PathBuf,
        /// All mistakes, in the order of the file
        problems: Problems,
    },
}

impl Error {
    /// The same with the lines that the mistakes are in.
    pub fn report(&self) -> String {
        match self {
            Error::Unreadable { .. } => self.to_string(),
            Error::Invalid { file, problems } => Listing { file, problems, quoting: true }.to_string(),
        }
    }
}

/// Mistakes in a file, at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub Vec<Problem>);

/// A mistake and its remedy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// Line, from 1
    pub line: usize,
    /// Column in characters, from 1
    pub column: usize,
    /// How many characters from there are meant
    pub width: usize,
    /// The line
    pub source: String,
    /// What is wrong
    pub message: String,
    /// What to do about it; may be empty
    pub hint: String,
}

impl Problem {
    pub(super) fn at(place: Place<'_>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let Place { line, column, width, source } = place;
        Problem { line, column, width, source: source.into(), message: message.into(), hint: hint.into() }
    }

    /// The line, with a caret below what is meant.
    fn quote(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.column > WIDEST {
            return Ok(());
        }
        let number = self.line.to_string();
        let shown: String = self.source.chars().take(WIDEST).collect();
        // Tabs stay, so that the caret is below what it means however wide they are.
        let before = shown.chars().take(self.column - 1);
        let before: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(self.width.min(WIDEST - self.column + 1));
        write!(f, "\n{number} | {shown}\n{:1$} | {before}{carets}", "", number.len())
    }
}

struct Listing<'a> {
    file: &'a Path,
    problems: &'a Problems,
    quoting: bool,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let Problem { line, column, message, hint, .. } = problem;
            write!(f, "{}:{line}:{column}: {message}", self.file.display())?;
            if self.quoting {
                problem.quote(f)?;
            }
            if !hint.is_empty() {
                write!(f, "\n    hint: {hint}")?;
            }
        }
        Ok(())
    }
}
