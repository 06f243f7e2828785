//! The checks of a `real_server`.

use std::net::SocketAddr;

use toml_edit::{Array, Table, Value};

use super::super::note::Notes;
use super::group;
use super::tree::Statement;
use super::values::{Timing, Values, command};
use crate::config::write::put;
use crate::health::Pattern;

/// Bounds of seconds, of failures in a row, and of checks of a server in a
/// configuration.
const SECONDS: (f64, f64) = (0.01, 86_400.0);
const MAX_IN_A_ROW: u32 = 1_000;
pub(super) const MAX_CHECKS: usize = 16;

/// keepalived's defaults.
const DELAY_LOOP: f64 = 60.0;
const CONNECT_TIMEOUT: f64 = 5.0;

/// What a check inherits.
pub(super) struct Around<'a> {
    pub(super) timing: Timing,
    pub(super) virtualhost: Option<&'a str>,
    pub(super) server: SocketAddr,
}

/// The checks that a block stands for; `None` if it is none.
pub(super) fn checks(statement: &Statement, around: &Around<'_>, notes: &mut Notes) -> Option<Vec<Table>> {
    let kind = match statement.keyword() {
        "TCP_CHECK" => "tcp",
        "HTTP_GET" => "http",
        "SSL_GET" => "https",
        "MISC_CHECK" => "command",
        "DNS_CHECK" => "dns",
        "UDP_CHECK" => "udp",
        "PING_CHECK" => "icmp",
        "SMTP_CHECK" => "smtp",
        "BFD_CHECK" | "FILE_CHECK" => {
            let instead = "; the server is not checked by it. A check of kind \"command\" may do";
            Values { notes }.lacks(statement, instead);
            return Some(Vec::new());
        }
        _ => return None,
    };
    let mut reader = Reader {
        values: Values { notes },
        kind,
        around,
        table: Table::new(),
        timing: Timing::default(),
        timeout: None,
        virtualhost: None,
        reply: None,
        urls: Vec::new(),
    };
    reader.block(statement);
    Some(reader.finish(statement))
}

struct Reader<'a, 's> {
    values: Values<'a>,
    kind: &'static str,
    around: &'a Around<'a>,
    table: Table,
    timing: Timing,
    timeout: Option<f64>,
    virtualhost: Option<&'s str>,
    /// `require_reply`, its bytes if any, and the lengths that will do
    reply: Option<(String, Option<u32>, Option<u32>)>,
    urls: Vec<&'s Statement>,
}

impl<'s> Reader<'_, 's> {
    fn block(&mut self, block: &'s Statement) {
        for statement in block.inside() {
            if self.timing.take(statement, &mut self.values) || self.way(statement) {
                continue;
            }
            match (self.kind, statement.keyword()) {
                ("http" | "https", "url") => self.urls.push(statement),
                ("http" | "https", "virtualhost") => self.virtualhost = self.values.text(statement),
                // What is asked for by name is named in the handshake anyway.
                ("https", "enable_sni") => {}
                ("http" | "https", "http_protocol") if statement.word(1) == Some("1.1") => {}
                ("http" | "https", "http_protocol") => {
                    self.values.lacks(statement, "; requests are of HTTP/1.1")
                }
                ("http" | "https", "fast_recovery") => {
                    self.values.lacks(statement, "; every URL is a check of its own");
                }
                ("smtp", "host") => self.block(statement),
                ("smtp", "helo_name") => self.values.lacks(statement, ""),
                ("dns", "type") => self.record(statement),
                ("dns", "name") => self.put_text("name", statement),
                ("command", "misc_path") => {
                    let Some(text) = self.values.text(statement) else { continue };
                    let words: Array = command(text).into_iter().collect();
                    put(&mut self.table, "command", Some(words.into()));
                }
                ("command", "misc_timeout") => self.timeout = self.values.seconds(statement),
                ("command", "misc_dynamic") => {
                    let on = self.values.switch(statement);
                    put(&mut self.table, "dynamic_weight", on.then(|| true.into()));
                }
                ("command", "user") => {
                    self.values.lacks(statement, "; the command runs as the director does")
                }
                ("udp", "payload") => self.payload(statement),
                ("udp", "require_reply") => {
                    let (_, least, most) = self.reply.take().unwrap_or_default();
                    self.reply = Some((statement.words[1..].join(" "), least, most));
                }
                ("udp", "min_reply_length") => {
                    let least = self.values.number(statement, 65_535);
                    let (text, _, most) = self.reply.take().unwrap_or_default();
                    self.reply = Some((text, least, most));
                }
                ("udp", "max_reply_length") => {
                    let most = self.values.number(statement, 65_535);
                    let (text, least, _) = self.reply.take().unwrap_or_default();
                    self.reply = Some((text, least, most));
                }
                (_, "alpha") => {
                    self.values.lacks(statement, " for a single check; the service has a key alpha");
                }
                (_, "log_all_failures") => self.values.lacks(statement, "; `sluice health` shows failures"),
                _ => self.values.note(statement, "is not known, and is left out"),
            }
        }
    }

    /// Takes a keyword that says by which way servers are reached.
    fn way(&mut self, statement: &Statement) -> bool {
        let keyword = statement.keyword();
        if !matches!(keyword, "connect_ip" | "connect_port" | "bindto" | "bind_if" | "bind_port" | "fwmark") {
            return false;
        }
        if self.kind == "command" || (self.kind == "icmp" && keyword == "connect_port") {
            self.values.note(statement, "means nothing here, and is left out");
            return true;
        }
        let Some(text) = self.values.text(statement) else { return true };
        let wrong = match keyword {
            "connect_ip" => group::ip(text).map(|ip| {
                let other = (ip != self.around.server.ip()).then(|| ip.to_string().into());
                put(&mut self.table, "address", other);
            }),
            "connect_port" => group::port(text).map(|port| {
                let other = (port != 0 && (port != self.around.server.port() || self.kind == "smtp"))
                    .then(|| i64::from(port).into());
                put(&mut self.table, "port", other);
            }),
            "bindto" => group::ip(text).map(|ip| put(&mut self.table, "source", Some(ip.to_string().into()))),
            "bind_if" => {
                put(&mut self.table, "interface", Some(text.into()));
                Ok(())
            }
            "bind_port" => {
                self.values.lacks(statement, "; checks come from any port");
                Ok(())
            }
            _ => {
                let mark = self.values.number(statement, u32::MAX).filter(|mark| *mark != 0);
                put(&mut self.table, "fwmark", mark.map(|mark| i64::from(mark).into()));
                Ok(())
            }
        };
        if let Err(wrong) = wrong {
            self.values.note(statement, &format!("cannot be so: {wrong}; it is left out"));
        }
        true
    }

    fn record(&mut self, statement: &Statement) {
        let Some(text) = self.values.text(statement) else { return };
        let upper = text.to_ascii_uppercase();
        if crate::health::DNS_TYPES.iter().any(|(name, _)| *name == upper) {
            put(&mut self.table, "record", Some(upper.into()));
        } else {
            let asked = format!("{text} has no counterpart; the question is for SOA instead");
            self.values.note(statement, &asked);
        }
    }

    fn put_text(&mut self, key: &str, statement: &Statement) {
        let text = self.values.text(statement).map(Into::into);
        put(&mut self.table, key, text);
    }

    fn payload(&mut self, statement: &Statement) {
        let hex = statement.words[1..].join(" ");
        let bytes = nibbles(&hex).and_then(|pairs| {
            pairs.into_iter().map(|(high, low)| Some(high? << 4 | low?)).collect::<Option<Vec<u8>>>()
        });
        match bytes.map(String::from_utf8) {
            Some(Ok(text)) => put(&mut self.table, "send", Some(text.into())),
            Some(Err(_)) => self.values.lacks(
                statement,
                " for bytes that are not UTF-8: an empty datagram is sent; a check of kind \"command\" may do",
            ),
            None => self.values.note(statement, "is not hexadecimal, and is left out"),
        }
    }

    /// What has to come back of a datagram.
    fn put_reply(&mut self, statement: &Statement) {
        let Some((text, least, most)) = self.reply.take() else { return };
        let pattern = match (!text.is_empty()).then(|| nibbles(&text)) {
            Some(Some(pairs)) => {
                if least.is_some() || most.is_some() {
                    self.values.note(statement, "the length of the reply is not looked at beside its bytes");
                }
                Some(format!("(?s)\\A{}", pairs.into_iter().map(byte_pattern).collect::<String>()))
            }
            Some(None) => {
                self.values.note(statement, "require_reply is not hexadecimal: any reply will do");
                None
            }
            None if least.is_some() || most.is_some() => {
                let (least, most) = (least.unwrap_or(0), most.unwrap_or(255).min(1_000));
                Some(format!("(?s)\\A.{{{least},{most}}}\\z"))
            }
            None => None,
        };
        let good = pattern.filter(|pattern| pattern.parse::<Pattern>().is_ok());
        put(&mut self.table, "reply", Some(true.into()));
        put(&mut self.table, "matches", good.map(Into::into));
    }

    fn finish(mut self, statement: &Statement) -> Vec<Table> {
        if self.kind == "udp" {
            self.put_reply(statement);
        }
        if self.kind == "command" && !self.table.get("command").is_some_and(is_program) {
            self.values.note(statement, "has no misc_path, and is left out");
            return Vec::new();
        }
        if self.kind == "smtp" {
            let instead = "; the server's port is checked by TCP instead";
            self.values.lacks(statement, instead);
            if self.table.get("port").is_none() && self.around.server.port() != 25 {
                put(&mut self.table, "port", Some(25.into()));
            }
            self.kind = "tcp";
        }
        let mut base = Table::new();
        put(&mut base, "kind", Some(self.kind.into()));
        base.extend(self.table.iter().filter_map(|(key, item)| Some((key, item.as_value()?.clone()))));
        let mut checks = Vec::new();
        if matches!(self.kind, "http" | "https") {
            if self.urls.is_empty() {
                self.values.note(statement, "has no url: \"/\" is asked for");
                let mut table = base.clone();
                self.put_host(&mut table, statement, None);
                checks.push(table);
            }
            for url in std::mem::take(&mut self.urls) {
                let mut table = base.clone();
                self.url(url, &mut table);
                checks.push(table);
            }
        } else {
            checks.push(base);
        }
        for check in &mut checks {
            self.put_timing(check, statement);
        }
        checks
    }

    fn put_timing(&mut self, table: &mut Table, statement: &Statement) {
        let Timing { delay_loop, connect_timeout, retry } = self.timing.or(self.around.timing);
        let interval = delay_loop.unwrap_or(DELAY_LOOP);
        let is_command = self.kind == "command";
        let timeout = match is_command {
            true => self.timeout.unwrap_or(interval),
            false => connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        };
        let mut seconds = |key: &str, seconds: f64| {
            let within = seconds.clamp(SECONDS.0, SECONDS.1);
            if within != seconds {
                self.values.note(statement, &format!("has {seconds} s; {key} becomes {within}"));
            }
            put(table, key, Some(number(within)));
        };
        seconds("interval", interval);
        seconds("timeout", timeout);
        let default = match self.kind {
            "dns" => 3,
            "command" => 0,
            _ => 1,
        };
        let fall = retry.unwrap_or(default).saturating_add(1).min(MAX_IN_A_ROW);
        put(table, "fall", Some(i64::from(fall).into()));
    }

    fn put_host(&mut self, table: &mut Table, statement: &Statement, own: Option<&str>) {
        let host = own.or(self.virtualhost).or(self.around.virtualhost);
        let Some(host) = host else { return };
        if visible(host) {
            put(table, "host", Some(host.into()));
        } else {
            self.values.note(statement, &format!("virtualhost cannot be {host:?}, and is left out"));
        }
    }

    fn url(&mut self, url: &Statement, table: &mut Table) {
        let (mut host, mut regex, mut options) = (None, None, String::new());
        for statement in url.inside() {
            match statement.keyword() {
                "path" => {
                    let Some(path) = self.values.text(statement) else { continue };
                    if path.starts_with('/') && visible(path) {
                        put(table, "path", Some(path.into()));
                    } else {
                        self.values.note(statement, &format!("cannot be {path:?}: \"/\" is asked for"));
                    }
                }
                "digest" => {
                    let Some(digest) = self.values.text(statement) else { continue };
                    if digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                        put(table, "digest", Some(digest.into()));
                    } else {
                        self.values.note(statement, "is not an MD5 digest, and is left out");
                    }
                }
                "status_code" => self.statuses(statement, table),
                "virtualhost" => host = self.values.text(statement),
                "regex" => regex = self.values.text(statement).map(|text| (statement, text)),
                "regex_options" => {
                    for option in &statement.words[1..] {
                        match option.as_str() {
                            "caseless" => options.push('i'),
                            "multiline" => options.push('m'),
                            "dotall" => options.push('s'),
                            "extended" => options.push('x'),
                            "ungreedy" => options.push('U'),
                            other => self.values.lacks(statement, &format!(" for {other}")),
                        }
                    }
                }
                "regex_no_match" | "regex_min_offset" | "regex_max_offset" | "regex_stack" => {
                    self.values.lacks(statement, "");
                }
                _ => self.values.note(statement, "is not known, and is left out"),
            }
        }
        self.put_host(table, url, host);
        let Some((statement, text)) = regex else { return };
        if let Some(negated) = url.inside().iter().find(|s| s.keyword() == "regex_no_match") {
            let text = "turns the sense of regex round, which is not possible: the body is not looked at";
            self.values.note(negated, text);
            return;
        }
        let pattern = if options.is_empty() { text.to_owned() } else { format!("(?{options}){text}") };
        match pattern.parse::<Pattern>() {
            Ok(_) => put(table, "matches", Some(pattern.into())),
            Err(problem) => {
                let text = format!("is left out, and the body is not looked at: {problem}");
                self.values.note(statement, &text);
            }
        }
    }

    fn statuses(&mut self, statement: &Statement, table: &mut Table) {
        let mut list = Array::new();
        for word in &statement.words[1..] {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let status = |text: &str| text.parse::<i64>().ok().filter(|status| (100..=599).contains(status));
            match (status(first), status(last)) {
                (Some(first), Some(last)) if first == last => list.push(first),
                (Some(first), Some(last)) if first < last => list.push(format!("{first}-{last}")),
                _ => {
                    self.values
                        .note(statement, &format!("cannot be {word:?} (100 to 599), which is left out"));
                }
            }
        }
        put(table, "status", (!list.is_empty()).then(|| list.into()));
    }
}

fn is_program(item: &toml_edit::Item) -> bool {
    item.as_array()
        .and_then(|words| words.get(0))
        .and_then(Value::as_str)
        .is_some_and(|word| !word.is_empty())
}

/// A whole number where it is one.
fn number(seconds: f64) -> Value {
    if seconds.fract() == 0.0 { Value::from(seconds as i64) } else { Value::from(seconds) }
}

fn visible(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())
}

/// The bytes of a text such as `Ab12f 3 x4`, each in two halves; `x` stands for
/// any. A digit alone is the lower half.
#[allow(clippy::type_complexity)]
fn nibbles(text: &str) -> Option<Vec<(Option<u8>, Option<u8>)>> {
    let nibble = |c: char| match c {
        'x' | 'X' => Some(None),
        c => c.to_digit(16).map(|digit| Some(digit as u8)),
    };
    let mut bytes = Vec::new();
    for group in text.split_whitespace() {
        let halves: Option<Vec<Option<u8>>> = group.chars().map(nibble).collect();
        for pair in halves?.chunks(2) {
            bytes.push(match pair {
                [high, low] => (*high, *low),
                [low] => (Some(0), *low),
                _ => return None,
            });
        }
    }
    Some(bytes)
}

fn byte_pattern((high, low): (Option<u8>, Option<u8>)) -> String {
    match (high, low) {
        (Some(high), Some(low)) => format!("\\x{high:x}{low:x}"),
        (Some(high), None) => format!("[\\x{high:x}0-\\x{high:x}f]"),
        (None, Some(low)) => {
            let all: String = (0..16).map(|high| format!("\\x{high:x}{low:x}")).collect();
            format!("[{all}]")
        }
        (None, None) => ".".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_the_manual_page_says() {
        let bytes: Vec<_> = nibbles("Ab12f 3 456 546443123")
            .unwrap()
            .iter()
            .map(|(h, l)| h.unwrap() << 4 | l.unwrap())
            .collect();
        assert_eq!(bytes, [0xab, 0x12, 0x0f, 0x03, 0x45, 0x06, 0x54, 0x64, 0x43, 0x12, 0x03]);
        assert_eq!(nibbles("0g"), None);
        let pattern: String = nibbles("4x x1 xx").unwrap().into_iter().map(byte_pattern).collect();
        let pattern: Pattern = format!("(?s)\\A{pattern}").parse().unwrap();
        assert!(pattern.is_in(b"\x4f\xf1\n") && !pattern.is_in(b"\x5f\xf1\n"));
    }
}
