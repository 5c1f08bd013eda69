//! What makes up for endpoints that go, and what does not.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::ops::Range;
use std::time::Duration;

use landfall_core::guard::BUDGET_WINDOW;
use landfall_core::plan::Step;
use landfall_core::sharing::SharingMode;
use landfall_mesh::api::Body;
use landfall_mesh::render::Shape;
use landfall_tests::two_sources::{
    SHAPES, at, first, held_for, in_doubt, is_create, limit_steps, listing, numbers, options,
    refusing, restarted, round, settle, settled, wait,
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
        limit_steps(&mut world, 8);
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

/// Whether a step makes the one endpoint that is refused for ever.
fn refused(step: &Step<Body>) -> bool {
    is_create(step) && format!("{step:?}").contains("10.0.0.250")
}

#[test]
fn what_is_replaced_is_not_held_however_long_the_sink_takes() {
    let all = |from: usize, to: usize| {
        let list: Vec<String> =
            (0..10).map(|s| numbers(&format!("s{s}"), from + s * 10..to + s * 10)).collect();
        first(&list.join(" "))
    };
    let mut world = settled(Shape::WorkloadEntries, "", "");
    settle(&mut world, &all(1, 11));
    assert_eq!(world.endpoints(), 100);
    limit_steps(&mut world, 20);
    for turn in 0..60 {
        round(&mut world, &all(201, 211));
        assert!(!held_for(&world).contains("budget"), "{turn}");
        wait(&mut world, 20);
    }
    assert_eq!(world.endpoints(), 100);
}

#[test]
fn what_comes_back_makes_up_for_itself_alone() {
    let mut world = settled(Shape::Inline, &numbers("a", 1..101), "");
    let without = |gone: std::ops::Range<usize>| {
        let list: Vec<String> =
            (1..101).filter(|n| !gone.contains(n)).map(|n| n.to_string()).collect();
        first(&format!("a={}", list.join(",")))
    };
    round(&mut world, &without(1..16));
    assert_eq!(world.endpoints(), 85);
    // They are there before others go.
    round(&mut world, &without(16..31));
    assert_eq!(world.endpoints(), 100);
    round(&mut world, &without(16..31));
    assert_eq!(world.endpoints(), 85);
    round(&mut world, &without(16..46));
    assert!(world.endpoints() >= 80, "{} {:?}", world.endpoints(), world.sink.held());
}

#[test]
fn what_is_replaced_in_the_middle_of_a_change_of_shape_is_not_held() {
    let mut bad = Vec::new();
    for more in [0, 3, 12, 40] {
        for max in [8, 16, 20, 24, 32, 40, 48, 56, 64] {
            let b = if more > 0 { numbers("b", 100..100 + more) } else { String::new() };
            let say = |from: usize| first(&format!("{} {b}", numbers("a", from..from + 40)));
            let mut world = settled(Shape::Inline, "", "");
            settle(&mut world, &say(1));
            limit_steps(&mut world, max);
            world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
            round(&mut world, &say(1));
            for turn in 0..30 {
                round(&mut world, &say(41));
                if held_for(&world).contains("budget") {
                    bad.push((more, max, turn));
                    break;
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn what_nobody_selects_holds_no_others() {
    let say = |from: usize, b: usize| {
        first(&format!("{} {}", numbers("a", from..from + 40), numbers("b", 300..300 + b)))
    };
    let mut world = settled(Shape::Inline, "", "");
    settle(&mut world, &say(1, 30));
    limit_steps(&mut world, 20);
    world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
    for _ in 0..2 {
        round(&mut world, &say(1, 30));
    }
    world.line.set_options(options(SharingMode::Union, Shape::Inline));
    for turn in 0..10 {
        round(&mut world, &say(41, if turn > 1 { 25 } else { 30 }));
    }
    assert_eq!(world.sink.held(), []);
}

#[test]
fn what_is_replaced_twice_while_another_step_fails_is_not_held() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    for from in [1, 301, 401, 501] {
        let offers = first(&format!("{},250", numbers("a", from..from + 100)));
        for _ in 0..6 {
            refusing(&mut world, &offers, refused);
            wait(&mut world, 30);
        }
        assert_eq!(at(&world, "a").len(), 100, "{from} {:?}", world.sink.held());
    }
}

#[test]
fn what_was_replaced_and_came_back_is_held_while_another_step_fails() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    for (from, to) in [(1, 101), (101, 201), (1, 201)] {
        let offers = first(&format!("{},250", numbers("a", from..to)));
        for _ in 0..10 {
            refusing(&mut world, &offers, refused);
            wait(&mut world, 30);
        }
    }
    assert_eq!(at(&world, "a").len(), 200);
    refusing(&mut world, &first(&format!("{},250", numbers("a", 101..201))), refused);
    assert_eq!(at(&world, "a").len(), 200, "{:?}", world.sink.held());
}

#[test]
fn a_change_of_shape_that_a_doubt_holds_makes_up_for_nothing_that_goes_after() {
    for is_restarted in [false, true] {
        let all = numbers("a", 1..101);
        let mut world = settled(Shape::Inline, &all, "");
        let doubtful = || match is_restarted {
            true => [Some(listing(&all)), None],
            false => [Some(in_doubt(listing(&all))), Some(listing(""))],
        };
        if is_restarted {
            world = restarted(world, Shape::WorkloadEntries);
        } else {
            world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
        }
        for _ in 0..3 {
            round(&mut world, &doubtful());
        }
        wait(&mut world, 10);
        for _ in 0..3 {
            round(&mut world, &first(&numbers("a", 1..51)));
        }
        assert_eq!(at(&world, "a").len(), 100, "{is_restarted}");
    }
}

#[test]
fn what_came_and_went_makes_up_for_nothing() {
    for shape in SHAPES {
        for by_release in [true, false] {
            let mut world = settled(shape, "", "");
            let many = numbers("b", 1000..1850);
            let say = |few: Range<usize>, more: Range<usize>| {
                let list: Vec<String> = few.chain(more).map(|number| number.to_string()).collect();
                first(&format!("a={} {many}", list.join(",")))
            };
            settle(&mut world, &say(1..151, 0..0));
            let comes = if by_release { 301..701 } else { 301..401 };
            for _ in 0..2 {
                round(&mut world, &say(1..151, comes.clone()));
            }
            let before = at(&world, "a").len();
            for _ in 0..3 {
                round(&mut world, &say(1..151, 0..0));
                if by_release {
                    world.sink.release();
                }
            }
            assert_eq!((before > 150, at(&world, "a").len()), (true, 150));
            for _ in 0..3 {
                round(&mut world, &say(1..2, 0..0));
            }
            let left = at(&world, "a").len();
            assert_eq!(left, if by_release { 1 } else { 150 }, "{shape:?} {by_release}");
        }
    }
}

#[test]
fn what_is_refused_makes_up_for_nothing() {
    let mut world = settled(Shape::WorkloadEntries, &numbers("a", 1..101), "");
    let later = first(&numbers("a", 101..201));
    for _ in 0..5 {
        refusing(&mut world, &later, is_create);
        wait(&mut world, 30);
    }
    assert_eq!(at(&world, "a").len(), 100);
    assert_eq!(held_for(&world), ["replacement"].into());
    for _ in 0..3 {
        wait(&mut world, 60);
        round(&mut world, &later);
        round(&mut world, &later);
    }
    let reached: Vec<String> = at(&world, "a").into_keys().collect();
    assert_eq!(reached.len(), 100);
    assert!(reached.contains(&"10.0.0.200".to_owned()), "{reached:?}");
}

#[test]
fn what_is_gone_goes_though_a_workload_entry_can_never_be_written() {
    let mut world = settled(Shape::Inline, &format!("{},250", numbers("a", 1..20)), "");
    world.line.set_options(options(SharingMode::Union, Shape::WorkloadEntries));
    let fewer = first(&format!("{},250", numbers("a", 1..19)));
    for _ in 0..6 {
        refusing(&mut world, &fewer, refused);
        wait(&mut world, 30);
    }
    let addresses: Vec<String> = at(&world, "a").into_keys().collect();
    assert_eq!(addresses.len(), 19, "{addresses:?} {:?}", world.sink.held());
    assert!(!addresses.contains(&"10.0.0.19".to_owned()));
    // Where others come in its place, it waits: they would not be reached.
    let replaced = first(&format!("{},250", numbers("a", 101..119)));
    for _ in 0..6 {
        refusing(&mut world, &replaced, refused);
        wait(&mut world, 30);
        assert_eq!(at(&world, "a").len(), 19);
    }
    settle(&mut world, &replaced);
    assert_eq!(at(&world, "a").len(), 19);
}

#[test]
fn instances_that_go_to_one_address_are_a_mass_removal_in_either_shape() {
    for shape in SHAPES {
        let mut world = settled(shape, &numbers("a", 1..41), "");
        wait(&mut world, 300);
        let all: Vec<String> = (1..41).map(|number| format!("{number}>1")).collect();
        for _ in 0..3 {
            round(&mut world, &first(&format!("a={}", all.join(","))));
            wait(&mut world, 1);
        }
        assert_eq!(at(&world, "a").len(), 40, "{shape:?}");
    }
}
