//! The other side of the socket: what client commands use.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::message::{Answer, Request};
use super::{DEFAULT_SOCKET, MAX_REQUEST};

/// Environment variable that names the director's socket.
pub const SOCKET_VARIABLE: &str = "SLUICE_SOCKET";

/// How long the director may be silent: longer than it waits for its workers.
const SILENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there
    #[error(
        "no director answers at {}: {source}\n\
         Start one with `sluice run --config FILE', or name its socket with --socket PATH or {}.",
        path.display(), SOCKET_VARIABLE
    )]
    NoDirector {
        /// The socket that was tried
        path: PathBuf,
        /// Why it cannot be reached
        source: io::Error,
    },
    /// Not root
    #[error("the director at {} refuses: Permission denied (you must be root)", .0.display())]
    Denied(PathBuf),
    /// It went away or fell silent in the middle
    #[error("the director at {} did not answer: {source}", path.display())]
    Lost {
        /// The socket
        path: PathBuf,
        /// What happened
        source: io::Error,
    },
    /// The answer is not one
    #[error("the director at {} answers what this version does not understand: {what}", path.display())]
    NotUnderstood {
        /// The socket
        path: PathBuf,
        /// What it is
        what: String,
    },
    /// The caller could not use a part of the answer (a broken pipe)
    #[error("cannot write: {0}")]
    Output(io::Error),
    /// The request is too long to be sent
    #[error("the request is longer than {MAX_REQUEST} bytes")]
    TooLong,
    /// The director refuses the request
    #[error("{message}")]
    Refused {
        /// For programs
        code: String,
        /// For people
        message: String,
    },
}

/// A client of one director. Each request makes a connection of its own, so
/// that an idle client takes no place.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    /// The director at `socket`, else at `$SLUICE_SOCKET`, else at
    /// [`DEFAULT_SOCKET`].
    pub fn new(socket: Option<&Path>) -> Self {
        let path = match socket {
            Some(path) => path.to_owned(),
            None => match env::var_os(SOCKET_VARIABLE) {
                Some(path) if !path.is_empty() => path.into(),
                _ => DEFAULT_SOCKET.into(),
            },
        };
        Client { path, patience: SILENCE }
    }

    /// The same, which takes the director for lost after this time.
    pub fn patient_for(self, patience: Duration) -> Self {
        Client { patience, ..self }
    }

    /// The socket that it uses.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks, and gives the one line of the answer, or the last of several.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal is [`ClientError::Refused`].
    pub fn call(&self, request: &Request) -> Result<Answer, ClientError> {
        self.call_parts(request, |_| Ok(()))
    }

    /// Asks, hands each part of the answer to `part` as it comes, and gives
    /// the final line.
    ///
    /// # Errors
    /// [`ClientError`]; an error of `part` ends it.
    pub fn call_parts(
        &self,
        request: &Request,
        mut part: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Answer, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| ClientError::NotUnderstood {
            path: self.path.clone(),
            what: error.to_string(),
        })?;
        if line.len() > MAX_REQUEST {
            return Err(ClientError::TooLong);
        }
        line.push(b'\n');
        let lost = |source| ClientError::Lost { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.path.clone()),
            _ => ClientError::NoDirector { path: self.path.clone(), source },
        })?;
        stream.set_read_timeout(Some(self.patience)).map_err(lost)?;
        stream.set_write_timeout(Some(self.patience)).map_err(lost)?;
        // One that turns us away may close before it has read; its answer
        // says why, so a failure to write is reported only without one.
        let written = stream.write_all(&line);
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        loop {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) => {
                    let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(lost(written.err().unwrap_or_else(closed)));
                }
                Ok(_) => {}
                Err(error) => return Err(lost(error)),
            }
            let answer: Answer = serde_json::from_str(&line).map_err(|error| ClientError::NotUnderstood {
                path: self.path.clone(),
                what: error.to_string(),
            })?;
            match answer {
                Answer::Error { code, .. } if code == "permission_denied" => {
                    return Err(ClientError::Denied(self.path.clone()));
                }
                Answer::Error { code, message } => return Err(ClientError::Refused { code, message }),
                answer if answer.is_final() => return Ok(answer),
                answer => part(answer).map_err(ClientError::Output)?,
            }
        }
    }
}
