//! What is made of what the API server says; against a real one see `tests/tests/mesh_real.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::core::ObjectList;
use landfall_core::mesh::{Body as _, Kind};
use landfall_core::text::Interner;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fake::{self, Fake, Says};
use super::observe::News;
use super::store::{Listing, Observation, Version};
use super::wire::{Sighting, sight};
use super::{Connection, KubeOptions, KubeSink, connect};
use crate::api::{Owner, ServiceEntryWire, Wire, WorkloadEntryWire};
use crate::sink::{Applied, Step};
use crate::validate::validate;

/// An object as the API server has it, last written by `manager`.
fn wire(name: &str, uid: &str, version: u64, manager: &str, host: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string(),
            "labels": {
                "app.kubernetes.io/managed-by": "landfall", "landfall.dev/owner": "home",
                "team": "theirs", "tier": "ours",
            },
            "annotations": {"landfall.dev/sources": "dc1,legacy", "note": "theirs"},
            "managedFields": [
                {"manager": manager, "operation": "Apply", "fieldsV1": {"f:metadata": {
                    "f:labels": {"f:tier": {}, "f:landfall.dev/owner": {}, "f:app.kubernetes.io/managed-by": {}},
                    "f:annotations": {"f:landfall.dev/sources": {}},
                }, "f:spec": {"f:hosts": {}}}},
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {
                    "f:labels": {"f:team": {}}, "f:annotations": {"f:note": {}},
                }}},
            ],
        },
        "spec": {"hosts": [host], "resolution": "STATIC"},
    })
}

fn seen(wire: Value) -> Sighting {
    let owner = Owner::parse("home").unwrap();
    let wire: Wire<ServiceEntryWire> = serde_json::from_value(wire).unwrap();
    sight(wire, &owner, &mut Interner::default())
}

fn ours(name: &str, uid: &str, version: u64, host: &str) -> Sighting {
    seen(wire(name, uid, version, "landfall", host))
}

fn theirs(name: &str, uid: &str, version: u64, host: &str) -> Sighting {
    seen(wire(name, uid, version, "kubectl", host))
}

/// Ours as `name host`, foreign as `!name host`.
fn check(observation: &Observation, expected: &[&str]) {
    let ours = observation.observed.ours.iter().map(|(id, object)| {
        format!("{} {}", id.name, object.body.service_entry().unwrap().hosts[0])
    });
    let foreign = observation
        .observed
        .foreign
        .iter()
        .map(|id| format!("!{} {}", id.name, observation.foreign_hosts[id].join(",")));
    let all: Vec<String> = ours.chain(foreign).collect();
    assert_eq!(all, expected);
    assert_eq!(observation.versions.len(), observation.observed.ours.len());
    let claimed: usize = observation.claims.values().map(|claims| claims.len()).sum();
    let claims: usize = observation.foreign_hosts.values().map(|hosts| hosts.len()).sum();
    assert_eq!(claimed, claims);
}

#[test]
fn of_metadata_only_our_own_is_kept() {
    let Sighting::Ours(object, _) = ours("a", "1", 5, "a.b") else { panic!("it is ours") };
    assert_eq!(format!("{:?}", object.body.labels), r#"{"tier": "ours"}"#);
    assert!(object.body.annotations.is_empty());
    let sources: Vec<_> = object.sources.iter().map(|source| source.as_str()).collect();
    assert_eq!(sources, ["dc1", "legacy"]);
}

#[test]
fn ours_needs_labels_and_manager() {
    assert!(matches!(theirs("a", "1", 5, "a.b"), Sighting::Foreign { .. }));
    for label in ["landfall.dev/owner", "app.kubernetes.io/managed-by"] {
        for value in [json!("other"), Value::Null] {
            let mut wire = wire("a", "1", 5, "landfall", "a.b");
            wire["metadata"]["labels"][label] = value.clone();
            if value.is_null() {
                wire["metadata"]["labels"].as_object_mut().unwrap().remove(label);
            }
            assert!(matches!(seen(wire), Sighting::Foreign { .. }), "{label}");
        }
    }
}

#[test]
fn older_states_do_not_hold() {
    let mut observation = Observation::default();
    observation.take(ours("a", "1", 5, "new.b"));
    observation.take(ours("a", "1", 4, "old.b"));
    check(&observation, &["a new.b"]);
    observation.take(theirs("a", "0", 3, "older.b"));
    observation.remove(&theirs("a", "0", 3, "older.b"));
    check(&observation, &["a new.b"]);
    observation.take(theirs("a", "2", 6, "theirs.b"));
    check(&observation, &["!a theirs.b"]);
    observation.remove(&theirs("a", "2", 7, "theirs.b"));
    check(&observation, &[]);
}

#[test]
fn equal_contents_stay_the_same_object() {
    let mut observation = Observation::default();
    observation.take(ours("a", "1", 5, "a.b"));
    let before = observation.observed.ours.values().next().cloned().unwrap();
    observation.take(ours("a", "1", 6, "a.b"));
    let after = observation.observed.ours.values().next().cloned().unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    assert_eq!(observation.versions.values().next().unwrap().resource_version, 6);
}

#[test]
fn a_list_replaces_what_it_covers() {
    let mut observation = Observation::default();
    let mut listing = Listing::new(Kind::ServiceEntry, None);
    for name in ["a", "b", "c"] {
        observation.take(ours(name, name, 5, "x.b"));
    }
    observation.take(theirs("d", "d", 5, "x.b"));
    listing.begin();
    listing.see(ours("a", "a", 5, "x.b"));
    listing.see(ours("e", "e", 9, "x.b"));
    // Written while the list was under way, which does not have it.
    let Sighting::Ours(c, _) = ours("c", "c", 10, "y.b") else { panic!("it is ours") };
    listing.note_written(&c.id);
    observation.take(ours("c", "c", 10, "y.b"));
    listing.finish(&mut observation);
    check(&observation, &["a x.b", "c y.b", "e x.b"]);
    let mut elsewhere = Listing::new(Kind::ServiceEntry, Some("other".into()));
    elsewhere.begin();
    elsewhere.finish(&mut observation);
    check(&observation, &["a x.b", "c y.b", "e x.b"]);
}

#[test]
fn a_list_holds_against_what_was_known_before() {
    let mut observation = Observation::default();
    let mut listing = Listing::new(Kind::ServiceEntry, None);
    for name in ["a", "b", "c"] {
        observation.take(ours(name, name, 900, "new.b"));
    }
    listing.begin();
    // The API server was set back to a day before.
    listing.see(ours("a", "a", 5, "old.b"));
    listing.see(theirs("b", "b", 6, "theirs.b"));
    listing.see(ours("c", "c", 7, "old.b"));
    let Sighting::Ours(c, _) = ours("c", "c", 8, "written.b") else { panic!("it is ours") };
    listing.note_written(&c.id);
    observation.versions.insert(c.id.clone(), Version { uid: "c".into(), resource_version: 8 });
    listing.finish(&mut observation);
    check(&observation, &["a old.b", "c new.b", "!b theirs.b"]);
    assert_eq!(observation.versions.values().map(|v| v.resource_version).max(), Some(8));
}

#[tokio::test]
async fn an_answer_after_the_end_brings_nothing_back() {
    let sink = KubeSink::new(fake::client(1), KubeOptions::new(Owner::parse("home").unwrap()));
    *sink.listings() = vec![Listing::new(Kind::ServiceEntry, None)];
    sink.take(0, News::Complete);
    let answer = |version| {
        let wire = wire("a", "u", version, "landfall", "a.b");
        let Sighting::Ours(to, _) = seen(wire.clone()) else { panic!("it is ours") };
        sink.take_answer::<ServiceEntryWire>(&Arc::new(to), serde_json::from_value(wire).unwrap());
    };
    // The watch has told all of its life before the answer that it was made.
    sink.take(0, News::Changed(ours("a", "u", 10, "a.b")));
    sink.take(0, News::Gone(ours("a", "u", 12, "a.b")));
    answer(10);
    check(&sink.state.borrow(), &[]);
    // What is made after that is there.
    answer(13);
    check(&sink.state.borrow(), &["a a.b"]);
}

#[tokio::test]
async fn a_watch_that_is_behind_brings_nothing_back() {
    let deleted = json!({"kind": "Status", "status": "Success"});
    let fake = Fake::start(Duration::ZERO, move |_, _| Says::json(200, &deleted)).await;
    let owner = Owner::parse("home").unwrap();
    let sink = KubeSink::new(fake::client(fake.port), KubeOptions::new(owner));
    *sink.listings() = vec![Listing::new(Kind::ServiceEntry, None)];
    sink.take(0, News::Complete);
    let remembered = || format!("{:?}", sink.listings()[0]).contains("uid-a");
    let delete = async || {
        let Sighting::Ours(object, _) = ours("a", "uid-a", 12, "a.b") else { panic!("it is ours") };
        let stop = CancellationToken::new();
        sink.apply(&[Step::Delete(Arc::new(object))], &stop, async |applied| {
            assert!(applied.outcome.is_done(), "{applied:?}");
        })
        .await;
    };
    sink.take(0, News::Changed(ours("a", "uid-a", 10, "a.b")));
    delete().await;
    check(&sink.state.borrow(), &[]);
    // Before the watch tells of the end it tells what was before it.
    sink.take(0, News::Changed(ours("a", "uid-a", 11, "a.b")));
    check(&sink.state.borrow(), &[]);
    sink.take(0, News::Gone(ours("a", "uid-a", 12, "a.b")));
    assert!(!remembered());
    // So does a list that is older than the end; a successor is another object.
    sink.take(0, News::Changed(ours("a", "uid-a", 20, "a.b")));
    sink.listings()[0].begin();
    sink.take(0, News::Listed(ours("a", "uid-a", 20, "a.b")));
    delete().await;
    sink.take(0, News::Complete);
    check(&sink.state.borrow(), &[]);
    sink.take(0, News::Changed(ours("a", "uid-b", 22, "b.b")));
    check(&sink.state.borrow(), &["a b.b"]);
    assert!(remembered());
    // A list of a later time holds whatever was said before: the server may have been set back.
    sink.listings()[0].begin();
    sink.take(0, News::Listed(ours("a", "uid-a", 5, "a.b")));
    sink.take(0, News::Complete);
    check(&sink.state.borrow(), &["a a.b"]);
}

#[tokio::test]
async fn what_is_made_and_deleted_while_a_list_is_under_way_does_not_come_back() {
    let deleted = json!({"kind": "Status", "metadata": {}, "status": "Success"});
    let fake = Fake::start(Duration::ZERO, move |_, _| Says::json(200, &deleted)).await;
    let owner = Owner::parse("home").unwrap();
    let sink = KubeSink::new(fake::client(fake.port), KubeOptions::new(owner));
    *sink.listings() = vec![Listing::new(Kind::ServiceEntry, None)];
    // As of version 10.
    sink.listings()[0].begin();
    let made = wire("a", "uid-a", 12, "landfall", "a.b");
    let Sighting::Ours(object, _) = seen(made.clone()) else { panic!("it is ours") };
    let object = Arc::new(object);
    sink.take_answer::<ServiceEntryWire>(&object, serde_json::from_value(made).unwrap());
    sink.apply(&[Step::Delete(object)], &CancellationToken::new(), async |_| ()).await;
    sink.take(0, News::Complete);
    // The watch goes on from there.
    sink.take(0, News::Changed(ours("a", "uid-a", 12, "a.b")));
    check(&sink.state.borrow(), &[]);
}

#[tokio::test]
async fn what_finalizers_keep_is_not_gone() {
    let mut kept = wire("a", "uid-a", 11, "landfall", "a.b");
    kept["metadata"]["deletionTimestamp"] = json!("2026-11-26T12:00:00Z");
    let answer = kept.clone();
    let fake = Fake::start(Duration::ZERO, move |_, _| Says::json(200, &answer)).await;
    let owner = Owner::parse("home").unwrap();
    let sink = KubeSink::new(fake::client(fake.port), KubeOptions::new(owner));
    *sink.listings() = vec![Listing::new(Kind::ServiceEntry, None)];
    sink.take(0, News::Complete);
    sink.take(0, News::Changed(ours("a", "uid-a", 10, "a.b")));
    let Sighting::Ours(object, _) = ours("a", "uid-a", 10, "a.b") else { panic!("it is ours") };
    let mut codes = Vec::new();
    let steps = [Step::Delete(Arc::new(object))];
    let note = async |applied: Applied| codes.push(applied.outcome.code());
    sink.apply(&steps, &CancellationToken::new(), note).await;
    assert_eq!(codes, ["conflict"]);
    sink.take(0, News::Changed(seen(kept)));
    check(&sink.state.borrow(), &["a a.b"]);
    sink.take(0, News::Gone(ours("a", "uid-a", 13, "a.b")));
    check(&sink.state.borrow(), &[]);
}

#[test]
fn a_spec_of_a_later_istio_harms_no_other() {
    let mut future = wire("b", "2", 5, "kubectl", "b.b");
    future["spec"]["resolution"] = json!("BY_STARS");
    let mut stranger = wire("c", "3", 5, "kubectl", "c.b");
    stranger["spec"] = json!({"hosts": [1, "c.b"], "endpoints": "all"});
    let list = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntryList",
        "metadata": {"resourceVersion": "9"},
        "items": [wire("a", "1", 5, "landfall", "a.b"), future, stranger],
    });
    let list: ObjectList<Wire<ServiceEntryWire>> = serde_json::from_str(&list.to_string()).unwrap();
    let owner = Owner::parse("home").unwrap();
    let mut observation = Observation::default();
    for wire in list.items {
        observation.take(sight(wire, &owner, &mut Interner::default()));
    }
    check(&observation, &["a a.b", "!b b.b", "!c c.b"]);
}

#[test]
fn what_is_ours_and_cannot_be_read_is_no_object_that_is_desired() {
    let mut edited = wire("a", "1", 5, "landfall", "a.b");
    edited["spec"]["location"] = json!("MESH_ELSEWHERE");
    let Sighting::Ours(entry, _) = seen(edited) else { panic!("it is ours") };
    let mut edited = wire("a", "1", 5, "landfall", "a.b");
    edited["spec"] = json!({"address": "10.0.0.1", "weight": -1});
    let owner = Owner::parse("home").unwrap();
    let edited: Wire<WorkloadEntryWire> = serde_json::from_value(edited).unwrap();
    let sighting = sight(edited, &owner, &mut Interner::default());
    let Sighting::Ours(endpoint, _) = sighting else { panic!("it is ours") };
    for object in [entry, endpoint] {
        // And what is rendered passes.
        assert!(validate(&object).is_err(), "{object:?}");
        assert_eq!(object.sources.len(), 2);
        // It cannot be written without endpoints, so it can only be deleted.
        assert_eq!(object.body.without_endpoints(), None);
    }
}

#[test]
fn hosts_that_others_claim_are_found() {
    let mut observation = Observation::default();
    let claim = |observation: &Observation, host: &str| {
        observation.foreign_claim(host).map(|id| id.name.to_string())
    };
    observation.take(theirs("b", "1", 5, "x.b"));
    observation.take(theirs("a", "2", 6, "x.b"));
    observation.take(ours("c", "3", 7, "c.b"));
    assert_eq!(claim(&observation, "x.b").as_deref(), Some("a"));
    assert_eq!(claim(&observation, "c.b"), None);
    observation.take(theirs("a", "2", 8, "y.b"));
    assert_eq!(claim(&observation, "x.b").as_deref(), Some("b"));
    assert_eq!(claim(&observation, "y.b").as_deref(), Some("a"));
    // Ours now, and gone.
    observation.take(ours("b", "4", 9, "x.b"));
    observation.remove(&theirs("a", "2", 10, "y.b"));
    check(&observation, &["b x.b", "c c.b"]);
    assert_eq!((claim(&observation, "x.b"), claim(&observation, "y.b")), (None, None));
}

#[test]
fn writes_are_remembered_while_a_list_is_under_way() {
    let mut observation = Observation::default();
    let mut listing = Listing::new(Kind::ServiceEntry, None);
    let Sighting::Ours(object, _) = ours("a", "a", 5, "a.b") else { panic!("it is ours") };
    let remembered = |listing: &Listing| format!("{listing:?}").contains("ObjectId");
    listing.note_written(&object.id);
    assert!(!remembered(&listing));
    listing.begin();
    listing.note_written(&object.id);
    assert!(remembered(&listing));
    listing.finish(&mut observation);
    listing.note_written(&object.id);
    assert!(!remembered(&listing));
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_its_crd_does_not_disturb_the_other() {
    const ENTRIES: &str = "/apis/networking.istio.io/v1/serviceentries";
    const WORKLOADS: &str = "/apis/networking.istio.io/v1/workloadentries";
    let fake = Fake::start(Duration::ZERO, |line, _| {
        let list = json!({"kind": "List", "metadata": {"resourceVersion": "9"}, "items": []});
        if line.contains("watch=1") || line.contains("watch=true") {
            return Says { goes_on: true, ..Says::text(200, "") };
        }
        if line.contains(ENTRIES) {
            return Says::json(200, &list);
        }
        if line.contains(WORKLOADS) {
            let status = json!({"kind": "Status", "status": "Failure", "code": 404, "message": "no", "reason": "NotFound"});
            return Says::json(404, &status);
        }
        let version = json!({"groupVersion": "networking.istio.io/v1", "version": "v1"});
        Says::json(200, &json!({"kind": "APIGroupList", "groups": [
            {"name": "networking.istio.io", "versions": [version], "preferredVersion": version},
        ]}))
    })
    .await;
    let owner = Owner::parse("home").unwrap();
    let sink = KubeSink::new(fake::client(fake.port), KubeOptions::new(owner));
    let stop = CancellationToken::new();
    let watched = async {
        // Two ticks, of which the first is at once.
        tokio::time::sleep(Duration::from_secs(7)).await;
        stop.cancel();
    };
    tokio::join!(sink.run(stop.clone()), watched);
    let asked =
        |path: &str| fake.requests().iter().filter(|line| **line == format!("get {path}")).count();
    // A list and the watch after it; and a list, and another one with the second tick.
    assert_eq!(asked(ENTRIES), 2, "{:?}", fake.requests());
    assert_eq!(asked(WORKLOADS), 2, "{:?}", fake.requests());
    let seen = sink.observation().borrow().clone();
    assert!(!seen.ready);
    assert_eq!(seen.condition.unwrap().code, "kube_missing");
}

#[tokio::test]
async fn a_watch_that_is_given_again_is_no_trouble() {
    let is_given = Arc::new(AtomicBool::new(false));
    let gives = Arc::clone(&is_given);
    let fake = Fake::start(Duration::ZERO, move |line, _| {
        let list = json!({"kind": "List", "metadata": {"resourceVersion": "9"}, "items": []});
        if line.contains("watch=1") || line.contains("watch=true") {
            return match gives.load(Ordering::Relaxed) {
                true => Says { goes_on: true, ..Says::text(200, "") },
                false => Says::text(503, "starting"),
            };
        }
        if line.contains("entries") {
            return Says::json(200, &list);
        }
        let version = json!({"groupVersion": "networking.istio.io/v1", "version": "v1"});
        Says::json(
            200,
            &json!({"kind": "APIGroupList", "groups": [
                {"name": "networking.istio.io", "versions": [version], "preferredVersion": version},
            ]}),
        )
    })
    .await;
    let sink =
        KubeSink::new(fake::client(fake.port), KubeOptions::new(Owner::parse("home").unwrap()));
    let mut seen = sink.observation();
    let stop = CancellationToken::new();
    let healed = async {
        let failing = seen.wait_for(|seen| seen.ready && seen.condition.is_some()).await.unwrap();
        assert_eq!(failing.condition.as_ref().unwrap().code, "kube_server");
        drop(failing);
        is_given.store(true, Ordering::Relaxed);
        // Nothing changes that the watches would tell of. The next failure would be told of after
        // more than a minute.
        let healed = seen.wait_for(|seen| seen.condition.is_none());
        tokio::time::timeout(Duration::from_secs(30), healed).await.unwrap().unwrap();
        stop.cancel();
    };
    tokio::join!(sink.run(stop.clone()), healed);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_requests_and_says_nothing_is_told_of() {
    let day = Duration::from_secs(24 * 3600);
    let fake = Fake::start(day, |_, _| Says::text(200, "")).await;
    let sink =
        KubeSink::new(fake::client(fake.port), KubeOptions::new(Owner::parse("home").unwrap()));
    let mut seen = sink.observation();
    let told = async {
        let seen = seen.wait_for(|seen| seen.condition.is_some()).await.unwrap();
        seen.condition.clone().unwrap()
    };
    let condition = tokio::select! {
        condition = told => condition,
        () = sink.run(CancellationToken::new()) => unreachable!("nobody stopped it"),
        () = tokio::time::sleep(day) => panic!("it waits for ever"),
    };
    assert_eq!(condition.code, "kube_unreachable");
}

#[tokio::test]
async fn a_kubeconfig_that_may_never_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe, "/dev/zero".into()] {
        let connection = Connection { kubeconfig: Some(path), context: None };
        let error = connect(&connection).await.err().unwrap();
        let why = super::error::message_of(&error);
        assert!(why.contains("it is not a regular file"), "{why}");
    }
}
