//! The whole line against a sink in memory, over random histories of a registry: what is planned
//! converges, a restart writes nothing, and nothing is lost without evidence.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::guard::GuardSettings;
use landfall_core::plan::{Mode, Observed, Step};
use landfall_core::registry::{Doubt, Snapshot, SourceName, SourceState};
use landfall_core::time::Time;
use landfall_mesh::api::Body;
use landfall_policy_host::{Rules, Workers};
use landfall_runtime::line::sink::{SinkLine, SinkOptions};
use landfall_runtime::line::{Line, LineOptions};
use landfall_tests::world;
use proptest::prelude::*;

const GRACE: Duration = Duration::from_secs(30);
const OPEN: GuardSettings =
    GuardSettings { removal_share_percent: 100, removal_min: 0, hold: Duration::from_secs(600) };
const DEFAULT: GuardSettings =
    GuardSettings { removal_share_percent: 20, removal_min: 10, hold: Duration::from_secs(600) };

/// A daemon without its edges: the line, and one sink in memory that takes every step.
struct World {
    line: Line,
    sink: SinkLine,
    held: Observed<Body>,
    guard: GuardSettings,
    now: Time,
}

impl World {
    fn new(held: Observed<Body>, guard: GuardSettings) -> Self {
        let workers = Workers::start(1).unwrap();
        let rules = Rules::new(world::defaults(), Vec::new());
        let options = LineOptions { render: Default::default(), grace: GRACE };
        let mut line = Line::new(workers, rules, options);
        line.add_source(world::source(), "file");
        let sink = SinkLine::new(Mode::Sync, Vec::new());
        Self { line, sink, held, guard, now: Time::from_millis(1_000_000) }
    }

    /// One round with what the source offers; returns the steps, which are applied.
    fn round(&mut self, state: &SourceState) -> Vec<Step<Body>> {
        let states: BTreeMap<SourceName, SourceState> =
            BTreeMap::from([(world::source(), state.clone())]);
        let round = self.line.round(&states, self.now);
        self.sink.observe(&self.held, self.line.desired());
        self.sink.desire(&round, self.now);
        let evidence = self.line.evidence();
        let options =
            SinkOptions { evidence: &evidence, guard: &self.guard, grace: GRACE, now: self.now };
        let due = self.sink.due(self.line.desired(), options);
        for step in &due.steps {
            match step.to() {
                Some(object) => self.held.ours.insert(step.id().clone(), Arc::clone(object)),
                None => self.held.ours.remove(step.id()),
            };
            self.sink.applied(step.id(), self.now);
        }
        self.sink.observe(&self.held, self.line.desired());
        due.steps
    }

    /// Rounds until nothing is due any more, through all grace times.
    fn settle(&mut self, state: &SourceState) {
        for _ in 0..4 {
            self.round(state);
            self.now = self.now.plus(GRACE);
        }
        assert!(self.round(state).is_empty(), "planning again gives no step");
        assert!(self.sink.is_settled());
        assert_eq!(self.held.ours, *self.line.desired());
    }
}

/// Parts of one generated listing, so that services come, go and change.
fn history() -> impl Strategy<Value = Vec<Snapshot>> {
    let step = prop::collection::btree_map(0_usize..12, (1_usize..4, 0_usize..3), 0..12);
    prop::collection::vec(step, 1..6).prop_map(|steps| {
        steps
            .into_iter()
            .map(|services| {
                services.into_iter().fold(
                    Snapshot::default(),
                    |listing, (index, (count, version))| {
                        world::with_service(&listing, index, count, version)
                    },
                )
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_history_converges(history in history()) {
        let mut world = World::new(Observed::default(), OPEN);
        for snapshot in &history {
            world.round(&world::state(snapshot.clone()));
        }
        world.settle(&world::state(history.last().cloned().unwrap_or_default()));
    }

    #[test]
    fn a_restart_writes_nothing(history in history()) {
        let mut world = World::new(Observed::default(), OPEN);
        let last = history.last().cloned().unwrap_or_default();
        for snapshot in &history {
            world.round(&world::state(snapshot.clone()));
        }
        world.settle(&world::state(last.clone()));
        let mut restarted = World::new(world.held.clone(), DEFAULT);
        restarted.now = world.now;
        prop_assert!(restarted.round(&SourceState::default()).is_empty(), "before the first listing");
        prop_assert!(restarted.round(&world::state(last)).is_empty(), "after it");
    }

    #[test]
    fn doubt_never_loses_anything(first in history(), later in history()) {
        let mut world = World::new(Observed::default(), OPEN);
        let listing = first.last().cloned().unwrap_or_default();
        world.settle(&world::state(listing.clone()));
        let before: usize = endpoints(&world);
        let doubt = Doubt { code: "unreachable", message: String::new(), since: world.now };
        for snapshot in later {
            let state = SourceState { doubt: Some(doubt.clone()), ..world::state(snapshot) };
            for step in world.round(&state) {
                prop_assert_eq!(step.endpoint_change().1, 0, "{}", step.id());
                prop_assert!(step.to().is_some());
            }
        }
        prop_assert!(endpoints(&world) >= before);
    }
}

fn endpoints(world: &World) -> usize {
    use landfall_core::mesh::Body as _;
    world.held.ours.values().map(|object| object.body.endpoint_count()).sum()
}

#[test]
fn one_change_is_one_step_and_an_empty_listing_is_held() {
    let snapshot = world::snapshot(100, 3);
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&world::state(snapshot.clone()));
    let steps = world.round(&world::state(world::changed(&snapshot, 7, 1)));
    assert_eq!(steps.len(), 1);

    assert!(world.round(&world::state(Snapshot::default())).is_empty());
    assert_eq!(world.sink.held().len(), 100);
    // The registry recovers, and nothing was lost.
    assert_eq!(world.round(&world::state(snapshot)).len(), 1, "the one change is taken back");
    assert!(world.sink.held().is_empty());
    // An operator lets it go.
    world.round(&world::state(Snapshot::default()));
    world.sink.release();
    assert_eq!(world.round(&world::state(Snapshot::default())).len(), 100);
}

#[test]
fn a_foreign_object_is_left_alone_and_reported() {
    let snapshot = world::snapshot(3, 1);
    let mut first = World::new(Observed::default(), OPEN);
    first.settle(&world::state(snapshot.clone()));
    let taken = first.line.desired().keys().next().cloned().unwrap();
    let mut held = Observed::default();
    held.foreign.insert(taken.clone());
    let mut world = World::new(held, OPEN);
    let steps = world.round(&world::state(snapshot.clone()));
    assert_eq!(steps.len(), 2);
    assert!(world.sink.blocked().contains(&taken));
    // Its owner removes it.
    world.held.foreign.clear();
    let steps = world.round(&world::state(snapshot));
    assert_eq!(steps.iter().map(|step| step.id()).collect::<Vec<_>>(), [&taken]);
    assert!(world.sink.blocked().is_empty());
}
