//! What is known of one service of a scope, and how an answer changes it.

use std::sync::Arc;

use landfall_core::finding::Finding;
use landfall_core::registry::Service;
use landfall_core::text::Text;
use tokio::time::Instant;

use super::client::{ConsulError, Trust};
use super::convert::ServiceRead;
use super::pace::Pace;
use crate::backoff::Backoff;

/// One service.
#[derive(Debug)]
pub(super) struct Tracked {
    /// As last read; `None` when it has no instance that is listed.
    pub(super) service: Option<Arc<Service>>,
    /// Entries in the last answer, those left out too.
    pub(super) entries: usize,
    /// Of the last answer.
    pub(super) index: u64,
    /// Of the last answer, to skip equal ones.
    pub(super) digest: Option<u64>,
    /// When the last read that succeeded was begun.
    pub(super) read_at: Option<Instant>,
    /// Whether the last list of services has it.
    pub(super) listed: bool,
    /// Whether it must be read now.
    pub(super) wanted: bool,
    /// Whether a read is under way, and since when.
    pub(super) reading: Option<Instant>,
    /// Whether a long poll is under way, and since when.
    pub(super) polling: Option<Instant>,
    /// When it last changed, other than by being read for the first time.
    pub(super) changed_at: Option<Instant>,
    pub(super) pace: Pace,
    pub(super) failure: Option<Failure>,
}

/// Why the last read of a service was not good.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) retry_at: Instant,
    backoff: Backoff,
}

/// What an answer did.
#[derive(Debug, PartialEq)]
pub(super) enum Applied {
    /// Nothing differs.
    Same,
    /// What it was before is replaced.
    Changed { before: Option<Arc<Service>>, findings: Vec<Finding> },
    /// Instances are missing in it, and it is no proof that they are gone. Ask again.
    Unproven,
    /// As `Unproven`, and asking again will not help.
    Hidden,
}

// === impl Tracked ===

impl Tracked {
    pub(super) fn new() -> Self {
        Self {
            service: None,
            entries: 0,
            index: 0,
            digest: None,
            read_at: None,
            listed: false,
            wanted: false,
            reading: None,
            polling: None,
            changed_at: None,
            pace: Pace::new(),
            failure: None,
        }
    }

    /// Whether a long poll may wait for its next change. One of a service without entries would
    /// return at once, again and again (hashicorp/consul#3712).
    pub(super) fn may_be_polled(&self) -> bool {
        self.listed
            && self.entries > 0
            && self.index > 0
            && !self.wanted
            && self.reading.is_none()
            && self.polling.is_none()
            && self.failure.is_none()
    }

    /// Takes an answer. `read` is `None` for one that equals the last.
    ///
    /// ```text
    /// instances missing   trust      then
    /// no                  any        taken
    /// yes                 full       taken: they are gone
    /// yes                 streamed   not taken; read again without waiting, which is not streamed
    /// yes                 filtered   not taken: access rules may hide them
    /// ```
    pub(super) fn apply(
        &mut self,
        index: u64,
        digest: u64,
        read: Option<ServiceRead>,
        trust: Trust,
    ) -> Applied {
        let Some(read) = read else {
            self.index = index;
            return Applied::Same;
        };
        if trust != Trust::Full && self.loses_instances(read.service.as_deref()) {
            return if trust == Trust::Streamed { Applied::Unproven } else { Applied::Hidden };
        }
        self.index = index;
        self.digest = Some(digest);
        self.entries = read.entries;
        let now = match (read.service, &self.service) {
            (Some(service), Some(known)) => Some(Arc::unwrap_or_clone(service).sharing(known)),
            (service, _) => service,
        };
        let before = std::mem::replace(&mut self.service, now);
        Applied::Changed { before, findings: read.findings }
    }

    /// Notes a failure; the next attempt is its to time.
    pub(super) fn failed(&mut self, error: &ConsulError, now: Instant) {
        let mut backoff = self.failure.take().map_or_else(super::failure_backoff, |f| f.backoff);
        let retry_at = now + backoff.after_failure();
        let (code, message) = (error.code(), error.to_string());
        self.failure = Some(Failure { code, message, retry_at, backoff });
    }

    fn loses_instances(&self, now: Option<&Service>) -> bool {
        let Some(known) = &self.service else { return false };
        let stays = |id: &Text| now.is_some_and(|now| now.instance(id).is_some());
        !known.instances().iter().all(|instance| stays(&instance.id))
    }
}
