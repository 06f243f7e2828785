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
        Client { path }
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
        let mut session = self.session(SILENCE)?;
        session.ask(request)?;
        loop {
            match session.line()? {
                answer if answer.is_final() => return Ok(answer),
                answer => part(answer).map_err(ClientError::Output)?,
            }
        }
    }

    /// A connection to the director for several requests, which takes it for
    /// lost after it was silent for `patience`.
    ///
    /// # Errors
    /// When there is no director.
    pub fn session(&self, patience: Duration) -> Result<Session, ClientError> {
        let stream = UnixStream::connect(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.path.clone()),
            _ => ClientError::NoDirector { path: self.path.clone(), source },
        })?;
        let session =
            Session { path: self.path.clone(), patience, reader: BufReader::new(stream), written: Ok(()) };
        let stream = session.reader.get_ref();
        let set = stream.set_read_timeout(Some(patience)).and(stream.set_write_timeout(Some(patience)));
        set.map_err(|error| session.lost(error))?;
        Ok(session)
    }
}

/// A connection to a director.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    patience: Duration,
    reader: BufReader<UnixStream>,
    /// Whether the last request went out. One that turns us away may close
    /// before it has read; its answer says why, so a failure to write is
    /// reported only without one.
    written: io::Result<()>,
}

impl Session {
    /// Asks, and gives the one line of the answer, or the last of several.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.ask(request)?;
        loop {
            let answer = self.line()?;
            if answer.is_final() {
                return Ok(answer);
            }
        }
    }

    /// Waits so long, or until the director ends.
    ///
    /// # Errors
    /// When it ended.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<(), ClientError> {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(limit)).map_err(|error| self.lost(error))?;
        // Nobody says anything unasked, but that it is gone.
        let ended = match self.reader.fill_buf() {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let restored = self.reader.get_ref().set_read_timeout(Some(self.patience));
        ended.and(restored).map_err(|error| self.lost(error))
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Lost { path: self.path.clone(), source }
    }

    fn not_understood(&self, error: &serde_json::Error) -> ClientError {
        ClientError::NotUnderstood { path: self.path.clone(), what: error.to_string() }
    }

    fn ask(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.not_understood(&error))?;
        if line.len() > MAX_REQUEST {
            return Err(ClientError::TooLong);
        }
        line.push(b'\n');
        self.written = self.reader.get_mut().write_all(&line);
        Ok(())
    }

    /// The next line of an answer.
    fn line(&mut self) -> Result<Answer, ClientError> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => {
                let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
                let written = std::mem::replace(&mut self.written, Ok(()));
                return Err(self.lost(written.err().unwrap_or_else(closed)));
            }
            Ok(_) => {}
            Err(error) => return Err(self.lost(error)),
        }
        match serde_json::from_str(&line).map_err(|error| self.not_understood(&error))? {
            Answer::Error { code, .. } if code == "permission_denied" => {
                Err(ClientError::Denied(self.path.clone()))
            }
            Answer::Error { code, message } => Err(ClientError::Refused { code, message }),
            answer => Ok(answer),
        }
    }
}
