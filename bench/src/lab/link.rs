//! Links between namespaces: veth pairs.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::guard::LINK_GROUP;
use super::netns::{Netns, ip_batch};
use super::process::run;

/// One end of a link: an interface in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where the interface is.
    pub netns: &'a Netns,
    /// Its name, 15 bytes at most.
    pub interface: &'a str,
    /// Its addresses, each with a prefix of 24 bits; none for a bridge's port. The first gives the MAC address.
    pub addresses: &'a [Ipv4Addr],
}

impl<'a> End<'a> {
    /// An interface to be made in a namespace.
    #[must_use]
    pub fn new(netns: &'a Netns, interface: &'a str, addresses: &'a [Ipv4Addr]) -> Self {
        Self { netns, interface, addresses }
    }
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// One end.
    pub a: End<'a>,
    /// The other end.
    pub b: End<'a>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Receive and transmit queues of both ends.
    pub queues: u32,
}

/// Environment variable with the `offload` of all directors of the lab, so that every test can be run with established
/// connections in the kernel, and without. By default they have none, as an operator's that says nothing of it.
pub const OFFLOAD: &str = "SLUICE_LAB_OFFLOAD";

fn offload() -> Option<String> {
    std::env::var(OFFLOAD).ok().filter(|choice| !choice.is_empty())
}

/// The keys of `[director]` by which what [`OFFLOAD`] says is done. Where connections are carried, they are soon, so that
/// short ones are, too.
#[must_use]
pub(super) fn offload_keys() -> String {
    match offload() {
        None => String::new(),
        Some(choice) if choice == "off" => "offload = \"off\"\n".to_owned(),
        Some(choice) => format!("offload = \"{choice}\"\noffload_after = 2\n"),
    }
}

impl Link<'_> {
    /// Makes the pair, gives it addresses and brings it up.
    ///
    /// All offloads are off: a veth hands its peer packets whose checksums are unfinished and segments larger than the
    /// MTU, trusting that no wire is in between, which a program that forwards frames as they are must not trust.
    ///
    /// But for GRO, unless [`OFFLOAD`] is `off`: without, a veth takes no redirected frames, as a NIC's driver does.
    ///
    /// # Errors
    /// When `ip` or `ethtool` refuses.
    pub fn make(&self) -> Result<()> {
        let Self { a, b, mtu, queues } = self;
        let spec = |end: &End| {
            let mac = end
                .addresses
                .first()
                .map(|&address| format!(" address {}", mac_text(address)))
                .unwrap_or_default();
            let (interface, netns) = (end.interface, end.netns.name());
            format!("name {interface} netns {netns} mtu {mtu} numtxqueues {queues} numrxqueues {queues}{mac}")
        };
        // The group is only understood for the first end; deleting one end takes the other with it.
        ip_batch(&[], &[format!("link add group {LINK_GROUP} {} type veth peer {}", spec(a), spec(b))])?;
        let gro = if offload().is_some_and(|choice| choice == "off") { "off" } else { "on" };
        // Of both before either is up: an end looks for GRO at the other one when it comes up.
        for end in [a, b] {
            run(end
                .netns
                .command("ethtool")
                .args(["-K", end.interface])
                .args(["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", gro]))?;
        }
        for end in [a, b] {
            let mut lines: Vec<String> = end
                .addresses
                .iter()
                .map(|address| format!("address add {address}/24 dev {}", end.interface))
                .collect();
            lines.push(format!("link set {} up", end.interface));
            end.netns.ip(&lines)?;
        }
        Ok(())
    }
}

/// The MAC address that a lab gives the interface with this address: `02:00` and the four bytes, so that a capture can
/// be read without a table.
#[must_use]
pub const fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x00, a, b, c, d]
}

fn mac_text(address: Ipv4Addr) -> String {
    mac_of(address).map(|byte| format!("{byte:02x}")).join(":")
}

/// What an interface has counted, from `/proc/net/dev`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

impl Counters {
    pub(super) fn parse(table: &str, interface: &str) -> Option<Self> {
        let line =
            table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
        let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let &[rx_bytes, rx_packets, _, _, _, _, _, _, tx_bytes, tx_packets, ..] = fields.as_slice() else {
            return None;
        };
        Some(Self { rx_packets, rx_bytes, tx_packets, tx_bytes })
    }

    /// What was counted since an earlier reading.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - earlier.rx_packets,
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_right_line() {
        let table = "Inter-|   Receive\n face |bytes\n    lo:       1       2    0    0    0     0          0         0        3       4    0    0    0     0       0          0\n  eth1:10 20 0 0 0 0 0 0 30 40 0 0 0 0 0 0\n eth10:11 21 0 0 0 0 0 0 31 41 0 0 0 0 0 0\n";
        let expected = Counters { rx_packets: 20, rx_bytes: 10, tx_packets: 40, tx_bytes: 30 };
        assert_eq!(Counters::parse(table, "eth1"), Some(expected));
        assert_eq!(Counters::parse(table, "eth"), None);
        assert_eq!(Counters::parse(table, "lo").map(|c| c.tx_packets), Some(4));
    }

    #[test]
    fn a_mac_address_spells_the_address() {
        assert_eq!(mac_text(Ipv4Addr::new(10, 0, 2, 254)), "02:00:0a:00:02:fe");
    }
}
