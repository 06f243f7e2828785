//! What `ipvsadm -S` prints: each line is a command line.

use super::note::{ImportError, Note, Notes, Place};
use super::service::Imported;
use crate::api::Request;
use crate::ipvsadm::{Resolver, request_of};
use crate::rules::{Rules, Timeouts};

/// Longest line.
const MAX_LINE: usize = 64 << 10;

/// The services of a text, and the timeouts of `--set`, if it has some.
pub(super) fn services(
    file: &str,
    text: &str,
    names: &dyn Resolver,
    notes: &mut Notes,
) -> Result<(Vec<Imported>, Option<Timeouts>), ImportError> {
    let file: std::rc::Rc<str> = file.into();
    let mut rules = Rules::new(1);
    let mut places = std::collections::HashMap::new();
    let mut timeouts = None;
    for (line, text) in (1..).zip(text.lines()) {
        let place = Place { file: std::rc::Rc::clone(&file), line };
        if text.len() > MAX_LINE {
            return Err(ImportError::new(&place, format!("the line is longer than {MAX_LINE} bytes")));
        }
        let words = text.split_ascii_whitespace().map(str::to_owned);
        let mut words: Vec<String> = words.skip_while(|word| word == "ipvsadm").collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        // `ipvsadm-save` puts nothing else there, but its output is edited by hand.
        words.retain(|word| word != "-n");
        let request = match request_of(&words, names) {
            Ok(Some(request)) => request,
            Ok(None) => {
                notes.add(&place, "this does not add anything, and is left out");
                continue;
            }
            Err(problem) => {
                let text = format!("{problem}; is it what `ipvsadm -S' printed?");
                return Err(ImportError::new(&place, text));
            }
        };
        let result = match request {
            Request::AddService { service, settings } => {
                places.entry(service).or_insert_with(|| place.clone());
                rules.add_service(service, settings)
            }
            Request::EditService { service, settings } => rules.edit_service(&service, settings),
            Request::AddServer { service, server } => rules.add_server(&service, server),
            Request::EditServer { service, server } => rules.edit_server(&service, server),
            Request::AddLocalAddress { service, address } => rules.add_local_address(&service, address),
            Request::SetTimeouts { timeouts: new } => {
                timeouts = Some(new);
                rules.set_timeouts(new)
            }
            Request::StartDaemon { .. } => {
                let text = "the sync daemon has no counterpart by this name: see [sync] of the configuration";
                notes.add(&place, text);
                Ok(())
            }
            _ => {
                notes.add(&place, "this does not add anything, and is left out");
                Ok(())
            }
        };
        if let Err(problem) = result {
            notes.add(&place, format!("{problem}; it is left out"));
        }
    }
    let timeouts = timeouts.map(|_| rules.timeouts());
    let mut services = Vec::new();
    for configured in rules.configuration() {
        let place = places.get(&configured.name).cloned();
        let place = place.unwrap_or_else(|| Place { file: std::rc::Rc::clone(&file), line: 1 });
        if configured.name.is_mark() {
            let text = format!(
                "{}: write [[mark]] rules for what marks its packets now (iptables -t mangle): \
                 packets do not pass the kernel's; configs/marks.toml shows how",
                configured.name
            );
            notes.0.push(Note { place: place.clone(), text });
        }
        let servers = configured.servers.clone();
        services.push(Imported::new(place, configured.rules(servers)));
    }
    Ok((services, timeouts))
}
