//! What `up` changed, kept for `down`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{Error, Method};

/// Gone after a restart of the machine, as all that `up` does.
const DIRECTORY: &str = "/run/sluice/realserver";

/// A VIP that is up.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Entry {
    pub(super) vip: IpAddr,
    pub(super) method: Method,
    pub(super) dev: String,
}

/// Everything that was changed in one network namespace.
#[derive(Default, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) entries: Vec<Entry>,
    /// VIPs that were put on lo, and not found there
    pub(super) added: BTreeSet<IpAddr>,
    /// Files below /proc/sys and what they held before
    pub(super) sysctls: BTreeMap<PathBuf, i32>,
}

/// The state, locked against other runs.
pub(super) struct Store {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Waits for other runs to end.
    pub(super) fn open() -> Result<(Self, State), Error> {
        let directory = Path::new(DIRECTORY);
        fs::create_dir_all(directory).map_err(|source| Error::file("create", directory, source))?;
        let lock_path = directory.join("lock");
        let lock_file =
            File::create(&lock_path).map_err(|source| Error::file("create", &lock_path, source))?;
        let lock = Flock::lock(lock_file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::file("lock", &lock_path, errno.into()))?;
        let path = directory.join(format!("{}.json", netns_cookie().map_err(Error::Netlink)?));
        let state = match fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|error| Error::file("understand", &path, error.into()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(source) => return Err(Error::file("read", &path, source)),
        };
        Ok((Store { path, _lock: lock }, state))
    }

    pub(super) fn save(&self, state: &State) -> Result<(), Error> {
        let failed = |source| Error::file("write", &self.path, source);
        if state.entries.is_empty() && state.added.is_empty() && state.sysctls.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_string_pretty(state).map_err(|error| failed(error.into()))?;
        // A file that is half written would lose what was there before.
        let new = self.path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path)).map_err(failed)
    }
}

/// A number that no other network namespace has or had (Linux 5.14).
#[allow(unsafe_code)]
fn netns_cookie() -> io::Result<u64> {
    /// `include/uapi/asm-generic/socket.h`
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket =
        std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the whole call, and the kernel writes
    // at most `length` bytes to `cookie`, which has them.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
