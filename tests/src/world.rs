//! Generated registries, the same at every run.
#![allow(clippy::expect_used, reason = "part of tests: a failure is theirs")]

use std::sync::Arc;

use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceKey, Snapshot, SourceName,
    SourceState,
};
use landfall_core::text::{Interner, Text};

/// A listing of `services` services with `instances` instances each, with the facts that real
/// ones have: two meta pairs, a tag, a locality, a port.
#[must_use]
pub fn snapshot(services: usize, instances: usize) -> Snapshot {
    let mut interner = Interner::default();
    (0..services)
        .map(|index| service(&mut interner, index, instances, 0))
        .map(|service| (service.key.clone(), service))
        .fold(Snapshot::default(), |mut snapshot, (key, service)| {
            snapshot.services.insert(key, service);
            snapshot
        })
}

/// The same listing with the version of one service's first instance set to `generation`.
#[must_use]
pub fn changed(snapshot: &Snapshot, index: usize, generation: usize) -> Snapshot {
    let mut interner = Interner::default();
    let key = key(&mut interner, index);
    let mut changed = snapshot.clone();
    if let Some(known) = snapshot.services.get(&key) {
        let fresh = service(&mut interner, index, known.instances().len(), generation);
        changed.services.insert(key, Service::clone(&fresh).sharing(known));
    }
    changed
}

/// `snapshot` with a service of that many instances, the first of which tells this generation.
#[must_use]
pub fn with_service(
    snapshot: &Snapshot,
    index: usize,
    instances: usize,
    generation: usize,
) -> Snapshot {
    let fresh = service(&mut Interner::default(), index, instances, generation);
    let mut grown = snapshot.clone();
    grown.services.insert(fresh.key.clone(), fresh);
    grown
}

/// A source's state with this listing, without a doubt.
#[must_use]
pub fn state(snapshot: Snapshot) -> SourceState {
    SourceState { snapshot: Some(snapshot), ..SourceState::default() }
}

/// The name of the generated source.
///
/// # Panics
/// Never: the name is legal.
#[must_use]
pub fn source() -> SourceName {
    SourceName::parse("dc1").expect("a legal name")
}

fn key(interner: &mut Interner, index: usize) -> ServiceKey {
    ServiceKey {
        datacenter: interner.text("dc1"),
        partition: interner.text(""),
        group: interner.text(""),
        name: Text::from(format!("service-{index:05}")),
    }
}

/// `generation` is the version that the first instance tells.
fn service(
    interner: &mut Interner,
    index: usize,
    instances: usize,
    generation: usize,
) -> Arc<Service> {
    let mut pairs = |list: &[(&str, &str)]| -> Pairs {
        list.iter().map(|(k, v)| (interner.text(k), interner.text(v))).collect()
    };
    let team = format!("team-{}", index % 40);
    let service_meta = pairs(&[("team", &team)]);
    let list = (0..instances)
        .map(|number| {
            let version = if number == 0 { format!("v{generation}") } else { "v0".to_owned() };
            let node = format!("node-{}", (index + number) % 200);
            Arc::new(Instance {
                ports: vec![InstancePort {
                    name: Text::from("http"),
                    number: 8080,
                    protocol: Text::from("http"),
                }],
                tags: vec![Text::from("prod")],
                meta: pairs(&[("version", &version), ("owner", &team)]),
                ext: pairs(&[("consul.node", &node)]),
                locality: Some(Locality {
                    region: Text::from("eu"),
                    zone: Text::from(if number % 2 == 0 { "eu-1a" } else { "eu-1b" }),
                    subzone: Text::from(""),
                }),
                ..Instance::new(
                    format!("{node}/service-{index:05}-{number}"),
                    format!("10.{}.{}.{}", index / 256 % 256, index % 256, number % 250 + 1),
                )
            })
        })
        .collect();
    let key = key(interner, index);
    Arc::new(Service::new(key, service_meta, Pairs::default(), list).0)
}

/// The mapping before any policy that the generated registry is published with.
///
/// # Panics
/// Never: the templates are legal.
#[must_use]
pub fn defaults() -> landfall_core::defaults::Defaults {
    use landfall_core::template::Template;
    landfall_core::defaults::Defaults {
        host: Template::parse("{service}.{source}.mesh").expect("a template"),
        namespace: Template::parse("mesh-registry").expect("a template"),
        labels: vec![(
            Text::from("version"),
            Template::parse("{meta.version}").expect("a template"),
        )],
        health: vec![Health::Passing, Health::Warning, Health::Unknown],
        own_mark: None,
    }
}
