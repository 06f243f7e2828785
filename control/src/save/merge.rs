//! The file with what has changed at run time put into it.

use std::collections::HashMap;
use std::path::Path;

use sluice_dataplane::conn::State;
use toml_edit::{DocumentMut, Item, TableLike};

use super::list::{Entry, list};
use crate::config::timeouts::{key, of_names};
use crate::config::{self, Config, write};
use crate::marks::MarkRule;
use crate::rules::{
    ConfiguredService, LoadError, Rules, Server, ServiceName, ServiceRules, Target, Timeouts,
};

/// What a director has now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// In the order in which they were added
    pub services: Vec<ConfiguredService>,
    /// In order
    pub marks: Vec<MarkRule>,
    /// As `ipvsadm --set` left them
    pub timeouts: Timeouts,
}

/// Why nothing is saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file has mistakes, or is not there
    #[error("{}", .0.report())]
    File(#[from] config::Error),
    /// It is valid, but cannot be edited
    #[error("{file}: {text}")]
    Shape {
        /// The file
        file: String,
        /// What is in the way
        text: String,
    },
    /// The director has what a file must not say
    #[error(
        "what the director has would not load again:\n{}\nNothing is saved: put that right first, as with ipvsadm",
        .0.report()
    )]
    Result(config::Error),
    /// So do its rules
    #[error("what the director has would not load again: {0}\nNothing is saved")]
    Rules(#[from] LoadError),
}

/// The text of a configuration with what a director has now. What has not
/// changed is left as it is written, with its comments.
///
/// # Errors
/// [`SaveError`].
pub fn merged(text: &str, path: &Path, saved: &Saved) -> Result<String, SaveError> {
    let config = Config::parse(text, path)?;
    let shape = |text: String| SaveError::Shape { file: path.display().to_string(), text };
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| shape(error.to_string()))?;
    let target = config.target();
    let root = document.as_table_mut();
    services(root, &target.services, &saved.services).map_err(shape)?;
    marks(root, &target, &saved.marks).map_err(shape)?;
    timeouts(root, &config, saved.timeouts).map_err(shape)?;
    let new = document.to_string();
    // It is what a reload would read.
    let config = Config::parse(&new, path).map_err(SaveError::Result)?;
    let interfaces = config.director.interfaces.clone();
    Rules::configured(config.director.workers.len(), interfaces, config.target())?;
    Ok(new)
}

fn services(root: &mut dyn TableLike, was: &[ServiceRules], now: &[ConfiguredService]) -> Result<(), String> {
    let places: HashMap<ServiceName, usize> =
        was.iter().enumerate().map(|(number, service)| (service.name, number)).collect();
    let names: std::collections::HashSet<ServiceName> = now.iter().map(|service| service.name).collect();
    let gone = was.iter().any(|service| !names.contains(&service.name));
    let changed: Vec<(&ConfiguredService, Option<usize>, Vec<Server>)> = now
        .iter()
        .filter_map(|service| {
            let number = places.get(&service.name).copied();
            let before = number.map(|number| was[number].servers.as_slice()).unwrap_or_default();
            let servers = in_order(before, service);
            let same = number.is_some_and(|number| same(&was[number], &service.rules(servers.clone())));
            (!same).then_some((service, number, servers))
        })
        .collect();
    if !gone && changed.is_empty() {
        return Ok(());
    }
    let mut tables = list(root, "service", false).ok_or("`service` is not a list of tables")?;
    let inline = tables.is_inline();
    let mut new = Vec::new();
    for (service, number, servers) in changed {
        let rules = service.rules(servers);
        match number {
            None => new.push(Entry::New(spaced(write::service(&rules)))),
            Some(number) => {
                let table = tables.get_mut(number).ok_or_else(|| odd(&rules.name))?;
                edit(table, &was[number], &rules, inline)?;
            }
        }
    }
    if gone || !new.is_empty() {
        let kept = was.iter().enumerate().filter(|(_, service)| names.contains(&service.name));
        let order = kept.map(|(number, _)| Entry::Old(number)).chain(new).collect();
        tables.arrange(order);
    }
    if tables.len() == 0 {
        root.remove("service");
    }
    Ok(())
}

fn odd(name: &ServiceName) -> String {
    format!("the table of service {name} is not found where it should be")
}

/// A table with an empty line before it.
fn spaced(mut table: toml_edit::Table) -> toml_edit::Table {
    table.decor_mut().set_prefix("\n");
    if let Some(servers) = table.get_mut("server").and_then(Item::as_array_of_tables_mut) {
        servers.iter_mut().for_each(|server| server.decor_mut().set_prefix("\n"));
    }
    table
}

/// Whether nothing that counts differs.
fn same(was: &ServiceRules, now: &ServiceRules) -> bool {
    let plain = |rules: &ServiceRules| {
        let mut rules = rules.clone();
        // A netmask means nothing without persistence, nor a tunnel without tun.
        if rules.settings.persistence.is_none() {
            rules.settings.granularity = crate::rules::Granularity::host(rules.name.family());
        }
        rules
    };
    plain(was) == plain(now)
}

/// All servers, those that health checks took out among them. Theirs is the
/// place that they have in the file, where the order of the others allows.
fn in_order(file: &[Server], service: &ConfiguredService) -> Vec<Server> {
    let key = |server: &Server| (server.address, server.port);
    let all: HashMap<_, &Server> =
        service.servers.iter().chain(&service.suspended).map(|server| (key(server), server)).collect();
    let known: std::collections::HashSet<_> = file.iter().map(key).collect();
    let kept = file.iter().filter_map(|server| all.get(&key(server)).copied());
    let new = service.servers.iter().chain(&service.suspended).filter(|server| !known.contains(&key(server)));
    let order: Vec<Server> = kept.chain(new).cloned().collect();
    let out: std::collections::HashSet<_> = service.suspended.iter().map(key).collect();
    let in_use = order.iter().filter(|server| !out.contains(&key(server))).map(key);
    if in_use.eq(service.servers.iter().map(key)) {
        return order;
    }
    service.servers.iter().chain(&service.suspended).cloned().collect()
}

fn edit(
    table: &mut dyn TableLike,
    was: &ServiceRules,
    now: &ServiceRules,
    inline: bool,
) -> Result<(), String> {
    write::put_settings(table, &was.settings, &now.settings);
    if was.local_addresses != now.local_addresses {
        write::put_local_addresses(table, &now.local_addresses);
    }
    if was.timeouts != now.timeouts {
        write::put_timeouts(table, &now.timeouts);
    }
    if was.offload != now.offload {
        write::put_offload(table, now.offload);
    }
    if was.servers == now.servers {
        return Ok(());
    }
    let mut tables = list(table, "server", inline).ok_or_else(|| odd(&now.name))?;
    let places: HashMap<_, usize> = was
        .servers
        .iter()
        .enumerate()
        .map(|(number, server)| ((server.address, server.port), number))
        .collect();
    let mut order = Vec::new();
    for server in &now.servers {
        match places.get(&(server.address, server.port)) {
            None => order.push(Entry::New(write::server(server, now.name.port()))),
            Some(number) => {
                let before = &was.servers[*number];
                if before != server {
                    let table = tables.get_mut(*number).ok_or_else(|| odd(&now.name))?;
                    write::put_server(table, before, server);
                }
                order.push(Entry::Old(*number));
            }
        }
    }
    let unmoved = order.len() == was.servers.len()
        && order.iter().enumerate().all(|(number, entry)| matches!(entry, Entry::Old(old) if *old == number));
    if !unmoved {
        tables.arrange(order);
    }
    if tables.len() == 0 {
        table.remove("server");
    }
    Ok(())
}

fn marks(root: &mut dyn TableLike, target: &Target, now: &[MarkRule]) -> Result<(), String> {
    let was: Vec<&MarkRule> = target.marks.iter().map(|(_, rule)| rule).collect();
    if was.iter().copied().eq(now) {
        return Ok(());
    }
    let mut tables = list(root, "mark", false).ok_or("`mark` is not a list of tables")?;
    let mut left: Vec<Option<&MarkRule>> = was.into_iter().map(Some).collect();
    let mut order = Vec::new();
    for rule in now {
        let place = left.iter().position(|old| *old == Some(rule));
        order.push(match place {
            Some(number) => {
                left[number] = None;
                Entry::Old(number)
            }
            None => Entry::New(spaced(write::mark(rule))),
        });
    }
    tables.arrange(order);
    if tables.len() == 0 {
        root.remove("mark");
    }
    Ok(())
}

fn timeouts(root: &mut dyn TableLike, config: &Config, now: Timeouts) -> Result<(), String> {
    let mut of_file = config.director.timeouts;
    let default = Timeouts::default();
    let mut changed = std::collections::BTreeMap::new();
    for (state, default, now) in [
        (State::Established, default.tcp, now.tcp),
        (State::FinWait, default.tcp_fin, now.tcp_fin),
        (State::Udp, default.udp, now.udp),
    ] {
        if of_file.take(state).unwrap_or(default) != now {
            changed.insert(key(state), now);
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let director = root.get_mut("director").and_then(Item::as_table_like_mut);
    let director = director.ok_or("`director` is not a table")?;
    match director.get_mut("timeouts") {
        None => write::put_timeouts(director, &of_names(&changed)),
        Some(table) => {
            let table = table.as_table_like_mut().ok_or("`timeouts` is not a table")?;
            for (name, seconds) in changed {
                write::put(table, &name, Some(i64::from(seconds).into()));
            }
        }
    }
    Ok(())
}
