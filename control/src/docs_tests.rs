//! What is written for operators: its configurations and command lines are valid, and its table of drop reasons is
//! that of the data plane.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use sluice_control::config::Config;
use sluice_control::ipvsadm::{self, Environment, NoNames};
use sluice_dataplane::stats::DropReason;

use super::Arguments;

/// A file and what is in it.
struct Page {
    name: String,
    text: String,
}

fn pages() -> Vec<Page> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = vec![here.join("../README.md"), here.join("../bench/README.md")];
    files.extend(fs::read_dir(here.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    files.sort();
    let page = |file: &PathBuf| Page {
        name: file.strip_prefix(here).unwrap_or(file).display().to_string(),
        text: fs::read_to_string(file).unwrap(),
    };
    files.iter().map(page).collect()
}

impl Page {
    /// Blocks of code (lines indented by four, or more in a list), each with the number of its first line.
    fn blocks(&self) -> Vec<(usize, String)> {
        let mut blocks: Vec<(usize, String)> = Vec::new();
        let mut open = false;
        let mut after_blank = true;
        for (number, line) in self.text.lines().enumerate() {
            let blank = line.trim().is_empty();
            match line.strip_prefix("    ") {
                Some(code) if open || after_blank => {
                    if !open {
                        blocks.push((number + 1, String::new()));
                    }
                    open = true;
                    let block = &mut blocks.last_mut().unwrap().1;
                    block.push_str(code);
                    block.push('\n');
                }
                _ if blank && open => blocks.last_mut().unwrap().1.push('\n'),
                _ => open = false,
            }
            after_blank = blank;
        }
        blocks
    }

    /// What is in backquotes on one line.
    fn quotes(&self) -> Vec<(usize, &str)> {
        let mut quotes = Vec::new();
        for (number, line) in self.text.lines().enumerate().filter(|(_, line)| !line.starts_with("    ")) {
            quotes.extend(line.split('`').skip(1).step_by(2).map(|quote| (number + 1, quote)));
        }
        quotes
    }
}

/// The configuration in a block, from its first table on; what follows may be commands.
fn configuration(block: &str) -> Option<String> {
    let is_toml = |line: &&str| line.is_empty() || line.starts_with(['[', '#']) || line.contains(" = ");
    let lines = block.lines().skip_while(|line| !line.starts_with('[')).take_while(is_toml);
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    (!text.is_empty()).then_some(text)
}

#[test]
fn every_configuration_is_valid() {
    let mut seen = 0;
    for page in pages() {
        for (line, block) in page.blocks() {
            let Some(mut text) = configuration(&block) else { continue };
            if !text.contains("[director]") {
                text.insert_str(
                    0,
                    "[director]\ninterfaces = [\"eth0\"]\nworkers = [1]\nlocal_addresses = [\"10.0.2.200\"]\n",
                );
            }
            let parsed = Config::parse(&text, Path::new("example"));
            assert!(parsed.is_ok(), "{}, line {line}: {}\n{text}", page.name, parsed.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen >= 7, "only {seen} were found");
}

/// The commands of a line: without comments, redirections and what other programs are told.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or("");
    let mut commands = Vec::new();
    for part in line.split([';', '|']).flat_map(|part| part.split(" && ")) {
        let part = part.split([' ', '\t']).collect::<Vec<_>>().join(" ");
        let part = part.split(['>', '<']).next().unwrap_or("").trim().to_owned();
        let words: Vec<String> =
            part.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect();
        let program = words.first().map(String::as_str).unwrap_or_default();
        if ["sluice", "ipvsadm", "ipvsadm-save", "ipvsadm-restore"].contains(&program) && words.len() > 1 {
            commands.push(words);
        }
    }
    commands
}

/// Whether it is a command line rather than the mention of one: nothing is left out.
fn is_whole(words: &[String]) -> bool {
    !words.iter().any(|word| word.contains("...") || word.contains('…') || word.contains('{'))
}

fn accepted(words: &[String]) -> Result<(), String> {
    let (program, rest) = match words {
        [sluice, ipvsadm, rest @ ..] if sluice == "sluice" && ipvsadm == "ipvsadm" => ("ipvsadm", rest),
        [sluice, ..] if sluice == "sluice" => {
            return match Arguments::try_parse_from(words) {
                Ok(_) => Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            };
        }
        [program, rest @ ..] => (program.as_str(), rest),
        [] => return Ok(()),
    };
    let (mut output, mut complaints) = (Vec::new(), Vec::new());
    let mut environment = Environment {
        stdin: &mut std::io::empty(),
        stdout: &mut output,
        stderr: &mut complaints,
        names: &NoNames,
        socket: Some("/nonexistent/sluice.sock".into()),
    };
    ipvsadm::called(program, rest, &mut environment);
    let complaints = String::from_utf8_lossy(&complaints).into_owned();
    // A command line that makes sense gets as far as to the director.
    if complaints.is_empty() || complaints.contains("no director answers") { Ok(()) } else { Err(complaints) }
}

#[test]
fn every_command_line_is_taken() {
    let mut seen = 0;
    for page in pages() {
        let blocks = page.blocks();
        for (first, block) in &blocks {
            for (number, line) in (*first..).zip(block.lines()) {
                for words in commands(line).into_iter().filter(|words| is_whole(words)) {
                    if let Err(error) = accepted(&words) {
                        panic!("{}, line {number}: {}\n{error}", page.name, words.join(" "));
                    }
                    seen += 1;
                }
            }
        }
        // What is said in passing may lack what it takes, and must exist.
        for (number, quote) in page.quotes() {
            for words in commands(quote).into_iter().filter(|words| is_whole(words) && words[0] == "sluice") {
                let result = Arguments::try_parse_from(&words);
                let kind = result.map_or_else(|error| Some(error.kind()), |_| None);
                let wrong =
                    [ErrorKind::InvalidSubcommand, ErrorKind::UnknownArgument, ErrorKind::InvalidValue];
                assert!(
                    !kind.is_some_and(|kind| wrong.contains(&kind)),
                    "{}, line {number}: {}",
                    page.name,
                    words.join(" ")
                );
            }
        }
    }
    assert!(seen >= 60, "only {seen} were found");
}

#[test]
fn a_wrong_command_line_is_found() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for wrong in ["sluice reloud", "sluice reload --dry", "ipvsadm -A -t 192.0.2.10:80 -r 10.0.2.1"] {
        assert!(accepted(&words(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn every_drop_reason_has_its_row() {
    let pages = pages();
    let page = pages.iter().find(|page| page.name.ends_with("drops.md")).unwrap();
    let rows = page.text.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let names: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(rows, names, "a row for each, in the order in which they are shown");
    for row in page.text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
}

#[test]
fn links_lead_somewhere() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in pages() {
        let directory = here.join(&page.name).parent().unwrap().to_owned();
        for target in page.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or("");
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(directory.join(file).exists(), "{}: {target}", page.name);
        }
    }
}
