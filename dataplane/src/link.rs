//! What the kernel says of an interface of this network namespace, by system
//! calls: /sys may still show another namespace.

mod features;
mod filters;
mod rss;

use std::ffi::CString;
use std::io;

pub use filters::{Filter, Refused};
pub use rss::Unknown;

use crate::wire::ethernet::Mac;

/// An interface by its name.
pub struct Link {
    name: CString,
}

impl Link {
    /// The interface `name`; it need not exist.
    ///
    /// # Errors
    /// `ENODEV` for a name that no interface can have. The kernel would cut a
    /// longer one off, and find another interface.
    pub fn new(name: &str) -> io::Result<Self> {
        let no_device = || io::Error::from_raw_os_error(libc::ENODEV);
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(no_device());
        }
        Ok(Link { name: CString::new(name).map_err(|_| no_device())? })
    }

    /// Its number.
    #[allow(unsafe_code)]
    pub fn index(&self) -> io::Result<u32> {
        // SAFETY: the name is NUL-terminated and outlives the call.
        match unsafe { libc::if_nametoindex(self.name.as_ptr()) } {
            0 => Err(io::Error::last_os_error()),
            index => Ok(index),
        }
    }

    /// Its MAC.
    #[allow(unsafe_code)]
    pub fn mac(&self) -> io::Result<Mac> {
        let request = self.request(libc::SIOCGIFHWADDR, |_| ())?;
        // SAFETY: SIOCGIFHWADDR filled this member of the union.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
        Ok(std::array::from_fn(|i| data[i] as u8))
    }

    /// Its MTU in bytes of an IP packet.
    #[allow(unsafe_code)]
    pub fn mtu(&self) -> io::Result<usize> {
        let request = self.request(libc::SIOCGIFMTU, |_| ())?;
        // SAFETY: SIOCGIFMTU filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_mtu }.max(0) as usize)
    }

    /// How many receive queues are in use; 1 where the driver cannot tell.
    pub fn receive_queues(&self) -> io::Result<u32> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        match self.ethtool(&mut channels) {
            Ok(()) => Ok((channels.combined_count + channels.rx_count).max(1)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// Makes a request of ethtool, which begins with its command. The kernel writes
    /// the answer in its place, and as much as the request says there is room for.
    fn ethtool<T: ?Sized>(&self, request: &mut T) -> io::Result<()> {
        let pointer = (&raw mut *request).cast();
        self.request(libc::SIOCETHTOOL, |ifreq| ifreq.ifr_ifru.ifru_data = pointer).map(drop)
    }

    /// Gives it another MAC.
    pub fn set_mac(&self, mac: Mac) -> io::Result<()> {
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        self.request(libc::SIOCSIFHWADDR, |request| request.ifr_ifru.ifru_hwaddr = address).map(drop)
    }

    /// Whether it is up and has a carrier (`IFF_RUNNING`).
    #[allow(unsafe_code)]
    pub fn is_up(&self) -> io::Result<bool> {
        let request = self.request(libc::SIOCGIFFLAGS, |_| ())?;
        // SAFETY: SIOCGIFFLAGS filled this member of the union.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        Ok(flags & (libc::IFF_UP | libc::IFF_RUNNING) == libc::IFF_UP | libc::IFF_RUNNING)
    }

    /// Brings it up.
    pub fn set_up(&self) -> io::Result<()> {
        self.request(libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = libc::IFF_UP as i16)
            .map(drop)
    }

    #[allow(unsafe_code)]
    fn request(&self, number: libc::Ioctl, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<libc::ifreq> {
        // SAFETY: an all-zero ifreq is valid and is what the kernel reads and
        // writes for each of these requests; what ETHTOOL's data points to
        // outlives the call; the descriptor is open until closed here.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            set_name(&mut request, self.name.as_bytes());
            fill(&mut request);
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            let result = libc::ioctl(socket, number, &mut request);
            let error = io::Error::last_os_error();
            libc::close(socket);
            if result < 0 { Err(error) } else { Ok(request) }
        }
    }
}

/// Writes a name of less than sixteen bytes into a request.
pub(crate) fn set_name(request: &mut libc::ifreq, name: &[u8]) {
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name) {
        *to = *from as libc::c_char;
    }
}

/// `include/uapi/linux/ethtool.h`
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`
#[derive(Default)]
#[repr(C)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}
