//! What the director logs, into the event log.

use std::fmt::{self, Write};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{EventLog, Kind, MAX_TEXT, Severity};

/// A layer of `tracing` that records what this crate logs at level INFO or
/// above, whatever level is shown elsewhere.
#[derive(Debug)]
pub struct Recorder(pub Arc<EventLog>);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            _ => return,
        };
        let module = metadata.module_path().unwrap_or("");
        if !module.starts_with("sluice") {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let kind = text.kind.unwrap_or_else(|| Kind::of_module(module));
        self.0.record(kind, severity, text.message + &text.fields);
    }
}

#[derive(Default)]
struct Text {
    kind: Option<Kind>,
    message: String,
    fields: String,
}

impl Text {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // The rest would be cut off.
        if self.fields.len() <= MAX_TEXT {
            let separator = if self.fields.is_empty() { " (" } else { ", " };
            if self.fields.ends_with(')') {
                self.fields.pop();
            }
            let _ = write!(self.fields, "{separator}{} {value})", field.name());
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.kind = Kind::from_name(value),
            "message" => self.message = value.to_owned(),
            _ => self.field(field, format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.field(field, format_args!("{value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_is_logged_is_an_event() {
        let log = Arc::new(EventLog::default());
        let subscriber = tracing_subscriber::registry().with(Recorder(Arc::clone(&log)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(event = "role", from = "backup", "now active");
            tracing::warn!(refused = 7, interface = %"eth0", "no local port");
            tracing::debug!("nobody wants to know");
            tracing::error!("broken");
        });
        let events = log.since(0, 10);
        let seen: Vec<_> =
            events.iter().map(|e| (e.kind.name(), e.severity.name(), e.text.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("role", "info", "now active (from backup)"),
                ("director", "warning", "no local port (refused 7, interface eth0)"),
                ("director", "error", "broken"),
            ]
        );
    }

    #[test]
    fn modules_have_kinds() {
        for (module, kind) in [
            ("sluice_control::health::http", Kind::Health),
            ("sluice_control::netlink::task", Kind::Link),
            ("sluice_control::run", Kind::Director),
            ("sluice", Kind::Director),
        ] {
            assert_eq!(Kind::of_module(module), kind, "{module}");
        }
    }
}
