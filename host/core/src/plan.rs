//! The steps that make a sink equal to what is desired.
//!
//! Invariant: total and deterministic. Planning again after applying gives no step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::mesh::{Body, Kind, Object, ObjectId, Spot, Tie};
use crate::time::Time;

/// What a sink should hold.
pub type Desired<B> = OrdMap<ObjectId, Arc<Object<B>>>;

/// What a sink holds.
#[derive(Clone, Debug)]
pub struct Observed<B> {
    /// The objects that carry our owner mark.
    pub ours: OrdMap<ObjectId, Arc<Object<B>>>,
    /// Those of somebody else that stand in our way. Never changed, never deleted.
    pub foreign: OrdSet<ObjectId>,
}

/// Which ServiceEntry each service of the mesh is to have.
pub type Entries = OrdMap<Tie, ObjectId>;

/// What may be done to a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    #[default]
    Sync,
    /// Objects are made and changed, never removed.
    UpsertOnly,
    /// Objects are made and then left alone.
    CreateOnly,
}

/// How to plan.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions<'a> {
    /// What may be done.
    pub mode: Mode,
    /// How long an object stays without endpoints before it is deleted.
    pub grace: Duration,
    /// Which ServiceEntries services are to have.
    pub entries: &'a Entries,
    /// The time now.
    pub now: Time,
}

/// One step, fully resolved: applying it takes no further choice.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<B> {
    /// Make an object that is not there.
    Create(Arc<Object<B>>),
    /// Make an object of ours what it should be.
    Update {
        /// As it is.
        from: Arc<Object<B>>,
        /// As it should be.
        to: Arc<Object<B>>,
    },
    /// Take the endpoints out of an object that nothing wants any more, and note since when.
    Empty {
        /// As it is.
        from: Arc<Object<B>>,
        /// Without endpoints.
        to: Arc<Object<B>>,
    },
    /// Delete an object of ours.
    Delete(Arc<Object<B>>),
}

/// What to do, and what to wait for.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan<B> {
    /// In the order to apply them: see [`Step::phase`].
    pub steps: Vec<Step<B>>,
    /// Desired objects whose place a foreign one has.
    pub blocked: Vec<ObjectId>,
    /// Objects that are as they should be.
    pub settled: Vec<ObjectId>,
    /// When to plan again though nothing changes: a grace time ends.
    pub wake: Option<Time>,
}

/// What becomes of one object.
enum Next<B> {
    Step(Step<B>),
    Blocked,
    Wait(Time),
    Settled,
}

/// The steps for the objects of `scope`; an object that is left out gets none.
#[must_use]
pub fn plan<'a, B: Body>(
    observed: &Observed<B>,
    desired: &Desired<B>,
    scope: impl IntoIterator<Item = &'a ObjectId>,
    options: PlanOptions<'_>,
) -> Plan<B> {
    let mut plan = Plan { steps: Vec::new(), blocked: Vec::new(), settled: Vec::new(), wake: None };
    for id in scope {
        match next(observed, desired, id, options) {
            Next::Step(step) => plan.steps.push(step),
            Next::Blocked => plan.blocked.push(id.clone()),
            Next::Wait(until) => plan.wake = Some(plan.wake.map_or(until, |wake| wake.min(until))),
            Next::Settled => plan.settled.push(id.clone()),
        }
    }
    in_order(&mut plan.steps);
    plan
}

/// Puts steps into the order in which they are applied.
pub(crate) fn in_order<B: Body>(steps: &mut [Step<B>]) {
    steps.sort_by(|a, b| (a.phase(), a.id()).cmp(&(b.phase(), b.id())));
}

//  observed                desired   mode         next
//  -                       x         any          create
//  foreign                 x         any          blocked (finding)
//  ours, equal             x         any          settled
//  ours, differs           x         create-only  settled
//  ours, differs           x         else         update
//  ours                    -         not sync     settled
//  ours, renamed           -         sync         delete
//  ours, can be empty      -         sync         empty, unless the grace is zero: delete
//  ours, emptied           -         sync         wait for the grace to end, then delete
//  ours, cannot be empty   -         sync         delete
//  -                       -         any          settled
//
// A renamed one is a ServiceEntry whose service has one of another name. Without endpoints it would
// be in the way: of two with one host Istio goes by what the older one says of ports and resolution.
fn next<B: Body>(
    observed: &Observed<B>,
    desired: &Desired<B>,
    id: &ObjectId,
    options: PlanOptions<'_>,
) -> Next<B> {
    match (observed.ours.get(id), desired.get(id)) {
        (None, Some(_)) if observed.foreign.contains(id) => Next::Blocked,
        (None, Some(want)) => Next::Step(Step::Create(Arc::clone(want))),
        (Some(have), Some(want)) if Arc::ptr_eq(have, want) || have == want => Next::Settled,
        (Some(_), Some(_)) if options.mode == Mode::CreateOnly => Next::Settled,
        (Some(have), Some(want)) => {
            Next::Step(Step::Update { from: Arc::clone(have), to: Arc::clone(want) })
        }
        (Some(_), None) if options.mode != Mode::Sync => Next::Settled,
        (Some(have), None) => removal(have, options),
        (None, None) => Next::Settled,
    }
}

fn removal<B: Body>(have: &Arc<Object<B>>, options: PlanOptions<'_>) -> Next<B> {
    if options.grace.is_zero() || successor(have, options.entries).is_some() {
        return Next::Step(Step::Delete(Arc::clone(have)));
    }
    // A time that is yet to come was noted by a clock that was wrong, or by hand. It says nothing of
    // when the endpoints went, so that is noted anew.
    let noted = have.removal.filter(|since| *since <= options.now);
    match (noted, have.body.without_endpoints()) {
        (Some(since), _) => {
            let until = since.plus(options.grace);
            if until <= options.now {
                Next::Step(Step::Delete(Arc::clone(have)))
            } else {
                Next::Wait(until)
            }
        }
        (None, Some(body)) => {
            let to = Object {
                id: have.id.clone(),
                sources: Arc::clone(&have.sources),
                removal: Some(options.now),
                body: Arc::new(body),
            };
            Next::Step(Step::Empty { from: Arc::clone(have), to: Arc::new(to) })
        }
        (None, None) => Next::Step(Step::Delete(Arc::clone(have))),
    }
}

/// The ServiceEntry that the service of `object`, which is a ServiceEntry, is to have under another
/// name.
fn successor<'a, B: Body>(object: &Object<B>, entries: &'a Entries) -> Option<&'a ObjectId> {
    if object.id.kind != Kind::ServiceEntry {
        return None;
    }
    entries.get(&object.tie()).filter(|id| **id != object.id)
}

// === impl Step ===

impl<B: Body> Step<B> {
    /// Which object it is about.
    #[must_use]
    pub fn id(&self) -> &ObjectId {
        match self {
            Self::Create(object) | Self::Delete(object) => &object.id,
            Self::Update { to, .. } | Self::Empty { to, .. } => &to.id,
        }
    }

    /// Steps of one phase may be applied at once, phases one after the other: endpoints of their
    /// own come before the service that selects them and go after it, so that a change between
    /// the two shapes never leaves a service without endpoints. What serves clients goes before what
    /// tidies up.
    #[must_use]
    pub fn phase(&self) -> u8 {
        match (self, self.id().kind) {
            (Self::Create(_) | Self::Update { .. } | Self::Empty { .. }, Kind::WorkloadEntry) => 0,
            (Self::Create(_) | Self::Update { .. }, Kind::ServiceEntry) => 1,
            (Self::Empty { .. }, Kind::ServiceEntry) => 2,
            (Self::Delete(_), Kind::ServiceEntry) => 3,
            (Self::Delete(_), Kind::WorkloadEntry) => 4,
        }
    }

    /// The object as it is before the step.
    #[must_use]
    pub fn from(&self) -> Option<&Arc<Object<B>>> {
        match self {
            Self::Create(_) => None,
            Self::Update { from, .. } | Self::Empty { from, .. } | Self::Delete(from) => Some(from),
        }
    }

    /// The object as it is after the step.
    #[must_use]
    pub fn to(&self) -> Option<&Arc<Object<B>>> {
        match self {
            Self::Create(to) | Self::Update { to, .. } | Self::Empty { to, .. } => Some(to),
            Self::Delete(_) => None,
        }
    }

    /// The word for logs and metrics.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update { .. } => "update",
            Self::Empty { .. } => "empty",
            Self::Delete(_) => "delete",
        }
    }

    /// The endpoints that go by it.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<Spot<B::Address>> {
        missing(self.from(), self.to())
    }

    /// Whether it takes an object or endpoints away from its service. To clients a ServiceEntry that
    /// selects its endpoints is as much as these.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        match self {
            Self::Create(_) => false,
            Self::Update { from, to } => from.tie() != to.tie() || !self.lost().is_empty(),
            Self::Empty { .. } | Self::Delete(_) => true,
        }
    }

    /// Whether others of its mesh service may have to follow it, see [`Self::must_follow`].
    #[must_use]
    pub fn leads(&self) -> bool {
        match (self.id().kind, self) {
            (Kind::WorkloadEntry, Self::Delete(_)) => false,
            (Kind::WorkloadEntry, _) => true,
            // One under another name may take the place of one that selects.
            (Kind::ServiceEntry, Self::Create(to)) => !to.body.selects(),
            (Kind::ServiceEntry, _) => self.stops_selecting(),
        }
    }

    /// Whether a ServiceEntry that selects its endpoints is to have them in itself.
    #[must_use]
    pub fn stops_selecting(&self) -> bool {
        matches!(self, Self::Update { from, to } if from.body.selects() && !to.body.selects())
    }

    /// Whether a ServiceEntry that has its endpoints itself is to select them.
    #[must_use]
    pub fn starts_selecting(&self) -> bool {
        matches!(self, Self::Update { from, to } if to.body.selects() && !from.body.selects())
    }

    /// Whether it would leave its mesh service without endpoints, were it done while a step on an
    /// object of `kind` of the same service is not.
    ///
    /// ```text
    /// step                          must follow, of the same service,
    /// ServiceEntry loses endpoints  WorkloadEntries that are to have them
    /// WorkloadEntry is deleted      the ServiceEntry that is to select no more
    /// ```
    ///
    /// Nothing else waits: a WorkloadEntry that cannot be written is no reason to keep one that is
    /// dead, nor to keep the ports of a ServiceEntry as they were.
    #[must_use]
    pub fn must_follow(&self, kind: Kind) -> bool {
        match (self.id().kind, kind) {
            (Kind::ServiceEntry, Kind::WorkloadEntry) => !self.lost().is_empty(),
            (Kind::WorkloadEntry, Kind::ServiceEntry) => matches!(self, Self::Delete(_)),
            (Kind::ServiceEntry, Kind::ServiceEntry)
            | (Kind::WorkloadEntry, Kind::WorkloadEntry) => false,
        }
    }

    /// The ServiceEntry that a service is to have under another name, where the step takes from it
    /// the one that it has.
    #[must_use]
    pub fn successor<'a>(&self, entries: &'a Entries) -> Option<&'a ObjectId> {
        let from = self.from()?;
        let takes = match self {
            Self::Empty { .. } | Self::Delete(_) => true,
            // Another service has the name now.
            Self::Update { to, .. } => from.tie() != to.tie(),
            Self::Create(_) => false,
        };
        if takes { successor(from, entries) } else { None }
    }

    /// What ties it to the mesh service that loses something by it: the one that has the object, of
    /// which another may get the name.
    #[must_use]
    pub fn loser(&self) -> Tie {
        self.from().map_or_else(|| self.tie(), |from| from.tie())
    }

    /// What ties it to the other steps of its mesh service.
    #[must_use]
    pub fn tie(&self) -> Tie {
        match self {
            Self::Create(object) | Self::Delete(object) => object.tie(),
            Self::Update { to, .. } | Self::Empty { to, .. } => to.tie(),
        }
    }
}

/// The endpoints of `one` that are not in `other`.
fn missing<B: Body>(
    one: Option<&Arc<Object<B>>>,
    other: Option<&Arc<Object<B>>>,
) -> BTreeSet<Spot<B::Address>> {
    match (one, other) {
        (None, _) => BTreeSet::new(),
        // What another service of the mesh has under the name by then is not the same.
        (Some(one), Some(other)) if one.tie() != other.tie() => one.body.reached(),
        (Some(one), None) => one.body.reached(),
        (Some(one), Some(other)) => {
            let stays = other.body.reached();
            one.body.spots().filter(|spot| !stays.contains(spot)).collect()
        }
    }
}

impl<B> Clone for Step<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Create(object) => Self::Create(Arc::clone(object)),
            Self::Update { from, to } => {
                Self::Update { from: Arc::clone(from), to: Arc::clone(to) }
            }
            Self::Empty { from, to } => Self::Empty { from: Arc::clone(from), to: Arc::clone(to) },
            Self::Delete(object) => Self::Delete(Arc::clone(object)),
        }
    }
}

impl<B> Default for Observed<B> {
    fn default() -> Self {
        Self { ours: OrdMap::new(), foreign: OrdSet::new() }
    }
}
