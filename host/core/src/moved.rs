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

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;

use crate::holdings::Holdings;
use crate::mesh::{Body, Kind, Object, ObjectId, Spot, Tie};
use crate::plan::{Desired, Observed, Step};
use crate::spots::{Spots, add, common, subtract};
use crate::time::Time;

/// What is known of objects whose endpoints moved, or may have.
#[derive(Debug)]
pub struct Moved<B> {
    objects: BTreeMap<ObjectId, Stage<B>>,
    /// How often the sink was read for objects that are not wanted.
    readings: usize,
}

#[derive(Clone, Debug)]
enum Stage<B> {
    /// An earlier process left it, or it was held, and it was not wanted since it was found.
    Inherited(Arc<Found<B>>),
    /// The same, and its endpoints are wanted elsewhere since then.
    Resting(Time, Arc<Found<B>>),
    /// It went on for the grace time, which ended then, and its endpoints moved to these services
    /// of the mesh.
    Ended(Time, BTreeSet<Tie>),
}

/// What the sink held when objects were found.
#[derive(Debug)]
struct Found<B> {
    /// Which of the readings it was.
    number: usize,
    objects: OrdMap<ObjectId, Arc<Object<B>>>,
    /// The services of which a ServiceEntry selects WorkloadEntries.
    selecting: OnceCell<BTreeSet<Tie>>,
}

/// What a sink holds and what it should hold.
#[derive(Debug)]
pub struct Places<'a, B: Body> {
    desired: &'a Desired<B>,
    holdings: &'a Holdings<B>,
    unsettled: &'a BTreeSet<ObjectId>,
    wanted: OnceCell<Index<'a, B>>,
    there: OnceCell<Index<'a, B>>,
    missing: OnceCell<BTreeMap<Tie, Missing<'a, B>>>,
    /// How many endpoints objects had at each address when they were found.
    before: RefCell<Before<B>>,
}

/// How many endpoints are at each address.
type Counts<A> = BTreeMap<A, usize>;

/// By the number of the reading.
type Before<B> = BTreeMap<(usize, ObjectId), Counts<<B as Body>::Address>>;

/// The WorkloadEntries that a sink should hold of one service of the mesh and does not.
#[derive(Debug)]
struct Missing<'a, B: Body> {
    /// Whether it holds another one that the service is to have.
    has_any: bool,
    /// By where they are: at each port, or at none.
    at: BTreeMap<(B::Address, u32), Vec<&'a ObjectId>>,
}

/// Objects by where their endpoints are, and by what feeds them. Many may be at one address, and many
/// services may feed one: whoever looks goes over the fewer.
#[derive(Debug)]
struct Index<'a, B: Body> {
    /// With how many endpoints there.
    at: BTreeMap<B::Address, AtAddress<'a, B>>,
    fed: BTreeMap<&'a str, Vec<&'a ObjectId>>,
    origins: BTreeMap<&'a ObjectId, BTreeSet<&'a str>>,
}

type AtAddress<'a, B> = BTreeMap<&'a ObjectId, (&'a Object<B>, usize)>;

/// What is to be made of steps that take moved endpoints away.
#[derive(Debug)]
pub(crate) struct Judged<A> {
    /// Services of the mesh of which nothing may be removed yet.
    pub(crate) waiting: BTreeMap<Tie, Waits>,
    /// Endpoints that steps take away and that the sink holds where they moved.
    pub(crate) kept: BTreeMap<ObjectId, Spots<A>>,
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
        let mut moved = Self::default();
        moved.found(observed.ours.keys(), observed);
        moved
    }

    /// The object's grace time is over, and its endpoints are at these services of the mesh.
    pub fn end(&mut self, id: ObjectId, places: BTreeSet<Tie>, now: Time) {
        self.objects.insert(id, Stage::Ended(now, places));
    }

    /// The objects are held though nothing wants them.
    pub(crate) fn found_unwanted<'i>(
        &mut self,
        ids: impl Iterator<Item = &'i ObjectId>,
        places: &Places<'_, B>,
    ) {
        let unknown: Vec<&ObjectId> = ids
            .filter(|id| places.wanted(id).is_none() && !self.objects.contains_key(*id))
            .collect();
        self.found(unknown.into_iter(), places.holdings.observed());
    }

    fn found<'i>(&mut self, ids: impl Iterator<Item = &'i ObjectId>, observed: &Observed<B>) {
        self.readings += 1;
        let found = Arc::new(Found {
            number: self.readings,
            objects: observed.ours.clone(),
            selecting: OnceCell::new(),
        });
        let stage = || Stage::Inherited(Arc::clone(&found));
        self.objects.extend(ids.map(|id| (id.clone(), stage())));
    }

    /// The object is wanted, or gone.
    pub fn forget(&mut self, id: &ObjectId) {
        self.objects.remove(id);
    }

    pub(crate) fn judge(
        &mut self,
        steps: &[Step<B>],
        places: &Places<'_, B>,
        stay: Stay,
    ) -> Judged<B::Address> {
        let mut judged = Judged { waiting: BTreeMap::new(), kept: BTreeMap::new() };
        // A ServiceEntry that goes over to another service is there for it when it may go.
        let takers = steps.iter().filter(|step| step.tie() != step.loser());
        let takers = selecting(takers.filter_map(Step::to));
        for step in steps {
            let is_wanted = places.wanted(step.id()).is_some() && step.tie() == step.loser();
            let Some(from) = step.from().filter(|_| !is_wanted) else {
                self.forget(step.id());
                continue;
            };
            let Some(stage) = self.objects.get_mut(step.id()) else { continue };
            let rests;
            let (rests_until, to) = match stage {
                Stage::Inherited(found) | Stage::Resting(_, found) => {
                    let found = Arc::clone(found);
                    if places.wanted_elsewhere(from, &MovedTo::Any).is_empty() {
                        // It lost its endpoints, or had none, as a ServiceEntry that selects them.
                        // What goes in part may have others that move yet.
                        if !matches!(step, Step::Update { .. }) || step.tie() != step.loser() {
                            self.forget(step.id());
                        }
                        continue;
                    }
                    let since =
                        if let Stage::Resting(since, _) = stage { *since } else { stay.now };
                    *stage = Stage::Resting(since, Arc::clone(&found));
                    rests = found;
                    (since.plus(stay.grace), MovedTo::Since(&rests))
                }
                Stage::Ended(since, places) => (*since, MovedTo::Services(places)),
            };
            let wanted = places.wanted_elsewhere(from, &to).len();
            let there = places.there_elsewhere(from, &to, &takers);
            let held_until = rests_until.plus(stay.hold);
            if stay.now < rests_until {
                judged.waiting.insert(step.loser(), Waits::Grace(rests_until));
            } else if there.len() < wanted && stay.now < held_until {
                judged.waiting.insert(step.loser(), Waits::Successor(held_until));
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
    Since(&'a Found<B>),
    /// To these services of the mesh.
    Services(&'a BTreeSet<Tie>),
}

impl<'a, B: Body> Places<'a, B> {
    /// The places of what is desired and what is held, which are the same but for what is
    /// `unsettled`.
    #[must_use]
    pub fn new(
        desired: &'a Desired<B>,
        holdings: &'a Holdings<B>,
        unsettled: &'a BTreeSet<ObjectId>,
    ) -> Self {
        Self {
            desired,
            holdings,
            unsettled,
            wanted: OnceCell::new(),
            there: OnceCell::new(),
            missing: OnceCell::new(),
            before: RefCell::default(),
        }
    }

    pub(crate) fn holdings(&self) -> &'a Holdings<B> {
        self.holdings
    }

    /// The object of a mesh service that the sink holds there, and not another's of that name.
    pub(crate) fn held(&self, id: &ObjectId, tie: &Tie) -> Option<&'a Object<B>> {
        self.there(id).filter(|object| object.tie() == *tie)
    }

    /// What the sink holds there.
    pub(crate) fn there(&self, id: &ObjectId) -> Option<&'a Object<B>> {
        self.holdings.observed().ours.get(id).map(|object| &**object)
    }

    /// WorkloadEntries of a service that the sink holds and should not.
    pub(crate) fn leftover(&self, tie: &Tie) -> impl Iterator<Item = &'a Arc<Object<B>>> {
        self.workloads(tie).filter(|object| !self.desired.contains_key(&object.id))
    }

    /// What the sink should hold there.
    pub(crate) fn wanted(&self, id: &ObjectId) -> Option<&'a Object<B>> {
        self.desired(id).map(|object| &**object)
    }

    pub(crate) fn desired(&self, id: &ObjectId) -> Option<&'a Arc<Object<B>>> {
        self.desired.get(id)
    }

    /// A WorkloadEntry that the sink does not hold, nor is it in `created`, and that is to be where
    /// an endpoint is that `step` takes out of a ServiceEntry; any where none is there at all.
    pub(crate) fn blocked(&self, step: &Step<B>, created: &BTreeSet<ObjectId>) -> Option<ObjectId> {
        let missing = self.missing_of(&step.tie())?;
        let lost = step.lost();
        let at_places = lost.iter().flat_map(|spot| missing.at_address(&spot.address));
        let mut blocked = at_places.filter(|id| !created.contains(*id));
        let comes = || missing.has_any || missing.ids().any(|id| created.contains(id));
        let any = || missing.ids().next().filter(|_| !comes());
        blocked.next().or_else(any).cloned()
    }

    /// Whether the service has by the object `there` what `step` takes from it, as far as that is
    /// wanted there.
    pub(crate) fn is_taken_over(&self, step: &Step<B>, there: &Object<B>) -> bool {
        let Some(wanted) = self.wanted(&there.id) else { return false };
        let lost = step.lost();
        if !wanted.body.selects() {
            let mut missing = common(lost, &wanted.body.reached());
            subtract(&mut missing, &there.body.reached());
            return missing.is_empty();
        }
        let of_service = self.missing_of(&step.loser());
        let mut missing = of_service
            .into_iter()
            .flat_map(|of| lost.iter().flat_map(|spot| of.at_address(&spot.address)));
        there.body.selects() && missing.next().is_none()
    }

    /// A WorkloadEntry that the sink does not hold, and without which what `step` deletes does not
    /// go: traffic to it is to end at the same spot. One that goes over to others `as_a_whole` goes when
    /// one of these is there.
    pub(crate) fn missing(&self, step: &Step<B>, as_a_whole: bool) -> Option<ObjectId> {
        let from = step.from()?;
        let missing = self.missing_of(&step.tie())?;
        let id = match as_a_whole {
            true if missing.has_any => None,
            true => missing.ids().next(),
            false => from.body.spots().find_map(|spot| {
                let mut ports = ports(&spot);
                ports.find_map(|port| {
                    missing.at.get(&(spot.address.clone(), port))?.first().copied()
                })
            }),
        };
        id.cloned()
    }

    /// Where WorkloadEntries of a service are to be, whether or not the sink holds them.
    pub(crate) fn in_workloads(&self, tie: &Tie) -> BTreeSet<B::Address> {
        let missing = self.missing_of(tie).into_iter();
        let missing = missing.flat_map(|missing| missing.at.keys().map(|(at, _)| at.clone()));
        let wanted = self.workloads(tie).filter_map(|object| self.wanted(&object.id));
        missing.chain(wanted.flat_map(|object| object.body.addresses())).collect()
    }

    /// The WorkloadEntries that a service is to have.
    pub(crate) fn wanted_workloads(&self, tie: &Tie) -> impl Iterator<Item = &'a Object<B>> {
        let missing = self.missing_of(tie).into_iter().flat_map(Missing::ids);
        let ids = missing.chain(self.workloads(tie).map(|object| &object.id));
        ids.filter_map(|id| self.wanted(id)).filter(|object| object.tie() == *tie)
    }

    /// What of `spots` is not to stay at a service, of which `entry` is to be the ServiceEntry.
    pub(crate) fn leaving(
        &self,
        tie: &Tie,
        entry: Option<&ObjectId>,
        spots: &Spots<B::Address>,
    ) -> Spots<B::Address> {
        let mut stay = Spots::new();
        let entry = entry.and_then(|id| self.wanted(id)).filter(|object| object.tie() == *tie);
        for object in self.wanted_workloads(tie).chain(entry) {
            add(&mut stay, &object.body.reached());
        }
        let mut leaving = self.holdings.reached(tie);
        subtract(&mut leaving, &stay);
        common(spots.clone(), &leaving)
    }

    /// The WorkloadEntries of a service that the sink holds.
    fn workloads(&self, tie: &Tie) -> impl Iterator<Item = &'a Arc<Object<B>>> {
        self.holdings.of(tie).filter(|of| of.id.kind == Kind::WorkloadEntry)
    }

    /// The WorkloadEntries that the service is to have and the sink does not hold; `None` where there
    /// is none.
    fn missing_of(&self, tie: &Tie) -> Option<&Missing<'a, B>> {
        let missing = self.missing.get_or_init(|| {
            let mut missing: BTreeMap<Tie, Missing<'a, B>> = BTreeMap::new();
            let wanted = self.unsettled.iter().filter_map(|id| self.desired.get(id));
            for object in wanted.filter(|object| object.id.kind == Kind::WorkloadEntry) {
                if self.there(&object.id).is_none() {
                    missing.entry(object.tie()).or_default().note(object);
                }
            }
            for (tie, missing) in &mut missing {
                let mut held = self.workloads(tie).filter_map(|object| self.wanted(&object.id));
                missing.has_any = held.any(|object| object.tie() == *tie);
            }
            missing
        });
        missing.get(tie)
    }

    /// Which of an object's endpoints are wanted at another service of the mesh.
    fn wanted_elsewhere(&self, object: &Object<B>, to: &MovedTo<'_, B>) -> Spots<B::Address> {
        let all = || self.desired.values().map(|object| &**object);
        let wanted = self.wanted.get_or_init(|| Index::of(all()));
        self.elsewhere(object, wanted, to)
    }

    /// Which of an object's endpoints are at another service of the mesh that is wanted, and of
    /// which the sink has the ServiceEntry, or `takers` do.
    fn there_elsewhere(
        &self,
        object: &Object<B>,
        to: &MovedTo<'_, B>,
        takers: &BTreeSet<Tie>,
    ) -> Spots<B::Address> {
        let there = self.there.get_or_init(|| {
            // What no ServiceEntry there selects nobody reaches.
            let held = || {
                let all = self.holdings.by_tie();
                all.filter(|(_, object)| self.desired.contains_key(&object.id))
            };
            let mut selecting = selecting(held().map(|(_, object)| object));
            selecting.extend(takers.iter().cloned());
            let is_reached = |(tie, object): &(&Tie, &Arc<Object<B>>)| {
                object.id.kind == Kind::ServiceEntry || selecting.contains(tie)
            };
            Index::of(held().filter(is_reached).map(|(_, object)| &**object))
        });
        self.elsewhere(object, there, to)
    }

    /// Which endpoints of `object` are among those of other services of the mesh that one of the same
    /// services of registries feeds. An address alone proves little: a node has many services.
    fn elsewhere(
        &self,
        object: &Object<B>,
        places: &Index<'a, B>,
        to: &MovedTo<'_, B>,
    ) -> Spots<B::Address> {
        let tie = object.tie();
        let is_there = |other: &Object<B>| {
            let other_tie = other.tie();
            let is_there = match to {
                MovedTo::Any | MovedTo::Since(_) => true,
                MovedTo::Services(services) => services.contains(&other_tie),
            };
            is_there && other_tie != tie
        };
        let origins = object.body.origins().unwrap_or_default();
        let at_address = |address: &B::Address| -> usize {
            let others = places.like(address, &origins).into_iter();
            let others = others.filter(|(other, _)| is_there(other));
            let others = others.map(|(other, count)| match to {
                MovedTo::Since(found) => {
                    count.saturating_sub(self.before(found, &other.id, address))
                }
                MovedTo::Any | MovedTo::Services(_) => count,
            });
            others.sum()
        };
        // A port may be another one there.
        let mut left: Counts<B::Address> = BTreeMap::new();
        let mut there = object.body.reached();
        there.retain(|spot| {
            let known = left.entry(spot.address.clone());
            let left = known.or_insert_with_key(at_address);
            let is_there = *left > 0;
            *left = left.saturating_sub(1);
            is_there
        });
        there
    }

    /// How many endpoints at `address` an object had that was found.
    fn before(&self, found: &Found<B>, id: &ObjectId, address: &B::Address) -> usize {
        let Some(object) = found.objects.get(id) else { return 0 };
        // What no ServiceEntry there selected nobody reached.
        if id.kind == Kind::WorkloadEntry && !found.selecting().contains(&object.tie()) {
            return 0;
        }
        let mut before = self.before.borrow_mut();
        let key = (found.number, id.clone());
        let counts = before.entry(key).or_insert_with(|| counts(&*object.body));
        counts.get(address).copied().unwrap_or_default()
    }
}

impl<B: Body> Found<B> {
    fn selecting(&self) -> &BTreeSet<Tie> {
        self.selecting.get_or_init(|| selecting(self.objects.values()))
    }
}

/// The services of which one of `objects` selects WorkloadEntries.
fn selecting<'a, B: Body + 'a>(objects: impl Iterator<Item = &'a Arc<Object<B>>>) -> BTreeSet<Tie> {
    objects.filter(|object| object.body.selects()).map(|object| object.tie()).collect()
}

fn counts<B: Body>(body: &B) -> Counts<B::Address> {
    let mut counts = Counts::new();
    for spot in body.reached() {
        *counts.entry(spot.address).or_default() += 1;
    }
    counts
}

fn ports<A>(spot: &Spot<A>) -> impl Iterator<Item = u32> + '_ {
    let none = spot.ports.is_empty().then_some(0);
    spot.ports.iter().copied().chain(none)
}

impl<'a, B: Body> Missing<'a, B> {
    fn note(&mut self, object: &'a Object<B>) {
        for spot in object.body.spots() {
            for port in ports(&spot) {
                self.at.entry((spot.address.clone(), port)).or_default().push(&object.id);
            }
        }
    }

    fn ids(&self) -> impl Iterator<Item = &'a ObjectId> {
        self.at.values().flatten().copied()
    }

    fn at_address(&self, address: &B::Address) -> impl Iterator<Item = &'a ObjectId> {
        let address = address.clone();
        let at_address = self.at.range((address.clone(), 0)..);
        let at_address = at_address.take_while(move |((at, _), _)| *at == address);
        at_address.flat_map(|(_, ids)| ids.iter().copied())
    }
}

impl<B: Body> Default for Missing<'_, B> {
    fn default() -> Self {
        Self { has_any: false, at: BTreeMap::new() }
    }
}

impl<'a, B: Body> Index<'a, B> {
    fn of(all: impl Iterator<Item = &'a Object<B>>) -> Self {
        let mut index =
            Self { at: BTreeMap::new(), fed: BTreeMap::new(), origins: BTreeMap::new() };
        for object in all {
            let origins: BTreeSet<&str> =
                object.body.origins().unwrap_or_default().into_iter().collect();
            for origin in &origins {
                index.fed.entry(*origin).or_default().push(&object.id);
            }
            index.origins.insert(&object.id, origins);
            for (address, count) in counts(&*object.body) {
                index.at.entry(address).or_default().insert(&object.id, (object, count));
            }
        }
        index
    }

    /// Objects with endpoints at `address` that one of `origins` feeds.
    fn like(&self, address: &B::Address, origins: &[&str]) -> Vec<(&'a Object<B>, usize)> {
        let Some(at_address) = self.at.get(address) else { return Vec::new() };
        let fed = || origins.iter().filter_map(|origin| self.fed.get(origin)).flatten();
        if fed().take(at_address.len()).count() < at_address.len() {
            let fed: BTreeSet<&ObjectId> = fed().copied().collect();
            return fed.into_iter().filter_map(|id| at_address.get(id).copied()).collect();
        }
        let feeds = |id: &ObjectId| {
            let of_object = self.origins.get(id);
            of_object.is_some_and(|all| origins.iter().any(|origin| all.contains(origin)))
        };
        at_address.iter().filter(|(id, _)| feeds(id)).map(|(_, found)| *found).collect()
    }
}

impl<B> Default for Moved<B> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), readings: 0 }
    }
}
