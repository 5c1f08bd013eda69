//! The Kubernetes sink against a real kube-apiserver with Istio's CRDs and the rights of
//! `deploy/rbac.yaml`: what it makes of foreign objects, edits, refusals and missing things.
//! `make e2e` installs what it needs.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]
#![allow(clippy::print_stderr, reason = "the figures are for people")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::plan::{Desired, Entries, Mode, PlanOptions, plan};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::{Body, Endpoints, Location, MeshObject, Owner, Spec};
use landfall_mesh::kube::configmap::{self, ConfigMapRef, ConfigMapState};
use landfall_mesh::kube::events::{EventPoster, Note, Subject};
use landfall_mesh::kube::{Connection, KubeOptions, KubeSink, Observation, connect};
use landfall_mesh::render::{RenderOptions, Shape, render};
use landfall_mesh::sink::{Applied, Step};
use landfall_mesh::testing;
use landfall_tests::servers::cluster::{
    CRDS, OUR_CRDS, rbac, service_entries, workload_entries, yaml_safe,
};
use landfall_tests::servers::http::block;
use landfall_tests::servers::{Cluster, process};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NOW: Time = Time::from_millis(1_795_367_523_120);
/// In which five times as many are written where nothing else runs.
const MANY_MAX: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

/// With whose rights a sink works.
#[derive(Clone, Copy)]
enum Rights {
    Landfall,
    Admin,
}

#[test]
fn against_a_real_api_server() {
    let server = Cluster::bare(&process::folder());
    // Without these nothing that follows means anything.
    the_older_api_serves(&server);
    rights_in_one_namespace_suffice(&server);
    let sink = conditions_heal(&server);
    let cases: [(&str, &dyn Fn()); 10] = [
        ("hostile_objects_are_taken", &|| hostile_objects_are_taken(&server, &sink)),
        ("a_missing_namespace_is_said", &|| a_missing_namespace_is_said(&sink)),
        ("objects_of_others_stay", &|| objects_of_others_stay(&server, &sink)),
        ("edits_are_put_right", &|| edits_are_put_right(&server, &sink)),
        ("what_was_made_anew_is_left_alone", &|| what_was_made_anew_is_left_alone(&server)),
        ("one_bad_object_harms_no_other", &|| one_bad_object_harms_no_other(&server, &sink)),
        ("large_objects_are_taken", &|| large_objects_are_taken(&server, &sink)),
        ("many_objects_are_written_quickly", &|| many_objects_are_written_quickly(&server, &sink)),
        ("config_maps_and_events", &|| config_maps_and_events(&server)),
        ("the_end_of_the_api_is_noticed", &|| the_end_of_the_api_is_noticed(&server, &sink)),
    ];
    // They share the server, which takes seconds to start, and each has names of its own.
    let mut failed = Vec::new();
    for (name, case) in cases {
        if catch_unwind(AssertUnwindSafe(case)).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed, as said above: {failed:?}");
}

/// CRDs of an Istio before 1.22, which have no v1, and of one to come, which has more values than
/// we know.
fn the_older_api_serves(server: &Cluster) {
    const OLD: &str = "v1beta1";
    const VALUES: &str = "/schema/openAPIV3Schema/properties/spec/properties/resolution/enum";
    let served = |version: &str| {
        let path = format!("/apis/networking.istio.io/{version}/serviceentries");
        server.admin.is_ok(&path)
    };
    install_changed(server, |crd| {
        let versions = crd["spec"]["versions"].as_array_mut().unwrap();
        versions.retain(|version| version["name"] == OLD);
        versions[0]["storage"] = true.into();
        if let Some(Value::Array(known)) = versions[0].pointer_mut(VALUES) {
            known.push("BY_STARS".into());
        }
    });
    process::wait(PATIENCE, || served(OLD).then_some(())).expect("v1beta1 is served");
    assert!(!served("v1"));
    server.create_namespace("older");
    let mut future = entry("older", "future.mesh", json!({}));
    future["apiVersion"] = format!("networking.istio.io/{OLD}").into();
    future["spec"]["resolution"] = "BY_STARS".into();
    let at = format!("/apis/networking.istio.io/{OLD}/namespaces/older/serviceentries");
    let patch = |name: &str, kind: &str, query: &str, body: &Value| {
        let path = format!("{at}/{name}?fieldManager=e2e{query}");
        let headers = [("content-type", kind)];
        let reply = server.admin.send("PATCH", &path, &headers, body.to_string()).unwrap();
        assert!(reply.status < 300, "{} {}", reply.status, reply.body);
    };
    patch("future.mesh", "application/apply-patch+yaml", "&force=true", &future);
    let sink = Running::start(server, "home", Rights::Admin);
    // One object that cannot be read keeps none of the others from being seen.
    let seen = sink.until(|seen| seen.ready);
    assert!(seen.condition.is_none());
    let id = seen.foreign_claim("future.mesh").unwrap();
    assert_eq!(&*id.name, "future.mesh");
    let want = service("older", "a.mesh");
    assert_eq!(sink.sync(&only(Arc::clone(&want))), 1);
    assert_eq!(sink.sync(&only(located(&want, Location::MeshExternal))), 1);
    // One of ours that cannot be read is put right.
    let edit = json!({"spec": {"resolution": "BY_STARS"}});
    patch("a.mesh", "application/merge-patch+json", "", &edit);
    sink.until(|seen| seen.observed.ours.get(&want.id).is_some_and(|o| o.body != want.body));
    let other = Running::start(server, "home", Rights::Admin);
    let seen = other.until(|seen| seen.ready);
    assert_eq!((seen.observed.ours.len(), seen.observed.foreign.len()), (1, 1));
    assert_eq!(other.sync(&only(Arc::clone(&want))), 1);
    assert_eq!(other.sync(&only(Arc::clone(&want))), 0);
    assert_eq!(other.sync(&Desired::new()), 1);
    // And with an API that serves both, the newer one is taken.
    remove_crds(server);
    sink.condition("kube_missing");
    server.install_our_crds();
    sink.until(|seen| seen.condition.is_none());
    assert_eq!(sink.sync(&only(Arc::clone(&want))), 1);
    let managed = server.get(&path(&want.id)).unwrap()["metadata"]["managedFields"].clone();
    assert_eq!(managed[0]["apiVersion"], "networking.istio.io/v1", "{managed}");
    assert_eq!(sink.sync(&Desired::new()), 1);
    remove_crds(server);
}

/// The rights of deploy/rbac.yaml, bound in one namespace instead of the cluster.
fn rights_in_one_namespace_suffice(server: &Cluster) {
    server.install_our_crds();
    server.create_namespace("few");
    for mut object in rbac() {
        let is_binding =
            matches!(object["kind"].as_str(), Some("ClusterRoleBinding" | "RoleBinding"));
        if is_binding && object["roleRef"]["kind"] == "ClusterRole" {
            object["kind"] = "RoleBinding".into();
            object["metadata"]["namespace"] = "few".into();
        }
        server.apply(&object);
    }
    let everywhere = Running::start(server, "home", Rights::Landfall);
    everywhere.condition("kube_forbidden");
    let few = Running::start_in(server, "home", Rights::Landfall, &["few"]);
    few.until(|seen| seen.ready && seen.condition.is_none());
    let desired = only(service("few", "a.mesh"));
    assert_eq!(few.sync(&desired), 1);
    assert_eq!(few.sync(&Desired::new()), 1);
    for name in ["landfall-read", "landfall-write"] {
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/few/rolebindings";
        server.delete(&format!("{bindings}/{name}"));
    }
    remove_crds(server);
}

/// Neither CRDs nor rights, then one, then both.
fn conditions_heal(server: &Cluster) -> Running {
    let sink = Running::start(server, "home", Rights::Landfall);
    assert_eq!(sink.condition("kube_missing").observed.ours.len(), 0);
    server.install_our_crds();
    let seen = sink.condition("kube_forbidden");
    assert!(!seen.ready);
    assert!(seen.condition.unwrap().message.contains("deploy/rbac.yaml"));
    server.install_rbac();
    server.open_all_namespaces();
    let seen = sink.until(|seen| seen.ready && seen.condition.is_none());
    assert_eq!(seen.observed.ours.len(), 0);
    sink
}

fn hostile_objects_are_taken(server: &Cluster, sink: &Running) {
    let mut desired = Desired::new();
    let mut namespaces = BTreeSet::new();
    for seed in 0..6 {
        let shape = [Shape::Auto, Shape::WorkloadEntries][seed % 2];
        for service in testing::services(100 + seed as u64, 120) {
            for object in
                render(&service, &RenderOptions { shape, ..RenderOptions::default() }).objects
            {
                namespaces.insert(object.id.namespace.clone());
                desired.insert(object.id.clone(), Arc::new(object));
            }
        }
    }
    for namespace in &namespaces {
        server.create_namespace(namespace);
    }
    assert!(desired.len() > 1000, "{}", desired.len());
    assert_eq!(sink.sync(&desired), desired.len());
    assert_eq!(sink.sync(&desired), 0);
    // Another process sees the very same.
    let other = Running::start(server, "home", Rights::Landfall);
    let seen = other.until(|seen| seen.ready);
    assert_eq!(seen.observed.ours, desired);
    assert_eq!(sink.sync(&Desired::new()), desired.len());
    let seen = other.until(|seen| seen.observed.ours.is_empty());
    assert!(seen.observed.foreign.is_empty());
}

fn a_missing_namespace_is_said(sink: &Running) {
    let applied = sink.apply(&[Step::Create(service("nowhere", "a.mesh"))]);
    assert_eq!(codes(&applied), ["not_found"]);
    assert!(applied[0].outcome.message().contains("nowhere"), "{:?}", applied[0]);
}

fn objects_of_others_stay(server: &Cluster, sink: &Running) {
    server.create_namespace("theirs");
    let id = |name: &str| service("theirs", name).id.clone();
    // By hand; with our labels but not by us; by another Landfall, which has our field manager.
    server.apply(&entry("theirs", "by-hand.mesh", json!({})));
    let labels = json!({"landfall.dev/owner": "home", "app.kubernetes.io/managed-by": "landfall"});
    server.apply(&entry("theirs", "by-copy.mesh", labels));
    let other = Running::start(server, "other", Rights::Admin);
    other.until(|seen| seen.ready);
    let theirs = service("theirs", "by-other.mesh");
    assert_eq!(codes(&other.apply(&[Step::Create(theirs)])), ["done"]);
    let names = ["by-hand.mesh", "by-copy.mesh", "by-other.mesh"];
    let seen = sink.until(|seen| seen.observed.foreign.len() == 3);
    assert_eq!(seen.foreign_hosts[&id("by-hand.mesh")].as_ref(), [Text::from("by-hand.mesh")]);
    assert!(seen.observed.ours.is_empty());
    let before: Vec<Value> =
        names.iter().map(|name| server.get(&path(&id(name))).unwrap()).collect();
    // A plan never has these steps; as if the objects had appeared after it.
    let want = names.map(|name| service("theirs", name));
    let creates = want.clone().map(Step::Create);
    assert_eq!(codes(&sink.apply(&creates)), ["conflict"; 3]);
    let updates = want.clone().map(|to| Step::Update { from: Arc::clone(&to), to });
    assert_eq!(codes(&sink.apply(&updates)), ["conflict"; 3]);
    assert_eq!(codes(&sink.apply(&want.map(Step::Delete))), ["conflict"; 3]);
    let after: Vec<Value> =
        names.iter().map(|name| server.get(&path(&id(name))).unwrap()).collect();
    assert_eq!(before, after);
    // Once out of the way, the place is ours.
    server.delete(&path(&id("by-hand.mesh")));
    sink.until(|seen| seen.observed.foreign.len() == 2);
    assert_eq!(sink.sync(&only(service("theirs", "by-hand.mesh"))), 1);
    sink.sync(&Desired::new());
}

fn edits_are_put_right(server: &Cluster, sink: &Running) {
    server.create_namespace("edits");
    let want = service("edits", "a.mesh");
    let desired = only(Arc::clone(&want));
    let at = path(&want.id);
    sink.sync(&desired);
    let edits = [
        // A field of ours, one that we do not set, an item in a list that others may add to.
        json!({"spec": {"location": "MESH_EXTERNAL"}}),
        json!({"spec": {"exportTo": ["."], "subjectAltNames": ["x"]}}),
        json!({"spec": {"ports": [{"name": "http", "number": 80}, {"name": "more", "number": 81}]}}),
        json!({"spec": {"endpoints": null}}),
        json!({"metadata": {"annotations": {"landfall.dev/sources": "none"}}}),
        json!({"metadata": {"annotations": {"landfall.dev/sources": null}}}),
        // With these, what we apply would make an object that is invalid.
        json!({"spec": {"endpoints": null, "workloadSelector": {"labels": {"a": "b"}}}}),
        json!({"spec": {"ports": [{"name": "other", "number": 80, "protocol": "TCP"}]}}),
        json!({"spec": {"resolution": "DYNAMIC_DNS", "hosts": ["*.x.y"], "endpoints": null}}),
    ];
    for edit in edits {
        let known = server.get(&at).unwrap()["metadata"]["resourceVersion"].clone();
        server.edit(&at, &edit);
        sink.until(|seen| seen.observed.ours.get(&want.id).is_some_and(|o| o != &want));
        assert_eq!(sink.sync(&desired), 1, "{edit}");
        let seen = sink.until(|seen| seen.observed.ours.get(&want.id) == Some(&want));
        assert!(seen.condition.is_none());
        assert_eq!(sink.sync(&desired), 0, "{edit}");
        assert_ne!(server.get(&at).unwrap()["metadata"]["resourceVersion"], known);
    }
    // What was put right by replacing changes like everything else.
    let renamed = changed(&want, |entry| {
        for port in &mut entry.ports {
            port.name = "web".into();
        }
        let Endpoints::Inline(list) = &mut entry.endpoints else { panic!("they are inline") };
        for (name, _) in list.iter_mut().flat_map(|endpoint| &mut endpoint.ports) {
            *name = "web".into();
        }
    });
    assert_eq!(sink.sync(&only(Arc::clone(&renamed))), 1);
    assert_eq!(sink.sync(&only(renamed)), 0);
    assert_eq!(sink.sync(&desired), 1);
    // Labels and annotations of others are theirs, also when we write.
    let labels = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}});
    server.edit(&at, &labels);
    let changed = only(located(&want, Location::MeshExternal));
    assert_eq!(sink.sync(&changed), 1);
    server.edit(&at, &json!({"spec": {"exportTo": ["."]}}));
    sink.until(|seen| {
        seen.observed.ours.get(&want.id).is_some_and(|o| Some(o) != changed.get(&want.id))
    });
    assert_eq!(sink.sync(&changed), 1);
    let metadata = server.get(&at).unwrap()["metadata"].clone();
    assert_eq!(metadata["labels"]["team"], "a");
    assert_eq!(metadata["annotations"]["note"], "b");
    // Whoever takes the mark away has the object.
    server.edit(&at, &json!({"metadata": {"labels": {"landfall.dev/owner": null}}}));
    sink.until(|seen| seen.observed.foreign.contains(&want.id));
    assert_eq!(sink.sync(&Desired::new()), 0);
    assert!(server.get(&at).is_some());
    server.delete(&at);
    sink.until(|seen| seen.observed.foreign.iter().all(|id| &*id.namespace != "edits"));
    // Deleted by hand: planned and made again.
    sink.sync(&desired);
    server.delete(&at);
    sink.until(|seen| !seen.observed.ours.contains_key(&want.id));
    assert_eq!(sink.sync(&desired), 1);
    sink.sync(&Desired::new());
}

/// A sink whose watch stands still plans on old knowledge; the API server itself must refuse.
fn what_was_made_anew_is_left_alone(server: &Cluster) {
    server.create_namespace("anew");
    let sink = Running::start(server, "home", Rights::Landfall);
    sink.until(|seen| seen.ready);
    let (want, gone) = (service("anew", "a.mesh"), service("anew", "gone.mesh"));
    let both = [&want, &gone].map(|object| (object.id.clone(), Arc::clone(object)));
    sink.sync(&both.into_iter().collect());
    sink.stop.cancel();
    std::thread::sleep(Duration::from_millis(200));
    let at = path(&want.id);
    server.delete(&at);
    let update =
        Step::Update { from: Arc::clone(&want), to: located(&want, Location::MeshExternal) };
    assert_eq!(codes(&sink.apply(std::slice::from_ref(&update))), ["conflict"]);
    server.apply(&entry("anew", "a.mesh", json!({})));
    let before = server.get(&at);
    assert_eq!(codes(&sink.apply(&[update])), ["conflict"]);
    assert_eq!(codes(&sink.apply(&[Step::Delete(Arc::clone(&want))])), ["conflict"]);
    assert_eq!(codes(&sink.apply(&[Step::Create(Arc::clone(&want))])), ["conflict"]);
    assert_eq!(server.get(&at), before);
    server.delete(&at);
    // Gone already is what was wanted.
    server.delete(&path(&gone.id));
    assert_eq!(codes(&sink.apply(&[Step::Delete(gone)])), ["done"]);
}

fn one_bad_object_harms_no_other(server: &Cluster, sink: &Running) {
    server.create_namespace("bad");
    let mut desired = Desired::new();
    for n in 0..50 {
        let object = service("bad", &format!("s{n}.mesh"));
        desired.insert(object.id.clone(), object);
    }
    let id = desired.keys().nth(25).unwrap().clone();
    let bad = changed(&desired[&id], |entry| entry.hosts = Box::from([Text::from("*")]));
    let mut with_bad = desired.clone();
    with_bad.insert(id.clone(), bad);
    let steps = sink.steps(&with_bad);
    let applied = sink.apply(&steps);
    let mut failed = applied.iter().filter(|applied| !applied.outcome.is_done());
    let failure = failed.next().unwrap();
    assert_eq!((failure.outcome.code(), &failure.id), ("refused", &id));
    assert!(failure.outcome.message().contains("wildcard"), "{:?}", failure.outcome);
    assert!(failed.next().is_none());
    assert_eq!(sink.sync(&desired), 1);
    // A service does not turn to endpoints that could not be written.
    let shape = RenderOptions { shape: Shape::WorkloadEntries, ..RenderOptions::default() };
    let turned = render(&testing::plain_service("bad", "s0.mesh", 2), &shape).objects;
    let mut turned: Vec<Arc<MeshObject>> = turned.into_iter().map(Arc::new).collect();
    turned[1] = spoil(&turned[1]);
    let mut want = desired.clone();
    want.extend(turned.iter().map(|object| (object.id.clone(), Arc::clone(object))));
    let applied = sink.apply(&sink.steps(&want));
    let mut outcomes: Vec<_> = applied.iter().map(|a| (a.id.kind, a.outcome.code())).collect();
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        [
            (Kind::WorkloadEntry, "done"),
            (Kind::WorkloadEntry, "refused"),
            (Kind::ServiceEntry, "waits")
        ]
    );
    sink.sync(&Desired::new());
}

fn large_objects_are_taken(server: &Cluster, sink: &Running) {
    server.create_namespace("large");
    // As many endpoints as fit, each about as large as may be.
    let service = testing::plain_service("large", "large.mesh", 4096);
    let auto = RenderOptions::default();
    let object = render(&service, &auto).objects.remove(0);
    let padded = changed(&object, |entry| {
        if let Endpoints::Inline(list) = &mut entry.endpoints {
            for endpoint in list.iter_mut() {
                let len = 330_usize.saturating_sub(endpoint_len(endpoint));
                endpoint.network = Text::from("n".repeat(len));
            }
        }
    });
    assert_eq!(landfall_mesh::validate::validate(&padded), Ok(()));
    let began = Instant::now();
    assert_eq!(sink.sync(&only(Arc::clone(&padded))), 1);
    eprintln!("created an object of {} bytes in {:?}", json_len(&padded), began.elapsed());
    let began = Instant::now();
    assert_eq!(sink.sync(&only(located(&padded, Location::MeshExternal))), 1);
    eprintln!("updated it in {:?}", began.elapsed());
    assert_eq!(sink.sync(&Desired::new()), 1);
}

fn many_objects_are_written_quickly(server: &Cluster, sink: &Running) {
    server.create_namespace("many");
    let count = 2000;
    let mut desired = Desired::new();
    for n in 0..count {
        let service = testing::plain_service("many", &format!("service-{n:05}.mesh"), 10);
        let object = render(&service, &RenderOptions::default()).objects.remove(0);
        desired.insert(object.id.clone(), Arc::new(object));
    }
    for (what, want) in [("created", &desired), ("deleted", &Desired::new())] {
        let began = Instant::now();
        assert_eq!(sink.sync(want), count);
        let took = began.elapsed();
        eprintln!("{what} {count} objects in {took:?}, {:.0}/s", count as f64 / took.as_secs_f64());
        assert!(took < MANY_MAX, "{what} {count} objects in {took:?}");
        assert_eq!(sink.sync(want), 0);
    }
}

fn config_maps_and_events(server: &Cluster) {
    server.create_namespace("elsewhere");
    let reference = |namespace: &str| ConfigMapRef {
        namespace: namespace.to_owned(),
        name: "house-rules".to_owned(),
    };
    let stop = CancellationToken::new();
    let (client, mut state, mut elsewhere) = block(async {
        let client = connect(&connection(server, Rights::Landfall)).await.unwrap();
        let watch = |namespace: &str| {
            let (state, watching) =
                configmap::watch(client.clone(), reference(namespace), stop.clone());
            tokio::spawn(watching);
            state
        };
        let (state, elsewhere) = (watch("landfall-system"), watch("elsewhere"));
        (client, state, elsewhere)
    });
    // Rights for policies are given by namespace.
    let refused = |state: &ConfigMapState| match state {
        ConfigMapState::Unreadable(condition) => condition.code == "kube_forbidden",
        _ => false,
    };
    let waited = async { tokio::time::timeout(PATIENCE, elsewhere.wait_for(refused)).await };
    assert!(block(waited).is_ok_and(|seen| seen.is_ok()), "it may be read");
    let mut until = |holds: fn(&ConfigMapState) -> bool| {
        let waited = async { tokio::time::timeout(PATIENCE, state.wait_for(holds)).await };
        block(waited).expect("it never came").expect("it ended").clone()
    };
    until(|state| *state == ConfigMapState::Absent);
    let map = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "landfall-system"},
            "data": {"settings.yaml": "a: 1"}, "binaryData": {"policy.wasm": "AGFzbQ=="},
        })
    };
    server.apply(&map("other"));
    server.apply(&map("house-rules"));
    let seen = until(|state| matches!(state, ConfigMapState::Present(_)));
    let ConfigMapState::Present(map) = seen else { panic!("it is there") };
    assert_eq!(map.binary_data["policy.wasm"], b"\0asm");
    assert_eq!(map.data["settings.yaml"], "a: 1");
    let mut poster = EventPoster::new(client, "test".to_owned());
    let subject = Subject {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: "landfall-system".to_owned(),
        name: "house-rules".to_owned(),
        uid: map.uid.clone(),
    };
    let mut post = |message: &str, now: Time| {
        let note = Note { warning: true, reason: "PolicyRefused", message: message.to_owned() };
        block(poster.post(&subject, note, now))
    };
    assert_eq!(post("one", NOW), Ok(true));
    assert_eq!(post("one", NOW), Ok(false));
    assert_eq!(post(&"ü".repeat(2000), NOW), Ok(true));
    assert_eq!(post("one", NOW.plus(Duration::from_secs(301))), Ok(true));
    let events = server.list("/api/v1/namespaces/landfall-system/events");
    assert_eq!(events.len(), 3);
    for event in events {
        assert_eq!(event["involvedObject"]["uid"], *map.uid);
        assert_eq!(event["type"], "Warning");
    }
    server.delete("/api/v1/namespaces/landfall-system/configmaps/house-rules");
    until(|state| *state == ConfigMapState::Absent);
    stop.cancel();
}

fn the_end_of_the_api_is_noticed(server: &Cluster, sink: &Running) {
    server.create_namespace("end");
    let desired = only(service("end", "a.mesh"));
    sink.sync(&desired);
    let [entries, workloads] = OUR_CRDS;
    remove_crd(server, entries);
    let seen = sink.condition("kube_missing");
    assert!(seen.observed.ours.is_empty());
    // The other kind is watched all the same.
    let shape = RenderOptions { shape: Shape::WorkloadEntries, ..RenderOptions::default() };
    let objects = render(&testing::plain_service("end", "b.mesh", 1), &shape).objects;
    let endpoint = Arc::new(objects.into_iter().next_back().unwrap());
    assert_eq!(codes(&sink.apply(&[Step::Create(Arc::clone(&endpoint))])), ["done"]);
    server.delete(&path(&endpoint.id));
    let seen = sink.until(|seen| !seen.observed.ours.contains_key(&endpoint.id));
    assert_eq!(seen.condition.unwrap().code, "kube_missing");
    // Then both are gone.
    remove_crd(server, workloads);
    server.install_our_crds();
    sink.until(|seen| seen.condition.is_none());
    assert_eq!(sink.sync(&desired), 1);
}

// === objects ===

fn service(namespace: &str, host: &str) -> Arc<MeshObject> {
    let service = testing::plain_service(namespace, host, 2);
    Arc::new(render(&service, &RenderOptions::default()).objects.remove(0))
}

fn only(object: Arc<MeshObject>) -> Desired<Body> {
    [(object.id.clone(), object)].into_iter().collect()
}

fn located(object: &MeshObject, location: Location) -> Arc<MeshObject> {
    changed(object, |entry| entry.location = location)
}

fn changed(
    object: &MeshObject,
    change: impl FnOnce(&mut landfall_mesh::api::ServiceEntry),
) -> Arc<MeshObject> {
    let mut body = (*object.body).clone();
    if let Spec::ServiceEntry(entry) = &mut body.spec {
        change(entry);
    }
    Arc::new(Object { body: Arc::new(body), ..object.clone() })
}

fn endpoint_len(endpoint: &landfall_mesh::api::WorkloadEntry) -> usize {
    serde_json::to_string(endpoint).unwrap().len()
}

fn json_len(object: &MeshObject) -> usize {
    let owner = Owner::parse("home").unwrap();
    let json = landfall_mesh::api::to_json(object, &owner, landfall_mesh::api::ApiVersion::V1);
    json.unwrap().to_string().len()
}

/// A WorkloadEntry with a port that the API server refuses.
fn spoil(object: &MeshObject) -> Arc<MeshObject> {
    let mut body = (*object.body).clone();
    if let Spec::WorkloadEntry(entry) = &mut body.spec {
        entry.ports = Box::from([(Text::from("p"), 70_000)]);
    }
    Arc::new(Object { body: Arc::new(body), ..object.clone() })
}

fn entry(namespace: &str, host: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": host, "namespace": namespace, "labels": labels},
        "spec": {"hosts": [host], "resolution": "STATIC"},
    })
}

/// Takes a CRD out, and waits until it is: one that is only being deleted takes an apply and goes
/// all the same.
fn remove_crd(server: &Cluster, name: &str) {
    let path = format!("{CRDS}/{name}");
    server.delete(&path);
    let is_gone = || (server.admin.get(&path).ok()?.status == 404).then_some(());
    process::wait(PATIENCE, is_gone).unwrap_or_else(|| panic!("{name} is still there"));
}

/// Takes our CRDs out, and waits until the API server no longer knows Istio.
fn remove_crds(server: &Cluster) {
    OUR_CRDS.into_iter().for_each(|name| remove_crd(server, name));
    let is_gone = || {
        let groups = server.admin.get("/apis").ok()?;
        (!groups.body.contains("networking.istio.io")).then_some(())
    };
    process::wait(PATIENCE, is_gone).expect("Istio's API is gone");
}

/// Installs our CRDs with something changed.
fn install_changed(server: &Cluster, change: impl Fn(&mut Value)) {
    let text = std::fs::read_to_string(process::program("LANDFALL_ISTIO_CRDS")).unwrap();
    for name in OUR_CRDS {
        let is_it = |document: &&str| document.contains(&format!("\n  name: {name}\n"));
        let document = text.split("\n---\n").find(is_it).unwrap();
        let mut crd: Value = serde_saphyr::from_str(document).unwrap();
        change(&mut crd);
        let path = format!("{CRDS}/{name}?fieldManager=e2e&force=true");
        let kind = ("content-type", "application/apply-patch+yaml");
        let reply = server.admin.send("PATCH", &path, &[kind], yaml_safe(&crd.to_string()));
        let reply = reply.unwrap();
        assert!(reply.status < 300, "{} {}", reply.status, reply.body);
    }
}

fn path(id: &ObjectId) -> String {
    let folder = match id.kind {
        Kind::ServiceEntry => service_entries(&id.namespace),
        Kind::WorkloadEntry => workload_entries(&id.namespace),
    };
    format!("{folder}/{}", id.name)
}

fn codes(applied: &[Applied]) -> Vec<&'static str> {
    applied.iter().map(|applied| applied.outcome.code()).collect()
}

// === a sink at work ===

struct Running {
    sink: Arc<KubeSink>,
    stop: CancellationToken,
}

impl Running {
    fn start(cluster: &Cluster, owner: &str, rights: Rights) -> Self {
        Self::start_in(cluster, owner, rights, &[])
    }

    fn start_in(cluster: &Cluster, owner: &str, rights: Rights, namespaces: &[&str]) -> Self {
        let owner = Owner::parse(owner).unwrap();
        let namespaces = namespaces.iter().map(|name| Text::from(*name)).collect();
        let options = KubeOptions { namespaces, ..KubeOptions::new(owner) };
        block(async {
            let client = connect(&connection(cluster, rights)).await.unwrap();
            let sink = Arc::new(KubeSink::new(client, options));
            let stop = CancellationToken::new();
            let (watching, until) = (Arc::clone(&sink), stop.clone());
            tokio::spawn(async move { watching.run(until).await });
            Self { sink, stop }
        })
    }

    fn until(&self, holds: impl FnMut(&Observation) -> bool) -> Observation {
        let mut seen = self.sink.observation();
        let waited = block(async { tokio::time::timeout(PATIENCE, seen.wait_for(holds)).await });
        let found = waited.ok().map(|seen| seen.unwrap().clone());
        let last = || self.sink.observation().borrow().condition.clone();
        found.unwrap_or_else(|| panic!("never seen; the condition is {:?}", last()))
    }

    fn condition(&self, code: &str) -> Observation {
        self.until(|seen| seen.condition.as_ref().is_some_and(|c| c.code == code))
    }

    fn steps(&self, desired: &Desired<Body>) -> Vec<Step> {
        let observed = self.sink.observation().borrow().observed.clone();
        let scope: BTreeSet<ObjectId> =
            observed.ours.keys().chain(desired.keys()).cloned().collect();
        let (grace, entries) = (Duration::ZERO, Entries::new());
        let options = PlanOptions { mode: Mode::Sync, grace, entries: &entries, now: NOW };
        plan(&observed, desired, &scope, options).steps
    }

    fn apply(&self, steps: &[Step]) -> Vec<Applied> {
        let mut applied = Vec::new();
        let stop = CancellationToken::new();
        block(self.sink.apply(steps, &stop, async |outcome| applied.push(outcome)));
        applied
    }

    /// Plans and applies; every step must be done. Returns how many there were.
    fn sync(&self, desired: &Desired<Body>) -> usize {
        let steps = self.steps(desired);
        for applied in self.apply(&steps) {
            assert!(applied.outcome.is_done(), "{applied:?}");
        }
        steps.len()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn connection(cluster: &Cluster, rights: Rights) -> Connection {
    let kubeconfig = match rights {
        Rights::Landfall => cluster.kubeconfig(),
        Rights::Admin => cluster.admin_kubeconfig(),
    };
    Connection { kubeconfig: Some(kubeconfig), context: None }
}
