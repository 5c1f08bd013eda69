//! What the guard holds of real resources, endpoint by endpoint, through the whole line.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::guard::BUDGET_WINDOW;
use landfall_core::pairs::Pairs;
use landfall_core::plan::{Mode, Observed};
use landfall_core::registry::{Instance, InstancePort, Service, ServiceKey, Snapshot, SourceState};
use landfall_core::text::Text;
use landfall_mesh::render::{RenderOptions, Shape};
use landfall_runtime::line::LineOptions;
use landfall_runtime::line::sink::SinkLine;
use landfall_tests::line::{DEFAULT, GRACE, World};
use landfall_tests::two_sources::held_for;
use landfall_tests::world;

/// One service with an instance for each number, on nodes of ten instances, told apart by port.
fn listing(numbers: impl IntoIterator<Item = usize>) -> SourceState {
    let instance = |number: usize| {
        let port = u16::try_from(8000 + number).unwrap();
        Arc::new(Instance {
            ports: vec![InstancePort {
                name: Text::from("http"),
                number: port,
                protocol: Text::from("http"),
            }],
            ..Instance::new(format!("i{number}"), format!("10.0.{}.1", number / 10))
        })
    };
    let instances = numbers.into_iter().map(instance).collect();
    let key = ServiceKey { name: Text::from("job"), ..ServiceKey::default() };
    let (service, _) = Service::new(key.clone(), Pairs::default(), Pairs::default(), instances);
    let mut snapshot = Snapshot::default();
    snapshot.services.insert(key, Arc::new(service));
    world::state(snapshot)
}

fn world() -> World {
    World::new(Observed::default(), DEFAULT)
}

fn wait(world: &mut World, time: Duration) {
    world.now = world.now.plus(time);
}

#[test]
fn endpoints_that_share_an_address_are_held_one_by_one() {
    let mut world = world();
    world.settle(&listing(0..24));
    world.round(&listing(0..2));
    assert_eq!(world.endpoints(), 24);
    wait(&mut world, DEFAULT.hold);
    world.round(&listing(0..2));
    assert_eq!(world.endpoints(), 2);
}

#[test]
fn ordinary_changes_do_not_keep_a_hold_open() {
    let mut world = world();
    world.settle(&listing(0..100));
    world.round(&listing(0..60));
    assert_eq!(world.endpoints(), 100);
    // A new instance every minute, and then the one that it replaces goes.
    for turn in 0..10 {
        for numbers in [turn..60 + turn, turn + 1..60 + turn] {
            wait(&mut world, DEFAULT.hold / 20);
            let new = (turn > 0).then_some(200 + turn);
            world.round(&listing(numbers.filter(|number| *number < 60).chain(new)));
        }
    }
    wait(&mut world, Duration::from_secs(1));
    let last = || listing((10..60).chain([209]));
    world.round(&last());
    assert_eq!(world.endpoints(), 51, "the forty have waited for their time");
    world.settle(&last());
}

#[test]
fn a_release_lets_go_what_is_held_and_nothing_else() {
    let mut world = world();
    world.settle(&listing(0..100));
    world.round(&listing(0..70));
    assert_eq!(world.endpoints(), 100);
    world.sink.release();
    // Before anything is written all but one come back, and others go.
    world.round(&listing((0..99).filter(|number| !(20..49).contains(number))));
    assert_eq!(world.endpoints(), 99, "only what was let go");
}

#[test]
fn what_is_held_waits_for_its_own_time() {
    let mut world = world();
    world.settle(&listing(0..100));
    world.round(&listing(0..70));
    wait(&mut world, DEFAULT.hold / 2);
    world.round(&listing(30..100));
    wait(&mut world, DEFAULT.hold / 2);
    world.round(&listing(30..100));
    assert_eq!(world.endpoints(), 100, "the others have waited for half of it");
    wait(&mut world, DEFAULT.hold / 2);
    world.round(&listing(30..100));
    assert_eq!(world.endpoints(), 70);
}

#[test]
fn a_change_of_shape_in_many_steps_is_no_mass_removal() {
    for restart_after in [None, Some(3)] {
        let mut world = world();
        world.settle(&listing(0..100));
        world.sink = SinkLine::new(Mode::Sync, Vec::new(), 8);
        let render = RenderOptions { shape: Shape::WorkloadEntries, ..RenderOptions::default() };
        let options =
            || LineOptions { render: render.clone(), sharing: Arc::default(), grace: GRACE };
        world.line.set_options(options());
        for turn in 0..20 {
            if restart_after == Some(turn) {
                world = World { now: world.now, ..World::new(world.held.clone(), DEFAULT) };
                world.sink = SinkLine::new(Mode::Sync, Vec::new(), 8);
                world.line.set_options(options());
            }
            world.round(&listing(0..100));
            assert_eq!(world.sink.held(), [], "{restart_after:?}");
        }
        assert_eq!(world.held.ours.len(), 101);
        assert_eq!(world.endpoints(), 100);
    }
}

#[test]
fn what_is_replaced_in_many_steps_is_no_mass_removal() {
    let mut world = world();
    world.sink = SinkLine::new(Mode::Sync, Vec::new(), 8);
    let render = RenderOptions { shape: Shape::WorkloadEntries, ..RenderOptions::default() };
    world.line.set_options(LineOptions { render, sharing: Arc::default(), grace: GRACE });
    for _ in 0..20 {
        world.round(&listing(0..100));
    }
    assert_eq!(world.endpoints(), 100);
    wait(&mut world, BUDGET_WINDOW);
    for _ in 0..40 {
        world.round(&listing(500..600));
        assert!(!held_for(&world).contains("budget"));
    }
    let left: BTreeSet<Text> = world.held.ours.keys().map(|id| Text::clone(&id.name)).collect();
    assert_eq!(left.len(), 101);
}

#[test]
fn what_came_before_makes_up_for_as_many_that_go_after() {
    for shape in [Shape::Inline, Shape::WorkloadEntries] {
        let mut world = world();
        let render = RenderOptions { shape, ..RenderOptions::default() };
        world.line.set_options(LineOptions { render, sharing: Arc::default(), grace: GRACE });
        // What a service begins with came in nothing's place.
        world.round(&listing(0..40));
        world.round(&listing(0..10));
        assert_eq!(world.endpoints(), 40);
        world.round(&listing(0..40));
        wait(&mut world, BUDGET_WINDOW);
        // As many new ones come, and soon after the old ones go.
        world.round(&listing(0..80));
        wait(&mut world, BUDGET_WINDOW / 2);
        world.round(&listing(40..80));
        assert_eq!(world.endpoints(), 40);
        // That made up for these once.
        world.round(&listing(60..80));
        assert_eq!(world.endpoints(), 40);
        world.round(&listing(40..80));
        // Nor does what came long ago.
        world.round(&listing(40..120));
        wait(&mut world, BUDGET_WINDOW);
        world.round(&listing(80..120));
        assert_eq!(world.endpoints(), 80);
    }
}
