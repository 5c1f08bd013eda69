//! Properties of grouping over generated registries.

#![allow(clippy::unwrap_used, reason = "a failure here is a test's")]

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, DropReason, Outcome, RulesMark};
use landfall_core::defaults::Defaults;
use landfall_core::diff::changed_services;
use landfall_core::group::{MeshServices, Redecided, group, regroup};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceId, ServiceKey, Snapshot, SourceName,
};
use landfall_core::sharing::{Sharing, SharingMode, SharingRule};
use landfall_core::template::Template;
use landfall_core::text::{Interner, Text};
use proptest::collection::btree_map;
use proptest::prelude::*;

fn source(index: u8) -> SourceName {
    SourceName::parse(&format!("source-{index}")).unwrap()
}

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
                        ports: vec![InstancePort {
                            name: Text::from(""),
                            number: *port,
                            protocol: Text::from("http"),
                        }],
                        ..Instance::new(format!("i{id}"), format!("10.0.0.{address}"))
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
        // Services of one name in several groups share a host, so hosts have several parts.
        host: Template::parse("{service}.{source}.mesh").unwrap(),
        namespace: Template::parse("mesh-registry").unwrap(),
        labels: Vec::new(),
        health: vec![Health::Passing],
        own_mark: None,
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
        unlisted: BTreeMap::new(),
    }
}

fn grouped_from_scratch(snapshot: &Snapshot, shared_host: bool) -> MeshServices {
    grouped(MeshServices::new(), &source(0), snapshot, shared_host, &Sharing::default())
}

/// `services` with what a source lists besides.
fn grouped(
    services: MeshServices,
    source: &SourceName,
    snapshot: &Snapshot,
    shared_host: bool,
    sharing: &Sharing,
) -> MeshServices {
    let all: Vec<DecidedService> =
        snapshot.services.values().map(|s| decided(source, s, shared_host)).collect();
    let redecided: Vec<Redecided<'_>> =
        all.iter().map(|now| Redecided { before: None, now: Some(now) }).collect();
    group(services, &redecided, sharing).0
}

fn sharing() -> impl Strategy<Value = Sharing> {
    let modes = vec![SharingMode::Union, SharingMode::First, SharingMode::PreferLocal];
    (proptest::sample::select(modes), proptest::sample::subsequence(vec![0, 1], 0..=2)).prop_map(
        |(mode, precedence)| {
            let precedence = precedence.into_iter().map(source).collect();
            let otherwise = SharingRule { mode, precedence, ..SharingRule::default() };
            Sharing { otherwise: Arc::new(otherwise), ..Sharing::default() }
        },
    )
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
        let (incremental, touched) = group(services.clone(), &redecided, &Sharing::default());
        prop_assert_eq!(&incremental, &grouped_from_scratch(&now, shared));
        for (key, service) in &services {
            prop_assert_eq!(touched.contains(key), incremental.get(key) != Some(service));
        }
    }

    #[test]
    fn two_sources_share_hosts_alike_whatever_came_first(
        one in registry(),
        two in registry(),
        rules in sharing(),
        others in sharing(),
    ) {
        let (one, two) = (snapshot(&one, false), snapshot(&two, false));
        let both = |rules: &Sharing, swapped: bool| {
            let mut listed = [(source(0), &one), (source(1), &two)];
            if swapped {
                listed.reverse();
            }
            listed.into_iter().fold(MeshServices::new(), |services, (source, snapshot)| {
                grouped(services, &source, snapshot, true, rules)
            })
        };
        let shared = both(&rules, false);
        prop_assert_eq!(&shared, &both(&rules, true));
        // A change of the rules loses nothing either.
        let (regrouped, touched) = regroup(shared.clone(), &others);
        prop_assert_eq!(&regrouped, &both(&others, false));
        for (key, service) in &shared {
            prop_assert_eq!(touched.contains(key), regrouped.get(key) != Some(service));
            // No place twice, but where one source lists it twice.
            let mut places = BTreeMap::new();
            for (origin, endpoint) in service.endpoints() {
                let port = endpoint.mapping.ports[0].target;
                let owner = places.entry((endpoint.mapping.address.clone(), port));
                prop_assert_eq!(*owner.or_insert(&origin.source), &origin.source);
            }
            let first = service.sharing.mode == SharingMode::First;
            prop_assert!(!first || service.sources().len() == 1);
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
    let instance = Instance { health: Health::Critical, ..Instance::new("a", "10.0.0.1") };
    let key = ServiceKey { name: Text::from("orders"), ..ServiceKey::default() };
    let id = ServiceId { source: source(0), key: key.clone() };
    let (service, _) = Service::new(key, Pairs::default(), Pairs::default(), Vec::new());
    let defaults = defaults();
    let of_service = defaults.of_service(&id, &service, &mut Vec::new());
    let mapping = of_service.mapping(&instance, &mut Interner::default(), &mut Vec::new());
    assert_eq!(mapping, Err(DropReason::Health(Health::Critical)));
}

#[test]
fn duplicates_that_differ_in_one_field_alone_are_kept_in_no_order_of_chance() {
    let first = Instance::new("a", "10.0.0.1");
    let place = Locality { region: Text::from("eu"), ..Locality::default() };
    let others = [
        Instance { address: Text::from("10.0.0.2"), ..first.clone() },
        Instance { health: Health::Critical, ..first.clone() },
        Instance { weight: 2, ..first.clone() },
        Instance { tags: vec![Text::from("t")], ..first.clone() },
        Instance { meta: [("k", "v")].into_iter().collect(), ..first.clone() },
        Instance { ext: [("k", "v")].into_iter().collect(), ..first.clone() },
        Instance { locality: Some(place), ..first.clone() },
    ];
    let of = |instances: [&Instance; 2]| {
        let instances = instances.map(|instance| Arc::new(instance.clone())).to_vec();
        Service::new(ServiceKey::default(), Pairs::default(), Pairs::default(), instances)
    };
    for other in &others {
        let (service, findings) = of([&first, other]);
        assert_eq!((service, findings.len()), (of([other, &first]).0, 1), "{other:?}");
    }
}

#[test]
fn what_we_published_is_not_published_again() {
    let mark = |value: &str| [("landfall.dev/owner", value)].into_iter().collect::<Pairs>();
    let published = |of_service: Pairs, of_instance: Pairs| {
        let instance = Instance { meta: of_instance, ..Instance::new("a", "10.0.0.1") };
        let key = ServiceKey { name: Text::from("orders"), ..ServiceKey::default() };
        let id = ServiceId { source: source(0), key: key.clone() };
        let (service, _) = Service::new(key, of_service, Pairs::default(), Vec::new());
        let own_mark = Some((Text::from("landfall.dev/owner"), Text::from("east")));
        let defaults = Defaults { own_mark, ..defaults() };
        let of_service = defaults.of_service(&id, &service, &mut Vec::new());
        of_service.mapping(&instance, &mut Interner::default(), &mut Vec::new()).map(drop)
    };
    assert_eq!(published(mark("east"), Pairs::default()), Err(DropReason::OwnExport));
    assert_eq!(published(Pairs::default(), mark("east")), Err(DropReason::OwnExport));
    // Another mesh's is a registration like any other.
    assert_eq!(published(Pairs::default(), mark("west")), Ok(()));
}
