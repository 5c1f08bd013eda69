//! One writer to a folder for each owner: of two, each would take the other's files for drift.
//!
//! The lock is the operating system's, so it ends with the process, however that ends. It is on a
//! file of its own, whose name istiod and [`super::disk::below`] pass over: they read `.yaml` and
//! `.yml`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::FilesError;
use crate::api::Owner;
use crate::durable;

/// Locks of this process: a reload puts one sink in the place of another, and the two are no two
/// writers.
static HELD: Mutex<BTreeMap<PathBuf, Weak<File>>> = Mutex::new(BTreeMap::new());

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: Arc<File>,
    is_new: bool,
}

impl Lock {
    /// Takes the lock of `owner` on `folder`. `None` where there can be none: then nothing can be
    /// written there either, or its file system knows no locks.
    ///
    /// # Errors
    /// Another process has it.
    pub(super) fn take(folder: &Path, owner: &Owner) -> Result<Option<Self>, FilesError> {
        let path = folder.join(format!(".landfall-{owner}.lock"));
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, file| file.strong_count() > 0);
        if let Some(file) = held.get(&path).and_then(Weak::upgrade) {
            let lock = Self { path: path.clone(), file, is_new: false };
            if lock.is_there() {
                return Ok(Some(lock));
            }
        }
        // Opening a pipe would wait, and whoever made a link chose what is behind it.
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            return Ok(None);
        }
        let mut options = OpenOptions::new();
        let Ok(file) = options.write(true).create(true).truncate(false).open(&path) else {
            return Ok(None);
        };
        match file.try_lock() {
            Ok(()) => {
                let file = Arc::new(file);
                held.insert(path.clone(), Arc::downgrade(&file));
                Ok(Some(Self { path, file, is_new: true }))
            }
            Err(TryLockError::WouldBlock) => Err(FilesError::Locked {
                folder: folder.to_owned(),
                lock: path,
                owner: owner.clone(),
            }),
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }

    /// Whether no other sink of this process had it when it was taken, so that nobody at all was
    /// writing for the owner.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether its file is still where others look for it.
    pub(super) fn is_there(&self) -> bool {
        durable::is_in_place(&self.file, &self.path)
    }
}
