//! What goes counts, whatever becomes of other steps, and when it does.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use landfall_core::mesh::Kind;
use landfall_core::pairs::Pairs;
use landfall_core::plan::Observed;
use landfall_core::registry::{Instance, InstancePort, Service, ServiceKey, Snapshot, SourceState};
use landfall_core::sharing::SharingMode;
use landfall_core::text::Text;
use landfall_mesh::render::Shape;
use landfall_tests::line::{DEFAULT, World};
use landfall_tests::two_sources::{
    SHAPES, at, due, everywhere, first, held_for, in_doubt, is_create, limit_steps, listing,
    numbers, options, refusing, restarted, round, settle, settled, wait, workload_ids,
};
use landfall_tests::world;

#[test]
fn what_was_to_follow_a_step_that_failed_hides_nothing() {
    let begin = || {
        let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
        world.line.set_options(options(SharingMode::Union, Shape::Inline));
        world
    };
    let mut world = begin();
    refusing(&mut world, &first(&numbers("a", 1..101)), |_| true);
    // Before it is tried again the source lists less.
    round(&mut world, &first("a=1,2"));
    assert_eq!(at(&world, "a").len(), 100);
    // The same while what follows it is under way.
    let mut world = begin();
    let steps = due(&mut world, &first(&numbers("a", 1..101)));
    for step in steps.iter().filter(|step| step.id().kind == Kind::ServiceEntry) {
        world.sink.failed(step.id(), "refused", world.now);
    }
    round(&mut world, &first("a=1,2"));
    assert_eq!(at(&world, "a").len(), 100);
}

#[test]
fn what_a_held_step_would_bring_makes_up_for_nothing() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    world.line.set_options(options(SharingMode::Union, Shape::Inline));
    let offers = first(&numbers("a", (1..11).chain(201..221)));
    for turn in 0..6 {
        round(&mut world, &offers);
        assert!(at(&world, "a").len() >= 80, "{turn}");
    }
}

#[test]
fn what_is_listed_again_and_refused_is_gone_all_the_same() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    for turn in 0..11 {
        let gone = turn * 9 + 1..turn * 9 + 10;
        let offers = first(&numbers("a", (1..101).filter(|number| !gone.contains(number))));
        refusing(&mut world, &offers, is_create);
        wait(&mut world, 1);
    }
    assert!(at(&world, "a").len() >= 80, "{}", at(&world, "a").len());
}

#[test]
fn what_is_to_come_back_makes_up_for_no_other_service() {
    let lists =
        |a: Range<usize>, b: Range<usize>| format!("{} {}", numbers("a", a), numbers("b", b));
    let mut world = settled(Shape::Inline, &lists(1..51, 101..151), "");
    round(&mut world, &first(&lists(1..36, 101..151)));
    assert_eq!(everywhere(&world).len(), 85);
    let of_a = |step: &_| landfall_core::plan::Step::id(step).name.starts_with("a.");
    refusing(&mut world, &first(&lists(1..51, 101..136)), of_a);
    assert!(everywhere(&world).len() >= 80, "{}", everywhere(&world).len());
}

#[test]
fn what_goes_while_much_is_under_way_counts_for_a_minute_of_its_own() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..321), "");
    limit_steps(&mut world, 64);
    let fewer = first(&numbers("a", 1..257));
    let steps = due(&mut world, &fewer);
    assert_eq!(steps.len(), 64, "a fifth");
    // One is done at once, the others take a minute.
    world.apply(&steps[0]);
    assert_eq!(due(&mut world, &fewer), []);
    wait(&mut world, 55);
    steps[1..].iter().for_each(|step| world.apply(step));
    assert_eq!(due(&mut world, &fewer), []);
    wait(&mut world, 5);
    for _ in 0..3 {
        round(&mut world, &first(&numbers("a", 1..207)));
    }
    assert_eq!(at(&world, "a").len(), 256);
}

#[test]
fn what_may_have_been_done_counts() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    let mut sent = 0;
    for turn in 1..6 {
        let steps = due(&mut world, &first(&numbers("a", turn * 9 + 1..101)));
        sent += steps.len();
        for step in &steps {
            world.sink.failed(step.id(), "unavailable", world.now);
        }
    }
    assert!(sent <= 20, "{sent}");
}

#[test]
fn what_came_long_ago_makes_up_for_nothing_though_others_are_in_doubt() {
    for shape in SHAPES {
        let mut world = settled(shape, "", &numbers("a", 1..101));
        let old = || Some(in_doubt(listing(&numbers("a", 51..101))));
        let new = || Some(listing(&numbers("a", 101..151)));
        for _ in 0..3 {
            round(&mut world, &[Some(listing("")), old()]);
        }
        for _ in 0..120 {
            round(&mut world, &[new(), old()]);
            wait(&mut world, 60);
        }
        assert_eq!(at(&world, "a").len(), 150);
        // What was in doubt is there after all, and others are not.
        for _ in 0..3 {
            round(&mut world, &[new(), Some(listing(&numbers("a", 1..51)))]);
        }
        assert!(at(&world, "a").len() >= 120, "{shape:?} {}", at(&world, "a").len());
    }
}

#[test]
fn what_came_in_the_place_of_what_is_in_doubt_makes_up_for_it_within_a_minute() {
    for shape in SHAPES {
        let mut world = settled(shape, &numbers("a", 1..101), "");
        let later = || listing(&numbers("a", 101..201));
        for _ in 0..5 {
            round(&mut world, &[Some(in_doubt(later())), Some(listing(""))]);
            wait(&mut world, 10);
        }
        assert_eq!(at(&world, "a").len(), 200);
        round(&mut world, &[Some(later()), Some(listing(""))]);
        round(&mut world, &[Some(later()), Some(listing(""))]);
        assert_eq!(at(&world, "a").len(), 100, "{shape:?} {:?}", world.sink.held());
    }
}

/// One service of instances, each at an address, told apart by their ports.
fn placed(instances: impl Iterator<Item = (u16, u8)>) -> SourceState {
    let instance = |(id, at): (u16, u8)| {
        let (name, protocol) = (Text::from("http"), Text::from("http"));
        let port = InstancePort { name, number: 8000 + id, protocol };
        let instance = Instance::new(format!("i{id}"), format!("10.0.0.{at}"));
        Arc::new(Instance { ports: vec![port], ..instance })
    };
    let instances = instances.map(instance).collect();
    let key = ServiceKey { name: Text::from("a"), ..ServiceKey::default() };
    let (service, _) = Service::new(key.clone(), Pairs::default(), Pairs::default(), instances);
    let mut snapshot = Snapshot::default();
    snapshot.services.insert(key, Arc::new(service));
    world::state(snapshot)
}

#[test]
fn what_came_long_ago_at_an_address_makes_up_for_nothing_for_another_came_there() {
    let all = |from: u8, new: u16| {
        let old = (from..100).map(|number| (u16::from(number), number));
        placed(old.chain((0..new).map(|number| (200 + number, 250))))
    };
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&all(0, 0));
    world.round(&all(0, 50));
    for turn in 0..60 {
        wait(&mut world, 50);
        world.round(&all(0, 51 + turn));
    }
    world.round(&all(50, 110));
    assert!(world.endpoints() >= 168, "{} of 210", world.endpoints());
}

#[test]
fn what_is_dead_goes_though_its_source_is_in_doubt_now_and_then() {
    let mut world = settled(Shape::Inline, &numbers("a", 1..101), "");
    let fewer = || listing(&numbers("a", 1..51));
    for turn in 0..12 {
        round(&mut world, &[Some(fewer()), Some(listing(""))]);
        wait(&mut world, 60);
        if turn == 8 {
            round(&mut world, &[Some(in_doubt(fewer())), Some(listing(""))]);
            wait(&mut world, 5);
        }
    }
    assert_eq!(at(&world, "a").len(), 50, "{:?}", world.sink.held());
}

#[test]
fn what_came_and_is_to_go_itself_makes_up_for_nothing() {
    for shape in SHAPES {
        for to in [51..101, 250..251] {
            let mut world = settled(shape, &numbers("a", 1..101), "");
            for _ in 0..2 {
                round(&mut world, &first(&numbers("a", 1..151)));
            }
            for _ in 0..20 {
                wait(&mut world, 5);
                round(&mut world, &first(&numbers("a", to.clone())));
                assert!(at(&world, "a").len() >= 120, "{shape:?} {to:?}");
            }
        }
    }
}

#[test]
fn what_was_held_and_came_back_is_not_let_go_though_a_change_of_shape_waits() {
    let workload = {
        let world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
        workload_ids(&world).remove(0)
    };
    for by_doubt in [true, false] {
        let shapes = if by_doubt { [1, 0] } else { [0, 1] };
        let [from, to] = shapes.map(|shape| SHAPES[shape]);
        let mut world = settled(from, &numbers("a", 1..101), "a=200,201");
        let old = || match by_doubt {
            true => in_doubt(listing("a=200")),
            false => listing("a=200,201"),
        };
        if !by_doubt {
            // Somebody else has the place of one.
            world.held.foreign.insert(workload.clone());
        }
        world.line.set_options(options(SharingMode::Union, to));
        let say = |to: usize| [Some(listing(&numbers("a", 1..to))), Some(old())];
        for (to, secs, rounds) in [(101, 0, 3), (51, 10, 6), (101, 60, 60), (51, 0, 3)] {
            for _ in 0..rounds {
                round(&mut world, &say(to));
                wait(&mut world, secs);
            }
        }
        assert!(at(&world, "a").len() >= 82, "{by_doubt} {}", at(&world, "a").len());
    }
}

#[test]
fn what_came_makes_up_for_nothing_of_a_source_that_has_not_spoken() {
    for shape in SHAPES {
        let world = settled(shape, &numbers("a", 1..51), &numbers("a", 101..201));
        let mut world = restarted(world, shape);
        let new = |to: usize| Some(listing(&numbers("a", 1..to)));
        round(&mut world, &[new(51), None]);
        for _ in 0..120 {
            wait(&mut world, 60);
            round(&mut world, &[new(101), None]);
        }
        assert_eq!(at(&world, "a").len(), 200);
        for _ in 0..3 {
            round(&mut world, &[new(101), Some(listing(&numbers("a", 151..201)))]);
        }
        assert!(at(&world, "a").len() >= 160, "{shape:?} {}", at(&world, "a").len());
    }
}

#[test]
fn what_may_have_been_done_counts_though_it_is_listed_again() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    let mut sent = 0;
    for turn in 0..6 {
        let gone = turn * 15 + 1..turn * 15 + 16;
        let offers = first(&numbers("a", (1..101).filter(|number| !gone.contains(number))));
        for step in due(&mut world, &offers) {
            world.sink.failed(step.id(), "unavailable", world.now);
            sent += step.lost().len();
        }
        wait(&mut world, 9);
    }
    assert!(sent <= 20, "{sent}");
}

#[test]
fn a_replacement_that_is_short_is_not_held_by_a_change_of_shape() {
    for (from, to) in [(0, 1), (1, 0)] {
        for steps_max in [1, 16, 64, usize::MAX] {
            for short in [0, 1, 5] {
                let mut world = settled(SHAPES[from], &numbers("a", 1..101), "");
                limit_steps(&mut world, steps_max);
                world.line.set_options(options(SharingMode::Union, SHAPES[to]));
                let offers = first(&numbers("a", (41..101).chain(201..241 - short)));
                for _ in 0..40 + 400 / steps_max.min(400) {
                    round(&mut world, &offers);
                    wait(&mut world, 1);
                }
                assert_eq!(world.held.ours, *world.line.desired(), "{from} {steps_max} {short}");
            }
        }
    }
}

#[test]
fn a_change_of_shape_that_is_under_way_is_not_held() {
    for (from, to) in [(0, 1), (1, 0)] {
        for steps_max in [8, 64, usize::MAX] {
            let mut world = settled(SHAPES[from], &numbers("a", 1..101), "");
            limit_steps(&mut world, steps_max);
            world.line.set_options(options(SharingMode::Union, SHAPES[to]));
            let mut under_way = VecDeque::new();
            loop {
                under_way.extend(due(&mut world, &first(&numbers("a", 1..101))));
                assert!(!held_for(&world).contains("budget"), "{from} {steps_max}");
                let Some(step) = under_way.pop_front() else { break };
                world.apply(&step);
            }
            assert_eq!(world.held.ours, *world.line.desired());
        }
    }
}

#[test]
fn what_comes_by_one_edit_makes_up_for_nothing_of_it_however_the_sink_tells_of_it() {
    for shape in SHAPES {
        for before in [0, 100] {
            let mut world = settled(shape, "", "");
            if before > 0 {
                settle(&mut world, &first(&numbers("a", 1..before + 1)));
            }
            // Each step is seen by itself.
            let all = first(&numbers("a", 1..before + 401));
            let mut under_way: VecDeque<_> = due(&mut world, &all).into();
            while let Some(step) = under_way.pop_front() {
                world.apply(&step);
                under_way.extend(due(&mut world, &all));
            }
            wait(&mut world, 5);
            for _ in 0..3 {
                round(&mut world, &first(&numbers("a", 1..before + 201)));
            }
            assert!(at(&world, "a").len() >= (before + 400) * 4 / 5, "{shape:?} {before}");
        }
    }
}
