//! A folder as a sink: what istiod reads with `fs://`, and what lands in a git repository. An object
//! is at `<namespace>/<kind>-<name>.yaml`.
//!
//! istiod refuses all changes while one file is broken, so files are validated before, written
//! beside and get their names then. It follows no symbolic link, and neither do we. An object
//! without a creation time counts as the oldest of all and wins every conflict over a host, so each
//! carries the time at which it was first written.
//!
//! Invariant: a file that does not carry our mark is never changed and never deleted. One that comes
//! while a new one is written stays; one that takes the place of ours while that is written anew is
//! taken for ours.

mod disk;
mod lock;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdSet;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::name;
use landfall_core::pairs::Pairs;
use landfall_core::plan::Observed;
use landfall_core::text::{Text, with_causes};
use landfall_core::time::Time;

use self::disk::Place;
use self::lock::Lock;
use crate::api::{
    self, ApiVersion, Body, Extra, Manifest, MeshObject, Owner, ParseError, Read, ServiceEntry,
    Spec, WorkloadEntry,
};
use crate::durable;
use crate::sink::{Applied, Outcome, Step, Stuck};

/// A folder, and what is known to be in it. Its calls block.
#[derive(Debug)]
pub struct FilesSink {
    path: PathBuf,
    owner: Owner,
    version: ApiVersion,
    known: BTreeMap<ObjectId, Known>,
    /// What was found in each file, so that only files that changed are read again.
    looked: BTreeMap<PathBuf, Looked>,
    /// Files that an earlier run may have left when it ended in the middle of writing them.
    leftovers: Vec<PathBuf>,
    /// istiod knows objects by namespace and name without anything between.
    joined: BTreeMap<(Kind, String), ObjectId>,
    lock: Option<Lock>,
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
    /// An object of ours that cannot be read.
    broken: Option<ObjectId>,
    /// Objects that others wrote, or in whose place the file stands.
    foreign: Vec<ObjectId>,
    /// The hosts of ServiceEntries among them.
    claims: Vec<(ObjectId, Box<[Text]>)>,
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
    /// It cannot be made.
    #[error("failed to make the folder {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process writes to it.
    #[error(
        "another Landfall with owner {owner} writes to {}: it holds {}. Stop one of the two, or give \
         each an owner or a folder of its own",
        folder.display(), lock.display()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// What is locked.
        lock: PathBuf,
        /// Whose objects both write.
        owner: Owner,
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

// Never written: only marks what is observed.
const ADRIFT: &str = "landfall.dev/adrift";
// ext4 and most others take 255 bytes; the rest is room for kind and suffixes.
const NAME_LEN_MAX: usize = 180;

impl FilesSink {
    /// A sink at `path`. Nothing is read or written yet.
    #[must_use]
    pub fn new(path: PathBuf, owner: Owner, version: ApiVersion) -> Self {
        let (known, looked, joined) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { path, owner, version, known, looked, leftovers: Vec::new(), joined, lock: None }
    }

    /// Makes the folder if it is not there: istiod does not start without it. Not needed before
    /// [`FilesSink::apply`], which makes it too.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(&self) -> Result<(), FilesError> {
        fs::create_dir_all(&self.path)
            .map_err(|source| FilesError::Make { path: self.path.clone(), source })
    }

    /// Keeps every other process from writing for the same owner, from now on, and removes what an
    /// earlier one left that ended in the middle of writing a file. For who is about to write; looking
    /// needs nothing of it.
    ///
    /// # Errors
    /// Another process is there already.
    pub fn hold(&mut self) -> Result<(), FilesError> {
        if !self.lock.as_ref().is_some_and(Lock::is_there) {
            self.lock = Lock::take(&self.path, &self.owner)?;
            if self.lock.as_ref().is_some_and(Lock::is_new) {
                self.remove_own_leftovers();
            }
        }
        Ok(())
    }

    /// Removes temporary files of this owner. Nobody misses one, since istiod reads no such file, and
    /// one that cannot be removed is no harm.
    fn remove_own_leftovers(&self) {
        let temporary = disk::below(&self.path).map(|below| below.temporary).unwrap_or_default();
        for path in temporary {
            if self.is_place(&disk::of_temporary(&path)) && self.is_begun_by_us(&path) {
                drop(fs::remove_file(path));
            }
        }
    }

    /// Whether what is at `path` begins as our files do, or ends before that could be told. Were it
    /// another owner's, who is about to write it, that one would write it once more.
    fn is_begun_by_us(&self, path: &Path) -> bool {
        let Ok(Some(text)) = disk::read(path) else { return false };
        let header = self.header();
        text.starts_with(&header) || header.starts_with(&text)
    }

    /// Reads what is there, as far as it changed since it was read before. Files of others that
    /// hold an object of ours, or stand in its place, make that object foreign. Changes nothing.
    ///
    /// # Errors
    /// What is there cannot be read as a whole, so nothing may be concluded from it.
    pub fn observe(&mut self) -> Result<(Observed<Body>, Vec<Finding>), FilesError> {
        let disk::Below { yaml: paths, temporary } = disk::below(&self.path)?;
        self.leftovers = temporary;
        let mut looked = BTreeMap::new();
        for path in paths {
            // Before reading: what changes meanwhile has another one next time.
            let Some(stamp) = disk::stamp(&path)? else { continue };
            let found = match self.looked.get(&path) {
                Some(before) if before.stamp == stamp => before.found.clone(),
                Some(_) | None => self.look_at(&path),
            };
            looked.insert(path, Looked { stamp, found });
        }
        self.looked = looked;
        Ok(self.take_up())
    }

    /// The hosts that ServiceEntries of others claimed when the files were read last.
    pub fn claims(&self) -> impl Iterator<Item = (&ObjectId, &[Text])> {
        let all = self.looked.values().flat_map(|looked| &looked.found.claims);
        all.map(|(id, hosts)| (id, &**hosts))
    }

    /// Puts together what was found in the files.
    fn take_up(&mut self) -> (Observed<Body>, Vec<Finding>) {
        let (mut known, mut foreign, mut findings) = (BTreeMap::new(), OrdSet::new(), Vec::new());
        for Looked { found, .. } in self.looked.values_mut() {
            for one in &mut found.ours {
                if let Some(before) = self.known.get(&one.object.id) {
                    // Of when it was made, what we wrote holds, and not what the file says by now.
                    if !before.created.is_empty() && one.created != before.created {
                        one.created.clone_from(&before.created);
                        one.object = adrift(&one.object);
                    }
                    // What did not change stays the very same object.
                    if before.object == one.object {
                        one.object = Arc::clone(&before.object);
                    }
                }
                known.insert(one.object.id.clone(), one.clone());
            }
            if let Some(id) = &found.broken {
                let broken = match self.known.get(id) {
                    Some(before) => Known { object: adrift(&before.object), ..before.clone() },
                    None => Known { object: unreadable(id), created: String::new() },
                };
                known.insert(id.clone(), broken);
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
        let mut touched = BTreeSet::from([self.path.clone()]);
        let mut stuck = Stuck::default();
        let mut one = |step: &Step| {
            let (outcome, attempts) = match stuck.obstacle(step) {
                Some(outcome) => (outcome, 0),
                None => (self.apply_one(step, now), 1),
            };
            touched.extend(self.path_of(step.id()).parent().map(Path::to_owned));
            if !outcome.is_done() {
                stuck.note_failed(step);
            }
            Applied { id: step.id().clone(), verb: step.verb(), outcome, attempts }
        };
        let applied = steps.iter().map(&mut one).collect();
        // Once for all steps, since a disk takes milliseconds for it.
        touched.iter().for_each(|folder| durable::sync_folder(folder));
        applied
    }

    fn look_at(&self, path: &Path) -> Found {
        match disk::read(path) {
            Ok(None) => Found::default(),
            Ok(Some(text)) => self.look_at_text(path, &text),
            // Somebody's file that we may not read: it stands where one of ours might have to be.
            Err(_) => Found { foreign: self.id_of(path).into_iter().collect(), ..Found::default() },
        }
    }

    //  at our own place   documents in it            it is
    //  yes                one, the object's own      ours
    //  yes, our header    own ones, unreadable ones  ours and broken, so that it is written anew,
    //  yes, no content    -                          or deleted when nothing wants it
    //  else                                          somebody else's, a copy of ours included
    fn look_at_text(&self, path: &Path, text: &str) -> Found {
        let mut found = Found::default();
        let reads = documents(text);
        if let [Ok(read)] = reads.as_slice()
            && self.is_at_home(read, path)
        {
            let is_adrift = read.created.is_none() || read.api_version != self.version.with_group();
            found.ours.push(Known::of(read.clone(), is_adrift));
            return found;
        }
        if self.is_broken(path, text, &reads) {
            found.broken = self.id_of(path);
            if found.broken.is_none() {
                // Of a long name the file has only a digest.
                found.findings.push(Finding::new(
                    FindingCode::ForeignObject,
                    path.display(),
                    "it is a file of ours that cannot be read, and it does not say of which object. \
                     While it is there istiod takes up no change; delete it unless it is written \
                     anew at once",
                ));
            }
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
            if let Some(entry) = read.object.body.service_entry() {
                found.claims.push((read.object.id.clone(), entry.hosts.clone()));
            }
            found.foreign.push(read.object.id);
        }
        // Whatever it is, it stands where one of ours might have to be.
        found.foreign.extend(self.id_of(path));
        found
    }

    // === steps ===

    fn apply_one(&mut self, step: &Step, now: Time) -> Outcome {
        let id = step.id();
        let path = self.path_of(id);
        let place = match self.place_of(id, &path) {
            Ok(place) => place,
            Err(outcome) => return outcome,
        };
        let Some(to) = step.to() else {
            return match disk::remove(&path) {
                Ok(()) => {
                    self.forget(id);
                    Outcome::Done(None)
                }
                Err(error) => outcome_of(&path, &error),
            };
        };
        self.write_one(&path, place, to, now)
    }

    fn write_one(&mut self, path: &Path, place: Place, to: &Arc<MeshObject>, now: Time) -> Outcome {
        // An object that is emptied is what was observed otherwise.
        let to = &at_rest(to);
        let created = self.created(&to.id, now);
        let text = match self.document(to, &created) {
            Ok(text) => self.header() + &text,
            Err(error) => return Outcome::Refused { status: 0, message: error.to_string() },
        };
        match disk::write(&self.path, path, place, &text) {
            Ok(()) => {
                self.know(to, created);
                Outcome::Done(Some(Arc::clone(to)))
            }
            Err(error) => outcome_of(path, &error),
        }
    }

    /// What is in the place of `id`.
    ///
    /// # Errors
    /// It must not be touched.
    fn place_of(&self, id: &ObjectId, path: &Path) -> Result<Place, Outcome> {
        if let Some(outcome) = self.collision(id) {
            return Err(outcome);
        }
        let found = disk::read(path).map_err(|error| Outcome::Conflict(with_causes(&error)))?;
        let Some(text) = found else { return Ok(Place::Free) };
        let reads = documents(&text);
        let ours = self.is_broken(path, &text, &reads)
            || matches!(reads.as_slice(), [Ok(read)] if self.is_at_home(read, path));
        if ours {
            Ok(Place::Ours)
        } else {
            Err(Outcome::Conflict(format!("{} is not a file of ours", path.display())))
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
        self.path.join(&*id.namespace).join(file_name(id))
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
    fn of(read: Read, is_adrift: bool) -> Self {
        let object = Arc::new(read.object);
        let object = if is_adrift { adrift(&object) } else { object };
        Self { object, created: read.created.unwrap_or_default() }
    }
}

/// `object` as a file has it that is not as we wrote it in more than the object itself. It equals
/// nothing that is desired, and so is written again.
fn adrift(object: &Arc<MeshObject>) -> Arc<MeshObject> {
    if object.body.annotations.get(ADRIFT).is_some() {
        return Arc::clone(object);
    }
    let annotations = object.body.annotations.iter().map(|(k, v)| (Text::clone(k), Text::clone(v)));
    let mark = (Text::from(ADRIFT), Text::from("true"));
    let body =
        Body { annotations: annotations.chain([mark]).collect(), ..Body::clone(&object.body) };
    Arc::new(Object { body: Arc::new(body), ..MeshObject::clone(object) })
}

/// `object` without what [`adrift`] added.
fn at_rest(object: &Arc<MeshObject>) -> Arc<MeshObject> {
    if object.body.annotations.get(ADRIFT).is_none() {
        return Arc::clone(object);
    }
    let annotations = object.body.annotations.iter().filter(|(key, _)| ***key != *ADRIFT);
    let annotations = annotations.map(|(k, v)| (Text::clone(k), Text::clone(v))).collect();
    let body = Body { annotations, ..Body::clone(&object.body) };
    Arc::new(Object { body: Arc::new(body), ..MeshObject::clone(object) })
}

/// Stands for an object of which nothing is known but its place. `validate` refuses it, so it differs
/// from whatever is desired; and since it names no sources, all must have spoken before it goes.
fn unreadable(id: &ObjectId) -> Arc<MeshObject> {
    let spec = match id.kind {
        Kind::ServiceEntry => Spec::ServiceEntry(ServiceEntry::default()),
        Kind::WorkloadEntry => Spec::WorkloadEntry(WorkloadEntry::default()),
    };
    let body = Body { labels: Pairs::default(), annotations: Pairs::default(), spec };
    Arc::new(Object { id: id.clone(), sources: Arc::from([]), removal: None, body: Arc::new(body) })
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
            Self::Make { .. } => "files_make",
            Self::Locked { .. } => "files_locked",
            Self::TooMany { .. } => "files_too_many",
        }
    }
}
