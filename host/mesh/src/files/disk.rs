//! Reading and writing without following symbolic links.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use landfall_core::time::Time;

use super::FilesError;
use crate::durable::{self, TEMPORARY};

// More files than 100,000 instances make; a folder with more was named by mistake.
const FILES_MAX: usize = 400_000;
// istiod walks any depth; ours is 2.
const DEPTH_MAX: usize = 8;
// A ServiceEntry has at most 1.5 MiB, and a little more as YAML; files of others may be larger.
const FILE_LEN_MAX: u64 = 256 << 20;
// Longer than a disk takes for one file, even when it is busy.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// What is below a folder.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// All `.yaml` and `.yml` files, in order.
    pub(super) yaml: Vec<PathBuf>,
    /// Files that somebody is about to write, or was.
    pub(super) temporary: Vec<PathBuf>,
}

/// What is below `root`; nothing when there is no such folder.
pub(super) fn below(root: &Path) -> Result<Below, FilesError> {
    let mut found = Below::default();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let failed = |source| FilesError::Read { path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // Does not follow symbolic links.
            let kind = entry.file_type().map_err(failed)?;
            let path = entry.path();
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((path, depth + 1));
            } else if kind.is_file() {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("yaml" | "yml") => found.yaml.push(path),
                    Some(TEMPORARY) => found.temporary.push(path),
                    Some(_) | None => (),
                }
            }
            if found.yaml.len() + found.temporary.len() > FILES_MAX {
                return Err(FilesError::TooMany { path: root.to_owned(), max: FILES_MAX });
            }
        }
    }
    found.yaml.sort();
    Ok(found)
}

/// Removes a file that was about to be written more than a minute before `now`: whoever was has
/// ended, for writing takes a moment. Nobody misses it, since istiod reads no such file. One that
/// cannot be removed is no harm either.
pub(super) fn remove_leftover(path: &Path, now: Time) {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    let since_1970 = modified.ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let millis = since_1970.and_then(|since| u64::try_from(since.as_millis()).ok());
    if millis.is_some_and(|millis| Time::from_millis(millis).plus(LEFTOVER_AGE) < now) {
        drop(fs::remove_file(path));
    }
}

/// The file for which `path` is the temporary one.
pub(super) fn of_temporary(path: &Path) -> PathBuf {
    path.with_extension("")
}

/// What changes when a file does. Nanoseconds, as far as the file system has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    /// Which file it is, and when it was last changed in any way.
    node: (u64, i64, i64),
}

/// The stamp of a regular file; `None` when there is nothing, or something else.
pub(super) fn stamp(path: &Path) -> Result<Option<Stamp>, FilesError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FilesError::Read { path: path.to_owned(), source }),
    };
    #[cfg(unix)]
    let node = {
        use std::os::unix::fs::MetadataExt as _;
        (meta.ino(), meta.ctime(), meta.ctime_nsec())
    };
    #[cfg(not(unix))]
    let node = (0, 0, 0);
    Ok(Some(Stamp { len: meta.len(), modified: meta.modified().ok(), node }))
}

/// The text of a regular file; `None` when there is nothing. What is not UTF-8 is read as far as
/// it goes: it is not ours.
pub(super) fn read(path: &Path) -> Result<Option<String>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    if meta.len() > FILE_LEN_MAX {
        return Err(failed(io::Error::other("it is too large")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// What was found where a file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing: what somebody puts there meanwhile stays.
    Free,
    /// A file of ours.
    Ours,
}

/// Puts `text` at `path`, which is in `root` or one folder below, as a whole or not at all; also
/// after a loss of power, once its folder is synced.
pub(super) fn write(root: &Path, path: &Path, place: Place, text: &str) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let folder = path.parent().unwrap_or(root);
    if folder != root {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => (),
        }
        if !fs::symlink_metadata(folder)?.is_dir() {
            let problem = format!("{} is not a folder", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, problem));
        }
    }
    match place {
        Place::Free => durable::put_new(path, text.as_bytes()),
        Place::Ours => durable::put(path, text.as_bytes()),
    }
}

/// Removes the file at `path`, and its folder where that becomes empty. Gone already is as good.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => (),
    }
    if let Some(folder) = path.parent() {
        // Refused while anything is in it, which is what is wanted.
        drop(fs::remove_dir(folder));
    }
    Ok(())
}
