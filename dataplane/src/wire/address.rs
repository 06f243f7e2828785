//! An IP address of either family in one fixed-size value.
//!
//! IPv4 addresses are kept as IPv4-mapped IPv6 addresses (RFC 4291, section
//! 2.5.5.2), so that tuples, tables and hashes have one shape for both
//! families and no branch on the family is needed to compare them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv4 or IPv6 address, of which the order is that of its bytes.
///
/// Two integers and no array: an IPv4 address becomes one in registers, while an
/// array would be written piece by piece and read as a whole, which processors
/// wait for.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Address {
    high: u64,
    low: u64,
}

/// What bits 32 and up of the lower half are in an IPv4-mapped address.
const V4_PREFIX: u64 = 0xffff;

impl Address {
    /// The IPv4 address of four bytes in network order.
    #[inline]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Address { high: 0, low: V4_PREFIX << 32 | u32::from_be_bytes(v4) as u64 }
    }

    /// The IPv6 address of sixteen bytes in network order.
    #[inline]
    pub const fn from_v6(v6: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(v6);
        Address { high: (number >> 64) as u64, low: number as u64 }
    }

    /// The four bytes of an IPv4 address, or `None` for IPv6.
    #[inline]
    pub fn v4(self) -> Option<[u8; 4]> {
        self.is_v4().then(|| self.v4_bytes())
    }

    /// The last four bytes: the IPv4 address where [`Address::is_v4`] holds.
    #[inline]
    pub fn v4_bytes(self) -> [u8; 4] {
        (self.low as u32).to_be_bytes()
    }

    /// All sixteen bytes, IPv4 in its mapped form.
    #[inline]
    pub fn bytes(self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }

    /// The address of two halves, as [`Address::words`] gives them.
    #[inline]
    pub(crate) fn from_words([high, low]: [u64; 2]) -> Self {
        Address { high, low }
    }

    /// The two halves, for hashing and comparing.
    #[inline]
    pub fn words(self) -> (u64, u64) {
        (self.high, self.low)
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == V4_PREFIX
    }

    /// Whether this is the unspecified address of its family.
    pub fn is_unspecified(self) -> bool {
        IpAddr::from(self).is_unspecified()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(v4: Ipv4Addr) -> Self {
        Address::from_v4(v4.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(v6: Ipv6Addr) -> Self {
        Address::from_v6(v6.octets())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.v4() {
            Some(v4) => IpAddr::V4(v4.into()),
            None => IpAddr::V6(address.bytes().into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_way_through() {
        for text in ["192.0.2.10", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let address = Address::from(ip);
            assert_eq!(IpAddr::from(address), ip);
            assert_eq!(address.is_v4(), ip.is_ipv4());
            assert_eq!(address.to_string(), text);
        }
    }
}
