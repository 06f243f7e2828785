//! Writing a file so that there is always a whole one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Replaces a file, or makes it: whoever opens it finds either text and never a
/// part, also after a loss of power. The file keeps its mode and its owner. A
/// link is followed.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let dir = match real.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
    };
    let name = real.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let temporary = Temporary(Some(dir.join(beside)));
    let Some(beside) = &temporary.0 else { return Ok(()) };
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(beside)?;
    let (mode, owner) = match fs::metadata(&real) {
        Ok(old) => (old.permissions().mode() & 0o7777, Some((old.uid(), old.gid()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (0o644, None),
        Err(error) => return Err(error),
    };
    file.write_all(text.as_bytes())?;
    if let Some((user, group)) = owner {
        fchown(&file, Some(user), Some(group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(beside, &real)?;
    temporary.keep();
    // The name is durable only when the directory is.
    File::open(dir)?.sync_all()
}

/// A file that goes unless it is kept.
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Should it not have been made there is nothing to remove.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_mode_and_a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_file_is_made_and_a_directory_refused() {
        let dir = tempfile::tempdir().unwrap();
        replace(&dir.path().join("b.toml"), "text").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b.toml")).unwrap(), "text");
        assert!(replace(dir.path(), "text").is_err());
        assert!(replace(&dir.path().join("none/b.toml"), "text").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
