//! Two sources that publish the same hosts, through the whole line into a sink in memory.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::mesh::{Body as _, Object};
use landfall_core::pairs::Pairs;
use landfall_core::plan::Observed;
use landfall_core::registry::{SourceName, SourceState};
use landfall_core::sharing::SharingMode;
use landfall_mesh::api::{Body, EndpointAddress, ORIGINS_ANNOTATION};
use landfall_mesh::render::Shape;
use landfall_tests::line::{OPEN, World};
use landfall_tests::two_sources::{
    Offers, SHAPES, at, daemon, held_for, in_doubt, is_create, limit_steps, listing, numbers,
    options, refusing, round, settle, wait,
};
use proptest::prelude::*;

const MODES: [SharingMode; 2] = [SharingMode::Union, SharingMode::First];

/// What the sink holds, as [`listing`] is written.
fn held(world: &World) -> String {
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for object in world.held.ours.values() {
        let Some(entry) = object.body.service_entry() else { continue };
        let name = entry.hosts[0].strip_suffix(".mesh").unwrap().to_owned();
        let number = |address: EndpointAddress| match address {
            EndpointAddress::Ip(ip) => ip.to_string().rsplit_once('.').unwrap().1.to_owned(),
            EndpointAddress::Other(name) => name.split('.').next().unwrap().to_owned(),
        };
        hosts.insert(name, object.body.addresses().map(number).collect());
    }
    let hosts = hosts.iter().map(|(name, numbers)| format!("{name}={}", numbers.join(",")));
    hosts.collect::<Vec<_>>().join(" ")
}

/// What a fresh daemon publishes of two listings.
fn published(mode: SharingMode, new: &str, old: &str) -> String {
    let mut world = daemon(mode, Shape::Inline, Observed::default());
    settle(&mut world, &[Some(listing(new)), Some(listing(old))]);
    held(&world)
}

#[test]
fn sources_share_a_host_as_the_rule_says() {
    use SharingMode::{First, PreferLocal, Union};
    for (mode, new, old, want) in [
        (Union, "a=1,2", "a=3", "a=1,2,3"),
        (Union, "a=1,2", "a=2,3 b=4", "a=1,2,3 b=4"),
        (PreferLocal, "a=1,2", "a=2,3", "a=1,2,3"),
        (First, "a=1,2", "a=2,3 b=4", "a=1,2 b=4"),
        (First, "", "a=3", "a=3"),
    ] {
        assert_eq!(published(mode, new, old), want, "{mode:?} {new} | {old}");
    }
}

#[test]
fn one_source_in_doubt_never_empties_what_the_other_has() {
    for mode in [SharingMode::Union, SharingMode::First] {
        let both = [Some(listing("a=1 b=2")), Some(listing("a=3 c=4"))];
        let mut world = daemon(mode, Shape::Inline, Observed::default());
        settle(&mut world, &both);
        let before = held(&world);
        let nothing = || Some(in_doubt(listing("")));
        for offers in [[nothing(), both[1].clone()], [both[0].clone(), nothing()]] {
            round(&mut world, &offers);
            assert_eq!(held(&world), before, "{mode:?}");
            // What comes from the other one is published all the same.
            round(&mut world, &both);
        }
        let grown = [nothing(), Some(listing("a=3 c=4,5"))];
        round(&mut world, &grown);
        assert!(held(&world).contains("c=4,5"), "{mode:?}: {}", held(&world));
    }
}

#[test]
fn what_a_healthy_source_lost_goes_though_the_other_is_in_doubt() {
    let mut world = daemon(SharingMode::Union, Shape::Inline, Observed::default());
    world.guard = OPEN;
    settle(&mut world, &[Some(listing("a=1,2")), Some(listing("a=3,4"))]);
    let nothing = || Some(in_doubt(listing("")));
    let steps = round(&mut world, &[nothing(), Some(listing("a=4,5"))]);
    assert_eq!((held(&world).as_str(), steps.len()), ("a=1,2,4,5", 1));
    assert!(round(&mut world, &[nothing(), Some(listing("a=4,5"))]).is_empty(), "and stays so");
    let steps = round(&mut world, &[nothing(), Some(listing(""))]);
    assert_eq!((held(&world).as_str(), steps.len()), ("a=1,2", 1));
    settle(&mut world, &[Some(listing("a=2")), Some(listing("a=6"))]);
    assert_eq!(held(&world), "a=2,6");
}

#[test]
fn what_several_sources_have_goes_when_all_have_lost_it() {
    for shape in [Shape::Inline, Shape::WorkloadEntries] {
        let both = [Some(listing("a=1,2")), Some(listing("a=1,2"))];
        let mut before = daemon(SharingMode::Union, shape, Observed::default());
        settle(&mut before, &both);
        assert_eq!(before.endpoints(), 2);
        // Whoever publishes it has none of it any more, and the other has not spoken.
        let mut restarted = daemon(SharingMode::Union, shape, before.held);
        restarted.guard = OPEN;
        round(&mut restarted, &[Some(listing("a=2")), None]);
        assert_eq!(restarted.endpoints(), 2, "{shape:?}");
        round(&mut restarted, &[Some(listing("")), None]);
        assert_eq!(restarted.endpoints(), 2, "{shape:?}");
        settle(&mut restarted, &[Some(listing("")), Some(listing("a=2"))]);
        assert_eq!(restarted.endpoints(), 1, "{shape:?}");
    }
}

#[test]
fn what_one_source_does_shows_though_the_other_has_not_spoken() {
    for (new, old, then, want) in [
        // Both have an instance.
        ("a=1,2", "a=2,4", "a=2,5", "a=2,5,4"),
        ("a=1,2", "a=2", "a=1,5", "a=1,5,2"),
        // Alone they would have another port, or another kind of address.
        ("a=1,2", "a=3@http:9003", "a=2,4", "a=2,4,3"),
        ("a=3@http:9003", "a=1,2", "a=6@http:9006", "a=6,1,2"),
        ("a=1,2", "a=n4", "a=2,5", "a=2,5,n4"),
        ("a=n1", "a=2", "a=n4", "a=n4,2"),
        ("a=1", "a=2", "a=n4", "a=n4,2"),
    ] {
        let mut before = daemon(SharingMode::Union, Shape::Inline, Observed::default());
        settle(&mut before, &[Some(listing(new)), Some(listing(old))]);
        let mut world = daemon(SharingMode::Union, Shape::Inline, before.held);
        round(&mut world, &[Some(listing(then)), None]);
        assert_eq!(held(&world), want, "{new} | {old}, then {then}");
        let both = [Some(listing(then)), Some(listing(old))];
        settle(&mut world, &both);
        assert_eq!(held(&world), published(SharingMode::Union, then, old));
    }
}

#[test]
fn an_instance_that_both_have_is_made_once_whoever_speaks_first() {
    let shape = Shape::WorkloadEntries;
    let mut before = daemon(SharingMode::Union, shape, Observed::default());
    settle(&mut before, &[Some(listing("a=1,2")), Some(listing("a=2"))]);
    let mut world = daemon(SharingMode::Union, shape, before.held);
    let steps = round(&mut world, &[None, Some(listing("a=2,4"))]);
    assert_eq!((steps.len(), world.endpoints()), (1, 3), "{steps:?}");
    // It is the other's now.
    for _ in 0..2 {
        round(&mut world, &[Some(listing("a=1")), Some(listing("a=2,4"))]);
    }
    assert_eq!(world.endpoints(), 3);
}

#[test]
fn a_list_of_services_that_was_cut_proves_nothing() {
    let mut before = daemon(SharingMode::Union, Shape::Inline, Observed::default());
    settle(&mut before, &[Some(listing("a=1")), Some(listing("a=2"))]);
    let mut cut = before.held.clone();
    for (_, object) in before.held.ours.iter() {
        let origins = [(ORIGINS_ANNOTATION, "new/a")].into_iter().collect();
        let body = Body { annotations: origins, ..(*object.body).clone() };
        let object = Object { body: Arc::new(body), ..Object::clone(object) };
        cut.ours.insert(object.id.clone(), Arc::new(object));
    }
    let mut world = daemon(SharingMode::Union, Shape::Inline, cut);
    world.guard = OPEN;
    for _ in 0..2 {
        round(&mut world, &[Some(listing("a=1")), None]);
        assert_eq!(held(&world), "a=1,2");
    }
    settle(&mut world, &[Some(listing("a=1")), Some(listing(""))]);
    assert_eq!(held(&world), "a=1");
}

#[test]
fn a_host_goes_over_when_its_first_source_has_nothing_more() {
    let mut world = daemon(SharingMode::First, Shape::Inline, Observed::default());
    let old = || Some(listing("a=3"));
    settle(&mut world, &[Some(listing("a=1")), old()]);
    assert_eq!(held(&world), "a=1");
    round(&mut world, &[Some(in_doubt(listing(""))), old()]);
    assert_eq!(held(&world), "a=1", "in doubt nothing is known to be gone");
    round(&mut world, &[Some(listing("")), old()]);
    assert_eq!(held(&world), "a=3");
    round(&mut world, &[Some(listing("a=2")), old()]);
    assert_eq!(held(&world), "a=2");
}

#[test]
fn the_first_source_takes_a_host_whether_or_not_the_others_have_spoken() {
    let mut before = daemon(SharingMode::First, Shape::Inline, Observed::default());
    settle(&mut before, &[Some(listing("")), Some(listing("a=3"))]);
    let mut restarted = daemon(SharingMode::First, Shape::Inline, before.held);
    round(&mut restarted, &[Some(listing("a=1")), None]);
    assert_eq!(held(&restarted), "a=1", "whatever the other lists");
}

#[test]
fn a_host_waits_for_the_first_word_of_a_source_that_would_take_it_at_once() {
    for shape in SHAPES {
        let old = || Some(listing(&numbers("a", 1..101)));
        let mut world = daemon(SharingMode::First, shape, Observed::default());
        for _ in 0..2 {
            round(&mut world, &[None, old()]);
            assert_eq!((at(&world, "a").len(), held_for(&world)), (0, ["first_listing"].into()));
        }
        round(&mut world, &[Some(listing(&numbers("a", 201..301))), old()]);
        let reached: Vec<String> = at(&world, "a").into_keys().collect();
        assert!(reached.len() == 100 && reached.contains(&"10.0.0.250".to_owned()), "{reached:?}");
        // One that cannot be read keeps nobody waiting.
        let mut world = daemon(SharingMode::First, shape, Observed::default());
        let unreadable = SourceState { snapshot: None, ..in_doubt(listing("")) };
        round(&mut world, &[Some(unreadable), old()]);
        assert_eq!(at(&world, "a").len(), 100, "{shape:?}");
        // Nor does one that has not spoken since a restart.
        let mut world = daemon(SharingMode::First, shape, world.held);
        round(&mut world, &[None, Some(listing(&numbers("a", 1..111)))]);
        assert_eq!(at(&world, "a").len(), 110, "{shape:?}");
    }
}

#[test]
fn a_host_goes_over_as_a_whole() {
    let many = |numbers: std::ops::Range<u8>| {
        let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
        format!("a={}", numbers.join(","))
    };
    for shape in [Shape::Inline, Shape::WorkloadEntries] {
        let mut world = daemon(SharingMode::First, shape, Observed::default());
        let old = || Some(listing("a=200,201"));
        settle(&mut world, &[Some(listing(&many(1..51))), old()]);
        // A mass removal is one though somebody else has the host.
        for is_released in [false, true] {
            round(&mut world, &[Some(listing("")), old()]);
            round(&mut world, &[Some(listing("")), old()]);
            // What is held may be dead, so what comes in its place stands beside the rest of it.
            assert_eq!(world.endpoints(), if is_released { 2 } else { 50 }, "{shape:?}");
            assert!(at(&world, "a").contains_key("10.0.0.200"), "{shape:?}");
            world.sink.release();
        }
        // What it loses without going over is held like everywhere.
        settle(&mut world, &[Some(listing(&many(1..51))), old()]);
        round(&mut world, &[Some(listing(&many(1..21))), old()]);
        assert_eq!(world.endpoints(), 50, "{shape:?}");
    }
}

#[test]
fn what_goes_over_at_the_same_addresses_is_no_removal() {
    let both = || Some(listing(&numbers("a", 1..101)));
    for (mode, shape) in MODES.into_iter().flat_map(|mode| SHAPES.map(|shape| (mode, shape))) {
        for is_restarted in [true, false] {
            let mut world = daemon(mode, shape, Observed::default());
            settle(&mut world, &[both(), both()]);
            if is_restarted {
                world = daemon(mode, shape, world.held);
                round(&mut world, &[both(), both()]);
            }
            for _ in 0..4 {
                round(&mut world, &[Some(listing("")), both()]);
                assert_eq!(at(&world, "a").len(), 100);
                let held = held_for(&world);
                assert!(held.is_subset(&["rename"].into()), "{mode:?} {shape:?}: {held:?}");
            }
            let left = (world.endpoints(), world.sink.held().len());
            assert_eq!(left, (100, 0), "{mode:?} {shape:?} {is_restarted}");
        }
    }
}

#[test]
fn a_host_whose_source_has_another_name_by_now_is_not_mixed() {
    let mut before = daemon(SharingMode::First, Shape::Inline, Observed::default());
    settle(&mut before, &[Some(listing("a=1,2")), Some(listing("a=3"))]);
    let mut renamed = before.held.clone();
    for (_, object) in before.held.ours.iter() {
        let sources = Arc::from([SourceName::parse("earlier").unwrap()]);
        let object = Object { sources, ..Object::clone(object) };
        renamed.ours.insert(object.id.clone(), Arc::new(object));
    }
    let mut world = daemon(SharingMode::First, Shape::Inline, renamed);
    round(&mut world, &[None, Some(listing("a=3"))]);
    assert_eq!(held(&world), "a=1,2");
}

#[test]
fn what_does_not_say_what_feeds_it_waits_for_all() {
    for mode in [SharingMode::Union, SharingMode::First] {
        let mut before = daemon(mode, Shape::Inline, Observed::default());
        settle(&mut before, &[Some(listing("a=1,2")), Some(listing("b=3"))]);
        let mut stripped = before.held.clone();
        for (_, object) in before.held.ours.iter() {
            let body = Body { annotations: Pairs::default(), ..(*object.body).clone() };
            let object =
                Object { sources: Arc::from([]), body: Arc::new(body), ..Object::clone(object) };
            stripped.ours.insert(object.id.clone(), Arc::new(object));
        }
        let mut world = daemon(mode, Shape::Inline, stripped);
        world.guard = OPEN;
        for _ in 0..3 {
            round(&mut world, &[None, Some(listing("a=3 b=3"))]);
            assert!(held(&world).starts_with("a=1,2"), "{mode:?}: {}", held(&world));
        }
        settle(&mut world, &[Some(listing("a=2")), Some(listing("b=3"))]);
        assert_eq!(held(&world), "a=2 b=3", "{mode:?}");
    }
}

#[test]
fn other_rules_hold_at_once() {
    let offers = [Some(listing("a=1,2")), Some(listing("a=2,3 b=4"))];
    let mut world = daemon(SharingMode::Union, Shape::Inline, Observed::default());
    world.guard = OPEN;
    settle(&mut world, &offers);
    world.line.set_options(options(SharingMode::First, Shape::Inline));
    settle(&mut world, &offers);
    assert_eq!(held(&world), "a=1,2 b=4");
    world.line.set_options(options(SharingMode::Union, Shape::Inline));
    settle(&mut world, &offers);
    assert_eq!(held(&world), "a=1,2,3 b=4");
}

/// A listing over few hosts and addresses, so that sources have some in common.
fn listings() -> impl Strategy<Value = String> {
    let all = vec!["1", "2", "3@http:9003", "4", "6@http:9006", "n1", "n3@http:9003"];
    let instances = prop::sample::select(all);
    let instances = prop::collection::btree_set(instances, 1..4);
    prop::collection::btree_map("[ab]", instances, 0..3).prop_map(|services| {
        let service = |(name, instances): (String, BTreeSet<&str>)| {
            format!("{name}={}", instances.into_iter().collect::<Vec<_>>().join(","))
        };
        services.into_iter().map(service).collect::<Vec<_>>().join(" ")
    })
}

#[test]
fn a_host_goes_over_in_many_steps_of_which_some_fail_once() {
    for shape in [Shape::Inline, Shape::WorkloadEntries] {
        for steps_max in [4, 16, 64, usize::MAX] {
            let mut world = daemon(SharingMode::First, shape, Observed::default());
            settle(&mut world, &[Some(listing("")), Some(listing(&numbers("a", 1..41)))]);
            limit_steps(&mut world, steps_max);
            let offers = [&numbers("a", 101..141), &numbers("a", 1..41)].map(|l| Some(listing(l)));
            let left = Cell::new(15);
            refusing(&mut world, &offers, |step| {
                let fails = is_create(step) && left.get() > 0;
                left.set(left.get() - usize::from(fails));
                fails
            });
            for _ in 0..30 {
                wait(&mut world, 5);
                round(&mut world, &offers);
            }
            assert_eq!(world.held.ours, *world.line.desired(), "{:?}", world.sink.held());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_restart_writes_nothing_whoever_speaks_first(
        new in listings(),
        old in listings(),
        first in 0_usize..2,
        doubts in any::<bool>(),
        mode in prop::sample::select(vec![SharingMode::Union, SharingMode::First]),
        shape in prop::sample::select(vec![Shape::Inline, Shape::WorkloadEntries]),
    ) {
        let both = [Some(listing(&new)), Some(listing(&old))];
        let mut before = daemon(mode, shape, Observed::default());
        settle(&mut before, &both);
        let mut restarted = daemon(mode, shape, before.held);
        let mut alone: Offers = [None, None];
        alone[first].clone_from(&both[first]);
        prop_assert!(round(&mut restarted, &[None, None]).is_empty());
        prop_assert!(round(&mut restarted, &alone).is_empty(), "one has spoken");
        // A listing that is not whole yet.
        if doubts {
            alone[1 - first] = Some(in_doubt(listing("")));
            prop_assert!(round(&mut restarted, &alone).is_empty(), "the other is in doubt");
        }
        prop_assert!(round(&mut restarted, &both).is_empty(), "both have");
    }

    #[test]
    fn every_history_of_two_sources_converges(
        news in prop::collection::vec(listings(), 1..4),
        olds in prop::collection::vec(listings(), 1..4),
        mode in prop::sample::select(vec![SharingMode::Union, SharingMode::First]),
    ) {
        let mut world = daemon(mode, Shape::Inline, Observed::default());
        world.guard = OPEN;
        for (new, old) in news.iter().zip(&olds) {
            round(&mut world, &[Some(listing(new)), Some(listing(old))]);
        }
        let (new, old) = (news.last().unwrap(), olds.last().unwrap());
        settle(&mut world, &[Some(listing(new)), Some(listing(old))]);
        prop_assert_eq!(held(&world), published(mode, new, old));
    }
}
