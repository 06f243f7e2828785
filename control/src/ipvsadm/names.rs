//! Names of hosts and ports, from and to.

use std::net::{IpAddr, Ipv4Addr};

use crate::rules::Protocol;

/// Where names come from; the system's databases, or a test's.
pub trait Resolver {
    /// The IPv4 address of a host name. ipvsadm does not look up IPv6.
    fn address_of(&self, host: &str) -> Option<Ipv4Addr>;

    /// The host name of an address.
    fn name_of(&self, address: IpAddr) -> Option<String>;

    /// The port of a service name, as in `/etc/services`.
    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16>;

    /// The service name of a port.
    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String>;
}

/// Knows no names.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Resolver for NoNames {
    fn address_of(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }

    fn name_of(&self, _: IpAddr) -> Option<String> {
        None
    }

    fn port_of(&self, _: &str, _: Protocol) -> Option<u16> {
        None
    }

    fn service_of(&self, _: u16, _: Protocol) -> Option<String> {
        None
    }
}

/// The C library's databases: hosts, DNS, `/etc/services`, whatever
/// `nsswitch.conf` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Resolver for SystemNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        // A text with a colon is never a host name, but std would take it for IPv6.
        let found = std::net::ToSocketAddrs::to_socket_addrs(&(host, 0)).ok()?;
        found.into_iter().find_map(|address| match address.ip() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        libc_names::host(address)
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        libc_names::port(service, protocol.name())
    }

    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        libc_names::service(port, protocol.name())
    }
}

/// The three lookups that only the C library has.
#[allow(unsafe_code)]
mod libc_names {
    use std::ffi::{CStr, CString, c_char};
    use std::mem;
    use std::net::IpAddr;
    use std::ptr;
    use std::sync::Mutex;

    /// `getservbyname` and `getservbyport` answer in one static buffer.
    static SERVICES: Mutex<()> = Mutex::new(());

    pub(super) fn host(address: IpAddr) -> Option<String> {
        let mut name = [0 as c_char; libc::NI_MAXHOST as usize];
        let lookup = |socket: *const libc::sockaddr, length: usize, name: &mut [c_char]| {
            // SAFETY: `socket` points to `length` initialized bytes of a
            // socket address that outlives the call, `name` is writable for
            // its length, and a null service of length 0 is allowed.
            unsafe {
                libc::getnameinfo(
                    socket,
                    length as libc::socklen_t,
                    name.as_mut_ptr(),
                    name.len() as libc::socklen_t,
                    ptr::null_mut(),
                    0,
                    libc::NI_NAMEREQD,
                )
            }
        };
        let result = match address {
            IpAddr::V4(v4) => {
                let socket = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: 0,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                    sin_zero: [0; 8],
                };
                lookup(ptr::from_ref(&socket).cast(), mem::size_of_val(&socket), &mut name)
            }
            IpAddr::V6(v6) => {
                let socket = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.octets() },
                    sin6_scope_id: 0,
                };
                lookup(ptr::from_ref(&socket).cast(), mem::size_of_val(&socket), &mut name)
            }
        };
        if result != 0 {
            return None;
        }
        // SAFETY: on success getnameinfo left a terminated string in `name`.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Some(name.to_string_lossy().into_owned())
    }

    pub(super) fn port(service: &str, protocol: &str) -> Option<u16> {
        let (service, protocol) = (CString::new(service).ok()?, CString::new(protocol).ok()?);
        let _guard = SERVICES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: both strings are terminated; the result is null or points
        // to the static buffer, which the guard keeps from being overwritten.
        unsafe {
            let entry = libc::getservbyname(service.as_ptr(), protocol.as_ptr()).as_ref()?;
            Some(u16::from_be(entry.s_port as u16))
        }
    }

    pub(super) fn service(port: u16, protocol: &str) -> Option<String> {
        let protocol = CString::new(protocol).ok()?;
        let _guard = SERVICES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: as above; `s_name` of an entry is a terminated string in
        // the same buffer.
        unsafe {
            let entry = libc::getservbyport(i32::from(port.to_be()), protocol.as_ptr()).as_ref()?;
            Some(CStr::from_ptr(entry.s_name).to_string_lossy().into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_this_machine() {
        assert_eq!(SystemNames.address_of("localhost"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(SystemNames.address_of("no such host"), None);
        assert_eq!(SystemNames.port_of("no-such-service", Protocol::Tcp), None);
        assert_eq!(SystemNames.service_of(0, Protocol::Udp), None);
        // Not every machine has /etc/services.
        if let Some(port) = SystemNames.port_of("http", Protocol::Tcp) {
            assert_eq!((port, SystemNames.service_of(80, Protocol::Tcp)), (80, Some("http".into())));
        }
    }
}
