//! Random histories of two sources that share a host: whatever they say and the daemon does, and
//! however its steps end, nothing that may be there is ever out of reach, and in the end all is as
//! it should be.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::{BTreeSet, VecDeque};

use landfall_core::guard::BUDGET_WINDOW;
use landfall_core::plan::{Observed, Step};
use landfall_core::sharing::SharingMode;
use landfall_mesh::api::{Body, Endpoints, ServiceEntry};
use landfall_mesh::render::Shape;
use landfall_mesh::sink::Stuck;
use landfall_tests::line::{OPEN, World};
use landfall_tests::two_sources::{
    Offers, daemon, due, in_doubt, listing, options, reached, settle,
};
use proptest::prelude::*;

/// Rounds of the line after each event.
const ROUNDS: usize = 3;

/// What happens.
#[derive(Clone, Debug)]
struct Event {
    is_restart: bool,
    shape: Shape,
    /// What is known of each source, with its listing.
    sources: [(Known, BTreeSet<&'static str>); 2],
    /// How steps end, one after the other.
    ends: Vec<End>,
}

/// How far a source is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Silent,
    Doubtful,
    Current,
}

/// How a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Refused,
    /// It waits, and all that come after it in its batch, until another one was executed.
    Later,
}

/// Steps that were due at once, and what those that failed keep from following.
#[derive(Debug, Default)]
struct Batch {
    steps: VecDeque<Step<Body>>,
    stuck: Stuck,
}

fn event() -> impl Strategy<Value = Event> {
    let known = prop::sample::select(vec![
        Known::Silent,
        Known::Doubtful,
        Known::Current,
        Known::Current,
        Known::Current,
    ]);
    let all = vec!["1", "2", "3", "4@http:9090", "5@http:8080+admin:9190", "6@web:9000", "n7"];
    let instances = prop::collection::btree_set(prop::sample::select(all), 0..4);
    let source = (known, instances);
    let shape = prop::sample::select(vec![Shape::Inline, Shape::WorkloadEntries]);
    let end = prop_oneof![8 => Just(End::Done), 1 => Just(End::Refused), 1 => Just(End::Later)];
    let ends = prop::collection::vec(end, 0..12);
    (prop::bool::weighted(0.3), shape, [source.clone(), source], ends)
        .prop_map(|(is_restart, shape, sources, ends)| Event { is_restart, shape, sources, ends })
}

fn listed(instances: &BTreeSet<&str>) -> String {
    let all: Vec<&str> = instances.iter().copied().collect();
    if all.is_empty() { String::new() } else { format!("a={}", all.join(",")) }
}

fn address(instance: &str) -> String {
    let name = instance.split('@').next().unwrap();
    match name.starts_with('n') {
        true => format!("{name}.example.com"),
        false => format!("10.0.0.{name}"),
    }
}

fn addresses(world: &World) -> BTreeSet<String> {
    reached(world).remove("a").unwrap_or_default().into_keys().collect()
}

/// Executes a batch as sinks do, and returns what of it waits. After each step everything that is
/// to `stay` is still reached.
fn execute(
    world: &mut World,
    mut batch: Batch,
    ends: &mut dyn Iterator<Item = End>,
    stay: &BTreeSet<String>,
) -> Result<Batch, TestCaseError> {
    while let Some(step) = batch.steps.pop_front() {
        let waits = batch.stuck.obstacle(&step).is_some();
        match ends.next().unwrap_or(End::Done) {
            End::Later if !waits => {
                batch.steps.push_front(step);
                return Ok(batch);
            }
            End::Done if !waits => {
                world.apply(&step);
                let now = addresses(world);
                let lost: Vec<&String> = stay.difference(&now).collect();
                prop_assert!(lost.is_empty(), "{lost:?} is lost by {step:#?}");
            }
            End::Done | End::Refused | End::Later => {
                match waits {
                    true => world.sink.waited(step.id()),
                    false => _ = world.sink.failed(step.id(), "refused", world.now),
                }
                batch.stuck.note_failed(&step);
            }
        }
    }
    Ok(batch)
}

/// Has everything happen, and says what is reached that should not be, or the other way round.
fn happen(events: &[Event]) -> Result<(), TestCaseError> {
    let begin = |held: Observed<Body>| {
        let mut world = daemon(SharingMode::Union, Shape::Inline, held);
        world.guard = OPEN;
        world
    };
    let mut world = begin(Observed::default());
    // What each source may have, and what it has said in this process's life.
    let mut may_have: [BTreeSet<String>; 2] = Default::default();
    let mut offers: Offers = [None, None];
    let mut waiting = Batch::default();
    for Event { is_restart, shape, sources, ends } in events {
        if *is_restart {
            world = begin(world.held);
            offers = [None, None];
            waiting = Batch::default();
        }
        world.line.set_options(options(SharingMode::Union, *shape));
        // What a source has besides is not taken up while the shape waits for a silent one, nor
        // is it for sure written down where steps fail.
        let waits = |entry: &ServiceEntry| {
            matches!(entry.endpoints, Endpoints::Selected(_)) != (*shape == Shape::WorkloadEntries)
        };
        let mut entries = world.held.ours.values().filter_map(|object| object.body.service_entry());
        let waits = entries.any(waits) || ends.iter().any(|end| *end != End::Done);
        for (at, (known, instances)) in sources.iter().enumerate() {
            let addresses = instances.iter().map(|instance| address(instance));
            let said = listing(&listed(instances));
            match known {
                // One that has spoken does not fall silent.
                Known::Silent if offers[at].is_none() => (),
                Known::Silent | Known::Doubtful => {
                    may_have[at].extend(addresses.filter(|_| !waits));
                    offers[at] = Some(in_doubt(said));
                }
                Known::Current => {
                    let known = std::mem::take(&mut may_have[at]);
                    may_have[at] =
                        addresses.filter(|address| !waits || known.contains(address)).collect();
                    offers[at] = Some(said);
                }
            }
        }
        let may_be: BTreeSet<String> = may_have.iter().flatten().cloned().collect();
        let stay: BTreeSet<String> = addresses(&world).intersection(&may_be).cloned().collect();
        let mut ends = ends.iter().copied();
        for _ in 0..ROUNDS {
            let steps = due(&mut world, &offers).into();
            let batch = Batch { steps, ..Batch::default() };
            let later = execute(&mut world, batch, &mut ends, &stay)?;
            let before = std::mem::replace(&mut waiting, later);
            let after = execute(&mut world, before, &mut std::iter::empty(), &stay)?;
            prop_assert!(after.steps.is_empty());
            world.now = world.now.plus(BUDGET_WINDOW);
        }
        execute(&mut world, std::mem::take(&mut waiting), &mut std::iter::empty(), &stay)?;
    }
    let last = &events[events.len() - 1].sources;
    let current = last.each_ref().map(|(_, instances)| Some(listing(&listed(instances))));
    settle(&mut world, &current);
    let all = last.iter().flat_map(|(_, instances)| instances);
    let want: BTreeSet<String> = all.map(|instance| address(instance)).collect();
    prop_assert_eq!(addresses(&world), want);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_that_may_be_there_is_lost(events in prop::collection::vec(event(), 1..7)) {
        happen(&events)?;
    }
}
