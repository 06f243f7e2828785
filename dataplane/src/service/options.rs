//! What is out of the ordinary about a service.

use crate::wire::Address;

/// Settings of a service beside its scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceOptions {
    /// One-packet scheduling (`ipvsadm -o`): each datagram is scheduled by
    /// itself and no connection stays. TCP is not affected.
    pub one_packet: bool,
    /// Persistence (`ipvsadm -p`), if any
    pub persistence: Option<Persistence>,
    /// What persistence goes by beside the client (`--pe`); means nothing
    /// without it
    pub engine: Option<Engine>,
    /// Whether its established connections are carried in the kernel
    pub offload: OffloadChoice,
}

/// Whether established connections are carried in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OffloadChoice {
    /// Where that pays; of a service, as the director has it
    #[default]
    Auto,
    /// On every interface that can
    On,
    /// Never
    Off,
}

impl OffloadChoice {
    /// All, with their names.
    pub const ALL: [(&'static str, OffloadChoice); 3] =
        [("auto", OffloadChoice::Auto), ("on", OffloadChoice::On), ("off", OffloadChoice::Off)];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            OffloadChoice::Auto => "auto",
            OffloadChoice::On => "on",
            OffloadChoice::Off => "off",
        }
    }
}

/// A persistence engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The Call-ID of SIP over UDP (`ip_vs_pe_sip.c`). What has none begins no
    /// connection.
    Sip,
}

impl Engine {
    /// The engine of a name that `ipvsadm` takes.
    pub fn from_name(name: &str) -> Option<Engine> {
        (name == Engine::Sip.name()).then_some(Engine::Sip)
    }

    /// The name that `ipvsadm` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Sip => "sip",
        }
    }
}

/// How connections of one client keep to one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Persistence {
    /// How long a client is remembered, in seconds
    pub timeout: u32,
    /// The bits of a client's address that tell it from others
    pub mask: ClientMask,
}

/// The bits of an address that count, as an IPv6 address has them
/// (`ipvsadm -M`). An IPv4 mask may have gaps, as IPVS takes any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientMask(u128);

impl ClientMask {
    /// Every client by itself.
    pub const HOST: ClientMask = ClientMask(u128::MAX);

    /// An IPv4 netmask, in network order.
    pub fn v4(mask: [u8; 4]) -> Self {
        ClientMask(u128::MAX << 32 | u128::from(u32::from_be_bytes(mask)))
    }

    /// The leading `bits` of an IPv6 address; more than 128 are all.
    pub fn v6(bits: u8) -> Self {
        ClientMask(u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0))
    }

    /// The IPv4 netmask, in network order.
    pub fn v4_mask(self) -> [u8; 4] {
        (self.0 as u32).to_be_bytes()
    }

    /// How many leading bits of an IPv6 address count.
    pub fn v6_bits(self) -> u8 {
        self.0.leading_ones() as u8
    }

    /// The address that stands for all clients who are one to the service.
    #[inline]
    pub fn network(self, client: Address) -> Address {
        Address::from_v6((u128::from_be_bytes(client.bytes()) & self.0).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_bits_that_count() {
        let v4 = |mask, client| ClientMask::v4(mask).network(Address::from_v4(client)).to_string();
        assert_eq!(v4([255; 4], [198, 51, 100, 77]), "198.51.100.77");
        assert_eq!(v4([255, 255, 255, 192], [198, 51, 100, 77]), "198.51.100.64");
        assert_eq!(v4([255, 0, 255, 0], [198, 51, 100, 77]), "198.0.100.0");
        assert_eq!(v4([0; 4], [198, 51, 100, 77]), "0.0.0.0");
        let v6 = |bits| {
            let client: std::net::Ipv6Addr = "2001:db8:1:2:3:4:5:ffff".parse().unwrap();
            ClientMask::v6(bits).network(client.into()).to_string()
        };
        assert_eq!(v6(128), "2001:db8:1:2:3:4:5:ffff");
        assert_eq!(v6(64), "2001:db8:1:2::");
        assert_eq!(v6(113), "2001:db8:1:2:3:4:5:8000");
        assert_eq!(v6(0), "::");
    }
}
