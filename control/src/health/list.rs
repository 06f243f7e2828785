//! `sluice health`: what checks say of the servers of a running director.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::overview::{CheckHealth, ServiceHealth};
use crate::api::{Answer, Client, Request};
use crate::output;

/// Options of `sluice health`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Print JSON for programs, one line a service
    #[arg(long)]
    json: bool,
}

/// Prints the state of every server that is checked; exits with 1 when there is
/// no director to ask.
pub fn main(arguments: &Arguments) -> ExitCode {
    let client = Client::new(arguments.socket.as_deref());
    let mut text = String::new();
    let result = client.call_parts(&Request::Health, |answer| {
        if let Answer::Health(service) = answer {
            if arguments.json {
                let _ = writeln!(text, "{}", serde_json::json!(service));
            } else {
                text += &render(&service, SystemTime::now());
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        eprintln!("sluice health: {error}");
        return ExitCode::FAILURE;
    }
    output::print(&text);
    ExitCode::SUCCESS
}

fn render(service: &ServiceHealth, now: SystemTime) -> String {
    let quorum = match service.quorum_reached {
        Some(true) => "reached",
        Some(false) => "lost",
        None => "not known",
    };
    let mut out = format!("{}: quorum {} {quorum}", service.service, service.quorum);
    if let Some((address, port, in_use)) = service.sorry_server {
        let used = if in_use { "in use" } else { "not in use" };
        let _ = write!(out, ", sorry server {} {used}", SocketAddr::new(address, port));
    }
    out.push('\n');
    for server in &service.servers {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(server.since);
        let seconds = now.duration_since(at).unwrap_or_default().as_secs();
        let address = SocketAddr::new(server.address, server.port);
        let _ = writeln!(out, "  {address} {} for {seconds} s: {}", server.state.name(), server.reason);
        for CheckHealth { kind, target, state, passed, failed, latency, problem } in &server.checks {
            let _ = write!(out, "    {kind} {target} {}, passed {passed}, failed {failed}", state.name());
            if let Some(latency) = latency {
                let _ = write!(out, ", last took {}.{:03} ms", latency / 1000, latency % 1000);
            }
            if !problem.is_empty() {
                let _ = write!(out, ": {problem}");
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::overview::ServerHealth;
    use super::super::status::State;
    use super::*;
    use crate::rules::{Protocol, ServiceName};

    #[test]
    fn a_listing_tells_all_of_a_server() {
        let address = "10.0.2.1".parse().unwrap();
        let service = ServiceHealth {
            service: ServiceName::Address {
                protocol: Protocol::Tcp,
                address: "192.0.2.10".parse().unwrap(),
                port: 80,
            },
            quorum: 1,
            quorum_reached: Some(false),
            sorry_server: Some((address, 81, true)),
            servers: vec![ServerHealth {
                address,
                port: 80,
                state: State::Down,
                since: 1_000,
                reason: "status 503".into(),
                checks: vec![CheckHealth {
                    kind: "http".into(),
                    target: "10.0.2.1:8080".parse().unwrap(),
                    state: State::Down,
                    passed: 2,
                    failed: 3,
                    latency: Some(1_234),
                    problem: "status 404".into(),
                }],
            }],
        };
        assert_eq!(
            render(&service, SystemTime::UNIX_EPOCH + Duration::from_secs(6)),
            "tcp 192.0.2.10:80: quorum 1 lost, sorry server 10.0.2.1:81 in use\n\
             \x20 10.0.2.1:80 down for 5 s: status 503\n\
             \x20   http 10.0.2.1:8080 down, passed 2, failed 3, last took 1.234 ms: status 404\n"
        );
    }
}
