//! What is known of the registry between two answers.
//!
//! Invariant: nothing goes back, and nothing is gone without evidence. What is older than what is
//! known changes nothing. An instance is gone when the server says that it was deleted, when a
//! server that evidently remembers ([`Lease::is_remembered`]) lists it no more, or when no answer
//! has listed it for as long as its lease.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{Instance, Service, ServiceKey, Snapshot};
use landfall_core::text::Text;
use tokio::time::Instant;

use super::convert::{Counts, Entry, Key, Lease, Stamp, Status};

/// Whether a full answer is of the server that what is known came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// Its clock is the same, so of two facts the older can be told.
    Same,
    /// Another server has a clock of its own.
    Another,
}

/// How long an instance is kept that a server may have forgotten: for its lease, within bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) least: Duration,
    pub(super) most: Duration,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Listing {
    apps: BTreeMap<Text, App>,
    snapshot: Snapshot,
    /// By application; none without any.
    findings: BTreeMap<Text, Vec<Finding>>,
    /// Instances that are kept although the last full answer lacks them.
    missing: BTreeMap<Key, Missing>,
    /// Of all but the missing ones.
    counts: Counts,
}

type App = BTreeMap<Text, Known>;

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    status: Status,
    /// Whether it is newer than the last full answer.
    is_fresh: bool,
    lease: Lease,
    /// As it was last when it could be read, if ever.
    instance: Option<Arc<Instance>>,
    /// What is wrong with it now.
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Instant,
    kept_for: Duration,
}

// === impl Listing ===

impl Listing {
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        self.findings.values().flatten().cloned().collect()
    }

    /// The digest of what is known, to be compared with the server's.
    pub(super) fn hash(&self) -> String {
        self.counts.hash()
    }

    /// Whether instances are kept that no answer lists any more.
    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }

    /// When the first of those is gone.
    pub(super) fn missing_until(&self) -> Option<Instant> {
        self.missing.values().map(|missing| missing.since + missing.kept_for).min()
    }

    /// Nobody answered until `now`, and whoever is missing could tell nobody that it is there.
    pub(super) fn nobody_answered(&mut self, now: Instant) {
        self.missing.values_mut().for_each(|missing| missing.since = now);
    }

    /// Whether the last answer listed nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.counts == Counts::default()
    }

    /// Takes up all that is registered: `entries` in order, and those that stood there `twice`.
    pub(super) fn full(
        &mut self,
        entries: Vec<Entry>,
        twice: &[Key],
        keep: Keep,
        server: Server,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.apps);
        let missing_before = std::mem::take(&mut self.missing);
        self.counts = Counts::default();
        self.findings.clear();
        // Of those that this full answer and the one before list. What was told as a change in
        // between proves nothing: a server that started anew tells so of whoever it takes up.
        let (mut remembered, mut new) = (0_usize, 0_usize);
        for entry in entries {
            let (app, id) = entry.key.clone();
            let known = before.get_mut(&app).and_then(|known| known.remove(&id));
            if let Some(known) = &known
                && !known.is_fresh
                && !missing_before.contains_key(&entry.key)
            {
                match entry.lease.is_remembered(known.lease) {
                    true => remembered += 1,
                    false => new += 1,
                }
            }
            let known = match known {
                // The server's own cache of full answers may be older than that of changes.
                Some(known)
                    if server == Server::Same && known.is_fresh && known.stamp > entry.stamp =>
                {
                    Known { is_fresh: false, ..known }
                }
                known => Known::of(entry, known.as_ref(), false),
            };
            self.counts.add(known.status);
            self.apps.entry(app).or_default().insert(id, known);
        }
        // Most of them, not one: two servers behind one address may have taken up one instance in
        // the same millisecond.
        let remembers = server == Server::Same && remembered > new;
        for (app, rest) in before {
            for (id, known) in rest {
                let key = (Text::clone(&app), Text::clone(&id));
                let missing = match missing_before.get(&key) {
                    Some(missing) => *missing,
                    // The cache of full answers may be older than that of changes.
                    None if remembers && !known.is_fresh => continue,
                    None => Missing { since: now, kept_for: keep.time(known.lease) },
                };
                if now.saturating_duration_since(missing.since) < missing.kept_for {
                    self.missing.insert(key, missing);
                    self.apps.entry(Text::clone(&app)).or_default().insert(id, known);
                }
            }
        }
        let listed: Vec<Text> =
            self.snapshot.services.keys().map(|key| Text::clone(&key.name)).collect();
        let gone = listed.into_iter().filter(|app| !self.apps.contains_key(app));
        let all: Vec<Text> = gone.chain(self.apps.keys().cloned()).collect();
        all.iter().for_each(|app| self.render(app));
        for (app, id) in twice {
            let message = "listed more than once with different facts; kept the newest. Give each \
                           instance an instanceId of its own";
            let subject = format_args!("{app}/{id}");
            let finding = Finding::new(FindingCode::DuplicateInstance, subject, message);
            self.findings.entry(Text::clone(app)).or_default().push(finding);
        }
    }

    /// Takes up what changed. The same change may be told again and again.
    pub(super) fn changes(&mut self, entries: Vec<Entry>) {
        let mut touched = Vec::new();
        for entry in entries {
            let app = Text::clone(&entry.key.0);
            if self.change(entry) && touched.last() != Some(&app) {
                touched.push(app);
            }
        }
        touched.iter().for_each(|app| self.render(app));
    }

    /// Whether anything is different now.
    fn change(&mut self, entry: Entry) -> bool {
        let key = entry.key.clone();
        match self.apps.entry(Text::clone(&key.0)).or_default().entry(Text::clone(&key.1)) {
            Place::Vacant(place) => {
                if entry.is_deleted {
                    return false;
                }
                self.counts.add(entry.status);
                place.insert(Known::of(entry, None, true));
                true
            }
            Place::Occupied(mut place) => {
                let known = place.get();
                let is_missing = self.missing.contains_key(&key);
                let is_older = entry.stamp.is_said() && entry.stamp < known.stamp;
                let is_known = entry.stamp.is_said() && entry.stamp == known.stamp;
                // Whoever lists a missing one again knows it, by whatever clock.
                let is_back = is_missing && !entry.is_deleted;
                if !is_back && (is_older || (is_known && !entry.is_deleted)) {
                    return false;
                }
                if is_missing {
                    self.missing.remove(&key);
                } else {
                    self.counts.remove(known.status);
                }
                if entry.is_deleted {
                    place.remove();
                } else {
                    self.counts.add(entry.status);
                    let known = Known::of(entry, Some(known), true);
                    place.insert(known);
                }
                true
            }
        }
    }

    /// Brings the service and the findings of `app` up to date.
    fn render(&mut self, app: &Text) {
        let key = ServiceKey { name: Text::clone(app), ..ServiceKey::default() };
        if self.apps.get(app).is_some_and(App::is_empty) {
            self.apps.remove(app);
        }
        let known = self.apps.get(app);
        let mut findings = Vec::new();
        let mut instances = Vec::with_capacity(known.map_or(0, App::len));
        for (id, known) in known.into_iter().flatten() {
            instances.extend(known.instance.clone());
            if let Some(problem) = &known.problem {
                let so = match known.instance {
                    Some(_) => "its last legal registration stands",
                    None => "it is left out",
                };
                findings.push(Finding::new(
                    FindingCode::MalformedInstance,
                    format_args!("{app}/{id}"),
                    format!("{problem}; {so}. Register it again as Eureka documents"),
                ));
            }
        }
        if findings.is_empty() {
            self.findings.remove(app);
        } else {
            self.findings.insert(Text::clone(app), findings);
        }
        if instances.is_empty() {
            self.snapshot.services.remove(&key);
            return;
        }
        // Their identifiers differ, so there is nothing to find.
        let (service, _none) =
            Service::new(key.clone(), Pairs::default(), Pairs::default(), instances);
        match self.snapshot.services.get(&key) {
            None => {
                self.snapshot.services.insert(key, Arc::new(service));
            }
            Some(before) => {
                let shared = service.sharing(before);
                // What is put in its own place would be shared with no earlier snapshot.
                if !Arc::ptr_eq(&shared, before) {
                    self.snapshot.services.insert(key, shared);
                }
            }
        }
    }
}

// === impl Keep ===

impl Keep {
    fn time(self, lease: Lease) -> Duration {
        lease.duration.min(self.most).max(self.least)
    }
}

// === impl Known ===

impl Known {
    /// What `entry` says, sharing what was known `before`. Where it cannot be read that stands:
    /// an upgrade that writes one field otherwise must not empty the registry.
    fn of(entry: Entry, before: Option<&Self>, is_fresh: bool) -> Self {
        let Entry { stamp, status, lease, facts, .. } = entry;
        let known = before.and_then(|before| before.instance.as_ref());
        let (instance, problem) = match facts {
            Ok(instance) => match known {
                Some(known) if **known == instance => (Some(Arc::clone(known)), None),
                _ => (Some(Arc::new(instance)), None),
            },
            Err(problem) => (known.cloned(), Some(problem)),
        };
        Self { stamp, status, is_fresh, lease, instance, problem }
    }
}
