//! A folder of resources as a sink at work.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::finding::Finding;
use landfall_core::mesh::ObjectId;
use landfall_core::plan::Observed;
use landfall_core::text::with_causes;
use landfall_mesh::api::Body;
use landfall_mesh::files::{FilesError, FilesSink};
use landfall_mesh::kube::Observation;
use landfall_mesh::sink::{Applied, Condition, Outcome, Step};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::Use;
use crate::clock;

/// How often a folder is read again to find what somebody changed by hand.
const FILES_POLL: Duration = Duration::from_secs(5);

/// A folder and what is known of it.
#[derive(Debug)]
pub(super) struct Folder {
    // Held while files are read or written, so that a reading never sees half of the steps.
    sink: Arc<Mutex<FilesSink>>,
    sighting: watch::Sender<Observation>,
    findings: std::sync::Mutex<FolderFindings>,
    used: Use,
}

/// What is to be said of a folder.
#[derive(Debug, Default)]
struct FolderFindings {
    /// As of the last reading.
    known: Vec<Finding>,
    /// Those that were not told yet.
    untold: Vec<Finding>,
}

impl FolderFindings {
    fn see(&mut self, findings: &[Finding]) {
        let new = findings.iter().filter(|finding| !self.known.contains(finding)).cloned();
        self.untold.extend(new);
        self.known = findings.to_vec();
    }
}

impl Folder {
    /// Begins to look at a folder, until `stop`. To be written to it is held.
    pub(super) fn start(sink: FilesSink, used: Use, stop: CancellationToken) -> Arc<Self> {
        let folder = Arc::new(Self {
            sink: Arc::new(Mutex::new(sink)),
            sighting: watch::Sender::new(Observation::default()),
            findings: std::sync::Mutex::default(),
            used,
        });
        tokio::spawn(watch_folder(Arc::clone(&folder), stop));
        folder
    }

    /// What it holds.
    pub(super) fn sighting(&self) -> watch::Receiver<Observation> {
        self.sighting.subscribe()
    }

    /// What a person should know of what is there, as far as it was not told before.
    pub(super) fn take_findings(&self) -> Vec<Finding> {
        let findings = self.findings.lock();
        findings.map(|mut all| std::mem::take(&mut all.untold)).unwrap_or_default()
    }

    /// Makes ready what others expect before anything is written. What cannot be made is a
    /// condition once it is read.
    pub(super) async fn prepare(&self, name: &str) {
        let sink = Arc::clone(&self.sink).lock_owned().await;
        let made = tokio::task::spawn_blocking(move || sink.prepare()).await;
        if let Ok(Err(error)) = made {
            let error = with_causes(&error);
            tracing::warn!(sink = name, error, "Folder not made.");
        }
    }

    /// Applies `steps`.
    pub(super) async fn apply(&self, steps: Vec<Step>) -> Vec<Applied> {
        let mut sink = Arc::clone(&self.sink).lock_owned().await;
        let unfinished: Vec<Applied> = steps.iter().map(unfinished).collect();
        let done = tokio::task::spawn_blocking(move || {
            let applied = match sink.hold() {
                Ok(()) => sink.apply(&steps, clock::wall()),
                Err(error) => steps.iter().map(|step| not_begun(step, &error)).collect(),
            };
            (applied, sink)
        });
        // A panic of the writer is the only way to an error; its steps are planned again.
        let Ok((applied, sink)) = done.await else { return unfinished };
        self.sighting.send_if_modified(|seen| {
            for Applied { id, outcome, .. } in &applied {
                match outcome {
                    Outcome::Done(Some(object)) => {
                        seen.observed.ours.insert(id.clone(), Arc::clone(object));
                    }
                    Outcome::Done(None) => {
                        seen.observed.ours.remove(id);
                    }
                    _ => {}
                }
            }
            true
        });
        drop(sink);
        applied
    }

    /// Reads what is there. What did not change stays shared with the reading before.
    async fn observe(&self) {
        let mut sink = Arc::clone(&self.sink).lock_owned().await;
        let used = self.used;
        let read = tokio::task::spawn_blocking(move || {
            let held = if used == Use::Write { sink.hold() } else { Ok(()) };
            let read = held.and_then(|()| sink.observe());
            (read, sink)
        });
        let Ok((read, sink)) = read.await else { return };
        if let Ok((_, findings)) = &read
            && let Ok(mut known) = self.findings.lock()
        {
            known.see(findings);
        }
        self.sighting.send_if_modified(|seen| match read {
            Ok((observed, _)) => {
                let changed =
                    merge(&mut seen.observed, &observed) | seen.take_claims(sink.claims());
                let first = !std::mem::replace(&mut seen.ready, true);
                let healed = seen.condition.take().is_some();
                changed || first || healed
            }
            Err(error) => {
                let condition = Condition { code: error.code(), message: with_causes(&error) };
                let differs = seen.condition.as_ref() != Some(&condition);
                seen.condition = Some(condition);
                differs
            }
        });
        drop(sink);
    }
}

/// A step of which it is not known what became.
pub(super) fn unfinished(step: &Step) -> Applied {
    let outcome = Outcome::Unavailable("writing failed half-way".to_owned());
    Applied { id: step.id().clone(), verb: step.verb(), outcome, attempts: 1 }
}

/// A step that somebody else's lock keeps back.
fn not_begun(step: &Step, error: &FilesError) -> Applied {
    let outcome = Outcome::Unavailable(error.to_string());
    Applied { id: step.id().clone(), verb: step.verb(), outcome, attempts: 0 }
}

async fn watch_folder(folder: Arc<Folder>, stop: CancellationToken) {
    loop {
        folder.observe().await;
        tokio::select! {
            () = tokio::time::sleep(FILES_POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Makes `known` equal to `seen`, keeping what is equal; says whether anything changed.
fn merge(known: &mut Observed<Body>, seen: &Observed<Body>) -> bool {
    let differing: Vec<ObjectId> = known
        .ours
        .keys()
        .chain(seen.ours.keys())
        .filter(|id| known.ours.get(*id) != seen.ours.get(*id))
        .cloned()
        .collect();
    for id in &differing {
        match seen.ours.get(id) {
            Some(object) => known.ours.insert(id.clone(), Arc::clone(object)),
            None => known.ours.remove(id),
        };
    }
    let foreign_differs = known.foreign != seen.foreign;
    known.foreign.clone_from(&seen.foreign);
    foreign_differs || !differing.is_empty()
}
