//! What an eight times larger world costs, against the smaller one: a change the same, and what
//! concerns everything about eight times as much, whatever of it is held. What costs the square of
//! it would be sixty-four times as much. In seconds it is measured by `make bench`.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "how long something takes is the subject")]
#![allow(clippy::print_stdout, reason = "what it prints are the figures")]

use std::time::{Duration, Instant};

use landfall_core::plan::Observed;
use landfall_core::registry::Snapshot;
use landfall_core::sharing::SharingMode;
use landfall_mesh::render::Shape;
use landfall_tests::line::{DEFAULT, OPEN, World};
use landfall_tests::two_sources::{
    Offers, daemon, due, exchange_names, in_doubt, listing, numbers, options, restarted_at, settle,
    wait,
};
use landfall_tests::world;

const SMALL: usize = 200;
const LARGE: usize = 8 * SMALL;
/// Among which a change costs the same: what walks over all of them would show.
const MANY: usize = 40 * SMALL;
/// So many times the cost of the small world: three times what is in proportion, for the noise of a
/// busy machine and a logarithm.
const RATIO_MAX: u32 = 24;
/// The same for what does not depend on the size.
const SAME_MAX: u32 = 2;
/// The quickest of so many counts.
const RUNS: usize = 3;

/// A world in which something is about to happen.
type Prepare = fn(&dyn Fn(usize, usize) -> String, usize) -> (World, Offers);

/// Two listings that differ in one service from the one that they are made of.
type Variants = fn(&Snapshot) -> [Snapshot; 2];

/// The quickest time of a few runs, each on a world of its own.
fn quickest<T>(prepare: impl Fn() -> T, run: impl Fn(&mut T)) -> Duration {
    let measured = |_| {
        let mut subject = prepare();
        let began = Instant::now();
        run(&mut subject);
        began.elapsed()
    };
    (0..RUNS).map(measured).min().unwrap()
}

/// Instances `from` up to `to` of one host.
fn one_host(from: usize, to: usize) -> String {
    numbers("a", from + 1..to + 1)
}

/// The same, each at a host of its own.
fn hosts(from: usize, to: usize) -> String {
    let list: Vec<String> = (from..to).map(|number| format!("s{number}={}", number + 1)).collect();
    list.join(" ")
}

/// The same, all at one address.
fn at_one_address(from: usize, to: usize) -> String {
    let list: Vec<String> = (from..to).map(|number| format!("s{number}=1")).collect();
    list.join(" ")
}

fn settled(mode: SharingMode, shape: Shape, offers: &Offers) -> World {
    let mut world = daemon(mode, shape, Observed::default());
    settle(&mut world, offers);
    world
}

const WORKLOADS: Shape = Shape::WorkloadEntries;

const TABLE: &[(&str, Prepare)] = &[
    ("all of it comes", |text, count| {
        let world = daemon(SharingMode::Union, WORKLOADS, Observed::default());
        (world, [Some(listing(&text(0, count))), Some(listing(""))])
    }),
    ("half of it goes, and the budget holds it", |text, count| {
        let offers = [Some(listing("")), Some(listing(&text(0, count)))];
        let world = settled(SharingMode::Union, WORKLOADS, &offers);
        (world, [Some(listing("")), Some(listing(&text(0, count / 2)))])
    }),
    ("half of it goes, and a doubt holds it", |text, count| {
        let offers = [Some(listing("")), Some(listing(&text(0, count)))];
        let world = settled(SharingMode::Union, WORKLOADS, &offers);
        (world, [Some(listing("")), Some(in_doubt(listing(&text(0, count / 2))))])
    }),
    ("it goes, and nothing holds it", |text, count| {
        let offers = [Some(listing("")), Some(listing(&text(0, count)))];
        let mut world = settled(SharingMode::Union, WORKLOADS, &offers);
        world.guard = OPEN;
        (world, [Some(listing("")), Some(listing(""))])
    }),
    ("the other source has it by now", |text, count| {
        let offers = [Some(listing("")), Some(listing(&text(0, count)))];
        let world = settled(SharingMode::Union, WORKLOADS, &offers);
        (world, [Some(listing(&text(0, count))), Some(listing(""))])
    }),
    ("the other source has it by now, and the first is in doubt", |text, count| {
        let offers = [Some(listing("")), Some(listing(&text(0, count)))];
        let world = settled(SharingMode::Union, WORKLOADS, &offers);
        (world, [Some(listing(&text(0, count))), Some(in_doubt(listing("")))])
    }),
    ("it goes over to the first of two", |text, count| {
        let offers = [Some(listing("")), Some(listing(&text(0, count)))];
        let world = settled(SharingMode::First, WORKLOADS, &offers);
        (world, [Some(listing(&text(count, 2 * count))), Some(listing(&text(0, count)))])
    }),
    ("it gets inline endpoints", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let mut world = settled(SharingMode::Union, WORKLOADS, &offers);
        world.line.set_options(options(SharingMode::Union, Shape::Inline));
        (world, offers)
    }),
    ("it gets inline endpoints, and a silent source holds that", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(&text(count, count + 8)))];
        let world = settled(SharingMode::Union, WORKLOADS, &offers);
        let world = daemon(SharingMode::Union, Shape::Inline, world.held);
        (world, [Some(listing(&text(0, count))), None])
    }),
    ("it gets inline endpoints while its source is in doubt", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let mut world = settled(SharingMode::Union, WORKLOADS, &offers);
        world.line.set_options(options(SharingMode::Union, Shape::Inline));
        (world, [Some(in_doubt(listing(&text(0, count)))), Some(listing(""))])
    }),
    ("it gets WorkloadEntries while its source is in doubt", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let mut world = settled(SharingMode::Union, Shape::Inline, &offers);
        world.line.set_options(options(SharingMode::Union, WORKLOADS));
        (world, [Some(in_doubt(listing(&text(0, count)))), Some(listing(""))])
    }),
    ("it gets WorkloadEntries", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let mut world = settled(SharingMode::Union, Shape::Inline, &offers);
        world.line.set_options(options(SharingMode::Union, WORKLOADS));
        (world, offers)
    }),
    ("it moves to other hosts", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let world = settled(SharingMode::Union, WORKLOADS, &offers);
        (restarted_at(world, "{service}.moved.mesh", Vec::new(), WORKLOADS), offers)
    }),
    ("it moves to one host", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let world = settled(SharingMode::Union, Shape::Inline, &offers);
        (restarted_at(world, "all.mesh", Vec::new(), Shape::Inline), offers)
    }),
    ("all objects have each other's names", |text, count| {
        let offers = [Some(listing(&text(0, count))), Some(listing(""))];
        let mut world = settled(SharingMode::Union, Shape::Inline, &offers);
        exchange_names(&mut world);
        (world, offers)
    }),
];

#[test]
fn what_concerns_everything_costs_in_proportion() {
    let mut worse = Vec::new();
    for (what, prepare) in TABLE {
        for (name, text) in [("one host", one_host as fn(usize, usize) -> String), ("hosts", hosts)]
        {
            let cost = |count: usize| {
                let plan = |(world, offers): &mut (World, Offers)| drop(due(world, offers));
                quickest(|| prepare(&text, count), plan)
            };
            let (small, large) = (cost(SMALL), cost(LARGE));
            println!("{what}, {name}: {small:?}, {large:?}");
            if large > small * RATIO_MAX {
                worse.push(format!("{what}, {name}: {small:?}, and of eight times {large:?}"));
            }
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

#[test]
fn hosts_at_one_address_move_in_proportion() {
    let cost = |count: usize| {
        let prepare = || {
            let offers = [Some(listing(&at_one_address(0, count))), Some(listing(""))];
            let world = settled(SharingMode::Union, WORKLOADS, &offers);
            (restarted_at(world, "{service}.moved.mesh", Vec::new(), WORKLOADS), offers)
        };
        quickest(prepare, |(world, offers)| drop(due(world, offers)))
    };
    let (small, large) = (cost(SMALL), cost(LARGE));
    println!("hosts at one address: {small:?}, {large:?}");
    assert!(large <= small * RATIO_MAX, "{small:?}, and of eight times {large:?}");
}

#[test]
fn what_is_held_costs_in_proportion_when_it_is_looked_at_again() {
    let cost = |count: usize| {
        let offers = |to: usize| [Some(listing(&one_host(0, to))), Some(listing(""))];
        let mut world = settled(SharingMode::Union, WORKLOADS, &offers(count));
        due(&mut world, &offers(count / 2));
        let again = |_| {
            wait(&mut world, 6);
            let began = Instant::now();
            assert_eq!(due(&mut world, &offers(count / 2)), []);
            began.elapsed()
        };
        (0..RUNS).map(again).min().unwrap()
    };
    let (small, large) = (cost(5 * SMALL), cost(5 * LARGE));
    println!("what is held, again: {small:?}, {large:?}");
    assert!(large <= small * RATIO_MAX, "{small:?}, and of eight times {large:?}");
}

#[test]
fn a_change_costs_the_same_among_many() {
    let other: Variants = |snapshot| [1, 2].map(|version| world::changed(snapshot, 7, version));
    let one_less: Variants =
        |snapshot| [9, 10].map(|instances| world::with_service(snapshot, 7, instances, 1));
    let kinds = [
        ("another version", Shape::Inline, other),
        ("another version of WorkloadEntries", WORKLOADS, other),
        ("a WorkloadEntry goes and comes", WORKLOADS, one_less),
    ];
    for (what, shape, variants) in kinds {
        let cost = |services: usize| {
            let snapshot = world::snapshot(services, 10);
            let mut world = World::new(Observed::default(), DEFAULT);
            world.line.set_options(options(SharingMode::Union, shape));
            let variants = variants(&snapshot).map(world::state);
            world.round(&variants[1]);
            let change = |turn: usize| {
                // Long enough for what went before to be forgotten.
                world.now = world.now.plus(Duration::from_secs(120));
                let began = Instant::now();
                let steps = world.round(&variants[turn % 2]);
                let took = began.elapsed();
                assert!((1..=10).contains(&steps.len()), "{what}: {}", steps.len());
                took
            };
            (0..10 * RUNS).map(change).min().unwrap()
        };
        let (small, large) = (cost(SMALL), cost(MANY));
        println!("{what}: {small:?}, {large:?}");
        let among = "and among forty times as many";
        assert!(large < small * SAME_MAX, "{what}: {small:?}, {among} {large:?}");
    }
}
