//! `sluice import`: a configuration from what an LVS director has.
//!
//! The configuration goes to standard output, and to standard error everything
//! that has no counterpart, with its place and with what was done instead.

mod ipvsadm;
mod keepalived;
mod note;
mod service;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Config, Error};
use crate::ipvsadm::{Resolver, SystemNames};
use crate::rules::Timeouts;

use note::Notes;
pub use note::{ImportError, Note, Place};

/// Options of `sluice import`.
#[derive(clap::Args, Debug)]
#[command(override_usage = "sluice import [keepalived|ipvsadm] FILE")]
pub struct Arguments {
    /// What the file is: `keepalived` for its configuration, `ipvsadm` for the output of
    /// ipvsadm-save; its content tells, unless it is said
    #[arg(value_name = "FORMAT")]
    first: String,
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    second: Option<String>,
    /// What conditions (@main) of keepalived are compared with [default: the name of this host
    /// up to its first dot]
    #[arg(long, value_name = "NAME")]
    config_id: Option<String>,
}

/// What is imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// keepalived's configuration
    Keepalived,
    /// What `ipvsadm -S` prints
    Ipvsadm,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        match name {
            "keepalived" | "keepalived.conf" => Some(Format::Keepalived),
            "ipvsadm" | "ipvsadm-save" => Some(Format::Ipvsadm),
            _ => None,
        }
    }

    /// The format that a text looks like: lines of ipvsadm begin with an
    /// option.
    pub fn of(text: &str) -> Self {
        let mut lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
        let option = |line: &str| line.starts_with('-') || line.starts_with("ipvsadm ");
        if lines.next().is_some_and(option) { Format::Ipvsadm } else { Format::Keepalived }
    }
}

/// A configuration, and what there is to say about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import {
    /// The configuration
    pub text: String,
    /// What has no counterpart, and what was done instead
    pub notes: Vec<Note>,
}

/// Where a text is from, and what it is read with.
pub struct Reading<'a> {
    /// Its name for messages
    pub name: &'a str,
    /// The file, which others are included relative to
    pub path: Option<&'a Path>,
    /// What conditions of keepalived are compared with
    pub config_id: &'a str,
    /// Names of hosts and ports
    pub names: &'a dyn Resolver,
}

/// Makes a configuration of a text.
///
/// # Errors
/// The first place where the text cannot be read.
pub fn import(format: Format, text: &str, reading: &Reading<'_>) -> Result<Import, ImportError> {
    let mut notes = Notes::default();
    let (services, timeouts) = match format {
        Format::Keepalived => {
            keepalived::services(reading.name, reading.path, text, reading.config_id, &mut notes)?
        }
        Format::Ipvsadm => ipvsadm::services(reading.name, text, reading.names, &mut notes)?,
    };
    let text = service::configuration(&director(reading.name, timeouts), &services, &mut notes);
    notes.0.sort_by(|one, other| one.place.cmp(&other.place));
    Ok(Import { text, notes: notes.0 })
}

/// The beginning of the configuration, which is of this machine.
fn director(name: &str, timeouts: Option<Timeouts>) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = format!(
        "# Imported from {name} by `sluice import`.\n\n[director]\n\
         # The interfaces that clients and servers are reached by: `ip -br link` lists them.\n\
         interfaces = [\"eth0\"]\n\
         # The CPU of each worker: `nproc` says how many CPUs there are.\n\
         workers = [1]\n"
    );
    if let Some(Timeouts { tcp, tcp_fin, udp }) = timeouts {
        text += &format!("timeouts = {{ established = {tcp}, fin_wait = {tcp_fin}, udp = {udp} }}\n");
    }
    text
}

/// Imports a file; exits with 1 when it cannot be read, or when the
/// configuration does not load before something is put right in it.
pub fn main(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice import: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("there is no format {0:?}; choose keepalived or ipvsadm")]
    Format(String),
    #[error("cannot read {file}: {source}")]
    Input { file: String, source: io::Error },
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Whether the configuration loads.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let Arguments { first, second, config_id } = arguments;
    let (format, file) = match second {
        Some(file) => match Format::named(first) {
            Some(format) => (Some(format), file.as_str()),
            None => return Err(Failure::Format(first.clone())),
        },
        // As in `ipvsadm-save | sluice import ipvsadm-save`.
        None if Format::named(first).is_some() && !Path::new(first).exists() => (Format::named(first), "-"),
        None => (None, first.as_str()),
    };
    let (name, text) = read(file)?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = config_id.as_deref().or(host.trim().split('.').next()).unwrap_or_default();
    let path = (file != "-").then(|| PathBuf::from(file));
    let reading = Reading { name: &name, path: path.as_deref(), config_id: id, names: &SystemNames };
    let import = import(format.unwrap_or_else(|| Format::of(&text)), &text, &reading)?;
    let written = io::stdout().write_all(import.text.as_bytes());
    // A reader that has seen enough is no error.
    if let Err(error) = written.as_ref()
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Ok(written.map(|()| true)?);
    }
    let mut report: String = import.notes.iter().map(|note| format!("{note}\n")).collect();
    report += "To be filled in: interfaces and workers of [director].\n";
    let loads = match Config::parse(&import.text, Path::new("output")) {
        Ok(_) => true,
        Err(error @ (Error::Invalid { .. } | Error::Unreadable { .. })) => {
            report += &format!("To be put right in the output before it loads:\n{}\n", error.report());
            false
        }
    };
    // Should standard error be closed there is nobody left to tell.
    let _ = io::stderr().write_all(report.as_bytes());
    Ok(loads)
}

fn read(file: &str) -> Result<(String, String), Failure> {
    let name = if file == "-" { "standard input".to_owned() } else { file.to_owned() };
    let mut bytes = Vec::new();
    let most = keepalived::MAX_BYTES as u64;
    let result = match file {
        "-" => io::stdin().take(most + 1).read_to_end(&mut bytes),
        file => File::open(file).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)),
    };
    match result {
        Ok(_) if bytes.len() as u64 > most => Err(Failure::Input {
            file: name,
            source: io::Error::other(format!("it is longer than {most} bytes")),
        }),
        Ok(_) => Ok((name, String::from_utf8_lossy(&bytes).into_owned())),
        Err(source) => Err(Failure::Input { file: name, source }),
    }
}
