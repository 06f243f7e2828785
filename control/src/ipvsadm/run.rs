//! Carrying out a command line.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::command::{Command, Format, Listing, What, resolve};
use super::connections;
use super::names::Resolver;
use super::parse::{Mistake, parse};
use super::print::{self, Printer};
use super::sort::sort;
use crate::api::message::ConnectionListing;
use crate::api::{Answer, Client, ClientError, Request};
use crate::rules::{ServiceListing, ServiceName, unsupported};

/// ipvsadm's name for itself, which scripts look at.
const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)";

const HELP: &str = include_str!("help.txt");

const OUR_HELP: &str = "
Additions of Sluice, as in DPVS:
  ipvsadm -a|e virtual-service -r server-address -b [options]
  ipvsadm -P|Q virtual-service -z local-address
  ipvsadm -G [virtual-service] [-n]
  --fullnat      -b                   full NAT: source and destination (on a real server command)
  --add-laddr    -P                   add local address to a service
  --del-laddr    -Q                   delete local address from a service
  --get-laddr    -G                   list local addresses
  --local-address -z address          local address that full NAT sends from
  --json                              listing (-L, -G) as JSON, for programs
  --socket       path                 socket of the director
                                      (default $SLUICE_SOCKET, else /run/sluice/sluice.sock)
";

/// What a command line may touch.
pub struct Environment<'a> {
    /// Rules for `-R`
    pub stdin: &'a mut dyn BufRead,
    /// Listings
    pub stdout: &'a mut dyn Write,
    /// Errors
    pub stderr: &'a mut dyn Write,
    /// Names of hosts and ports
    pub names: &'a dyn Resolver,
    /// The director's socket, unless the command line names one
    pub socket: Option<PathBuf>,
}

/// How a command line ended.
enum End {
    /// With this status; a restore goes on
    Status(u8),
    /// With this status, for good
    Exit(u8),
}

/// Most bytes of a line of a restore, with its end.
const LONGEST_LINE: u64 = 65_536;

/// Why it did not end well.
enum Failure {
    /// The command line
    Mistake(Mistake),
    /// The director
    Director(ClientError),
    /// Standard output or input
    Io(io::Error),
}

impl From<Mistake> for Failure {
    fn from(mistake: Mistake) -> Self {
        Failure::Mistake(mistake)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Output(error) => Failure::Io(error),
            error => Failure::Director(error),
        }
    }
}

/// Carries out a command line without the program's name and returns the exit
/// status.
pub fn run(mut words: &[String], environment: &mut Environment<'_>) -> u8 {
    // The socket may also be named before the command.
    while let Some(first) = words.first() {
        if let Some(path) = first.strip_prefix("--socket=") {
            environment.socket = Some(path.into());
            words = &words[1..];
        } else if first == "--socket" && words.len() > 1 {
            environment.socket = Some((&words[1]).into());
            words = &words[2..];
        } else {
            break;
        }
    }
    let (End::Status(status) | End::Exit(status)) = attempt(words, environment, false);
    // A reader that left early wanted no more, which is not an error.
    match environment.stdout.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(environment.stderr, "cannot write: {error}");
            255
        }
        _ => status,
    }
}

/// What `-h` prints after the version.
pub(crate) fn help_text() -> String {
    let lacks = unsupported::SUMMARY;
    format!("{HELP}{OUR_HELP}\nNot supported by this version of Sluice:\n{lacks}\n")
}

/// Does it and reports what went wrong.
fn attempt(words: &[String], environment: &mut Environment<'_>, restoring: bool) -> End {
    let failure = match perform(words, environment, restoring) {
        Ok(end) => return end,
        Err(failure) => failure,
    };
    let (text, end) = match failure {
        Failure::Mistake(Mistake::TryHelp) => {
            ("Try `ipvsadm -h' or 'ipvsadm --help' for more information.".to_owned(), End::Exit(255))
        }
        Failure::Mistake(Mistake::Scan(text)) => (text, End::Status(255)),
        Failure::Mistake(Mistake::Usage(text)) => (text, End::Exit(2)),
        Failure::Director(error @ ClientError::Refused { .. }) => (error.to_string(), End::Status(255)),
        Failure::Director(error) => (error.to_string(), End::Exit(2)),
        Failure::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => return End::Exit(0),
        Failure::Io(error) => (format!("cannot read or write: {error}"), End::Exit(255)),
    };
    // Should standard error be closed there is nobody left to tell.
    let _ = environment.stdout.flush();
    let _ = writeln!(environment.stderr, "{text}");
    end
}

fn perform(words: &[String], environment: &mut Environment<'_>, restoring: bool) -> Result<End, Failure> {
    let (command, socket) = if words.is_empty() {
        let listing = Listing {
            what: What::Services { only: None, view: super::command::View::Plain },
            format: Format::default(),
        };
        (Command::List(listing), None)
    } else {
        resolve(parse(words, environment.names)?)?
    };
    if restoring && socket.is_some() {
        let text = "the socket is given to the restore, not to its lines";
        return Err(Mistake::Usage(text.into()).into());
    }
    let socket = socket.or_else(|| environment.socket.clone());
    let mut performer = Performer { client: Client::new(socket.as_deref()), environment };
    match command {
        Command::Help => {
            performer.help()?;
            Ok(End::Exit(0))
        }
        Command::Version => {
            writeln!(performer.environment.stdout, "{VERSION}")?;
            Ok(End::Exit(0))
        }
        Command::Change(request) => {
            performer.client.call(&request)?;
            Ok(End::Status(0))
        }
        Command::List(listing) => performer.list(listing),
        Command::LocalAddresses { service, format } => performer.local_addresses(service, format),
        Command::Save { numeric } => performer.save(numeric),
        // ipvsadm's guard against a restore within a restore.
        Command::Restore if restoring => Err(Mistake::TryHelp.into()),
        Command::Restore => performer.restore(socket.as_deref()),
    }
}

struct Performer<'a, 'b> {
    client: Client,
    environment: &'a mut Environment<'b>,
}

impl Performer<'_, '_> {
    fn help(&mut self) -> io::Result<()> {
        write!(self.environment.stdout, "{VERSION}\n{}", help_text())
    }

    fn services(&self, only: Option<ServiceName>) -> Result<Vec<ServiceListing>, ClientError> {
        let mut services = Vec::new();
        self.client.call_parts(&Request::Services { service: only }, |part| {
            if let Answer::Service(service) = part {
                services.push(service);
            }
            Ok(())
        })?;
        Ok(services)
    }

    fn list(&mut self, listing: Listing) -> Result<End, Failure> {
        let Listing { what, format } = listing;
        match what {
            What::Services { only, view } => {
                let mut services = match self.services(only) {
                    // ipvsadm has a status of its own for this one.
                    Err(error @ ClientError::Refused { .. }) => {
                        self.environment.stdout.flush()?;
                        writeln!(self.environment.stderr, "{error}")?;
                        return Ok(End::Exit(1));
                    }
                    services => services?,
                };
                if !format.unsorted {
                    sort(&mut services);
                }
                let out = &mut self.environment.stdout;
                if format.json {
                    json(out, &serde_json::json!({ "services": services }))?;
                } else {
                    let printer = Printer { format, names: self.environment.names };
                    printer.services(out, &services, view, only.is_none())?;
                }
            }
            What::Connections { engine_columns } => self.connections(engine_columns, format)?,
            What::Timeouts => {
                let answer = self.client.call(&Request::Timeouts)?;
                let out = &mut self.environment.stdout;
                match answer {
                    Answer::Timeouts(timeouts) if format.json => json(out, &timeouts)?,
                    Answer::Timeouts(timeouts) => print::timeouts(out, timeouts)?,
                    other => return Err(self.unexpected(&other).into()),
                }
            }
            What::Daemons => {
                let answer = self.client.call(&Request::Daemons)?;
                let out = &mut self.environment.stdout;
                match answer {
                    Answer::Daemons(daemons) if format.json => {
                        json(out, &serde_json::json!({ "daemons": daemons }))?;
                    }
                    Answer::Daemons(daemons) => print::daemons(out, &daemons)?,
                    other => return Err(self.unexpected(&other).into()),
                }
            }
        }
        Ok(End::Status(0))
    }

    /// Prints each slice as it comes: there may be millions.
    fn connections(&mut self, engine_columns: bool, format: Format) -> Result<(), Failure> {
        let printer = Printer { format, names: self.environment.names };
        let out = &mut self.environment.stdout;
        let mut separator = "";
        // Nothing is printed before the director has answered.
        let begin = |out: &mut dyn Write, begun: &mut bool| -> io::Result<()> {
            match (std::mem::replace(begun, true), format.json) {
                (true, _) => Ok(()),
                (false, true) => out.write_all(b"{\"connections\":["),
                (false, false) => connections::heading(out, engine_columns),
            }
        };
        let mut begun = false;
        self.client.call_parts(&Request::connections(), |part| {
            begin(out, &mut begun)?;
            let Answer::Connections(slice) = part else { return Ok(()) };
            if !format.json {
                return connections::connections(out, &printer, &slice, engine_columns);
            }
            for connection in &slice {
                write_json_item(out, &mut separator, connection)?;
            }
            Ok(())
        })?;
        begin(out, &mut begun)?;
        if format.json {
            out.write_all(b"]}\n")?;
        }
        Ok(())
    }

    fn local_addresses(&mut self, service: Option<ServiceName>, format: Format) -> Result<End, Failure> {
        let answer = self.client.call(&Request::LocalAddresses { service })?;
        let Answer::LocalAddresses(services) = answer else { return Err(self.unexpected(&answer).into()) };
        let out = &mut self.environment.stdout;
        if format.json {
            json(out, &serde_json::json!({ "local_addresses": services }))?;
        } else {
            let printer = Printer { format, names: self.environment.names };
            connections::local_addresses(out, &printer, &services)?;
        }
        Ok(End::Status(0))
    }

    fn save(&mut self, numeric: bool) -> Result<End, Failure> {
        let mut services = self.services(None)?;
        sort(&mut services);
        let format = Format { numeric, ..Format::default() };
        let printer = Printer { format, names: self.environment.names };
        printer.rules(self.environment.stdout, &services)?;
        Ok(End::Status(0))
    }

    /// Each line is a command line, with or without `ipvsadm` before it. One that the director refuses, or that
    /// has an unknown option, is passed over, and the last line's status is
    /// that of the whole; any other mistake ends it.
    fn restore(&mut self, socket: Option<&Path>) -> Result<End, Failure> {
        self.environment.socket = socket.map(Path::to_owned);
        let mut status = 0;
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let input = &mut *self.environment.stdin;
            if input.take(LONGEST_LINE + 1).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.len() as u64 > LONGEST_LINE {
                return Err(Failure::Mistake(Mistake::Usage(format!(
                    "line {number} of the rules is longer than {LONGEST_LINE} bytes, and no rule is; \
                     is it what `ipvsadm -S' printed?"
                ))));
            }
            let text = String::from_utf8_lossy(&line);
            let mut words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
            if words.first().is_some_and(|word| word == "ipvsadm") {
                words.remove(0);
            }
            if words.is_empty() {
                continue;
            }
            match attempt(&words, self.environment, true) {
                End::Status(last) => status = last,
                end @ End::Exit(_) => return Ok(end),
            }
        }
        Ok(End::Status(status))
    }

    fn unexpected(&self, answer: &Answer) -> ClientError {
        ClientError::NotUnderstood { path: self.client.path().to_owned(), what: format!("{answer:?}") }
    }
}

fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

fn write_json_item(
    out: &mut dyn Write,
    separator: &mut &str,
    connection: &ConnectionListing,
) -> io::Result<()> {
    write!(out, "{separator}\n  ")?;
    *separator = ",";
    serde_json::to_writer(&mut *out, connection)?;
    Ok(())
}
