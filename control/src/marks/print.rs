//! Listings of rules.

use std::io::{self, Write};
use std::net::IpAddr;

use super::model::{Addresses, MarkListing, MarkRule};
use crate::ipvsadm::Resolver;

const TITLES: [&str; 8] = ["Num", "Connections", "To", "Proto", "Ports", "From", "In", "Set"];

/// What `restore` takes.
pub(super) fn save(out: &mut dyn Write, marks: &[MarkListing]) -> io::Result<()> {
    marks.iter().try_for_each(|listed| writeln!(out, "add {}", listed.rule))
}

/// An array, in order.
pub(super) fn json(out: &mut dyn Write, marks: &[MarkListing]) -> io::Result<()> {
    serde_json::to_writer(&mut *out, marks)?;
    writeln!(out)
}

/// A table, with names where they are wanted.
pub(super) fn list(
    out: &mut dyn Write,
    marks: &[MarkListing],
    names: Option<&dyn Resolver>,
) -> io::Result<()> {
    let rows = (1..).zip(marks).map(|(number, MarkListing { rule, connections })| {
        [
            number.to_string(),
            connections.to_string(),
            addresses(rule.vip, names),
            rule.protocol.map_or("any", |protocol| protocol.name()).to_owned(),
            ports(rule, names),
            rule.from.map_or("any".into(), |from| addresses(from, names)),
            rule.interface.clone().unwrap_or_else(|| "any".into()),
            rule.set.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(TITLES.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; TITLES.len()] = std::array::from_fn(width);
    for row in &rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(widths) {
            line += &format!("{text:<width$}  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn addresses(addresses: Addresses, names: Option<&dyn Resolver>) -> String {
    let ip = IpAddr::from(addresses.0.address());
    let text = addresses.to_string();
    let name = names.filter(|_| text == ip.to_string()).and_then(|names| names.name_of(ip));
    name.unwrap_or(text)
}

fn ports(rule: &MarkRule, names: Option<&dyn Resolver>) -> String {
    if rule.ports.is_empty() {
        return "any".into();
    }
    let name = |port| names?.service_of(port, rule.protocol?);
    let range = |range: &sluice_dataplane::service::PortRange| match range.first == range.last {
        true => name(range.first).unwrap_or_else(|| range.first.to_string()),
        false => format!("{}-{}", range.first, range.last),
    };
    rule.ports.ranges().iter().map(range).collect::<Vec<_>>().join(",")
}
