//! Nodes with many instances, which have an address in common and ports of their own, and what the
//! budget makes of them.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use landfall_core::mesh::Body as _;
use landfall_core::sharing::SharingMode;
use landfall_tests::line::World;
use landfall_tests::two_sources::{
    Offers, SHAPES, at, first, held_for, limit_steps, listing, numbers, options, refusing, round,
    settle, settled, wait,
};
use proptest::prelude::*;

const NODES: Range<usize> = 1..41;

/// One instance of each port on each node, named after `id`, and one that stays.
fn on_nodes(id: &str, nodes: Range<usize>, ports: &[u32]) -> String {
    let of_node = |node| ports.iter().map(move |port| format!("{node}.{id}{port}@http:{port}"));
    let all: Vec<String> = nodes.flat_map(of_node).chain(["250".to_owned()]).collect();
    format!("a={}", all.join(","))
}

/// On how many nodes clients reach each port by what the sink holds.
fn reached(world: &World) -> BTreeMap<u32, usize> {
    let spots = world.held.ours.values().flat_map(|object| object.body.spots());
    let spots: BTreeSet<_> = spots.map(|spot| (spot.ports[0], spot.address)).collect();
    let mut reached = BTreeMap::new();
    for (port, _) in spots {
        *reached.entry(port).or_default() += 1;
    }
    reached
}

/// A hundred instances of one generation on ten nodes, of which the first `count` are of the next one,
/// and beside them as many more of it.
fn deployed(generation: usize, count: usize, more: usize) -> Offers {
    let instance = |n: usize, generation: usize| {
        format!("{}.{generation}-{n}@http:{}", n % 10 + 1, 20_000 + generation * 100 + n)
    };
    let news = (0..count + more).map(|n| instance(n, generation + 1));
    let olds = (count..100).map(|n| instance(n, generation));
    first(&format!("a={}", news.chain(olds).collect::<Vec<_>>().join(",")))
}

#[test]
fn what_is_replaced_on_the_same_nodes_is_not_held() {
    for shape in SHAPES {
        let mut world = settled(shape, "", "");
        settle(&mut world, &deployed(0, 0, 0));
        assert_eq!(world.endpoints(), 100);
        // Each generation is new for less than a minute when the next one comes.
        for generation in 0..4 {
            for count in (0..100).step_by(10) {
                for offers in [deployed(generation, count, 10), deployed(generation, count + 10, 0)]
                {
                    round(&mut world, &offers);
                    round(&mut world, &offers);
                    assert!(world.sink.held().is_empty(), "{shape:?} {generation} {count}");
                    wait(&mut world, 4);
                }
                assert_eq!(world.endpoints(), 100);
            }
        }
        // All of them at once.
        for _ in 0..4 {
            round(&mut world, &deployed(4, 100, 0));
        }
        assert_eq!((world.endpoints(), world.sink.held().len()), (100, 0), "{shape:?}");
    }
}

#[test]
fn what_came_to_nodes_makes_up_for_none_that_came_there_before_it() {
    for shape in SHAPES {
        let mut world = settled(shape, "", "");
        limit_steps(&mut world, 32);
        for _ in 0..8 {
            round(&mut world, &deployed(0, 0, 0));
        }
        assert_eq!(world.endpoints(), 100);
        let half: Vec<String> =
            (0..50).map(|n| format!("{}.0-{n}@http:{}", n % 10 + 1, 20_000 + n)).collect();
        for _ in 0..8 {
            wait(&mut world, 2);
            round(&mut world, &first(&format!("a={}", half.join(","))));
        }
        assert_eq!(world.endpoints(), 100, "{shape:?}");
    }
}

#[test]
fn what_registers_anew_under_other_names_holds_no_place_of_others() {
    let both = [8081, 8082];
    for shape in SHAPES {
        for left in both {
            let mut world = settled(shape, &on_nodes("a", NODES, &both), "");
            for _ in 0..4 {
                round(&mut world, &first(&on_nodes("b", NODES, &[left])));
                let all = BTreeMap::from([(8080, 1), (8081, 40), (8082, 40)]);
                assert_eq!(reached(&world), all, "{shape:?} {left}");
                wait(&mut world, 5);
            }
            assert!(held_for(&world).contains("budget"));
        }
    }
}

#[test]
fn what_another_source_still_has_stands_for_none_that_is_held() {
    let both = on_nodes("a", NODES, &[8081, 8082]);
    for shape in SHAPES {
        for left in [8081, 8082] {
            let mut world = settled(shape, &both, &both);
            for _ in 0..4 {
                let some = on_nodes("a", NODES, &[left]);
                round(&mut world, &[Some(listing("")), Some(listing(&some))]);
                let all = BTreeMap::from([(8080, 1), (8081, 40), (8082, 40)]);
                assert_eq!(reached(&world), all, "{shape:?} {left}");
                wait(&mut world, 5);
            }
        }
    }
}

#[test]
fn who_goes_elsewhere_makes_up_for_itself_alone() {
    for shape in SHAPES {
        for moved in [1, 5] {
            let mut world = settled(shape, &numbers("a", 1..41), "");
            // Those that go come before them in the order of addresses.
            let elsewhere = (41 - moved..41).map(|n| format!("{n}>{}", n + 100));
            let left: Vec<String> =
                elsewhere.chain((21..41 - moved).map(|n| n.to_string())).collect();
            for _ in 0..12 {
                round(&mut world, &first(&format!("a={}", left.join(","))));
                wait(&mut world, 2);
            }
            assert_eq!(reached(&world)[&8080], 40, "{shape:?}: {moved} moved, 20 are held");
            assert!(at(&world, "a").contains_key("10.0.0.140"), "{shape:?} {moved}");
        }
    }
}

#[test]
fn each_of_a_node_waits_for_its_own_time() {
    for shape in SHAPES {
        for (earlier, later) in [(8081, 8082), (8082, 8081)] {
            let mut world = settled(shape, &on_nodes("a", NODES, &[8081, 8082]), "");
            let mut until = |ports: &[u32], secs: usize| {
                for _ in (0..secs).step_by(5) {
                    round(&mut world, &first(&on_nodes("a", NODES, ports)));
                    wait(&mut world, 5);
                }
                reached(&world)
            };
            until(&[later], 300);
            assert_eq!(until(&[], 300).values().sum::<usize>(), 81);
            let left = BTreeMap::from([(8080, 1), (later, 40)]);
            assert_eq!(until(&[], 10), left, "{shape:?} {earlier} was gone first");
            assert_eq!(until(&[], 300), BTreeMap::from([(8080, 1)]));
        }
    }
}

#[test]
fn what_was_released_and_refused_lets_no_other_of_the_node_go() {
    for shape in SHAPES {
        for (released, later) in [(8081, 8082), (8082, 8081)] {
            let mut world = settled(shape, &on_nodes("a", NODES, &[8081, 8082]), "");
            let fewer = first(&on_nodes("a", NODES, &[later]));
            round(&mut world, &fewer);
            world.sink.release();
            refusing(&mut world, &fewer, |_| true);
            for _ in 0..4 {
                wait(&mut world, 5);
                round(&mut world, &first(&on_nodes("a", NODES, &[])));
            }
            let left = BTreeMap::from([(8080, 1), (later, 40)]);
            assert_eq!(reached(&world), left, "{shape:?} {released}");
        }
    }
}

#[test]
fn what_is_listed_twice_is_one_endpoint_in_either_shape() {
    let twice = |nodes: Range<usize>| {
        let list = nodes.flat_map(|node| [format!("{node}.a"), format!("{node}.b")]);
        first(&format!("a={}", list.collect::<Vec<_>>().join(",")))
    };
    for (from, to) in [(0, 1), (1, 0)] {
        let mut world = settled(SHAPES[from], "", "");
        settle(&mut world, &twice(1..51));
        world.line.set_options(options(SharingMode::Union, SHAPES[to]));
        for _ in 0..4 {
            round(&mut world, &twice(1..51));
            wait(&mut world, 2);
        }
        assert!(world.sink.held().is_empty(), "nothing is lost: {:?}", held_for(&world));
        for _ in 0..4 {
            round(&mut world, &twice(1..31));
            assert_eq!(reached(&world).values().sum::<usize>(), 50, "{from}");
        }
    }
}

#[test]
fn what_comes_last_makes_up_for_what_goes_with_it() {
    let list = |one: Range<usize>, other: Range<usize>| first(&numbers("a", one.chain(other)));
    for shape in SHAPES {
        let mut world = settled(shape, &numbers("a", 1..101), "");
        let mut until = |offers: &Offers, secs: u64| {
            for _ in (0..secs).step_by(5) {
                round(&mut world, offers);
                wait(&mut world, 5);
            }
            reached(&world)[&8080]
        };
        // Twice as many; then the first ones are replaced; then those go that came first.
        assert_eq!(until(&list(1..101, 301..401), 50), 200);
        assert_eq!(until(&list(301..401, 601..701), 50), 200, "{shape:?}");
        assert_eq!(until(&list(601..701, 0..0), 30), 200, "{shape:?}");
    }
}

#[test]
fn what_is_replaced_weighs_nothing_while_others_are_held() {
    for shape in SHAPES {
        let mut world = settled(shape, &numbers("a", 1..101), "");
        for _ in 0..3 {
            round(&mut world, &first(&numbers("a", 31..101)));
            wait(&mut world, 70);
        }
        for _ in 0..5 {
            round(&mut world, &first(&numbers("a", 301..371)));
            wait(&mut world, 1);
        }
        assert_eq!(reached(&world)[&8080], 100, "{shape:?}: thirty are held");
    }
}

/// Some instances, the oldest or the newest, are replaced one for one, and the pause after that.
#[derive(Clone, Debug)]
struct Roll {
    more: usize,
    count: usize,
    of_newest: bool,
    secs: u64,
}

fn roll() -> impl Strategy<Value = Roll> {
    let secs = prop::sample::select(vec![0_u64, 1, 20, 59, 61, 200]);
    (prop::sample::select(vec![0, 0, 20, 100]), 1_usize..100, any::<bool>(), secs)
        .prop_map(|(more, count, of_newest, secs)| Roll { more, count, of_newest, secs })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_replaced_one_for_one_is_never_held(
        rolls in prop::collection::vec(roll(), 1..5),
        nodes in prop::sample::select(vec![5_usize, 40, 4000]),
        shape in prop::sample::select(SHAPES.to_vec()),
    ) {
        let mut ids = 0..;
        let mut live: Vec<usize> = ids.by_ref().take(100).collect();
        let say = |live: &[usize]| {
            let one = |n: &usize| format!("{}.{n}@http:{}", n % nodes + 1, 20_000 + n);
            first(&format!("a={}", live.iter().map(one).collect::<Vec<_>>().join(",")))
        };
        let mut world = settled(shape, "", "");
        settle(&mut world, &say(&live));
        for Roll { more, count, of_newest, secs } in rolls {
            wait(&mut world, secs);
            live.extend(ids.by_ref().take(more));
            round(&mut world, &say(&live));
            let begin = if of_newest { live.len() - count } else { 0 };
            drop(live.drain(begin..begin + count));
            live.extend(ids.by_ref().take(count));
            for _ in 0..3 {
                round(&mut world, &say(&live));
                wait(&mut world, 1);
            }
            prop_assert_eq!(world.sink.held(), []);
            prop_assert_eq!(world.endpoints(), live.len());
        }
    }
}
