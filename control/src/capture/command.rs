//! The command.

use std::fs::File as Disk;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::sys::signal::{SigSet, Signal};

use super::part::CapturePart;
use super::pcapng::File;
use super::query::{CaptureQuery, Side};
use super::text;
use crate::api::{Answer, Client, ClientError, EndpointQuery, Request};
use crate::connections::Wanted;
use crate::output;

/// Options of `sluice capture`. Packets are shown that all of them hold for: each
/// as it was received and as it is sent, with the same packet number.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Write pcapng to this file; `-' is standard output, which is also meant
    /// without it where that is no terminal
    #[arg(short, long, value_name = "FILE", conflicts_with = "print")]
    write: Option<PathBuf>,
    /// Print a line for each packet instead
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    wanted: Wanted,
    /// Either end of the packet or of its connection, written as a client
    #[arg(long, value_name = "ADDRESS")]
    address: Option<EndpointQuery>,
    /// Where the packet is from, before or after rewriting
    #[arg(long, value_name = "ADDRESS")]
    source: Option<EndpointQuery>,
    /// Where it goes, before or after rewriting
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<EndpointQuery>,
    /// A port of any of these ends
    #[arg(long)]
    port: Option<u16>,
    /// Only packets as they were received
    #[arg(long)]
    before: bool,
    /// Only packets as they are sent
    #[arg(long, conflicts_with_all = ["before", "dropped"])]
    after: bool,
    /// Only packets that are dropped; for one reason only, by the name that
    /// sluice status shows, as in --dropped=no_server
    #[arg(long, value_name = "REASON", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    dropped: Option<String>,
    /// Look at one of so many received packets only, with all that comes of it
    #[arg(long, value_name = "NUMBER")]
    sample: Option<u32>,
    /// Copy so many bytes of each packet [default: all]
    #[arg(short, long, value_name = "BYTES")]
    snaplen: Option<u32>,
    /// End after so many packets
    #[arg(short, long, value_name = "NUMBER")]
    count: Option<u64>,
    /// End after so long
    #[arg(long)]
    seconds: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  sluice capture --client 198.51.100.7 -w client.pcapng
      all packets of a client, before and after rewriting
  sluice capture --server 10.0.2.1 --after --seconds 10 -w - | tshark -r -
      what is sent to a server and, of what it says, to its clients
  sluice capture --dropped=no_server --print
      packets of services that had no server, as they come

It goes on until it is interrupted, unless told otherwise. Packets that come quicker
than they can be written are left out and counted: --sample and --snaplen help.
Each worker looks at no more than four captures at once.";

impl Arguments {
    fn query(&self) -> CaptureQuery {
        CaptureQuery {
            connection: self.wanted.query(),
            source: self.source,
            destination: self.destination,
            address: self.address,
            port: self.port,
            side: match (self.before, self.after) {
                (true, _) => Some(Side::Before),
                (_, true) => Some(Side::After),
                (false, false) => None,
            },
            dropped: self.dropped.is_some(),
            reason: self.dropped.clone().filter(|reason| !reason.is_empty()),
            sample: self.sample,
            snap: self.snaplen,
        }
    }
}

/// Captures until it is interrupted or there is enough; exits with 1 when there
/// is no director to ask, or the file cannot be written.
pub fn main(arguments: &Arguments) -> ExitCode {
    let query = arguments.query();
    if let Err(error) = query.filter() {
        eprintln!("sluice capture: {error}");
        return ExitCode::from(2);
    }
    let mut to = match Output::open(arguments) {
        Ok(to) => to,
        Err(error) => {
            eprintln!("sluice capture: {error}");
            return ExitCode::FAILURE;
        }
    };
    let stop = stop_at_signal();
    let snap = query.snap();
    let request =
        Request::Capture { query: Box::new(query), count: arguments.count, seconds: arguments.seconds };
    let (mut captured, mut lost) = (0, Vec::new());
    let result = Client::new(arguments.socket.as_deref()).call_parts(&request, |part| {
        let Answer::Captured(part) = part else { return Ok(()) };
        if !part.interfaces.is_empty() {
            eprintln!("capturing on {}", part.interfaces.join(", "));
        }
        to.take(&part, snap)?;
        captured += part.packets.len();
        lost = part.lost;
        if stop.load(Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    let result = match result {
        Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    };
    let ended = to.end(&lost).map_err(ClientError::Output);
    eprintln!("{captured} packets captured, {} lost", lost.iter().sum::<u64>());
    output::exit("capture", result.and(ended))
}

/// A flag that is raised once the command is to end. The next part, which comes
/// soon, is the last then, so that the file has its end.
fn stop_at_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // The other thread alone gets them then.
    if signals.thread_block().is_ok() {
        let raised = Arc::clone(&stop);
        std::thread::spawn(move || {
            if signals.wait().is_ok() {
                raised.store(true, Relaxed);
                // Asked a second time, it does not wait.
                let _ = signals.wait();
                std::process::exit(130);
            }
        });
    }
    stop
}

/// Where packets go.
enum Output {
    Lines(io::Stdout),
    /// A file that is not begun yet, as the interfaces are not known
    New(Box<dyn Write>),
    Pcapng(File<Box<dyn Write>>),
    /// It could not be begun
    Nothing,
}

impl Output {
    fn open(arguments: &Arguments) -> Result<Self, String> {
        let standard = || BufWriter::new(io::stdout());
        match arguments.write.as_deref() {
            None if arguments.print => Ok(Output::Lines(io::stdout())),
            None if io::stdout().is_terminal() => Err("packets are not written to a terminal: name a file \
                                                       with -w FILE, or have a line for each with --print"
                .to_owned()),
            None => Ok(Output::New(Box::new(standard()))),
            Some(path) if path == Path::new("-") => Ok(Output::New(Box::new(standard()))),
            Some(path) => {
                let file = Disk::create(path)
                    .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
                Ok(Output::New(Box::new(BufWriter::new(file))))
            }
        }
    }

    fn take(&mut self, part: &CapturePart, snap: usize) -> io::Result<()> {
        if let Output::New(_) = self
            && let Output::New(to) = std::mem::replace(self, Output::Nothing)
        {
            *self = Output::Pcapng(File::begin(to, &part.interfaces, snap)?);
        }
        match self {
            Output::Lines(out) => {
                let mut out = out.lock();
                for packet in &part.packets {
                    writeln!(out, "{}", text::line(packet))?;
                }
                out.flush()
            }
            Output::Pcapng(file) => {
                part.packets.iter().try_for_each(|packet| file.add(packet))?;
                file.flush()
            }
            Output::New(_) | Output::Nothing => Ok(()),
        }
    }

    fn end(self, lost: &[u64]) -> io::Result<()> {
        match self {
            Output::Pcapng(file) => file.end(lost).map(drop),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::api::ConnectionQuery;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<CaptureQuery, String> {
        let parsed = Command::try_parse_from(std::iter::once("capture").chain(line.split_whitespace()));
        parsed.map(|command| command.arguments.query()).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_a_query() {
        let query = CaptureQuery {
            connection: ConnectionQuery {
                client: Some("198.51.100.0/24".parse().unwrap()),
                ..ConnectionQuery::default()
            },
            port: Some(80),
            side: Some(Side::Before),
            dropped: true,
            reason: Some("no_server".into()),
            ..CaptureQuery::default()
        };
        assert_eq!(parse("--client 198.51.100.0/24 --port 80 --before --dropped=no_server -w x"), Ok(query));
        let any = CaptureQuery { dropped: true, ..CaptureQuery::default() };
        assert_eq!(parse("--dropped --print"), Ok(any));
        for (line, remedy) in [
            ("--client nobody", "write ADDRESS"),
            ("--before --after", "cannot be used with"),
            ("--after --dropped", "cannot be used with"),
            ("--print -w x", "cannot be used with"),
            ("--port 99999", "invalid value"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(remedy), "{line}: {error}");
        }
    }
}
