//! The whole line against a sink in memory, over random histories of a registry: what is planned
//! converges, a restart writes nothing, and nothing is lost without evidence.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::sync::Arc;

use landfall_core::defaults::Defaults;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::guard::{HeldFor, Lack};
use landfall_core::mesh::Body as _;
use landfall_core::plan::{Mode, Observed, Step};
use landfall_core::registry::{Doubt, Instance, Service, Snapshot, SourceState};
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_mesh::api::Body;
use landfall_mesh::render::{RenderOptions, Shape};
use landfall_policy_host::Rules;
use landfall_runtime::line::sink::{SinkLine, Telling};
use landfall_runtime::line::{Line, LineOptions};
use landfall_tests::line::{DEFAULT, GRACE, OPEN, World};
use landfall_tests::world;
use proptest::prelude::*;

/// Parts of one generated listing, so that services come, go and change.
fn history() -> impl Strategy<Value = Vec<Snapshot>> {
    let step = prop::collection::btree_map(0_usize..12, (1_usize..4, 0_usize..3), 0..12);
    prop::collection::vec(step, 1..6).prop_map(|steps| {
        steps
            .into_iter()
            .map(|services| {
                services.into_iter().fold(
                    Snapshot::default(),
                    |listing, (index, (count, version))| {
                        world::with_service(&listing, index, count, version)
                    },
                )
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_history_converges(history in history()) {
        let mut world = World::new(Observed::default(), OPEN);
        for snapshot in &history {
            world.round(&world::state(snapshot.clone()));
        }
        world.settle(&world::state(history.last().cloned().unwrap_or_default()));
    }

    #[test]
    fn a_restart_writes_nothing(history in history()) {
        let mut world = World::new(Observed::default(), OPEN);
        let last = history.last().cloned().unwrap_or_default();
        for snapshot in &history {
            world.round(&world::state(snapshot.clone()));
        }
        world.settle(&world::state(last.clone()));
        let mut restarted = World::new(world.held.clone(), DEFAULT);
        restarted.now = world.now;
        prop_assert!(restarted.round(&SourceState::default()).is_empty(), "before the first listing");
        prop_assert!(restarted.round(&world::state(last)).is_empty(), "after it");
    }

    #[test]
    fn doubt_never_loses_anything(first in history(), later in history()) {
        let mut world = World::new(Observed::default(), OPEN);
        let listing = first.last().cloned().unwrap_or_default();
        world.settle(&world::state(listing.clone()));
        let before = world.endpoints();
        let doubt = Doubt { code: "unreachable", message: String::new(), since: world.now };
        for snapshot in later {
            let state = SourceState { doubt: Some(doubt.clone()), ..world::state(snapshot) };
            for step in world.round(&state) {
                prop_assert!(step.lost().is_empty(), "{}", step.id());
                prop_assert!(step.to().is_some());
            }
        }
        prop_assert!(world.endpoints() >= before);
    }
}

#[test]
fn one_change_is_one_step_and_an_empty_listing_is_held() {
    let snapshot = world::snapshot(100, 3);
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&world::state(snapshot.clone()));
    let steps = world.round(&world::state(world::changed(&snapshot, 7, 1)));
    assert_eq!(steps.len(), 1);

    assert!(world.round(&world::state(Snapshot::default())).is_empty());
    assert_eq!(world.sink.held().len(), 100);
    // The registry recovers, and nothing was lost.
    assert_eq!(world.round(&world::state(snapshot)).len(), 1, "the one change is taken back");
    assert!(world.sink.held().is_empty());
    // An operator lets it go.
    world.round(&world::state(Snapshot::default()));
    world.sink.release();
    assert_eq!(world.round(&world::state(Snapshot::default())).len(), 100);
}

#[test]
fn what_is_held_is_not_gone_over_while_nothing_happens() {
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&world::state(world::snapshot(100, 3)));
    let nothing = world::state(Snapshot::default());
    assert!(world.round(&nothing).is_empty());
    let plans = world.sink.plans();
    for _ in 0..40 {
        world.now = world.now.plus(std::time::Duration::from_millis(100));
        assert!(world.round(&nothing).is_empty());
    }
    assert_eq!((world.sink.plans(), world.sink.held().len()), (plans, 100));
    // What the budget follows from may have changed with time alone, and so may everything else
    // with what is known of sources.
    world.now = world.now.plus(std::time::Duration::from_secs(1));
    world.round(&nothing);
    assert_eq!(world.sink.plans(), plans + 1);
    let doubt = Doubt { code: "unreachable", message: String::new(), since: world.now };
    world.round(&SourceState { doubt: Some(doubt), ..nothing.clone() });
    assert_eq!(world.sink.plans(), plans + 2);
    let held = |why: &HeldFor| matches!(why, HeldFor::Evidence(Lack::EndOfDoubt(_)));
    assert!(world.sink.held().iter().all(|step| held(&step.why)));
    world.round(&nothing);
    world.sink.release();
    assert_eq!(world.round(&nothing).len(), 100);
}

#[test]
fn what_comes_is_published_though_what_goes_is_held() {
    let mut world = World::new(Observed::default(), OPEN);
    let both = world::snapshot(1, 2);
    world.settle(&world::state(both.clone()));
    let addresses = |world: &World| -> Vec<String> {
        let objects = world.held.ours.values();
        objects.flat_map(|object| object.body.addresses().map(|at| at.to_string())).collect()
    };
    let before = addresses(&world);
    // All instances are replaced while the source is in doubt of them.
    let (key, service) = both.services.get_min().unwrap();
    let moved = service.instances().iter().enumerate().map(|(index, instance)| {
        let (id, address) = (format!("new-{index}").into(), format!("10.200.0.{index}").into());
        Arc::new(Instance { id, address, ..(**instance).clone() })
    });
    let Service { meta, ext, .. } = &**service;
    let (fresh, _) = Service::new(key.clone(), meta.clone(), ext.clone(), moved.collect());
    let mut later = both.clone();
    later.services.insert(key.clone(), Arc::new(fresh));
    let doubt = Doubt { code: "unreachable", message: String::new(), since: world.now };
    let doubted = SourceState { doubt: Some(doubt), ..world::state(later.clone()) };
    assert_eq!(verbs(&world.round(&doubted)), ["update"]);
    let new = ["10.200.0.0", "10.200.0.1"].map(str::to_owned);
    assert_eq!(addresses(&world), [&before[..], &new[..]].concat());
    assert_eq!(world.sink.held().len(), 1);
    assert_eq!(verbs(&world.round(&doubted)), [""; 0], "there is nothing more to do");
    // Nor after a restart, which has to know from the object what feeds it.
    let mut restarted = World::new(world.held.clone(), OPEN);
    assert_eq!(verbs(&restarted.round(&doubted)), [""; 0]);
    assert_eq!(verbs(&world.round(&world::state(later))), ["update"]);
    assert_eq!(addresses(&world), new);
}

#[test]
fn what_is_held_is_let_go_though_what_comes_cannot_be_written() {
    let all = world::snapshot(1, 40);
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&world::state(all.clone()));
    // Half of the instances go, and one comes.
    let (key, service) = all.services.get_min().unwrap();
    let (id, address) = ("new".into(), "10.200.0.1".into());
    let new = Instance { id, address, ..(*service.instances()[0]).clone() };
    let stay = service.instances().iter().take(20).cloned();
    let Service { meta, ext, .. } = &**service;
    let instances = stay.chain([Arc::new(new)]).collect();
    let (fewer, _) = Service::new(key.clone(), meta.clone(), ext.clone(), instances);
    let mut later = all.clone();
    later.services.insert(key.clone(), Arc::new(fewer));
    let states = [(world::source(), world::state(later.clone()))].into();
    let holds = |world: &World| {
        let why: Vec<_> = world.sink.held().iter().map(|held| held.why.as_str()).collect();
        why.join(" ")
    };
    let round = world.line.round(&states, world.now);
    let steps = world.due(&round);
    assert_eq!((verbs(&steps), holds(&world)), (vec!["update"], "budget".to_owned()));
    // While it is under way, and while it waits to be tried again.
    let round = world.line.round(&states, world.now);
    assert!(world.due(&round).is_empty());
    assert_eq!(holds(&world), "budget");
    world.sink.failed(steps[0].id(), "refused", world.now);
    assert!(world.due(&round).is_empty());
    assert_eq!(holds(&world), "budget");
    world.sink.release();
    assert!(world.due(&round).is_empty());
    assert_eq!(holds(&world), "");
    world.now = world.now.plus(GRACE);
    assert_eq!(verbs(&world.round(&world::state(later))), ["update"]);
    assert_eq!((world.endpoints(), holds(&world)), (21, String::new()));
}

#[test]
fn a_held_removal_leaves_what_selects_its_endpoints() {
    let state = world::state(world::snapshot(100, 3));
    let mut world = World::new(Observed::default(), DEFAULT);
    let render = RenderOptions { shape: Shape::WorkloadEntries, ..RenderOptions::default() };
    world.line.set_options(LineOptions { render, sharing: Arc::default(), grace: GRACE });
    world.settle(&state);
    let before = world.held.ours.clone();
    for _ in 0..3 {
        assert_eq!(verbs(&world.round(&world::state(Snapshot::default()))), [""; 0]);
        world.now = world.now.plus(GRACE);
    }
    assert_eq!(world.held.ours, before);
}

#[test]
fn what_moved_where_a_sink_does_not_look_stays() {
    let state = world::state(world::snapshot(3, 2));
    let mut world = World::new(Observed::default(), DEFAULT);
    world.sink = SinkLine::new(Mode::Sync, vec![Text::from("mesh-registry")], usize::MAX);
    world.settle(&state);
    let endpoints = world.endpoints();
    let namespace = Template::parse("elsewhere").unwrap();
    let moved = Rules::new(Defaults { namespace, ..world::defaults() }, vec![]);
    let round = world.change_rules(&moved, &[]).unwrap();
    world.take(&round);
    for _ in 0..4 {
        world.now = world.now.plus(GRACE);
        assert_eq!(verbs(&world.round(&state)), [""; 0]);
    }
    assert_eq!(world.sink.outside().len(), 3);
    assert_eq!(world.endpoints(), endpoints);
}

#[test]
fn a_foreign_object_is_left_alone_and_reported() {
    let snapshot = world::snapshot(3, 1);
    let mut first = World::new(Observed::default(), OPEN);
    first.settle(&world::state(snapshot.clone()));
    let taken = first.line.desired().keys().next().cloned().unwrap();
    let mut held = Observed::default();
    held.foreign.insert(taken.clone());
    let mut world = World::new(held, OPEN);
    let steps = world.round(&world::state(snapshot.clone()));
    assert_eq!(steps.len(), 2);
    assert!(world.sink.blocked().contains(&taken));
    // Its owner removes it.
    world.held.foreign.clear();
    let steps = world.round(&world::state(snapshot));
    assert_eq!(steps.iter().map(|step| step.id()).collect::<Vec<_>>(), [&taken]);
    assert!(world.sink.blocked().is_empty());
}

fn verbs(steps: &[Step<Body>]) -> Vec<&str> {
    steps.iter().map(Step::verb).collect()
}

#[test]
fn hosts_that_moved_over_a_restart_have_their_grace_time() {
    let state = world::state(world::snapshot(3, 2));
    let mut before = World::new(Observed::default(), OPEN);
    before.settle(&state);
    let mut world = World::new(before.held, DEFAULT);
    let host = Template::parse("{service}.renamed.mesh").unwrap();
    let renamed = Rules::new(Defaults { host, ..world::defaults() }, vec![]);
    world.change_rules(&renamed, &[]).unwrap();
    assert_eq!(verbs(&world.round(&state)), ["create", "create", "create"]);
    let held = world.sink.held();
    assert_eq!(held.len(), 3, "{held:?}");
    assert!(held.iter().all(|held| matches!(held.why, HeldFor::Grace { .. })), "{held:?}");
    // What their registry does not list any more has moved nowhere.
    let fewer = world::state(world::snapshot(2, 2));
    assert_eq!(verbs(&world.round(&fewer)), ["empty", "empty"], "at its new host and its old one");
    world.now = world.now.plus(GRACE);
    let steps = world.round(&fewer);
    assert_eq!(verbs(&steps), ["empty", "empty", "delete", "delete"], "moved, and so not lost");
    world.settle(&fewer);
}

#[test]
fn a_step_that_fails_otherwise_is_news() {
    let state = world::state(world::snapshot(1, 1));
    let mut world = World::new(Observed::default(), OPEN);
    let mut fails_with = |code| {
        let steps = world.offer(&state);
        assert_eq!(verbs(&steps), ["create"]);
        let telling = world.sink.failed(steps[0].id(), code, world.now);
        world.now = world.now.plus(std::time::Duration::from_secs(120));
        telling
    };
    let told = ["forbidden", "forbidden", "refused", "refused", "forbidden"].map(&mut fails_with);
    let [all, nothing] = [Telling::All, Telling::Nothing];
    assert_eq!(told, [all, nothing, all, nothing, all]);
}

#[test]
fn of_many_steps_that_fail_a_few_are_news() {
    let state = world::state(world::snapshot(50, 1));
    let mut world = World::new(Observed::default(), OPEN);
    let mut told = |code, secs| {
        world.now = world.now.plus(std::time::Duration::from_secs(secs));
        // Each is wanted otherwise than before, and so has not failed yet.
        world.line.set_options(LineOptions {
            render: RenderOptions {
                export_to: [Text::from(secs.to_string())].into(),
                ..<_>::default()
            },
            sharing: Arc::default(),
            grace: GRACE,
        });
        let steps = world.offer(&state);
        let telling: Vec<Telling> =
            steps.iter().map(|step| world.sink.failed(step.id(), code, world.now)).collect();
        let count = |what| telling.iter().filter(|told| **told == what).count();
        [Telling::All, Telling::ThatThereAreMore, Telling::Nothing].map(count)
    };
    assert_eq!(told("forbidden", 1), [20, 1, 29]);
    assert_eq!(told("forbidden", 20), [0, 0, 50]);
    assert_eq!(told("unavailable", 21), [20, 1, 29]);
    assert_eq!(told("forbidden", 61), [20, 1, 29]);
}

#[test]
fn what_was_not_tried_is_as_soon_as_the_sink_takes_another() {
    let state = world::state(world::snapshot(3, 1));
    let mut world = World::new(Observed::default(), OPEN);
    for _ in 0..5 {
        for step in world.offer(&state) {
            world.sink.untried(step.id(), world.now);
        }
        assert_eq!(world.offer(&state), [], "each waits longer");
        world.now = world.now.plus(std::time::Duration::from_secs(60));
    }
    let mut steps = world.offer(&state).into_iter();
    let first = steps.next().unwrap();
    steps.for_each(|step| world.sink.untried(step.id(), world.now));
    world.apply(&first);
    assert_eq!(world.offer(&state).len(), 2);
}

#[test]
fn what_failed_for_a_sink_that_was_away_is_tried_as_soon_as_it_is_back() {
    let state = world::state(world::snapshot(1, 1));
    let mut world = World::new(Observed::default(), OPEN);
    for (code, tried) in [("forbidden", 0), ("unavailable", 1)] {
        let steps = world.offer(&state);
        assert_eq!(steps.len(), 1);
        world.sink.failed(steps[0].id(), code, world.now);
        world.sink.retry_unavailable();
        let again = world.offer(&state);
        assert_eq!(again.len(), tried, "{code}");
        if let Some(step) = again.first() {
            world.sink.failed(step.id(), code, world.now);
        }
        world.now = world.now.plus(GRACE);
    }
}

#[test]
fn services_that_move_to_one_host_over_a_restart_are_not_lost() {
    let state = world::state(world::snapshot(40, 1));
    let mut before = World::new(Observed::default(), OPEN);
    before.settle(&state);
    let mut world = World::new(before.held, DEFAULT);
    let host = Template::parse("all.mesh").unwrap();
    let joined = Rules::new(Defaults { host, ..world::defaults() }, vec![]);
    world.change_rules(&joined, &[]).unwrap();
    assert_eq!(verbs(&world.round(&state)), ["create"]);
    world.now = world.now.plus(GRACE);
    assert_eq!(verbs(&world.round(&state)), ["empty"; 40], "they are at the one host");
    world.settle(&state);
}

#[test]
fn one_host_in_two_namespaces_is_told_while_both_are_there() {
    let mut world = World::new(Observed::default(), OPEN);
    let template = |text: &str| Template::parse(text).unwrap();
    let (host, namespace) = (template("pay.mesh"), template("{service}"));
    let rules = Rules::new(Defaults { host, namespace, ..world::defaults() }, vec![]);
    world.change_rules(&rules, &[]).unwrap();
    let shared = |findings: Vec<Finding>| {
        findings.iter().filter(|finding| finding.code == FindingCode::HostShared).count()
    };
    let counted = |line: &Line| line.finding_counts().get(&FindingCode::HostShared).copied();
    let states = |services| [(world::source(), world::state(world::snapshot(services, 1)))].into();
    let round = world.line.round(&states(1), world.now);
    assert_eq!(shared(round.findings), 0);
    let round = world.line.round(&states(2), world.now);
    assert_eq!((shared(round.findings), counted(&world.line)), (1, Some(1)));
    assert_eq!(shared(world.line.findings()), 1);
    let host = world.line.services().keys().next().unwrap().clone();
    assert_eq!(shared(world.line.host_findings(&host)), 1);
    world.line.round(&states(1), world.now);
    assert_eq!((shared(world.line.findings()), counted(&world.line)), (0, Some(0)));
}
