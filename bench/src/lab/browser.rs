//! A real browser without a screen.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Netns;
use super::process::run;

/// The programs it may be, by distribution.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Chromium with a profile of its own, in a namespace.
#[derive(Debug)]
pub struct Browser<'a> {
    netns: &'a Netns,
    name: &'static str,
    dir: &'a Path,
}

impl<'a> Browser<'a> {
    /// The one that is installed, if any. `dir` takes its profile.
    #[must_use]
    pub fn find(netns: &'a Netns, dir: &'a Path) -> Option<Self> {
        let there = |name: &&str| {
            let mut version = Command::new(name);
            version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        };
        NAMES.into_iter().find(there).map(|name| Self { netns, name, dir })
    }

    /// What a page's document is after `millis` of its own time, which passes as fast as its requests are answered.
    ///
    /// # Errors
    /// When the browser fails.
    pub fn document(&self, url: &str, millis: u32) -> Result<String> {
        run(self.command(millis).arg("--dump-dom").arg(url)).with_context(|| format!("document of {url}"))
    }

    /// A picture (PNG) of the page in a window of that size, likewise.
    ///
    /// # Errors
    /// When the browser fails.
    pub fn picture(&self, url: &str, millis: u32, size: (u32, u32), file: &Path) -> Result<()> {
        let mut command = self.command(millis);
        command.arg(format!("--window-size={},{}", size.0, size.1));
        command.arg(format!("--screenshot={}", file.display())).arg(url);
        run(&mut command).map(drop).with_context(|| format!("picture of {url}"))
    }

    fn command(&self, millis: u32) -> Command {
        let mut command = self.netns.command(self.name);
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--hide-scrollbars", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", self.dir.join("browser").display()));
        command.arg(format!("--virtual-time-budget={millis}"));
        command.env("HOME", self.dir).stderr(Stdio::null());
        command
    }
}
