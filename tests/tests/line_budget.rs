//! What makes up for endpoints that go, and what does not.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::time::Duration;

use landfall_core::guard::BUDGET_WINDOW;
use landfall_core::plan::Mode;
use landfall_core::sharing::SharingMode;
use landfall_mesh::render::Shape;
use landfall_runtime::line::sink::SinkLine;
use landfall_tests::two_sources::{
    SHAPES, at, first, is_create, numbers, options, refusing, round, settled,
};

#[test]
fn a_change_of_shape_makes_up_for_nothing_that_goes_with_it() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    world.line.set_options(options(SharingMode::Union, Shape::Inline));
    for _ in 0..3 {
        round(&mut world, &first(&numbers("a", 61..101)));
        assert_eq!(at(&world, "a").len(), 100);
    }
}

#[test]
fn a_change_of_shape_in_many_steps_makes_up_for_nothing_that_goes_after() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut world = settled(SHAPES[from], &numbers("a", 1..101), "");
        world.sink = SinkLine::new(Mode::Sync, Vec::new(), 8);
        world.line.set_options(options(SharingMode::Union, SHAPES[to]));
        for _ in 0..40 {
            round(&mut world, &first(&numbers("a", 1..101)));
        }
        for _ in 0..40 {
            round(&mut world, &first("a=1,2"));
        }
        assert_eq!(at(&world, "a").len(), 100, "{from}");
    }
}

#[test]
fn what_never_came_makes_up_for_nothing() {
    let mut world = settled(Shape::Inline, &numbers("a", 1..101), "");
    refusing(&mut world, &first(&numbers("a", 101..201)), |_| true);
    world.now = world.now.plus(BUDGET_WINDOW);
    round(&mut world, &first("a=1"));
    assert_eq!(at(&world, "a").len(), 100);
}

#[test]
fn what_came_makes_up_for_others_and_not_for_itself() {
    let mut world = settled(Shape::Inline, &numbers("a", 1..11), "");
    round(&mut world, &first(&numbers("a", 1..101)));
    round(&mut world, &first(&numbers("a", 1..11)));
    assert_eq!(at(&world, "a").len(), 100);
}

#[test]
fn what_came_back_is_not_let_go_later_for_another_step_of_the_service_fails() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    let all = first(&format!("{},200", numbers("a", 1..101)));
    refusing(&mut world, &all, is_create);
    refusing(&mut world, &first("a=1,2,200"), is_create);
    assert_eq!(at(&world, "a").len(), 100, "held");
    for _ in 0..40 {
        world.now = world.now.plus(Duration::from_secs(60));
        refusing(&mut world, &all, is_create);
    }
    refusing(&mut world, &first("a=1,2,200"), is_create);
    // One has a place of its own in this plan.
    assert!(at(&world, "a").len() >= 99, "forty minutes later they go again");
}
