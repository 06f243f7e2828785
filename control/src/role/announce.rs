//! Telling neighbours whose MAC an address has now: gratuitous ARP and
//! unsolicited neighbour advertisements.
//!
//! keepalived does the same for the addresses that it moves. This is for what
//! moves them without telling anybody, `ip address add` for example.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use sluice_dataplane::link::Link;
use sluice_dataplane::wire::checksum;
use tokio::task::AbortHandle;

type Mac = [u8; 6];

/// When addresses are announced after a takeover: again, as nobody answers
/// (RFC 5227, section 3), and for addresses that come a moment later.
const AT: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// An address to be announced on an interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Announcement {
    interface: String,
    address: IpAddr,
}

/// Announces addresses after a takeover.
#[derive(Debug, Default)]
pub struct Announcer {
    running: Option<AbortHandle>,
}

impl Announcer {
    /// Announces, some times within a few seconds, what the kernel holds by
    /// then on `interfaces`, and of `service_addresses` (VIPs and LIPs) on any
    /// other. One on the loopback is announced on all of `interfaces`. Needs a
    /// tokio runtime.
    pub fn begin(&mut self, interfaces: Vec<String>, service_addresses: BTreeSet<IpAddr>) {
        self.stop();
        let task = tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            for after in AT {
                tokio::time::sleep_until(begun + after).await;
                announce(&interfaces, &service_addresses);
            }
        });
        self.running = Some(task.abort_handle());
    }

    /// Announces nothing more: the addresses are another director's.
    pub fn stop(&mut self) {
        if let Some(task) = self.running.take() {
            task.abort();
        }
    }
}

fn announce(interfaces: &[String], service_addresses: &BTreeSet<IpAddr>) {
    let announcements = match held(interfaces, service_addresses) {
        Ok(announcements) => announcements,
        Err(error) => {
            tracing::warn!(%error, "addresses are not announced: the kernel's cannot be read");
            return;
        }
    };
    let socket = match open_socket() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "addresses are not announced: no socket");
            return;
        }
    };
    for Announcement { interface, address } in announcements {
        match send(&socket, &interface, address) {
            Ok(()) => tracing::debug!(interface, %address, "announced"),
            Err(error) => tracing::warn!(interface, %address, %error, "an address cannot be announced"),
        }
    }
}

/// The kernel's addresses that are to be announced.
fn held(interfaces: &[String], service_addresses: &BTreeSet<IpAddr>) -> io::Result<BTreeSet<Announcement>> {
    let mut announcements = BTreeSet::new();
    for entry in getifaddrs()? {
        let Some(address) = entry.address.and_then(|storage| {
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|v6| v6.ip().into()))
        }) else {
            continue;
        };
        let unusable = InterfaceFlags::IFF_NOARP | InterfaceFlags::IFF_POINTOPOINT;
        if !entry.flags.contains(InterfaceFlags::IFF_UP) || entry.flags.intersects(unusable) {
            continue;
        }
        let ours = interfaces.contains(&entry.interface_name);
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            if service_addresses.contains(&address) {
                let everywhere = interfaces.iter().cloned();
                announcements.extend(everywhere.map(|interface| Announcement { interface, address }));
            }
        } else if service_addresses.contains(&address) || (ours && !is_link_local(address)) {
            announcements.insert(Announcement { interface: entry.interface_name, address });
        }
    }
    Ok(announcements)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn send(socket: &OwnedFd, interface: &str, address: IpAddr) -> io::Result<()> {
    let link = Link::new(interface)?;
    let mac = link.mac()?;
    let frame = match address {
        IpAddr::V4(v4) => gratuitous_arp(mac, v4),
        IpAddr::V6(v6) => neighbour_advertisement(mac, v6, forwards_ipv6(interface)),
    };
    send_frame(socket, link.index()?, &frame)
}

/// Whether the kernel is a router on an interface. One that says that it is
/// none is taken from its neighbours' default routers (RFC 4861, section 7.2.5).
fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// An ARP announcement (RFC 5227, section 3): a request for one's own address.
fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x08, 0x06]);
    // Ethernet, IPv4, lengths of their addresses, request (RFC 826).
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861, section 7.2.6),
/// which overrides what they know.
fn neighbour_advertisement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    const LENGTH: u16 = 32;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = Vec::with_capacity(14 + 40 + usize::from(LENGTH));
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(mac);
    frame.extend([0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(LENGTH.to_be_bytes());
    // ICMPv6, with the hop limit that says that no router passed it on.
    frame.extend([58, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    let message = frame.len();
    frame.extend([136, 0, 0, 0]);
    let flags = if router { 0xa0 } else { 0x20 };
    frame.extend([flags, 0, 0, 0]);
    frame.extend(address.octets());
    // Target link-layer address, in units of eight bytes.
    frame.extend([2, 1]);
    frame.extend(mac);
    let pseudo = checksum::pseudo_v6(&address.octets(), &all_nodes.octets(), 58, LENGTH.into());
    let sum = !checksum::sum(pseudo, &frame[message..]);
    frame[message + 2..message + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A socket that sends whole frames and receives nothing. The kernel takes some
/// milliseconds to close one.
#[allow(unsafe_code)]
fn open_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed; the descriptor is new and nobody else's.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if socket < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(socket)) }
    }
}

/// Sends a whole frame by an interface.
#[allow(unsafe_code)]
fn send_frame(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr_ll is valid; address and frame outlive the
    // call, which reads so many bytes.
    let sent = unsafe {
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index as i32;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&frame[..6]);
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Type, PacketHeaders, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: Mac = [2, 0, 10, 0, 2, 254];

    #[test]
    fn an_arp_announcement_asks_for_its_own_address() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(192, 0, 2, 10));
        assert_eq!(frame.len(), 42);
        let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let etherparse::NetHeaders::Arp(arp) = headers.net.unwrap() else { panic!("no ARP") };
        assert_eq!(arp.operation, etherparse::ArpOperation::REQUEST);
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC[..], &[192, 0, 2, 10][..]));
        assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 10]);
    }

    #[test]
    fn a_neighbour_advertisement_overrides() {
        let address: Ipv6Addr = "2001:db8:f::10".parse().unwrap();
        for (router, flags) in [(false, 0x20), (true, 0xa0)] {
            let frame = neighbour_advertisement(MAC, address, router);
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
            let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
            assert!(icmp.is_checksum_valid(address.octets(), all_nodes.octets()));
            assert!(!matches!(icmp.icmp_type(), Icmpv6Type::Unknown { .. }), "{:?}", icmp.icmp_type());
            assert_eq!((icmp.type_u8(), frame[14 + 40 + 4]), (136, flags));
            assert_eq!(frame[14 + 7], 255);
            assert_eq!(&frame[14 + 40 + 8..][..16], &address.octets());
        }
    }
}
