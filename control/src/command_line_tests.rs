//! The command line as a whole: its pages, its completions.

use std::path::Path;
use std::process::{Command, Output};

use clap::CommandFactory;
use sluice_control::manual;

use super::Arguments;

/// Output of a program, or `None` (and a word about it) where it is not installed.
fn output(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED {:?}: {error}", command.get_program());
            None
        }
    }
}

/// The names of all commands with dashes between, as those of pages.
fn names(command: &clap::Command, before: &str, names: &mut Vec<String>) {
    let name = format!("{before}{}", command.get_name());
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        self::names(subcommand, &format!("{name}-"), names);
    }
    names.push(name);
}

#[test]
fn the_definition_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_has_a_page_that_mandoc_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let files = manual::write(Arguments::command(), directory.path()).unwrap();
    let mut commands = Vec::new();
    names(&Arguments::command(), "", &mut commands);
    assert!(commands.len() > 20, "{commands:?}");
    for name in &commands {
        assert!(files.contains(&format!("{name}.8")), "{name} has no page");
    }
    assert_eq!(files.len(), commands.len());
    for file in &files {
        let text = std::fs::read_to_string(directory.path().join(file)).unwrap();
        let about = text.lines().skip_while(|line| *line != ".SH NAME").nth(1).unwrap_or("");
        assert!(about.contains("\\- "), "{file} does not say what it is for: {about}");
    }
    let mut lint = Command::new("mandoc");
    lint.args(["-Tlint", "-Wwarning"]).args(&files).current_dir(directory.path());
    if let Some(output) = output(&mut lint) {
        let said = String::from_utf8_lossy(&output.stdout);
        // Pages have no date, and an option's values begin with an empty line more.
        let minor = ["missing date", "skipping paragraph macro: br"];
        let wrong: Vec<&str> =
            said.lines().filter(|line| !minor.iter().any(|words| line.contains(words))).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    let mut man = Command::new("man");
    man.args(["--warnings=w", "-l", "sluice.8"]).current_dir(directory.path()).env("MANWIDTH", "80");
    if let Some(output) = output(&mut man) {
        let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.is_empty() && text.contains("SYNOPSIS"), "{said}{text}");
    }
}

#[test]
fn the_page_of_ipvsadm_is_its_help() {
    let directory = tempfile::tempdir().unwrap();
    manual::write(Arguments::command(), directory.path()).unwrap();
    let text = std::fs::read_to_string(directory.path().join("sluice-ipvsadm.8")).unwrap();
    for words in [".SH COMMANDS", ".SH \"ADDITIONS OF SLUICE", "\\-\\-add\\-laddr", "\\-\\-persistent\\-conn"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// What a shell's completions are, as `sluice completions` prints them.
fn completions(shell: clap_complete::Shell, to: &Path) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sluice", &mut text);
    std::fs::write(to, text).unwrap();
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sluice");
    completions(clap_complete::Shell::Bash, &file);
    let script = "source \"$0\"; COMP_WORDS=(sluice rel); COMP_CWORD=1; _sluice sluice rel sluice; echo \"${COMPREPLY[*]}\"; \
                  COMP_WORDS=(sluice reload --d); COMP_CWORD=2; _sluice sluice --d reload; echo \"${COMPREPLY[*]}\"";
    if let Some(output) = output(Command::new("bash").args(["--norc", "-c", script]).arg(&file)) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "reload\n--dry-run\n", "{said}");
    }
}

#[test]
fn the_other_shells_take_theirs() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, program) in [(clap_complete::Shell::Zsh, "zsh"), (clap_complete::Shell::Fish, "fish")] {
        let file = directory.path().join(program);
        completions(shell, &file);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("realserver") && text.contains("dry-run"), "{program}");
        if let Some(output) = output(Command::new(program).arg("-n").arg(&file)) {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
