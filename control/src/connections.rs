//! `sluice connections`: the connections that are looked for.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::api::message::ConnectionListing;
use crate::api::{Answer, Client, ClientError, ConnectionQuery, EndpointQuery, Request};
use crate::output;
use crate::rules::{Method, Protocol};

/// Which connections are meant: all that is given must hold.
#[derive(clap::Args, Debug)]
pub(crate) struct Wanted {
    /// Client: ADDRESS, ADDRESS:PORT, [IPV6]:PORT or NETWORK/LENGTH
    #[arg(long, value_name = "ADDRESS")]
    client: Option<EndpointQuery>,
    /// Virtual address, written likewise
    #[arg(long, value_name = "ADDRESS")]
    service: Option<EndpointQuery>,
    /// Mark of the service
    #[arg(long)]
    mark: Option<u32>,
    /// Real server, written likewise
    #[arg(long, value_name = "ADDRESS")]
    server: Option<EndpointQuery>,
    /// Local address of FULLNAT, written likewise
    #[arg(long, value_name = "ADDRESS")]
    local: Option<EndpointQuery>,
    /// tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    proto: Option<Protocol>,
    /// State as ipvsadm -Lnc shows it, as in ESTABLISHED
    #[arg(long, value_parser = state)]
    state: Option<String>,
    /// nat, fullnat, dr or tun
    #[arg(long, value_parser = method)]
    method: Option<Method>,
}

/// Options of `sluice connections`. All that are given must hold.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    #[command(flatten)]
    wanted: Wanted,
    /// Show so many at most
    #[arg(long, value_name = "NUMBER", conflicts_with = "count")]
    limit: Option<u64>,
    /// Print only how many there are
    #[arg(long)]
    count: bool,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err("choose tcp, udp or sctp".into()),
    }
}

fn method(text: &str) -> Result<Method, String> {
    match text {
        "nat" => Ok(Method::Nat),
        "fullnat" => Ok(Method::FullNat),
        "dr" => Ok(Method::Dr),
        "tun" => Ok(Method::Tun),
        _ => Err("choose nat, fullnat, dr or tun".into()),
    }
}

fn state(text: &str) -> Result<String, String> {
    let state = text.to_ascii_uppercase();
    let query = ConnectionQuery { state: Some(state.clone()), ..ConnectionQuery::default() };
    query.filter().map(|_| state).map_err(|error| error.to_string())
}

impl Wanted {
    pub(crate) fn query(&self) -> ConnectionQuery {
        ConnectionQuery {
            protocol: self.proto,
            client: self.client,
            service: self.service,
            mark: self.mark,
            server: self.server,
            local: self.local,
            state: self.state.clone(),
            method: self.method,
        }
    }
}

impl Arguments {
    fn request(&self) -> Request {
        Request::FindConnections { query: self.wanted.query(), limit: self.limit, count: self.count }
    }
}

/// Prints connections; exits with 1 when there is no director to ask.
pub fn main(arguments: &Arguments) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    output::exit("connections", print(arguments, &mut out))
}

fn print(arguments: &Arguments, out: &mut dyn Write) -> Result<(), ClientError> {
    let json = arguments.json;
    if !json && !arguments.count {
        writeln!(out, "{}", row(&TITLES.map(str::to_owned))).map_err(ClientError::Output)?;
    }
    let answer = Client::new(arguments.socket.as_deref()).call_parts(&arguments.request(), |part| {
        let Answer::Connections(slice) = part else { return Ok(()) };
        for connection in &slice {
            match json {
                true => writeln!(out, "{}", serde_json::to_string(connection)?)?,
                false => writeln!(out, "{}", line(connection))?,
            }
        }
        Ok(())
    })?;
    if let Answer::Count(number) = answer {
        let text = if json { format!("{{\"count\":{number}}}") } else { number.to_string() };
        writeln!(out, "{text}").map_err(ClientError::Output)?;
    }
    out.flush().map_err(ClientError::Output)
}

const TITLES: [&str; 8] = ["Proto", "Expires", "State", "Client", "Service", "Local", "Server", "Method"];

/// Widths of all columns but the last.
const WIDTHS: [usize; 7] = [5, 7, 11, 22, 22, 22, 22];

fn row(cells: &[String; 8]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        text += &format!("{cell:<width$} ");
    }
    text + &cells[7]
}

fn line(connection: &ConnectionListing) -> String {
    let end = |(address, port): (IpAddr, u16)| SocketAddr::new(address, port).to_string();
    let ConnectionListing { protocol, expires, state, client, service, local, server, method, .. } =
        connection;
    let protocol = if connection.any_protocol { "any" } else { protocol.name() };
    let service = match connection.mark {
        Some(mark) => format!("{} (mark {mark})", end(*service)),
        None => end(*service),
    };
    row(&[
        protocol.to_owned(),
        format!("{:02}:{:02}", expires / 60, expires % 60),
        state.clone(),
        end(*client),
        service,
        local.map_or_else(|| "-".to_owned(), end),
        end(*server),
        method.name().to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Request, String> {
        Command::try_parse_from(std::iter::once("connections").chain(line.split_whitespace()))
            .map(|command| command.arguments.request())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_a_query() {
        let request =
            parse("--client 198.51.100.0/24 --state established --method fullnat --limit 5").unwrap();
        let query = ConnectionQuery {
            client: Some("198.51.100.0/24".parse().unwrap()),
            state: Some("ESTABLISHED".into()),
            method: Some(Method::FullNat),
            ..ConnectionQuery::default()
        };
        assert_eq!(request, Request::FindConnections { query, limit: Some(5), count: false });
        for (line, remedy) in [
            ("--client nobody", "write ADDRESS"),
            ("--state OPEN", "there are ASSURED"),
            ("--method l2", "choose nat"),
            ("--proto icmp", "choose tcp"),
            ("--limit 1 --count", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(remedy), "{line}: {error}");
        }
    }

    #[test]
    fn a_line_shows_all_ends() {
        let connection = ConnectionListing {
            protocol: Protocol::Tcp,
            expires: 899,
            state: "ESTABLISHED".into(),
            client: ([198, 51, 100, 7].into(), 40_000),
            service: ([192, 0, 2, 10].into(), 80),
            local: Some(([10, 0, 2, 200].into(), 5000)),
            server: ([10, 0, 2, 1].into(), 8080),
            method: Method::FullNat,
            any_protocol: false,
            mark: None,
            engine: None,
        };
        assert_eq!(
            line(&connection).split_whitespace().collect::<Vec<_>>(),
            [
                "tcp",
                "14:59",
                "ESTABLISHED",
                "198.51.100.7:40000",
                "192.0.2.10:80",
                "10.0.2.200:5000",
                "10.0.2.1:8080",
                "fullnat"
            ]
        );
    }
}
