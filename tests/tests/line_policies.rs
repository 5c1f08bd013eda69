//! The whole line with policies that fail: what stands stays, nobody else is harmed, and what
//! service policies say takes effect at once.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_core::defaults::Defaults;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::guard::{HeldFor, Lack};
use landfall_core::mesh::Body as _;
use landfall_core::pattern::Selector;
use landfall_core::plan::{Observed, Step};
use landfall_core::registry::{
    Doubt, Instance, Service, ServiceKey, Snapshot, SourceName, SourceState,
};
use landfall_core::sharing::SharingMode;
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_mesh::api::Body;
use landfall_mesh::render::{RenderOptions, Shape};
use landfall_mesh::testing::Dice;
use landfall_policy_host::{
    Candidate, EngineSettings, Limits, Link, PolicyEngine, Revision, Rules, Workers,
};
use landfall_runtime::line::{LineOptions, Round, RulesRefused};
use landfall_tests::hostile::hostile;
use landfall_tests::line::{DEFAULT, GRACE, OPEN, World};
use landfall_tests::two_sources::options;
use landfall_tests::world;

/// A policy that is one of the hostile guests, under its name.
fn link(guest: &str) -> Link {
    link_within(guest, Duration::from_millis(20))
}

fn link_within(guest: &str, time_max: Duration) -> Link {
    let engine = PolicyEngine::start(EngineSettings::default()).unwrap();
    let candidate = Candidate {
        name: Text::from(guest),
        bytes: &hostile(guest),
        settings_json: "{}",
        limits: Limits { time_max, ..Limits::default() },
    };
    let revision = Revision::admit(&engine, candidate).unwrap();
    Link { revision, selector: Selector::default() }
}

fn rules(links: Vec<Link>) -> Arc<Rules> {
    Rules::new(world::defaults(), links)
}

/// The listing with an instance in its first service on which `trap-on-poison` fails.
fn poisoned(snapshot: &Snapshot) -> Snapshot {
    with_instance(snapshot, |like| Instance {
        id: Text::from("poison"),
        address: Text::from("10.9.9.9"),
        ..like.clone()
    })
}

/// The listing with another instance in its first service, made after the first one there.
fn with_instance(snapshot: &Snapshot, make: impl Fn(&Instance) -> Instance) -> Snapshot {
    let (key, service) = snapshot.services.get_min().unwrap();
    let mut instances = service.instances().to_vec();
    instances.push(Arc::new(make(&instances[0])));
    let Service { meta, ext, .. } = &**service;
    let (service, _) = Service::new(key.clone(), meta.clone(), ext.clone(), instances);
    let mut snapshot = snapshot.clone();
    snapshot.services.insert(key.clone(), Arc::new(service));
    snapshot
}

fn verbs(steps: &[Step<Body>]) -> Vec<&str> {
    steps.iter().map(Step::verb).collect()
}

#[test]
fn one_poisonous_instance_holds_back_its_own_service_alone() {
    let snapshot = world::snapshot(3, 3);
    let mut before = World::new(Observed::default(), OPEN);
    before.settle(&world::state(poisoned(&snapshot)));

    // After a restart a policy fails on an instance that an earlier process published.
    let mut world = World::with(vec![link("trap-on-poison")], before.held, OPEN);
    let steps = world.round(&world::state(poisoned(&snapshot)));
    assert_eq!(verbs(&steps), [""; 0], "the object that has it stays as it is");
    assert_eq!(world.sink.held().len(), 1);
    assert_eq!(world.endpoints(), 10);

    // Another service loses an instance meanwhile.
    let fewer = world::with_service(&poisoned(&snapshot), 2, 2, 0);
    let steps = world.round(&world::state(fewer.clone()));
    assert_eq!(verbs(&steps), ["update"]);
    assert_eq!(world.endpoints(), 9);

    // The poisonous one leaves its registry.
    let cured = world::with_service(&snapshot, 2, 2, 0);
    world.settle(&world::state(cured));
    assert_eq!(world.endpoints(), 8);

    // One that comes later was published by nobody, so nothing waits for it.
    let later = world::with_service(&poisoned(&snapshot), 0, 1, 0);
    let later = poisoned(&later);
    world.settle(&world::state(later));
    assert_eq!(world.endpoints(), 7);
    assert!(world.sink.held().is_empty());
}

#[test]
fn how_a_policy_failed_is_told_once() {
    let snapshot = world::snapshot(2, 3);
    let mut world = World::with(vec![link("trap-on-poison")], Observed::default(), OPEN);
    let states = |snapshot: &Snapshot| [(world::source(), world::state(snapshot.clone()))].into();
    let round = world.line.round(&states(&poisoned(&snapshot)), world.now);
    let faulted = &round.faults["trap-on-poison"];
    assert_eq!((faulted.count, faulted.fault.code), (1, "trap"));
    assert!(faulted.first.ends_with("/poison"), "{}", faulted.first);
    assert_eq!(round.findings.len(), 1);
    let round = world.line.round(&states(&world::changed(&poisoned(&snapshot), 1, 7)), world.now);
    assert!(round.faults.is_empty() && round.findings.is_empty(), "{round:?}");
    let counts: usize = world.line.finding_counts().values().sum();
    assert_eq!(counts, 1);
    world.line.round(&states(&snapshot), world.now);
    let counts: usize = world.line.finding_counts().values().sum();
    assert_eq!(counts, 0);
}

#[test]
fn what_may_have_passed_is_tried_again_with_pauses() {
    let snapshot = poisoned(&world::snapshot(1, 3));
    let mut world = World::with(vec![link("loop-on-poison")], Observed::default(), OPEN);
    let states = [(world::source(), world::state(snapshot))].into();
    let round = world.line.round(&states, world.now);
    assert_eq!(round.faults["loop-on-poison"].fault.code, "deadline");
    let mut pauses = Vec::new();
    let mut wake = round.wake;
    for _ in 0..3 {
        let at = wake.unwrap();
        pauses.push(at.since(world.now).as_secs());
        let early = world.line.round(&states, world.now);
        assert_eq!(early.services, 0);
        world.now = at;
        let round = world.line.round(&states, world.now);
        assert_eq!(round.services, 1, "it is decided again");
        wake = round.wake;
    }
    assert_eq!(pauses, [30, 60, 120]);
}

#[test]
fn service_policies_take_effect_on_hosts_that_are_there() {
    let mut world = World::new(Observed::default(), DEFAULT);
    let state = world::state(world::snapshot(3, 2));
    world.settle(&state);
    let is_set = |world: &World| {
        let entries = world.held.ours.values().filter_map(|object| object.body.service_entry());
        entries.filter(|entry| entry.hosts.len() > 1).count()
    };
    assert_eq!(is_set(&world), 0);
    let round = world.change_rules(&rules(vec![link("service-illegal")]), &[]);
    assert_eq!(world.take(&round.unwrap()).len(), 3);
    assert_eq!(is_set(&world), 3);
    let round = world.change_rules(&rules(Vec::new()), &[]);
    assert_eq!(world.take(&round.unwrap()).len(), 3);
    assert_eq!(is_set(&world), 0);
    world.settle(&state);
}

/// `service-illegal` gives all hosts one name, which the first of them gets.
#[test]
fn a_renamed_object_goes_when_the_sink_has_the_new_one() {
    let state = world::state(world::snapshot(2, 20));
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&state);
    let (old, other) = {
        let mut names = world.held.ours.keys().cloned();
        (names.next().unwrap(), names.next().unwrap())
    };
    let round = world.change_rules(&rules(vec![link("service-illegal")]), &[]).unwrap();
    let is_told = |finding: &Finding| {
        finding.code == FindingCode::NameAltered && finding.message.starts_with("another service")
    };
    assert_eq!(round.findings.iter().filter(|finding| is_told(finding)).count(), 1);
    let steps = world.due(&round);
    assert_eq!(verbs(&steps), ["create", "update"]);
    let new = steps[0].id().clone();
    assert!(new.name.starts_with("bad-name-"), "{new}");
    assert_eq!(*steps[1].id(), other, "it keeps its name");

    // The sink does not take the new one, as where somebody else's has its name.
    world.sink.failed(&new, "refused", world.now);
    world.apply(&steps[1]);
    for _ in 0..3 {
        assert_eq!(verbs(&world.round(&state)), [""; 0]);
        assert!(matches!(&world.sink.held()[0].why, HeldFor::Rename(id) if *id == new));
        assert!(world.held.ours.contains_key(&old));
    }
    let kept = world.held.clone();
    let finish = |world: &mut World| {
        assert_eq!(verbs(&world.round(&state)), ["create"]);
        assert_eq!(verbs(&world.round(&state)), ["delete"], "in no budget, and at once");
        assert!(!world.held.ours.contains_key(&old) && world.held.ours.contains_key(&new));
        world.settle(&state);
        assert_eq!(world.endpoints(), 40);
    };
    world.now = world.now.plus(Duration::from_secs(60));
    finish(&mut world);
    // A process that begins in between goes on with it.
    finish(&mut World::with(vec![link("service-illegal")], kept, DEFAULT));

    // And back, while the source is in doubt: both stay.
    let round = world.change_rules(&rules(Vec::new()), &[]).unwrap();
    assert_eq!(verbs(&world.take(&round)), ["create", "update"]);
    let doubt = Doubt { code: "test", message: String::new(), since: world.now };
    let doubtful = SourceState { doubt: Some(doubt), ..state.clone() };
    assert_eq!(verbs(&world.round(&doubtful)), [""; 0]);
    assert_eq!(world.held.ours.len(), 3);
    assert_eq!(verbs(&world.round(&state)), ["delete"]);
    world.settle(&state);
}

#[test]
fn a_name_goes_to_another_host_once_the_first_has_its_new_object() {
    let snapshot = world::snapshot(2, 2);
    let (first, second) = (snapshot.services.get_min().unwrap(), snapshot.services.get_max());
    let only = |(key, service): (_, &Arc<Service>)| {
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(ServiceKey::clone(key), Arc::clone(service));
        world::state(snapshot)
    };
    let mut world = World::with(vec![link("service-illegal")], Observed::default(), OPEN);
    world.settle(&only((&second.unwrap().0, &second.unwrap().1)));
    let hosts = |world: &World| -> Vec<String> {
        let entries = world.held.ours.values().filter_map(|object| object.body.service_entry());
        entries.map(|entry| entry.hosts[0].to_string()).collect()
    };
    let shared = world.held.ours.keys().next().unwrap().clone();
    // The first one comes, and is the one that gets the name.
    let both = world::state(snapshot.clone());
    assert_eq!(verbs(&world.round(&both)), ["create"]);
    assert!(matches!(world.sink.held()[0].why, HeldFor::Rename(_)));
    assert_eq!(
        hosts(&world),
        [second.unwrap().0.name.as_ref(); 2].map(|n| format!("{n}.dc1.mesh"))
    );
    let steps = world.round(&both);
    assert_eq!((verbs(&steps), steps[0].id()), (vec!["update"], &shared));
    world.settle(&both);
    // It goes, and the second one has the name again.
    world.settle(&only((&second.unwrap().0, &second.unwrap().1)));
    assert_eq!(world.held.ours.keys().collect::<Vec<_>>(), [&shared]);
    world.settle(&only((&first.0, &first.1)));
    assert_eq!(world.held.ours.keys().collect::<Vec<_>>(), [&shared]);
}

#[test]
fn a_policy_that_fails_is_not_taken() {
    let mut world = World::new(Observed::default(), DEFAULT);
    let state = world::state(world::snapshot(3, 2));
    world.settle(&state);
    for guest in ["trap-decide", "service-trap"] {
        let refused = world.change_rules(&rules(vec![link(guest)]), &[guest]);
        let RulesRefused::Failed { policy, first, .. } = refused.unwrap_err() else { panic!() };
        assert_eq!(&*policy, guest);
        assert!(first.contains("service-0000"), "{first}");
        assert!(world.line.rules().links().is_empty());
        world.settle(&state);
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "what the line is spared is time")]
fn what_was_rehearsed_costs_the_line_nothing() {
    let snapshot = world::snapshot(200, 1);
    let mut world = World::new(Observed::default(), DEFAULT);
    world.settle(&world::state(snapshot.clone()));
    let slow = rules(vec![link_within("slow-decide", Duration::from_secs(2))]);
    let rehearsal = world.line.rehearsal(slow, BTreeSet::new(), Vec::new());
    let began = Instant::now();
    let rehearsed = rehearsal.run(Workers::start(1).unwrap()).unwrap();
    let in_rehearsal = began.elapsed();
    // The line goes on meanwhile, and what changes is decided by the new rules when it takes them.
    let later = world::state(world::changed(&snapshot, 7, 1));
    assert_eq!(verbs(&world.round(&later)), ["update"]);
    let began = Instant::now();
    let round = world.line.take_rules(rehearsed, world.now).unwrap();
    let on_the_line = began.elapsed();
    assert!(on_the_line * 10 < in_rehearsal, "{on_the_line:?} of {in_rehearsal:?}");
    assert_eq!(round.services, 200);
    assert_eq!(verbs(&world.take(&round)), [""; 0], "it keeps everything as it is");
    let marks: BTreeSet<_> = world.line.decided().values().map(|s| s.rules.clone()).collect();
    assert_eq!(marks, [world.line.rules().mark().clone()].into());
}

#[test]
fn rules_that_were_rehearsed_over_an_older_listing_give_what_they_give_anew() {
    let mut dice = Dice::new(11);
    let snapshot = |dice: &mut Dice| {
        let mut snapshot = Snapshot::default();
        for index in 0..6 {
            let instances = usize::try_from(dice.below(3)).unwrap();
            if instances > 0 {
                let generation = usize::try_from(dice.below(3)).unwrap();
                snapshot = world::with_service(&snapshot, index, instances, generation);
            }
        }
        world::state(snapshot)
    };
    // By version, so that an instance that changes goes to another host, which services share.
    let hosts = |host: &str| Defaults { host: Template::parse(host).unwrap(), ..world::defaults() };
    let links = [vec![], vec![link("service-illegal")]];
    let begin = |rules: &Arc<Rules>, options: &LineOptions| {
        let (rules, options) = (Arc::clone(rules), options.clone());
        World::of(&[world::source()], rules, options, Observed::default(), OPEN)
    };
    for _ in 0..60 {
        let [old, new] = [0, 1].map(|_| {
            let host = *dice.one_of(&["{service}.mesh", "{meta.version}.mesh", "all.mesh"]);
            Rules::new(hosts(host), dice.one_of(&links).clone())
        });
        let [old_options, new_options] = [0, 1].map(|_| LineOptions {
            grace: Duration::ZERO,
            ..options(
                *dice.one_of(&[SharingMode::Union, SharingMode::First]),
                *dice.one_of(&[Shape::Inline, Shape::WorkloadEntries]),
            )
        });
        let mut world = begin(&old, &old_options);
        world.round(&snapshot(&mut dice));
        let rehearsal = world.line.rehearsal(Arc::clone(&new), BTreeSet::new(), Vec::new());
        let rehearsal = rehearsal.by(new_options.clone());
        let rehearsed = rehearsal.run(Workers::start(1).unwrap()).unwrap();
        let meanwhile = snapshot(&mut dice);
        world.round(&meanwhile);
        let round = world.line.take_rules(rehearsed, world.now).unwrap();
        world.take(&round);
        let mut anew = begin(&new, &new_options);
        anew.round(&meanwhile);
        // At once: nobody is shown new hosts as the options before made them.
        assert_eq!(world.line.desired(), anew.line.desired());
        // What differs was told.
        world.settle(&meanwhile);
    }
}

#[test]
fn a_host_that_no_service_policy_answered_for_keeps_what_an_earlier_process_wrote() {
    let state = world::state(world::snapshot(3, 2));
    let mut before = World::with(vec![link("service-illegal")], Observed::default(), OPEN);
    before.settle(&state);

    let mut world = World::with(vec![link("service-trap")], before.held.clone(), OPEN);
    assert_eq!(verbs(&world.round(&state)), [""; 0]);
    assert_eq!(world.held.ours, before.held.ours);
    assert_eq!(world.sink.held().len(), 3);
    // A host that is new is not published without what may restrict it.
    let more = world::state(world::with_service(&world::snapshot(3, 2), 7, 2, 0));
    assert_eq!(verbs(&world.round(&more)), [""; 0]);

    let round = world.change_rules(&rules(vec![link("service-illegal")]), &[]);
    assert_eq!(verbs(&world.take(&round.unwrap())), ["create"]);
    world.settle(&more);
}

#[test]
fn a_host_that_comes_back_has_its_settings_or_stays_as_it_was() {
    let state = world::state(world::snapshot(2, 2));
    let mut world = World::new(Observed::default(), OPEN);
    world.settle(&state);
    let host = Template::parse("{service}.elsewhere").unwrap();
    let moved = Rules::new(Defaults { host, ..world::defaults() }, vec![]);
    let round = world.change_rules(&moved, &[]).unwrap();
    assert_eq!(verbs(&world.take(&round)), ["create", "create"], "the old hosts linger");
    let back = rules(vec![link("service-trap")]);
    let round = world.change_rules(&back, &[]).unwrap();
    assert_eq!(verbs(&world.take(&round)), [""; 0], "nothing is known of who may see them");
    assert!(
        world.sink.held().iter().all(|held| matches!(held.why, HeldFor::Evidence(Lack::Answer(_))))
    );
    assert_eq!(world.sink.held().len(), 2);
}

#[test]
fn what_fails_newly_does_not_wait_for_what_always_fails() {
    let snapshot = poisoned(&world::snapshot(2, 3));
    let mut world = World::with(vec![link("loop-on-poison")], Observed::default(), OPEN);
    let source = world::source();
    let mut states: BTreeMap<_, _> = [(source.clone(), world::state(snapshot.clone()))].into();
    let mut wake = world.line.round(&states, world.now).wake;
    for _ in 0..4 {
        world.now = wake.unwrap();
        wake = world.line.round(&states, world.now).wake;
    }
    assert_eq!(wake.unwrap().since(world.now).as_secs(), 480);
    let (key, service) = snapshot.services.get_max().unwrap();
    let poison = Instance { id: Text::from("poison"), ..(*service.instances()[0]).clone() };
    let Service { meta, ext, .. } = &**service;
    let (fresh, _) = Service::new(key.clone(), meta.clone(), ext.clone(), vec![poison.into()]);
    let mut later = snapshot.clone();
    later.services.insert(key.clone(), fresh.into());
    states.insert(source, world::state(later));
    let round = world.line.round(&states, world.now);
    assert_eq!(round.wake.unwrap().since(world.now).as_secs(), 30);
}

#[test]
fn a_source_under_another_name_takes_its_objects_along() {
    let state = world::state(world::snapshot(3, 2));
    let mut before = World::new(Observed::default(), OPEN);
    before.settle(&state);
    let mut world = World::new(before.held, OPEN);
    world.line.remove_source(&world::source());
    let renamed = SourceName::parse("renamed").unwrap();
    world.line.add_source(renamed.clone(), "file");
    let silent = world.line.round(&[].into(), world.now);
    assert_eq!(verbs(&world.take(&silent)), [""; 0], "before the renamed source has spoken");
    let spoken = world.line.round(&[(renamed, state)].into(), world.now);
    // Its name is in the hosts: the old ones go because all sources have spoken.
    let mut verbs: Vec<&str> = world.take(&spoken).iter().map(Step::verb).collect();
    verbs.sort_unstable();
    assert_eq!(verbs, ["create", "create", "create", "empty", "empty", "empty"]);
}

#[test]
fn what_a_source_listed_that_the_configuration_has_no_more_waits_for_all_others() {
    for comes_back in [false, true] {
        let state = world::state(world::snapshot(3, 2));
        let mut world = World::new(Observed::default(), OPEN);
        world.settle(&state);
        let rules = Arc::clone(world.line.rules());
        let rehearsal = world.line.rehearsal(rules, BTreeSet::new(), Vec::new());
        let rehearsed = rehearsal.run(Workers::start(1).unwrap()).unwrap();
        let rehearsed = rehearsed.without([world::source()].into());
        let round = world.line.take_rules(rehearsed, world.now).unwrap();
        world.line.remove_source(&world::source());
        let renamed = SourceName::parse("renamed").unwrap();
        let name = if comes_back { world::source() } else { renamed };
        world.line.add_source(name.clone(), "file");
        // Before any other round, as when a configuration is taken up.
        assert_eq!(verbs(&world.take(&round)), [""; 0]);
        world.line.round(&[(name, state)].into(), world.now);
        assert_eq!(world.line.desired().len(), 3);
    }
}

#[test]
fn a_source_of_another_kind_under_the_same_name_is_silent_until_it_lists() {
    let state = world::state(world::snapshot(3, 2));
    let mut world = World::new(Observed::default(), OPEN);
    world.settle(&state);
    world.line.add_source(world::source(), "consul");
    assert_eq!(world.line.registry(&world::source()), "consul");
    let empty = world::state(Snapshot::default());
    let round = world.line.round(&[].into(), world.now);
    assert_eq!(verbs(&world.take(&round)), [""; 0]);
    assert_eq!(verbs(&world.round(&empty)), ["empty", "empty", "empty"]);
}

/// Has all endpoints stand in WorkloadEntries from now on, or in the ServiceEntries.
fn reshape(world: &mut World, shape: Shape, state: &landfall_core::registry::SourceState) -> Round {
    let render = RenderOptions { shape, ..RenderOptions::default() };
    world.line.set_options(LineOptions { render, sharing: Arc::default(), grace: GRACE });
    world.decide(state)
}

#[test]
fn a_service_that_changes_its_shape_never_lacks_endpoints() {
    let state = world::state(world::snapshot(1, 3));
    for (from, to) in
        [(Shape::Inline, Shape::WorkloadEntries), (Shape::WorkloadEntries, Shape::Inline)]
    {
        let mut world = World::new(Observed::default(), DEFAULT);
        let round = reshape(&mut world, from, &state);
        world.take(&round);
        let mut round = reshape(&mut world, to, &state);
        // Half of all requests fail, and steps come back in their own time.
        let mut dice = Dice::new(7);
        for turn in 0..200 {
            let steps = world.due(&round);
            round = Round::default();
            let phases: BTreeSet<u8> = steps.iter().map(Step::phase).collect();
            // As a sink does: what a failed step is needed for is not tried.
            let mut stuck = false;
            for phase in phases {
                let of_phase: Vec<_> = steps.iter().filter(|step| step.phase() == phase).collect();
                let blocked = stuck;
                for step in of_phase {
                    if blocked || dice.below(2) == 0 {
                        stuck = true;
                        world.sink.failed(step.id(), "unavailable", world.now);
                    } else {
                        world.apply(step);
                    }
                    assert_eq!(
                        reachable(&world),
                        3,
                        "{from:?} to {to:?}, turn {turn}: {}",
                        step.id()
                    );
                }
            }
            world.sink.observe(&world.held, world.line.desired(), world.now);
            world.now = world.now.plus(Duration::from_millis(2500));
        }
        assert_eq!(world.held.ours, *world.line.desired(), "{from:?} to {to:?}");
    }
}

/// Endpoints that proxies have: inline, or selected by a ServiceEntry that selects.
fn reachable(world: &World) -> usize {
    let bodies = || world.held.ours.values().map(|object| &object.body);
    let inline: usize = bodies()
        .filter(|body| body.service_entry().is_some())
        .map(|body| body.endpoint_count())
        .sum();
    let selects = bodies()
        .filter_map(|body| body.service_entry())
        .any(|entry| matches!(entry.endpoints, landfall_mesh::api::Endpoints::Selected(_)));
    let workloads = bodies().filter(|body| body.service_entry().is_none()).count();
    if selects { workloads } else { inline }
}
