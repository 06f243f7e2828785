//! `sluice role`: what keepalived's notify scripts call.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Role;
use crate::api::{Answer, Client, Request};
use crate::output;

/// Options of `sluice role`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The role to take from now on; without it the present one is printed
    role: Option<Role>,
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// Changes or prints the role; exits with 1 when there is no director to ask.
pub fn main(arguments: &Arguments) -> ExitCode {
    let request = arguments.role.map_or(Request::Role, |role| Request::SetRole { role });
    match Client::new(arguments.socket.as_deref()).call(&request) {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::Role(role)) => {
            output::print(&format!("{role}\n"));
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprintln!("sluice role: the director's answer makes no sense: {answer:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sluice role: {error}");
            ExitCode::FAILURE
        }
    }
}
