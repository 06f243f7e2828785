//! What XDP can do with an interface, by the kernel's `netdev` family of generic
//! netlink (Linux 6.3; `Documentation/netlink/specs/netdev.yaml`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Link;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and
/// `CTRL_ATTR_FAMILY_NAME` in `include/uapi/linux/genetlink.h`.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX` and `NETDEV_A_DEV_XDP_FEATURES` in
/// `include/uapi/linux/netdev.h`.
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;

/// `NETDEV_XDP_ACT_NDO_XMIT`: frames can be redirected to it.
const TRANSMITS: u64 = 4;

/// Headers of netlink and of generic netlink.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

impl Link {
    /// Whether XDP programs can redirect frames to it. A veth takes them only
    /// while its peer has an XDP program or GRO.
    ///
    /// # Errors
    /// `ENOENT` where the kernel cannot tell (before 6.3), and whatever else it
    /// says.
    pub fn takes_redirects(&self) -> io::Result<bool> {
        let index = self.index()?.to_ne_bytes();
        let family = ask(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0", FAMILY_ID)?;
        let family = u16::from_ne_bytes(fixed(&family)?);
        let features = ask(family, GET_DEVICE, DEVICE_INDEX, &index, DEVICE_FEATURES)?;
        Ok(u64::from_ne_bytes(fixed(&features)?) & TRANSMITS != 0)
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> io::Result<[u8; N]> {
    bytes.first_chunk().copied().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Asks a family with one attribute; returns another one of the answer.
fn ask(family: u16, command: u8, attribute: u16, value: &[u8], wanted: u16) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let length = HEADERS + 4 + value.len().next_multiple_of(4);
    request.extend((length as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend((4 + value.len() as u16).to_ne_bytes());
    request.extend(attribute.to_ne_bytes());
    request.extend(value);
    request.resize(length, 0);
    let answer = exchange(&request)?;
    let kind = u16::from_ne_bytes(fixed(answer.get(4..).unwrap_or_default())?);
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = i32::from_ne_bytes(fixed(answer.get(HEADER..).unwrap_or_default())?);
        return Err(io::Error::from_raw_os_error(-code));
    }
    let attributes = answer.get(HEADERS..).unwrap_or_default();
    find(attributes, wanted).map(<[u8]>::to_vec).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [a, b, c, d] = *attributes.first_chunk()?;
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..length)?;
        // Without the flags for nesting and byte order.
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Sends a request to the kernel and reads one answer.
#[allow(unsafe_code)]
fn exchange(request: &[u8]) -> io::Result<Vec<u8>> {
    // SAFETY: no pointer is passed.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the request outlives the call. Without an address it goes to the
    // kernel, which answers before the call returns.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0; 8192];
    // SAFETY: the buffer outlives the call, which writes at most its length.
    let read = unsafe {
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT)
    };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    answer.truncate(read as usize);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_broken_ones_are_not() {
        let attributes = [5, 0, 1, 0, 9, 0, 0, 0, 6, 0, 3, 0x80, 1, 2, 0, 0];
        assert_eq!(find(&attributes, 1), Some(&[9][..]));
        assert_eq!(find(&attributes, 3), Some(&[1, 2][..]));
        assert_eq!(find(&attributes, 2), None);
        for length in 0..attributes.len() {
            let _ = find(&attributes[..length], 3);
        }
        assert_eq!(find(&[0, 0, 1, 0], 2), None, "a length below that of its header");
    }

    #[test]
    fn the_loopback_takes_none() {
        match Link::new("lo").and_then(|link| link.takes_redirects()) {
            Ok(takes) => assert!(!takes),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
    }
}
