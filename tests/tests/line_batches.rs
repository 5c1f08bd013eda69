//! More steps than a sink takes at once: those of one plan follow one another without planning anew,
//! and whatever else happens meanwhile makes a new plan.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::guard::GuardSettings;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::plan::{Observed, Step};
use landfall_core::registry::{Snapshot, SourceState};
use landfall_core::sharing::SharingMode;
use landfall_mesh::api::Body;
use landfall_mesh::render::Shape;
use landfall_tests::line::{DEFAULT, OPEN, World};
use landfall_tests::two_sources::{
    Offers, at, daemon, due, first, held_for, limit_steps, numbers, options, round, settle, wait,
    workload_ids,
};
use landfall_tests::world;
use proptest::prelude::*;

const STEPS_MAX: usize = 64;

/// With a sink that takes at most `steps_max` steps at once, and does not execute them by itself.
fn slow(steps_max: usize) -> World {
    let mut world = World::new(Observed::default(), OPEN);
    limit_steps(&mut world, steps_max);
    world
}

/// Executes the steps that are due until none is; says how many there were.
fn write_all(world: &mut World, state: &SourceState) -> usize {
    let mut written = 0;
    loop {
        let steps = world.offer(state);
        if steps.is_empty() {
            return written;
        }
        written += steps.len();
        steps.iter().for_each(|step| world.apply(step));
    }
}

#[test]
fn what_one_plan_lets_go_follows_without_another() {
    const SERVICES: usize = 1_000;
    for verb in ["create", "update"] {
        let mut world = slow(STEPS_MAX);
        let listing = |version| {
            (0..SERVICES).fold(Snapshot::default(), |listing, index| {
                world::with_service(&listing, index, 2, version)
            })
        };
        if verb == "update" {
            write_all(&mut world, &world::state(listing(0)));
        }
        let state = world::state(listing(1));
        let before = world.sink.plans();
        let steps = world.offer(&state);
        assert_eq!(steps.len(), STEPS_MAX);
        assert!(steps.iter().all(|step| step.verb() == verb));
        assert_eq!(world.offer(&state), [], "it has enough to do");
        steps.iter().for_each(|step| world.apply(step));
        assert_eq!(write_all(&mut world, &state), SERVICES - STEPS_MAX);
        assert_eq!(world.held.ours, *world.line.desired());
        assert!(world.sink.is_settled());
        let plans = world.sink.plans() - before;
        assert_eq!(plans, 2, "one that lets them go, and one that finds nothing left");
    }
}

#[test]
fn what_takes_long_is_planned_again() {
    let mut world = slow(STEPS_MAX);
    let state = world::state(world::snapshot(1_000, 1));
    for plans in 1..4 {
        let steps = world.offer(&state);
        assert_eq!((steps.len(), world.sink.plans()), (STEPS_MAX, plans));
        steps.iter().for_each(|step| world.apply(step));
        world.now = world.now.plus(Duration::from_secs(5));
    }
}

#[test]
fn what_changes_while_it_waits_is_written_as_it_is_then() {
    let mut world = slow(STEPS_MAX);
    let first = world::snapshot(200, 1);
    let steps = world.offer(&world::state(first.clone()));
    let mut second = world::with_service(&first, 150, 2, 7);
    let gone = second.services.keys().nth(170).unwrap().clone();
    second.services.remove(&gone);
    steps.iter().for_each(|step| world.apply(step));
    let second = world::state(second);
    assert_eq!(write_all(&mut world, &second), 199 - STEPS_MAX);
    assert_eq!(world.held.ours, *world.line.desired());
}

#[test]
fn what_stands_there_meanwhile_is_left_alone() {
    let mut world = slow(STEPS_MAX);
    let state = world::state(world::snapshot(200, 1));
    let steps = world.offer(&state);
    let place = world.line.desired().keys().nth(150).unwrap().clone();
    world.held.foreign.insert(place.clone());
    steps.iter().for_each(|step| world.apply(step));
    assert_eq!(write_all(&mut world, &state), 199 - STEPS_MAX);
    assert!(!world.held.ours.contains_key(&place));
    assert_eq!(world.sink.blocked().iter().collect::<Vec<_>>(), [&place]);
}

#[test]
fn what_somebody_did_meanwhile_is_not_done_again() {
    let mut world = slow(STEPS_MAX);
    let state = world::state(world::snapshot(200, 1));
    let steps = world.offer(&state);
    let (place, object) = world.line.desired().iter().nth(150).unwrap();
    world.held.ours.insert(place.clone(), Arc::clone(object));
    steps.iter().for_each(|step| world.apply(step));
    assert_eq!(write_all(&mut world, &state), 199 - STEPS_MAX);
    assert!(world.sink.is_settled());
}

#[test]
fn what_is_left_is_planned_at_once_where_all_that_follows_is_done_already() {
    let mut world = slow(1);
    let state = world::state(world::snapshot(2, 1));
    let steps = world.offer(&state);
    let (place, object) = world.line.desired().iter().next_back().unwrap();
    assert_ne!(place, steps[0].id());
    world.held.ours.insert(place.clone(), Arc::clone(object));
    world.apply(&steps[0]);
    assert_eq!(world.offer(&state), []);
    assert!(world.sink.is_settled());
}

/// A budget of a fifth, with WorkloadEntries and a sink that takes few steps at once.
fn careful(offers: &Offers, steps_max: usize) -> World {
    let mut world = daemon(SharingMode::Union, Shape::WorkloadEntries, Observed::default());
    world.guard = GuardSettings { removal_min: 2, ..DEFAULT };
    settle(&mut world, offers);
    wait(&mut world, 120);
    limit_steps(&mut world, steps_max);
    round(&mut world, offers);
    world
}

#[test]
fn what_went_before_others_came_is_not_replaced_by_them() {
    let mut world = careful(&first("a=1,2,3,4"), 2);
    for _ in 0..4 {
        round(&mut world, &first("a=1,2,3,4,11,12"));
    }
    assert_eq!(at(&world, "a").len(), 6);
    let gone = due(&mut world, &first("a=1,2,3,4,12"));
    assert_eq!(gone.iter().map(Step::verb).collect::<Vec<_>>(), ["delete"]);
    let later = first("a=1,2,3,4,12,13,14");
    let mut others = due(&mut world, &later);
    assert_eq!(others.iter().map(Step::verb).collect::<Vec<_>>(), ["create"]);
    world.apply(&gone[0]);
    others.extend(due(&mut world, &later));
    others.iter().for_each(|step| world.apply(step));
    for _ in 0..4 {
        round(&mut world, &later);
    }
    // With 12, two of those that came within the minute would be gone, and the budget holds it.
    for _ in 0..4 {
        round(&mut world, &first("a=1,2,3,4,13,14"));
    }
    assert_eq!(at(&world, "a").len(), 7);
}

#[test]
fn what_takes_away_follows_from_no_plan_but_its_own() {
    let (b, c) = (numbers("b", 101..114), numbers("c", 41..47));
    let mut world = careful(&first(&format!("a=1,2,3,4,5 {b} {c}")), 1);
    let without_c = first(&format!("a=1,2,3,4,5 {b}"));
    for secs in [1, 61] {
        round(&mut world, &without_c);
        wait(&mut world, secs);
    }
    round(&mut world, &without_c);
    assert_eq!((at(&world, "c").len(), held_for(&world)), (6, ["budget"].into()));
    // ServiceEntries are to have their endpoints themselves, of which a loses two; and before that
    // a new service is due.
    world.line.set_options(options(SharingMode::Union, Shape::Inline));
    let offers = first(&format!("A=77 a=1,2,3 {b}"));
    let steps = due(&mut world, &offers);
    // Somebody deletes what is held: that is as much as the budget lets go.
    let of_c = |id: &ObjectId| id.name.starts_with("c.");
    workload_ids(&world).into_iter().filter(of_c).for_each(|id| _ = world.held.ours.remove(&id));
    steps.iter().for_each(|step| world.apply(step));
    for _ in 0..6 {
        round(&mut world, &offers);
    }
    assert_eq!(at(&world, "a").len(), 5);
}

/// What happens between two rounds.
#[derive(Clone, Debug)]
enum Event {
    Listed(usize, Option<(usize, usize)>),
    Done(usize),
    Refused,
    Foreign(usize, bool),
    Edited(usize, bool),
    Later(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let service = 0_usize..30;
    prop_oneof![
        2 => (service.clone(), prop::option::of((1_usize..3, 0_usize..3)))
            .prop_map(|(service, listed)| Event::Listed(service, listed)),
        12 => (1_usize..6).prop_map(Event::Done),
        1 => Just(Event::Refused),
        1 => (service.clone(), any::<bool>()).prop_map(|(at, is)| Event::Foreign(at, is)),
        1 => (service, any::<bool>()).prop_map(|(at, is)| Event::Edited(at, is)),
        1 => (1_u64..10).prop_map(Event::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_step_follows_from_what_is_known_when_it_begins(
        steps_max in 1_usize..8,
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut world = slow(steps_max);
        let mut listing = world::snapshot(30, 1);
        let ids: Vec<ObjectId> = {
            let mut other = World::new(Observed::default(), OPEN);
            other.settle(&world::state(listing.clone()));
            other.held.ours.keys().cloned().collect()
        };
        prop_assert!(ids.iter().all(|id| id.kind == Kind::ServiceEntry));
        let mut under_way: VecDeque<Step<Body>> = VecDeque::new();
        for event in events {
            match event {
                Event::Listed(index, Some((instances, generation))) => {
                    listing = world::with_service(&listing, index, instances, generation);
                }
                Event::Listed(index, None) => {
                    let key = world::snapshot(30, 1).services.keys().nth(index).cloned();
                    listing.services.remove(&key.unwrap());
                }
                Event::Done(count) => {
                    for step in under_way.drain(..count.min(under_way.len())).collect::<Vec<_>>() {
                        // As the API server judges it.
                        let is_as_known = world.held.ours.get(step.id()) == step.from();
                        if is_as_known && !world.held.foreign.contains(step.id()) {
                            world.apply(&step);
                        } else {
                            world.sink.failed(step.id(), "conflict", world.now);
                        }
                    }
                }
                Event::Refused => {
                    if let Some(step) = under_way.pop_front() {
                        world.sink.failed(step.id(), "refused", world.now);
                    }
                }
                Event::Foreign(at, stands) => {
                    let id = &ids[at];
                    if !stands {
                        world.held.foreign.remove(id);
                    } else if !world.held.ours.contains_key(id) {
                        world.held.foreign.insert(id.clone());
                    }
                }
                Event::Edited(at, is_deleted) => {
                    let id = &ids[at];
                    if let Some(object) = world.held.ours.remove(id).filter(|_| !is_deleted) {
                        let mut edited = landfall_core::mesh::Object::clone(&object);
                        edited.removal = Some(world.now);
                        world.held.ours.insert(id.clone(), Arc::new(edited));
                    }
                }
                Event::Later(secs) => world.now = world.now.plus(Duration::from_secs(secs)),
            }
            let steps = world.offer(&world::state(listing.clone()));
            for step in &steps {
                let id = step.id();
                prop_assert!(under_way.iter().all(|other| other.id() != id), "twice: {id}");
                prop_assert_eq!(world.held.ours.get(id), step.from(), "not as it is: {}", id);
                prop_assert!(!world.held.foreign.contains(id), "somebody else's: {}", id);
                match world.line.desired().get(id) {
                    Some(wanted) => prop_assert_eq!(step.to(), Some(wanted), "{}", id),
                    None => prop_assert!(step.from().is_some(), "nobody wants it: {id}"),
                }
            }
            under_way.extend(steps);
            prop_assert!(under_way.len() <= steps_max);
        }
        world.held.foreign.clear();
        let state = world::state(listing);
        for _ in 0..100 {
            for step in under_way.drain(..) {
                world.sink.failed(step.id(), "gone", world.now);
            }
            write_all(&mut world, &state);
            world.now = world.now.plus(Duration::from_secs(60));
        }
        prop_assert_eq!(&world.held.ours, world.line.desired());
        prop_assert!(world.sink.is_settled());
    }
}
