//! HTTP with one client.
//!
//! All is bounded: the head and body of a request, the time that either takes to
//! come, and the time without an answer being taken. An answer in lines is made
//! no faster than it is read.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::access::Access;
use super::body::{AnswerBody, JSON, LINES, Piece, channel};
use super::director::{DataPlane, Director};
use super::message::{Answer, Request};
use super::routes::{self, Astray, Call, Malformed, Route};
use super::server::respond;
use super::upgrade::{self, PROTOCOL};
use super::{MAX_REQUEST, PATIENCE, openapi};
use crate::patient::Patient;
use crate::takeover::Takeover;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// The head of a request to come, and a client to say nothing
    pub(super) head: Duration,
    /// The body of a request to come
    pub(super) body: Duration,
    /// Nothing of an answer to be taken
    pub(super) write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { head: Duration::from_secs(30), body: PATIENCE, write: PATIENCE }
    }
}

/// How long a request may take to come that is refused whatever it says.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a request's line and headers.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Headers of a request.
pub(super) const MAX_HEADERS: usize = 64;

/// Where the document is.
const DOCUMENT: &str = "/openapi.json";

/// What is being made for a client's request.
struct Making<'d> {
    /// Makes it
    future: Pin<Box<dyn Future<Output = ()> + 'd>>,
    /// It has to be done even if the client is gone
    whole: bool,
}

/// A client, and what is made for it. The HTTP connection owns the bodies that it
/// sends but not what these are made from, which is polled beside it.
struct Client<'d, D> {
    director: &'d Director<D>,
    access: Access,
    patience: Patience,
    making: RefCell<Option<Making<'d>>>,
    /// That is new, and was not polled yet
    begun: Cell<bool>,
    /// What it said of itself, if it is to take over
    successor: Cell<Option<Successor>>,
}

/// A process that wants to take this one's place, by what it says.
struct Successor {
    interfaces: Vec<String>,
    sockets: bool,
    version: u32,
}

fn server(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Who has asked may end its own side and still wants the answer.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    builder
}

/// Answers a client until it leaves.
pub(super) async fn attend<D: DataPlane>(
    director: &Director<D>,
    stream: UnixStream,
    access: Access,
    patience: Patience,
) {
    let client = Client {
        director,
        access,
        patience,
        making: RefCell::default(),
        begun: Cell::default(),
        successor: Cell::default(),
    };
    let io = TokioIo::new(Patient::new(stream, patience.write));
    let service = service_fn(|request| client.answer(request));
    let mut connection = server(patience.head).serve_connection(io, service);
    let ended = poll_fn(|context| {
        loop {
            client.poll_making(context);
            if let Poll::Ready(end) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(end.map(|()| None));
            }
            // Whoever takes over has heard nothing yet.
            if let Some(successor) = client.successor.take() {
                return Poll::Ready(Ok(Some(successor)));
            }
            if !client.begun.take() {
                return Poll::Pending;
            }
        }
    });
    match ended.await {
        Ok(Some(successor)) => {
            let stream = connection.into_parts().io.into_inner().into_inner();
            introduce(director, stream, successor).await;
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a client is gone"),
    }
    let unfinished = client.making.take();
    if let Some(Making { future, whole: true }) = unfinished {
        future.await;
    }
}

/// Hands a client on that wants to take this process's place.
async fn introduce<D: DataPlane>(director: &Director<D>, stream: UnixStream, successor: Successor) {
    let Successor { interfaces, sockets, version } = successor;
    if let Err(Takeover { stream, .. }) = director.offer(Takeover { stream, interfaces, sockets, version }) {
        let message = "another process is taking over already, or this one is not ready yet";
        let _ = upgrade::send(&mut stream.into_split().1, &Answer::error("not_now", message)).await;
    }
}

/// Tells a client why it is not answered, whatever it asks.
pub(super) async fn refuse(stream: UnixStream, (code, message): (&str, &str)) {
    let service = service_fn(|_| {
        let response = respond_with(Piece::error(code, message));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = server(REFUSED_TIMEOUT);
    let connection =
        builder.keep_alive(false).serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service);
    let _ = timeout(2 * REFUSED_TIMEOUT, connection).await;
}

impl<'d, D: DataPlane> Client<'d, D> {
    fn poll_making(&self, context: &mut Context<'_>) {
        let mut making = self.making.borrow_mut();
        if making.as_mut().is_some_and(|making| making.future.as_mut().poll(context).is_ready()) {
            *making = None;
        }
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
        Ok(match self.understand(request).await {
            Ok(Understood::Document(response)) => response,
            Ok(Understood::Successor(successor)) => {
                self.successor.set(Some(successor));
                // The connection is taken from under this before there is an answer.
                std::future::pending().await
            }
            Ok(Understood::Request(route, request)) => self.make(route, request).await,
            Err(refusal) => refusal,
        })
    }

    async fn understand(
        &self,
        request: hyper::Request<Incoming>,
    ) -> Result<Understood, Response<AnswerBody>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path == DOCUMENT && head.method == Method::GET {
            return Ok(Understood::Document(with_type(openapi::text().as_bytes().to_vec(), JSON)));
        }
        let (route, values) = routes::find(&head.method, path).map_err(|astray| lost(astray, path))?;
        let body = read(body, self.patience.body)
            .await
            .map_err(|(code, message)| respond_with(Piece::error(code, message)))?;
        let bad = |Malformed(message)| respond_with(Piece::error("bad_request", message));
        if route.body.is_none() && !body.is_empty() {
            return Err(bad(Malformed(format!("{} {} takes no body", route.method, route.path))));
        }
        let call = Call::from_parts(&values, head.uri.query(), body).map_err(bad)?;
        if route.query.is_none() && !call.query.is_empty() {
            return Err(bad(Malformed(format!("{} {} takes no query", route.method, route.path))));
        }
        let request = (route.decode)(&call).map_err(bad)?;
        let Request::TakeOver { interfaces, sockets, version } = request else {
            return Ok(Understood::Request(route, request));
        };
        if self.access != Access::Owner {
            let message = "only root and the director's own user may take over";
            return Err(respond_with(Piece::error("permission_denied", message)));
        }
        if !asks_for_upgrade(&head.headers) {
            let message = format!("this is for `Connection: upgrade' and `Upgrade: {PROTOCOL}' only");
            let mut response = respond_with(Piece::error("upgrade_required", message));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
            return Err(response);
        }
        Ok(Understood::Successor(Successor { interfaces, sockets, version }))
    }

    /// Has an answer made; returns with its first part.
    async fn make(&self, route: &Route, request: Request) -> Response<AnswerBody> {
        let (mut writer, mut pieces) = channel();
        let (director, whole) = (self.director, !request.only_asks());
        let future = async move { drop(respond(director, request, &mut writer).await) };
        self.making.replace(Some(Making { future: Box::pin(future), whole }));
        self.begun.set(true);
        let first = pieces.recv().await;
        let first = first.unwrap_or_else(|| Piece::error("internal", "there was no answer"));
        match (&route.one, &route.lines, first) {
            (_, _, error @ Piece::Error(..)) | (_, None, error @ Piece::Done) => respond_with(error),
            (Some(_), _, Piece::Last(bytes)) | (Some(_), None, Piece::Part(bytes)) => with_type(bytes, JSON),
            (_, _, first) => {
                let mut response = Response::new(AnswerBody::lines(first, pieces));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(LINES));
                response
            }
        }
    }
}

/// What is asked.
enum Understood {
    /// What is no request of the director
    Document(Response<AnswerBody>),
    /// To take its place
    Successor(Successor),
    Request(&'static Route, Request),
}

fn lost(astray: Astray, path: &str) -> Response<AnswerBody> {
    match astray {
        Astray::Nowhere => {
            let path: String = path.chars().take(200).collect();
            let message = format!("there is no {path}; GET {DOCUMENT} says what there is");
            respond_with(Piece::error("no_such_resource", message))
        }
        Astray::Methods(methods) => {
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            let methods = methods.join(", ");
            let message = format!("this can be asked for by {methods} only");
            let mut response = respond_with(Piece::error("method_not_allowed", message));
            if let Ok(methods) = HeaderValue::from_str(&methods) {
                response.headers_mut().insert(header::ALLOW, methods);
            }
            response
        }
    }
}

/// The body of a request.
async fn read(body: Incoming, patience: Duration) -> Result<Vec<u8>, (&'static str, String)> {
    let too_long = || ("request_too_long", format!("a request is longer than {MAX_REQUEST} bytes"));
    if body.size_hint().lower() > MAX_REQUEST as u64 {
        return Err(too_long());
    }
    match timeout(patience, Limited::new(body, MAX_REQUEST).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes().into()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(("bad_request", format!("the body cannot be read: {error}"))),
        Err(_) => Err(("request_timeout", format!("the body did not come within {patience:?}"))),
    }
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, PROTOCOL)
}

/// An answer that is whole.
fn respond_with(piece: Piece) -> Response<AnswerBody> {
    match piece {
        Piece::Done => {
            let mut response = Response::new(AnswerBody::whole(Vec::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Piece::Part(bytes) | Piece::Last(bytes) => with_type(bytes, JSON),
        Piece::Error(status, bytes) => {
            let mut response = with_type(bytes, JSON);
            *response.status_mut() = status;
            response
        }
    }
}

fn with_type(bytes: Vec<u8>, content_type: &'static str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
