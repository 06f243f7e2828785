//! Man pages and shell completions, made of the command line's own
//! definition, so that they say what the program takes.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::{ipvsadm, output};

/// System administration, man-pages(7).
const SECTION: &str = "8";

/// What the footer of each page says that it belongs to.
const MANUAL: &str = "Sluice";

/// Options of `sluice manual`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The directory to write them to; it is made where it is missing
    directory: PathBuf,
}

/// Options of `sluice completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions of a command for a shell.
pub fn completions(mut command: Command, arguments: &CompletionArguments) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut text);
    output::print(&String::from_utf8_lossy(&text));
    ExitCode::SUCCESS
}

/// Writes the man pages of a command.
pub fn main(command: Command, arguments: &Arguments) -> ExitCode {
    match write(command, &arguments.directory) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice manual: {}: {error}", arguments.directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes a page for a command, each of its subcommands and each of theirs;
/// returns the names of the files.
///
/// # Errors
/// When a file or the directory cannot be written.
pub fn write(command: Command, directory: &Path) -> io::Result<Vec<String>> {
    fs::create_dir_all(directory)?;
    let version = command.get_version().unwrap_or_default().to_owned();
    // `help` says what the pages say.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut names = Vec::new();
    write_tree(&command, &version, directory, &mut names)?;
    Ok(names)
}

fn write_tree(command: &Command, version: &str, directory: &Path, names: &mut Vec<String>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let file = format!("{name}.{SECTION}");
    fs::write(directory.join(&file), page(command, &name, version)?)?;
    names.push(file);
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_tree(subcommand, version, directory, names)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, version: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).section(SECTION);
    let mut text = Vec::new();
    // Without a date, as it would be that of the build; its place is not left out.
    writeln!(text, ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '")?;
    writeln!(text, ".TH {} {SECTION} \"\" \"sluice {version}\" {MANUAL}", name.to_uppercase())?;
    man.render_name_section(&mut text)?;
    if command.get_name() == "ipvsadm" {
        ipvsadm_sections(&mut text)?;
    } else {
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        // A command may have nothing but --help, which is one.
        man.render_options_section(&mut text)?;
        if command.has_subcommands() {
            man.render_subcommands_section(&mut text)?;
        }
        if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
            let mut roff = Roff::new();
            roff.control("SH", ["NOTES"]);
            // As `--help` has it: examples are lines of their own.
            roff.control("nf", []);
            for line in notes.to_string().lines() {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
            roff.to_writer(&mut text)?;
        }
    }
    let mut end = Roff::new();
    if name == command.get_name() {
        surroundings(&mut end);
    } else {
        end.control("SH", ["SEE ALSO"]);
        end.text([bold("sluice"), roman(format!("({SECTION})"))]);
    }
    end.to_writer(&mut text)?;
    Ok(text)
}

/// What `sluice ipvsadm` takes is not clap's: its page is what `-h` prints.
fn ipvsadm_sections(text: &mut impl Write) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for (number, name) in ["sluice ipvsadm", "ipvsadm"].into_iter().enumerate() {
        if number > 0 {
            roff.control("br", []);
        }
        roff.text([bold(name), roman(" COMMAND [OPTIONS]")]);
    }
    for name in ["ipvsadm-save", "ipvsadm-restore"] {
        roff.control("br", []);
        roff.text([bold(name), roman(if name.ends_with("save") { " [-n]" } else { "" })]);
    }
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "Administers the virtual services of a running director. What is typed and printed is what \
         ipvsadm 1.31 of the Linux Virtual Server takes and prints; what is added is set apart at the end. \
         Called by the name of ipvsadm, ipvsadm-save or ipvsadm-restore the program acts as that one.",
    )]);
    for block in ipvsadm::help_text().split("\n\n") {
        let mut lines = block.trim_matches('\n').lines();
        let Some(heading) = lines.next() else { continue };
        let heading = heading.trim_end_matches(':').to_uppercase();
        roff.control("SH", [heading.as_str()]);
        roff.control("nf", []);
        for line in lines {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff.to_writer(text)
}

/// Files, environment and exit status, which all commands have in common.
fn surroundings(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman("0 if it was done, 1 if not, and 2 if the command line makes no sense.")]);
    let entries = |roff: &mut Roff, heading: &str, entries: &[(&str, &str)]| {
        roff.control("SH", [heading]);
        for (name, meaning) in entries {
            roff.control("TP", []);
            roff.text([bold(*name)]);
            roff.text([roman(*meaning)]);
        }
    };
    entries(
        roff,
        "ENVIRONMENT",
        &[
            ("SLUICE_SOCKET", "Where commands reach the director, unless --socket says so."),
            (
                "SLUICE_LOG",
                "What is logged to standard error: error, warn, info (the default), debug or trace, \
                 or MODULE=LEVEL with commas between.",
            ),
        ],
    );
    entries(
        roff,
        "FILES",
        &[
            ("/etc/sluice/sluice.toml", "The configuration that the systemd unit runs with."),
            ("/run/sluice/sluice.sock", "Where the director answers commands."),
            ("/usr/share/doc/sluice/examples", "Configurations; all.toml explains every key."),
        ],
    );
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("keepalived"),
        roman("(8), "),
        bold("ip"),
        roman("(8), "),
        bold("ethtool"),
        roman("(8)"),
    ]);
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let inner = Command::new("inner").about("Do it").arg(Arg::new("what").long("what").help("What"));
        let hidden = Command::new("secret").hide(true);
        Command::new("outer").version("1").about("Do things").subcommand(inner).subcommand(hidden)
    }

    #[test]
    fn every_command_that_is_not_hidden_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let names = write(command(), &directory.path().join("new")).unwrap();
        assert_eq!(names, ["outer.8", "outer-inner.8"]);
        let read = |name: &str| fs::read_to_string(directory.path().join("new").join(name)).unwrap();
        let (outer, inner) = (read("outer.8"), read("outer-inner.8"));
        assert!(outer.contains("outer\\-inner(8)") && outer.contains(".SH FILES"), "{outer}");
        assert!(inner.contains("\\-\\-what") && inner.contains(".SH \"SEE ALSO\""), "{inner}");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        assert!(write(command(), Path::new("/proc/none")).is_err());
    }
}
