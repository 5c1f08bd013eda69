//! What a source counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counters of one source. They only grow.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    requests: AtomicU64,
    snapshots: AtomicU64,
    // The codes are a closed set, which bounds the map.
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

// === impl SourceMetrics ===

impl SourceMetrics {
    /// Requests sent to the registry; for files, times they were read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Snapshots published that differed from the one before.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Failed attempts by error code, in the order of codes.
    #[must_use]
    pub fn errors(&self) -> Vec<(&'static str, u64)> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().map(|(code, count)| (*code, *count)).collect()
    }

    /// Counts a request.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed attempt.
    pub fn count_error(&self, code: &'static str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(code).or_default() += 1;
    }

    pub(crate) fn count_snapshot(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }
}
