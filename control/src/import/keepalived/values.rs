//! Numbers, times and switches of keywords.

use super::super::note::Notes;
use super::tree::Statement;

/// What a keyword is given; what it cannot be is noted and left out.
pub(super) struct Values<'a> {
    pub(super) notes: &'a mut Notes,
}

impl Values<'_> {
    /// Notes that a keyword has no counterpart.
    pub(super) fn lacks(&mut self, statement: &Statement, instead: &str) {
        self.note(statement, &format!("has no counterpart{instead}"));
    }

    /// Notes something about a keyword.
    pub(super) fn note(&mut self, statement: &Statement, text: &str) {
        self.notes.add(&statement.place, format!("{} {text}", statement.keyword()));
    }

    /// The word behind the keyword.
    pub(super) fn text<'s>(&mut self, statement: &'s Statement) -> Option<&'s str> {
        let text = statement.word(1);
        if text.is_none() {
            self.note(statement, "has no value, and is left out");
        }
        text
    }

    /// A whole number.
    pub(super) fn number(&mut self, statement: &Statement, most: u32) -> Option<u32> {
        let text = self.text(statement)?;
        let number = text.parse().ok().filter(|number| *number <= most);
        if number.is_none() {
            self.note(statement, &format!("cannot be {text:?} (it is 0 to {most}), and is left out"));
        }
        number
    }

    /// Seconds and fractions of them.
    pub(super) fn seconds(&mut self, statement: &Statement) -> Option<f64> {
        let text = self.text(statement)?;
        let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
        if seconds.is_none() {
            self.note(
                statement,
                &format!("cannot be {text:?}, which is no time in seconds, and is left out"),
            );
        }
        seconds
    }

    /// A switch, which is on when nothing is said.
    pub(super) fn switch(&mut self, statement: &Statement) -> bool {
        match statement.word(1) {
            None | Some("on" | "true" | "yes") => true,
            Some("off" | "false" | "no") => false,
            Some(other) => {
                self.note(statement, &format!("cannot be {other:?} (it is on or off), and is left out"));
                false
            }
        }
    }
}

/// How often checks are made, as `virtual_server`, `real_server` and each
/// check may say.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Timing {
    pub(super) delay_loop: Option<f64>,
    pub(super) connect_timeout: Option<f64>,
    pub(super) retry: Option<u32>,
}

impl Timing {
    /// Takes a keyword of timing; whether it was one.
    pub(super) fn take(&mut self, statement: &Statement, values: &mut Values<'_>) -> bool {
        match statement.keyword() {
            "delay_loop" => self.delay_loop = values.seconds(statement).or(self.delay_loop),
            "connect_timeout" => self.connect_timeout = values.seconds(statement).or(self.connect_timeout),
            "retry" | "nb_get_retry" | "nb_sock_retry" => {
                self.retry = values.number(statement, 1_000_000).or(self.retry);
            }
            "delay_before_retry" => {
                let instead = "; after a failure the next check comes after delay_loop (interval), so \
                               lower interval if a dead server is to be noticed sooner";
                values.lacks(statement, instead);
            }
            "warmup" => values.lacks(statement, "; checks of many servers are spread by themselves"),
            _ => return false,
        }
        true
    }

    /// The same, where nothing else is said further in.
    pub(super) fn or(self, outer: Timing) -> Timing {
        Timing {
            delay_loop: self.delay_loop.or(outer.delay_loop),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            retry: self.retry.or(outer.retry),
        }
    }
}

/// The words of a script with its parameters, as keepalived splits them:
/// single quotes hold together.
pub(super) fn command(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut some, mut quoted) = (String::new(), false, false);
    for c in text.chars() {
        match c {
            '\'' => (quoted, some) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut some) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                some = true;
                word.push(c);
            }
        }
    }
    if some {
        words.push(word);
    }
    words
}
