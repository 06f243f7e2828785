//! An interface's RSS, by ethtool requests.

use std::io;

use super::Link;
use crate::rss::{HashFields, Hashed, MAX_TABLE, Settings};

/// `ETHTOOL_GDRVINFO`, `ETHTOOL_GRSSH`, `ETHTOOL_SRSSH` and `ETHTOOL_GRXFH` in
/// `include/uapi/linux/ethtool.h`.
const GET_DRIVER: u32 = 0x3;
const GET_RSS: u32 = 0x46;
const SET_RSS: u32 = 0x47;
const GET_HASH_FIELDS: u32 = 0x29;

/// Words of `struct ethtool_rxfh` before the table: command, context, size of
/// the table, size of the key, function with the transformation of the input,
/// and one that is reserved.
const RSS_HEADER: usize = 6;

/// Bytes of the largest key that is read.
const MAX_KEY: u32 = 1024;

/// Words of `struct ethtool_drvinfo`, and some to spare; the driver's name
/// begins at the second.
const DRIVER_WORDS: usize = 64;

/// The driver whose devices forget their RSS.
const FORGETFUL: &[u8] = b"virtio_net\0";

/// `ETH_RSS_HASH_TOP`
const TOEPLITZ: u8 = 1;

/// `RXH_XFRM_SYM_XOR`
const SYMMETRIC_XOR: u8 = 1;

/// `TCP_V4_FLOW` and so on.
const TCP_V4: u32 = 1;
const UDP_V4: u32 = 2;
const TCP_V6: u32 = 5;
const UDP_V6: u32 = 6;

/// `RXH_IP_SRC`, `RXH_IP_DST`, `RXH_L4_B_0_1`, `RXH_L4_B_2_3`
const ADDRESSES: u64 = 1 << 4 | 1 << 5;
const PORTS: u64 = 1 << 6 | 1 << 7;

/// Words of `struct ethtool_rxnfc`, and some to spare: the kernel copies all of
/// it for some drivers.
const FIELDS_WORDS: usize = 64;

/// Why it is not known which queue a packet lands on.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// The driver tells of no table
    #[error("its driver has no RSS table that could be read")]
    NoTable,
    /// It does not hash by Toeplitz
    #[error("its hash function is not Toeplitz")]
    Function,
    /// It changes the input in a way that is not linear, or not known
    #[error("it transforms what is hashed in an unknown way")]
    Transformation,
    /// It hashes neither addresses nor ports of TCP and UDP
    #[error("it hashes other fields than addresses and ports")]
    Fields,
    /// The kernel refused
    #[error("its RSS settings cannot be read: {0}")]
    System(#[from] io::Error),
}

impl Link {
    /// How it spreads what it receives over its queues.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn rss(&self) -> Result<Settings, Unknown> {
        let (request, entries, key_bytes) = self.read_rss()?;
        let fields = HashFields {
            tcp_v4: self.hashed(TCP_V4),
            udp_v4: self.hashed(UDP_V4),
            tcp_v6: self.hashed(TCP_V6),
            udp_v6: self.hashed(UDP_V6),
        };
        decoded(&request, entries, key_bytes, fields)
    }

    /// Sets the RSS that is in force anew where the device has most likely
    /// forgotten it; answers whether that was so.
    ///
    /// `virtio_net` sets the number of its queues when an XDP program is
    /// attached, and by that command a device leaves RSS for a steering of its
    /// own (`VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`, section 5.1.6.5.6 of virtio
    /// 1.2), while the driver goes on showing the table.
    ///
    /// # Errors
    /// When the kernel refuses. An interface without RSS is no error.
    pub fn renew_rss(&self) -> io::Result<bool> {
        let mut driver = [0u32; DRIVER_WORDS];
        driver[0] = GET_DRIVER;
        match self.ask_rss(&mut driver) {
            Ok(()) => {}
            Err(Unknown::System(error)) => return Err(error),
            Err(_) => return Ok(false),
        }
        let name: Vec<u8> = driver[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
        if !name.starts_with(FORGETFUL) {
            return Ok(false);
        }
        let renewed = self.read_rss().and_then(|(mut request, ..)| {
            request[0] = SET_RSS;
            self.ask_rss(&mut request)
        });
        match renewed {
            Ok(()) => Ok(true),
            Err(Unknown::System(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// `struct ethtool_rxfh` with its table and key, and their sizes.
    fn read_rss(&self) -> Result<(Vec<u32>, usize, usize), Unknown> {
        let mut header = [0u32; RSS_HEADER];
        header[0] = GET_RSS;
        self.ask_rss(&mut header)?;
        let (entries, key_bytes) = (header[2], header[3]);
        if entries == 0 || key_bytes == 0 {
            return Err(Unknown::NoTable);
        }
        if entries as usize > MAX_TABLE || key_bytes > MAX_KEY {
            return Err(io::Error::from_raw_os_error(libc::E2BIG).into());
        }
        let words = RSS_HEADER + entries as usize + key_bytes.div_ceil(4) as usize;
        let mut request = vec![0u32; words];
        (request[0], request[2], request[3]) = (GET_RSS, entries, key_bytes);
        self.ask_rss(&mut request)?;
        Ok((request, entries as usize, key_bytes as usize))
    }

    /// What of a kind of packet is hashed.
    fn hashed(&self, kind: u32) -> Hashed {
        let mut request = [0u32; FIELDS_WORDS];
        (request[0], request[1]) = (GET_HASH_FIELDS, kind);
        if self.ask_rss(&mut request).is_err() {
            return Hashed::Unknown;
        }
        of_fields([request[2], request[3]])
    }

    fn ask_rss(&self, request: &mut [u32]) -> Result<(), Unknown> {
        self.ethtool(request).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Unknown::NoTable,
            _ => error.into(),
        })
    }
}

/// What the kernel answered, with a table and a key of such sizes.
fn decoded(
    answer: &[u32],
    entries: usize,
    key_bytes: usize,
    fields: HashFields,
) -> Result<Settings, Unknown> {
    let [function, transformation, ..] = answer[4].to_ne_bytes();
    // Drivers with one function only may leave it out.
    if function & !TOEPLITZ != 0 {
        return Err(Unknown::Function);
    }
    if transformation & !SYMMETRIC_XOR != 0 {
        return Err(Unknown::Transformation);
    }
    if fields == HashFields::default() {
        return Err(Unknown::Fields);
    }
    let (table, key) = answer[RSS_HEADER..].split_at(entries);
    let mut key: Vec<u8> = key.iter().flat_map(|word| word.to_ne_bytes()).collect();
    key.truncate(key_bytes);
    Ok(Settings { key, table: table.to_vec(), fields, symmetric: transformation & SYMMETRIC_XOR != 0 })
}

/// The `data` of `struct ethtool_rxnfc`, a number of 64 bits in two words.
fn of_fields([first, second]: [u32; 2]) -> Hashed {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    match u64::from_ne_bytes([a, b, c, d, e, f, g, h]) {
        fields if fields == ADDRESSES | PORTS => Hashed::Ports,
        ADDRESSES => Hashed::Addresses,
        _ => Hashed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of four entries and a key of six bytes.
    fn answer(function: u8, transformation: u8) -> Vec<u32> {
        let flags = u32::from_ne_bytes([function, transformation, 0, 0]);
        let key = [[1, 2, 3, 4], [5, 6, 0, 0]].map(u32::from_ne_bytes);
        [&[GET_RSS, 0, 4, 6, flags, 0, 0, 1, 2, 1][..], &key].concat()
    }

    #[test]
    fn an_answer_is_understood_or_refused() {
        let fields = HashFields::all(Hashed::Ports);
        for (function, transformation, symmetric) in [(1, 0, false), (0, 0, false), (1, 1, true)] {
            let settings = decoded(&answer(function, transformation), 4, 6, fields).unwrap();
            let expected =
                Settings { key: vec![1, 2, 3, 4, 5, 6], table: vec![0, 1, 2, 1], fields, symmetric };
            assert_eq!(settings, expected);
        }
        let refused = |function, transformation, fields| {
            decoded(&answer(function, transformation), 4, 6, fields).unwrap_err().to_string()
        };
        assert_eq!(refused(2, 0, fields), "its hash function is not Toeplitz");
        assert_eq!(refused(1, 2, fields), "it transforms what is hashed in an unknown way");
        assert_eq!(refused(1, 0, HashFields::default()), "it hashes other fields than addresses and ports");
    }

    #[test]
    fn fields_are_told_apart() {
        let of = |fields: u64| {
            let [a, b, c, d, e, f, g, h] = fields.to_ne_bytes();
            of_fields([u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])])
        };
        assert_eq!(of(0xf0), Hashed::Ports);
        assert_eq!(of(0x30), Hashed::Addresses);
        for other in [0, 0x10, 0x70, 0xf2, 0x1_0000_00f0] {
            assert_eq!(of(other), Hashed::Unknown, "{other:x}");
        }
    }
}
