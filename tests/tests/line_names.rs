//! Objects that get other names, or those of others, lose nothing that may be there.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use landfall_core::guard::BUDGET_WINDOW;
use landfall_core::mesh::Kind;
use landfall_core::plan::{Observed, Step};
use landfall_core::sharing::SharingMode;
use landfall_mesh::render::Shape;
use landfall_tests::two_sources::{
    at, daemon_with, everywhere, exchange_names, first, in_doubt, limit_steps, listing, named,
    numbers, options, refusing, restarted, restarted_at, round, settle, settled, workload_ids,
};

#[test]
fn another_host_gets_the_name_of_what_selects_in_doubt() {
    let mut world =
        daemon_with(named(), SharingMode::Union, Shape::WorkloadEntries, Observed::default());
    settle(&mut world, &first("a=1"));
    let mut world = restarted_at(world, "all.mesh", named(), Shape::WorkloadEntries);
    round(&mut world, &[Some(in_doubt(listing("a=3"))), Some(listing(""))]);
    assert!(everywhere(&world).contains("10.0.0.1"));
}

#[test]
fn the_name_of_what_is_in_doubt_goes_to_a_host_of_the_first_source() {
    let mut world = daemon_with(named(), SharingMode::First, Shape::Inline, Observed::default());
    settle(&mut world, &[Some(listing("")), Some(listing("b=2"))]);
    round(&mut world, &[Some(listing("a=1")), Some(in_doubt(listing("")))]);
    assert_eq!(at(&world, "b").len(), 1);
}

#[test]
fn renamed_with_another_shape_while_a_workload_entry_is_refused_and_another_gets_the_name() {
    let mut world = daemon_with(named(), SharingMode::Union, Shape::Inline, Observed::default());
    settle(&mut world, &first("b=1"));
    world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
    for _ in 0..3 {
        refusing(&mut world, &first("a=3 b=1"), |step| {
            step.id().kind == Kind::WorkloadEntry && step.id().name.starts_with("b.mesh")
        });
        assert_eq!(at(&world, "b").len(), 1);
        world.now = world.now.plus(BUDGET_WINDOW);
    }
}

#[test]
fn renamed_with_another_shape_while_somebody_else_has_the_name_of_a_workload_entry() {
    let foreign = workload_ids(&settled(Shape::WorkloadEntries, "a=2,3", ""));
    let mut world = daemon_with(named(), SharingMode::Union, Shape::Inline, Observed::default());
    settle(&mut world, &first("a=2,3"));
    world.held.foreign.extend(foreign);
    let mut world = restarted(world, Shape::WorkloadEntries);
    for _ in 0..3 {
        round(&mut world, &first("a=2,3"));
        assert_eq!(at(&world, "a").len(), 2);
    }
}

#[test]
fn renamed_in_doubt_and_then_the_new_object_cannot_be_completed() {
    let world = settled(Shape::Inline, "a=1", "a=2");
    let mut world = daemon_with(named(), SharingMode::Union, Shape::Inline, world.held);
    round(&mut world, &[Some(listing("a=1")), None]);
    assert_eq!(at(&world, "a").len(), 2);
    let offers = [Some(listing("a=1")), Some(listing("a=2"))];
    refusing(&mut world, &offers, |step| matches!(step, Step::Update { .. }));
    assert_eq!(at(&world, "a").len(), 2);
}

#[test]
fn names_in_a_circle_while_the_budget_holds_what_one_loses() {
    for shape in [Shape::WorkloadEntries, Shape::Inline] {
        let mut world = settled(shape, &format!("{} b=200", numbers("a", 1..101)), "");
        exchange_names(&mut world);
        let mut world = restarted(world, shape);
        round(&mut world, &first("a=1,2 b=200"));
        assert_eq!(at(&world, "b").len(), 1, "{shape:?}");
        assert_eq!(at(&world, "a").len(), 100, "{shape:?}");
    }
}

#[test]
fn names_in_a_circle_change_at_once_though_a_sink_takes_few_steps() {
    for (others, steps_max) in [(0, 1), (63, 64), (62, 64), (64, 64)] {
        let others: Vec<String> = (0..others).map(|n| format!("a{n:03}={}", 300 + n)).collect();
        let mut world = settled(Shape::Inline, "y=1 z=2", "");
        exchange_names(&mut world);
        let mut world = restarted(world, Shape::Inline);
        limit_steps(&mut world, steps_max);
        for _ in 0..3 {
            round(&mut world, &first(&format!("y=1 z=2 {}", others.join(" "))));
            assert_eq!((at(&world, "y").len(), at(&world, "z").len()), (1, 1));
        }
    }
}

#[test]
fn rename_and_another_shape_at_once_are_no_mass_removal() {
    let all = || first(&numbers("a", 1..101));
    let mut world = daemon_with(named(), SharingMode::Union, Shape::Inline, Observed::default());
    settle(&mut world, &all());
    let mut world = restarted(world, Shape::WorkloadEntries);
    for _ in 0..4 {
        round(&mut world, &all());
    }
    assert_eq!(world.sink.held(), []);
}
