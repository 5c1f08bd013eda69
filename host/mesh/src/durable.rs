//! Files that are there as a whole or not at all, also after a loss of power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// How the name ends of a file that is being written, or was when somebody was killed.
pub(crate) const TEMPORARY: &str = "landfall-tmp";

/// Puts `bytes` at `path`, in a folder that is there, in the place of what is there. It stays after a
/// loss of power once the folder is synced.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link is replaced itself.
    put_by(path, bytes, |temporary| fs::rename(temporary, path))
}

/// The same where nothing is. Fails with [`io::ErrorKind::AlreadyExists`] where somebody puts something
/// there meanwhile.
pub(crate) fn put_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_by(path, bytes, |temporary| match fs::hard_link(temporary, path) {
        Ok(()) => {
            // Where it stays the next process removes it.
            drop(fs::remove_file(temporary));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every file system has several names for a file.
        Err(_) => fs::rename(temporary, path),
    })
}

/// Puts `bytes` into a file beside `path` and has that get its name.
fn put_by(path: &Path, bytes: &[u8], name: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".");
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => (),
    }
    // `create_new` follows no link.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    // Else a file system may put the name on the disk before what is in the file.
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| name(&temporary));
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Puts the names in `folder` on the disk. Not all systems can; what is lost is then written again
/// after the next start.
pub(crate) fn sync_folder(folder: &Path) {
    // The folder of a name alone.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    drop(File::open(folder).and_then(|folder| folder.sync_all()));
}

/// Whether the file that is open is the one at its path: somebody may have removed or replaced it.
pub(crate) fn is_in_place(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    is_same(&open, &there)
}

#[cfg(unix)]
fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}
