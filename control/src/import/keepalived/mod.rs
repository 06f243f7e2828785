//! keepalived's configuration (keepalived.conf(5)).
//!
//! A text goes through four forms: lines, with includes and definitions
//! resolved ([`source`]), blocks ([`tree`]), and services ([`service`]) with
//! their checks ([`check`]).

mod check;
mod group;
mod service;
mod source;
mod tree;
mod values;
mod words;

use std::collections::BTreeMap;
use std::path::Path;

use super::note::{ImportError, Notes};
use super::service::Imported;
use crate::rules::{MAX_TIMEOUT, Timeouts};
use group::At;
pub(super) use source::MAX_BYTES;
use source::Source;
use tree::Statement;
use values::Values;

/// The services of a text, and the timeouts of `lvs_timeouts`, if it has some.
pub(super) fn services(
    name: &str,
    path: Option<&Path>,
    text: &str,
    id: &str,
    notes: &mut Notes,
) -> Result<(Vec<Imported>, Option<Timeouts>), ImportError> {
    let statements = tree::tree(Source::lines(name, path, text, id, notes)?)?;
    let mut groups: BTreeMap<&str, Vec<At>> = BTreeMap::new();
    for statement in statements.iter().filter(|s| s.keyword() == "virtual_server_group") {
        let members = group::group(statement.inside(), notes);
        groups.entry(statement.word(1).unwrap_or_default()).or_default().extend(members);
    }
    let (mut services, mut timeouts, mut size) = (Vec::new(), None, 0);
    for statement in &statements {
        match statement.keyword() {
            "virtual_server_group" => {}
            "virtual_server" => {
                let at = match &statement.words[1..] {
                    [word, name] if word == "group" => match groups.get(name.as_str()) {
                        Some(group) => group.clone(),
                        None => {
                            notes.add(&statement.place, format!("there is no group {name}; it is left out"));
                            continue;
                        }
                    },
                    words => match group::header(words) {
                        Ok(at) => vec![at],
                        Err(problem) => {
                            notes.add(&statement.place, format!("{problem}; the service is left out"));
                            continue;
                        }
                    },
                };
                let servers = statement.inside().iter().filter(|s| s.keyword() == "real_server").count();
                size += at.len() * (1 + servers);
                if size > MAX_SIZE {
                    let text = format!("these are more than {MAX_SIZE} services and servers");
                    return Err(ImportError::new(&statement.place, text));
                }
                services.extend(service::services(statement, &at, notes));
            }
            "global_defs" => global(statement, &mut timeouts, notes),
            "SSL" => {
                Values { notes }.lacks(statement, "; checks have tls_ca, and no certificate of their own")
            }
            keyword if keyword.starts_with("vrrp") || keyword.starts_with("static_") => {
                stays(statement, notes)
            }
            "bfd_instance"
            | "track_file"
            | "linkbeat_interfaces"
            | "linkbeat_use_polling"
            | "interface_up_down_delays"
            | "garp_group" => stays(statement, notes),
            _ => Values { notes }.note(statement, "is not known, and is left out"),
        }
    }
    Ok((services, timeouts))
}

/// Most services and servers together.
const MAX_SIZE: usize = 1_000_000;

fn stays(statement: &Statement, notes: &mut Notes) {
    let name = statement.words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
    let text = format!(
        "{name} has no counterpart: let keepalived go on with it (keepalived --vrrp), without virtual servers; \
         configs/keepalived.conf shows how"
    );
    notes.add(&statement.place, text);
}

fn global(block: &Statement, timeouts: &mut Option<Timeouts>, notes: &mut Notes) {
    for statement in block.inside() {
        let mut values = Values { notes };
        match statement.keyword() {
            "lvs_timeouts" => {
                let all = timeouts.get_or_insert(Timeouts::default());
                for pair in statement.words[1..].chunks(2) {
                    let seconds = pair.get(1).and_then(|text| text.parse().ok());
                    let seconds = seconds.filter(|seconds| (1..=MAX_TIMEOUT).contains(seconds));
                    match (pair[0].as_str(), seconds) {
                        ("tcp", Some(seconds)) => all.tcp = seconds,
                        ("tcpfin" | "tcp_fin", Some(seconds)) => all.tcp_fin = seconds,
                        ("udp", Some(seconds)) => all.udp = seconds,
                        _ => {
                            let text = format!("cannot be {:?}, which is left out", pair.join(" "));
                            values.note(statement, &text);
                        }
                    }
                }
            }
            "lvs_sync_daemon" => values.lacks(statement, " by this name: see [sync] of the configuration"),
            "lvs_flush" | "lvs_flush_on_stop" => {
                values.lacks(statement, "; a director begins and ends with its own services");
            }
            keyword if keyword.starts_with("vrrp") => stays(statement, notes),
            _ => values.lacks(statement, ""),
        }
    }
}
