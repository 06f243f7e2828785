//! `sluice status`: what the interfaces and workers of a running director do.

mod health;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Answer, Client, Request};
use crate::output;
use crate::sync::{self, SyncStatus};

/// A check that takes longer is of no use to anybody.
const LONGEST_WATCH: Duration = Duration::from_secs(3600);

/// Options of `sluice status`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// Print nothing and exit with 0 if the director can forward; else say why
    /// not and exit with 1
    #[arg(long, conflicts_with = "json")]
    healthy: bool,
    /// Watch for so many seconds (0.9 for example), and exit as soon as the
    /// director is gone or not healthy any more
    #[arg(long, value_name = "SECONDS", requires = "healthy", value_parser = seconds)]
    watch: Option<Duration>,
}

/// Prints the status; exits with 1 when there is no director to ask.
pub fn main(arguments: &Arguments) -> ExitCode {
    let client = Client::new(arguments.socket.as_deref());
    if arguments.healthy {
        return health::main(client, arguments.watch);
    }
    match client.call(&Request::Status) {
        Ok(Answer::Status(status)) => {
            let text = if arguments.json { format!("{status}\n") } else { render(&status) };
            output::print(&text);
            ExitCode::SUCCESS
        }
        Ok(answer) => fail(format!("the director's answer makes no sense: {answer:?}")),
        Err(error) => fail(error.to_string()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let fits = seconds.filter(|seconds| *seconds <= LONGEST_WATCH);
    fits.ok_or_else(|| format!("give a number of seconds, at most {}", LONGEST_WATCH.as_secs()))
}

fn fail(text: String) -> ExitCode {
    eprintln!("sluice status: {text}");
    ExitCode::FAILURE
}

fn render(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let mut out = format!("sluice {}, {}\n", text(&status["version"]), text(&status["role"]));
    for problem in list("problems") {
        let _ = writeln!(out, "problem: {}", text(&problem));
    }
    for interface in list("interfaces") {
        let (name, xdp, socket) = (&interface["name"], &interface["xdp"], &interface["socket"]);
        let _ = write!(out, "interface {}: {} XDP, {} sockets", text(name), text(xdp), text(socket));
        let (answers, handed_off) = (&interface["answers"], &interface["handed_off"]);
        let _ = write!(out, ", answers by {}, handed off {}", text(answers), number(handed_off));
        let _ = match number(&interface["missed"]) {
            0 => writeln!(out),
            missed => writeln!(out, ", missed {missed}"),
        };
    }
    if status["offload"].is_object() {
        let offload = &status["offload"];
        let (connections, packets) = (number(&offload["connections"]), number(&offload["packets"]));
        let _ = write!(out, "offload {}: connections {connections}", text(&offload["setting"]));
        let _ = write!(out, ", packets {packets}, to");
        let to = offload["to"].as_array().cloned().unwrap_or_default();
        match to.as_slice() {
            [] => out.push_str(" no interface\n"),
            all => out += &all.iter().fold(String::new(), |list, name| format!("{list} {}", text(name))),
        }
        if !to.is_empty() {
            out.push('\n');
        }
    }
    if let Ok(sync) = SyncStatus::deserialize(&status["sync"]) {
        out += &sync::show(&sync);
    }
    for role in ["master", "backup"] {
        let Some(counters) = status[format!("lvs_{role}")].as_object() else { continue };
        let _ = write!(out, "sync daemon as {role}:");
        for (name, count) in counters.iter().filter(|(_, count)| count.is_u64()) {
            let _ = write!(out, " {name} {count}");
        }
        out.push('\n');
        for (reason, count) in counters.get("kept_out").and_then(Value::as_object).into_iter().flatten() {
            if number(count) > 0 {
                let _ = writeln!(out, "  kept out: {reason} {count}");
            }
        }
    }
    for (place, worker) in list("workers").iter().enumerate() {
        let _ = write!(out, "worker {place}:");
        for name in
            ["received", "transmitted", "punted", "handed", "handed_in", "held", "connections", "expired"]
        {
            let _ = write!(out, " {name} {}", number(&worker[name]));
        }
        out.push('\n');
        let drops = worker["drops"].as_object().cloned().unwrap_or_default();
        for (reason, count) in drops.iter().filter(|(_, count)| number(count) > 0) {
            let _ = writeln!(out, "  dropped {reason} {}", number(count));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_shown_by_reason() {
        let status = serde_json::json!({
            "version": "1.2.3",
            "role": "backup",
            "problems": ["worker 1 does not move"],
            "interfaces": [{
                "name": "eth0",
                "xdp": "native",
                "socket": "copy",
                "answers": "rss",
                "handed_off": 7,
                "missed": 3,
            }],
            "workers": [{ "received": 5, "transmitted": 3, "drops": { "truncated": 2, "no_route": 0 } }],
        });
        assert_eq!(
            render(&status),
            "sluice 1.2.3, backup\nproblem: worker 1 does not move\ninterface eth0: native XDP, copy sockets, answers by rss, handed off 7, missed 3\n\
             worker 0: received 5 transmitted 3 punted 0 handed 0 handed_in 0 held 0 connections 0 expired 0\n  dropped truncated 2\n"
        );
    }
}
