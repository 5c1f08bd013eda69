//! Notices that files changed. Watches folders, never files: an edit is mostly a rename, and
//! Kubernetes swaps the symbolic link `..data` beside the files it mounts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::aside::aside;
use super::read::{Stamp, is_listing};

// Only Linux tells when a file that was written is closed. Elsewhere a write counts as done.
const CLOSE_IS_TOLD: bool = cfg!(target_os = "linux");

/// Watches the folders around one path.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    begin: Begin,
    // `None` when the operating system refused; then polling alone notices changes.
    watcher: Option<RecommendedWatcher>,
    /// Whether it watches every one of `folders`.
    whole: bool,
    folders: BTreeSet<Folder>,
}

/// Asks the operating system for notifications. An argument, so that a refusal can be tested.
type Begin = fn(Arc<Shared>) -> Option<RecommendedWatcher>;

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
        Self::begun_by(path, |shared| {
            notify::recommended_watcher(move |event| shared.happened(event)).ok()
        })
    }

    /// A watch that the operating system refuses, for there are too many.
    #[cfg(test)]
    pub(super) fn refused(path: &Path) -> Self {
        Self::begun_by(path, |_| None)
    }

    fn begun_by(path: &Path, begin: Begin) -> Self {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            changed: Notify::new(),
            open: Mutex::default(),
        });
        Self { shared, begin, watcher: None, whole: false, folders: BTreeSet::new() }
    }

    /// Watches what must be watched now: the path if it is a folder, its parent, and the folders
    /// of the `targets` that its links lead to. Returns whether more is watched than before, and
    /// with it that a change may have been missed. What the operating system refuses to watch is
    /// no change: it is tried again with the next call, and left to polling until then.
    pub(super) async fn renew<'a>(&mut self, targets: impl Iterator<Item = &'a Path>) -> bool {
        // Thousands of files have one parent.
        let parents: BTreeSet<&Path> = targets.filter_map(Path::parent).collect();
        let parents: Vec<PathBuf> = parents.into_iter().map(Path::to_owned).collect();
        let shared = Arc::clone(&self.shared);
        let folders = aside(move || folders(&shared.path, parents)).await;
        if self.whole && folders == self.folders {
            return false;
        }
        let (begin, shared) = (self.begin, Arc::clone(&self.shared));
        let (watcher, whole, folders) = aside(move || {
            let mut watcher = begin(shared);
            // One folder that must not be watched costs only its own notifications.
            let whole = watcher.as_mut().is_some_and(|watcher| {
                let watch =
                    |(folder, _): &Folder| watcher.watch(folder, RecursiveMode::NonRecursive);
                folders.iter().map(watch).filter(Result::is_err).count() == 0
            });
            (watcher, whole, folders)
        })
        .await;
        // The end of a writing may have been told to the watcher that is replaced.
        self.shared.open().clear();
        let renewed = folders != self.folders || whole != self.whole;
        (self.watcher, self.whole, self.folders) = (watcher, whole, folders);
        renewed
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Whether nothing at all is being written that might matter.
    pub(super) fn hears_no_writer(&self) -> bool {
        self.shared.open().is_empty()
    }

    /// Whether one of the files of `stamp` is being written, so that reading it would see a part.
    /// Others that are written beside them do not matter.
    pub(super) async fn is_being_written(&self, stamp: &Stamp) -> bool {
        let open: Vec<PathBuf> = self.shared.open().iter().cloned().collect();
        if open.is_empty() {
            return false;
        }
        let open: BTreeSet<PathBuf> =
            aside(move || open.iter().filter_map(|path| path.canonicalize().ok()).collect()).await;
        stamp.targets().any(|target| open.contains(target))
    }

    /// Whether a change is noticed by being told of it, and the end of a writing too.
    pub(super) fn tells_all(&self) -> bool {
        self.whole && CLOSE_IS_TOLD
    }
}

/// The folders to watch for `path` and for files in `parents`.
fn folders(path: &Path, parents: Vec<PathBuf>) -> BTreeSet<Folder> {
    let own = path.is_dir().then(|| path.to_owned());
    let parent = path.parent().map(|parent| match parent.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => parent.to_owned(),
    });
    let all = parents.into_iter().chain(own).chain(parent);
    all.filter_map(|folder| Some((folder.clone(), folder.canonicalize().ok()?))).collect()
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
        // No path comes with an overflow of the operating system's queue. What was lost with it may
        // be that a file was closed.
        if event.paths.is_empty() {
            self.open().clear();
        }
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
