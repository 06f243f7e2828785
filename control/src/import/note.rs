//! What cannot be taken over as it is, and where that stands.

use std::fmt;
use std::rc::Rc;

/// A line of a file that is imported.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The file as it was named
    pub file: Rc<str>,
    /// Line, from 1
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something for the operator to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Where it stands
    pub place: Place,
    /// What it is, and what was done instead
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Why a file cannot be imported at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {text}")]
pub struct ImportError {
    /// Where it stands
    pub place: Place,
    /// What is wrong and what to do about it
    pub text: String,
}

impl ImportError {
    pub(super) fn new(place: &Place, text: impl Into<String>) -> Self {
        ImportError { place: place.clone(), text: text.into() }
    }
}

/// All notes, in the order in which they came up.
#[derive(Default, Debug)]
pub(super) struct Notes(pub(super) Vec<Note>);

impl Notes {
    pub(super) fn add(&mut self, place: &Place, text: impl Into<String>) {
        self.0.push(Note { place: place.clone(), text: text.into() });
    }
}
