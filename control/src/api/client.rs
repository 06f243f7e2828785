//! The other side of the socket: what client commands use.

use std::env;
use std::error::Error as _;
use std::fmt::Display;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::body::{Error, JSON, LINES};
use super::message::{Answer, Request};
use super::routes::{self, Route, Shape};
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

    /// Asks, and gives the one part of the answer, or the last of several.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal is [`ClientError::Refused`].
    pub fn call(&self, request: &Request) -> Result<Answer, ClientError> {
        self.call_parts(request, |_| Ok(()))
    }

    /// Asks, hands each part of the answer to `part` as it comes, and gives
    /// the end of it.
    ///
    /// # Errors
    /// [`ClientError`]; an error of `part` ends it.
    pub fn call_parts(
        &self,
        request: &Request,
        part: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Answer, ClientError> {
        self.session(SILENCE)?.call_parts(request, part)
    }

    /// A connection to the director for several requests, which takes it for
    /// lost after it was silent for `patience`. Not to be used from within a
    /// tokio runtime, whose thread it would block.
    ///
    /// # Errors
    /// When there is no director.
    pub fn session(&self, patience: Duration) -> Result<Session, ClientError> {
        let none = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.path.clone()),
            _ => ClientError::NoDirector { path: self.path.clone(), source },
        };
        let stream = UnixStream::connect(&self.path).map_err(none)?;
        stream.set_nonblocking(true).map_err(none)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(none)?;
        let shaken = runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)
        });
        let (requests, connection) = shaken.map_err(none)?;
        let connection = runtime.spawn(connection);
        Ok(Session { path: self.path.clone(), patience, runtime, requests, connection })
    }
}

/// A connection to a director.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    patience: Duration,
    runtime: Runtime,
    requests: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Session {
    /// Asks, and gives the one part of the answer, or the last of several.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.call_parts(request, |_| Ok(()))
    }

    /// Asks, as [`Client::call_parts`] does.
    ///
    /// # Errors
    /// The same.
    pub fn call_parts(
        &mut self,
        request: &Request,
        part: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Answer, ClientError> {
        let Session { path, patience, runtime, requests, .. } = self;
        runtime.block_on(Exchange { path, patience: *patience }.ask(requests, request, part))
    }

    /// Waits so long, or until the director ends.
    ///
    /// # Errors
    /// When it ended.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<(), ClientError> {
        let Session { path, patience, runtime, connection, .. } = self;
        match runtime.block_on(async { timeout(limit, connection).await }) {
            Err(_) => Ok(()),
            // Nobody says anything unasked, but that it is gone.
            Ok(_) => {
                let exchange = Exchange { path, patience: *patience };
                Err(exchange.lost(io::ErrorKind::UnexpectedEof))
            }
        }
    }
}

/// One request and its answer.
struct Exchange<'a> {
    path: &'a Path,
    patience: Duration,
}

impl Exchange<'_> {
    fn lost(&self, source: impl Into<io::Error>) -> ClientError {
        ClientError::Lost { path: self.path.to_owned(), source: source.into() }
    }

    /// What became of a connection.
    fn broken(&self, error: &hyper::Error) -> ClientError {
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(error) = inner.downcast_ref::<io::Error>() {
                return self.lost(error.kind());
            }
            source = inner.source();
        }
        match error.is_parse() {
            true => self.not_understood(error),
            false => self.lost(io::ErrorKind::UnexpectedEof),
        }
    }

    fn not_understood(&self, what: impl Display) -> ClientError {
        ClientError::NotUnderstood { path: self.path.to_owned(), what: what.to_string() }
    }

    fn refused(&self, Error { code, message }: Error) -> ClientError {
        match code.as_str() {
            "permission_denied" => ClientError::Denied(self.path.to_owned()),
            _ => ClientError::Refused { code, message },
        }
    }

    async fn ask(
        &self,
        requests: &mut SendRequest<Full<Bytes>>,
        request: &Request,
        part: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Answer, ClientError> {
        let (route, call) = routes::encode(request).ok_or_else(|| self.not_understood("no route"))?;
        let target = call.target(route);
        if call.body.len() > MAX_REQUEST {
            return Err(ClientError::TooLong);
        }
        let mut message = hyper::Request::builder()
            .method(&route.method)
            .uri(target)
            .header(header::HOST, "sluice")
            .header(header::ACCEPT, format!("{JSON}, {LINES}"));
        if !call.body.is_empty() {
            message = message.header(header::CONTENT_TYPE, JSON);
        }
        let message = message.body(Full::from(call.body)).map_err(|error| self.not_understood(error))?;
        let response = async {
            requests.ready().await?;
            requests.send_request(message).await
        };
        let response =
            timeout(self.patience, response).await.map_err(|_| self.lost(io::ErrorKind::TimedOut))?;
        let response = response.map_err(|error| self.broken(&error))?;
        let (head, body) = response.into_parts();
        let is = |content_type| head.headers.get(header::CONTENT_TYPE).is_some_and(|is| is == content_type);
        if head.status.is_success() && is(LINES) {
            let shape = route.lines.ok_or_else(|| self.not_understood(LINES))?;
            return self.lines(body, shape, part).await;
        }
        self.whole(head.status, body, route, part).await
    }

    /// Reads a document.
    async fn whole(
        &self,
        status: StatusCode,
        mut body: Incoming,
        route: &Route,
        mut part: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Answer, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let error = serde_json::from_slice(&bytes).map_err(|_| self.not_understood(status))?;
            return Err(self.refused(error));
        }
        let Some(shape) = route.one.filter(|_| status != StatusCode::NO_CONTENT) else {
            return Ok(Answer::Done);
        };
        let answer = (shape.decode)(&bytes).map_err(|error| self.not_understood(error))?;
        if answer.is_final() {
            return Ok(answer);
        }
        part(answer).map_err(ClientError::Output)?;
        Ok(Answer::Done)
    }

    /// Reads line after line.
    async fn lines(
        &self,
        mut body: Incoming,
        shape: Shape,
        mut part: impl FnMut(Answer) -> io::Result<()>,
    ) -> Result<Answer, ClientError> {
        let mut begun = Vec::new();
        let mut end = Answer::Done;
        while let Some(chunk) = self.chunk(&mut body).await? {
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                let line = match piece.strip_suffix(b"\n") {
                    None => {
                        begun.extend_from_slice(piece);
                        continue;
                    }
                    Some(line) if begun.is_empty() => line,
                    Some(line) => {
                        begun.extend_from_slice(line);
                        &begun
                    }
                };
                // An empty one is a sign of life.
                if !line.is_empty() {
                    match self.line(line, shape)? {
                        answer if answer.is_final() => end = answer,
                        answer => part(answer).map_err(ClientError::Output)?,
                    }
                }
                begun.clear();
            }
        }
        Ok(end)
    }

    fn line(&self, line: &[u8], shape: Shape) -> Result<Answer, ClientError> {
        // Nothing that is listed begins so.
        if line.starts_with(b"{\"error\":")
            && let Ok(LastLine { error }) = serde_json::from_slice(line)
        {
            return Err(self.refused(error));
        }
        (shape.decode)(line).map_err(|error| self.not_understood(error))
    }

    async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = timeout(self.patience, body.frame()).await;
            match frame.map_err(|_| self.lost(io::ErrorKind::TimedOut))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.broken(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    // Trailers, which say nothing here.
                    Err(_) => continue,
                },
            }
        }
    }
}

/// The last line of an answer that failed in its middle.
#[derive(Deserialize)]
struct LastLine {
    error: Error,
}
