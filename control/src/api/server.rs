//! The director's side of the socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sluice_dataplane::conn::ConnectionFilter;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::director::{DataPlane, Director, frozen};
use super::listing;
use super::message::{Answer, Request};
use super::{Listener, MAX_CLIENTS, MAX_REQUEST};
use crate::rules::SAMPLE_INTERVAL;
use crate::takeover::Takeover;

/// How long a client may say nothing between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Changes of a reload that are sent together.
const CHANGES_IN_A_LINE: usize = 1000;

/// How long a line may take to be read or written once begun.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers clients, takes samples for the rates and frees slots, for as long
/// as it is polled: it does not end by itself. It spawns nothing, so it runs
/// on any runtime of the control thread. Dropping it closes the socket and
/// removes its file.
pub async fn serve<D: DataPlane>(director: Rc<Director<D>>, listener: Listener) {
    let mut clients: FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>> = FuturesUnordered::new();
    let mut tick = interval(SAMPLE_INTERVAL);
    // Two samples in a row would show a rate of zero.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let director = &director;
    loop {
        tokio::select! {
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, _)) if clients.len() >= MAX_CLIENTS => refuse_one_too_many(stream),
                Ok((stream, _)) => {
                    let director = Rc::clone(director);
                    clients.push(Box::pin(async move { attend(&director, stream).await }));
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must get a turn.
                    tracing::warn!(%error, "cannot accept a client");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = clients.next(), if !clients.is_empty() => {}
            _ = tick.tick() => director.tick(),
        }
    }
}

/// A line that fits into the socket's buffer, without waiting.
fn refuse_one_too_many(stream: UnixStream) {
    tracing::warn!(limit = MAX_CLIENTS, "too many clients; one is turned away");
    let answer = Answer::error("too_many_clients", "too many clients, try again");
    let _ = stream.try_write(&line(&answer));
}

async fn attend<D: DataPlane>(director: &Director<D>, stream: UnixStream) {
    let allowed = stream.peer_cred().map(|peer| {
        let own = nix::unistd::geteuid().as_raw();
        (peer.uid() == 0 || peer.uid() == own, peer.uid())
    });
    let (reader, mut writer) = stream.into_split();
    let result = match allowed {
        Ok((true, _)) => match converse(director, reader, &mut writer).await {
            Ok(Some((reader, wish))) => return introduce(director, reader, writer, wish).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        },
        Ok((false, uid)) => {
            tracing::warn!(uid, "a client that is not root is refused");
            send(&mut writer, &Answer::error("permission_denied", "Permission denied (you must be root)"))
                .await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client is gone");
    }
}

/// Hands a client on that wants to take this process's place.
async fn introduce<D: DataPlane>(
    director: &Director<D>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    Wish { interfaces, sockets }: Wish,
) {
    // Both are of the same connection.
    let Ok(stream) = reader.reunite(writer) else { return };
    if let Err(Takeover { stream, .. }) = director.offer(Takeover { stream, interfaces, sockets }) {
        let message = "another process is taking over already, or this one is not ready yet";
        let _ = send(&mut stream.into_split().1, &Answer::error("not_now", message)).await;
    }
}

/// What a process said of itself that wants to take this one's place.
struct Wish {
    interfaces: Vec<String>,
    sockets: bool,
}

/// Answers a client; gives its connection, and what it said of itself, if it is to
/// be another process's.
async fn converse<D: DataPlane>(
    director: &Director<D>,
    reader: OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> io::Result<Option<(OwnedReadHalf, Wish)>> {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    loop {
        match timeout(IDLE_TIMEOUT, reader.fill_buf()).await {
            Ok(Ok([])) | Err(_) => return Ok(None),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
        match timeout(LINE_TIMEOUT, read_line(&mut reader, &mut bytes)).await?? {
            Line::Whole => {}
            Line::Unfinished => return Ok(None),
            Line::TooLong => {
                let message = format!("a request is longer than {MAX_REQUEST} bytes");
                send(writer, &Answer::error("request_too_long", message)).await?;
                return Ok(None);
            }
        }
        match serde_json::from_slice(&bytes) {
            // Whoever asks this says nothing more until it is answered.
            Ok(Request::TakeOver { interfaces, sockets }) => {
                return Ok(Some((reader.into_inner(), Wish { interfaces, sockets })));
            }
            Ok(request) => respond(director, request, writer).await?,
            Err(error) => {
                let message = format!("the request is not understood: {error}");
                send(writer, &Answer::error("bad_request", message)).await?;
            }
        }
    }
}

enum Line {
    Whole,
    Unfinished,
    TooLong,
}

/// Reads up to and without the newline into `bytes`.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>, bytes: &mut Vec<u8>) -> io::Result<Line> {
    bytes.clear();
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(Line::Unfinished);
        }
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let taken = newline.unwrap_or(buffer.len());
        if bytes.len() + taken > MAX_REQUEST {
            return Ok(Line::TooLong);
        }
        bytes.extend_from_slice(&buffer[..taken]);
        reader.consume(taken + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(Line::Whole);
        }
    }
}

async fn respond<D: DataPlane>(
    director: &Director<D>,
    request: Request,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    match request {
        Request::Services { service } => {
            let listed = director.rules().list(service.as_ref());
            match listed {
                Ok(services) => {
                    for service in services {
                        send(writer, &Answer::Service(service)).await?;
                    }
                    send(writer, &Answer::Done).await
                }
                Err(error) => send(writer, &error.into()).await,
            }
        }
        Request::Health => {
            let services = director.health().overview(&director.rules());
            for service in services {
                send(writer, &Answer::Health(service)).await?;
            }
            send(writer, &Answer::Done).await
        }
        Request::Configuration => {
            // All of one moment: the rules may change while parts are sent.
            let (services, rest) = {
                let rules = director.rules();
                let file = director.source().map(|source| source.file);
                let rest = Answer::Configuration {
                    // The client may be in another directory.
                    file: file.map(|file| std::path::absolute(&file).unwrap_or(file)),
                    marks: rules.marks().into_iter().map(|listing| listing.rule).collect(),
                    timeouts: rules.timeouts(),
                };
                (rules.configuration(), rest)
            };
            for service in services {
                send(writer, &Answer::Configured(Box::new(service))).await?;
            }
            send(writer, &rest).await
        }
        Request::Connections => {
            let slices = director.plane().connections(ConnectionFilter::default());
            listing::connections(slices, None, writer).await
        }
        Request::FindConnections { query, limit, count } => match query.filter() {
            Ok(filter) if count => {
                let number = listing::count(director.plane().connections(filter)).await;
                send(writer, &Answer::Count(number)).await
            }
            Ok(filter) => listing::connections(director.plane().connections(filter), limit, writer).await,
            Err(error) => send(writer, &Answer::error("bad_request", error.to_string())).await,
        },
        Request::Overview { query } => {
            let observatory = Arc::clone(director.plane().observatory());
            // Ten thousand services take their time to sort.
            match spawn_blocking(move || observatory.overview(&query)).await {
                Ok(overview) => send(writer, &Answer::Overview(Box::new(overview))).await,
                Err(error) => send(writer, &Answer::error("internal", error.to_string())).await,
            }
        }
        Request::Events { after, limit, kind, follow } => {
            let events = Arc::clone(director.plane().observatory().events());
            listing::events(&events, after, limit, kind, follow, writer).await
        }
        Request::Capture { query, count, seconds } => {
            let mut stream = match director.capture(&query, count, seconds) {
                Ok(stream) => stream,
                Err(refused) => return send(writer, &refused).await,
            };
            loop {
                let answer = stream.next().await;
                send(writer, &answer).await?;
                if answer.is_final() {
                    return Ok(());
                }
            }
        }
        Request::Reload { dry_run: false } if director.is_frozen() => send(writer, &frozen()).await,
        Request::Reload { dry_run } => match director.reload(dry_run).await {
            Ok(changes) => {
                for slice in changes.chunks(CHANGES_IN_A_LINE) {
                    send(writer, &Answer::Changes(slice.to_vec())).await?;
                }
                send(writer, &Answer::Done).await
            }
            Err(error) => send(writer, &Answer::error(error.code(), error.to_string())).await,
        },
        request => {
            let answer = director.answer(request).await;
            send(writer, &answer).await
        }
    }
}

pub(crate) async fn send(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    timeout(LINE_TIMEOUT, writer.write_all(&line(answer))).await?
}

fn line(answer: &Answer) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_else(|error| {
        // A map with keys that are not text, which no answer has.
        tracing::error!(%error, "an answer cannot be written as JSON");
        br#"{"error":{"code":"internal","message":"the answer cannot be written as JSON"}}"#.to_vec()
    });
    line.push(b'\n');
    line
}
