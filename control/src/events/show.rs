//! `sluice events`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{EventRecord, Kind};
use crate::api::{Answer, Client, Request};
use crate::output;

/// Options of `sluice events`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Show new events as they come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Show the newest so many only [default: all that are kept]
    #[arg(short = 'n', long, value_name = "NUMBER")]
    lines: Option<usize>,
    /// Show one kind only: director, command, reload, health, role, link,
    /// sync, exhaustion or access
    #[arg(long, value_parser = kind)]
    kind: Option<Kind>,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("choose one of {}", names.join(", "))
    })
}

/// Prints events; exits with 1 when there is no director to ask.
pub fn main(arguments: &Arguments) -> ExitCode {
    let Arguments { socket, follow, lines, kind, json } = arguments;
    let request = Request::Events { after: 0, limit: *lines, kind: *kind, follow: *follow };
    let mut out = io::stdout().lock();
    let result = Client::new(socket.as_deref()).call_parts(&request, |part| {
        let Answer::Events(events) = part else { return Ok(()) };
        for event in &events {
            match json {
                true => writeln!(out, "{}", serde_json::to_string(event)?)?,
                false => writeln!(out, "{}", line(event))?,
            }
        }
        out.flush()
    });
    output::exit("events", result)
}

fn line(event: &EventRecord) -> String {
    let EventRecord { time_ms, kind, severity, text, .. } = event;
    format!("{} {severity:<7} {kind:<10} {}", utc(*time_ms), printable(text))
}

/// Text from outside must not move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A time in nanoseconds since 1970, likewise.
pub(crate) fn utc_ns(time_ns: u64) -> String {
    let to_milliseconds = utc(time_ns / 1_000_000);
    format!("{}{:06}Z", to_milliseconds.trim_end_matches('Z'), time_ns % 1_000_000)
}

/// A time in milliseconds since 1970 as ISO 8601 writes it, in UTC.
pub(crate) fn utc(time_ms: u64) -> String {
    let (seconds, milliseconds) = (time_ms / 1000, time_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March 0000, so that the leap day is the last of a year; an era is
    // 400 years (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Severity;

    /// As `date -u -d @SECONDS +%FT%TZ` has them.
    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_795_264_285, "2026-11-21T12:31:25.007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(utc(seconds * 1000 + 7), text);
        }
    }

    #[test]
    fn a_line_has_time_severity_kind_and_text() {
        let event = EventRecord {
            number: 1,
            time_ms: 0,
            kind: Kind::Link,
            severity: Severity::Warning,
            text: "interface eth0\u{1b}[2J is down".into(),
        };
        assert_eq!(line(&event), "1970-01-01T00:00:00.000Z warning link       interface eth0 [2J is down");
    }
}
