//! Real HTTP requests.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::process::run;
use super::{Director, Netns};

/// One answer of a lab's web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Which server answered.
    pub server: String,
    /// The client's address as the server saw it.
    pub client: IpAddr,
}

/// What many requests came to.
#[derive(Clone, Debug, Default)]
pub struct Greetings {
    /// The answers.
    pub answers: Vec<Greeting>,
    /// Requests without one.
    pub failed: usize,
    /// What curl said of these.
    pub complaints: String,
}

impl Greetings {
    /// Sees to it that each request was answered.
    ///
    /// # Errors
    /// When one was not, with what curl and the director said of it.
    pub fn all_answered(&self, director: &Director) -> Result<()> {
        let Greetings { answers, failed, complaints } = self;
        if *failed == 0 {
            return Ok(());
        }
        bail!(
            "{failed} requests failed, {} were answered; curl said:\n{complaints}\nthe director has counted:\n{}\n\
             and said:\n{}",
            answers.len(),
            director.sluice("status").unwrap_or_default(),
            director.log()
        )
    }
}

/// Sends requests one after the other, each on a connection of its own.
///
/// # Errors
/// When curl cannot be run. Failing requests are counted, and are no error here.
pub fn greet(client: &Netns, address: &str, requests: usize) -> Result<Greetings> {
    let mut command = client.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        "--connect-timeout",
        "3",
        "-H",
        "Connection: close",
    ]);
    command.arg(format!("http://{address}/[1-{requests}]"));
    let output = command.output().context("cannot run curl")?;
    let answers: Vec<Greeting> = String::from_utf8_lossy(&output.stdout).lines().filter_map(parse).collect();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Greetings { failed: requests - answers.len(), answers, complaints })
}

fn parse(line: &str) -> Option<Greeting> {
    let (server, client) = line.split_once(' ')?;
    Some(Greeting { server: server.to_owned(), client: client.parse().ok()? })
}

/// Downloads into a file.
///
/// # Errors
/// When curl fails, with what it said.
pub fn download(client: &Netns, url: &str, into: &Path) -> Result<()> {
    run(transfer(client).arg("--output").arg(into).arg(url)).map(drop)
}

/// Uploads a file by PUT.
///
/// # Errors
/// When curl fails, with what it said.
pub fn upload(client: &Netns, file: &Path, url: &str) -> Result<()> {
    run(transfer(client).arg("--upload-file").arg(file).arg(url)).map(drop)
}

fn transfer(client: &Netns) -> std::process::Command {
    let mut command = client.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "120", "--connect-timeout", "3"]);
    command
}

/// Where a download of this name goes in a directory.
#[must_use]
pub fn target(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("download-{name}"))
}
