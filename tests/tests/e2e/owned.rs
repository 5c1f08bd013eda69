//! What is ours is kept as it should be; what is not ours is left alone.

use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::servers::cluster::path_of;
use landfall_tests::servers::process::wait;
use landfall_tests::servers::{Change, Cluster, Landfall, Watch};
use serde_json::{Value, json};

use crate::{LONG, Place, world};

/// What others claim.
const OURS: [&str; 2] = ["orders.dc1.mesh", "pay.dc1.mesh"];

#[test]
fn edits_by_hand_are_put_right() {
    let mut world = world();
    let place = world.place("edited");
    let cluster = world.cluster();
    let landfall = run_with(&place, cluster, &["orders"]);
    let path = format!("{}/orders.dc1.mesh", place.service_entries());
    let wanted = wait(LONG, || cluster.get(&path)).expect("orders.dc1.mesh is written");
    let watch = cluster.watch(&place.service_entries());
    for (what, patch) in [
        ("endpoints taken out", json!({"spec": {"endpoints": null}})),
        ("host changed", json!({"spec": {"hosts": ["evil.mesh"]}})),
        ("a field added", json!({"spec": {"exportTo": ["."]}})),
        ("resolution changed", json!({"spec": {"resolution": "NONE", "endpoints": null}})),
        (
            "our annotation taken out",
            json!({"metadata": {"annotations": {"landfall.dev/sources": null}}}),
        ),
    ] {
        let (seen, began) = (watch.count(), Instant::now());
        let edited = cluster.edit(&path, &patch);
        let right = |change: &Change| is_as(&change.object, &wanted) && change.object != edited;
        let repaired = watch.wait(seen + 1, LONG, right);
        let repaired =
            repaired.unwrap_or_else(|| panic!("{what}: not repaired: {:?}", cluster.get(&path)));
        let took = repaired.at.saturating_duration_since(began);
        place.print(format_args!("{what} → repaired in {took:?}"));
        settles(&watch, what);
    }
    let (seen, began) = (watch.count(), Instant::now());
    cluster.delete(&path);
    let again = watch.wait(seen, LONG, |change| change.verb == "ADDED");
    let again = again.unwrap_or_else(|| panic!("deleted by hand, and not made anew"));
    assert!(is_as(&again.object, &wanted), "{}", again.object);
    place.print(format_args!("deleted → made anew in {:?}", again.at - began));

    // What others may add is theirs.
    let seen = watch.count();
    cluster
        .edit(&path, &json!({"metadata": {"annotations": {"team": "shop"}, "labels": {"a": "b"}}}));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(watch.count(), seen + 1, "{:?}", watch.changes().split_off(seen));
    let kept = cluster.get(&path).expect("it is there");
    assert_eq!(kept["metadata"]["annotations"]["team"], "shop", "{kept}");
    place.print("labels and annotations of others stay");

    // Without our mark it is no longer ours, whatever else it says.
    let seen = watch.count();
    let taken = json!({"metadata": {"labels": {"landfall.dev/owner": null}}, "spec": {"hosts": ["x.mesh"]}});
    cluster.edit(&path, &taken);
    let told = landfall.says(LONG, |report| report.contains("orders.dc1.mesh is somebody else's"));
    assert!(told, "{}", landfall.readiness());
    thread::sleep(Duration::from_secs(2));
    assert_eq!(watch.count(), seen + 1, "{:?}", watch.changes().split_off(seen));
    place.print("taken over by somebody: left alone, and told in /readyz");
    landfall.stop();
}

#[test]
fn objects_of_others_stay() {
    let mut world = world();
    let place = world.place("foreign");
    let cluster = world.cluster();
    // One by a person, one that only looks like ours, one of another installation.
    let mine = json!({"app.kubernetes.io/managed-by": "landfall", "landfall.dev/owner": "foreign"});
    let others = json!({"app.kubernetes.io/managed-by": "landfall", "landfall.dev/owner": "other"});
    let objects: Vec<Value> = [("theirs", json!({})), ("copied", mine), ("other", others)]
        .into_iter()
        .map(|(name, labels)| json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": format!("{name}.dc1.mesh"), "namespace": place.namespace, "labels": labels},
            "spec": {"hosts": [format!("{name}.dc1.mesh")], "resolution": "STATIC", "endpoints": [{"address": "10.9.9.9"}]},
        }))
        .map(|object| cluster.apply(&object))
        .collect();
    let watch = cluster.watch(&place.service_entries());
    let landfall = run_with(&place, cluster, &["theirs", "copied", "other", "orders"]);
    let written = watch.wait(0, LONG, |change| change.name == "orders.dc1.mesh");
    assert!(written.is_some(), "a foreign object keeps another from being written");
    for name in ["theirs", "copied", "other"] {
        let told = landfall.says(LONG, |report| {
            report
                .lines()
                .any(|l| l.contains(&format!("{name}.dc1.mesh")) && l.contains("somebody else"))
        });
        assert!(told, "{name}: /readyz does not say it: {}", landfall.readiness());
    }
    // Long enough for a step to be tried again.
    thread::sleep(Duration::from_secs(6));
    for object in &objects {
        let path = path_of(object);
        assert_eq!(cluster.get(&path).as_ref(), Some(object), "it was touched");
    }
    place.print("3 foreign objects in the way: untouched, and each told in /readyz");
    let began = Instant::now();
    cluster.delete(&path_of(&objects[0]));
    let seen = watch.wait(0, LONG, |c| c.name == "theirs.dc1.mesh" && c.verb == "ADDED");
    let seen = seen.expect("its place is free, and nothing is written there");
    place.print(format_args!("foreign object deleted → ours written in {:?}", seen.at - began));
    landfall.stop();
}

#[test]
fn hosts_that_others_claim_are_told() {
    let mut world = world();
    let place = world.place("claimed");
    let cluster = world.cluster();
    let ours = |host: &str| format!("{}/{host}", place.service_entries());
    let claim = |name: &str, hosts: &[&str]| {
        cluster.apply(&json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": name, "namespace": place.namespace},
            "spec": {"hosts": hosts, "resolution": "STATIC", "endpoints": [{"address": "10.9.9.9"}]},
        }))
    };
    // One was there before us.
    let earlier = claim("earlier", &["orders.dc1.mesh"]);
    let landfall = run_with(&place, cluster, &["orders", "pay"]);
    for host in OURS {
        let written = wait(LONG, || cluster.get(&ours(host)));
        assert!(written.is_some(), "{host} is not written");
    }
    until_told(&landfall, "orders.dc1.mesh", "earlier");
    until_counted(&landfall, 1);
    // Another comes, and claims a host besides one of its own.
    let watch = cluster.watch(&place.service_entries());
    let began = Instant::now();
    let later = claim("later", &["x.dc1.mesh", "pay.dc1.mesh"]);
    until_told(&landfall, "pay.dc1.mesh", "later");
    place.print(format_args!("a host of ours claimed by another → told in {:?}", began.elapsed()));
    until_counted(&landfall, 2);
    settles(&watch, "a host claimed");
    assert_eq!(watch.count(), 1, "{:?}", watch.changes());

    // Ours go on as if there were no others, and those stay.
    list(&place, &["orders", "pay"], "10.0.0.2");
    until_written(&watch, 0, "10.0.0.2");
    settles(&watch, "our endpoints changed");
    for theirs in [&earlier, &later] {
        let path = path_of(theirs);
        assert_eq!(cluster.get(&path).as_ref(), Some(theirs), "it was touched");
    }
    let told = landfall.log();
    let told = told.iter().filter(|line| line["code"] == "foreign_object").count();
    assert_eq!(told, 2, "{:#?}", landfall.log());
    place.print("ours are written all the same, theirs are untouched, each told once in the log");

    // They go, and ours stay as they are.
    let seen = watch.count();
    for (left, theirs) in [(1, &earlier), (0, &later)] {
        let began = Instant::now();
        cluster.delete(&path_of(theirs));
        let name = theirs["metadata"]["name"].as_str().unwrap_or_default();
        let untold = landfall.says(LONG, |report| !report.contains(&format!("/{name} too")));
        assert!(untold, "{}", landfall.readiness());
        until_counted(&landfall, left);
        place.print(format_args!("{name} deleted → not told any more: {:?}", began.elapsed()));
    }
    settles(&watch, "claims given up");
    let changes = watch.changes().split_off(seen);
    assert!(changes.iter().all(|change| change.verb == "DELETED"), "{changes:?}");
    assert_eq!(changes.len(), 2, "{changes:?}");
    list(&place, &["orders", "pay"], "10.0.0.3");
    until_written(&watch, seen, "10.0.0.3");
    place.print("ours stay, and go on");
    landfall.stop();
}

/// Whether an object says what another says, in what Landfall writes.
fn is_as(object: &Value, wanted: &Value) -> bool {
    let same = |field: &str| object["metadata"][field] == wanted["metadata"][field];
    object["spec"] == wanted["spec"] && same("labels") && same("annotations")
}

/// One repair, and then peace.
fn settles(watch: &Watch, what: &str) {
    thread::sleep(Duration::from_millis(500));
    let seen = watch.count();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        watch.count(),
        seen,
        "{what}: writes without end: {:?}",
        watch.changes().split_off(seen)
    );
}

/// Waits until `/readyz` says that this object of somebody claims the host, too.
fn until_told(landfall: &Landfall, host: &str, name: &str) {
    let claim = format!("host {host} is claimed by ServiceEntry ");
    let fits = |line: &str| line.contains(&claim) && line.contains(&format!("/{name} too"));
    let told = landfall.says(LONG, |report| report.lines().any(fits));
    assert!(told, "{}", landfall.readiness());
}

/// Waits until a metric says how many of our hosts others claim, too.
fn until_counted(landfall: &Landfall, count: u64) {
    let counted = || landfall.metric("landfall_sink_hosts_contested", &[]);
    let as_wanted = wait(LONG, || (counted() == count).then_some(()));
    assert!(as_wanted.is_some(), "{count} are contested, and {} counted", counted());
}

/// Waits until both hosts of ours are written with this address, after so many changes.
fn until_written(watch: &Watch, seen: usize, address: &str) {
    for host in OURS {
        let is_new = |change: &Change| {
            change.name == host && change.object["spec"]["endpoints"][0]["address"] == address
        };
        assert!(watch.wait(seen, LONG, is_new).is_some(), "{host}: {:?}", watch.changes());
    }
}

fn run_with(place: &Place, cluster: &Cluster, services: &[&str]) -> Landfall {
    let source = list(place, services, "10.0.0.1");
    place.installation.configure(&place.config(cluster, &source));
    place.installation.start().ready()
}

/// A source that lists these services, each with one instance at this address.
fn list(place: &Place, services: &[&str], address: &str) -> Value {
    let service =
        |name: &&str| json!({"name": name, "instances": [{"address": address, "port": 80}]});
    let services: Vec<Value> = services.iter().map(service).collect();
    place.registry(&services)
}
