//! Objects that are not wanted any more because their endpoints moved to another service of the
//! mesh.
//!
//! Such an object goes once the sink holds its endpoints where they moved: another host may be
//! refused, or taken by somebody else's object, and then the old one is all that clients have. What
//! the sink holds there is not lost when it goes. A place that the endpoints had all the time is not
//! where they moved, and makes up for nothing.
//!
//! The line tells which hosts lost their place but not their instances, after they went on for the
//! grace time, and where these are now, see [`crate::linger`]. Where the process was restarted in
//! between, as by whoever changes its configuration, the line knows only the new place. What was at
//! the old one stands in the sink, with the services that fed it, and gets its grace time there.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;

use crate::counts::{Counts, shared, subtract, total};
use crate::mesh::{Body, Kind, Object, ObjectId, Tie};
use crate::plan::{Desired, Entries, Observed, Step};
use crate::time::Time;

/// What is known of objects whose endpoints moved, or may have.
#[derive(Debug)]
pub struct Moved<B> {
    objects: BTreeMap<ObjectId, Stage>,
    /// What the first reading of the sink found.
    found: OrdMap<ObjectId, Arc<Object<B>>>,
}

#[derive(Clone, Debug)]
enum Stage {
    /// An earlier process left it, and it was not wanted in this one's life.
    Inherited,
    /// The same, and its endpoints are wanted elsewhere since then.
    Resting(Time),
    /// It went on for the grace time, which ended then, and its endpoints moved to these services
    /// of the mesh.
    Ended(Time, BTreeSet<Tie>),
}

/// What a sink holds and what it should hold.
#[derive(Debug)]
pub struct Places<'a, B: Body> {
    desired: &'a Desired<B>,
    observed: &'a Observed<B>,
    wanted: OnceCell<ByOrigin<'a, B>>,
    there: OnceCell<ByOrigin<'a, B>>,
    by_tie: OnceCell<BTreeMap<Tie, Vec<&'a Object<B>>>>,
    workloads: OnceCell<BTreeMap<Tie, Workloads<'a, B>>>,
}

/// The WorkloadEntries that a sink should hold of one service of the mesh.
#[derive(Debug)]
struct Workloads<'a, B: Body> {
    /// Whether it holds one of them.
    has_any: bool,
    /// Those that it does not hold, by where they are.
    missing: BTreeMap<B::Address, &'a ObjectId>,
}

/// Objects by the services of registries that feed them.
type ByOrigin<'a, B> = BTreeMap<&'a str, Vec<&'a Object<B>>>;

/// What is to be made of steps that take moved endpoints away.
#[derive(Debug)]
pub(crate) struct Judged<A> {
    /// Services of the mesh of which nothing may be removed yet.
    pub(crate) waiting: BTreeMap<Tie, Waits>,
    /// Endpoints that steps take away and that the sink holds where they moved.
    pub(crate) kept: BTreeMap<ObjectId, Counts<A>>,
}

/// For what a moved object waits, and until when at most.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waits {
    /// For clients to follow.
    Grace(Time),
    /// For the sink to hold its endpoints at their new place.
    Successor(Time),
}

/// How long moved objects stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stay {
    /// How long clients have to follow.
    pub(crate) grace: Duration,
    /// How long to wait for a sink that does not take the new place.
    pub(crate) hold: Duration,
    pub(crate) now: Time,
}

impl<B: Body> Moved<B> {
    /// Takes up what the first reading of a sink finds.
    #[must_use]
    pub fn inherited(observed: &Observed<B>) -> Self {
        let objects = observed.ours.keys().map(|id| (id.clone(), Stage::Inherited)).collect();
        Self { objects, found: observed.ours.clone() }
    }

    /// The object's grace time is over, and its endpoints are at these services of the mesh.
    pub fn end(&mut self, id: ObjectId, places: BTreeSet<Tie>, now: Time) {
        self.objects.insert(id, Stage::Ended(now, places));
    }

    /// The object is wanted, or gone.
    pub fn forget(&mut self, id: &ObjectId) {
        self.objects.remove(id);
        if self.objects.is_empty() {
            self.found = OrdMap::new();
        }
    }

    pub(crate) fn judge(
        &mut self,
        steps: &[Step<B>],
        places: &Places<'_, B>,
        stay: Stay,
    ) -> Judged<B::Address> {
        let mut judged = Judged { waiting: BTreeMap::new(), kept: BTreeMap::new() };
        for step in steps {
            let (Step::Empty { from, .. } | Step::Delete(from)) = step else {
                self.forget(step.id());
                continue;
            };
            let Some(stage) = self.objects.get_mut(step.id()) else { continue };
            let (rests_until, to) = match stage {
                Stage::Inherited | Stage::Resting(_) => {
                    if total(&places.wanted_elsewhere(from, &MovedTo::Any)) == 0 {
                        // It lost its endpoints, or had none, as a ServiceEntry that selects them.
                        self.forget(step.id());
                        continue;
                    }
                    let since = if let Stage::Resting(since) = stage { *since } else { stay.now };
                    *stage = Stage::Resting(since);
                    (since.plus(stay.grace), MovedTo::Since(&self.found))
                }
                Stage::Ended(since, places) => (*since, MovedTo::Services(places)),
            };
            let wanted = total(&places.wanted_elsewhere(from, &to));
            let there = places.there_elsewhere(from, &to);
            let held_until = rests_until.plus(stay.hold);
            if stay.now < rests_until {
                judged.waiting.insert(step.tie(), Waits::Grace(rests_until));
            } else if total(&there) < wanted && stay.now < held_until {
                judged.waiting.insert(step.tie(), Waits::Successor(held_until));
            }
            judged.kept.insert(step.id().clone(), there);
        }
        judged
    }
}

/// Where endpoints may have moved.
enum MovedTo<'a, B> {
    /// Anywhere.
    Any,
    /// Where they were not when these objects were found.
    Since(&'a OrdMap<ObjectId, Arc<Object<B>>>),
    /// To these services of the mesh.
    Services(&'a BTreeSet<Tie>),
}

impl<'a, B: Body> Places<'a, B> {
    /// The places of `desired` and `observed`.
    #[must_use]
    pub fn new(desired: &'a Desired<B>, observed: &'a Observed<B>) -> Self {
        Self {
            desired,
            observed,
            wanted: OnceCell::new(),
            there: OnceCell::new(),
            by_tie: OnceCell::new(),
            workloads: OnceCell::new(),
        }
    }

    /// The object of a mesh service that the sink holds there, and not another's of that name.
    pub(crate) fn held(&self, id: &ObjectId, tie: &Tie) -> Option<&'a Object<B>> {
        self.there(id).filter(|object| object.tie() == *tie)
    }

    /// What the sink holds there.
    pub(crate) fn there(&self, id: &ObjectId) -> Option<&'a Object<B>> {
        self.observed.ours.get(id).map(|object| &**object)
    }

    /// What the sink should hold there.
    pub(crate) fn wanted(&self, id: &ObjectId) -> Option<&'a Object<B>> {
        self.desired.get(id).map(|object| &**object)
    }

    /// A WorkloadEntry that the sink does not hold, nor is it in `created`, and that is to be where
    /// an endpoint is that `step` takes out of a ServiceEntry.
    pub(crate) fn blocked(&self, step: &Step<B>, created: &BTreeSet<ObjectId>) -> Option<ObjectId> {
        let missing = &self.workloads().get(&step.tie())?.missing;
        let lost = step.lost();
        let missing = lost.keys().filter_map(|address| missing.get(address));
        missing.copied().find(|id| !created.contains(id)).cloned()
    }

    /// A WorkloadEntry that the sink does not hold, and without which what `step` deletes does not
    /// go: it is to be at the same address. One that goes over to others `as_a_whole` goes when one
    /// of these is there.
    pub(crate) fn missing(&self, step: &Step<B>, as_a_whole: bool) -> Option<ObjectId> {
        let from = step.from()?;
        let of_service = self.workloads().get(&step.tie())?;
        let at_address = || {
            let mut addresses = from.body.addresses();
            addresses.find_map(|address| of_service.missing.get(&address))
        };
        let missing = match as_a_whole {
            true if of_service.has_any => None,
            true => of_service.missing.values().next(),
            false => at_address(),
        };
        missing.map(|id| ObjectId::clone(id))
    }

    fn workloads(&self) -> &BTreeMap<Tie, Workloads<'a, B>> {
        self.workloads.get_or_init(|| {
            let mut workloads: BTreeMap<Tie, Workloads<'a, B>> = BTreeMap::new();
            let all = self.desired.values().filter(|object| object.id.kind == Kind::WorkloadEntry);
            for object in all {
                let none = || Workloads { has_any: false, missing: BTreeMap::new() };
                let of_service = workloads.entry(object.tie()).or_insert_with(none);
                if self.observed.ours.contains_key(&object.id) {
                    of_service.has_any = true;
                } else {
                    let addresses = object.body.addresses();
                    of_service.missing.extend(addresses.map(|address| (address, &object.id)));
                }
            }
            workloads
        })
    }

    /// Which of an object's endpoints are wanted at another service of the mesh.
    fn wanted_elsewhere(&self, object: &Object<B>, to: &MovedTo<'_, B>) -> Counts<B::Address> {
        let wanted = self.wanted.get_or_init(|| by_origin(self.desired.values().map(|o| &**o)));
        elsewhere(object, wanted, to)
    }

    /// Which of an object's endpoints are at another service of the mesh that is wanted, and of
    /// which the sink has the ServiceEntry.
    fn there_elsewhere(&self, object: &Object<B>, to: &MovedTo<'_, B>) -> Counts<B::Address> {
        let there = self.there.get_or_init(|| {
            let has_entry = |object: &&Object<B>| object.id.kind == Kind::ServiceEntry;
            let services = self.by_tie().values().filter(|of_tie| of_tie.iter().any(has_entry));
            by_origin(services.flatten().copied())
        });
        elsewhere(object, there, to)
    }

    /// Which endpoints that a step may take the sink holds of the same service in its other shape:
    /// in WorkloadEntries what a ServiceEntry had that selects now, and the other way round.
    pub(crate) fn in_other_shape(&self, step: &Step<B>, entries: &Entries) -> Counts<B::Address> {
        let mut counts = Counts::new();
        match (step.id().kind, step) {
            (Kind::ServiceEntry, Step::Update { from, to })
                if to.body.endpoint_count() == 0 && from.body.endpoint_count() > 0 =>
            {
                let of_service = self.by_tie().get(&step.tie()).into_iter().flatten();
                for object in of_service.filter(|object| object.id.kind == Kind::WorkloadEntry) {
                    for (address, count) in object.body.counts() {
                        *counts.entry(address).or_default() += count;
                    }
                }
            }
            (Kind::WorkloadEntry, Step::Delete(_)) => {
                let tie = step.tie();
                let entry = entries.get(&tie).and_then(|id| self.held(id, &tie));
                let lost = step.lost();
                let there = entry.into_iter().flat_map(|entry| entry.body.addresses());
                for address in there.filter(|address| lost.contains_key(address)) {
                    *counts.entry(address).or_default() += 1;
                }
            }
            _ => {}
        }
        counts
    }

    /// What the sink holds and should hold, by services of the mesh.
    fn by_tie(&self) -> &BTreeMap<Tie, Vec<&'a Object<B>>> {
        self.by_tie.get_or_init(|| {
            let mut by_tie: BTreeMap<Tie, Vec<&Object<B>>> = BTreeMap::new();
            for (id, object) in &self.observed.ours {
                if self.desired.contains_key(id) {
                    by_tie.entry(object.tie()).or_default().push(object);
                }
            }
            by_tie
        })
    }
}

fn by_origin<'a, B: Body>(objects: impl Iterator<Item = &'a Object<B>>) -> ByOrigin<'a, B> {
    let mut by_origin = ByOrigin::new();
    for object in objects {
        for origin in object.body.origins().unwrap_or_default() {
            by_origin.entry(origin).or_default().push(object);
        }
    }
    by_origin
}

/// Which endpoints of `object` are among those of other services of the mesh that one of the same
/// services of registries feeds. An address alone proves little: a node has many services.
fn elsewhere<B: Body>(
    object: &Object<B>,
    places: &ByOrigin<'_, B>,
    to: &MovedTo<'_, B>,
) -> Counts<B::Address> {
    let origins = object.body.origins().unwrap_or_default();
    let tie = object.tie();
    let mut others: BTreeMap<&ObjectId, &Object<B>> = BTreeMap::new();
    for other in origins.iter().filter_map(|origin| places.get(origin)).flatten() {
        let other_tie = other.tie();
        let is_there = match to {
            MovedTo::Any | MovedTo::Since(_) => true,
            MovedTo::Services(services) => services.contains(&other_tie),
        };
        if is_there && other_tie != tie {
            others.insert(&other.id, other);
        }
    }
    let mut there = Counts::new();
    for (id, other) in others {
        let mut counts = other.body.counts();
        if let MovedTo::Since(found) = to
            && let Some(before) = found.get(id)
        {
            subtract(&mut counts, &before.body.counts());
        }
        for (address, count) in counts {
            *there.entry(address).or_default() += count;
        }
    }
    shared(object.body.counts(), &there)
}

impl<B> Default for Moved<B> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), found: OrdMap::new() }
    }
}
