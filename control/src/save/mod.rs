//! `sluice save`: the configuration file as it would have to be for what the
//! director has now.
//!
//! The file keeps its other tables and its comments; only services, servers,
//! marks and timeouts that were changed at run time (by `ipvsadm` or
//! `sluice mark`) are written anew. What health checks did is not saved.

mod file;
mod list;
mod merge;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::api::{Answer, Client, ClientError, Request};
use crate::config::{self, Config};
use crate::output;
use crate::rules::{Change, LoadError, Rules};

pub use merge::{SaveError, Saved, merged};

/// Options of `sluice save`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Where to save it [default: the file that the director was started with]
    file: Option<PathBuf>,
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Only show what would change in the file
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the director's answer makes no sense: {0:?}")]
    Senseless(Box<Answer>),
    #[error("this director has no configuration file, whose [director] the saved one would need")]
    NoFile,
    #[error("{}", .0.report())]
    File(#[from] config::Error),
    #[error("{0}")]
    Save(#[from] SaveError),
    #[error("{0}")]
    Rules(#[from] LoadError),
    #[error("cannot write {}: {source}; nothing is saved", file.display())]
    Write { file: PathBuf, source: io::Error },
}

/// Saves what a director has; exits with 1 where that is not possible.
pub fn main(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(text) => {
            output::print(&text);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("sluice save: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String, Failure> {
    let (source, saved) = ask(&Client::new(arguments.socket.as_deref()))?;
    let source = source.ok_or(Failure::NoFile)?;
    let text = fs::read_to_string(&source)
        .map_err(|error| config::Error::Unreadable { file: source.clone(), source: error })?;
    let new = merged(&text, &source, &saved)?;
    let target = arguments.file.as_ref().unwrap_or(&source);
    let changes = changes(&source, &text, &new)?;
    let mut report: String = changes.iter().map(|change| format!("{change}\n")).collect();
    let same = new == text && *target == source;
    if arguments.dry_run || same {
        report += &match (changes.len(), same) {
            (_, true) => format!("{} has all of it already\n", target.display()),
            (number, false) => format!("{number} changes would be saved in {}\n", target.display()),
        };
        return Ok(report);
    }
    file::replace(target, &new).map_err(|source| Failure::Write { file: target.clone(), source })?;
    Ok(report + &format!("saved in {}\n", target.display()))
}

/// The director's file, and what it has now.
fn ask(client: &Client) -> Result<(Option<PathBuf>, Saved), Failure> {
    let mut services = Vec::new();
    let answer = client.call_parts(&Request::Configuration, |part| {
        if let Answer::Configured(service) = part {
            services.push(*service);
        }
        Ok(())
    })?;
    match answer {
        Answer::Configuration { file, marks, timeouts } => Ok((file, Saved { services, marks, timeouts })),
        other => Err(Failure::Senseless(Box::new(other))),
    }
}

/// What differs between two texts, as a reload would say it.
fn changes(file: &Path, old: &str, new: &str) -> Result<Vec<Change>, Failure> {
    let rules = |text: &str| -> Result<Rules, Failure> {
        let config = Config::parse(text, file)?;
        let interfaces = config.director.interfaces.clone();
        Ok(Rules::configured(config.director.workers.len(), interfaces, config.target())?)
    };
    Ok(rules(old)?.differences(&rules(new)?))
}
