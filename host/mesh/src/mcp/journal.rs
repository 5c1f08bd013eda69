//! The objects that are served, on disk: what was served last is served again after a restart, before
//! any registry has spoken.
//!
//! A file of JSON lines, each of which says what became of one object, or that what stands before it
//! is a state that control planes are told. Appending costs what changed; once most lines are out of
//! date the file is written anew beside itself and renamed.
//!
//! Invariant: lines are on disk before anything is told. So what a crash left behind the last state
//! was told to nobody, and is left out: a part of a state would have control planes remove the rest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdMap;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::text::Text;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{self, ApiVersion, Extra, Manifest, MeshObject, Owner};
use crate::durable;

/// Lines that are out of date before the file is written anew: as many as there are objects, but
/// not for a few.
const STALE_LINES_MIN: usize = 1000;
/// An object of the largest size takes 1.5 MiB.
const LINE_LEN_MAX: u64 = 16 << 20;

/// An object as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The object.
    pub(super) object: Arc<MeshObject>,
    /// When it was first served, RFC 3339: a later one would not take effect.
    pub(super) created: String,
    /// Its virtual address, where it was given one.
    pub(super) address: Option<IpAddr>,
}

/// What became of an object.
#[derive(Debug)]
pub(super) enum Change {
    Put(Entry),
    Gone(ObjectId),
}

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    owner: Owner,
    file: Option<File>,
    /// Lines in the file.
    lines: usize,
    /// Whether what is in it is told.
    is_told: bool,
}

/// What was in it: the last state that was told, or as much as there is where none was.
#[derive(Clone, Debug, Default)]
pub(super) struct Recovered {
    pub(super) entries: OrdMap<ObjectId, Entry>,
    /// The virtual address that was given last.
    pub(super) last_address: Option<IpAddr>,
    /// Whether it was told, and nothing of it is lost.
    is_told: bool,
    /// Lines that could not be read.
    pub(super) unreadable: usize,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An object cannot be printed.
    #[error(transparent)]
    Print(#[from] api::PrintError),
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Line {
    /// The object is served like this.
    #[serde(rename_all = "camelCase")]
    Put {
        manifest: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// It is served no more.
    Gone { kind: String, namespace: String, name: String },
    /// The virtual address that was given last, where its object is gone.
    LastAddress(IpAddr),
    /// The lines before it are a state that control planes are told.
    Told,
}

impl Journal {
    /// The journal at `path`, and what is in it.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(super) fn open(path: PathBuf, owner: Owner) -> Result<(Self, Recovered), JournalError> {
        let (recovered, lines) = recover(&path, &owner)
            .map_err(|source| JournalError::Read { path: path.clone(), source })?;
        let is_told = recovered.is_told;
        Ok((Self { path, owner, file: None, lines, is_told }, recovered))
    }

    /// Whether what is in it is told.
    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// From now on what is in it is told.
    ///
    /// # Errors
    /// It cannot be written, and is to be asked again.
    pub(super) fn tell(
        &mut self,
        entries: &OrdMap<ObjectId, Entry>,
        last_address: Option<IpAddr>,
    ) -> Result<(), JournalError> {
        self.is_told = true;
        let told = self.append(&[], entries, last_address);
        self.is_told = told.is_ok();
        told
    }

    /// Adds what changed; it is on disk when this ends. `entries` is what is served after it.
    ///
    /// # Errors
    /// It cannot be written; what is in the file may be a part of it, which does no harm: the same
    /// changes are written again.
    pub(super) fn append(
        &mut self,
        changes: &[Change],
        entries: &OrdMap<ObjectId, Entry>,
        last_address: Option<IpAddr>,
    ) -> Result<(), JournalError> {
        let stale = (self.lines + changes.len()).saturating_sub(entries.len());
        let is_in_place = |file: &File| durable::is_in_place(file, &self.path);
        if !self.file.as_ref().is_some_and(is_in_place)
            || stale > entries.len().max(STALE_LINES_MIN)
        {
            return self.rewrite(entries, last_address);
        }
        let mut text = Vec::new();
        for change in changes {
            self.print(change, &mut text)?;
        }
        if self.is_told {
            line(&Line::Told, &mut text);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // Behind half a line nothing could be read: the next time it is written anew.
            self.file = None;
            return Err(JournalError::Write { path: self.path.clone(), source });
        }
        self.lines += changes.len() + usize::from(self.is_told);
        Ok(())
    }

    /// Writes the file anew.
    fn rewrite(
        &mut self,
        entries: &OrdMap<ObjectId, Entry>,
        last_address: Option<IpAddr>,
    ) -> Result<(), JournalError> {
        let mut text = Vec::new();
        for entry in entries.values() {
            self.print(&Change::Put(entry.clone()), &mut text)?;
        }
        if let Some(address) = last_address {
            line(&Line::LastAddress(address), &mut text);
        }
        if self.is_told {
            line(&Line::Told, &mut text);
        }
        let replaced = || -> io::Result<File> {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            durable::put(&self.path, &text)?;
            self.path.parent().into_iter().for_each(durable::sync_folder);
            OpenOptions::new().append(true).open(&self.path)
        };
        let file =
            replaced().map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        self.file = Some(file);
        let marks = usize::from(last_address.is_some()) + usize::from(self.is_told);
        self.lines = entries.len() + marks;
        Ok(())
    }

    fn print(&self, change: &Change, out: &mut Vec<u8>) -> Result<(), JournalError> {
        let printed = match change {
            Change::Put(Entry { object, created, address }) => {
                let extra = Extra { creation_timestamp: created, ..Extra::default() };
                let manifest = Manifest::new(object, &self.owner, ApiVersion::V1).with(extra);
                Line::Put { manifest: manifest.to_value()?, address: *address }
            }
            Change::Gone(id) => Line::Gone {
                kind: id.kind.as_str().to_owned(),
                namespace: id.namespace.to_string(),
                name: id.name.to_string(),
            },
        };
        line(&printed, out);
        Ok(())
    }
}

fn line(line: &Line, out: &mut Vec<u8>) {
    // A value of this type always has a text.
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}

/// Reads the file, and counts its lines.
fn recover(path: &Path, owner: &Owner) -> io::Result<(Recovered, usize)> {
    let mut recovered = Recovered::default();
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        // Opening a pipe waits for somebody to write into it.
        Ok(_) => return Err(io::Error::other("it is not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((recovered, 0)),
        Err(error) => return Err(error),
    }
    let mut reader = BufReader::new(File::open(path)?);
    let mut told = None;
    let (mut lines, mut unreadable) = (0, 0);
    let mut text = Vec::new();
    loop {
        text.clear();
        io::Read::take(&mut reader, LINE_LEN_MAX).read_until(b'\n', &mut text)?;
        // One that was cut off ends it too.
        let Some(line) = text.strip_suffix(b"\n") else { break };
        lines += 1;
        let is_read = match serde_json::from_slice(line) {
            Ok(Line::Told) => {
                told = Some(recovered.clone());
                true
            }
            Ok(said) => recovered.take(said, owner).is_some(),
            Err(_) => false,
        };
        unreadable += usize::from(!is_read);
    }
    let is_told = told.is_some() && unreadable == 0;
    Ok((Recovered { is_told, unreadable, ..told.unwrap_or(recovered) }, lines))
}

impl Recovered {
    /// Takes up what a line says, unless it is of somebody else or names nothing.
    fn take(&mut self, line: Line, owner: &Owner) -> Option<()> {
        match line {
            Line::Put { manifest, address } => {
                let read = api::from_json(manifest).ok()?;
                if !read.is_owned_by(owner) {
                    return None;
                }
                let id = read.object.id.clone();
                let had = self.entries.get(&id).and_then(|entry| entry.address);
                if address.is_some() && address != had {
                    self.last_address = address;
                }
                let created = read.created?;
                let entry = Entry { object: Arc::new(read.object), created, address };
                self.entries.insert(id, entry);
            }
            Line::Gone { kind, namespace, name } => {
                let kinds = [Kind::ServiceEntry, Kind::WorkloadEntry];
                let kind = kinds.into_iter().find(|known| known.as_str() == kind)?;
                let (namespace, name) = (Text::from(namespace), Text::from(name));
                self.entries.remove(&ObjectId { kind, namespace, name });
            }
            Line::LastAddress(address) => self.last_address = Some(address),
            Line::Told => (),
        }
        Some(())
    }
}
