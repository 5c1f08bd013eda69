//! What ambient proxies are told: of every host one service, which is ours, and every endpoint.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::istiod::Options;
use landfall_tests::servers::process::wait;
use landfall_tests::servers::{Cluster, Istiod};
use serde_json::{Value, json};

use crate::{LONG, Place, component_path, world};

/// What istiod says where it keeps a ServiceEntry from ambient proxies, and of each new one too
/// that it hears of before its own list of services is brought up to date.
const PRUNED: &str = "was pruned by deduplication";
const QUIET: Duration = Duration::from_secs(1);

#[test]
fn ambient_proxies_are_told_of_every_endpoint() {
    let mut world = world();
    let place = world.place("ambient");
    let cluster = world.cluster();
    let variables = vec![("PILOT_ENABLE_AMBIENT", "true")];
    let options = Options { variables, ..Options::default() };
    let mut istiod = Istiod::start(cluster, &place.folder, options);

    // Each of these is told apart by something else, or lost by istiod if it is not.
    let mut far = at("10.1.0.3:80");
    far["meta"] = json!({"network": "far"});
    let far_and_near = service("far-and-near", &[far, at("10.1.0.4:80")]);
    let twins = service("twins", &[at("10.1.0.5:81"), at("10.1.0.5:82")]);
    let list = |apart: &[Value]| {
        let shared = service("shared", &[at("10.1.0.6:80")]);
        place.registry(&[service("apart", apart), far_and_near.clone(), twins.clone(), shared])
    };
    let second = place.folder.join("second.yaml");
    let shared = service("shared", &[at("10.1.0.6:83"), at("10.1.0.7:80")]);
    fs::write(&second, json!({"services": [shared]}).to_string()).expect("a registry file");
    let source = list(&[at("10.1.0.1:80"), at("10.1.0.2:80")]);
    let mut config = place.config(cluster, &source);
    let sources = config["sources"].as_array_mut().expect("sources");
    sources.push(json!({"name": "dc2", "file": {"path": second}}));
    config["defaults"]["host"] = "{service}.mesh".into();
    config["policies"] = json!([{
        "name": "networks", "component": {"file": component_path("relabel")}, "config": {"rules": [
            {"match": {"meta": {"network": "*"}}, "set": {"network": "{meta.network}"}},
        ]},
    }]);
    config["resources"] = json!({"ambient": true});
    place.installation.configure(&config);
    let began = Instant::now();
    let landfall = place.installation.start().ready();
    let mut told = vec![
        "apart.mesh /10.1.0.1:80",
        "apart.mesh /10.1.0.2:80",
        "far-and-near.mesh /10.1.0.4:80",
        "far-and-near.mesh far/10.1.0.3:80",
        "shared.mesh /10.1.0.6:80",
        "shared.mesh /10.1.0.6:83",
        "shared.mesh /10.1.0.7:80",
        "twins.mesh /10.1.0.5:81",
        "twins.mesh /10.1.0.5:82",
    ];
    until_told(&istiod, &place, &told);
    place.print(format_args!("started → {} endpoints told: {:?}", told.len(), began.elapsed()));
    one_service_of_each_host(&istiod, &place, cluster);
    // All but two are told apart by their names.
    assert_eq!(cluster.list(&place.workload_entries()).len(), told.len() - 2);

    // Two that stand in their ServiceEntry, until one comes that shares an address.
    let began = Instant::now();
    list(&[at("10.1.0.1:80"), at("10.1.0.2:80"), at("10.1.0.2:84")]);
    told.insert(2, "apart.mesh /10.1.0.2:84");
    until_told(&istiod, &place, &told);
    place.print(format_args!("one more on an address → told of all: {:?}", began.elapsed()));
    one_service_of_each_host(&istiod, &place, cluster);
    assert_eq!(cluster.list(&place.workload_entries()).len(), told.len());

    // And back.
    let began = Instant::now();
    list(&[at("10.1.0.1:80"), at("10.1.0.2:84")]);
    told.remove(1);
    until_told(&istiod, &place, &told);
    place.print(format_args!("one of the two gone → told of the rest: {:?}", began.elapsed()));

    // One that reads everything at once is not mistaken about what it prunes.
    let warned = istiod.logged(PRUNED).len();
    istiod.kill();
    istiod.start_anew();
    until_told(&istiod, &place, &told);
    one_service_of_each_host(&istiod, &place, cluster);
    assert_eq!(istiod.logged(PRUNED).len(), warned, "{:?}", istiod.logged(PRUNED));
    place.print("istiod started anew → told of the same, and nothing was pruned");

    // Somebody who claims a host of ours later is who is pruned. Objects are dated in whole seconds,
    // and of two of one second either may be.
    thread::sleep(QUIET);
    let services = istiod.ambient_services(&place.namespace);
    cluster.apply(&json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "theirs", "namespace": place.namespace},
        "spec": {
            "hosts": ["twins.mesh"], "resolution": "STATIC", "ports": [{"name": "default", "number": 81}],
            "endpoints": [{"address": "10.9.9.9"}],
        },
    }));
    let pruned = format!("{}/theirs {PRUNED}", place.namespace);
    let is_pruned = wait(LONG, || (!istiod.logged(&pruned).is_empty()).then_some(()));
    assert!(is_pruned.is_some(), "{}", istiod.tail());
    let contested = landfall.says(LONG, |report| report.contains("host twins.mesh is claimed by"));
    assert!(contested, "{}", landfall.readiness());
    // istiod warns before it has made up its mind.
    thread::sleep(QUIET);
    until_told(&istiod, &place, &told);
    assert_eq!(istiod.ambient_services(&place.namespace), services);
    place.print("a host claimed by somebody later → told of ours, and of the claim in /readyz");
    landfall.stop();
}

fn service(name: &str, instances: &[Value]) -> Value {
    json!({"name": name, "instances": instances})
}

fn at(address: &str) -> Value {
    let (address, port) = address.split_once(':').expect("an address and a port");
    json!({"address": address, "port": port.parse::<u16>().expect("a port")})
}

/// Waits until ambient proxies are told of these endpoints, and of no others.
fn until_told(istiod: &Istiod, place: &Place, endpoints: &[&str]) {
    let told = || istiod.ambient_endpoints(&place.namespace);
    let as_wanted = wait(LONG, || (told() == endpoints).then_some(()));
    as_wanted.unwrap_or_else(|| panic!("wanted {endpoints:#?}, told {:#?}", told()));
}

/// Every ServiceEntry is what ambient proxies know its host by, so that none was pruned.
fn one_service_of_each_host(istiod: &Istiod, place: &Place, cluster: &Cluster) {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let written: Vec<(String, String)> = cluster
        .list(&place.service_entries())
        .iter()
        .map(|entry| (word(&entry["spec"]["hosts"][0]), word(&entry["metadata"]["name"])))
        .collect();
    assert_eq!(istiod.ambient_services(&place.namespace), written);
}
