//! What is known of Cloud Map between two answers.
//!
//! Invariant: nothing is gone without evidence. Of a service's instances what Cloud Map discovers is
//! all there is. A service is gone when it is not listed any more and has no instances to discover,
//! and when what is listed besides shows that the listing is of the same registry as before; where
//! nothing shows that, it must have been so for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::finding::Finding;
use landfall_core::registry::{ServiceKey, Snapshot};
use tokio::time::Instant;

use super::client::{Catalog, Discovered};
use super::convert::{self, Info};

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Listing {
    services: BTreeMap<ServiceKey, Tracked>,
    /// Those that have not been asked for yet, with or without success.
    untried: BTreeSet<ServiceKey>,
    snapshot: Snapshot,
    /// By service; none without any.
    findings: BTreeMap<ServiceKey, Vec<Finding>>,
    /// Services that are kept although they are neither listed nor discovered, and since when.
    missing: BTreeMap<ServiceKey, Instant>,
    /// Whether the last catalog had services that were there before those that it lacks.
    remembers: bool,
}

#[derive(Debug)]
struct Tracked {
    info: Arc<Info>,
    known_since: Instant,
    unlisted_since: Option<Instant>,
    /// Whether it was listed and could not be discovered.
    is_unsure: bool,
    is_read: bool,
    revision: Option<i64>,
}

/// What is to be thought of a service without instances that it could be told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is gone.
    Gone,
    /// It is kept, and is gone when it is still missing then.
    KeptUntil(Instant),
    /// It is listed all the same. The listing may be older.
    Unsure,
    /// It is listed all the same, again.
    Contradiction,
}

// === impl Listing ===

impl Listing {
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        self.findings.values().flatten().cloned().collect()
    }

    pub(super) fn info(&self, key: &ServiceKey) -> Option<Arc<Info>> {
        self.services.get(key).map(|tracked| Arc::clone(&tracked.info))
    }

    /// Whether every service has been asked for, and some could be read if there is any.
    pub(super) fn is_tried(&self) -> bool {
        let is_read = || self.services.values().any(|tracked| tracked.is_read);
        self.untried.is_empty() && (self.services.is_empty() || is_read())
    }

    /// How many services are kept without evidence that they are there.
    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Nobody answered until `now`: what was missing before says nothing.
    pub(super) fn nobody_answered(&mut self, now: Instant) {
        self.missing.values_mut().for_each(|since| *since = now);
    }

    /// It was tried to read the service.
    pub(super) fn tried(&mut self, key: &ServiceKey) {
        self.untried.remove(key);
    }

    /// Takes up a complete listing of services. Returns those that are to be read now: those that are
    /// new, those that are not what they were, and those that it lacks.
    pub(super) fn listed(&mut self, catalog: Catalog, now: Instant) -> Vec<ServiceKey> {
        let Catalog { services, missing } = catalog;
        let mut listed: BTreeMap<ServiceKey, Info> =
            services.into_iter().map(|info| (info.key.clone(), info)).collect();
        // Of a namespace that is configured and not there nothing is known.
        let is_spared = |info: &Info| missing.iter().any(|name| info.namespace.is_called(name));
        let mut to_read = Vec::new();
        for (key, tracked) in &mut self.services {
            match listed.remove(key) {
                Some(info) => {
                    let is_back = tracked.unlisted_since.take().is_some();
                    self.missing.remove(key);
                    if is_back || *tracked.info != info {
                        tracked.info = Arc::new(info);
                        to_read.push(key.clone());
                    }
                }
                None if is_spared(&tracked.info) => (),
                None => {
                    tracked.unlisted_since.get_or_insert(now);
                    to_read.push(key.clone());
                }
            }
        }
        let lacks_since = self.services.values().filter_map(|tracked| tracked.unlisted_since).min();
        self.remembers = lacks_since.is_none_or(|since| {
            self.services.values().any(|tracked| {
                tracked.unlisted_since.is_none()
                    && tracked.known_since < since
                    && !is_spared(&tracked.info)
            })
        });
        for (key, info) in listed {
            let tracked = Tracked {
                info: Arc::new(info),
                known_since: now,
                unlisted_since: None,
                is_unsure: false,
                is_read: false,
                revision: None,
            };
            self.untried.insert(key.clone());
            self.services.insert(key.clone(), tracked);
            to_read.push(key);
        }
        to_read
    }

    /// Takes up the instances of a service. Returns whether it had been read before, or what is to be
    /// thought of its absence.
    pub(super) fn read(
        &mut self,
        key: &ServiceKey,
        discovered: Discovered,
        settle: Duration,
        now: Instant,
    ) -> Result<bool, Absence> {
        self.untried.remove(key);
        let Some(tracked) = self.services.get_mut(key) else { return Err(Absence::Gone) };
        if tracked.unlisted_since.is_some() && discovered.instances.is_empty() {
            return Err(self.absent(key, settle, now));
        }
        tracked.is_unsure = false;
        tracked.revision = discovered.revision.or(tracked.revision);
        self.missing.remove(key);
        let before = self.snapshot.services.get(key);
        let (service, findings) = convert::service(&tracked.info, &discovered.instances, before);
        let was_read = std::mem::replace(&mut tracked.is_read, true);
        if findings.is_empty() {
            self.findings.remove(key);
        } else {
            self.findings.insert(key.clone(), findings);
        }
        if service.instances().is_empty() {
            self.snapshot.services.remove(key);
            return Ok(was_read);
        }
        let shared = match before {
            None => Arc::new(service),
            Some(before) => {
                let shared = service.sharing(before);
                // What is put in its own place would be shared with no earlier snapshot.
                if Arc::ptr_eq(&shared, before) {
                    return Ok(was_read);
                }
                shared
            }
        };
        self.snapshot.services.insert(key.clone(), shared);
        Ok(was_read)
    }

    /// Cloud Map knows nothing of the service where it is asked for its instances.
    pub(super) fn absent(&mut self, key: &ServiceKey, settle: Duration, now: Instant) -> Absence {
        self.untried.remove(key);
        let Some(tracked) = self.services.get_mut(key) else { return Absence::Gone };
        if tracked.unlisted_since.is_none() {
            let was_unsure = std::mem::replace(&mut tracked.is_unsure, true);
            return if was_unsure { Absence::Contradiction } else { Absence::Unsure };
        }
        let since = *self.missing.entry(key.clone()).or_insert(now);
        let is_lost = self.snapshot.services.contains_key(key);
        if is_lost && !self.remembers && now.saturating_duration_since(since) < settle {
            return Absence::KeptUntil(since + settle);
        }
        self.services.remove(key);
        self.missing.remove(key);
        self.findings.remove(key);
        if is_lost {
            self.snapshot.services.remove(key);
        }
        Absence::Gone
    }

    /// Whether `revision` is another than that of what is known.
    pub(super) fn is_changed(&mut self, key: &ServiceKey, revision: i64) -> bool {
        // Which of two is newer cannot be told: revisions go down too.
        let known = self.services.get_mut(key);
        known.is_some_and(|known| known.revision.replace(revision) != Some(revision))
    }
}
