//! Objects that an earlier process left in a sink and that this one does not want.
//!
//! A host that lost its place but not its instances goes on for the grace time, see
//! [`crate::linger`]. Where the process was restarted in between, as by whoever changes its
//! configuration, the line knows only the new place. What was at the old one stands in the sink,
//! with the services that fed it: while those are published elsewhere it gets its grace time too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::guard::{Held, HeldFor};
use crate::mesh::{Body, ObjectId, Tie};
use crate::plan::{Desired, Observed, Step};
use crate::time::Time;

/// The objects of an earlier process that were not wanted in this one's life.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// With since when the services that fed it are published elsewhere.
    objects: BTreeMap<ObjectId, Option<Time>>,
}

/// Steps without those that must wait.
#[derive(Debug)]
pub struct Spared<B> {
    /// Steps to go on with, in the order they had.
    pub steps: Vec<Step<B>>,
    /// Steps that wait for the end of the grace time.
    pub held: Vec<Held>,
    /// When to ask again though nothing changes.
    pub wake: Option<Time>,
}

impl Inherited {
    /// Takes up what the first reading of a sink finds.
    #[must_use]
    pub fn of<B>(observed: &Observed<B>) -> Self {
        Self { objects: observed.ours.keys().map(|id| (id.clone(), None)).collect() }
    }

    /// The object is wanted, or gone.
    pub fn forget(&mut self, id: &ObjectId) {
        self.objects.remove(id);
    }

    /// Holds the steps back that would take an object away whose services moved, until `grace` has
    /// passed. Objects whose time is over are added to `moved`: what goes with them is not lost.
    pub fn spare<B: Body>(
        &mut self,
        steps: Vec<Step<B>>,
        desired: &Desired<B>,
        moved: &mut BTreeMap<ObjectId, Time>,
        grace: Duration,
        now: Time,
    ) -> Spared<B> {
        let mut spared =
            Spared { steps: Vec::with_capacity(steps.len()), held: vec![], wake: None };
        // Gathered only once something asks for it.
        let mut published: Option<Published<'_>> = None;
        for step in steps {
            let Some(since) = self.objects.get_mut(step.id()) else {
                spared.steps.push(step);
                continue;
            };
            let removed = match &step {
                Step::Empty { from, .. } | Step::Delete(from) => from,
                Step::Create(_) | Step::Update { .. } => {
                    self.objects.remove(step.id());
                    spared.steps.push(step);
                    continue;
                }
            };
            let has_moved = removed.body.endpoint_count() > 0
                && published
                    .get_or_insert_with(|| Published::of(desired))
                    .has_moved(&step.tie(), &*removed.body);
            if !has_moved {
                spared.steps.push(step);
                continue;
            }
            let since = *since.get_or_insert(now);
            let until = since.plus(grace);
            if now < until {
                spared.wake = Some(spared.wake.map_or(until, |wake| wake.min(until)));
                let why = HeldFor::Grace { until };
                spared.held.push(Held { id: step.id().clone(), verb: step.verb(), why });
            } else {
                moved.insert(step.id().clone(), since);
                spared.steps.push(step);
            }
        }
        spared
    }
}

/// What is published by what is desired.
struct Published<'a> {
    /// The services of registries.
    origins: BTreeSet<&'a str>,
    /// The services of the mesh.
    ties: BTreeSet<Tie>,
}

impl<'a> Published<'a> {
    fn of<B: Body>(desired: &'a Desired<B>) -> Self {
        let origins = desired.values().filter_map(|object| object.body.origins()).flatten();
        Self { origins: origins.collect(), ties: desired.values().map(|o| o.tie()).collect() }
    }

    /// Whether what feeds `body` is published, but at another service of the mesh. An endpoint that
    /// its own service lost has moved nowhere.
    fn has_moved<B: Body>(&self, tie: &Tie, body: &B) -> bool {
        let fed_by = body.origins().unwrap_or_default();
        !self.ties.contains(tie) && fed_by.iter().any(|origin| self.origins.contains(origin))
    }
}
