//! Generated objects, and a sink in memory.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::mesh::{Body, Kind, Object, ObjectId, Spot, Stays};
use landfall_core::plan::{Desired, Entries, Mode, Observed, Plan, PlanOptions, Step, plan};
use landfall_core::registry::SourceName;
use landfall_core::text::Text;
use landfall_core::time::Time;
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

pub(crate) const GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestBody {
    pub(crate) endpoints: usize,
    pub(crate) content: u8,
    pub(crate) workload: bool,
    /// The services that feed it; `None` when they are not known.
    pub(crate) origins: Option<Vec<String>>,
}

fn spot(address: usize) -> Spot<usize> {
    Spot { address, network: Text::from(""), ports: [80].into() }
}

impl Body for TestBody {
    type Address = usize;

    fn spots(&self) -> impl Iterator<Item = Spot<usize>> {
        (0..self.endpoints).map(spot)
    }

    fn origins(&self) -> Option<Vec<&str>> {
        self.origins.as_ref().map(|origins| origins.iter().map(String::as_str).collect())
    }

    fn spots_by_origin(&self) -> Option<BTreeMap<&str, BTreeSet<Spot<usize>>>> {
        // Of several nobody knows whose which is.
        let [origin] = self.origins.as_deref()? else { return None };
        Some([(origin.as_str(), self.spots().collect())].into())
    }

    fn tie(&self) -> Option<Text> {
        None
    }

    fn lessened_in<'a>(&'a self, other: &'a Self) -> BTreeSet<Option<&'a str>> {
        let (Some(own), Some(theirs)) = (&self.origins, &other.origins) else {
            return (self.endpoints > other.endpoints).then_some(None).into_iter().collect();
        };
        // Nobody knows whose the last ones are, so all are lessened.
        let is_lessened =
            |origin: &&String| self.endpoints > other.endpoints || !theirs.contains(origin);
        own.iter().filter(is_lessened).map(|origin| Some(origin.as_str())).collect()
    }

    fn with_endpoints_of(&self, older: &Self, stays: &Stays<'_, usize>) -> Option<Self> {
        let mut origins = older.origins.iter().flatten().map(|origin| Some(origin.as_str()));
        let is_staying = origins.any(|origin| (stays.origin)(origin)) || (stays.origin)(None);
        // Endpoints are counted from one, so those that stay are beyond the others.
        let more = self.endpoints..older.endpoints;
        let staying =
            more.filter(|address| is_staying && (stays.endpoint)(&spot(*address))).count();
        (self.content != older.content)
            .then(|| Self { endpoints: self.endpoints + staying, ..self.clone() })
    }

    fn selects(&self) -> bool {
        false
    }

    fn dialed_at(&self, _own: &Self, _theirs: &Self) -> Option<Self> {
        None
    }

    fn with_origins_of(&self, _other: &Self) -> Self {
        self.clone()
    }

    fn without_endpoints(&self) -> Option<Self> {
        (!self.workload).then(|| Self { endpoints: 0, ..self.clone() })
    }
}

pub(crate) fn object_id() -> impl Strategy<Value = ObjectId> {
    (any::<bool>(), 0_u8..2, 0_u8..12).prop_map(|(workload, namespace, name)| ObjectId {
        kind: if workload { Kind::WorkloadEntry } else { Kind::ServiceEntry },
        namespace: Text::from(format!("ns-{namespace}")),
        name: Text::from(format!("object-{name}")),
    })
}

pub(crate) fn source(index: u8) -> SourceName {
    SourceName::parse(&format!("source-{index}")).unwrap()
}

pub(crate) type Objects = BTreeMap<ObjectId, (usize, u8, BTreeSet<u8>)>;

pub(crate) fn objects() -> impl Strategy<Value = Objects> {
    btree_map(object_id(), (0_usize..20, 0_u8..3, btree_set(0_u8..3, 1..3)), 0..20)
}

pub(crate) fn made(objects: &Objects) -> Desired<TestBody> {
    objects
        .iter()
        .map(|(id, (endpoints, content, sources))| {
            let workload = id.kind == Kind::WorkloadEntry;
            let sources: Vec<SourceName> = sources.iter().map(|index| source(*index)).collect();
            // Content 0 does not say where it is from.
            let origins = sources.iter().map(|source| format!("{source}/a")).collect();
            let origins = (*content > 0).then_some(origins);
            let body = TestBody { endpoints: *endpoints, content: *content, workload, origins };
            let sources = sources.into();
            let object = Object { id: id.clone(), sources, removal: None, body: Arc::new(body) };
            (id.clone(), Arc::new(object))
        })
        .collect()
}

pub(crate) fn full(
    observed: &Observed<TestBody>,
    desired: &Desired<TestBody>,
    grace: Duration,
    now: Time,
) -> Plan<TestBody> {
    let scope: BTreeSet<ObjectId> = observed.ours.keys().chain(desired.keys()).cloned().collect();
    let entries = Entries::new();
    plan(observed, desired, &scope, PlanOptions { mode: Mode::Sync, grace, entries: &entries, now })
}

pub(crate) fn apply(observed: &mut Observed<TestBody>, steps: &[Step<TestBody>]) {
    for step in steps {
        match step.to() {
            Some(object) => observed.ours.insert(step.id().clone(), Arc::clone(object)),
            None => observed.ours.remove(step.id()),
        };
    }
}
