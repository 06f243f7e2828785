//! The command.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::report::{TraceQuery, TraceReport};
use super::text;
use crate::api::{Answer, Client, ClientError, Request};
use crate::output;
use crate::rules::Protocol;

/// The client's port where none is said.
const CLIENT_PORT: u16 = 49_152;

/// Options of `sluice trace`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Where the packet is from: ADDRESS, ADDRESS:PORT or [IPV6]:PORT; port 49152
    /// is taken where none is said
    #[arg(value_parser = client)]
    client: SocketAddr,
    /// Where it goes: ADDRESS:PORT or [IPV6]:PORT
    service: SocketAddr,
    /// A UDP datagram rather than a SYN of TCP
    #[arg(short, long)]
    udp: bool,
    /// An INIT of SCTP
    #[arg(long, conflicts_with = "udp")]
    sctp: bool,
    /// Take it to have this mark, whatever mark rules say; 0 is none
    #[arg(long)]
    mark: Option<u32>,
    /// Take it to come by this interface [default: that of the route to its
    /// source]
    #[arg(long)]
    interface: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Example:
  sluice trace 198.51.100.7 192.0.2.10:80
      what would become of a SYN, and why

Nothing is changed: no server's turn is taken. What is said holds for this moment;
with several workers, of which each has its own scheduler, it is said of each, unless
it is known on whose queue the packet lands.";

fn client(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, CLIENT_PORT));
    alone.or_else(|_| text.parse()).map_err(|_| "write ADDRESS, ADDRESS:PORT or [IPV6]:PORT".into())
}

/// Prints what would become of a packet; exits with 1 when there is no director
/// to ask.
pub fn main(arguments: &Arguments) -> ExitCode {
    let query = TraceQuery {
        protocol: match (arguments.udp, arguments.sctp) {
            (true, _) => Protocol::Udp,
            (_, true) => Protocol::Sctp,
            (false, false) => Protocol::Tcp,
        },
        source: arguments.client,
        destination: arguments.service,
        interface: arguments.interface.clone(),
        mark: arguments.mark,
    };
    let report = ask(&Client::new(arguments.socket.as_deref()), &query);
    let printed = report.and_then(|report| {
        let text = match arguments.json {
            true => serde_json::to_string(&report).map(|text| text + "\n"),
            false => Ok(text::text(&query, &report)),
        };
        output::print(&text.map_err(|error| ClientError::Output(error.into()))?);
        Ok(())
    });
    output::exit("trace", printed)
}

fn ask(client: &Client, query: &TraceQuery) -> Result<TraceReport, ClientError> {
    match client.call(&Request::Trace { query: query.clone() })? {
        Answer::Trace(report) => Ok(*report),
        answer => Err(ClientError::NotUnderstood { path: client.path().into(), what: format!("{answer:?}") }),
    }
}
