//! Properties of the guard over generated objects.

#![allow(clippy::unwrap_used, reason = "a failure here is a test's")]

mod objects;

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_core::guard::{
    BUDGET_WINDOW, Evidence, GuardOptions, GuardSettings, GuardState, Guarded, HeldFor, Trust,
    guard,
};
use landfall_core::holdings::Holdings;
use landfall_core::mesh::ObjectId;
use landfall_core::moved::{Moved, Places};
use landfall_core::plan::{Entries, Observed, Step};
use landfall_core::registry::SourceName;
use landfall_core::sharing::Ranks;
use landfall_core::text::Text;
use landfall_core::time::Time;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use self::objects::*;

const START: Time = Time::from_millis(1_000_000);
const SETTINGS: GuardSettings =
    GuardSettings { removal_share_percent: 20, removal_min: 10, hold: Duration::from_secs(600) };
const OPEN: GuardSettings =
    GuardSettings { removal_share_percent: 100, removal_min: 0, hold: Duration::from_secs(600) };

/// All that a guard judges by, with nothing that holds back.
struct Scene {
    evidence: Evidence,
    settings: GuardSettings,
    now: Time,
}

impl Scene {
    fn new(settings: GuardSettings) -> Self {
        Self { evidence: Evidence::default(), settings, now: START }
    }

    fn guard(&self, have: &Objects, want: &Objects, at: &mut Sink) -> Guarded<TestBody> {
        self.guard_while(&[], have, want, at)
    }

    /// While these steps wait to be tried again.
    fn guard_while(
        &self,
        failed: &[&Step<TestBody>],
        have: &Objects,
        want: &Objects,
        Sink { state, holdings }: &mut Sink,
    ) -> Guarded<TestBody> {
        let observed = Observed { ours: made(have), ..Observed::default() };
        holdings.observe(&observed, self.now);
        state.observed(holdings);
        let desired = made(want);
        let mut steps = full(&observed, &desired, GRACE, self.now).steps;
        steps.retain(|step| failed.iter().all(|failed| failed.id() != step.id()));
        let all = desired.keys().cloned().collect();
        let options = GuardOptions {
            places: Places::new(&desired, holdings, &all),
            entries: &Entries::new(),
            evidence: &self.evidence,
            settings: &self.settings,
            grace: GRACE,
            under_way: &[],
            failed,
            steps_max: usize::MAX,
            now: self.now,
        };
        guard(steps, &options, state)
    }
}

/// A sink, and what the guard remembers of it.
#[derive(Default)]
struct Sink {
    state: GuardState<TestBody>,
    holdings: Holdings<TestBody>,
}

fn trust(word: u8) -> Option<Trust> {
    let known = [Trust::Unheard, Trust::Silent, Trust::Doubtful, Trust::Current];
    known.get(usize::from(word)).copied()
}

fn total(objects: &Objects) -> usize {
    objects.values().map(|(endpoints, ..)| endpoints).sum()
}

fn loses(step: &Step<TestBody>) -> bool {
    !step.lost().is_empty() || step.from().is_some() && !matches!(step, Step::Update { .. })
}

/// One object of that many endpoints.
fn one(name: &str, endpoints: usize) -> (ObjectId, (usize, u8, std::collections::BTreeSet<u8>)) {
    let id = ObjectId {
        kind: landfall_core::mesh::Kind::ServiceEntry,
        namespace: Text::from("ns"),
        name: Text::from(name),
    };
    (id, (endpoints, 1, [0].into()))
}

fn steps(have: &Objects, want: &Objects) -> Vec<Step<TestBody>> {
    let observed = Observed { ours: made(have), ..Observed::default() };
    full(&observed, &made(want), GRACE, START).steps
}

fn verbs(guarded: &Guarded<TestBody>) -> Vec<&str> {
    guarded.steps.iter().map(|step| step.verb()).collect()
}

proptest! {
    #[test]
    fn nothing_is_lost_without_evidence(
        have in objects(),
        want in objects(),
        trusts in vec(0_u8..5, 3),
        undecided in btree_set(0_u8..3, 0..2),
    ) {
        let mut scene = Scene::new(OPEN);
        let trusts: Vec<Option<Trust>> = trusts.into_iter().map(trust).collect();
        scene.evidence.sources = (0_u8..)
            .zip(&trusts)
            .filter_map(|(index, trust)| Some((source(index), (*trust)?)))
            .collect();
        scene.evidence.undecided =
            undecided.iter().map(|index| Text::from(format!("{}/a", source(*index)))).collect();
        let all_current = trusts.iter().all(|trust| matches!(trust, Some(Trust::Current) | None));
        let guarded = scene.guard(&have, &want, &mut Sink::default());
        let held: std::collections::BTreeSet<&ObjectId> =
            guarded.held.iter().map(|held| &held.id).collect();
        let passed = guarded.steps.iter().filter(|step| !held.contains(step.id())).count();
        prop_assert_eq!(passed + held.len(), steps(&have, &want).len());
        for step in guarded.steps.iter().filter(|step| loses(step)) {
            for fed_by in step.from().unwrap().sources.iter() {
                let trust = scene.evidence.sources.get(fed_by);
                prop_assert!(matches!(trust, Some(Trust::Current) | None), "{} {trust:?}", step.id());
                prop_assert!(trust.is_some() || all_current, "{}: it may be of any", step.id());
                let service = format!("{fed_by}/a");
                prop_assert!(!scene.evidence.undecided.contains(service.as_str()), "{}", step.id());
            }
        }
        // And nothing else is held.
        for held in &guarded.held {
            let (_, _, fed_by) = &have[&held.id];
            let trust = |index: &u8| trusts[usize::from(*index)];
            let waits = |index: &u8| trust(index).is_some_and(|trust| trust != Trust::Current);
            let unknown = fed_by.iter().any(|index| trust(index).is_none());
            prop_assert!(
                fed_by.iter().any(waits) || unknown && !all_current || !undecided.is_empty(),
                "{held:?}"
            );
        }
    }

    #[test]
    fn no_more_goes_at_once_than_the_budget(have in objects(), want in objects()) {
        let scene = Scene::new(SETTINGS);
        let mut state = Sink::default();
        let guarded = scene.guard(&have, &want, &mut state);
        // Every object stands for itself here, so nothing makes up for what one loses.
        let lost: usize = guarded.steps.iter().map(|step| step.lost().len()).sum();
        prop_assert!(lost < 10 || lost * 100 <= total(&have) * 20, "{lost} of {}", total(&have));
        // What is held goes when its time is over.
        let later = Scene { now: START.plus(SETTINGS.hold), ..scene };
        let all = later.guard(&have, &want, &mut state).steps.len();
        prop_assert_eq!(all, steps(&have, &want).len());
    }

    #[test]
    fn many_small_losses_count_together(
        size in 50_usize..400,
        parts in vec((1_usize..30, any::<bool>(), 0_u64..20_000), 1..40),
    ) {
        let mut have: Objects = [one("a", size), one("b", size)].into();
        let mut scene = Scene::new(SETTINGS);
        let mut state = Sink::default();
        let mut lost: Vec<(Time, usize)> = Vec::new();
        for (part, succeeds, pause_ms) in parts {
            scene.now = scene.now.plus(Duration::from_millis(pause_ms));
            let mut want = have.clone();
            let (_, shrunk) = want.iter_mut().next().unwrap();
            shrunk.0 = shrunk.0.saturating_sub(part);
            for step in scene.guard(&have, &want, &mut state).steps {
                if succeeds {
                    lost.push((scene.now, step.lost().len()));
                    have.clone_from(&want);
                }
            }
            let in_window = |at: &Time| scene.now.since(*at) < BUDGET_WINDOW;
            let recent: usize = lost.iter().filter(|(at, _)| in_window(at)).map(|(_, n)| n).sum();
            let total = total(&have) + recent;
            prop_assert!(recent < 10 || recent * 100 <= total * 20, "{recent} of {total}");
        }
    }
}

#[test]
fn what_comes_elsewhere_makes_up_for_nothing() {
    let have: Objects = [one("old", 100)].into();
    let want: Objects = [one("new", 100)].into();
    let guarded = Scene::new(SETTINGS).guard(&have, &want, &mut Sink::default());
    assert_eq!(verbs(&guarded), ["create"]);
    assert_eq!(guarded.held.len(), 1);
}

#[test]
fn what_moved_goes_once_the_sink_has_it_at_its_new_place() {
    let have: Objects = [one("old", 100)].into();
    let want: Objects = [one("new", 100)].into();
    let moved = || {
        let mut state = Sink::default();
        have.keys().for_each(|id| state.state.moved.end(id.clone(), [tie("new")].into(), START));
        state
    };
    let scene = Scene::new(SETTINGS);
    let guarded = scene.guard(&have, &want, &mut moved());
    assert_eq!(verbs(&guarded), ["create"]);
    assert!(matches!(guarded.held[0].why, HeldFor::Successor { .. }), "{:?}", guarded.held);
    assert_eq!(guarded.wake, Some(START.plus(SETTINGS.hold)));
    let both: Objects = [one("old", 100), one("new", 100)].into();
    assert_eq!(verbs(&scene.guard(&both, &want, &mut moved())), ["empty"]);
    // A place that came only in part is none, and what did not come is lost after all.
    let part: Objects = [one("old", 100), one("new", 50)].into();
    assert_eq!(verbs(&scene.guard(&part, &want, &mut moved())), ["update"]);
    let late = Scene { now: START.plus(SETTINGS.hold), ..scene };
    let guarded = late.guard(&part, &want, &mut moved());
    assert!(matches!(guarded.held[0].why, HeldFor::Budget { removals: 50, .. }));
}

/// What ties the steps of a service that [`one`] made.
fn tie(name: &str) -> (Text, Text) {
    (Text::from("ns"), Text::from(format!("ServiceEntry {name}")))
}

#[test]
fn what_is_let_go_stays_let_go_until_it_is_gone() {
    let have: Objects = [one("a", 100)].into();
    let none = Objects::new();
    let scene = Scene::new(SETTINGS);
    let mut state = Sink::default();
    assert!(scene.guard(&have, &none, &mut state).steps.is_empty());
    state.state.release();
    let guarded = scene.guard(&have, &none, &mut state);
    assert_eq!(verbs(&guarded), ["empty"]);
    // Nothing is planned while it waits to be tried again.
    scene.guard_while(&[&guarded.steps[0]], &have, &none, &mut state);
    assert_eq!(verbs(&scene.guard(&have, &none, &mut state)), ["empty"]);
    // It is listed again.
    scene.guard(&have, &have, &mut state);
    assert!(scene.guard(&have, &none, &mut state).steps.is_empty(), "another removal");
}

#[test]
fn what_comes_to_a_held_removal_waits_for_its_own_time() {
    let names = ["a", "b", "c", "d"];
    let with = |counts: [usize; 4]| -> Objects {
        names.iter().zip(counts).filter(|(_, n)| *n > 0).map(|(name, n)| one(name, n)).collect()
    };
    let have = with([25; 4]);
    let mut scene = Scene::new(SETTINGS);
    let held = |scene: &Scene, want: &Objects, state: &mut Sink| {
        let guarded = scene.guard(&have, want, state);
        let held = guarded.held.iter().map(|held| held.id.name.to_string());
        held.collect::<BTreeSet<String>>()
    };
    let named = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    for by_release in [false, true] {
        let mut state = Sink::default();
        assert_eq!(held(&scene, &with([0, 25, 25, 25]), &mut state), named(&["a"]));
        scene.now = scene.now.plus(SETTINGS.hold / 2);
        assert_eq!(held(&scene, &with([0, 3, 25, 25]), &mut state), named(&["a", "b"]));
        if by_release {
            state.state.release();
        } else {
            scene.now = scene.now.plus(SETTINGS.hold / 2);
        }
        // All goes by now, of which only what was held for long, or let go, may.
        let left = held(&scene, &with([0; 4]), &mut state);
        assert_eq!(left, named(&["b", "c", "d"]), "b was let go for less");
        scene.now = scene.now.plus(SETTINGS.hold);
        assert_eq!(held(&scene, &with([0; 4]), &mut state), BTreeSet::new());
    }
}

#[test]
fn an_object_of_an_unknown_source_waits_until_all_are_current() {
    let have: Objects = [one("a", 3)].into();
    let mut scene = Scene::new(OPEN);
    let renamed = SourceName::parse("renamed").unwrap();
    for (trust, held) in [(Trust::Silent, 1), (Trust::Doubtful, 1), (Trust::Current, 0)] {
        scene.evidence.sources = [(renamed.clone(), trust)].into();
        let guarded = scene.guard(&have, &Objects::new(), &mut Sink::default());
        assert_eq!(guarded.held.len(), held, "{trust:?}");
    }
}

#[test]
fn a_host_of_one_source_alone_is_not_given_to_another_in_doubt() {
    let of = |endpoints: usize, source: u8| -> Objects {
        let (id, _) = one("a", endpoints);
        [(id, (endpoints, 1 + source, [source].into()))].into()
    };
    let ranks = |winner: u8, above: &[u8], below: &[u8]| Ranks {
        winner: source(winner),
        above: above.iter().map(|index| source(*index)).collect(),
        below: below.iter().map(|index| source(*index)).collect(),
    };
    let check = |have: u8, want: u8, trusts: [Trust; 2], ranks: Ranks, verb: Option<&str>| {
        let mut scene = Scene::new(OPEN);
        scene.evidence.sources = (0..).map(source).zip(trusts).collect();
        scene.evidence.ranks = [(tie("a"), ranks)].into_iter().collect();
        let guarded = scene.guard(&of(3, have), &of(1, want), &mut Sink::default());
        let lost = |step: &Step<TestBody>| !step.lost().is_empty();
        assert_eq!(guarded.steps.iter().any(lost), verb.is_some(), "{guarded:?}");
        assert_eq!(verbs(&guarded).first().copied(), verb, "{guarded:?}");
        assert_eq!(guarded.held.is_empty(), verb.is_some());
    };
    use Trust::{Current, Doubtful, Silent};
    // Source 1 has it by what is listed, but 0 may yet list it: nothing of 1 is put beside it.
    check(0, 1, [Silent, Current], ranks(1, &[0], &[]), None);
    check(0, 1, [Doubtful, Current], ranks(1, &[0], &[]), None);
    check(0, 1, [Current, Current], ranks(1, &[0], &[]), Some("update"));
    // Whatever source 1 says, 0 has it.
    check(1, 0, [Current, Silent], ranks(0, &[], &[1]), Some("update"));
    check(1, 0, [Current, Doubtful], ranks(0, &[], &[1]), Some("update"));
}

#[test]
fn a_place_that_endpoints_had_all_the_time_is_not_where_they_moved() {
    // A host of all versions, and one of the first version.
    let have: Objects = [one("all", 100), one("v1", 50)].into();
    let scene = Scene::new(SETTINGS);
    // The version is not told any more: 50 places are lost, though all are reachable elsewhere.
    let want: Objects = [one("all", 100)].into();
    let guarded = scene.guard(&have, &want, &mut Sink::default());
    assert!(matches!(guarded.held[0].why, HeldFor::Budget { removals: 50, total: 150, .. }));
    // It moved to a host that the sink does not take: what was there before does not stand in.
    let want: Objects = [one("all", 100), one("new-v1", 50)].into();
    let mut state = Sink::default();
    state.state.moved.end(one("v1", 50).0, [tie("new-v1")].into(), START);
    let guarded = scene.guard(&have, &want, &mut state);
    assert_eq!(verbs(&guarded), ["create"]);
    assert!(matches!(guarded.held[0].why, HeldFor::Successor { .. }), "{:?}", guarded.held);
    let have: Objects = [one("all", 100), one("v1", 50), one("new-v1", 50)].into();
    assert_eq!(verbs(&scene.guard(&have, &want, &mut state)), ["empty"]);
    // After a restart it is not known which of two was there first: it has its grace time, and then
    // counts as lost.
    let observed = Observed { ours: made(&have), ..Observed::default() };
    let mut state = Sink::default();
    state.state.moved = Moved::inherited(&observed);
    let guarded = scene.guard(&have, &want, &mut state);
    assert!(matches!(guarded.held[0].why, HeldFor::Grace { .. }), "{:?}", guarded.held);
    let later = Scene { now: START.plus(GRACE), ..Scene::new(SETTINGS) };
    let guarded = later.guard(&have, &want, &mut state);
    assert!(matches!(guarded.held[0].why, HeldFor::Budget { removals: 50, .. }));
}

#[test]
fn what_one_flapping_endpoint_costs_others_is_one() {
    let (up, down): (Objects, Objects) =
        ([one("a", 50), one("b", 50)].into(), [one("a", 49), one("b", 50)].into());
    let mut scene = Scene::new(SETTINGS);
    let mut state = Sink::default();
    for _ in 0..100 {
        for (have, want) in [(&up, &down), (&down, &up)] {
            scene.now = scene.now.plus(Duration::from_millis(50));
            let guarded = scene.guard(have, want, &mut state);
            assert_eq!(guarded.held, [], "{:?}", scene.now);
        }
    }
    let fewer: Objects = [one("a", 50), one("b", 35)].into();
    assert_eq!(scene.guard(&up, &fewer, &mut state).held, []);
}

#[test]
fn what_waits_for_long_is_not_held_against_others() {
    let have: Objects = [one("a", 50), one("b", 50)].into();
    let half: Objects = [one("a", 10), one("b", 50)].into();
    let few: Objects = [one("a", 10), one("b", 49)].into();
    let held = |guarded: &Guarded<TestBody>| -> Vec<String> {
        guarded.held.iter().map(|held| held.id.name.to_string()).collect()
    };
    let scene = Scene::new(SETTINGS);
    let mut state = Sink::default();
    assert_eq!(held(&scene.guard(&have, &half, &mut state)), ["a"]);
    assert_eq!(held(&scene.guard(&have, &few, &mut state)), ["a", "b"], "it may be part of it");
    let mut scene = Scene::new(SETTINGS);
    let mut state = Sink::default();
    assert_eq!(held(&scene.guard(&have, &half, &mut state)), ["a"]);
    scene.now = scene.now.plus(BUDGET_WINDOW);
    assert_eq!(held(&scene.guard(&have, &few, &mut state)), ["a"]);
    scene.now = scene.now.plus(SETTINGS.hold);
    assert_eq!(held(&scene.guard(&have, &few, &mut state)), [""; 0]);
}

#[test]
fn what_is_held_in_doubt_has_not_moved_to_where_it_was_all_the_time() {
    for is_inherited in [true, false] {
        let have: Objects = [one("all", 100), one("v1", 50)].into();
        let want: Objects = [one("all", 100)].into();
        let mut state = Sink::default();
        if is_inherited {
            let observed = Observed { ours: made(&have), ..Observed::default() };
            state.state.moved = Moved::inherited(&observed);
        }
        let mut scene = Scene::new(SETTINGS);
        scene.evidence.sources.insert(SourceName::parse("s0").unwrap(), Trust::Doubtful);
        scene.guard(&have, &want, &mut state);
        let mut scene = Scene::new(SETTINGS);
        scene.now = START.plus(Duration::from_secs(1));
        scene.guard(&have, &want, &mut state);
        scene.now = scene.now.plus(GRACE);
        let guarded = scene.guard(&have, &want, &mut state);
        let why = guarded.held.first().map(|held| &held.why);
        let is_budget = matches!(why, Some(HeldFor::Budget { removals: 50, .. }));
        assert!(is_budget, "{is_inherited}: {:?}", guarded.held);
    }
}
