//! Connections and their bounds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::respond::Responder;
use crate::observe::Observatory;
use crate::patient::Patient;

/// Connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// Of them, from one address: others get a turn. On loopback, where all have
/// the same, this is the limit.
pub(super) const MAX_FROM_ONE: usize = 32;

/// Bytes of a request's line and headers.
pub(super) const MAX_HEADER: usize = 16 * 1024;

/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A request to come, and a connection to be without one
    pub(super) request: Duration,
    /// Nothing of an answer to be taken
    pub(super) write: Duration,
    /// A connection in all
    pub(super) connection: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            request: Duration::from_secs(10),
            write: Duration::from_secs(10),
            connection: Duration::from_secs(600),
        }
    }
}

/// Threads for scrapes and overviews.
pub(super) const MAX_BLOCKING: usize = 4;

/// Accepts and serves.
pub(super) struct Server {
    responder: Arc<Responder>,
    open: Arc<Open>,
    patience: Patience,
}

impl Server {
    pub(super) fn new(
        observatory: Arc<Observatory>,
        address: SocketAddr,
        hosts: Vec<String>,
        patience: Patience,
    ) -> Self {
        let responder = Arc::new(Responder::new(observatory, address, hosts));
        Server { responder, open: Arc::default(), patience }
    }

    /// Serves for as long as it is polled.
    pub(super) async fn run(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                // One too many is closed at once: what it says is of no interest.
                Ok((stream, from)) => {
                    if let Some(place) = Open::take(&self.open, from.ip()) {
                        let (responder, patience) = (Arc::clone(&self.responder), self.patience);
                        tokio::spawn(async move {
                            attend(responder, stream, patience).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must get a turn.
                    tracing::warn!(%error, "cannot accept a client of the web page");
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }
}

async fn attend(responder: Arc<Responder>, stream: TcpStream, patience: Patience) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let responder = Arc::clone(&responder);
        async move { Ok::<_, std::convert::Infallible>(responder.respond(request).await) }
    });
    let connection = http1::Builder::new()
        // Who has asked may end its own side and still wants the answer.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(patience.request)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(Patient::new(stream, patience.write)), service);
    if let Ok(Err(error)) = timeout(patience.connection, connection).await {
        tracing::debug!(%error, "a client of the web page is gone");
    }
}

/// The connections that there are.
#[derive(Default)]
struct Open(Mutex<HashMap<IpAddr, usize>>);

impl Open {
    fn take(open: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let mut places = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.values().sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        let number = places.entry(from).or_default();
        if *number >= MAX_FROM_ONE {
            return None;
        }
        *number += 1;
        Some(Place { open: Arc::clone(open), from })
    }
}

/// One of the connections, until it is dropped.
struct Place {
    open: Arc<Open>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = places.get_mut(&self.from) {
            *number -= 1;
            if *number == 0 {
                places.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let open = Arc::new(Open::default());
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let mut places: Vec<_> = (0..MAX_FROM_ONE).map(|_| Open::take(&open, address(1)).unwrap()).collect();
        assert!(Open::take(&open, address(1)).is_none());
        places.extend((0..MAX_CONNECTIONS - MAX_FROM_ONE).map(|_| Open::take(&open, address(2)).unwrap()));
        assert!(Open::take(&open, address(3)).is_none());
        places.clear();
        assert!(open.0.lock().unwrap().is_empty());
    }
}
