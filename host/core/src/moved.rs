//! Objects that are not wanted any more because their endpoints moved to another service of the
//! mesh.
//!
//! Such an object goes once the sink holds its endpoints where they are wanted: another host may be
//! refused, or taken by somebody else's object, and then the old one is all that clients have. What
//! the sink holds elsewhere is not lost when it goes.
//!
//! The line tells which hosts lost their place but not their instances, after they went on for the
//! grace time, see [`crate::linger`]. Where the process was restarted in between, as by whoever
//! changes its configuration, the line knows only the new place. What was at the old one stands in
//! the sink, with the services that fed it, and gets its grace time there.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::{Body, Kind, Object, ObjectId, Tie};
use crate::plan::{Desired, Observed, Step};
use crate::time::Time;

/// What is known of objects whose endpoints moved, or may have.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    objects: BTreeMap<ObjectId, Stage>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// An earlier process left it, and it was not wanted in this one's life.
    Inherited,
    /// The same, and its endpoints are wanted elsewhere since then.
    Resting(Time),
    /// It went on for the grace time, which ended then.
    Ended(Time),
}

/// What a sink holds and what it should hold.
#[derive(Debug)]
pub struct Places<'a, B> {
    desired: &'a Desired<B>,
    observed: &'a Observed<B>,
    wanted: OnceCell<ByOrigin<'a, B>>,
    there: OnceCell<ByOrigin<'a, B>>,
}

/// Objects by the services of registries that feed them.
type ByOrigin<'a, B> = BTreeMap<&'a str, Vec<&'a Object<B>>>;

/// What is to be made of steps that take moved endpoints away.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Services of the mesh of which nothing may be removed yet.
    pub(crate) waiting: BTreeMap<Tie, Waits>,
    /// Endpoints that steps take away and that the sink holds elsewhere.
    pub(crate) kept: BTreeMap<ObjectId, usize>,
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

impl Moved {
    /// Takes up what the first reading of a sink finds.
    #[must_use]
    pub fn inherited<B>(observed: &Observed<B>) -> Self {
        Self { objects: observed.ours.keys().map(|id| (id.clone(), Stage::Inherited)).collect() }
    }

    /// The object's grace time is over.
    pub fn end(&mut self, id: ObjectId, now: Time) {
        self.objects.insert(id, Stage::Ended(now));
    }

    /// The object is wanted, or gone.
    pub fn forget(&mut self, id: &ObjectId) {
        self.objects.remove(id);
    }

    pub(crate) fn judge<B: Body>(
        &mut self,
        steps: &[Step<B>],
        places: &Places<'_, B>,
        stay: Stay,
    ) -> Judged {
        let mut judged = Judged::default();
        for step in steps {
            let (Step::Empty { from, .. } | Step::Delete(from)) = step else {
                self.objects.remove(step.id());
                continue;
            };
            let Some(stage) = self.objects.get_mut(step.id()) else { continue };
            let wanted = places.wanted_elsewhere(from);
            if wanted == 0 {
                // It lost its endpoints, or had none, as a ServiceEntry that selects them.
                self.objects.remove(step.id());
                continue;
            }
            let (since, rests_until) = match *stage {
                Stage::Inherited => (stay.now, stay.now.plus(stay.grace)),
                Stage::Resting(since) => (since, since.plus(stay.grace)),
                Stage::Ended(since) => (since, since),
            };
            if let Stage::Inherited = stage {
                *stage = Stage::Resting(since);
            }
            let there = places.there_elsewhere(from);
            let held_until = rests_until.plus(stay.hold);
            if stay.now < rests_until {
                judged.waiting.insert(step.tie(), Waits::Grace(rests_until));
            } else if there < wanted && stay.now < held_until {
                judged.waiting.insert(step.tie(), Waits::Successor(held_until));
            }
            judged.kept.insert(step.id().clone(), there);
        }
        judged
    }
}

impl<'a, B: Body> Places<'a, B> {
    /// The places of `desired` and `observed`.
    #[must_use]
    pub fn new(desired: &'a Desired<B>, observed: &'a Observed<B>) -> Self {
        Self { desired, observed, wanted: OnceCell::new(), there: OnceCell::new() }
    }

    /// How many of an object's endpoints are wanted at another service of the mesh.
    fn wanted_elsewhere(&self, object: &Object<B>) -> usize {
        let wanted = self.wanted.get_or_init(|| by_origin(self.desired.values()));
        elsewhere(object, wanted)
    }

    /// How many of an object's endpoints are at another service of the mesh that is wanted, and of
    /// which the sink has the ServiceEntry.
    fn there_elsewhere(&self, object: &Object<B>) -> usize {
        let there = self.there.get_or_init(|| {
            let wanted = self.observed.ours.iter().filter(|(id, _)| self.desired.contains_key(*id));
            let wanted: Vec<&Arc<Object<B>>> = wanted.map(|(_, object)| object).collect();
            let entries = wanted.iter().filter(|object| object.id.kind == Kind::ServiceEntry);
            let ties: BTreeSet<Tie> = entries.map(|object| object.tie()).collect();
            by_origin(wanted.into_iter().filter(|object| ties.contains(&object.tie())))
        });
        elsewhere(object, there)
    }
}

fn by_origin<'a, B: Body>(objects: impl Iterator<Item = &'a Arc<Object<B>>>) -> ByOrigin<'a, B> {
    let mut by_origin = ByOrigin::new();
    for object in objects {
        for origin in object.body.origins().unwrap_or_default() {
            by_origin.entry(origin).or_default().push(object);
        }
    }
    by_origin
}

/// How many endpoints of `object` are among those of other services of the mesh that one of the
/// same services of registries feeds. An address alone proves little: a node has many services.
fn elsewhere<'a, B: Body>(object: &'a Object<B>, places: &'a ByOrigin<'_, B>) -> usize {
    let origins = object.body.origins().unwrap_or_default();
    let tie = object.tie();
    let others = origins.iter().filter_map(|origin| places.get(origin)).flatten();
    let addresses: BTreeSet<_> = others
        .filter(|other| other.tie() != tie)
        .flat_map(|other| other.body.addresses())
        .collect();
    object.body.addresses().filter(|address| addresses.contains(address)).count()
}
