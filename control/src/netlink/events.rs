//! The kernel's notifications about links, addresses, routes and neighbours.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};

use super::message::Neighbour;

/// Room for notifications in the kernel while we are busy. What does not fit
/// is lost, which the kernel tells; everything is then read anew.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Largest datagram of notifications; the kernel stays below 32 KiB.
const DATAGRAM: usize = 1 << 16;

/// What a notification is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Links,
    Addresses,
    Routes,
    /// A neighbour as it is now
    Neighbour(Neighbour),
    NeighbourGone(Neighbour),
    /// Notifications were lost, or one was not understood
    Lost,
}

/// A socket apart from that of requests, so that a flood of notifications
/// never costs us an answer.
pub(super) struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    /// Subscribes in the network namespace of the calling thread.
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner: &mut Socket = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, 0))?;
        inner.set_rx_buf_sz(RECEIVE_BUFFER as u32)?;
        for group in [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Neigh,
        ] {
            inner.add_membership(group as u32)?;
        }
        Ok(Events { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for the next datagram and adds its events to `events`.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub(super) async fn receive(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer).await {
            Ok(()) => {
                parse(&self.buffer, events);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                events.push(Event::Lost);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The events of a datagram. It may hold several messages, each aligned to
/// four bytes (`NLMSG_ALIGN`).
fn parse(datagram: &[u8], events: &mut Vec<Event>) {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            events.push(Event::Lost);
            return;
        };
        let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
        if length == 0 {
            events.push(Event::Lost);
            return;
        }
        rest = &rest[length..];
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            continue;
        };
        match message {
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => events.push(Event::Links),
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                events.push(Event::Addresses);
            }
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                events.push(Event::Routes);
            }
            RouteNetlinkMessage::NewNeighbour(m) => {
                events.extend(Neighbour::parse(&m).map(Event::Neighbour));
            }
            RouteNetlinkMessage::DelNeighbour(m) => {
                events.extend(Neighbour::parse(&m).map(Event::NeighbourGone));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    fn datagram(messages: Vec<RouteNetlinkMessage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), message.into());
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    #[test]
    fn every_message_of_a_datagram_counts() {
        let route = RouteNetlinkMessage::NewRoute(RouteMessage::default());
        let gone = RouteNetlinkMessage::DelRoute(RouteMessage::default());
        let mut events = Vec::new();
        parse(&datagram(vec![route, gone]), &mut events);
        assert_eq!(events, [Event::Routes, Event::Routes]);
    }

    #[test]
    fn what_is_not_understood_is_read_anew() {
        for junk in [&[0u8; 16][..], &[1, 2, 3], &[0xff; 40]] {
            let mut events = Vec::new();
            parse(junk, &mut events);
            assert_eq!(events, [Event::Lost], "{junk:?}");
        }
    }
}
