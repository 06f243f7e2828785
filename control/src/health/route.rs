//! The sockets of a check: to a server's own address, or to it for the VIP.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::check::{Finding, Way, plain};
use super::vip::{Passage, Passages, Through};

/// Longest TCP segment of a check through a tunnel: an MTU of 1500 carries it wrapped, with TCP's
/// options.
const SEGMENT: u32 = 1_360;

/// Ports that are tried: one may be another check's with another source address.
const PORTS: usize = 8;

/// How one making of a check reaches its server.
pub(super) struct Route<'a> {
    way: &'a Way,
    server: IpAddr,
    through: Option<Through>,
    passages: &'a Passages,
    /// Outlives the socket whose packets it is for
    passage: RefCell<Option<Passage<'a>>>,
}

impl<'a> Route<'a> {
    /// To a server, where it is asked for the VIP by `through`.
    pub(super) fn new(
        way: &'a Way,
        server: IpAddr,
        through: Option<Through>,
        passages: &'a Passages,
    ) -> Self {
        Route { way, server, through, passages, passage: RefCell::default() }
    }

    pub(super) async fn connect(&self, target: SocketAddr) -> Result<TcpStream, String> {
        let connected = async {
            let (socket, to) = self.socket(target, Type::STREAM, Protocol::TCP)?;
            TcpSocket::from_std_stream(socket.into()).connect(to).await
        };
        connected.await.map_err(|error| format!("cannot connect: {}", plain(&error)))
    }

    pub(super) async fn datagrams(&self, target: SocketAddr) -> Result<UdpSocket, String> {
        let opened = async {
            let (socket, to) = self.socket(target, Type::DGRAM, Protocol::UDP)?;
            let socket = UdpSocket::from_std(socket.into())?;
            socket.connect(to).await?;
            Ok::<_, io::Error>(socket)
        };
        opened.await.map_err(|error| format!("cannot send: {}", plain(&error)))
    }

    /// A socket, and what it is to be connected to for `target`.
    fn socket(&self, target: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<(Socket, SocketAddr)> {
        let Some(through) = self.through else {
            return Ok((self.way.socket(target.ip(), kind, protocol)?, target));
        };
        let to = SocketAddr::new(self.server, target.port());
        let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORTS {
            let socket = self.way.socket(self.server, kind, protocol)?;
            if self.way.source.is_none() {
                socket.bind(&SockAddr::from(through.any()))?;
            }
            let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
            match self.passages.open(i32::from(protocol) as u8, port, self.server, through) {
                Ok(passage) => {
                    if protocol == Protocol::TCP {
                        // Nothing of it is to be on its way when the passage is closed.
                        socket.set_linger(Some(Duration::ZERO))?;
                    }
                    if protocol == Protocol::TCP && through.tunnel {
                        socket.set_tcp_mss(SEGMENT)?;
                    }
                    self.passage.replace(Some(passage));
                    return Ok((socket, to));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    /// What was found, unless that was not found by the way that was meant.
    pub(super) fn judged(&self, finding: Finding) -> Finding {
        match &*self.passage.borrow() {
            Some(passage) if !passage.was_taken() => {
                self.passages.refresh();
                Err(format!("the way to {} does not lead out of an interface of the director", self.server))
            }
            _ => finding,
        }
    }
}
