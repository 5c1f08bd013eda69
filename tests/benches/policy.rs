//! What policies cost: calls of different sizes, instances that did not change, and everything
//! decided anew.
//!
//! Times are of one worker unless the name says otherwise, and per instance where it says so.

#![allow(clippy::expect_used, reason = "a benchmark that cannot begin has nothing to measure")]
#![allow(missing_docs, unreachable_pub, reason = "what criterion's macros make")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use landfall_core::defaults::Defaults;
use landfall_core::pairs::Pairs;
use landfall_core::pattern::Selector;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceId, ServiceKey, SourceName,
};
use landfall_core::template::Template;
use landfall_core::text::{Interner, Text};
use landfall_policy_host::{
    Candidate, EngineSettings, Limits, Link, PolicyEngine, Revision, Rules, Work, Workers,
};
use landfall_tests::hostile::hostile;
use landfall_tests::repository::component;

/// Enough that handing work to a worker does not show.
const INSTANCES: usize = 16 << 10;

fn admit(bytes: &[u8]) -> Arc<Revision> {
    let engine = PolicyEngine::start(EngineSettings::default()).expect("an engine");
    let candidate = Candidate {
        name: Text::from("policy"),
        bytes,
        settings_json: "{}",
        limits: Limits::default(),
    };
    Revision::admit(&engine, candidate).expect("the policy is good")
}

/// Reads two of an instance's pairs and its mapping, and splits what has a version.
fn canary() -> Arc<Revision> {
    admit(&std::fs::read(component("canary")).expect("a built policy"))
}

fn rules(revision: Option<&Arc<Revision>>) -> Arc<Rules> {
    let defaults = Defaults {
        host: Template::parse("{service}.{source}.mesh").expect("a template"),
        namespace: Template::parse("mesh-registry").expect("a template"),
        labels: Vec::new(),
        health: vec![Health::Passing, Health::Warning],
        own_mark: None,
    };
    let link = |revision: &Arc<Revision>| Link {
        revision: Arc::clone(revision),
        selector: Selector::default(),
    };
    Rules::new(defaults, revision.map(link).into_iter().collect())
}

/// Services of `each` instances, `count` instances in all; of those every `versioned`th has a
/// version.
fn services(count: usize, each: usize, versioned: usize) -> Vec<Work> {
    let source = SourceName::parse("dc1").expect("a name");
    let mut interner = Interner::default();
    (0..count / each)
        .map(|number| {
            let key = ServiceKey {
                datacenter: interner.text("dc1"),
                name: Text::from(format!("service-{number}")),
                ..ServiceKey::default()
            };
            let instances = (0..each)
                .map(|n| Arc::new(instance(&mut interner, number * each + n, versioned)))
                .collect();
            let (service, _) =
                Service::new(key.clone(), Pairs::default(), Pairs::default(), instances);
            Work {
                id: Arc::new(ServiceId { source: source.clone(), key }),
                registry: "consul",
                service: Arc::new(service),
                before: None,
            }
        })
        .collect()
}

fn instance(interner: &mut Interner, number: usize, versioned: usize) -> Instance {
    let mut meta = vec![
        (interner.text("team"), interner.text("payments")),
        (interner.text("tier"), interner.text("backend")),
        (interner.text("rack"), Text::from(format!("r{}", number % 40))),
    ];
    if number.is_multiple_of(versioned) {
        meta.push((interner.text("version"), Text::from(format!("v{}", number % 3))));
    }
    Instance {
        id: Text::from(format!("instance-{number:06}")),
        address: Text::from(format!(
            "10.{}.{}.{}",
            number >> 16,
            (number >> 8) & 255,
            number & 255
        )),
        ports: ["http", "admin"]
            .map(|name| InstancePort {
                name: interner.text(name),
                number: if name == "http" { 8080 } else { 9000 },
                protocol: interner.text("http"),
            })
            .to_vec(),
        health: Health::Passing,
        weight: 1,
        tags: vec![interner.text("blue"), interner.text("primary")],
        meta: meta.into_iter().collect(),
        ext: [("consul.node", format!("node-{}", number % 500))]
            .into_iter()
            .map(|(key, value)| (interner.text(key), Text::from(value)))
            .collect(),
        locality: Some(Locality {
            region: interner.text("eu-central-1"),
            zone: interner.text("eu-central-1a"),
            subzone: interner.text(""),
        }),
    }
}

/// Time per element is time per instance.
fn calls(criterion: &mut Criterion) {
    let keeping = admit(&hostile("harmless"));
    let canary = canary();
    let workers = Workers::start(1).expect("a thread");
    let mut group = criterion.benchmark_group("instance");
    group.sample_size(20).throughput(Throughput::Elements(INSTANCES as u64));
    let mut measure = |name: &str, rules: &Arc<Rules>, each: usize, versioned: usize| {
        let work = services(INSTANCES, each, versioned);
        group.bench_function(BenchmarkId::new(name, each), |bencher| {
            bencher.iter_batched(
                || work.clone(),
                |work| black_box(workers.decide(rules, work)),
                BatchSize::PerIteration,
            );
        });
    };
    for each in [1, 16, 256] {
        measure("defaults alone", &rules(None), each, 1);
        measure("all fields, kept", &rules(Some(&keeping)), each, 1);
        measure("projected, kept", &rules(Some(&canary)), each, usize::MAX);
        measure("projected, split", &rules(Some(&canary)), each, 1);
    }
    group.finish();
}

fn unchanged(criterion: &mut Criterion) {
    let rules = rules(Some(&admit(&hostile("harmless"))));
    let workers = Workers::start(1).expect("a thread");
    let mut work = services(INSTANCES, 16, 1);
    let decided = workers.decide(&rules, work.clone());
    for (work, decided) in work.iter_mut().zip(decided) {
        work.before = Some(Arc::new(decided));
    }
    let mut group = criterion.benchmark_group("instance");
    group.throughput(Throughput::Elements(INSTANCES as u64));
    group.bench_function("unchanged/16", |bencher| {
        bencher.iter_batched(
            || work.clone(),
            |work| black_box(workers.decide(&rules, work)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn everything(criterion: &mut Criterion) {
    let rules = rules(Some(&canary()));
    let workers = Workers::start(2).expect("two threads");
    let mut group = criterion.benchmark_group("anew, 100k instances, 2 workers");
    group.sample_size(10);
    for (name, each) in [("10k services", 10), ("1 service", 100_000)] {
        let work = services(100_000, each, 5);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || work.clone(),
                |work| black_box(workers.decide(&rules, work)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, calls, unchanged, everything);
criterion_main!(benches);
