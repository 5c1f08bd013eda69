//! Files that are there as a whole or not at all, also after a loss of power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// How the name ends of a file that is being written, or was when somebody was killed.
pub(crate) const TEMPORARY: &str = "landfall-tmp";

/// Puts `bytes` at `path`, in a folder that is there. It stays after a loss of power once the folder
/// is synced.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".");
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => (),
    }
    // `create_new` follows no link, and renaming replaces a link itself.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    // Else a file system may put the name on the disk before what is in the file.
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
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
