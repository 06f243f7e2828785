//! A control connection between two hosts that count every byte.

use std::net::SocketAddr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use sluice_dataplane::service::{Method, Protocol, ServerId};

use crate::director::packets::{ACK, FIN, RST, SYN};
use crate::director::{CLIENT_ROUTER, Director, INSIDE, OUTSIDE, Outcome, server_mac, socket};

/// A TCP segment, of either family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Segment {
    /// One without data.
    pub fn bare(source: &str, destination: &str, flags: u8) -> Self {
        Segment {
            source: socket(source),
            destination: socket(destination),
            sequence: 0x0102_0304,
            acknowledgment: 0,
            flags,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// The frame that has it, from a client or from a server.
    pub fn frame(&self, from_client: bool) -> Vec<u8> {
        let (from, to) = if from_client { (CLIENT_ROUTER, OUTSIDE) } else { (server_mac(1), INSIDE) };
        let link = PacketBuilder::ethernet2(from, to);
        let ip = match (self.source, self.destination) {
            (SocketAddr::V4(a), SocketAddr::V4(b)) => link.ipv4(a.ip().octets(), b.ip().octets(), 64),
            (SocketAddr::V6(a), SocketAddr::V6(b)) => link.ipv6(a.ip().octets(), b.ip().octets(), 64),
            mixed => panic!("{mixed:?} are of two families"),
        };
        let mut tcp = ip.tcp(self.source.port(), self.destination.port(), self.sequence, 65535);
        if self.flags & SYN != 0 {
            tcp = tcp.syn();
        }
        if self.flags & FIN != 0 {
            tcp = tcp.fin();
        }
        if self.flags & RST != 0 {
            tcp = tcp.rst();
        }
        if self.flags & ACK != 0 {
            tcp = tcp.ack(self.acknowledgment);
        }
        let tcp = tcp.options_raw(&self.options).expect("whole words of options");
        let mut frame = Vec::new();
        tcp.write(&mut frame, &self.payload).expect("memory");
        frame
    }

    /// The segment of a frame whose lengths and checksums are right.
    pub fn of(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).expect("a whole packet");
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
        let header = tcp.to_header();
        let (source, destination, checksum) = match packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                assert_eq!(usize::from(ip.total_len()) + 14, frame.len());
                let checksum = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), tcp.payload());
                (ip.source_addr().into(), ip.destination_addr().into(), checksum)
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                assert_eq!(usize::from(ip.payload_length()) + 54, frame.len());
                let checksum = header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), tcp.payload());
                (ip.source_addr().into(), ip.destination_addr().into(), checksum)
            }
            _ => panic!("no IP"),
        };
        assert_eq!(header.checksum, checksum.expect("a short payload"), "{header:?}");
        let flag = |set, flag| if set { flag } else { 0 };
        Segment {
            source: SocketAddr::new(source, header.source_port),
            destination: SocketAddr::new(destination, header.destination_port),
            sequence: header.sequence_number,
            acknowledgment: header.acknowledgment_number,
            flags: flag(header.syn, SYN)
                | flag(header.fin, FIN)
                | flag(header.rst, RST)
                | flag(header.ack, ACK),
            options: header.options.as_slice().to_vec(),
            payload: tcp.payload().to_vec(),
        }
    }

    /// The only segment that was sent, on an interface.
    pub fn only(outcome: &Outcome, interface: usize) -> Self {
        let [(on, frame)] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!((*on, outcome.dropped.as_slice()), (interface, &[][..]), "{outcome:?}");
        Segment::of(frame)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("text")
    }
}

/// One end of the connection.
#[derive(Clone, Debug)]
pub struct End {
    /// Its address, and what it takes for the other's
    pub own: SocketAddr,
    pub peer: SocketAddr,
    /// Number of its next byte, and of the other's
    pub next: u32,
    pub expected: u32,
}

impl End {
    /// Its next segment.
    pub fn segment(&self, payload: &[u8]) -> Segment {
        Segment {
            source: self.own,
            destination: self.peer,
            sequence: self.next,
            acknowledgment: self.expected,
            flags: ACK,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    /// Takes a segment that must be the next one.
    pub fn take(&mut self, segment: &Segment, acknowledges: u32) {
        assert_eq!((segment.source, segment.destination), (self.peer, self.own));
        assert_eq!(segment.sequence, self.expected, "a gap or an overlap");
        assert_eq!(segment.acknowledgment, acknowledges);
        self.expected = self.expected.wrapping_add(segment.payload.len() as u32);
    }
}

/// A client and a server with a control connection through a director.
pub struct Talk {
    pub director: Director,
    pub client: End,
    pub server: End,
    pub server_id: ServerId,
    /// The queues that packets of either arrive on
    pub queues: (usize, usize),
}

pub const CLIENT: &str = "198.51.100.7:40000";
pub const VIP: &str = "192.0.2.10:21";
pub const SERVER: &str = "10.0.2.1:21";
pub const CLIENT6: &str = "[2001:db8:c::7]:40000";
pub const VIP6: &str = "[2001:db8:f::10]:21";
pub const SERVER6: &str = "[2001:db8:2::1]:21";

impl Talk {
    /// Opened over IPv4.
    pub fn open(method: Method) -> Self {
        Talk::open_in(Director::new(), (CLIENT, VIP, SERVER), method)
    }

    /// Opened between these addresses, through a director that gets the service.
    pub fn open_in(
        mut director: Director,
        (client, vip, server): (&str, &str, &str),
        method: Method,
    ) -> Self {
        let service = director.add_service(Protocol::Tcp, vip);
        let server_id = director.add_server(service, server, method, 1);
        director.publish();
        Talk::open_at(director, (client, vip, server_id), 0)
    }

    /// Opened by a client whose packets arrive at a queue.
    pub fn open_at(
        mut director: Director,
        (client, vip, server_id): (&str, &str, ServerId),
        queue: usize,
    ) -> Self {
        let mut syn = Segment::bare(client, vip, SYN);
        // Both wrap around soon.
        syn.sequence = u32::MAX - 30;
        let seen = Segment::only(&director.arrive_at(queue, 0, &[&syn.frame(true)]), 1);
        let client =
            End { own: syn.source, peer: syn.destination, next: syn.sequence.wrapping_add(1), expected: 0 };
        let server =
            End { own: seen.destination, peer: seen.source, next: u32::MAX - 60, expected: client.next };
        let mut talk = Talk { director, client, server, server_id, queues: (queue, queue) };
        let mut answer = talk.server.segment(b"");
        answer.flags = SYN | ACK;
        talk.server_sends(&answer);
        talk.server.next = talk.server.next.wrapping_add(1);
        talk.client.expected = talk.server.next;
        let acknowledgment = talk.client.segment(b"");
        talk.client_sends(&acknowledgment);
        assert_eq!(talk.server_says("220 ready\r\n"), "220 ready\r\n");
        talk
    }

    /// What becomes of a client's segment.
    pub fn client_sends(&mut self, segment: &Segment) -> Outcome {
        self.director.arrive_at(self.queues.0, 0, &[&segment.frame(true)])
    }

    /// What becomes of a server's segment.
    pub fn server_sends(&mut self, segment: &Segment) -> Outcome {
        self.director.arrive_at(self.queues.1, 1, &[&segment.frame(false)])
    }

    /// Lets the client send a text; what the server gets, which acknowledges it.
    pub fn client_says(&mut self, text: &str) -> String {
        let segment = self.client.segment(text.as_bytes());
        let outcome = self.client_sends(&segment);
        let got = Segment::only(&outcome, 1);
        self.server.take(&got, self.server.next);
        self.client.next = self.client.next.wrapping_add(text.len() as u32);
        let acknowledged = Segment::only(&self.server_sends(&self.server.clone().segment(b"")), 0);
        self.client.take(&acknowledged, self.client.next);
        got.text().to_owned()
    }

    /// Lets the server send a text; what the client gets, which acknowledges it.
    pub fn server_says(&mut self, text: &str) -> String {
        let segment = self.server.segment(text.as_bytes());
        let outcome = self.server_sends(&segment);
        let got = Segment::only(&outcome, 0);
        self.client.take(&got, self.client.next);
        self.server.next = self.server.next.wrapping_add(text.len() as u32);
        let acknowledged = Segment::only(&self.client_sends(&self.client.clone().segment(b"")), 1);
        self.server.take(&acknowledged, self.server.next);
        got.text().to_owned()
    }

    /// Connections as `(state, client, VIP, server)`, data connections only.
    pub fn data(&mut self) -> Vec<(&'static str, String, String, String)> {
        let control = self.client.own;
        let at =
            |(address, port): (sluice_dataplane::wire::Address, u16)| SocketAddr::new(address.into(), port);
        let list = self.director.list().into_iter();
        let data = list.filter(|record| at(record.client) != control);
        data.map(|record| {
            let text = |end| at(end).to_string();
            (record.state, text(record.client), text(record.service), text(record.server))
        })
        .collect()
    }
}
