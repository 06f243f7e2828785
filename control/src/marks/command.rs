//! `sluice mark ...`

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::model::{Addresses, MarkRule, Ports, Set, check_interface};
use super::{print, restore};
use crate::api::{Answer, Client, ClientError, Request};
use crate::ipvsadm::{Resolver, SystemNames};
use crate::rules::Protocol;

/// Longest text that is restored: more rules than it could hold are not
/// possible.
const MAX_TEXT: u64 = 1 << 20;

/// What follows `sluice mark`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long, global = true)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Put a rule behind all others
    Add(RuleWords),
    /// Put a rule before another
    Insert {
        /// Number of the rule that it comes before
        #[arg(default_value_t = 1)]
        number: usize,
        #[command(flatten)]
        rule: RuleWords,
    },
    /// Remove a rule, by its number or as it was added
    #[command(
        arg_required_else_help = true,
        override_usage = "sluice mark delete NUMBER\n       sluice mark delete --vip ADDRESS [...] --set MARK"
    )]
    Delete {
        /// Its number
        #[arg(conflicts_with = "RuleWords")]
        number: Option<usize>,
        #[command(flatten)]
        rule: Option<RuleWords>,
    },
    /// Remove all rules
    Flush,
    /// Show all rules, with how many connections each has marked
    List {
        /// Show addresses and ports as numbers
        #[arg(short, long)]
        numeric: bool,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Print all rules as `restore' takes them
    Save,
    /// Replace all rules by those of a file, or none if one of them is wrong
    Restore {
        /// The file [default: standard input]
        file: Option<PathBuf>,
    },
}

/// A rule. What is not said matches anything.
#[derive(Args, Debug)]
pub(super) struct RuleWords {
    /// Address or prefix that packets go to
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    vip: Addresses,
    /// tcp, udp, sctp or any
    #[arg(long, value_name = "PROTOCOL", default_value = "any", value_parser = protocol)]
    proto: Chosen,
    /// Ports that they go to, as in 80,443,8000-8100
    #[arg(long, value_name = "PORTS")]
    port: Option<Ports>,
    /// Address or prefix that they come from
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    from: Option<Addresses>,
    /// Interface that they come in by; eth+ for all that begin with eth
    #[arg(long = "in", value_name = "INTERFACE", value_parser = interface)]
    interface: Option<String>,
    /// Mark that they get; with a mask, its bits alone
    #[arg(long, value_name = "MARK[/MASK]")]
    set: Set,
}

/// A protocol, or any; not an `Option`, which clap takes for another thing.
#[derive(Clone, Copy, Debug)]
struct Chosen(Option<Protocol>);

fn protocol(text: &str) -> Result<Chosen, String> {
    match text {
        "any" | "all" => Ok(Chosen(None)),
        "tcp" => Ok(Chosen(Some(Protocol::Tcp))),
        "udp" => Ok(Chosen(Some(Protocol::Udp))),
        "sctp" => Ok(Chosen(Some(Protocol::Sctp))),
        _ => Err("choose tcp, udp, sctp or any".into()),
    }
}

fn interface(text: &str) -> Result<String, String> {
    check_interface(text).map(|()| text.to_owned())
}

impl RuleWords {
    pub(super) fn rule(self) -> Result<MarkRule, String> {
        let RuleWords { vip, proto: Chosen(protocol), port, from, interface, set } = self;
        let rule = MarkRule { vip, protocol, ports: port.unwrap_or_default(), from, interface, set };
        rule.check().map(|()| rule)
    }
}

/// What a command reads and writes.
pub struct World<'a> {
    /// Standard input
    pub stdin: &'a mut dyn Read,
    /// Standard output
    pub stdout: &'a mut dyn Write,
    /// Standard error
    pub stderr: &'a mut dyn Write,
    /// Names of hosts and ports
    pub names: &'a dyn Resolver,
}

/// Runs a command; exits with 1 when it is refused.
pub fn main(arguments: Arguments) -> ExitCode {
    let (mut stdin, mut stdout, mut stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut world =
        World { stdin: &mut stdin, stdout: &mut stdout, stderr: &mut stderr, names: &SystemNames };
    ExitCode::from(run(arguments, &mut world))
}

/// The same with the world as an argument; returns the exit status.
pub fn run(arguments: Arguments, world: &mut World<'_>) -> u8 {
    let Arguments { socket, command } = arguments;
    let client = Client::new(socket.as_deref());
    match obey(command, &client, world) {
        Ok(()) => 0,
        // A reader that has seen enough is no error.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            let _ = writeln!(world.stderr, "sluice mark: {failure}");
            1
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Words(String),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the director's answer makes no sense: {0:?}")]
    Senseless(Box<Answer>),
    #[error("cannot read {file}: {source}")]
    Input { file: String, source: io::Error },
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

fn obey(command: Command, client: &Client, world: &mut World<'_>) -> Result<(), Failure> {
    let request = match command {
        Command::Add(rule) => Request::AddMark { rule: rule.rule().map_err(Failure::Words)?, number: None },
        Command::Insert { number, rule } => {
            Request::AddMark { rule: rule.rule().map_err(Failure::Words)?, number: Some(number) }
        }
        Command::Delete { rule: Some(rule), .. } => {
            Request::DeleteMark { rule: rule.rule().map_err(Failure::Words)? }
        }
        Command::Delete { number: Some(number), .. } => Request::DeleteMarkNumber { number },
        Command::Delete { .. } => return Err(Failure::Words("name a rule, or its number".into())),
        Command::Flush => Request::FlushMarks,
        Command::Restore { file } => {
            let text = read(file, world)?;
            Request::ReplaceMarks { rules: restore::rules(&text).map_err(Failure::Words)? }
        }
        Command::List { numeric, json } => {
            let marks = marks(client)?;
            let printed = match json {
                true => print::json(world.stdout, &marks),
                false => print::list(world.stdout, &marks, (!numeric).then_some(world.names)),
            };
            return Ok(printed?);
        }
        Command::Save => return Ok(print::save(world.stdout, &marks(client)?)?),
    };
    match client.call(&request)? {
        Answer::Done => Ok(()),
        answer => Err(Failure::Senseless(Box::new(answer))),
    }
}

fn marks(client: &Client) -> Result<Vec<super::MarkListing>, Failure> {
    match client.call(&Request::Marks)? {
        Answer::Marks(marks) => Ok(marks),
        answer => Err(Failure::Senseless(Box::new(answer))),
    }
}

fn read(file: Option<PathBuf>, world: &mut World<'_>) -> Result<String, Failure> {
    let name = file.as_ref().map_or("standard input".into(), |file| file.display().to_string());
    let mut text = String::new();
    let result = match file {
        None => world.stdin.take(MAX_TEXT + 1).read_to_string(&mut text),
        Some(file) => fs::File::open(file).and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut text)),
    };
    match result {
        Ok(_) if text.len() as u64 > MAX_TEXT => {
            let source = io::Error::other(format!("it is longer than {MAX_TEXT} bytes"));
            Err(Failure::Input { file: name, source })
        }
        Ok(_) => Ok(text),
        Err(source) => Err(Failure::Input { file: name, source }),
    }
}
