//! The `sluice` binary: the director and its commands.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use sluice_control::events::{EventLog, Recorder};
use sluice_control::{
    api, capture, connections, events, health, import, ipvsadm, manual, marks, realserver, reload, role, run,
    save, status, sync, top, trace,
};
use sluice_dataplane::error_chain;

/// A layer-4 director on AF_XDP.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a director in the foreground
    Run {
        /// The configuration file
        #[arg(long)]
        config: PathBuf,
        /// Where commands reach it [default: the configuration's, else
        /// $SLUICE_SOCKET, else /run/sluice/sluice.sock]
        #[arg(long)]
        socket: Option<PathBuf>,
        /// Take the place of the director that runs there: its services,
        /// connections and queues. It ends, and nothing is interrupted
        #[arg(long)]
        takeover: bool,
    },
    /// Say all that is wrong with a configuration file
    Check(reload::CheckArguments),
    /// Have a running director read its configuration again
    Reload(reload::Arguments),
    /// Write what was changed at run time back to the configuration file
    Save(save::Arguments),
    /// Make a configuration of keepalived's or of what ipvsadm-save printed
    Import(import::Arguments),
    /// Show what the workers of a running director do
    Status {
        #[command(flatten)]
        status: status::Arguments,
    },
    /// Make it the active director or the backup of another one
    Role(role::Arguments),
    /// Show what health checks say of servers
    Health {
        #[command(flatten)]
        health: health::Arguments,
    },
    /// Watch services, servers and workers in the terminal
    Top(top::Arguments),
    /// Show connections, all or those that are looked for
    Connections(connections::Arguments),
    /// Write packets to a file as they come and go, before and after rewriting
    Capture(Box<capture::Arguments>),
    /// Say what would become of a packet, and why
    Trace(trace::Arguments),
    /// Show what happened to a running director
    Events(events::Arguments),
    /// Administer virtual services as with ipvsadm
    #[command(disable_help_flag = true)]
    Ipvsadm {
        /// What ipvsadm takes; -h lists it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Print the OpenAPI document of the API on the director's socket
    #[command(name = "openapi")]
    OpenApi,
    /// Rules that mark packets for services of marks (ipvsadm -f)
    Mark(marks::Arguments),
    /// Make a key for session synchronisation; the peer needs a copy of it
    SyncKey {
        /// The file to write it to
        file: PathBuf,
    },
    /// Make this host a real server for direct routing or tunnelling
    #[command(subcommand)]
    Realserver(realserver::Command),
    /// Print completions for a shell
    Completions(manual::CompletionArguments),
    /// Write the man pages of all commands
    Manual(manual::Arguments),
}

#[cfg(test)]
mod command_line_tests;
#[cfg(test)]
mod docs_tests;

fn main() -> ExitCode {
    // What ipvsadm takes is none of clap's business.
    let mut words = std::env::args_os().peekable();
    if words.peek().is_some_and(|called| ipvsadm::answers_to(called)) {
        return ipvsadm::main(words);
    }
    words.next();
    if words.peek().is_some_and(|word| word == "ipvsadm") {
        return ipvsadm::main(words);
    }
    let result = match Arguments::parse().command {
        Command::Run { config, socket, takeover } => {
            let events = Arc::new(EventLog::default());
            log(Arc::clone(&events));
            run::run(&config, socket, takeover, events)
        }
        Command::Completions(arguments) => return manual::completions(Arguments::command(), &arguments),
        Command::Manual(arguments) => return manual::main(Arguments::command(), &arguments),
        Command::Top(arguments) => return top::main(&arguments),
        Command::Connections(arguments) => return connections::main(&arguments),
        Command::Capture(arguments) => return capture::main(&arguments),
        Command::Trace(arguments) => return trace::main(&arguments),
        Command::Events(arguments) => return events::main(&arguments),
        Command::Check(arguments) => return reload::check(&arguments),
        Command::Reload(arguments) => return reload::main(&arguments),
        Command::Save(arguments) => return save::main(&arguments),
        Command::Import(arguments) => return import::main(&arguments),
        Command::Mark(arguments) => return marks::main(arguments),
        Command::OpenApi => return api::openapi::main(),
        Command::Role(arguments) => return role::main(&arguments),
        Command::Health { health } => return health::main(&health),
        Command::Status { status } => return status::main(&status),
        Command::Ipvsadm { arguments } => {
            return ipvsadm::main(std::iter::once("ipvsadm".into()).chain(arguments));
        }
        Command::SyncKey { file } => sync::make_key(&file).map_err(Into::into),
        Command::Realserver(command) => match realserver::run(&command, &mut std::io::stdout()) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error.into()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be able to hear it.
            let _ = writeln!(std::io::stderr(), "sluice: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// To standard error what SLUICE_LOG wants, and to the event log what matters.
fn log(events: Arc<EventLog>) {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    use tracing_subscriber::{EnvFilter, Layer};
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let printed = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would be said there, too, and where the disk is full end the thread that does.
        .log_internal_errors(false)
        .with_filter(filter);
    tracing_subscriber::registry().with(printed).with(Recorder(events).with_filter(LevelFilter::INFO)).init();
}
