//! Endpoints whose ports change, or which lack a port of their service, and what the budget makes of
//! them.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use landfall_core::sharing::SharingMode;
use landfall_mesh::render::Shape;
use landfall_tests::two_sources::{
    Offers, SHAPES, at, first, held_for, is_create, listing, numbers, options, refusing, round,
    settle, settled, wait,
};

/// Each of these on each of forty nodes, and one more.
fn on_nodes(each: &[&str], more: &str) -> Offers {
    let of_node = |node| each.iter().map(move |id| format!("{node}.{id}"));
    let all: Vec<String> = (1..41).flat_map(of_node).chain([more.to_owned()]).collect();
    first(&format!("a={}", all.join(",")))
}

/// How many endpoints there are a while after a change.
fn left(shape: Shape, before: &Offers, after: &Offers) -> usize {
    let mut world = settled(shape, "", "");
    settle(&mut world, before);
    for _ in 0..4 {
        round(&mut world, after);
        wait(&mut world, 2);
    }
    world.endpoints()
}

#[test]
fn a_port_that_most_lack_does_not_make_them_one() {
    let say = |each: &[&str]| on_nodes(each, "250@http:80+admin:70");
    let all = say(&["a@http:8001", "b@http:8002", "c@http:8003"]);
    for shape in SHAPES {
        assert_eq!(left(shape, &all, &say(&["a@http:8001"])), 121, "{shape:?}");
    }
}

#[test]
fn what_is_held_stays_though_its_service_loses_a_port_with_it() {
    let live: Vec<String> =
        (0..40).map(|n| format!("{}.l{n}@http:{}", n % 20 + 1, 8000 + n)).collect();
    let dead = (0..40).map(|n| format!("{}@http:{}+low:{}", 100 + n, 9000 + n, 4000 + n));
    let all: Vec<String> = live.iter().cloned().chain(dead).collect();
    let say = |list: &[String]| first(&format!("a={}", list.join(",")));
    for shape in SHAPES {
        assert_eq!(left(shape, &say(&all), &say(&live)), 80, "{shape:?}");
        let before = on_nodes(&["a@http:8001+low:3001", "b@http:8002+low:3002"], "250");
        assert_eq!(left(shape, &before, &on_nodes(&["b@http:8002"], "250")), 81, "{shape:?}");
    }
}

#[test]
fn what_is_held_stays_though_its_service_gets_a_port_with_it() {
    let before = on_nodes(&["a@http:8001", "b@http:8002"], "250");
    for shape in SHAPES {
        for ports in ["http:8001+low:7001", "web:7001", "http:8001+web:9001"] {
            let after = on_nodes(&[&format!("a@{ports}")], "250");
            assert_eq!(left(shape, &before, &after), 81, "{shape:?} {ports}");
        }
    }
}

#[test]
fn an_instance_with_one_more_port_goes_over_when_it_is_there() {
    let mut world = settled(Shape::WorkloadEntries, "a=1,2,3", "a=100");
    let now = ["100", "1@http:8080+low:70", "2@http:8080+low:70", "3@http:8080+low:70"].join(",");
    let offers = [Some(listing("")), Some(listing(&format!("a={now}")))];
    refusing(&mut world, &offers, is_create);
    assert_eq!(at(&world, "a").len(), 4);
}

#[test]
fn a_change_of_shape_loses_nothing_though_instances_lack_ports() {
    let each = ["a@http:8001", "b@http:8002", "c@http:8003", "d@http:8004"];
    let all = on_nodes(&each, "250@http:80+admin:70");
    for (from, to) in [(0, 1), (1, 0)] {
        let mut world = settled(SHAPES[from], "", "");
        settle(&mut world, &all);
        world.line.set_options(options(SharingMode::Union, SHAPES[to]));
        for _ in 0..4 {
            round(&mut world, &all);
            wait(&mut world, 2);
        }
        assert_eq!(held_for(&world), Default::default(), "{from}");
    }
}

#[test]
fn what_is_held_waits_no_longer_for_the_ports_that_others_get() {
    let say = |low: &str| {
        let all: Vec<String> = (1..61).map(|n| format!("{n}@http:8080{low}")).collect();
        first(&format!("a={}", all.join(",")))
    };
    for shape in SHAPES {
        let mut world = settled(shape, &numbers("a", 1..101), "");
        for secs in (0..=620).step_by(10) {
            round(&mut world, &say(if secs >= 500 { "+low:70" } else { "" }));
            wait(&mut world, 10);
        }
        assert_eq!(world.endpoints(), 60, "{shape:?}");
    }
}
