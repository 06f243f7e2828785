//! `sluice run --takeover`: a process takes the place of the one that runs.
//!
//! The new process first asks the running one for its rules by the requests that
//! any client may make. Then it makes its tables, programs and frame memory, and
//! sends [`Request::TakeOver`](crate::api::Request::TakeOver). Once that is
//! granted, both sides of the connection carry [`Frame`]s:
//!
//! ```text
//! running process                                new process
//!    all sessions, then their changes  ------>   takes them
//!                                      <------   Ready: it has all that there are
//!    closes its sockets
//!    the last changes, Yours           ------>   opens its sockets
//!                                      <------   Running
//!    ends                                        goes on
//! ```
//!
//! The program of the running process stays on the interfaces, and the new one's
//! sockets are entered there as they are opened; its own program comes after.
//! Packets are not forwarded from the closing to the opening. Up to `Ready` the
//! running process goes on as if nothing were if the new one fails; after that
//! it opens its sockets again. While it gives, it refuses changes, which would
//! be lost.
//!
//! A frame is its length in four bytes (network order), which counts what
//! follows: its kind in one byte, and what it is about. Nobody but root and the
//! director's own user gets so far, so that none of it is encrypted.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::role::Role;
use crate::sync::wire::{MAX_MESSAGE, Malformed};

/// A process that wants to take this one's place.
#[derive(Debug)]
pub struct Takeover {
    /// The connection to it, with nothing answered yet
    pub stream: UnixStream,
    /// The interfaces that it is going to have
    pub interfaces: Vec<String>,
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
    Ready,
    /// The queues are the new process's, which has this role from now on
    Yours(Role),
    /// The new process forwards
    Running,
}

const SESSIONS: u8 = 1;
const READY: u8 = 2;
const YOURS: u8 = 3;
const RUNNING: u8 = 4;

impl Frame {
    /// Sends it.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send<W: AsyncWrite + Unpin>(&self, to: &mut W) -> Result<(), TakeoverError> {
        let role;
        let (kind, rest): (u8, &[u8]) = match self {
            Frame::Sessions(message) => (SESSIONS, message),
            Frame::Ready => (READY, &[]),
            Frame::Yours(of) => {
                role = [u8::from(*of == Role::Active)];
                (YOURS, &role)
            }
            Frame::Running => (RUNNING, &[]),
        };
        let mut bytes = Vec::with_capacity(5 + rest.len());
        bytes.extend((rest.len() as u32 + 1).to_be_bytes());
        bytes.push(kind);
        bytes.extend(rest);
        Ok(to.write_all(&bytes).await?)
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
            (READY, []) => Ok(Frame::Ready),
            (YOURS, [0]) => Ok(Frame::Yours(Role::Backup)),
            (YOURS, [1]) => Ok(Frame::Yours(Role::Active)),
            (RUNNING, []) => Ok(Frame::Running),
            _ => Err(TakeoverError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_were_sent() {
        let frames = [
            Frame::Sessions(vec![]),
            Frame::Sessions(vec![7; MAX_MESSAGE]),
            Frame::Ready,
            Frame::Yours(Role::Active),
            Frame::Yours(Role::Backup),
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
            &[0, 0, 0, 2, READY, 0],
        ] {
            let result = Frame::receive(&mut &*bytes).await;
            assert!(matches!(result, Err(TakeoverError::Unexpected)), "{bytes:?}: {result:?}");
        }
    }
}
