//! An API server that refuses to write: nothing is lost by that, and what it refused is written once
//! it takes it.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::process::wait;
use landfall_tests::servers::{Cluster, Front};
use serde_json::{Value, json};

use crate::{LONG, Place, world};

const SERVICES: usize = 20;
/// How long it refuses. A removal would show after a grace time of one second.
const REFUSED: Duration = Duration::from_secs(4);

#[test]
fn refused_writes_lose_nothing_and_leave_nothing() {
    let mut world = world();
    let place = world.place("refused");
    let cluster = world.cluster();
    let front = Front::start(cluster.as_landfall());
    let kubeconfig = place.folder.join("front.kubeconfig");
    fs::write(&kubeconfig, front.kubeconfig().to_string()).expect("a kubeconfig");
    let mut registry: BTreeSet<usize> = (0..SERVICES).collect();
    let source = write(&place, &registry, 0);
    let mut config = place.config(cluster, &source);
    config["sinks"][0]["kubernetes"]["kubeconfig"] = kubeconfig.display().to_string().into();
    config["guard"] =
        json!({"removalShare": "100%", "removalMin": 1_000_000, "hold": "1s", "grace": "1s"});
    place.installation.configure(&config);
    let landfall = place.installation.start().ready();
    until_held(&place, cluster, &registry, 0);
    let watch = cluster.watch(&place.service_entries());
    for (turn, status) in [500, 409, 429, 503].into_iter().enumerate() {
        let (seen, before) = (watch.count(), front.refused());
        front.refuse_writes(Some(status));
        // One goes, one comes, and one changes.
        registry.remove(&(turn + 1));
        registry.insert(SERVICES + turn);
        write(&place, &registry, turn + 1);
        let refused = wait(LONG, || (front.refused() > before).then_some(()));
        assert!(refused.is_some(), "{status}: nothing was written: {}", landfall.readiness());
        thread::sleep(REFUSED);
        assert_eq!(watch.count(), seen, "{:?}", watch.changes().split_off(seen));
        let asked = front.refused() - before;
        front.refuse_writes(None);
        let began = Instant::now();
        until_held(&place, cluster, &registry, turn + 1);
        let deleted = || -> Vec<String> {
            let changes = watch.changes().split_off(seen).into_iter();
            let deleted = changes.filter(|change| change.verb == "DELETED");
            deleted.map(|change| change.name).collect()
        };
        // The watch may tell of it after the list does.
        wait(LONG, || (!deleted().is_empty()).then_some(()));
        assert_eq!(deleted(), [host(turn + 1)], "{status}");
        place.print(format_args!(
            "{status} to {asked} writes in {REFUSED:?}: 0 lost, 0 stale {:?} later",
            began.elapsed()
        ));
    }
    landfall.stop();
}

/// The registry's services; the first one's address tells the turn.
fn write(place: &Place, services: &BTreeSet<usize>, turn: usize) -> Value {
    let service = |number: &usize| {
        let instance = json!({"id": "i", "address": address(*number, turn), "port": 80});
        json!({"name": format!("service-{number}"), "instances": [instance]})
    };
    let services: Vec<Value> = services.iter().map(service).collect();
    place.registry(&services)
}

fn address(number: usize, turn: usize) -> String {
    format!("10.0.{}.{}", if number == 0 { turn } else { 0 }, number + 1)
}

fn host(number: usize) -> String {
    format!("service-{number}.dc1.mesh")
}

/// Waits until the cluster holds exactly these services as they are in this turn.
fn until_held(place: &Place, cluster: &Cluster, services: &BTreeSet<usize>, turn: usize) {
    let wanted: BTreeSet<(String, String)> =
        services.iter().map(|number| (host(*number), address(*number, turn))).collect();
    let held = || -> BTreeSet<(String, String)> {
        let told = |entry: &Value| {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (word(&entry["spec"]["hosts"][0]), word(&entry["spec"]["endpoints"][0]["address"]))
        };
        cluster.list(&place.service_entries()).iter().map(told).collect()
    };
    let is_held = wait(LONG, || (held() == wanted).then_some(()));
    assert!(is_held.is_some(), "wanted {wanted:#?}, held {:#?}", held());
}
