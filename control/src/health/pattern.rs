//! A regular expression that can be compared.

use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};

/// Most bytes that a compiled expression may take.
const MAX_COMPILED: usize = 1 << 20;

/// A regular expression over bytes; equal where its text is. The `regex` crate
/// searches in time linear in what is searched.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Whether it is found anywhere in there.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(text).unicode(false).size_limit(MAX_COMPILED).build();
        built.map(Pattern).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".into(),
            error => error.to_string().lines().last().unwrap_or("it cannot be parsed").trim().to_owned(),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}
