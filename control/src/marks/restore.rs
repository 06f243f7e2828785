//! Rules as text: one `add ...` a line, as `sluice mark save` prints them.

use clap::{Parser, Subcommand};

use super::command::RuleWords;
use super::model::MarkRule;

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(disable_help_flag = true)]
    Add(RuleWords),
}

/// All rules of a text, each with its line, counted from 1. Empty lines and
/// those that begin with `#` are passed over.
///
/// # Errors
/// The first line that is wrong, why, and what to do about it.
pub(super) fn rules(text: &str) -> Result<Vec<(usize, MarkRule)>, String> {
    let mut rules = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let words = text.split_whitespace();
        if !words.clone().next().is_none_or(|word| word.starts_with('#')) {
            let rule = rule(words).map_err(|reason| format!("line {line}: {reason}"))?;
            rules.push((line, rule));
        }
    }
    Ok(rules)
}

fn rule<'a>(words: impl Iterator<Item = &'a str> + Clone) -> Result<MarkRule, String> {
    let first = words.clone().next().unwrap_or_default();
    if first != "add" {
        return Err(format!(
            "{first:?} is not what a rule begins with; write `add --vip ADDRESS ... --set MARK', as \
             `sluice mark save' does"
        ));
    }
    let Command::Add(words) = Line::try_parse_from(words).map_err(|error| reason(&error))?.command;
    words.rule()
}

/// What clap says, in one line and without its hints about a command line.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}
