//! Services listed in files: one YAML or JSON file, or a folder of them.
//!
//! The way of a change: the operating system tells that something in the folder changed; once no
//! file is being written any more, all files are read, of which only those with other contents
//! are parsed; if they were the same before and after the reading, the joined listing is published.
//! Of a file that is no listing or cannot be read stands what it last listed, and the doubt says
//! which file, line and column; the others go on. So it stands of one that is away for a moment.
//! One that could not be read since the source began is missing in the listing, in doubt. A slow
//! poll stands behind the notifications, which some file systems lack.
//!
//! A file that was cut at the end of a line is a smaller listing, and nothing in it says so. So a
//! file is read only when nobody writes it: as the operating system tells, or, where it did not
//! tell and when the source begins, as two looks at the file a moment apart do. What was read is
//! published only if that was so until the end. A file that is renamed into place needs neither.

mod aside;
mod convert;
mod read;
#[cfg(test)]
mod tests;
mod watch;
mod wire;
mod write;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use landfall_core::finding::Finding;
use landfall_core::registry::Snapshot;
use tokio::time::{Instant, sleep, timeout_at};

use self::aside::aside;
pub use self::read::{FILES_MAX, FileError};
use self::read::{Files, Reading, Stamp};
use self::watch::Watch;
pub use self::wire::BYTES_MAX;
pub use self::write::write;
use crate::backoff::jittered;
use crate::{Publisher, Source, Trouble};

// Several events come with one edit. Long enough to read once, short beside the 100 ms within
// which an edit should be seen.
const QUIET: Duration = Duration::from_millis(10);
// A writer that is busy longer than this is a doubt: what the file is to list is not known.
const WRITER_WAIT_MAX: Duration = Duration::from_secs(2);
// Between two looks at a file that may be being written. Whoever writes a listing hands over its
// pieces within microseconds of each other, and the start must not take long.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
// Listings that somebody began to write while they were read, in a row, until that is a doubt.
const READS_MAX: usize = 3;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// A file, or a folder of which every `*.yaml`, `*.yml` and `*.json` is read, in the order of
    /// their names.
    pub path: PathBuf,
    /// How often to look without having been told of a change.
    pub poll: Duration,
}

/// The source.
#[derive(Debug)]
pub struct File {
    settings: FileSettings,
}

/// Reads one listing from `text`; `name` stands for the file in messages.
///
/// # Errors
/// `text` is not a listing.
pub fn parse(name: &str, text: &str) -> Result<(Snapshot, Vec<Finding>), FileError> {
    let listing = read::parse(name.as_ref(), text)?;
    Ok(convert::join(&[(name.into(), listing.into())].into(), &BTreeMap::new(), None))
}

// === impl FileSettings ===

impl FileSettings {
    /// The files at `path`, polled every two seconds.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), poll: Duration::from_secs(2) }
    }
}

// === impl File ===

impl File {
    /// A source of the files that `settings` name.
    #[must_use]
    pub fn new(settings: FileSettings) -> Self {
        Self { settings }
    }
}

impl Source for File {
    fn registry(&self) -> &'static str {
        "file"
    }

    fn watch(self: Box<Self>, out: Publisher) -> BoxFuture<'static, Infallible> {
        async move { self.follow(Watch::new(&self.settings.path), &out).await }.boxed()
    }
}

impl File {
    async fn follow(&self, mut watch: Watch, out: &Publisher) -> Infallible {
        let mut state = State::default();
        // Before the first reading, or a change between the two would wait for the poll.
        watch.renew(std::iter::empty()).await;
        let mut noticed = Noticed::Found;
        let mut in_vain = 0_usize;
        loop {
            let settled = self.settle(&watch, noticed, out).await;
            let was_at_rest;
            (state, was_at_rest) = self.load(state, settled, &watch, out).await;
            if was_at_rest {
                in_vain = 0;
                noticed = self.changed(&mut watch, &state, out).await;
                continue;
            }
            in_vain += 1;
            if in_vain >= READS_MAX {
                self.unsettled(out);
            }
            noticed = Noticed::Found;
        }
    }

    /// Waits until the files should be read again: having been told of a change, for that may
    /// leave their stamp as it is, or having found another stamp.
    async fn changed(&self, watch: &mut Watch, state: &State, out: &Publisher) -> Noticed {
        let mut stamp = state.stamp.clone();
        loop {
            let renewed = watch.renew(stamp.iter().flat_map(Stamp::targets)).await;
            let poll_at = Instant::now() + jittered(self.settings.poll);
            let until = state.again_at.map_or(poll_at, |again_at| again_at.min(poll_at));
            if !renewed && timeout_at(until, watch.changed()).await.is_ok() {
                return if watch.tells_all() { Noticed::Told } else { Noticed::Found };
            }
            if state.again_at.is_some_and(|again_at| again_at <= Instant::now()) {
                return Noticed::Found;
            }
            stamp = self.look().await;
            if stamp != state.stamp || state.retries {
                return Noticed::Found;
            }
            if state.is_good() {
                out.confirmed();
            }
        }
    }

    /// The files as they are now. What is not there is not being written; the reading will say so.
    async fn look(&self) -> Option<Stamp> {
        let path = self.settings.path.clone();
        aside(move || Stamp::take(&path).ok()).await
    }

    fn unsettled(&self, out: &Publisher) {
        let error = FileError::Unsettled { path: self.settings.path.clone() };
        out.metrics().count_error(error.code());
        out.doubt((&error).into());
    }

    /// Waits until nobody writes, and returns how the files were then where that was found by
    /// looking. Whoever takes long puts the listing in doubt.
    async fn settle(&self, watch: &Watch, noticed: Noticed, out: &Publisher) -> Option<Stamp> {
        let deadline = Instant::now() + WRITER_WAIT_MAX;
        let pause = match noticed {
            Noticed::Told => QUIET,
            Noticed::Found => LOOK_AGAIN,
        };
        let mut told = false;
        let mut before = if noticed == Noticed::Found { self.look().await } else { None };
        loop {
            sleep(pause).await;
            if noticed == Noticed::Told && watch.hears_no_writer() {
                return None;
            }
            let now = self.look().await;
            let written = match &now {
                Some(now) => watch.is_being_written(now).await,
                None => false,
            };
            if !written && (noticed == Noticed::Told || before == now) {
                return now;
            }
            before = now;
            if Instant::now() >= deadline && !told {
                told = true;
                self.unsettled(out);
            }
            if written {
                // Until something happens or there is something to say.
                let at = if told { Instant::now() + self.settings.poll } else { deadline };
                let _told_or_late = timeout_at(at, watch.changed()).await;
            }
        }
    }

    /// Reads and publishes, if the files are still as `settled` says and nobody writes them;
    /// returns whether that was so. Where it was not, part of a listing may have been read.
    async fn load(
        &self,
        state: State,
        settled: Option<Stamp>,
        watch: &Watch,
        out: &Publisher,
    ) -> (State, bool) {
        out.metrics().count_request();
        let path = self.settings.path.clone();
        // Parsing 30 MB takes a second; not on a thread that others wait for.
        let loaded = tokio::task::spawn_blocking(move || state.read(path)).await;
        // A panic of the reader is the only way to an error; it would be a defect here.
        let (mut state, read) = loaded.unwrap_or_else(|error| {
            let message = format!("the reader of files failed: {error}");
            (State::default(), Err(Trouble { code: "file_read", message }))
        });
        match read {
            Ok(reading) => {
                if let Some(stamp) = &state.stamp
                    && (settled.is_some_and(|settled| settled != *stamp)
                        || watch.is_being_written(stamp).await)
                {
                    return (state, false);
                }
                state.publish(reading, out);
            }
            Err(trouble) => {
                out.metrics().count_error(trouble.code);
                out.doubt(trouble);
            }
        }
        (state, true)
    }
}

/// How a change was noticed, and with it what is known of who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    /// The operating system told, and it tells when a file that is written is closed.
    Told,
    /// By looking. Whoever wrote may go on.
    Found,
}

/// What is known between two readings.
#[derive(Default)]
struct State {
    files: Files,
    /// As they were at the last attempt; `None` when they could not even be looked at.
    stamp: Option<Stamp>,
    snapshot: Option<Snapshot>,
    failed: bool,
    /// Whether to read again though the stamp stays.
    retries: bool,
    /// When to read again though nothing changes.
    again_at: Option<Instant>,
}

impl State {
    fn is_good(&self) -> bool {
        !self.failed && self.stamp.is_some()
    }

    fn read(mut self, path: PathBuf) -> (Self, Result<Reading, Trouble>) {
        self.again_at = None;
        match self.files.read(&path, self.snapshot.as_ref(), Instant::now()) {
            Ok(reading) => {
                self.again_at = reading.again_at;
                self.stamp = Some(reading.stamp.clone());
                self.failed = !reading.failures.is_empty();
                self.retries = reading.is_worth_retrying();
                (self, Ok(reading))
            }
            Err(error) => {
                // Worth another attempt with the next look that finds files.
                self.stamp = None;
                self.failed = true;
                (self, Err(Trouble::from(&error)))
            }
        }
    }

    /// Tells what was read, in doubt where files could not be. Where none ever could there is
    /// nothing to tell but that.
    fn publish(&mut self, reading: Reading, out: &Publisher) {
        let trouble = reading.trouble();
        if let Some(trouble) = &trouble {
            out.metrics().count_error(trouble.code);
        }
        if !reading.is_vain() {
            self.files.accept(&reading);
            self.snapshot = Some(reading.snapshot.clone());
        }
        match trouble {
            None => out.complete(reading.snapshot, reading.findings),
            Some(trouble) if reading.is_vain() => out.doubt(trouble),
            Some(trouble) => out.complete_in_doubt(reading.snapshot, reading.findings, trouble),
        }
    }
}
