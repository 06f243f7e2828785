//! Text in pieces, in the format that the scraper takes.

use std::fmt;

/// Pieces are about so large.
const PIECE: usize = 32 * 1024;

/// What a scraper takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// OpenMetrics 1.0, which Prometheus asks for
    OpenMetrics,
    /// Prometheus' text format 0.0.4, for all others
    Plain,
}

impl Format {
    /// The format for an `Accept` header.
    pub fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Format::OpenMetrics,
            _ => Format::Plain,
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Takes OpenMetrics as it is written and passes it on in pieces of whole
/// lines.
pub(super) struct Chunks<S> {
    format: Format,
    text: String,
    /// `# HELP` of the plain format, which has to wait for the type that
    /// follows it: there the names of counters end in `_total`
    help: String,
    send: S,
}

impl<S: FnMut(Vec<u8>) -> fmt::Result> Chunks<S> {
    pub(super) fn new(format: Format, send: S) -> Self {
        Chunks { format, text: String::with_capacity(PIECE + 1024), help: String::new(), send }
    }

    /// Passes on what is left.
    pub(super) fn finish(mut self) -> fmt::Result {
        self.pass_on()
    }

    fn pass_on(&mut self) -> fmt::Result {
        let Some(end) = self.text.rfind('\n') else { return Ok(()) };
        let rest = self.text.split_off(end + 1);
        let whole = std::mem::replace(&mut self.text, rest);
        let piece = match self.format {
            Format::OpenMetrics => whole,
            Format::Plain => self.plain(&whole),
        };
        (self.send)(piece.into_bytes())
    }

    fn plain(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 256);
        for line in text.split_inclusive('\n') {
            if !line.starts_with('#') {
                out.push_str(line);
            } else if line.starts_with("# HELP ") {
                self.help = line.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let help = std::mem::take(&mut self.help);
                match rest.strip_suffix(" counter\n") {
                    Some(name) => {
                        out.push_str(&help.replacen(name, &format!("{name}_total"), 1));
                        out.push_str("# TYPE ");
                        out.push_str(name);
                        out.push_str("_total counter\n");
                    }
                    None => {
                        out.push_str(&help);
                        out.push_str(line);
                    }
                }
            }
            // It knows neither units nor an end.
        }
        out
    }
}

impl<S: FnMut(Vec<u8>) -> fmt::Result> fmt::Write for Chunks<S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        if self.text.len() >= PIECE { self.pass_on() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    const OPEN: &str = "# HELP a_b Help.\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{x=\"#\"} 1\n\
                        # HELP c Other.\n# TYPE c gauge\nc 2\n# EOF\n";

    fn convert(format: Format, step: usize) -> String {
        let mut out = Vec::new();
        let mut chunks = Chunks::new(format, |piece: Vec<u8>| {
            out.extend(piece);
            Ok(())
        });
        for piece in OPEN.as_bytes().chunks(step) {
            chunks.write_str(std::str::from_utf8(piece).unwrap()).unwrap();
            chunks.pass_on().unwrap();
        }
        chunks.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_plain_format_is_made_wherever_a_piece_ends() {
        for step in 1..OPEN.len() {
            assert_eq!(convert(Format::OpenMetrics, step), OPEN);
            assert_eq!(
                convert(Format::Plain, step),
                "# HELP a_b_total Help.\n# TYPE a_b_total counter\na_b_total{x=\"#\"} 1\n\
                 # HELP c Other.\n# TYPE c gauge\nc 2\n",
                "pieces of {step}"
            );
        }
    }

    #[test]
    fn scrapers_say_what_they_take() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("*/*")), Format::Plain);
        assert_eq!(Format::accepted(None), Format::Plain);
    }
}
