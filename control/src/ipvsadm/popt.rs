//! Option scanning as the popt library does it, with its error texts.
//!
//! Short options may be run together; an argument may follow in the same word
//! (`-t10.0.0.1:80`, `-t=10.0.0.1:80`, `--tcp-service=10.0.0.1:80`) or be the
//! next word, whatever it looks like. An optional argument in a word of its
//! own must not begin with `-`. Long names are not abbreviated. Words that
//! are not options may stand between options.

/// Whether an option has an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arg {
    Flag,
    Optional,
    Required,
}

/// An option that may occur.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec<I> {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) arg: Arg,
    pub(super) id: I,
}

/// An option that occurred.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found<I> {
    pub(super) id: I,
    pub(super) value: Option<String>,
    /// The word that it stands in
    pub(super) word: String,
}

/// Something that is not an option, with popt's words for it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{word}: {what}")]
pub(super) struct ScanError {
    word: String,
    what: &'static str,
}

/// Goes through the words of a command line.
pub(super) struct Scanner<'a> {
    words: std::slice::Iter<'a, String>,
    /// The word of run-together short options and what is left of it
    cluster: Option<(&'a str, &'a str)>,
    leftover: Vec<String>,
}

impl<'a> Scanner<'a> {
    /// `words` are without the program's name.
    pub(super) fn new(words: &'a [String]) -> Self {
        Scanner { words: words.iter(), cluster: None, leftover: Vec::new() }
    }

    /// The next option, by `specs`.
    pub(super) fn next<I: Copy>(&mut self, specs: &[Spec<I>]) -> Option<Result<Found<I>, ScanError>> {
        loop {
            if let Some((word, rest)) = self.cluster.take() {
                return Some(self.short(word, rest, specs));
            }
            let word = self.words.next()?;
            if word == "--" {
                self.leftover.extend(self.words.by_ref().cloned());
                return None;
            }
            match word.strip_prefix("--") {
                Some(long) => return Some(self.long(word, long, specs)),
                None => match word.strip_prefix('-') {
                    Some(shorts) if !shorts.is_empty() => self.cluster = Some((word, shorts)),
                    _ => self.leftover.push(word.clone()),
                },
            }
        }
    }

    /// The words that are not options, once there are no more options.
    pub(super) fn leftover(self) -> Vec<String> {
        self.leftover
    }

    fn long<I: Copy>(&mut self, word: &str, long: &str, specs: &[Spec<I>]) -> Result<Found<I>, ScanError> {
        let (name, attached) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let spec = specs.iter().find(|spec| spec.long == name).ok_or_else(|| unknown(word))?;
        self.found(spec, word, attached)
    }

    fn short<I: Copy>(
        &mut self,
        word: &'a str,
        rest: &'a str,
        specs: &[Spec<I>],
    ) -> Result<Found<I>, ScanError> {
        let mut chars = rest.chars();
        let option = chars.next();
        let rest = chars.as_str();
        let spec = specs
            .iter()
            .find(|spec| spec.short.is_some() && spec.short == option)
            .ok_or_else(|| unknown(word))?;
        let attached = match (spec.arg, rest.strip_prefix('=')) {
            (_, Some(value)) => Some(value),
            (Arg::Flag, None) => {
                self.cluster = (!rest.is_empty()).then_some((word, rest));
                None
            }
            (_, None) => (!rest.is_empty()).then_some(rest),
        };
        self.found(spec, word, attached)
    }

    fn found<I: Copy>(
        &mut self,
        spec: &Spec<I>,
        word: &str,
        attached: Option<&str>,
    ) -> Result<Found<I>, ScanError> {
        let value = match (spec.arg, attached) {
            (Arg::Flag, None) => None,
            (Arg::Flag, Some(_)) => {
                return Err(ScanError { word: word.into(), what: "option does not take an argument" });
            }
            (_, Some(value)) => Some(value.to_owned()),
            (Arg::Optional, None) => match self.words.as_slice().first() {
                Some(next) if !next.starts_with('-') => self.words.next().cloned(),
                _ => None,
            },
            (Arg::Required, None) => match self.words.next() {
                Some(next) => Some(next.clone()),
                None => return Err(ScanError { word: word.into(), what: "missing argument" }),
            },
        };
        Ok(Found { id: spec.id, value, word: word.into() })
    }
}

fn unknown(word: &str) -> ScanError {
    ScanError { word: word.into(), what: "unknown option" }
}
