//! Lines and columns of a text.

use std::ops::Range;

/// Where the lines of a text begin, so that places are found quickly however
/// long it is.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

/// A place as people name it, with the line to show it in.
pub(super) struct Place<'a> {
    /// Line, from 1
    pub(super) line: usize,
    /// Column in characters, from 1
    pub(super) column: usize,
    /// How many characters of the line are meant, at least one
    pub(super) width: usize,
    /// The line without its end
    pub(super) source: &'a str,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines { text, starts: std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect() }
    }

    /// The line, from 1, of an offset in bytes.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// The start of a span in bytes, and as much of it as is in the same line.
    pub(super) fn place(&self, span: Range<usize>) -> Place<'a> {
        let line = self.line(span.start);
        let begin = self.starts[line - 1];
        let end = self.starts.get(line).map_or(self.text.len(), |next| next - 1);
        let source = self.text.get(begin..end).unwrap_or_default();
        let characters = |from: usize, to: usize| {
            let (from, to) = (from.saturating_sub(begin), to.saturating_sub(begin).min(source.len()));
            source.get(from..to).map_or(0, |text| text.chars().count())
        };
        Place {
            line,
            column: characters(begin, span.start.min(end)) + 1,
            width: characters(span.start, span.end).max(1),
            source: source.trim_end_matches('\r'),
        }
    }
}
