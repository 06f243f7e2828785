//! The director's socket file: made, checked, removed.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Gid;

/// Why a director cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another director answers there
    #[error("another director is listening on {0}: stop it, or give this one another path with --socket")]
    InUse(PathBuf),
    /// Something is there that is not ours to remove
    #[error("{0} is there and is not a socket: remove it, or give another path with --socket")]
    NotASocket(PathBuf),
    /// The system refused
    #[error("cannot listen on {path}: {doing}: {source}")]
    System {
        /// The socket
        path: PathBuf,
        /// What was being done
        doing: &'static str,
        /// The system's answer
        source: io::Error,
    },
}

/// A listening socket whose file goes when it is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: tokio::net::UnixListener,
    path: PathBuf,
    /// Whose members may connect
    pub(super) group: Option<Gid>,
    /// Device and inode, so that only our own file is removed
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`, whose directory is made when it is missing. What a
    /// dead director left there is replaced. Must be called within a tokio
    /// runtime.
    ///
    /// The file has mode 0600 from its first moment: the mode is set on the
    /// socket before it is bound, which Linux carries over to the file.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_after(path, remove_stale)
    }

    /// The same in the place of a director that lives, and is about to end.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn replace(path: &Path) -> Result<Self, BindError> {
        Self::bind_after(path, |path| match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BindError::System { path: path.to_owned(), doing: "taking its place", source })
            }
            _ => Ok(()),
        })
    }

    fn bind_after(
        path: &Path,
        make_room: impl FnOnce(&Path) -> Result<(), BindError>,
    ) -> Result<Self, BindError> {
        let failed = |doing| move |source| BindError::System { path: path.to_owned(), doing, source };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(failed("making its directory"))?;
        // Two directors that start at once must not both find a stale file.
        let handle = fs::File::open(directory).map_err(failed("opening its directory"))?;
        let _lock = Flock::lock(handle, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("locking its directory")(errno.into()))?;
        make_room(path)?;
        let socket = bind_private(path).map_err(failed("binding"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("looking at it"))?;
        let listener = Listener {
            socket: tokio::net::UnixListener::from_std(socket).map_err(failed("polling"))?,
            path: path.to_owned(),
            group: None,
            identity: (metadata.dev(), metadata.ino()),
        };
        Ok(listener)
    }

    /// Lets the members of a group connect: the file becomes theirs, with mode
    /// 0660.
    ///
    /// # Errors
    /// [`BindError::System`]: only root can give it to a group that the director's
    /// user is not in.
    pub fn open_to(mut self, group: Gid) -> Result<Self, BindError> {
        let failed = |source| BindError::System {
            path: self.path.clone(),
            doing: "giving it to the group that api_group names",
            source,
        };
        // The group first, so that no other one has access at any time.
        lchown(&self.path, None, Some(group.as_raw())).map_err(failed)?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o660)).map_err(failed)?;
        self.group = Some(group);
        Ok(self)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Makes room for a new socket.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |doing| move |source| BindError::System { path: path.to_owned(), doing, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at what is there")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a director that is gone");
            fs::remove_file(path).map_err(failed("removing a stale socket"))
        }
        // A backlog that is full belongs to somebody who lives.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(failed("asking who is there")(error)),
    }
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(128)?)?;
    Ok(UnixListener::from(socket))
}
