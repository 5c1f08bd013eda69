//! Properties of the pure steps, over generated registries and objects.

#![allow(clippy::unwrap_used, reason = "a failure here is a test's")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::decision::{DecidedService, Decision, DropReason, Outcome, RulesMark};
use landfall_core::defaults::Defaults;
use landfall_core::diff::changed_services;
use landfall_core::group::{MeshServices, Redecided, group};
use landfall_core::guard::{Evidence, GuardSettings, GuardState, Trust, guard};
use landfall_core::mesh::{Body, Kind, Object, ObjectId};
use landfall_core::pairs::Pairs;
use landfall_core::plan::{Desired, Mode, Observed, Plan, PlanOptions, Step, plan};
use landfall_core::registry::{
    Health, Instance, InstancePort, Service, ServiceId, ServiceKey, Snapshot, SourceName,
};
use landfall_core::template::Template;
use landfall_core::text::{Interner, Text};
use landfall_core::time::Time;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

const GRACE: Duration = Duration::from_secs(30);

// === objects ===

#[derive(Clone, Debug, PartialEq, Eq)]
struct TestBody {
    endpoints: usize,
    content: u8,
    workload: bool,
}

impl Body for TestBody {
    fn endpoint_count(&self) -> usize {
        self.endpoints
    }

    fn without_endpoints(&self) -> Option<Self> {
        (!self.workload).then(|| Self { endpoints: 0, ..self.clone() })
    }
}

fn object_id() -> impl Strategy<Value = ObjectId> {
    (any::<bool>(), 0_u8..2, 0_u8..12).prop_map(|(workload, namespace, name)| ObjectId {
        kind: if workload { Kind::WorkloadEntry } else { Kind::ServiceEntry },
        namespace: Text::from(format!("ns-{namespace}")),
        name: Text::from(format!("object-{name}")),
    })
}

fn source(index: u8) -> SourceName {
    SourceName::parse(&format!("source-{index}")).unwrap()
}

type Objects = BTreeMap<ObjectId, (usize, u8, BTreeSet<u8>)>;

fn objects() -> impl Strategy<Value = Objects> {
    btree_map(object_id(), (0_usize..20, 0_u8..3, btree_set(0_u8..3, 1..3)), 0..20)
}

fn made(objects: &Objects) -> Desired<TestBody> {
    objects
        .iter()
        .map(|(id, (endpoints, content, sources))| {
            let workload = id.kind == Kind::WorkloadEntry;
            let body = TestBody { endpoints: *endpoints, content: *content, workload };
            let sources = sources.iter().map(|index| source(*index)).collect();
            let object = Object { id: id.clone(), sources, removal: None, body: Arc::new(body) };
            (id.clone(), Arc::new(object))
        })
        .collect()
}

fn full(
    observed: &Observed<TestBody>,
    desired: &Desired<TestBody>,
    grace: Duration,
    now: Time,
) -> Plan<TestBody> {
    let scope: BTreeSet<ObjectId> = observed.ours.keys().chain(desired.keys()).cloned().collect();
    plan(observed, desired, &scope, PlanOptions { mode: Mode::Sync, grace, now })
}

fn apply(observed: &mut Observed<TestBody>, steps: &[Step<TestBody>]) {
    for step in steps {
        match step.to() {
            Some(object) => observed.ours.insert(step.id().clone(), Arc::clone(object)),
            None => observed.ours.remove(step.id()),
        };
    }
}

proptest! {
    #[test]
    fn a_plan_converges_in_one_round(have in objects(), want in objects()) {
        let mut observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let first = full(&observed, &desired, Duration::ZERO, Time::default());
        apply(&mut observed, &first.steps);
        let again = full(&observed, &desired, Duration::ZERO, Time::default());
        prop_assert_eq!(again.steps, vec![]);
        prop_assert_eq!(observed.ours, desired);
    }

    #[test]
    fn removal_takes_two_rounds_with_a_grace_between(have in objects(), want in objects()) {
        let mut observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let start = Time::from_millis(1_000_000);
        let first = full(&observed, &desired, GRACE, start);
        for step in &first.steps {
            let deletes = matches!(step, Step::Delete(_));
            prop_assert!(!deletes || step.id().kind == Kind::WorkloadEntry);
        }
        apply(&mut observed, &first.steps);
        let at_once = full(&observed, &desired, GRACE, start);
        prop_assert_eq!(&at_once.steps, &vec![]);
        if let Some(wake) = at_once.wake {
            prop_assert_eq!(wake, start.plus(GRACE));
            let second = full(&observed, &desired, GRACE, wake);
            apply(&mut observed, &second.steps);
        }
        prop_assert_eq!(observed.ours, desired);
    }

    #[test]
    fn equal_states_need_no_step(have in objects()) {
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let plan = full(&observed, &made(&have), GRACE, Time::default());
        prop_assert_eq!(plan.steps, vec![]);
        prop_assert_eq!(plan.settled.len(), have.len());
    }

    #[test]
    fn a_foreign_object_is_never_named(
        have in objects(),
        want in objects(),
        foreign in btree_set(object_id(), 0..10),
    ) {
        let mut ours = made(&have);
        for id in &foreign {
            ours.remove(id);
        }
        let foreign_set = foreign.iter().cloned().collect();
        let observed = Observed { ours, foreign: foreign_set };
        let plan = full(&observed, &made(&want), GRACE, Time::default());
        for step in &plan.steps {
            prop_assert!(!foreign.contains(step.id()), "{:?}", step);
        }
        let blocked: BTreeSet<_> = plan.blocked.into_iter().collect();
        let expected: BTreeSet<_> =
            foreign.into_iter().filter(|id| want.contains_key(id)).collect();
        prop_assert_eq!(blocked, expected);
    }

    #[test]
    fn modes_only_do_what_they_allow(have in objects(), want in objects()) {
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let scope: BTreeSet<ObjectId> =
            observed.ours.keys().chain(desired.keys()).cloned().collect();
        for mode in [Mode::UpsertOnly, Mode::CreateOnly] {
            let options = PlanOptions { mode, grace: GRACE, now: Time::default() };
            for step in plan(&observed, &desired, &scope, options).steps {
                let allowed = match mode {
                    Mode::UpsertOnly => matches!(step, Step::Create(_) | Step::Update { .. }),
                    _ => matches!(step, Step::Create(_)),
                };
                prop_assert!(allowed, "{mode:?} {step:?}");
            }
        }
    }

    #[test]
    fn nothing_is_lost_without_evidence(have in objects(), want in objects(), trust in vec(0_u8..3, 3)) {
        let evidence: Evidence = (0_u8..)
            .zip(&trust)
            .map(|(index, trust)| {
                let trust = [Trust::Silent, Trust::Doubtful, Trust::Current][usize::from(*trust)];
                (source(index), trust)
            })
            .collect();
        let settings = GuardSettings {
            removal_share_percent: 100,
            removal_min: 0,
            hold: Duration::from_secs(600),
        };
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let steps = full(&observed, &made(&want), Duration::ZERO, Time::default()).steps;
        let count = steps.len();
        let total = have.values().map(|(endpoints, ..)| endpoints).sum();
        let mut state = GuardState::default();
        let guarded = guard(steps, total, &evidence, &settings, &mut state, Time::default());
        prop_assert_eq!(guarded.steps.len() + guarded.held.len(), count);
        for step in &guarded.steps {
            let Some(from) = step.from() else { continue };
            for source in from.sources.iter() {
                prop_assert_ne!(evidence[source], Trust::Silent);
                if evidence[source] == Trust::Doubtful {
                    prop_assert_eq!(step.endpoint_change().1, 0);
                    prop_assert!(step.to().is_some());
                }
            }
        }
    }

    #[test]
    fn no_more_goes_at_once_than_the_budget(have in objects(), want in objects()) {
        let settings = GuardSettings {
            removal_share_percent: 20,
            removal_min: 10,
            hold: Duration::from_secs(600),
        };
        let evidence = Evidence::default();
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let steps = full(&observed, &made(&want), GRACE, Time::default()).steps;
        let total: usize = have.values().map(|(endpoints, ..)| endpoints).sum();
        let mut state = GuardState::default();
        let guarded = guard(steps.clone(), total, &evidence, &settings, &mut state, Time::default());
        let change = |steps: &[Step<TestBody>]| {
            steps.iter().map(Step::endpoint_change).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        };
        let (gains, losses) = change(&guarded.steps);
        let net = losses.saturating_sub(gains);
        prop_assert!(net < 10 || net * 100 <= total * 20, "{net} of {total}");
        // What is held goes when its time is over.
        let later = Time::default().plus(settings.hold);
        let released = guard(steps.clone(), total, &evidence, &settings, &mut state, later);
        prop_assert_eq!(released.steps.len(), steps.len());
    }
}

// === registries ===

type Registry = BTreeMap<String, BTreeMap<u8, (u8, u16)>>;

fn registry() -> impl Strategy<Value = Registry> {
    btree_map("[a-c_A-C/.]{1,4}", btree_map(0_u8..6, (1_u8..5, 80_u16..83), 0..5), 0..8)
}

fn snapshot(registry: &Registry, reversed: bool) -> Snapshot {
    let mut services: Vec<Arc<Service>> = registry
        .iter()
        .map(|(name, instances)| {
            let mut instances: Vec<Arc<Instance>> = instances
                .iter()
                .map(|(id, (address, port))| {
                    Arc::new(Instance {
                        id: Text::from(format!("i{id}")),
                        address: Text::from(format!("10.0.0.{address}")),
                        ports: vec![InstancePort {
                            name: Text::from(""),
                            number: *port,
                            protocol: Text::from("http"),
                        }],
                        health: Health::Passing,
                        weight: 1,
                        tags: Vec::new(),
                        meta: Pairs::default(),
                        ext: Pairs::default(),
                        locality: None,
                    })
                })
                .collect();
            if reversed {
                instances.reverse();
            }
            let key = ServiceKey { name: Text::from(name.as_str()), ..ServiceKey::default() };
            let (service, findings) =
                Service::new(key, Pairs::default(), Pairs::default(), instances);
            assert_eq!(findings, vec![]);
            Arc::new(service)
        })
        .collect();
    if reversed {
        services.reverse();
    }
    Snapshot { services: services.into_iter().map(|s| (s.key.clone(), s)).collect() }
}

fn defaults() -> Defaults {
    Defaults {
        // Services whose names share their first letter share a host: groups have several parts.
        host: Template::parse("{service}.{source}.mesh").unwrap(),
        namespace: Template::parse("mesh-registry").unwrap(),
        labels: Vec::new(),
        health: vec![Health::Passing],
    }
}

fn decided(source: &SourceName, service: &Arc<Service>, shared_host: bool) -> DecidedService {
    let id = Arc::new(ServiceId { source: source.clone(), key: service.key.clone() });
    let mut findings = Vec::new();
    let mut defaults = defaults();
    if shared_host {
        defaults.host = Template::parse("all.mesh").unwrap();
    }
    let of_service = defaults.of_service(&id, service, &mut findings);
    let mut interner = Interner::default();
    let decisions = service
        .instances()
        .iter()
        .map(|instance| {
            let outcome = match of_service.mapping(instance, &mut interner, &mut findings) {
                Ok(mapping) => Outcome::Published(Arc::from([Arc::new(mapping)])),
                Err(reason) => Outcome::Dropped(reason),
            };
            Decision { outcome, fault: None }
        })
        .collect();
    DecidedService {
        id,
        service: Arc::clone(service),
        rules: RulesMark::default(),
        decisions,
        findings,
    }
}

fn grouped_from_scratch(snapshot: &Snapshot, shared_host: bool) -> MeshServices {
    let all: Vec<DecidedService> =
        snapshot.services.values().map(|s| decided(&source(0), s, shared_host)).collect();
    let redecided: Vec<Redecided<'_>> =
        all.iter().map(|now| Redecided { before: None, now: Some(now) }).collect();
    group(MeshServices::new(), &redecided).0
}

proptest! {
    #[test]
    fn the_order_of_the_input_does_not_matter(registry in registry(), shared in any::<bool>()) {
        let one = grouped_from_scratch(&snapshot(&registry, false), shared);
        let other = grouped_from_scratch(&snapshot(&registry, true), shared);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn grouping_what_changed_equals_grouping_all(
        before in registry(),
        now in registry(),
        shared in any::<bool>(),
    ) {
        let (before, now) = (snapshot(&before, false), snapshot(&now, false));
        let services = grouped_from_scratch(&before, shared);
        let changes = changed_services(&before, &now);
        let pairs: Vec<(Option<DecidedService>, Option<DecidedService>)> = changes
            .iter()
            .map(|(key, service)| {
                let old = before.services.get(key).map(|s| decided(&source(0), s, shared));
                (old, service.as_ref().map(|s| decided(&source(0), s, shared)))
            })
            .collect();
        let redecided: Vec<Redecided<'_>> = pairs
            .iter()
            .map(|(before, now)| Redecided { before: before.as_ref(), now: now.as_ref() })
            .collect();
        let (incremental, touched) = group(services.clone(), &redecided);
        prop_assert_eq!(&incremental, &grouped_from_scratch(&now, shared));
        for (key, service) in &services {
            prop_assert_eq!(touched.contains(key), incremental.get(key) != Some(service));
        }
    }

    #[test]
    fn services_of_one_source_never_share_a_default_host(registry in registry()) {
        let services = grouped_from_scratch(&snapshot(&registry, false), false);
        for service in services.values() {
            prop_assert_eq!(service.parts.len(), 1, "{}", service.key);
        }
    }

    #[test]
    fn a_fresh_equal_answer_shares_what_was_known(registry in registry()) {
        let known = snapshot(&registry, false);
        for service in snapshot(&registry, true).services.values() {
            let before = &known.services[&service.key];
            let shared = Service::clone(service).sharing(before);
            prop_assert!(Arc::ptr_eq(&shared, before));
        }
    }
}

#[test]
fn unpublished_states_of_health_are_dropped_with_a_reason() {
    let instance = Instance {
        id: Text::from("a"),
        address: Text::from("10.0.0.1"),
        ports: Vec::new(),
        health: Health::Critical,
        weight: 1,
        tags: Vec::new(),
        meta: Pairs::default(),
        ext: Pairs::default(),
        locality: None,
    };
    let key = ServiceKey { name: Text::from("orders"), ..ServiceKey::default() };
    let id = ServiceId { source: source(0), key: key.clone() };
    let (service, _) = Service::new(key, Pairs::default(), Pairs::default(), Vec::new());
    let defaults = defaults();
    let of_service = defaults.of_service(&id, &service, &mut Vec::new());
    let mapping = of_service.mapping(&instance, &mut Interner::default(), &mut Vec::new());
    assert_eq!(mapping, Err(DropReason::Health(Health::Critical)));
}
