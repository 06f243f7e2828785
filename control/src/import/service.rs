//! A service that was imported, and the configuration of all of them.

use std::collections::HashMap;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use super::note::{Notes, Place};
use crate::config::write;
use crate::rules::{ServiceName, ServiceRules};

/// A service with what is said of it beside its rules.
#[derive(Debug)]
pub(super) struct Imported {
    pub(super) place: Place,
    pub(super) rules: ServiceRules,
    pub(super) comments: Vec<String>,
    /// Of each server
    pub(super) server_comments: Vec<Vec<String>>,
    /// Quorum, sorry server and the like
    pub(super) keys: Table,
    /// Health checks of each server
    pub(super) checks: Vec<Vec<Table>>,
}

impl Imported {
    pub(super) fn new(place: Place, rules: ServiceRules) -> Self {
        Imported {
            place,
            rules,
            comments: Vec::new(),
            server_comments: Vec::new(),
            keys: Table::new(),
            checks: Vec::new(),
        }
    }

    fn table(&self) -> Table {
        let mut table = write::service(&self.rules);
        set_comments(&mut table, &self.comments);
        let servers = table.remove("server");
        for (key, item) in &self.keys {
            table.insert(key, item.clone());
        }
        let texts: Vec<Vec<String>> =
            self.checks.iter().map(|list| list.iter().map(ToString::to_string).collect()).collect();
        let same = texts.windows(2).all(|pair| pair[0] == pair[1]);
        if let (true, Some(list)) = (same, self.checks.first()) {
            put_checks(&mut table, list);
        }
        let Some(Item::ArrayOfTables(mut servers)) = servers else { return table };
        for (number, server) in servers.iter_mut().enumerate() {
            if let Some(comments) = self.server_comments.get(number) {
                set_comments(server, comments);
            }
            if let (false, Some(list)) = (same, self.checks.get(number)) {
                put_checks(server, list);
            }
        }
        table.insert("server", Item::ArrayOfTables(servers));
        table
    }
}

fn put_checks(table: &mut Table, checks: &[Table]) {
    let list: ArrayOfTables = checks.iter().cloned().collect();
    if !list.is_empty() {
        table.insert("check", Item::ArrayOfTables(list));
    }
}

fn set_comments(table: &mut Table, comments: &[String]) {
    let mut prefix = String::from("\n");
    for line in comments.iter().filter(|line| !line.is_empty()) {
        // TOML has no control characters in comments.
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        prefix += &format!("# {line}\n");
    }
    table.decor_mut().set_prefix(prefix);
}

/// The text of a configuration; `director` is its first table.
pub(super) fn configuration(director: &str, services: &[Imported], notes: &mut Notes) -> String {
    let mut seen: HashMap<ServiceName, &Place> = HashMap::new();
    let mut tables = ArrayOfTables::new();
    for service in services {
        let name = service.rules.name;
        if let Some(first) = seen.get(&name) {
            notes.add(&service.place, format!("{name} is in {first} already; this one is left out"));
            continue;
        }
        seen.insert(name, &service.place);
        tables.push(service.table());
    }
    let mut document = DocumentMut::new();
    if !tables.is_empty() {
        document.insert("service", Item::ArrayOfTables(tables));
    }
    format!("{director}{document}")
}
