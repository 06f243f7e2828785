//! From text to tables, past every mistake in between.
//!
//! What the parser or `serde` cannot take is noted and left out, and the rest
//! is read again, so that one run shows all that is wrong.

use std::collections::HashSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::file::{File, Service};
use super::suggest::did_you_mean;

/// Most mistakes of one table that are looked for.
const MOST_OF_ONE: usize = 100;

/// A mistake where the text has it.
pub(super) struct Mistake {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) hint: String,
}

/// What a text holds.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) file: File,
    pub(super) mistakes: Vec<Mistake>,
    /// Keys that had a mistake and so are missing in `file`, by where their
    /// table begins
    pub(super) left_out: HashSet<(usize, String)>,
    /// Whether the text is TOML
    pub(super) is_toml: bool,
}

/// Reads all that can be read.
pub(super) fn read(text: &str) -> Reading {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reading = Reading { is_toml: errors.is_empty(), ..Reading::default() };
    for error in errors {
        let message = error.message().trim_end().replace('\n', "; ");
        let span = error.span().unwrap_or(0..0);
        reading.mistakes.push(Mistake { span, message, hint: String::new() });
    }
    let span = root.span();
    let mut root = root.into_inner();
    let services = take_tables(&mut root, "service");
    let marks = take_tables(&mut root, "mark");
    reading.file = reading.table::<File>(Spanned::new(span, DeValue::Table(root))).unwrap_or_default();
    for mut service in services {
        let servers = match service.get_mut() {
            DeValue::Table(table) => take_tables(table, "server"),
            _ => Vec::new(),
        };
        if let Some(mut service) = reading.table::<Spanned<Service>>(service) {
            service.get_mut().server = servers.into_iter().filter_map(|s| reading.table(s)).collect();
            reading.file.service.push(service);
        }
    }
    reading.file.mark = marks.into_iter().filter_map(|mark| reading.table(mark)).collect();
    reading
}

/// Takes the elements of an array out of a table.
fn take_tables<'a>(table: &mut DeTable<'a>, key: &str) -> Vec<Spanned<DeValue<'a>>> {
    match table.get_mut(key).map(Spanned::get_mut) {
        Some(DeValue::Array(array)) => std::mem::replace(array, DeArray::new()).into_iter().collect(),
        _ => Vec::new(),
    }
}

impl Reading {
    /// Reads a table, without what is wrong in it; `None` if that is the table
    /// itself.
    fn table<T: DeserializeOwned>(&mut self, mut value: Spanned<DeValue<'_>>) -> Option<T> {
        for _ in 0..MOST_OF_ONE {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(table) => return Some(table),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| value.span());
            let (message, hint) = explained(error.message());
            let whole = span == value.span();
            self.mistakes.push(Mistake { span: span.clone(), message, hint });
            if whole || !self.leave_out(&mut value, &span) {
                return None;
            }
        }
        None
    }

    /// Removes the key, value or element of a span from a table; whether it was
    /// there.
    fn leave_out(&mut self, value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
        let begins = value.span().start;
        match value.get_mut() {
            DeValue::Table(table) => {
                let is_it =
                    |(key, value): &(&Spanned<_>, &Spanned<_>)| key.span() == *span || value.span() == *span;
                let key = table.iter().find(is_it).map(|(key, _)| key.get_ref().to_string());
                if let Some(key) = key {
                    table.remove(key.as_str());
                    self.left_out.insert((begins, key));
                    return true;
                }
                table.iter_mut().any(|(_, value)| self.leave_out(value, span))
            }
            DeValue::Array(array) => {
                let before = array.len();
                let elements = std::mem::replace(array, DeArray::new()).into_iter();
                *array = elements.filter(|element| element.span() != *span).collect();
                array.len() < before || array.iter_mut().any(|element| self.leave_out(element, span))
            }
            _ => false,
        }
    }
}

/// The words of `serde`, and what to do.
fn explained(message: &str) -> (String, String) {
    let message = message.trim_end().replace('\n', "; ");
    let mut names = message.split('`').skip(1).step_by(2);
    if let (true, Some(unknown)) = (message.starts_with("unknown field"), names.next()) {
        let known: Vec<&str> = names.collect();
        let hint = did_you_mean(unknown, &known).unwrap_or_else(|| {
            let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("this table has {}; configs/all.toml explains every key", known.join(", "))
        });
        return (format!("unknown key `{unknown}`"), hint);
    }
    if message.starts_with("missing field") {
        return (message, MISSING.into());
    }
    (message, String::new())
}

/// What to do about a key that is missing.
pub(super) const MISSING: &str =
    "add the key to this table; configs/minimal.toml is the smallest configuration";
