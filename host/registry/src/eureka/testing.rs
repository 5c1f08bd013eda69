//! The reader of Eureka's answers, for tests of other crates that hand it hostile ones.

use std::time::Duration;

use landfall_core::finding::Finding;
use landfall_core::registry::Snapshot;
use tokio::time::Instant;

use super::convert::{self, Reading};
use super::listing::{Keep, Listing, Server};

const KEEP: Keep = Keep { least: Duration::from_secs(90), most: Duration::from_secs(600) };

/// What is known after some answers of one server.
#[derive(Debug)]
pub struct Known {
    listing: Listing,
    now: Instant,
}

// === impl Known ===

impl Known {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self { listing: Listing::default(), now: Instant::now() }
    }

    /// Takes up an answer to `/apps` that comes so long after the last one.
    ///
    /// # Errors
    /// The answer has another form.
    pub fn full(&mut self, body: &[u8], after: Duration) -> Result<(), serde_json::Error> {
        let read = convert::answer(body, Reading::default())?;
        self.now += after;
        self.listing.full(read.entries, &read.twice, KEEP, Server::Same, self.now);
        Ok(())
    }

    /// Takes up an answer to `/apps/delta`.
    ///
    /// # Errors
    /// The answer has another form.
    pub fn changes(&mut self, body: &[u8]) -> Result<(), serde_json::Error> {
        self.listing.changes(convert::answer(body, Reading::default())?.entries);
        Ok(())
    }

    /// What is published of it.
    #[must_use]
    pub fn published(&self) -> (&Snapshot, Vec<Finding>) {
        (self.listing.snapshot(), self.listing.findings())
    }

    /// How many instances its digest counts, readable or not, and how many are kept besides
    /// although no answer lists them.
    #[must_use]
    pub fn counted(&self) -> (usize, usize) {
        (convert::counted(&self.listing.hash()).unwrap_or_default(), self.listing.missing())
    }
}
