//! Errors about connections between address families: an ICMP error becomes an
//! ICMPv6 one and the reverse, and so does the packet that it quotes (RFC 7915,
//! sections 4.2, 4.3, 5.2 and 5.3).
//!
//! Extensions behind the quoted packet (RFC 4884) are left out, since the two
//! protocols count what is before them in other units.

use zerocopy::{FromBytes, IntoBytes};

use super::related::update_checksum;
use super::{Refused, Rewritten};
use crate::packet::Related;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, icmp, icmpv6, ipv4, ipv6};

/// Most bytes of an ICMPv6 error (RFC 4443, section 2.4).
const LARGEST_V6: usize = ipv6::MIN_MTU as usize;
/// Most bytes of an ICMP error (RFC 1812, section 4.3.2.3).
const LARGEST_V4: usize = 576;
/// What an IPv6 header has more than an IPv4 one, in bytes.
const DIFFERENCE: u32 = (ipv6::LEN - ipv4::LEN) as u32;
const FRAGMENT: u32 = ipv6::FRAGMENT_LEN as u32;

/// What an error says: type, code, and bytes 4 to 7 of its header.
pub(super) type Said = (u8, u8, [u8; 4]);

/// How the packets from the error's side of the connection are rewritten.
pub(super) struct Ends {
    /// Where the error comes from
    pub(super) error_source: Address,
    /// New source of the packets
    pub(super) source: (Address, u16),
    /// New destination of the packets, and of the error
    pub(super) destination: (Address, u16),
    /// What rewriting adds to a transport checksum
    pub(super) transport_delta: Delta,
}

/// Replaces an error by one of the family of its new destination, which leaves
/// over a link with `mtu`.
pub(super) fn apply<F: Frame>(
    related: &Related,
    ends: &Ends,
    frame: &mut F,
    mtu: u16,
    id: u16,
) -> Result<Rewritten, Refused> {
    let untold = Refused::Drop(DropReason::Untranslatable);
    let truncated = Refused::Drop(DropReason::Truncated);
    let (offset, length) = (usize::from(related.packet.network), usize::from(related.packet.length));
    let error = frame.bytes().get(offset..offset + length).ok_or(truncated)?;
    let quoted_at = usize::from(related.quoted.network) - offset;
    let quoted = error.get(quoted_at..).ok_or(truncated)?;
    let mut buffer = [0; LARGEST_V6];
    let written = match related.packet.is_v4 {
        true => as_v6(related, ends, error, quoted, mtu, &mut buffer),
        false => as_v4(related, ends, error, quoted, mtu, id, &mut buffer),
    };
    let bytes = &buffer[..written.ok_or(untold)?];
    if offset + bytes.len() > frame.capacity() {
        return Err(Refused::Drop(DropReason::TooBig));
    }
    frame.set_len((offset + bytes.len()).max(frame.bytes().len()));
    frame.bytes_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    Ok(Rewritten::new(offset, bytes.len()))
}

/// Writes the ICMPv6 error and returns its length.
fn as_v6(
    related: &Related,
    ends: &Ends,
    error: &[u8],
    quoted: &[u8],
    mtu: u16,
    buffer: &mut [u8; LARGEST_V6],
) -> Option<usize> {
    let (outer, _) = ipv4::Header::ref_from_prefix(error).ok()?;
    let (ip, _) = ipv4::Header::ref_from_prefix(quoted).ok()?;
    let header = ip.header_len();
    let segment = before_extensions(related, quoted).get(header..)?;
    let fragment = if ip.is_fragment() { ipv6::FRAGMENT_LEN } else { 0 };
    let told = {
        let [_, _, high, low] = related.info;
        let mtu = match u16::from_be_bytes([high, low]) {
            0 => plateau(ip.total_length.get()),
            mtu => mtu,
        };
        u32::from(mtu) + DIFFERENCE + fragment as u32
    };
    let told = told.min(mtu.into()).max(ipv6::MIN_MTU.into());
    let (kind, code, info) = said_in_v6((related.kind, related.code, related.info), told)?;

    let (source, destination) = (ends.error_source.bytes(), ends.destination.0.bytes());
    let headers = ipv6::LEN + icmpv6::LEN + ipv6::LEN + fragment;
    let length = (headers + segment.len()).min(LARGEST_V6);
    let segment = segment.get(..length.checked_sub(headers)?)?;

    let (head, body) = buffer[..length].split_at_mut(ipv6::LEN);
    let ttl = related.packet.ttl - 1;
    let payload = body.len() as u16;
    head.copy_from_slice(
        ipv6::Header::new(outer.tos, payload, ipv6::ICMPV6, ttl, source, destination).as_bytes(),
    );
    let message = icmpv6::Header { kind, code, checksum: 0.into(), mtu: u32::from_be_bytes(info).into() };
    body[..icmpv6::LEN].copy_from_slice(message.as_bytes());

    let inner = &mut body[icmpv6::LEN..];
    let payload = ip.total_length.get().saturating_sub(header as u16) + fragment as u16;
    let next = if fragment > 0 { ipv6::FRAGMENT } else { ip.protocol };
    let addresses = (ends.destination.0.bytes(), ends.source.0.bytes());
    let quoted_header = ipv6::Header::new(ip.tos, payload, next, ip.ttl, addresses.0, addresses.1);
    inner[..ipv6::LEN].copy_from_slice(quoted_header.as_bytes());
    let fragment_header = ipv6::Fragment::of_v4(ip);
    let start = ipv6::LEN + fragment;
    inner[ipv6::LEN..start].copy_from_slice(&fragment_header.as_bytes()[..fragment]);
    put_segment(related, ends, segment, &mut inner[start..])?;
    icmpv6::fill_checksum(body, &source, &destination);
    Some(length)
}

/// Writes the ICMP error and returns its length.
fn as_v4(
    related: &Related,
    ends: &Ends,
    error: &[u8],
    quoted: &[u8],
    mtu: u16,
    id: u16,
    buffer: &mut [u8; LARGEST_V6],
) -> Option<usize> {
    let (outer, _) = ipv6::Header::ref_from_prefix(error).ok()?;
    let (ip, payload) = ipv6::Header::ref_from_prefix(quoted).ok()?;
    let extensions = usize::from(related.quoted.transport - related.quoted.network) - ipv6::LEN;
    let fragment = ipv6::upper_layer(ip.next_header, payload).ok()?.fragment;
    let fragment = fragment.and_then(|at| Some(ipv6::Fragment::ref_from_prefix(payload.get(at..)?).ok()?.0));
    let segment = before_extensions(related, quoted).get(ipv6::LEN + extensions..)?;
    let less = DIFFERENCE + if fragment.is_some() { FRAGMENT } else { 0 };
    let told = u32::from_be_bytes(related.info).saturating_sub(less);
    let told = told.min(mtu.into()).max(super::related::LEAST_MTU.into());
    let (kind, code, [a, b, c, d]) = said_in_v4((related.kind, related.code, related.info), told as u16)?;

    const HEADERS: usize = ipv4::LEN + icmp::LEN + ipv4::LEN;
    let length = (HEADERS + segment.len()).min(LARGEST_V4.min(mtu.into()));
    let segment = segment.get(..length.checked_sub(HEADERS)?)?;
    let (source, destination) = (ends.source.0.v4_bytes(), ends.destination.0.v4_bytes());
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        tos: outer.traffic_class(),
        total_length: (length as u16).into(),
        id: id.into(),
        flags_offset: 0.into(),
        ttl: related.packet.ttl - 1,
        protocol: ipv4::ICMP,
        checksum: 0.into(),
        source: ends.error_source.v4_bytes(),
        destination,
    };
    header.fill_checksum();
    buffer[..ipv4::LEN].copy_from_slice(header.as_bytes());
    let (unused, mtu) = (u16::from_be_bytes([a, b]).into(), u16::from_be_bytes([c, d]).into());
    let message = icmp::Header { kind, code, checksum: 0.into(), unused, mtu };
    let body = &mut buffer[ipv4::LEN..length];
    body[..icmp::LEN].copy_from_slice(message.as_bytes());

    let total = (ipv4::LEN + usize::from(ip.payload_length.get())).saturating_sub(extensions);
    let (quoted_id, flags_offset) = super::translate::fragment_of_v6(fragment, total, 0);
    let mut quoted_header = ipv4::Header {
        version_ihl: 0x45,
        tos: ip.traffic_class(),
        total_length: u16::try_from(total).unwrap_or(u16::MAX).into(),
        id: quoted_id.into(),
        flags_offset: flags_offset.into(),
        ttl: ip.hop_limit,
        protocol: related.quoted.tuple.protocol.number(),
        checksum: 0.into(),
        source: destination,
        destination: source,
    };
    quoted_header.fill_checksum();
    body[icmp::LEN..icmp::LEN + ipv4::LEN].copy_from_slice(quoted_header.as_bytes());
    put_segment(related, ends, segment, &mut body[icmp::LEN + ipv4::LEN..])?;
    icmp::fill_checksum(body);
    Some(length)
}

/// Copies what is quoted of a segment, with the ports and the checksum that its
/// sender knows.
fn put_segment(related: &Related, ends: &Ends, segment: &[u8], place: &mut [u8]) -> Option<()> {
    place.copy_from_slice(segment);
    let (ports, _) = place.split_first_chunk_mut::<4>()?;
    ports[..2].copy_from_slice(&ends.destination.1.to_be_bytes());
    ports[2..].copy_from_slice(&ends.source.1.to_be_bytes());
    update_checksum(related.quoted.tuple.protocol, place, ends.transport_delta);
    Some(())
}

/// What is quoted, without the extensions behind it (RFC 4884, sections 4.1 to
/// 4.5): the header says how long that is, if there are any.
fn before_extensions<'a>(related: &Related, quoted: &'a [u8]) -> &'a [u8] {
    let Related { kind, info, packet, .. } = related;
    let length = match (packet.is_v4, *kind) {
        (true, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM) => usize::from(info[1]) * 4,
        (false, icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED) => usize::from(info[0]) * 8,
        _ => 0,
    };
    if length == 0 { quoted } else { quoted.get(..length).unwrap_or(quoted) }
}

/// The MTU to be guessed where a router names none (RFC 1191, section 7; RFC
/// 7915, section 4.2).
fn plateau(total_length: u16) -> u16 {
    const PLATEAUS: [u16; 6] = [32_000, 17_914, 8166, 4352, 2002, 1492];
    PLATEAUS.into_iter().find(|mtu| *mtu < total_length).unwrap_or(ipv6::MIN_MTU)
}

/// What an ICMP error says, as ICMPv6 (RFC 7915, section 4.2). `mtu` is told of
/// a packet that is too big. `None` where there is no word for it.
pub(super) fn said_in_v6((kind, code, info): Said, mtu: u32) -> Option<Said> {
    const NO_ROUTE: u8 = 0;
    const PROHIBITED: u8 = 1;
    const NEXT_HEADER: u32 = 6;
    let unreachable = |code| Some((icmpv6::UNREACHABLE, code, [0; 4]));
    match (kind, code) {
        (icmp::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => unreachable(NO_ROUTE),
        (icmp::UNREACHABLE, 2) => Some((icmpv6::PARAMETER_PROBLEM, 1, NEXT_HEADER.to_be_bytes())),
        (icmp::UNREACHABLE, icmp::CODE_PORT) => unreachable(icmpv6::CODE_PORT),
        (icmp::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED) => {
            Some((icmpv6::PACKET_TOO_BIG, 0, mtu.to_be_bytes()))
        }
        (icmp::UNREACHABLE, 9 | 10 | 13 | 15) => unreachable(PROHIBITED),
        (icmp::TIME_EXCEEDED, code) => Some((icmpv6::TIME_EXCEEDED, code, [0; 4])),
        (icmp::PARAMETER_PROBLEM, 0 | 2) => {
            let pointer: u32 = match info[0] {
                at @ (0 | 1) => at.into(),
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            Some((icmpv6::PARAMETER_PROBLEM, 0, pointer.to_be_bytes()))
        }
        _ => None,
    }
}

/// What an ICMPv6 error says, as ICMP (RFC 7915, section 5.2). `mtu` is told of
/// a packet that is too big. `None` where there is no word for it.
pub(super) fn said_in_v4((kind, code, info): Said, mtu: u16) -> Option<Said> {
    const HOST: u8 = 1;
    const PROTOCOL: u8 = 2;
    const PROHIBITED: u8 = 10;
    let unreachable = |code| Some((icmp::UNREACHABLE, code, [0; 4]));
    match (kind, code) {
        (icmpv6::UNREACHABLE, 0 | 2 | 3) => unreachable(HOST),
        (icmpv6::UNREACHABLE, 1) => unreachable(PROHIBITED),
        (icmpv6::UNREACHABLE, icmpv6::CODE_PORT) => unreachable(icmp::CODE_PORT),
        (icmpv6::PACKET_TOO_BIG, _) => {
            let [high, low] = mtu.to_be_bytes();
            Some((icmp::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, [0, 0, high, low]))
        }
        (icmpv6::TIME_EXCEEDED, code) => Some((icmp::TIME_EXCEEDED, code, [0; 4])),
        (icmpv6::PARAMETER_PROBLEM, 0) => {
            let pointer = match u32::from_be_bytes(info) {
                at @ (0 | 1) => at as u8,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            Some((icmp::PARAMETER_PROBLEM, 0, [pointer, 0, 0, 0]))
        }
        (icmpv6::PARAMETER_PROBLEM, 1) => unreachable(PROTOCOL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_codes_are_those_of_rfc_7915() {
        let five = [5, 0, 0, 0];
        for (v4, expected) in [
            ((3, 0, five), Some((1, 0, [0; 4]))),
            ((3, 1, five), Some((1, 0, [0; 4]))),
            ((3, 2, five), Some((4, 1, [0, 0, 0, 6]))),
            ((3, 3, five), Some((1, 4, [0; 4]))),
            ((3, 4, five), Some((2, 0, [0, 0, 5, 0xdc]))),
            ((3, 5, five), Some((1, 0, [0; 4]))),
            ((3, 9, five), Some((1, 1, [0; 4]))),
            ((3, 12, five), Some((1, 0, [0; 4]))),
            ((3, 13, five), Some((1, 1, [0; 4]))),
            ((3, 14, five), None),
            ((3, 15, five), Some((1, 1, [0; 4]))),
            ((3, 16, five), None),
            ((4, 0, five), None),
            ((11, 1, five), Some((3, 1, [0; 4]))),
            ((12, 0, [0; 4]), Some((4, 0, [0, 0, 0, 0]))),
            ((12, 0, [3, 0, 0, 0]), Some((4, 0, [0, 0, 0, 4]))),
            ((12, 2, [9, 0, 0, 0]), Some((4, 0, [0, 0, 0, 6]))),
            ((12, 0, [8, 0, 0, 0]), Some((4, 0, [0, 0, 0, 7]))),
            ((12, 0, [15, 0, 0, 0]), Some((4, 0, [0, 0, 0, 8]))),
            ((12, 0, [19, 0, 0, 0]), Some((4, 0, [0, 0, 0, 24]))),
            ((12, 0, five), None),
            ((12, 1, [0; 4]), None),
        ] {
            assert_eq!(said_in_v6(v4, 1500), expected, "{v4:?}");
        }
        for (v6, expected) in [
            ((1, 0, [0; 4]), Some((3, 1, [0; 4]))),
            ((1, 1, [0; 4]), Some((3, 10, [0; 4]))),
            ((1, 2, [0; 4]), Some((3, 1, [0; 4]))),
            ((1, 3, [0; 4]), Some((3, 1, [0; 4]))),
            ((1, 4, [0; 4]), Some((3, 3, [0; 4]))),
            ((1, 5, [0; 4]), None),
            ((2, 0, [0; 4]), Some((3, 4, [0, 0, 5, 0xdc]))),
            ((3, 0, [0; 4]), Some((11, 0, [0; 4]))),
            ((4, 0, [0, 0, 0, 1]), Some((12, 0, [1, 0, 0, 0]))),
            ((4, 0, [0, 0, 0, 2]), None),
            ((4, 0, [0, 0, 0, 5]), Some((12, 0, [2, 0, 0, 0]))),
            ((4, 0, [0, 0, 0, 6]), Some((12, 0, [9, 0, 0, 0]))),
            ((4, 0, [0, 0, 0, 7]), Some((12, 0, [8, 0, 0, 0]))),
            ((4, 0, [0, 0, 0, 23]), Some((12, 0, [12, 0, 0, 0]))),
            ((4, 0, [0, 0, 0, 39]), Some((12, 0, [16, 0, 0, 0]))),
            ((4, 0, [0, 0, 0, 40]), None),
            ((4, 1, [0; 4]), Some((3, 2, [0; 4]))),
            ((4, 2, [0; 4]), None),
        ] {
            assert_eq!(said_in_v4(v6, 1500), expected, "{v6:?}");
        }
    }

    #[test]
    fn mtus_that_are_not_told_are_guessed() {
        for (length, guess) in [(65_535, 32_000), (1500, 1492), (1492, 1280), (2002, 1492), (600, 1280)] {
            assert_eq!(plateau(length), guess);
        }
    }
}
