//! What the API server holds, put together from lists, watches and the answers to our writes.
//!
//! Invariant: of two states of one object the one with the higher `resourceVersion` holds, from
//! wherever it comes, and what an answer said is gone stays gone whatever a watch that is behind says
//! of it. A complete list holds against all that was known before it, for an API server
//! that was set back to an earlier day counts from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::plan::Observed;
use landfall_core::text::Text;

use super::wire::Sighting;
use crate::api::{ApiVersion, Body, MeshObject};
use crate::sink::Condition;

/// What the API server holds. Cheap to clone; two of them share what did not change between, so
/// that `ours.diff(..)` walks only what did.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Our objects, and the identifiers of everybody else's.
    pub observed: Observed<Body>,
    /// The hosts that ServiceEntries of others claim; [`Observation::foreign_claim`] finds one.
    pub foreign_hosts: OrdMap<ObjectId, Arc<[Text]>>,
    /// The same the other way round.
    pub(super) claims: OrdMap<Text, OrdSet<ObjectId>>,
    /// Whether everything was listed at least once. Before that nothing may be concluded from
    /// what is missing.
    pub ready: bool,
    /// Why what is known may be out of date, or is not known at all.
    pub condition: Option<Condition>,
    /// The version of Istio's API that is served.
    pub(super) version: Option<ApiVersion>,
    pub(super) versions: OrdMap<ObjectId, Version>,
}

/// Which state of which object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) uid: Box<str>,
    /// Opaque in name only: API servers count revisions of etcd, and clients may compare them
    /// (KEP-5504). 0 where it cannot be read, which then counts as the newest.
    pub(super) resource_version: u64,
}

/// What was seen of one kind in one namespace, or in all, since its list began.
#[derive(Debug)]
pub(super) struct Listing {
    kind: Kind,
    namespace: Option<Text>,
    /// The list that is under way.
    list: Option<List>,
    pub(super) done: bool,
    /// The highest `resourceVersion` that list or watch delivered since the list began: all that
    /// happened up to it is known.
    delivered: u64,
    /// The uids of what answers said is gone since the last list began, and the watch has not said so
    /// yet.
    ended: BTreeSet<Box<str>>,
}

/// A list as far as it was read.
#[derive(Debug, Default)]
struct List {
    seen: Vec<Sighting>,
    /// Written by us meanwhile: the list may be older.
    written: BTreeSet<ObjectId>,
}

// === impl Version ===

impl Version {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let version = metadata.resource_version.as_deref().unwrap_or_default();
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            resource_version: version.parse().unwrap_or_default(),
        }
    }

    /// As a precondition names it; `None` where it could not be read.
    pub(super) fn to_name(&self) -> Option<String> {
        (self.resource_version != 0).then(|| self.resource_version.to_string())
    }

    /// Objects of one kind share one count, so this holds for a successor of the same name too.
    fn is_older_than(&self, known: &Self) -> bool {
        self.resource_version != 0 && self.resource_version < known.resource_version
    }
}

// === impl Listing ===

impl Listing {
    pub(super) fn new(kind: Kind, namespace: Option<Text>) -> Self {
        let ended = BTreeSet::new();
        Self { kind, namespace, list: None, done: false, delivered: 0, ended }
    }

    pub(super) fn begin(&mut self) {
        self.list = Some(List::default());
        // The list is of a later time than the answers before it.
        self.ended.clear();
    }

    pub(super) fn see(&mut self, sighting: Sighting) {
        self.list.get_or_insert_default().seen.push(sighting);
    }

    fn covers(&self, id: &ObjectId) -> bool {
        id.kind == self.kind && self.namespace.as_ref().is_none_or(|own| *own == id.namespace)
    }

    /// Up to where all that happened is known.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Takes up that the watch delivered `version`.
    pub(super) fn deliver(&mut self, version: &Version) {
        self.delivered = self.delivered.max(version.resource_version);
    }

    /// Takes up that the watch said that what this was the last state of is gone.
    pub(super) fn deliver_end(&mut self, version: &Version) {
        self.deliver(version);
        self.ended.remove(&version.uid);
    }

    /// Whether the object that this is a state of is gone by now, as an answer said before.
    pub(super) fn has_ended(&self, version: &Version) -> bool {
        self.ended.contains(&version.uid)
    }

    /// Whether a state of `id` that is not known by now is of the past: it was delivered, and so
    /// was that the object is gone.
    pub(super) fn is_past(&self, id: &ObjectId, version: &Version) -> bool {
        self.covers(id)
            && version.resource_version != 0
            && version.resource_version <= self.delivered
    }

    /// The list is complete: what it covers and does not have is gone.
    pub(super) fn finish(&mut self, observation: &mut Observation) {
        self.done = true;
        let Some(List { seen, written }) = self.list.take() else { return };
        self.delivered = 0;
        seen.iter().for_each(|sighting| self.deliver(sighting.version()));
        // What ended while the list was under way the watch may have to tell of yet.
        let ended = &self.ended;
        let seen = seen.into_iter().filter(|sighting| !ended.contains(&sighting.version().uid));
        let seen: Vec<Sighting> = seen.collect();
        let here: BTreeSet<ObjectId> = seen.iter().map(|sighting| sighting.id().clone()).collect();
        let gone =
            |id: &&ObjectId| self.covers(id) && !here.contains(*id) && !written.contains(*id);
        let observed = &observation.observed;
        let gone: Vec<ObjectId> =
            observed.ours.keys().chain(&observed.foreign).filter(gone).cloned().collect();
        for id in gone {
            observation.forget(&id);
        }
        for sighting in seen {
            // What we wrote meanwhile may be newer than the list. All else is as the list says,
            // also where that is older than what was known.
            if !written.contains(sighting.id()) {
                observation.versions.remove(sighting.id());
            }
            observation.take(sighting);
        }
    }
}

// === impl Observation ===

impl Observation {
    /// What a sink holds that can be read at once and whole.
    pub(crate) fn whole(observed: Observed<Body>) -> Self {
        Self { observed, ready: true, ..Self::default() }
    }

    /// A ServiceEntry of somebody else that has `host` among its hosts: the first, if there are
    /// several. Istio joins the two or prefers the older one, so a person should know.
    #[must_use]
    pub fn foreign_claim(&self, host: &str) -> Option<&ObjectId> {
        self.claims.get(host)?.get_min()
    }

    /// Takes up which hosts all objects of others claim. Says whether that is something else than was
    /// known.
    pub fn take_claims<'a>(
        &mut self,
        claims: impl Iterator<Item = (&'a ObjectId, &'a [Text])>,
    ) -> bool {
        let claims: BTreeMap<&ObjectId, &[Text]> = claims.collect();
        let known = self.foreign_hosts.clone();
        for id in known.keys().filter(|id| !claims.contains_key(id)) {
            self.set_claims(id, &[]);
        }
        for (id, hosts) in claims {
            self.set_claims(id, hosts);
        }
        known != self.foreign_hosts
    }

    /// Takes up which hosts an object of somebody else claims; none where it is gone or ours.
    fn set_claims(&mut self, id: &ObjectId, hosts: &[Text]) {
        if self.foreign_hosts.get(id).map(|known| &**known).unwrap_or_default() == hosts {
            return;
        }
        for host in self.foreign_hosts.remove(id).iter().flat_map(|known| known.iter()) {
            if let Some(claims) = self.claims.get_mut(host) {
                claims.remove(id);
                if claims.is_empty() {
                    self.claims.remove(host);
                }
            }
        }
        if !hosts.is_empty() {
            self.foreign_hosts.insert(id.clone(), hosts.into());
        }
        for host in hosts {
            self.claims.entry(Text::clone(host)).or_default().insert(id.clone());
        }
    }

    /// Takes up the state of an object, unless a newer one is known.
    pub(super) fn take(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::Ours(object, version) => self.put(Arc::new(object), version),
            Sighting::Foreign { id, hosts, version } => {
                if self.versions.get(&id).is_some_and(|known| version.is_older_than(known)) {
                    return;
                }
                if self.observed.ours.remove(&id).is_some() {
                    self.versions.remove(&id);
                }
                self.set_claims(&id, &hosts);
                if !self.observed.foreign.contains(&id) {
                    self.observed.foreign.insert(id);
                }
            }
        }
    }

    /// Takes up an object of ours. One that is known with equal contents stays the very same, so
    /// that the difference of two observations is what really changed.
    pub(super) fn put(&mut self, object: Arc<MeshObject>, version: Version) {
        let id = object.id.clone();
        if self.versions.get(&id).is_some_and(|known| version.is_older_than(known)) {
            return;
        }
        if self.observed.foreign.remove(&id).is_some() {
            self.set_claims(&id, &[]);
        }
        if self.observed.ours.get(&id).is_none_or(|known| **known != *object) {
            self.observed.ours.insert(id.clone(), object);
        }
        if self.versions.get(&id) != Some(&version) {
            self.versions.insert(id, version);
        }
    }

    /// Takes up that the object which this was the last state of is gone.
    pub(super) fn remove(&mut self, sighting: &Sighting) {
        let (id, version) = (sighting.id(), sighting.version());
        if self.versions.get(id).is_some_and(|known| version.uid != known.uid) {
            return;
        }
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: &ObjectId) {
        self.observed.ours.remove(id);
        self.versions.remove(id);
        self.observed.foreign.remove(id);
        self.set_claims(id, &[]);
    }

    /// The version of an object of ours.
    pub(super) fn version_of(&self, id: &ObjectId) -> Option<&Version> {
        self.versions.get(id)
    }
}

impl Listing {
    /// Takes up that we wrote this object, if a list is under way: one that begins later has it.
    pub(super) fn note_written(&mut self, id: &ObjectId) {
        if self.covers(id)
            && let Some(list) = &mut self.list
        {
            list.written.insert(id.clone());
        }
    }

    /// Takes up that the object of ours that was known as `version` is gone.
    pub(super) fn note_ended(&mut self, id: &ObjectId, version: &Version) {
        self.note_written(id);
        if self.covers(id) {
            self.ended.insert(version.uid.clone());
        }
    }
}
