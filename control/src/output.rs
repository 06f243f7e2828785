//! What commands print.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::api::ClientError;

/// Prints all that a command has to say. A reader that has seen enough is no
/// error.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// The exit status of the command `name` that printed as it went along; says on
/// standard error what failed. A reader that has seen enough is no error.
pub(crate) fn exit<T>(name: &str, result: Result<T, ClientError>) -> ExitCode {
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
