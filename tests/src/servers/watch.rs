//! What happens to the objects of a collection, as the API server tells it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::http::{Http, runtime};

/// A watch. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was seen.
    pub at: Instant,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub verb: String,
    /// The object's name.
    pub name: String,
    /// The object after it.
    pub object: Value,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Vec<Change>>,
    /// Somebody waits for the next one.
    changed: Condvar,
}

// === impl Watch ===

impl Watch {
    /// Watches `path` from `version` on.
    pub(crate) fn start(api: Http, path: &str, version: &str) -> Self {
        // Longer than any test.
        let path = format!("{path}?watch=true&resourceVersion={version}&timeoutSeconds=3600");
        let shared = Arc::new(Shared::default());
        let task = runtime().spawn(follow(api, path, Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Every change so far.
    ///
    /// # Panics
    /// The watch ended, so that there may have been more.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        assert!(!self.task.is_finished(), "the API server ended the watch");
        self.shared.changes().clone()
    }

    /// How many changes there were so far.
    ///
    /// # Panics
    /// The watch ended, so that there may have been more.
    #[must_use]
    pub fn count(&self) -> usize {
        assert!(!self.task.is_finished(), "the API server ended the watch");
        self.shared.changes().len()
    }

    /// Waits for a change after the first `skip` that `fits`.
    #[must_use]
    pub fn wait(
        &self,
        skip: usize,
        limit: Duration,
        mut fits: impl FnMut(&Change) -> bool,
    ) -> Option<Change> {
        let began = Instant::now();
        let mut looked_at = skip;
        let mut changes = self.shared.changes();
        loop {
            let new = changes.iter().skip(looked_at).find(|change| fits(change)).cloned();
            if new.is_some() {
                return new;
            }
            looked_at = changes.len().max(skip);
            let left = limit.checked_sub(began.elapsed())?;
            let waited = self.shared.changed.wait_timeout(changes, left);
            changes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(api: Http, path: String, shared: Arc<Shared>) {
    let response = api.begin("GET", &path, &[], Vec::new()).await;
    let mut response = response.expect("a watch");
    let mut rest = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let at = Instant::now();
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let mut event: Value = serde_json::from_slice(&line).expect("an event");
            let object = event["object"].take();
            let change = Change {
                at,
                verb: event["type"].as_str().unwrap_or_default().to_owned(),
                name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                object,
            };
            shared.changes().push(change);
            shared.changed.notify_all();
        }
    }
}
