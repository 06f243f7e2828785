//! The key that two directors share.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Bytes of a key.
const LENGTH: usize = 32;

/// A key, which is not printed.
#[derive(Clone)]
pub struct Key(pub(super) [u8; LENGTH]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// It cannot be read
    #[error(
        "sync: cannot read the key {0}: {1}; `sluice sync-key {0}` makes one, of which the peer needs a copy"
    )]
    Unreadable(PathBuf, io::Error),
    /// Others could read it
    #[error(
        "sync: others than the owner may read or change the key {0} (its mode is {1:03o}): chmod 600 {0}"
    )]
    Mode(PathBuf, u32),
    /// It is no key
    #[error("sync: the key {0} has not {LENGTH} bytes; `sluice sync-key` makes one")]
    Length(PathBuf),
    /// It cannot be made
    #[error("cannot make the key {0}: {1}")]
    Unwritable(PathBuf, io::Error),
}

impl Key {
    /// Reads a key file: 32 bytes that only their owner may read.
    ///
    /// # Errors
    /// When there is none, others may read it, or it is something else.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |error| KeyError::Unreadable(path.to_owned(), error);
        let mut file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Mode(path.to_owned(), mode));
        }
        let mut bytes = Vec::new();
        (&mut file).take(LENGTH as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        bytes.try_into().map(Key).map_err(|_| KeyError::Length(path.to_owned()))
    }
}

/// Makes a key file that is not there yet.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn make(path: &Path) -> Result<(), KeyError> {
    let unwritable = |error| KeyError::Unwritable(path.to_owned(), error);
    let key = random::<LENGTH>().map_err(unwritable)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(unwritable)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A number that no other process has drawn.
pub(super) fn random_number() -> io::Result<u64> {
    random().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(Key::load(&path), Err(KeyError::Unreadable(..))));
        make(&path).unwrap();
        let key = Key::load(&path).unwrap();
        assert!(matches!(make(&path), Err(KeyError::Unwritable(..))), "it is not overwritten");
        assert_eq!(Key::load(&path).unwrap().0, key.0);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let text = Key::load(&path).unwrap_err().to_string();
        assert!(text.contains("640") && text.contains("chmod 600"), "{text}");
        for length in [0, 31, 33, 1000] {
            let path = dir.path().join(format!("{length}"));
            std::fs::write(&path, vec![7; length]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Key::load(&path), Err(KeyError::Length(_))), "{length}");
        }
    }
}
