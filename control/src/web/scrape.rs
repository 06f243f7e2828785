//! `/metrics`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::respond::{Body, refuse};
use crate::metrics::{self, Format, Selection};
use crate::observe::Observatory;

/// Scrapes at a time.
const MAX_SCRAPES: usize = 2;

/// Pieces that may wait for the reader.
const PIECES: usize = 4;

/// How long a scrape may take its reader.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) struct Scrapes {
    observatory: Arc<Observatory>,
    turns: Arc<Semaphore>,
}

impl Scrapes {
    pub(super) fn new(observatory: Arc<Observatory>) -> Self {
        Scrapes { observatory, turns: Arc::new(Semaphore::new(MAX_SCRAPES)) }
    }

    /// Metrics, encoded as the reader takes them.
    pub(super) fn answer(&self, headers: &HeaderMap, query: &str) -> Response<Body> {
        let selection = match selection(query) {
            Ok(selection) => selection,
            Err(wrong) => return refuse(StatusCode::BAD_REQUEST, wrong),
        };
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "there are too many scrapes at once");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        };
        let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
        let (sender, pieces) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(PIECES);
        let observatory = Arc::clone(&self.observatory);
        let deadline = Instant::now() + LONGEST;
        let runtime = Handle::current();
        spawn_blocking(move || {
            let send = |piece| match runtime.block_on(timeout_at(deadline, sender.send(piece))) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(fmt::Error),
            };
            let result =
                metrics::encode(&observatory, selection, format, |piece| send(Ok(Frame::data(piece.into()))));
            // Without this, half of it would look like all of it.
            if result.is_err() {
                let _ = sender.try_send(Err(std::io::ErrorKind::TimedOut.into()));
            }
            drop(turn);
        });
        let pieces = stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
        let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
        let content_type = HeaderValue::from_static(format.content_type());
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

fn selection(query: &str) -> Result<Selection, &'static str> {
    let mut selection = Selection::default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, &*value) {
            ("servers", "yes") => selection.servers = true,
            ("servers", "no") => selection.servers = false,
            _ => return Err("the query is servers=yes or servers=no"),
        }
    }
    Ok(selection)
}
