//! The ipvsadm command line.
//!
//! What is typed and printed is what ipvsadm 1.31 takes and prints, mistakes
//! and exit status included; what Sluice adds is set apart in `-h`. A command
//! line goes through three forms: the words as typed ([`parse`]), a
//! consistent command ([`command`]), and requests to the director ([`run`]).

mod address;
mod command;
mod connections;
mod names;
mod options;
mod parse;
mod popt;
mod print;
mod run;
mod sort;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter};
use std::path::Path;
use std::process::ExitCode;

use crate::api::Request;
use parse::Mistake;

pub use names::{NoNames, Resolver, SystemNames};
pub(crate) use run::help_text;
pub use run::{Environment, run};

/// Whether a program called by this name is to act as [`main`].
pub fn answers_to(program: &OsStr) -> bool {
    matches!(base_name(program).as_str(), "ipvsadm" | "ipvsadm-save" | "ipvsadm-restore")
}

/// Runs a command line whose first word is the name that it was called by:
/// `ipvsadm`, or Debian's `ipvsadm-save` or `ipvsadm-restore`, with or without
/// a path. For `sluice ipvsadm -L` that is the second word.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let program = words.next().map(|program| base_name(&program)).unwrap_or_default();
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let stdout = io::stdout();
    let mut environment = Environment {
        stdin: &mut io::stdin().lock(),
        // Not line by line: a listing may have millions of them.
        stdout: &mut BufWriter::with_capacity(1 << 16, stdout.lock()),
        stderr: &mut io::stderr(),
        names: &SystemNames,
        socket: None,
    };
    ExitCode::from(called(&program, &words, &mut environment))
}

/// The same by the base name of the program and with the world as an
/// argument, for tests.
pub fn called(program: &str, words: &[String], environment: &mut Environment<'_>) -> u8 {
    match program {
        "ipvsadm-save" => {
            if words.iter().any(|word| word.starts_with('-') && word != "-n") {
                let help = "ipvsadm-save: Script to save the IPVS table to stdout.\n   \
                            With the -n option, prints out the table in numeric format.\n";
                let _ = environment.stderr.write_all(help.as_bytes());
                return 1;
            }
            let numeric = words.iter().any(|word| word == "-n").then_some("-n");
            let words: Vec<String> = ["-S"].into_iter().chain(numeric).map(str::to_owned).collect();
            run(&words, environment)
        }
        "ipvsadm-restore" => restore(environment),
        _ => run(words, environment),
    }
}

/// What a line of a saved table asks for; `None` where that is to show
/// something.
///
/// # Errors
/// What is wrong with the line.
pub(crate) fn request_of(words: &[String], names: &dyn Resolver) -> Result<Option<Request>, String> {
    let command = parse::parse(words, names).and_then(command::resolve).map_err(|mistake| match mistake {
        Mistake::TryHelp => "this is no command line of ipvsadm".to_owned(),
        Mistake::Scan(text) | Mistake::Usage(text) => text.trim().to_owned(),
    })?;
    Ok(match command {
        (command::Command::Change(request), _) => Some(request),
        _ => None,
    })
}

/// Debian's script: it takes comments out, clears the table and looks at no
/// arguments.
fn restore(environment: &mut Environment<'_>) -> u8 {
    let mut rules = Vec::new();
    if let Err(error) = environment.stdin.read_to_end(&mut rules) {
        let _ = writeln!(environment.stderr, "cannot read: {error}");
        return 255;
    }
    let lines = rules.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
    let rules = lines.collect::<Vec<_>>().concat();
    let mut environment = Environment {
        stdin: &mut rules.as_slice(),
        stdout: environment.stdout,
        stderr: environment.stderr,
        names: environment.names,
        socket: environment.socket.clone(),
    };
    match run(&["-C".to_owned()], &mut environment) {
        0 => run(&["-R".to_owned()], &mut environment),
        status => status,
    }
}

fn base_name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}
