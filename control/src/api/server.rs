//! The director's side of the socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::unistd::Gid;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::access::Access;
use super::body::{Writer, send};
use super::conversation::{self, Patience};
use super::director::{DataPlane, Director, frozen};
use super::listing;
use super::message::{Answer, Request};
use super::{Listener, MAX_CLIENTS};
use crate::rules::SAMPLE_INTERVAL;

/// Changes of a reload that are sent together.
const CHANGES_IN_A_PART: usize = 1000;

/// Most clients that are told at a time that they are not answered; those
/// beyond are not told.
const MAX_REFUSED: usize = 16;

type Clients<'d> = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + 'd>>>;

/// Answers clients, takes samples for the rates and frees slots, for as long
/// as it is polled: it does not end by itself. It spawns nothing, so it runs
/// on any runtime of the control thread. Dropping it closes the socket and
/// removes its file.
pub async fn serve<D: DataPlane>(director: Rc<Director<D>>, listener: Listener) {
    let (mut clients, mut refused) = (Clients::new(), Clients::new());
    let mut tick = interval(SAMPLE_INTERVAL);
    // Two samples in a row would show a rate of zero.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let director = &*director;
    loop {
        tokio::select! {
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, _)) => match admit(&stream, listener.group, clients.len()) {
                    Ok(access) => clients.push(Box::pin(conversation::attend(director, stream, access, Patience::default()))),
                    Err(why) if refused.len() < MAX_REFUSED => {
                        refused.push(Box::pin(conversation::refuse(stream, why)));
                    }
                    Err(_) => {}
                },
                Err(error) => {
                    // Out of descriptors, most likely: others must get a turn.
                    tracing::warn!(%error, "cannot accept a client");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = clients.next(), if !clients.is_empty() => {}
            Some(()) = refused.next(), if !refused.is_empty() => {}
            _ = tick.tick() => director.tick(),
        }
    }
}

/// What those are told who may do nothing; ipvsadm says so too.
const DENIED: (&str, &str) = ("permission_denied", "Permission denied (you must be root)");

/// What a client may do who came while there were so many others; or the code and
/// the message for one who may do nothing.
fn admit(
    stream: &UnixStream,
    group: Option<Gid>,
    others: usize,
) -> Result<Access, (&'static str, &'static str)> {
    match Access::of(stream, group) {
        Ok(Access::None(uid)) => {
            tracing::warn!(uid, "a client who may do nothing is refused");
            Err(DENIED)
        }
        Err(error) => {
            tracing::warn!(%error, "a client of whom the kernel does not say who it is is refused");
            Err(DENIED)
        }
        Ok(_) if others >= MAX_CLIENTS => {
            tracing::warn!(limit = MAX_CLIENTS, "too many clients; one is turned away");
            Err(("too_many_clients", "too many clients, try again"))
        }
        Ok(access) => Ok(access),
    }
}

/// Answers a request, in one part or several.
pub(super) async fn respond<D: DataPlane>(
    director: &Director<D>,
    request: Request,
    writer: &mut Writer,
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
                Err((code, message)) => return send(writer, &Answer::error(code, message)).await,
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
                for slice in changes.chunks(CHANGES_IN_A_PART) {
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
