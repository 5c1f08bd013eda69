//! A folder, or one file, as a sink: what istiod reads with `fs://`, and what lands in a git
//! repository.
//!
//! istiod refuses all changes while one file is broken, so files are validated before, written
//! beside and renamed. It follows no symbolic link, and neither do we. An object without a
//! creation time counts as the oldest of all and wins every conflict over a host, so each carries
//! the time at which it was first written.
//!
//! Invariant: a file that does not carry our mark is never changed and never deleted.

mod disk;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdSet;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::name;
use landfall_core::plan::Observed;
use landfall_core::time::Time;

use crate::api::{self, ApiVersion, Body, Extra, Manifest, MeshObject, Owner, ParseError, Read};
use crate::sink::{Applied, Outcome, Step, Stuck};

/// How objects lie in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The path is a folder: `<namespace>/<kind>-<name>.yaml`.
    #[default]
    FilePerObject,
    /// The path is a file with all objects.
    OneFile,
}

/// A folder, or a file, and what is known to be in it. Its calls block.
#[derive(Debug)]
pub struct FilesSink {
    path: PathBuf,
    layout: Layout,
    owner: Owner,
    version: ApiVersion,
    known: BTreeMap<ObjectId, Known>,
    /// What was found in each file, so that only files that changed are read again.
    looked: BTreeMap<PathBuf, Looked>,
    /// Files that an earlier run may have left when it ended in the middle of writing them.
    leftovers: Vec<PathBuf>,
    /// istiod knows objects by namespace and name without anything between.
    joined: BTreeMap<(Kind, String), ObjectId>,
}

#[derive(Clone, Debug)]
struct Known {
    object: Arc<MeshObject>,
    created: String,
}

/// A file as it was when it was read, and what was in it.
#[derive(Clone, Debug)]
struct Looked {
    stamp: disk::Stamp,
    found: Found,
}

/// What is in a file.
#[derive(Clone, Debug, Default)]
struct Found {
    ours: Vec<Known>,
    /// Objects that others wrote, or in whose place the file stands.
    foreign: Vec<ObjectId>,
    findings: Vec<Finding>,
}

/// A folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The one file belongs to somebody else.
    #[error("{} holds more than objects of owner {owner} of Landfall; name another file", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// Whose it should be.
        owner: String,
    },
    /// It cannot be made.
    #[error("failed to make the folder {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is too much to look through.
    #[error("{} holds more than {max} files; name a folder of its own", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// How many are looked through.
        max: usize,
    },
}

// ext4 and most others take 255 bytes; the rest is room for kind and suffixes.
const NAME_LEN_MAX: usize = 180;

impl FilesSink {
    /// A sink at `path`. Nothing is read or written yet.
    #[must_use]
    pub fn new(path: PathBuf, layout: Layout, owner: Owner, version: ApiVersion) -> Self {
        let (known, looked, joined) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { path, layout, owner, version, known, looked, leftovers: Vec::new(), joined }
    }

    /// Makes the folder if it is not there: istiod does not start without it. Not needed before
    /// [`FilesSink::apply`], which makes it too.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(&self) -> Result<(), FilesError> {
        let folder = self.root();
        fs::create_dir_all(folder)
            .map_err(|source| FilesError::Make { path: folder.to_owned(), source })
    }

    /// Reads what is there, as far as it changed since it was read before. Files of others that
    /// hold an object of ours, or stand in its place, make that object foreign. Changes nothing.
    ///
    /// # Errors
    /// What is there cannot be read as a whole, so nothing may be concluded from it.
    pub fn observe(&mut self) -> Result<(Observed<Body>, Vec<Finding>), FilesError> {
        let paths = match self.layout {
            Layout::FilePerObject => {
                let disk::Below { yaml, temporary } = disk::below(&self.path)?;
                self.leftovers = temporary;
                yaml
            }
            Layout::OneFile => vec![self.path.clone()],
        };
        let mut looked = BTreeMap::new();
        for path in paths {
            // Before reading: what changes meanwhile has another one next time.
            let Some(stamp) = disk::stamp(&path)? else { continue };
            let found = match self.looked.get(&path) {
                Some(before) if before.stamp == stamp => before.found.clone(),
                Some(_) | None => self.look_at(&path)?,
            };
            looked.insert(path, Looked { stamp, found });
        }
        self.looked = looked;
        Ok(self.take_up())
    }

    /// Puts together what was found in the files.
    fn take_up(&mut self) -> (Observed<Body>, Vec<Finding>) {
        let (mut known, mut foreign, mut findings) = (BTreeMap::new(), OrdSet::new(), Vec::new());
        for Looked { found, .. } in self.looked.values_mut() {
            for one in &mut found.ours {
                // What did not change stays the very same object.
                let before = self.known.get(&one.object.id);
                if let Some(before) = before.filter(|before| before.object == one.object) {
                    one.object = Arc::clone(&before.object);
                }
                known.insert(one.object.id.clone(), one.clone());
            }
            foreign.extend(found.foreign.iter().cloned());
            findings.extend(found.findings.iter().cloned());
        }
        self.known = known;
        self.joined = self.known.keys().map(|id| (joined_key(id), id.clone())).collect();
        for id in self.known.keys() {
            foreign.remove(id);
        }
        let ours = self.known.iter().map(|(id, k)| (id.clone(), Arc::clone(&k.object))).collect();
        (Observed { ours, foreign }, findings)
    }

    /// Executes `steps` in their order. New objects are dated `now`.
    pub fn apply(&mut self, steps: &[Step], now: Time) -> Vec<Applied> {
        for path in std::mem::take(&mut self.leftovers) {
            if self.is_place(&disk::of_temporary(&path)) {
                disk::remove_leftover(&path, now);
            }
        }
        match self.layout {
            Layout::FilePerObject => {
                let mut touched = BTreeSet::from([self.path.clone()]);
                let mut stuck = Stuck::default();
                let mut one = |step: &Step| {
                    let outcome = match stuck.obstacle(step) {
                        Some(outcome) => outcome,
                        None => self.apply_one(step, now),
                    };
                    touched.extend(self.path_of(step.id()).parent().map(Path::to_owned));
                    if !outcome.is_done() {
                        stuck.note_failed(step);
                    }
                    Applied { id: step.id().clone(), verb: step.verb(), outcome, attempts: 1 }
                };
                let applied = steps.iter().map(&mut one).collect();
                // Once for all steps, since a disk takes milliseconds for it.
                touched.iter().for_each(|folder| disk::sync_folder(folder));
                applied
            }
            Layout::OneFile => self.apply_all(steps, now),
        }
    }

    fn look_at(&self, path: &Path) -> Result<Found, FilesError> {
        match (self.layout, disk::read(path)) {
            (_, Ok(None)) => Ok(Found::default()),
            (Layout::FilePerObject, Ok(Some(text))) => Ok(self.look_at_one_of_many(path, &text)),
            // Somebody's file that we may not read: it stands where one of ours might have to be.
            (Layout::FilePerObject, Err(_)) => {
                Ok(Found { foreign: self.id_of(path).into_iter().collect(), ..Found::default() })
            }
            (Layout::OneFile, Ok(Some(text))) => self.look_at_the_one(&text),
            (Layout::OneFile, Err(error)) => Err(error),
        }
    }

    //  at our own place   documents in it            it is
    //  yes                one, the object's own      ours
    //  yes, our header    own ones, unreadable ones  as if it were not there, so that it is
    //  yes, no content    -                          written anew
    //  else                                          somebody else's, a copy of ours included
    fn look_at_one_of_many(&self, path: &Path, text: &str) -> Found {
        let mut found = Found::default();
        let reads = documents(text);
        if let [Ok(read)] = reads.as_slice()
            && self.is_at_home(read, path)
        {
            found.ours.push(Known::of(read.clone()));
            return found;
        }
        if self.is_broken(path, text, &reads) {
            return found;
        }
        for read in reads.into_iter().flatten() {
            if read.is_owned_by(&self.owner) {
                found.findings.push(Finding::new(
                    FindingCode::ForeignObject,
                    &read.object.id,
                    format!(
                        "{} has it, but that is not where it belongs, so it is left alone. Delete \
                         that file",
                        path.display()
                    ),
                ));
            }
            found.foreign.push(read.object.id);
        }
        // Whatever it is, it stands where one of ours might have to be.
        found.foreign.extend(self.id_of(path));
        found
    }

    fn look_at_the_one(&self, text: &str) -> Result<Found, FilesError> {
        let mut found = Found::default();
        let mut foreign = !is_blank(text) && !text.starts_with(&self.header());
        for read in documents(text) {
            match read {
                Ok(read) if read.is_owned_by(&self.owner) => found.ours.push(Known::of(read)),
                Ok(_) | Err(ParseError::Kind { .. }) => foreign = true,
                // A broken document in a file with our header is written anew.
                Err(_) => (),
            }
        }
        if foreign {
            let owner = self.owner.to_string();
            return Err(FilesError::ForeignFile { path: self.path.clone(), owner });
        }
        Ok(found)
    }

    // === steps ===

    fn apply_one(&mut self, step: &Step, now: Time) -> Outcome {
        let id = step.id();
        let path = self.path_of(id);
        if let Some(outcome) = self.obstacle(id, &path) {
            return outcome;
        }
        let Some(to) = step.to() else {
            return match disk::remove(&path) {
                Ok(()) => {
                    self.forget(id);
                    Outcome::Done(None)
                }
                Err(error) => outcome_of(&path, &error),
            };
        };
        self.write_one(&path, to, now)
    }

    fn write_one(&mut self, path: &Path, to: &Arc<MeshObject>, now: Time) -> Outcome {
        let created = self.created(&to.id, now);
        let text = match self.document(to, &created) {
            Ok(text) => self.header() + &text,
            Err(error) => return Outcome::Refused { status: 0, message: error.to_string() },
        };
        match disk::replace(&self.path, path, &text) {
            Ok(()) => {
                self.know(to, created);
                Outcome::Done(Some(Arc::clone(to)))
            }
            Err(error) => outcome_of(path, &error),
        }
    }

    fn apply_all(&mut self, steps: &[Step], now: Time) -> Vec<Applied> {
        let before = (self.known.clone(), self.joined.clone());
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            let id = step.id();
            outcomes.push(match (self.collision(id), step.to()) {
                (Some(outcome), _) => outcome,
                (None, Some(to)) => {
                    let created = self.created(id, now);
                    self.know(to, created);
                    Outcome::Done(Some(Arc::clone(to)))
                }
                (None, None) => {
                    self.forget(id);
                    Outcome::Done(None)
                }
            });
        }
        if let Err(failed) = self.write_all() {
            (self.known, self.joined) = before;
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_done()) {
                *outcome = failed.clone();
            }
        }
        steps
            .iter()
            .zip(outcomes)
            .map(|(step, outcome)| Applied {
                id: step.id().clone(),
                verb: step.verb(),
                outcome,
                attempts: 1,
            })
            .collect()
    }

    fn write_all(&self) -> Result<(), Outcome> {
        match disk::read(&self.path) {
            Ok(None) => (),
            Ok(Some(text)) if is_blank(&text) || text.starts_with(&self.header()) => (),
            Ok(Some(_)) => {
                let message = format!("{} is not a file of ours", self.path.display());
                return Err(Outcome::Conflict(message));
            }
            Err(error) => return Err(Outcome::Conflict(with_cause(&error))),
        }
        let mut text = self.header();
        for (index, known) in self.known.values().enumerate() {
            if index > 0 {
                text.push_str("---\n");
            }
            let document = self
                .document(&known.object, &known.created)
                .map_err(|error| Outcome::Refused { status: 0, message: error.to_string() })?;
            text.push_str(&document);
        }
        let folder = self.root();
        disk::replace(folder, &self.path, &text).map_err(|error| outcome_of(&self.path, &error))?;
        disk::sync_folder(folder);
        Ok(())
    }

    /// Why the place of `id` must not be touched, if so.
    fn obstacle(&self, id: &ObjectId, path: &Path) -> Option<Outcome> {
        if let Some(outcome) = self.collision(id) {
            return Some(outcome);
        }
        match disk::read(path) {
            Ok(None) => None,
            Ok(Some(text)) => {
                let reads = documents(&text);
                let ours = self.is_broken(path, &text, &reads)
                    || matches!(reads.as_slice(), [Ok(read)] if self.is_at_home(read, path));
                (!ours)
                    .then(|| Outcome::Conflict(format!("{} is not a file of ours", path.display())))
            }
            Err(error) => Some(Outcome::Conflict(with_cause(&error))),
        }
    }

    /// istiod would silently lose one of two objects whose namespace and name read the same when
    /// written together, as a/bc and ab/c.
    fn collision(&self, id: &ObjectId) -> Option<Outcome> {
        let other = self.joined.get(&joined_key(id)).filter(|other| *other != id)?;
        Some(Outcome::Refused {
            status: 0,
            message: format!(
                "istiod takes it for the same object as {other} when it reads files, for their \
                 namespaces and names written together are equal. Publish one of them under \
                 another host or namespace"
            ),
        })
    }

    // === names and texts ===

    fn path_of(&self, id: &ObjectId) -> PathBuf {
        match self.layout {
            Layout::OneFile => self.path.clone(),
            Layout::FilePerObject => self.path.join(&*id.namespace).join(file_name(id)),
        }
    }

    /// The object whose place `path` is, as far as it can be told.
    fn id_of(&self, path: &Path) -> Option<ObjectId> {
        let stem = path.file_stem()?.to_str()?;
        let namespace = path.parent()?.file_name()?.to_str()?;
        [Kind::ServiceEntry, Kind::WorkloadEntry].into_iter().find_map(|kind| {
            let name = stem.strip_prefix(prefix(kind))?;
            let id = ObjectId { kind, namespace: namespace.into(), name: name.into() };
            (self.path_of(&id) == path).then_some(id)
        })
    }

    fn header(&self) -> String {
        format!("# Written by Landfall for owner {}. Changes are overwritten.\n", self.owner)
    }

    /// The folder that must exist.
    fn root(&self) -> &Path {
        match self.layout {
            Layout::FilePerObject => &self.path,
            // A bare file name has an empty parent.
            Layout::OneFile => match self.path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                Some(_) | None => Path::new("."),
            },
        }
    }

    /// Whether `path` may be the place of an object. Of a long name the file has only a digest, so
    /// it cannot be told of which.
    fn is_place(&self, path: &Path) -> bool {
        let prefixes = [Kind::ServiceEntry, Kind::WorkloadEntry].map(prefix);
        let is_ours = |stem: &str| prefixes.iter().any(|prefix| stem.starts_with(prefix));
        path.parent().and_then(Path::parent) == Some(&self.path)
            && path.extension().is_some_and(|extension| extension == "yaml")
            && path.file_stem().and_then(|stem| stem.to_str()).is_some_and(is_ours)
    }

    /// Whether it is an object of ours where it belongs.
    fn is_at_home(&self, read: &Read, path: &Path) -> bool {
        read.is_owned_by(&self.owner) && self.path_of(&read.object.id) == path
    }

    /// Whether the file was ours, though it is no longer what was written: at a place of ours,
    /// with our header or nothing at all, and without anything that belongs elsewhere.
    fn is_broken(&self, path: &Path, text: &str, reads: &[Result<Read, ParseError>]) -> bool {
        let belongs = |read: &Result<Read, ParseError>| match read {
            Ok(read) => self.is_at_home(read, path),
            Err(ParseError::Kind { .. }) => false,
            Err(ParseError::Yaml(_) | ParseError::Fields { .. }) => true,
        };
        self.is_place(path)
            && (is_blank(text) || text.starts_with(&self.header()))
            && reads.iter().all(belongs)
    }

    fn document(&self, object: &MeshObject, created: &str) -> Result<String, api::PrintError> {
        let extra = Extra { creation_timestamp: created, ..Extra::default() };
        Manifest::new(object, &self.owner, self.version).with(extra).to_yaml()
    }

    /// When the object was first written.
    fn created(&self, id: &ObjectId, now: Time) -> String {
        match self.known.get(id) {
            Some(known) if !known.created.is_empty() => known.created.clone(),
            // Kubernetes' times have no fractions of seconds.
            Some(_) | None => {
                api::rfc3339(Time::from_millis(now.millis() / 1000 * 1000)).replace(".000", "")
            }
        }
    }

    fn know(&mut self, object: &Arc<MeshObject>, created: String) {
        self.joined.insert(joined_key(&object.id), object.id.clone());
        self.known.insert(object.id.clone(), Known { object: Arc::clone(object), created });
    }

    fn forget(&mut self, id: &ObjectId) {
        self.joined.remove(&joined_key(id));
        self.known.remove(id);
    }
}

impl Known {
    fn of(read: Read) -> Self {
        Self { object: Arc::new(read.object), created: read.created.unwrap_or_default() }
    }
}

/// The documents of a file, empty ones left out. In what we print no string begins a line, so
/// that a line of dashes is always a border; a file of others may come apart wrongly, and then
/// is not ours all the more.
fn documents(text: &str) -> Vec<Result<Read, ParseError>> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut()
            && !line.starts_with('#')
        {
            document.push_str(line);
            document.push('\n');
        }
    }
    let full = documents.iter().filter(|document| !document.trim().is_empty());
    full.map(|document| api::from_yaml(document)).collect()
}

/// Whether there is nothing in it: what a crash of the machine leaves of a file that was just
/// written, which some file systems fill up with zeros.
fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c == '\0' || c.is_whitespace())
}

fn joined_key(id: &ObjectId) -> (Kind, String) {
    (id.kind, format!("{}{}", id.namespace, id.name))
}

const fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::ServiceEntry => "serviceentry-",
        Kind::WorkloadEntry => "workloadentry-",
    }
}

fn file_name(id: &ObjectId) -> String {
    let prefix = prefix(id.kind);
    match id.name.get(..NAME_LEN_MAX) {
        Some(stem) if id.name.len() > NAME_LEN_MAX => {
            format!("{prefix}{stem}-{}.yaml", name::digest(&[&id.name]))
        }
        Some(_) | None => format!("{prefix}{}.yaml", id.name),
    }
}

/// An error with what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn outcome_of(path: &Path, error: &io::Error) -> Outcome {
    let message = format!("failed to write {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Outcome::NotFound(message),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Outcome::Forbidden(message)
        }
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => Outcome::Conflict(message),
        _ => Outcome::Unavailable(message),
    }
}

// === impl FilesError ===

impl FilesError {
    /// One of a closed set; fit for a metric label.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "files_read",
            Self::ForeignFile { .. } => "files_foreign",
            Self::Make { .. } => "files_make",
            Self::TooMany { .. } => "files_too_many",
        }
    }
}
