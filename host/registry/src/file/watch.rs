//! Notices that files changed. Watches folders, never files: an edit is mostly a rename, and
//! Kubernetes swaps the symbolic link `..data` beside the files it mounts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::read::is_listing;

// Only Linux tells when a file that was written is closed. Elsewhere a write counts as done.
const CLOSE_IS_TOLD: bool = cfg!(target_os = "linux");

/// Watches the folders around one path.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    // `None` when the operating system refused; then polling alone notices changes.
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<Folder>,
}

/// A folder by name and by what stands under that name: a folder that was replaced must be
/// watched anew.
type Folder = (PathBuf, PathBuf);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    changed: Notify,
    // Files that are being written. Bounded by the files of the watched folders that matter.
    open: Mutex<BTreeSet<PathBuf>>,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(path: &Path) -> Self {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            changed: Notify::new(),
            open: Mutex::default(),
        });
        Self { shared, watcher: None, folders: BTreeSet::new() }
    }

    /// Watches what must be watched now: the path if it is a folder, its parent, and the folders
    /// of the `targets` that its links lead to. Returns whether that is other than before, and
    /// with it that a change may have been missed.
    pub(super) fn renew<'a>(&mut self, targets: impl Iterator<Item = &'a Path>) -> bool {
        let path = &self.shared.path;
        let parents = targets.filter_map(Path::parent).map(Path::to_owned);
        let own = path.is_dir().then(|| path.clone());
        let parent = path.parent().map(|parent| match parent.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => parent.to_owned(),
        });
        let folders: BTreeSet<Folder> = parents
            .chain(own)
            .chain(parent)
            .filter_map(|folder| Some((folder.clone(), folder.canonicalize().ok()?)))
            .collect();
        if self.watcher.is_some() && folders == self.folders {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let watcher = notify::recommended_watcher(move |event| shared.happened(event));
        self.watcher = watcher.ok().and_then(|mut watcher| {
            for (folder, _) in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
            }
            Some(watcher)
        });
        self.folders = folders;
        true
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Whether some file is being written, so that reading it would see a part.
    pub(super) fn is_being_written(&self) -> bool {
        !self.shared.open().is_empty()
    }

    /// Forgets who is writing, after having waited long enough.
    pub(super) fn forget_writers(&self) {
        self.shared.open().clear();
    }
}

// === impl Shared ===

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called on the watcher's own thread.
    fn happened(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            self.changed.notify_one();
            return;
        };
        // Reading is no change, and our own reading least of all.
        let closed = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        if event.kind.is_access() && !closed {
            return;
        }
        // No path comes with an overflow of the operating system's queue.
        if !event.paths.is_empty() && !event.paths.iter().any(|path| self.matters(path)) {
            return;
        }
        let writing = CLOSE_IS_TOLD && matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        let mut open = self.open();
        for path in event.paths {
            if writing && self.matters(&path) {
                open.insert(path);
            } else {
                open.remove(&path);
            }
        }
        drop(open);
        self.changed.notify_one();
    }

    /// Folders such as /tmp are busy with files of others.
    fn matters(&self, path: &Path) -> bool {
        path == self.path
            || path.file_name() == self.path.file_name()
            || path.file_name().is_some_and(|name| name == OsStr::new("..data"))
            || is_listing(path)
    }
}
