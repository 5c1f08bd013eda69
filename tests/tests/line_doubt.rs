//! What of two sources stays reachable while one of them is not known, whatever the shape.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::time::Duration;

use landfall_core::guard::BUDGET_WINDOW;
use landfall_core::mesh::Kind;
use landfall_core::plan::{Mode, Observed};
use landfall_core::sharing::SharingMode;
use landfall_mesh::api::{Endpoints, Location, ServiceEntry};
use landfall_mesh::render::{RenderOptions, Shape};
use landfall_runtime::line::LineOptions;
use landfall_runtime::line::sink::SinkLine;
use landfall_tests::line::{GRACE, OPEN, World};
use landfall_tests::two_sources::{
    SHAPES, at, daemon, daemon_with, due, exchange_names, first, in_doubt, is_create, link,
    listing, numbers, options, reached, refusing, restarted, round, settle, settled, wait,
    workload_ids,
};

#[test]
fn what_is_in_doubt_is_reached_as_before() {
    for (shape, old, left) in [
        // With a port of its own, and by a name among addresses.
        (Shape::Inline, "a=2@http:8080+admin:9090,3", "a=3"),
        (Shape::WorkloadEntries, "a=2@http:8080+admin:9090,3", "a=3"),
        (Shape::Inline, "a=n2,3", "a=3"),
        (Shape::WorkloadEntries, "a=n2,3", "a=3"),
    ] {
        let mut world = settled(shape, "", old);
        let before = reached(&world);
        round(&mut world, &[Some(listing("")), Some(in_doubt(listing(left)))]);
        assert_eq!(reached(&world), before, "{shape:?} {old}");
    }
}

#[test]
fn what_gets_other_ports_listens_for_those_that_are_dialed_meanwhile() {
    for shape in SHAPES {
        let world = settled(shape, "a=1,4,2@http:9000", "a=3");
        let before = reached(&world);
        let mut world = restarted(world, shape);
        round(&mut world, &[Some(listing("a=1@web:8080,4@web:8080,2@web:9000")), None]);
        assert_eq!(reached(&world), before, "{shape:?}");
    }
}

#[test]
fn ports_get_other_names_without_a_gap() {
    for is_refused in [false, true] {
        let mut world = settled(Shape::WorkloadEntries, "a=1,4,2@http:9000", "");
        let before = reached(&world);
        let offers = [Some(listing("a=1@web:8080,4@web:8080,2@web:9000")), Some(listing(""))];
        for _ in 0..3 {
            let steps = due(&mut world, &offers);
            for step in &steps {
                if is_refused && step.id().kind == Kind::ServiceEntry {
                    world.sink.failed(step.id(), "refused", world.now);
                } else {
                    world.apply(step);
                }
                assert_eq!(reached(&world), before, "{step:?}");
            }
            world.now = world.now.plus(BUDGET_WINDOW);
        }
        settle(&mut world, &offers);
    }
}

#[test]
fn what_the_budget_holds_is_reached_as_before() {
    for shape in SHAPES {
        let many: Vec<String> = (10..30).map(|number| format!("{number}@admin:9000")).collect();
        let mut world = settled(shape, "", &format!("a={},3", many.join(",")));
        let before = reached(&world);
        round(&mut world, &[Some(listing("")), Some(listing("a=3"))]);
        assert_eq!(reached(&world), before, "{shape:?}");
    }
}

#[test]
fn a_service_that_would_fit_inline_goes_on_selecting_what_is_held() {
    for is_doubtful in [true, false] {
        let mut world = settled(Shape::Auto, "", &numbers("a", 1..4101));
        assert_eq!(at(&world, "a").len(), 4100);
        let left = listing(&numbers("a", 1..4));
        let left = if is_doubtful { in_doubt(left) } else { left };
        round(&mut world, &[Some(listing("")), Some(left)]);
        assert_eq!(at(&world, "a").len(), 4100, "{is_doubtful}");
    }
    // Two at one address want WorkloadEntries for ambient proxies, one does not.
    let mut world = daemon(SharingMode::Union, Shape::Auto, Observed::default());
    let options = options(SharingMode::Union, Shape::Auto);
    let render = RenderOptions { ambient: true, ..options.render };
    world.line.set_options(LineOptions { render, ..options });
    settle(&mut world, &[Some(listing("a=1,2")), Some(listing("a=1@http:9090"))]);
    assert_eq!(world.endpoints(), 3);
    round(&mut world, &[Some(listing("a=1,2")), Some(in_doubt(listing("")))]);
    assert_eq!(world.endpoints(), 3);
}

#[test]
fn what_is_selected_stays_while_its_service_entry_is_written() {
    let offers = [Some(listing("a=1,2")), Some(listing(""))];
    let set = |world: &mut World, shape, location| {
        let options = options(SharingMode::Union, shape);
        let render = RenderOptions { location, ..options.render };
        world.line.set_options(LineOptions { render, ..options });
    };
    for is_refused in [false, true] {
        let mut world = settled(Shape::WorkloadEntries, "a=1,2", "");
        set(&mut world, Shape::WorkloadEntries, Location::MeshExternal);
        let under_way = due(&mut world, &offers);
        assert_eq!(under_way.len(), 1);
        if is_refused {
            world.sink.failed(under_way[0].id(), "refused", world.now);
        }
        set(&mut world, Shape::Inline, Location::MeshExternal);
        let then = round(&mut world, &offers);
        assert_eq!(at(&world, "a").len(), 2, "{is_refused} {then:?}");
        if !is_refused {
            world.apply(&under_way[0]);
        }
        world.now = world.now.plus(BUDGET_WINDOW);
        settle(&mut world, &offers);
    }
}

#[test]
fn what_waits_for_its_service_entry_is_no_mass_removal() {
    let many = numbers("a", 1..21);
    let world = settled(Shape::WorkloadEntries, &format!("{many} b=41,42,43"), "a=30");
    let mut world = restarted(world, Shape::Inline);
    round(&mut world, &[Some(listing(&format!("{many} b=41"))), None]);
    assert_eq!(at(&world, "a").len(), 21);
    assert_eq!(at(&world, "b").len(), 1);
}

#[test]
fn what_a_known_source_lost_goes_in_either_shape() {
    for shape in SHAPES {
        let world = settled(shape, "a=1,2", "a=3");
        let mut world = restarted(world, shape);
        round(&mut world, &[Some(listing("a=1")), None]);
        let left: Vec<String> = at(&world, "a").into_keys().collect();
        assert_eq!(left, ["10.0.0.1", "10.0.0.3"], "{shape:?}");
    }
}

#[test]
fn an_instance_that_another_source_has_too_stays_when_the_first_lost_it() {
    for shape in SHAPES {
        // Each time the other one has not spoken, or is in doubt.
        let world = settled(shape, "a=2", "");
        let mut world = restarted(world, shape);
        round(&mut world, &[None, Some(listing("a=1,2"))]);
        assert_eq!(world.endpoints(), 2, "{shape:?}");
        let mut world = restarted(world, shape);
        round(&mut world, &[Some(listing("")), None]);
        assert_eq!(at(&world, "a").len(), 2, "{shape:?}");

        let mut world = settled(shape, "a=2", "");
        let nothing = || Some(in_doubt(listing("")));
        round(&mut world, &[nothing(), Some(listing("a=1,2"))]);
        round(&mut world, &[nothing(), Some(in_doubt(listing("a=1")))]);
        round(&mut world, &[Some(listing("")), Some(in_doubt(listing("a=1")))]);
        assert_eq!(at(&world, "a").len(), 2, "{shape:?}");
    }
}

#[test]
fn what_is_replaced_stays_while_that_is_refused() {
    for (mode, new, old) in [
        (SharingMode::Union, "a=2,3", "a=2,3"),
        (SharingMode::Union, "a=2", "a=2,3"),
        (SharingMode::First, "a=5", "a=2,3"),
    ] {
        let mut world = daemon(mode, Shape::WorkloadEntries, Observed::default());
        settle(&mut world, &[Some(listing("")), Some(listing(old))]);
        let offers = [Some(listing(new)), Some(listing(old))];
        for _ in 0..8 {
            refusing(&mut world, &offers, is_create);
            assert_eq!(at(&world, "a").len(), 2, "{mode:?} {new}");
            world.now = world.now.plus(BUDGET_WINDOW);
        }
        settle(&mut world, &offers);
    }
}

#[test]
fn the_name_of_an_object_goes_to_no_other_host_while_it_may_have_it() {
    let begin =
        |held| daemon_with(vec![link("service-illegal")], SharingMode::Union, Shape::Inline, held);
    let mut world = begin(Observed::default());
    settle(&mut world, &[Some(listing("a=1")), Some(listing("b=2"))]);
    let before = reached(&world);
    round(&mut world, &[Some(in_doubt(listing(""))), Some(listing("b=2"))]);
    assert_eq!(reached(&world), before);
    let mut world = begin(world.held);
    round(&mut world, &[None, Some(listing("b=2"))]);
    assert_eq!(reached(&world), before);
    settle(&mut world, &[Some(listing("")), Some(listing("b=2"))]);
    assert_eq!(reached(&world).into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_host_that_no_policy_answered_for_stays_whoever_has_it_by_now() {
    for (mode, old) in [(SharingMode::Union, "a=1"), (SharingMode::First, "a=3")] {
        let mut world = daemon(mode, Shape::Inline, Observed::default());
        settle(&mut world, &[Some(listing("")), Some(listing(old))]);
        let before = reached(&world);
        let links = vec![link("service-trap")];
        let mut world = daemon_with(links, mode, Shape::Inline, world.held);
        round(&mut world, &[Some(listing("a=1")), Some(listing(old))]);
        assert_eq!(reached(&world), before, "{mode:?}");
    }
}

#[test]
fn what_is_replaced_stays_while_somebody_else_has_the_name() {
    let both = || [Some(listing("a=2,3")), Some(listing("a=2,3"))];
    let workloads = Shape::WorkloadEntries;
    let mut after = daemon(SharingMode::Union, workloads, Observed::default());
    settle(&mut after, &both());
    let foreign = || after.held.ours.keys().filter(|id| id.kind == Kind::WorkloadEntry).cloned();
    for shape in SHAPES {
        let mut world = settled(shape, "", "a=2,3");
        world.held.foreign.extend(foreign());
        world.line.set_options(options(SharingMode::Union, workloads));
        for _ in 0..4 {
            round(&mut world, &both());
            assert_eq!(at(&world, "a").len(), 2, "{shape:?}");
            world.now = world.now.plus(BUDGET_WINDOW);
        }
    }
}

#[test]
fn what_a_renamed_object_selects_stays_until_the_other_is_there() {
    let named = |held| {
        daemon_with(vec![link("service-illegal")], SharingMode::Union, Shape::WorkloadEntries, held)
    };
    let offers = |text| [Some(listing(text)), Some(listing(""))];
    for (shape, old, new) in [
        (Shape::Inline, "a=1,2", "a=1,2"),
        (Shape::WorkloadEntries, "a=1,2@http:9000", "a=1@web:8080,2@web:9000"),
    ] {
        let mut world = named(Observed::default());
        settle(&mut world, &offers(old));
        let before = reached(&world);
        let mut world = daemon(SharingMode::Union, shape, world.held);
        for _ in 0..4 {
            refusing(&mut world, &offers(new), is_create);
            assert_eq!(reached(&world), before, "{shape:?} {new}");
            world.now = world.now.plus(BUDGET_WINDOW);
        }
        settle(&mut world, &offers(new));
        assert_eq!(at(&world, "a").len(), 2);
    }
}

#[test]
fn objects_that_have_each_others_names_change_places() {
    let offers = [Some(listing("a=1 b=2 c=3")), Some(listing(""))];
    let mut world = daemon(SharingMode::Union, Shape::Inline, Observed::default());
    settle(&mut world, &offers);
    let before = reached(&world);
    exchange_names(&mut world);
    settle(&mut world, &offers);
    assert_eq!(reached(&world), before);
}

#[test]
fn an_instance_that_is_listed_elsewhere_is_reached_there_though_its_source_is_in_doubt() {
    for shape in SHAPES {
        let mut world = settled(shape, "a=1,2,3", "");
        for _ in 0..2 {
            round(&mut world, &[Some(in_doubt(listing("a=1>101,2"))), Some(listing(""))]);
        }
        let addresses: Vec<String> = at(&world, "a").into_keys().collect();
        for there in ["10.0.0.101", "10.0.0.2", "10.0.0.3"] {
            assert!(addresses.contains(&there.to_owned()), "{shape:?}: {addresses:?}");
        }
    }
}

#[test]
fn instances_on_one_node_are_several() {
    for shape in SHAPES {
        let world = settled(shape, "", "a=2");
        let mut world = restarted(world, shape);
        round(&mut world, &[Some(listing("a=2")), None]);
        round(&mut world, &[Some(listing("a=2@http:9090")), None]);
        // Of one that listens elsewhere by now it is not known that the other is not there.
        assert_eq!(world.endpoints(), 2, "{shape:?}");
        settle(&mut world, &[Some(listing("a=2@http:9090")), Some(listing(""))]);
        assert_eq!(world.endpoints(), 1, "{shape:?}");
    }
}

#[test]
fn what_is_left_out_takes_nobodys_turn() {
    let shape = Shape::WorkloadEntries;
    let world = settled(shape, "a=1,2,4,5,6,7 z=1,2", "a=3");
    let mut world = restarted(world, shape);
    world.sink = SinkLine::new(Mode::Sync, Vec::new(), 4);
    world.guard = OPEN;
    let renamed: Vec<String> = [1, 2, 4, 5, 6, 7].map(|n| format!("{n}@web:8080")).to_vec();
    let new = format!("a={} y=9 z=2,5", renamed.join(","));
    for _ in 0..10 {
        round(&mut world, &[Some(listing(&new)), None]);
    }
    assert_eq!(at(&world, "y").len(), 1);
    assert_eq!(at(&world, "z").into_keys().collect::<Vec<_>>(), ["10.0.0.2", "10.0.0.5"]);
}

#[test]
fn a_service_entry_that_does_not_name_all_sources_yet() {
    let mut world = settled(Shape::WorkloadEntries, "a=1", "");
    // Killed between the two.
    for step in due(&mut world, &[Some(listing("a=1")), Some(listing("a=3"))]) {
        if step.id().kind == Kind::WorkloadEntry {
            world.apply(&step);
        }
    }
    let mut world = restarted(world, Shape::WorkloadEntries);
    for _ in 0..3 {
        round(&mut world, &[Some(listing("")), None]);
        assert!(at(&world, "a").contains_key("10.0.0.3"));
        world.now = world.now.plus(GRACE);
    }
}

#[test]
fn a_workload_entry_of_which_a_step_is_under_way() {
    let mut world = settled(Shape::WorkloadEntries, "a=1,2", "a=3");
    let steps = due(&mut world, &[Some(listing("a=1,2")), Some(listing("a=3@http:9090"))]);
    assert_eq!(steps.len(), 1, "not applied yet");
    world.line.set_options(options(SharingMode::Union, Shape::Inline));
    round(&mut world, &[Some(listing("a=1,2")), Some(in_doubt(listing("a=5")))]);
    assert!(at(&world, "a").contains_key("10.0.0.3"));
}

#[test]
fn upsert_only_selects_what_is_in_doubt() {
    let mut world = restarted(settled(Shape::WorkloadEntries, "a=1", "a=3"), Shape::Inline);
    world.sink = SinkLine::new(Mode::UpsertOnly, Vec::new(), usize::MAX);
    round(&mut world, &[Some(listing("a=1")), Some(in_doubt(listing("a=4")))]);
    assert!(at(&world, "a").contains_key("10.0.0.3"));
}

#[test]
fn handed_over_with_another_shape_while_somebody_else_has_the_name() {
    let both = || [Some(listing("a=1")), Some(listing("a=3"))];
    let mut after = daemon(SharingMode::First, Shape::WorkloadEntries, Observed::default());
    settle(&mut after, &both());
    let mut world = daemon(SharingMode::First, Shape::Inline, Observed::default());
    settle(&mut world, &[Some(listing("")), Some(listing("a=3"))]);
    world.held.foreign.extend(workload_ids(&after));
    world.line.set_options(options(SharingMode::First, Shape::WorkloadEntries));
    for _ in 0..2 {
        round(&mut world, &both());
        assert_eq!(at(&world, "a").len(), 1);
    }
}

#[test]
fn of_two_on_one_node_one_has_a_name_that_somebody_else_has() {
    let both = || [Some(listing("a=1@http:8001")), Some(listing("a=1@http:8002"))];
    let after = settled(Shape::WorkloadEntries, "a=1@http:8001", "a=1@http:8002");
    for foreign in workload_ids(&after) {
        let mut world = settled(Shape::Inline, "a=1@http:8001", "a=1@http:8002");
        world.held.foreign.insert(foreign.clone());
        world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
        round(&mut world, &both());
        let entries = world.held.ours.values().filter_map(|object| object.body.service_entry());
        let is_inline = |entry: &ServiceEntry| matches!(entry.endpoints, Endpoints::Inline(_));
        assert!(entries.into_iter().all(is_inline), "{foreign} cannot be selected");
    }
}

#[test]
fn who_waits_for_refused_workload_entries_takes_nobodys_turn() {
    let many = "a=1 b=2 c=3 d=4 e=5";
    let mut world = settled(Shape::Inline, &format!("{many} x=9"), "");
    world.sink = SinkLine::new(Mode::Sync, Vec::new(), 4);
    world.guard = OPEN;
    world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
    for _ in 0..100 {
        refusing(&mut world, &first(&format!("{many} y=8")), |step| {
            step.id().kind == Kind::WorkloadEntry && !step.id().name.starts_with('y')
        });
        world.now = world.now.plus(Duration::from_secs(7));
    }
    assert_eq!(at(&world, "y").len(), 1, "what comes");
    assert!(!reached(&world).contains_key("x"), "what is gone");
}

#[test]
fn what_a_healthy_source_lists_is_reached_while_another_is_in_doubt_and_the_shape_changes() {
    for (before, after) in [(SHAPES[0], SHAPES[1]), (SHAPES[1], SHAPES[0])] {
        let mut world = settled(before, "a=1", "a=2,3");
        let offers = |old: &str| [Some(in_doubt(listing("a=1"))), Some(listing(old))];
        round(&mut world, &offers("a=2,3"));
        world.line.set_options(options(SharingMode::Union, after));
        for old in ["a=2,3", "a=3,4", "a=4,5"] {
            for _ in 0..3 {
                round(&mut world, &offers(old));
                assert!(at(&world, "a").contains_key("10.0.0.1"), "{after:?}");
                wait(&mut world, 70);
            }
        }
        let reached: Vec<String> = at(&world, "a").into_keys().collect();
        assert_eq!(reached, ["10.0.0.1", "10.0.0.4", "10.0.0.5"], "{after:?}");
    }
}

#[test]
fn what_selects_is_not_held_for_what_is_not_there() {
    let mut world = settled(Shape::WorkloadEntries, "a=1", "a=2");
    world = restarted(world, Shape::Inline);
    for _ in 0..3 {
        round(&mut world, &[Some(listing("b=9")), None]);
        wait(&mut world, 31);
    }
    for _ in 0..30 {
        round(&mut world, &[Some(in_doubt(listing("b=9"))), Some(listing("a=3"))]);
        wait(&mut world, 31);
    }
    assert!(at(&world, "a").contains_key("10.0.0.3"));
}
