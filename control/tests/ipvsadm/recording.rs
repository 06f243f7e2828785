//! Recordings: `$ command`, `< ` standard input, standard output, `E: `
//! standard error, `=> status`.

use std::fmt;

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Lines of standard output
    pub stdout: Vec<String>,
    /// Lines of standard error
    pub stderr: Vec<String>,
    /// Exit status
    pub status: u8,
}

impl Outcome {
    /// From the lines of a recording, up to the one with the status.
    pub fn parse(lines: &[&str]) -> Self {
        let mut outcome = Outcome::default();
        for line in lines {
            if let Some(status) = line.strip_prefix("=> ") {
                outcome.status = status.parse().unwrap();
            } else if let Some(error) = line.strip_prefix("E: ") {
                outcome.stderr.push(error.to_owned());
            } else {
                outcome.stdout.push((*line).to_owned());
            }
        }
        outcome
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stdout.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.stderr.iter().try_for_each(|line| writeln!(f, "E: {line}"))?;
        writeln!(f, "=> {}", self.status)
    }
}

/// A command of a recording.
#[derive(Debug)]
pub struct Step {
    /// As for a shell
    pub command: String,
    /// Its standard input
    pub input: String,
    /// What it did there
    pub expected: Outcome,
}

/// All commands of a recording.
pub fn read_recording(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            assert!(line.is_empty() || line.starts_with("## "), "outside of a command: {line}");
            continue;
        };
        let mut input = String::new();
        let mut output = Vec::new();
        for line in lines.by_ref() {
            if let Some(line) = line.strip_prefix("< ").filter(|_| output.is_empty()) {
                input += line;
                input.push('\n');
                continue;
            }
            output.push(line);
            if line.starts_with("=> ") {
                break;
            }
        }
        let expected = Outcome::parse(&output);
        steps.push(Step { command: command.to_owned(), input, expected });
    }
    steps
}
