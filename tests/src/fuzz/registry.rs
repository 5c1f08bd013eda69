//! Answers of registries: Consul's, Eureka's, Cloud Map's, and files.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::pairs::Pairs;
use landfall_core::registry::{Instance, Service, Snapshot};
use landfall_registry::cloudmap::testing as cloud_map;
use landfall_registry::consul::testing as consul;
use landfall_registry::eureka::testing::Known;
use landfall_registry::file::{self, FileError};
use serde_json::Value;

use super::draw::Draw;
use super::{assert_within, mutate};

/// What a body is the answer to.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Service,
    Names,
    Summary,
    Checks,
    Namespaces,
    EurekaFull,
    EurekaChanges,
    EurekaApplication,
    CloudMap,
    File,
}

/// What Eureka lists before and after the answer.
const EUREKA: &str = include_str!("../../fixtures/eureka/full.json");

/// Which body is a seed for which question.
const SEEDS: [(Asked, &str); 23] = [
    (Asked::File, include_str!("../../../examples/quickstart/registry.yaml")),
    (Asked::File, include_str!("listing.yaml")),
    (Asked::Service, include_str!("../../fixtures/consul/service-web.json")),
    (Asked::Service, include_str!("../../fixtures/consul/service-multi.json")),
    (Asked::Service, include_str!("../../fixtures/consul/service-gw.json")),
    (Asked::Service, include_str!("../../fixtures/consul/service-web-sidecar-proxy.json")),
    (Asked::Names, include_str!("../../fixtures/consul/names.json")),
    (Asked::Summary, include_str!("../../fixtures/consul/summary.json")),
    (Asked::Checks, include_str!("../../fixtures/consul/checks.json")),
    (Asked::Namespaces, r#"[{"Name": "default"}, {"Name": "a", "DeletedAt": "2026-01-01"}]"#),
    (Asked::EurekaFull, EUREKA),
    (Asked::EurekaFull, include_str!("../../fixtures/eureka/full-after-delete.json")),
    (Asked::EurekaFull, include_str!("../../fixtures/eureka/full-one-instance.json")),
    (Asked::EurekaFull, include_str!("../../fixtures/eureka/empty-full.json")),
    (Asked::EurekaApplication, include_str!("../../fixtures/eureka/quirks-app.json")),
    (Asked::EurekaChanges, include_str!("../../fixtures/eureka/delta-after-add.json")),
    (Asked::EurekaChanges, include_str!("../../fixtures/eureka/delta-after-delete.json")),
    (Asked::EurekaChanges, include_str!("../../fixtures/eureka/delta-after-eviction.json")),
    (Asked::EurekaChanges, include_str!("../../fixtures/eureka/delta-after-metadata.json")),
    (Asked::EurekaChanges, include_str!("../../fixtures/eureka/delta-after-status.json")),
    (Asked::EurekaChanges, include_str!("../../fixtures/eureka/delta-delete-readd.json")),
    (Asked::CloudMap, include_str!("../../fixtures/cloudmap/discovered.json")),
    // A file of another form, and an answer where a listing is expected.
    (Asked::File, include_str!("../../fixtures/consul/service-db.json")),
];

/// The question, and the body of the answer.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let (asked, body) = answer(bytes);
    format!("answer to {asked:?}:\n{}", String::from_utf8_lossy(&body))
}

/// Reads the answer that `bytes` stand for.
///
/// # Panics
/// What was read is no legal listing, or not the same once it is written to a file and read again.
pub fn run(bytes: &[u8]) {
    let (asked, body) = answer(bytes);
    match asked {
        Asked::Service => {
            if let Ok((Some(service), _)) = consul::service(&body, "web") {
                let mut snapshot = Snapshot::default();
                snapshot.services.insert(service.key.clone(), service);
                check(&snapshot);
            }
        }
        Asked::Names => in_order(consul::names(&body)),
        Asked::Summary => in_order(consul::summary(&body)),
        Asked::Checks => in_order(consul::checks(&body)),
        Asked::Namespaces => drop(consul::namespaces(&body)),
        Asked::EurekaFull => eureka(|known| known.full(&body, Duration::from_secs(45))),
        Asked::EurekaChanges => eureka(|known| known.changes(&body)),
        Asked::EurekaApplication => {
            let body = [br#"{"applications":"#, body.as_slice(), b"}"].concat();
            eureka(|known| known.full(&body, Duration::from_secs(45)));
        }
        Asked::CloudMap => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a runtime without threads can be made");
            if let Ok((service, _)) = runtime.block_on(cloud_map::discovered(body)) {
                let mut snapshot = Snapshot::default();
                snapshot.services.insert(service.key.clone(), Arc::new(service));
                check(&snapshot);
            }
        }
        Asked::File => {
            let text = String::from_utf8_lossy(&body);
            match file::parse("fuzz.yaml", &text) {
                Ok((snapshot, _)) => check(&snapshot),
                Err(FileError::Syntax { line, column, problem, .. }) => {
                    assert_within(&text, Some(line), Some(column), &problem);
                }
                Err(error) => panic!("a text cannot be refused like this: {error}"),
            }
        }
    }
}

fn answer(bytes: &[u8]) -> (Asked, Vec<u8>) {
    let mut draw = Draw::new(bytes);
    let (asked, seed) = *draw.one_of(&SEEDS);
    let parsed: Option<Value> = serde_saphyr::from_str(seed).ok();
    let mut body = match (asked, parsed) {
        (_, Some(mut value)) if !draw.once_in(4) => {
            mutate::value(&mut value, &mut draw);
            match asked {
                Asked::File => mutate::printed(&value, &mut draw).into_bytes(),
                _ => value.to_string().into_bytes(),
            }
        }
        _ => seed.as_bytes().to_vec(),
    };
    mutate::bytes(&mut body, &mut draw);
    (asked, body)
}

/// Has `answer` come between answers of a server that lists the same all the time.
///
/// # Panics
/// It does harm that stays.
fn eureka(answer: impl FnOnce(&mut Known) -> Result<(), serde_json::Error>) {
    let full = |known: &mut Known, after_secs| {
        let taken = known.full(EUREKA.as_bytes(), Duration::from_secs(after_secs));
        taken.expect("a recorded answer is an answer");
    };
    let mut known = Known::nothing();
    full(&mut known, 0);
    let before = (known.published().0.clone(), known.counted());
    if answer(&mut known).is_err() {
        assert_eq!((known.published().0, known.counted()), (&before.0, before.1));
        return;
    }
    let (snapshot, _) = known.published();
    check(snapshot);
    let published: usize = snapshot.services.values().map(|s| s.instances().len()).sum();
    let (counted, missing) = known.counted();
    assert!(published <= counted + missing, "{published} > {counted} + {missing}");
    // What is newer than a full answer outlives one; what that lacks, the longest lease.
    [1, 1, 1, 3600].into_iter().for_each(|secs| full(&mut known, secs));
    assert_eq!((known.published().0, known.counted()), (&before.0, before.1));
    assert_eq!(known.published().1, []);
}

fn in_order<T: Ord>(names: Result<Vec<T>, serde_json::Error>) {
    assert!(names.map_or(true, |names| names.is_sorted_by(|a, b| a < b)), "a name is there twice");
}

/// Checks that a listing is what its types promise, and survives being recorded.
fn check(snapshot: &Snapshot) {
    for (key, service) in &snapshot.services {
        assert_eq!(*key, service.key);
        check_service(service);
    }
    let mut written = Vec::new();
    file::write(snapshot, &mut written).expect("a vector takes all");
    let written = String::from_utf8(written).expect("YAML is text");
    match file::parse("again.yaml", &written) {
        Ok((again, findings)) => {
            assert_eq!(again, *snapshot, "it reads back differently: {written}");
            assert_eq!(findings, [], "it reads back with findings: {written}");
        }
        Err(error) => panic!("it does not read back: {error}: {written}"),
    }
}

fn check_service(service: &Service) {
    let ids = service.instances().iter().map(|instance| &instance.id);
    assert!(ids.is_sorted_by(|a, b| a < b), "an identifier is there twice");
    assert_in_order(&service.meta);
    assert_in_order(&service.ext);
    for instance in service.instances() {
        let Instance { address, ports, tags, meta, ext, .. } = &**instance;
        assert!(!address.trim().is_empty(), "{instance:?}");
        assert!(ports.iter().all(|port| port.number > 0), "{instance:?}");
        assert!(tags.is_sorted_by(|a, b| a < b), "{instance:?}");
        assert_in_order(meta);
        assert_in_order(ext);
        assert!(service.instance(&instance.id).is_some_and(|found| Arc::ptr_eq(found, instance)));
    }
}

fn assert_in_order(pairs: &Pairs) {
    assert!(pairs.as_slice().is_sorted_by(|a, b| a.0 < b.0), "{pairs:?}");
}
