//! Address prefixes, and a map from them with longest-prefix match.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hashbrown::HashMap;

use crate::wire::Address;

/// Length in bits of the part that every IPv4-mapped address shares.
const V4_BITS: u8 = 96;

/// A network prefix such as `10.0.2.0/24` or `2001:db8::/32`; bits after its
/// length are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: Address,
    length: u8,
}

/// Text that is no prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected ADDRESS/LENGTH, as in 10.0.2.0/24 or 2001:db8::/32")]
pub struct ParsePrefixError;

impl Prefix {
    /// The prefix of the first `length` bits of an address (counted within its
    /// family: 0 to 32 or 0 to 128). `None` when there are not so many.
    pub fn new(address: Address, length: u8) -> Option<Self> {
        let family_bits = if address.is_v4() { 32 } else { 128 };
        if length > family_bits {
            return None;
        }
        let offset = if address.is_v4() { V4_BITS } else { 0 };
        let bits = bits(address) & mask(length + offset);
        // An IPv6 prefix that, once cut, looks like an IPv4-mapped address
        // would change its family. Such addresses are never routed.
        let cut = Address::from_v6(bits.to_be_bytes());
        (cut.is_v4() == address.is_v4()).then_some(Prefix { address: cut, length })
    }

    /// The prefix that holds one address only.
    pub fn host(address: Address) -> Self {
        Prefix { address, length: if address.is_v4() { 32 } else { 128 } }
    }

    /// The prefix of all IPv4 addresses.
    pub const V4_DEFAULT: Prefix = Prefix { address: Address::from_v4([0; 4]), length: 0 };

    /// The prefix of all IPv6 addresses.
    pub const V6_DEFAULT: Prefix = Prefix { address: Address::from_v6([0; 16]), length: 0 };

    /// "This network", 0.0.0.0/8 (RFC 1122, section 3.2.1.3).
    pub const V4_THIS_NETWORK: Prefix = Prefix { address: Address::from_v4([0; 4]), length: 8 };

    /// IPv4 multicast, 224.0.0.0/4 (RFC 5771).
    pub const V4_MULTICAST: Prefix = Prefix { address: Address::from_v4([224, 0, 0, 0]), length: 4 };

    /// The limited broadcast address (RFC 919).
    pub const V4_BROADCAST: Prefix = Prefix { address: Address::from_v4([255; 4]), length: 32 };

    /// IPv6 multicast, ff00::/8 (RFC 4291, section 2.7).
    pub const V6_MULTICAST: Prefix =
        Prefix { address: Address::from_v6([255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), length: 8 };

    /// The first address of the prefix.
    pub fn address(self) -> Address {
        self.address
    }

    /// Its length in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether the address is of this prefix's family and within it.
    pub fn contains(self, address: Address) -> bool {
        self.address.is_v4() == address.is_v4()
            && bits(address) & mask(self.mapped_length()) == bits(self.address)
    }

    /// The bits of an IPv4-mapped address that it is about.
    pub(crate) fn mapped_mask(self) -> [u8; 16] {
        mask(self.mapped_length()).to_be_bytes()
    }

    /// Its length in bits of the IPv4-mapped address.
    pub(crate) fn mapped_length(self) -> u8 {
        if self.address.is_v4() { self.length + V4_BITS } else { self.length }
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let (address, length) = text.split_once('/').ok_or(ParsePrefixError)?;
        let address: IpAddr = address.parse().map_err(|_| ParsePrefixError)?;
        let length: u8 = length.parse().map_err(|_| ParsePrefixError)?;
        Prefix::new(address.into(), length).ok_or(ParsePrefixError)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn bits(address: Address) -> u128 {
    u128::from_be_bytes(address.bytes())
}

/// The first `length` (0 to 128) bits set.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// A map from prefixes, looked up by address.
///
/// One hash table for each prefix length in use, tried from the longest on. A
/// host has a handful of lengths, a router with a full table some twenty-five,
/// and a lookup happens once for a connection; a trie would have to be much
/// bigger to be faster.
#[derive(Clone, Debug)]
pub(crate) struct PrefixMap<T> {
    v4: Vec<Level<T>>,
    v6: Vec<Level<T>>,
}

#[derive(Clone, Debug)]
struct Level<T> {
    mapped_length: u8,
    mask: u128,
    entries: HashMap<u128, T>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        PrefixMap { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T: Copy> PrefixMap<T> {
    /// Enters a prefix, unless it is there already: the first one stays.
    pub(crate) fn insert(&mut self, prefix: Prefix, value: T) {
        let levels = if prefix.address.is_v4() { &mut self.v4 } else { &mut self.v6 };
        let length = prefix.mapped_length();
        // Longest first.
        let at = match levels.binary_search_by(|level| length.cmp(&level.mapped_length)) {
            Ok(at) => at,
            Err(at) => {
                let level = Level { mapped_length: length, mask: mask(length), entries: HashMap::new() };
                levels.insert(at, level);
                at
            }
        };
        levels[at].entries.entry(bits(prefix.address)).or_insert(value);
    }

    /// The value of the longest prefix that contains the address.
    #[inline]
    pub(crate) fn lookup(&self, address: Address) -> Option<T> {
        let levels = if address.is_v4() { &self.v4 } else { &self.v6 };
        let bits = bits(address);
        levels.iter().find_map(|level| level.entries.get(&(bits & level.mask)).copied())
    }

    /// The longest prefix that contains the address.
    pub(crate) fn longest(&self, address: Address) -> Option<Prefix> {
        let levels = if address.is_v4() { &self.v4 } else { &self.v6 };
        let bits = bits(address);
        let level = levels.iter().find(|level| level.entries.contains_key(&(bits & level.mask)))?;
        Prefix::new(address, level.mapped_length - if address.is_v4() { V4_BITS } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_are_cut_to_their_length() {
        let prefix: Prefix = "10.1.2.3/24".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.1.2.0/24");
        assert_eq!("2001:db8:1::5/32".parse::<Prefix>().unwrap().to_string(), "2001:db8::/32");
        assert_eq!("1.2.3.4/0".parse(), Ok(Prefix::V4_DEFAULT));
        assert_eq!("fe80::1/0".parse(), Ok(Prefix::V6_DEFAULT));
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "/8", "10.0.0.0/-1", "10.0.0/8", "x/1"] {
            assert_eq!(bad.parse::<Prefix>(), Err(ParsePrefixError), "{bad}");
        }
    }

    #[test]
    fn families_do_not_contain_each_other() {
        let v4: Address = "10.0.0.1".parse::<IpAddr>().unwrap().into();
        let v6: Address = "::1".parse::<IpAddr>().unwrap().into();
        assert!(Prefix::V4_DEFAULT.contains(v4) && !Prefix::V4_DEFAULT.contains(v6));
        assert!(Prefix::V6_DEFAULT.contains(v6) && !Prefix::V6_DEFAULT.contains(v4));
    }

    /// Addresses that share long prefixes with each other, of both families.
    fn address() -> impl Strategy<Value = Address> {
        let octet = prop_oneof![Just(0u8), Just(1), Just(10), Just(128), Just(255), any::<u8>()];
        prop_oneof![
            prop::array::uniform4(octet.clone()).prop_map(Address::from_v4),
            prop::array::uniform16(octet).prop_map(Address::from_v6),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (address(), 0u8..=128).prop_filter_map("no such prefix", |(address, length)| {
            Prefix::new(address, if address.is_v4() { length % 33 } else { length })
        })
    }

    /// What the map should say, by trying all prefixes.
    fn slow_lookup(entries: &[(Prefix, usize)], address: Address) -> Option<usize> {
        let mut best: Option<(Prefix, usize)> = None;
        for (prefix, value) in entries {
            if prefix.contains(address) && best.is_none_or(|(b, _)| b.length() < prefix.length()) {
                best = Some((*prefix, *value));
            }
        }
        best.map(|(_, value)| value)
    }

    proptest! {
        #[test]
        fn longest_prefix_wins_as_in_the_slow_model(
            prefixes in prop::collection::vec(prefix(), 0..200),
            strangers in prop::collection::vec(address(), 50),
        ) {
            let entries: Vec<_> = prefixes.into_iter().zip(0..).collect();
            let mut map = PrefixMap::default();
            for (prefix, value) in &entries {
                map.insert(*prefix, *value);
            }
            let ends = entries.iter().map(|(prefix, _)| prefix.address());
            for address in ends.chain(strangers) {
                prop_assert_eq!(map.lookup(address), slow_lookup(&entries, address), "{}", address);
            }
        }
    }

    #[test]
    fn thousands_of_routes_are_all_found() {
        let mut map = PrefixMap::default();
        let routes: Vec<_> = (0u32..20_000)
            .map(|i| {
                let address = Address::from_v4((0x0a00_0000 + (i << 6)).to_be_bytes());
                Prefix::new(address, 26 + (i % 7) as u8).unwrap()
            })
            .collect();
        for (prefix, i) in routes.iter().zip(0..) {
            map.insert(*prefix, i);
        }
        for (prefix, i) in routes.iter().zip(0..) {
            assert_eq!(map.lookup(prefix.address()), Some(i));
        }
    }
}
