//! What is asked of the kernel: links, addresses, sysctls, attached programs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use tokio::runtime::Runtime;

use super::Error;

/// Flags of `IFLA_XDP_FLAGS` (`include/uapi/linux/if_link.h`).
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1 << 0;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The kernel, in the network namespace of the thread that made this.
pub(super) struct Host {
    runtime: Runtime,
    netlink: rtnetlink::Handle,
}

pub(super) struct Device {
    pub(super) index: u32,
    pub(super) xdp: Option<Attached>,
}

/// An XDP program on a device.
#[derive(Clone, Copy)]
pub(super) struct Attached {
    pub(super) id: u32,
    pub(super) mode: Mode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver
    Native,
    /// In the stack, for drivers that cannot
    Generic,
}

impl Mode {
    fn flag(self) -> u32 {
        match self {
            Mode::Native => XDP_FLAGS_DRV_MODE,
            Mode::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// An address of an interface.
pub(super) struct Assigned {
    pub(super) index: u32,
    pub(super) address: IpAddr,
    message: AddressMessage,
}

impl Assigned {
    /// Whether packets may be sent to it for long: an IPv6 address that is not
    /// link-local and not one of those that change for privacy (RFC 8981),
    /// and any IPv4 address.
    pub(super) fn lasts(&self) -> bool {
        match self.address {
            IpAddr::V4(_) => true,
            // The kernel's IFA_F_TEMPORARY is the same bit as its
            // IFA_F_SECONDARY.
            IpAddr::V6(v6) => {
                !v6.is_unicast_link_local()
                    && !self.message.header.flags.contains(AddressHeaderFlags::Secondary)
            }
        }
    }
}

impl Host {
    pub(super) fn open() -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(Error::Netlink)?;
        let netlink = {
            let _guard = runtime.enter();
            let (connection, netlink, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
            runtime.spawn(connection);
            netlink
        };
        Ok(Host { runtime, netlink })
    }

    /// A device by its name.
    pub(super) fn device(&self, name: &str) -> Result<Device, Error> {
        let links: Vec<LinkMessage> = self
            .runtime
            .block_on(self.netlink.link().get().execute().try_collect())
            .map_err(|source| Error::refused("list the interfaces", source))?;
        links
            .iter()
            .find(|link| {
                link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(found) if found == name))
            })
            .map(|link| Device { index: link.header.index, xdp: attached(link) })
            .ok_or_else(|| Error::NoDevice(name.to_owned()))
    }

    /// Name of a device, for messages.
    pub(super) fn name(&self, index: u32) -> String {
        nix::net::if_::if_indextoname(index)
            .map_or_else(|_| format!("interface {index}"), |name| name.to_string_lossy().into_owned())
    }

    /// Every address.
    pub(super) fn addresses(&self) -> Result<Vec<Assigned>, Error> {
        let messages: Vec<AddressMessage> = self
            .runtime
            .block_on(self.netlink.address().get().execute().try_collect())
            .map_err(|source| Error::refused("list the addresses", source))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| {
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(ip) => Some(*ip),
                    _ => None,
                });
                // IPv6 has it under this name unless there is a peer.
                let address = local.or_else(|| {
                    message.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(ip) => Some(*ip),
                        _ => None,
                    })
                })?;
                Some(Assigned { index: message.header.index, address, message })
            })
            .collect())
    }

    /// Gives a device an address of its own, with no subnet.
    pub(super) fn add_address(&self, index: u32, address: IpAddr) -> Result<(), Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.netlink.address().add(index, address, length);
        // Other machines have the VIP too. Besides, nobody can bind an IPv6
        // address until the kernel has come round to not looking for them.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        self.runtime
            .block_on(request.execute())
            .map_err(|source| Error::refused(format!("add {address}"), source))
    }

    pub(super) fn remove_address(&self, assigned: Assigned) -> Result<(), Error> {
        let address = assigned.address;
        self.runtime
            .block_on(self.netlink.address().del(assigned.message).execute())
            .map_err(|source| Error::refused(format!("remove {address}"), source))
    }

    /// Attaches a program to a device that has none. It stays when we end, as
    /// no `bpf_link` ties it to us.
    pub(super) fn attach(
        &self,
        device: &Device,
        program: BorrowedFd<'_>,
        mode: Mode,
    ) -> Result<(), rtnetlink::Error> {
        self.set_xdp(device, program.as_raw_fd(), mode.flag() | XDP_FLAGS_UPDATE_IF_NOEXIST)
    }

    pub(super) fn detach(&self, device: &Device, mode: Mode) -> Result<(), rtnetlink::Error> {
        self.set_xdp(device, -1, mode.flag())
    }

    fn set_xdp(&self, device: &Device, fd: i32, flags: u32) -> Result<(), rtnetlink::Error> {
        let mut message = LinkMessage::default();
        message.header.index = device.index;
        message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(fd), LinkXdp::Flags(flags)]));
        self.runtime.block_on(self.netlink.link().set(message).execute())
    }
}

fn attached(link: &LinkMessage) -> Option<Attached> {
    let attributes = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Xdp(attributes) => Some(attributes),
        _ => None,
    })?;
    let mut generic = false;
    let mut id = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::SocketBuffer) => generic = true,
            LinkXdp::ProgId(program) => id = Some(*program),
            // With several programs at once the kernel names each apart.
            LinkXdp::DrvProgId(program) | LinkXdp::SkbProgId(program) | LinkXdp::HwProgId(program) => {
                id = id.or(Some(*program));
            }
            _ => {}
        }
    }
    let mode = if generic { Mode::Generic } else { Mode::Native };
    id.map(|id| Attached { id, mode })
}

/// Whether IPv6 is switched off on an interface.
pub(super) fn ipv6_is_off(interface: &str) -> Result<bool, Error> {
    let path: PathBuf = ["/proc/sys/net/ipv6/conf", interface, "disable_ipv6"].iter().collect();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim() != "0"),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(Error::file("read", &path, source)),
    }
}

/// A setting of an interface, or of `all`, below `net.ipv4.conf`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Sysctl {
    pub(super) interface: String,
    pub(super) key: &'static str,
}

impl Sysctl {
    pub(super) fn new(interface: &str, key: &'static str) -> Self {
        Sysctl { interface: interface.to_owned(), key }
    }

    /// Its file.
    pub(super) fn path(&self) -> PathBuf {
        ["/proc/sys/net/ipv4/conf", &self.interface, self.key].iter().collect()
    }

    pub(super) fn read(&self) -> Result<i32, Error> {
        let path = self.path();
        let text = fs::read_to_string(&path).map_err(|source| Error::file("read", &path, source))?;
        text.trim().parse().map_err(|_| {
            Error::file("read", &path, io::Error::new(io::ErrorKind::InvalidData, "not a number"))
        })
    }
}

impl std::fmt::Display for Sysctl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "net.ipv4.conf.{}.{}", self.interface, self.key)
    }
}
