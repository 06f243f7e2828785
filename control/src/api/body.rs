//! Answers on their way out: what they are in JSON, and bodies made of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;

use super::message::Answer;
use super::routes;

/// Media type of one document.
pub(super) const JSON: &str = "application/json";

/// Media type of an answer in lines.
pub(super) const LINES: &str = "application/x-ndjson";

/// Bytes of lines that are collected before they go out, about.
const CHUNK: usize = 32 * 1024;

/// An error, as the body of an answer and as the last line of one.
#[derive(Serialize, serde::Deserialize, schemars::JsonSchema)]
pub(super) struct Error {
    /// For programs
    pub(super) code: String,
    /// For people
    pub(super) message: String,
}

/// An answer, or a part of it, in JSON.
#[derive(Debug)]
pub(super) enum Piece {
    /// More follow
    Part(Vec<u8>),
    /// The last, or the only one
    Last(Vec<u8>),
    /// All is done; nothing is to be said
    Done,
    /// It is refused, or went wrong
    Error(StatusCode, Vec<u8>),
}

impl Piece {
    fn of(answer: &Answer) -> Self {
        let mut out = Vec::new();
        match write(answer, &mut out) {
            Ok(()) => match answer {
                Answer::Done => Piece::Done,
                Answer::Error { code, .. } => Piece::Error(routes::status(code), out),
                answer if answer.is_final() => Piece::Last(out),
                _ => Piece::Part(out),
            },
            Err(error) => {
                // A map with keys that are not text, which no answer has.
                tracing::error!(%error, "an answer cannot be written as JSON");
                let text = r#"{"code":"internal","message":"the answer cannot be written as JSON"}"#;
                Piece::Error(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}\n").into_bytes())
            }
        }
    }

    /// As an error, with its status.
    pub(super) fn error(code: &str, message: impl Into<String>) -> Self {
        Piece::of(&Answer::error(code, message))
    }
}

/// The lines of an answer.
fn write(answer: &Answer, out: &mut Vec<u8>) -> serde_json::Result<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Error { code, message } => line(out, &Error { code: code.clone(), message: message.clone() }),
        Answer::Service(service) => line(out, service),
        Answer::Health(health) => line(out, health),
        Answer::Connections(connections) => connections.iter().try_for_each(|one| line(out, one)),
        Answer::Count(count) => line(out, &serde_json::json!({ "count": count })),
        // A sign of life, which is no line of anything.
        Answer::Events(events) if events.is_empty() => {
            out.push(b'\n');
            Ok(())
        }
        Answer::Events(events) => events.iter().try_for_each(|one| line(out, one)),
        Answer::Overview(overview) => line(out, overview),
        Answer::LocalAddresses(uses) => line(out, uses),
        Answer::Timeouts(timeouts) => line(out, timeouts),
        Answer::Daemons(daemons) => line(out, daemons),
        Answer::Marks(marks) => line(out, marks),
        Answer::Changes(changes) => changes.iter().try_for_each(|one| line(out, one)),
        Answer::Configured(service) => line(out, &serde_json::json!({ "service": service })),
        Answer::Configuration { file, marks, timeouts } => {
            let rest = serde_json::json!({ "file": file, "marks": marks, "timeouts": timeouts });
            line(out, &serde_json::json!({ "director": rest }))
        }
        Answer::Status(status) => line(out, status),
        Answer::Captured(part) => line(out, part),
        Answer::Trace(report) => line(out, report),
        Answer::Role(role) => line(out, &serde_json::json!({ "role": role })),
    }
}

fn line(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

/// Where the parts of an answer go to.
pub(super) struct Writer(mpsc::Sender<Piece>);

/// Sends an answer or a part of one, once there is room: a slow reader holds
/// back what is next.
///
/// # Errors
/// When the client is gone.
pub(super) async fn send(writer: &mut Writer, answer: &Answer) -> io::Result<()> {
    writer.0.send(Piece::of(answer)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// A writer and what comes out of it: one part waits at most.
pub(super) fn channel() -> (Writer, mpsc::Receiver<Piece>) {
    let (sender, receiver) = mpsc::channel(1);
    (Writer(sender), receiver)
}

/// The body of an answer.
pub(super) enum AnswerBody {
    /// All of it; `None` once it was taken
    Whole(Option<Bytes>),
    /// Lines as they come
    Lines {
        /// What was taken before the others
        first: Option<Piece>,
        /// The rest
        rest: mpsc::Receiver<Piece>,
        /// Whether the last has come
        ended: bool,
    },
}

impl AnswerBody {
    /// A document.
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        AnswerBody::Whole((!bytes.is_empty()).then(|| bytes.into()))
    }

    /// Lines, of which the first is here.
    pub(super) fn lines(first: Piece, rest: mpsc::Receiver<Piece>) -> Self {
        AnswerBody::Lines { first: Some(first), rest, ended: false }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let (first, rest, ended) = match self.get_mut() {
            AnswerBody::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            AnswerBody::Lines { first, rest, ended } => (first, rest, ended),
        };
        let mut out = Vec::new();
        while !*ended && out.len() < CHUNK {
            let piece = match first.take() {
                Some(first) => Some(first),
                None => match rest.poll_recv(context) {
                    Poll::Pending if out.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(piece) => piece,
                },
            };
            match piece {
                Some(Piece::Part(mut bytes)) if out.is_empty() => out.append(&mut bytes),
                Some(Piece::Part(bytes)) => out.extend(bytes),
                Some(Piece::Last(bytes)) => {
                    out.extend(bytes);
                    *ended = true;
                }
                Some(Piece::Done) => *ended = true,
                Some(Piece::Error(_, error)) => {
                    out.extend(b"{\"error\":");
                    out.extend(error.trim_ascii_end());
                    out.extend(b"}\n");
                    *ended = true;
                }
                // So that nobody takes what there is for the whole.
                None => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            }
        }
        if out.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::data(out.into())))) }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Whole(bytes) => bytes.is_none(),
            AnswerBody::Lines { ended, .. } => *ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            AnswerBody::Lines { .. } => SizeHint::default(),
        }
    }
}
