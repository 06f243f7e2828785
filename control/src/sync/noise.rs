//! Who may talk: `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` (the Noise protocol
//! framework, revision 34), over TCP.
//!
//! First each side sends, readable by all, the versions of the protocol that it
//! speaks; what either side saw of that is a part of the handshake, so that
//! nobody can change it unnoticed. Then come the two messages of the handshake,
//! and then messages of up to 65 535 bytes, each behind its length in two bytes.

use std::io;
use std::time::Duration;

use snow::{Builder, StatelessTransportState};
use std::rc::Rc;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::key::Key;
use super::wire::{MAX_MESSAGE, Malformed};

/// Versions of the protocol that are spoken here.
const VERSIONS: (u8, u8) = (1, 1);

/// What comes first, before the versions.
const MAGIC: &[u8; 6] = b"SLUICE";

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What Noise adds to a message.
const TAG: usize = 16;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("what answers is no Sluice director")]
    Stranger,
    #[error("the peer speaks versions {0} to {1} of the protocol, and this director {a} to {b}: upgrade the older one", a = VERSIONS.0, b = VERSIONS.1)]
    Version(u8, u8),
    #[error("the handshake failed: the peer's key is another one, or somebody changed what it said")]
    Handshake,
    #[error("a message was altered, repeated, left out or moved")]
    Forged,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("the peer {0} for too long")]
    Silent(&'static str),
    #[error("the peer ended the connection")]
    Ended,
    #[error("a worker does not obey")]
    Worker,
    #[error("the peer sent {0}, which is not its part")]
    Unexpected(&'static str),
}

/// One direction of an authenticated connection, for messages that come.
pub(super) struct Reader<R> {
    stream: R,
    state: Rc<StatelessTransportState>,
    nonce: u64,
    sealed: Vec<u8>,
    open: Vec<u8>,
}

/// The other direction.
pub(super) struct Writer<W> {
    stream: W,
    state: Rc<StatelessTransportState>,
    nonce: u64,
    sealed: Vec<u8>,
}

/// Makes sure that the other end has the key.
pub(super) async fn handshake<R, W>(
    reader: R,
    writer: W,
    key: &Key,
    initiator: bool,
) -> Result<(Reader<R>, Writer<W>), SessionError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    timeout(HANDSHAKE, shake(reader, writer, key, initiator))
        .await
        .unwrap_or(Err(SessionError::Silent("did not shake hands")))
}

async fn shake<R, W>(
    mut reader: R,
    mut writer: W,
    key: &Key,
    initiator: bool,
) -> Result<(Reader<R>, Writer<W>), SessionError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut ours = [0; 8];
    ours[..6].copy_from_slice(MAGIC);
    (ours[6], ours[7]) = VERSIONS;
    writer.write_all(&ours).await?;
    let mut theirs = [0; 8];
    reader.read_exact(&mut theirs).await.map_err(ended)?;
    if theirs[..6] != *MAGIC {
        return Err(SessionError::Stranger);
    }
    let (oldest, newest) = (theirs[6], theirs[7]);
    if oldest > VERSIONS.1 || newest < VERSIONS.0 || oldest > newest {
        return Err(SessionError::Version(oldest, newest));
    }
    let prologue = if initiator { [ours, theirs] } else { [theirs, ours] }.concat();

    let failed = |_| SessionError::Handshake;
    let builder = Builder::new(PATTERN.parse().map_err(failed)?)
        .prologue(&prologue)
        .and_then(|builder| builder.psk(0, &key.0))
        .map_err(failed)?;
    let mut state =
        if initiator { builder.build_initiator() } else { builder.build_responder() }.map_err(failed)?;
    let (mut message, mut payload) = ([0; 256], [0; 256]);
    for ours in [initiator, !initiator] {
        if ours {
            let length = state.write_message(&[], &mut message[2..]).map_err(failed)?;
            message[..2].copy_from_slice(&(length as u16).to_be_bytes());
            writer.write_all(&message[..2 + length]).await?;
        } else {
            let mut length = [0; 2];
            // Who ends it here did not like our key.
            reader.read_exact(&mut length).await.map_err(|_| SessionError::Handshake)?;
            let length = usize::from(u16::from_be_bytes(length));
            let place = message.get_mut(..length).ok_or(SessionError::Handshake)?;
            reader.read_exact(place).await.map_err(|_| SessionError::Handshake)?;
            state.read_message(place, &mut payload).map_err(failed)?;
        }
    }
    let state = Rc::new(state.into_stateless_transport_mode().map_err(failed)?);
    let (sealed, open) = (Vec::new(), vec![0; MAX_MESSAGE + TAG]);
    Ok((
        Reader { stream: reader, state: Rc::clone(&state), nonce: 0, sealed, open },
        Writer { stream: writer, state, nonce: 0, sealed: vec![0; 2 + MAX_MESSAGE + TAG] },
    ))
}

fn ended(error: io::Error) -> SessionError {
    if error.kind() == io::ErrorKind::UnexpectedEof { SessionError::Ended } else { error.into() }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// The next message.
    pub(super) async fn receive(&mut self) -> Result<&[u8], SessionError> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).await.map_err(ended)?;
        self.sealed.resize(usize::from(u16::from_be_bytes(length)), 0);
        self.stream.read_exact(&mut self.sealed).await.map_err(ended)?;
        let read = self.state.read_message(self.nonce, &self.sealed, &mut self.open);
        let length = read.map_err(|_| SessionError::Forged)?;
        self.nonce += 1;
        Ok(&self.open[..length])
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Sends a message of at most [`MAX_MESSAGE`] bytes.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), SessionError> {
        let sealed = self.state.write_message(self.nonce, message, &mut self.sealed[2..]);
        let length = sealed.map_err(|_| SessionError::Forged)?;
        self.nonce += 1;
        self.sealed[..2].copy_from_slice(&(length as u16).to_be_bytes());
        self.stream.write_all(&self.sealed[..2 + length]).await.map_err(SessionError::Io)
    }
}
