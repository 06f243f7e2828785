//! IPv6 (RFC 8200), the fixed header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32};

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();
/// Every link takes packets of as many bytes (RFC 8200, section 5).
pub const MIN_MTU: u16 = 1280;
/// Next header: IPv6 in IP (RFC 2473).
pub const IPV6: u8 = 41;
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;
/// Next header: hop-by-hop options.
const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
const ROUTING: u8 = 43;
/// Next header: destination options.
const DESTINATION_OPTIONS: u8 = 60;

/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Bytes of the fragment header.
pub const FRAGMENT_LEN: usize = size_of::<Fragment>();

/// The fragment header (RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fragment {
    /// What follows
    pub next_header: u8,
    /// 0
    pub reserved: u8,
    /// Offset in units of eight bytes, two reserved bits, "more fragments"
    pub offset_more: Be16,
    /// Identification of the packet
    pub id: Be32,
}

impl Fragment {
    /// The bits of [`Fragment::offset_more`] that are the offset in bytes.
    const OFFSET: u16 = 0xfff8;
    const MORE: u16 = 1;

    /// What the header of an IPv4 packet says of it as a fragment (RFC 7915,
    /// section 4.1).
    pub fn of_v4(ip: &super::ipv4::Header) -> Self {
        let flags_offset = ip.flags_offset.get();
        let more = u16::from(flags_offset & super::ipv4::MORE_FRAGMENTS != 0);
        Fragment {
            next_header: ip.protocol,
            reserved: 0,
            offset_more: ((flags_offset & super::ipv4::OFFSET) << 3 | more).into(),
            id: u32::from(ip.id.get()).into(),
        }
    }

    /// Where its data belongs, in bytes.
    #[inline]
    pub fn offset(&self) -> u16 {
        self.offset_more.get() & Fragment::OFFSET
    }

    /// Whether it is not the last of its packet.
    #[inline]
    pub fn more(&self) -> bool {
        self.offset_more.get() & Fragment::MORE != 0
    }

    /// Whether it is all of its packet (RFC 6946).
    #[inline]
    pub fn is_atomic(&self) -> bool {
        self.offset_more.get() & (Fragment::OFFSET | Fragment::MORE) == 0
    }
}

/// Extension headers that are looked past. RFC 8200 (section 4.1) lets a packet
/// have four of the kinds that are; `steer.bpf.c` looks past as many.
pub const MOST_EXTENSIONS: usize = 6;

/// The fixed header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version (6), traffic class and flow label
    pub version_class_flow: Be32,
    /// Bytes behind this header
    pub payload_length: Be16,
    /// What follows
    pub next_header: u8,
    /// Hops left
    pub hop_limit: u8,
    /// Source address
    pub source: [u8; 16],
    /// Destination address
    pub destination: [u8; 16],
}

impl Header {
    /// Version of IP.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// A header with flow label 0.
    pub fn new(
        traffic_class: u8,
        payload_length: u16,
        next_header: u8,
        hop_limit: u8,
        source: [u8; 16],
        destination: [u8; 16],
    ) -> Self {
        Header {
            version_class_flow: (6 << 28 | u32::from(traffic_class) << 20).into(),
            payload_length: payload_length.into(),
            next_header,
            hop_limit,
            source,
            destination,
        }
    }
}

/// Where extension headers lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpperLayer {
    /// Protocol number; of a later fragment, that of the first header in the
    /// part of the packet that was fragmented
    pub protocol: u8,
    /// Offset in what follows the fixed header; of a later fragment, that of its
    /// data
    pub offset: usize,
    /// Offset of the fragment header, if there is one
    pub fragment: Option<usize>,
}

/// Why there is no upper layer to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoUpperLayer {
    /// A header is not whole
    Truncated,
    /// More headers than [`MOST_EXTENSIONS`], two fragment headers, or a routing
    /// header with addresses left to visit (RFC 8200, section 4.4): for a host
    /// to judge
    ForHost,
}

/// Whether a next header is one that is looked past, other than a fragment
/// header.
#[inline]
pub fn is_extension(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS)
}

/// Looks past the hop-by-hop, destination options, routing and fragment headers
/// of a payload. Anything else is the upper layer, and so is whatever a later
/// fragment has behind its fragment header.
pub fn upper_layer(first: u8, payload: &[u8]) -> Result<UpperLayer, NoUpperLayer> {
    let (mut protocol, mut offset, mut fragment) = (first, 0, None);
    for _ in 0..=MOST_EXTENSIONS {
        if protocol != FRAGMENT && !is_extension(protocol) {
            return Ok(UpperLayer { protocol, offset, fragment });
        }
        if protocol == FRAGMENT {
            if fragment.is_some() {
                return Err(NoUpperLayer::ForHost);
            }
            let (header, _) =
                Fragment::ref_from_prefix(&payload[offset..]).map_err(|_| NoUpperLayer::Truncated)?;
            fragment = Some(offset);
            protocol = header.next_header;
            offset += FRAGMENT_LEN;
            if header.offset() != 0 {
                return Ok(UpperLayer { protocol, offset, fragment });
            }
            continue;
        }
        let [next, length, _, segments_left, ..] = payload[offset..] else {
            return Err(NoUpperLayer::Truncated);
        };
        if protocol == ROUTING && segments_left != 0 {
            return Err(NoUpperLayer::ForHost);
        }
        protocol = next;
        offset += (usize::from(length) + 1) * 8;
        if offset > payload.len() {
            return Err(NoUpperLayer::Truncated);
        }
    }
    Err(NoUpperLayer::ForHost)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

    #[test]
    fn headers_are_looked_past() {
        let options = |next: u8, length: u8| {
            let mut header = vec![0; (usize::from(length) + 1) * 8];
            header[..2].copy_from_slice(&[next, length]);
            header
        };
        let routing = |segments_left: u8| vec![TCP, 0, 2, segments_left, 0, 0, 0, 0];
        let at = |protocol, offset| Ok(UpperLayer { protocol, offset, fragment: None });
        let cut = |protocol, offset, fragment| Ok(UpperLayer { protocol, offset, fragment: Some(fragment) });
        let fragment = |next: u8, offset_more: u8| vec![next, 0, 0, offset_more, 1, 2, 3, 4];
        for (what, first, payload, expected) in [
            ("none", TCP, vec![], at(TCP, 0)),
            ("a fragment", FRAGMENT, fragment(TCP, 1), cut(TCP, 8, 0)),
            ("all of a packet", FRAGMENT, fragment(TCP, 6), cut(TCP, 8, 0)),
            (
                "a first fragment",
                HOP_BY_HOP,
                [options(FRAGMENT, 1), fragment(DESTINATION_OPTIONS, 1), options(TCP, 0)].concat(),
                cut(TCP, 32, 16),
            ),
            (
                "a later fragment",
                HOP_BY_HOP,
                [options(FRAGMENT, 1), fragment(DESTINATION_OPTIONS, 9)].concat(),
                cut(DESTINATION_OPTIONS, 24, 16),
            ),
            ("half a fragment header", FRAGMENT, vec![TCP, 0, 0, 0, 0, 0, 0], Err(NoUpperLayer::Truncated)),
            (
                "a header chain that goes on in the next fragment",
                FRAGMENT,
                [fragment(DESTINATION_OPTIONS, 1), options(TCP, 2)[..16].to_vec()].concat(),
                Err(NoUpperLayer::Truncated),
            ),
            ("two", FRAGMENT, fragment(FRAGMENT, 0).repeat(2), Err(NoUpperLayer::ForHost)),
            ("options", HOP_BY_HOP, [options(DESTINATION_OPTIONS, 0), options(TCP, 2)].concat(), at(TCP, 32)),
            ("routing that is over", ROUTING, routing(0), at(TCP, 8)),
            ("routing that is not", ROUTING, routing(1), Err(NoUpperLayer::ForHost)),
            ("cut off", HOP_BY_HOP, vec![TCP, 0, 0], Err(NoUpperLayer::Truncated)),
            ("too short", HOP_BY_HOP, options(TCP, 1)[..15].to_vec(), Err(NoUpperLayer::Truncated)),
            (
                "as many as may be",
                HOP_BY_HOP,
                [options(0, 0).repeat(5), options(TCP, 0)].concat(),
                at(TCP, 48),
            ),
            ("too many", HOP_BY_HOP, options(0, 0).repeat(9), Err(NoUpperLayer::ForHost)),
        ] {
            assert_eq!(upper_layer(first, &payload), expected, "{what}");
        }
    }
}
