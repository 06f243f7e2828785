//! `sluice run --takeover`: a process takes the place of the one that runs.
//!
//! The new process first asks the running one for its rules by the requests that
//! any client may make. Then it makes its tables, programs and frame memory, and
//! sends [`Request::TakeOver`](crate::api::Request::TakeOver). Once that is
//! granted, both sides of the connection carry [`Frame`]s:
//!
//! ```text
//! running process                                new process
//!    Queue: sockets and memory         ------>   maps them
//!    all sessions, then their changes  ------>   takes them
//!                                      <------   Ready: it has all that there are
//!    leaves its sockets alone
//!    the last changes, Left, Yours     ------>   goes on with the sockets
//!                                      <------   Forwards
//!    counts what was carried, Counted  ------>   lists what it counted
//!                                      <------   Running
//!    ends                                        goes on
//! ```
//!
//! Packets are not forwarded from the leaving to the going on, which are a few
//! milliseconds; they wait in the sockets' rings. The program of the running
//! process stays on the interfaces until the new one's takes its place, with the
//! same sockets.
//!
//! Connections that the kernel carries ([`sluice_dataplane::offload`]) do not wait. The
//! new process is told which they are, and enters them in tables of its own, as active
//! as the running one is; the program of that one carries them by its tables up to the
//! moment at which the new one's takes its place. A packet that ends one in between
//! waits for the new process like any other. After `Forwards` nothing is counted in the
//! tables of the former process any more, which then adds up what is.
//!
//! Where the new process cannot go on with the sockets (its frames have another
//! size, or the kernel is older than 6.4), it says so with `Ready`: then the
//! running process closes them, there is no `Left`, and the new one opens its
//! own. That takes the kernel a tenth of a second, in which packets are dropped.
//!
//! Up to `Ready` the running process goes on as if nothing were if the new one
//! fails; after that it opens its sockets again, as soon as the new one is gone.
//! While it gives, it refuses changes, which would be lost.
//!
//! A frame is its length in four bytes (network order), which counts what
//! follows: its kind in one byte, and what it is about. Nobody but root and the
//! director's own user gets so far, so that none of it is encrypted.

mod stream;

use std::io;

use serde::{Deserialize, Serialize};
use sluice_dataplane::port::afxdp::{Layout, Left};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::role::Role;
use crate::sync::wire::{MAX_MESSAGE, Malformed};
pub use stream::{Descriptors, offer};

/// How a running process can be talked to, which its status says as `takeover`. A new
/// process asks by no later version. In the first, without [`Frame::Forwards`] and
/// [`Frame::Counted`], the running process has nothing carried any more before it leaves
/// its sockets.
pub const VERSION: u32 = 2;

/// A process that wants to take this one's place.
#[derive(Debug)]
pub struct Takeover {
    /// The connection to it, with nothing answered yet
    pub stream: UnixStream,
    /// The interfaces that it is going to have
    pub interfaces: Vec<String>,
    /// Whether it can go on with this one's sockets
    pub sockets: bool,
    /// How it talks: at most [`VERSION`], and below that as it was done then
    pub version: u32,
}

/// Why a takeover failed.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The connection broke
    #[error("the other process is gone: {0}")]
    Io(#[from] io::Error),
    /// It sent what makes no sense
    #[error("the other process: {0}")]
    Malformed(#[from] Malformed),
    /// It sent something at the wrong time, or unknown
    #[error("the other process sent what is not its part")]
    Unexpected,
    /// It refused
    #[error("the running director refuses: {0}")]
    Refused(String),
    /// It was silent
    #[error("the other process {0} for too long")]
    Silent(&'static str),
    /// The workers are not what they should be
    #[error("{0}")]
    Workers(String),
}

/// What both processes tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message as [`crate::sync::wire`] has them
    Sessions(Vec<u8>),
    /// The new process has all sessions
    Ready {
        /// Whether it goes on with the sockets of the running one
        sockets: bool,
    },
    /// The queues are the new process's, which has this role from now on
    Yours(Role),
    /// The program of the new process is on all interfaces
    Forwards,
    /// All is counted that the program of the former process carried
    Counted,
    /// The former process may end
    Running,
    /// A worker's memory and sockets, of which the descriptors come along
    Queue(Layout),
    /// How far the worker of this number was
    Left(usize, Left),
}

const SESSIONS: u8 = 1;
const READY: u8 = 2;
const YOURS: u8 = 3;
const RUNNING: u8 = 4;
const QUEUE: u8 = 5;
const LEFT: u8 = 6;
const FORWARDS: u8 = 7;
const COUNTED: u8 = 8;

#[derive(Serialize, Deserialize)]
#[serde(remote = "Layout")]
struct LayoutFields {
    queue: usize,
    frames: usize,
    chunk: usize,
    rings: [u32; 2],
    interfaces: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct SentLayout(#[serde(with = "LayoutFields")] Layout);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Left")]
struct LeftFields {
    free: Vec<u8>,
    with_kernel: Vec<[usize; 2]>,
}

#[derive(Serialize, Deserialize)]
struct SentLeft(usize, #[serde(with = "LeftFields")] Left);

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        match self {
            Frame::Sessions(message) => {
                bytes.push(SESSIONS);
                bytes.extend(message);
            }
            Frame::Ready { sockets } => bytes.extend([READY, u8::from(*sockets)]),
            Frame::Yours(role) => bytes.extend([YOURS, u8::from(*role == Role::Active)]),
            Frame::Running => bytes.push(RUNNING),
            Frame::Forwards => bytes.push(FORWARDS),
            Frame::Counted => bytes.push(COUNTED),
            Frame::Queue(layout) => {
                bytes.push(QUEUE);
                bytes.extend(json(&SentLayout(layout.clone())));
            }
            Frame::Left(worker, left) => {
                bytes.push(LEFT);
                bytes.extend(json(&SentLeft(*worker, left.clone())));
            }
        }
        let length = bytes.len() as u32 - 4;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// Sends it. [`offer`] sends a queue with its descriptors.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send<W: AsyncWrite + Unpin>(&self, to: &mut W) -> Result<(), TakeoverError> {
        Ok(to.write_all(&self.bytes()).await?)
    }

    /// Receives the next one.
    ///
    /// # Errors
    /// When the other end is gone, or sends something else.
    pub async fn receive<R: AsyncRead + Unpin>(from: &mut R) -> Result<Self, TakeoverError> {
        let length = from.read_u32().await? as usize;
        if length == 0 || length > MAX_MESSAGE + 1 {
            return Err(TakeoverError::Unexpected);
        }
        let kind = from.read_u8().await?;
        let mut rest = vec![0; length - 1];
        from.read_exact(&mut rest).await?;
        match (kind, rest.as_slice()) {
            (SESSIONS, _) => Ok(Frame::Sessions(rest)),
            (READY, [sockets @ (0 | 1)]) => Ok(Frame::Ready { sockets: *sockets == 1 }),
            (YOURS, [0]) => Ok(Frame::Yours(Role::Backup)),
            (YOURS, [1]) => Ok(Frame::Yours(Role::Active)),
            (RUNNING, []) => Ok(Frame::Running),
            (FORWARDS, []) => Ok(Frame::Forwards),
            (COUNTED, []) => Ok(Frame::Counted),
            (QUEUE, text) => match serde_json::from_slice(text) {
                Ok(SentLayout(layout)) => Ok(Frame::Queue(layout)),
                Err(_) => Err(TakeoverError::Unexpected),
            },
            (LEFT, text) => match serde_json::from_slice(text) {
                Ok(SentLeft(worker, left)) => Ok(Frame::Left(worker, left)),
                Err(_) => Err(TakeoverError::Unexpected),
            },
            _ => Err(TakeoverError::Unexpected),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers and texts are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_were_sent() {
        let frames = [
            Frame::Sessions(vec![]),
            Frame::Sessions(vec![7; MAX_MESSAGE]),
            Frame::Ready { sockets: true },
            Frame::Ready { sockets: false },
            Frame::Queue(Layout {
                queue: 1,
                frames: 6272,
                chunk: 2048,
                rings: [4096, 1024],
                interfaces: vec!["eth0".into(), "eth1".into()],
            }),
            Frame::Left(1, Left { free: vec![0xff; 784], with_kernel: vec![[1000, 3], [1024, 0]] }),
            Frame::Yours(Role::Active),
            Frame::Yours(Role::Backup),
            Frame::Forwards,
            Frame::Counted,
            Frame::Running,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.send(&mut bytes).await.unwrap();
        }
        let mut left = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::receive(&mut left).await.unwrap(), frame);
        }
        assert!(matches!(Frame::receive(&mut left).await, Err(TakeoverError::Io(_))), "nothing is left");
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        for bytes in [
            &[0, 0, 0, 0][..],
            &[0xff, 0, 0, 0, SESSIONS],
            &[0, 0, 0, 1, 99],
            &[0, 0, 0, 2, YOURS, 2],
            &[0, 0, 0, 2, READY, 2],
            &[0, 0, 0, 2, FORWARDS, 0],
            &[0, 0, 0, 2, COUNTED, 0],
            &[0, 0, 0, 2, QUEUE, b'['],
            &[0, 0, 0, 3, LEFT, b'[', b']'],
        ] {
            let result = Frame::receive(&mut &*bytes).await;
            assert!(matches!(result, Err(TakeoverError::Unexpected)), "{bytes:?}: {result:?}");
        }
    }
}
