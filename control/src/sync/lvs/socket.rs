//! The multicast sockets that a master sends from and a backup reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use sluice_dataplane::link::Link;
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};
use tokio::net::UdpSocket;

use crate::rules::{Daemon, DaemonRole, RulesError};

/// `IP_VS_SYNC_GROUP`
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);
/// `IP_VS_SYNC_PORT`
const PORT: u16 = 8848;

/// Bytes of an IPv4 and of an IPv6 header, each with UDP's.
const HEADERS: [u16; 2] = [28, 48];

/// Bytes that may wait for a backup.
const BUFFER: usize = 4 << 20;

/// A daemon that could start, with nothing left to defaults.
///
/// # Errors
/// [`RulesError::NoDevice`] when its interface is not there,
/// [`RulesError::DaemonSocket`] when its socket cannot be had.
pub fn prepared(daemon: Daemon) -> Result<Daemon, RulesError> {
    let mtu = Link::new(&daemon.interface).and_then(|link| link.mtu()).map_err(|_| RulesError::NoDevice)?;
    let daemon = resolved(daemon, mtu);
    let socket = match daemon.role {
        DaemonRole::Master => sender(&daemon, 0),
        DaemonRole::Backup => receiver(&daemon, 0),
    };
    socket.map_err(|error| RulesError::DaemonSocket(format!("interface {}: {error}", daemon.interface)))?;
    Ok(daemon)
}

/// The same of a daemon whose interface may come later.
pub fn resolved_later(daemon: Daemon) -> Daemon {
    let mtu = Link::new(&daemon.interface).and_then(|link| link.mtu());
    resolved(daemon, mtu.unwrap_or(0))
}

/// What a daemon is told, with IPVS's defaults for the rest
/// (`start_sync_thread`), on an interface with this MTU.
pub fn resolved(daemon: Daemon, mtu: usize) -> Daemon {
    let group = daemon.group.unwrap_or(GROUP.into());
    let headers = HEADERS[usize::from(group.is_ipv6())];
    let (least, mtu) = match daemon.role {
        DaemonRole::Master => (1, 1500),
        DaemonRole::Backup => (1024, mtu.clamp(1500, u16::MAX.into()) as u16),
    };
    let longest = daemon.max_length.filter(|length| *length != 0);
    let longest = longest.map_or(mtu - headers, |length| length.clamp(least, u16::MAX - headers));
    Daemon {
        max_length: Some(longest),
        group: Some(group),
        port: Some(daemon.port.unwrap_or(PORT)),
        ttl: Some(daemon.ttl.unwrap_or(1)),
        ..daemon
    }
}

/// A socket that sends to the group of a daemon from its interface, with a buffer
/// of so many bytes if they are not 0.
///
/// # Errors
/// What the system says.
pub fn sender(daemon: &Daemon, buffer: u32) -> std::io::Result<UdpSocket> {
    let group = daemon.group.unwrap_or(GROUP.into());
    let port = daemon.port.unwrap_or(PORT);
    let ttl = daemon.ttl.unwrap_or(1).into();
    let socket = Socket::new(Domain::for_address(SocketAddr::new(group, port)), Type::DGRAM, None)?;
    socket.bind_device(Some(daemon.interface.as_bytes()))?;
    let (any, to) = match group {
        IpAddr::V4(_) => {
            // Its own messages must not come back to a backup on this machine.
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(ttl)?;
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), SocketAddr::new(group, port))
        }
        IpAddr::V6(v6) => {
            let index = nix::net::if_::if_nametoindex(daemon.interface.as_str())?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(ttl)?;
            socket.set_multicast_if_v6(index)?;
            (IpAddr::from(Ipv6Addr::UNSPECIFIED), SocketAddrV6::new(v6, port, 0, index).into())
        }
    };
    if buffer > 0 {
        socket.set_send_buffer_size(buffer as usize)?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&to.into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// A socket that reads what is sent to the group of a daemon on its interface, with
/// a buffer of so many bytes, or of a size that is good for most if they are 0.
///
/// # Errors
/// What the system says.
pub fn receiver(daemon: &Daemon, buffer: u32) -> std::io::Result<UdpSocket> {
    let group = daemon.group.unwrap_or(GROUP.into());
    let port = daemon.port.unwrap_or(PORT);
    let index = nix::net::if_::if_nametoindex(daemon.interface.as_str())?;
    let socket = Socket::new(Domain::for_address(SocketAddr::new(group, port)), Type::DGRAM, None)?;
    socket.bind_device(Some(daemon.interface.as_bytes()))?;
    socket.set_reuse_address(true)?;
    // As much of it as the system grants: without, a burst is lost sooner.
    socket.set_recv_buffer_size(if buffer > 0 { buffer as usize } else { BUFFER })?;
    match group {
        IpAddr::V4(v4) => {
            socket.bind(&SocketAddr::new(group, port).into())?;
            socket.join_multicast_v4_n(&v4, &InterfaceIndexOrAddress::Index(index))?;
        }
        IpAddr::V6(v6) => {
            socket.bind(&SocketAddr::from(SocketAddrV6::new(v6, port, 0, index)).into())?;
            socket.join_multicast_v6(&v6, index)?;
        }
    }
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Messages that came for a socket and that its buffer had no room for, since it was
/// opened (`SK_MEMINFO_DROPS` in `include/uapi/linux/sock_diag.h`).
#[allow(unsafe_code)]
pub fn lost(socket: &UdpSocket) -> u64 {
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: at most `length` bytes are written to the array.
    let result = unsafe {
        let to = numbers.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, to, &mut length)
    };
    if result == 0 { numbers[DROPS].into() } else { 0 }
}

/// The interface that a socket is bound to.
pub struct Place {
    interface: String,
    index: u32,
}

impl Place {
    /// Where a daemon is.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn of(daemon: &Daemon) -> std::io::Result<Self> {
        let interface = daemon.interface.clone();
        let index = nix::net::if_::if_nametoindex(interface.as_str())?;
        Ok(Place { interface, index })
    }

    /// Looks whether it is still the same.
    ///
    /// # Errors
    /// When it is gone, or another one has its name.
    pub fn check(&self) -> std::io::Result<()> {
        match nix::net::if_::if_nametoindex(self.interface.as_str())? {
            index if index == self.index => Ok(()),
            _ => Err(std::io::Error::other("another interface has its name")),
        }
    }
}
