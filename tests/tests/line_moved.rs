//! Hosts whose endpoints move to others stay until clients had time to follow and these are there,
//! whoever speaks when, whatever is refused, and in whichever shape.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use landfall_core::plan::{Observed, Step};
use landfall_core::sharing::SharingMode;
use landfall_mesh::api::Body;
use landfall_mesh::render::Shape;
use landfall_tests::line::GRACE;
use landfall_tests::two_sources::{
    SHAPES, at, daemon_with, everywhere, first, in_doubt, is_create, link, listing, named, reached,
    refusing, restarted_at, round, rules_at, settle, settled, wait,
};

#[test]
fn a_host_of_two_sources_moves_over_a_restart_and_they_speak_one_after_the_other() {
    let mut world = settled(Shape::Inline, "b=1", "b=2");
    world = restarted_at(world, "{service}.moved.mesh", Vec::new(), Shape::Inline);
    refusing(&mut world, &[Some(listing("b=1")), None], is_create);
    assert_eq!(at(&world, "b").len(), 2, "{:?}", reached(&world));
}

#[test]
fn the_other_one_loses_something_before_the_last_one_speaks() {
    let mut world = settled(Shape::Inline, "b=1", "b=2");
    world = restarted_at(world, "{service}.moved.mesh", Vec::new(), Shape::Inline);
    round(&mut world, &[Some(listing("")), None]);
    assert_eq!(everywhere(&world).len(), 1);
    refusing(&mut world, &[Some(listing("")), Some(listing("b=2"))], is_create);
    assert_eq!(everywhere(&world).len(), 1);
}

#[test]
fn what_a_doubt_held_comes_back_at_another_host() {
    let mut world = settled(Shape::Inline, "", "b=2");
    round(&mut world, &[Some(listing("")), Some(in_doubt(listing("")))]);
    let change = world.change_rules(&rules_at("{service}.moved.mesh", Vec::new()), &[]).unwrap();
    world.take(&change);
    assert!(everywhere(&world).contains("10.0.0.2"), "held");
    refusing(&mut world, &[Some(listing("")), Some(listing("b=2"))], is_create);
    assert!(everywhere(&world).contains("10.0.0.2"), "{:?}", reached(&world));
}

#[test]
fn moved_to_a_host_that_has_it_in_workload_entries_which_it_does_not_select() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut world = settled(SHAPES[from], "b=1,2", "all=3");
        world = restarted_at(world, "all.mesh", Vec::new(), SHAPES[to]);
        for turn in 0..4 {
            round(&mut world, &[Some(listing("b=1,2")), None]);
            assert_eq!(everywhere(&world).len(), 3, "{from} {turn}");
            world.now = world.now.plus(GRACE);
        }
    }
}

#[test]
fn moved_to_a_host_that_no_policy_answered_for_at_first() {
    let mut world = settled(Shape::Inline, "b=1,2", "");
    let rules = |links| rules_at("{service}.moved.mesh", links);
    let change = world.change_rules(&rules(vec![link("service-trap")]), &[]).unwrap();
    world.take(&change);
    for _ in 0..3 {
        round(&mut world, &first("b=1,2"));
        world.now = world.now.plus(GRACE);
    }
    assert_eq!(at(&world, "b").len(), 2);
    let change = world.change_rules(&rules(Vec::new()), &[]).unwrap();
    world.take(&change);
    assert_eq!(at(&world, "b").len(), 2, "clients have no time to follow");
}

#[test]
fn a_host_that_moved_has_its_grace_time_whoever_has_its_name() {
    for shape in SHAPES {
        let mut world = daemon_with(named(), SharingMode::Union, shape, Observed::default());
        settle(&mut world, &first("a=1"));
        let mut world = restarted_at(world, "all.mesh", named(), shape);
        round(&mut world, &first("a=1"));
        assert_eq!(at(&world, "a").len(), 1, "{shape:?}");
    }
}

#[test]
fn the_new_host_is_there_when_it_is_reached_and_not_when_its_workload_entries_are() {
    let shape = Shape::WorkloadEntries;
    let is_refused = |step: &Step<Body>| &*step.id().name == "b-a.mesh";
    let offers = first("a=1,2");
    let mut world = settled(shape, "a=1,2", "");
    world = restarted_at(world, "b-{service}.mesh", Vec::new(), shape);
    // The process ends between the WorkloadEntries and what selects them.
    refusing(&mut world, &offers, is_refused);
    world = restarted_at(world, "b-{service}.mesh", Vec::new(), shape);
    for _ in 0..20 {
        refusing(&mut world, &offers, is_refused);
        wait(&mut world, 5);
    }
    assert_eq!(everywhere(&world).len(), 2);
}

#[test]
fn a_host_that_takes_its_predecessors_name_over_does_not_wait_for_itself() {
    for shape in SHAPES {
        let mut world = daemon_with(named(), SharingMode::Union, shape, Observed::default());
        settle(&mut world, &first("a=1,2,3"));
        let mut world = restarted_at(world, "b-{service}.mesh", named(), shape);
        for _ in 0..20 {
            round(&mut world, &first("a=1,2,3"));
            assert!(!everywhere(&world).is_empty(), "{shape:?}");
            wait(&mut world, 5);
        }
        assert_eq!(at(&world, "b-a").len(), 3, "{shape:?}");
    }
}
