//! The connection of a takeover, by which descriptors go along with frames.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use sluice_dataplane::port::afxdp::Offered;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Frame, TakeoverError};

/// Descriptors that one message can bring (`SCM_MAX_FD` in `include/net/scm.h`).
const MOST_AT_ONCE: usize = 253;

/// Descriptors that may wait to be taken.
const MOST_WAITING: usize = 4096;

/// The reading half, which keeps the descriptors that come by it.
pub struct Descriptors {
    stream: OwnedReadHalf,
    received: VecDeque<OwnedFd>,
}

impl Descriptors {
    /// Reads from a connection.
    pub fn reader(stream: OwnedReadHalf) -> BufReader<Self> {
        BufReader::new(Descriptors { stream, received: VecDeque::new() })
    }

    /// Takes those that came with a frame that was received.
    pub fn take(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (self.received.len() >= count).then(|| self.received.drain(..count).collect())
    }
}

impl AsyncRead for Descriptors {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Descriptors { stream, received } = &mut *self;
        let stream: &UnixStream = (*stream).as_ref();
        loop {
            ready!(stream.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || receive(stream.as_raw_fd(), space, received)) {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn receive(socket: RawFd, space: &mut [u8], received: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; MOST_AT_ONCE]);
    let mut parts = [IoSliceMut::new(space)];
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            received.extend(descriptors.into_iter().map(owned));
        }
    }
    if received.len() > MOST_WAITING {
        return Err(io::Error::other("more descriptors come than anybody takes"));
    }
    Ok(message.bytes)
}

#[allow(unsafe_code)]
fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process with the message that was just
    // received, and nobody else has seen it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Sends what another process needs to go on with a port: a [`Frame::Queue`] with
/// its descriptors.
///
/// # Errors
/// When the other end is gone.
pub async fn offer(offered: Offered, to: &mut OwnedWriteHalf) -> Result<(), TakeoverError> {
    let Offered { layout, memory, sockets } = offered;
    let bytes = Frame::Queue(layout).bytes();
    let descriptors: Vec<_> = std::iter::once(&memory).chain(&sockets).map(AsRawFd::as_raw_fd).collect();
    if descriptors.len() > MOST_AT_ONCE {
        return Err(io::Error::other("there are more interfaces than one message can bring").into());
    }
    let stream: &UnixStream = (*to).as_ref();
    let send = || {
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let (parts, flags) = ([IoSlice::new(&bytes)], MsgFlags::MSG_NOSIGNAL);
        Ok(sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, &rights, flags, None)?)
    };
    let sent = stream.async_io(Interest::WRITABLE, send).await?;
    Ok(to.write_all(&bytes[sent..]).await?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use sluice_dataplane::port::afxdp::Layout;

    use super::*;

    /// A file without a name, with these words in it.
    fn file(words: &str) -> OwnedFd {
        let file = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = File::from(file);
        file.write_all(words.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    }

    #[tokio::test]
    async fn descriptors_come_with_their_frames() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_unused, mut writer) = ours.into_split();
        let mut reader = Descriptors::reader(theirs.into_split().0);
        let layout = |queue| Layout {
            queue,
            frames: 64,
            chunk: 2048,
            rings: [4096, 1024],
            interfaces: vec!["eth0".into(), "eth1".into()],
        };
        for queue in 0..2 {
            let sockets = ["first", "second"].map(|words| file(&format!("{words} of {queue}")));
            let offered = Offered { layout: layout(queue), memory: file("memory"), sockets: sockets.into() };
            offer(offered, &mut writer).await.unwrap();
            Frame::Running.send(&mut writer).await.unwrap();
        }
        for queue in 0..2 {
            assert_eq!(Frame::receive(&mut reader).await.unwrap(), Frame::Queue(layout(queue)));
            assert_eq!(Frame::receive(&mut reader).await.unwrap(), Frame::Running);
            let words = reader.get_mut().take(3).unwrap().into_iter().map(|descriptor| {
                let mut words = String::new();
                File::from(descriptor).read_to_string(&mut words).unwrap();
                words
            });
            let expected = ["memory".to_owned(), format!("first of {queue}"), format!("second of {queue}")];
            assert!(words.eq(expected));
        }
        assert!(reader.get_mut().take(1).is_none());
    }
}
