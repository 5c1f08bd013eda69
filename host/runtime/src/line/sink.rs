//! One sink beside the line: what it holds, what it should hold, and which steps are due.
//!
//! Invariant: what differs stays in `unsettled` until it is seen to be equal. A failed step needs
//! no memory of its own; the next plan contains it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use imbl::ordset::DiffItem as SetDiffItem;
use landfall_core::guard::{Evidence, GuardSettings, GuardState, Held, guard};
use landfall_core::mesh::{Body as _, Object, ObjectId};
use landfall_core::plan::{Desired, Mode, Observed, PlanOptions, Step, plan};
use landfall_core::time::Time;
use landfall_mesh::api::Body;

/// How long a failed step waits before it is planned again. Apply has its own, quicker retries
/// for what may pass; what reaches us lasts longer.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of one sink.
#[derive(Debug)]
pub struct SinkLine {
    mode: Mode,
    observed: Observed<Body>,
    /// Endpoints in `observed`.
    endpoints: usize,
    /// Whether `observed` is complete. Nothing is planned before.
    ready: bool,
    unsettled: BTreeSet<ObjectId>,
    in_flight: BTreeSet<ObjectId>,
    /// Objects whose step failed, and when it is planned again.
    failed: BTreeMap<ObjectId, Time>,
    guard: GuardState,
    held: Vec<Held>,
    blocked: BTreeSet<ObjectId>,
}

/// Steps that are due now.
#[derive(Debug)]
pub struct Due {
    /// In the order to apply them.
    pub steps: Vec<Step<Body>>,
    /// When to plan again though nothing changes.
    pub wake: Option<Time>,
}

/// How to plan.
#[derive(Clone, Copy, Debug)]
pub struct SinkOptions<'a> {
    /// What sources are worth.
    pub evidence: &'a Evidence,
    /// The deletion budget.
    pub guard: &'a GuardSettings,
    /// How long an object stays without endpoints.
    pub grace: Duration,
    /// The time now.
    pub now: Time,
}

impl SinkLine {
    /// A sink of which nothing is known yet.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            observed: Observed::default(),
            endpoints: 0,
            ready: false,
            unsettled: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            failed: BTreeMap::new(),
            guard: GuardState::default(),
            held: Vec::new(),
            blocked: BTreeSet::new(),
        }
    }

    /// Whether the sink was read completely.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes a complete reading of the sink. The walk skips what it shares with the reading
    /// before, so a sink hands out persistent maps and changes them in place.
    pub fn observe(&mut self, seen: &Observed<Body>, desired: &Desired<Body>) {
        if !self.ready {
            self.unsettled.extend(desired.keys().cloned());
            self.ready = true;
        }
        let count = |object: &Arc<Object<Body>>| object.body.endpoint_count();
        for item in self.observed.ours.diff(&seen.ours) {
            let id = match item {
                DiffItem::Add(id, object) => {
                    self.endpoints += count(object);
                    id
                }
                DiffItem::Update { old: (_, old), new: (id, new) } => {
                    self.endpoints = self.endpoints + count(new) - count(old);
                    id
                }
                DiffItem::Remove(id, object) => {
                    self.endpoints -= count(object);
                    id
                }
            };
            self.unsettled.insert(id.clone());
        }
        for item in self.observed.foreign.diff(&seen.foreign) {
            let (SetDiffItem::Add(id) | SetDiffItem::Remove(id)) = item;
            self.unsettled.insert(id.clone());
        }
        self.observed.clone_from(seen);
    }

    /// Notes that the desired state of `changed` is another.
    pub fn desire(&mut self, changed: &BTreeSet<ObjectId>) {
        for id in changed {
            self.failed.remove(id);
        }
        self.unsettled.extend(changed.iter().cloned());
    }

    /// The steps that are due. They count as in flight until [`SinkLine::applied`] or
    /// [`SinkLine::failed`] was called for each.
    pub fn due(&mut self, desired: &Desired<Body>, options: SinkOptions<'_>) -> Due {
        if !self.ready {
            return Due { steps: Vec::new(), wake: None };
        }
        self.failed.retain(|_, retry_at| *retry_at > options.now);
        let scope: Vec<ObjectId> = self
            .unsettled
            .iter()
            .filter(|id| !self.in_flight.contains(id) && !self.failed.contains_key(id))
            .cloned()
            .collect();
        let plan_options = PlanOptions { mode: self.mode, grace: options.grace, now: options.now };
        let planned = plan(&self.observed, desired, &scope, plan_options);
        for id in &planned.settled {
            self.unsettled.remove(id);
            self.blocked.remove(id);
        }
        for step in &planned.steps {
            self.blocked.remove(step.id());
        }
        self.blocked.extend(planned.blocked);
        let guarded = guard(
            planned.steps,
            self.endpoints,
            options.evidence,
            options.guard,
            &mut self.guard,
            options.now,
        );
        self.held = guarded.held;
        self.in_flight.extend(guarded.steps.iter().map(|step| step.id().clone()));
        let retry = self.failed.values().min().copied();
        let wake = [planned.wake, guarded.wake, retry].into_iter().flatten().min();
        Due { steps: guarded.steps, wake }
    }

    /// Notes that the step for `id` was applied. What the sink holds now is in its next reading.
    pub fn applied(&mut self, id: &ObjectId) {
        self.in_flight.remove(id);
    }

    /// Notes that the step for `id` failed; it is planned again after a while.
    pub fn failed(&mut self, id: &ObjectId, now: Time) {
        self.in_flight.remove(id);
        self.failed.insert(id.clone(), now.plus(RETRY));
    }

    /// Lets go what the deletion budget holds.
    pub fn release(&mut self) {
        self.guard.release();
    }

    /// Steps that wait, and for what.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Desired objects whose place a foreign one has.
    #[must_use]
    pub fn blocked(&self) -> &BTreeSet<ObjectId> {
        &self.blocked
    }

    /// Whether everything is as it should be and no step is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ready && self.unsettled.is_empty() && self.in_flight.is_empty()
    }

    /// How many steps are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many objects of ours the sink holds.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.observed.ours.len()
    }
}
