//! Reads one file, or all files of a folder, as one listing.
//!
//! Invariant: of a file that cannot be read, or that is away for a moment, stands what was last
//! accepted of it. What was read and then not accepted, for somebody was writing, counts for nothing.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use landfall_core::finding::Finding;
use landfall_core::registry::Snapshot;
use tokio::time::Instant;

use super::convert::{self, Listing, Reader};
use super::wire::{self, BYTES_MAX, Duplicates};
use crate::Trouble;

/// How many files of a folder are read.
pub const FILES_MAX: usize = 10_000;

// Editors and scripts move a file of a folder away before they write the new one.
pub(super) const GONE_WAIT: Duration = Duration::from_millis(500);

// A listing that changed while it was read is read again, this often at once.
const READS_MAX: usize = 3;

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Why files could not be read as a listing.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing is at the path.
    #[error(
        "nothing is at {}. Restore it, or write `services: []` into it if the registry is empty",
        path.display()
    )]
    Missing {
        /// As configured.
        path: PathBuf,
    },
    /// The folder holds no listing.
    #[error(
        "no *.yaml, *.yml or *.json is in the folder {}. Restore the files, or write one with \
         `services: []` if the registry is empty", path.display()
    )]
    NoFiles {
        /// As configured.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("failed to read {}: {source}. Check that it may be read", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// All files together have more than [`BYTES_MAX`] bytes, or the folder more than
    /// [`FILES_MAX`] files.
    #[error("{} has {what}; split it over several sources", path.display())]
    TooLarge {
        /// The file or folder.
        path: PathBuf,
        /// Which bound it breaks.
        what: &'static str,
    },
    /// Reading it might never end.
    #[error("{} is neither a file nor a folder. Put a file there", path.display())]
    NotRegular {
        /// The pipe, socket or device.
        path: PathBuf,
    },
    /// A file is no listing.
    #[error("{}:{line}:{column}: {problem}. Correct the file", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A file is written for longer than is waited for, or the files changed each time they were
    /// read. What is there may be a part of a listing, and a part of one is mostly one too.
    #[error(
        "{} is being written all the time. Write beside it and rename, which is seen as a whole",
        path.display()
    )]
    Unsettled {
        /// As configured.
        path: PathBuf,
    },
}

/// Which files there are, and what tells that they changed. Not their contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(PathBuf, Option<FileStamp>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    // Where symbolic links lead: a swapped link is a change though names stay.
    target: PathBuf,
    modified: Option<SystemTime>,
    len: u64,
    // A writer may set the time of the last modification back; that of the last change it cannot.
    identity: Identity,
}

/// The files as last read, so that only those that changed are parsed again, and as last accepted.
#[derive(Debug, Default)]
pub(super) struct Files {
    parsed: BTreeMap<PathBuf, Parsed>,
    accepted: BTreeMap<PathBuf, Arc<Listing>>,
    /// Accepted files that are not there, and since when that is known.
    missing: BTreeMap<PathBuf, Instant>,
}

/// One file.
#[derive(Clone, Debug)]
struct Parsed {
    /// Of its text; `None` when it could not be read.
    hash: Option<u64>,
    listing: Result<Arc<Listing>, Arc<FileError>>,
}

/// What all files list at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) stamp: Stamp,
    pub(super) snapshot: Snapshot,
    pub(super) findings: Vec<Finding>,
    /// Why files could not be read, in the order of their names.
    pub(super) failures: Vec<Arc<FileError>>,
    /// When to read again, for a file that is away counts as gone then.
    pub(super) again_at: Option<Instant>,
    listings: BTreeMap<PathBuf, Arc<Listing>>,
}

// === impl FileError ===

impl FileError {
    /// One of a closed set, for metrics and documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "file_missing",
            Self::NoFiles { .. } => "file_none",
            Self::Read { .. } => "file_read",
            Self::TooLarge { .. } => "file_too_large",
            Self::NotRegular { .. } => "file_not_regular",
            Self::Syntax { .. } => "file_syntax",
            Self::Unsettled { .. } => "file_unsettled",
        }
    }
}

impl From<&FileError> for Trouble {
    fn from(error: &FileError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

// === impl Stamp ===

impl Stamp {
    /// The stamp of all files at `path` as they are now. One that cannot be looked at, or is no
    /// file, has none: the reading will tell why.
    pub(super) fn take(path: &Path) -> Result<Self, FileError> {
        let stamped = |file: PathBuf| {
            let stamp = FileStamp::take(&file);
            (file, stamp)
        };
        Ok(Self(list(path)?.into_iter().map(stamped).collect()))
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }

    /// Whether this file is there.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.0.binary_search_by(|(known, _)| known.as_path().cmp(path)).is_ok()
    }

    /// The files themselves, links followed.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|(_, stamp)| Some(stamp.as_ref()?.target.as_path()))
    }
}

impl FileStamp {
    fn take(file: &Path) -> Option<Self> {
        let meta = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            target: fs::canonicalize(file).unwrap_or_else(|_| file.to_owned()),
            modified: meta.modified().ok(),
            len: meta.len(),
            identity: identity(&meta),
        })
    }
}

// === impl Files ===

impl Files {
    /// Reads everything at `path`, at `now`. What was read is one moment: the files were the same
    /// before and after.
    ///
    /// # Errors
    /// It is not known which files there are, or they are too large together. That one of them
    /// cannot be read is part of the reading.
    pub(super) fn read(
        &mut self,
        path: &Path,
        previous: Option<&Snapshot>,
        now: Instant,
    ) -> Result<Reading, FileError> {
        // A while in which it was not known what is there counts for nothing.
        let missing = std::mem::take(&mut self.missing);
        for _ in 0..READS_MAX {
            let before = Stamp::take(path)?;
            let parsed = self.read_each(path, &before)?;
            if Stamp::take(path)? == before {
                self.parsed = parsed;
                let gone = self.accepted.keys().filter(|file| !before.has(file));
                let since = |file: &PathBuf| missing.get(file).copied().unwrap_or(now);
                self.missing = gone.map(|file| (file.clone(), since(file))).collect();
                return Ok(self.reading(before, previous, now));
            }
        }
        Err(FileError::Unsettled { path: path.to_owned() })
    }

    /// From now on what `reading` has of each file stands while that cannot be read.
    pub(super) fn accept(&mut self, reading: &Reading) {
        self.accepted.clone_from(&reading.listings);
    }

    fn read_each(
        &self,
        path: &Path,
        stamp: &Stamp,
    ) -> Result<BTreeMap<PathBuf, Parsed>, FileError> {
        let mut bytes_left = BYTES_MAX;
        let mut parsed = BTreeMap::new();
        for file in stamp.files() {
            let one = match read_text(file, bytes_left) {
                Ok(Some(text)) => {
                    bytes_left = bytes_left.saturating_sub(text.len() as u64);
                    self.parsed_once(file, &text)
                }
                // Which of them is too many cannot be told.
                Ok(None) => {
                    let (path, what) = (path.to_owned(), "more than 256 MiB");
                    return Err(FileError::TooLarge { path, what });
                }
                Err(error) => Parsed { hash: None, listing: Err(Arc::new(error)) },
            };
            parsed.insert(file.to_owned(), one);
        }
        Ok(parsed)
    }

    fn parsed_once(&self, file: &Path, text: &str) -> Parsed {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = Some(hasher.finish());
        match self.parsed.get(file).filter(|known| known.hash == hash) {
            Some(known) => known.clone(),
            None => Parsed { hash, listing: parse(file, text).map(Arc::new).map_err(Arc::new) },
        }
    }

    /// Puts together what was just read, and what was accepted of what could not be.
    fn reading(&self, stamp: Stamp, previous: Option<&Snapshot>, now: Instant) -> Reading {
        let (mut listings, mut failures) = (BTreeMap::new(), Vec::new());
        for (file, parsed) in &self.parsed {
            let listing = match &parsed.listing {
                Ok(listing) => Some(listing),
                Err(error) => {
                    failures.push(Arc::clone(error));
                    self.accepted.get(file)
                }
            };
            listings.extend(listing.map(|listing| (file.clone(), Arc::clone(listing))));
        }
        let is_away = |since: &Instant| now.duration_since(*since) < GONE_WAIT;
        let away = self.missing.iter().filter(|(_, since)| is_away(since));
        let away: BTreeMap<PathBuf, Arc<Listing>> = away
            .filter_map(|(file, _)| Some((file.clone(), Arc::clone(self.accepted.get(file)?))))
            .collect();
        let again_at = self.missing.values().filter(|since| is_away(since)).min();
        let again_at = again_at.map(|since| *since + GONE_WAIT);
        let (snapshot, findings) = convert::join(&listings, &away, previous);
        listings.extend(away);
        Reading { stamp, snapshot, findings, failures, again_at, listings }
    }
}

// === impl Reading ===

impl Reading {
    /// Whether nothing is known of any file.
    pub(super) fn is_vain(&self) -> bool {
        self.listings.is_empty()
    }

    /// What is wrong with the first file that could not be read, and with how many more.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let first = self.failures.first()?;
        Some(Trouble::from(&**first).with_more(self.failures.len() - 1, "files"))
    }

    /// Whether a file may become readable without its stamp telling.
    pub(super) fn is_worth_retrying(&self) -> bool {
        self.failures.iter().any(|error| matches!(**error, FileError::Read { .. }))
    }
}

/// The listing that `text` is; `path` is for messages.
pub(super) fn parse(path: &Path, text: &str) -> Result<Listing, FileError> {
    let name = path.display().to_string();
    let mut json = None;
    if text.trim_ascii_start().starts_with('{') {
        let mut reader = Reader::new(&name);
        json = wire::read_json(text, &mut reader).ok().map(|()| reader.finish());
        // What there is to say about it is said with line and column, which JSON's reader lacks.
        if let Some(listing) = json.take_if(|listing| listing.findings.is_empty()) {
            return Ok(listing);
        }
    }
    let mut reader = Reader::new(&name);
    let read = wire::read(text, &mut reader, Duplicates::Quickly);
    // Some JSON is no YAML: characters that it forbids, and keys of more than 1024 characters.
    if read.is_err()
        && let Some(listing) = json
    {
        return Ok(listing);
    }
    read.map(|()| reader.finish()).map_err(|error| {
        let again = wire::read(text, &mut Reader::new(&name), Duplicates::WithPlace);
        let (line, column, problem) = wire::explain(&again.err().unwrap_or(error));
        FileError::Syntax { path: path.to_owned(), line, column, problem }
    })
}

/// Whether a file of this name in a folder is part of the listing.
pub(super) fn is_listing(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    !hidden && EXTENSIONS.contains(&extension)
}

/// The files at `path`, in the order of their names.
fn list(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned() },
        _ => FileError::Read { path: path.to_owned(), source },
    };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if is_listing(&file) && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(FileError::NoFiles { path: path.to_owned() });
    }
    if files.len() > FILES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned(), what: "more than 10,000 files" });
    }
    files.sort();
    Ok(files)
}

/// All of a file; nothing if it has more than `bytes_max`.
fn read_text(path: &Path, bytes_max: u64) -> Result<Option<String>, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned() },
        io::ErrorKind::InvalidData => FileError::Syntax {
            path: path.to_owned(),
            line: 1,
            column: 1,
            problem: "the file is not UTF-8".to_owned(),
        },
        _ => FileError::Read { path: path.to_owned(), source },
    };
    // Opening a pipe might never end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileError::NotRegular { path: path.to_owned() });
    }
    let file = fs::File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut text = String::with_capacity(usize::try_from(len.min(bytes_max)).unwrap_or(0));
    // One byte more than is allowed, to notice that there is more.
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text).filter(|text| text.len() as u64 <= bytes_max))
}

/// Device, number on it, and when it was last changed, in seconds and nanoseconds.
type Identity = (u64, u64, i64, i64);

#[cfg(unix)]
fn identity(meta: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> Identity {
    (0, 0, 0, 0)
}
