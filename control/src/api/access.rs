//! Who may ask.

use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::{Gid, Group};
use tokio::net::UnixStream;

/// Most groups that a user is taken to be in; Linux allows 65536 (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Root, or the director's own user: everything
    Owner,
    /// A member of the group: everything but taking the director's place
    Member,
    /// This user may do nothing
    None(u32),
}

/// The group of a name, for [`Listener::open_to`](super::Listener::open_to).
///
/// # Errors
/// When there is none; the text says what to do.
pub fn group(name: &str) -> Result<Gid, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!(
            "api_group: this machine has no group {name:?}; add it (`groupadd --system {name}'), or name another"
        )),
        Err(error) => Err(format!("api_group: group {name:?} cannot be looked up: {error}")),
    }
}

impl Access {
    /// What the process may do that connected, by what the kernel says of it
    /// then (`SO_PEERCRED` and `SO_PEERGROUPS`, unix(7)).
    pub(super) fn of(stream: &UnixStream, group: Option<Gid>) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() {
            return Ok(Access::Owner);
        }
        let member = match group {
            None => false,
            Some(group) => peer.gid() == group.as_raw() || peer_groups(stream)?.contains(&group.as_raw()),
        };
        Ok(if member { Access::Member } else { Access::None(peer.uid()) })
    }
}

/// The supplementary groups of the process that connected.
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the kernel writes `length` bytes at most, which the vector has, and
        // says in `length` how many it wrote or would have to; any bytes are numbers.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}
