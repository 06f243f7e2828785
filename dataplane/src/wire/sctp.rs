//! SCTP (RFC 9260): the common header and the chunks that a connection is
//! followed by.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32};

/// The common header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port
    pub source: Be16,
    /// Destination port
    pub destination: Be16,
    /// Verification tag
    pub tag: Be32,
    /// CRC32c of the packet with this field 0, the lowest byte first (RFC 9260,
    /// appendix A). It covers no address.
    pub checksum: [u8; 4],
}

/// The first bytes of every chunk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ChunkHeader {
    kind: u8,
    flags: u8,
    length: Be16,
}

/// What a packet does to a connection: the kind of its first chunk, as far as
/// IPVS tells kinds apart (`set_sctp_state` in ip_vs_proto_sctp.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Chunk {
    /// There is none: nothing happens
    None,
    /// DATA and all that are not below
    Data,
    /// INIT
    Init,
    /// INIT ACK
    InitAck,
    /// COOKIE ECHO
    CookieEcho,
    /// COOKIE ACK
    CookieAck,
    /// SHUTDOWN
    Shutdown,
    /// SHUTDOWN ACK
    ShutdownAck,
    /// SHUTDOWN COMPLETE
    ShutdownComplete,
    /// ERROR
    Error,
    /// ABORT
    Abort,
    /// ABORT behind COOKIE ECHO or COOKIE ACK
    LateAbort,
}

impl Chunk {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Chunk; 12] = [
        Chunk::None,
        Chunk::Data,
        Chunk::Init,
        Chunk::InitAck,
        Chunk::CookieEcho,
        Chunk::CookieAck,
        Chunk::Shutdown,
        Chunk::ShutdownAck,
        Chunk::ShutdownComplete,
        Chunk::Error,
        Chunk::Abort,
        Chunk::LateAbort,
    ];

    /// The chunk that decides, of those that follow the common header.
    pub fn deciding(chunks: &[u8]) -> Chunk {
        let Ok((first, _)) = ChunkHeader::ref_from_prefix(chunks) else { return Chunk::None };
        let kind = Chunk::of_kind(first.kind);
        if matches!(kind, Chunk::CookieEcho | Chunk::CookieAck) {
            let length = usize::from(first.length.get());
            let second =
                chunks.get(length.next_multiple_of(4)..).filter(|_| length >= size_of::<ChunkHeader>());
            let second = second.and_then(|rest| ChunkHeader::ref_from_prefix(rest).ok());
            if second.is_some_and(|(second, _)| Chunk::of_kind(second.kind) == Chunk::Abort) {
                return Chunk::LateAbort;
            }
        }
        kind
    }

    fn of_kind(kind: u8) -> Chunk {
        match kind {
            1 => Chunk::Init,
            2 => Chunk::InitAck,
            6 => Chunk::Abort,
            7 => Chunk::Shutdown,
            8 => Chunk::ShutdownAck,
            9 => Chunk::Error,
            10 => Chunk::CookieEcho,
            11 => Chunk::CookieAck,
            14 => Chunk::ShutdownComplete,
            _ => Chunk::Data,
        }
    }
}

/// Gives a whole packet other ports, and its checksum what that changes.
///
/// CRC is linear: what was wrong before is wrong by as much afterwards, so that
/// the receiver still finds out. IPVS makes a new checksum, which hides it.
///
/// # Errors
/// `None` for a packet without a common header.
pub fn replace_ports(packet: &mut [u8], source: u16, destination: u16) -> Option<()> {
    let (header, _) = Header::mut_from_prefix(packet).ok()?;
    if (header.source.get(), header.destination.get()) == (source, destination) {
        return Some(());
    }
    let before = crc32c::crc32c(packet);
    let (header, _) = Header::mut_from_prefix(packet).ok()?;
    (header.source, header.destination) = (source.into(), destination.into());
    // Both over the old checksum, which they have in common.
    let change = before ^ crc32c::crc32c(packet);
    let (header, _) = Header::mut_from_prefix(packet).ok()?;
    header.checksum = (u32::from_le_bytes(header.checksum) ^ change).to_le_bytes();
    Some(())
}

/// Sets the checksum of a whole packet.
#[cfg(test)]
fn fill_checksum(packet: &mut [u8]) {
    let Ok((header, _)) = Header::mut_from_prefix(packet) else { return };
    header.checksum = [0; 4];
    let checksum = crc32c::crc32c(packet).to_le_bytes();
    if let Ok((header, _)) = Header::mut_from_prefix(packet) {
        header.checksum = checksum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An INIT from port 1047 to 80 that went through IPVS, and came out with
    /// port 8080.
    const BEFORE: &str = "04170050000000079a26da380100001400000009000100000001000100000001";
    const AFTER: &str = "04171f90000000076c1196ed0100001400000009000100000001000100000001";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn ports_are_replaced_as_by_ipvs() {
        let mut packet = bytes(BEFORE);
        fill_checksum(&mut packet);
        replace_ports(&mut packet, 1047, 8080).unwrap();
        assert_eq!(packet, bytes(AFTER));
        let mut again = packet.clone();
        fill_checksum(&mut again);
        assert_eq!(packet, again);
        replace_ports(&mut packet, 1047, 8080).unwrap();
        assert_eq!(packet, again, "the same ports");
    }

    #[test]
    fn what_was_wrong_stays_wrong() {
        let mut packet = bytes(AFTER);
        packet[20] ^= 0x10;
        replace_ports(&mut packet, 4711, 9).unwrap();
        let mut whole = packet.clone();
        fill_checksum(&mut whole);
        assert_ne!(packet, whole);
        packet[20] ^= 0x10;
        fill_checksum(&mut whole);
        let mut mended = packet.clone();
        fill_checksum(&mut mended);
        assert_eq!(packet, mended);
    }

    #[test]
    fn one_chunk_decides() {
        for (chunks, expected) in [
            (&[][..], Chunk::None),
            (&[1, 0, 0], Chunk::None),
            (&[0, 3, 0, 20], Chunk::Data),
            (&[3, 0, 0, 4], Chunk::Data),
            (&[255, 0, 0, 4], Chunk::Data),
            (&[1, 0, 0, 4], Chunk::Init),
            (&[10, 0, 0, 4, 6, 0, 0, 4], Chunk::LateAbort),
            (&[10, 0, 0, 6, 0, 0, 0, 0, 6, 0, 0, 4], Chunk::LateAbort),
            (&[11, 0, 0, 4, 0, 3, 0, 4], Chunk::CookieAck),
            (&[11, 0, 0, 3, 6, 0, 0, 4], Chunk::CookieAck),
            (&[10, 0, 255, 255, 6, 0, 0, 4], Chunk::CookieEcho),
            (&[0, 0, 0, 4, 6, 0, 0, 4], Chunk::Data),
        ] {
            assert_eq!(Chunk::deciding(chunks), expected, "{chunks:?}");
        }
        for (i, chunk) in Chunk::ALL.into_iter().enumerate() {
            assert_eq!(chunk as usize, i);
        }
    }
}
