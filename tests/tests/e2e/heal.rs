//! What is missing in a cluster is said, and what depends on it goes on by itself once it is there.

use std::time::{Duration, Instant};

use landfall_tests::servers::process::{folder, wait};
use landfall_tests::servers::{Cluster, Landfall};
use serde_json::json;

use crate::{LONG, Place};

/// From what was missing being there to Landfall having noticed.
const NOTICED_MAX: Duration = Duration::from_secs(35);

#[test]
fn what_is_missing_heals() {
    let folder = folder();
    // A cluster of its own: the others need what this one lacks.
    let cluster = Cluster::bare(&folder);
    let place = Place::new("heal", &folder);
    let service = json!({"name": "orders", "instances": [{"address": "10.0.0.1", "port": 80}]});
    let mut config = place.config(&cluster, &place.registry(&[service]));
    // The rights are for the whole cluster, or none would be there for a namespace that is not.
    config["sinks"][0]["kubernetes"]["namespaces"] = json!([]);
    place.installation.configure(&config);
    let landfall = place.installation.start();

    until_said(&landfall, "kube_missing");
    assert!(!landfall.admin.is_ok("/readyz"), "ready without CRDs: {}", landfall.readiness());
    let began = Instant::now();
    cluster.install_our_crds();
    until_said(&landfall, "kube_forbidden");
    place.print(format_args!("no CRDs: said; installed → noticed in {:?}", began.elapsed()));

    let began = Instant::now();
    cluster.install_rbac();
    cluster.open_all_namespaces();
    let ready = wait(NOTICED_MAX, || landfall.admin.is_ok("/readyz").then_some(()));
    ready.unwrap_or_else(|| panic!("not ready with every right: {}", landfall.readiness()));
    place.print(format_args!("no rights: said; given → ready in {:?}", began.elapsed()));

    let failed = wait(LONG, || {
        let log = landfall.log();
        log.iter().any(|line| line["code"] == "not_found").then_some(())
    });
    failed.unwrap_or_else(|| panic!("the missing namespace is not in the log"));
    let began = Instant::now();
    cluster.create_namespace(&place.namespace);
    let path = format!("{}/orders.dc1.mesh", place.service_entries());
    let written = wait(LONG, || cluster.get(&path));
    written.unwrap_or_else(|| panic!("nothing is written into the namespace"));
    place.print(format_args!("no namespace: said; made → written in {:?}", began.elapsed()));
    landfall.stop();
}

fn until_said(landfall: &Landfall, code: &str) {
    let said = landfall.says(NOTICED_MAX, |report| report.contains(code));
    assert!(said, "/readyz does not say {code}: {}", landfall.readiness());
}
