//! Frames by the number of their flow.

use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::{checksum, ethernet, ipv4, udp};
use zerocopy::IntoBytes;

use super::rules::{LOCAL_FIRST, SERVICE_PORT, VIP, server_address};

/// Bytes of a frame without its check sequence: the shortest on Ethernet.
const LEN: usize = 60;
const DATA_LEN: usize = LEN - ethernet::LEN - ipv4::LEN - udp::LEN;

/// Client ports for each client address.
const PORTS: u32 = 50_000;

/// What a server saw of a connection, as far as it is not the same for all: where it answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    server: u8,
    /// Last byte of the local address, or 0 where the client's own address and port were left as they are
    local: u8,
    port: u16,
}

impl Path {
    /// The path of a flow by a frame that the director sent to the server.
    pub(super) fn of(sent: &[u8]) -> Self {
        let ip = &sent[ethernet::LEN..];
        let port = u16::from_be_bytes([ip[ipv4::LEN], ip[ipv4::LEN + 1]]);
        let local = if ip[12..15] == LOCAL_FIRST[..3] { ip[15] } else { 0 };
        let [.., first] = server_address(0);
        Path { server: ip[19] - first, local, port }
    }
}

fn client(flow: u32) -> ([u8; 4], u16) {
    let [_, a, b, c] = (flow / PORTS).to_be_bytes();
    ([172, 16 + a, b, c], (flow % PORTS + 10_000) as u16)
}

/// A packet of the client.
pub(super) fn request(flow: u32) -> [u8; LEN] {
    frame([2, 0, 0, 0, 1, 254], client(flow), (VIP, SERVICE_PORT))
}

/// A packet of the server.
pub(super) fn answer(flow: u32, path: Path) -> [u8; LEN] {
    let to = match path.local {
        0 => client(flow),
        local => ([LOCAL_FIRST[0], LOCAL_FIRST[1], LOCAL_FIRST[2], local], path.port),
    };
    frame([2, 0, 0, 0, 2, 254], (server_address(path.server.into()), SERVICE_PORT), to)
}

/// A UDP packet with right checksums.
fn frame(mac: [u8; 6], source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> [u8; LEN] {
    let length = (udp::LEN + DATA_LEN) as u16;
    let link = ethernet::Header { destination: mac, source: [2, 0, 0, 0, 9, 9], kind: ethernet::IPV4.into() };
    let mut ip = ipv4::Header {
        version_ihl: 0x45,
        tos: 0,
        total_length: (ipv4::LEN as u16 + length).into(),
        id: 0.into(),
        flags_offset: ipv4::DONT_FRAGMENT.into(),
        ttl: 64,
        protocol: Protocol::Udp.number(),
        checksum: 0.into(),
        source: source.0,
        destination: destination.0,
    };
    ip.fill_checksum();
    let mut header = udp::Header {
        source: source.1.into(),
        destination: destination.1.into(),
        length: length.into(),
        checksum: 0.into(),
    };
    let pseudo = checksum::pseudo_v4(source.0, destination.0, Protocol::Udp.number(), length);
    // RFC 768: 0 would mean that there is none.
    let sum = !checksum::sum(pseudo, header.as_bytes());
    header.checksum = if sum == 0 { 0xffff } else { sum }.into();
    let mut bytes = [0; LEN];
    let mut at = 0;
    for part in [link.as_bytes(), ip.as_bytes(), header.as_bytes()] {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    bytes
}
