//! Stories of operating a director, each a handful of tests, and what came of them: `make test-operate`.

mod stories;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub use stories::STORIES;

/// The longest that a story may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a test tells a figure, at the beginning of a line of what it prints.
pub const FIGURE: &str = "figure: ";

/// Something that an operator does, or that happens to one.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// What it is called
    pub name: &'static str,
    /// What it shows
    pub shows: &'static str,
    /// Where its tests are
    pub place: Where,
    /// Parts of the names of its tests; each has to find one at least
    pub tests: &'static [&'static str],
}

/// Where tests are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Where {
    /// The package
    pub package: &'static str,
    /// The test target, or `lib` for the library's own tests
    pub target: &'static str,
}

impl Where {
    /// `cargo test` for it, as of `CARGO` if that is set.
    fn cargo(self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["test", "--locked", "--package", self.package]);
        match self.target {
            "lib" => command.arg("--lib"),
            test => command.args(["--test", test]),
        };
        command
    }
}

/// Builds the tests of these stories.
///
/// # Errors
/// When they do not compile; the compiler's words go to standard error.
pub fn build(stories: &[Story]) -> Result<()> {
    let mut built: Vec<Where> = Vec::new();
    for Story { place, .. } in stories {
        if !built.contains(place) {
            let status = place.cargo().arg("--no-run").status().context("cannot run cargo")?;
            anyhow::ensure!(status.success(), "{} {} does not compile", place.package, place.target);
            built.push(*place);
        }
    }
    Ok(())
}

impl Story {
    /// Runs its tests, of which everything that they say goes to the file `log`.
    ///
    /// # Errors
    /// When one of them fails, does not exist or was left out: which, and why.
    pub fn run(&self, log: &Path) -> Result<Vec<String>, String> {
        let text = self.output(log).map_err(|error| format!("{error:#}"))?;
        judge(&text, self.tests)
    }

    fn output(&self, log: &Path) -> Result<String> {
        let file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.place.cargo();
        // One after the other: what they measure is not to be of several at once.
        command.args(["--", "--include-ignored", "--show-output", "--test-threads", "1"]).args(self.tests);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let mut child = command.spawn().context("cannot run cargo")?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                killpg(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL)?;
                child.wait()?;
                anyhow::bail!("not done after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::fs::read_to_string(log).context("its log")
    }
}

/// The figures that tests printed, or what is wrong with them.
fn judge(text: &str, wanted: &[&str]) -> Result<Vec<String>, String> {
    if let Some(skipped) = text.lines().find(|line| line.starts_with("SKIPPED")) {
        return Err(skipped.to_owned());
    }
    let results: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "))
        .filter(|(name, _)| wanted.iter().any(|part| name.contains(part)))
        .collect();
    if let Some((name, _)) = results.iter().find(|(_, result)| result.trim() != "ok") {
        return Err(format!("{name}: {}", reason(text, name)));
    }
    for part in wanted {
        if !results.iter().any(|(name, _)| name.contains(part)) {
            return Err(format!("no test {part} passed: {}", last_line(text)));
        }
    }
    if !text.lines().any(|line| line.starts_with("test result: ok.")) {
        return Err(last_line(text).to_owned());
    }
    Ok(text.lines().filter_map(|line| line.strip_prefix(FIGURE)).map(str::to_owned).collect())
}

/// The first line of what a test said when it failed, but for where in the source that was.
fn reason<'a>(text: &'a str, name: &str) -> &'a str {
    let heading = format!("---- {name} stdout ----");
    let said = text.lines().skip_while(|line| *line != heading).skip(1);
    let mut said = said.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("thread '"));
    said.next().unwrap_or("it failed")
}

fn last_line(text: &str) -> &str {
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (place, story) in STORIES.iter().enumerate() {
            assert!(STORIES[..place].iter().all(|other| other.name != story.name), "{}", story.name);
            assert!(!story.name.contains(char::is_whitespace) && !story.tests.is_empty());
        }
    }

    #[test]
    fn a_story_holds_if_all_of_it_ran_and_passed() {
        let passed = "running 1 test\ntest a::b ... ok\n\nfigure: 5 s\n\ntest result: ok. 1 passed\n";
        assert_eq!(judge(passed, &["a::"]), Ok(vec!["5 s".to_owned()]));
        assert_eq!(judge(passed, &["b", "c"]), Err("no test c passed: test result: ok. 1 passed".into()));
        let skipped = format!("SKIPPED: b needs root\n{passed}");
        assert_eq!(judge(&skipped, &["b"]), Err("SKIPPED: b needs root".into()));
        let ended = "test a::b ... ok\nerror: test failed (signal: 9, SIGKILL: kill)\n";
        assert_eq!(judge(ended, &["b"]), Err("error: test failed (signal: 9, SIGKILL: kill)".into()));
        assert_eq!(judge("", &["b"]), Err("no test b passed: it said nothing".into()));
    }

    #[test]
    fn a_failure_says_why() {
        let text = "test a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\nthread 'a::b' panicked at x.rs:1:\n\
                    left is not right\n\ntest result: FAILED.\n";
        assert_eq!(judge(text, &["a::b"]), Err("a::b: left is not right".into()));
    }
}
